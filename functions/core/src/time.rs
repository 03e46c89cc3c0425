//! Arithmetic of instants that ends at the ends of time instead of failing.

use std::time::Duration;

use jiff::Timestamp;

/// The instant that is so much later.
pub fn after(instant: Timestamp, duration: Duration) -> Timestamp {
    instant.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// The instant that is so much earlier.
pub fn before(instant: Timestamp, duration: Duration) -> Timestamp {
    instant.checked_sub(duration).unwrap_or(Timestamp::MIN)
}

/// How long it is from `now` until `instant`; nothing if it has passed.
pub fn until(instant: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(instant.duration_since(now)).unwrap_or_default()
}
