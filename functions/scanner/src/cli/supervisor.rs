//! The process between scanhook and the CLI: this program, under another name.
//!
//! It confines the CLI, and is the parent of whatever the CLI leaves. When the CLI ends, it ends all of that, and then ends
//! as the CLI did. When scanhook ends first, however it ends, it ends everything. It learns of that by the end of its stdin:
//! a parent-death signal would come at the end of the *thread* that started it. Source: prctl(2), `PR_SET_PDEATHSIG`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group, setsid};

use super::confinement::{Measure, keep_private};
use super::landlock::{self, Reach};
use super::processes::{adopt_orphans, end_children};
use super::protocol::{NAME, TERMINATE, TRIAL};

/// The exit code of one that could not start the CLI, or whose scanhook is gone.
const COULD_NOT_START: u8 = 127;

/// What to run, and where it may write.
pub(super) struct Job<'a> {
    /// Whether the platform can confine it, so that it must not run if that fails.
    pub(super) must_confine: bool,
    pub(super) scan: &'a Path,
    pub(super) database: &'a Path,
    /// Where it may not even read.
    pub(super) hidden: &'a [PathBuf],
    /// The control group for everything that it starts.
    pub(super) group: Option<&'a Path>,
    pub(super) program: &'a Path,
    pub(super) arguments: &'a [OsString],
}

impl Job<'_> {
    /// The arguments of the supervisor that does it.
    pub(super) fn to_arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![
            self.scan.into(),
            u8::from(self.must_confine).to_string().into(),
            self.database.into(),
            self.group.unwrap_or(Path::new("")).into(),
            self.hidden.len().to_string().into(),
        ];
        arguments.extend(self.hidden.iter().map(Into::into));
        arguments.push(self.program.into());
        arguments.extend_from_slice(self.arguments);
        arguments
    }
}

/// The same as read back.
struct OwnedJob {
    scan: PathBuf,
    must_confine: bool,
    database: PathBuf,
    hidden: Vec<PathBuf>,
    group: Option<PathBuf>,
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl OwnedJob {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let scan = arguments.next()?.into();
        let must_confine = arguments.next()? == "1";
        let mut path = || arguments.next().map(PathBuf::from);
        let (database, group) = (path()?, path()?);
        let hidden = arguments.next()?.to_str()?.parse().ok()?;
        Some(Self {
            scan,
            must_confine,
            database,
            group: (!group.as_os_str().is_empty()).then_some(group),
            hidden: arguments.by_ref().take(hidden).map(PathBuf::from).collect(),
            program: arguments.next()?.into(),
            arguments: arguments.collect(),
        })
    }

    fn start(&self) -> io::Result<Child> {
        let confined = landlock::confine(&Reach {
            written: [&self.scan, &self.database],
            hidden: &self.hidden,
            program: &self.program,
        });
        if self.must_confine && !matches!(confined, Ok(true)) {
            return Err(io::Error::other(format!(
                "it can't be confined: {confined:?}"
            )));
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "the supervisor is what starts the CLI"
        )]
        Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
    }
}

/// Is a supervisor, if this program was started as one. Call it before anything else.
pub fn supervise() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    if arguments.next()? != NAME {
        return None;
    }
    // Out of scanhook's session: it has neither its terminal nor groups of processes that the CLI could join.
    let _ = setsid();
    let refused = keep_private().err();
    let adopted = adopt_orphans().err();
    let arguments: Vec<_> = arguments.collect();
    if arguments.first().map(OsString::as_os_str) == Some(OsStr::new(TRIAL)) {
        return Some(answer(&[refused, adopted]));
    }
    let Some(job) = OwnedJob::parse(arguments.into_iter()) else {
        return Some(ExitCode::from(COULD_NOT_START));
    };
    if let Some(group) = &job.group {
        let _ = fs::write(group.join("cgroup.procs"), "0");
    }
    // The thread alone is confined, so that this process can still end what it started.
    let started = thread::scope(|scope| scope.spawn(|| job.start()).join());
    let mut child = match started {
        Ok(Ok(child)) => child,
        Ok(Err(err)) => return Some(could_not_start(&job.program, &err)),
        Err(_) => return Some(ExitCode::from(COULD_NOT_START)),
    };
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    thread::spawn(move || obey(group));
    match child.wait() {
        Ok(status) => {
            end_children(|_| false);
            Some(end_as(status))
        }
        // It was reaped by the thread that is ending everything.
        Err(_) => loop {
            thread::park();
        },
    }
}

/// Does what scanhook says, until it says nothing more.
fn obey(group: Option<Pid>) -> ! {
    let mut word = [0];
    loop {
        match io::stdin().read(&mut word) {
            Ok(1) if word == [TERMINATE] => {
                if let Some(group) = group {
                    let _ = kill_process_group(group, Signal::TERM);
                }
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    end_children(|_| false);
    #[expect(
        clippy::exit,
        reason = "the other thread waits for a child that is gone"
    )]
    std::process::exit(COULD_NOT_START.into())
}

/// Ends as a child did: with its code, or by the signal that ended it.
fn end_as(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal().and_then(Signal::from_named_raw) {
        let _ = kill_process(getpid(), signal);
    }
    // One that is ignored here, such as SIGPIPE, is shown as a shell shows it.
    let code = status.code().or(status.signal().map(|it| 128 + it));
    let code = code.and_then(|it| u8::try_from(it).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

#[expect(clippy::print_stderr, reason = "it is read as what the CLI printed")]
fn could_not_start(program: &Path, err: &io::Error) -> ExitCode {
    eprintln!("could not start {}: {err}", program.display());
    ExitCode::from(COULD_NOT_START)
}

/// Says of each measure whether it took, in the order of [`Measure::ALL`]: `+`, or why not.
#[expect(clippy::print_stdout, reason = "its stdout is how it answers")]
fn answer([refused, adopted]: &[Option<io::Error>; 2]) -> ExitCode {
    let confined = thread::spawn(|| {
        let nowhere = Path::new("/nonexistent");
        landlock::confine(&Reach {
            written: [nowhere, nowhere],
            hidden: &[],
            program: nowhere,
        })
    });
    let confined = match confined.join() {
        Ok(Ok(true)) if landlock::keeps_lengths() => None,
        Ok(Ok(true)) => Some(
            "the kernel's Landlock does not keep files from being cut short (Linux 6.2 does)"
                .to_owned(),
        ),
        Ok(Ok(false)) => Some("the kernel has no Landlock".to_owned()),
        Ok(Err(err)) => Some(err.to_string()),
        Err(_) => Some("it panicked".to_owned()),
    };
    let signals = (!landlock::keeps_signals())
        .then(|| "the kernel's Landlock does not know it (Linux 6.12 does)".to_owned());
    for measure in Measure::ALL {
        let why = match measure {
            Measure::Private => refused.as_ref().map(ToString::to_string),
            Measure::Orphans => adopted.as_ref().map(ToString::to_string),
            Measure::Files => confined.clone(),
            Measure::Signals => signals.clone(),
        };
        println!("{}", why.as_deref().unwrap_or("+"));
    }
    ExitCode::SUCCESS
}
