//! The store: one thread owns the connection and commits all waiting operations in one transaction.
//!
//! **Invariant**: an operation is answered only after its commit, and a failed one leaves no trace.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rusqlite::{Connection, Transaction};
use tokio::sync::{Notify, oneshot};

use super::expiry::{Expired, Expiry};
use super::file::OpenError;
use super::queue::Queue;
use super::time::{QueueTime, Shift, WRITTEN_EVERY};
use super::{Error, REGION, file};
use crate::cause::Cause;
use scanhook_worker::clock::Clock;

/// The most operations that share a commit, so that the first doesn't wait too long under load.
const LARGEST_GROUP: usize = 256;

/// A durable set of queues. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    operations: Sender<Operation>,
    pub(crate) shared: Arc<Shared>,
}

/// State that the writer thread and the callers share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// For everything that doesn't use the queues' own time.
    pub(crate) clock: Clock,
    pub(crate) time: QueueTime,
    pub(crate) region: String,
    /// Wakes callers that wait for messages of a queue, by queue id.
    arrivals: Mutex<HashMap<i64, Arc<Notify>>>,
    /// Wakes the task that moves messages between queues.
    pub(crate) task_started: Notify,
}

/// The database as one operation sees it: inside a transaction, at one instant.
pub(crate) struct Db<'a> {
    pub(crate) sql: &'a Connection,
    /// The queues' time, in milliseconds.
    pub(crate) now: i64,
    /// Converts instants of the queues' time for display.
    pub(crate) shift: Shift,
    pub(crate) time: &'a QueueTime,
    pub(crate) region: &'a str,
    pub(crate) session: &'a mut Session,
}

/// State that the writer thread keeps between operations. It is lost at the end of the process, so correctness must not
/// depend on it.
#[derive(Default)]
pub(crate) struct Session {
    /// Queues that gained visible messages in this transaction.
    woken: Vec<i64>,
    /// A lower bound for the messages that may still be received before those in flight must be counted again.
    pub(crate) room_in_flight: HashMap<i64, i64>,
    /// Cached queues, by name.
    pub(crate) queues: RefCell<HashMap<String, Arc<Queue>>>,
    /// What happens to expired messages, by queue name.
    pub(crate) expiries: HashMap<String, Expiry>,
    /// Messages that expired in this transaction.
    pub(crate) expired: Vec<Expired>,
    /// The first error that SQLite reported in this transaction.
    failure: Option<Arc<rusqlite::Error>>,
    shift: Shift,
}

impl Db<'_> {
    /// Records that messages of `queue` became visible, or will earlier than planned.
    pub(crate) fn wake(&mut self, queue: i64) {
        self.session.woken.push(queue);
    }
}

type Operation = Box<dyn FnOnce(&Transaction<'_>, &Shared, &mut Session) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;

impl Store {
    /// Opens the queue file at `path`, or creates it.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, OpenError> {
        Self::open_in_region(path, REGION, clock)
    }

    /// Opens the queue file at `path` for queues whose ARNs name `region`.
    pub fn open_in_region(path: &Path, region: &str, clock: Clock) -> Result<Self, OpenError> {
        let (connection, time, shift) = file::open(path, clock.clone())?;
        let shared = Arc::new(Shared {
            clock,
            time,
            region: region.to_owned(),
            arrivals: Mutex::default(),
            task_started: Notify::new(),
        });
        let (operations, waiting) = channel();
        let writer = {
            let shared = Arc::clone(&shared);
            let session = Session {
                shift,
                ..Session::default()
            };
            move || write(connection, &waiting, &shared, session)
        };
        std::thread::Builder::new()
            .name("queue-writer".to_owned())
            .spawn(writer)
            .map_err(OpenError::Thread)?;
        Ok(Self { operations, shared })
    }

    /// Runs `operation` in a transaction, and returns its result once the commit is on disk.
    pub(crate) async fn run<T, F>(&self, operation: F) -> Result<T, Error>
    where
        F: FnOnce(&mut Db<'_>) -> Result<T, Error> + Send + 'static,
        T: Send + 'static,
    {
        let (caller, result) = oneshot::channel();
        let operation =
            move |transaction: &Transaction<'_>, shared: &Shared, session: &mut Session| {
                // The caller has left, so nobody would learn the result of a receive or a send: skip it.
                if caller.is_closed() {
                    return Box::new(|_| ()) as Answer;
                }
                let outcome = atomically(transaction, shared, session, operation);
                // A caller that left meanwhile needs no answer.
                Box::new(move |committed: Result<(), Error>| {
                    // The operation's own error is more specific than the commit's.
                    let outcome = outcome.and_then(|it| committed.map(|()| it));
                    drop(caller.send(outcome));
                }) as Answer
            };
        self.operations
            .send(Box::new(operation))
            .map_err(|_| Error::Stopped)?;
        result.await.map_err(|_| Error::Stopped)?
    }

    /// Returns the notification for messages of `queue` that become visible.
    pub(crate) fn arrivals(&self, queue: i64) -> Arc<Notify> {
        let mut arrivals = self
            .shared
            .arrivals
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(arrivals.entry(queue).or_default())
    }
}

