//! How this project talks to AWS: one HTTP client, one set of time limits, a named behaviour version.

pub mod json;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use aws_types::service_config::ServiceConfigKey;

use crate::Environment;
use crate::http::Client;

/// The longest single request for credentials on a person's machine.
const ATTEMPT: Duration = Duration::from_millis(1_500);

/// The way a process finds its settings for a service, and its connections. Not an enum: a function must not even hold the
/// code that looks where people keep them. Copies share the connections.
#[derive(Clone)]
pub struct Aws {
    settings: Arc<dyn Fn(&'static str) -> Loading + Send + Sync>,
    client: Arc<Client>,
}

type Loading = Pin<Box<dyn Future<Output = SdkConfig> + Send>>;

impl Aws {
    /// In the environment, where Lambda puts them, and nowhere else.
    pub fn function(environment: &Environment) -> Self {
        let environment = Arc::clone(environment);
        Self::new(Arc::new(move |service| {
            let config = function_config(&environment, service);
            Box::pin(std::future::ready(config))
        }))
    }

    /// Wherever people keep them: [`sdk_config`], with the endpoint of the service if it has one.
    pub fn local(environment: &Environment) -> Self {
        let environment = Arc::clone(environment);
        Self::new(Arc::new(move |service| {
            let endpoint = endpoint_variable(&environment, service);
            Box::pin(async move {
                let config = sdk_config(ATTEMPT).await;
                let key = ServiceConfigKey::builder()
                    .service_id(service)
                    .env("AWS_ENDPOINT_URL")
                    .profile("endpoint_url")
                    .build();
                let in_profile = || config.service_config()?.load_config(key.ok()?);
                match endpoint.or_else(in_profile) {
                    Some(endpoint) => config.into_builder().endpoint_url(endpoint).build(),
                    None => config,
                }
            })
        }))
    }

    fn new(settings: Arc<dyn Fn(&'static str) -> Loading + Send + Sync>) -> Self {
        Self {
            settings,
            client: Arc::default(),
        }
    }

    /// The settings for a service, by its name in profiles.
    async fn config(&self, service: &'static str) -> SdkConfig {
        (self.settings)(service).await
    }

    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }
}

/// Loads region, credentials and endpoints from the usual places (`AWS_*`, profile, role); `attempt` limits each single
/// try of a call, which the SDK repeats by itself. There is no call without a limit.
pub async fn sdk_config(attempt: Duration) -> SdkConfig {
    let http_client = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
        .build_https();
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client)
        .timeout_config(limits(attempt))
        .load()
        .await
}

/// The endpoint of a service in the environment.
fn endpoint_variable(environment: &Environment, service: &str) -> Option<String> {
    let service = service.replace(' ', "_").to_ascii_uppercase();
    environment(&format!("AWS_ENDPOINT_URL_{service}")).filter(|it| !it.is_empty())
}

/// Reads what Lambda gives a function in its environment: region, keys, and the endpoint of one service (`SQS`), if
/// that is another than AWS's. The places where [`sdk_config`] looks besides are none of a function's, and they would
/// make its program a fifth larger and its start slower.
fn function_config(environment: &Environment, service: &str) -> SdkConfig {
    let get = |name: &str| environment(name).filter(|it| !it.is_empty());
    let is_set = |name: &str| get(name).is_some_and(|it| it.eq_ignore_ascii_case("true"));
    let region = get("AWS_REGION").or_else(|| get("AWS_DEFAULT_REGION"));
    let endpoint = endpoint_variable(environment, service).or_else(|| get("AWS_ENDPOINT_URL"));
    let keys = get("AWS_ACCESS_KEY_ID").zip(get("AWS_SECRET_ACCESS_KEY"));
    let keys = keys.map(|(id, secret)| {
        let token = get("AWS_SESSION_TOKEN");
        SharedCredentialsProvider::new(Credentials::new(id, secret, token, None, "environment"))
    });
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(region.map(Region::new))
        .use_fips(is_set("AWS_USE_FIPS_ENDPOINT"))
        .use_dual_stack(is_set("AWS_USE_DUALSTACK_ENDPOINT"));
    config.set_credentials_provider(keys);
    config.set_endpoint_url(endpoint);
    config.build()
}

fn limits(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(attempt.min(Duration::from_secs(1)))
        .operation_attempt_timeout(attempt)
        .build()
}
