//! Where it is kept which content is being scanned, which was, and what came of each scan request.

use async_trait::async_trait;
use jiff::Timestamp;
use scanhook_core::failure::ScanError;
use scanhook_core::history::ScanFilter;
use scanhook_core::message::ScanId;
use scanhook_core::record::{ClaimKey, ScanRecord};
use scanhook_core::verdict::Verdict;

/// A wish to scan some content.
#[derive(Debug, Clone, Copy)]
pub struct ClaimRequest<'a> {
    /// The content.
    pub key: &'a ClaimKey,
    /// Who wants to scan it.
    pub holder: &'a ScanId,
    /// The present time.
    pub now: Timestamp,
    /// When the claim ends by itself, should its holder die.
    pub until: Timestamp,
    /// A scan that finished after this satisfies the wish; an earlier one counts as none.
    pub satisfied_after: Timestamp,
}

/// The answer to a [`ClaimRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The content is the caller's to scan.
    Claimed,
    /// Somebody else is scanning it, at most until then.
    InProgress(Timestamp),
    /// It was scanned, recently enough.
    Done(Verdict),
}

/// The ledger can't be reached, or it is broken. Scans go on without it.
#[derive(Debug, thiserror::Error)]
#[error("the ledger is unavailable")]
pub struct LedgerError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// A store of claims and records, shared by everyone who scans for the same queue.
///
/// **Invariant**: of all who claim one key, one holder is answered with [`Claim::Claimed`] until the claim ends, is
/// finished or is released.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Claims content if nobody else holds it: it is unknown or released, its claim ended at or before `now` or is that of
    /// an earlier attempt of the same holder, or its scan finished at or before `satisfied_after`.
    async fn claim(&self, request: ClaimRequest<'_>) -> Result<Claim, LedgerError>;

    /// Makes a claim a finished scan, unless it ended and is another holder's by now: that one's scan counts then.
    async fn finish(
        &self,
        key: &ClaimKey,
        holder: &ScanId,
        verdict: Verdict,
        finished_at: Timestamp,
    ) -> Result<(), LedgerError>;

    /// Gives a claim back, with what prevented its scan, unless it ended and is another holder's by now.
    async fn release(
        &self,
        key: &ClaimKey,
        holder: &ScanId,
        last_error: &ScanError,
    ) -> Result<(), LedgerError>;

    /// Writes the record of one image of a scan request, in place of its earlier one: [`ScanRecord::place`]. The first record with a platform also
    /// takes the place of the request's record without one. The record of a scan that is done stays when its message
    /// comes once more and the verdict is only repeated, and when an attempt that began before it is still to tell of its
    /// failure: its worker hung, or waited for a queue that it could not reach.
    async fn record(&self, record: &ScanRecord) -> Result<(), LedgerError>;

    /// Whether it answers; `None` if there is none.
    async fn ping(&self) -> Option<Result<(), LedgerError>> {
        Some(Ok(()))
    }
}

/// The records of a store, for the people who look into them. One that expired is gone, whether the store has deleted it or
/// not.
pub trait History: Send + Sync {
    /// The latest records that `filter` admits, newest delivery first, `limit` of them at most.
    fn latest(
        &self,
        filter: &ScanFilter,
        limit: usize,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<ScanRecord>, LedgerError>> + Send;

    /// The records of one scan request, one for each platform, in the order of the platforms; none if it is not known.
    fn find(
        &self,
        scan_id: &ScanId,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<ScanRecord>, LedgerError>> + Send;
}

/// No ledger: every claim is granted and nothing is kept. A repeated event is then scanned again, and the `scan.finished`
/// line in the log is the only record.
pub struct NoLedger;

#[async_trait]
impl Ledger for NoLedger {
    async fn claim(&self, _: ClaimRequest<'_>) -> Result<Claim, LedgerError> {
        Ok(Claim::Claimed)
    }

    async fn finish(
        &self,
        _: &ClaimKey,
        _: &ScanId,
        _: Verdict,
        _: Timestamp,
    ) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn release(&self, _: &ClaimKey, _: &ScanId, _: &ScanError) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn record(&self, _: &ScanRecord) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn ping(&self) -> Option<Result<(), LedgerError>> {
        None
    }
}

/// What the ledger answered; `None`, a line in the log and a count, if it could not be reached.
pub(crate) fn tolerate<T>(operation: &'static str, result: Result<T, LedgerError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(err) => {
            metrics::counter!("ledger_unavailable").increment(1);
            let err = anyhow::Error::from(err);
            tracing::warn!(
                event = "ledger.unavailable",
                operation,
                "the ledger did not take a {operation}: {err:#}"
            );
            None
        }
    }
}
