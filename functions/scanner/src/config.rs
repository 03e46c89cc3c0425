//! From the configuration and the environment to a scanner that is ready.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use aws_config::SdkConfig;
use jiff::Timestamp;
use scanhook_config::Environment;
use scanhook_config::aws::Aws;
use scanhook_config::config::{Config, ConfigError, ScannerConfig};
use scanhook_config::live::Live;
use scanhook_config::location::Location;
use scanhook_config::secrets::{Reread, Secret, Secrets};
use scanhook_core::image::Image;
use scanhook_core::plan::{INHERITED, Inherited, RegistryLogin, ScanPlan};
use scanhook_core::platform::Platform;
use scanhook_core::retry::RetryPolicy;
use scanhook_core::source::{Source, SourceName};
use scanhook_core::target::Target;
use secrecy::SecretString;

use crate::batch::{MARGIN, Scanner};
use crate::cli::{Cli, Confinement, Slots};
use crate::dynamodb::{self, DynamoDbLedger};
use crate::ledger::{Ledger, NoLedger};
use crate::queue::{ATTEMPT, Queue};
use scanhook_registry::{Registries, RegistryDeps, Sdk, system_dns};

/// What the configuration says of scanning, with every secret at hand.
#[derive(Debug)]
pub struct ScannerSettings {
    config: Arc<Config>,
    api_token: Secret,
}

