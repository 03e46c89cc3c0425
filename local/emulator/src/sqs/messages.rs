//! Messages in their queue: stored, deleted, hidden and shown.
//!
//! **Invariant**: only the last receive's handle deletes a message.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};

use super::attributes::{DELAY_SECONDS, MAXIMUM_MESSAGE_SIZE, RETENTION, VISIBILITY_TIMEOUT};
use super::error::{Code, Error};
use super::inspect::{COLUMNS, Filter, Peeked, State, from_row, look_through, timestamp};
use super::message::{AttributeValue, NewMessage};
use super::queues::{Queue, find};
use super::receipt::Receipt;
use super::store::{Db, Store};
use super::{queue_arn, unique_id};

/// Makes the message attributes of a dead letter, at the time at which it becomes one.
pub type DeadLetter = fn(&Peeked, Timestamp) -> BTreeMap<String, String>;

/// What a queue's owner wants done with messages that outlive its retention.
#[derive(Clone, Copy)]
pub struct Expiry {
    /// The message attributes with which one goes to the queue's dead-letter queue, where its age begins anew, as soon as it is
    /// not in flight. Without this it is deleted, as SQS does.
    pub dead_letter: Option<DeadLetter>,
    /// Called for each, once it is on disk.
    pub count: fn(),
}

/// A message that outlived its queue's retention.
pub(crate) struct Expired {
    queue: String,
    message_id: String,
    age_ms: i64,
}

impl Expired {
    /// Lets the log and the queue's owner know.
    pub(crate) fn report(&self, expiries: &HashMap<String, Expiry>) {
        let (queue, message_id, age_s) = (&self.queue, &self.message_id, self.age_ms / 1000);
        let expiry = expiries.get(queue);
        let end = match expiry {
            Some(Expiry {
                dead_letter: Some(_),
                ..
            }) => "moved to its dead-letter queue",
            _ => "deleted",
        };
        tracing::warn!(
            event = "message.expired",
            queue,
            message_id,
            age_s,
            "a message of {queue} outlived its retention and was {end}"
        );
        if let Some(expiry) = expiry {
            (expiry.count)();
        }
    }
}

impl Store {
    /// Has messages of a queue that outlive its retention end as its owner wants, from now on.
    pub async fn expire_as(&self, queue: &str, expiry: Expiry) -> Result<(), Error> {
        let queue = queue.to_owned();
        self.run(move |db| {
            db.session.expiries.insert(queue, expiry);
            Ok(())
        })
        .await
    }

    /// Writes one row to the queue file and commits it, if the queue exists: what a send needs.
    pub async fn probe(&self, queue: &str) -> Result<(), Error> {
        let queue = queue.to_owned();
        self.run(move |db| {
            find(db, &queue)?;
            Ok(db.time.write_down(db.sql, db.shift)?)
        })
        .await
    }

    /// Makes the messages in flight that `filter` lets through visible at once, and tells how many. Their receives count.
    ///
    /// For who knows that nobody works on them any more, as after the death of the only process that did.
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

/// Stores a message and returns its id. `complaint` is what SQS says of the parameters if the message is too long.
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

/// Hides a received message for `seconds` from now, or shows it at once if that is 0. Any of its handles will do, and one that is visible
/// again is left as it is: SQS answers both without an error.
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

pub(crate) const EXPIRED: &str =
    "DELETE FROM message WHERE queue = ?1 AND sent_at <= ?2 RETURNING id, sent_at";

/// As many expired messages are read at once.
const EXPIRED_CHUNK: usize = 100;

/// Ends the messages that are older than the queue keeps them, as its owner wants.
pub(crate) fn expire(db: &mut Db<'_>, queue: &Queue) -> Result<(), Error> {
    let limit = db.now - queue.attributes.number(&RETENTION) * 1000;
    let expiry = db.session.expiries.get(&queue.name);
    if let Some(letter) = expiry.and_then(|it| it.dead_letter) {
        return dead_letter_expired(db, queue, limit, letter);
    }
    let mut statement = db.sql.prepare_cached(EXPIRED)?;
    let deleted = statement.query_map([queue.id, limit], |row| {
        Ok(Expired {
            queue: queue.name.clone(),
            message_id: row.get(0)?,
            age_ms: db.now - row.get::<_, i64>(1)?,
        })
    })?;
    for expired in deleted {
        db.session.expired.push(expired?);
    }
    Ok(())
}

fn dead_letter_expired(
    db: &mut Db<'_>,
    queue: &Queue,
    limit: i64,
    letter: DeadLetter,
) -> Result<(), Error> {
    let target = queue.attributes.redrive_policy();
    let Some(Ok(target)) = target.map(|it| find(db, &it.target)) else {
        // Without its dead-letter queue a message stays where it is.
        return Ok(());
    };
    loop {
        let mut statement = db.sql.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM message INDEXED BY message_by_age
             WHERE queue = ?1 AND sent_at <= ?2 AND visible_at <= ?3 LIMIT {EXPIRED_CHUNK}"
        ))?;
        let messages = statement
            .query_and_then([queue.id, limit, db.now], |row| {
                Ok::<_, Error>((row.get(0)?, row.get(1)?, from_row(row, db)?))
            })?
            .collect::<Result<Vec<(i64, i64, Peeked)>, _>>()?;
        for (seq, sent_at, message) in &messages {
            let attributes: BTreeMap<_, _> = letter(message, timestamp(db.shift.shown(db.now)))
                .into_iter()
                .map(|(name, value)| (name, AttributeValue::text(value)))
                .collect();
            db.sql
                .prepare_cached(
                    "UPDATE message SET queue = ?2, dead_letter_source = ?3, sent_at = ?4, visible_at = ?4,
                     received_at = NULL, attributes = ?5 WHERE seq = ?1",
                )?
                .execute(params![
                    seq,
                    target.id,
                    queue_arn(db.region, &queue.name),
                    db.now,
                    serde_json::to_string(&attributes)?
                ])?;
            db.session.expired.push(Expired {
                queue: queue.name.clone(),
                message_id: message.message_id.clone(),
                age_ms: db.now - sent_at,
            });
        }
        drop(statement);
        if !messages.is_empty() {
            db.wake(target.id);
        }
        if messages.len() < EXPIRED_CHUNK {
            return Ok(());
        }
    }
}

/// Messages sent at this time or earlier are gone, though they may not have been deleted yet. What goes to the dead-letter queue
/// is there until it does.
pub(crate) fn oldest_kept(db: &Db<'_>, queue: &Queue) -> i64 {
    let expiry = db.session.expiries.get(&queue.name);
    match expiry.and_then(|it| it.dead_letter) {
        Some(_) => i64::MIN,
        None => db.now - queue.attributes.number(&RETENTION) * 1000,
    }
}
