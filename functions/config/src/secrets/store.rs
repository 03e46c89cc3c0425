//! Reads what is behind a reference: the environment, a file, SSM's Parameter Store, Secrets Manager.

use std::time::Duration;

use secrecy::SecretString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::{ResolveSecretError, SecretRef};
use crate::Environment;
use crate::aws::Aws;
use crate::aws::json::{CallError, SECRETS_MANAGER, SSM, Service};
use crate::file;

/// The longest single try of a call.
const ATTEMPT: Duration = Duration::from_millis(1_500);

/// The longest call, with its repetitions. The configuration and then its secrets are read in Lambda's ten seconds of
/// init, and must have failed by then.
pub(super) const LIMIT: Duration = Duration::from_secs(4);

/// The pause before a second try; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What references lead to.
pub(super) struct Store {
    environment: Environment,
    ssm: Service,
    secrets_manager: Service,
}

impl Store {
    pub(super) fn new(environment: &Environment, aws: &Aws) -> Self {
        Self {
            environment: Environment::clone(environment),
            ssm: Service::new(SSM, aws),
            secrets_manager: Service::new(SECRETS_MANAGER, aws),
        }
    }

    /// Reads all of what `reference` leads to, of a file at most `limit` bytes; a key in it does not matter here. The
    /// stores of AWS have their own limits, of 64 KiB at most.
    pub(super) async fn read(
        &self,
        reference: &SecretRef,
        limit: u64,
    ) -> Result<SecretString, ResolveSecretError> {
        match reference {
            SecretRef::Env(name) => (self.environment)(name)
                .map(SecretString::from)
                .ok_or_else(|| ResolveSecretError::Unset(name.clone())),
            SecretRef::File(path) => {
                // Read at once: a thread for it would cost a function's start more than the file does.
                let text = file::read_text(path, limit);
                text.map(SecretString::from)
                    .map_err(|problem| ResolveSecretError::File {
                        path: path.clone(),
                        problem,
                    })
            }
            SecretRef::Ssm(name) => {
                self.parameter(name)
                    .await
                    .map_err(|problem| ResolveSecretError::Store {
                        store: "SSM",
                        name: name.clone(),
                        problem,
                    })
            }
            SecretRef::SecretsManager { name, .. } => {
                self.secret(name)
                    .await
                    .map_err(|problem| ResolveSecretError::Store {
                        store: "Secrets Manager",
                        name: name.clone(),
                        problem,
                    })
            }
        }
    }

    /// Source: API reference of AWS Systems Manager, `GetParameter`.
    async fn parameter(&self, name: &str) -> Result<SecretString, String> {
        #[derive(serde::Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct WireRequest<'a> {
            name: &'a str,
            with_decryption: bool,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct WireAnswer {
            parameter: WireParameter,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct WireParameter {
            value: String,
        }
        let request = WireRequest {
            name,
            with_decryption: true,
        };
        let target = "AmazonSSM.GetParameter";
        let answer: WireAnswer = ask(&self.ssm, target, &request).await?;
        Ok(answer.parameter.value.into())
    }

    /// Source: API reference of AWS Secrets Manager, `GetSecretValue`.
    async fn secret(&self, name: &str) -> Result<SecretString, String> {
        #[derive(serde::Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct WireRequest<'a> {
            secret_id: &'a str,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct WireAnswer {
            secret_string: Option<String>,
        }
        let request = WireRequest { secret_id: name };
        let target = "secretsmanager.GetSecretValue";
        let answer: WireAnswer = ask(&self.secrets_manager, target, &request).await?;
        answer
            .secret_string
            .map(SecretString::from)
            .ok_or_else(|| "it holds bytes, not a text".to_owned())
    }
}

/// Calls an operation until it answers or [`LIMIT`] is over. The error is for operators.
async fn ask<T: Serialize, R: DeserializeOwned>(
    service: &Service,
    target: &'static str,
    request: &T,
) -> Result<R, String> {
    let deadline = Instant::now() + LIMIT;
    let mut pause = FIRST_PAUSE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match service.call(target, request, left.min(ATTEMPT)).await {
            Ok(answer) => return Ok(answer),
            Err(CallError::Passing(_)) if Instant::now() + pause < deadline => {
                sleep(pause).await;
                pause *= 2;
            }
            Err(err) => return Err(err.to_string()),
        }
    }
}
