//! Calls of AWS's JSON protocol, signed by AWS's own crate: a few calls of three services, without what the SDK's crates
//! bring along.
//!
//! **Invariant**: an error tells the service's code and message, and nothing of an answer that was given.

use std::pin::Pin;
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use aws_smithy_runtime_api::client::identity::Identity;
use bytes::Bytes;
use http::{Request, Response, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::timeout;

use super::Aws;

/// The longest answer. Secrets Manager holds at most 64 KiB, which JSON may write six times as long.
const LONGEST_ANSWER: usize = 1 << 19;

/// The longest text of an error that is passed on.
const LONGEST_ERROR: usize = 400;

/// Credentials are asked for again so long before they end.
const MARGIN: Duration = Duration::from_mins(1);

/// Credentials that don't say when they end are asked for again after this long. Source: the SDK's identity cache.
const KEEP: Duration = Duration::from_mins(15);

/// A service of AWS that speaks JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Api {
    /// In its host names and in signatures.
    name: &'static str,
    /// Its name in the settings of its endpoint: a variable `AWS_ENDPOINT_URL_SECRETS_MANAGER`, a profile's section.
    id: &'static str,
    content_type: &'static str,
}

/// The queues.
pub const SQS: Api = Api {
    name: "sqs",
    id: "SQS",
    content_type: "application/x-amz-json-1.0",
};

/// The parameter store.
pub const SSM: Api = Api {
    name: "ssm",
    id: "SSM",
    content_type: "application/x-amz-json-1.1",
};

/// The secrets.
pub const SECRETS_MANAGER: Api = Api {
    name: "secretsmanager",
    id: "Secrets Manager",
    content_type: "application/x-amz-json-1.1",
};

/// A way to call a service.
pub struct Service(Way);

enum Way {
    Network(Box<Network>),
    InProcess(Handler),
}

/// Answers a request in this process: the operation with its service's prefix, and the body.
pub type Handler = Box<dyn Fn(&'static str, Bytes) -> Answering + Send + Sync>;

/// An answer under way.
pub type Answering = Pin<Box<dyn Future<Output = Response<Bytes>> + Send>>;

struct Network {
    api: Api,
    aws: Aws,
    /// Looked for at the first call.
    settings: OnceCell<SdkConfig>,
    credentials: Mutex<Option<Known>>,
}

/// Credentials, and until when they need not be asked for.
struct Known {
    credentials: Credentials,
    until: SystemTime,
}

/// Why a try brought nothing. Tells operators the service's code and message.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The service refused, or there are no credentials for it.
    #[error("{0}")]
    Final(String),
    /// Another try may succeed.
    #[error("{0}")]
    Passing(String),
}

impl Service {
    /// Over the network, signed.
    pub fn new(api: Api, aws: &Aws) -> Self {
        Self(Way::Network(Box::new(Network {
            api,
            aws: aws.clone(),
            settings: OnceCell::new(),
            credentials: Mutex::default(),
        })))
    }

    /// Within this process, where no signature is asked for.
    pub fn in_process(handler: Handler) -> Self {
        Self(Way::InProcess(handler))
    }

    /// Calls an operation once: `target` is its name with the service's prefix. There is an answer, or an error, within
    /// `limit`.
    pub async fn call<T: Serialize + ?Sized, R: DeserializeOwned>(
        &self,
        target: &'static str,
        request: &T,
        limit: Duration,
    ) -> Result<R, CallError> {
        let Ok(body) = serde_json::to_vec(request).map(Bytes::from) else {
            unreachable!("texts always serialise")
        };
        let answer = match &self.0 {
            Way::Network(network) => timeout(limit, network.answer(target, body, limit)).await,
            Way::InProcess(handler) => {
                timeout(limit, async { Ok(handler(target, body).await) }).await
            }
        };
        let answer = answer.map_err(|_| CallError::Passing("no answer in time".to_owned()))??;
        if answer.status().is_success() {
            return serde_json::from_slice(answer.body())
                .map_err(|_| CallError::Final("an answer that can't be read".to_owned()));
        }
        let problem = problem(&answer);
        let is_passing = answer.status().is_server_error()
            || answer.status().as_u16() == 429
            || problem.starts_with("Throttling")
            || problem.starts_with("RequestThrottled");
        Err(if is_passing {
            CallError::Passing(problem)
        } else {
            CallError::Final(problem)
        })
    }
}

impl Network {
    async fn answer(
        &self,
        target: &'static str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Response<Bytes>, CallError> {
        let settings = self
            .settings
            .get_or_init(|| self.aws.config(self.api.id))
            .await;
        let request = self
            .signed(settings, target, &body)
            .await
            .map_err(CallError::Final)?;
        let answer = self.aws.client().send(request, limit, LONGEST_ANSWER).await;
        answer.map_err(|err| CallError::Passing(err.to_string()))
    }