impl ScannerSettings {
    /// Reads every secret that scanning needs.
    pub async fn load(secrets: &Secrets, config: Arc<Config>) -> Result<Self, ConfigError> {
        let scanner = config.scanner.as_ref();
        let missing = || ConfigError::new("scanner", "missing: without it nothing can be scanned");
        let scanner = scanner.ok_or_else(missing)?;
        let api_token = scanner.token(secrets).await?;
        Ok(Self { config, api_token })
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

    /// The source of that name, if it is configured.
    pub fn source(&self, name: &SourceName) -> Option<&Source> {
        self.config.sources.get(name).map(|it| &it.source)
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

    /// Which platforms of an index are wanted for images of that source; none means the usual one.
    pub fn platforms(&self, source: &SourceName) -> &[Platform] {
        let source = self.config.sources.get(source);
        source.map_or(&[], |it| it.platforms.as_slice())
    }

    /// The largest image that is scanned, in bytes.
    pub fn max_image(&self) -> u64 {
        self.scanner().max_image
    }

    /// Plans the scan of a target.
    pub async fn plan(
        &self,
        target: &Target,
        policies: Vec<String>,
        login: Option<RegistryLogin>,
    ) -> ScanPlan {
        ScanPlan {
            policies,
            ..self.plan_of(target.image().clone(), login).await
        }
    }

    /// Plans a run for an image that no message names, with the policies for all sources.
    pub async fn plan_of(&self, image: Image, login: Option<RegistryLogin>) -> ScanPlan {
        ScanPlan {
            image,
            api_url: self.scanner().api_url.clone(),
            api_token: self.api_token.value().await,
            policies: self.scanner().policies.clone(),
            login,
            certificates: None,
        }
    }

    /// Reads Sysdig's token again, which was refused.
    pub async fn reread_token(&self, refused: &SecretString) -> Reread {
        self.api_token.reread(refused).await
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

/// Variables that name files with credentials of the process. Source: AWS's SDK reference, "Environment variables support";
/// Google's "How Application Default Credentials works".
const CREDENTIAL_FILES: [&str; 5] = [
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
];

/// Where credentials of the process and of whoever started it usually are: below `HOME`, and where containers get theirs.
const BELOW_HOME: [&str; 6] = [
    ".aws",
    ".azure",
    ".config/gcloud",
    ".docker",
    ".kube",
    ".ssh",
];
const IN_CONTAINERS: [&str; 2] = ["/run/secrets", "/var/run/secrets"];

/// The files and directories that the CLI must not read: those that hold secrets.
pub fn secret_places(config: &Config, environment: &Environment) -> Vec<PathBuf> {
    let named = CREDENTIAL_FILES.iter().filter_map(|it| environment(it));
    let home = environment("HOME").map(PathBuf::from);
    let home = home
        .iter()
        .flat_map(|home| BELOW_HOME.map(|it| home.join(it)));
    let named = named.map(PathBuf::from).chain(home);
    let fixed = IN_CONTAINERS.iter().map(PathBuf::from);
    let places = config.secret_files().chain(named).chain(fixed);
    places.filter(|it| !it.as_os_str().is_empty()).collect()
}

/// The program that a person names: a bare name is looked for in `PATH`, and a link stays one, for its name counts.
pub fn named_program(named: &Path, environment: &Environment) -> anyhow::Result<PathBuf> {
    if named.components().count() == 1 {
        find_program(named, environment)
    } else {
        Ok(std::path::absolute(named)?)
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

/// Builds the scanner of a Lambda function: `SCANHOOK_CONFIG` says where the configuration is, which is read again while it
/// runs, `SCANHOOK_QUEUE_URL` and `SCANHOOK_DLQ_URL` which queues it works on, `SCANHOOK_LEDGER_TABLE` where its ledger is, if it
/// has one. The CLI is at `program`, and runs write under `scratch`.
pub async fn load(
    environment: &Environment,
    program: &Path,
    scratch: &Path,
) -> anyhow::Result<Live<Scanner>> {
    let get = |name: &str| environment(name).with_context(|| format!("{name} is not set"));
    let (url, dead_letter_url) = (get("SCANHOOK_QUEUE_URL")?, get("SCANHOOK_DLQ_URL")?);
    let location = Location::parse(&get("SCANHOOK_CONFIG")?)?;
    let table = environment("SCANHOOK_LEDGER_TABLE").filter(|it| !it.is_empty());
    if table.is_none() {
        tracing::warn!(
            "SCANHOOK_LEDGER_TABLE is not set, so nothing is remembered: repeated events are scanned again"
        );
    }
    let lasting = Arc::new(Lasting {
        secrets: Secrets::new(environment, Aws::function(environment)),
        sdk: scanhook_config::aws::sdk_config(ATTEMPT).await,
        url,
        dead_letter_url,
        table,
        program: program.to_owned(),
        // Lambda has its secrets in the environment and in memory.
        confinement: Confinement::of_this_program(Vec::new()).await,
        // Lambda gives each environment one batch at a time, and a batch is scanned one by one.
        slots: Slots::open(scratch, 1)?,
        environment: Arc::clone(environment),
    });
    lasting.confinement.log_refused();
    let secrets = lasting.secrets.clone();
    let build = move |config| Arc::clone(&lasting).scanner(config);
    let opened = Live::open(location, secrets, build).await;
    opened.map_err(anyhow::Error::msg)
}

/// What a scanner has that no configuration changes.
struct Lasting {
    environment: Environment,
    secrets: Secrets,
    sdk: SdkConfig,
    url: String,
    dead_letter_url: String,
    table: Option<String>,
    program: PathBuf,
    confinement: Confinement,
    slots: Slots,
}

impl Lasting {
    async fn scanner(self: Arc<Self>, config: Config) -> anyhow::Result<Scanner> {
        let config = Arc::new(config);
        let settings = ScannerSettings::load(&self.secrets, Arc::clone(&config)).await?;
        let client = aws_sdk_sqs::Client::new(&self.sdk);
        let (url, dead_letter_url) = (self.url.clone(), self.dead_letter_url.clone());
        let queue = Queue::open(client, url, dead_letter_url, config.retry.attempts).await?;
        let keep = config.ledger_keep;
        let ledger: Arc<dyn Ledger> = match self.table.clone() {
            Some(table) => {
                let patience = dynamodb::PATIENCE;
                Arc::new(DynamoDbLedger::new(&self.sdk, table, keep, patience))
            }
            None => Arc::new(NoLedger),
        };
        let deps = RegistryDeps {
            dns: system_dns(),
            sdk: Sdk::default(),
            now: Arc::new(scanhook_config::now),
        };
        let registries = Registries::load(&self.secrets, &self.environment, config, deps).await?;
        Ok(Scanner {
            settings,
            registries,
            queue,
            ledger,
            cli: Cli {
                program: find_program(&self.program, &self.environment)?,
                inherited: inherited(&self.environment),
                confinement: self.confinement.clone(),
            },
            slots: self.slots.clone(),
            margin: MARGIN,
            now: Arc::new(scanhook_config::now),
        })
    }
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
