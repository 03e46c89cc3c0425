//! The vulnerability database and the analysis cache: files that one run at a time may use.
//!
//! **Invariant:** a file stays locked until the process ends, and processes that it leaves behind don't keep the lock.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::stop::Stop;

const CONTENT: &[u8] = b"vulnerability database of the stand-in\n";

/// A locked, readable database.
pub(crate) struct Database {
    pub(crate) directory: PathBuf,
    pub(crate) file: File,
    /// Whether an earlier run had fetched it.
    pub(crate) cached: bool,
}

impl Database {
    /// Locks the database of a directory, and fetches it if it doesn't exist.
    pub(crate) fn open(directory: &Path) -> Result<Self, Stop> {
        let unable =
            |reason: &str| Stop::error(format!("Unable to retrieve MainDB: {reason}. Exiting now"));
        let mut file = locked(directory, "main.db").map_err(|stop| unable(&stop.words))?;
        let mut found = Vec::new();
        file.read_to_end(&mut found)?;
        let cached = !found.is_empty();
        if cached && found != CONTENT {
            return Err(unable("main.db: invalid database"));
        }
        if !cached {
            fetch(directory, &mut file).map_err(|err| unable(&err.to_string()))?;
        }
        Ok(Self {
            directory: directory.to_owned(),
            file,
            cached,
        })
    }

    /// Makes the database unreadable, for this and every later run.
    pub(crate) fn spoil(&mut self) -> std::io::Result<()> {
        self.file.rewind()?;
        self.file.write_all(b"spoilt")
    }
}

/// Locks the cache of a directory.
pub(crate) fn open_cache(directory: &Path) -> Result<File, Stop> {
    locked(directory, "inlineScannerCache.db")
        .map_err(|stop| Stop::error(format!("unable to open cache: {}", stop.words)))
}

/// Opens and locks a file of a directory. Creates both if they don't exist.
fn locked(directory: &Path, name: &str) -> Result<File, Stop> {
    let path = directory.join(name);
    let opened = fs::create_dir_all(directory)
        .and_then(|()| {
            File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
        })
        .map_err(|err| Stop::error(format!("open {}: {err}", path.display())))?;
    match opened.try_lock() {
        Ok(()) => Ok(opened),
        Err(TryLockError::WouldBlock) => Err(Stop::error(format!(
            "{} is used by another scan",
            path.display()
        ))),
        Err(TryLockError::Error(err)) => Err(err.into()),
    }
}

fn fetch(directory: &Path, file: &mut File) -> std::io::Result<()> {
    file.write_all(CONTENT)?;
    fs::write(directory.join("main.db.meta.json"), "{\"version\":1}\n")
}
