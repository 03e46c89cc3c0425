//! A closed loop of signed deliveries: `load ADDRESS PATH BODY CONNECTIONS SECONDS IDS` keeps the connections busy for that time,
//! waits for the outstanding answers and prints one line of JSON. It writes the ids of accepted scans to the file IDS. The secret is
//! in the environment variable `SECRET`.
#![expect(
    clippy::unwrap_used,
    clippy::string_slice,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a measurement prints, and fails where it fails"
)]

use std::io::Write as _;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use scanhook_bench::{http, payloads};
use serde_json::json;
use sha2::Sha256;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The number of different deliveries, sent in turn.
const DELIVERIES: usize = 64;

/// The results of one connection.
#[derive(Default)]
struct Seen {
    took: Vec<Duration>,
    refused: usize,
    ids: Vec<String>,
}

/// Runs on one core, because the server runs on the other.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [address, path, body, connections, seconds, ids] = arguments.as_slice() else {
        panic!("load ADDRESS PATH full|middle|short CONNECTIONS SECONDS IDS");
    };
    let secret = std::env::var("SECRET").unwrap();
    let deliveries: &[Vec<u8>] = (0..DELIVERIES)
        .map(|it| request(address, path, &payload(body, it), &secret))
        .collect::<Vec<_>>()
        .leak();
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(seconds.parse().unwrap());
    let mut tasks = JoinSet::new();
    for number in 0..connections.parse().unwrap() {
        let stream = TcpStream::connect(address.as_str()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        tasks.spawn(deliver(stream, deliveries, number, end));
    }
    let mut all = Seen::default();
    while let Some(seen) = tasks.join_next().await {
        let seen = seen.unwrap();
        all.took.extend(seen.took);
        all.ids.extend(seen.ids);
        all.refused += seen.refused;
    }
    let elapsed = start.elapsed().as_secs_f64();
    let mut file = std::io::BufWriter::new(std::fs::File::create(ids).unwrap());
    for id in &all.ids {
        writeln!(file, "{id}").unwrap();
    }
    file.flush().unwrap();
    all.took.sort_unstable();
    let count = all.took.len();
    let micros = |share: usize| all.took[(count * share / 1000).min(count - 1)].as_micros();
    let summary = json!({
        "requests": count, "refused": all.refused, "accepted_ids": all.ids.len(), "seconds": elapsed,
        "p50_us": micros(500), "p99_us": micros(990), "p999_us": micros(999),
    });
    println!("{summary}");
}

/// The JSON object, made so long by a member that nobody reads.
fn padded(object: Vec<u8>, length: usize) -> Vec<u8> {
    let padding = "x".repeat(length - object.len() - r#""padding":"","#.len());
    [
        format!(r#"{{"padding":"{padding}","#).as_bytes(),
        &object[1..],
    ]
    .concat()
}

fn payload(body: &str, number: usize) -> Vec<u8> {
    match body {
        "full" => payloads::ghcr_of(number),
        "middle" => padded(payloads::short_ghcr_of(number), 4096),
        "short" => payloads::short_ghcr_of(number),
        _ => panic!("{body} is none of full, middle and short"),
    }
}

fn request(address: &str, path: &str, body: &[u8], secret: &str) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    let signature = mac.chain_update(body).finalize().into_bytes();
    let signature = hex::encode(signature);
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: GitHub-Hookshot/24bccdc\r\nAccept: */*\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nX-GitHub-Event: package\r\n\
         X-GitHub-Delivery: 72d3162e-cc78-11e3-81ab-4c9367dc0958\r\nX-Hub-Signature-256: sha256={signature}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    request
}

/// Sends deliveries, each after the answer to the previous one.
async fn deliver(
    mut stream: TcpStream,
    deliveries: &[Vec<u8>],
    number: usize,
    end: Instant,
) -> Seen {
    let mut seen = Seen::default();
    let mut buffer = Vec::with_capacity(16 * 1024);
    for delivery in deliveries.iter().cycle().skip(number) {
        let sent = Instant::now();
        if sent >= end {
            break;
        }
        let (status, body) = http::exchange(&mut stream, &mut buffer, delivery).await;
        seen.took.push(sent.elapsed());
        match status.as_str() {
            "200" | "202" => {}
            _ => seen.refused += 1,
        }
        let ids = body.split(r#""scan_id":""#).skip(1);
        seen.ids.extend(ids.map(|it| it[..26].to_owned()));
    }
    seen
}
