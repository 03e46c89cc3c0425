//! What some behaviours do besides printing and reporting. After the action, the run continues as `pass`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::io::FdFlags;
use rustix::process::{Signal, getpid, kill_process};

use crate::report;
use crate::run::{self, Run, progress};
use crate::stop::Stop;

/// A function that a behaviour runs while it loads the image.
pub(crate) type Action = fn(&mut Run<'_>) -> Result<(), Stop>;

/// The last line of a behaviour that hangs, printed when it is ready to be killed.
pub const STILL_SCANNING: &str = "Still scanning...";

pub(crate) const NETWORK: &str = "unable to retrieve image {image}: Get \"https://{host}/v2/\": dial tcp 192.0.2.1:443: i/o timeout";
pub(crate) const UNAUTHORIZED: &str = "unable to retrieve image {image}: GET {manifest}: UNAUTHORIZED: authentication required; [map[Action:pull Class: Name:{repository} Type:repository]]";

const HOUR: Duration = Duration::from_hours(1);

pub(crate) fn want_login(run: &mut Run<'_>) -> Result<(), Stop> {
    match (
        run.environment.registry_user.as_str(),
        run.environment.registry_password.as_str(),
    ) {
        ("robot", "fake-registry-password") => Ok(()),
        _ => Err(run::stop(3, UNAUTHORIZED, &run.options.image)),
    }
}

/// Fails as `network`, unless an earlier run left its mark in the database's directory.
pub(crate) fn fail_once(run: &mut Run<'_>) -> Result<(), Stop> {
    let mark = run.database.directory.join(mark(run, "flaky"));
    if mark.exists() {
        return Ok(());
    }
    File::create(mark)?;
    Err(run::stop(3, NETWORK, &run.options.image))
}

/// Spoils a database that an earlier run fetched. Accepts one that this run fetched.
pub(crate) fn spoil_stale_database(run: &mut Run<'_>) -> Result<(), Stop> {
    if !run.database.cached {
        return Ok(());
    }
    run.database.spoil()?;
    Err(Stop::error(
        "Unable to retrieve MainDB: main.db: invalid database. Exiting now",
    ))
}

/// The file by which a behaviour remembers an image.
fn mark(run: &Run<'_>, behaviour: &str) -> PathBuf {
    format!(
        ".stand-in-{behaviour}-{}",
        report::uuid(&run.options.image.text)
    )
    .into()
}

pub(crate) fn fill_disk(run: &mut Run<'_>) -> Result<(), Stop> {
    let path = run.environment.temporary.join("layer-1");
    let stop = Stop::error(format!(
        "unable to retrieve image: write {}: no space left on device",
        path.display()
    ));
    match pour(&mut File::create(path)?, 64) {
        // A disk that is really full gives the same error.
        Ok(()) | Err(_) => Err(stop),
    }
}

pub(crate) fn print_token(run: &mut Run<'_>) -> Result<(), Stop> {
    Err(Stop::error(format!(
        "unable to upload result: invalid header \"Authorization: Bearer {}\"",
        run.environment.token
    )))
}

pub(crate) fn be_slow(_: &mut Run<'_>) -> Result<(), Stop> {
    for layer in 1..=3 {
        progress(&format!("Analyzing layer {layer} of 3..."))?;
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

pub(crate) fn hang(_: &mut Run<'_>) -> Result<(), Stop> {
    progress(STILL_SCANNING)?;
    thread::sleep(HOUR);
    Ok(())
}

/// Becomes a shell that ignores SIGTERM, and keeps the locks.
pub(crate) fn hang_ignoring_term(run: &mut Run<'_>) -> Result<(), Stop> {
    for lock in [&run.cache, &run.database.file] {
        rustix::io::fcntl_setfd(lock, FdFlags::empty()).map_err(io::Error::from)?;
    }
    Err(shell(HANG_IGNORING_TERM).exec().into())
}

pub(crate) fn leave_grandchild(_: &mut Run<'_>) -> Result<(), Stop> {
    shell("exec sleep 3600").spawn()?;
    Ok(())
}

/// Hangs. The child prints the line that announces it, once it ignores SIGTERM.
pub(crate) fn hang_with_grandchild(_: &mut Run<'_>) -> Result<(), Stop> {
    shell(HANG_IGNORING_TERM).spawn()?;
    thread::sleep(HOUR);
    Ok(())
}

const HANG_IGNORING_TERM: &str = "trap '' TERM; echo \"$0\" >&2; exec sleep 3600";

/// A shell that runs a script with [`STILL_SCANNING`] as its `$0`, in this process group and on its streams.
fn shell(script: &str) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "processes left behind are what these behaviours are for"
    )]
    let mut shell = Command::new("sh");
    shell.args(["-c", script, STILL_SCANNING]);
    shell
}

pub(crate) fn kill_self(_: &mut Run<'_>) -> Result<(), Stop> {
    kill_process(getpid(), Signal::KILL).map_err(|err| io::Error::from(err).into())
}

pub(crate) fn flood_stderr(_: &mut Run<'_>) -> Result<(), Stop> {
    Ok(pour(&mut io::stderr(), 100)?)
}

pub(crate) fn flood_stdout(_: &mut Run<'_>) -> Result<(), Stop> {
    Ok(pour(&mut io::stdout(), 100)?)
}

/// Writes this many megabytes, in lines.
fn pour(into: &mut dyn Write, megabytes: u64) -> io::Result<()> {
    let line = [b"Analyzing ".repeat(99), b"file 0001\n".to_vec()].concat();
    for _ in 0..megabytes * 1000 {
        into.write_all(&line)?;
    }
    Ok(())
}

pub(crate) fn leave_files(run: &mut Run<'_>) -> Result<(), Stop> {
    let directories = [
        Some(PathBuf::from(".")),
        Some(run.environment.temporary.clone()),
        run.environment.home.clone(),
    ];
    for directory in directories.into_iter().flatten() {
        fs::create_dir_all(directory.join("layer-1"))?;
        fs::write(
            directory.join("layer-1").join("leftover"),
            "left by the stand-in\n",
        )?;
    }
    Ok(())
}

pub(crate) fn print_environment(run: &mut Run<'_>) -> Result<(), Stop> {
    let mut stderr = io::stderr().lock();
    for argument in std::env::args_os() {
        writeln!(stderr, "argument {}", argument.display())?;
    }
    for (name, value) in &run.environment.everything {
        writeln!(stderr, "environment {}={}", name.display(), value.display())?;
    }
    Ok(())
}
