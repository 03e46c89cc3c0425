//! The ledger on SQLite: claims that keep content from being scanned twice, and the history that `scans` shows.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension as _, Params, Transaction,
    TransactionBehavior, params,
};
use scanhook_core::failure::ScanError;
use scanhook_core::history::ScanFilter;
use scanhook_core::message::ScanId;
use scanhook_core::record::{ClaimKey, ScanRecord, State};
use scanhook_core::verdict::Verdict;
use scanhook_emulator::cause::Cause;
use scanhook_scanner::ledger::{Claim, ClaimRequest, History, Ledger, LedgerError};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::problem::Problem;

/// A scan waits for the ledger no longer than this, whatever locks it.
const SCAN_PATIENCE: Duration = Duration::from_secs(2);

/// People at a terminal wait longer.
const READER_PATIENCE: Duration = Duration::from_secs(15);

/// How long a look at whether it can be written may take.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// Records that wait in memory, a few kilobytes each, until they can be written. Of more the oldest is dropped.
const MOST_WAITING: usize = 5000;

/// How often those are tried again.
const CATCH_UP: Duration = Duration::from_secs(1);

/// No scan lasts longer, as no message can be hidden for longer. A claim that ends later was made while the clock was ahead.
const LONGEST_CLAIM: Duration = Duration::from_hours(12);

/// A scan that finished later than this from now did so while the clock was ahead: when, nobody knows.
const TOLERANCE: Duration = Duration::from_mins(1);

/// The version of the file's tables, in its `user_version`.
const SCHEMA: i64 = 1;

