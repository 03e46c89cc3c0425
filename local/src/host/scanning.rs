//! The scanner handler behind its event source mapping.

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use scanhook_config::Environment;
use scanhook_config::config::Config;
use scanhook_config::secrets::Secrets;
use scanhook_core::tools::sysdig::TOOL;
use scanhook_registry::{Dns, RegistryDeps, Sdk};
use scanhook_scanner::batch;
use scanhook_scanner::cli::{Confinement, Slots};
use scanhook_scanner::ledger::Ledger;
use scanhook_scanner::program::named_program;
use scanhook_scanner::scanner::{Parts, Scanner};
use scanhook_scanner::secret_places::secret_places;
use scanhook_worker::clock::Clock;
use scanhook_worker::mapping::{self, HandlerError, Invocation, Mapping};

use super::queues::Queues;
use crate::faults::Plan;
use crate::host::data_dir::DataDir;

/// What a scan needs of an invocation beside the CLI's own time: killing, reaping, recording, answering.
const INVOCATION_MARGIN: Duration = Duration::from_mins(1);

/// How long one receive waits for a message. Receives end with the server, so this bounds its end too.
const RECEIVE_WAIT: Duration = Duration::from_secs(1);

/// What the event source mapping allows the scanner for one invocation.
pub(crate) fn function_timeout(config: &Config) -> Duration {
    config
        .scanner
        .as_ref()
        .map_or(Duration::from_mins(10), |it| it.timeout)
        + INVOCATION_MARGIN
}

/// The program that `--scanner-cli` names; `otherwise` ends the advice that is given if there is none.
pub(crate) fn cli_program(
    named: &Path,
    environment: &Environment,
    otherwise: &str,
) -> anyhow::Result<PathBuf> {
    let advice = format!("{}{otherwise}", TOOL.setup);
    let program = named_program(&TOOL, named, environment).with_context(|| advice.clone())?;
    let metadata = std::fs::metadata(&program).ok().filter(Metadata::is_file);
    let Some(metadata) = metadata else {
        anyhow::bail!("there is no CLI at {}; {advice}", named.display());
    };
    anyhow::ensure!(
        metadata.permissions().mode() & 0o111 != 0,
        "{} is not executable; {advice}",
        program.display()
    );
    Ok(program)
}

/// The scanner handler, as Lambda runs it.
pub(crate) async fn scanner(
    config: &Arc<Config>,
    (environment, secrets): (&Environment, &Secrets),
    queues: &Queues,
    program: PathBuf,
    data_dir: &DataDir,
    ledger: Arc<dyn Ledger>,
    dns: Dns,
) -> anyhow::Result<Scanner> {
    let concurrency = config.scanner.as_ref().map_or(1, |it| it.concurrency);
    let mut hidden = secret_places(config, environment);
    hidden.push(data_dir.path().to_owned());
    let confinement = Confinement::of_this_program(hidden).await;
    confinement.log_refused();
    let parts = Parts {
        environment: Arc::clone(environment),
        secrets: secrets.clone(),
        sqs: queues.client.clone(),
        queue_url: queues.url.clone(),
        dead_letter_url: queues.dead_letter_url.clone(),
        tool: &TOOL,
        program,
        confinement,
        slots: Slots::open(&data_dir.scratch(), concurrency)?,
    };
    Scanner::open(&parts, Arc::clone(config), ledger, registry_deps(dns)).await
}

/// What registries are asked with on this machine.
pub(crate) fn registry_deps(dns: Dns) -> RegistryDeps {
    RegistryDeps {
        dns,
        sdk: Sdk::default(),
        now: Arc::new(|| Clock::System.now()),
    }
}

/// One record to an invocation, so that a crash has no innocent neighbours.
pub(crate) fn mapping(
    config: &Config,
    queues: &Queues,
    drain: Duration,
    scanner: Scanner,
    plan: Plan,
) -> anyhow::Result<Mapping<impl Fn(Invocation) -> Handled + Send + Sync + 'static>> {
    let scanner = Arc::new(scanner);
    let function_timeout = function_timeout(config);
    let config = mapping::Config {
        queue_url: queues.url.clone(),
        queue_arn: queues.arn.clone(),
        batch_size: 1,
        batching_window: Duration::ZERO,
        maximum_concurrency: config
            .scanner
            .as_ref()
            .map_or(1, |it| it.concurrency as usize),
        function_timeout,
        receive_wait: RECEIVE_WAIT,
        drain,
    };
    let strikes = plan.scanner();
    let handler = move |invocation: Invocation| -> Handled {
        let scanner = Arc::clone(&scanner);
        let handled = async move {
            let event = serde_json::from_value(invocation.event)?;
            Ok(serde_json::to_value(
                batch::handle(&scanner, event, invocation.deadline).await,
            )?)
        };
        match strikes.next() {
            None => Box::pin(handled),
            Some(strike) => Box::pin(strike.hit(handled)),
        }
    };
    Ok(Mapping::new(
        queues.client.clone(),
        config,
        Clock::System,
        handler,
    )?)
}

/// What the handler comes to.
pub(crate) type Handled =
    Pin<Box<dyn Future<Output = Result<serde_json::Value, HandlerError>> + Send>>;
