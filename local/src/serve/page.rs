//! `GET /`: what a developer wants to see at a glance. One page that only reads, without scripts and outside resources.
//!
//! **Invariant**: whatever comes from deliveries, registries or reports is escaped: nothing here calls `maud::PreEscaped`.

mod html;
mod scans;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::{HeaderName, HeaderValue, Uri, Version, header};
use jiff::Timestamp;
use maud::Markup;
use scanhook_core::history::ScanFilter;
use scanhook_core::record::{ScanRecord, State};
use scanhook_emulator::sqs::Store;
use scanhook_scanner::ledger::History as _;
use scanhook_webhook::rejection::Rejection;
use scanhook_worker::clock::Clock;
use scanhook_worker::listener::Caller;

use self::html::{Cell, Refresh, facts, head, note, plot, table};
use self::scans::{WORST, ago, columns, details, name, severities, verdict, why};
use super::deliveries::Deliveries;
use crate::host::front::Refuse;
use crate::host::queues::{DEAD_LETTERS, QUEUE};
use crate::ledger::SqliteLedger;
use crate::scans::state;

/// Dead letters that are shown, the latest.
const LETTERS: usize = 50;

/// Characters of a detail in its row.
const LINE: usize = 120;

/// The parts of the page, with their ids.
const SECTIONS: [(&str, &str); 5] = [
    (
        "plot",
        "Scans of the last 24 hours, by the worst that was found",
    ),
    ("running", "Running"),
    ("deliveries", "Deliveries"),
    ("verdicts", "Verdicts"),
    ("dead-letters", "Dead letters"),
];

const STYLE: &str = include_str!("page/page.css");

/// Records that the plot is made of, the latest.
const PLOTTED: usize = 5000;

/// What the page shows.
pub(crate) struct Page {
    pub(crate) deliveries: Deliveries,
    pub(crate) ledger: SqliteLedger,
    /// The embedded queue; `None` where another one is used.
    pub(crate) store: Option<Store>,
    /// Whether others than this machine may see it.
    pub(crate) is_open: bool,
}

impl Page {
    /// The page and its style; `refuse` answers who may not see it.
    pub(crate) fn routes(self, refuse: Refuse) -> Router {
        let page = Arc::new(self);
        let is_open = page.is_open;
        let only_for_this_machine = from_fn(move |request: Request, next: Next| {
            let refuse = Arc::clone(&refuse);
            async move {
                if is_open || is_from_this_machine(&request) {
                    next.run(request).await
                } else {
                    refuse(request.uri(), Rejection::NotFound)
                }
            }
        });
        Router::new()
            .route(
                "/",
                get(async move |uri: Uri| {
                    let refresh = match uri.query() {
                        Some("still") => Refresh::Never,
                        _ => Refresh::Often,
                    };
                    let html = page.html(refresh, Clock::System.now()).await;
                    secured("text/html; charset=utf-8", html)
                }),
            )
            .route(
                "/page.css",
                get(async || secured("text/css; charset=utf-8", STYLE.to_owned())),
            )
            .layer(only_for_this_machine)
    }

    async fn html(&self, refresh: Refresh, now: Timestamp) -> String {
        let filter = ScanFilter::default();
        let records = self.ledger.latest(&filter, PLOTTED, now).await;
        let known = records.as_deref().unwrap_or_default();
        let facts = facts(&self.facts(known, now).await);
        let body = match &records {
            Ok(records) => self.sections(records, now).await,
            Err(_) => note("The ledger does not answer."),
        };
        let body = maud::html! { (facts) (body) };
        html::page(refresh, &SECTIONS, &body)
    }

    async fn sections(&self, records: &[ScanRecord], now: Timestamp) -> Markup {
        let [
            of_plot,
            of_running,
            of_deliveries,
            of_verdicts,
            of_dead_letters,
        ] = SECTIONS;
        let dead_letters = self.dead_letters(records, now).await;
        maud::html! {
            (head(of_plot)) (plot(&WORST, &columns(records, now)))
            (head(of_running)) (running(records, now))
            (head(of_deliveries)) (self.deliveries(now))
            (head(of_verdicts)) (verdicts(records, now))
            (head(of_dead_letters)) (dead_letters)
        }
    }

    fn deliveries(&self, now: Timestamp) -> Markup {
        table(
            &["when", "source", "answer", "outcome"],
            self.deliveries.latest().into_iter().map(|it| {
                let source = it
                    .source
                    .map_or_else(|| "(no such source)".to_owned(), |it| it.to_string());
                let answer = it.status.to_string();
                [
                    Cell::Word(ago(now, it.at)),
                    Cell::Word(source),
                    Cell::Word(answer),
                    Cell::Long(it.outcome),
                ]
            }),
            "None since the start.",
        )
    }

