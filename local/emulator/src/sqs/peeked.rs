//! A message as inspection shows it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::Row;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::message::AttributeValue;
use super::time::Shift;

/// The state of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A receive would return it now.
    Visible,
    /// It was received, and is neither deleted nor visible again.
    InFlight,
    /// It was sent, and isn't visible yet.
    Delayed,
}

/// A message in its queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peeked {
    pub message_id: String,
    pub body: String,
    /// The message's attributes, without binary ones.
    pub attributes: BTreeMap<String, String>,
    /// The message group that it belongs to in a fair queue.
    pub group_id: Option<String>,
    /// The ARN of the queue that SQS moved it from.
    pub dead_letter_source: Option<String>,
    pub sent_at: Timestamp,
    /// The number of receives in this queue and earlier ones.
    pub receive_count: u64,
    /// When it becomes, or became, visible.
    pub visible_at: Timestamp,
    pub state: State,
}

/// The columns that [`from_row`] reads.
pub(crate) const COLUMNS: &str = "seq, sent_at, id, body, attributes, group_id, dead_letter_source, receive_count, visible_at, received_at";

/// Reads a message at the instant `now` of the queues' time.
pub(crate) fn from_row(row: &Row<'_>, now: i64, shift: Shift) -> Result<Peeked, Error> {
    let attributes: BTreeMap<String, AttributeValue> =
        serde_json::from_str(row.get_ref(4)?.as_str().map_err(rusqlite::Error::from)?)?;
    let visible_at: i64 = row.get(8)?;
    let received_at: Option<i64> = row.get(9)?;
    Ok(Peeked {
        message_id: row.get(2)?,
        body: row.get(3)?,
        attributes: attributes
            .into_iter()
            .filter_map(|(name, it)| Some((name, it.string_value?)))
            .collect(),
        group_id: row.get(5)?,
        dead_letter_source: row.get(6)?,
        sent_at: timestamp(shift.shown(row.get(1)?)),
        receive_count: u64::try_from(row.get::<_, i64>(7)?).unwrap_or(0),
        visible_at: timestamp(shift.shown(visible_at)),
        state: match (visible_at <= now, received_at) {
            (true, _) => State::Visible,
            (false, Some(_)) => State::InFlight,
            (false, None) => State::Delayed,
        },
    })
}

/// Converts milliseconds of the wall clock.
pub(crate) fn timestamp(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::MAX)
}
