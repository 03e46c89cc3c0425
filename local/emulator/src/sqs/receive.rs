//! Receives the oldest visible messages, moves dead letters aside, and waits for a message to arrive.
//!
//! **Invariant**: the cost of a receive doesn't depend on the number of waiting messages. Every query walks an index
//! from its start and stops after the rows it returns.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension as _, Row, params};
use tokio_util::sync::CancellationToken;

use super::attributes::{VISIBILITY_TIMEOUT, WAIT_TIME};
use super::error::{Code, Error};
use super::message::AttributeValue;
use super::queue::Queue;
use super::queue_arn;
use super::queues::find;
use super::receipt::Receipt;
use super::retention::expire;
use super::store::{Db, Store};
use super::time::Shift;

/// AWS allows about this many messages of a queue in flight.
const MOST_IN_FLIGHT: i64 = 120_000;

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) queue: String,
    pub(crate) count: usize,
    pub(crate) visibility_timeout: Option<i64>,
    pub(crate) wait_time: Option<i64>,
}

#[derive(Debug)]
pub(crate) struct Received {
    seq: i64,
    pub(crate) id: String,
    pub(crate) body: String,
    pub(crate) attributes: BTreeMap<String, AttributeValue>,
    pub(crate) group_id: Option<String>,
    pub(crate) trace_header: Option<String>,
    pub(crate) dead_letter_source: Option<String>,
    /// By the queues' time, like `first_received_at`.
    pub(crate) sent_at: i64,
    pub(crate) receive_count: i64,
    pub(crate) first_received_at: i64,
    /// Converts these times for display.
    pub(crate) shift: Shift,
    pub(crate) receipt_handle: String,
}

/// The result of one attempt to receive.
struct Look {
    queue: i64,
    received: Vec<Received>,
    /// When the attempt started, and how long the caller will wait.
    now: i64,
    wait_seconds: i64,
    /// When the next hidden message becomes visible.
    next_visible_at: Option<i64>,
}

