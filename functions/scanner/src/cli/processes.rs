//! Ending processes: a run's group, what left the group, and what an earlier process of ours left behind.
//!
//! On Linux this process adopts the orphans of its children, so that none is out of sight; elsewhere only the group is
//! ended. A descendant that leaves the group *and* clears its environment is not recognised.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpgid};

/// How often it is looked whether a killed process is gone, and how long is waited in between.
const LOOKS: u32 = 100;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// The processes of a run. Whoever of them still lives when this is dropped is killed, and reaped where it is our child.
pub(super) struct RunProcesses {
    /// The group that the CLI leads; `None` if it was reaped before it could be seen.
    group: Option<Pid>,
    /// The home directory they all were started with.
    home: PathBuf,
}

impl RunProcesses {
    /// The processes of the run in `scan` that `child` leads.
    pub(super) fn of(child: &tokio::process::Child, scan: &Path) -> Self {
        let pid = child.id().and_then(|it| i32::try_from(it).ok());
        Self {
            group: pid.and_then(Pid::from_raw),
            home: scan.into(),
        }
    }

    /// Sends a signal to the whole group. That there is nobody left to get it is no error.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for RunProcesses {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            end_group(group);
        }
        end_escaped(&self.home);
    }
}

fn end_group(group: Pid) {
    for _ in 0..LOOKS {
        // Zombies are members too, so this fails as soon as all are reaped, and not before.
        if kill_process_group(group, Signal::KILL).is_err() {
            return;
        }
        while matches!(waitpgid(group, WaitOptions::NOHANG), Ok(Some(_))) {}
        std::thread::sleep(BETWEEN_LOOKS);
    }
    let group = group.as_raw_nonzero().get();
    tracing::warn!(group, "the killed process group {group} does not end");
}

#[cfg(target_os = "linux")]
pub(super) use linux::adopt_orphans;
#[cfg(target_os = "linux")]
use linux::end_escaped;
#[cfg(target_os = "linux")]
pub use linux::end_leftovers;

/// Makes this process the parent of its descendants' orphans. Only Linux can.
#[cfg(not(target_os = "linux"))]
pub(super) fn adopt_orphans() {}

/// Ends the descendants of a run that left its group. Only on Linux can they be found.
#[cfg(not(target_os = "linux"))]
fn end_escaped(_scan: &Path) {}

/// Ends every process that an earlier process of ours started under `root` and left behind. Only on Linux can they be
/// found.
#[cfg(not(target_os = "linux"))]
pub fn end_leftovers(_root: &Path) {}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::{Path, PathBuf};

    use rustix::process::{
        Pid, Signal, WaitOptions, getpgid, getpgrp, getpid, kill_process, kill_process_group,
        set_child_subreaper, waitpid,
    };

    use super::{BETWEEN_LOOKS, LOOKS};

    /// Makes this process the parent of its descendants' orphans.
    pub(in super::super) fn adopt_orphans() {
        if let Err(err) = set_child_subreaper(Some(getpid())) {
            tracing::warn!(
                "could not become a subreaper, so a process that leaves its group may outlive its scan: {err}"
            );
        }
    }

    /// Ends the descendants of the run in `scan` that left its group: they are our children by now.
    pub(super) fn end_escaped(scan: &Path) {
        end_all(|| {
            let escaped = children()
                .into_iter()
                .filter(|&it| home(it).as_deref() == Some(scan));
            escaped.collect()
        });
    }

    /// Ends every process that an earlier process of ours started under `root` and left behind: its home is there.
    pub fn end_leftovers(root: &Path) {
        end_all(|| {
            let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
            let pids = processes.filter_map(|it| it.file_name().to_str().and_then(pid));
            let is_left = |it: &Pid| {
                *it != getpid() && home(*it).is_some_and(|it| it != root && it.starts_with(root))
            };
            pids.filter(is_left).collect()
        });
    }

    /// Kills what `find` finds, with its groups, until it finds nothing more.
    fn end_all(find: impl Fn() -> Vec<Pid>) {
        for _ in 0..LOOKS {
            let found = find();
            if found.is_empty() {
                return;
            }
            for pid in found {
                if let Ok(group) = getpgid(Some(pid))
                    && group != getpgrp()
                {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                let _ = kill_process(pid, Signal::KILL);
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        tracing::warn!("processes that a run left behind do not end");
    }

    /// Our children, as far as the kernel lists them. Source: proc(5), `/proc/pid/task/tid/children`.
    fn children() -> Vec<Pid> {
        let threads = fs::read_dir("/proc/self/task")
            .into_iter()
            .flatten()
            .flatten();
        let lists = threads.filter_map(|it| fs::read_to_string(it.path().join("children")).ok());
        lists
            .flat_map(|it| it.split_whitespace().filter_map(pid).collect::<Vec<_>>())
            .collect()
    }

    fn pid(text: &str) -> Option<Pid> {
        text.parse().ok().and_then(Pid::from_raw)
    }

    /// The home directory a process was started with; `None` for those of other users, and for zombies.
    fn home(pid: Pid) -> Option<PathBuf> {
        let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).ok()?;
        let home = environment
            .split(|it| *it == 0)
            .find_map(|it| it.strip_prefix(b"HOME="))?;
        Some(OsStr::from_bytes(home).into())
    }
}
