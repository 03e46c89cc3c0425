//! Reads a queue without changing receive counts or visibility.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::peeked::{COLUMNS, Peeked, from_row};
use super::queue::Queue;
use super::queues::find;
use super::retention::{expire, oldest_kept};
use super::store::{Db, Store};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Messages that a receive would return now.
    pub visible: u64,
    /// Messages that were received and are neither deleted nor visible again.
    pub in_flight: u64,
    /// Messages that were sent and aren't visible yet.
    pub delayed: u64,
    /// The age of the oldest message.
    pub oldest_age: Option<Duration>,
}

/// Some messages of a queue, oldest first, as `GET` on the queue's URL returns them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    pub messages: Vec<Peeked>,
    /// The value of `after` for the next page; `None` on the last page.
    pub next: Option<String>,
}

/// Selects messages.
pub type Filter = Box<dyn FnMut(&Peeked) -> bool + Send>;

impl Store {
    pub async fn depth(&self, queue: &str) -> Result<Depth, Error> {
        let queue = queue.to_owned();
        self.run(move |db| depth(db, &*find(db, &queue)?)).await
    }

    /// Returns the first `limit` messages of a queue that match `filter`, oldest first.
    pub async fn peek(
        &self,
        queue: &str,
        limit: usize,
        mut filter: Filter,
    ) -> Result<Vec<Peeked>, Error> {
        let queue = queue.to_owned();
        self.run(move |db| peek(db, &*find(db, &queue)?, limit, &mut filter))
            .await
    }
}

/// A page ends at this many bytes of bodies and attributes, so that large messages can't exhaust memory.
const LARGEST_PAGE: usize = 4 << 20;

/// A message's position in its queue: when it was sent, by the queues' time, and its number.
pub(crate) type Place = (i64, i64);

impl Store {
    /// Returns the first messages of a queue, oldest first: at most `limit`, and about 4 MiB.
    pub async fn page(&self, queue: &str, limit: usize) -> Result<Page, Error> {
        self.page_after(queue, None, limit).await
    }

    /// Returns the page after the position that an earlier page named.
    pub(crate) async fn page_after(
        &self,
        queue: &str,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Page, Error> {
        let queue = queue.to_owned();
        self.run(move |db| page(db, &*find(db, &queue)?, after, limit))
            .await
    }
}

fn page(db: &Db<'_>, queue: &Queue, after: Option<Place>, limit: usize) -> Result<Page, Error> {
    let mut statement = db.sql.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM message WHERE queue = ?1 AND sent_at > ?2 AND (sent_at, seq) > (?3, ?4) ORDER BY sent_at, seq",
    ))?;
    let (sent_at, seq) = after.unwrap_or((i64::MIN, i64::MIN));
    let mut rows = statement.query([queue.id, oldest_kept(db, queue), sent_at, seq])?;
    let (mut messages, mut size, mut next) = (Vec::new(), 0, None);
    while let Some(row) = rows.next()? {
        if messages.len() == limit || size >= LARGEST_PAGE {
            return Ok(Page { messages, next });
        }
        let message = from_row(row, db.now, db.shift)?;
        let attributes = message.attributes.iter();
        let attributes: usize = attributes
            .map(|(name, value)| name.len() + value.len())
            .sum();
        size += message.body.len() + attributes;
        next = Some(format!(
            "{}.{}",
            row.get::<_, i64>(1)?,
            row.get::<_, i64>(0)?
        ));
        messages.push(message);
    }
    Ok(Page {
        messages,
        next: None,
    })
}

fn peek(
    db: &Db<'_>,
    queue: &Queue,
    limit: usize,
    mut filter: impl FnMut(&Peeked) -> bool,
) -> Result<Vec<Peeked>, Error> {
    let mut peeked = Vec::new();
    look_through(db, queue, |message| {
        if peeked.len() < limit && filter(&message) {
            peeked.push(message);
        }
        peeked.len() < limit
    })?;
    Ok(peeked)
}

/// Visits a queue's messages, oldest first, until `look` returns `false`.
pub(crate) fn look_through(
    db: &Db<'_>,
    queue: &Queue,
    mut look: impl FnMut(Peeked) -> bool,
) -> Result<(), Error> {
    let mut statement = db.sql.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM message WHERE queue = ?1 AND sent_at > ?2 ORDER BY sent_at, seq",
    ))?;
    let mut rows = statement.query([queue.id, oldest_kept(db, queue)])?;
    while let Some(row) = rows.next()? {
        if !look(from_row(row, db.now, db.shift)?) {
            break;
        }
    }
    Ok(())
}

/// Counts the messages of a queue. Visible messages are counted in an index alone, so a long queue stays cheap.
pub(crate) fn depth(db: &mut Db<'_>, queue: &Queue) -> Result<Depth, Error> {
    expire(db, queue)?;
    let mut statement = db.sql.prepare_cached(
        "SELECT (SELECT count(*) FROM message WHERE queue = ?1 AND visible_at <= ?2),
                count(received_at),
                count(*) - count(received_at),
                (SELECT min(sent_at) FROM message WHERE queue = ?1)
         FROM message WHERE queue = ?1 AND visible_at > ?2",
    )?;
    Ok(statement.query_row([queue.id, db.now], |row| {
        let oldest: Option<i64> = row.get(3)?;
        let age = |sent_at| Duration::from_millis(u64::try_from(db.now - sent_at).unwrap_or(0));
        let count = |column| {
            Ok::<_, rusqlite::Error>(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
        };
        Ok(Depth {
            visible: count(0)?,
            in_flight: count(1)?,
            delayed: count(2)?,
            oldest_age: oldest.map(age),
        })
    })?)
}
