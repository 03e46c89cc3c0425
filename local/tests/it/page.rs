//! The local page: what it shows, to whom, and that hostile names stay text.

use serde_json::json;

use crate::world::{Answer, Place, Serve, digest, exchange, wait_for};

fn page(serve: &Serve, path: &str, headers: &str) -> Answer {
    let head = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
    exchange(serve.address, &head, b"").unwrap()
}

const LOCAL: &str = "Host: localhost:8080\r\n";

#[test]
fn it_shows_deliveries_scans_verdicts_and_dead_letters_with_their_reasons() {
    let place = Place::new();
    let serve = place.serve(&[]);
    for image in ["pass", "fail", "unsupported"] {
        let image = format!("harbor.example.com/prod/{image}:1@{}", digest(1));
        place.settled(&serve.queue(&place.delivery("harbor", &image)));
    }
    let hanging = serve.queue(&place.delivery("harbor", "harbor.example.com/prod/hang:1"));
    place.cli_on(&hanging);
    let mut wrong = place.delivery("harbor", "harbor.example.com/prod/pass:1");
    wrong.headers = String::new();
    serve.send(&wrong);
    let shown = wait_for("the dead letter", || {
        Some(page(&serve, "/", LOCAL)).filter(|it| it.body.contains("<td>unsupported_image</td>"))
    });
    assert_eq!(shown.status, 200);
    for part in [
        "<td>harbor</td><td>202</td><td class=\"long\">1 queued</td>",
        "<td>401</td><td class=\"long\">No valid credential</td>",
        "<td class=\"clean\">passed</td>",
        "<td class=\"critical\">failed</td>",
        "<dt>dead letters</dt><dd>1</dd>",
        "<dt>running</dt><dd>1</dd>",
        "harbor.example.com/prod/hang:1",
        "<rect class=\"critical\"",
        "<li class=\"error\">error 1</li>",
    ] {
        assert!(shown.body.contains(part), "{part} is not in {}", shown.body);
    }
    let head = shown.head.to_lowercase();
    for header in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
    ] {
        assert!(head.contains(header), "{header} is not in {head}");
    }
    // tests/proofs/page.py shows the same in a browser.
    for external in [
        "src=", "href=\"h", "href=\"/", "<script", "<form", "style=", "url(",
    ] {
        assert!(!shown.body.contains(external), "{external}");
    }
    assert!(shown.body.contains("http-equiv=\"refresh\""));
    let still = page(&serve, "/?still", LOCAL).body;
    assert!(!still.contains("http-equiv"), "{still}");
    let style = page(&serve, "/page.css", LOCAL);
    assert_eq!(style.status, 200);
    assert!(style.head.to_lowercase().contains("content-type: text/css"));
    assert!(!style.body.contains("url(") && !style.body.contains("@import"));
}

#[test]
fn an_orphaned_scan_does_not_count_as_running() {
    let place = Place::new();
    let mut serve = place.serve(&[]);
    let hanging = serve.queue(&place.delivery("harbor", "harbor.example.com/prod/hang:1"));
    place.cli_on(&hanging);
    let shown = page(&serve, "/", LOCAL).body;
    for part in [
        "<dt>running</dt><dd>1</dd></div><div><dt>orphaned</dt><dd>0</dd>",
        "<td>in_progress until 20",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    serve.kill();
    // As if the claim had ended long ago.
    let ledger = rusqlite::Connection::open(place.data_dir().join("ledger.sqlite")).unwrap();
    let past =
        "UPDATE scan SET record = json_set(record, '$.claimed_until', '2026-01-01T00:00:00Z')";
    assert_eq!(ledger.execute(past, ()).unwrap(), 1);
    let serve = place.serve(&["--no-scan"]);
    let shown = page(&serve, "/", LOCAL).body;
    for part in [
        "<dt>running</dt><dd>0</dd></div><div><dt>orphaned</dt><dd>1</dd>",
        "<td class=\"error\">in_progress: orphaned since 2026-01-01 00:00:00</td>",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
}

#[test]
fn hostile_names_stay_text() {
    let place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    // No registry has such names, but others can write to the queue.
    let attribute = |text: &str| json!({"DataType": "String", "StringValue": text});
    let hostile = "</td><script>alert('1')</script><img src=x onerror=\"a()\">&amp;\u{202e}";
    let url = format!("http://{}/000000000000/scanhook-dlq", serve.sqs_address);
    let message = json!({
        "QueueUrl": url,
        "MessageBody": hostile,
        "MessageAttributes": {
            "scanhook.reason": attribute(hostile),
            "scanhook.detail": attribute(hostile),
            "scanhook.scan_id": attribute(hostile),
        },
    });
    serve.sqs("SendMessage", &message.to_string());
    let mut stranger = place.delivery("harbor", "harbor.example.com/prod/pass:1");
    stranger.path = "/webhooks/%3Cscript%3E".to_owned();
    serve.send(&stranger);
    let body = page(&serve, "/", LOCAL).body;
    let escaped = "&lt;/td&gt;&lt;script&gt;alert('1')&lt;/script&gt;&lt;img src=x onerror=&quot;a()&quot;&gt;&amp;amp;\u{fffd}";
    assert_eq!(body.matches(escaped).count(), 3, "{body}");
    for raw in ["<script", "<img", "\u{202e}", "%3Cscript"] {
        assert!(!body.contains(raw), "{raw} is in {body}");
    }
    assert!(body.contains("(no such source)"), "{body}");
}

#[test]
fn only_this_machine_sees_the_page_unless_it_is_opened() {
    let place = Place::new();
    let serve = place.serve(&["--no-scan"]);
    let proxied = "Host: localhost\r\nX-Forwarded-For: 203.0.113.9\r\n";
    for (headers, status) in [
        (LOCAL, 200),
        ("Host: 127.0.0.1:8080\r\n", 200),
        ("Host: rebound.example.com\r\n", 403),
        (proxied, 404),
    ] {
        for path in ["/", "/page.css"] {
            assert_eq!(
                page(&serve, path, headers).status,
                status,
                "{path} {headers}"
            );
        }
    }
    serve.stop();
    let open = place.serve(&[
        "--no-scan",
        "--open-page",
        "--allow-host=scanhook.example.com",
    ]);
    for (headers, status) in [
        ("Host: scanhook.example.com\r\n", 200),
        (proxied, 200),
        ("Host: rebound.example.com\r\n", 403),
    ] {
        assert_eq!(page(&open, "/", headers).status, status, "{headers}");
    }
}
