//! The places of a listener, one for each connection, and which connection leaves if none is free.
//!
//! **Invariant**: a connection keeps its place while its request is being answered. While it waits for its client, a newer connection
//! can replace it, so that silent clients keep nobody out. Before it leaves, it checks whether its client has sent something.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How often to log at most that connections were replaced.
const REPORTED: Duration = Duration::from_mins(1);

/// What a connection expects of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    /// To send the head of its first request.
    Head,
    /// To send the rest of a body.
    Body,
    /// To read its answer.
    Answer,
    /// To send another request.
    Request,
}

/// What a connection waits for, and the number of this wait. Numbers grow, so a smaller number has waited longer.
type Turn = (Wait, u64);

pub(super) struct Places {
    limit: usize,
    state: Mutex<State>,
    /// A place may be free, or the candidates for leaving have changed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    occupied: usize,
    turns: u64,
    waiting: BTreeMap<Wait, BTreeMap<u64, Arc<Notify>>>,
    /// The wait whose connection was asked to leave; only one is asked at a time.
    asked: Option<u64>,
    /// Connections that left since the last report.
    left: u64,
    reported: Option<Instant>,
}

impl State {
    /// Chooses the connection that leaves: the oldest idle connection that was answered, else the oldest of those with the most
    /// common wait. So clients that are slow in one way don't cost a place to clients that wait for something else.
    fn choose(&mut self) -> Option<(u64, Arc<Notify>)> {
        let idle = self.waiting.get_mut(&Wait::Request);
        let idle = idle.and_then(BTreeMap::pop_first);
        idle.or_else(|| {
            self.waiting
                .values_mut()
                .max_by_key(|it| it.len())?
                .pop_first()
        })
    }
}

impl Places {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Acquires a place for a new connection, which waits for the head of a request. If none is free, a connection that waits for its
    /// client leaves. If all connections are being answered, this waits for one of them.
    pub(super) async fn acquire(self: &Arc<Self>) -> Arc<Place> {
        while !self.try_acquire() {
            self.changed.notified().await;
        }
        let place = Arc::new(Place {
            places: Arc::clone(self),
            turn: Mutex::new(None),
            asked: Arc::default(),
        });
        place.wait(Wait::Head);
        place
    }

    /// Acquires a free place, or asks a connection to leave.
    fn try_acquire(&self) -> bool {
        let mut state = lock(&self.state);
        if state.occupied < self.limit {
            state.occupied += 1;
            return true;
        }
        if state.asked.is_none()
            && let Some((number, connection)) = state.choose()
        {
            state.asked = Some(number);
            connection.notify_one();
        }
        false
    }
}

/// The place of one connection.
pub(super) struct Place {
    places: Arc<Places>,
    turn: Mutex<Option<Turn>>,
    asked: Arc<Notify>,
}

impl Place {
    /// From now on, the connection waits for its client and may be asked to leave.
    pub(super) fn wait(&self, wait: Wait) {
        self.set_wait(Some(wait));
    }

    /// From now on, the connection's request is being answered, and it keeps its place.
    pub(super) fn keep(&self) {
        self.set_wait(None);
    }

    /// Completes when the connection should leave, if [`Self::leaves`] confirms it.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Whether the connection still has the wait for which it was asked to leave. If so, it counts as left.
    pub(super) fn leaves(&self) -> bool {
        let turn = lock(&self.turn);
        let mut state = lock(&self.places.state);
        if turn.is_none_or(|(_, number)| state.asked != Some(number)) {
            return false;
        }
        metrics::counter!("connections_closed").increment(1);
        state.left += 1;
        if state.reported.is_none_or(|it| it.elapsed() >= REPORTED) {
            state.reported = Some(Instant::now());
            let (limit, closed) = (self.places.limit, std::mem::take(&mut state.left));
            drop(state);
            tracing::warn!(
                event = "connections.full",
                closed,
                "all {limit} connections are in use; closed {closed} idle or slow connections for new ones"
            );
        }
        true
    }

