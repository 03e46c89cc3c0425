//! Reads what is behind a reference: the environment, a file, SSM's Parameter Store, Secrets Manager.

use std::sync::Arc;

use secrecy::SecretString;

use super::aws_json::{Call, Service};
use super::{ResolveSecretError, SecretRef};
use crate::Environment;
use crate::aws::Aws;
use crate::http::Client;

/// What references lead to.
pub(super) struct Store {
    environment: Environment,
    ssm: Service,
    secrets_manager: Service,
}

impl Store {
    pub(super) fn new(environment: &Environment, aws: Aws, client: &Arc<Client>) -> Self {
        Self {
            environment: Environment::clone(environment),
            ssm: Service::new("ssm", "SSM", &aws, client),
            secrets_manager: Service::new("secretsmanager", "SECRETS_MANAGER", &aws, client),
        }
    }

    /// Reads all of what `reference` leads to; a key in it does not matter here.
    pub(super) async fn read(
        &self,
        reference: &SecretRef,
    ) -> Result<SecretString, ResolveSecretError> {
        match reference {
            SecretRef::Env(name) => (self.environment)(name)
                .map(SecretString::from)
                .ok_or_else(|| ResolveSecretError::Unset(name.clone())),
            SecretRef::File(path) => {
                let text = tokio::fs::read_to_string(path).await;
                text.map(SecretString::from)
                    .map_err(|err| ResolveSecretError::File {
                        path: path.clone(),
                        kind: err.kind(),
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
        let call = Call {
            target: "AmazonSSM.GetParameter",
            request: &WireRequest {
                name,
                with_decryption: true,
            },
        };
        let answer: WireAnswer = self.ssm.call(call).await?;
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
        let call = Call {
            target: "secretsmanager.GetSecretValue",
            request: &WireRequest { secret_id: name },
        };
        let answer: WireAnswer = self.secrets_manager.call(call).await?;
        answer
            .secret_string
            .map(SecretString::from)
            .ok_or_else(|| "it holds bytes, not a text".to_owned())
    }
}
