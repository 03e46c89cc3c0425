//! How a person or a supervisor asks the server to end.

use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::output;

/// `timeout` and some supervisors send a signal to the process and to its group: what comes within this time is the same.
pub(crate) const ONE_SIGNAL: Duration = Duration::from_secs(1);

/// The signals that ask the process to end.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// From now on these signals do not end the process by themselves.
    pub(crate) fn open() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("could not listen for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("could not listen for SIGTERM")?,
        })
    }

    /// Waits for the next one, and tells its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// Waits for the first one that comes after `pause`, and tells its name.
    pub(crate) async fn next_after(pause: Duration) -> anyhow::Result<&'static str> {
        tokio::time::sleep(pause).await;
        Ok(Self::open()?.next().await)
    }
}

/// Does `work`, which ends early and in order once `stop` is cancelled: the first signal does that, a second one drops it.
pub(crate) async fn until_stopped<T>(
    mut work: Pin<Box<impl Future<Output = anyhow::Result<T>>>>,
    stop: &CancellationToken,
) -> anyhow::Result<T> {
    let mut signals = StopSignals::open()?;
    let signal = tokio::select! {
        outcome = &mut work => return outcome,
        signal = signals.next() => signal,
    };
    output::notice(&format!(
        "{signal}: finishing what has begun; a second signal ends it at once"
    ));
    stop.cancel();
    tokio::select! {
        outcome = &mut work => outcome,
        again = StopSignals::next_after(ONE_SIGNAL) => bail!("{}: ended at once", again?),
    }
}
