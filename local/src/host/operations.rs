//! The routes for those who operate a server: whether it is ready, and its figures.
//!
//! **Invariant**: what they answer holds no secret, no payload and no text of an error, only words of closed sets: strangers may reach them.

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

/// How long an answer is kept, so that nobody makes work for the parts by asking often.
const KEPT: Duration = Duration::from_secs(5);

/// How long a part has to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often what was measured is summed up when nobody reads it.
const UPKEEP: Duration = Duration::from_secs(30);

/// Something without which there is no work.
pub(crate) struct Part {
    /// Its name, in `/readyz` and in metrics.
    name: &'static str,
    check: Check,
    /// Whether nothing is ready without it.
    is_essential: bool,
}

/// How a part is.
#[derive(Debug, Clone)]
enum Health {
    Works,
    /// Nothing has shown yet whether it works; nobody is turned away for that.
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

    /// The configuration was checked before anything began.
    pub(crate) fn configuration() -> Self {
        Self::new("configuration", || async { Health::Works })
    }

    /// The same, but readiness does not depend on it.
    pub(crate) fn dispensable(self) -> Self {
        Self {
            is_essential: false,
            ..self
        }
    }

    /// Whether scans are let through to Sysdig's backend; unknown until it has answered this process.
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

    /// Whether the ledger's file takes a write.
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

    /// Whether a queue of SQS answers.
    pub(crate) fn queue(client: Client, url: String) -> Self {
        Self::new("queue", move || {
            let call = client.get_queue_attributes().queue_url(&url).send();
            async { Health::of(call.await.map(drop).map_err(Problem::unavailable)) }
        })
    }

    /// Whether the embedded queue is there, and its file takes a write.
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

    /// Tells how it is; what does not answer in time fails.
    async fn health(&self) -> Health {
        let slow = || {
            let problem = anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs());
            Health::Fails(Problem::unavailable(problem))
        };
        timeout(PATIENCE, (self.check)())
            .await
            .unwrap_or_else(|_| slow())
    }

    /// Tells the log and the figures how it is, given how it was.
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

/// Where the depths of queues are to be had.
#[derive(Clone)]
pub(crate) enum Depths {
    /// From the embedded store, for the queues of these names.
    Embedded(Store, [&'static str; 2]),
    /// From SQS: the queue's and the dead-letter queue's URL.
    RegistryDeps(Client, [String; 2]),
}

impl Depths {
    pub(crate) fn outside(queues: &Queues) -> Self {
        let urls = [queues.url.clone(), queues.dead_letter_url.clone()];
        Self::RegistryDeps(queues.client.clone(), urls)
    }

    /// Sets the gauges; to NaN what can't be told now, so that no old figure passes for a new one.
    async fn measure(&self) {
        match self {
            Self::Embedded(store, names) => {
                for name in names {
                    let depth = timeout(PATIENCE, store.depth(name)).await;
                    let depth = depth.ok().and_then(Result::ok);
                    let [waiting, in_flight, age] = depth.map_or([f64::NAN; 3], |it| {
                        let age = it.oldest_age.unwrap_or_default().as_secs_f64();
                        [float(it.visible + it.delayed), float(it.in_flight), age]
                    });
                    tell(name, waiting, in_flight);
                    gauge!("queue_oldest_age_seconds", "queue" => *name).set(age);
                }
            }
            Self::RegistryDeps(client, urls) => {
                for url in urls {
                    let [waiting, in_flight] = counts(client, url).await.unwrap_or([f64::NAN; 2]);
                    tell(queue_name(url), waiting, in_flight);
                }
            }
        }
    }
}

fn tell(queue: &str, waiting: f64, in_flight: f64) {
    gauge!("queue_depth", "queue" => queue.to_owned()).set(waiting);
    gauge!("queue_in_flight", "queue" => queue.to_owned()).set(in_flight);
}

/// The last part of a queue's URL.
fn queue_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// How many messages SQS says that wait, and how many are in flight.
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

/// What `/readyz` and `/metrics` know.
pub(crate) struct Operations {
    parts: Vec<Part>,
    depths: Depths,
    /// How each part was when it was last asked.
    told: Mutex<Option<(Instant, Arc<Vec<Health>>)>>,
    measured: Mutex<Option<Instant>>,
}

impl Operations {
    /// The figures of `config`'s sources begin with this.
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
            told: Mutex::default(),
            measured: Mutex::default(),
        })
    }

    /// `/readyz` and `/metrics`.
    pub(crate) fn routes(self: &Arc<Self>) -> Router {
        let (readyz, metrics) = (Arc::clone(self), Arc::clone(self));
        Router::new()
            .route("/readyz", get(async move || readyz.readyz().await))
            .route("/metrics", get(async move || metrics.metrics().await))
    }

    /// From time to time, until `stopping`: sums up what was measured, and looks at each part, so that the log names one that fails
    /// though nobody asks.
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
        let mut told = self.told.lock().await;
        match &*told {
            Some((at, parts)) if at.elapsed() < KEPT => Arc::clone(parts),
            before => {
                let parts = Arc::new(join_all(self.parts.iter().map(Part::health)).await);
                for (place, (part, health)) in self.parts.iter().zip(&*parts).enumerate() {
                    let before = before.as_ref().and_then(|it| it.1.get(place));
                    part.report(health, before);
                }
                *told = Some((Instant::now(), Arc::clone(&parts)));
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
