//! The queues' own time. By it messages age, become visible and expire.
//!
//! **Invariant**: it advances with the machine's monotonic clock and never goes back. Setting the wall clock neither
//! ages nor hides a message; it only changes how times are displayed.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _};

use scanhook_worker::clock::Clock;

/// The gap between two processes on one file counts by the wall clock, but at most this long: no message can be hidden
/// for longer. So nothing expires because a machine was off or starts with a wrong clock.
const LONGEST_GAP_MS: i64 = 43_200_000;

/// A smaller change of the wall clock is rounding or slewing, not a set clock.
const TOLERANCE_MS: i64 = 1000;

/// How often a running process saves the time.
pub(crate) const WRITTEN_EVERY: Duration = Duration::from_mins(1);

/// Times are in milliseconds. A new file's time starts at the wall clock's.
#[derive(Debug)]
pub(crate) struct QueueTime {
    clock: Clock,
    /// The queues' time when the clock's `elapsed` is 0.
    origin: i64,
}

/// How far the wall clock is ahead of the queues' time. It changes only when the wall clock is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shift(i64);

impl QueueTime {
    /// Resumes from the time that the last process on this file saved.
    pub(crate) fn resume(sql: &Connection, clock: Clock) -> Result<(Self, Shift), rusqlite::Error> {
        let wall = clock.now().as_millisecond();
        let last: Option<(i64, i64)> = sql
            .query_row("SELECT now, shift FROM time", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        let (last, shift) = last.unwrap_or((wall, 0));
        let gap = wall - (last + shift);
        let now = last + gap.clamp(0, LONGEST_GAP_MS);
        if !(-TOLERANCE_MS..=LONGEST_GAP_MS).contains(&gap) {
            tracing::warn!(
                event = "clock.gap",
                gap_s = gap / 1000,
                "the clock differs by {} s from when the queues were last served; no message has aged by more than 12 h",
                gap / 1000
            );
        }
        let time = Self {
            origin: now - milliseconds(clock.elapsed()),
            clock,
        };
        let shift = Shift(shift).follow(now, wall);
        time.write_down(sql, shift)?;
        Ok((time, shift))
    }

    pub(crate) fn now(&self) -> i64 {
        self.origin + milliseconds(self.clock.elapsed())
    }

    /// Returns how far the wall clock is ahead now; `before` is how far it was.
    pub(crate) fn shift(&self, before: Shift) -> Shift {
        let shift = before.follow(self.now(), self.clock.now().as_millisecond());
        if shift != before {
            let seconds = (shift.0 - before.0) / 1000;
            tracing::warn!(
                event = "clock.set",
                seconds,
                "the machine's clock was set by {seconds} s; message age and visibility are unaffected"
            );
        }
        shift
    }

    /// Waits until the queues' time is `instant`.
    pub(crate) async fn sleep_until(&self, instant: i64) {
        let elapsed = u64::try_from(instant - self.origin).unwrap_or(0);
        self.clock.sleep_until(Duration::from_millis(elapsed)).await;
    }

    /// Saves the current time for the next process.
    pub(crate) fn write_down(&self, sql: &Connection, shift: Shift) -> Result<(), rusqlite::Error> {
        sql.prepare_cached("INSERT OR REPLACE INTO time (id, now, shift) VALUES (1, ?1, ?2)")?
            .execute([self.now(), shift.0])?;
        Ok(())
    }
}

impl Shift {
    /// Converts an instant of the queues' time to the wall clock's time.
    pub(crate) fn shown(self, instant: i64) -> i64 {
        instant + self.0
    }

    fn follow(self, now: i64, wall: i64) -> Self {
        let shift = wall - now;
        if (shift - self.0).abs() > TOLERANCE_MS {
            Self(shift)
        } else {
            self
        }
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
