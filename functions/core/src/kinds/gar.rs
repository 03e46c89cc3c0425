//! Google Artifact Registry and Container Registry: Pub/Sub push messages, wrapped or unwrapped.
//!
//! Pub/Sub repeats a message until it is acknowledged, for up to seven days. A tagged push sends two messages: first
//! the digest, then digest and tag. Sources: Artifact Registry's "Configure Pub/Sub notifications"; Pub/Sub's "Push
//! subscriptions".

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderName;
use serde::Deserialize;
use serde_json::json;

use super::{Json, Kind, Options, Sample, SamplePush, json_headers};
use crate::auth::VerifiedDelivery;
use crate::event::{Content, Event, EventInfo, ParsePayloadError, PushEvent, SkipReason};
use crate::image::{Digest, Repository, Tag};
use crate::wire::{Instant, Text};

pub(super) static KIND: Kind = Kind {
    name: "gar",
    title: "Google Artifact Registry",
    default_registry: None,
    example_registry: "europe-docker.pkg.dev",
    answer_budget: |_| Duration::from_secs(8),
    auth: &["path_token", "oidc"],
    hmac: None,
    envelopes: &["Pub/Sub", "Pub/Sub unwrapped"],
    events: &[],
    repo_key: false,
    handshake: false,
    parse,
    sample,
    signs: "nothing; with oidc, a token of Google for your service account",
    repeats: "waits 10 s and repeats after any answer other than 200 and 202, until the subscription's retention ends (7 days)",
    setup: "\
With gcloud, in the registry's project:
  gcloud pubsub topics create gcr
  gcloud pubsub subscriptions create scanhook --topic gcr --push-endpoint {url}
For a credential of type oidc, add to the second:
  --push-auth-service-account EMAIL --push-auth-token-audience AUDIENCE
The topic carries every location of the project: make one source for each host you want scanned.",
};

static MESSAGE_ID: HeaderName = HeaderName::from_static("x-goog-pubsub-message-id");

/// A wrapped message has `message`; an unwrapped one is the change itself.
#[derive(Deserialize)]
struct WirePush<'a> {
    #[serde(borrow)]
    message: Option<WireMessage<'a>>,
    #[serde(borrow, default)]
    action: Text<'a>,
    #[serde(borrow, default)]
    digest: Text<'a>,
    #[serde(borrow, default)]
    tag: Text<'a>,
}

/// The keys are also sent in snake case, which is ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMessage<'a> {
    #[serde(borrow, default)]
    data: Text<'a>,
    #[serde(borrow, default)]
    message_id: Text<'a>,
    #[serde(default)]
    publish_time: Instant,
}

const NO_IMAGE: ParsePayloadError = ParsePayloadError::missing("image", "digest or tag");

