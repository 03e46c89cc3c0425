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
    self, DEAD_LETTERS, QUEUE, ensure_queues, open_store, release_abandoned,
};
use crate::host::scanning::{cli_program, function_timeout, mapping, scanner};
use crate::host::signals::StopSignals;
use crate::host::sockets::{announce_health, bind, bind_health, reached};
use crate::ledger::SqliteLedger;
use crate::outcome::{Outcome, unusable};
use crate::{configuration, gateway, output};

mod deliveries;
mod page;

/// How long requests and scans that have begun may go on after the signal to stop. With the last receive and what it takes
/// to end processes it stays below the ten seconds that `docker stop` gives.
const DRAIN: Duration = Duration::from_secs(7);

/// What to serve, and where.
pub(crate) struct Options {
    pub(crate) config: Config,
    pub(crate) environment: Environment,
    pub(crate) secrets: Secrets,
    pub(crate) listen: SocketAddr,
    pub(crate) sqs_listen: SocketAddr,
    /// Where probes have a listener of their own, if they have one.
    pub(crate) health_listen: Option<SocketAddr>,
    /// Whom the local surfaces answer beside this machine.
    pub(crate) allowed_hosts: AllowedHosts,
    pub(crate) data_dir: PathBuf,
    /// An SQS queue outside; else the embedded one.
    pub(crate) queue_url: Option<String>,
    /// The CLI; none to scan nothing.
    pub(crate) scanner_cli: Option<PathBuf>,
    /// Whether others than this machine may see the page.
    pub(crate) open_page: bool,
    /// How the names of registries become addresses.
    pub(crate) dns: Dns,
}

/// A server that runs.
pub(crate) struct Server {
    /// Where it takes deliveries.
    pub(crate) address: SocketAddr,
    /// Where its SQS endpoint is.
    pub(crate) sqs_address: SocketAddr,
    /// Where probes have a listener of their own, if they have one.
    pub(crate) health_address: Option<SocketAddr>,
    /// Its ledger.
    pub(crate) ledger: SqliteLedger,
    /// Its queues.
    pub(crate) store: Store,
    stopping: Stopping,
    /// Ends last: whoever is at work still needs it.
    endpoint: AbortOnDropHandle<()>,
    tasks: JoinSet<()>,
    /// Held until everything else has ended.
    _data_dir: DataDir,
}

/// The order of the end: first no more requests and receives, then no more endpoint for those still at work.
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
    let Some(again) = signals.then("", server.stop()).await? else {
        return Ok(Outcome::Fine);
    };
    output::notice(&format!(
        "{again}: stopping now; the next start retries the scans in flight"
    ));
    server.abandon();
    Ok(Outcome::Findings)
}

/// Starts everything, or nothing: an error leaves no task behind.
pub(crate) async fn start(options: Options) -> anyhow::Result<Server> {
    Box::pin(start_with(options, Plan::default())).await
}

/// Starts everything, with faults on purpose.
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
    let outside = options.queue_url.as_deref();
    let (queues, service) = queues::open(outside, &environment, sqs_address, &endpoint).await?;
    let stopping = Stopping::default();
    let depths = match &options.queue_url {
        Some(_) => Depths::outside(&queues),
        None => Depths::Embedded(store.clone(), [QUEUE, DEAD_LETTERS]),
    };
    let breaker = Breaker::new();
    let queue = match &options.queue_url {
        Some(_) => Part::queue(queues.client.clone(), queues.url.clone()),
        None => Part::store(&store, &data_dir),
    };
    let backend = options
        .scanner_cli
        .as_ref()
        .map(|_| Part::backend(&breaker));
    let parts = parts(queue, Part::ledger(&ledger, &data_dir), backend);
    let operations = Operations::new(&config, parts, depths);
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
        if options.queue_url.is_none() {
            release_abandoned(&store, &ledger).await?;
        }
        let mapping = mapping(&config, &queues, DRAIN, scanner, plan)?;
        let mapping = mapping.admitted_by(breaker.admission());
        tasks.spawn(mapping.run(stopping.intake.clone().cancelled_owned()));
        tasks.spawn(breaker.watch(&config, stopping.intake.clone())?);
    }
    let queue = Queue::sqs(service, queues.url.clone());
    let webhook = Arc::new(scanhook_webhook::config::webhook(&config, queue, &secrets).await?);
    let deliveries = Deliveries::of(config.sources.keys().cloned());
    let watch = deliveries.clone();
    let watch = from_fn(move |request, next| watch.clone().watch(request, next));
    let page = Page {
        deliveries,
        ledger: ledger.clone(),
        store: options.queue_url.is_none().then(|| store.clone()),
        is_open: options.open_page,
    };
    let gateway = gateway::in_front_of(Arc::clone(&webhook)).layer(watch);
    let front = Front {
        hosts,
        refuse: Arc::new(move |uri, rejection| webhook.refuse(uri, rejection)),
    };
    let page = page.routes(Arc::clone(&front.refuse));
    let router = gateway.merge(front.guard(operations.routes().merge(page)));
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

/// What must work for the server to be ready. Without Sysdig's backend, deliveries are taken all the same, and wait.
fn parts(queue: Part, ledger: Part, backend: Option<Part>) -> Vec<Part> {
    let essential = [Part::configuration(), queue, ledger];
    let backend = backend.map(Part::dispensable);
    essential.into_iter().chain(backend).collect()
}

impl Server {
    /// Takes no more, finishes or releases what is in flight, and ends.
    pub(crate) async fn stop(&mut self) {
        self.stopping.intake.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.stopping.endpoint.cancel();
        let _ = tokio::time::timeout(DRAIN, &mut self.endpoint).await;
        self.ledger.last_try().await;
    }

    /// Ends at once. What is in flight is scanned after the next start.
    pub(crate) fn abandon(mut self) {
        self.tasks.abort_all();
        cli::end_all_runs();
    }
}
