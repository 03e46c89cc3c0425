//! Reading records from the table: one query for a scan, eight at once for a list.

use std::collections::VecDeque;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::try_join_all;
use jiff::Timestamp;
use scanhook_core::history::ScanFilter;
use scanhook_core::message::ScanId;
use scanhook_core::record::ScanRecord;

use super::{
    DynamoDbLedger, INDEX, Item, SHARDS, day_and_time, number, partition, text, unavailable,
};
use crate::ledger::{History, LedgerError};

/// The most items of one answer. DynamoDB ends one at 1 MiB anyway.
const PAGE: usize = 200;

impl History for DynamoDbLedger {
    async fn latest(
        &self,
        filter: &ScanFilter,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<ScanRecord>, LedgerError> {
        let page = i32::try_from(limit.clamp(1, PAGE)).unwrap_or(i32::MAX);
        let mut shards: Vec<_> = (0..SHARDS)
            .map(|it| Shard::new(it, filter.since, page))
            .collect();
        let mut records = Vec::new();
        while records.len() < limit {
            // The latest of all shards is known only once each has told its own latest.
            try_join_all(shards.iter_mut().map(|it| it.fill(self, now))).await?;
            let latest = shards
                .iter_mut()
                .max_by(|one, other| one.latest().cmp(&other.latest()));
            let Some((_, record)) = latest.and_then(|it| it.listed.pop_front()) else {
                break;
            };
            if filter.admits(&record) {
                records.push(record);
            }
        }
        Ok(records)
    }

    async fn find(&self, scan_id: &ScanId, now: Timestamp) -> Result<Vec<ScanRecord>, LedgerError> {
        let (mut records, mut start) = (Vec::new(), None);
        loop {
            let call = self
                .client
                .query()
                .table_name(&self.table)
                .key_condition_expression("pk = :pk")
                .filter_expression("expires_at > :now_s")
                .expression_attribute_values(":pk", text(partition(scan_id)))
                .expression_attribute_values(":now_s", number(now.as_second()))
                .consistent_read(true)
                .set_exclusive_start_key(start.take());
            let output = call.send().await.map_err(unavailable)?;
            for item in output.items() {
                records.push(record(item)?);
            }
            start = output.last_evaluated_key;
            if start.is_none() {
                return Ok(records);
            }
        }
    }
}

/// One partition of the index, read from its latest record on.
struct Shard {
    name: String,
    since: Option<Timestamp>,
    page: i32,
    /// What was read and not yet taken, the latest first, with its place in the list.
    listed: VecDeque<(String, ScanRecord)>,
    next: Next,
}

/// Where a shard's next page begins.
enum Next {
    First,
    After(Item),
    End,
}

impl Shard {
    fn new(number: u8, since: Option<Timestamp>, page: i32) -> Self {
        Self {
            name: number.to_string(),
            since,
            page,
            listed: VecDeque::new(),
            next: Next::First,
        }
    }

    fn latest(&self) -> Option<&str> {
        self.listed.front().map(|(place, _)| place.as_str())
    }

    /// Reads on until there is a record to take, or none is left.
    async fn fill(&mut self, ledger: &DynamoDbLedger, now: Timestamp) -> Result<(), LedgerError> {
        while self.listed.is_empty() {
            let start = match std::mem::replace(&mut self.next, Next::End) {
                Next::First => None,
                Next::After(key) => Some(key),
                Next::End => return Ok(()),
            };
            let call = ledger
                .client
                .query()
                .table_name(&ledger.table)
                .index_name(INDEX)
                .key_condition_expression("list_shard = :shard AND listed_at >= :since")
                .filter_expression("expires_at > :now_s")
                .expression_attribute_values(":shard", text(&self.name))
                .expression_attribute_values(
                    ":since",
                    text(day_and_time(self.since.unwrap_or(Timestamp::UNIX_EPOCH))),
                )
                .expression_attribute_values(":now_s", number(now.as_second()))
                .scan_index_forward(false)
                .limit(self.page)
                .set_exclusive_start_key(start);
            let output = call.send().await.map_err(unavailable)?;
            for item in output.items() {
                self.listed
                    .push_back((attribute(item, "listed_at")?.to_owned(), record(item)?));
            }
            if let Some(key) = output.last_evaluated_key {
                self.next = Next::After(key);
            }
        }
        Ok(())
    }
}

fn record(item: &Item) -> Result<ScanRecord, LedgerError> {
    serde_json::from_str(attribute(item, "record")?).map_err(unavailable)
}

fn attribute<'a>(item: &'a Item, name: &str) -> Result<&'a str, LedgerError> {
    let value = item.get(name).map(AttributeValue::as_s);
    match value {
        Some(Ok(value)) => Ok(value),
        _ => Err(unavailable(format!("an item of the table has no {name}"))),
    }
}
