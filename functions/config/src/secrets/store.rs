//! Reads what is behind a reference: the environment, a file, SSM's Parameter Store, Secrets Manager.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use secrecy::SecretString;
use tokio::sync::OnceCell;

use super::{ResolveSecretError, SecretRef};
use crate::Environment;
use crate::aws::{Aws, problem};
use crate::file;

/// The longest single try of a call.
const ATTEMPT: Duration = Duration::from_millis(1_500);

/// The longest call, with its repetitions. The configuration and then its secrets are read in Lambda's ten seconds of
/// init, and must have failed by then.
pub(super) const LIMIT: Duration = Duration::from_secs(4);

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(1);

/// The longest pause before a second try; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// As many tries as fit into [`LIMIT`].
const ATTEMPTS: u32 = 6;

/// What references lead to.
pub(super) struct Store {
    environment: Environment,
    aws: Aws,
    /// Both made when a reference first leads there.
    ssm: OnceCell<aws_sdk_ssm::Client>,
    secrets_manager: OnceCell<aws_sdk_secretsmanager::Client>,
}

impl Store {
    pub(super) fn new(environment: &Environment, aws: Aws) -> Self {
        Self {
            environment: Environment::clone(environment),
            aws,
            ssm: OnceCell::new(),
            secrets_manager: OnceCell::new(),
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

    async fn parameter(&self, name: &str) -> Result<SecretString, String> {
        let ssm = self.ssm.get_or_try_init(async || {
            let config = self.settings("SSM").await?;
            let config = aws_sdk_ssm::config::Builder::from(&config);
            Ok::<_, String>(aws_sdk_ssm::Client::from_conf(config.build()))
        });
        let call = ssm.await?.get_parameter().name(name).with_decryption(true);
        let answer = call.send().await.map_err(|err| problem(&err))?;
        let value = answer.parameter.and_then(|it| it.value);
        value
            .map(SecretString::from)
            .ok_or_else(|| "it has no value".to_owned())
    }

    async fn secret(&self, name: &str) -> Result<SecretString, String> {
        let secrets_manager = self.secrets_manager.get_or_try_init(async || {
            let config = self.settings("Secrets Manager").await?;
            let config = aws_sdk_secretsmanager::config::Builder::from(&config);
            Ok::<_, String>(aws_sdk_secretsmanager::Client::from_conf(config.build()))
        });
        let call = secrets_manager.await?.get_secret_value().secret_id(name);
        let answer = call.send().await.map_err(|err| problem(&err))?;
        answer
            .secret_string
            .map(SecretString::from)
            .ok_or_else(|| "it holds bytes, not a text".to_owned())
    }

    async fn settings(&self, service: &'static str) -> Result<SdkConfig, String> {
        let config = self.aws.config(service).await;
        config.region().ok_or("AWS_REGION is not set")?;
        config
            .credentials_provider()
            .ok_or("there are no AWS credentials")?;
        let limits = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(ATTEMPT)
            .operation_timeout(LIMIT)
            .build();
        let retries = RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(FIRST_PAUSE);
        let config = config.into_builder().timeout_config(limits);
        Ok(config.retry_config(retries).build())
    }
}
