//! What the endpoint accepts from strangers. A paused clock advances only while both client and server wait.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse as _;
use axum::routing::get;
use http::StatusCode;
use scanhook_worker::listener::{self, Capacity};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::world::World;

/// The limit for the bodies of all requests together, and the part of each body that doesn't count.
const SHARED: usize = 64 << 20;
const FREE: usize = 32 * 1024;

const LARGEST: usize = 8 << 20;

async fn connect(world: &World) -> TcpStream {
    TcpStream::connect(world.base.strip_prefix("http://").unwrap())
        .await
        .unwrap()
}

/// Sends the head of a request with a body of `length` bytes, and `sent` bytes of the body.
async fn begin(world: &World, length: usize, sent: usize) -> TcpStream {
    let mut stream = connect(world).await;
    let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; sent]).await.unwrap();
    stream
}

async fn answer(mut stream: TcpStream) -> String {
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let world = World::start().await;
    let mut stream = connect(&world).await;
    let head = format!("POST / HTTP/1.1\r\nX-Long: {}\r\n\r\n", "a".repeat(20_000));
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = answer(stream).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    world.queue("q").await;
}

#[tokio::test]
async fn bodies_over_the_shared_limit_are_refused_like_by_a_busy_sqs_and_others_are_served() {
    let world = World::start().await;
    let mut unfinished = Vec::new();
    for _ in 0..SHARED / LARGEST {
        unfinished.push(begin(&world, LARGEST, LARGEST - 1).await);
    }
    let room = SHARED - unfinished.len() * (LARGEST - 1 - FREE);
    // A refusal of one byte over the limit shows that all other bodies were read.
    let length = room + FREE + 1;
    let mut refused = String::new();
    for _ in 0..1000 {
        refused = answer(begin(&world, length, length).await).await;
        if refused.starts_with("HTTP/1.1 503 ") {
            break;
        }
    }
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(
        refused.contains("x-amzn-query-error: ServiceUnavailable;Receiver"),
        "{refused}"
    );
    // Small requests are served meanwhile.
    world.queue("q").await;
    drop(unfinished);
    world.send("q", &"a".repeat(1_000_000)).await;
}

/// How long a head and a body may take each, and how long a kept connection may be idle.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request that is answered without the store: a paused clock doesn't wait for the store's thread.
const WHOLE: &str = "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: AmazonSQS.Nothing\r\nContent-Length: 2\r\n\r\n{}";

/// Sends `start`, then one byte every three seconds. Returns the answer and when the connection ended.
async fn dawdle(world: &World, start: &str) -> (String, Duration) {
    let began = Instant::now();
    let stream = connect(world).await;
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(start.as_bytes()).await.unwrap();
    let drip = tokio::spawn(async move {
        loop {
            sleep(Duration::from_secs(3)).await;
            if writer.write_all(b"1").await.is_err() {
                return;
            }
        }
    });
    let mut answer = Vec::new();
    // A reset counts as an end.
    let _ = reader.read_to_end(&mut answer).await;
    let took = began.elapsed();
    drip.abort();
    (String::from_utf8(answer).unwrap(), took)
}

fn in_time(took: Duration) -> bool {
    (PATIENCE..PATIENCE + Duration::from_millis(10)).contains(&took)
}

#[tokio::test(start_paused = true)]
async fn a_head_may_take_ten_seconds_even_if_it_is_almost_complete() {
    let world = World::start().await;
    for start in ["", "P", "POST / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "] {
        let (answer, took) = dawdle(&world, start).await;
        assert!(in_time(took), "{start:?}: {took:?}");
        assert!(!answer.contains(" 200 "), "{start:?}: {answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_may_take_ten_seconds_even_if_it_is_almost_complete() {
    let world = World::start().await;
    for length in ["Content-Length: 9", "Transfer-Encoding: chunked"] {
        let start = format!("POST / HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n");
        let (answer, took) = dawdle(&world, &start).await;
        assert!(in_time(took), "{length}: {took:?}");
        assert!(answer.starts_with("HTTP/1.1 408 "), "{length}: {answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_between_requests_and_closed_after_ten_idle_seconds() {
    let world = World::start().await;
    let mut stream = connect(&world).await;
    for _ in 0..3 {
        stream.write_all(WHOLE.as_bytes()).await.unwrap();
        let mut part = vec![0; 4096];
        let length = stream.read(&mut part).await.unwrap();
        let answer = String::from_utf8_lossy(&part[..length]);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("UnsupportedOperation"), "{answer}");
        sleep(PATIENCE * 9 / 10).await;
    }
    let began = Instant::now();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert!(began.elapsed() <= PATIENCE / 10 + Duration::from_millis(10));
}

#[tokio::test]
async fn a_look_at_large_messages_ends_at_four_megabytes() {
    let world = World::start().await;
    let url = world.queue("q").await;
    // A tab is two bytes in JSON.
    let body = "\t".repeat(1 << 20);
    for _ in 0..6 {
        world.send(&url, &body).await;
    }
    let first = world.get("/000000000000/q").await;
    assert_eq!(first.messages.len(), 4);
    let path = format!("/000000000000/q?after={}", first.next.unwrap());
    let second = world.get(&path).await;
    assert_eq!((second.messages.len(), second.next), (2, None));
    assert_eq!(world.store.page("q", 50).await.unwrap().messages.len(), 4);
}

/// More than the buffers between a server and a client can hold.
const LONG: usize = 64 << 20;

#[tokio::test]
async fn who_does_not_read_an_answer_gives_way_and_who_is_being_answered_does_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (asked, release) = (Arc::clone(&asked), Arc::clone(&release));
        async move || {
            asked.notify_one();
            release.notified().await;
            "done"
        }
    };
    let router = Router::new()
        .route("/long", get(async || vec![b'x'; LONG]))
        .route("/slow", get(slow))
        .route("/", get(async || "ok"));
    let capacity = Capacity {
        connections: 2,
        bodies: 0,
        refuse: Arc::new(|_, _| StatusCode::BAD_REQUEST.into_response()),
    };
    let stopping = CancellationToken::new();
    tokio::spawn(listener::serve(
        listener,
        router,
        capacity,
        stopping,
        Duration::ZERO,
    ));
    let ask = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    let slow = ask("/slow").await;
    asked.notified().await;
    let mut long = ask("/long").await;
    let mut start = [0; 12];
    long.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    for _ in 0..2 {
        assert!(answer(ask("/").await).await.ends_with("\r\nok"));
    }
    let mut rest = Vec::new();
    let _ = long.read_to_end(&mut rest).await;
    assert!(rest.len() < LONG, "{}", rest.len());
    release.notify_one();
    assert!(answer(slow).await.ends_with("\r\ndone"));
}
