//! A message as a look at its queue shows it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::Row;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::message::AttributeValue;
use super::time::Shift;

/// Where a message is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A receive would return it now.
    Visible,
    /// It was received, and is neither deleted nor visible again.
    InFlight,
    /// It was sent and is not visible yet.
    Delayed,
}

/// A message as it lies in its queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peeked {
    /// The message's id.
    pub message_id: String,
    /// The message's body.
    pub body: String,
    /// The message's attributes, but for binary ones.
    pub attributes: BTreeMap<String, String>,
    /// The group of a fair queue it belongs to.
    pub group_id: Option<String>,
    /// The ARN of the queue SQS moved it from.
    pub dead_letter_source: Option<String>,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// How often it was received, in this queue and those before it.
    pub receive_count: u64,
    /// When it becomes, or became, visible.
    pub visible_at: Timestamp,
    /// Where it is in its life.
    pub state: State,
}

/// What [`from_row`] reads.
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

/// An instant of the wall clock, in milliseconds, as people read it.
pub(crate) fn timestamp(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::MAX)
}
