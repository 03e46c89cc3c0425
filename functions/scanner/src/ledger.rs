//! Where it is kept which content is being scanned, which was, and what came of each scan request.

use std::future::Future;

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
pub trait Ledger: Send + Sync + 'static {
    /// Claims content if nobody else holds it: it is unknown or released, its claim ended at or before `now` or is that of
    /// an earlier attempt of the same holder, or its scan finished at or before `satisfied_after`.
    fn claim(
        &self,
        request: ClaimRequest<'_>,
    ) -> impl Future<Output = Result<Claim, LedgerError>> + Send;

    /// Makes a claim a finished scan, unless it ended and is another holder's by now: that one's scan counts then.
    fn finish(
        &self,
        key: &ClaimKey,
        holder: &ScanId,
        verdict: Verdict,
        finished_at: Timestamp,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Gives a claim back, with what prevented its scan, unless it ended and is another holder's by now.
    fn release(
        &self,
        key: &ClaimKey,
        holder: &ScanId,
        last_error: &ScanError,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Writes the record of one image of a scan request, in place of its earlier one: [`ScanRecord::place`]. The first record with a platform also
    /// takes the place of the request's record without one. The record of a scan that is done stays when its message
    /// comes once more and the verdict is only repeated, and when an attempt that began before it is still to tell of its
    /// failure: its worker hung, or waited for a queue that it could not reach.
    fn record(&self, record: &ScanRecord) -> impl Future<Output = Result<(), LedgerError>> + Send;
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

/// Without a ledger every claim is granted and nothing is kept. A repeated event is then scanned again, and the
/// `scan.finished` line in the log is the only record.
impl<L: Ledger> Ledger for Option<L> {
    async fn claim(&self, request: ClaimRequest<'_>) -> Result<Claim, LedgerError> {
        match self {
            Some(ledger) => ledger.claim(request).await,
            None => Ok(Claim::Claimed),
        }
    }

    async fn finish(
        &self,
        key: &ClaimKey,
        holder: &ScanId,
        verdict: Verdict,
        finished_at: Timestamp,
    ) -> Result<(), LedgerError> {
        match self {
            Some(ledger) => ledger.finish(key, holder, verdict, finished_at).await,
            None => Ok(()),
        }
    }

    async fn release(
        &self,
        key: &ClaimKey,
        holder: &ScanId,
        last_error: &ScanError,
    ) -> Result<(), LedgerError> {
        match self {
            Some(ledger) => ledger.release(key, holder, last_error).await,
            None => Ok(()),
        }
    }

    async fn record(&self, record: &ScanRecord) -> Result<(), LedgerError> {
        match self {
            Some(ledger) => ledger.record(record).await,
            None => Ok(()),
        }
    }
}
