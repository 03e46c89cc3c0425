//! The queue file: opens and checks it, and refuses a file that isn't ours to change.
//!
//! **Invariant**: a damaged, newer or foreign file is left unchanged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::time::{QueueTime, Shift};
use scanhook_worker::clock::Clock;

/// The schema that this program writes. Every change of `SCHEMA` raises it.
const SCHEMA_VERSION: i64 = 2;

/// How long to wait for a process that is shutting down to unlock the file.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// `AUTOINCREMENT`, because a receipt handle names its message by `seq`: a number must never be reused.
const SCHEMA: &str = "
CREATE TABLE queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    attributes TEXT NOT NULL,
    tags TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    modified_at INTEGER NOT NULL,
    purged_at INTEGER
) STRICT;
CREATE TABLE deleted_queue (
    name TEXT PRIMARY KEY,
    deleted_at INTEGER NOT NULL
) STRICT;
CREATE TABLE message (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL REFERENCES queue (id) ON DELETE CASCADE,
    id TEXT NOT NULL,
    attributes TEXT NOT NULL,
    group_id TEXT,
    trace_header TEXT,
    dead_letter_source TEXT,
    sent_at INTEGER NOT NULL,
    visible_at INTEGER NOT NULL,
    receive_count INTEGER NOT NULL DEFAULT 0,
    first_received_at INTEGER,
    received_at INTEGER,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX message_by_visibility ON message (queue, visible_at, seq);
CREATE INDEX message_by_age ON message (queue, sent_at);
CREATE TABLE move_task (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    handle TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,
    destination TEXT,
    rate INTEGER,
    started_at INTEGER NOT NULL,
    status TEXT NOT NULL,
    to_move INTEGER NOT NULL,
    moved INTEGER NOT NULL DEFAULT 0,
    paced_at INTEGER NOT NULL,
    paced_from INTEGER NOT NULL DEFAULT 0,
    failure TEXT
) STRICT;
";

/// What schema 2 adds: the queues' time when it was last saved.
const TIME: &str = "
CREATE TABLE time (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    now INTEGER NOT NULL,
    shift INTEGER NOT NULL
) STRICT;
";

/// Schema 1 used the wall clock, even if it was wrong. This corrects its rows: no message is from the future, and none
/// is hidden for longer than SQS allows.
const FROM_SCHEMA_1: [&str; 2] = [
    "UPDATE message SET sent_at = ?1 WHERE sent_at > ?1",
    "UPDATE message SET visible_at = ?1 WHERE visible_at > ?1 + 43200000",
];

/// Why a queue file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file can't be opened or created.
    #[error("could not open the queue file {}", path.display())]
    Open {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("the queue file {} is in use by another process", .0.display())]
    InUse(PathBuf),
    #[error("the queue file {} has schema {found}, but this version supports {SCHEMA_VERSION} at most: use the newer version that wrote it", path.display())]
    Newer { path: PathBuf, found: i64 },
    /// The file is a database, but not a queue file.
    #[error("{} is an SQLite database, but not a queue file", .0.display())]
    Foreign(PathBuf),
    /// The thread that would own the file can't be started.
    #[error("could not start the thread of the queue file")]
    Thread(#[source] std::io::Error),
    #[error("the queue file {} is damaged ({detail}): restore it from a backup, or move it away to start empty", path.display())]
    Damaged {
        path: PathBuf,
        /// What SQLite found.
        detail: String,
    },
}

/// Opens the queue file at `path`, or creates it. The file's time continues with `clock`.
pub(crate) fn open(path: &Path, clock: Clock) -> Result<(Connection, QueueTime, Shift), OpenError> {
    let wall = clock.now().as_millisecond();
    let opened = try_open(path, wall).and_then(|connection| {
        let (time, shift) = QueueTime::resume(&connection, clock)?;
        Ok((connection, time, shift))
    });
    opened.map_err(|failure| match failure {
        Failure::Refused(err) => err,
        Failure::Sql(err) => match err.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => OpenError::Damaged {
                path: path.to_owned(),
                detail: err.to_string(),
            },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                OpenError::InUse(path.to_owned())
            }
            _ => OpenError::Open {
                path: path.to_owned(),
                source: err,
            },
        },
    })
}

enum Failure {
    Refused(OpenError),
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(err: rusqlite::Error) -> Self {
        Self::Sql(err)
    }
}

fn try_open(path: &Path, wall: i64) -> Result<Connection, Failure> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(LOCK_PATIENCE)?;
    // Two servers on one file would each act as its only writer.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    match connection.pragma_query_value(None, "user_version", |row| row.get(0))? {
        0 => {
            let is_empty: bool = connection.query_row(
                "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)",
                [],
                |row| row.get(0),
            )?;
            if !is_empty {
                return Err(Failure::Refused(OpenError::Foreign(path.to_owned())));
            }
        }
        1..=SCHEMA_VERSION => check(&connection, path)?,
        found => {
            return Err(Failure::Refused(OpenError::Newer {
                path: path.to_owned(),
                found,
            }));
        }
    }
    // A commit returns only when its pages are on disk. Every answer relies on this.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    create(&mut connection, wall)?;
    Ok(connection)
}

fn check(connection: &Connection, path: &Path) -> Result<(), Failure> {
    let detail: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if detail == "ok" {
        return Ok(());
    }
    Err(Failure::Refused(OpenError::Damaged {
        path: path.to_owned(),
        detail,
    }))
}

/// Writes the schema into a new file, migrates an old one, and takes the lock. `wall` is the wall clock's time.
fn create(connection: &mut Connection, wall: i64) -> Result<(), rusqlite::Error> {
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    match transaction.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? {
        0 => {
            transaction.execute_batch(SCHEMA)?;
            transaction.execute_batch(TIME)?;
        }
        1 => {
            transaction.execute_batch(TIME)?;
            for change in FROM_SCHEMA_1 {
                transaction.execute(change, [wall])?;
            }
        }
        _ => {}
    }
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}
