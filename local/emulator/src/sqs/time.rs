//! The queues' own time, by which messages age, become visible and expire.
//!
//! **Invariant**: it goes on with the machine's steady clock and never goes back. Whoever sets the wall clock neither ages a
//! message nor hides it; the wall clock only says how the queues' time is shown.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _};

use scanhook_worker::clock::Clock;

/// The time between two processes on one file counts as the wall clock shows it, but no more than this: nothing can be hidden
/// for longer. So a machine that was off, or begins with a wrong clock, expires nothing.
const LONGEST_GAP_MS: i64 = 43_200_000;

/// A wall clock that is set by less than this is only rounded or slewed.
const TOLERANCE_MS: i64 = 1000;

/// The time is written down at least this often while a process has the file.
pub(crate) const WRITTEN_EVERY: Duration = Duration::from_mins(1);

/// Times are in milliseconds. A new file's time is the wall clock's.
#[derive(Debug)]
pub(crate) struct QueueTime {
    clock: Clock,
    /// What it shows when the clock's `elapsed` is 0.
    origin: i64,
}

/// How far the wall clock is ahead of the queues' time. It changes only when the wall clock is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shift(i64);

impl QueueTime {
    /// Goes on where the last process on this file wrote that it was.
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
                "the clock is {} s from where it was when the queues were last served; no message has aged by more than 12 h",
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

    /// The queues' time now.
    pub(crate) fn now(&self) -> i64 {
        self.origin + milliseconds(self.clock.elapsed())
    }

    /// How far the wall clock is ahead, given how far it was.
    pub(crate) fn shift(&self, before: Shift) -> Shift {
        let shift = before.follow(self.now(), self.clock.now().as_millisecond());
        if shift != before {
            let seconds = (shift.0 - before.0) / 1000;
            tracing::warn!(
                event = "clock.set",
                seconds,
                "the machine's clock was set by {seconds} s; messages stay as old and as hidden as they were"
            );
        }
        shift
    }

    /// Waits until the queues' time is `instant`.
    pub(crate) async fn sleep_until(&self, instant: i64) {
        let elapsed = u64::try_from(instant - self.origin).unwrap_or(0);
        self.clock.sleep_until(Duration::from_millis(elapsed)).await;
    }

    /// Writes down what time it is, for the next process.
    pub(crate) fn write_down(&self, sql: &Connection, shift: Shift) -> Result<(), rusqlite::Error> {
        sql.prepare_cached("INSERT OR REPLACE INTO time (id, now, shift) VALUES (1, ?1, ?2)")?
            .execute([self.now(), shift.0])?;
        Ok(())
    }
}

impl Shift {
    /// The wall clock's time of an instant of the queues' time.
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
