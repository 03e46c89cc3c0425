//! `scanhook serve`: webhook, queue, event source mapping and scanner in one process.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use aws_credential_types::Credentials;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::{BehaviorVersion, Region};
use aws_sdk_sqs::types::QueueAttributeName;
use axum::Router;
use axum::routing::get;
use http::StatusCode;
use scanhook_core::message::QueueMessage;
use scanhook_core::record::{ScanRecord, State};
use scanhook_emulator::clock::Clock;
use scanhook_emulator::mapping::{self, HandlerError, Invocation, Mapping};
use scanhook_emulator::sqs::{self, Peeked, Store};
use scanhook_scanner::batch::{self, MARGIN, Scanner};
use scanhook_scanner::cli::{self, Cli, Slots};
use scanhook_scanner::config::{ScannerSettings, find_program, inherited};
use scanhook_scanner::queue;
use scanhook_settings::Environment;
use scanhook_settings::config::Config;
use scanhook_settings::location::{LoadError, Location};
use scanhook_webhook::queue::Queue;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::ServeArgs;
use crate::data_dir::DataDir;
use crate::faults::Plan;
use crate::ledger::SqliteLedger;
use crate::{Outcome, gateway, listener, output, unusable};

/// The embedded queue's name.
const QUEUE: &str = "scanhook";

/// Its dead-letter queue's name.
pub(crate) const DEAD_LETTERS: &str = "scanhook-dlq";

/// How long requests and scans that have begun may go on after the signal to stop. With the last receive and what it takes
/// to end processes it stays below the ten seconds that `docker stop` gives.
const DRAIN: Duration = Duration::from_secs(7);

/// `timeout` and some supervisors send a signal to the process and to its group: what comes within this time is the same.
const ONE_SIGNAL: Duration = Duration::from_secs(1);

/// What a scan needs of an invocation beside the CLI's own time: killing, reaping, recording, answering.
const INVOCATION_MARGIN: Duration = Duration::from_mins(1);

/// How long one receive waits for a message. Receives end with the server, so this bounds its end too.
const RECEIVE_WAIT: Duration = Duration::from_secs(1);

/// What to serve, and where.
pub(crate) struct Options {
    pub(crate) config: Config,
    pub(crate) environment: Environment,
    pub(crate) listen: SocketAddr,
    pub(crate) sqs_listen: SocketAddr,
    pub(crate) data_dir: PathBuf,
    /// An SQS queue outside; else the embedded one.
    pub(crate) queue_url: Option<String>,
    /// The CLI; none to scan nothing.
    pub(crate) scanner_cli: Option<PathBuf>,
}

/// A server that runs.
pub(crate) struct Server {
    /// Where it takes deliveries.
    pub(crate) address: SocketAddr,
    /// Where its SQS endpoint is.
    pub(crate) sqs_address: SocketAddr,
    /// Its ledger.
    pub(crate) ledger: SqliteLedger,
    /// Its queues.
    pub(crate) store: Store,
    stopping: Stopping,
    tasks: JoinSet<()>,
    /// Held until everything else has ended.
    data_dir: DataDir,
}

/// The order of the end: first no more requests and receives, then no more endpoint for those still at work.
struct Stopping {
    intake: CancellationToken,
    endpoint: CancellationToken,
}

pub(crate) async fn command(args: ServeArgs, environment: Environment) -> anyhow::Result<Outcome> {
    let plan = Plan::new(&args.fault, args.seed).map_err(unusable)?;
    if args.queue_url.is_some() && plan.strikes_queue() {
        let advice = "the sqs-… faults strike the embedded queue, which --queue-url replaces";
        return Err(unusable(anyhow::anyhow!(advice)));
    }
    if args.no_scan && plan.strikes_scanner() {
        let advice = "the scanner-… faults strike the scanner, which --no-scan leaves out";
        return Err(unusable(anyhow::anyhow!(advice)));
    }
    let config = load_config(&args.config)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let options = Options {
        config,
        environment,
        listen: args.listen,
        sqs_listen: args.sqs_listen,
        data_dir: args.data_dir,
        queue_url: args.queue_url,
        scanner_cli: if args.no_scan {
            None
        } else {
            Some(args.scanner_cli)
        },
    };
    let mut signals = StopSignals::open()?;
    let mut server = start_with(options, plan).await.map_err(unusable)?;
    output::notice(&format!(
        "scanhook takes deliveries at http://{}/webhooks/SOURCE\nits queue speaks SQS: AWS_ENDPOINT_URL_SQS=http://{}",
        server.address, server.sqs_address,
    ));
    let signal = signals.next().await;
    output::notice(&format!(
        "{signal}: finishing what has begun; a second signal ends it at once"
    ));
    let again = tokio::select! {
        () = server.stop() => return Ok(Outcome::Fine),
        again = StopSignals::next_after(ONE_SIGNAL) => again?,
    };
    output::notice(&format!(
        "{again}: leaving what has begun to the next start"
    ));
    server.abandon();
    Ok(Outcome::Findings)
}

