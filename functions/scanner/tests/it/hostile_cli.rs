//! What an image gets that takes over the CLI: a process of an unprivileged user runs it, as the function and `serve` do.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Gid, Uid, chown};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use crate::world::confinement;

/// `nobody`, whose processes can look at each other and at nothing of root's.
const UNPRIVILEGED: u32 = 65534;

/// A process that runs the CLI, and where it does.
struct Host {
    directory: TempDir,
    is_mounted: bool,
}

impl Host {
    fn new() -> Self {
        Self::in_directory(TempDir::new().unwrap(), false)
    }

    /// One whose disk has 8 MiB.
    fn on_a_small_disk() -> Self {
        let directory = TempDir::new().unwrap();
        system(&format!(
            "mount -t tmpfs -o size=8m tmpfs {}",
            directory.path().display()
        ));
        Self::in_directory(directory, true)
    }

    fn in_directory(directory: TempDir, is_mounted: bool) -> Self {
        let path = |name: &str| directory.path().join(name);
        fs::write(path("secret"), "CANARY-of-a-file").unwrap();
        fs::write(path("queue.db"), "CANARY-of-the-queue").unwrap();
        std::os::unix::fs::symlink(path("secret"), path("link")).unwrap();
        let host = Self {
            directory,
            is_mounted,
        };
        for entry in ["", "secret", "queue.db"] {
            give(&host.path().join(entry));
        }
        host
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn start(&self, deed: &str, seconds: u32) -> Running {
        self.start_by(command(&example("host")), deed, seconds)
    }

    fn start_by(&self, mut command: Command, deed: &str, seconds: u32) -> Running {
        command
            .arg(self.path())
            .arg(example("hostile-cli"))
            .arg(seconds.to_string())
            .args(deed.split(' '))
            .env_clear()
            .env("WEBHOOK_SECRET", "CANARY-of-the-environment")
            .env("AWS_SECRET_ACCESS_KEY", "CANARY-of-the-role")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        Running(command.spawn().unwrap())
    }

    /// How the run ended, and what the CLI printed.
    fn run(&self, deed: &str) -> String {
        self.start(deed, 60).told()
    }

    /// The processes that were started here, whatever they say of themselves.
    fn alive(&self) -> Vec<String> {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let is_here = |it: &fs::DirEntry| {
            fs::read_link(it.path().join("cwd")).is_ok_and(|it| {
                it.to_string_lossy()
                    .starts_with(&*self.path().to_string_lossy())
            })
        };
        processes
            .filter(is_here)
            .filter_map(|it| fs::read_to_string(it.path().join("cmdline")).ok())
            .filter(|it| !it.is_empty())
            .collect()
    }

    /// Waits until nobody is left.
    fn is_deserted(&self) -> bool {
        eventually(|| self.alive().is_empty())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.is_mounted {
            system(&format!("umount {}", self.path().display()));
        }
    }
}

/// Gives a file to the unprivileged user.
fn give(path: &Path) {
    if geteuid().is_root() {
        let (user, group) = (Uid::from_raw(UNPRIVILEGED), Gid::from_raw(UNPRIVILEGED));
        chown(path, Some(user), Some(group)).unwrap();
    }
}

/// Has a shell do something for the test.
fn system(line: &str) {
    #[expect(
        clippy::disallowed_methods,
        reason = "it is what the test needs around it"
    )]
    let mut shell = Command::new("sh");
    assert!(
        shell.args(["-c", line]).status().unwrap().success(),
        "{line}"
    );
}

/// A program as an unprivileged user.
fn command(program: &Path) -> Command {
    #[expect(clippy::disallowed_methods, reason = "it is processes that are tested")]
    let mut command = Command::new(program);
    if geteuid().is_root() {
        command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    }
    command
}

/// A host that runs; killed when dropped.
struct Running(Child);

