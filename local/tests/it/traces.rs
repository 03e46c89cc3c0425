//! The trace of a delivery: from its sender, through the queue, to the end of its scan; in the log and at a collector.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::collector::{Collector, Span};
use crate::world::{Delivery, Place, Serve, wait_for};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SENDERS_SPAN: &str = "b7ad6b7169203331";

fn traced(mut delivery: Delivery, flags: &str) -> Delivery {
    delivery.add_header("traceparent", &format!("00-{TRACE}-{SENDERS_SPAN}-{flags}"));
    delivery
}

fn collected_by(collector: &Collector) -> Place {
    let mut place = Place::new();
    for (name, value) in [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", collector.address),
        ),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20fake-token-of-the-collector".to_owned(),
        ),
    ] {
        place.environment.insert(name.to_owned(), value);
    }
    place
}

/// The span with that name, which must exist.
fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut named = spans.iter().filter(|it| it.name() == name);
    let (first, second) = (named.next(), named.next());
    assert!(second.is_none(), "{name} is there twice: {spans:#?}");
    first.unwrap_or_else(|| panic!("there is no {name}: {spans:#?}"))
}

/// The log lines of a scan and of its delivery.
fn lines_of(serve: &Serve, scan_id: &str, delivery: &str) -> Vec<Value> {
    let about = |it: &Value| it["scan_id"] == scan_id || it["delivery"] == delivery;
    serve.log().into_iter().filter(about).collect()
}

#[test]
fn one_trace_spans_sender_queue_and_verdict() {
    let collector = Collector::answering("200 OK");
    let place = collected_by(&collector);
    let serve = place.serve(&[]);
    let delivery = traced(
        place.delivery("harbor", "harbor.example.com/prod/fail:1"),
        "01",
    );
    let answer = serve.send(&delivery);
    let scan_id = answer.scan_id();
    place.settled(&scan_id);
    let spans = wait_for("the scan's spans", || {
        let spans = collector.spans(TRACE);
        spans.iter().any(|it| it.name() == "scan").then_some(spans)
    });
    for (name, parent, kind) in [
        ("delivery", None, 2),
        ("verify", Some("delivery"), 1),
        ("send", Some("delivery"), 4),
        ("scan", Some("send"), 5),
        ("resolve", Some("scan"), 1),
        ("image", Some("scan"), 1),
        ("claim", Some("image"), 1),
        ("cli", Some("image"), 1),
        ("judge", Some("image"), 1),
    ] {
        let span = one(&spans, name);
        let above = parent.map_or(SENDERS_SPAN.to_owned(), |it| one(&spans, it).id());
        assert_eq!(span.parent(), above, "{name}");
        assert_eq!(span.wire.kind, kind, "{name}");
        assert_eq!(span.service, "scanhook", "{name}");
        assert_eq!(span.failure(), None, "{name}");
        let begin = span.wire.start_time_unix_nano;
        assert!(begin <= span.wire.end_time_unix_nano, "{name}");
        if let Some(parent) = parent {
            let parent = one(&spans, parent);
            assert!(
                parent.wire.start_time_unix_nano <= begin,
                "{name} begins before {parent:?}"
            );
        }
    }
    assert_eq!(spans.len(), 9, "{spans:#?}");
    assert_eq!(
        one(&spans, "image").attribute("verdict").as_deref(),
        Some("failed")
    );
    assert_eq!(
        one(&spans, "scan").attribute("scan_id"),
        Some(scan_id.clone())
    );
    assert_eq!(
        one(&spans, "send").attribute("messages").as_deref(),
        Some("1")
    );
    for head in collector.heads() {
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        let head = head.to_lowercase();
        assert!(head.contains("content-type: application/x-protobuf\r\n"));
        assert!(head.contains("authorization: bearer fake-token-of-the-collector\r\n"));
    }
    let log = serve.stdout();
    assert!(!log.contains("fake-token-of-the-collector"), "{log}");
    serve.stop();
}

#[test]
fn every_line_of_a_delivery_and_of_its_scans_has_trace_and_scan_id() {
    let mut place = Place::new();
    // The ids don't depend on the log level.
    place.environment.insert(
        "SCANHOOK_LOG".to_owned(),
        "info,scanhook_webhook=debug".to_owned(),
    );
    let serve = place.serve(&[]);
    for (image, attempts) in [("pass", 1), ("network", 4)] {
        let delivery = place.delivery("harbor", &format!("harbor.example.com/prod/{image}:1"));
        let answer = serve.send(&traced(delivery, "01"));
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        let (scan_id, delivery) = (answer.scan_id(), body["delivery"].as_str().unwrap());
        place.settled(&scan_id);
        let lines = lines_of(&serve, &scan_id, delivery);
        let count = |event: &str| lines.iter().filter(|it| it["event"] == event).count();
        assert_eq!(count("delivery.taken"), 1, "{lines:#?}");
        assert_eq!(count("scan.finished"), attempts, "{lines:#?}");
        for line in &lines {
            assert_eq!(line["trace_id"], TRACE, "{line}");
            if line["scan_id"].is_string() {
                assert!(line["message_id"].is_string(), "{line}");
            }
        }
    }
    // Only lines of a delivery or a scan have a trace.
    for line in serve.log() {
        let is_of_scan = line["target"]
            .as_str()
            .is_some_and(|it| it.starts_with("scanhook_scanner::batch"));
        assert_eq!(is_of_scan, line["message_id"].is_string(), "{line}");
        assert!(!is_of_scan || line["trace_id"] == TRACE, "{line}");
    }
}

