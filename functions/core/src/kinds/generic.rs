//! Any JSON, read with a map of JSON Pointers (RFC 6901): for CI jobs, and for registries without a kind of their own.
//!
//! Without a map the body is `{"repository", "tag", "digest", "registry", "id", "type", "actor", "occurred_at"}`.

use std::time::Duration;

use http::HeaderName;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{Json, Kind, Options, Sample, SamplePush, is_digest, json_headers};
use crate::auth::VerifiedDelivery;
use crate::event::{Content, Event, EventInfo, ParsePayloadError, PushEvent, SkipReason, each};
use crate::image::{Digest, Repository, Tag};
use crate::wire::Instant;

pub(super) static KIND: Kind = Kind {
    name: "generic",
    title: "Any sender of JSON",
    default_registry: None,
    example_registry: "registry.example.com",
    answer_budget: |_| Duration::from_millis(2_500),
    auth: &["bearer", "hmac", "token", "basic", "path_token", "oidc"],
    hmac: None,
    envelopes: &["own, object or list", "any JSON by a map"],
    events: &[],
    repo_key: false,
    handshake: false,
    parse,
    sample,
    signs: "what the sender signs; docs/registries names registries that use this kind",
    repeats: "depends on the sender",
    setup: "\
In a CI job, after the push:
  curl --fail --retry 5 -H \"Authorization: Bearer $SECRET\" -H 'Content-Type: application/json' {url} \\
    -d '{\"repository\":\"team/app\",\"tag\":\"1.2.3\",\"digest\":\"sha256:...\"}'
The source's `payload` map reads other bodies.",
};

/// Where the fields of a body are. Each is a JSON Pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The array of events. Empty means the body itself, an object or an array.
    pub events: String,
    /// The conditions for a push. All must hold.
    pub matches: Vec<Condition>,
    /// The conditions for a test delivery. Without any, no delivery is a test.
    pub ping: Vec<Condition>,
    /// The parts of the repository's path, to be joined by slashes.
    pub repository: Vec<String>,
    pub tag: Option<String>,
    pub digest: Option<String>,
    /// The registry's host, which is only compared.
    pub host: Option<String>,
    /// The media type of the config.
    pub media_type: Option<String>,
    pub id: Option<String>,
    /// The sender's word for the event.
    pub event_type: Option<String>,
    pub actor: Option<String>,
    /// The time of the event: RFC 3339, or seconds.
    pub time: Option<String>,
}

impl Default for Mapping {
    fn default() -> Self {
        let pointer = |name: &str| Some(format!("/{name}"));
        Self {
            events: String::new(),
            matches: Vec::new(),
            ping: Vec::new(),
            repository: vec!["/repository".to_owned()],
            tag: pointer("tag"),
            digest: pointer("digest"),
            host: pointer("registry"),
            media_type: pointer("media_type"),
            id: pointer("id"),
            event_type: pointer("type"),
            actor: pointer("actor"),
            time: pointer("occurred_at"),
        }
    }
}

/// A condition on an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub place: Place,
    /// The allowed texts; `None` means that the value must be absent.
    pub allowed: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the event, at this JSON Pointer.
    Pointer(String),
    /// In a header of the delivery. Headers aren't signed.
    Header(HeaderName),
}

impl Condition {
    fn holds(&self, event: &Value, delivery: &VerifiedDelivery) -> bool {
        let (text, is_there) = match &self.place {
            Place::Pointer(pointer) => {
                let value = find(event, pointer).filter(|it| !it.is_null());
                (value.and_then(Value::as_str), value.is_some())
            }
            Place::Header(name) => (delivery.header(name), delivery.header(name).is_some()),
        };
        match &self.allowed {
            Some(allowed) => text.is_some_and(|text| allowed.iter().any(|it| it == text)),
            None => !is_there,
        }
    }
}

#[cfg(feature = "bench")]
pub(super) fn bare_parse(body: &[u8]) -> bool {
    std::hint::black_box(serde_json::from_slice::<crate::wire::UniqueValue>(body)).is_ok()
}

fn parse(delivery: &VerifiedDelivery, options: &Options) -> Result<Vec<Event>, ParsePayloadError> {
    let body = Json::of(delivery.body()).value()?;
    let mapping = options.payload.as_deref().unwrap_or(&DEFAULT);
    let events = body
        .pointer(&mapping.events)
        .ok_or(ParsePayloadError::Missing {
            what: "array of events",
            at: mapping.events.clone().into(),
        })?;
    let events = events
        .as_array()
        .map_or(std::slice::from_ref(events), Vec::as_slice);
    each(events, |it| event(it, mapping, delivery))
}

