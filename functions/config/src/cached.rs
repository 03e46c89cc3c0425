//! A value from elsewhere that is read again now and then, by one reader at a time.
//!
//! **Invariant**: a value that was read once is never lost to a failed reading, and no number of strangers causes more
//! than one reading within [`GUARD`].

use std::fmt::Display;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

/// Between the beginnings of two readings that strangers can cause lies at least this long.
pub const GUARD: Duration = Duration::from_secs(10);

/// What a reading brings.
pub(crate) struct Fresh<T> {
    /// The value.
    pub(crate) value: T,
    /// How long it is good for without another reading.
    pub(crate) keep: Duration,
}

/// A reading that is under way.
pub(crate) type Reading<T, E> = Pin<Box<dyn Future<Output = Result<Fresh<T>, E>> + Send>>;

/// A value and the way to read it again.
pub(crate) struct Cached<T, E> {
    /// What it is, for the log.
    name: String,
    read: Box<dyn Fn() -> Reading<T, E> + Send + Sync>,
    present: RwLock<Present<T, E>>,
    /// Held by the one who reads.
    turn: Mutex<()>,
}

struct Present<T, E> {
    value: Option<Arc<T>>,
    /// Why the last reading failed, if it did.
    problem: Option<E>,
    /// When the last reading began.
    tried: Option<Instant>,
    /// From here on it is read again in the background.
    due: Instant,
    /// From here on nobody uses it before it was tried to read it again: a secret that was withdrawn days ago must not
    /// be good for one more delivery because nobody asked in between.
    overdue: Instant,
}

