//! The spans that wait for a collector, and the sending of them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use metrics::counter;
use scanhook_core::trace::TraceId;
use tokio::time::{Instant, timeout_at};

use super::{Ended, Target, otlp};
use scanhook_config::http::Client;

/// Spans that wait at most. What comes on top is dropped: the newest, since of the oldest some may be on their way.
const WAITING: usize = 2048;

/// Spans of one request.
const AT_ONCE: usize = 512;

/// The longest answer that is read.
const ANSWER: usize = 64 * 1024;

/// The pause after a collector did not take a request; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub(super) struct Exporter {
    target: Target,
    client: Client,
    waiting: Mutex<VecDeque<(TraceId, Ended)>>,
    /// Held by who sends.
    outage: tokio::sync::Mutex<Option<Outage>>,
}

/// A collector that did not take the last request.
#[derive(Clone, Copy)]
struct Outage {
    pause: Duration,
    until: Instant,
}

/// Why a request was not taken.
enum Failure {
    /// It may be taken later.
    Passing(String),
    /// It never will.
    Final(String),
}

impl Exporter {
    pub(super) fn new(target: Target) -> Self {
        Self {
            target,
            client: Client::default(),
            waiting: Mutex::default(),
            outage: tokio::sync::Mutex::default(),
        }
    }

    /// Has spans wait until they are sent.
    pub(super) fn push(&self, trace_id: TraceId, spans: Vec<Ended>) {
        let mut waiting = self.waiting();
        let room = WAITING - waiting.len();
        let surplus = spans.len().saturating_sub(room);
        waiting.extend(spans.into_iter().take(room).map(|it| (trace_id, it)));
        drop(waiting);
        dropped(surplus);
    }

    /// Sends what waits, in `limit` at most; nothing while an outage lasts.
    pub(super) async fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let Ok(mut outage) = timeout_at(deadline, self.outage.lock()).await else {
            return;
        };
        loop {
            let now = Instant::now();
            if now >= deadline || outage.is_some_and(|it| now < it.until) {
                return;
            }
            // They stay where they are until they are taken, so that who is cancelled here loses none.
            let (body, count) = {
                let waiting = self.waiting();
                let spans = waiting.iter().take(AT_ONCE);
                let count = spans.len();
                let spans = spans.map(|(trace_id, span)| (*trace_id, span));
                (otlp::request(&self.target.resource, spans), count)
            };
            if count == 0 {
                return;
            }
            match self.send(body.to_string(), deadline - now).await {
                Ok(()) => {
                    self.waiting().drain(..count);
                    if outage.take().is_some() {
                        tracing::info!(event = "traces.sent", "the collector takes traces again");
                    }
                }
                Err(Failure::Final(problem)) => {
                    self.waiting().drain(..count);
                    dropped(count);
                    *outage = Some(begin(*outage, &problem));
                }
                Err(Failure::Passing(problem)) => *outage = Some(begin(*outage, &problem)),
            }
        }
    }

    async fn send(&self, body: String, limit: Duration) -> Result<(), Failure> {
        let mut request = Request::new(Bytes::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.url.clone();
        let json = http::HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        request.headers_mut().extend(self.target.headers.clone());
        let answer = self.client.send(request, limit, ANSWER).await;
        let status = match answer {
            Ok(answer) => answer.status(),
            Err(err) => return Err(Failure::Passing(err.to_string())),
        };
        // Source: OpenTelemetry protocol specification, "Failures" and "Retryable response codes".
        match status.as_u16() {
            200..=299 => Ok(()),
            429 | 502..=504 => Err(Failure::Passing(format!("it answers {status}"))),
            _ => Err(Failure::Final(format!("it answers {status}"))),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(TraceId, Ended)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says once that an outage has begun, and how long it lasts at least.
fn begin(outage: Option<Outage>, problem: &str) -> Outage {
    if outage.is_none() {
        tracing::warn!(
            event = "traces.unsent",
            "the collector does not take traces, which is tried again: {problem}"
        );
    }
    let pause = outage.map_or(FIRST_PAUSE, |it| (it.pause * 2).min(LONGEST_PAUSE));
    Outage {
        pause,
        until: Instant::now() + pause,
    }
}

fn dropped(spans: usize) {
    if spans > 0 {
        counter!("trace_spans_dropped").increment(spans as u64);
    }
}

#[cfg(test)]
mod tests {
    use metrics::with_local_recorder;

    use super::*;
    use crate::metrics::EmbeddedFormat;
    use crate::traces::{new_context, new_span_id};

    #[test]
    fn what_no_collector_takes_is_dropped_beyond_a_bound_and_counted() {
        let target = Target {
            url: "http://127.0.0.1:9/v1/traces".parse().unwrap(),
            headers: Vec::new(),
            resource: Vec::new(),
        };
        let exporter = Exporter::new(target);
        let span = || Ended {
            id: new_span_id(),
            parent: None,
            name: "delivery",
            began_at: jiff::Timestamp::UNIX_EPOCH,
            took: Duration::ZERO,
            fields: crate::fields::Fields::default(),
        };
        let recorder = EmbeddedFormat::default();
        with_local_recorder(&recorder, || {
            for _ in 0..1000 {
                let spans = std::iter::repeat_with(span).take(3).collect();
                exporter.push(new_context().trace_id, spans);
            }
        });
        assert_eq!(exporter.waiting().len(), WAITING);
        let told = recorder.take(0);
        assert!(told.contains(r#""trace_spans_dropped":952"#), "{told}");
    }
}
