//! Where runs write: as many slots as may run at once, each with a database that is kept between its runs, and a fresh
//! directory for each run.
//!
//! **Invariant**: a run's directory is gone when its [`ScanDirectory`] is, on every path. One that is found at start is
//! of a process that was killed: it is removed, and so is the database that was in use.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use scanhook_core::message::ScanId;
use scanhook_core::tools::RunDirectories;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::space::{self, FreeSpace, NoRoom};
use super::{SCAN_PREFIX, processes};

/// The slots of one process. Copies share them.
#[derive(Clone)]
pub struct Slots {
    free: Arc<Mutex<Vec<PathBuf>>>,
    permits: Arc<Semaphore>,
    free_space: FreeSpace,
    /// Held as long as the slots are.
    _lock: Arc<File>,
}

/// The scratch space can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenSlotsError {
    /// Another process uses it.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// It can't be read or written.
    #[error("could not prepare the scratch space {}", path.display())]
    Io {
        /// The scratch space.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Slots {
    /// Prepares `count` slots under `root`, and ends and removes what an earlier process left there.
    pub fn open(root: &Path, count: u32) -> Result<Self, OpenSlotsError> {
        let unusable = |source| OpenSlotsError::Io {
            path: root.into(),
            source,
        };
        fs::create_dir_all(root).map_err(unusable)?;
        let root = fs::canonicalize(root).map_err(unusable)?;
        let lock = File::create(root.join("lock")).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenSlotsError::InUse(root)),
            Err(TryLockError::Error(err)) => return Err(unusable(err)),
        }
        processes::end_leftovers(&root);
        let slots: Vec<_> = (0..count)
            .map(|it| root.join(format!("slot-{it}")))
            .collect();
        #[cfg(target_os = "linux")]
        for slot in &slots {
            super::cgroup::end_leftovers(slot);
        }
        prepare(&root, &slots).map_err(unusable)?;
        let permits = Semaphore::new(slots.len());
        Ok(Self {
            free: Arc::new(Mutex::new(slots)),
            permits: Arc::new(permits),
            free_space: space::free_space(),
            _lock: Arc::new(lock),
        })
    }

    /// The same slots with another measure of the free space.
    #[must_use]
    pub fn with_free_space(self, free_space: FreeSpace) -> Self {
        Self { free_space, ..self }
    }

    /// Waits for a free slot and takes it.
    pub async fn lease(&self) -> Slot {
        let (Ok(permit), Some(directory)) =
            (Arc::clone(&self.permits).acquire_owned().await, self.pop())
        else {
            unreachable!("the semaphore is never closed, and there are as many slots as permits")
        };
        Slot {
            directory,
            database_is_suspect: false,
            free: Arc::clone(&self.free),
            free_space: Arc::clone(&self.free_space),
            _permit: permit,
        }
    }

    fn pop(&self) -> Option<PathBuf> {
        lock(&self.free).pop()
    }
}

/// A permit is returned after its slot: so whoever gets one finds a slot.
fn lock(free: &Mutex<Vec<PathBuf>>) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
    free.lock().unwrap_or_else(PoisonError::into_inner)
}

fn prepare(root: &Path, slots: &[PathBuf]) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if path.is_dir() && !slots.contains(&path) {
            remove_tree(&path)?;
        }
    }
    for slot in slots {
        fs::create_dir_all(slot)?;
        for entry in fs::read_dir(slot)? {
            let entry = entry?;
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(SCAN_PREFIX.as_bytes())
            {
                remove_tree(&entry.path())?;
                remove_tree(&slot.join(DATABASE))?;
            }
        }
    }
    Ok(())
}

const DATABASE: &str = "database";

/// A slot that is taken; free again when dropped.
pub struct Slot {
    directory: PathBuf,
    database_is_suspect: bool,
    free: Arc<Mutex<Vec<PathBuf>>>,
    free_space: FreeSpace,
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    /// Checks that there is room for the compressed layers of an image. A pull takes at least that; how much larger they are
    /// unpacked, and how much of it the CLI writes, only its run shows.
    pub fn room_for(&self, needed: u64) -> Result<(), NoRoom> {
        space::check(&self.free_space, &self.directory, needed)
    }

    /// Whether other runs hold space, which they give back when they end.
    pub fn is_space_shared(&self) -> bool {
        space::other_runs(&self.directory).next().is_some()
    }

    /// Has the database fetched anew before the next run.
    pub fn distrust_database(&mut self) {
        self.database_is_suspect = true;
    }

    /// Removes the database at once.
    pub(crate) fn forget_database(&mut self) {
        if let Err(err) = remove_tree(&self.database()) {
            tracing::error!("could not remove the database: {err}");
        }
    }

    /// Where its runs keep the database; there may be none.
    pub(crate) fn database(&self) -> PathBuf {
        self.directory.join(DATABASE)
    }

    /// Says that the run that used the database ended by itself.
    pub(super) fn trust_database(&mut self) {
        self.database_is_suspect = false;
    }

    /// Makes the directories of a run.
    pub(super) fn begin(&self, scan_id: &ScanId) -> io::Result<ScanDirectory> {
        let database = self.database();
        fs::create_dir_all(&database)?;
        let mut name = tempfile::Builder::new();
        let directory = name
            .prefix(&format!("{SCAN_PREFIX}{scan_id}-"))
            .tempdir_in(&self.directory)?;
        let scan = ScanDirectory {
            path: directory.keep(),
            database,
        };
        fs::create_dir(scan.path.join("tmp"))?;
        fs::create_dir(scan.path.join("cache"))?;
        Ok(scan)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.database_is_suspect
            && let Err(err) = remove_tree(&self.database())
        {
            tracing::error!("could not remove a database that may be broken: {err}");
        }
        lock(&self.free).push(std::mem::take(&mut self.directory));
    }
}

/// The directory of one run, removed when dropped.
pub(super) struct ScanDirectory {
    path: PathBuf,
    database: PathBuf,
}

impl ScanDirectory {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The slot in which it is.
    #[cfg(target_os = "linux")]
    pub(super) fn slot(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// The directory of all slots.
    #[cfg(target_os = "linux")]
    pub(super) fn root(&self) -> &Path {
        self.slot().parent().unwrap_or(&self.path)
    }

    pub(super) fn directories(&self) -> RunDirectories<'_> {
        RunDirectories {
            scan: &self.path,
            database: &self.database,
        }
    }
}

impl Drop for ScanDirectory {
    fn drop(&mut self) {
        if let Err(err) = remove_tree(&self.path) {
            tracing::error!("could not remove the directory of a scan: {err}");
        }
    }
}

/// Removes a directory with all that is in it, also where directories in it may not be written to.
fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(path)?;
            fs::remove_dir_all(path)
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn make_writable(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Of the entry itself: a link out of here is not followed.
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}
