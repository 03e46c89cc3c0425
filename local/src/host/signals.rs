//! How a person or a supervisor asks the server to end.

use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::output;

/// `timeout` and some supervisors send a signal to the process and to its group: what comes within this time is the same.
const ONE_SIGNAL: Duration = Duration::from_secs(1);

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

    /// Waits for the next one, says that what has begun is finished, with how long that may take in words, and lets `end` do
    /// it. Tells the name of a second one that came before that was done.
    pub(crate) async fn then(
        &mut self,
        patience: &str,
        end: impl Future<Output = ()>,
    ) -> anyhow::Result<Option<&'static str>> {
        let signal = self.next().await;
        notice(signal, patience);
        tokio::select! {
            () = end => Ok(None),
            again = Self::next_after() => again.map(Some),
        }
    }

    /// Waits for the first one that comes after [`ONE_SIGNAL`], and tells its name.
    async fn next_after() -> anyhow::Result<&'static str> {
        tokio::time::sleep(ONE_SIGNAL).await;
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
    notice(signal, "");
    stop.cancel();
    tokio::select! {
        outcome = &mut work => outcome,
        again = StopSignals::next_after() => bail!("{}: stopped at once", again?),
    }
}

fn notice(signal: &str, patience: &str) {
    output::notice(&format!(
        "{signal}: shutting down gracefully{patience}; a second signal stops at once"
    ));
}
