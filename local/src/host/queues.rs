//! The queues of a server: embedded or in AWS.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Builder;
use aws_sdk_sqs::types::QueueAttributeName;
use jiff::Timestamp;
use metrics::counter;
use scanhook_config::Environment;
use scanhook_config::aws::Aws;
use scanhook_config::config::Config;
use scanhook_core::failure::ErrorReason;
use scanhook_core::message::QueueMessage;
use scanhook_core::record::{ScanRecord, State};
use scanhook_core::retry::DEAD_LETTERS_KEPT;
use scanhook_emulator::sqs::{self, Endpoint, Expiry, Peeked, Store, client_settings};
use scanhook_worker::clock::Clock;

use crate::ledger::SqliteLedger;

pub(crate) const QUEUE: &str = "scanhook";

pub(crate) const DEAD_LETTERS: &str = "scanhook-dlq";

/// Opens the embedded queue. A message that exceeds the retention becomes a dead letter; in the dead-letter queue it is deleted.
/// Both are counted and logged.
pub(crate) async fn open_store(path: &Path) -> anyhow::Result<Store> {
    let store = Store::open(path, Clock::System).context("could not open the queue")?;
    let waiting = Expiry {
        dead_letter: Some(expired),
        count: || counter!("messages_expired", "queue" => QUEUE).increment(1),
    };
    let dead = Expiry {
        dead_letter: None,
        count: || counter!("messages_expired", "queue" => DEAD_LETTERS).increment(1),
    };
    store.expire_as(QUEUE, waiting).await?;
    store.expire_as(DEAD_LETTERS, dead).await?;
    Ok(store)
}

/// The dead-letter attributes of a message that exceeded the retention, in the form that the scanner writes.
fn expired(message: &Peeked, now: Timestamp) -> BTreeMap<String, String> {
    let scan = QueueMessage::parse(&message.body).ok();
    let attributes = [
        (
            "scanhook.reason",
            Some(ErrorReason::Expired.as_str().to_owned()),
        ),
        (
            "scanhook.detail",
            Some("it waited for longer than the queue keeps messages".to_owned()),
        ),
        ("scanhook.attempts", Some(message.receive_count.to_string())),
        ("scanhook.scan_id", scan.map(|it| it.scan_id.to_string())),
        ("scanhook.failed_at", Some(now.to_string())),
    ];
    attributes
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

/// Creates the queues if they don't exist. The visibility timeout is six times the function's timeout, as AWS recommends, up to
/// the maximum of SQS.
pub(crate) async fn ensure_queues(
    store: &Store,
    config: &Config,
    function_timeout: Duration,
) -> anyhow::Result<()> {
    let kept = DEAD_LETTERS_KEPT.as_secs().to_string();
    let dead_letters = store
        .ensure_queue(DEAD_LETTERS, &[("MessageRetentionPeriod", &kept)])
        .await?;
    let redrive = serde_json::json!({"deadLetterTargetArn": dead_letters, "maxReceiveCount": config.retry.attempts});
    let visibility = (function_timeout * 6)
        .min(Duration::from_hours(12))
        .as_secs()
        .to_string();
    let attributes = [
        ("VisibilityTimeout", visibility.as_str()),
        ("RedrivePolicy", &redrive.to_string()),
    ];
    store.ensure_queue(QUEUE, &attributes).await?;
    Ok(())
}

/// Releases the messages that a killed process was scanning, which would stay hidden for the rest of their visibility timeout.
/// Messages that wait for their next attempt stay hidden.
pub(crate) async fn release_abandoned(store: &Store, ledger: &SqliteLedger) -> anyhow::Result<()> {
    let ledger = ledger.clone();
    let is_abandoned = move |message: &Peeked| {
        let scan_id = QueueMessage::parse(&message.body).map(|it| it.scan_id);
        let records = scan_id.map(|it| ledger.records_of(it.as_str()).unwrap_or_default());
        let is_waiting = |it: &ScanRecord| {
            it.state == State::Retrying && u64::from(it.attempts) == message.receive_count
        };
        !records.is_ok_and(|it| it.iter().any(is_waiting))
    };
    let released = store.release(QUEUE, Box::new(is_abandoned)).await?;
    if released > 0 {
        tracing::info!(
            released,
            "released {released} scans that an earlier process did not finish"
        );
    }
    Ok(())
}

/// The external queues, or the embedded ones behind `endpoint`; and the settings of the webhook's client for them.
pub(crate) async fn open(
    external_url: Option<&str>,
    environment: &Environment,
    address: SocketAddr,
    endpoint: &Endpoint,
) -> anyhow::Result<(Queues, Builder)> {
    Ok(match external_url {
        Some(url) => (
            Queues::external(url).await?,
            (&Aws::local(environment).config("SQS").await).into(),
        ),
        None => (
            Queues::embedded(address, endpoint),
            embedded_settings(address, endpoint),
        ),
    })
}

/// The queue and its dead-letter queue.
pub(crate) struct Queues {
    pub(crate) client: Client,
    pub(crate) url: String,
    pub(crate) arn: String,
    pub(crate) dead_letter_url: String,
}

impl Queues {
    pub(crate) fn embedded(address: SocketAddr, endpoint: &Endpoint) -> Self {
        let base = format!("http://{address}");
        Self {
            client: Client::from_conf(embedded_settings(address, endpoint).build()),
            url: sqs::queue_url(&base, QUEUE),
            arn: sqs::queue_arn(sqs::REGION, QUEUE),
            dead_letter_url: sqs::queue_url(&base, DEAD_LETTERS),
        }
    }

    /// Reads the queue's ARN and its dead-letter queue from SQS.
    pub(crate) async fn external(url: &str) -> anyhow::Result<Self> {
        let client =
            Client::new(&scanhook_config::aws::sdk_config(scanhook_scanner::queue::ATTEMPT).await);
        let names = [
            QueueAttributeName::QueueArn,
            QueueAttributeName::RedrivePolicy,
        ];
        let call = client
            .get_queue_attributes()
            .queue_url(url)
            .set_attribute_names(Some(names.to_vec()));
        let output = call
            .send()
            .await
            .with_context(|| format!("could not read the attributes of the queue {url}"))?;
        let attribute = |name| {
            output
                .attributes()
                .and_then(|it| it.get(&name))
                .context("the queue has no ARN or no redrive policy")
        };
        let redrive: serde_json::Value =
            serde_json::from_str(attribute(QueueAttributeName::RedrivePolicy)?)?;
        let dead_letters = redrive
            .get("deadLetterTargetArn")
            .and_then(serde_json::Value::as_str);
        let name = dead_letters
            .and_then(|it| it.rsplit(':').next())
            .context("the queue's redrive policy names no queue")?;
        let arn = attribute(QueueAttributeName::QueueArn)?.clone();
        let dead_letter_url = client
            .get_queue_url()
            .queue_name(name)
            .send()
            .await
            .context("could not find the dead-letter queue")?;
        let dead_letter_url = dead_letter_url
            .queue_url()
            .context("the dead-letter queue has no URL")?
            .to_owned();
        Ok(Self {
            client,
            url: url.to_owned(),
            arn,
            dead_letter_url,
        })
    }
}

/// The settings of a client of an embedded endpoint, without a socket.
fn embedded_settings(address: SocketAddr, endpoint: &Endpoint) -> Builder {
    let base = format!("http://{address}");
    client_settings(&base, endpoint.http_client(&base))
}
