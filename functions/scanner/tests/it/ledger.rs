//! A ledger in memory that tests look into, and can break.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jiff::Timestamp;
use scanhook_core::failure::ScanError;
use scanhook_core::message::ScanId;
use scanhook_core::record::{ClaimKey, ScanRecord};
use scanhook_core::verdict::Verdict;
use scanhook_scanner::ledger::{Claim, ClaimRequest, Ledger, LedgerError};

/// What a claim is for the time being.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Held {
    Until(Timestamp, ScanId),
    Done(Verdict, Timestamp),
    Released(&'static str),
}

/// How it answers.
#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) enum Health {
    #[default]
    Well,
    Unavailable,
    Panics,
    /// Unavailable at random, with this probability.
    Flaky(f64),
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) health: Health,
    pub(crate) claims: HashMap<ClaimKey, Held>,
    /// The latest record of each scan.
    pub(crate) records: BTreeMap<(ScanId, String), ScanRecord>,
    /// How many claims were granted.
    pub(crate) granted: usize,
    /// For which scans it was not there.
    pub(crate) failed: BTreeSet<ScanId>,
}

#[derive(Clone, Default)]
pub(crate) struct MemoryLedger(pub(crate) Arc<Mutex<State>>);

impl MemoryLedger {
    fn change<T>(
        &self,
        scan_id: &ScanId,
        change: impl FnOnce(&mut State) -> T,
    ) -> Result<T, LedgerError> {
        let mut state = self.0.lock().unwrap();
        match state.health {
            Health::Flaky(share) if rand::random::<f64>() < share => {
                state.failed.insert(scan_id.clone());
                Err(LedgerError("the table is gone for now".into()))
            }
            Health::Well | Health::Flaky(_) => Ok(change(&mut state)),
            Health::Unavailable => Err(LedgerError("the table is gone".into())),
            Health::Panics => {
                // Only once, so that what follows can be seen; and not while the lock is held.
                state.health = Health::Well;
                drop(state);
                panic!("a ledger that panics");
            }
        }
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn claim(&self, request: ClaimRequest<'_>) -> Result<Claim, LedgerError> {
        self.change(request.holder, |state| {
            match state.claims.get(request.key) {
                Some(Held::Until(until, holder))
                    if *until > request.now && holder != request.holder =>
                {
                    return Claim::InProgress(*until);
                }
                Some(Held::Done(verdict, finished_at))
                    if *finished_at > request.satisfied_after =>
                {
                    return Claim::Done(*verdict);
                }
                _ => {}
            }
            let held = Held::Until(request.until, request.holder.clone());
            state.claims.insert(request.key.clone(), held);
            state.granted += 1;
            Claim::Claimed
        })
    }

    async fn finish(
        &self,
        key: &ClaimKey,
        holder: &ScanId,
        verdict: Verdict,
        finished_at: Timestamp,
    ) -> Result<(), LedgerError> {
        self.change(holder, |state| {
            let done = Held::Done(verdict, finished_at);
            state.claims.insert(key.clone(), done);
        })
    }

    async fn release(
        &self,
        key: &ClaimKey,
        holder: &ScanId,
        last_error: &ScanError,
    ) -> Result<(), LedgerError> {
        self.change(holder, |state| {
            let released = Held::Released(last_error.reason.as_str());
            state.claims.insert(key.clone(), released);
        })
    }

    async fn record(&self, record: &ScanRecord) -> Result<(), LedgerError> {
        self.change(&record.scan_id, |state| {
            let key = (record.scan_id.clone(), record.place());
            if record.platform.is_some() {
                state
                    .records
                    .remove(&(record.scan_id.clone(), String::new()));
            }
            let earlier = state.records.get(&key);
            let is_repeated = record.is_repeated();
            if is_repeated
                && earlier.is_some_and(|it| it.state == scanhook_core::record::State::Done)
            {
                return;
            }
            state.records.insert(key, record.clone());
        })
    }
}
