//! The ledger in AWS: one DynamoDB table, with the keys, attributes and index of `docs/reference/ledger.md`.
//!
//! **Invariant**: each change is one conditional write, so that of two workers one wins. Every call has a limit and is
//! tried twice at most: a scan goes on without the ledger rather than wait for it.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use jiff::Timestamp;
use scanhook_core::failure::ScanError;
use scanhook_core::message::ScanId;
use scanhook_core::record::{ClaimKey, ScanRecord, State};
use scanhook_core::verdict::Verdict;

use crate::ledger::{Claim, ClaimRequest, Ledger, LedgerError};

mod history;

/// How long a scan waits for a call. DynamoDB answers within some ten milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How often a call is tried within its patience.
const TRIES: u32 = 2;

/// The index that records are listed by.
const INDEX: &str = "by_time";

/// Over how many partitions of the index the records are spread.
const SHARDS: u8 = 8;

/// A ledger in a table. Clones share their connections.
#[derive(Debug, Clone)]
pub struct DynamoDbLedger {
    client: Client,
    table: String,
    keep: Duration,
}

type Item = HashMap<String, AttributeValue>;

impl DynamoDbLedger {
    /// The ledger in `table`, which is not asked for yet. Items are kept for `keep` after their last change, and a call
    /// ends within `patience`.
    pub fn new(sdk: &SdkConfig, table: String, keep: Duration, patience: Duration) -> Self {
        let attempt = patience / TRIES;
        let limits = TimeoutConfig::builder()
            .connect_timeout(attempt)
            .operation_attempt_timeout(attempt)
            .operation_timeout(patience)
            .build();
        let config = aws_sdk_dynamodb::config::Builder::from(sdk)
            .timeout_config(limits)
            .retry_config(RetryConfig::standard().with_max_attempts(TRIES))
            .build();
        Self {
            client: Client::from_conf(config),
            table,
            keep,
        }
    }

    fn expires_at(&self, from: Timestamp) -> AttributeValue {
        let keep = i64::try_from(self.keep.as_secs()).unwrap_or(i64::MAX);
        number(from.as_second().saturating_add(keep))
    }

    fn update(&self, key: &ClaimKey) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&self.table)
            .key("pk", text(format!("claim#{}", key.as_str())))
            .key("sk", text("claim"))
    }
}

#[async_trait]
impl Ledger for DynamoDbLedger {
    async fn claim(&self, request: ClaimRequest<'_>) -> Result<Claim, LedgerError> {
        let call = self
            .update(request.key)
            .update_expression(
                "SET holder = :holder, until_ms = :until, expires_at = :expires REMOVE verdict, finished_at_ms",
            )
            .condition_expression(
                "attribute_not_exists(pk) OR expires_at <= :now_s \
                 OR (attribute_exists(finished_at_ms) AND finished_at_ms <= :satisfied_after) \
                 OR (attribute_not_exists(finished_at_ms) \
                     AND (attribute_not_exists(until_ms) OR until_ms <= :now OR holder = :holder))",
            )
            .expression_attribute_values(":holder", text(request.holder.as_str()))
            .expression_attribute_values(":until", milliseconds(request.until))
            .expression_attribute_values(":expires", self.expires_at(request.until))
            .expression_attribute_values(":now_s", number(request.now.as_second()))
            .expression_attribute_values(":now", milliseconds(request.now))
            .expression_attribute_values(":satisfied_after", milliseconds(request.satisfied_after))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match call.send().await {
            Ok(_) => Ok(Claim::Claimed),
            Err(err) => match refusal(&err) {
                Some(item) => held(item),
                None => Err(unavailable(err)),
            },
        }
    }

    async fn finish(
        &self,
        key: &ClaimKey,
        holder: &ScanId,
        verdict: Verdict,
        finished_at: Timestamp,
    ) -> Result<(), LedgerError> {
        let call = self
            .update(key)
            .update_expression(
                "SET verdict = :verdict, finished_at_ms = :finished, expires_at = :expires",
            )
            .condition_expression("holder = :holder AND attribute_not_exists(finished_at_ms)")
            .expression_attribute_values(":holder", text(holder.as_str()))
            .expression_attribute_values(
                ":verdict",
                text(serde_json::to_string(&verdict).map_err(unavailable)?),
            )
            .expression_attribute_values(":finished", milliseconds(finished_at))
            .expression_attribute_values(":expires", self.expires_at(finished_at));
        if_still_held(call).await
    }

    async fn release(
        &self,
        key: &ClaimKey,
        holder: &ScanId,
        last_error: &ScanError,
    ) -> Result<(), LedgerError> {
        let call = self
            .update(key)
            .update_expression("SET last_error = :error REMOVE until_ms")
            .condition_expression("holder = :holder AND attribute_not_exists(finished_at_ms)")
            .expression_attribute_values(":holder", text(holder.as_str()))
            .expression_attribute_values(":error", text(last_error.to_string()));
        if_still_held(call).await
    }

