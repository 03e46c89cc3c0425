//! The operations by name. Each parses its request, runs one transaction and returns the answer.

mod on_messages;
mod on_queues;
mod on_tasks;

use axum::body::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::error::{Code, Error};
use super::queue_url;
use super::store::Store;

pub(crate) struct Call {
    pub(crate) store: Store,
    pub(crate) shutdown: CancellationToken,
    /// The address at which the caller reached us, such as `http://127.0.0.1:9324`.
    pub(crate) base: String,
    /// The request's header `x-amzn-trace-id`.
    pub(crate) trace_header: Option<String>,
    pub(crate) body: Bytes,
}

/// Runs the operation `name`.
pub(crate) async fn dispatch(name: &str, call: Call) -> Result<Value, Error> {
    match name {
        "CreateQueue" => on_queues::create(call).await,
        "DeleteQueue" => on_queues::delete(call).await,
        "GetQueueUrl" => on_queues::get_url(call).await,
        "ListQueues" => on_queues::list(call).await,
        "ListDeadLetterSourceQueues" => on_queues::list_dead_letter_sources(call).await,
        "GetQueueAttributes" => on_queues::get_attributes(call).await,
        "SetQueueAttributes" => on_queues::set_attributes(call).await,
        "PurgeQueue" => on_queues::purge(call).await,
        "TagQueue" => on_queues::tag(call).await,
        "UntagQueue" => on_queues::untag(call).await,
        "ListQueueTags" => on_queues::list_tags(call).await,
        "SendMessage" => on_messages::send(call).await,
        "SendMessageBatch" => on_messages::send_batch(call).await,
        "ReceiveMessage" => on_messages::receive(call).await,
        "DeleteMessage" => on_messages::delete(call).await,
        "DeleteMessageBatch" => on_messages::delete_batch(call).await,
        "ChangeMessageVisibility" => on_messages::change_visibility(call).await,
        "ChangeMessageVisibilityBatch" => on_messages::change_visibility_batch(call).await,
        "StartMessageMoveTask" => on_tasks::start(call).await,
        "ListMessageMoveTasks" => on_tasks::list(call).await,
        "CancelMessageMoveTask" => on_tasks::cancel(call).await,
        _ => Err(Error::new(
            Code::UnsupportedOperation,
            match name {
                "" => "This endpoint speaks AWS JSON 1.0, and the header x-amz-target names no operation of SQS.".to_owned(),
                _ => format!("This endpoint does not have the operation {name}."),
            },
        )),
    }
}

impl Call {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        // A request without parameters may have no body.
        let body: &[u8] = if self.body.is_empty() {
            b"{}"
        } else {
            &self.body
        };
        let refused = |message: &str| Error::new(Code::Serialization, message);
        // serde would also accept an array for a structure.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(refused("The body must be a JSON object."));
        }
        serde_json::from_slice(body).map_err(|err| refused(&err.to_string()))
    }

    fn url(&self, queue: &str) -> String {
        queue_url(&self.base, queue)
    }
}

/// Takes the queue's name from its URL.
fn name_in_url(url: Option<String>) -> Result<String, Error> {
    let url = url.ok_or_else(|| Error::missing_parameter("QueueUrl"))?;
    match url.trim_end_matches('/').rsplit('/').next() {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(Error::new(
            Code::InvalidAddress,
            format!("The address {url} is not valid for this endpoint."),
        )),
    }
}
