//! The space that runs share: what is free, and what other runs hold of it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use scanhook_core::verdict::Class;

use super::slots::{SCAN_PREFIX, Slot};

/// Tells how many bytes are free where this directory is; an argument, so that a test needs no full disk.
pub type FreeSpace = Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// What the file system has for us.
pub(super) fn free_space() -> FreeSpace {
    Arc::new(|directory| {
        let disk = rustix::fs::statvfs(directory)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    })
}

/// An image has no room.
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
    /// Whether it will have some once the other scans have ended.
    pub fn class(&self) -> Class {
        if self.free.saturating_add(self.held) >= self.needed {
            Class::Transient
        } else {
            Class::Permanent
        }
    }
}

impl Slot {
    /// Looks whether there is room for the compressed layers of an image. That is the least that pulling it takes: how much
    /// more they are unpacked, and what of that the CLI writes, only its run shows.
    pub fn room_for(&self, needed: u64) -> Result<(), NoRoom> {
        match (self.free_space)(&self.directory) {
            Ok(free) if free < needed => Err(NoRoom {
                needed,
                free,
                held: self.other_runs().map(|it| size_of(&it.path())).sum(),
            }),
            // A file system that does not tell lets the run tell.
            _ => Ok(()),
        }
    }

    /// Whether other runs hold space, which they give back when they end.
    pub fn is_space_shared(&self) -> bool {
        self.other_runs().next().is_some()
    }

    /// The directories of the runs in other slots of this process.
    fn other_runs(&self) -> impl Iterator<Item = fs::DirEntry> {
        let list = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
        let root = self.directory.parent().unwrap_or(&self.directory);
        let own = self.directory.clone();
        list(root)
            .map(|it| it.path())
            .filter(move |it| *it != own)
            .flat_map(move |it| list(&it))
            .filter(|it| {
                let name = it.file_name();
                name.as_encoded_bytes().starts_with(SCAN_PREFIX.as_bytes())
            })
    }
}

/// The bytes on the disk of all below a directory; none of what can't be read or is gone by now.
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
