//! The signals by which a person or a supervisor stops the process.

use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::output;

/// Signals within this time count as one, because `timeout` and some supervisors signal the process and its group.
const ONE_SIGNAL: Duration = Duration::from_secs(1);

/// SIGINT and SIGTERM.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Starts to handle the signals, which from now on don't end the process by themselves.
    pub(crate) fn open() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("could not listen for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("could not listen for SIGTERM")?,
        })
    }

    /// Waits for the next signal, and returns its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// Waits for a signal, announces the shutdown and runs `end`. Returns the name of a second signal that came before `end` was
    /// done. `patience` says how long the shutdown may take.
    pub(crate) async fn shut_down(
        &mut self,
        patience: &str,
        end: impl Future<Output = ()>,
    ) -> anyhow::Result<Option<&'static str>> {
        let signal = self.next().await;
        notice(signal, patience);
        tokio::select! {
            () = end => Ok(None),
            second = Self::second() => second.map(Some),
        }
    }

    /// Waits for a second signal, after [`ONE_SIGNAL`], and returns its name.
    async fn second() -> anyhow::Result<&'static str> {
        tokio::time::sleep(ONE_SIGNAL).await;
        Ok(Self::open()?.next().await)
    }
}

/// Runs `work`. The first signal cancels `stop`, by which `work` ends early and in order; a second signal drops `work`.
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
        second = StopSignals::second() => bail!("{}: stopped at once", second?),
    }
}

fn notice(signal: &str, patience: &str) {
    output::notice(&format!(
        "{signal}: shutting down gracefully{patience}; a second signal stops at once"
    ));
}
