//! Why a database file can't be read or written: one word, with advice for the operator.

use std::io::ErrorKind;
use std::path::Path;

use rusqlite::ErrorCode;

/// Why a database file can't be used. The set is closed and holds no error texts, so it can be shown to strangers and
/// used in labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    DiskFull,
    /// The file or its file system refuses writes.
    ReadOnly,
    Locked,
    /// The disk fails, or the layer below the file system.
    Io,
    /// The file isn't a valid database.
    Damaged,
    /// Anything else, such as a missing answer.
    Unavailable,
}

impl Cause {
    /// Maps SQLite's error code to a cause.
    pub fn of(err: &rusqlite::Error) -> Self {
        match err.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            Some(ErrorCode::ReadOnly) => Self::ReadOnly,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            Some(ErrorCode::SystemIoFailure) => Self::Io,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged,
            _ => Self::Unavailable,
        }
    }

    /// Refines [`Cause::Io`] by writing a probe file to the directory: SQLite reports only that a file operation
    /// failed.
    #[must_use]
    pub fn seen_in(self, directory: &Path) -> Self {
        if self != Self::Io {
            return self;
        }
        let probe = directory.join("probe");
        let written = std::fs::write(&probe, [0; 4096]);
        // A failure here is harmless: nobody else uses the probe, and the next one overwrites it.
        let _ = std::fs::remove_file(&probe);
        match written.map_err(|it| it.kind()) {
            Err(ErrorKind::ReadOnlyFilesystem) => Self::ReadOnly,
            Err(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Self::DiskFull,
            _ => self,
        }
    }

    /// The word shown in `/readyz`, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DiskFull => "disk_full",
            Self::ReadOnly => "read_only",
            Self::Locked => "locked",
            Self::Io => "io",
            Self::Damaged => "damaged",
            Self::Unavailable => "unavailable",
        }
    }

    /// What the cause means, and what to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::DiskFull => "the disk is full; free some space",
            Self::ReadOnly => "the disk is read-only; find out why it was mounted or set so",
            Self::Locked => "another process has locked the file; end it",
            Self::Io => "the disk fails; see the kernel's log",
            Self::Damaged => "the file is damaged; restore it from a backup, or move it away",
            Self::Unavailable => "it does not answer",
        }
    }
}