impl<T: Send + Sync + 'static, E: Clone + Display + Send + Sync + 'static> Cached<T, E> {
    /// Prepares the reading, and leaves the first one to whoever needs the value.
    pub(crate) fn new(
        name: String,
        read: impl Fn() -> Reading<T, E> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            name,
            read: Box::new(read),
            present: RwLock::new(Present {
                value: None,
                problem: None,
                tried: None,
                due: now,
                overdue: now,
            }),
            turn: Mutex::new(()),
        })
    }

    /// What is known; read now, if nothing is. What could not be read a moment ago is not tried again.
    pub(crate) async fn first(&self) -> Result<Arc<T>, E> {
        let _turn = self.turn.lock().await;
        if let Some(value) = self.present() {
            return Ok(value);
        }
        let problem = self.look(|it| it.problem.clone());
        match problem.filter(|_| self.was_tried(Instant::now())) {
            Some(problem) => Err(problem),
            None => self.read().await,
        }
    }

    /// What is known, without asking anybody.
    pub(crate) fn present(&self) -> Option<Arc<T>> {
        self.look(|it| it.value.clone())
    }

    /// Sees to it that what is known is not too old: starts a reading that is due and goes on, but waits for one that
    /// is overdue, at most until `until`.
    pub(crate) async fn freshen(self: &Arc<Self>, until: Instant) {
        let now = Instant::now();
        let (due, overdue) = self.look(|it| (it.due, it.overdue));
        if now >= overdue {
            self.renew(until).await;
        } else if now >= due && self.turn.try_lock().is_ok() {
            tokio::spawn(Arc::clone(self).renewed(now, GUARD));
        }
    }

    /// Reads again what turned out wrong, unless that was done within the last [`GUARD`]; waits for it at most until
    /// `until`. Who comes while somebody reads waits for the same reading.
    pub(crate) async fn renew(self: &Arc<Self>, until: Instant) {
        let now = Instant::now();
        if self.was_tried(now) && self.turn.try_lock().is_ok() {
            return;
        }
        // In a task of its own, so that a caller's patience does not end the reading for all others.
        let reading = tokio::spawn(Arc::clone(self).renewed(now, GUARD));
        let _ = timeout_at(until, reading).await;
    }

    /// Reads again whenever it was read last, for those who ask no more often than they work; waits for it at most until
    /// `until`. `None` if it could not be read by then.
    pub(crate) async fn renew_now(self: &Arc<Self>, until: Instant) -> Option<Arc<T>> {
        let reading = tokio::spawn(Arc::clone(self).renewed(Instant::now(), Duration::ZERO));
        timeout_at(until, reading).await.ok()?.ok()?
    }

    /// Reads again, unless a reading began since `guard` before `asked`. `None` if the latest reading failed.
    async fn renewed(self: Arc<Self>, asked: Instant, guard: Duration) -> Option<Arc<T>> {
        let _turn = self.turn.lock().await;
        if self
            .look(|it| it.tried)
            .is_some_and(|it| it + guard > asked)
        {
            let latest = |it: &Present<T, E>| it.value.clone().filter(|_| it.problem.is_none());
            return self.look(latest);
        }
        let read = self.read().await.inspect_err(|err| {
            let name = &self.name;
            tracing::error!(
                event = "refresh.failed",
                name,
                "could not read {name} again: {err}"
            );
        });
        read.ok()
    }

    async fn read(&self) -> Result<Arc<T>, E> {
        self.change(|it| it.tried = Some(Instant::now()));
        let outcome = (self.read)().await;
        let now = Instant::now();
        self.change(|present| match outcome {
            Ok(Fresh { value, keep }) => {
                let value = Arc::new(value);
                present.value = Some(Arc::clone(&value));
                present.problem = None;
                present.due = now + keep;
                present.overdue = now + 2 * keep;
                Ok(value)
            }
            Err(err) => {
                present.due = now + GUARD;
                present.overdue = present.overdue.max(present.due);
                present.problem = Some(err.clone());
                Err(err)
            }
        })
    }

    fn was_tried(&self, now: Instant) -> bool {
        self.look(|it| it.tried)
            .is_some_and(|tried| tried + GUARD > now)
    }

    fn look<R>(&self, look: impl FnOnce(&Present<T, E>) -> R) -> R {
        look(&self.present.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<R>(&self, change: impl FnOnce(&mut Present<T, E>) -> R) -> R {
        change(&mut self.present.write().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::advance;

    use super::*;

    const KEEP: Duration = Duration::from_mins(5);

    /// A value that counts its readings and fails those in `failing`.
    fn counted(
        count: &Arc<AtomicUsize>,
        failing: std::ops::Range<usize>,
    ) -> impl Fn() -> Reading<usize, &'static str> + Send + Sync + 'static {
        let count = Arc::clone(count);
        move || {
            let number = count.fetch_add(1, Ordering::SeqCst);
            let outcome = if failing.contains(&number) {
                Err("the store is down")
            } else {
                Ok(Fresh {
                    value: number,
                    keep: KEEP,
                })
            };
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                outcome
            })
        }
    }

    async fn opened(
        read: impl Fn() -> Reading<usize, &'static str> + Send + Sync + 'static,
    ) -> Arc<Cached<usize, &'static str>> {
        let cached = Cached::new("x".to_owned(), read);
        cached.first().await.unwrap();
        cached
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_that_is_due_is_used_while_it_is_read_again() {
        let count = Arc::default();
        let cached = opened(counted(&count, 0..0)).await;
        advance(KEEP.mul_f64(0.99)).await;
        cached.freshen(soon()).await;
        assert_eq!(count.load(Ordering::SeqCst), 1);
        advance(KEEP.mul_f64(0.02)).await;
        for _ in 0..100 {
            cached.freshen(soon()).await;
            assert_eq!(*cached.present().unwrap(), 0);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(*cached.present().unwrap(), 1);
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_that_is_long_overdue_is_not_used_before_it_is_read_again() {
        let count = Arc::default();
        let cached = opened(counted(&count, 0..0)).await;
        advance(2 * KEEP).await;
        cached.freshen(soon()).await;
        assert_eq!(*cached.present().unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_reading_keeps_the_value_and_is_not_repeated_at_once() {
        let count = Arc::default();
        let cached = opened(counted(&count, 1..3)).await;
        advance(2 * KEEP).await;
        for _ in 0..100 {
            cached.freshen(soon()).await;
            assert_eq!(*cached.present().unwrap(), 0);
        }
        assert_eq!(count.load(Ordering::SeqCst), 2);
        for _ in 0..2 {
            advance(GUARD + Duration::from_millis(100)).await;
            cached.freshen(soon()).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(*cached.present().unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn any_number_of_refusals_cause_one_reading_in_an_interval() {
        let count = Arc::default();
        let cached = opened(counted(&count, 0..0)).await;
        for _ in 0..10 {
            cached.renew(soon()).await;
        }
        assert_eq!(count.load(Ordering::SeqCst), 1, "read a moment ago");
        advance(GUARD).await;
        let refusals = (0..1000).map(|_| cached.renew(soon()));
        futures_util::future::join_all(refusals).await;
        assert_eq!(count.load(Ordering::SeqCst), 2, "all share one");
        assert_eq!(*cached.present().unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_wait_to_the_end_does_not_end_the_reading() {
        let count = Arc::default();
        let cached = opened(counted(&count, 0..0)).await;
        advance(GUARD).await;
        cached.renew(Instant::now()).await;
        assert_eq!(*cached.present().unwrap(), 0);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(*cached.present().unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_need_a_first_value_at_once_share_one_reading_and_its_error() {
        for (failing, outcome) in [(0..0, Ok(0)), (0..1, Err("the store is down"))] {
            let count = Arc::default();
            let cached = Cached::new("x".to_owned(), counted(&count, failing));
            let firsts = futures_util::future::join_all((0..10).map(|_| cached.first())).await;
            for first in firsts {
                assert_eq!(first.map(|it| *it), outcome);
            }
            assert_eq!(count.load(Ordering::SeqCst), 1);
        }
    }
}
