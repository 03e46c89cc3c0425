//! A ledger's table that does not answer, or only with errors: nobody waits long for it, and nobody storms it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use scanhook_core::message::QueueMessage;
use scanhook_core::record::ScanRecord;
use scanhook_scanner::dynamodb::DynamoDbLedger;
use scanhook_scanner::ledger::{Ledger as _, LedgerError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::world::message;

const PATIENCE: Duration = Duration::from_millis(600);

/// Answers every request with `answer`, or not at all, and counts them.
async fn table(answer: Option<String>) -> (DynamoDbLedger, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            match &answer {
                None => open.push(stream),
                Some(answer) => {
                    let mut request = [0; 16 * 1024];
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        }
    });
    let keys = Credentials::new("test", "test", None, None, "test");
    let sdk = SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(keys))
        .endpoint_url(format!("http://{address}"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    let ledger = DynamoDbLedger::new(&sdk, "ledger".to_owned(), Duration::ZERO, PATIENCE);
    (ledger, requests)
}

async fn record(ledger: &DynamoDbLedger) -> Result<(), LedgerError> {
    let message = QueueMessage::parse(&message("pass")).unwrap();
    let now = "2026-11-21T20:00:00Z".parse().unwrap();
    ledger.record(&ScanRecord::begin(&message, 1, now)).await
}

#[tokio::test]
async fn a_table_that_does_not_answer_is_given_up_within_the_patience() {
    let (ledger, requests) = table(None).await;
    let began = Instant::now();
    record(&ledger).await.unwrap_err();
    assert!(began.elapsed() < PATIENCE * 10, "{:?}", began.elapsed());
    assert!((1..=2).contains(&requests.load(Ordering::Relaxed)));
}

fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

#[tokio::test]
async fn a_table_that_fails_is_asked_twice_and_no_more() {
    let (ledger, requests) = table(Some(answer("500 Internal Server Error", "{}"))).await;
    record(&ledger).await.unwrap_err();
    assert!((1..=2).contains(&requests.load(Ordering::Relaxed)));
}

#[tokio::test]
async fn a_table_that_does_not_exist_is_asked_once() {
    let kind = "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException";
    let body = format!("{{\"__type\":\"{kind}\",\"message\":\"no such table\"}}");
    let (ledger, requests) = table(Some(answer("400 Bad Request", &body))).await;
    let err = format!(
        "{:#}",
        anyhow::Error::from(record(&ledger).await.unwrap_err())
    );
    assert!(err.contains("the ledger is unavailable: "), "{err}");
    assert!(err.contains("no such table"), "{err}");
    assert_eq!(requests.load(Ordering::Relaxed), 1);
}
