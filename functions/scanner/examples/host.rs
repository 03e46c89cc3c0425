//! A process as the scanner function and `scanhook serve` are: protected, with secrets in its environment and memory, that
//! runs a hostile CLI beside an innocent one. It stands for them in the tests, which are processes that start others.
//!
//! `host DIRECTORY CLI SECONDS DEED`: works in `DIRECTORY`, gives the CLI an image that is named like what it is to do, and prints
//! how that ended and what it printed. With `bare` at the end nothing is protected and nothing confined.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's process prints, and fails where it fails"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use scanhook_core::image::Image;
use scanhook_core::login::RegistryLogin;
use scanhook_core::message::ScanId;
use scanhook_core::tools::sysdig::TOOL;
use scanhook_core::tools::{Backend, ScanInputs};
use scanhook_scanner::cli::{Cli, Confinement, Inherited, Slots, protect, supervise};

fn main() -> ExitCode {
    if let Some(ended) = supervise() {
        return ended;
    }
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let is_bare = arguments.get(4).is_some_and(|it| it == "bare");
    if !is_bare {
        protect();
    }
    run(&arguments, is_bare);
    ExitCode::SUCCESS
}

#[tokio::main]
async fn run(arguments: &[String], is_bare: bool) {
    let [directory, program, seconds, deed, ..] = arguments else {
        unreachable!("four arguments")
    };
    let directory = Path::new(directory);
    let hidden = ["queue.db", "secret"].map(|it| directory.join(it));
    let cli = Cli {
        tool: &TOOL,
        program: PathBuf::from(program),
        inherited: Inherited(vec![("PATH", "/usr/bin:/bin".into())]),
        confinement: if is_bare {
            Confinement::default()
        } else {
            Confinement::of_this_program(hidden.to_vec()).await
        },
    };
    let slots = Slots::open(&directory.join("scratch"), 2).unwrap();
    let innocent = inputs("innocent", "CANARY-of-the-other-scan");
    let hostile = inputs(deed, "fake-password-of-its-own");
    let (mut one, mut other) = (slots.lease().await, slots.lease().await);
    let long = Duration::from_hours(1);
    let (one_id, other_id) = (scan_id("innocent"), scan_id("hostile"));
    let beside = cli.run(&innocent, &one_id, &mut one, long);
    let attack = async {
        while !is_ready(&directory.join("scratch")) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let limit = Duration::from_secs(seconds.parse().unwrap());
        cli.run(&hostile, &other_id, &mut other, limit).await
    };
    let run = tokio::select! {
        run = attack => run.unwrap(),
        run = beside => unreachable!("the other scan ended: {run:?}"),
    };
    println!("{:?}\n{}", run.exit, run.printed);
}

/// Whether the innocent scan is at work.
fn is_ready(scratch: &Path) -> bool {
    let slots = std::fs::read_dir(scratch).unwrap().flatten();
    slots
        .map(|it| it.path().join("database/main.db"))
        .any(|it| it.exists())
}

fn inputs(deed: &str, password: &str) -> ScanInputs {
    ScanInputs {
        image: Image::parse(&format!("registry.example.com/demo/{deed}:1.0")).unwrap(),
        backend: Some(Backend {
            url: "https://secure.sysdig.com".to_owned(),
            token: "fake-token-of-its-own".into(),
        }),
        policies: Vec::new(),
        login: Some(RegistryLogin {
            username: "robot".to_owned(),
            password: password.into(),
        }),
        certificates: None,
    }
}

fn scan_id(name: &str) -> ScanId {
    ScanId::try_from(name.to_owned()).unwrap()
}
