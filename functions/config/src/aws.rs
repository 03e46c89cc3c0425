//! How this project talks to AWS: one HTTP client, one set of time limits, a named behaviour version.

mod connections;

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_types::service_config::ServiceConfigKey;

use self::connections::http_client;
use crate::Environment;

/// The longest single request for credentials on a person's machine.
const ATTEMPT: Duration = Duration::from_millis(1_500);

/// Idle connections that a function keeps to one host. Several may have ended while it was frozen, and each costs a try.
const IDLE_OF_FUNCTION: usize = 1;

/// The longest text of an error that is passed on.
const LONGEST_ERROR: usize = 400;

/// The way a process finds its settings for a service. Not an enum: a function must not even hold the
/// code that looks where people keep them. Copies share the connections.
#[derive(Clone)]
pub struct Aws(Arc<dyn Fn(&'static str) -> Loading + Send + Sync>);

type Loading = Pin<Box<dyn Future<Output = SdkConfig> + Send>>;

impl Aws {
    /// In the environment, where Lambda puts them, and nowhere else.
    pub fn function(environment: &Environment) -> Self {
        let environment = Arc::clone(environment);
        let connections = http_client(&environment, IDLE_OF_FUNCTION);
        Self(Arc::new(move |service| {
            let config = function_config(&environment, service, connections.clone());
            Box::pin(std::future::ready(config))
        }))
    }

    /// Wherever people keep them: [`sdk_config`], with the endpoint of the service if it has one.
    pub fn local(environment: &Environment) -> Self {
        let environment = Arc::clone(environment);
        Self(Arc::new(move |service| {
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

    /// The settings of a service, by its name in profiles (`SQS`).
    pub async fn config(&self, service: &'static str) -> SdkConfig {
        (self.0)(service).await
    }
}

/// An error of a call for operators: the service's code, message and request id, or why there is no answer. Shows nothing
/// of an answer that was given.
pub fn problem<E: ProvideErrorMetadata + Error + 'static>(
    err: &SdkError<E, HttpResponse>,
) -> String {
    let text = match err {
        SdkError::ServiceError(err) => match (err.err().code(), err.err().message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.to_owned(),
            (None, _) => format!("status {}", err.raw().status()),
        },
        SdkError::ResponseError(_) => "an answer that can't be read".to_owned(),
        SdkError::TimeoutError(_) => "no answer in time".to_owned(),
        SdkError::DispatchFailure(err) if err.is_timeout() => "no answer in time".to_owned(),
        SdkError::DispatchFailure(err) if err.is_io() => {
            let err = err.as_connector_error();
            let cause = err.map(|it| cause(it).to_string());
            format!("no connection: {}", cause.unwrap_or_default())
        }
        other => cause(other).to_string(),
    };
    let text = text.chars().filter(|it| !it.is_control());
    text.take(LONGEST_ERROR).collect()
}

/// The first cause of an error.
pub(crate) fn cause<'a>(err: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut first = err;
    while let Some(source) = first.source() {
        first = source;
    }
    first
}

/// Loads region, credentials and endpoints from the usual places (`AWS_*`, profile, role); `attempt` limits each single
/// try of a call, which the SDK repeats by itself. There is no call without a limit.
pub async fn sdk_config(attempt: Duration) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client(&crate::environment(), usize::MAX))
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
fn function_config(
    environment: &Environment,
    service: &str,
    connections: SharedHttpClient,
) -> SdkConfig {
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
        .http_client(connections)
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
