//! From the configuration and the environment to a scanner that is ready.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use scanhook_core::image::{Image, Registry};
use scanhook_core::message::QueueMessage;
use scanhook_core::plan::{INHERITED, Inherited, RegistryLogin, ScanPlan};
use scanhook_core::retry::RetryPolicy;
use scanhook_core::source::SourceName;
use scanhook_core::verdict::ErrorReason;
use scanhook_settings::Environment;
use scanhook_settings::aws::Aws;
use scanhook_settings::config::{Config, ConfigError, ScannerConfig, secret_error};
use scanhook_settings::location::Location;
use scanhook_settings::secrets::{Secret, Secrets, Strength};

use crate::batch::{MARGIN, Scanner};
use crate::cli::{Cli, Slots};
use crate::dynamodb::{self, DynamoDbLedger, FunctionLedger};
use crate::ledger::NoLedger;
use crate::queue::{ATTEMPT, Queue};

/// What the configuration says of scanning, with every secret at hand.
#[derive(Debug)]
pub struct ScannerSettings {
    config: Arc<Config>,
    api_token: Secret,
    /// By the pattern of their registry.
    passwords: BTreeMap<String, Secret>,
}

impl ScannerSettings {
    /// Reads every secret that scanning needs.
    pub async fn load(secrets: &Secrets, config: Arc<Config>) -> Result<Self, ConfigError> {
        let scanner = config.scanner.as_ref().ok_or_else(|| ConfigError {
            path: "scanner".to_owned(),
            problem: "missing: without it nothing can be scanned".to_owned(),
        })?;
        let api_token = secrets.resolve(&scanner.api_token, Strength::Given).await;
        let api_token = api_token.map_err(|err| secret_error("scanner.api_token", &err))?;
        let mut passwords = BTreeMap::new();
        for registry in &config.registries {
            let Some(credentials) = &registry.credentials else {
                continue;
            };
            let secret = secrets
                .resolve(&credentials.password, Strength::Given)
                .await;
            let path = format!("registries.{}.credentials.password", registry.pattern);
            let secret = secret.map_err(|err| secret_error(&path, &err))?;
            passwords.insert(registry.pattern.clone(), secret);
        }
        Ok(Self {
            config,
            api_token,
            passwords,
        })
    }

    fn scanner(&self) -> &ScannerConfig {
        match &self.config.scanner {
            Some(scanner) => scanner,
            None => unreachable!("checked by `load`"),
        }
    }

    /// Sysdig's address.
    pub fn api_url(&self) -> &str {
        &self.scanner().api_url
    }

    /// The longest time for one scan.
    pub fn timeout(&self) -> Duration {
        self.scanner().timeout
    }

    /// How failures are tried again.
    pub fn retry(&self) -> &RetryPolicy {
        &self.config.retry
    }

    /// How long content counts as scanned.
    pub fn dedup_window(&self) -> Duration {
        self.config.dedup_window
    }

    /// The policies for images of that source; `None` if it is not configured.
    pub fn policies(&self, source: &SourceName) -> Option<Vec<String>> {
        let of_source = &self.config.sources.get(source)?.policies;
        let mut policies = self.scanner().policies.clone();
        policies.extend(
            of_source
                .iter()
                .filter(|it| !self.scanner().policies.contains(it))
                .cloned(),
        );
        Some(policies)
    }

    /// Plans the scan of a message's image. The login is that of the image's host, whatever the message says else.
    pub async fn plan(&self, message: &QueueMessage, policies: Vec<String>) -> ScanPlan {
        ScanPlan {
            policies,
            ..self.plan_of(message.image.clone()).await
        }
    }

    /// Plans a run for an image that no message names, with the policies for all sources.
    pub async fn plan_of(&self, image: Image) -> ScanPlan {
        let login = match self.login(&image.registry) {
            Some((username, password)) => Some(RegistryLogin {
                username: username.to_owned(),
                password: password.value().await,
            }),
            None => None,
        };
        ScanPlan {
            image,
            api_url: self.scanner().api_url.clone(),
            api_token: self.api_token.value().await,
            policies: self.scanner().policies.clone(),
            login,
        }
    }

    /// Reads the secret again that was refused in a run of `plan`, and says whether it is another one by now.
    pub async fn has_changed(&self, refused: ErrorReason, plan: &ScanPlan) -> bool {
        let other = match (refused, self.login(&plan.image.registry), &plan.login) {
            (ErrorReason::BadToken, ..) => self.api_token.other_than(&plan.api_token).await,
            (ErrorReason::Unauthorized, Some((_, password)), Some(login)) => {
                password.other_than(&login.password).await
            }
            _ => None,
        };
        other.is_some()
    }

    fn login(&self, registry: &Registry) -> Option<(&str, &Secret)> {
        let registry = self.config.registry(registry)?;
        let username = &registry.credentials.as_ref()?.username;
        Some((username, self.passwords.get(&registry.pattern)?))
    }
}

