//! Azure Container Registry: its own webhook and both schemas of Event Grid, with their handshakes.
//!
//! Event Grid drops a delivery permanently after a 400, 401, 403 or 413. Sources: Azure's container registry webhook
//! reference; Event Grid's "Azure Container Registry as an Event Grid source" and "Endpoint validation".

use std::time::Duration;

use http::HeaderName;
use serde::Deserialize;
use serde_json::json;

use super::{Json, Kind, Options, Sample, SamplePush, json_headers};
use crate::auth::VerifiedDelivery;
use crate::event::{
    Content, Event, EventInfo, FreeText, ParsePayloadError, PushEvent, SkipReason, each,
};
use crate::image::Repository;
use crate::wire::{Instant, Nested, Text, list, object};

/// Event Grid sends this header and waits 30 seconds.
static EVENT_GRID: HeaderName = HeaderName::from_static("aeg-event-type");

pub(super) static KIND: Kind = Kind {
    name: "acr",
    title: "Azure Container Registry",
    default_registry: None,
    example_registry: "example.azurecr.io",
    answer_budget: |headers| {
        if headers.contains_key(&EVENT_GRID) { Duration::from_secs(20) } else { Duration::from_millis(2_500) }
    },
    auth: &["token", "bearer", "basic", "path_token", "oidc"],
    hmac: None,
    envelopes: &["native", "Event Grid, list or object", "CloudEvents", "CloudEvents batch"],
    events: &["quarantine"],
    repo_key: false,
    handshake: true,
    parse,
    sample,
    signs: "nothing; both can add headers, and Event Grid can send a token of Entra ID",
    repeats: "Event Grid waits 30 s and repeats for 24 h after a 503, but never after a 400, 401 or 413; what the registry's own webhook does is not documented",
    setup: "\
A registry webhook:
  az acr webhook create --registry <name> --name scanhook --actions push --uri {url} --headers \"Authorization=<the secret>\"
or an Event Grid subscription of the registry:
  Event type  Container Image Pushed
  Endpoint    Web Hook, {url}
  Delivery    header Authorization, secret, <the secret>
scanhook answers the validation.",
};

/// An array of Event Grid events; by default it has one element.
#[derive(Deserialize)]
struct WireBatch<'a>(#[serde(borrow, deserialize_with = "list")] Vec<WireEnvelope<'a>>);

/// A native body, an Event Grid event or a CloudEvent. The last two contain the first in `data`, as an object or as
/// JSON text. Microsoft's own SDK for JavaScript expects JSON text for this registry's events (Azure/azure-sdk-for-js,
/// `sdk/eventgrid`).
#[derive(Deserialize, Default)]
struct WireEnvelope<'a> {
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(default)]
    timestamp: Instant,
    #[serde(borrow, default)]
    action: Text<'a>,
    #[serde(borrow, default, deserialize_with = "object")]
    target: WireTarget<'a>,
    #[serde(borrow, default, deserialize_with = "object")]
    request: WireRequest<'a>,
    #[serde(borrow, default, rename = "eventType")]
    event_type: Text<'a>,
    #[serde(borrow, default, rename = "type")]
    cloud_event_type: Text<'a>,
    #[serde(borrow, default)]
    data: Nested<'a, WireData<'a>>,
}

#[derive(Deserialize, Default)]
struct WireData<'a> {
    #[serde(default)]
    timestamp: Instant,
    #[serde(borrow, default)]
    action: Text<'a>,
    #[serde(borrow, default, deserialize_with = "object")]
    target: WireTarget<'a>,
    #[serde(borrow, default, deserialize_with = "object")]
    request: WireRequest<'a>,
    #[serde(borrow, default, rename = "validationCode")]
    validation_code: Text<'a>,
}

#[derive(Deserialize, Default)]
struct WireTarget<'a> {
    #[serde(borrow, default)]
    digest: Text<'a>,
    #[serde(borrow, default)]
    repository: Text<'a>,
    #[serde(borrow, default)]
    tag: Text<'a>,
}

#[derive(Deserialize, Default)]
struct WireRequest<'a> {
    #[serde(borrow, default)]
    host: Text<'a>,
}

super::bare_parse_into!(WireEnvelope);

