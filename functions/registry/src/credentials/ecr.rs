//! Amazon ECR: calls `GetAuthorizationToken` in the region of the host's name, with the process's role.
//!
//! Source: Amazon ECR API reference. A token lasts twelve hours and is `AWS:password` in base64.

use std::time::Duration;

use aws_config::SdkConfig;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use scanhook_core::ecr::EcrHost;
use scanhook_core::image::Registry;
use tokio::sync::OnceCell;

use super::CachedLogin;
use crate::error::LoginError;

/// The longest single attempt of a call.
const ATTEMPT: Duration = Duration::from_secs(5);

const LIFETIME: Duration = Duration::from_hours(12);

/// The AWS configuration, loaded when it is first needed.
#[derive(Debug, Default)]
pub struct Sdk(OnceCell<SdkConfig>);

impl From<SdkConfig> for Sdk {
    fn from(config: SdkConfig) -> Self {
        Self(OnceCell::new_with(Some(config)))
    }
}

impl Sdk {
    pub(super) async fn config(&self) -> &SdkConfig {
        let load = || scanhook_config::aws::sdk_config(ATTEMPT);
        self.0.get_or_init(load).await
    }
}

/// Throttling errors. They are transient, although their status is 400. Sources: Amazon ECR API reference, "Common
/// Errors"; the AWS SDKs' retry behaviour, "Throttling errors".
const THROTTLED: [&str; 4] = [
    "ThrottlingException",
    "Throttling",
    "TooManyRequestsException",
    "RequestLimitExceeded",
];

pub(super) async fn login(registry: &Registry, sdk: &Sdk) -> Result<CachedLogin, LoginError> {
    let host = EcrHost::parse(registry).filter(EcrHost::is_of_aws);
    let region = host.map(|it| it.region).ok_or_else(|| {
        LoginError::unauthorized(
            "credentials of type ecr work only for hosts of Amazon ECR, such as ACCOUNT.dkr.ecr.REGION.amazonaws.com",
        )
    })?;
    let config = aws_sdk_ecr::config::Builder::from(sdk.config().await)
        .region(aws_sdk_ecr::config::Region::new(region.to_owned()))
        .build();
    let client = aws_sdk_ecr::Client::from_conf(config);
    let output = client.get_authorization_token().send().await;
    let output = output.map_err(|err| {
        let is_refusal = err
            .raw_response()
            .is_some_and(|it| it.status().is_client_error());
        let code = err
            .as_service_error()
            .and_then(|it| it.meta().code())
            .unwrap_or("no answer");
        let detail = format!("ECR gives no token: {code}");
        if THROTTLED.contains(&code) {
            LoginError::rate_limited(detail)
        } else if is_refusal {
            LoginError::unauthorized(detail)
        } else {
            LoginError::network(detail)
        }
    })?;
    let data = output.authorization_data().first();
    let token = data.and_then(|it| it.authorization_token());
    token
        .and_then(password)
        .map(|it| CachedLogin::new("AWS", it, LIFETIME))
        .ok_or_else(|| LoginError::network("ECR sent an unreadable token"))
}

fn password(token: &str) -> Option<String> {
    let decoded = String::from_utf8(STANDARD.decode(token).ok()?).ok()?;
    Some(decoded.strip_prefix("AWS:")?.to_owned())
}
