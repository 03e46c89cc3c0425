//! What time it is, and waiting for a time.
//!
//! **Invariant**: the queue and the mapping know no other clock, so a test that turns a [`ManualClock`] runs hours of
//! visibility, backoff and retention in milliseconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

/// The wall clock may be set while we sleep, and a suspended machine's timers stand still: look again this often.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// The time source of queue and mapping.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's wall clock.
    System,
    /// A clock that stands still until a test turns it.
    Manual(ManualClock),
}

impl Clock {
    /// Tells the time.
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

    /// Tells the instant `duration` from now; at most the end of time.
    pub fn after(&self, duration: Duration) -> Timestamp {
        self.now().checked_add(duration).unwrap_or(Timestamp::MAX)
    }

    /// Waits until this clock shows `instant` or later.
    pub async fn sleep_until(&self, instant: Timestamp) {
        match self {
            Self::System => loop {
                match Duration::try_from(instant.duration_since(self.now())) {
                    Ok(remaining) if !remaining.is_zero() => {
                        tokio::time::sleep(remaining.min(LONGEST_NAP)).await;
                    }
                    _ => return,
                }
            },
            Self::Manual(clock) => clock.sleep_until(instant).await,
        }
    }

    /// Waits for `duration` on this clock.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.after(duration)).await;
    }
}

/// A clock for tests: it moves only when told to, and tells who waits for it.
#[derive(Clone, Debug)]
pub struct ManualClock {
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug)]
struct State {
    now: Timestamp,
    next_sleeper: u64,
    sleepers: BTreeMap<u64, Timestamp>,
}

impl ManualClock {
    /// Makes a clock that shows `start`.
    pub fn at(start: Timestamp) -> Self {
        let state = State {
            now: start,
            next_sleeper: 0,
            sleepers: BTreeMap::new(),
        };
        Self {
            state: Arc::new(watch::Sender::new(state)),
        }
    }

    /// Tells the time.
    pub fn now(&self) -> Timestamp {
        self.state.borrow().now
    }

    /// Turns the clock forward and wakes who waited for an instant on the way.
    pub fn advance(&self, duration: Duration) {
        self.state.send_modify(|state| {
            state.now = state.now.checked_add(duration).unwrap_or(Timestamp::MAX);
        });
    }

    /// Waits until at least `count` tasks wait for a later instant of this clock.
    pub async fn sleepers(&self, count: usize) {
        let asleep = |state: &State| {
            state
                .sleepers
                .values()
                .filter(|&&due| due > state.now)
                .count()
                >= count
        };
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.state.subscribe().wait_for(asleep).await;
    }

    /// Waits until somebody waits for this clock, and turns it to the earliest instant waited for.
    pub async fn advance_to_next_sleeper(&self) {
        self.sleepers(1).await;
        self.state.send_modify(|state| {
            let earliest = state
                .sleepers
                .values()
                .filter(|&&due| due > state.now)
                .min();
            state.now = earliest.copied().unwrap_or(state.now);
        });
    }

    async fn sleep_until(&self, instant: Timestamp) {
        let mut state = self.state.subscribe();
        if state.borrow().now >= instant {
            return;
        }
        let _sleeper = Sleeper::register(self, instant);
        let _ = state.wait_for(|state| state.now >= instant).await;
    }
}

/// A task that waits; it is forgotten when the wait ends or is cancelled.
struct Sleeper<'a> {
    clock: &'a ManualClock,
    number: u64,
}

impl<'a> Sleeper<'a> {
    fn register(clock: &'a ManualClock, instant: Timestamp) -> Self {
        let mut number = 0;
        clock.state.send_modify(|state| {
            number = state.next_sleeper;
            state.next_sleeper += 1;
            state.sleepers.insert(number, instant);
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
