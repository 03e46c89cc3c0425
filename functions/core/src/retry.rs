//! When a record is retried that failed with a transient error.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

use crate::time::until;

/// How often and how soon to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The total number of receives, as in the queue's redrive policy.
    pub attempts: u32,
    /// The longest wait after the first receive.
    pub base: Duration,
    /// The longest wait after any receive.
    pub cap: Duration,
}

/// How long a dead-letter queue keeps a message: the longest time that SQS allows. The reason of a dead letter, and the
/// claim that keeps its content from being scanned twice, must last as long.
pub const DEAD_LETTERS_KEPT: Duration = Duration::from_hours(14 * 24);

/// SQS hides a message for at most 12 hours from its receive. We don't know how much of that has passed, so stay well
/// below.
const MAX_VISIBILITY: Duration = Duration::from_hours(11);

impl RetryPolicy {
    /// How long a record stays hidden after its `receive_count`th receive: between half and all of
    /// `min(cap, base·2^(n-1))`. `jitter`, between 0 and 1, selects the point in between.
    pub fn delay(&self, receive_count: u32, jitter: f64) -> Duration {
        let doublings = receive_count.saturating_sub(1).min(31);
        let longest = self
            .base
            .saturating_mul(1 << doublings)
            .min(self.cap)
            .min(MAX_VISIBILITY);
        longest.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }

    /// How long to wait from `now` for a server that sent this `Retry-After`, but never longer than `cap`. `None` if it
    /// can't be read.
    pub fn pause_of(&self, retry_after: &str, now: Timestamp) -> Option<Duration> {
        Some(
            parse_retry_after(retry_after, now)?
                .min(self.cap)
                .min(MAX_VISIBILITY),
        )
    }
}

/// Longer than any valid `Retry-After`. Dates with comments have no limit.
const MAX_RETRY_AFTER: usize = 64;

/// From here on a number is a Unix time, which Docker Hub sends: as a delay it would be 31 years. Source:
/// docker/hub-feedback#2459.
const UNIX_SECONDS: u64 = 1_000_000_000;

/// The same in milliseconds, which other servers send.
const UNIX_MILLISECONDS: u64 = 1_000_000_000_000;

/// Parses seconds or a date (RFC 9110, section 10.2.3) or a Unix time. A time in the past means no delay.
fn parse_retry_after(retry_after: &str, now: Timestamp) -> Option<Duration> {
    let text = retry_after.trim();
    if text.is_empty() || text.len() > MAX_RETRY_AFTER {
        return None;
    }
    if !text.bytes().all(|it| it.is_ascii_digit()) {
        return DateTimeParser::new()
            .parse_timestamp(text)
            .ok()
            .map(|it| until(it, now));
    }
    let number = text.parse().unwrap_or(u64::MAX);
    let signed = i64::try_from(number).unwrap_or(i64::MAX);
    let time = match number {
        ..UNIX_SECONDS => return Some(Duration::from_secs(number)),
        UNIX_SECONDS..UNIX_MILLISECONDS => Timestamp::from_second(signed),
        UNIX_MILLISECONDS.. => Timestamp::from_millisecond(signed),
    };
    Some(time.map_or(Duration::MAX, |it| until(it, now)))
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

    fn seconds(retry_after: &str) -> Option<u64> {
        let now: Timestamp = "1994-11-06T08:48:37Z".parse().unwrap();
        let pause = POLICY.pause_of(retry_after, now);
        pause.map(|it| it.as_secs())
    }

    #[test]
    fn a_retry_after_is_seconds_or_a_date() {
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds(" 0 "), Some(0));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(60));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:40:00 GMT"), Some(0));
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

    #[test]
    fn a_retry_after_is_never_longer_than_the_cap() {
        for text in [
            "3600",
            "3601",
            "86400",
            "999999999",
            "99999999999",
            "9999999999999999",
            "99999999999999999999999",
            "Sun, 06 Nov 1994 10:00:00 GMT",
            "Thu, 31 Dec 9998 23:59:59 GMT",
        ] {
            assert_eq!(seconds(text), Some(3600), "{text}");
        }
        let patient = RetryPolicy {
            cap: Duration::from_hours(100),
            ..POLICY
        };
        let pause = patient.pause_of("360000", Timestamp::UNIX_EPOCH);
        assert_eq!(pause, Some(MAX_VISIBILITY));
    }

    #[test]
    fn a_retry_after_may_be_a_unix_time() {
        let now: Timestamp = "2025-05-01T22:01:18Z".parse().unwrap();
        for (text, expected) in [
            ("1746136938", 60),
            ("1746136938000", 60),
            ("1746136878", 0),
            ("1000000000", 0),
            ("1893456000", 3600),
        ] {
            let pause = POLICY.pause_of(text, now);
            assert_eq!(pause, Some(Duration::from_secs(expected)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_wait_is_between_half_and_all_of_the_doubled_base(n: u32, jitter in 0.0f64..1.0) {
            let longest = POLICY.delay(n, 1.0);
            let delay = POLICY.delay(n, jitter);
            prop_assert!(delay >= longest / 2 && delay <= longest);
        }

        #[test]
        fn no_retry_after_is_longer_than_the_cap(text in "[0-9]{1,24}|.{0,40}", now in 0_i64..4_000_000_000) {
            let now = Timestamp::from_second(now).unwrap();
            let pause = POLICY.pause_of(&text, now);
            prop_assert!(pause.is_none_or(|it| it <= POLICY.cap));
        }
    }
}
