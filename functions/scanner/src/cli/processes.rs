//! Starting and ending processes: a run's, what it left, and what an earlier process of ours left behind.
//!
//! On Linux the CLI runs below a supervisor (`supervisor`), and whatever either of them leaves becomes a child of this
//! process, which ends every child that it did not start: so nobody has to be recognised by what he says of himself, but for
//! what an earlier process left of which no supervisor and no control group is there. Elsewhere only the CLI's process group
//! is ended.

use std::collections::HashSet;
#[cfg(target_os = "linux")]
use std::io::Write as _;
use std::io::{self, PipeWriter};
#[cfg(not(target_os = "linux"))]
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpgid, waitpid,
};
use tokio::process::{Child, Command};

#[cfg(target_os = "linux")]
use super::protocol;
use super::{BETWEEN_LOOKS, LOOKS};

/// The processes that this one started and has not reaped, and those that it had from the beginning.
static LEADERS: Mutex<Option<HashSet<Pid>>> = Mutex::new(None);

/// Whether every other child is to be ended.
static OWNS_ALL: AtomicBool = AtomicBool::new(false);

fn leaders() -> MutexGuard<'static, Option<HashSet<Pid>>> {
    LEADERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes this process the parent of what its runs leave, and end every child that leads no run and was not there before.
pub(super) fn own_all_children() {
    #[cfg(target_os = "linux")]
    leaders().get_or_insert_default().extend(linux::children());
    let _ = adopt_orphans();
    OWNS_ALL.store(true, Ordering::Relaxed);
}

/// The processes of a run. Whoever of them still lives when this is dropped is killed, and reaped where it is our child.
pub(super) struct RunProcesses {
    /// Who leads them; `None` once it was reaped.
    leader: Option<Pid>,
    /// What the leader, if it is a supervisor, listens to.
    supervision: Option<PipeWriter>,
    #[cfg(target_os = "linux")]
    _group: Option<super::cgroup::RunGroup>,
}

impl RunProcesses {
    /// Starts them: a supervisor, which makes a session of its own, or the CLI itself in a process group of its own.
    pub(super) fn start(
        mut command: Command,
        is_supervisor: bool,
        #[cfg(target_os = "linux")] group: Option<super::cgroup::RunGroup>,
    ) -> io::Result<(Child, Self)> {
        let (stdin, supervision) = if is_supervisor {
            let (reader, writer) = io::pipe()?;
            (reader.into(), Some(writer))
        } else {
            (Stdio::null(), None)
        };
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if !is_supervisor {
            command.process_group(0);
        }
        // Held meanwhile, so that nobody ends it as a stranger.
        let mut leaders = leaders();
        let child = command.spawn()?;
        let leader = child.id().and_then(|it| i32::try_from(it).ok());
        let leader = leader.and_then(Pid::from_raw);
        leaders.get_or_insert_default().extend(leader);
        let processes = Self {
            leader,
            supervision,
            #[cfg(target_os = "linux")]
            _group: group,
        };
        Ok((child, processes))
    }

    /// Asks the CLI and its group to end. That there is nobody left to ask is no error.
    pub(super) fn terminate(&mut self) {
        match (&mut self.supervision, self.leader) {
            #[cfg(target_os = "linux")]
            (Some(supervision), _) => {
                let _ = supervision.write_all(&[protocol::TERMINATE]);
            }
            (_, Some(leader)) => {
                let _ = kill_process_group(leader, Signal::TERM);
            }
            (_, None) => {}
        }
    }