/// Reads the configuration that `--config` names: a path, or a location as in `SCANHOOK_CONFIG`.
pub(crate) fn load_config(text: &str) -> anyhow::Result<Config> {
    let location = if text.contains(':') {
        Location::parse(text).map_err(unusable)?
    } else {
        Location::File(text.into())
    };
    location.load().map_err(|err| match &err {
        LoadError::Read { source, .. } if source.kind() == ErrorKind::NotFound => {
            let advice = "there is no configuration; write one as README.md shows, or name one with --config";
            unusable(anyhow::Error::from(err).context(advice))
        }
        _ => unusable(err),
    })
}

/// Starts everything, or nothing: an error leaves no task behind.
pub(crate) async fn start(options: Options) -> anyhow::Result<Server> {
    start_with(options, Plan::default()).await
}

/// Starts everything, with faults on purpose.
async fn start_with(options: Options, plan: Plan) -> anyhow::Result<Server> {
    let Options { environment, .. } = options;
    let config = Arc::new(options.config);
    let data_dir = DataDir::lock(&options.data_dir).await?;
    let listener = bind(options.listen, "--listen").await?;
    let sqs_listener = bind(options.sqs_listen, "--sqs-listen").await?;
    let (address, sqs_address) = (listener.local_addr()?, sqs_listener.local_addr()?);
    let store =
        Store::open(&data_dir.queue(), Clock::System).context("could not open the queue")?;
    let ledger = SqliteLedger::open(&data_dir.ledger(), config.ledger_keep, Clock::System.now())?;
    let function_timeout = function_timeout(&config);
    ensure_queues(&store, &config, function_timeout).await?;
    let queues = match &options.queue_url {
        Some(url) => Queues::outside(url).await?,
        None => Queues::embedded(sqs_address),
    };
    let stopping = Stopping {
        intake: CancellationToken::new(),
        endpoint: CancellationToken::new(),
    };
    let mut tasks = JoinSet::new();
    let endpoint_stopping = stopping.endpoint.clone().cancelled_owned();
    let endpoint = sqs::serve(sqs_listener, store.clone(), plan.queue(), endpoint_stopping);
    tasks.spawn(async move {
        if let Err(err) = endpoint.await {
            tracing::error!("the SQS endpoint ended: {err}");
        }
    });
    if let Some(program) = &options.scanner_cli {
        let scanner = scanner(
            &config,
            &environment,
            &queues,
            program,
            &data_dir.scratch(),
            ledger.clone(),
        )
        .await?;
        if options.queue_url.is_none() {
            release_abandoned(&store, &ledger).await?;
        }
        let mapping = mapping(&config, &queues, function_timeout, scanner, plan)?;
        tasks.spawn(mapping.run(stopping.intake.clone().cancelled_owned()));
    }
    let queue = Queue::Sqs {
        client: queues.client.clone(),
        url: queues.url.clone(),
    };
    let webhook = scanhook_webhook::config::webhook(&config, queue, &environment).await?;
    let body_limit = webhook.body_limit;
    let function = scanhook_webhook::router::router(Arc::new(webhook));
    let router = gateway::in_front_of(function, body_limit).merge(readiness(queues));
    tasks.spawn(listener::serve(
        listener,
        router,
        stopping.intake.clone(),
        DRAIN,
    ));
    Ok(Server {
        address,
        sqs_address,
        ledger,
        store,
        stopping,
        tasks,
        data_dir,
    })
}

