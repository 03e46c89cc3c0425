//! `GET /`: what a developer wants to see at a glance. One page that only reads, without scripts and outside resources.
//!
//! **Invariant**: whatever comes from deliveries, registries or reports is escaped: [`Html`] has no other way to take text.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use jiff::Timestamp;
use scanhook_core::history::ScanFilter;
use scanhook_core::record::{ScanRecord, State};
use scanhook_emulator::clock::Clock;
use scanhook_emulator::listener::Peer;
use scanhook_emulator::sqs::Store;
use scanhook_scanner::ledger::History as _;
use scanhook_webhook::rejection::Rejection;

use super::deliveries::Deliveries;
use super::queues::{DEAD_LETTERS, QUEUE};
use crate::ledger::SqliteLedger;

/// Rows of a table.
const ROWS: usize = 50;

/// Records that the plot is made of, the latest.
const PLOTTED: usize = 5000;

/// The plot's columns, one an hour.
const HOURS: usize = 24;

const HOUR: Duration = Duration::from_hours(1);

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
    pub(crate) fn routes(self) -> Router {
        let page = Arc::new(self);
        let css = Arc::clone(&page);
        Router::new()
            .route(
                "/",
                get(async move |request: Request| {
                    let is_for = page.is_for(&request);
                    page.answer(is_for).await
                }),
            )
            .route(
                "/page.css",
                get(async move |request: Request| css.style(&request)),
            )
    }

    async fn answer(&self, is_for: bool) -> Response {
        if !is_for {
            return Rejection::NotFound.into_response();
        }
        let now = Clock::System.now();
        let html = self.html(now).await;
        secured("text/html; charset=utf-8", html)
    }

    fn style(&self, request: &Request) -> Response {
        if !self.is_for(request) {
            return Rejection::NotFound.into_response();
        }
        secured(
            "text/css; charset=utf-8",
            include_str!("page.css").to_owned(),
        )
    }

    /// Only for who sits at this machine: not for others, not for a proxy that others talk to, and not for a site whose name
    /// was made to point here.
    fn is_for(&self, request: &Request) -> bool {
        let peer = request.extensions().get::<Peer>();
        let is_local = peer.is_some_and(|it| it.0.is_loopback());
        let headers = request.headers();
        let is_proxied = headers
            .keys()
            .any(|it| it.as_str() == "forwarded" || it.as_str().starts_with("x-forwarded-"));
        self.is_open || is_local && !is_proxied && host_is_local(headers)
    }

    async fn html(&self, now: Timestamp) -> String {
        let filter = ScanFilter::default();
        let records = self.ledger.latest(&filter, PLOTTED, now).await;
        let mut html = Html::begin();
        html.facts(&self.facts(records.as_deref().unwrap_or_default()).await);
        let Ok(records) = records else {
            html.note("The ledger does not answer.");
            return html.end();
        };
        html.head("Scans of the last 24 hours, by the worst that was found");
        html.plot(&columns(&records, now));
        html.head("Running");
        let running = records.iter().filter(|it| it.state == State::InProgress);
        html.table(
            &["since", "source", "image", "attempt"],
            running.map(|it| {
                let attempt = it.attempts.to_string();
                [
                    ago(now, it.started_at),
                    it.source.to_string(),
                    it.reference(),
                    attempt,
                ]
            }),
            "Nothing is being scanned.",
        );
        html.head("Deliveries");
        let delivered = self.deliveries.latest().into_iter();
        html.table(
            &["when", "source", "answer", "outcome"],
            delivered.map(|it| {
                let source = it
                    .source
                    .map_or_else(|| "(no such source)".to_owned(), |it| it.to_string());
                [ago(now, it.at), source, it.status.to_string(), it.outcome]
            }),
            "None since the start.",
        );
        html.head("Verdicts");
        let ended = records.iter().filter(|it| it.finished_at.is_some());
        html.table(
            &[
                "when",
                "source",
                "image",
                "verdict",
                "why",
                "critical / high / medium / low / negligible",
            ],
            ended.map(|it| {
                [
                    ago(now, it.finished_at.unwrap_or(now)),
                    it.source.to_string(),
                    it.reference(),
                    verdict(it),
                    why(it),
                    severities(it),
                ]
            }),
            "None yet.",
        );
        html.head("Dead letters");
        self.dead_letters(&mut html, &records, now).await;
        html.end()
    }

    async fn facts(&self, records: &[ScanRecord]) -> Vec<(&'static str, String)> {
        let count = |state| {
            records
                .iter()
                .filter(|it| it.state == state)
                .count()
                .to_string()
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
        facts.push(("running", count(State::InProgress)));
        facts.push(("to be tried again", count(State::Retrying)));
        facts
    }

    async fn dead_letters(&self, html: &mut Html, records: &[ScanRecord], now: Timestamp) {
        const HEADS: [&str; 4] = ["since", "scan", "reason", "detail"];
        const NONE: &str = "None.";
        let letters = match &self.store {
            Some(store) => store
                .peek(DEAD_LETTERS, ROWS, Box::new(|_| true))
                .await
                .ok(),
            None => None,
        };
        if let Some(letters) = letters {
            let rows = letters.iter().map(|it| {
                let attribute = |name: &str| it.attributes.get(name).cloned().unwrap_or_default();
                let detail = attribute("scanhook.detail");
                [
                    ago(now, it.sent_at),
                    attribute("scanhook.scan_id"),
                    attribute("scanhook.reason"),
                    detail,
                ]
            });
            html.table(&HEADS, rows, NONE);
        } else {
            let dead = records.iter().filter(|it| it.state == State::DeadLetter);
            let rows = dead.map(|it| {
                let since = ago(now, it.finished_at.unwrap_or(it.started_at));
                let detail = it.detail.clone().unwrap_or_default();
                [
                    since,
                    it.scan_id.to_string(),
                    it.reason.clone().unwrap_or_default(),
                    detail,
                ]
            });
            html.table(&HEADS, rows, NONE);
        }
    }
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

fn host_is_local(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|it| it.to_str().ok());
    let authority = host.and_then(|it| it.parse::<http::uri::Authority>().ok());
    authority.is_some_and(|it| {
        let name = it.host().trim_start_matches('[').trim_end_matches(']');
        name == "localhost" || name.parse::<IpAddr>().is_ok_and(|it| it.is_loopback())
    })
}

