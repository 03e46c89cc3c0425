//! Connections to AWS that end while nobody looks: a function is frozen between its invocations.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;

use crate::world::{push, send, signed, sqs, started};

/// What becomes of a connection after its first answer.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The endpoint closes it at once.
    Closed,
    /// It breaks when something is sent, as behind a gateway that has forgotten it.
    Forgotten,
}

/// An endpoint of which each connection answers once.
struct Endpoint {
    address: String,
    connections: Arc<AtomicUsize>,
}

impl Endpoint {
    /// The first so many requests are answered when all of them are there.
    async fn start(end: End, together: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, barrier) = (Arc::clone(&connections), Arc::new(Barrier::new(together)));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let is_early = count.fetch_add(1, Ordering::SeqCst) < together;
                let barrier = is_early.then(|| Arc::clone(&barrier));
                tokio::spawn(serve(stream, end, barrier));
            }
        });
        Self {
            address,
            connections,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, end: End, barrier: Option<Arc<Barrier>>) {
    let request = read(&mut stream).await;
    if let Some(barrier) = barrier {
        barrier.wait().await;
    }
    let entries = request["Entries"].as_array().into_iter().flatten();
    let taken: Vec<_> = entries.map(|it| json!({"Id": it["Id"]})).collect();
    let body = json!({"Successful": taken}).to_string();
    let length = body.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await.unwrap();
    if matches!(end, End::Forgotten) {
        // Closed with something unread in it, a socket is reset.
        stream.readable().await.unwrap();
    }
}

/// Reads a request's body.
async fn read(stream: &mut TcpStream) -> Value {
    let mut text = String::new();
    loop {
        let mut part = vec![0; 4096];
        let length = stream.read(&mut part).await.unwrap();
        assert!(length > 0, "the request broke off: {text}");
        text.push_str(std::str::from_utf8(&part[..length]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let wanted = head
            .lines()
            .find_map(|it| it.strip_prefix("content-length: "));
        if body.len() == wanted.unwrap().parse::<usize>().unwrap() {
            return serde_json::from_str(body).unwrap();
        }
    }
}

#[tokio::test]
async fn a_delivery_after_a_connections_end_is_taken_as_any_other() {
    for end in [End::Closed, End::Forgotten] {
        let endpoint = Endpoint::start(end, 1).await;
        let queue = sqs(&format!("{}/000000000000/scans", endpoint.address)).await;
        queue.warm().await.unwrap();
        let webhook = Arc::new(started(queue).await);
        for count in 2..5 {
            let request = signed("mirror", push("mirror")).map(http_body_util::Full::new);
            let answer = send(&webhook, request).await;
            assert_eq!(answer.status, StatusCode::ACCEPTED, "{end:?}");
            assert_eq!(endpoint.connections(), count, "{end:?}");
        }
    }
}

#[tokio::test]
async fn however_many_connections_there_were_one_that_has_ended_costs_one_call() {
    for end in [End::Closed, End::Forgotten] {
        let endpoint = Endpoint::start(end, 5).await;
        let queue = sqs(&format!("{}/000000000000/scans", endpoint.address)).await;
        for warmed in join_all((0..5).map(|_| queue.warm())).await {
            warmed.unwrap();
        }
        assert_eq!(endpoint.connections(), 5);
        if queue.warm().await.is_err() {
            queue.warm().await.unwrap();
        }
        assert_eq!(endpoint.connections(), 6, "{end:?}");
    }
}

#[tokio::test]
async fn a_fresh_connection_that_breaks_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let queue = sqs(&format!("http://{address}/000000000000/scans")).await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read(&mut stream).await;
        drop(stream);
        listener
    });
    let error = queue.warm().await.unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "could not reach the queue: connection closed before message completed"
    );
    drop(server.await.unwrap());
}
