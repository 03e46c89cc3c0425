//! Stores, deletes, hides and shows messages.
//!
//! **Invariant**: only the handle of the last receive deletes a message.

use rusqlite::{OptionalExtension as _, params};

use super::attributes::{DELAY_SECONDS, MAXIMUM_MESSAGE_SIZE, VISIBILITY_TIMEOUT};
use super::error::{Code, Error};
use super::inspect::{Filter, look_through};
use super::message::NewMessage;
use super::peeked::State;
use super::queue::Queue;
use super::queues::find;
use super::receipt::Receipt;
use super::retention::oldest_kept;
use super::store::{Db, Store};
use super::unique_id;

impl Store {
    /// Writes one row to the queue file and commits it, if the queue exists. A send needs the same.
    pub async fn probe(&self, queue: &str) -> Result<(), Error> {
        let queue = queue.to_owned();
        self.run(move |db| {
            find(db, &queue)?;
            Ok(db.time.write_down(db.sql, db.shift)?)
        })
        .await
    }

    /// Makes the messages in flight that match `filter` visible at once, and returns how many. Their receives still
    /// count.
    ///
    /// Use it only when nobody handles these messages any more, as after the death of the only process that did.
    pub async fn release(&self, queue: &str, mut filter: Filter) -> Result<usize, Error> {
        let queue = queue.to_owned();
        self.run(move |db| {
            let queue = find(db, &queue)?;
            let mut in_flight = Vec::new();
            look_through(db, &queue, |message| {
                if message.state == State::InFlight && filter(&message) {
                    in_flight.push(message.message_id);
                }
                true
            })?;
            for id in &in_flight {
                db.sql
                    .prepare_cached(
                        "UPDATE message SET visible_at = ?3 WHERE queue = ?1 AND visible_at > ?3 AND id = ?2",
                    )?
                    .execute(params![queue.id, id, db.now])?;
            }
            db.wake(queue.id);
            Ok(in_flight.len())
        })
        .await
    }
}

/// Stores a message and returns its id. `complaint` is SQS's wording about the parameters of a message that is too
/// long.
pub(crate) fn send(
    db: &mut Db<'_>,
    queue: &Queue,
    message: &NewMessage,
    complaint: &str,
) -> Result<String, Error> {
    let delay = DELAY_SECONDS.or_given(message.delay_seconds, "DelaySeconds", &queue.attributes)?;
    let largest = queue.attributes.number(&MAXIMUM_MESSAGE_SIZE);
    if i64::try_from(message.size()).unwrap_or(i64::MAX) > largest {
        let text = format!(
            "One or more parameters {complaint}. Reason: Message must be shorter than {largest} bytes."
        );
        return Err(Error::new(Code::InvalidParameterValue, text));
    }
    let id = unique_id();
    db.sql
        .prepare_cached(
            "INSERT INTO message (queue, id, body, attributes, group_id, trace_header, sent_at, visible_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            queue.id,
            id,
            message.body,
            serde_json::to_string(&message.attributes)?,
            message.group_id,
            message.trace_header,
            db.now,
            db.now + delay * 1000,
        ])?;
    db.wake(queue.id);
    Ok(id)
}

/// Deletes the message of this handle, unless it was received again since.
pub(crate) fn delete(db: &Db<'_>, queue: &Queue, handle: &str) -> Result<(), Error> {
    let receipt = Receipt::decode(handle, &queue.name)?;
    db.sql
        .prepare_cached(
            "DELETE FROM message WHERE seq = ?1 AND queue = ?2 AND receive_count = ?3 AND id = ?4",
        )?
        .execute(params![
            receipt.seq,
            queue.id,
            receipt.receive_count,
            receipt.message_id
        ])?;
    Ok(())
}

/// Hides a received message for `seconds` from now; 0 makes it visible at once. Any of the message's handles is
/// accepted, and a message that is visible again stays as it is: SQS answers both without an error.
pub(crate) fn change_visibility(
    db: &mut Db<'_>,
    queue: &Queue,
    handle: &str,
    seconds: i64,
) -> Result<(), Error> {
    VISIBILITY_TIMEOUT.or_given(Some(seconds), "VisibilityTimeout", &queue.attributes)?;
    let receipt = Receipt::decode(handle, &queue.name)?;
    let times = db
        .sql
        .prepare_cached(
            "SELECT visible_at, received_at FROM message
             WHERE seq = ?1 AND queue = ?2 AND id = ?3 AND sent_at > ?4",
        )?
        .query_row(
            params![
                receipt.seq,
                queue.id,
                receipt.message_id,
                oldest_kept(db, queue)
            ],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )
        .optional()?;
    let Some((visible_at, received_at)) = times else {
        let reason = "Message does not exist or is not available for visibility timeout change.";
        return Err(Error::invalid_value(handle, "ReceiptHandle", reason));
    };
    if visible_at <= db.now {
        return Ok(());
    }
    let until = db.now + seconds * 1000;
    if until > received_at + 43_200_000 {
        let reason = "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]";
        return Err(Error::invalid_value(seconds, "VisibilityTimeout", reason));
    }
    db.sql
        .prepare_cached("UPDATE message SET visible_at = ?2 WHERE seq = ?1")?
        .execute([receipt.seq, until])?;
    db.wake(queue.id);
    Ok(())
}
