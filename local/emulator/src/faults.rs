//! Injected faults, so that users can see how their retries behave.
//!
//! **Invariant**: the same seed and the same order of calls produce the same faults.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use scanhook_worker::clock::Clock;

/// The faults of the queue endpoint.
#[derive(Debug, Default)]
pub struct Faults {
    /// The share of requests that are throttled, from 0 to 1.
    pub throttle: f64,
    /// The delay before each request is served.
    pub latency: Duration,
    draws: Draws,
}

/// A pseudorandom sequence, drawn one value at a time.
#[derive(Debug, Default)]
pub struct Draws {
    seed: u64,
    drawn: AtomicU64,
}

impl Draws {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            drawn: AtomicU64::new(0),
        }
    }

    /// Draws the next value: at least 0, less than 1 (splitmix64).
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub fn draw(&self) -> f64 {
        let number = self.drawn.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let mut bits = self
            .seed
            .wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl Faults {
    pub fn none() -> Self {
        Self::default()
    }

    /// Throttles a share of requests, chosen by `seed`, and delays all of them.
    pub fn new(throttle: f64, latency: Duration, seed: u64) -> Self {
        Self {
            throttle,
            latency,
            draws: Draws::new(seed),
        }
    }

    /// Delays this request, and returns whether to throttle it.
    pub(crate) async fn strike(&self, clock: &Clock) -> bool {
        if !self.latency.is_zero() {
            clock.sleep(self.latency).await;
        }
        self.throttle > 0.0 && self.draws.draw() < self.throttle
    }
}
