//! The body of a request: limited in time, and together with all others in memory.
//!
//! **Invariant**: what strangers make us hold does not grow with their number. Most deliveries are below [`FREE`] bytes, and
//! no flood of others keeps those out.

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

/// This much of each body is not counted. With as many connections as may be that is 16 MiB.
const FREE: usize = 32 * 1024;

/// How long a body may take, however little of it is missing.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The memory that the bodies of all requests share.
#[derive(Clone)]
pub(super) struct Memory(Arc<Semaphore>);

impl Memory {
    /// Room for so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }
}

/// What one body holds of the memory, until the request is answered.
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

    /// Why the body was cut off, if it was.
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

/// A body that is cut off when it takes too long or too much.
pub(super) struct LimitedBody {
    body: Incoming,
    share: Arc<Share>,
    place: Arc<Place>,
    read: usize,
    deadline: Pin<Box<Sleep>>,
}

impl LimitedBody {
    /// While something of it is missing, the connection waits for its client.
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
            // Its client was not silent: the wait begins anew.
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
    fn what_all_bodies_hold_is_limited_and_given_back() {
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