/// Makes the error for a missing `what`.
fn missing(what: &'static str, pointer: Option<&str>) -> ParsePayloadError {
    let at = pointer.unwrap_or_default().to_owned().into();
    ParsePayloadError::Missing { what, at }
}

/// Like [`Value::pointer`], but without copying every token to unescape it: most have nothing to unescape.
fn find<'a>(event: &'a Value, pointer: &str) -> Option<&'a Value> {
    if !pointer.starts_with('/') || pointer.contains('~') {
        return event.pointer(pointer);
    }
    let mut found = event;
    for token in pointer.split('/').skip(1) {
        found = match found {
            Value::Object(members) => members.get(token)?,
            // The crate decides which texts are an index.
            Value::Array(_) => found.pointer(&format!("/{token}"))?,
            _ => return None,
        };
    }
    Some(found)
}

static DEFAULT: std::sync::LazyLock<Mapping> = std::sync::LazyLock::new(Mapping::default);

fn event(
    event: &Value,
    mapping: &Mapping,
    delivery: &VerifiedDelivery,
) -> Result<Event, ParsePayloadError> {
    if !event.is_object() {
        return Err(ParsePayloadError::malformed(
            ".",
            "an event that isn't an object",
        ));
    }
    if !mapping.ping.is_empty() && mapping.ping.iter().all(|it| it.holds(event, delivery)) {
        return Ok(Event::Other(SkipReason::Ping));
    }
    if !mapping.matches.iter().all(|it| it.holds(event, delivery)) {
        return Ok(Event::Other(SkipReason::NotAPush));
    }
    let text = |pointer: &Option<String>| {
        let value = pointer.as_deref().and_then(|it| find(event, it));
        value.and_then(Value::as_str).filter(|it| !it.is_empty())
    };
    let digest = text(&mapping.digest).and_then(|it| Digest::parse(it).ok());
    // A numeric tag must not count as absent: the image would silently become an untagged one.
    let place = mapping.tag.as_deref().and_then(|it| find(event, it));
    if !place.is_none_or(|it| it.is_string() || it.is_null()) {
        return Err(missing("tag", mapping.tag.as_deref()));
    }
    let tag = text(&mapping.tag).filter(|it| !is_digest(it));
    let tag = tag
        .map(|it| Tag::parse(it).map_err(|_| missing("tag", mapping.tag.as_deref())))
        .transpose()?;
    if tag.is_none() && digest.is_none() {
        return Err(missing("tag or digest", mapping.tag.as_deref()));
    }
    let time = mapping.time.as_deref().and_then(|it| find(event, it));
    let time: Option<Instant> = time.and_then(|it| Instant::deserialize(it).ok());
    Ok(Event::Push(PushEvent {
        registry: text(&mapping.host).into(),
        repository: repository(event, mapping)?,
        tag,
        digest,
        content: Content::of_manifest(text(&mapping.media_type), []),
        info: EventInfo::new(
            text(&mapping.event_type).unwrap_or("push"),
            text(&mapping.id),
            text(&mapping.actor),
            time.and_then(|it| it.0),
        ),
    }))
}

fn repository(event: &Value, mapping: &Mapping) -> Result<Repository, ParsePayloadError> {
    let at = |pointer: &str| ParsePayloadError::Missing {
        what: "repository",
        at: pointer.to_owned().into(),
    };
    let parts = mapping.repository.iter().map(|it| {
        find(event, it)
            .and_then(Value::as_str)
            .ok_or_else(|| at(it))
    });
    let path = parts.collect::<Result<Vec<_>, _>>()?.join("/");
    Repository::try_from(path).map_err(|_| at(&mapping.repository.join(" and ")))
}

