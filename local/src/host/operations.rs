//! The routes for operators: `/readyz` and `/metrics`.
//!
//! **Invariant**: the answers contain only words of closed sets, and no secret, payload or error text, because strangers may reach
//! them.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use axum::Router;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::future::join_all;
use http::{StatusCode, header};
use metrics::{counter, gauge};
use scanhook_config::config::Config;
use scanhook_emulator::cause::Cause;
use scanhook_emulator::sqs::Store;
use scanhook_scanner::dynamodb::DynamoDbLedger;
use scanhook_scanner::ledger::Ledger as _;
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::breaker::Breaker;
use super::data_dir::DataDir;
use super::metrics::{begin_at_zero, prometheus};
use super::queues::{QUEUE, Queues};
use crate::ledger::SqliteLedger;
use crate::problem::Problem;

/// How long an answer is cached, so that frequent requests don't load the parts.
const KEPT: Duration = Duration::from_secs(5);

/// The timeout for a part's check.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often to check the parts and compact the metrics if nobody asks.
const UPKEEP: Duration = Duration::from_secs(30);

/// A part of readiness.
pub(crate) struct Part {
    /// Its name in `/readyz` and in metrics.
    name: &'static str,
    check: Check,
    /// Whether the server is unready without it.
    is_essential: bool,
}

/// The result of a part's check.
#[derive(Debug, Clone)]
enum Health {
    Works,
    /// Not known yet; this doesn't make the server unready.
    Unknown,
    Fails(Problem),
}

impl Health {
    fn of(checked: Result<(), Problem>) -> Self {
        checked.map_or_else(Self::Fails, |()| Self::Works)
    }

    /// The word in `/readyz`.
    fn as_str(&self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Unknown => "unknown",
            Self::Fails(_) => "fails",
        }
    }

    fn cause(&self) -> Option<Cause> {
        match self {
            Self::Fails(problem) => Some(problem.cause),
            Self::Works | Self::Unknown => None,
        }
    }
}

type Check = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Health> + Send>> + Send + Sync>;

impl Part {
    fn new<F>(name: &'static str, check: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Health> + Send + 'static,
    {
        Self {
            name,
            check: Box::new(move || Box::pin(check())),
            is_essential: true,
        }
    }

    /// Always works: the configuration was checked before the start.
    pub(crate) fn configuration() -> Self {
        Self::new("configuration", || async { Health::Works })
    }

    /// Makes readiness independent of this part.
    pub(crate) fn dispensable(self) -> Self {
        Self {
            is_essential: false,
            ..self
        }
    }

    /// Whether Sysdig's backend is up; unknown until it has answered this process.
    pub(crate) fn backend(breaker: &Arc<Breaker>) -> Self {
        let breaker = Arc::clone(breaker);
        Self::new("sysdig", move || {
            let is_admitted = *breaker.admission().borrow();
            let health = if !breaker.is_known() {
                Health::Unknown
            } else if is_admitted {
                Health::Works
            } else {
                Health::Fails(Problem::unavailable(anyhow::anyhow!(
                    "Sysdig's backend is down"
                )))
            };
            async { health }
        })
    }

    /// Whether the ledger's file is writable.
    pub(crate) fn ledger(ledger: &SqliteLedger, data_dir: &DataDir) -> Self {
        let (ledger, directory) = (ledger.clone(), data_dir.path().to_owned());
        Self::new("ledger", move || {
            let (ledger, directory) = (ledger.clone(), directory.clone());
            async move { Health::of(seen_in(&directory, ledger.probe().await)) }
        })
    }

    /// Whether the ledger's table answers.
    pub(crate) fn table(ledger: &DynamoDbLedger) -> Self {
        let ledger = ledger.clone();
        Self::new("ledger", move || {
            let ledger = ledger.clone();
            async move {
                let answer = ledger.ping().await.unwrap_or(Ok(()));
                Health::of(answer.map_err(Problem::unavailable))
            }
        })
    }

    /// Whether an SQS queue answers.
    pub(crate) fn queue(client: Client, url: String) -> Self {
        Self::new("queue", move || {
            let call = client.get_queue_attributes().queue_url(&url).send();
            async { Health::of(call.await.map(drop).map_err(Problem::unavailable)) }
        })
    }

    /// Whether the embedded queue exists and its file is writable.
    pub(crate) fn store(store: &Store, data_dir: &DataDir) -> Self {
        let (store, directory) = (store.clone(), data_dir.path().to_owned());
        Self::new("queue", move || {
            let (store, directory) = (store.clone(), directory.clone());
            async move {
                let probed = store.probe(QUEUE).await;
                let probed = probed.map_err(|err| Problem::new(err.cause(), err));
                Health::of(seen_in(&directory, probed))
            }
        })
    }

    /// Checks the part. A check that exceeds [`PATIENCE`] fails.
    async fn health(&self) -> Health {
        let slow = || {
            let problem = anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs());
            Health::Fails(Problem::unavailable(problem))
        };
        timeout(PATIENCE, (self.check)())
            .await
            .unwrap_or_else(|_| slow())
    }

