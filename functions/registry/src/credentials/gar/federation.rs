//! A token of Google for an AWS role, without a key: workload identity federation.
//!
//! The process signs a call of AWS's `GetCallerIdentity` and does not make it: Google does, learns the role from AWS's answer and
//! gives a token for it, which may be exchanged for one of a service account.
//!
//! Sources: Google Cloud, "Workload identity federation with AWS" and AIP-4117; RFC 8693.

use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_credential_types::provider::error::CredentialsError;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::SCOPE;
use crate::credentials::Makers;
use crate::error::LoginError;
use crate::grant::{self, Grant};
use crate::http::Http;

/// To ask for a service account's token; that one then has [`SCOPE`].
const IAM_SCOPE: &str = "https://www.googleapis.com/auth/iam";

const SUBJECT: &str = "urn:ietf:params:aws:token-type:aws4_request";

/// What of a credential configuration (`gcloud iam workload-identity-pools create-cred-config --aws`) is needed.
#[derive(Deserialize)]
pub(super) struct WireFederation {
    audience: String,
    subject_token_type: String,
    token_url: String,
    service_account_impersonation_url: Option<String>,
    credential_source: WireSource,
}

/// Where Google's own libraries look for AWS's keys is not read: ours are where AWS's SDK finds them, in Lambda as elsewhere.
#[derive(Deserialize)]
struct WireSource {
    regional_cred_verification_url: String,
}

/// The answer of `generateAccessToken`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireAccount {
    access_token: String,
    expire_time: Timestamp,
}

/// A token and how long it lasts.
pub(super) async fn token(
    wire: &WireFederation,
    makers: &Makers,
    http: &Http,
) -> Result<(String, Duration), LoginError> {
    if wire.subject_token_type != SUBJECT {
        let problem = "the key of the credentials of type gar is not for a role of AWS";
        return Err(LoginError::unauthorized(problem));
    }
    let subject = subject(wire, makers.sdk.config().await, (makers.now)()).await?;
    let account = wire.service_account_impersonation_url.as_deref();
    let form = [
        (
            "grant_type",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ),
        ("audience", &wire.audience),
        ("scope", if account.is_some() { IAM_SCOPE } else { SCOPE }),
        (
            "requested_token_type",
            "urn:ietf:params:oauth:token-type:access_token",
        ),
        ("subject_token_type", SUBJECT),
        ("subject_token", &subject),
    ];
    let token: grant::Token = grant::ask(http, Grant::Post(&wire.token_url, &form)).await?;
    let lifetime = token.lifetime().unwrap_or_default();
    let token = token.access()?;
    let Some(url) = account else {
        return Ok((token, lifetime));
    };
    let body = json!({ "scope": [SCOPE] }).to_string();
    let account: WireAccount = grant::ask(http, Grant::Json(url, &token, &body)).await?;
    let lifetime = account.expire_time.duration_since((makers.now)());
    let lifetime = Duration::try_from(lifetime).unwrap_or_default();
    Ok((account.access_token, lifetime))
}

/// The signed call, as JSON in percent-encoding, which is how Google takes it.
async fn subject(
    wire: &WireFederation,
    config: &SdkConfig,
    now: Timestamp,
) -> Result<String, LoginError> {
    let missing = || LoginError::unauthorized("there are no AWS credentials to show to Google");
    let region = config.region().ok_or_else(missing)?.as_ref();
    let provider = config.credentials_provider().ok_or_else(missing)?;
    let keys = provider
        .provide_credentials()
        .await
        .map_err(|err| match err {
            CredentialsError::CredentialsNotLoaded(_) => missing(),
            // Whoever gives them does not answer now.
            _ => LoginError::network("AWS gives no credentials to show to Google"),
        })?;
    let template = &wire.credential_source.regional_cred_verification_url;
    let url = template.replace("{region}", region);
    let call = signed(&url, &wire.audience, region, keys, now);
    let call = call.ok_or_else(|| {
        LoginError::unauthorized("the key of the credentials of type gar has no URL of AWS's STS")
    })?;
    Ok(form_urlencoded::byte_serialize(call.as_bytes()).collect())
}

fn signed(
    url: &str,
    audience: &str,
    region: &str,
    keys: aws_credential_types::Credentials,
    now: Timestamp,
) -> Option<String> {
    let host = reqwest::Url::parse(url).ok()?.host_str()?.to_owned();
    // Google refuses a call that was signed for somebody else.
    let own = [
        ("host", host.as_str()),
        ("x-goog-cloud-target-resource", audience),
    ];
    let identity = keys.into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("sts")
        .time(SystemTime::try_from(now).ok()?)
        .settings(SigningSettings::default())
        .build()
        .ok()?
        .into();
    let call = SignableRequest::new("POST", url, own.into_iter(), SignableBody::Bytes(&[])).ok()?;
    let (instructions, _) = sign(call, &params).ok()?.into_parts();
    let headers = own.into_iter().chain(instructions.headers());
    let headers = headers.map(|(key, value)| json!({ "key": key, "value": value }));
    let headers: Vec<_> = headers.collect();
    Some(json!({ "url": url, "method": "POST", "headers": headers, "body": "" }).to_string())
}