impl Server {
    /// Takes no more, finishes or releases what is in flight, and ends.
    pub(crate) async fn stop(&mut self) {
        self.stopping.intake.cancel();
        // The endpoint is the one task that is not told yet: whoever is at work still needs it.
        while self.tasks.len() > 1 && self.tasks.join_next().await.is_some() {}
        self.stopping.endpoint.cancel();
        let _ = tokio::time::timeout(DRAIN, self.tasks.join_next()).await;
    }

    /// Ends at once. What is in flight is scanned after the next start.
    pub(crate) fn abandon(mut self) {
        self.tasks.abort_all();
        cli::end_leftovers(&self.data_dir.scratch());
    }
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener
        .with_context(|| format!("could not listen on {address}; name another address with {flag}"))
}

/// What the event source mapping allows the scanner for one invocation.
fn function_timeout(config: &Config) -> Duration {
    config
        .scanner
        .as_ref()
        .map_or(Duration::from_mins(10), |it| it.timeout)
        + INVOCATION_MARGIN
}

/// Six times the function's timeout, as AWS advises, within what SQS allows.
async fn ensure_queues(
    store: &Store,
    config: &Config,
    function_timeout: Duration,
) -> anyhow::Result<()> {
    let fortnight = Duration::from_hours(14 * 24).as_secs().to_string();
    let dead_letters = store
        .ensure_queue(DEAD_LETTERS, &[("MessageRetentionPeriod", &fortnight)])
        .await?;
    let redrive = serde_json::json!({"deadLetterTargetArn": dead_letters, "maxReceiveCount": config.retry.attempts});
    let visibility = (function_timeout * 6)
        .min(Duration::from_hours(12))
        .as_secs()
        .to_string();
    let attributes = [
        ("VisibilityTimeout", visibility.as_str()),
        ("RedrivePolicy", &redrive.to_string()),
    ];
    store.ensure_queue(QUEUE, &attributes).await?;
    Ok(())
}

/// Gives back what an earlier process was scanning when it was killed: nobody works on that any more, and it would stay
/// hidden for the rest of its invocation. What waits for its next attempt goes on waiting.
async fn release_abandoned(store: &Store, ledger: &SqliteLedger) -> anyhow::Result<()> {
    let ledger = ledger.clone();
    let is_abandoned = move |message: &Peeked| {
        let scan_id = QueueMessage::parse(&message.body).map(|it| it.scan_id);
        let records = scan_id.map(|it| ledger.find(it.as_str()).unwrap_or_default());
        let is_waiting = |it: &ScanRecord| {
            it.state == State::Retrying && u64::from(it.attempts) == message.receive_count
        };
        !records.is_ok_and(|it| it.iter().any(is_waiting))
    };
    let released = store.release(QUEUE, Box::new(is_abandoned)).await?;
    if released > 0 {
        tracing::info!(
            released,
            "{released} scans that an earlier process had begun begin again"
        );
    }
    Ok(())
}

/// The queue that messages go through, and where those end that can't be scanned.
struct Queues {
    client: Client,
    url: String,
    arn: String,
    dead_letter_url: String,
}

impl Queues {
    fn embedded(address: SocketAddr) -> Self {
        let base = format!("http://{address}");
        Self {
            client: embedded_client(&base),
            url: sqs::queue_url(&base, QUEUE),
            arn: sqs::queue_arn(sqs::REGION, QUEUE),
            dead_letter_url: sqs::queue_url(&base, DEAD_LETTERS),
        }
    }

