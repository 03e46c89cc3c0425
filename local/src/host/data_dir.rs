//! The directory with the state of `serve`, which one process at a time may use.

use std::fs::{File, TryLockError};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// How long to wait for the lock. A child that a killed process was starting holds it until its exec.
const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);

/// The file with the address of the queue's endpoint.
const ENDPOINT: &str = "sqs-endpoint";

/// A data directory that is locked until this is dropped.
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory, readable by its owner only, if it doesn't exist; locks it.
    pub(crate) async fn lock(path: &Path) -> anyhow::Result<Self> {
        let (path, lock) = open(path)?;
        let locked = tokio::time::timeout(PATIENCE, async {
            while !try_lock(&lock)? {
                tokio::time::sleep(POLL).await;
            }
            Ok::<_, std::io::Error>(())
        });
        match locked.await {
            Ok(Ok(())) => Ok(Self { path, _lock: lock }),
            Ok(Err(err)) => Err(err)
                .with_context(|| format!("could not lock the data directory {}", path.display())),
            Err(_) => bail!(
                "another scanhook uses the data directory {}; stop it, or choose another --data-dir",
                path.display()
            ),
        }
    }

    /// Locks the directory without waiting; `None` if another process has locked it.
    pub(crate) fn try_lock(path: &Path) -> anyhow::Result<Option<Self>> {
        let (path, lock) = open(path)?;
        let is_ours = try_lock(&lock)
            .with_context(|| format!("could not lock the data directory {}", path.display()))?;
        Ok(is_ours.then_some(Self { path, _lock: lock }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn queue(&self) -> PathBuf {
        queue(&self.path)
    }

    /// Records the address of the queue's endpoint, for commands that use the queue meanwhile.
    pub(crate) fn announce(&self, endpoint: SocketAddr) -> anyhow::Result<()> {
        let path = self.path.join(ENDPOINT);
        std::fs::write(&path, format!("{endpoint}\n"))
            .with_context(|| format!("could not write {}", path.display()))
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        ledger(&self.path)
    }

    /// The scratch space of scans, emptied at each start.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.path.join("scratch")
    }
}

fn open(path: &Path) -> anyhow::Result<(PathBuf, File)> {
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
    let lock =
        lock.with_context(|| format!("could not write to the data directory {}", path.display()))?;
    Ok((path, lock))
}

fn try_lock(lock: &File) -> std::io::Result<bool> {
    match lock.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(err)) => Err(err),
    }
}

pub(crate) fn queue(data_dir: &Path) -> PathBuf {
    data_dir.join("queue.sqlite")
}

/// The last recorded address of the queue's endpoint. An unspecified address becomes the loopback address.
pub(crate) fn endpoint(data_dir: &Path) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(data_dir.join(ENDPOINT)).ok()?;
    let mut address: SocketAddr = text.trim().parse().ok()?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Some(address)
}

pub(crate) fn ledger(data_dir: &Path) -> PathBuf {
    data_dir.join("ledger.sqlite")
}

/// Creates a data directory, readable by its owner only, if it doesn't exist.
#[cfg(unix)]
pub(crate) fn create(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

#[cfg(not(unix))]
pub(crate) fn create(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(path)
}
