//! What records are worked on with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::Client;
use scanhook_config::config::Config;
use scanhook_config::secrets::Secrets;
use scanhook_config::{Clock, Environment};
use scanhook_core::tools::Tool;
use scanhook_registry::{Registries, RegistryDeps};

use crate::cli::{Cli, Confinement, Inherited, Slots};
use crate::config::ScannerSettings;
use crate::ledger::Ledger;
use crate::program::find_program;
use crate::queue::Queue;

/// Everything that records are worked on with.
pub struct Scanner {
    pub settings: ScannerSettings,
    /// What says what there is to scan.
    pub registries: Registries,
    /// Where records come from, and where dead letters go.
    pub queue: Queue,
    /// What is remembered of scans.
    pub ledger: Arc<dyn Ledger>,
    /// What scans.
    pub cli: Cli,
    /// Where it writes. Batches that are handled at once share the slots.
    pub slots: Slots,
    /// How long before an invocation's deadline all work ends, so that there is time to answer.
    pub margin: Duration,
    pub now: Clock,
}

/// The margin for a function on Lambda.
pub const MARGIN: Duration = Duration::from_secs(15);

/// What a scanner has that no configuration changes.
pub struct Parts {
    pub environment: Environment,
    pub secrets: Secrets,
    pub sqs: Client,
    pub queue_url: String,
    pub dead_letter_url: String,
    pub tool: &'static Tool,
    pub program: PathBuf,
    pub confinement: Confinement,
    pub slots: Slots,
}

impl Scanner {
    /// A scanner that is ready: every secret is read, and the queue agrees with the configuration.
    pub async fn open(
        parts: &Parts,
        config: Arc<Config>,
        ledger: Arc<dyn Ledger>,
        deps: RegistryDeps,
    ) -> anyhow::Result<Self> {
        let (secrets, environment) = (&parts.secrets, &parts.environment);
        let settings = ScannerSettings::load(secrets, Arc::clone(&config)).await?;
        let queue = Queue::open(
            parts.sqs.clone(),
            parts.queue_url.clone(),
            parts.dead_letter_url.clone(),
            config.retry.attempts,
        );
        let queue = queue.await?;
        let now = Arc::clone(&deps.now);
        Ok(Self {
            settings,
            registries: Registries::load(secrets, environment, config, deps).await?,
            queue,
            ledger,
            cli: Cli {
                tool: parts.tool,
                program: find_program(parts.tool, &parts.program, environment)?,
                inherited: Inherited::of(environment),
                confinement: parts.confinement.clone(),
            },
            slots: parts.slots.clone(),
            margin: MARGIN,
            now,
        })
    }
}