impl Running {
    /// What it printed until it ended.
    fn told(mut self) -> String {
        let mut told = String::new();
        let mut stdout = self.0.stdout.take().unwrap();
        stdout.read_to_string(&mut told).unwrap();
        self.0.wait().unwrap();
        told
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn eventually(is_so: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while !is_so() {
        if began.elapsed() > Duration::from_secs(20) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().unwrap().parent().unwrap();
    target.join("examples").join(name)
}

/// Whether this kernel knows all measures. If it does, all of them must be taken.
async fn is_confined() -> bool {
    let refused = confinement().await.refused().to_vec();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|it: char| !it.is_ascii_digit());
    let mut number = || numbers.next().unwrap().parse::<u32>().unwrap();
    let is_old = (number(), number()) < (6, 12);
    assert!(is_old || refused.is_empty(), "{refused:?}");
    refused.is_empty()
}

#[tokio::test]
async fn a_hostile_cli_reads_nothing_of_others() {
    let host = Host::new();
    if is_confined().await {
        insta::assert_snapshot!(host.run("reads"), @r"
        Code(0)
        others: true
        /etc/passwd: yes
        end
        ");
    }
}

#[test]
fn without_protection_a_hostile_cli_reads_everything() {
    let host = Host::new();
    insta::assert_snapshot!(host.run("reads bare"), @r"
    Code(0)
    others: true
    by its root: CANARY-of-a-file
    environment: CANARY-of-the-environment
    environment: CANARY-of-the-other-scan
    environment: CANARY-of-the-role
    file link: CANARY-of-a-file
    file of another slot: CANARY-database
    file queue.db: CANARY-of-the-queue
    file secret: CANARY-of-a-file
    memory: CANARY-of-the-environment
    memory: CANARY-of-the-other-scan
    memory: CANARY-of-the-role
    /etc/passwd: yes
    end
    ");
}

#[tokio::test]
async fn a_hostile_cli_writes_where_its_scan_may() {
    let host = Host::new();
    if is_confined().await {
        insta::assert_snapshot!(host.run("writes"), @r"
        Code(0)
        its scan: yes
        its database: yes
        its slot: permission denied
        the other slot: permission denied
        the other database: permission denied
        the scratch space: permission denied
        the data directory: permission denied
        the queue: permission denied
        itself: permission denied
        /tmp: permission denied
        /dev/null: yes
        the terminal: permission denied
        a terminal: permission denied
        a link to the queue: yes
        by that link: permission denied
        a second name for the queue: cross-device link or rename
        ");
    }
}

#[tokio::test]
async fn a_hostile_cli_can_signal_nobody() {
    let host = Host::new();
    if is_confined().await {
        insta::assert_snapshot!(host.run("signals"), @r"
        Code(0)
        host: permission denied
        hostile-cli: permission denied
        scanhook-supervisor: permission denied
        ");
    }
}

#[tokio::test]
async fn who_ends_a_hostile_clis_processes_ends_nobody_elses() {
    let host = Host::new();
    if is_confined().await {
        insta::assert_snapshot!(host.run("joins"), @r"
        Code(0)
        groups: true, joined: 0
        ");
    }
}

#[tokio::test]
async fn what_a_hostile_cli_can_still_change_is_known() {
    let host = Host::new();
    if is_confined().await {
        insta::assert_snapshot!(host.run("limits"), @r"
        Code(0)
        a limit of the host: yes
        the mode of a secret: yes
        ");
    }
}

#[test]
fn what_a_host_had_before_it_began_is_not_its_scans() {
    let host = Host::new();
    let script = r#"sleep 3600 >/dev/null & echo $! > "$0"/sidecar; exec "$@""#;
    let mut shell = command(Path::new("/bin/sh"));
    shell
        .args(["-c", script])
        .arg(host.path())
        .arg(example("host"));
    let told = host.start_by(shell, "escapes", 60).told();
    assert!(told.contains("linger"), "{told}");
    let sidecar = fs::read_to_string(host.path().join("sidecar")).unwrap();
    let sidecar = Pid::from_raw(sidecar.trim().parse().unwrap()).unwrap();
    assert!(kill_process(sidecar, Signal::KILL).is_ok());
}

#[test]
fn nothing_that_a_hostile_cli_starts_outlives_its_scan() {
    for deed in ["escapes", "forks-on"] {
        let host = Host::new();
        let told = host.run(deed);
        assert!(told.contains("linger"), "{told}");
        assert_eq!(host.alive(), [""; 0], "{deed}");
    }
}

#[test]
fn a_flood_ends_with_its_scan() {
    let host = Host::new();
    insta::assert_snapshot!(host.run("fills-memory"), @r"
    Signal(6)
    memory allocation of 1048576 bytes failed
    note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
    ");
    let told = host.run("fills-output");
    assert!(told.starts_with("Code(0)"), "{told:.100}");
    assert!(told.len() < 70_000, "{}", told.len());
}

#[test]
fn a_disk_that_a_hostile_cli_filled_is_free_again() {
    if !geteuid().is_root() {
        return;
    }
    let host = Host::on_a_small_disk();
    insta::assert_snapshot!(host.run("fills-disk"), @r"
    Code(0)
    wrote some: true, then no storage space
    ");
    let scratch = host.path().join("scratch");
    let disk = rustix::fs::statvfs(&scratch).unwrap();
    assert!(disk.f_bavail * disk.f_frsize > 6 << 20);
}

#[test]
fn a_hostile_cli_can_talk_to_what_listens_on_its_machine() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = Host::new();
    let address = listener.local_addr().unwrap().to_string();
    fs::write(host.path().join("endpoint"), address).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
    });
    insta::assert_snapshot!(host.run("talks"), @r"
    Code(0)
    the endpoint of this machine: yes
    ");
}

/// The supervisors of a host.
fn supervisors(host: &Host) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let scratch = host.path().join("scratch");
    let is_one = |it: &fs::DirEntry| {
        let arguments = fs::read_to_string(it.path().join("cmdline")).unwrap_or_default();
        let mut arguments = arguments.split('\0');
        arguments.next() == Some("scanhook-supervisor")
            && arguments
                .next()
                .is_some_and(|it| Path::new(it).starts_with(&scratch))
    };
    processes
        .filter(is_one)
        .filter_map(|it| {
            it.file_name()
                .to_str()?
                .parse()
                .ok()
                .and_then(Pid::from_raw)
        })
        .collect()
}

/// Starts a host whose CLI has left a process in each way there is, and goes on.
fn linger(host: &Host, seconds: u32) -> Running {
    let running = host.start("lingers-on", seconds);
    wait_for_the_left(host);
    running
}

/// Waits until a CLI has left a process in each way there is.
fn wait_for_the_left(host: &Host) {
    let count = || {
        let alive = host.alive();
        alive.iter().filter(|it| it.contains("\0lingers\0")).count()
    };
    assert!(eventually(|| count() == 4), "{:?}", host.alive());
}

#[test]
fn when_a_supervisor_is_killed_its_scan_ends_all_the_same() {
    let host = Host::new();
    let running = linger(&host, 600);
    for supervisor in supervisors(&host) {
        // The innocent one's too: it ends the host, which runs both at once.
        let _ = kill_process(supervisor, Signal::KILL);
    }
    running.told();
    assert!(host.is_deserted(), "{:?}", host.alive());
}

#[test]
fn when_the_host_is_killed_its_scans_end_with_it() {
    let host = Host::new();
    drop(linger(&host, 600));
    assert!(host.is_deserted(), "{:?}", host.alive());
    assert_eq!(supervisors(&host).len(), 0);
}

#[test]
fn a_supervisor_that_is_stopped_keeps_nothing_from_ending() {
    let host = Host::new();
    let running = linger(&host, 5);
    for supervisor in supervisors(&host) {
        kill_process(supervisor, Signal::STOP).unwrap();
    }
    let told = running.told();
    assert!(told.starts_with("Deadline"), "{told}");
    assert!(host.is_deserted(), "{:?}", host.alive());
}

/// A control group that belongs to the unprivileged user; removed when dropped.
struct Delegated(PathBuf);

impl Delegated {
    fn make(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts
            .lines()
            .find(|it| it.contains(" - cgroup2 "))
            .unwrap();
        let group = Path::new(mount.split(' ').nth(4).unwrap()).join(name);
        let _ = fs::create_dir(&group);
        for file in ["", "cgroup.procs"] {
            let (user, id) = (Uid::from_raw(UNPRIVILEGED), Gid::from_raw(UNPRIVILEGED));
            chown(group.join(file), Some(user), Some(id)).unwrap();
        }
        Self(group)
    }

    /// The host, started inside.
    fn host(&self) -> Command {
        #[expect(clippy::disallowed_methods, reason = "it is processes that are tested")]
        let mut command = Command::new("sh");
        let script = r#"echo $$ > "$0"/cgroup.procs; exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@""#;
        command
            .args(["-c", script])
            .arg(&self.0)
            .arg(example("host"));
        command
    }

    /// The groups that were made inside.
    fn groups(&self) -> usize {
        let entries = fs::read_dir(&self.0).unwrap().flatten();
        entries.filter(|it| it.path().is_dir()).count()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(entry.path());
        }
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn what_host_and_supervisor_left_when_they_were_killed_is_ended_at_the_next_start_where_groups_are_delegated()
 {
    if !geteuid().is_root() {
        return;
    }
    let group = Delegated::make("scanhook-test-leftovers");
    let host = Host::new();
    let mut running = host.start_by(group.host(), "lingers-on", 600);
    wait_for_the_left(&host);
    assert_eq!(group.groups(), 2);
    let supervisors = supervisors(&host);
    for supervisor in &supervisors {
        kill_process(*supervisor, Signal::STOP).unwrap();
    }
    running.0.kill().unwrap();
    running.0.wait().unwrap();
    for supervisor in supervisors {
        kill_process(supervisor, Signal::KILL).unwrap();
    }
    assert!(!host.alive().is_empty());

    let told = host.start_by(group.host(), "talks-not", 60).told();
    assert!(told.starts_with("Code(0)"), "{told}");
    assert_eq!(host.alive(), [""; 0]);
    assert_eq!(group.groups(), 0);
}
