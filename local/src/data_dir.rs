//! The directory that `serve` keeps its state in, used by one process at a time.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// A child that a killed process was just starting holds the lock until it has become another program.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);

/// A data directory that is ours until this is dropped.
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory if there is none, readable by its owner only, and takes it for this process.
    pub(crate) async fn lock(path: &Path) -> anyhow::Result<Self> {
        create(path)
            .with_context(|| format!("could not create the data directory {}", path.display()))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("could not find {}", path.display()))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"));
        let lock = lock
            .with_context(|| format!("could not write to the data directory {}", path.display()))?;
        let taken = tokio::time::timeout(PATIENCE, async {
            while let Err(err) = lock.try_lock() {
                match err {
                    TryLockError::WouldBlock => tokio::time::sleep(LOOK).await,
                    TryLockError::Error(err) => return Err(err),
                }
            }
            Ok(())
        });
        match taken.await {
            Ok(Ok(())) => Ok(Self { path, _lock: lock }),
            Ok(Err(err)) => Err(err)
                .with_context(|| format!("could not lock the data directory {}", path.display())),
            Err(_) => bail!(
                "another scanhook uses the data directory {}; end it, or name another --data-dir",
                path.display()
            ),
        }
    }

    /// The queue's file.
    pub(crate) fn queue(&self) -> PathBuf {
        self.path.join("queue.sqlite")
    }

    /// The ledger's file.
    pub(crate) fn ledger(&self) -> PathBuf {
        ledger(&self.path)
    }

    /// Where scans write; emptied at each start.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.path.join("scratch")
    }
}

/// The ledger's file in a data directory.
pub(crate) fn ledger(data_dir: &Path) -> PathBuf {
    data_dir.join("ledger.sqlite")
}

#[cfg(unix)]
fn create(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

#[cfg(not(unix))]
fn create(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(path)
}