const CREATE: &str = "
    CREATE TABLE claim (
        key         TEXT PRIMARY KEY,
        holder      TEXT,
        until       INTEGER,
        verdict     TEXT,
        finished_at INTEGER,
        last_error  TEXT,
        expires     INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE scan (
        scan_id     TEXT NOT NULL,
        platform    TEXT NOT NULL,
        received_at INTEGER NOT NULL,
        record      TEXT NOT NULL,
        expires     INTEGER NOT NULL,
        PRIMARY KEY (scan_id, platform)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX scan_by_time ON scan (received_at DESC);
    CREATE INDEX scan_by_expiry ON scan (expires);
    CREATE INDEX claim_by_expiry ON claim (expires);
    PRAGMA user_version = 1;";

/// A ledger file. Clones share it.
#[derive(Clone)]
pub(crate) struct SqliteLedger {
    connection: Arc<tokio::sync::Mutex<Connection>>,
    patience: Duration,
    keep: Duration,
    backlog: Arc<Mutex<Backlog>>,
}

/// Records that are to be written, oldest first, with their numbers.
#[derive(Default)]
struct Backlog {
    records: VecDeque<(u64, ScanRecord)>,
    next: u64,
}

impl SqliteLedger {
    /// Opens the ledger, and creates it if there is none. Items are kept for `keep` after their last change.
    pub(crate) fn open(path: &Path, keep: Duration, now: Timestamp) -> anyhow::Result<Self> {
        let open = || -> anyhow::Result<Connection> {
            let connection = Connection::open(path)?;
            connection.busy_timeout(READER_PATIENCE)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            check_schema(&connection)?;
            delete_expired(&connection, keep, now)?;
            Ok(connection)
        };
        let connection =
            open().with_context(|| format!("could not open the ledger {}", path.display()))?;
        Ok(Self::new(connection, SCAN_PATIENCE, keep))
    }

    /// Opens the ledger of a `serve` that may be running, to read it.
    pub(crate) fn open_to_read(path: &Path) -> anyhow::Result<Self> {
        let open = || -> anyhow::Result<Connection> {
            if !path.try_exists()? {
                bail!("there is none; `scanhook serve` makes it");
            }
            let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            connection.busy_timeout(READER_PATIENCE)?;
            connection.pragma_update(None, "query_only", true)?;
            check_schema(&connection)?;
            Ok(connection)
        };
        let connection =
            open().with_context(|| format!("could not open the ledger {}", path.display()))?;
        Ok(Self::new(connection, READER_PATIENCE, Duration::ZERO))
    }

    fn new(connection: Connection, patience: Duration, keep: Duration) -> Self {
        Self {
            connection: Arc::new(tokio::sync::Mutex::new(connection)),
            patience,
            keep,
            backlog: Arc::default(),
        }
    }

    /// The records of one scan request, one for each platform. Not for asynchronous callers: it blocks.
    pub(crate) fn records_of(&self, scan_id: &str) -> anyhow::Result<Vec<ScanRecord>> {
        read(
            &self.connection.blocking_lock(),
            "SELECT record FROM scan WHERE scan_id = ?1 ORDER BY platform",
            [scan_id],
            &ScanFilter::default(),
            usize::MAX,
        )
    }

    /// Writes one page to the file and commits it: what a record needs.
    pub(crate) async fn probe(&self) -> Result<(), Problem> {
        let probed = self.run_within(PROBE_PATIENCE, |_, connection| {
            let transaction =
                Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
            // The number is the same; its page is written all the same.
            transaction.pragma_update(None, "user_version", SCHEMA)?;
            transaction.commit()?;
            Ok(())
        });
        probed.await.map_err(|err| {
            let cause = err.0.downcast_ref().map_or(Cause::Unavailable, Cause::of);
            Problem::new(cause, err)
        })
    }

    /// Writes the records that wait as soon as the file takes them, until `stopping`.
    pub(crate) async fn catch_up(self, stopping: CancellationToken) {
        while stopping
            .run_until_cancelled(sleep(CATCH_UP))
            .await
            .is_some()
        {
            let waiting = self.backlog().records.len();
            if waiting > 0 && self.write_backlog().await.is_ok() {
                tracing::info!(
                    event = "ledger.caught_up",
                    waiting,
                    "{waiting} records that waited for the ledger are written"
                );
            }
        }
    }

    /// Tries once more to write the records that still wait at the end.
    pub(crate) async fn last_try(&self) {
        if self.backlog().records.is_empty() {
            return;
        }
        if let Err(err) = self.write_backlog().await {
            let lost = self.backlog().records.len();
            let err = anyhow::Error::from(err);
            tracing::error!(
                event = "ledger.records_lost",
                lost,
                "{lost} records are in no ledger, only in this log (scan.finished): {err:#}"
            );
        }
    }

    async fn write_backlog(&self) -> Result<(), LedgerError> {
        let written = self.run(|ledger, connection| {
            loop {
                let Some((number, record)) = ledger.backlog().records.front().cloned() else {
                    return Ok(());
                };
                if let Err(err) = ledger.write(connection, &record) {
                    if !is_of_record(&err) {
                        return Err(err);
                    }
                    // It would never be written, and all that follow it would wait.
                    tracing::error!(
                        event = "ledger.record_dropped",
                        scan_id = record.scan_id.as_str(),
                        "a record can't be written, and is dropped: {err:#}"
                    );
                }
                let mut backlog = ledger.backlog();
                // It may have been dropped meanwhile.
                if backlog.records.front().is_some_and(|it| it.0 == number) {
                    backlog.records.pop_front();
                }
            }
        });
        written.await
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expires(&self, from: Timestamp) -> i64 {
        after(from, self.keep)
    }

    async fn run<T, F>(&self, operation: F) -> Result<T, LedgerError>
    where
        F: FnOnce(&Self, &Connection) -> anyhow::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.run_within(self.patience, operation).await
    }

    /// Waits for at most `patience`: first for other operations, then for other processes.
    async fn run_within<T, F>(&self, patience: Duration, operation: F) -> Result<T, LedgerError>
    where
        F: FnOnce(&Self, &Connection) -> anyhow::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let deadline = Instant::now() + patience;
        let connection = timeout_at(deadline, Arc::clone(&self.connection).lock_owned()).await;
        // What has it, waits for the file as this would.
        let connection = connection.map_err(|_| LedgerError(Box::new(locked())))?;
        let ledger = self.clone();
        let outcome = tokio::task::spawn_blocking(move || {
            connection.busy_timeout(deadline.saturating_duration_since(Instant::now()))?;
            operation(&ledger, &connection)
        });
        let outcome = outcome.await.unwrap_or_else(|err| Err(err.into()));
        outcome.map_err(|err| match err.downcast::<rusqlite::Error>() {
            Ok(err) => LedgerError(Box::new(err)),
            Err(err) => LedgerError(err.into()),
        })
    }

    fn write(&self, connection: &Connection, record: &ScanRecord) -> anyhow::Result<()> {
        connection
            .prepare_cached(
                "INSERT INTO scan (scan_id, platform, received_at, record, expires) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (scan_id, platform) DO UPDATE SET received_at = ?3, record = ?4, expires = ?5
                 WHERE record ->> '$.state' <> ?7
                    OR NOT (?6 OR (?8 AND julianday(record ->> '$.started_at') > julianday(?9)))",
            )?
            .execute(params![
                record.scan_id.as_str(),
                record.place(),
                record.received_at.as_millisecond(),
                serde_json::to_string(&record)?,
                self.expires(record.finished_at.unwrap_or(record.started_at)),
                record.is_repeated(),
                State::Done.as_str(),
                record.state != State::Done,
                record.started_at.to_string(),
            ])?;
        if record.platform.is_some() {
            connection
                .prepare_cached("DELETE FROM scan WHERE scan_id = ?1 AND platform = ''")?
                .execute([record.scan_id.as_str()])?;
        }
        Ok(())
    }
}

impl Backlog {
    fn push(&mut self, record: ScanRecord) {
        self.records.push_back((self.next, record));
        self.next += 1;
        if self.records.len() > MOST_WAITING
            && let Some((_, dropped)) = self.records.pop_front()
        {
            tracing::error!(
                event = "ledger.record_dropped",
                scan_id = dropped.scan_id.as_str(),
                "more than {MOST_WAITING} records wait for the ledger; the oldest is dropped"
            );
        }
    }
}

/// Whether an error is about the record itself, or the row that it meets, so that it would never be written.
fn is_of_record(err: &anyhow::Error) -> bool {
    let code = err.downcast_ref().map(rusqlite::Error::sqlite_error_code);
    match code {
        // JSON that is damaged has no code of its own. Source: SQLite, "JSON Functions", and its result code SQLITE_ERROR.
        Some(code) => matches!(
            code,
            Some(ErrorCode::Unknown | ErrorCode::ConstraintViolation | ErrorCode::TooBig)
        ),
        None => err.is::<serde_json::Error>(),
    }
}

/// What SQLite says of a file that somebody else keeps locked.
fn locked() -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
    rusqlite::Error::SqliteFailure(code, Some("database is locked".to_owned()))
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn claim(&self, request: ClaimRequest<'_>) -> Result<Claim, LedgerError> {
        let (key, holder) = (request.key.clone(), request.holder.clone());
        let (now, until, satisfied_after) = (request.now, request.until, request.satisfied_after);
        self.run(move |ledger, connection| {
            // One statement decides, so that of two workers one wins.
            let granted = connection
                .prepare_cached(
                    "INSERT INTO claim (key, holder, until, expires) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (key) DO UPDATE SET holder = ?2, until = ?3, expires = ?4, verdict = NULL, finished_at = NULL
                     WHERE expires <= ?6
                        OR (finished_at IS NOT NULL AND (finished_at <= ?5 OR finished_at > ?8))
                        OR (finished_at IS NULL AND (until IS NULL OR until <= ?6 OR until > ?7 OR holder = ?2))",
                )?
                .execute(params![
                    key.as_str(),
                    holder.as_str(),
                    until.as_millisecond(),
                    ledger.expires(until),
                    satisfied_after.as_millisecond(),
                    now.as_millisecond(),
                    after(now, LONGEST_CLAIM),
                    after(now, TOLERANCE),
                ])?;
            if granted == 1 {
                return Ok(Claim::Claimed);
            }
            let found = connection
                .prepare_cached("SELECT verdict, until FROM claim WHERE key = ?1")?
                .query_row([key.as_str()], |row| Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<i64>>(1)?)))
                .optional()?;
            match found {
                Some((Some(verdict), _)) => Ok(Claim::Done(serde_json::from_str(&verdict)?)),
                Some((None, Some(until))) => Ok(Claim::InProgress(Timestamp::from_millisecond(until)?)),
                Some((None, None)) | None => bail!("a claim vanished between two statements"),
            }
        })
        .await
    }

    async fn finish(
        &self,
        key: &ClaimKey,
        holder: &ScanId,
        verdict: Verdict,
        finished_at: Timestamp,
    ) -> Result<(), LedgerError> {
        let (key, holder) = (key.clone(), holder.clone());
        self.run(move |ledger, connection| {
            connection
                .prepare_cached(
                    "UPDATE claim SET verdict = ?3, finished_at = ?4, expires = ?5
                     WHERE key = ?1 AND holder = ?2 AND finished_at IS NULL",
                )?
                .execute(params![
                    key.as_str(),
                    holder.as_str(),
                    serde_json::to_string(&verdict)?,
                    finished_at.as_millisecond(),
                    ledger.expires(finished_at),
                ])?;
            Ok(())
        })
        .await
    }

    async fn release(
        &self,
        key: &ClaimKey,
        holder: &ScanId,
        last_error: &ScanError,
    ) -> Result<(), LedgerError> {
        let (key, holder, last_error) = (key.clone(), holder.clone(), last_error.to_string());
        self.run(move |_, connection| {
            connection
                .prepare_cached(
                    "UPDATE claim SET until = NULL, last_error = ?3 WHERE key = ?1 AND holder = ?2 AND finished_at IS NULL",
                )?
                .execute(params![key.as_str(), holder.as_str(), last_error])?;
            Ok(())
        })
        .await
    }

    /// A record that can't be written now waits in memory, and is written in its turn.
    async fn record(&self, record: &ScanRecord) -> Result<(), LedgerError> {
        self.backlog().push(record.clone());
        self.write_backlog().await.map_err(|LedgerError(cause)| {
            let waiting = self.backlog().records.len();
            LedgerError(format!("{waiting} records wait in memory: {cause}").into())
        })
    }
}

