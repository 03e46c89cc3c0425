//! Expires messages that are older than their queue's retention.

use std::collections::BTreeMap;

use rusqlite::params;

use super::attributes::RETENTION;
use super::error::Error;
use super::expiry::{DeadLetter, Expired, Expiry};
use super::message::AttributeValue;
use super::peeked::{COLUMNS, Peeked, from_row, timestamp};
use super::queue::Queue;
use super::queue_arn;
use super::queues::find;
use super::store::{Db, Store};

impl Store {
    /// Sets what happens to messages that outlive the queue's retention, from now on.
    pub async fn expire_as(&self, queue: &str, expiry: Expiry) -> Result<(), Error> {
        let queue = queue.to_owned();
        self.run(move |db| {
            db.session.expiries.insert(queue, expiry);
            Ok(())
        })
        .await
    }
}

pub(crate) const EXPIRED: &str =
    "DELETE FROM message WHERE queue = ?1 AND sent_at <= ?2 RETURNING id, sent_at";

/// The number of expired messages read at once.
const EXPIRED_CHUNK: usize = 100;

/// Expires the messages that are older than the queue's retention, as its owner wants.
pub(crate) fn expire(db: &mut Db<'_>, queue: &Queue) -> Result<(), Error> {
    let limit = db.now - queue.attributes.number(&RETENTION) * 1000;
    let expiry = db.session.expiries.get(&queue.name);
    if let Some(dead_letter) = expiry.and_then(|it| it.dead_letter) {
        return dead_letter_expired(db, queue, limit, dead_letter);
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
    dead_letter: DeadLetter,
) -> Result<(), Error> {
    let target = queue.attributes.redrive_policy();
    let Some(Ok(target)) = target.map(|it| find(db, &it.target)) else {
        // If its dead-letter queue is missing, a message stays in its queue.
        return Ok(());
    };
    loop {
        let mut statement = db.sql.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM message INDEXED BY message_by_age
             WHERE queue = ?1 AND sent_at <= ?2 AND visible_at <= ?3 LIMIT {EXPIRED_CHUNK}"
        ))?;
        let messages = statement
            .query_and_then([queue.id, limit, db.now], |row| {
                Ok::<_, Error>((row.get(0)?, row.get(1)?, from_row(row, db.now, db.shift)?))
            })?
            .collect::<Result<Vec<(i64, i64, Peeked)>, _>>()?;
        for (seq, sent_at, message) in &messages {
            let attributes: BTreeMap<_, _> =
                dead_letter(message, timestamp(db.shift.shown(db.now)))
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

/// Messages sent at or before this time count as deleted, even if their rows still exist. Messages that expire to the
/// dead-letter queue stay until they are moved.
pub(crate) fn oldest_kept(db: &Db<'_>, queue: &Queue) -> i64 {
    let expiry = db.session.expiries.get(&queue.name);
    match expiry.and_then(|it| it.dead_letter) {
        Some(_) => i64::MIN,
        None => db.now - queue.attributes.number(&RETENTION) * 1000,
    }
}