/// The worst that a scan found, as the classes of the style sheet.
const WORST: [&str; 7] = [
    "critical",
    "high",
    "medium",
    "low",
    "negligible",
    "clean",
    "error",
];

fn worst(record: &ScanRecord) -> Option<usize> {
    match (record.state, record.findings) {
        (State::DeadLetter, _) => Some(6),
        (State::Done, Some(it)) => {
            let counts = [it.critical, it.high, it.medium, it.low, it.negligible];
            Some(counts.iter().position(|it| *it > 0).unwrap_or(5))
        }
        _ => None,
    }
}

/// For each of the last hours, how many scans found what at worst.
fn columns(records: &[ScanRecord], now: Timestamp) -> [[usize; 7]; HOURS] {
    let mut columns = [[0; 7]; HOURS];
    for record in records {
        let (Some(worst), Some(finished_at)) = (worst(record), record.finished_at) else {
            continue;
        };
        let age = Duration::try_from(now.duration_since(finished_at)).unwrap_or_default();
        let hours = usize::try_from(age.as_secs() / HOUR.as_secs()).unwrap_or(HOURS);
        let column = HOURS
            .checked_sub(hours + 1)
            .and_then(|it| columns.get_mut(it));
        if let Some(count) = column.and_then(|it| it.get_mut(worst)) {
            *count += 1;
        }
    }
    columns
}

fn ago(now: Timestamp, then: Timestamp) -> String {
    let age = Duration::try_from(now.duration_since(then)).unwrap_or_default();
    let seconds = match age.as_secs() {
        it @ 0..60 => it,
        it @ 60..3600 => it / 60 * 60,
        it => it / 3600 * 3600,
    };
    format!(
        "{} ago",
        humantime::format_duration(Duration::from_secs(seconds))
    )
}

fn verdict(record: &ScanRecord) -> String {
    let verdict = record.verdict.clone().unwrap_or_default();
    match record.state {
        State::Retrying => format!("{verdict}, tried again"),
        _ => verdict,
    }
}

fn why(record: &ScanRecord) -> String {
    let reason = record.reason.iter();
    let words: Vec<_> = reason
        .chain(&record.policies_failed)
        .map(String::as_str)
        .collect();
    words.join(", ")
}

