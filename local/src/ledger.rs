//! The ledger on SQLite: claims that keep content from being scanned twice, and the history that `scans` shows.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Params, params};
use scanhook_core::history::ScanFilter;
use scanhook_core::message::ScanId;
use scanhook_core::record::{ClaimKey, ScanRecord, State};
use scanhook_core::verdict::{ScanError, Verdict};
use scanhook_scanner::ledger::{Claim, ClaimRequest, History, Ledger, LedgerError};

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
    connection: Arc<Mutex<Connection>>,
    keep: Duration,
}

impl SqliteLedger {
    /// Opens the ledger, and creates it if there is none. Items are kept for `keep` after their last change.
    pub(crate) fn open(path: &Path, keep: Duration, now: Timestamp) -> anyhow::Result<Self> {
        let open = || -> anyhow::Result<Connection> {
            let connection = Connection::open(path)?;
            connection.busy_timeout(Duration::from_secs(5))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            check_schema(&connection)?;
            connection.execute(
                "DELETE FROM scan WHERE expires < ?1",
                [now.as_millisecond()],
            )?;
            connection.execute(
                "DELETE FROM claim WHERE expires < ?1",
                [now.as_millisecond()],
            )?;
            Ok(connection)
        };
        let connection =
            open().with_context(|| format!("could not open the ledger {}", path.display()))?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            keep,
        })
    }

    /// Opens the ledger of a `serve` that may be running, to read it.
    pub(crate) fn open_to_read(path: &Path) -> anyhow::Result<Self> {
        let open = || -> anyhow::Result<Connection> {
            if !path.try_exists()? {
                bail!("there is none; `scanhook serve` makes it");
            }
            let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            connection.busy_timeout(Duration::from_secs(5))?;
            connection.pragma_update(None, "query_only", true)?;
            check_schema(&connection)?;
            Ok(connection)
        };
        let connection =
            open().with_context(|| format!("could not open the ledger {}", path.display()))?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            keep: Duration::ZERO,
        })
    }

    /// The records of one scan request, one for each platform.
    pub(crate) fn records_of(&self, scan_id: &str) -> anyhow::Result<Vec<ScanRecord>> {
        read(
            &self.connection(),
            "SELECT record FROM scan WHERE scan_id = ?1 ORDER BY platform",
            [scan_id],
            &ScanFilter::default(),
            usize::MAX,
        )
    }

    /// Whether the file can be written now.
    pub(crate) async fn can_write(&self) -> bool {
        let begun = self.run(|_, connection| {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            connection.execute_batch("ROLLBACK")?;
            Ok(())
        });
        begun.await.is_ok()
    }

    /// A panic elsewhere can't have left a transaction half done: SQLite rolls it back.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn expires(&self, from: Timestamp) -> i64 {
        from.as_millisecond()
            .saturating_add(i64::try_from(self.keep.as_millis()).unwrap_or(i64::MAX))
    }

    async fn run<T, F>(&self, operation: F) -> Result<T, LedgerError>
    where
        F: FnOnce(&Self, &Connection) -> anyhow::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let ledger = self.clone();
        let outcome =
            tokio::task::spawn_blocking(move || operation(&ledger, &ledger.connection())).await;
        let outcome = outcome.unwrap_or_else(|err| Err(err.into()));
        outcome.map_err(|err| LedgerError(err.into()))
    }
}

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
                        OR (finished_at IS NOT NULL AND finished_at <= ?5)
                        OR (finished_at IS NULL AND (until IS NULL OR until <= ?6 OR holder = ?2))",
                )?
                .execute(params![
                    key.as_str(),
                    holder.as_str(),
                    until.as_millisecond(),
                    ledger.expires(until),
                    satisfied_after.as_millisecond(),
                    now.as_millisecond(),
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

    async fn record(&self, record: &ScanRecord) -> Result<(), LedgerError> {
        let record = record.clone();
        self.run(move |ledger, connection| {
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
                    ledger.expires(record.finished_at.unwrap_or(record.started_at)),
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
        })
        .await
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