    async fn facts(&self, records: &[ScanRecord], now: Timestamp) -> Vec<(&'static str, String)> {
        let count = |state, is_abandoned| {
            let is_counted =
                |it: &&ScanRecord| it.state == state && it.is_abandoned(now) == is_abandoned;
            records.iter().filter(is_counted).count().to_string()
        };
        let mut facts = Vec::new();
        if let Some(store) = &self.store {
            let told = |it: Option<u64>| it.map_or_else(|| "?".to_owned(), |it| it.to_string());
            let (queue, dead) = (
                store.depth(QUEUE).await.ok(),
                store.depth(DEAD_LETTERS).await.ok(),
            );
            facts.push(("waiting", told(queue.map(|it| it.visible + it.delayed))));
            facts.push((
                "in work, or waiting for a retry",
                told(queue.map(|it| it.in_flight)),
            ));
            facts.push((
                "dead letters",
                told(dead.map(|it| it.visible + it.in_flight + it.delayed)),
            ));
        }
        facts.push(("running", count(State::InProgress, false)));
        facts.push(("orphaned", count(State::InProgress, true)));
        facts.push(("to be tried again", count(State::Retrying, false)));
        facts
    }

    async fn dead_letters(&self, records: &[ScanRecord], now: Timestamp) -> Markup {
        const HEADS: [&str; 4] = ["since", "scan", "reason", "detail"];
        const NONE: &str = "None.";
        let letters = match &self.store {
            Some(store) => store.page(DEAD_LETTERS, LETTERS).await.ok(),
            None => None,
        };
        let row = |since, scan_id, reason, detail: String| {
            let surplus = detail.chars().count().saturating_sub(LINE);
            let detail = if surplus > 0 {
                // The CLI says last what went wrong.
                let end = std::iter::once('…').chain(detail.chars().skip(surplus));
                Cell::More(end.collect(), vec![("detail", detail)])
            } else {
                Cell::Long(detail)
            };
            [
                Cell::Word(ago(now, since)),
                Cell::Word(scan_id),
                Cell::Word(reason),
                detail,
            ]
        };
        if let Some(letters) = letters {
            let rows = letters.messages.iter().map(|it| {
                let attribute = |name: &str| it.attributes.get(name).cloned().unwrap_or_default();
                row(
                    it.sent_at,
                    attribute("scanhook.scan_id"),
                    attribute("scanhook.reason"),
                    attribute("scanhook.detail"),
                )
            });
            table(&HEADS, rows, NONE)
        } else {
            let dead = records.iter().filter(|it| it.state == State::DeadLetter);
            let rows = dead.map(|it| {
                row(
                    it.finished_at.unwrap_or(it.started_at),
                    it.scan_id.to_string(),
                    it.reason
                        .as_ref()
                        .map(ToString::to_string)
                        .unwrap_or_default(),
                    it.detail.clone().unwrap_or_default(),
                )
            });
            table(&HEADS, rows, NONE)
        }
    }
}

fn running(records: &[ScanRecord], now: Timestamp) -> Markup {
    let in_progress = records.iter().filter(|it| it.state == State::InProgress);
    table(
        &["since", "source", "image", "attempt", "state"],
        in_progress.map(|it| {
            let state = state(it, now);
            [
                Cell::Word(ago(now, it.started_at)),
                Cell::Word(it.source.to_string()),
                Cell::More(name(it), details(it)),
                Cell::Word(it.attempts.to_string()),
                if it.is_abandoned(now) {
                    Cell::Marked("error", state)
                } else {
                    Cell::Word(state)
                },
            ]
        }),
        "Nothing is being scanned.",
    )
}

fn verdicts(records: &[ScanRecord], now: Timestamp) -> Markup {
    let mut ended: Vec<_> = records
        .iter()
        .filter(|it| it.finished_at.is_some())
        .collect();
    ended.sort_by_key(|it| std::cmp::Reverse(it.finished_at));
    table(
        &[
            "when",
            "source",
            "image",
            "verdict",
            "why",
            "critical",
            "high",
            "medium",
            "low",
            "negligible",
        ],
        ended.into_iter().map(|it| {
            let [critical, high, medium, low, negligible] = severities(it);
            [
                Cell::Word(ago(now, it.finished_at.unwrap_or(now))),
                Cell::Word(it.source.to_string()),
                Cell::More(name(it), details(it)),
                verdict(it),
                Cell::Long(why(it)),
                critical,
                high,
                medium,
                low,
                negligible,
            ]
        }),
        "None yet.",
    )
}

fn secured(content_type: &'static str, body: String) -> Response {
    const POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let headers: [(HeaderName, HeaderValue); 5] =
        headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    (headers, body).into_response()
}

/// Not from elsewhere, and not from a proxy that others talk to: nginx says so by HTTP/1.0, if it isn't told otherwise.
fn is_from_this_machine(request: &Request) -> bool {
    let caller = request.extensions().get::<Caller>();
    let is_local = caller.is_some_and(|it| it.peer.is_loopback());
    let is_proxied = |name: &HeaderName| {
        matches!(name.as_str(), "forwarded" | "via" | "x-real-ip")
            || name.as_str().starts_with("x-forwarded-")
    };
    is_local && request.version() > Version::HTTP_10 && !request.headers().keys().any(is_proxied)
}