    async fn record(&self, record: &ScanRecord) -> Result<(), LedgerError> {
        let json = serde_json::to_string(record).map_err(unavailable)?;
        let last_change = record.finished_at.unwrap_or(record.started_at);
        let mut call = self
            .client
            .put_item()
            .table_name(&self.table)
            .item("pk", text(partition(&record.scan_id)))
            .item("sk", text(sort_key(&record.place())))
            .item("record", text(json))
            .item("state", text(record.state.as_str()))
            .item("list_shard", text(shard(&record.scan_id)))
            .item("listed_at", text(listed_at(record)))
            .item("started_at_ms", milliseconds(record.started_at))
            .item("expires_at", self.expires_at(last_change));
        let is_open = record.state != State::Done;
        if record.is_repeated() || is_open {
            let mut condition = "attribute_not_exists(pk) OR #state <> :done".to_owned();
            if is_open {
                condition.push_str(
                    " OR attribute_not_exists(started_at_ms) OR started_at_ms <= :started",
                );
                call =
                    call.expression_attribute_values(":started", milliseconds(record.started_at));
            }
            call = call
                .condition_expression(condition)
                .expression_attribute_names("#state", "state")
                .expression_attribute_values(":done", text(State::Done.as_str()));
        }
        if let Err(err) = call.send().await
            && !is_refusal(&err)
        {
            return Err(unavailable(err));
        }
        if record.platform.is_some() {
            let call = self
                .client
                .delete_item()
                .table_name(&self.table)
                .key("pk", text(partition(&record.scan_id)))
                .key("sk", text(sort_key("")));
            call.send().await.map_err(unavailable)?;
        }
        Ok(())
    }

    /// Reads an item that there is none of.
    async fn ping(&self) -> Option<Result<(), LedgerError>> {
        let call = self.client.get_item().table_name(&self.table);
        let call = call.key("pk", text("ping")).key("sk", text("ping"));
        Some(call.send().await.map(drop).map_err(unavailable))
    }
}

/// Sends a change that only the holder may make. That somebody else holds the claim by now is no error, and neither is
/// that a first try of the same call got through.
async fn if_still_held(call: UpdateItemFluentBuilder) -> Result<(), LedgerError> {
    match call.send().await {
        Err(err) if refusal(&err).is_none() => Err(unavailable(err)),
        _ => Ok(()),
    }
}

/// The item that did not meet the condition of an update, if that is what failed it.
fn refusal(err: &SdkError<UpdateItemError>) -> Option<&Item> {
    static NONE: std::sync::LazyLock<Item> = std::sync::LazyLock::new(Item::new);
    match err.as_service_error()? {
        UpdateItemError::ConditionalCheckFailedException(refused) => {
            Some(refused.item().unwrap_or(&NONE))
        }
        _ => None,
    }
}

fn is_refusal(err: &SdkError<PutItemError>) -> bool {
    err.as_service_error()
        .is_some_and(PutItemError::is_conditional_check_failed_exception)
}

/// What a claim that was not granted says of its holder.
fn held(item: &Item) -> Result<Claim, LedgerError> {
    let verdict = item.get("verdict").and_then(|it| it.as_s().ok());
    if let Some(verdict) = verdict {
        return Ok(Claim::Done(
            serde_json::from_str(verdict).map_err(unavailable)?,
        ));
    }
    let until = item.get("until_ms").and_then(|it| it.as_n().ok());
    let until = until
        .and_then(|it| it.parse().ok())
        .and_then(|it| Timestamp::from_millisecond(it).ok());
    until
        .map(Claim::InProgress)
        .ok_or_else(|| unavailable("a claim in the table has neither a verdict nor an end"))
}

fn unavailable(err: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LedgerError {
    LedgerError(err.into())
}

fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn number(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn milliseconds(instant: Timestamp) -> AttributeValue {
    number(instant.as_millisecond())
}

fn partition(scan_id: &ScanId) -> String {
    format!("scan#{scan_id}")
}

fn sort_key(place: &str) -> String {
    format!("platform#{place}")
}

/// FNV-1a over the scan's id: all platforms of a scan are in one shard, and scans are spread evenly.
fn shard(scan_id: &ScanId) -> String {
    let hash = scan_id
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
    (hash % u32::from(SHARDS)).to_string()
}

/// Where a record stands in the list: no two in the same place, later deliveries after earlier ones.
fn listed_at(record: &ScanRecord) -> String {
    format!(
        "{}#{}#{}",
        day_and_time(record.received_at),
        record.scan_id,
        record.place()
    )
}

/// An instant so that the order of the texts is that of the instants.
fn day_and_time(instant: Timestamp) -> String {
    instant.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}