    /// Asks the queue for its ARN and its dead-letter queue.
    async fn outside(url: &str) -> anyhow::Result<Self> {
        let client = Client::new(
            &scanhook_settings::aws::sdk_config(scanhook_scanner::queue::ATTEMPT).await,
        );
        let names = [
            QueueAttributeName::QueueArn,
            QueueAttributeName::RedrivePolicy,
        ];
        let call = client
            .get_queue_attributes()
            .queue_url(url)
            .set_attribute_names(Some(names.to_vec()));
        let output = call
            .send()
            .await
            .with_context(|| format!("could not read the attributes of the queue {url}"))?;
        let attribute = |name| {
            output
                .attributes()
                .and_then(|it| it.get(&name))
                .context("the queue tells no ARN or no redrive policy")
        };
        let redrive: serde_json::Value =
            serde_json::from_str(attribute(QueueAttributeName::RedrivePolicy)?)?;
        let dead_letters = redrive
            .get("deadLetterTargetArn")
            .and_then(serde_json::Value::as_str);
        let name = dead_letters
            .and_then(|it| it.rsplit(':').next())
            .context("the queue's redrive policy names no queue")?;
        let arn = attribute(QueueAttributeName::QueueArn)?.clone();
        let dead_letter_url = client
            .get_queue_url()
            .queue_name(name)
            .send()
            .await
            .context("could not find the dead-letter queue")?;
        let dead_letter_url = dead_letter_url
            .queue_url()
            .context("the dead-letter queue has no URL")?
            .to_owned();
        Ok(Self {
            client,
            url: url.to_owned(),
            arn,
            dead_letter_url,
        })
    }
}

/// The program that `--scanner-cli` names: a bare name is looked for in `PATH`; a link stays one, its name counts.
fn cli_program(named: &Path, environment: &Environment) -> anyhow::Result<PathBuf> {
    let advice = "name the Sysdig CLI with --scanner-cli, or start with --no-scan";
    let program = if named.components().count() == 1 {
        find_program(named, environment).context(advice)?
    } else {
        std::path::absolute(named).context(advice)?
    };
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
async fn scanner(
    config: &Arc<Config>,
    environment: &Environment,
    queues: &Queues,
    program: &Path,
    scratch: &Path,
    ledger: SqliteLedger,
) -> anyhow::Result<Arc<Scanner<SqliteLedger>>> {
    let program = cli_program(program, environment)?;
    let settings = ScannerSettings::load(environment, Arc::clone(config)).await?;
    let concurrency = config.scanner.as_ref().map_or(1, |it| it.concurrency);
    let queue = queue::Queue::open(
        queues.client.clone(),
        queues.url.clone(),
        queues.dead_letter_url.clone(),
        config.retry.attempts,
    );
    // A run that a killed server left behind would hold on to its database and its image.
    cli::end_leftovers(scratch);
    Ok(Arc::new(Scanner {
        settings,
        queue: queue.await?,
        ledger,
        cli: Cli {
            program,
            inherited: inherited(environment),
        },
        slots: Slots::open(scratch, concurrency)?,
        margin: MARGIN,
        now: Arc::new(|| Clock::System.now()),
    }))
}

/// One record to an invocation, so that a crash has no innocent neighbours.
fn mapping(
    config: &Config,
    queues: &Queues,
    function_timeout: Duration,
    scanner: Arc<Scanner<SqliteLedger>>,
    plan: Plan,
) -> anyhow::Result<Mapping<impl Fn(Invocation) -> Handled + Send + Sync + 'static>> {
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
        drain: DRAIN,
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
type Handled = Pin<Box<dyn Future<Output = Result<serde_json::Value, HandlerError>> + Send>>;

/// A client of the embedded endpoint, which takes any credentials.
fn embedded_client(base: &str) -> Client {
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(sqs::REGION))
        .credentials_provider(Credentials::new(
            "embedded", "embedded", None, None, "embedded",
        ))
        .endpoint_url(base)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Client::from_conf(config)
}

/// The routes that only a server of its own has.
fn readiness(queues: Queues) -> Router {
    let probe = move || {
        let call = queues
            .client
            .get_queue_attributes()
            .queue_url(&queues.url)
            .send();
        async move {
            match tokio::time::timeout(Duration::from_secs(2), call).await {
                Ok(Ok(_)) => (StatusCode::OK, "ready"),
                _ => (StatusCode::SERVICE_UNAVAILABLE, "the queue does not answer"),
            }
        }
    };
    Router::new().route("/readyz", get(probe))
}

/// The signals that ask the process to end.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// From now on these signals do not end the process by themselves.
    pub(crate) fn open() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("could not listen for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("could not listen for SIGTERM")?,
        })
    }

    /// Waits for the next one, and tells its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// Waits for the first one that comes after `pause`, and tells its name.
    async fn next_after(pause: Duration) -> anyhow::Result<&'static str> {
        tokio::time::sleep(pause).await;
        Ok(Self::open()?.next().await)
    }
}
