//! Clients of an SQS endpoint. `sqs_load ADDRESS QUEUE fill COUNT` sends messages in batches of ten.
//! `sqs_load ADDRESS QUEUE cycle CLIENTS SECONDS` runs clients that send, receive and delete messages in turn, and prints one line of
//! JSON.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::panic,
    reason = "a measurement prints, and fails where it fails"
)]

use std::time::{Duration, Instant};

use scanhook_bench::http;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A body of the size of the webhook's messages.
const BODY: usize = 700;

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    address: String,
    queue: String,
}

impl Client {
    async fn connect(address: &str, queue: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
            address: address.to_owned(),
            queue: format!("http://{address}/000000000000/{queue}"),
        }
    }

    async fn call(&mut self, operation: &str, mut parameters: Value) -> Value {
        parameters["QueueUrl"] = self.queue.as_str().into();
        let body = parameters.to_string();
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {}\r\n\
             X-Amz-Target: AmazonSQS.{operation}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let (status, answer) =
            http::exchange(&mut self.stream, &mut self.buffer, request.as_bytes()).await;
        assert_eq!(status, "200", "{operation}: {answer}");
        serde_json::from_str(&answer).unwrap()
    }

    async fn cycle(&mut self) {
        self.call("SendMessage", json!({"MessageBody": "m".repeat(BODY)}))
            .await;
        let received = self.call("ReceiveMessage", json!({})).await;
        // Another client may have received the message; then there is nothing to delete.
        if let Some(handle) = received["Messages"][0]["ReceiptHandle"].as_str() {
            self.call("DeleteMessage", json!({"ReceiptHandle": handle}))
                .await;
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [address, queue, "fill", count] => fill(address, queue, count.parse().unwrap()).await,
        [address, queue, "cycle", clients, seconds] => {
            let (clients, seconds) = (clients.parse().unwrap(), seconds.parse().unwrap());
            cycle(address, queue, clients, seconds).await;
        }
        _ => panic!("sqs_load ADDRESS QUEUE fill COUNT | cycle CLIENTS SECONDS"),
    }
}

async fn fill(address: &str, queue: &str, count: usize) {
    let mut client = Client::connect(address, queue).await;
    let entry = |id| json!({"Id": format!("{id}"), "MessageBody": "m".repeat(BODY)});
    for _ in 0..count.div_ceil(10) {
        let entries: Vec<_> = (0..10).map(entry).collect();
        client
            .call("SendMessageBatch", json!({"Entries": entries}))
            .await;
    }
}

async fn cycle(address: &str, queue: &str, clients: usize, seconds: f64) {
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(seconds);
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let mut client = Client::connect(address, queue).await;
        tasks.spawn(async move {
            let mut took = Vec::new();
            while Instant::now() < end {
                let begin = Instant::now();
                client.cycle().await;
                took.push(begin.elapsed());
            }
            took
        });
    }
    let mut took: Vec<_> = tasks.join_all().await.concat();
    let elapsed = start.elapsed().as_secs_f64();
    took.sort_unstable();
    let summary = json!({
        "cycles": took.len(), "seconds": elapsed, "p50_us": took[took.len() / 2].as_micros(),
        "p99_us": took[took.len() * 99 / 100].as_micros(),
    });
    println!("{summary}");
}
