//! What keeps a database file from being read or written, in a word and with what to do about it.

use std::io::ErrorKind;
use std::path::Path;

use rusqlite::ErrorCode;

/// Why a database file can't be used. A closed set, and no text of an error: fit for strangers and for labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// There is no space left.
    DiskFull,
    /// The file system, or the file, takes no writes.
    ReadOnly,
    /// Another process holds a lock on the file.
    Locked,
    /// The disk, or what is below the file system, fails.
    Io,
    /// The file is not what it should be.
    Damaged,
    /// Anything else, such as no answer.
    Unavailable,
}

impl Cause {
    /// The cause that SQLite names.
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

    /// The cause itself where SQLite only says that a file failed: asks the directory for another file.
    #[must_use]
    pub fn seen_in(self, directory: &Path) -> Self {
        if self != Self::Io {
            return self;
        }
        let probe = directory.join("probe");
        let written = std::fs::write(&probe, [0; 4096]);
        // Nobody else knows of it, and the next one overwrites it.
        let _ = std::fs::remove_file(&probe);
        match written.map_err(|it| it.kind()) {
            Err(ErrorKind::ReadOnlyFilesystem) => Self::ReadOnly,
            Err(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Self::DiskFull,
            _ => self,
        }
    }

    /// The word in `/readyz`, in the log and in metrics.
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

    /// What it means, and what to do.
    pub fn advice(self) -> &'static str {
        match self {
            Self::DiskFull => "the disk is full; free some space",
            Self::ReadOnly => "the disk is read-only; see why it was mounted or made so",
            Self::Locked => "another process has locked the file; end it",
            Self::Io => "the disk fails; see the kernel's log",
            Self::Damaged => "the file is damaged; restore it from a backup, or move it away",
            Self::Unavailable => "it does not answer",
        }
    }
}
