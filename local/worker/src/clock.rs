//! The wall clock, a monotonic clock, and sleeping.
//!
//! **Invariant**: queue and mapping use no other clock, so a test with a [`ManualClock`] runs hours of visibility, backoff and
//! retention in milliseconds. All waits use [`Clock::elapsed`], so setting the wall clock neither ends nor prolongs a wait.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

/// The zero of [`Clock::elapsed`]: its first call in this process.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A time source.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's clocks.
    System,
    /// A clock that only a test moves.
    Manual(ManualClock),
}

impl Clock {
    /// The wall clock's time.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that all others take as an argument"
    )]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Manual(clock) => clock.now(),
        }
    }

    /// The instant `duration` from now, or [`Timestamp::MAX`].
    pub fn after(&self, duration: Duration) -> Timestamp {
        self.now().checked_add(duration).unwrap_or(Timestamp::MAX)
    }

    /// Monotonic time since some moment of this process. Setting the wall clock doesn't change it, and it stops while the machine is
    /// suspended.
    pub fn elapsed(&self) -> Duration {
        match self {
            Self::System => START.elapsed(),
            Self::Manual(clock) => clock.state.borrow().elapsed,
        }
    }

    /// Waits until [`Clock::elapsed`] is at least `elapsed`.
    pub async fn sleep_until(&self, elapsed: Duration) {
        match self {
            Self::System => tokio::time::sleep(elapsed.saturating_sub(self.elapsed())).await,
            Self::Manual(clock) => clock.sleep_until(elapsed).await,
        }
    }

    /// Waits for `duration`.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.elapsed().saturating_add(duration))
            .await;
    }
}

/// A clock for tests, which moves only on request and knows who waits for it.
#[derive(Clone, Debug)]
pub struct ManualClock {
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug)]
struct State {
    now: Timestamp,
    elapsed: Duration,
    next_sleeper: u64,
    sleepers: BTreeMap<u64, Duration>,
}

impl State {
    fn advance(&mut self, duration: Duration) {
        self.now = self.now.checked_add(duration).unwrap_or(Timestamp::MAX);
        self.elapsed += duration;
    }

    /// When the remaining sleepers wake.
    fn due(&self) -> impl Iterator<Item = Duration> {
        self.sleepers
            .values()
            .copied()
            .filter(|it| *it > self.elapsed)
    }
}

impl ManualClock {
    /// A clock that starts at `start`.
    pub fn at(start: Timestamp) -> Self {
        let state = State {
            now: start,
            elapsed: Duration::ZERO,
            next_sleeper: 0,
            sleepers: BTreeMap::new(),
        };
        Self {
            state: Arc::new(watch::Sender::new(state)),
        }
    }

    /// The wall clock's time.
    pub fn now(&self) -> Timestamp {
        self.state.borrow().now
    }

    /// Moves the clock forward and wakes the sleepers that are due.
    pub fn advance(&self, duration: Duration) {
        self.state.send_modify(|state| state.advance(duration));
    }

    /// Sets the wall clock, as an operator or NTP does. No time passes, so no sleeper wakes.
    pub fn set(&self, by: SignedDuration) {
        self.state.send_modify(|state| state.now += by);
    }

    /// Waits until at least `count` tasks sleep on this clock.
    pub async fn sleepers(&self, count: usize) {
        let asleep = |state: &State| state.due().count() >= count;
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.state.subscribe().wait_for(asleep).await;
    }

    /// Waits for a sleeper, and moves the clock to the earliest instant at which one wakes.
    pub async fn advance_to_next_sleeper(&self) {
        self.sleepers(1).await;
        self.state.send_modify(|state| {
            let earliest = state.due().min().unwrap_or(state.elapsed);
            state.advance(earliest.saturating_sub(state.elapsed));
        });
    }

    async fn sleep_until(&self, elapsed: Duration) {
        let mut state = self.state.subscribe();
        if state.borrow().elapsed >= elapsed {
            return;
        }
        let _sleeper = Sleeper::register(self, elapsed);
        let _ = state.wait_for(|state| state.elapsed >= elapsed).await;
    }
}

/// A sleeping task, registered until its sleep ends or is cancelled.
struct Sleeper<'a> {
    clock: &'a ManualClock,
    number: u64,
}

impl<'a> Sleeper<'a> {
    fn register(clock: &'a ManualClock, due: Duration) -> Self {
        let mut number = 0;
        clock.state.send_modify(|state| {
            number = state.next_sleeper;
            state.next_sleeper += 1;
            state.sleepers.insert(number, due);
        });
        Self { clock, number }
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.clock.state.send_modify(|state| {
            state.sleepers.remove(&self.number);
        });
    }
}
