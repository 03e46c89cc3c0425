//! Calls of AWS's JSON protocol, signed by AWS's own crate: two calls are all that is needed, and the SDK's crate for SSM
//! alone is 22 MB of source.
//!
//! **Invariant**: an error tells the service's code and message, and nothing of an answer that was given.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use aws_smithy_runtime_api::client::identity::Identity;
use bytes::Bytes;
use http::{Request, Response, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

use crate::aws::Aws;
use crate::http::Client;

/// The longest single try of a call.
const ATTEMPT: Duration = Duration::from_millis(1_500);

/// The longest call, with its repetitions. The configuration and then its secrets are read in Lambda's ten seconds of
/// init, and must have failed by then.
pub(super) const LIMIT: Duration = Duration::from_secs(4);

/// The pause before a second try; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest answer. Secrets Manager holds at most 64 KiB, which JSON may write six times as long.
const LONGEST_ANSWER: usize = 1 << 19;

/// The longest text of an error that is passed on.
const LONGEST_ERROR: usize = 400;

/// A service of AWS that speaks JSON. Its settings are looked for at the first call.
pub(super) struct Service {
    /// In its host names and in signatures.
    name: &'static str,
    /// What the variable of its endpoint ends with.
    variable: &'static str,
    aws: Aws,
    settings: OnceCell<SdkConfig>,
    client: Arc<Client>,
}

/// A call of an operation.
pub(super) struct Call<'a, T> {
    /// The operation, with its service's prefix.
    pub(super) target: &'static str,
    /// What is asked.
    pub(super) request: &'a T,
}

/// Why a try brought nothing.
enum Failure {
    /// Another may succeed.
    Passing(String),
    Final(String),
}

impl Service {
    pub(super) fn new(
        name: &'static str,
        variable: &'static str,
        aws: &Aws,
        client: &Arc<Client>,
    ) -> Self {
        Self {
            name,
            variable,
            aws: aws.clone(),
            settings: OnceCell::new(),
            client: Arc::clone(client),
        }
    }

