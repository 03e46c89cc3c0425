//! Running a tool's program: the one place that starts a process.
//!
//! In reading order: `slots` (where runs write), `space` (how much room there is), `confinement` (what the CLI must not have, and
//! what the platform lets us do about it), `supervisor` (the process between us and the CLI) with `landlock` and `cgroup`,
//! `processes` (starting and ending them).
//!
//! **Invariant**: no shell; an environment made from nothing; a supervisor of its own, below which nothing is left when
//! the run ends, however it ends; its directory is gone then too. What was printed or reported leaves here redacted.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use futures_util::future::{Either, join, select};
use rustix::fs::{Access, Mode, OFlags};
use scanhook_config::Environment;
use scanhook_core::message::ScanId;
use scanhook_core::redact::Redactor;
use scanhook_core::tools::{Exit, Run, ScanInputs, Tool};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

#[cfg(target_os = "linux")]
mod cgroup;
mod confinement;
#[cfg(target_os = "linux")]
mod landlock;
mod processes;
#[cfg(target_os = "linux")]
mod protocol;
mod slots;
mod space;
#[cfg(target_os = "linux")]
mod supervisor;

pub use confinement::{Confinement, Measure, protect};
use processes::RunProcesses;
pub use processes::end_all_runs;
use slots::ScanDirectory;
pub use slots::{OpenSlotsError, Slot, Slots};
pub use space::{FreeSpace, NoRoom};
#[cfg(target_os = "linux")]
pub use supervisor::supervise;

/// Is a supervisor, if this program was started as one. Only on Linux it ever is.
#[cfg(not(target_os = "linux"))]
pub fn supervise() -> Option<std::process::ExitCode> {
    None
}

/// A tool's program.
pub struct Cli {
    pub tool: &'static Tool,
    /// The executable.
    pub program: PathBuf,
    pub inherited: Inherited,
    /// What it is kept from.
    pub confinement: Confinement,
}

