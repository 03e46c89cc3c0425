//! Runs the stand-in as the scanner would run the real CLI.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use scanhook_stand_in::behaviour::STILL_SCANNING;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const DIGEST: &str =
    "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// The directory of one scan, which may run several times.
pub(crate) struct Cli {
    pub(crate) directory: TempDir,
}

/// What a finished run left.
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// The bytes of the report, if there is one.
    pub(crate) report: Option<Vec<u8>>,
}

impl Run {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(self.report.as_deref().unwrap()).unwrap()
    }
}

impl Cli {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        for name in ["work", "home", "tmp"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The call on an image, as scanhook makes it.
    pub(crate) fn scan(&self, image: &str) -> Command {
        self.call(&[], image)
    }

    /// The call on an image with this name.
    pub(crate) fn named(&self, name: &str) -> Command {
        self.with(&[], name)
    }

    /// The call with more flags.
    pub(crate) fn with(&self, flags: &[&str], name: &str) -> Command {
        self.call(
            flags,
            &format!("pull://registry.example.com/demo/{name}:1.0@{DIGEST}"),
        )
    }

    fn call(&self, flags: &[&str], image: &str) -> Command {
        let mut command = self.bare();
        command
            .arg("--apiurl=https://us2.app.sysdig.com")
            .args(["--console-log", "--loglevel=info", "--output-schema=v1"])
            .arg(format!(
                "--output=json-file={}",
                self.path("report.json").display()
            ))
            .arg(format!("--dbpath={}", self.path("db").display()))
            .arg(format!("--cachepath={}", self.path("cache").display()))
            .args(flags)
            .arg(image);
        command
    }

    /// No arguments, in the recommended environment.
    pub(crate) fn bare(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sysdig-cli-scanner-stand-in"));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("SECURE_API_TOKEN", "fake-token-of-a-test")
            .current_dir(self.path("work"))
            .stdin(Stdio::null())
            .process_group(0);
        command
    }

    /// Runs to the end, then ends what it left behind. The streams are files, so that nobody left behind can hold them.
    pub(crate) fn run(&self, command: &mut Command) -> Run {
        let (stdout, stderr) = (self.path("stdout"), self.path("stderr"));
        let mut child = command
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        let status = child.wait().unwrap();
        end(&child);
        Run {
            status,
            stdout: fs::read_to_string(stdout).unwrap(),
            stderr: fs::read_to_string(stderr).unwrap(),
            report: fs::read(self.path("report.json")).ok(),
        }
    }
}

/// A run that hangs; its process group ends with it.
pub(crate) struct Hanging {
    pub(crate) child: Child,
}

impl Hanging {
    /// Starts a run and waits until it says that it hangs.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains(STILL_SCANNING) {
            line.clear();
            assert_ne!(
                stderr.read_line(&mut line).unwrap(),
                0,
                "ended without hanging"
            );
        }
        Self { child }
    }

    pub(crate) fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn kill(&mut self, signal: Signal) -> ExitStatus {
        kill_process_group(self.group(), signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        end(&self.child);
    }
}

/// Ends what is left of a child's process group, if anything is.
fn end(child: &Child) {
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
}

pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
