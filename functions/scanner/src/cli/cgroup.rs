//! A control group per slot, where cgroup v2 is delegated to us: what is in it can leave neither by forking nor by ending its
//! supervisor. Source: the kernel's admin-guide/cgroup-v2, "Delegation" and `cgroup.kill` (since Linux 5.14).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use sha2::{Digest as _, Sha256};

use super::{BETWEEN_LOOKS, LOOKS};

/// The control group of a run, which ends with this.
pub(super) struct RunGroup {
    path: PathBuf,
}

impl RunGroup {
    /// A group for runs in a slot; `None` where none can be made.
    pub(super) fn make(slot: &Path) -> Option<Self> {
        let path = own()?.join(name_for(slot));
        match fs::create_dir(&path) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => None,
            _ => Some(Self { path }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunGroup {
    fn drop(&mut self) {
        end(&self.path);
    }
}

/// Ends what an earlier process of ours left in the group of a slot.
pub(super) fn end_leftovers(slot: &Path) {
    if let Some(own) = own() {
        end(&own.join(name_for(slot)));
    }
}

fn end(group: &Path) {
    for _ in 0..LOOKS {
        let _ = fs::write(group.join("cgroup.kill"), "1");
        match fs::remove_dir(group) {
            Err(err) if err.kind() == io::ErrorKind::ResourceBusy => thread::sleep(BETWEEN_LOOKS),
            _ => return,
        }
    }
    tracing::warn!("the processes in {} do not end", group.display());
}

/// Told apart from the groups of other scanhooks in the same place.
fn name_for(slot: &Path) -> String {
    let digest = hex::encode(Sha256::digest(slot.as_os_str().as_encoded_bytes()));
    format!("scanhook-{digest:.16}")
}

/// Our own group in the second version's tree. Source: cgroups(7), `/proc/PID/cgroup`; proc(5), `/proc/PID/mountinfo`.
fn own() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    find(&groups, &mounts)
}

fn find(groups: &str, mounts: &str) -> Option<PathBuf> {
    let group = groups.lines().find_map(|it| it.strip_prefix("0::/"))?;
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let below = Path::new("/").join(group);
        let below = below.strip_prefix(root).ok()?;
        kind.starts_with("cgroup2 ")
            .then(|| Path::new(point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_group_is_found_in_the_tree_of_the_second_version() {
        let mounts = "30 29 0:26 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                      35 29 0:31 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let scope = "1:cpu:/x\n0::/user.slice/scanhook.service\n";
        let expected = Path::new("/sys/fs/cgroup/user.slice/scanhook.service");
        assert_eq!(find(scope, mounts).as_deref(), Some(expected));
        let top = find("0::/\n", mounts);
        assert_eq!(top.as_deref(), Some(Path::new("/sys/fs/cgroup/")));
        assert_eq!(find("1:cpu:/x\n", mounts), None);
        assert_eq!(find(scope, ""), None);
        // A part of the tree, as a container without a namespace of its own sees it.
        let part = "35 29 0:31 /docker/4f /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let inside = find("0::/docker/4f/scanner\n", part);
        assert_eq!(inside.as_deref(), Some(Path::new("/sys/fs/cgroup/scanner")));
        assert_eq!(find("0::/elsewhere\n", part), None);
    }
}
