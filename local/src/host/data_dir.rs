//! The directory that `serve` keeps its state in, used by one process at a time.

use std::fs::{File, TryLockError};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// A child that a killed process was just starting holds the lock until it has become another program.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);

/// The file that tells where the queue's endpoint is.
const ENDPOINT: &str = "sqs-endpoint";

/// A data directory that is ours until this is dropped.
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory if there is none, readable by its owner only, and takes it for this process.
    pub(crate) async fn lock(path: &Path) -> anyhow::Result<Self> {
        let (path, lock) = open(path)?;
        let taken = tokio::time::timeout(PATIENCE, async {
            while !try_lock(&lock)? {
                tokio::time::sleep(LOOK).await;
            }
            Ok::<_, std::io::Error>(())
        });
        match taken.await {
            Ok(Ok(())) => Ok(Self { path, _lock: lock }),
            Ok(Err(err)) => Err(err)
                .with_context(|| format!("could not lock the data directory {}", path.display())),
            Err(_) => bail!(
                "another scanhook uses the data directory {}; stop it, or choose another --data-dir",
                path.display()
            ),
        }
    }

    /// The same without waiting; `None` if another process has it.
    pub(crate) fn try_lock(path: &Path) -> anyhow::Result<Option<Self>> {
        let (path, lock) = open(path)?;
        let is_ours = try_lock(&lock)
            .with_context(|| format!("could not lock the data directory {}", path.display()))?;
        Ok(is_ours.then_some(Self { path, _lock: lock }))
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The queue's file.
    pub(crate) fn queue(&self) -> PathBuf {
        queue(&self.path)
    }

    /// Writes down where the queue's endpoint is, for commands that want to use the queue meanwhile.
    pub(crate) fn announce(&self, endpoint: SocketAddr) -> anyhow::Result<()> {
        let path = self.path.join(ENDPOINT);
        std::fs::write(&path, format!("{endpoint}\n"))
            .with_context(|| format!("could not write {}", path.display()))
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

/// The queue's file in a data directory.
pub(crate) fn queue(data_dir: &Path) -> PathBuf {
    data_dir.join("queue.sqlite")
}

/// Where the queue's endpoint is, or was when the directory was last served. An address of every interface is reached by
/// the loopback one.
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

/// The ledger's file in a data directory.
pub(crate) fn ledger(data_dir: &Path) -> PathBuf {
    data_dir.join("ledger.sqlite")
}

/// Creates a data directory if there is none, readable by its owner only.
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