#[test]
fn a_delivery_without_a_trace_starts_one_and_hostile_traces_are_ignored() {
    let collector = Collector::answering("200 OK");
    let place = collected_by(&collector);
    let serve = place.serve(&[]);
    for hostile in [
        None,
        Some("00-deadbeefdeadbeefdeadbeefdeadbeef-zzzzzzzzzzzzzzzz-01"),
        Some("<script>deadbeef</script>"),
    ] {
        let mut delivery = place.delivery("harbor", "harbor.example.com/prod/pass:1");
        if let Some(hostile) = hostile {
            delivery.add_header("traceparent", hostile);
            delivery.add_header("tracestate", "deadbeef=1");
        }
        let before = collector.all().len();
        let scan_id = serve.queue(&delivery);
        place.settled(&scan_id);
        let spans = wait_for("the scan's spans", || {
            let spans = collector.all().split_off(before);
            let is_here = spans.iter().any(|it| it.name() == "scan");
            is_here.then_some(spans)
        });
        let delivery = one(&spans, "delivery");
        assert_eq!(delivery.parent(), "");
        assert!(spans.iter().all(|it| it.trace_id() == delivery.trace_id()));
        assert_eq!(one(&spans, "scan").parent(), one(&spans, "send").id());
    }
    let everything = format!("{:?} {}", collector.all(), serve.stdout());
    assert!(!everything.contains("deadbeef"), "{everything}");
}

#[test]
fn refused_and_unsampled_deliveries_are_not_exported() {
    let collector = Collector::answering("200 OK");
    let place = collected_by(&collector);
    let serve = place.serve(&[]);
    let image = "harbor.example.com/prod/pass:1";
    let mut stranger = traced(place.delivery("harbor", image), "01");
    stranger.headers = stranger
        .headers
        .replace("fake-secret-of-HARBOR", "wrong-secret");
    assert_eq!(serve.send(&stranger).status, 401);
    let unsampled = traced(place.delivery("harbor", image), "00");
    let scan_id = serve.queue(&unsampled);
    place.settled(&scan_id);
    let log = serve.log();
    let refused = log.iter().find(|it| it["event"] == "delivery.refused");
    let own = refused.unwrap()["trace_id"].as_str().unwrap();
    assert_eq!(own.len(), 32);
    assert_ne!(own, TRACE);
    let finished = log.iter().find(|it| it["event"] == "scan.finished");
    assert_eq!(finished.unwrap()["trace_id"], TRACE);
    serve.stop();
    assert_eq!(collector.all().len(), 0);
}

#[test]
fn a_trace_shows_every_attempt_and_failed_ones_as_errors() {
    let collector = Collector::answering("200 OK");
    let place = collected_by(&collector);
    let serve = place.serve(&[]);
    let delivery = traced(
        place.delivery("harbor", "harbor.example.com/prod/network:1"),
        "01",
    );
    let scan_id = serve.queue(&delivery);
    place.settled(&scan_id);
    serve.stop();
    let spans = collector.spans(TRACE);
    let named = |name: &'static str| spans.iter().filter(move |it| it.name() == name);
    let send = one(&spans, "send").id();
    let attempts: Vec<_> = named("scan").map(|it| it.attribute("attempt")).collect();
    let attempts: Vec<_> = attempts.iter().flatten().collect();
    assert_eq!(attempts, ["1", "2", "3", "4"]);
    for span in named("scan").chain(named("image")) {
        assert_eq!(span.failure(), Some("network"));
    }
    assert!(named("scan").all(|it| it.parent() == send));
}

#[test]
fn a_collector_that_is_down_hangs_or_refuses_delays_nothing() {
    let refusing = Collector::answering("400 Bad Request");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = nobody.local_addr().unwrap();
    drop(nobody);
    for address in [refusing.address, silent.local_addr().unwrap(), gone] {
        let mut place = Place::new();
        place.environment.insert(
            "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(),
            format!("http://{address}"),
        );
        let serve = place.serve(&[]);
        let scan_id = serve.queue(&place.delivery("harbor", "harbor.example.com/prod/pass:1"));
        assert_eq!(place.settled(&scan_id)["verdict"], "passed");
        if address == refusing.address {
            let dropped = "scanhook_trace_spans_dropped_total 9";
            wait_for("the count of what was dropped", || {
                let figures = serve.get("/metrics").body;
                figures.lines().any(|it| it == dropped).then_some(())
            });
        }
        let asked = Instant::now();
        serve.stop();
        // In addition to the shutdown without a collector.
        assert!(asked.elapsed() < Duration::from_secs(8));
    }
}

#[test]
fn a_wrong_collector_setting_is_named_and_deliveries_are_accepted() {
    let mut place = Place::new();
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ] {
        place.environment.insert(name.to_owned(), value.to_owned());
    }
    let serve = place.serve(&["--no-scan"]);
    serve.queue(&place.delivery("harbor", "harbor.example.com/prod/pass:1"));
    let log = serve.log();
    let warning = log.iter().find(|it| it["event"] == "traces.off").unwrap();
    assert_eq!(
        warning["message"],
        "traces are not exported: OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf"
    );
}
