//! `scanhook backfill` of a registry on loopback: what it queues, and what interruptions and failures do.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::registry::digest_of_tag;
use crate::world::{Place, Ran, wait_for};

const YAML: &str = r#"
sources:
  harbor:
    kind: harbor
    registry: harbor.example.com
    include: ["prod/**"]
    tags: { exclude: ["*-dev"] }
    auth: [{ type: token, secret: "env:HARBOR" }]
registries: { "*.example.com": { insecure: true } }
scanner: { api_url: "http://127.0.0.1:1", api_token: "env:SYSDIG" }
retry: { attempts: 2, base: 1s, cap: 10m }
"#;

/// The names on one page.
const PAGE: usize = 2;

/// Other answers, by a part of the request's path, and how often each was given.
type Faults = Arc<Mutex<BTreeMap<&'static str, (&'static str, usize)>>>;

/// A registry with a paged catalog and paged tag lists. `latest` is the same content as `5`.
struct Registry {
    address: SocketAddr,
    faults: Faults,
}

impl Registry {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Faults::default();
        let of_server = Arc::clone(&faults);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let faults = Arc::clone(&of_server);
                std::thread::spawn(move || answer(&stream, &faults));
            }
        });
        Self { address, faults }
    }

    /// From now on, answers requests for this path with this status line and these headers.
    fn fail(&self, path: &'static str, answer: &'static str) {
        self.faults.lock().unwrap().insert(path, (answer, 0));
    }

    /// Whether the answer for this path was given.
    fn was_asked(&self, path: &str) -> bool {
        self.faults.lock().unwrap()[path].1 > 0
    }

    fn mend(&self) {
        self.faults.lock().unwrap().clear();
    }

    /// A place whose commands reach this registry under every host name.
    fn place(&self) -> Place {
        let mut place = Place::with(YAML);
        ask(&mut place, self.address);
        place
    }
}

/// Makes commands reach the registry under every host name.
fn ask(place: &mut Place, registry: SocketAddr) {
    let proxy = format!("http://{registry}");
    place.environment.insert("http_proxy".to_owned(), proxy);
}

fn tags(repository: &str) -> &'static [&'static str] {
    match repository {
        "prod/pass" => &["1", "2", "2-dev", "3", "4", "5", "latest"],
        "prod/unsupported" => &["1"],
        "dev/tool" => &["1", "2"],
        _ => &[],
    }
}

fn answer(mut stream: &TcpStream, faults: &Faults) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    lines.find(String::is_empty);
    let url = first.split(' ').nth(1).unwrap_or_default();
    let (_, target) = url.split_once("/v2/").unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut faults = faults.lock().unwrap();
    let fault = faults.iter_mut().find(|(part, _)| target.contains(**part));
    let (head, body) = match (fault, path.split_once("/manifests/")) {
        (Some((_, (answer, times))), _) => {
            *times += 1;
            ((*answer).to_owned(), String::new())
        }
        (None, Some((repository, tag))) => {
            let tag = if tag == "latest" { "5" } else { tag };
            let digest = digest_of_tag(repository, tag);
            (
                format!("200 OK\r\ndocker-content-digest: {digest}"),
                String::new(),
            )
        }
        (None, None) => list(path, query.strip_prefix("last=")),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    // The client may have been killed meanwhile.
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}

/// A page of the catalog or of a repository's tags. A repository without tags has no list.
fn list(path: &str, last: Option<&str>) -> (String, String) {
    let (member, names) = match path.strip_suffix("/tags/list") {
        Some(repository) => ("tags", tags(repository)),
        None => (
            "repositories",
            &["dev/tool", "prod/pass", "prod/unsupported", "prod/untagged"][..],
        ),
    };
    if names.is_empty() {
        return ("404 Not Found".to_owned(), String::new());
    }
    let rest: Vec<_> = names
        .iter()
        .skip_while(|it| last.is_some_and(|last| **it <= last))
        .collect();
    let page = &rest[..rest.len().min(PAGE)];
    let link = match page.last() {
        Some(last) if rest.len() > PAGE => format!("\r\nlink: <?last={last}>; rel=\"next\""),
        _ => String::new(),
    };
    (format!("200 OK{link}"), json!({ member: page }).to_string())
}

fn backfill(place: &Place, arguments: &[&str]) -> Ran {
    place.run(
        &[
            &["backfill", "harbor", "--output=json", "--rate=500"],
            arguments,
        ]
        .concat(),
    )
}