    /// Sets the part's gauges, and logs a change.
    fn report(&self, health: &Health, before: Option<&Health>) {
        let (part, was) = (self.name, before.and_then(Health::cause));
        gauge!("ready", "part" => part).set(match health {
            Health::Works => 1.0,
            Health::Fails(_) => 0.0,
            Health::Unknown => f64::NAN,
        });
        if was == health.cause() {
            return;
        }
        if let Some(cause) = was {
            gauge!("not_ready", "part" => part, "cause" => cause.as_str()).set(0.0);
        }
        if let Health::Fails(Problem { cause, text }) = health {
            let (word, advice) = (cause.as_str(), cause.advice());
            gauge!("not_ready", "part" => part, "cause" => word).set(1.0);
            tracing::error!(
                event = "part.fails",
                part,
                cause = word,
                error = text,
                "{part} fails: {advice}"
            );
        } else if matches!(health, Health::Works) {
            tracing::info!(event = "part.works", part, "{part} works again");
        }
    }
}

fn seen_in(directory: &Path, checked: Result<(), Problem>) -> Result<(), Problem> {
    checked.map_err(|it| Problem {
        cause: it.cause.seen_in(directory),
        ..it
    })
}

/// The source of queue depths.
#[derive(Clone)]
pub(crate) enum Depths {
    /// The embedded store, and the names of its queues.
    Embedded(Store, [&'static str; 2]),
    /// SQS, and the URLs of the queue and the dead-letter queue.
    Sqs(Client, [String; 2]),
}

impl Depths {
    pub(crate) fn sqs(queues: &Queues) -> Self {
        let urls = [queues.url.clone(), queues.dead_letter_url.clone()];
        Self::Sqs(queues.client.clone(), urls)
    }

    /// Sets the gauges. A depth that can't be read becomes NaN, so that no stale value remains.
    async fn measure(&self) {
        match self {
            Self::Embedded(store, names) => {
                for name in names {
                    let measured = timeout(PATIENCE, store.depth(name)).await;
                    let depth = measured.ok().and_then(Result::ok);
                    let [waiting, in_flight, age] = depth.map_or([f64::NAN; 3], |it| {
                        let age = it.oldest_age.unwrap_or_default().as_secs_f64();
                        [float(it.visible + it.delayed), float(it.in_flight), age]
                    });
                    set_depth(name, waiting, in_flight);
                    gauge!("queue_oldest_age_seconds", "queue" => *name).set(age);
                }
            }
            Self::Sqs(client, urls) => {
                for url in urls {
                    let [waiting, in_flight] = counts(client, url).await.unwrap_or([f64::NAN; 2]);
                    set_depth(queue_name(url), waiting, in_flight);
                }
            }
        }
    }
}

fn set_depth(queue: &str, waiting: f64, in_flight: f64) {
    gauge!("queue_depth", "queue" => queue.to_owned()).set(waiting);
    gauge!("queue_in_flight", "queue" => queue.to_owned()).set(in_flight);
}

/// The last part of a queue's URL.
fn queue_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// SQS's counts of waiting messages and of messages in flight.
async fn counts(client: &Client, url: &str) -> Option<[f64; 2]> {
    const NAMES: [QueueAttributeName; 3] = [
        QueueAttributeName::ApproximateNumberOfMessages,
        QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
    ];
    let call = client
        .get_queue_attributes()
        .queue_url(url)
        .set_attribute_names(Some(NAMES.to_vec()))
        .send();
    let output = timeout(PATIENCE, call).await.ok()?.ok()?;
    let number = |name| -> Option<u64> { output.attributes()?.get(&name)?.parse().ok() };
    let [visible, delayed, in_flight] = NAMES.map(number);
    Some([float(visible? + delayed?), float(in_flight?)])
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 messages")]
fn float(number: u64) -> f64 {
    number as f64
}

/// The state of `/readyz` and `/metrics`.
pub(crate) struct Operations {
    parts: Vec<Part>,
    depths: Depths,
    /// The last result of each part, and its time.
    checked: Mutex<Option<(Instant, Arc<Vec<Health>>)>>,
    measured: Mutex<Option<Instant>>,
}

impl Operations {
    /// Also starts the counters of the sources in `config` at 0.
    pub(crate) fn new(config: &Config, parts: Vec<Part>, depths: Depths) -> Arc<Self> {
        prometheus();
        begin_at_zero(config.sources.keys());
        if let Depths::Embedded(_, names) = &depths {
            for name in names {
                counter!("messages_expired", "queue" => *name).increment(0);
            }
        }
        Arc::new(Self {
            parts,
            depths,
            checked: Mutex::default(),
            measured: Mutex::default(),
        })
    }

    pub(crate) fn routes(self: &Arc<Self>) -> Router {
        let (readyz, metrics) = (Arc::clone(self), Arc::clone(self));
        Router::new()
            .route("/readyz", get(async move || readyz.readyz().await))
            .route("/metrics", get(async move || metrics.metrics().await))
    }

    /// Periodically compacts the metrics and checks the parts, so that the log shows a failure even if nobody asks; until `stopping`.
    pub(crate) fn upkeep(
        self: &Arc<Self>,
        stopping: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let operations = Arc::clone(self);
        async move {
            while stopping.run_until_cancelled(sleep(UPKEEP)).await.is_some() {
                prometheus().run_upkeep();
                operations.parts().await;
            }
        }
    }

    async fn parts(&self) -> Arc<Vec<Health>> {
        let mut checked = self.checked.lock().await;
        match &*checked {
            Some((at, parts)) if at.elapsed() < KEPT => Arc::clone(parts),
            before => {
                let parts = Arc::new(join_all(self.parts.iter().map(Part::health)).await);
                for (index, (part, health)) in self.parts.iter().zip(&*parts).enumerate() {
                    let previous = before.as_ref().and_then(|it| it.1.get(index));
                    part.report(health, previous);
                }
                *checked = Some((Instant::now(), Arc::clone(&parts)));
                parts
            }
        }
    }

    async fn readyz(&self) -> Response {
        let health = self.parts().await;
        let parts = || self.parts.iter().zip(health.iter());
        let words: Map<String, Value> = parts()
            .map(|(part, health)| (part.name.to_owned(), health.as_str().into()))
            .collect();
        let causes: Map<String, Value> = parts()
            .filter_map(|(part, health)| {
                Some((part.name.to_owned(), health.cause()?.as_str().into()))
            })
            .collect();
        let is_ready = parts().all(|(part, it)| it.cause().is_none() || !part.is_essential);
        let status = if is_ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let mut body = serde_json::json!({"ready": is_ready, "parts": words});
        if let (false, Some(body)) = (causes.is_empty(), body.as_object_mut()) {
            body.insert("causes".to_owned(), causes.into());
        }
        let json = [(header::CONTENT_TYPE, "application/json")];
        let mut response = (status, json, body.to_string()).into_response();
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, NO_STORE);
        response
    }

    async fn metrics(&self) -> Response {
        self.parts().await;
        let mut measured = self.measured.lock().await;
        if measured.is_none_or(|it| it.elapsed() >= KEPT) {
            self.depths.measure().await;
            *measured = Some(Instant::now());
        }
        drop(measured);
        // The format's name and version. Source: Prometheus, "Exposition formats".
        let text = "text/plain; version=0.0.4; charset=utf-8";
        ([(header::CONTENT_TYPE, text)], prometheus().render()).into_response()
    }
}

const NO_STORE: http::HeaderValue = http::HeaderValue::from_static("no-store");
