//! The body of a request: limited in time, and together with all others in memory.
//!
//! **Invariant**: what strangers make us hold does not grow with their number. Most deliveries are below [`FREE`] bytes, and
//! no flood of others keeps those out.

use std::error::Error;
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

/// Why a request was cut off. A reader of its body finds this as the source of the error; the listener answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// It took too long.
    #[error("the body took too long")]
    Late,
    /// There was no room for its body.
    #[error("the bodies of all requests together are too large")]
    Full,
}

impl Cut {
    /// Whether this is the error of a body that was cut off.
    pub fn caused(err: &(dyn Error + 'static)) -> bool {
        err.is::<Self>() || err.source().is_some_and(Self::caused)
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
    cut: Option<Cut>,
}

impl Share {
    pub(super) fn of(memory: &Memory) -> Arc<Self> {
        Arc::new(Self {
            memory: memory.clone(),
            state: Mutex::default(),
        })
    }

    /// Why the body was cut off, if it was.
    pub(super) fn cut(&self) -> Option<Cut> {
        self.state().cut
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grow(&self, bytes: usize) -> Result<(), Cut> {
        let bytes = u32::try_from(bytes).map_err(|_| Cut::Full)?;
        let more = Arc::clone(&self.memory.0).try_acquire_many_owned(bytes);
        let more = more.map_err(|_| Cut::Full)?;
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
    read: usize,
    deadline: Pin<Box<Sleep>>,
}

impl LimitedBody {
    pub(super) fn new(body: Incoming, share: Arc<Share>) -> Self {
        Self {
            body,
            share,
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
            return self.end(Cut::Late);
        };
        let bytes = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        let counted = |read: usize| read.saturating_sub(FREE);
        let more = counted(self.read + bytes) - counted(self.read);
        self.read += bytes;
        match self.share.grow(more) {
            Ok(()) => Poll::Ready(frame.map(|it| it.map_err(axum::Error::new))),
            Err(cut) => self.end(cut),
        }
    }

    fn end<T>(&self, cut: Cut) -> Poll<Option<Result<T, axum::Error>>> {
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
        assert_eq!(other.grow(2), Err(Cut::Full));
        assert_eq!(one.grow(1), Ok(()));
        assert_eq!(other.grow(1), Err(Cut::Full));
        drop(one);
        assert_eq!(other.grow(SHARED), Ok(()));
    }
}