/// The counts of a run that must exit with this code: repositories, tags, filtered, known, repeated, queued.
#[track_caller]
fn counts(ran: &Ran, code: i32) -> Value {
    assert_eq!(ran.code, Some(code), "{}{}", ran.stdout, ran.stderr);
    let summary: Value = serde_json::from_str(&ran.stdout).unwrap();
    let names = [
        "repositories",
        "tags",
        "filtered",
        "known",
        "repeated",
        "queued",
    ];
    names.iter().map(|it| summary[it].clone()).collect()
}

/// The queue of a stopped server: repository, tag and digest of each message.
fn queued(place: &Place) -> Vec<String> {
    let messages = place.messages("scanhook");
    let mut images: Vec<_> = messages
        .iter()
        .map(|it| {
            let message: Value = serde_json::from_str(&it.body).unwrap();
            assert_eq!(message["event"]["type"], "backfill");
            let name = |member: &str| message["image"][member].as_str().unwrap().to_owned();
            format!("{}:{}@{}", name("repository"), name("tag"), name("digest"))
        })
        .collect();
    images.sort();
    images
}

fn image(repository: &str, tag: &str) -> String {
    format!("{repository}:{tag}@{}", digest_of_tag(repository, tag))
}

/// A place with a ledger and an empty queue, left by a `serve` that has stopped.
fn served(registry: &Registry) -> Place {
    let place = registry.place();
    place.serve(&["--no-scan"]).stop();
    place
}

#[test]
fn images_without_a_record_are_queued_once() {
    let registry = Registry::start();
    let mut place = Place::with(YAML);
    let serve = place.serve(&[]);
    for image in ["prod/pass:1", "prod/unsupported:1"] {
        let image = format!("harbor.example.com/{image}");
        place.settled(&serve.queue(&place.delivery("harbor", &image)));
    }
    serve.stop();
    ask(&mut place, registry.address);
    let journal = place.data_dir().join("backfill-harbor.jsonl");

    assert_eq!(
        counts(&backfill(&place, &["--dry-run"]), 0),
        json!([4, 10, 3, 1, 1, 5])
    );
    let only_missing = backfill(&place, &["--dry-run", "--only-missing"]);
    assert_eq!(counts(&only_missing, 0), json!([4, 10, 3, 2, 1, 4]));
    let by_glob = backfill(&place, &["--dry-run", "--repositories=dev/*,prod/un*"]);
    assert_eq!(counts(&by_glob, 0), json!([3, 3, 2, 0, 0, 1]));
    let by_name = backfill(&place, &["--dry-run", "--repositories=prod/pass"]);
    assert_eq!(counts(&by_name, 0), json!([1, 7, 1, 1, 1, 4]));
    assert!(queued(&place).is_empty() && !journal.exists());

    assert_eq!(
        counts(&backfill(&place, &[]), 0),
        json!([4, 10, 3, 1, 1, 5])
    );
    let mut expected: Vec<_> = ["2", "3", "4", "5"].map(|it| image("prod/pass", it)).into();
    expected.push(image("prod/unsupported", "1"));
    assert_eq!(queued(&place), expected);
    assert_eq!(
        counts(&backfill(&place, &[]), 0),
        json!([4, 10, 3, 7, 0, 0])
    );
    assert_eq!(queued(&place), expected);

    // A scan that it queued and that has failed since is queued again.
    ask(&mut place, crate::registry::address());
    let serve = place.serve(&[]);
    let scan_ids: Vec<_> = fs::read_to_string(&journal)
        .unwrap()
        .lines()
        .map(scan_id)
        .collect();
    let verdicts = scan_ids
        .iter()
        .map(|it| place.settled(it)["verdict"].clone());
    assert_eq!(verdicts.filter(|it| it == "passed").count(), 4);
    ask(&mut place, registry.address);
    let arguments = [
        "--queue-url",
        &format!("http://{}/000000000000/scanhook", serve.sqs_address),
    ];
    place.use_sqs(serve.sqs_address);
    assert_eq!(
        counts(&backfill(&place, &arguments), 0),
        json!([4, 10, 3, 6, 0, 1])
    );
    assert_eq!(counts(&backfill(&place, &arguments), 0)[5], 0);
    serve.stop();
}

