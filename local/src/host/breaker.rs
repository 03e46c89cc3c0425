//! The circuit breaker: pauses receiving while Sysdig's backend is down, so that an outage doesn't use up the messages' receives.
//!
//! After failed scans, the breaker asks the backend itself, so a registry that is down doesn't pause anything. It stays off until the
//! backend has answered this process once: the CLI may reach a backend that this process can't reach.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use scanhook_config::config::Config;
use scanhook_core::failure::{ErrorReason, ScanError};
use scanhook_core::message::ScanId;
use scanhook_core::record::{ClaimKey, RecordReason, ScanRecord, State};
use scanhook_core::verdict::Verdict;
use scanhook_scanner::ledger::{Claim, ClaimRequest, Ledger, LedgerError};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::http_client;

/// After this many failed scans in a row, the breaker asks the backend.
const FAILURES: u32 = 3;

/// How often to ask a backend that has never answered.
const FIRST_PAUSE: Duration = Duration::from_mins(1);

/// How often to ask a backend that is down.
const PAUSE: Duration = Duration::from_secs(5);

/// The timeout for the backend's answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Watches the scans of one process.
pub(crate) struct Breaker {
    failures: AtomicU32,
    suspicion: Notify,
    /// Whether messages may be received.
    admission: watch::Sender<bool>,
    /// Whether the backend has ever answered this process.
    is_known: AtomicBool,
}

impl Breaker {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            failures: AtomicU32::new(0),
            suspicion: Notify::new(),
            admission: watch::Sender::new(true),
            is_known: AtomicBool::new(false),
        })
    }

    /// Whether messages may be received, as a channel.
    pub(crate) fn admission(&self) -> watch::Receiver<bool> {
        self.admission.subscribe()
    }

    /// Whether the backend has ever answered, so that the breaker is on.
    pub(crate) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    /// Counts the outcome of a scan.
    fn observe(&self, record: &ScanRecord) {
        if record.finished_at.is_none() || record.is_repeated() {
            return;
        }
        if record.state == State::Done {
            self.failures.store(0, Ordering::Relaxed);
        } else if record.reason.as_ref().is_some_and(is_suspicious)
            && self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES
        {
            self.suspicion.notify_one();
        }
    }

    /// Asks the backend when scans fail, and pauses receiving while it is down; until `stopping`.
    pub(crate) fn watch(
        self: &Arc<Self>,
        config: &Config,
        stopping: CancellationToken,
    ) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
        let (breaker, client) = (Arc::clone(self), http_client::outward()?);
        let url = config.scanner.as_ref().map(|it| it.api_url.clone());
        Ok(async move {
            let watch = breaker.watch_backend(client, url.unwrap_or_default());
            stopping.run_until_cancelled(watch).await;
        })
    }

    async fn watch_backend(&self, client: reqwest::Client, url: String) {
        while let Err(problem) = ask(&client, &url).await {
            tracing::warn!(
                event = "backend.unknown",
                "Sysdig's backend hasn't answered yet; the circuit breaker stays off until it has: {problem}"
            );
            tokio::time::sleep(FIRST_PAUSE).await;
        }
        self.is_known.store(true, Ordering::Relaxed);
        tracing::info!(event = "backend.seen", "Sysdig's backend answers");
        loop {
            self.suspicion.notified().await;
            self.failures.store(0, Ordering::Relaxed);
            let Err(problem) = ask(&client, &url).await else {
                continue;
            };
            self.admission.send_replace(false);
            tracing::error!(
                event = "backend.down",
                "Sysdig's backend is down; receiving is paused until it answers: {problem}"
            );
            while ask(&client, &url).await.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
            self.failures.store(0, Ordering::Relaxed);
            self.admission.send_replace(true);
            tracing::info!(event = "backend.up", "Sysdig's backend answers again");
        }
    }
}

/// Whether the backend may have caused a failure.
fn is_suspicious(reason: &RecordReason) -> bool {
    use ErrorReason::{Database, Network, ScannerError};
    matches!(
        reason,
        RecordReason::Error(Network | Database | ScannerError)
    )
}

/// Any answer below 500 shows that the backend is up.
async fn ask(client: &reqwest::Client, url: &str) -> Result<(), String> {
    let answer = client.get(url).timeout(PATIENCE).send().await;
    match answer {
        Ok(answer) if !answer.status().is_server_error() => Ok(()),
        Ok(answer) => Err(format!(
            "it answers with status {}",
            answer.status().as_u16()
        )),
        Err(err) => Err(format!("{:#}", anyhow::Error::new(err.without_url()))),
    }
}

/// A ledger whose records a breaker observes.
pub(crate) struct Watched {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) breaker: Arc<Breaker>,
}

#[async_trait]
impl Ledger for Watched {
    async fn claim(&self, request: ClaimRequest<'_>) -> Result<Claim, LedgerError> {
        self.ledger.claim(request).await
    }

    async fn finish(
        &self,
        key: &ClaimKey,
        holder: &ScanId,
        verdict: Verdict,
        finished_at: Timestamp,
    ) -> Result<(), LedgerError> {
        self.ledger.finish(key, holder, verdict, finished_at).await
    }

    async fn release(
        &self,
        key: &ClaimKey,
        holder: &ScanId,
        last_error: &ScanError,
    ) -> Result<(), LedgerError> {
        self.ledger.release(key, holder, last_error).await
    }

    async fn record(&self, record: &ScanRecord) -> Result<(), LedgerError> {
        self.breaker.observe(record);
        self.ledger.record(record).await
    }

    async fn ping(&self) -> Option<Result<(), LedgerError>> {
        self.ledger.ping().await
    }
}
