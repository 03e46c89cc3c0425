//! What an image makes of the CLI once it has taken it over: the repository's name says what it does. It prints what it got.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::exit,
    clippy::zombie_processes,
    reason = "it stands for another program, and fails where it fails"
)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, exit};
use std::thread;
use std::time::Duration;

use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, getpid, prlimit, set_dumpable_behavior, setrlimit,
    setsid, test_kill_process,
};

/// The secrets that are not its own.
const CANARIES: [&str; 6] = [
    "CANARY-of-the-environment",
    "CANARY-of-the-role",
    "CANARY-of-the-other-scan",
    "CANARY-of-a-file",
    "CANARY-of-the-queue",
    "CANARY-database",
];

const HOUR: Duration = Duration::from_hours(1);

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [how, rest @ ..] = arguments.as_slice()
        && how == "lingers"
    {
        linger(rest);
    }
    let image = arguments.last().unwrap();
    let deed = image.rsplit('/').next().unwrap();
    let deed = deed.split(':').next().unwrap();
    let value = |name: &str| {
        let value = arguments.iter().find_map(|it| it.strip_prefix(name));
        PathBuf::from(value.unwrap())
    };
    let place = Place {
        database: value("--dbpath="),
        scan: value("--cachepath=").parent().unwrap().to_owned(),
    };
    match deed {
        "innocent" => {
            fs::write(place.database.join("main.db"), "CANARY-database").unwrap();
            thread::sleep(HOUR);
        }
        "reads" => place.reads(),
        "writes" => place.writes(),
        "signals" => signals(),
        "joins" => joins(),
        "limits" => place.limits(),
        "escapes" => escapes(),
        "lingers-on" => {
            escapes();
            thread::sleep(HOUR);
        }
        "forks-on" => {
            start(&["lingers", "forks-on"], |it| it);
            wait_for_marks(1);
        }
        "fills-disk" => place.fills_disk(),
        "fills-memory" => fills_memory(),
        "fills-output" => fills_output(),
        "talks" => talks(&place),
        other => println!("knows no {other}"),
    }
}

struct Place {
    scan: PathBuf,
    database: PathBuf,
}

impl Place {
    /// The host's own directory.
    fn data(&self) -> &Path {
        self.scan.ancestors().nth(3).unwrap()
    }

    fn reads(&self) {
        let others = others();
        // By whose memory or environment it is, since the same secret may be in several.
        let mut found = BTreeSet::new();
        for pid in &others {
            let files = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
            let text = fs::read(files.join("environ")).unwrap_or_default();
            found.extend(canaries(&text).map(|it| format!("environment: {it}")));
            found.extend(memory(&files).map(|it| format!("memory: {it}")));
            for entry in fs::read_dir(files.join("fd"))
                .into_iter()
                .flatten()
                .flatten()
            {
                // A pipe would be waited for.
                let is_file = fs::metadata(entry.path()).is_ok_and(|it| it.is_file());
                let text = is_file.then(|| fs::read(entry.path()).unwrap_or_default());
                let text = text.unwrap_or_default();
                found.extend(canaries(&text).map(|it| format!("open file: {it}")));
            }
            let text = fs::read(
                files
                    .join("root")
                    .join(self.data().join("secret").strip_prefix("/").unwrap()),
            );
            found
                .extend(canaries(&text.unwrap_or_default()).map(|it| format!("by its root: {it}")));
        }
        for name in ["secret", "queue.db", "link"] {
            let text = fs::read(self.data().join(name)).unwrap_or_default();
            found.extend(canaries(&text).map(|it| format!("file {name}: {it}")));
        }
        for slot in ["slot-0", "slot-1"] {
            let directory = self.data().join("scratch").join(slot);
            let text = fs::read(directory.join("database/main.db")).unwrap_or_default();
            found.extend(canaries(&text).map(|it| format!("file of another slot: {it}")));
        }
        println!("others: {}", others.len() > 2);
        for line in found {
            println!("{line}");
        }
        println!("/etc/passwd: {}", told(File::open("/etc/passwd")));
        println!("end");
    }