fn scan_id(line: &str) -> String {
    let line: Value = serde_json::from_str(line).unwrap();
    line["scan_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_failed_lookup_is_an_error_and_the_rest_is_queued() {
    let registry = Registry::start();
    let place = served(&registry);
    registry.fail("prod/pass/tags/list?last=2", "500 Internal Server Error");
    let ran = backfill(&place, &[]);
    assert_eq!(counts(&ran, 1), json!([4, 3, 2, 0, 0, 1]));
    assert!(
        ran.stdout.contains("harbor.example.com/prod/pass"),
        "{}",
        ran.stdout
    );
    registry.mend();
    registry.fail("prod/pass/manifests/3", "500 Internal Server Error");
    let ran = backfill(&place, &[]);
    assert_eq!(counts(&ran, 1), json!([4, 10, 3, 1, 1, 4]));
    assert!(
        ran.stdout.contains("harbor.example.com/prod/pass:3"),
        "{}",
        ran.stdout
    );
    registry.mend();
    assert_eq!(
        counts(&backfill(&place, &[]), 0),
        json!([4, 10, 3, 6, 0, 1])
    );
    let mut expected: Vec<_> = ["1", "2", "3", "4", "5"]
        .map(|it| image("prod/pass", it))
        .into();
    expected.push(image("prod/unsupported", "1"));
    assert_eq!(queued(&place), expected);

    registry.fail("_catalog", "404 Not Found");
    let ran = backfill(&place, &[]);
    assert_eq!(ran.code, Some(1), "{}", ran.stdout);
    assert!(
        ran.stderr.contains("name them with --repositories"),
        "{}",
        ran.stderr
    );
    let gone = backfill(&place, &["--repositories=prod/gone"]);
    assert_eq!(counts(&gone, 1), json!([1, 0, 0, 0, 0, 0]));
}

/// Starts a run that sends one message per second, so it waits long between the two repositories.
fn begin(place: &Place) -> Child {
    let mut command = place.command(&["backfill", "harbor", "--rate=1"]);
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn interrupt(child: &mut Child, signal: Signal) -> Option<i32> {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
    child.wait().unwrap().code()
}

#[test]
fn an_interrupted_run_resumes_and_queues_nothing_twice() {
    for (signal, code) in [
        (Signal::INT, Some(1)),
        (Signal::TERM, Some(1)),
        (Signal::KILL, None),
    ] {
        let registry = Registry::start();
        let place = registry.place();
        let serve = place.serve(&["--no-scan"]);
        let journal = place.data_dir().join("backfill-harbor.jsonl");
        let mut child = begin(&place);
        wait_for("the first repository", || {
            let lines = fs::read_to_string(&journal).ok()?;
            (lines.lines().count() == 5).then_some(())
        });
        let second = backfill(&place, &[]);
        assert_eq!(second.code, Some(2), "{}", second.stdout);
        let words = "another backfill of this source is running";
        assert!(second.stderr.contains(words), "{}", second.stderr);
        assert_eq!(interrupt(&mut child, signal), code, "{signal:?}");
        assert_eq!(
            counts(&backfill(&place, &[]), 0),
            json!([4, 10, 3, 6, 0, 1])
        );
        assert_eq!(fs::read_to_string(&journal).unwrap().lines().count(), 6);
        serve.stop();
        assert_eq!(queued(&place).len(), 6);
    }
}

#[test]
fn a_run_waits_for_the_pause_of_a_registry_unless_it_is_too_long_or_interrupted() {
    let registry = Registry::start();
    let place = served(&registry);
    let journal = place.data_dir().join("backfill-harbor.jsonl");
    let limited = "prod/unsupported/manifests/1";
    registry.fail(limited, "429 Too Many\r\nretry-after: 2000");
    let ran = backfill(&place, &[]);
    assert_eq!(counts(&ran, 1), json!([3, 10, 3, 0, 1, 5]));
    assert!(ran.stdout.contains("asks for a pause"), "{}", ran.stdout);

    registry.fail(limited, "429 Too Many\r\nretry-after: 200");
    let mut child = begin(&place);
    wait_for("the question", || registry.was_asked(limited).then_some(()));
    assert_eq!(interrupt(&mut child, Signal::INT), Some(1));

    registry.fail(limited, "429 Too Many\r\nretry-after: 1");
    let mut child = begin(&place);
    wait_for("the question", || registry.was_asked(limited).then_some(()));
    registry.mend();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let lines = fs::read_to_string(&journal).unwrap();
    assert_eq!(lines.lines().count(), 6);
}

#[test]
fn a_backfill_that_cannot_start_exits_with_2() {
    let registry = Registry::start();
    let place = registry.place();
    let arguments = ["--queue-url=http://127.0.0.1:1/000000000000/q"];
    let without_ledger = backfill(&place, &arguments);
    assert_eq!(without_ledger.code, Some(2), "{}", without_ledger.stdout);
    assert!(
        without_ledger.stderr.contains("there is no ledger"),
        "{}",
        without_ledger.stderr
    );
    let stranger = place.run(&["backfill", "nobody"]);
    assert_eq!(stranger.code, Some(2), "{}", stranger.stdout);
    assert!(
        stranger.stderr.contains("no source nobody"),
        "{}",
        stranger.stderr
    );
}
