//! `scanhook work`: the scanner function as a plain worker on any SQS queue.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use scanhook_config::Environment;
use scanhook_config::config::Config;
use scanhook_config::secrets::Secrets;
use scanhook_registry::system_dns;
use scanhook_scanner::dynamodb::{self, DynamoDbLedger};
use scanhook_scanner::ledger::Ledger;
use scanhook_scanner::scanner::Scanner;
use scanhook_worker::clock::Clock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::WorkArgs;
use crate::faults::Plan;
use crate::host::breaker::{Breaker, Watched};
use crate::host::data_dir::DataDir;
use crate::host::front::Front;
use crate::host::operations::{Depths, Operations, Part};
use crate::host::queues::Queues;
use crate::host::scanning::{cli_program, mapping, scanner};
use crate::host::signals::StopSignals;
use crate::host::sockets::{announce_health, bind, bind_health, reached};
use crate::ledger::SqliteLedger;
use crate::outcome::{Outcome, unusable};
use crate::{configuration, output};

/// How long requests in flight may continue at shutdown.
const CLOSING: Duration = Duration::from_secs(2);

pub(crate) async fn command(args: WorkArgs, environment: Environment) -> anyhow::Result<Outcome> {
    let secrets = Secrets::local(&environment);
    let config = Arc::new(configuration::load(&args.config.location, &secrets).await?);
    config.log_warnings();
    let mut signals = StopSignals::open()?;
    let data_dir = DataDir::lock(&args.data_dir).await.map_err(unusable)?;
    let keep = config.ledger_keep;
    let mut file_ledger = None;
    let (ledger, part): (Arc<dyn Ledger>, _) = if let Some(table) = args.table.clone() {
        let sdk = scanhook_config::aws::sdk_config(scanhook_scanner::queue::ATTEMPT).await;
        let ledger = DynamoDbLedger::new(&sdk, table, keep, dynamodb::PATIENCE);
        let part = Part::table(&ledger);
        (Arc::new(ledger), part)
    } else {
        let ledger = SqliteLedger::open(&data_dir.ledger(), keep, Clock::System.now())?;
        let part = Part::ledger(&ledger, &data_dir);
        file_ledger = Some(ledger.clone());
        (Arc::new(ledger), part)
    };
    let surroundings = (&environment, &secrets);
    let started = start(&args, config, surroundings, &data_dir, ledger, part).await;
    let mut worker = started.map_err(unusable)?;
    if let Some(ledger) = file_ledger.clone() {
        let stopping = worker.stopping.clone();
        worker.tasks.spawn(ledger.catch_up(stopping));
    }
    output::notice(&format!(
        "scanhook scans the images of {}\nreadiness and metrics are at http://{}/readyz and /metrics",
        args.queue_url, worker.address
    ));
    announce_health(worker.health_address);
    let patience = format!(", for up to {}", humantime::format_duration(args.drain));
    let end = async {
        worker.stop().await;
        if let Some(ledger) = &file_ledger {
            ledger.last_try().await;
        }
    };
    let Some(second_signal) = signals.shut_down(&patience, end).await? else {
        return Ok(Outcome::Fine);
    };
    output::notice(&format!(
        "{second_signal}: stopping now; other workers retry the scans in flight"
    ));
    worker.tasks.abort_all();
    scanhook_scanner::cli::end_all_runs();
    Ok(Outcome::Findings)
}

struct Worker {
    address: SocketAddr,
    health_address: Option<SocketAddr>,
    stopping: CancellationToken,
    tasks: JoinSet<()>,
}

impl Worker {
    async fn stop(&mut self) {
        self.stopping.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn start(
    args: &WorkArgs,
    config: Arc<Config>,
    (environment, secrets): (&Environment, &Secrets),
    data_dir: &DataDir,
    ledger: Arc<dyn Ledger>,
    ledger_part: Part,
) -> anyhow::Result<Worker> {
    let listener = bind(args.listen, "--listen")?;
    let address = reached(&listener)?;
    let health_listener = bind_health(args.surfaces.health_listen)?;
    let health_address = health_listener.as_ref().map(reached).transpose()?;
    let queues = Queues::external(&args.queue_url).await?;
    let breaker = Breaker::new();
    let parts = vec![
        Part::configuration(),
        Part::queue(queues.client.clone(), queues.url.clone()),
        ledger_part,
        Part::backend(&breaker),
    ];
    let operations = Operations::new(&config, parts, Depths::sqs(&queues));
    let ledger = Arc::new(Watched {
        ledger,
        breaker: Arc::clone(&breaker),
    });
    let program = cli_program(&args.scanner_cli, environment, "")?;
    let scanner = scanner(
        &config,
        (environment, secrets),
        &queues,
        program,
        data_dir,
        ledger,
        system_dns(),
    )
    .await?;
    let scanner = Scanner {
        queue: scanner.queue.renewing(args.hidden_for),
        ..scanner
    };
    let mapping = mapping(&config, &queues, args.drain, scanner, Plan::default())?;
    let mapping = mapping.admitted_by(breaker.admission());
    let stopping = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(mapping.run(stopping.clone().cancelled_owned()));
    tasks.spawn(breaker.watch(&config, stopping.clone())?);
    tasks.spawn(operations.upkeep(stopping.clone()));
    let front = Front::uncounted(args.surfaces.allow_host.iter().cloned().collect());
    for listener in std::iter::once(listener).chain(health_listener) {
        tasks.spawn(front.serve_health(listener, &operations, &stopping, CLOSING));
    }
    Ok(Worker {
        address,
        health_address,
        stopping,
        tasks,
    })
}
