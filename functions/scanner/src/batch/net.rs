//! The net below an attempt: what is run is ended by its own limit, and what escapes that ends here.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use scanhook_core::failure::ErrorReason;
use scanhook_core::time::until;
use tokio::time::timeout;

use super::attempt::Attempt;
use super::failure::Failure;

impl Attempt<'_> {
    /// Makes a panic or a hang of `work` a failure of this record, or of this platform of it.
    pub(super) async fn guarded<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let limit = until(self.times.end, (self.scanner.now)()) + self.scanner.margin / 2;
        let (reason, detail) = match timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
            Ok(Ok(outcome)) => return outcome.map_err(Failure::presentable),
            Ok(Err(_)) => (ErrorReason::Internal, "the scanner panicked"),
            Err(_) => (ErrorReason::Timeout, "the scanner ran out of time"),
        };
        Err(self.failure(reason, detail))
    }
}
