//! The places of a listener, one for each connection, and which connection leaves its own when none is free.
//!
//! **Invariant**: a connection keeps its place as long as its request is being answered. While it waits for its client, a newer
//! connection may have the place, so that nobody is kept out by silence. It leaves by itself, after it has looked for what its
//! client may have sent meanwhile.

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

/// The log says at most so often that connections left their places.
const REPORTED: Duration = Duration::from_mins(1);

/// What a connection waits for its client to do.
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

/// For what a connection waits, and since when: a number that is another one for each wait, and grows.
type Turn = (Wait, u64);

/// All places of a listener.
pub(super) struct Places {
    limit: usize,
    state: Mutex<State>,
    /// A place is free, or who could leave one has changed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    taken: usize,
    turns: u64,
    waiting: BTreeMap<Wait, BTreeMap<u64, Arc<Notify>>>,
    /// Whose turn it is to leave; no other connection is asked meanwhile.
    asked: Option<u64>,
    left: u64,
    reported: Option<Instant>,
}

impl State {
    /// Chooses who leaves: an idle connection that was answered, else one of those that wait for what most wait for; of these
    /// the one that has waited longest. So strangers who are slow in one way cost nobody a place who is doing something else.
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

    /// Takes a place for a new connection, which waits for the head of a request. If none is free, a connection that waits for its
    /// client leaves its own; while all are being answered, this waits for one of them.
    pub(super) async fn take(self: &Arc<Self>) -> Arc<Place> {
        while !self.try_take() {
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

    /// Takes a free place, or asks a connection to leave its own.
    fn try_take(&self) -> bool {
        let mut state = lock(&self.state);
        if state.taken < self.limit {
            state.taken += 1;
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
    /// From now on the connection waits for its client, and may have to leave.
    pub(super) fn wait(&self, wait: Wait) {
        self.stand(Some(wait));
    }

    /// From now on its request is being answered.
    pub(super) fn keep(&self) {
        self.stand(None);
    }

    /// Ends when the connection should look whether it still waits, and leave if so.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Whether the connection waits for what it waited for when it was asked to leave. It has then left its place.
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

    fn stand(&self, wait: Option<Wait>) {
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

    /// What was written has left: if that was an answer, the client may send another request.
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
        lock(&self.places.state).taken -= 1;
        self.places.changed.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The stream of a connection, which shows when an answer has been written.
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

    /// Hyper asks for this when it has handed on everything it had to write.
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

    fn take(places: &Arc<Places>) -> Option<Arc<Place>> {
        places.take().now_or_never()
    }

    /// Has a new request come, which is being answered from then on, and tells which of `waiting` leaves.
    fn displaced(
        places: &Arc<Places>,
        waiting: &mut Vec<(&'static str, Arc<Place>)>,
    ) -> &'static str {
        assert!(take(places).is_none());
        let is_asked =
            |it: &(_, Arc<Place>)| it.1.asked().now_or_never().is_some() && it.1.leaves();
        let chosen = waiting.iter().position(is_asked).unwrap();
        let (name, place) = waiting.remove(chosen);
        drop(place);
        // It stays for the rest of the test.
        let served = take(places).unwrap();
        served.keep();
        std::mem::forget(served);
        name
    }

    #[test]
    fn an_idle_connection_leaves_first_and_then_the_oldest_of_the_commonest_kind() {
        let places = Places::new(6);
        let names = [
            "youngest head",
            "body",
            "answer",
            "old head",
            "young head",
            "idle",
        ];
        let mut waiting: Vec<_> = names.map(|it| (it, take(&places).unwrap())).into();
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
        // Who is being answered stays.
        assert!(waiting.is_empty() && take(&places).is_none());
    }

    #[test]
    fn a_connection_whose_request_has_come_meanwhile_stays_and_the_next_one_leaves() {
        let places = Places::new(2);
        let (first, second) = (take(&places).unwrap(), take(&places).unwrap());
        assert!(take(&places).is_none());
        first.keep();
        assert!(first.asked().now_or_never().is_some() && !first.leaves());
        assert!(take(&places).is_none());
        assert!(second.asked().now_or_never().is_some() && second.leaves());
        assert!(take(&places).is_none());
        drop(second);
        assert!(take(&places).is_some());
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let places = Places::new(1);
        for _ in 0..3 {
            let place = take(&places).unwrap();
            place.keep();
            assert!(take(&places).is_none());
        }
        assert!(take(&places).is_some());
    }
}