/// What of our own environment the program is given: `PATH`, and the proxy variables that are set, each with its name.
#[derive(Clone, Default)]
pub struct Inherited(pub Vec<(&'static str, OsString)>);

impl Inherited {
    /// What of this environment is given on.
    pub fn of(environment: &Environment) -> Self {
        let names = [
            "PATH",
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
        ];
        let variable = |name| Some((name, environment(name)?.into()));
        Self(names.into_iter().filter_map(variable).collect())
    }
}

/// How often it is looked whether a killed process is gone, and how long is waited in between.
const LOOKS: u32 = 1000;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// What the name of a run's directory begins with.
const SCAN_PREFIX: &str = "scan-";

/// Between SIGTERM and SIGKILL, within the run's time.
const TERM_GRACE: Duration = Duration::from_secs(2);

/// How long a supervisor may take to end everything. It takes as long as the kernel does, unless somebody stopped it.
const END_GRACE: Duration = Duration::from_secs(1);

/// How long is waited for the end of the output once the process and its group are gone.
const DRAIN_GRACE: Duration = Duration::from_millis(250);

/// This much of the end of each stream is kept.
const STDERR_KEPT: usize = 64 * 1024;
const STDOUT_KEPT: usize = 4 * 1024;

/// The largest report that is read.
const MAX_REPORT: u64 = 64 * 1024 * 1024;

impl Cli {
    /// Runs the program for `inputs`, for `limit` at most. Dropping the future ends the run as well.
    pub async fn run(
        &self,
        inputs: &ScanInputs,
        scan_id: &ScanId,
        slot: &mut Slot,
        limit: Duration,
    ) -> io::Result<Run> {
        let scan = slot.begin(scan_id)?;
        let plan = (self.tool.plan)(inputs, &scan.directories());
        for (path, content) in plan.files {
            fs::write(path, content.as_bytes())?;
        }
        let started = self.start(plan.arguments, plan.environment, &scan)?;
        slot.distrust_database();
        let (exit, [stdout, stderr]) = watch(started, limit).await?;
        if matches!(exit, Exit::Code(_)) {
            slot.trust_database();
        }
        let redactor = Redactor::new(inputs.secrets());
        let printed = [stderr, stdout].map(|it| it.shown(&redactor));
        let printed = printed.into_iter().find(|it| !it.is_empty());
        let expected = plan.report;
        // Reading, parsing and removing may take a while, and other runs go on meanwhile.
        let finish = move || {
            let report = match exit {
                Exit::Code(code) if (expected.is_promised_by)(code) => {
                    read_report(&expected.path).and_then(|bytes| (expected.read)(&bytes, &redactor))
                }
                _ => Err("no report was expected".to_owned()),
            };
            drop(scan);
            report
        };
        Ok(Run {
            exit,
            report: tokio::task::spawn_blocking(finish).await?,
            printed: printed.unwrap_or_default(),
        })
    }

    /// Runs the program with these arguments, no secret and no image, for `limit` at most. Returns how it ended and what it
    /// printed, the end of stdout before that of stderr.
    pub async fn ask(
        &self,
        arguments: &[&str],
        slot: &mut Slot,
        limit: Duration,
    ) -> io::Result<(Exit, String)> {
        let scan = slot.begin(&ScanId::doctor())?;
        let arguments = arguments.iter().map(Into::into).collect();
        let started = self.start(arguments, Vec::new(), &scan)?;
        let (exit, printed) = watch(started, limit).await?;
        let redactor = Redactor::new([]);
        let printed = printed.map(|it| it.shown(&redactor));
        Ok((exit, printed.join("\n").trim().to_owned()))
    }

    /// Starts the program below a supervisor, where there can be one.
    fn start(
        &self,
        arguments: Vec<OsString>,
        environment: Vec<(&'static str, OsString)>,
        scan: &ScanDirectory,
    ) -> io::Result<(Child, RunProcesses)> {
        // What the supervisor finds wrong with it would look like the CLI's own end.
        rustix::fs::access(&self.program, Access::EXEC_OK)?;
        #[cfg(target_os = "linux")]
        let group = cgroup::RunGroup::make(scan.slot());
        #[cfg(target_os = "linux")]
        let mut command = match self.confinement.supervisor() {
            Some(supervisor) => {
                let hidden = self.confinement.hidden_with(scan.root());
                let job = supervisor::Job {
                    must_confine: self.confinement.takes(Measure::Files),
                    scan: scan.path(),
                    database: scan.directories().database,
                    hidden: &hidden,
                    group: group.as_ref().map(cgroup::RunGroup::path),
                    program: &self.program,
                    arguments: &arguments,
                };
                let mut command = command(supervisor);
                command.arg0(protocol::NAME).args(job.to_arguments());
                command
            }
            None => unsupervised(&self.program, arguments),
        };
        #[cfg(not(target_os = "linux"))]
        let mut command = unsupervised(&self.program, arguments);
        command
            .env_clear()
            .envs(self.inherited.0.iter().cloned())
            .env("HOME", scan.path())
            .env("TMPDIR", scan.path().join("tmp"))
            .envs(environment)
            .current_dir(scan.path());
        RunProcesses::start(
            command,
            self.confinement.supervisor().is_some(),
            #[cfg(target_os = "linux")]
            group,
        )
    }
}

fn unsupervised(program: &Path, arguments: Vec<OsString>) -> Command {
    let mut command = command(program);
    command.args(arguments);
    command
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that starts a process"
)]
fn command(program: &Path) -> Command {
    Command::new(program)
}

/// Waits for a run to end, `limit` at most, and for its streams: the ends of stdout and stderr. Nothing of its processes is
/// left then.
async fn watch(
    (mut child, mut processes): (Child, RunProcesses),
    limit: Duration,
) -> io::Result<(Exit, [Tail; 2])> {
    let (mut stdout, mut stderr) = (Tail::new(STDOUT_KEPT), Tail::new(STDERR_KEPT));
    let exit = {
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let mut drained = pin!(join(stdout.fill_from(out), stderr.fill_from(err)));
        let ended = wait(&mut child, &mut processes, limit);
        let (exit, is_drained) = match select(pin!(ended), drained.as_mut()).await {
            Either::Left((exit, _)) => (exit, false),
            Either::Right((_, ended)) => (ended.await, true),
        };
        // Whoever is left may hold the streams open.
        drop(processes);
        if !is_drained {
            let _ = timeout(DRAIN_GRACE, drained).await;
        }
        exit?
    };
    Ok((exit, [stdout, stderr]))
}

/// Waits for the CLI to end; ends it and all its processes when its time is up.
async fn wait(
    child: &mut Child,
    processes: &mut RunProcesses,
    limit: Duration,
) -> io::Result<Exit> {
    let grace = TERM_GRACE.min(limit / 4);
    let mut ended = timeout(limit.saturating_sub(grace), child.wait()).await;
    let is_in_time = ended.is_ok();
    if ended.is_err() {
        processes.terminate();
        ended = timeout(grace, child.wait()).await;
    }
    if ended.is_err() {
        processes.kill();
        ended = timeout(END_GRACE, child.wait()).await;
    }
    let Ok(status) = ended else {
        // Somebody keeps the supervisor from ending; it is ended with the others.
        return Ok(Exit::Deadline);
    };
    processes.leader_is_gone();
    let status = status?;
    Ok(if is_in_time {
        exit(status)
    } else {
        Exit::Deadline
    })
}

fn exit(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }
}

/// The end of a stream.
struct Tail {
    bytes: Vec<u8>,
    kept: usize,
    is_cut: bool,
}

impl Tail {
    fn new(kept: usize) -> Self {
        Self {
            bytes: Vec::new(),
            kept,
            is_cut: false,
        }
    }

    /// Reads a stream to its end, and forgets all but the end of it.
    async fn fill_from(&mut self, stream: Option<impl AsyncRead + Unpin>) -> io::Result<()> {
        let Some(mut stream) = stream else {
            return Ok(());
        };
        loop {
            self.bytes.reserve(self.kept);
            if stream.read_buf(&mut self.bytes).await? == 0 {
                return Ok(());
            }
            if self.bytes.len() > 2 * self.kept {
                self.cut();
            }
        }
    }

    fn cut(&mut self) {
        let surplus = self.bytes.len().saturating_sub(self.kept);
        self.bytes.drain(..surplus);
        self.is_cut |= surplus > 0;
    }

    fn shown(mut self, redactor: &Redactor) -> String {
        self.cut();
        let text = String::from_utf8_lossy(&self.bytes);
        if self.is_cut {
            redactor.clean_tail(&text)
        } else {
            redactor.clean(&text)
        }
    }
}

/// Reads a report that the program, which handles hostile images, may have left: no link, pipe or flood of bytes is followed.
fn read_report(path: &Path) -> Result<Vec<u8>, String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty());
    let file = File::from(file.map_err(|_| "there is no report".to_owned())?);
    let metadata = file.metadata().map_err(|err| err.to_string())?;
    if !metadata.is_file() {
        return Err("the report is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    let read = file.take(MAX_REPORT + 1).read_to_end(&mut bytes);
    let read = read.map_err(|err| err.to_string())?;
    if u64::try_from(read).unwrap_or(u64::MAX) > MAX_REPORT {
        return Err("the report is too large".to_owned());
    }
    Ok(bytes)
}
