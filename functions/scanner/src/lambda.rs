//! The scanner of a Lambda function.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use scanhook_config::Environment;
use scanhook_config::aws::Aws;
use scanhook_config::config::Config;
use scanhook_config::live::Live;
use scanhook_config::location::Location;
use scanhook_config::secrets::Secrets;
use scanhook_core::tools::sysdig;
use scanhook_registry::{RegistryDeps, Sdk, system_dns};

use crate::cli::{Confinement, Slots};
use crate::dynamodb::{self, DynamoDbLedger};
use crate::ledger::{Ledger, NoLedger};
use crate::queue::ATTEMPT;
use crate::scanner::{Parts, Scanner};

/// Opens the scanner of a Lambda function: `SCANHOOK_CONFIG` says where the configuration is, which is read again while it
/// runs, `SCANHOOK_QUEUE_URL` and `SCANHOOK_DLQ_URL` which queues it works on, `SCANHOOK_LEDGER_TABLE` where its ledger is, if it
/// has one. The CLI is at `program`, and runs write under `scratch`.
pub async fn open(
    environment: &Environment,
    program: &Path,
    scratch: &Path,
) -> anyhow::Result<Live<Scanner>> {
    let get = |name: &str| environment(name).with_context(|| format!("{name} is not set"));
    let (queue_url, dead_letter_url) = (get("SCANHOOK_QUEUE_URL")?, get("SCANHOOK_DLQ_URL")?);
    let location = Location::parse(&get("SCANHOOK_CONFIG")?)?;
    let table = environment("SCANHOOK_LEDGER_TABLE").filter(|it| !it.is_empty());
    if table.is_none() {
        tracing::warn!(
            "SCANHOOK_LEDGER_TABLE is not set, so nothing is remembered: repeated events are scanned again"
        );
    }
    let secrets = Secrets::new(environment, Aws::function(environment));
    let sdk = scanhook_config::aws::sdk_config(ATTEMPT).await;
    let parts = Arc::new(Parts {
        environment: Arc::clone(environment),
        secrets: secrets.clone(),
        sqs: aws_sdk_sqs::Client::new(&sdk),
        queue_url,
        dead_letter_url,
        tool: &sysdig::TOOL,
        program: program.to_owned(),
        // Lambda has its secrets in the environment and in memory.
        confinement: Confinement::of_this_program(Vec::new()).await,
        // Lambda gives each environment one batch at a time, and a batch is scanned one by one.
        slots: Slots::open(scratch, 1)?,
    });
    parts.confinement.log_refused();
    let build = move |config: Config| {
        let (parts, keep) = (Arc::clone(&parts), config.ledger_keep);
        let ledger: Arc<dyn Ledger> = match table.clone() {
            Some(table) => Arc::new(DynamoDbLedger::new(&sdk, table, keep, dynamodb::PATIENCE)),
            None => Arc::new(NoLedger),
        };
        let deps = RegistryDeps {
            dns: system_dns(),
            sdk: Sdk::default(),
            now: Arc::new(scanhook_config::now),
        };
        async move { Scanner::open(&parts, Arc::new(config), ledger, deps).await }
    };
    let opened = Live::open(location, secrets, build).await;
    opened.map_err(anyhow::Error::msg)
}
