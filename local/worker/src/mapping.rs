//! The event source mapping: receives batches from a queue, invokes a function with each, and acts on its answer.
//!
//! It uses only the AWS SDK, so the same code works on the local endpoint and on real SQS. In reading order: `poller` receives and
//! forms batches; `event` is the function's input; `response` interprets its answer; `acknowledge` deletes and releases messages.
//!
//! **Invariant**: a message is deleted only if the function's answer reports success. The mapping never changes the visibility of a
//! failed message, because the function may have set it. Only messages that a shutdown interrupts are released at once.

mod acknowledge;
mod event;
mod poller;
mod response;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::Message;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::poller::Poller;
use self::response::ResponseError;
use crate::clock::Clock;
use uuid::Uuid;

/// The settings of a mapping.
#[derive(Clone, Debug)]
pub struct Config {
    pub queue_url: String,
    /// The queue's ARN, which the function sees.
    pub queue_arn: String,
    /// The most messages of a batch: 1 to 10,000; over 10 only with a window.
    pub batch_size: usize,
    /// How long a batch waits to fill up after its first message: up to five minutes.
    pub batching_window: Duration,
    /// The most concurrent invocations.
    pub maximum_concurrency: usize,
    /// How long an invocation may take before it is cancelled.
    pub function_timeout: Duration,
    /// How long one receive waits for a message: up to 20 s, in whole seconds. [`Mapping::run`] may take this long to stop.
    pub receive_wait: Duration,
    /// How long invocations may continue after the shutdown signal.
    pub drain: Duration,
}

/// Why the settings of a mapping are not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("the batch size must be 1 to 10,000")]
    BatchSize,
    #[error(
        "the batching window must be at most 300 s, and at least 1 s for batches of more than 10 messages"
    )]
    BatchingWindow,
    #[error("the maximum concurrency must be at least 1")]
    MaximumConcurrency,
    #[error("the function's timeout must be more than 0")]
    FunctionTimeout,
    #[error("a receive can wait 20 s at most")]
    ReceiveWait,
    #[error("the queue's ARN must look like arn:aws:sqs:region:account:name")]
    QueueArn,
}

/// One call of the function.
#[derive(Clone, Debug, PartialEq)]
pub struct Invocation {
    /// The event as Lambda sends it: an object with `Records`.
    pub event: Value,
    /// When the call is cancelled.
    pub deadline: Timestamp,
    /// The call's id.
    pub request_id: String,
}

/// Why a function failed.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// An event source mapping that is ready to run.
pub struct Mapping<H> {
    client: Client,
    config: Config,
    clock: Clock,
    handler: H,
    admission: watch::Receiver<bool>,
}

