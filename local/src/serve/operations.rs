//! The routes for those who operate a server: whether it is ready, and its figures.
//!
//! **Invariant**: what they answer holds no secret, no payload and no text of an error: strangers may reach them.

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
use metrics::gauge;
use scanhook_emulator::sqs::Store;
use scanhook_scanner::dynamodb::DynamoDbLedger;
use scanhook_settings::config::Config;
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::queues::Queues;
use crate::breaker::Breaker;
use crate::ledger::SqliteLedger;
use crate::metrics::{begin_at_zero, prometheus};

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
    /// Tells whether it works.
    check: Check,
    /// Whether nothing is ready without it.
    is_essential: bool,
}

type Check = Box<dyn Fn() -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

impl Part {
    fn new<F>(name: &'static str, check: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = bool> + Send + 'static,
    {
        Self {
            name,
            check: Box::new(move || Box::pin(check())),
            is_essential: true,
        }
    }

    /// The configuration was checked before anything began.
    pub(crate) fn configuration() -> Self {
        Self::new("configuration", || async { true })
    }

    /// The same, but readiness does not depend on it.
    pub(crate) fn dispensable(self) -> Self {
        Self {
            is_essential: false,
            ..self
        }
    }

    /// Whether scans are let through to Sysdig's backend.
    pub(crate) fn backend(breaker: &Breaker) -> Self {
        let admission = breaker.admission();
        Self::new("sysdig", move || {
            let is_admitted = *admission.borrow();
            async move { is_admitted }
        })
    }

    /// Whether the ledger's file can be written.
    pub(crate) fn ledger(ledger: &SqliteLedger) -> Self {
        let ledger = ledger.clone();
        Self::new("ledger", move || {
            let ledger = ledger.clone();
            async move { ledger.can_write().await }
        })
    }

    /// Whether the ledger's table answers.
    pub(crate) fn table(ledger: &DynamoDbLedger) -> Self {
        let ledger = ledger.clone();
        Self::new("ledger", move || {
            let ledger = ledger.clone();
            async move { ledger.ping().await.is_ok() }
        })
    }

    /// Whether the queue answers.
    pub(crate) fn queue(client: Client, url: String) -> Self {
        Self::new("queue", move || {
            let call = client.get_queue_attributes().queue_url(&url).send();
            async { call.await.is_ok() }
        })
    }
}

/// Where the depths of queues are to be had.
#[derive(Clone)]
pub(crate) enum Depths {
    /// From the embedded store, for the queues of these names.
    Embedded(Store, [&'static str; 2]),
    /// From SQS: the queue's and the dead-letter queue's URL.
    Outside(Client, [String; 2]),
}

impl Depths {
    pub(crate) fn outside(queues: &Queues) -> Self {
        let urls = [queues.url.clone(), queues.dead_letter_url.clone()];
        Self::Outside(queues.client.clone(), urls)
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
            Self::Outside(client, urls) => {
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
    /// Whether each part worked when it was last asked.
    told: Mutex<Option<(Instant, Arc<Vec<bool>>)>>,
    measured: Mutex<Option<Instant>>,
}

impl Operations {
    /// The figures of `config`'s sources begin with this.
    pub(crate) fn new(config: &Config, parts: Vec<Part>, depths: Depths) -> Arc<Self> {
        prometheus();
        begin_at_zero(config.sources.keys());
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

    /// Sums up what was measured from time to time, until `stopping`.
    pub(crate) async fn upkeep(stopping: CancellationToken) {
        while stopping.run_until_cancelled(sleep(UPKEEP)).await.is_some() {
            prometheus().run_upkeep();
        }
    }

    async fn parts(&self) -> Arc<Vec<bool>> {
        let mut told = self.told.lock().await;
        match &*told {
            Some((at, parts)) if at.elapsed() < KEPT => Arc::clone(parts),
            _ => {
                let checks = self.parts.iter().map(|it| timeout(PATIENCE, (it.check)()));
                let parts: Vec<bool> = join_all(checks)
                    .await
                    .into_iter()
                    .map(|it| it.unwrap_or(false))
                    .collect();
                for (part, works) in self.parts.iter().zip(&parts) {
                    gauge!("ready", "part" => part.name).set(f64::from(u8::from(*works)));
                }
                let parts = Arc::new(parts);
                *told = Some((Instant::now(), Arc::clone(&parts)));
                parts
            }
        }
    }

    async fn readyz(&self) -> Response {
        let works = self.parts().await;
        let parts = self.parts.iter().zip(works.iter());
        let parts: Map<String, Value> = parts
            .map(|(part, works)| {
                let word = if *works { "works" } else { "fails" };
                (part.name.to_owned(), word.into())
            })
            .collect();
        let mut essential = self.parts.iter().zip(works.iter());
        let is_ready = essential.all(|(part, works)| *works || !part.is_essential);
        let status = if is_ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let body = serde_json::json!({"ready": is_ready, "parts": parts}).to_string();
        let mut response =
            (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
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