/// Runs `operation` in a savepoint, so that a failure doesn't affect other operations of the transaction.
fn atomically<T>(
    transaction: &Transaction<'_>,
    shared: &Shared,
    session: &mut Session,
    operation: impl FnOnce(&mut Db<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let run = |statement| transaction.prepare_cached(statement)?.execute([]);
    run("SAVEPOINT operation")?;
    let expired = session.expired.len();
    session.shift = shared.time.shift(session.shift);
    let outcome = operation(&mut Db {
        sql: transaction,
        now: shared.time.now(),
        shift: session.shift,
        time: &shared.time,
        region: &shared.region,
        session,
    });
    if let Err(err) = &outcome {
        session.queues.get_mut().clear();
        session.expired.truncate(expired);
        if let Error::Sql(err) = err {
            session.failure.get_or_insert_with(|| Arc::clone(err));
        }
        // SQLite may have ended the transaction itself, for example on a full disk. Then there is nothing to undo.
        let undone = run("ROLLBACK TO operation").and_then(|_| run("RELEASE operation"));
        if let Err(err) = undone {
            tracing::debug!("an operation's transaction had ended before it was undone: {err}");
        }
        return outcome;
    }
    run("RELEASE operation")?;
    outcome
}

/// The writer thread. It ends when the last [`Store`] is dropped.
fn write(
    mut connection: Connection,
    waiting: &Receiver<Operation>,
    shared: &Shared,
    mut session: Session,
) {
    let mut written = Instant::now();
    loop {
        match waiting.recv_timeout(WRITTEN_EVERY.saturating_sub(written.elapsed())) {
            Ok(first) => write_group(&mut connection, first, waiting, shared, &mut session),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if written.elapsed() >= WRITTEN_EVERY {
            written = Instant::now();
            if let Err(err) = shared.time.write_down(&connection, session.shift) {
                log_failed_commit(&err);
            }
        }
    }
}

/// Commits one operation together with those that wait, then answers them.
fn write_group(
    connection: &mut Connection,
    first: Operation,
    waiting: &Receiver<Operation>,
    shared: &Shared,
    session: &mut Session,
) {
    let mut answers = Vec::new();
    let committed = connection.transaction().and_then(|transaction| {
        let group = std::iter::once(first).chain(std::iter::from_fn(|| waiting.try_recv().ok()));
        for operation in group.take(LARGEST_GROUP) {
            answers.push(operation(&transaction, shared, session));
        }
        transaction.commit()
    });
    // The error that made SQLite end the transaction is more specific than the failed commit.
    let failure = session.failure.take();
    let committed = committed.map_err(|err| {
        let err = failure.unwrap_or_else(|| Arc::new(err));
        log_failed_commit(&err);
        Error::Sql(err)
    });
    let expired = std::mem::take(&mut session.expired);
    if committed.is_ok() {
        for message in expired {
            message.report(&session.expiries);
        }
    } else {
        session.queues.get_mut().clear();
    }
    for answer in answers {
        answer(committed.clone());
    }
    let arrivals = shared
        .arrivals
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    for queue in session.woken.drain(..) {
        if let Some(arrival) = arrivals.get(&queue) {
            arrival.notify_waiters();
        }
    }
}

fn log_failed_commit(err: &rusqlite::Error) {
    let cause = Cause::of(err);
    tracing::error!(
        event = "queue.commit_failed",
        cause = cause.as_str(),
        error = err as &dyn std::error::Error,
        "could not commit to the queue file: {}",
        cause.advice()
    );
}
