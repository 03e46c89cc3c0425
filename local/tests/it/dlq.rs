//! `scanhook dlq` on the queue of a running `serve`, and of a stopped one. The proofs do it on other servers too.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::slow_sqs::{self, Fate};
use crate::world::{Place, Ran, Serve, exchange, wait_for};

/// A place with four dead letters of two reasons, and one message that is not a scan.
fn place_with_dead_letters() -> Place {
    let place = Place::new();
    let serve = place.serve(&[]);
    for number in 0..3 {
        let image = format!("hub.example.com/prod/not-found:{number}");
        place.settled(&serve.queue(&place.delivery("hub", &image)));
    }
    place
        .settled(&serve.queue(&place.delivery("harbor", "harbor.example.com/prod/registry-401:1")));
    serve.sqs(
        "SendMessage",
        r#"{"QueueUrl":"/000000000000/scanhook-dlq","MessageBody":"no message of ours"}"#,
    );
    serve.stop();
    place
}

fn list(place: &Place, arguments: &[&str]) -> Value {
    let ran = place.run(&[&["dlq", "list", "--output=json"], arguments].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

fn ids(listed: &Value) -> Vec<String> {
    let dead_letters = listed["letters"].as_array().unwrap().iter();
    dead_letters
        .map(|it| it["id"].as_str().unwrap().to_owned())
        .collect()
}

#[track_caller]
fn done(ran: &Ran) -> Value {
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn dead_letters_are_listed_shown_filtered_and_exported() {
    let place = place_with_dead_letters();
    let table = place.run(&["dlq", "list"]);
    assert_eq!(table.code, Some(0), "{}", table.stderr);
    for words in [
        "image_not_found",
        "unauthorized",
        "unknown",
        "hub.example.com/prod/not-found:2",
        "hub",
    ] {
        assert!(table.stdout.contains(words), "{words}: {}", table.stdout);
    }
    let all = list(&place, &[]);
    let groups: Vec<_> = all["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (&it["reason"], &it["requests"]))
        .collect();
    assert_eq!(groups[0], (&json!("image_not_found"), &json!(3)));
    assert_eq!((groups.len(), ids(&all).len()), (3, 5));
    for (arguments, expected) in [
        (&["--reason=unauthorized"] as &[&str], 1),
        (&["--reason=unauthorized,unknown"], 2),
        (&["--source=hub"], 3),
        (&["--image=hub.example.com/prod/*:1"], 1),
        (&["--since=1h"], 5),
        (&["--since=2999-01-01T00:00:00Z"], 0),
        (&["--source=hub", "--reason=unauthorized"], 0),
    ] {
        assert_eq!(
            ids(&list(&place, arguments)).len(),
            expected,
            "{arguments:?}"
        );
    }

    let id = &ids(&list(&place, &["--reason=unauthorized"]))[0];
    let shown = place.run(&["dlq", "show", id]);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    for words in [
        id.as_str(),
        "What unauthorized means",
        "`with its credentials`: they are wrong, expired or revoked",
        "PUSH_ARTIFACT",
        "Ledger record",
        "Message",
    ] {
        assert!(shown.stdout.contains(words), "{words}: {}", shown.stdout);
    }
    let shown = place.run(&["dlq", "show", "01NONE"]);
    assert_eq!((shown.code, shown.stdout.as_str()), (Some(1), ""));
    assert!(
        shown.stderr.contains("dead letter 01NONE not found"),
        "{}",
        shown.stderr
    );

    let exported = place.run(&["dlq", "export", "--source=hub"]);
    let lines: Vec<Value> = exported
        .stdout
        .lines()
        .map(|it| serde_json::from_str(it).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert!(
        lines
            .iter()
            .all(|it| it["reason"] == "image_not_found" && it["body"]["version"] == 1)
    );
    // Listing, showing and exporting change nothing.
    assert!(
        place
            .messages("scanhook-dlq")
            .iter()
            .all(|it| it.receive_count == 0)
    );
}

/// Control characters of both sets, a direction mark and a character without width.
const UNSEEN: &str = "\u{7f}\u{9b}31m\u{202e}\u{200b}";

#[test]
fn foreign_text_is_marked_on_the_terminal_and_exact_in_json() {
    let place = Place::new();
    let serve = place.serve(&[]);
    let scan_id = serve.queue(&place.delivery("hub", "hub.example.com/prod/not-found:1"));
    place.settled(&scan_id);
    let reason = format!("bad{UNSEEN}reason");
    let message = json!({
        "QueueUrl": "/000000000000/scanhook-dlq", "MessageBody": reason,
        "MessageAttributes": {
            "scanhook.reason": {"DataType": "String", "StringValue": reason},
            "scanhook.detail": {"DataType": "String", "StringValue": reason},
        },
    });
    serve.sqs("SendMessage", &message.to_string());
    serve.stop();
    let ledger = rusqlite::Connection::open(place.data_dir().join("ledger.sqlite")).unwrap();
    let changed_record = "replace(record, 'image_not_found', ?1)";
    let changed = ledger.execute(
        &format!("UPDATE scan SET record = {changed_record}"),
        [&reason],
    );
    assert_eq!(changed.unwrap(), 1);

    let listed = list(&place, &[]);
    let mut dead_letters = listed["letters"].as_array().unwrap().iter();
    let dead_letter = dead_letters
        .find(|it| it["reason"] == reason.as_str())
        .unwrap();
    let id = dead_letter["id"].as_str().unwrap();
    let hidden = |it: char| UNSEEN.contains(it) && !it.is_ascii_graphic();
    for (arguments, is_json) in [
        (&["dlq", "list"] as &[&str], false),
        (&["dlq", "show", id], false),
        (&["dlq", "redrive"], false),
        (&["dlq", "show", &reason], false),
        (&["scans", "list"], false),
        (&["scans", "show", &scan_id], false),
        (&["scans", "show", &reason], false),
        (&["check", "--config", &reason], false),
        (&["dlq", "export"], true),
        (&["dlq", "show", id, "--output=json"], true),
        (&["scans", "list", "--output=json"], true),
    ] {
        let ran = place.run(arguments);
        let printed = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!printed.contains(hidden), "{arguments:?}: {printed:?}");
        if is_json {
            let read = ran
                .stdout
                .contains("bad\\u007f\\u009b31m\\u202e\\u200breason");
            assert!(read, "{arguments:?}: {printed}");
        } else {
            let marked = printed.contains("\u{fffd}31m\u{fffd}\u{fffd}reason");
            assert!(marked, "{arguments:?}: {printed}");
        }
    }
}

#[test]
fn some_dead_letters_are_redriven_while_serve_is_stopped() {
    let place = place_with_dead_letters();
    let planned = place.run(&["dlq", "redrive", "--source=hub"]);
    assert_eq!(planned.code, Some(0), "{}", planned.stderr);
    assert!(
        planned
            .stdout
            .contains("would redrive 3 dead letters (3 messages)"),
        "{}",
        planned.stdout
    );
    assert_eq!(
        (
            place.messages("scanhook").len(),
            place.messages("scanhook-dlq").len()
        ),
        (0, 5)
    );

    let redriven = done(&place.run(&[
        "dlq",
        "redrive",
        "--source=hub",
        "--rate=500",
        "--force",
        "--yes",
        "--output=json",
    ]));
    assert_eq!(
        (
            &redriven["redriven"],
            &redriven["deleted_messages"],
            &redriven["left_messages"]
        ),
        (&json!(3), &json!(3), &json!(0))
    );
    let queued = place.messages("scanhook");
    assert_eq!((queued.len(), place.messages("scanhook-dlq").len()), (3, 2));
    for message in &queued {
        let body: Value = serde_json::from_str(&message.body).unwrap();
        assert_eq!(
            (&body["force"], message.group_id.as_deref()),
            (&json!(true), Some("hub"))
        );
        assert!(message.attributes.is_empty(), "{:?}", message.attributes);
    }
    let again = done(&place.run(&["dlq", "redrive", "--source=hub", "--yes", "--output=json"]));
    assert_eq!(again["redriven"], 0);

    // `--force` can't change a message that is not a scan, so it stays.
    let refused = place.run(&["dlq", "redrive", "--reason=unknown", "--force", "--yes"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    assert!(
        refused.stderr.contains("--force needs a scan message"),
        "{}",
        refused.stderr
    );
    assert_eq!(place.messages("scanhook-dlq").len(), 2);

    let deleted = done(&place.run(&[
        "dlq",
        "delete",
        "--reason=unknown",
        "--yes",
        "--output=json",
    ]));
    assert_eq!(deleted["deleted_messages"], 1);
    assert_eq!(place.messages("scanhook-dlq").len(), 1);
}

#[test]
fn all_dead_letters_are_redriven_and_scanned_while_serve_is_running() {
    let place = place_with_dead_letters();
    let serve = place.serve(&[]);
    let before = place.scans();
    let redriven = done(&place.run(&["dlq", "redrive", "--yes", "--output=json"]));
    assert_eq!(redriven["redriven"], 5);
    // They fail as before, and become dead letters again with the same reasons.
    wait_for("five dead letters", || {
        (ids(&list(&place, &[])).len() == 5).then_some(())
    });
    wait_for("later records", || {
        let scans = place.scans();
        let is_later = |it: &Value| {
            before
                .iter()
                .all(|old| old["scan_id"] != it["scan_id"] || old["started_at"] != it["started_at"])
        };
        scans
            .iter()
            .all(|it| is_later(it) && it["state"] == "dead_letter")
            .then_some(())
    });
    assert_eq!(ids(&list(&place, &["--reason=bad_message"])).len(), 1);
    serve.stop();
}

#[test]
fn a_dead_letter_with_a_later_verdict_is_not_scanned_again() {
    let place = Place::new();
    let serve = place.serve(&[]);
    let id = serve.queue(&place.delivery("harbor", "harbor.example.com/prod/pass:1"));
    let record = place.settled(&id);
    let scan = json!({
        "version": 1, "scan_id": id, "source": "harbor",
        "image": {"registry": "harbor.example.com", "repository": "prod/pass", "tag": "1", "digest": null},
        "event": {"id": null, "type": "push", "actor": null, "occurred_at": null, "received_at": record["received_at"]},
    });
    let attribute = |value: &str| json!({"DataType": "String", "StringValue": value});
    let message = json!({
        "QueueUrl": "/000000000000/scanhook-dlq", "MessageBody": scan.to_string(),
        "MessageAttributes": {
            "scanhook.reason": attribute("network"),
            "scanhook.failed_at": attribute("2020-01-01T00:00:00Z"),
        },
    });
    serve.sqs("SendMessage", &message.to_string());
    let listed = list(&place, &[]);
    assert_eq!(listed["letters"][0]["scanned_since"], true);
    let redriven = done(&place.run(&[
        "dlq",
        "redrive",
        "--reason=network",
        "--yes",
        "--output=json",
    ]));
    assert_eq!(
        (
            &redriven["redriven"],
            &redriven["scanned_since"],
            &redriven["deleted_messages"]
        ),
        (&json!(0), &json!(1), &json!(1))
    );
    serve.stop();
    assert!(place.messages("scanhook").is_empty() && place.messages("scanhook-dlq").is_empty());
}

#[test]
fn a_queue_that_is_not_a_dead_letter_queue_is_refused_without_any_queue() {
    let mut place = Place::new();
    let nothing = place.run(&["dlq", "list"]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(2), ""));
    assert!(
        nothing.stderr.contains("there is no queue in .scanhook"),
        "{}",
        nothing.stderr
    );
    let serve = place.serve(&["--no-scan"]);
    for (name, value) in [
        ("AWS_ACCESS_KEY_ID", "fake".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "fake".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        (
            "AWS_ENDPOINT_URL_SQS",
            format!("http://{}", serve.sqs_address),
        ),
    ] {
        place.environment.insert(name.to_owned(), value);
    }
    serve.queue(&place.delivery("harbor", "harbor.example.com/prod/pass:1"));
    let url = |name: &str| {
        format!(
            "--queue-url=http://{}/000000000000/{name}",
            serve.sqs_address
        )
    };
    let source = place.run(&["dlq", "list", &url("scanhook")]);
    assert_eq!(source.code, Some(2), "{}", source.stdout);
    assert!(
        source.stderr.contains("has a dead-letter queue of its own"),
        "{}",
        source.stderr
    );
    serve.sqs("CreateQueue", r#"{"QueueName":"plain"}"#);
    let plain = place.run(&["dlq", "list", &url("plain")]);
    assert_eq!(plain.code, Some(2), "{}", plain.stdout);
    assert!(
        plain.stderr.contains("isn't a dead-letter queue"),
        "{}",
        plain.stderr
    );
    let listed = list(&place, &[&url("scanhook"), "--any-queue"]);
    assert_eq!(ids(&listed).len(), 1);
    // As if something else hid it for longer than the command waits.
    let receive = format!(
        r#"{{"QueueUrl":"http://{}/000000000000/scanhook","VisibilityTimeout":600}}"#,
        serve.sqs_address
    );
    let lost = serve.sqs("ReceiveMessage", &receive);
    assert_eq!(lost["Messages"].as_array().unwrap().len(), 1);
    let listed = list(&place, &[&url("scanhook"), "--any-queue", "--hide=1s"]);
    assert_eq!((ids(&listed).len(), &listed["hidden"]), (0, &1.into()));
    let empty = list(&place, &[&url("scanhook-dlq")]);
    assert_eq!(ids(&empty).len(), 0);
    let elsewhere = place.run(&[
        "dlq",
        "redrive",
        &url("scanhook-dlq"),
        &format!(
            "--destination=http://{}/000000000000/scanhook-dlq",
            serve.sqs_address
        ),
    ]);
    assert_eq!(elsewhere.code, Some(2), "{}", elsewhere.stdout);
    assert!(
        elsewhere.stderr.contains("is the dead-letter queue itself"),
        "{}",
        elsewhere.stderr
    );
    let careless = place.run(&["dlq", "delete", "--yes"]);
    assert_eq!(careless.code, Some(2), "{}", careless.stdout);
    assert!(
        careless.stderr.contains("or use --all"),
        "{}",
        careless.stderr
    );
}

/// Lists dead letters while the answer of one receive has this fate.
fn list_slowly(fate: Fate, hide: &str) -> Value {
    let mut place = place_with_dead_letters();
    let serve = place.serve(&["--no-scan"]);
    let (address, met) = slow_sqs::before(serve.sqs_address, fate);
    place.use_sqs(address);
    let url = format!("--queue-url=http://{address}/000000000000/scanhook-dlq");
    let listed = list(&place, &[&url, hide]);
    assert!(met.load(Ordering::SeqCst) > 0);
    serve.stop();
    listed
}

#[test]
fn a_late_answer_of_sqs_is_waited_for() {
    let listed = list_slowly(Fate::Late(Duration::from_secs(11)), "--hide=10m");
    assert_eq!((ids(&listed).len(), &listed["hidden"]), (5, &0.into()));
}

#[test]
fn messages_of_a_lost_answer_are_waited_for() {
    let listed = list_slowly(Fate::Lost, "--hide=3s");
    assert_eq!((ids(&listed).len(), &listed["hidden"]), (5, &0.into()));
}

#[test]
fn an_interrupted_move_is_cancelled_and_a_killed_commands_move_is_waited_for() {
    let place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    // Only messages that SQS moved to the queue can be moved back without a destination.
    for number in 0..20 {
        let image = format!("harbor.example.com/prod/pass:{number}");
        serve.queue(&place.delivery("harbor", &image));
    }
    let url = |name: &str| format!("http://{}/000000000000/{name}", serve.sqs_address);
    let receive =
        json!({"QueueUrl": url("scanhook"), "VisibilityTimeout": 0, "MaxNumberOfMessages": 10});
    let depth = |name: &str| {
        let asked = json!({"QueueUrl": url(name), "AttributeNames": ["All"]});
        let queue = serve.sqs("GetQueueAttributes", &asked.to_string());
        let count = queue["Attributes"]["ApproximateNumberOfMessages"].as_str();
        count.unwrap().parse::<usize>().unwrap()
    };
    wait_for("dead letters", || {
        serve.sqs("ReceiveMessage", &receive.to_string());
        (depth("scanhook-dlq") == 20).then_some(())
    });
    for (signal, code) in [(Signal::INT, Some(1)), (Signal::KILL, None)] {
        let before = depth("scanhook");
        let mut command = place.command(&["dlq", "redrive", "--rate=1", "--yes"]);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("a part", || (depth("scanhook") > before).then_some(()));
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), code);
        assert_eq!(depth("scanhook") + depth("scanhook-dlq"), 20);
        let source = json!({"SourceArn": "arn:aws:sqs:us-east-1:000000000000:scanhook-dlq"});
        let tasks = serve.sqs("ListMessageMoveTasks", &source.to_string());
        let expected = if signal == Signal::INT {
            "CANCELLED"
        } else {
            "RUNNING"
        };
        assert_eq!(tasks["Results"][0]["Status"], expected);
    }
    assert!(depth("scanhook-dlq") > 0);
    done(&place.run(&["dlq", "redrive", "--rate=500", "--yes", "--output=json"]));
    assert_eq!((depth("scanhook"), depth("scanhook-dlq")), (20, 0));
}

#[test]
fn listing_large_dead_letters_takes_bounded_memory() {
    let place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    // Tabs have twice the size in JSON.
    let body = "\\t".repeat(1 << 20);
    let message = format!(r#"{{"QueueUrl":"/000000000000/scanhook-dlq","MessageBody":"{body}"}}"#);
    for _ in 0..12 {
        serve.sqs("SendMessage", &message);
    }
    let before = serve.memory("VmHWM");
    let (mut letters, mut after) = (0, Some(String::new()));
    while let Some(query) = after {
        let page = page(&serve, "scanhook-dlq", &query);
        letters += page["messages"].as_array().unwrap().len();
        after = page["next"].as_str().map(|it| format!("?after={it}"));
    }
    assert_eq!((letters, serve.get("/").status), (12, 200));
    let grown = serve.memory("VmHWM") - before;
    assert!(
        grown < 30 << 10,
        "the server took {grown} KiB more for 12 MiB of dead letters"
    );
}

/// The messages of a queue as the endpoint shows them.
fn page(serve: &Serve, queue: &str, query: &str) -> Value {
    let head = format!(
        "GET /000000000000/{queue}{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    );
    let answer = exchange(serve.sqs_address, &head, b"").unwrap();
    serde_json::from_str(&answer.body).unwrap()
}

/// The number of messages of each scan in a queue.
fn scans_in(serve: &Serve, queue: &str) -> BTreeMap<String, usize> {
    let (mut scans, mut after) = (BTreeMap::new(), String::new());
    loop {
        let page = page(serve, queue, &after);
        for message in page["messages"].as_array().unwrap() {
            let body: Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
            let scan_id = body["scan_id"].as_str().unwrap().to_owned();
            *scans.entry(scan_id).or_default() += 1;
        }
        match page["next"].as_str() {
            Some(next) => after = format!("?after={next}"),
            None => return scans,
        }
    }
}

/// The most messages that a killed process can leave in both queues.
const IN_BOTH: usize = 40;

#[test]
fn an_interrupted_redrive_loses_nothing_and_only_a_kill_doubles_messages() {
    let place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    let attribute = |value: &str| json!({"DataType": "String", "StringValue": value});
    let message = |team: usize, number: usize| {
        let body = json!({
            "version": 1, "scan_id": format!("01TEAM{team}N{number:03}"), "source": format!("team-{team}"),
            "image": {"registry": "harbor.example.com", "repository": "prod/pass", "tag": "1", "digest": null},
            "event": {"id": null, "type": "push", "actor": null, "occurred_at": null, "received_at": "2026-11-21T20:00:00Z"},
        });
        json!({
            "QueueUrl": "/000000000000/scanhook-dlq", "MessageBody": body.to_string(),
            "MessageAttributes": {"scanhook.reason": attribute("network")},
        })
    };
    let moments = [
        (Signal::INT, 0),
        (Signal::KILL, 0),
        (Signal::INT, 20),
        (Signal::KILL, 10),
        (Signal::KILL, 50),
    ];
    for team in 0..moments.len() {
        for number in 0..60 {
            serve.sqs("SendMessage", &message(team, number).to_string());
        }
    }
    let mut twice = 0;
    for (team, (signal, arrived)) in moments.into_iter().enumerate() {
        let before = scans_in(&serve, "scanhook").len();
        let flag = format!("--source=team-{team}");
        let redrive = ["dlq", "redrive", &flag, "--hide=2s", "--yes"];
        let mut command = place.command(&[&redrive[..], &["--rate=50"]].concat());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        wait_for("a part", || {
            let is_time = scans_in(&serve, "scanhook").len() >= before + arrived;
            is_time.then_some(())
        });
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        child.wait().unwrap();
        let (dead, source) = (
            scans_in(&serve, "scanhook-dlq"),
            scans_in(&serve, "scanhook"),
        );
        let all: BTreeSet<_> = dead.keys().chain(source.keys()).collect();
        assert_eq!(all.len(), 60 * moments.len(), "{signal:?} after {arrived}");
        let both = dead.keys().filter(|it| source.contains_key(*it)).count();
        let may_double = signal == Signal::KILL;
        assert!(
            both <= if may_double { IN_BOTH } else { 0 },
            "{signal:?}: {both}"
        );
        let strangers = |it: &&String| !it.starts_with(&format!("01TEAM{team}"));
        assert_eq!(source.keys().filter(strangers).count(), 60 * team);

        wait_for("what was held", || {
            let again = place.run(&[&redrive[..], &["--rate=500"]].concat());
            assert_eq!(again.code, Some(0), "{}", again.stderr);
            let dead = scans_in(&serve, "scanhook-dlq");
            dead.keys().all(|it| strangers(&it)).then_some(())
        });
        let source = scans_in(&serve, "scanhook");
        assert_eq!(source.len(), 60 * (team + 1));
        let doubled = source.values().filter(|it| **it > 1).count();
        assert!(doubled - twice <= if may_double { IN_BOTH } else { 0 });
        twice = doubled;
    }
    assert!(scans_in(&serve, "scanhook-dlq").is_empty());
}
