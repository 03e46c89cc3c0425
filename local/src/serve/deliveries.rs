//! The latest deliveries and their answers, for the local page.
//!
//! **Invariant**: it keeps only the name of a configured source from a request, and only what the sender also received from an
//! answer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use scanhook_core::source::SourceName;
use scanhook_worker::clock::Clock;
use serde_json::Value;

/// The limit of each list. Two lists, so that a flood of refused deliveries doesn't push out the accepted ones.
const KEPT: usize = 50;

#[derive(Debug, Clone)]
pub(crate) struct Delivered {
    pub(crate) at: Timestamp,
    /// `None` for an unknown source.
    pub(crate) source: Option<SourceName>,
    pub(crate) status: u16,
    /// In words: what was queued or skipped, or why it was refused.
    pub(crate) outcome: String,
}

#[derive(Default)]
struct Latest {
    accepted: VecDeque<Delivered>,
    refused: VecDeque<Delivered>,
}

/// The latest deliveries of this process.
#[derive(Clone)]
pub(crate) struct Deliveries {
    sources: Arc<Vec<SourceName>>,
    latest: Arc<Mutex<Latest>>,
}

impl Deliveries {
    pub(crate) fn of(sources: impl Iterator<Item = SourceName>) -> Self {
        Self {
            sources: Arc::new(sources.collect()),
            latest: Arc::default(),
        }
    }

    /// The latest accepted and refused deliveries, newest first.
    pub(crate) fn latest(&self) -> Vec<Delivered> {
        let latest = self.lock();
        let mut all: Vec<_> = latest
            .accepted
            .iter()
            .chain(&latest.refused)
            .cloned()
            .collect();
        all.sort_by_key(|it| std::cmp::Reverse(it.at));
        all
    }

    /// Passes a request on. If it is a delivery, records its answer.
    pub(crate) async fn watch(self, request: Request, next: Next) -> Response {
        let path = request.uri().path().strip_prefix("/webhooks/");
        let name = path.map(|it| it.split('/').next().unwrap_or_default());
        let Some(name) = name.filter(|_| request.method() == http::Method::POST) else {
            return next.run(request).await;
        };
        let source = self.sources.iter().find(|it| it.as_str() == name).cloned();
        let (head, body) = next.run(request).await.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return Response::from_parts(head, Body::empty()),
        };
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        let delivered = Delivered {
            at: Clock::System.now(),
            source,
            status: head.status.as_u16(),
            outcome: outcome(&answer),
        };
        let mut latest = self.lock();
        let list = if head.status.is_success() {
            &mut latest.accepted
        } else {
            &mut latest.refused
        };
        list.push_front(delivered);
        list.truncate(KEPT);
        drop(latest);
        Response::from_parts(head, Body::from(body))
    }

    fn lock(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Summarises an answer: `2 queued, 1 skipped (filtered_tag)`, or the title of the problem.
fn outcome(answer: &Value) -> String {
    if let Some(title) = answer.get("title").and_then(Value::as_str) {
        return title.to_owned();
    }
    let list = |name: &str| answer.get(name).and_then(Value::as_array).cloned();
    let (queued, skipped) = (
        list("queued").unwrap_or_default(),
        list("skipped").unwrap_or_default(),
    );
    let mut reasons = BTreeMap::<String, usize>::new();
    for skip in &skipped {
        let reason = skip.get("reason").and_then(Value::as_str);
        *reasons
            .entry(reason.unwrap_or_default().to_owned())
            .or_default() += 1;
    }
    let reasons = reasons
        .into_iter()
        .map(|(reason, count)| format!("{count} {reason}"));
    let mut words = Vec::new();
    if !queued.is_empty() {
        words.push(format!("{} queued", queued.len()));
    }
    if !skipped.is_empty() {
        let reasons = reasons.collect::<Vec<_>>().join(", ");
        words.push(format!("{} skipped ({reasons})", skipped.len()));
    }
    if words.is_empty() {
        words.push("nothing to do".to_owned());
    }
    words.join(", ")
}
