//! The ledger on SQLite: claims that keep content from being scanned twice, and the history that `scans` shows.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use scanhook_core::message::ScanId;
use scanhook_core::platform::Platform;
use scanhook_core::record::{ClaimKey, ScanRecord};
use scanhook_core::verdict::{ScanError, Verdict};
use scanhook_scanner::ledger::{Claim, ClaimRequest, Ledger, LedgerError};

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

    /// The latest scans, newest first.
    pub(crate) fn latest(&self, limit: u32) -> anyhow::Result<Vec<ScanRecord>> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT record FROM scan ORDER BY received_at DESC, scan_id DESC LIMIT ?1",
        )?;
        let records = statement.query_map([limit], |row| row.get::<_, String>(0))?;
        records.map(|it| Ok(serde_json::from_str(&it?)?)).collect()
    }

    /// The records of one scan request, one for each platform.
    pub(crate) fn find(&self, scan_id: &str) -> anyhow::Result<Vec<ScanRecord>> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached("SELECT record FROM scan WHERE scan_id = ?1 ORDER BY platform")?;
        let records = statement.query_map([scan_id], |row| row.get::<_, String>(0))?;
        records.map(|it| Ok(serde_json::from_str(&it?)?)).collect()
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
                     WHERE (finished_at IS NOT NULL AND finished_at <= ?5)
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
        verdict: Verdict,
        finished_at: Timestamp,
    ) -> Result<(), LedgerError> {
        let key = key.clone();
        self.run(move |ledger, connection| {
            connection
                .prepare_cached(
                    "UPDATE claim SET verdict = ?2, finished_at = ?3, expires = ?4 WHERE key = ?1",
                )?
                .execute(params![
                    key.as_str(),
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
            if record.platform.is_some() {
                connection
                    .prepare_cached("DELETE FROM scan WHERE scan_id = ?1 AND platform = ''")?
                    .execute([record.scan_id.as_str()])?;
            }
            connection
                .prepare_cached(
                    "INSERT INTO scan (scan_id, platform, received_at, record, expires) VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT (scan_id, platform) DO UPDATE SET record = ?4, expires = ?5",
                )?
                .execute(params![
                    record.scan_id.as_str(),
                    record.platform.as_ref().map_or("", Platform::as_str),
                    record.received_at.as_millisecond(),
                    serde_json::to_string(&record)?,
                    ledger.expires(record.finished_at.unwrap_or(record.started_at)),
                ])?;
            Ok(())
        })
        .await
    }
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
mod tests {
    use scanhook_core::image::Image;
    use scanhook_core::target::Target;
    use scanhook_core::verdict::{Class, ErrorReason};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn id(text: &str) -> ScanId {
        ScanId::try_from(text.to_owned()).unwrap()
    }

    fn key() -> ClaimKey {
        let image = Image::parse(&format!("h.io/a@sha256:{}", "ab".repeat(32))).unwrap();
        let digest = image.pin.digest().unwrap().clone();
        ClaimKey::new(&Target::new(&image, digest), &[])
    }

    fn open() -> (tempfile::TempDir, SqliteLedger) {
        let directory = tempfile::tempdir().unwrap();
        let ledger = SqliteLedger::open(
            &directory.path().join("ledger"),
            Duration::from_hours(1),
            at(0),
        )
        .unwrap();
        (directory, ledger)
    }

    /// A claim at second `now` until 100 seconds later, satisfied by a scan of the last 50 seconds.
    async fn claim(ledger: &SqliteLedger, holder: &str, now: i64) -> Claim {
        let (key, holder) = (key(), id(holder));
        let request = ClaimRequest {
            key: &key,
            holder: &holder,
            now: at(now),
            until: at(now + 100),
            satisfied_after: at(now - 50),
        };
        ledger.claim(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_claim_is_held_until_it_ends_and_its_holder_may_take_it_again() {
        let (_directory, ledger) = open();
        assert_eq!(claim(&ledger, "a", 0).await, Claim::Claimed);
        assert_eq!(claim(&ledger, "b", 99).await, Claim::InProgress(at(100)));
        assert_eq!(claim(&ledger, "a", 99).await, Claim::Claimed);
        assert_eq!(claim(&ledger, "b", 150).await, Claim::InProgress(at(199)));
        assert_eq!(claim(&ledger, "b", 199).await, Claim::Claimed);
    }

    #[tokio::test]
    async fn a_finished_scan_satisfies_who_asks_within_the_window() {
        let (_directory, ledger) = open();
        assert_eq!(claim(&ledger, "a", 0).await, Claim::Claimed);
        ledger
            .finish(&key(), Verdict::Failed, at(10))
            .await
            .unwrap();
        assert_eq!(claim(&ledger, "b", 59).await, Claim::Done(Verdict::Failed));
        assert_eq!(claim(&ledger, "b", 60).await, Claim::Claimed);
        assert_eq!(claim(&ledger, "c", 61).await, Claim::InProgress(at(160)));
    }

    #[tokio::test]
    async fn only_the_holder_can_release_a_claim() {
        let (_directory, ledger) = open();
        let error = ScanError {
            reason: ErrorReason::Network,
            class: Class::Transient,
            detail: "x".to_owned(),
        };
        assert_eq!(claim(&ledger, "a", 0).await, Claim::Claimed);
        ledger.release(&key(), &id("b"), &error).await.unwrap();
        assert_eq!(claim(&ledger, "b", 1).await, Claim::InProgress(at(100)));
        ledger.release(&key(), &id("a"), &error).await.unwrap();
        assert_eq!(claim(&ledger, "b", 2).await, Claim::Claimed);
    }

    #[tokio::test]
    async fn of_two_workers_that_race_one_wins_each_of_a_thousand_times() {
        let (directory, ledger) = open();
        let other = SqliteLedger::open(
            &directory.path().join("ledger"),
            Duration::from_hours(1),
            at(0),
        )
        .unwrap();
        for round in 0..1000 {
            let now = round * 1000;
            let (one, two) = tokio::join!(claim(&ledger, "a", now), claim(&other, "b", now));
            assert!(
                (one == Claim::Claimed) != (two == Claim::Claimed),
                "round {round}: {one:?} {two:?}"
            );
        }
    }

    #[test]
    fn a_newer_or_broken_file_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        Connection::open(&path)
            .unwrap()
            .pragma_update(None, "user_version", 7)
            .unwrap();
        let Err(err) = SqliteLedger::open(&path, Duration::ZERO, at(0)) else {
            panic!("opened")
        };
        assert!(
            format!("{err:#}").contains("newer scanhook (schema 7"),
            "{err:#}"
        );
        std::fs::write(
            &path,
            "this is no database, but longer than one hundred bytes ".repeat(10),
        )
        .unwrap();
        assert!(SqliteLedger::open(&path, Duration::ZERO, at(0)).is_err());
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .starts_with("this is no database")
        );
    }
}
