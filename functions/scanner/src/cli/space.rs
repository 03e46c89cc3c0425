//! The space that runs share: how much is free, and how much other runs hold.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use scanhook_core::failure::Class;

use super::SCAN_PREFIX;

/// Measures the bytes that are free where a directory is; an argument, so that a test needs no full disk.
pub type FreeSpace = Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// The bytes that the file system has for us.
pub(super) fn free_space() -> FreeSpace {
    Arc::new(|directory| {
        let disk = rustix::fs::statvfs(directory)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    })
}

/// There is no room for an image.
#[derive(Debug, thiserror::Error)]
#[error(
    "its compressed layers have {needed} bytes, and {free} are free in the scratch space{}",
    if *held > 0 { format!(", where other scans hold {held}") } else { String::new() }
)]
pub struct NoRoom {
    needed: u64,
    free: u64,
    held: u64,
}

impl NoRoom {
    /// Transient if there will be room once the other scans have ended.
    pub fn class(&self) -> Class {
        if self.free.saturating_add(self.held) >= self.needed {
            Class::Transient
        } else {
            Class::Permanent
        }
    }
}

/// Checks that there is room in a slot.
pub(super) fn check(free_space: &FreeSpace, slot: &Path, needed: u64) -> Result<(), NoRoom> {
    match free_space(slot) {
        Ok(free) if free < needed => Err(NoRoom {
            needed,
            free,
            held: other_runs(slot).map(|it| size_of(&it.path())).sum(),
        }),
        // If the free space can't be measured, the run shows whether it is enough.
        _ => Ok(()),
    }
}

/// The directories of the runs in other slots of this process.
pub(super) fn other_runs(slot: &Path) -> impl Iterator<Item = fs::DirEntry> {
    let list = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    let root = slot.parent().unwrap_or(slot);
    let slots = list(root).map(|it| it.path()).filter(move |it| it != slot);
    slots.flat_map(move |it| list(&it)).filter(|it| {
        let name = it.file_name();
        name.as_encoded_bytes().starts_with(SCAN_PREFIX.as_bytes())
    })
}

/// The bytes on disk of everything below a directory. What can't be read, or is gone by now, counts as none.
fn size_of(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(it) if it.is_dir() => size_of(&entry.path()),
        // In units of 512 bytes, whatever the file system's blocks are. Source: stat(3type).
        Ok(it) => it.blocks().saturating_mul(512),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