/// What of the environment the CLI is given.
pub fn inherited(environment: &Environment) -> Inherited {
    let variables = INHERITED
        .iter()
        .filter_map(|name| Some((*name, environment(name)?.into())));
    Inherited {
        variables: variables.collect(),
    }
}

/// The CLI: at `expected`, else found by `PATH` under its own name.
pub fn find_program(expected: &Path, environment: &Environment) -> anyhow::Result<PathBuf> {
    let path = environment("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|it| it.join("sysdig-cli-scanner"));
    std::iter::once(expected.to_owned())
        .chain(in_path.filter(|it| it.is_absolute()))
        .find(|it| it.is_file())
        .with_context(|| format!("no CLI at {}, nor in PATH", expected.display()))
}

/// Builds the scanner of a Lambda function: `SCANHOOK_CONFIG` says where the configuration is, `SCANHOOK_QUEUE_URL` and
/// `SCANHOOK_DLQ_URL` which queues it works on, `SCANHOOK_LEDGER_TABLE` where its ledger is, if it has one. The CLI is at `program`, and runs write under `scratch`.
pub async fn load(
    environment: &Environment,
    program: &Path,
    scratch: &Path,
) -> anyhow::Result<Scanner<FunctionLedger>> {
    let get = |name: &str| environment(name).with_context(|| format!("{name} is not set"));
    let (url, dead_letter_url) = (get("SCANHOOK_QUEUE_URL")?, get("SCANHOOK_DLQ_URL")?);
    let location = Location::parse(&get("SCANHOOK_CONFIG")?)?;
    let secrets = Secrets::new(environment, Aws::Function);
    let config = Arc::new(location.load(&secrets).await?);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let settings = ScannerSettings::load(&secrets, Arc::clone(&config)).await?;
    let sdk = scanhook_settings::aws::sdk_config(ATTEMPT).await;
    let client = aws_sdk_sqs::Client::new(&sdk);
    let queue = Queue::open(client, url, dead_letter_url, config.retry.attempts).await?;
    let table = environment("SCANHOOK_LEDGER_TABLE").filter(|it| !it.is_empty());
    let ledger = if let Some(table) = table {
        let ledger = DynamoDbLedger::new(&sdk, table, config.ledger_keep, dynamodb::PATIENCE);
        FunctionLedger::Table(ledger)
    } else {
        tracing::warn!(
            "SCANHOOK_LEDGER_TABLE is not set, so nothing is remembered: repeated events are scanned again"
        );
        FunctionLedger::None(NoLedger)
    };
    Ok(Scanner {
        settings,
        queue,
        ledger,
        cli: Cli {
            program: find_program(program, environment)?,
            inherited: inherited(environment),
        },
        // Lambda gives each environment one batch at a time, and a batch is scanned one by one.
        slots: Slots::open(scratch, 1)?,
        margin: MARGIN,
        now: Arc::new(now),
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the scanner's clock, handed on as a function"
)]
fn now() -> Timestamp {
    Timestamp::now()
}

/// How long an invocation lasts whose deadline is not known: as long as Lambda lets one last.
const LONGEST_INVOCATION: Duration = Duration::from_mins(15);

/// The deadline of an invocation, told in milliseconds. One from before this process started means that it is unknown:
/// `cargo lambda watch` always tells the same one.
pub fn deadline(milliseconds: u64, started_at: Timestamp, now: Timestamp) -> Timestamp {
    let told = i64::try_from(milliseconds)
        .ok()
        .and_then(|it| Timestamp::from_millisecond(it).ok());
    told.filter(|it| *it > started_at).unwrap_or_else(|| {
        now.checked_add(LONGEST_INVOCATION)
            .unwrap_or(Timestamp::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_before_the_start_of_the_process_is_unknown() {
        let now: Timestamp = "2026-11-21T20:00:00Z".parse().unwrap();
        let in_15_minutes: Timestamp = "2026-11-21T20:15:00Z".parse().unwrap();
        assert_eq!(deadline(600_000, now, now), in_15_minutes);
        assert_eq!(deadline(u64::MAX, now, now), in_15_minutes);
        let told = u64::try_from(now.as_millisecond()).unwrap() + 30_000;
        let in_30_seconds: Timestamp = "2026-11-21T20:00:30Z".parse().unwrap();
        assert_eq!(deadline(told, now, now), in_30_seconds);
    }

    #[test]
    fn the_cli_is_where_it_is_expected_or_in_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let (expected, path) = (
            directory.path().join("expected"),
            directory.path().to_owned(),
        );
        let environment: Environment = Arc::new(move |name| {
            (name == "PATH").then(|| format!("relative:/nowhere:{}", path.display()))
        });
        assert!(find_program(&expected, &environment).is_err());
        let in_path = directory.path().join("sysdig-cli-scanner");
        std::fs::write(&in_path, "").unwrap();
        assert_eq!(find_program(&expected, &environment).unwrap(), in_path);
        std::fs::write(&expected, "").unwrap();
        assert_eq!(find_program(&expected, &environment).unwrap(), expected);
    }
}
