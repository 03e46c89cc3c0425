//! What some behaviours do besides printing and reporting. A deed that returns goes on as `pass`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::io::FdFlags;
use rustix::process::{Signal, getpid, kill_process};

use crate::behaviour::{self, STILL_SCANNING};
use crate::report;
use crate::scan::Scan;
use crate::stop::Stop;

/// A function that a behaviour runs while it loads the image.
pub(crate) type Deed = fn(&mut Scan<'_>) -> Result<(), Stop>;

const HOUR: Duration = Duration::from_hours(1);

pub(crate) fn want_login(scan: &mut Scan<'_>) -> Result<(), Stop> {
    match (
        scan.environment.registry_user.as_str(),
        scan.environment.registry_password.as_str(),
    ) {
        ("robot", "fake-registry-password") => Ok(()),
        _ => scan.stop_like(behaviour::of("registry-401")),
    }
}

/// Fails as `network` until it finds its own mark in the database's directory.
pub(crate) fn fail_once(scan: &mut Scan<'_>) -> Result<(), Stop> {
    let Some(database) = &scan.database else {
        return Ok(());
    };
    let mark = database.directory.join(mark(scan, "flaky"));
    if mark.exists() {
        return Ok(());
    }
    File::create(mark)?;
    scan.stop_like(behaviour::of("network"))
}

/// Spoils a database that an earlier run had fetched; one that it fetched itself will do.
pub(crate) fn spoil_stale_database(scan: &mut Scan<'_>) -> Result<(), Stop> {
    match &mut scan.database {
        Some(database) if database.cached => database.spoil()?,
        _ => return Ok(()),
    }
    Err(Stop::error(
        "Unable to retrieve MainDB: main.db: invalid database. Exiting now",
    ))
}

/// The name of a file by which a behaviour remembers an image.
fn mark(scan: &Scan<'_>, behaviour: &str) -> PathBuf {
    format!(
        ".stand-in-{behaviour}-{}",
        report::uuid(&scan.options.image.text)
    )
    .into()
}

pub(crate) fn fill_disk(scan: &mut Scan<'_>) -> Result<(), Stop> {
    let path = scan.environment.temporary.join("layer-1");
    let stop = Stop::error(format!(
        "unable to retrieve image: write {}: no space left on device",
        path.display()
    ));
    match pour(&mut File::create(path)?, 64) {
        // A disk that is really full says the same.
        Ok(()) | Err(_) => Err(stop),
    }
}

pub(crate) fn print_token(scan: &mut Scan<'_>) -> Result<(), Stop> {
    Err(Stop::error(format!(
        "unable to upload result: invalid header \"Authorization: Bearer {}\"",
        scan.environment.token
    )))
}

pub(crate) fn be_slow(scan: &mut Scan<'_>) -> Result<(), Stop> {
    for layer in 1..=3 {
        scan.progress(&format!("Analyzing layer {layer} of 3..."))?;
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

pub(crate) fn hang(scan: &mut Scan<'_>) -> Result<(), Stop> {
    scan.progress(STILL_SCANNING)?;
    thread::sleep(HOUR);
    Ok(())
}

/// Becomes a shell that ignores SIGTERM, and keeps the locks.
pub(crate) fn hang_ignoring_term(scan: &mut Scan<'_>) -> Result<(), Stop> {
    let locks = [
        scan.cache.as_ref(),
        scan.database.as_ref().map(|it| &it.file),
    ];
    for lock in locks.into_iter().flatten() {
        rustix::io::fcntl_setfd(lock, FdFlags::empty()).map_err(io::Error::from)?;
    }
    Err(shell(HANG_IGNORING_TERM).exec().into())
}

pub(crate) fn leave_grandchild(_: &mut Scan<'_>) -> Result<(), Stop> {
    shell("exec sleep 3600").spawn()?;
    Ok(())
}

/// Hangs; the line that says so comes from the child, when it ignores SIGTERM already.
pub(crate) fn hang_with_grandchild(_: &mut Scan<'_>) -> Result<(), Stop> {
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

pub(crate) fn kill_self(_: &mut Scan<'_>) -> Result<(), Stop> {
    kill_process(getpid(), Signal::KILL).map_err(|err| io::Error::from(err).into())
}

pub(crate) fn flood_stderr(_: &mut Scan<'_>) -> Result<(), Stop> {
    Ok(pour(&mut io::stderr(), 100)?)
}

pub(crate) fn flood_stdout(_: &mut Scan<'_>) -> Result<(), Stop> {
    Ok(pour(&mut io::stdout(), 100)?)
}

/// Writes that many megabytes, in lines.
fn pour(into: &mut dyn Write, megabytes: u64) -> io::Result<()> {
    let line = [b"Analyzing ".repeat(99), b"file 0001\n".to_vec()].concat();
    for _ in 0..megabytes * 1000 {
        into.write_all(&line)?;
    }
    Ok(())
}

pub(crate) fn leave_files(scan: &mut Scan<'_>) -> Result<(), Stop> {
    let directories = [
        Some(PathBuf::from(".")),
        Some(scan.environment.temporary.clone()),
        scan.environment.home.clone(),
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

pub(crate) fn print_environment(scan: &mut Scan<'_>) -> Result<(), Stop> {
    let mut stderr = io::stderr().lock();
    for argument in std::env::args_os() {
        writeln!(stderr, "argument {}", argument.display())?;
    }
    for (name, value) in &scan.environment.everything {
        writeln!(stderr, "environment {}={}", name.display(), value.display())?;
    }
    Ok(())
}
