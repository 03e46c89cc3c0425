//! Amazon ECR: `GetAuthorizationToken` of the region in the host's name, for the role of the process.
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

/// The longest single try of a call.
const ATTEMPT: Duration = Duration::from_secs(5);

const LIFETIME: Duration = Duration::from_hours(12);

/// How AWS is reached, found out when it is first needed.
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

/// Codes of a limit, which is transient although their status is 400. Source: Amazon ECR API reference, "Common Errors", and
/// the AWS SDKs' retry behaviour, "Throttling errors".
const THROTTLED: [&str; 4] = [
    "ThrottlingException",
    "Throttling",
    "TooManyRequestsException",
    "RequestLimitExceeded",
];

/// Makes a login for a registry of ECR.
pub(super) async fn login(registry: &Registry, sdk: &Sdk) -> Result<CachedLogin, LoginError> {
    let host = EcrHost::parse(registry).filter(EcrHost::is_of_aws);
    let region = host.map(|it| it.region).ok_or_else(|| {
        LoginError::unauthorized(
            "credentials of type ecr are for hosts of Amazon ECR only, such as ACCOUNT.dkr.ecr.REGION.amazonaws.com",
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
        .ok_or_else(|| LoginError::network("ECR gives a token that is none"))
}

fn password(token: &str) -> Option<String> {
    let decoded = String::from_utf8(STANDARD.decode(token).ok()?).ok()?;
    Some(decoded.strip_prefix("AWS:")?.to_owned())
}
