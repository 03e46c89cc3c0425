//! When a record that failed for a passing reason is tried again.

use std::time::Duration;

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

    proptest! {
        #[test]
        fn the_wait_is_between_half_and_all_of_the_doubled_base(n: u32, jitter in 0.0f64..1.0) {
            let longest = POLICY.delay(n, 1.0);
            let delay = POLICY.delay(n, jitter);
            prop_assert!(delay >= longest / 2 && delay <= longest);
        }
    }
}