    fn writes(&self) {
        let own = self.database.parent().unwrap();
        let other = own.with_file_name(match own.file_name().unwrap().to_str() {
            Some("slot-0") => "slot-1",
            _ => "slot-0",
        });
        for (what, path) in [
            ("its scan", self.scan.join("mine")),
            ("its database", self.database.join("mine")),
            ("its slot", own.join("theirs")),
            ("the other slot", other.join("theirs")),
            ("the other database", other.join("database/main.db")),
            ("the scratch space", self.data().join("scratch/theirs")),
            ("the data directory", self.data().join("theirs")),
            ("the queue", self.data().join("queue.db")),
            ("itself", std::env::current_exe().unwrap()),
            ("/tmp", "/tmp/scanhook-hostile-cli".into()),
            ("/dev/null", "/dev/null".into()),
            ("the terminal", "/dev/tty".into()),
            ("a terminal", "/dev/ptmx".into()),
        ] {
            let file = File::options().create(true).append(true).open(path);
            println!("{what}: {}", told(file));
        }
        let link = std::os::unix::fs::symlink(self.data().join("queue.db"), self.scan.join("link"));
        println!("a link to the queue: {}", told(link));
        let file = File::options().append(true).open(self.scan.join("link"));
        println!("by that link: {}", told(file));
        let hard = fs::hard_link(self.data().join("queue.db"), self.scan.join("hard"));
        println!("a second name for the queue: {}", told(hard));
    }

    /// What of the host it can change without a signal and without writing to a file.
    fn limits(&self) {
        let limit = |pid| {
            let none = Rlimit {
                current: Some(0),
                maximum: Some(0),
            };
            told(prlimit(Some(pid), Resource::Core, none))
        };
        let hosts = named(|it| it == "host").into_iter().map(limit);
        for told in hosts.collect::<BTreeSet<_>>() {
            println!("a limit of the host: {told}");
        }
        let secret = self.data().join("secret");
        let permissions = fs::metadata(&secret).unwrap().permissions();
        println!(
            "the mode of a secret: {}",
            told(fs::set_permissions(secret, permissions))
        );
    }

    fn fills_disk(&self) {
        let mut file = File::create(self.scan.join("tmp/flood")).unwrap();
        let block = vec![1; 1 << 20];
        let mut written = 0;
        let ended = loop {
            match file.write(&block) {
                Ok(bytes) => written += bytes,
                Err(err) => break err,
            }
        };
        println!("wrote some: {}, then {}", written > 1 << 20, ended.kind());
    }
}

fn told<T, E: Into<io::Error>>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "yes".to_owned(),
        Err(err) => err.into().kind().to_string(),
    }
}

/// Every process but this one.
fn others() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|it| {
        it.file_name()
            .to_str()?
            .parse()
            .ok()
            .and_then(Pid::from_raw)
    });
    pids.filter(|it| *it != getpid()).collect()
}

/// The secrets of others that are in a text.
fn canaries(text: &[u8]) -> impl Iterator<Item = &'static str> {
    let text = String::from_utf8_lossy(text);
    let found: Vec<_> = CANARIES
        .into_iter()
        .filter(|it| text.contains(it))
        .collect();
    found.into_iter()
}

/// The same in what a process has in its memory.
fn memory(files: &Path) -> impl Iterator<Item = &'static str> {
    let maps = fs::read_to_string(files.join("maps")).unwrap_or_default();
    let memory = File::open(files.join("mem"));
    let mut found = Vec::new();
    for line in maps.lines().filter(|it| it.contains(" rw")) {
        let Ok(memory) = &memory else { break };
        let mut memory = memory;
        let (range, _) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let length = (number(to) - number(from)).min(64 << 20);
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        if memory.seek(SeekFrom::Start(number(from))).is_ok()
            && memory.read_exact(&mut bytes).is_ok()
        {
            found.extend(canaries(&bytes));
        }
    }
    found.into_iter()
}

/// The name that a process was started by.
fn name(pid: Pid) -> Option<String> {
    let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let first = arguments.split(|it| *it == 0).next().unwrap_or_default();
    let first = String::from_utf8_lossy(first).into_owned();
    let name = Path::new(&first).file_name()?;
    Some(name.to_string_lossy().into_owned())
}

/// The other processes whose names are such.
fn named(is_such: impl Fn(&str) -> bool) -> Vec<Pid> {
    let others = others().into_iter();
    others
        .filter(|it| name(*it).is_some_and(|it| is_such(&it)))
        .collect()
}