#[cfg(feature = "bench")]
pub(super) fn bare_parse(body: &[u8]) -> bool {
    let push = serde_json::from_slice::<WirePush<'_>>(body).ok();
    let data = push.and_then(|it| BASE64.decode(it.message?.data.get()?).ok());
    data.is_some_and(|it| std::hint::black_box(serde_json::from_slice::<WirePush<'_>>(&it)).is_ok())
}

fn parse(delivery: &VerifiedDelivery, _: &Options) -> Result<Vec<Event>, ParsePayloadError> {
    let body = Json::of(delivery.body());
    let push: WirePush<'_> = body.object()?;
    let Some(message) = push.message else {
        return event(&push, delivery.header(&MESSAGE_ID), &Instant::default());
    };
    let data = message
        .data
        .get()
        .ok_or(ParsePayloadError::missing("message", "message.data"))?;
    let data = BASE64
        .decode(data)
        .map_err(|err| ParsePayloadError::malformed("message.data", &err.to_string()))?;
    let data = Json::of(&data);
    let inner: WirePush<'_> = data.object()?;
    event(&inner, message.message_id.get(), &message.publish_time)
}

fn event(
    push: &WirePush<'_>,
    id: Option<&str>,
    at: &Instant,
) -> Result<Vec<Event>, ParsePayloadError> {
    let action = push
        .action
        .get()
        .ok_or(ParsePayloadError::missing("action", "action"))?;
    if action != "INSERT" {
        return Ok(vec![Event::Other(SkipReason::NotAPush)]);
    }
    let digest = push
        .digest
        .get()
        .and_then(|it| without_scheme(it).rsplit_once('@'));
    // Both are usually full references. Some senders use a bare tag.
    let tag = push.tag.get().map(without_scheme);
    let (name, tag) = match tag.map(|it| (it.rsplit_once('/').is_some(), it)) {
        Some((true, reference)) => {
            let (name, tag) = reference.rsplit_once(':').ok_or(NO_IMAGE)?;
            (name, Some(tag))
        }
        Some((false, tag)) => (digest.ok_or(NO_IMAGE)?.0, Some(tag)),
        None => (digest.ok_or(NO_IMAGE)?.0, None),
    };
    let (host, path) = name.split_once('/').ok_or(NO_IMAGE)?;
    let tag = tag
        .map(|it| Tag::parse(it).map_err(|_| ParsePayloadError::missing("tag", "tag")))
        .transpose()?;
    Ok(vec![Event::Push(PushEvent {
        registry: Some(host).into(),
        repository: Repository::parse(path).map_err(|_| NO_IMAGE)?,
        tag,
        digest: digest.and_then(|(_, it)| Digest::parse(it).ok()),
        content: Content::Image,
        info: EventInfo::new(action, id, None, at.0),
    })])
}

fn without_scheme(reference: &str) -> &str {
    reference
        .split_once("://")
        .map_or(reference, |(_, rest)| rest)
}

fn sample(push: &SamplePush<'_>) -> Sample {
    let image = push.image;
    let reference = |separator: char, text: Option<&str>| {
        text.map(|it| Cow::from(format!("{}{separator}{it}", image.name())))
    };
    let change = json!({
        "action": "INSERT",
        "digest": reference('@', image.pin.digest().map(Digest::as_str)),
        "tag": reference(':', image.pin.tag().map(Tag::as_str)),
    });
    let body = json!({
        "message": {
            "data": BASE64.encode(change.to_string()),
            "messageId": push.id, "message_id": push.id, "publishTime": push.at, "publish_time": push.at,
        },
        "subscription": "projects/sample/subscriptions/scanhook",
    });
    Sample {
        headers: json_headers(),
        body: body.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tests::parse as check_with;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn check(body: &str) -> String {
        check_with(
            &KIND,
            &[("x-goog-pubsub-message-id", "m-1")],
            body.as_bytes(),
        )
    }

    fn wrapped(change: &str) -> String {
        let data = BASE64.encode(change);
        format!(
            r#"{{"message":{{"data":"{data}","messageId":"7","message_id":"7","publishTime":"2020-01-30T04:18:04.805Z"}}}}"#
        )
    }

    #[test]
    fn wrapped_and_unwrapped_messages_give_the_same_event() {
        let change = format!(
            r#"{{"action":"INSERT","digest":"eu-docker.pkg.example/p/r/app@{DIGEST}","tag":"eu-docker.pkg.example/p/r/app:v1"}}"#
        );
        insta::assert_snapshot!(check(&wrapped(&change)), @"Image eu-docker.pkg.example/p/r/app tag=v1 digest=sha256:012345 type=INSERT id=7 actor=- at=2020-01-30T04:18:04.805Z");
        insta::assert_snapshot!(check(&change), @"Image eu-docker.pkg.example/p/r/app tag=v1 digest=sha256:012345 type=INSERT id=m-1 actor=- at=-");
    }

    #[test]
    fn a_digest_alone_is_untagged_and_a_tag_may_be_bare_or_alone() {
        insta::assert_snapshot!(check(&format!(r#"{{"action":"INSERT","digest":"https://gcr.example/p/app@{DIGEST}"}}"#)), @"Image gcr.example/p/app tag=- digest=sha256:012345 type=INSERT id=m-1 actor=- at=-");
        insta::assert_snapshot!(check(&format!(r#"{{"action":"INSERT","digest":"gcr.example/p/app@{DIGEST}","tag":"v2"}}"#)), @"Image gcr.example/p/app tag=v2 digest=sha256:012345 type=INSERT id=m-1 actor=- at=-");
        insta::assert_snapshot!(check(r#"{"action":"INSERT","tag":"us.gcr.example/am/am.kebab.api:test"}"#), @"Image us.gcr.example/am/am.kebab.api tag=test digest=- type=INSERT id=m-1 actor=- at=-");
    }

    #[test]
    fn a_delete_is_not_a_push_and_a_message_without_an_image_is_refused() {
        assert_eq!(
            check(r#"{"action":"DELETE","tag":"gcr.example/p/app:v1"}"#),
            "not_a_push"
        );
        for body in [
            "{}",
            r#"{"tag":"gcr.example/p/app:v1"}"#,
            r#"{"action":"INSERT"}"#,
            r#"{"action":"INSERT","tag":"v1"}"#,
            r#"{"action":"INSERT","tag":"gcr.example/p/app"}"#,
            r#"{"action":"INSERT","tag":"gcr.example/../app:v1"}"#,
            r#"{"action":"INSERT","tag":"gcr.example/p/app:$(id)"}"#,
            r#"{"message":{}}"#,
            r#"{"message":{"data":"%%%"}}"#,
            r#"{"message":{"data":"e30=","data":"e30="}}"#,
        ] {
            assert!(check(body).starts_with("400 "), "{body}");
        }
    }
}