fn sample(push: &SamplePush<'_>) -> Sample {
    let image = push.image;
    let body = json!({
        "repository": image.repository, "tag": image.pin.tag(), "digest": image.pin.digest(), "registry": image.registry,
        "id": push.id, "type": "push", "actor": "scanhook-send", "occurred_at": push.at,
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

    fn check(mapping: Option<Mapping>, body: &str) -> String {
        let options = Options {
            payload: mapping.map(Box::new),
            ..Options::default()
        };
        parse_with(&KIND, &options, &[("ce-type", "push.v1")], body.as_bytes())
    }

    fn mapping() -> Mapping {
        let pointer = |text: &str| Place::Pointer(text.to_owned());
        let one_of = |place, texts: &[&str]| Condition {
            place,
            allowed: Some(texts.iter().map(|it| (*it).to_owned()).collect()),
        };
        Mapping {
            events: "/events".to_owned(),
            matches: vec![
                one_of(pointer("/type"), &["TAG_PUSH", "PUSH"]),
                one_of(
                    Place::Header(HeaderName::from_static("ce-type")),
                    &["push.v1"],
                ),
                Condition {
                    place: pointer("/error"),
                    allowed: None,
                },
            ],
            ping: vec![one_of(pointer("/type"), &["TEST"])],
            repository: vec![
                "/contents/namespace".to_owned(),
                "/contents/repository".to_owned(),
            ],
            tag: Some("/contents/tag".to_owned()),
            digest: Some("/contents/digest".to_owned()),
            ..Mapping::default()
        }
    }

    #[test]
    fn the_default_body_and_a_list_of_it_need_no_map() {
        let one = format!(
            r#"{{"repository":"team/app","tag":"1","digest":"{DIGEST}","registry":"h.io","id":"i","actor":"ci","occurred_at":1417566161}}"#
        );
        insta::assert_snapshot!(check(None, &one), @"Image h.io/team/app tag=1 digest=sha256:012345 type=push id=i actor=ci at=2014-12-03T00:22:41Z");
        assert_eq!(check(None, &format!("[{one},{one}]")).lines().count(), 2);
        assert_eq!(check(None, "[]"), "");
    }

    #[test]
    fn a_digest_of_any_algorithm_is_not_a_tag() {
        let sha512 = format!("sha512:{}", "0123456789abcdef".repeat(8));
        for digest in [DIGEST, &sha512] {
            let body = format!(r#"{{"repository":"a","tag":"{digest}","digest":"{digest}"}}"#);
            let parsed = check(None, &body);
            assert!(parsed.starts_with("Image -/a tag=- digest=sha"), "{parsed}");
        }
    }

    #[test]
    fn a_map_defines_the_fields_and_conditions() {
        let event = |event_type: &str, more: &str| {
            format!(
                r#"{{"events":[{{"type":"{event_type}","contents":{{"namespace":"foo","repository":"bar","tag":"v1"}}{more}}}]}}"#
            )
        };
        insta::assert_snapshot!(check(Some(mapping()), &event("TAG_PUSH", "")), @"Image -/foo/bar tag=v1 digest=- type=TAG_PUSH id=- actor=- at=-");
        assert!(check(Some(mapping()), &event("PUSH", r#","error":null"#)).starts_with("Image "));
        assert_eq!(
            check(Some(mapping()), &event("PUSH", r#","error":{}"#)),
            "not_a_push"
        );
        assert_eq!(check(Some(mapping()), &event("DELETE", "")), "not_a_push");
        assert_eq!(check(Some(mapping()), &event("TEST", "")), "ping");
    }

    #[test]
    fn a_broken_event_of_a_list_does_not_affect_the_others() {
        insta::assert_snapshot!(check(None, r#"[{"repository":"a","tag":"1"},7,{"repository":"a"},{"tag":"1"}]"#), @"
        Image -/a tag=1 digest=- type=push id=- actor=- at=-
        malformed the body is not JSON of the expected shape, at .
        malformed the payload names no valid tag or digest, looked for at /tag
        malformed the payload names no valid repository, looked for at /repository
        ");
    }

    #[test]
    fn a_body_without_an_image_or_with_a_repeated_key_is_refused() {
        for body in [
            "",
            "7",
            "[7]",
            "{}",
            r#"{"repository":"a"}"#,
            r#"{"tag":"1"}"#,
            r#"{"repository":"-a","tag":"1"}"#,
            r#"{"repository":"a","tag":"$(id)"}"#,
            r#"{"repository":"a","tag":1}"#,
            r#"{"repository":"a","tag":"1","tag":"2"}"#,
            r#"{"repository":"a","tag":"1","x":{"y":1,"y":2}}"#,
        ] {
            assert!(check(None, body).starts_with("400 "), "{body}");
        }
        assert!(check(Some(mapping()), "{}").starts_with("400 "));
    }

    #[test]
    fn places_are_found_like_json_pointers() {
        let event = json!({"a": {"b": [1, {"c": "x"}]}, "": 2, "m~n": 3, "x/y": 4, "0": {"00": 5}});
        for pointer in [
            "", "/", "/a", "/a/b", "/a/b/1/c", "/a/b/01", "/a/b/+1", "/a/b/-", "/a/b/2",
            "/a/b/0/c", "/a/c", "/m~0n", "/x~1y", "/x/y", "/0/00", "//", "a", "/a/",
        ] {
            assert_eq!(find(&event, pointer), event.pointer(pointer), "{pointer:?}");
        }
    }
}
