//! The outcome of a delivery, without values that differ from run to run.

use std::collections::BTreeMap;

use http::{Response, StatusCode, header};
use scanhook_core::message::QueueMessage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Deserialize, Serialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Outcome {
    status: u16,
    /// The queued images, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    queued: Vec<Queued>,
    /// The skipped images, as the answer reports them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    skipped: Vec<Skipped>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    handshake: BTreeMap<String, String>,
}

#[derive(Deserialize, Serialize, Debug)]
#[serde(deny_unknown_fields)]
struct Queued {
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// The event's id, type, actor and time. They are compared only if the case has them.
    event: Option<BTreeMap<String, String>>,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        let has_event = self.event.is_some() && other.event.is_some();
        (&self.image, &self.tag, &self.digest) == (&other.image, &other.tag, &other.digest)
            && (!has_event || self.event == other.event)
    }
}

#[derive(Deserialize, Serialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct Skipped {
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<String>,
}

impl Outcome {
    /// Reads an answer, and compares it with the queued messages.
    pub(crate) fn of(answer: &Response<Vec<u8>>, sent: &[QueueMessage]) -> Result<Self, String> {
        let allowed = answer.headers().get("webhook-allowed-origin");
        let allowed = allowed.and_then(|it| it.to_str().ok());
        let mut outcome = Self {
            status: answer.status().as_u16(),
            queued: sent.iter().map(queued).collect(),
            skipped: Vec::new(),
            handshake: allowed
                .map(|it| ("WebHook-Allowed-Origin".to_owned(), it.to_owned()))
                .into_iter()
                .collect(),
        };
        if allowed.is_some() {
            return Ok(outcome);
        }
        let body: Value = serde_json::from_slice(answer.body()).map_err(|err| err.to_string())?;
        if answer.status().as_u16() >= 400 {
            let is_problem = answer.headers()[header::CONTENT_TYPE] == "application/problem+json"
                && body["detail"].is_string() == (answer.status() == StatusCode::BAD_REQUEST);
            if !is_problem || !sent.is_empty() || body["status"] != outcome.status {
                return Err(format!("a malformed refusal: {body}"));
            }
            return Ok(outcome);
        }
        let expected = sent.iter().map(|it| {
            json!({
                "scan_id": it.scan_id, "image": it.image.name(),
                "tag": it.image.pin.tag(), "digest": it.image.pin.digest(),
            })
        });
        let is_accepted = answer.status() == StatusCode::ACCEPTED;
        if body["queued"] != expected.collect::<Value>() || is_accepted == sent.is_empty() {
            return Err(format!("the answer contradicts the queue: {body}"));
        }
        outcome.skipped =
            serde_json::from_value(body["skipped"].clone()).map_err(|err| err.to_string())?;
        if let Some(code) = body["validationResponse"].as_str() {
            let code = code.to_owned();
            outcome
                .handshake
                .insert("validationResponse".to_owned(), code);
        }
        Ok(outcome)
    }
}

fn queued(message: &QueueMessage) -> Queued {
    let fields = json!(message.event);
    let names = ["id", "type", "actor", "occurred_at"].into_iter();
    let event = names.filter_map(|it| Some((it.to_owned(), fields[it].as_str()?.to_owned())));
    Queued {
        image: message.image.name(),
        tag: message.image.pin.tag().map(ToString::to_string),
        digest: message.image.pin.digest().map(ToString::to_string),
        event: Some(event.collect()),
    }
}