fn parse(delivery: &VerifiedDelivery, options: &Options) -> Result<Vec<Event>, ParsePayloadError> {
    let body = Json::of(delivery.body());
    let envelopes = if body.is_list() {
        body.object_or_list::<WireBatch<'_>>()?.0
    } else {
        vec![body.object()?]
    };
    each(&envelopes, |it| event(it, options))
}

fn event(envelope: &WireEnvelope<'_>, options: &Options) -> Result<Event, ParsePayloadError> {
    let id = envelope.id.get();
    let Some(event_type) = envelope
        .event_type
        .get()
        .or(envelope.cloud_event_type.get())
    else {
        let action = envelope
            .action
            .get()
            .ok_or(ParsePayloadError::missing("action", "action"))?;
        return push(
            action,
            &envelope.target,
            &envelope.request,
            id,
            &envelope.timestamp,
            options,
        );
    };
    // Samples from 2018 have the short name.
    let is_push = matches!(
        event_type,
        "Microsoft.ContainerRegistry.ImagePushed" | "ImagePushed"
    );
    let is_validation = event_type == "Microsoft.EventGrid.SubscriptionValidationEvent";
    if !is_push && !is_validation {
        return Ok(Event::Other(SkipReason::NotAPush));
    }
    let (text, read);
    let data = match &envelope.data {
        Nested::Object(data) => data,
        Nested::Json(json) => {
            text = Json::of(json.as_bytes());
            read = text.object()?;
            &read
        }
    };
    if is_validation {
        let code = data
            .validation_code
            .get()
            .ok_or(ParsePayloadError::missing("code", "data.validationCode"))?;
        return Ok(Event::Validation(FreeText::new(code)));
    }
    push(
        data.action.get().unwrap_or("push"),
        &data.target,
        &data.request,
        id,
        &data.timestamp,
        options,
    )
}

fn push(
    action: &str,
    target: &WireTarget<'_>,
    request: &WireRequest<'_>,
    id: Option<&str>,
    at: &Instant,
    options: &Options,
) -> Result<Event, ParsePayloadError> {
    match action {
        "push" => {}
        // Sent for each push. In quarantine mode it replaces the push until the image is released.
        "quarantine" if options.has_event("quarantine") => {}
        "ping" => return Ok(Event::Other(SkipReason::Ping)),
        _ => return Ok(Event::Other(SkipReason::NotAPush)),
    }
    let repository = target
        .repository
        .get()
        .and_then(|it| Repository::parse(it).ok())
        .ok_or(ParsePayloadError::missing(
            "repository",
            "target.repository",
        ))?;
    if target.tag.get().is_none() && target.digest.get().is_none() {
        return Err(ParsePayloadError::missing(
            "tag or digest",
            "target.tag or target.digest",
        ));
    }
    Ok(Event::Push(PushEvent {
        registry: request.host.get().into(),
        repository,
        tag: target.tag.tag(),
        digest: target.digest.digest(),
        // The payload has only the manifest's type, not the config's.
        content: Content::Image,
        info: EventInfo::new(action, id, None, at.0),
    }))
}

