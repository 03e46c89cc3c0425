//! Routes, methods, sizes and encodings, and the order in which they are looked at.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body::Frame;

use crate::world::{
    LIMIT, SOURCES, assert_is_problem, bare, check, instead, memory, method, push, queued,
    recorded_by, scan_of_push, secret, send, signed, started, with,
};
use scanhook_emulator::sqs::Recorder;

/// A body of `chunks` times 64 KiB that counts how many of them were read, and says nothing of its length.
struct Flood {
    chunks: usize,
    read: Arc<AtomicUsize>,
}

const CHUNK: usize = 64 << 10;

impl http_body::Body for Flood {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.chunks == 0 {
            return Poll::Ready(None);
        }
        self.chunks -= 1;
        self.read.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b'x'; CHUNK])))))
    }
}

/// Posts 30 MB with these headers, and tells the status and how many chunks were read.
async fn flood(path: &str, headers: &[(&str, &str)]) -> (StatusCode, usize) {
    let read = Arc::new(AtomicUsize::new(0));
    let body = Flood {
        chunks: 480,
        read: read.clone(),
    };
    let mut request = Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let webhook = Arc::new(started(memory()).await);
    let answer = send(&webhook, request.body(body).unwrap()).await;
    assert_is_problem(&answer);
    (answer.status, read.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_body_that_says_it_is_too_long_is_not_read_at_all() {
    for length in ["1048577", "31457280", "18446744073709551616", "-1", "many"] {
        let told = flood("/webhooks/prod", &[("content-length", length)]).await;
        assert_eq!(told, (StatusCode::PAYLOAD_TOO_LARGE, 0), "{length}");
    }
}

#[tokio::test]
async fn a_body_that_lies_or_is_silent_about_its_length_is_read_up_to_the_limit() {
    for headers in [&[][..], &[("content-length", "10")]] {
        let (status, chunks) = flood("/webhooks/prod", headers).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(chunks <= LIMIT / CHUNK + 1, "{chunks}");
    }
}

#[tokio::test]
async fn nothing_of_a_body_is_read_for_an_unknown_source_or_an_encoded_body() {
    assert_eq!(
        flood("/webhooks/nobody", &[]).await,
        (StatusCode::NOT_FOUND, 0)
    );
    assert_eq!(
        flood("/webhooks/prod", &[("content-encoding", "gzip")]).await,
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, 0)
    );
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() {
    for (length, expected) in [(LIMIT, scan_of_push("prod")), (LIMIT + 1, "413".to_owned())] {
        let mut body = push("prod");
        body.push_str(&" ".repeat(length - body.len()));
        assert_eq!(check(signed("prod", body)).await, expected, "{length}");
    }
}

#[tokio::test]
async fn a_compressed_body_is_refused_and_identity_is_not() {
    for encoding in [
        "gzip",
        "br",
        "deflate",
        "identity, gzip",
        "gzip, identity",
        "",
    ] {
        let request = with(signed("prod", push("prod")), "content-encoding", encoding);
        assert_eq!(check(request).await, "415", "{encoding:?}");
    }
    for encoding in ["identity", "Identity"] {
        let request = with(signed("prod", push("prod")), "content-encoding", encoding);
        assert_eq!(check(request).await, scan_of_push("prod"), "{encoding:?}");
    }
}

#[tokio::test]
async fn each_check_comes_before_the_next() {
    let too_long = "x".repeat(LIMIT + 1);
    // Everything is wrong; then one thing after the other is put right.
    let request = |source: &str, body: &str| {
        let request = bare(source, body.to_owned());
        with(request, "content-encoding", "gzip")
    };
    assert_eq!(check(request("nobody", &too_long)).await, "404");
    let said = with(request("github", ""), "content-length", "1048577");
    let webhook = Arc::new(started(memory()).await);
    let answer = send(&webhook, said.map(http_body_util::Full::new)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(check(request("github", "not json")).await, "415");
    assert_eq!(check(bare("github", "not json")).await, "401");
    assert_eq!(check(signed("github", "not json")).await, "400");
    assert_eq!(
        check(signed("github", push("github"))).await,
        scan_of_push("github")
    );
}

#[tokio::test]
async fn a_stranger_learns_nothing_from_a_body_that_is_no_payload() {
    for source in SOURCES {
        for body in ["", "not json", "{}", &push(source)] {
            assert_eq!(check(bare(source, body.to_owned())).await, "401", "{body}");
        }
    }
}

#[tokio::test]
async fn a_content_type_is_never_a_reason_to_refuse() {
    for source in SOURCES {
        for content_type in ["text/plain", "application/xml", "nonsense", ""] {
            let request = instead(signed(source, push(source)), "content-type", content_type);
            assert_eq!(check(request).await, scan_of_push(source), "{content_type}");
        }
    }
}

#[tokio::test]
async fn only_post_is_a_delivery() {
    let recorder = Recorder::default();
    let webhook = Arc::new(started(recorded_by(&recorder)).await);
    for name in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "BREW"] {
        for path in ["/webhooks/prod", "/webhooks/prod/x", "/webhooks/nobody"] {
            let mut request = method(signed("prod", push("prod")), name);
            *request.uri_mut() = path.parse().unwrap();
            let answer = send(&webhook, request.map(http_body_util::Full::new)).await;
            assert_eq!(
                answer.status,
                StatusCode::METHOD_NOT_ALLOWED,
                "{name} {path}"
            );
            let allow: Vec<_> = answer.headers.get_all(header::ALLOW).iter().collect();
            // OPTIONS is for the kinds that ask before they deliver.
            assert!(
                allow == ["POST"] || allow == ["POST,OPTIONS"],
                "{name} {path}: {allow:?}"
            );
            if name != "HEAD" {
                assert_is_problem(&answer);
            }
        }
    }
    assert!(queued(&recorder).is_empty());
}

/// Asks as CloudEvents' senders do whether an origin may deliver, and tells the status and what is allowed.
async fn ask(path: &str, origin: Option<&str>) -> (u16, Vec<HeaderValue>) {
    let mut request = method(bare("azure", ""), "OPTIONS");
    *request.uri_mut() = path.parse().unwrap();
    if let Some(origin) = origin {
        request = with(request, "webhook-request-origin", origin);
    }
    let webhook = Arc::new(started(memory()).await);
    let answer = send(&webhook, request.map(http_body_util::Full::new)).await;
    let names = ["webhook-allowed-origin", "allow"];
    let allowed = names
        .iter()
        .filter_map(|it| answer.headers.get(*it).cloned());
    if answer.status.as_u16() >= 400 {
        assert_is_problem(&answer);
    }
    (answer.status.as_u16(), allowed.collect())
}

#[tokio::test]
async fn only_a_sender_with_the_secret_of_a_kind_that_asks_is_told_that_it_may_deliver() {
    let origin = Some("eventgrid.azure.net");
    let right = format!("/webhooks/azure/{}", secret("AZURE"));
    let allowed = vec![HeaderValue::from_static("eventgrid.azure.net")];
    assert_eq!(ask(&right, origin).await, (200, allowed));
    assert_eq!(ask("/webhooks/azure/wrong", origin).await, (401, vec![]));
    assert_eq!(ask("/webhooks/azure", origin).await, (401, vec![]));
    assert_eq!(ask("/webhooks/nobody", origin).await, (404, vec![]));
    let post = vec![HeaderValue::from_static("POST")];
    assert_eq!(ask(&right, None).await, (405, post.clone()));
    let hub = format!("/webhooks/hub/{}", secret("HUB"));
    assert_eq!(ask(&hub, origin).await, (405, post.clone()));
    assert_eq!(ask("/webhooks/prod", origin).await, (405, post));
}

#[tokio::test]
async fn the_health_of_the_process_can_be_read_and_nothing_posted_to_it() {
    let webhook = Arc::new(started(memory()).await);
    let request = |name| {
        let request = Request::builder().method(name).uri("/healthz");
        request.body(http_body_util::Empty::<Bytes>::new()).unwrap()
    };
    assert_eq!(send(&webhook, request("GET")).await.status, StatusCode::OK);
    let answer = send(&webhook, request("POST")).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.headers[header::ALLOW], "GET,HEAD");
    assert_is_problem(&answer);
}

/// Posts Harbor's push, rightly authenticated, to a path.
async fn check_path(path: &str) -> String {
    let mut request = signed("prod", push("prod"));
    *request.uri_mut() = path.parse().unwrap();
    check(request).await
}

#[tokio::test]
async fn what_is_no_route_or_no_source_is_not_found() {
    for path in [
        "/",
        "/webhooks",
        "/webhooks/",
        "/webhooks//",
        "/webhooks//prod",
        "/webhooks/PROD",
        "/webhooks/prod%20",
        "/webhooks/prod%00",
        "/webhooks/prod%2F",
        "/webhooks/..%2Fprod",
        "/webhooks/%252e%252e",
        "/webhooks/prod/a/b",
        "/webhooks/prod/a/",
        "/webhook/prod",
        "/WEBHOOKS/prod",
        "/metrics",
        "/readyz",
        "/.env",
    ] {
        assert_eq!(check_path(path).await, "404", "{path}");
    }
}

#[tokio::test]
async fn a_path_that_is_no_utf_8_is_not_found() {
    for path in ["/webhooks/%ff", "/webhooks/prod/%ff%fe", "/webhooks/%c0%af"] {
        assert_eq!(check_path(path).await, "404", "{path}");
    }
}

#[tokio::test]
async fn another_spelling_of_the_path_and_a_query_change_nothing() {
    for path in ["/webhooks/prod?x=1", "/webhooks/%70rod", "/webhooks/prod?"] {
        assert_eq!(check_path(path).await, scan_of_push("prod"), "{path}");
    }
}
