//! `scanhook serve`: webhook, queue, event source mapping and scanner in one process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::from_fn;
use scanhook_config::Environment;
use scanhook_config::config::Config;
use scanhook_config::secrets::Secrets;
use scanhook_emulator::sqs::{Endpoint, Store};
use scanhook_registry::{Dns, system_dns};
use scanhook_scanner::cli;
use scanhook_webhook::queue::Queue;
use scanhook_worker::clock::Clock;
use scanhook_worker::listener::AllowedHosts;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::deliveries::Deliveries;
use self::page::Page;
use crate::args::ServeArgs;
use crate::faults::Plan;
use crate::host::breaker::{Breaker, Watched};
use crate::host::data_dir::DataDir;
use crate::host::front::Front;
use crate::host::operations::{Depths, Operations, Part};
use crate::host::queues::{
    self, DEAD_LETTERS, QUEUE, Queues, ensure_queues, open_store, release_abandoned,
};
use crate::host::scanning::{cli_program, function_timeout, mapping, scanner};
use crate::host::signals::StopSignals;
use crate::host::sockets::{announce_health, bind, bind_health, reached};
use crate::ledger::SqliteLedger;
use crate::outcome::{Outcome, unusable};
use crate::{configuration, gateway, output};

mod deliveries;
mod page;

/// How long requests and scans in flight may continue after the signal to stop. With the last receive and the end of processes,
/// shutdown stays below the ten seconds that `docker stop` allows.
const DRAIN: Duration = Duration::from_secs(7);

pub(crate) struct Options {
    pub(crate) config: Config,
    pub(crate) environment: Environment,
    pub(crate) secrets: Secrets,
    pub(crate) listen: SocketAddr,
    pub(crate) sqs_listen: SocketAddr,
    /// A separate listener for probes.
    pub(crate) health_listen: Option<SocketAddr>,
    /// The host names that the local surfaces answer besides `localhost`.
    pub(crate) allowed_hosts: AllowedHosts,
    pub(crate) data_dir: PathBuf,
    /// An external SQS queue in place of the embedded one.
    pub(crate) queue_url: Option<String>,
    /// The CLI; `None` scans nothing.
    pub(crate) scanner_cli: Option<PathBuf>,
    /// Whether other machines may see the page.
    pub(crate) open_page: bool,
    /// Resolves the names of registries.
    pub(crate) dns: Dns,
}

/// A running server.
pub(crate) struct Server {
    /// Where it receives deliveries.
    pub(crate) address: SocketAddr,
    pub(crate) sqs_address: SocketAddr,
    pub(crate) health_address: Option<SocketAddr>,
    pub(crate) ledger: SqliteLedger,
    pub(crate) store: Store,
    stopping: Stopping,
    /// Stops last, because scans in flight need it.
    endpoint: AbortOnDropHandle<()>,
    tasks: JoinSet<()>,
    /// Locked until everything else has stopped.
    _data_dir: DataDir,
}

/// The order of shutdown: first requests and receives stop, then the endpoint that scans in flight need.
#[derive(Default)]
struct Stopping {
    intake: CancellationToken,
    endpoint: CancellationToken,
}

pub(crate) async fn command(args: ServeArgs, environment: Environment) -> anyhow::Result<Outcome> {
    let plan = Plan::new(&args.fault, args.seed).map_err(unusable)?;
    if args.queue_url.is_some() && plan.strikes_queue() {
        let advice = "the sqs-… faults need the embedded queue, which --queue-url replaces";
        return Err(unusable(anyhow::anyhow!(advice)));
    }
    if args.no_scan && plan.strikes_scanner() {
        let advice = "the scanner-… faults need the scanner, which --no-scan leaves out";
        return Err(unusable(anyhow::anyhow!(advice)));
    }
    let secrets = Secrets::local(&environment);
    let config = configuration::load(&args.config.location, &secrets).await?;
    config.log_warnings();
    let options = Options {
        config,
        environment,
        secrets,
        listen: args.listen,
        sqs_listen: args.sqs_listen,
        health_listen: args.surfaces.health_listen,
        allowed_hosts: args.surfaces.allow_host.into_iter().collect(),
        data_dir: args.data_dir,
        queue_url: args.queue_url,
        open_page: args.open_page,
        scanner_cli: if args.no_scan {
            None
        } else {
            Some(args.scanner_cli)
        },
        dns: system_dns(),
    };
    let mut signals = StopSignals::open()?;
    let mut server = Box::pin(start_with(options, plan))
        .await
        .map_err(unusable)?;
    output::notice(&format!(
        "scanhook receives deliveries at http://{}/webhooks/SOURCE\nthe AWS CLI and SDKs can use its queue: AWS_ENDPOINT_URL_SQS=http://{}",
        server.address, server.sqs_address,
    ));
    announce_health(server.health_address);
    let Some(second_signal) = signals.shut_down("", server.stop()).await? else {
        return Ok(Outcome::Fine);
    };
    output::notice(&format!(
        "{second_signal}: stopping now; the next start retries the scans in flight"
    ));
    server.abandon();
    Ok(Outcome::Findings)
}

/// Starts everything; on an error, no task is left behind.
pub(crate) async fn start(options: Options) -> anyhow::Result<Server> {
    Box::pin(start_with(options, Plan::default())).await
}