    /// Calls an operation until it answers or [`LIMIT`] is over. The error is for operators.
    pub(super) async fn call<T: Serialize, R: DeserializeOwned>(
        &self,
        call: Call<'_, T>,
    ) -> Result<R, String> {
        let deadline = Instant::now() + LIMIT;
        let Ok(body) = serde_json::to_vec(call.request).map(Bytes::from) else {
            unreachable!("texts always serialise")
        };
        let mut pause = FIRST_PAUSE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.attempt(call.target, &body, left.min(ATTEMPT)).await {
                Ok(answer) => {
                    return serde_json::from_slice(answer.body())
                        .map_err(|_| "an answer that can't be read".to_owned());
                }
                Err(Failure::Final(problem)) => return Err(problem),
                Err(Failure::Passing(problem)) if Instant::now() + pause >= deadline => {
                    return Err(problem);
                }
                Err(Failure::Passing(_)) => {
                    sleep(pause).await;
                    pause *= 2;
                }
            }
        }
    }

    async fn attempt(
        &self,
        target: &str,
        body: &Bytes,
        limit: Duration,
    ) -> Result<Response<Bytes>, Failure> {
        let settings = self
            .settings
            .get_or_init(|| self.aws.config(self.variable, ATTEMPT))
            .await;
        let request = self
            .signed(settings, target, body, limit)
            .await
            .map_err(Failure::Final)?;
        let answer = self.client.send(request, limit, LONGEST_ANSWER).await;
        let answer = answer.map_err(|err| Failure::Passing(err.to_string()))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let problem = problem(&answer);
        let is_passing = answer.status().is_server_error()
            || answer.status().as_u16() == 429
            || problem.starts_with("Throttling");
        Err(if is_passing {
            Failure::Passing(problem)
        } else {
            Failure::Final(problem)
        })
    }

    async fn signed(
        &self,
        settings: &SdkConfig,
        target: &str,
        body: &Bytes,
        limit: Duration,
    ) -> Result<Request<Bytes>, String> {
        let region = settings.region().ok_or("AWS_REGION is not set")?.as_ref();
        let provider = settings
            .credentials_provider()
            .ok_or("there are no AWS credentials")?;
        let credentials = tokio::time::timeout(limit, provider.provide_credentials());
        let credentials = credentials
            .await
            .map_err(|_| "no AWS credentials in time")?
            .map_err(|_| "there are no AWS credentials")?;
        let endpoint = if let Some(endpoint) = settings.endpoint_url() {
            endpoint.trim_end_matches('/').to_owned()
        } else {
            let is_set = |it: Option<bool>| it.unwrap_or_default();
            let (fips, dual_stack) = (settings.use_fips(), settings.use_dual_stack());
            endpoint(self.name, region, is_set(fips), is_set(dual_stack))
        };
        let mut request = Request::post(format!("{endpoint}/"))
            .header(header::CONTENT_TYPE, "application/x-amz-json-1.1")
            .header("x-amz-target", target)
            .body(body.clone())
            .map_err(|_| "its endpoint is no URL")?;
        let identity = Identity::from(credentials);
        let params = SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(self.name)
            .time(now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|_| "the call can't be signed")?
            .into();
        let uri = request.uri().to_string();
        let headers = request
            .headers()
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let signable = SignableRequest::new("POST", uri, headers, SignableBody::Bytes(body));
        let signed = signable.and_then(|it| sign(it, &params));
        let (instructions, _) = signed.map_err(|_| "the call can't be signed")?.into_parts();
        instructions.apply_to_request_http1x(&mut request);
        Ok(request)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a signature tells when it was made"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// The address of a service in a region. Source: the endpoint rules in the SDK's crates for SSM and Secrets Manager.
fn endpoint(service: &str, region: &str, fips: bool, dual_stack: bool) -> String {
    let domain = match (region.split('-').next(), region) {
        (Some("cn"), _) if dual_stack => "api.amazonwebservices.com.cn",
        (Some("cn"), _) => "amazonaws.com.cn",
        (_, it) if it.starts_with("us-iso-") => "c2s.ic.gov",
        (_, it) if it.starts_with("us-isob-") => "sc2s.sgov.gov",
        _ if dual_stack => "api.aws",
        _ => "amazonaws.com",
    };
    // In GovCloud, SSM's ordinary endpoint is the one with FIPS.
    let is_fips_anyhow = service == "ssm" && region.starts_with("us-gov-") && !dual_stack;
    let fips = if fips && !is_fips_anyhow { "-fips" } else { "" };
    format!("https://{service}{fips}.{region}.{domain}")
}

/// The code and the message of an error answer. Source: the AWS JSON 1.1 protocol of Smithy, "Operation error
/// serialization".
fn problem(answer: &Response<Bytes>) -> String {
    #[derive(serde::Deserialize)]
    struct WireError {
        #[serde(rename = "__type")]
        code: String,
        #[serde(alias = "Message")]
        message: Option<String>,
    }
    let status = answer.status();
    let Ok(WireError { code, message }) = serde_json::from_slice(answer.body()) else {
        return format!("status {status}");
    };
    let code = code.rsplit('#').next().unwrap_or_default();
    let text = match message {
        Some(message) => format!("{code}: {message}"),
        None => code.to_owned(),
    };
    text.chars()
        .filter(|it| !it.is_control())
        .take(LONGEST_ERROR)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_an_address_in_each_region() {
        for (service, region, fips, dual_stack, expected) in [
            (
                "ssm",
                "eu-west-1",
                false,
                false,
                "ssm.eu-west-1.amazonaws.com",
            ),
            (
                "ssm",
                "us-east-1",
                true,
                false,
                "ssm-fips.us-east-1.amazonaws.com",
            ),
            ("ssm", "us-east-1", true, true, "ssm-fips.us-east-1.api.aws"),
            (
                "ssm",
                "us-gov-west-1",
                true,
                false,
                "ssm.us-gov-west-1.amazonaws.com",
            ),
            (
                "ssm",
                "us-gov-east-1",
                true,
                true,
                "ssm-fips.us-gov-east-1.api.aws",
            ),
            (
                "ssm",
                "us-iso-east-1",
                false,
                false,
                "ssm.us-iso-east-1.c2s.ic.gov",
            ),
            (
                "ssm",
                "us-isob-east-1",
                true,
                false,
                "ssm-fips.us-isob-east-1.sc2s.sgov.gov",
            ),
            (
                "ssm",
                "cn-north-1",
                false,
                true,
                "ssm.cn-north-1.api.amazonwebservices.com.cn",
            ),
            (
                "secretsmanager",
                "us-gov-west-1",
                true,
                false,
                "secretsmanager-fips.us-gov-west-1.amazonaws.com",
            ),
            (
                "secretsmanager",
                "cn-northwest-1",
                false,
                false,
                "secretsmanager.cn-northwest-1.amazonaws.com.cn",
            ),
        ] {
            assert_eq!(
                endpoint(service, region, fips, dual_stack),
                format!("https://{expected}")
            );
        }
    }

    #[test]
    fn an_error_is_told_by_its_code_and_its_message() {
        for (body, expected) in [
            (r#"{"__type":"ParameterNotFound"}"#, "ParameterNotFound"),
            (
                r#"{"__type":"com.amazonaws.secretsmanager#ResourceNotFoundException","Message":"Secrets Manager can't find it.\n"}"#,
                "ResourceNotFoundException: Secrets Manager can't find it.",
            ),
            ("<html>", "status 400 Bad Request"),
        ] {
            let answer = Response::builder().status(400).body(Bytes::from(body));
            assert_eq!(problem(&answer.unwrap()), expected);
        }
    }
}