    async fn signed(
        &self,
        settings: &SdkConfig,
        target: &'static str,
        body: &Bytes,
    ) -> Result<Request<Bytes>, String> {
        let region = settings.region().ok_or("AWS_REGION is not set")?.as_ref();
        let credentials = self.credentials(settings).await?;
        let endpoint = if let Some(endpoint) = settings.endpoint_url() {
            endpoint.trim_end_matches('/').to_owned()
        } else {
            let is_set = |it: Option<bool>| it.unwrap_or_default();
            let (fips, dual_stack) = (settings.use_fips(), settings.use_dual_stack());
            endpoint(self.api.name, region, is_set(fips), is_set(dual_stack))
        };
        let mut request = Request::post(format!("{endpoint}/"))
            .header(header::CONTENT_TYPE, self.api.content_type)
            .header("x-amz-target", target)
            .body(body.clone())
            .map_err(|_| "its endpoint is no URL")?;
        let identity = Identity::from(credentials);
        let params = SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(self.api.name)
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

    /// The credentials, asked for once for all who wait, and again before they end.
    async fn credentials(&self, settings: &SdkConfig) -> Result<Credentials, String> {
        let mut known = self.credentials.lock().await;
        if let Some(known) = known.as_ref().filter(|it| now() < it.until) {
            return Ok(known.credentials.clone());
        }
        let provider = settings
            .credentials_provider()
            .ok_or("there are no AWS credentials")?;
        let credentials = provider
            .provide_credentials()
            .await
            .map_err(|_| "there are no AWS credentials")?;
        let until = match credentials.expiry() {
            Some(end) => end.checked_sub(MARGIN).unwrap_or(SystemTime::UNIX_EPOCH),
            None => now() + KEEP,
        };
        *known = Some(Known {
            credentials: credentials.clone(),
            until,
        });
        Ok(credentials)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a signature tells when it was made"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Where the names of services end outside of the two partitions whose names end alike, by how a region begins: over IPv4,
/// and over both. Source: the SDK's table of partitions, in `endpoint_lib.rs` of `aws-sdk-sqs`.
const PARTITIONS: [(&str, &str, &str); 6] = [
    ("cn-", "amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    ("eusc-", "amazonaws.eu", "api.amazonwebservices.eu"),
    ("us-iso-", "c2s.ic.gov", "api.aws.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov", "api.aws.scloud"),
    ("us-isof-", "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
];

/// The address of a service in a region. Source: the endpoint rules in the SDK's crates for SQS, SSM and Secrets Manager.
fn endpoint(service: &str, region: &str, fips: bool, dual_stack: bool) -> String {
    let partition = PARTITIONS.iter().find(|it| region.starts_with(it.0));
    let (_, domain, both) = partition.unwrap_or(&("", "amazonaws.com", "api.aws"));
    let domain = if dual_stack { both } else { domain };
    let is_government = region.starts_with("us-gov-");
    // In GovCloud, the ordinary endpoints of these two are those with FIPS.
    let is_fips_anyhow = service != "secretsmanager" && is_government && !dual_stack;
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
        for line in [
            "sqs eu-central-1 = sqs.eu-central-1.amazonaws.com",
            "sqs us-west-2 fips = sqs-fips.us-west-2.amazonaws.com",
            "sqs us-gov-east-1 fips = sqs.us-gov-east-1.amazonaws.com",
            "sqs us-gov-east-1 fips both = sqs-fips.us-gov-east-1.api.aws",
            "sqs eusc-de-east-1 = sqs.eusc-de-east-1.amazonaws.eu",
            "sqs us-isof-south-1 = sqs.us-isof-south-1.csp.hci.ic.gov",
            "sqs eu-isoe-west-1 = sqs.eu-isoe-west-1.cloud.adc-e.uk",
            "ssm eu-west-1 = ssm.eu-west-1.amazonaws.com",
            "ssm us-east-1 fips = ssm-fips.us-east-1.amazonaws.com",
            "ssm us-east-1 fips both = ssm-fips.us-east-1.api.aws",
            "ssm us-gov-west-1 fips = ssm.us-gov-west-1.amazonaws.com",
            "ssm us-gov-east-1 fips both = ssm-fips.us-gov-east-1.api.aws",
            "ssm us-iso-east-1 = ssm.us-iso-east-1.c2s.ic.gov",
            "ssm us-isob-east-1 fips = ssm-fips.us-isob-east-1.sc2s.sgov.gov",
            "ssm cn-north-1 both = ssm.cn-north-1.api.amazonwebservices.com.cn",
            "secretsmanager us-gov-west-1 fips = secretsmanager-fips.us-gov-west-1.amazonaws.com",
            "secretsmanager cn-northwest-1 = secretsmanager.cn-northwest-1.amazonaws.com.cn",
        ] {
            let (words, expected) = line.split_once(" = ").unwrap();
            let words: Vec<_> = words.split(' ').collect();
            let (fips, both) = (words.contains(&"fips"), words.contains(&"both"));
            let address = endpoint(words[0], words[1], fips, both);
            assert_eq!(address, format!("https://{expected}"), "{line}");
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