fn severities(record: &ScanRecord) -> String {
    record.findings.map_or_else(String::new, |it| {
        format!(
            "{} / {} / {} / {} / {}",
            it.critical, it.high, it.medium, it.low, it.negligible
        )
    })
}

/// A page in the making. What is `&'static` is ours; all other text is escaped.
struct Html(String);

impl Html {
    fn begin() -> Self {
        Self(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"5\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>scanhook</title>\
             <link rel=\"stylesheet\" href=\"page.css\"></head><body>\n<h1>scanhook</h1>\n"
                .to_owned(),
        )
    }

    fn end(mut self) -> String {
        self.markup("</body></html>\n");
        self.0
    }

    fn markup(&mut self, markup: &'static str) {
        self.0.push_str(markup);
    }

    fn text(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // What would change the direction or the look of the text around it.
                it if it.is_control()
                    || matches!(it, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
                {
                    self.0.push('\u{fffd}');
                }
                it => self.0.push(it),
            }
        }
    }

    fn head(&mut self, title: &'static str) {
        self.markup("<h2>");
        self.markup(title);
        self.markup("</h2>\n");
    }

    fn note(&mut self, text: &'static str) {
        self.markup("<p class=\"none\">");
        self.markup(text);
        self.markup("</p>\n");
    }

    fn facts(&mut self, facts: &[(&'static str, String)]) {
        self.markup("<dl>");
        for (name, value) in facts {
            self.markup("<div><dt>");
            self.markup(name);
            self.markup("</dt><dd>");
            self.text(value);
            self.markup("</dd></div>");
        }
        self.markup("</dl>\n");
    }

    fn table<const N: usize>(
        &mut self,
        heads: &[&'static str; N],
        rows: impl Iterator<Item = [String; N]>,
        none: &'static str,
    ) {
        let mut rows = rows.take(ROWS).peekable();
        if rows.peek().is_none() {
            return self.note(none);
        }
        self.markup("<table><tr>");
        for head in heads {
            self.markup("<th>");
            self.markup(head);
            self.markup("</th>");
        }
        self.markup("</tr>\n");
        for row in rows {
            self.markup("<tr>");
            for cell in &row {
                self.markup("<td>");
                self.text(cell);
                self.markup("</td>");
            }
            self.markup("</tr>\n");
        }
        self.markup("</table>\n");
    }

    fn plot(&mut self, columns: &[[usize; 7]; HOURS]) {
        const HEIGHT: usize = 120;
        const WIDTH: usize = 30;
        let sums = columns.iter().map(|it| it.iter().sum::<usize>());
        let most = sums.max().unwrap_or(0).max(1);
        // Writing to a string can't fail.
        let _ = write!(
            self.0,
            "<svg viewBox=\"0 0 {} {}\" role=\"img\"><title>Scans an hour, {most} at most</title>",
            HOURS * WIDTH,
            HEIGHT + 20
        );
        for (hour, column) in columns.iter().enumerate() {
            let mut below = 0;
            for (class, count) in WORST.iter().zip(column).filter(|it| *it.1 > 0) {
                let height = (count * HEIGHT).div_ceil(most);
                let top = HEIGHT.saturating_sub(below + height);
                let _ = write!(
                    self.0,
                    "<rect class=\"{class}\" x=\"{}\" y=\"{top}\" width=\"{}\" height=\"{height}\"><title>{count} {class}</title></rect>",
                    hour * WIDTH + 2,
                    WIDTH - 4
                );
                below += height;
            }
        }
        let _ = write!(
            self.0,
            "<line class=\"axis\" x1=\"0\" x2=\"{0}\" y1=\"{HEIGHT}\" y2=\"{HEIGHT}\"/><text x=\"0\" y=\"{1}\">24 hours ago</text>\
             <text x=\"{0}\" y=\"{1}\" text-anchor=\"end\">now</text></svg>\n<ul class=\"key\">",
            HOURS * WIDTH,
            HEIGHT + 15
        );
        for (index, class) in WORST.iter().enumerate() {
            let total: usize = columns.iter().filter_map(|it| it.get(index)).sum();
            let _ = write!(self.0, "<li class=\"{class}\">{class} {total}</li>");
        }
        self.markup("</ul>\n");
    }
}