impl<H, F> Mapping<H>
where
    H: Fn(Invocation) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Value, HandlerError>> + Send + 'static,
{
    /// Connects a queue with the function `handler`.
    pub fn new(
        client: Client,
        config: Config,
        clock: Clock,
        handler: H,
    ) -> Result<Self, ConfigError> {
        let window = config.batching_window.as_secs_f64();
        if !(1..=10_000).contains(&config.batch_size) {
            return Err(ConfigError::BatchSize);
        }
        if window > 300.0 || config.batch_size > 10 && window < 1.0 {
            return Err(ConfigError::BatchingWindow);
        }
        if config.maximum_concurrency == 0 || config.maximum_concurrency > Semaphore::MAX_PERMITS {
            return Err(ConfigError::MaximumConcurrency);
        }
        if config.function_timeout.is_zero() {
            return Err(ConfigError::FunctionTimeout);
        }
        if config.receive_wait > Duration::from_secs(20) {
            return Err(ConfigError::ReceiveWait);
        }
        if event::region(&config.queue_arn).is_none() {
            return Err(ConfigError::QueueArn);
        }
        let (_, admission) = watch::channel(true);
        Ok(Self {
            client,
            config,
            clock,
            handler,
            admission,
        })
    }

    /// Receives only while `admission` is true. A receive in progress continues.
    #[must_use]
    pub fn admitted_by(self, admission: watch::Receiver<bool>) -> Self {
        Self { admission, ..self }
    }

    /// Receives and invokes until `shutdown`; then lets invocations finish for [`Config::drain`], and cancels the rest.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let stopping = CancellationToken::new();
        let stop = async {
            shutdown.await;
            stopping.cancel();
        };
        tokio::join!(stop, Arc::new(self).receive_and_invoke(stopping.clone()));
    }

    async fn receive_and_invoke(self: Arc<Self>, stopping: CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.config.maximum_concurrency));
        let cancelled = CancellationToken::new();
        let mut invocations = JoinSet::new();
        let mut poller = Poller::new(&self, &stopping);
        loop {
            // Receive only what can start at once: a message that waits here would use up its visibility timeout and a receive.
            let slot = tokio::select! {
                () = stopping.cancelled() => break,
                slot = Arc::clone(&slots).acquire_owned() => slot,
            };
            let batch = poller.next_batch().await;
            if stopping.is_cancelled() {
                acknowledge::release(&self.client, &self.config.queue_url, &batch).await;
                break;
            }
            let (mapping, cancelled) = (Arc::clone(&self), cancelled.clone());
            invocations.spawn(async move {
                mapping.invoke(batch, &cancelled).await;
                drop(slot);
            });
            while invocations.try_join_next().is_some() {}
        }
        acknowledge::release(&self.client, &self.config.queue_url, &poller.into_carried()).await;
        tokio::select! {
            () = async { while invocations.join_next().await.is_some() {} } => {}
            () = self.clock.sleep(self.config.drain) => cancelled.cancel(),
        }
        while invocations.join_next().await.is_some() {}
    }

    async fn invoke(&self, batch: Vec<Message>, cancelled: &CancellationToken) {
        let request_id = Uuid::now_v7().to_string();
        let succeeded = match self.call(&batch, &request_id, cancelled).await {
            Ok(failed) => {
                let has_failed = |message: &Message| {
                    message
                        .message_id()
                        .is_some_and(|id| failed.iter().any(|it| it == id))
                };
                batch.into_iter().filter(|it| !has_failed(it)).collect()
            }
            Err(Failure::Cancelled) => {
                let records = batch.len();
                tracing::warn!(
                    request_id,
                    records,
                    "returned an unfinished batch to the queue: the time for shutting down is over"
                );
                acknowledge::release(&self.client, &self.config.queue_url, &batch).await;
                Vec::new()
            }
            Err(failure) => {
                let error = with_causes(&failure);
                tracing::warn!(
                    error,
                    request_id,
                    records = batch.len(),
                    "the whole batch failed: {error}"
                );
                Vec::new()
            }
        };
        acknowledge::delete(
            &self.client,
            &self.config.queue_url,
            succeeded,
            &self.clock,
            cancelled,
        )
        .await;
    }

    /// Calls the function and returns the ids of the messages that failed.
    async fn call(
        &self,
        batch: &[Message],
        request_id: &str,
        cancelled: &CancellationToken,
    ) -> Result<Vec<String>, Failure> {
        let deadline = self.clock.after(self.config.function_timeout);
        let event = event::from_messages(batch, &self.config);
        let invocation = Invocation {
            event,
            deadline,
            request_id: request_id.to_owned(),
        };
        let response = tokio::select! {
            biased;
            // The handler may panic before it returns a future.
            response = AssertUnwindSafe(async { (self.handler)(invocation).await }).catch_unwind() => response,
            () = self.clock.sleep(self.config.function_timeout) => return Err(Failure::TimedOut),
            () = cancelled.cancelled() => return Err(Failure::Cancelled),
        };
        let response = response
            .map_err(|_| Failure::Panicked)?
            .map_err(Failure::Function)?;
        let ids: Vec<_> = batch.iter().filter_map(Message::message_id).collect();
        Ok(response::failed(&ids, &response)?)
    }
}

/// An error and its causes, in one line.
fn with_causes(err: &dyn std::error::Error) -> String {
    std::iter::successors(Some(err), |it| it.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// Why a whole batch failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the function returned an error")]
    Function(#[source] HandlerError),
    #[error("the function panicked")]
    Panicked,
    #[error("the function timed out")]
    TimedOut,
    #[error("the function was cancelled at shutdown")]
    Cancelled,
    #[error("the function's answer is invalid")]
    Response(#[from] ResponseError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_shown_with_its_cause() {
        let cause = std::io::Error::other("exit status 137");
        assert_eq!(
            with_causes(&Failure::Function(cause.into())),
            "the function returned an error: exit status 137"
        );
    }
}