    /// Has everything killed.
    pub(super) fn kill(&mut self) {
        let is_supervised = self.supervision.take().is_some();
        if let (false, Some(leader)) = (is_supervised, self.leader) {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }

    /// Says that the leader was reaped: its number may be another's from now on.
    pub(super) fn leader_is_gone(&mut self) {
        if let (Some(leader), Some(leaders)) = (self.leader.take(), leaders().as_mut()) {
            leaders.remove(&leader);
        }
    }
}

impl Drop for RunProcesses {
    fn drop(&mut self) {
        if let Some(leader) = self.leader {
            // A supervisor ends everything, and then itself. If it can't, we do.
            let is_supervised = self.supervision.is_some();
            self.kill();
            if !(is_supervised && is_reaped(leader)) {
                let _ = kill_process(leader, Signal::KILL);
                end_group(leader);
                is_reaped(leader);
            }
            self.leader_is_gone();
        }
        if OWNS_ALL.load(Ordering::Relaxed) {
            end_children(|it| {
                leaders()
                    .as_ref()
                    .is_some_and(|leaders| leaders.contains(&it))
            });
        }
    }
}

/// Ends every process that runs were begun with, and all they started. Only on Linux can the latter be found.
pub fn end_all_runs() {
    end_children(|_| false);
}

/// Waits a little until a child has ended, and reaps it.
fn is_reaped(child: Pid) -> bool {
    for _ in 0..LOOKS {
        match waitpid(Some(child), WaitOptions::NOHANG) {
            Ok(None) => std::thread::sleep(BETWEEN_LOOKS),
            _ => return true,
        }
    }
    false
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
pub(super) use linux::{adopt_orphans, end_children, end_leftovers, try_supervisor};

/// Only Linux can make this process the parent of its descendants' orphans.
#[cfg(not(target_os = "linux"))]
fn adopt_orphans() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Only on Linux can our children be found.
#[cfg(not(target_os = "linux"))]
fn end_children(_is_spared: impl Fn(Pid) -> bool) {}

/// Ends every process that an earlier process of ours started under `root` and left behind. Only on Linux can they be
/// found.
#[cfg(not(target_os = "linux"))]
pub(super) fn end_leftovers(_root: &Path) {}

/// Only Linux has what a supervisor does.
#[cfg(not(target_os = "linux"))]
pub(super) async fn try_supervisor(_: &Path, _: usize) -> Result<Vec<String>, String> {
    Err("only Linux has it".to_owned())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::OsStr;
    use std::fs;
    use std::io;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::{Path, PathBuf};
    use std::process::Output;
    use std::time::Duration;

    use rustix::process::{
        Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper,
        waitpid,
    };
    use tokio::process::Command;
    use tokio::time::timeout;

    use super::super::{BETWEEN_LOOKS, LOOKS, protocol};
    use super::RunProcesses;

    /// How long a supervisor may take to say what the platform lets it do.
    const TRIAL: Duration = Duration::from_secs(5);

    /// Has a supervisor say what the platform lets it do: a line for each of so many measures, which is `+` or says why not.
    pub(in super::super) async fn try_supervisor(
        program: &Path,
        measures: usize,
    ) -> Result<Vec<String>, String> {
        let output = run_trial(program).await.map_err(|err| err.to_string())?;
        let lines = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<_> = lines.lines().map(str::to_owned).collect();
        if output.status.success() && lines.len() == measures {
            return Ok(lines);
        }
        Err(format!("{} is no supervisor here", program.display()))
    }

    async fn run_trial(program: &Path) -> io::Result<Output> {
        #[expect(
            clippy::disallowed_methods,
            reason = "what is tried is what the CLI is started with"
        )]
        let mut command = Command::new(program);
        command
            .arg0(protocol::NAME)
            .arg(protocol::TRIAL)
            .env_clear()
            .kill_on_drop(true);
        let (child, mut processes) = RunProcesses::start(command, true, None)?;
        let output = timeout(TRIAL, child.wait_with_output()).await?;
        processes.leader_is_gone();
        output
    }

    /// Makes this process the parent of its descendants' orphans.
    pub(in super::super) fn adopt_orphans() -> io::Result<()> {
        Ok(set_child_subreaper(Some(getpid()))?)
    }

    /// Ends our children but those that are spared, and what they leave to us, until there is nobody more.
    pub(in super::super) fn end_children(is_spared: impl Fn(Pid) -> bool) {
        end_all(|| {
            children()
                .into_iter()
                .filter(|it| !is_spared(*it))
                .collect()
        });
    }

    /// Ends every process that an earlier process of ours started under `root` and left behind: its home is there. Its
    /// supervisor does the same at that time, and finds those too whose home is not.
    pub(in super::super) fn end_leftovers(root: &Path) {
        let under_root = |it: &PathBuf| it != root && it.starts_with(root);
        let supervisors =
            || processes().filter(|it| supervised(*it).is_some_and(|it| under_root(&it)));
        for _ in 0..LOOKS {
            if supervisors().next().is_none() {
                break;
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        end_all(|| {
            let is_left = |it: &Pid| {
                *it != getpid()
                    && (home(*it).as_ref().is_some_and(under_root)
                        || supervised(*it).as_ref().is_some_and(under_root))
            };
            processes().filter(is_left).collect()
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
                // Only the group that it leads, if any: it may have joined somebody else's.
                let _ = kill_process_group(pid, Signal::KILL);
                let _ = kill_process(pid, Signal::KILL);
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        tracing::warn!("processes that a run left behind do not end");
    }

    /// Our children, as far as the kernel lists them. Source: proc(5), `/proc/PID/task/TID/children`.
    pub(super) fn children() -> Vec<Pid> {
        let threads = fs::read_dir("/proc/self/task")
            .into_iter()
            .flatten()
            .flatten();
        let lists = threads.filter_map(|it| fs::read_to_string(it.path().join("children")).ok());
        lists
            .flat_map(|it| it.split_whitespace().filter_map(pid).collect::<Vec<_>>())
            .collect()
    }

    fn processes() -> impl Iterator<Item = Pid> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        processes.filter_map(|it| it.file_name().to_str().and_then(pid))
    }

    fn pid(text: &str) -> Option<Pid> {
        text.parse().ok().and_then(Pid::from_raw)
    }

    /// The home directory a process was started with; `None` for those of other users, for private ones, and for zombies.
    fn home(pid: Pid) -> Option<PathBuf> {
        let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).ok()?;
        let home = environment
            .split(|it| *it == 0)
            .find_map(|it| it.strip_prefix(b"HOME="))?;
        Some(OsStr::from_bytes(home).into())
    }

    /// The directory of the scan that a process supervises.
    fn supervised(pid: Pid) -> Option<PathBuf> {
        let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        let mut arguments = arguments.split(|it| *it == 0);
        let is_supervisor = arguments.next()? == protocol::NAME.as_bytes();
        let scan = arguments.next().map(OsStr::from_bytes)?;
        is_supervisor.then(|| scan.into())
    }
}