/// Which of the processes that are not its own it could end.
fn signals() {
    let ours = ["host", "scanhook-supervisor", "hostile-cli"];
    let mut lines = BTreeSet::new();
    for pid in named(|it| ours.contains(&it)) {
        lines.insert(format!(
            "{}: {}",
            name(pid).unwrap(),
            told(test_kill_process(pid))
        ));
    }
    for line in lines {
        println!("{line}");
    }
}

/// Leaves a process in each group that is not of its session, so that who ends it with its group ends those.
fn joins() {
    let ours = ["host", "scanhook-supervisor", "hostile-cli"];
    let (_, our_session) = group_and_session(getpid()).unwrap();
    let groups: BTreeSet<_> = named(|it| ours.contains(&it))
        .into_iter()
        .filter_map(group_and_session)
        .filter(|(group, session)| *group != 0 && *session != our_session)
        .map(|(group, _)| group)
        .collect();
    let mut could = 0;
    for group in &groups {
        let joined = start_in(*group);
        could += u32::from(joined.is_ok());
    }
    println!("groups: {}, joined: {could}", groups.len() > 1);
}

/// A process's group and session; 0 for those of another PID namespace, for which `rustix`'s `getpgid` panics.
/// Source: proc(5), `/proc/PID/stat`.
fn group_and_session(pid: Pid) -> Option<(i32, i32)> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(2);
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    Some((group, session))
}

fn start_in(group: i32) -> io::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["lingers", "joined"]).stdin(Stdio::null());
    command.process_group(group).spawn().map(drop)
}

/// Leaves a process in each way there is.
fn escapes() {
    start(&["lingers", "group"], |it| it.process_group(0));
    start(&["lingers", "setsid"], |it| it);
    start(&["lingers", "setsid", "private"], Command::env_clear);
    start(
        &["lingers", "twice", "setsid", "private"],
        Command::env_clear,
    );
    wait_for_marks(4);
}

fn start(arguments: &[&str], also: impl Fn(&mut Command) -> &mut Command) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments).stdin(Stdio::null());
    also(&mut command).spawn().unwrap();
}

/// Waits until so many processes have got where they want to be. They say so by a file in the directory they share.
fn wait_for_marks(count: usize) {
    let marks = || {
        let entries = fs::read_dir(".").unwrap().flatten();
        entries
            .filter(|it| it.file_name().to_string_lossy().starts_with("mark-"))
            .count()
    };
    while marks() < count {
        thread::sleep(Duration::from_millis(1));
    }
    println!("{count} processes linger");
}

fn linger(how: &[String]) -> ! {
    let is = |word: &str| how.iter().any(|it| it == word);
    if is("setsid") {
        let _ = setsid();
    }
    if is("private") {
        set_dumpable_behavior(DumpableBehavior::NotDumpable).unwrap();
    }
    if is("twice") {
        let rest: Vec<_> = std::iter::once("lingers")
            .chain(how.iter().map(String::as_str).filter(|it| *it != "twice"))
            .collect();
        start(&rest, Command::env_clear);
        exit(0);
    }
    File::create(format!("mark-{}", getpid().as_raw_nonzero())).unwrap();
    if is("forks-on") {
        // Never the same process for long.
        start(&["lingers", "forks-on"], |it| it.process_group(0));
        exit(0);
    }
    thread::sleep(HOUR);
    exit(0)
}

fn fills_memory() {
    let limit = Some(256 << 20);
    setrlimit(
        Resource::As,
        Rlimit {
            current: limit,
            maximum: limit,
        },
    )
    .unwrap();
    let mut held = Vec::new();
    loop {
        held.push(vec![1_u8; 1 << 20]);
    }
}

fn fills_output() {
    let line = vec![b'x'; 1 << 20];
    for _ in 0..200 {
        let _ = io::stdout().write_all(&line);
        let _ = io::stderr().write_all(&line);
    }
}

/// Asks what listens on this machine, as any process on it can.
fn talks(place: &Place) {
    let address = fs::read_to_string(place.data().join("endpoint")).unwrap();
    let answer = TcpStream::connect(address).and_then(|mut stream| {
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    println!("the endpoint of this machine: {}", told(answer));
}