    fn set_wait(&self, wait: Option<Wait>) {
        let mut turn = lock(&self.turn);
        let mut state = lock(&self.places.state);
        if let Some((wait, number)) = turn.take() {
            if let Some(waiting) = state.waiting.get_mut(&wait) {
                waiting.remove(&number);
            }
            if state.asked == Some(number) {
                state.asked = None;
            }
        }
        if let Some(wait) = wait {
            state.turns += 1;
            let number = state.turns;
            let waiting = state.waiting.entry(wait).or_default();
            waiting.insert(number, Arc::clone(&self.asked));
            *turn = Some((wait, number));
        }
        self.places.changed.notify_one();
    }

    /// Everything was written. If that was an answer, the connection waits for the next request.
    fn flushed(&self) {
        let is_answered = matches!(*lock(&self.turn), Some((Wait::Answer, _)));
        if is_answered {
            self.wait(Wait::Request);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.keep();
        lock(&self.places.state).occupied -= 1;
        self.places.changed.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The stream of a connection, which notices when an answer has been written.
pub(super) struct Stream {
    pub(super) tcp: TcpStream,
    pub(super) place: Arc<Place>,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    /// Hyper calls this after it has written everything.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.place.flushed();
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn acquire(places: &Arc<Places>) -> Option<Arc<Place>> {
        places.acquire().now_or_never()
    }

    /// A new connection comes, and its request is answered from then on. Returns which of `waiting` leaves for it.
    fn displaced(
        places: &Arc<Places>,
        waiting: &mut Vec<(&'static str, Arc<Place>)>,
    ) -> &'static str {
        assert!(acquire(places).is_none());
        let is_asked =
            |it: &(_, Arc<Place>)| it.1.asked().now_or_never().is_some() && it.1.leaves();
        let chosen = waiting.iter().position(is_asked).unwrap();
        let (name, place) = waiting.remove(chosen);
        drop(place);
        // The new connection stays for the rest of the test.
        let served = acquire(places).unwrap();
        served.keep();
        std::mem::forget(served);
        name
    }

    #[test]
    fn an_idle_connection_leaves_first_then_the_oldest_of_the_most_common_wait() {
        let places = Places::new(6);
        let names = [
            "youngest head",
            "body",
            "answer",
            "old head",
            "young head",
            "idle",
        ];
        let mut waiting: Vec<_> = names.map(|it| (it, acquire(&places).unwrap())).into();
        waiting[0].1.wait(Wait::Head);
        waiting[1].1.wait(Wait::Body);
        waiting[2].1.wait(Wait::Answer);
        waiting[5].1.wait(Wait::Answer);
        waiting[5].1.flushed();
        for expected in ["idle", "old head", "young head"] {
            assert_eq!(displaced(&places, &mut waiting), expected);
        }
        for _ in 0..3 {
            displaced(&places, &mut waiting);
        }
        // Connections that are being answered stay.
        assert!(waiting.is_empty() && acquire(&places).is_none());
    }

    #[test]
    fn a_connection_whose_request_has_arrived_stays_and_the_next_one_leaves() {
        let places = Places::new(2);
        let (first, second) = (acquire(&places).unwrap(), acquire(&places).unwrap());
        assert!(acquire(&places).is_none());
        first.keep();
        assert!(first.asked().now_or_never().is_some() && !first.leaves());
        assert!(acquire(&places).is_none());
        assert!(second.asked().now_or_never().is_some() && second.leaves());
        assert!(acquire(&places).is_none());
        drop(second);
        assert!(acquire(&places).is_some());
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let places = Places::new(1);
        for _ in 0..3 {
            let place = acquire(&places).unwrap();
            place.keep();
            assert!(acquire(&places).is_none());
        }
        assert!(acquire(&places).is_some());
    }
}