/// Starts everything, with injected faults.
async fn start_with(options: Options, plan: Plan) -> anyhow::Result<Server> {
    let Options {
        environment,
        secrets,
        allowed_hosts: hosts,
        ..
    } = options;
    let config = Arc::new(options.config);
    let data_dir = DataDir::lock(&options.data_dir).await?;
    let listener = bind(options.listen, "--listen")?;
    let sqs_listener = bind(options.sqs_listen, "--sqs-listen")?;
    let health_listener = bind_health(options.health_listen)?;
    let (address, sqs_address) = (reached(&listener)?, reached(&sqs_listener)?);
    let health_address = health_listener.as_ref().map(reached).transpose()?;
    data_dir.announce(sqs_address)?;
    let store = open_store(&data_dir.queue()).await?;
    let ledger = SqliteLedger::open(&data_dir.ledger(), config.ledger_keep, Clock::System.now())?;
    let function_timeout = function_timeout(&config);
    ensure_queues(&store, &config, function_timeout).await?;
    let endpoint = Endpoint::new(store.clone(), plan.queue()).allowing(hosts.clone());
    let external_url = options.queue_url.as_deref();
    let (queues, settings) =
        queues::open(external_url, &environment, sqs_address, &endpoint).await?;
    let stopping = Stopping::default();
    let breaker = Breaker::new();
    let embedded = options.queue_url.is_none().then_some(&store);
    let backend = options.scanner_cli.as_ref();
    let backend = backend.map(|_| Part::backend(&breaker));
    let operations = operations(&config, &queues, embedded, &ledger, &data_dir, backend);
    let mut tasks = JoinSet::new();
    let endpoint_stopping = stopping.endpoint.clone().cancelled_owned();
    let endpoint = AbortOnDropHandle::new(tokio::spawn(
        endpoint.serve(sqs_listener, endpoint_stopping),
    ));
    if let Some(named) = &options.scanner_cli {
        let scanner = scanner(
            &config,
            (&environment, &secrets),
            &queues,
            cli_program(named, &environment, ", or start with --no-scan")?,
            &data_dir,
            Arc::new(Watched {
                ledger: Arc::new(ledger.clone()),
                breaker: Arc::clone(&breaker),
            }),
            options.dns,
        )
        .await?;
        if embedded.is_some() {
            release_abandoned(&store, &ledger).await?;
        }
        let mapping = mapping(&config, &queues, DRAIN, scanner, plan)?;
        let mapping = mapping.admitted_by(breaker.admission());
        tasks.spawn(mapping.run(stopping.intake.clone().cancelled_owned()));
        tasks.spawn(breaker.watch(&config, stopping.intake.clone())?);
    }
    let queue = Queue::sqs(settings, queues.url.clone());
    let webhook = Arc::new(scanhook_webhook::config::webhook(&config, queue, &secrets).await?);
    let deliveries = Deliveries::of(config.sources.keys().cloned());
    let watcher = deliveries.clone();
    let watch = from_fn(move |request, next| watcher.clone().watch(request, next));
    let page = Page {
        deliveries,
        ledger: ledger.clone(),
        store: embedded.cloned(),
        is_open: options.open_page,
    };
    let gateway = gateway::in_front_of(Arc::clone(&webhook)).layer(watch);
    let front = Front {
        hosts,
        refuse: Arc::new(move |uri, rejection| webhook.refuse(uri, rejection)),
    };
    let page_routes = page.routes(Arc::clone(&front.refuse));
    let router = gateway.merge(front.guard(operations.routes().merge(page_routes)));
    tasks.spawn(operations.upkeep(stopping.intake.clone()));
    tasks.spawn(ledger.clone().catch_up(stopping.intake.clone()));
    tasks.spawn(front.serve(listener, router, &stopping.intake, DRAIN));
    if let Some(listener) = health_listener {
        tasks.spawn(front.serve_health(listener, &operations, &stopping.intake, DRAIN));
    }
    Ok(Server {
        address,
        sqs_address,
        health_address,
        ledger,
        store,
        stopping,
        endpoint,
        tasks,
        _data_dir: data_dir,
    })
}

/// What operators see. Sysdig's backend is dispensable: without it, deliveries are still accepted and wait in the queue.
fn operations(
    config: &Config,
    queues: &Queues,
    embedded: Option<&Store>,
    ledger: &SqliteLedger,
    data_dir: &DataDir,
    backend: Option<Part>,
) -> Arc<Operations> {
    let (queue, depths) = match embedded {
        Some(store) => (
            Part::store(store, data_dir),
            Depths::Embedded(store.clone(), [QUEUE, DEAD_LETTERS]),
        ),
        None => (
            Part::queue(queues.client.clone(), queues.url.clone()),
            Depths::sqs(queues),
        ),
    };
    let essential = [Part::configuration(), queue, Part::ledger(ledger, data_dir)];
    let dispensable = backend.map(Part::dispensable);
    let parts = essential.into_iter().chain(dispensable).collect();
    Operations::new(config, parts, depths)
}

impl Server {
    /// Stops receiving, finishes or releases what is in flight, and stops.
    pub(crate) async fn stop(&mut self) {
        self.stopping.intake.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.stopping.endpoint.cancel();
        let _ = tokio::time::timeout(DRAIN, &mut self.endpoint).await;
        self.ledger.last_try().await;
    }

    /// Stops at once. Scans in flight run again after the next start.
    pub(crate) fn abandon(mut self) {
        self.tasks.abort_all();
        cli::end_all_runs();
    }
}