fn sample(push: &SamplePush<'_>) -> Sample {
    let image = push.image;
    let body = json!({
        "id": push.id,
        "timestamp": push.at,
        "action": "push",
        "target": {
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "size": 524, "length": 524,
            "digest": image.pin.digest(), "repository": image.repository, "tag": image.pin.tag(),
        },
        "request": {"id": push.id, "host": image.registry, "method": "PUT", "useragent": "scanhook-send"},
    });
    Sample {
        headers: json_headers(),
        body: body.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tests::parse_with;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn check(body: &str) -> String {
        parse_with(&KIND, &Options::default(), &[], body.as_bytes())
    }

    fn native(action: &str, tag: &str) -> String {
        format!(
            r#"{{"id":"i","timestamp":"2026-11-21T20:00:00.123456789Z","action":"{action}","target":{{"digest":"{DIGEST}","repository":"hello-world","tag":"{tag}"}},"request":{{"host":"reg.azurecr.example"}}}}"#
        )
    }

    #[test]
    fn the_native_body_and_both_envelopes_give_the_same_events() {
        insta::assert_snapshot!(check(&native("push", "v1")), @"Image reg.azurecr.example/hello-world tag=v1 digest=sha256:012345 type=push id=i actor=- at=2026-11-21T20:00:00.123456789Z");
        let event_grid = format!(
            r#"[{{"id":"e","eventType":"ImagePushed","data":{}}}]"#,
            native("push", "v1")
        );
        insta::assert_snapshot!(check(&event_grid), @"Image reg.azurecr.example/hello-world tag=v1 digest=sha256:012345 type=push id=e actor=- at=2026-11-21T20:00:00.123456789Z");
        let cloud_event = format!(
            r#"{{"specversion":"1.0","id":"c","type":"Microsoft.ContainerRegistry.ImagePushed","data":{}}}"#,
            native("push", "")
        );
        insta::assert_snapshot!(check(&cloud_event), @"Image reg.azurecr.example/hello-world tag=- digest=sha256:012345 type=push id=c actor=- at=2026-11-21T20:00:00.123456789Z");
        let text = serde_json::to_string(&native("push", "v1")).unwrap();
        let as_text = event_grid.replace(&native("push", "v1"), &text);
        assert_eq!(check(&as_text), check(&event_grid));
        let batch = format!("[{cloud_event},{cloud_event}]");
        assert_eq!(check(&batch).lines().count(), 2);
    }

    #[test]
    fn a_broken_event_of_a_batch_does_not_affect_the_others() {
        let good = format!(
            r#"{{"id":"e","eventType":"ImagePushed","data":{}}}"#,
            native("push", "v1")
        );
        let broken = r#"{"id":"f","eventType":"ImagePushed","data":{"target":{}}}"#;
        insta::assert_snapshot!(check(&format!("[7,{good},{broken}]")), @"
        malformed the payload names no valid action, looked for at action
        Image reg.azurecr.example/hello-world tag=v1 digest=sha256:012345 type=push id=e actor=- at=2026-11-21T20:00:00.123456789Z
        malformed the payload names no valid repository, looked for at target.repository
        ");
        assert_eq!(
            check(&format!("[{broken},null]")),
            "400 the payload names no valid repository, looked for at target.repository"
        );
    }

    #[test]
    fn pings_deletes_and_charts_are_not_pushes() {
        assert_eq!(check(r#"{"action":"ping"}"#), "ping");
        for action in [
            "delete",
            "chart_push",
            "chart_delete",
            "quarantine",
            "unknown",
        ] {
            assert_eq!(check(&native(action, "v1")), "not_a_push");
        }
        let deleted = format!(
            r#"{{"eventType":"Microsoft.ContainerRegistry.ImageDeleted","data":{}}}"#,
            native("delete", "")
        );
        assert_eq!(check(&deleted), "not_a_push");
        for data in ["null", "{}", "\"text\""] {
            let other =
                format!(r#"[{{"eventType":"Microsoft.Storage.BlobCreated","data":{data}}}]"#);
            assert_eq!(check(&other), "not_a_push");
        }
    }

    #[test]
    fn quarantine_is_a_push_if_the_source_asks_for_it() {
        let options = Options {
            events: vec!["quarantine".to_owned()],
            ..Options::default()
        };
        assert!(
            parse_with(&KIND, &options, &[], native("quarantine", "v1").as_bytes())
                .starts_with("Image ")
        );
    }

    #[test]
    fn a_validation_event_returns_its_code() {
        let body = r#"[{"eventType":"Microsoft.EventGrid.SubscriptionValidationEvent","data":{"validationCode":"C-1","validationUrl":"https://evil.example"}}]"#;
        assert_eq!(check(body), "validation C-1");
    }

    #[test]
    fn a_push_without_a_valid_image_name_is_refused() {
        for body in [
            "",
            "{}",
            "[7]",
            r#"{"action":"push"}"#,
            r#"{"action":"push","target":{"repository":"-x","tag":"1"}}"#,
            r#"{"action":"push","target":{"repository":"x"}}"#,
            r#"{"action":"push","target":{"repository":"x","tag":"","digest":null}}"#,
            r#"{"eventType":"ImagePushed"}"#,
            r#"{"eventType":"ImagePushed","data":"text"}"#,
            r#"{"eventType":"ImagePushed","data":"[]"}"#,
            r#"{"action":"push","action":"ping"}"#,
        ] {
            assert!(check(body).starts_with("400 "), "{body}");
        }
        assert_eq!(check("[]"), "");
    }
}
