//! How many authentic deliveries of a source are taken. Strangers are not counted, so they can't use it up.

use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use scanhook_config::config::RateLimit;

/// The limit of one source in this process.
pub struct Limiter(
    RateLimiter<NotKeyed, InMemoryState, Ticking, NoOpMiddleware<std::time::Instant>>,
);

/// The runtime's clock, which tests stop.
#[derive(Debug, Clone)]
struct Ticking;

impl Clock for Ticking {
    type Instant = std::time::Instant;

    fn now(&self) -> Self::Instant {
        tokio::time::Instant::now().into_std()
    }
}

impl Limiter {
    /// A limiter that has taken nothing yet.
    pub fn new(limit: RateLimit) -> Self {
        let quota = Quota::per_minute(limit.per_minute).allow_burst(limit.burst);
        Self(RateLimiter::direct_with_clock(quota, Ticking))
    }

    /// Counts one delivery, or tells how long to wait for the next that is taken.
    pub fn acquire(&self) -> Result<(), Duration> {
        self.0
            .check()
            .map_err(|refused| refused.wait_time_from(Ticking.now()))
    }
}