impl History for SqliteLedger {
    async fn latest(
        &self,
        filter: &ScanFilter,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<ScanRecord>, LedgerError> {
        let filter = filter.clone();
        self.run(move |_, connection| {
            let since = filter.since.unwrap_or(Timestamp::UNIX_EPOCH);
            read(
                connection,
                "SELECT record FROM scan WHERE received_at >= ?1 AND expires > ?2
                 ORDER BY received_at DESC, scan_id DESC, platform DESC",
                [since.as_millisecond(), now.as_millisecond()],
                &filter,
                limit,
            )
        })
        .await
    }

    async fn find(&self, scan_id: &ScanId, now: Timestamp) -> Result<Vec<ScanRecord>, LedgerError> {
        let scan_id = scan_id.clone();
        self.run(move |_, connection| {
            read(
                connection,
                "SELECT record FROM scan WHERE scan_id = ?1 AND expires > ?2 ORDER BY platform",
                params![scan_id.as_str(), now.as_millisecond()],
                &ScanFilter::default(),
                usize::MAX,
            )
        })
        .await
    }
}

/// The first `limit` records of a statement that `filter` admits; no more rows are read than that takes.
fn read(
    connection: &Connection,
    statement: &str,
    params: impl Params,
    filter: &ScanFilter,
    limit: usize,
) -> anyhow::Result<Vec<ScanRecord>> {
    let mut statement = connection.prepare_cached(statement)?;
    let rows = statement.query_map(params, |row| row.get::<_, String>(0))?;
    let records = rows.map(|it| -> anyhow::Result<ScanRecord> { Ok(serde_json::from_str(&it?)?) });
    let admitted = records.filter(|it| it.as_ref().map_or(true, |it| filter.admits(it)));
    admitted.take(limit).collect()
}

/// Deletes what expired. The clock alone is not trusted with that: what was received up to `keep` before the newest record stays, so
/// that a start with a clock that is years ahead costs no history.
fn delete_expired(connection: &Connection, keep: Duration, now: Timestamp) -> anyhow::Result<()> {
    let newest: Option<i64> =
        connection.query_row("SELECT max(received_at) FROM scan", [], |row| row.get(0))?;
    let newest = newest.unwrap_or(now.as_millisecond());
    let oldest = newest.saturating_sub(milliseconds(keep));
    let deleted = connection.execute(
        "DELETE FROM scan WHERE expires < ?1 AND received_at < ?2",
        [now.as_millisecond(), oldest],
    )?;
    connection.execute(
        "DELETE FROM claim WHERE expires < ?1",
        [now.as_millisecond()],
    )?;
    if deleted > 0 {
        tracing::info!(
            event = "ledger.expired",
            deleted,
            "{deleted} records older than ledger.keep were deleted"
        );
    }
    Ok(())
}

fn after(instant: Timestamp, duration: Duration) -> i64 {
    instant
        .as_millisecond()
        .saturating_add(milliseconds(duration))
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn check_schema(connection: &Connection) -> anyhow::Result<()> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match version {
        0 => Ok(connection.execute_batch(&format!("BEGIN; {CREATE} COMMIT;"))?),
        SCHEMA => Ok(()),
        newer => {
            bail!("it was written by a newer scanhook (schema {newer}, this one knows {SCHEMA})")
        }
    }
}

#[cfg(test)]
mod tests;