impl Store {
    /// Receives messages. If there are none, waits for the first one, but not beyond `shutdown`.
    pub(crate) async fn receive(
        &self,
        request: Request,
        shutdown: &CancellationToken,
    ) -> Result<Vec<Received>, Error> {
        let mut first = self.look(&request).await?;
        let deadline = first.now + first.wait_seconds * 1000;
        let arrivals = self.arrivals(first.queue);
        loop {
            if !first.received.is_empty() || first.now >= deadline || shutdown.is_cancelled() {
                return Ok(first.received);
            }
            // Subscribe before looking, so that no arrival in between is missed.
            let mut arrival = std::pin::pin!(arrivals.notified());
            arrival.as_mut().enable();
            first = self.look(&request).await?;
            if !first.received.is_empty() {
                return Ok(first.received);
            }
            let wake_at = first
                .next_visible_at
                .map_or(deadline, |it| it.min(deadline));
            tokio::select! {
                () = arrival => {}
                () = self.shared.time.sleep_until(wake_at) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    async fn look(&self, request: &Request) -> Result<Look, Error> {
        let request = request.clone();
        self.run(move |db| look(db, &request)).await
    }
}

fn look(db: &mut Db<'_>, request: &Request) -> Result<Look, Error> {
    let queue = find(db, &request.queue)?;
    let wait_seconds =
        WAIT_TIME.or_given(request.wait_time, "WaitTimeSeconds", &queue.attributes)?;
    let timeout = VISIBILITY_TIMEOUT.or_given(
        request.visibility_timeout,
        "VisibilityTimeout",
        &queue.attributes,
    )?;
    expire(db, &queue)?;
    check_room_in_flight(db, &queue)?;
    let mut received = next(db, &queue, request.count)?;
    for message in &mut received {
        message.receive_count += 1;
        mark_received(db, &queue, message, timeout)?;
    }
    if let Some(room) = db.session.room_in_flight.get_mut(&queue.id) {
        *room -= i64::try_from(received.len()).unwrap_or(i64::MAX);
    }
    let next_visible_at = next_visible_at(db, &queue)?;
    Ok(Look {
        queue: queue.id,
        received,
        now: db.now,
        wait_seconds,
        next_visible_at,
    })
}

/// Returns the messages to receive next. Messages that were received too often move to the dead-letter queue instead.
fn next(db: &mut Db<'_>, queue: &Queue, count: usize) -> Result<Vec<Received>, Error> {
    let target = match queue.attributes.redrive_policy() {
        // If its dead-letter queue is missing, a message stays in its queue.
        Some(policy) => find(db, &policy.target)
            .ok()
            .map(|target| (target, policy.max_receive_count)),
        None => None,
    };
    loop {
        let candidates = visible(db, queue, count)?;
        let Some((target, max_receive_count)) = &target else {
            return Ok(candidates);
        };
        let (exhausted, rest): (Vec<_>, Vec<_>) = candidates
            .into_iter()
            .partition(|message| message.receive_count >= *max_receive_count);
        if exhausted.is_empty() {
            return Ok(rest);
        }
        for message in exhausted {
            move_to_dead_letter_queue(db, queue, target, &message)?;
        }
    }
}

const VISIBLE: &str =
    "SELECT seq, id, body, attributes, group_id, trace_header, dead_letter_source, sent_at, receive_count, first_received_at
     FROM message WHERE queue = ?1 AND visible_at <= ?2 ORDER BY visible_at, seq LIMIT ?3";

fn visible(db: &Db<'_>, queue: &Queue, count: usize) -> Result<Vec<Received>, Error> {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let mut statement = db.sql.prepare_cached(VISIBLE)?;
    statement
        .query_and_then([queue.id, db.now, count], |row| from_row(row, db))?
        .collect()
}

fn mark_received(
    db: &Db<'_>,
    queue: &Queue,
    message: &mut Received,
    timeout: i64,
) -> Result<(), Error> {
    db.sql
        .prepare_cached(
            "UPDATE message SET receive_count = ?2, first_received_at = ?3, received_at = ?4, visible_at = ?5
             WHERE seq = ?1",
        )?
        .execute([message.seq, message.receive_count, message.first_received_at, db.now, db.now + timeout * 1000])?;
    message.receipt_handle = Receipt {
        queue: queue.name.clone(),
        seq: message.seq,
        receive_count: message.receive_count,
        message_id: message.id.clone(),
    }
    .encode();
    Ok(())
}

/// Moves a message to the dead-letter queue. It keeps its id, age and receive count.
fn move_to_dead_letter_queue(
    db: &mut Db<'_>,
    queue: &Queue,
    target: &Queue,
    message: &Received,
) -> Result<(), Error> {
    db.sql
        .prepare_cached(
            "UPDATE message SET queue = ?2, dead_letter_source = ?3, visible_at = ?4, received_at = NULL WHERE seq = ?1",
        )?
        .execute(params![message.seq, target.id, queue_arn(db.region, &queue.name), db.now])?;
    db.wake(target.id);
    Ok(())
}

const NEXT_VISIBLE: &str = "SELECT visible_at FROM message WHERE queue = ?1 AND visible_at > ?2 ORDER BY visible_at LIMIT 1";

fn next_visible_at(db: &Db<'_>, queue: &Queue) -> Result<Option<i64>, Error> {
    let mut statement = db.sql.prepare_cached(NEXT_VISIBLE)?;
    Ok(statement
        .query_row([queue.id, db.now], |row| row.get(0))
        .optional()?)
}

/// Refuses to receive when too many messages are in flight. They are counted only when the limit might be reached.
fn check_room_in_flight(db: &mut Db<'_>, queue: &Queue) -> Result<(), Error> {
    if db
        .session
        .room_in_flight
        .get(&queue.id)
        .is_some_and(|&room| room > 0)
    {
        return Ok(());
    }
    let in_flight: i64 = db
        .sql
        .prepare_cached(
            "SELECT count(*) FROM message WHERE queue = ?1 AND visible_at > ?2 AND received_at IS NOT NULL",
        )?
        .query_row([queue.id, db.now], |row| row.get(0))?;
    let room = MOST_IN_FLIGHT - in_flight;
    db.session.room_in_flight.insert(queue.id, room);
    if room <= 0 {
        return Err(Error::new(
            Code::OverLimit,
            "The maximum number of in flight messages is reached.",
        ));
    }
    Ok(())
}

fn from_row(row: &Row<'_>, db: &Db<'_>) -> Result<Received, Error> {
    Ok(Received {
        seq: row.get(0)?,
        id: row.get(1)?,
        body: row.get(2)?,
        attributes: serde_json::from_str(row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?)?,
        group_id: row.get(4)?,
        trace_header: row.get(5)?,
        dead_letter_source: row.get(6)?,
        sent_at: row.get(7)?,
        receive_count: row.get(8)?,
        first_received_at: row.get::<_, Option<i64>>(9)?.unwrap_or(db.now),
        shift: db.shift,
        receipt_handle: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::file;
    use super::super::retention::EXPIRED;
    use super::*;
    use scanhook_worker::clock::Clock;

    #[test]
    fn no_query_of_a_receive_walks_the_waiting_messages() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("queues.db");
        let (connection, _, _) = file::open(&path, Clock::System).unwrap();
        for (sql, index) in [
            (VISIBLE, "message_by_visibility"),
            (NEXT_VISIBLE, "message_by_visibility"),
            (EXPIRED, "message_by_age"),
        ] {
            let mut plan = connection
                .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
                .unwrap();
            let nothing = vec![0; plan.parameter_count()];
            let steps = plan
                .query_map(rusqlite::params_from_iter(nothing), |row| {
                    row.get::<_, String>(3)
                })
                .unwrap();
            let steps: Vec<_> = steps.map(Result::unwrap).collect();
            // One search of one index: no scan and no sort.
            assert!(
                matches!(&steps[..], [step] if step.starts_with("SEARCH") && step.contains(index)),
                "{steps:?}"
            );
        }
    }
}
