//! The body of a request: limited in time, and, together with all other bodies, in memory.
//!
//! **Invariant**: memory for bodies doesn't grow with the number of clients. Most deliveries are smaller than [`FREE`], and a flood of
//! larger ones doesn't keep them out.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::HttpBody;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::Refusal;
use super::places::{Place, Wait};

/// The uncounted bytes of each body: 16 MiB with the most connections.
const FREE: usize = 32 * 1024;

/// The timeout of a body.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The memory that all bodies share.
#[derive(Clone)]
pub(super) struct Memory(Arc<Semaphore>);

impl Memory {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }
}

/// One body's share of the memory, until the request is answered.
pub(super) struct Share {
    memory: Memory,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<OwnedSemaphorePermit>,
    cut: Option<Refusal>,
}

impl Share {
    pub(super) fn of(memory: &Memory) -> Arc<Self> {
        Arc::new(Self {
            memory: memory.clone(),
            state: Mutex::default(),
        })
    }

    /// Why the body was cut off.
    pub(super) fn cut(&self) -> Option<Refusal> {
        self.state().cut
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grow(&self, bytes: usize) -> Result<(), Refusal> {
        let bytes = u32::try_from(bytes).map_err(|_| Refusal::Full)?;
        let more = Arc::clone(&self.memory.0).try_acquire_many_owned(bytes);
        let more = more.map_err(|_| Refusal::Full)?;
        let mut state = self.state();
        match &mut state.held {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

/// A body that is cut off when it exceeds its time or the memory.
pub(super) struct LimitedBody {
    body: Incoming,
    share: Arc<Share>,
    place: Arc<Place>,
    read: usize,
    deadline: Pin<Box<Sleep>>,
}

impl LimitedBody {
    /// Marks the connection as waiting for its client until the body is complete.
    pub(super) fn new(body: Incoming, share: Arc<Share>, place: Arc<Place>) -> Self {
        if body.is_end_stream() {
            place.keep();
        } else {
            place.wait(Wait::Body);
        }
        Self {
            body,
            share,
            place,
            read: 0,
            deadline: Box::pin(tokio::time::sleep(TIMEOUT)),
        }
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            ready!(self.deadline.as_mut().poll(context));
            return self.end(Refusal::Late);
        };
        if frame.is_none() || self.body.is_end_stream() {
            self.place.keep();
        }
        let bytes = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        if bytes > 0 && !self.body.is_end_stream() {
            // The client sent something, so its wait starts again.
            self.place.wait(Wait::Body);
        }
        let counted = |read: usize| read.saturating_sub(FREE);
        let more = counted(self.read + bytes) - counted(self.read);
        self.read += bytes;
        match self.share.grow(more) {
            Ok(()) => Poll::Ready(frame.map(|it| it.map_err(axum::Error::new))),
            Err(cut) => self.end(cut),
        }
    }

    fn end<T>(&self, cut: Refusal) -> Poll<Option<Result<T, axum::Error>>> {
        self.share.state().cut = Some(cut);
        Poll::Ready(Some(Err(axum::Error::new(cut))))
    }
}

impl HttpBody for LimitedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.get_mut().poll(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_all_bodies_is_limited_and_returned() {
        const SHARED: usize = 1024;
        let memory = Memory::new(SHARED);
        let one = Share::of(&memory);
        assert_eq!(one.grow(SHARED - 1), Ok(()));
        let other = Share::of(&memory);
        assert_eq!(other.grow(2), Err(Refusal::Full));
        assert_eq!(one.grow(1), Ok(()));
        assert_eq!(other.grow(1), Err(Refusal::Full));
        drop(one);
        assert_eq!(other.grow(SHARED), Ok(()));
    }
}
