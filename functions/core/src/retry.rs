//! When a record that failed for a passing reason is tried again.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

/// How often and how soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Receives in all, as in the queue's redrive policy.
    pub attempts: u32,
    /// The longest wait after the first receive.
    pub base: Duration,
    /// The longest wait at all.
    pub cap: Duration,
}

/// How long a dead-letter queue keeps a message: as long as SQS allows. The reason of a dead letter and the claim that
/// keeps its content from being scanned twice must last as long.
pub const DEAD_LETTERS_KEPT: Duration = Duration::from_hours(14 * 24);

/// SQS hides a message for 12 hours at most, counted from its receive; what is left of it is unknown to us, so stay well inside.
const MAX_VISIBILITY: Duration = Duration::from_hours(11);

impl RetryPolicy {
    /// How long a record stays hidden after its `receive_count`th receive: between half and all of
    /// `min(cap, base·2^(n-1))`; `jitter`, between 0 and 1, says where between.
    pub fn delay(&self, receive_count: u32, jitter: f64) -> Duration {
        let doublings = receive_count.saturating_sub(1).min(31);
        let longest = self
            .base
            .saturating_mul(1 << doublings)
            .min(self.cap)
            .min(MAX_VISIBILITY);
        longest.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }
}

/// No good `Retry-After` is longer; dates with comments could be, without end.
const MAX_RETRY_AFTER: usize = 64;

/// Reads a `Retry-After` header: seconds or a date, told as the time from `now`, which is at most a day. Source: RFC 9110,
/// section 10.2.3.
pub fn pause_of(retry_after: &str, now: Timestamp) -> Option<Duration> {
    let text = retry_after.trim();
    if text.is_empty() || text.len() > MAX_RETRY_AFTER {
        return None;
    }
    let pause = if text.bytes().all(|it| it.is_ascii_digit()) {
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let date = DateTimeParser::new().parse_timestamp(text).ok()?;
        Duration::try_from(date.duration_since(now)).unwrap_or_default()
    };
    Some(pause.min(Duration::from_hours(24)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        attempts: 10,
        base: Duration::from_secs(30),
        cap: Duration::from_hours(1),
    };

    #[test]
    fn the_wait_doubles_up_to_the_cap() {
        let seconds = |n| POLICY.delay(n, 1.0).as_secs();
        assert_eq!(
            [
                seconds(0),
                seconds(1),
                seconds(2),
                seconds(3),
                seconds(8),
                seconds(1000)
            ],
            [30, 30, 60, 120, 3600, 3600]
        );
        assert_eq!(POLICY.delay(3, 0.0).as_secs(), 60);
    }

    #[test]
    fn a_wish_for_a_pause_is_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:48:37Z".parse().unwrap();
        let seconds = |text: &str| pause_of(text, now).map(|it| it.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds(" 0 "), Some(0));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(60));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:40:00 GMT"), Some(0));
        assert_eq!(seconds("99999999999999999999999"), Some(86_400));
        for text in [
            "",
            "-1",
            "1.5",
            "soon",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            &"1".repeat(65),
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_wait_is_between_half_and_all_of_the_doubled_base(n: u32, jitter in 0.0f64..1.0) {
            let longest = POLICY.delay(n, 1.0);
            let delay = POLICY.delay(n, jitter);
            prop_assert!(delay >= longest / 2 && delay <= longest);
        }
    }
}
