//! Quay: a repository notification without an event type. A push is recognised by its list of updated tags.
//!
//! Quay disables a notification after three failed attempts in a row. Source: quay/quay,
//! `notifications/notificationevent.py` and `notifications/notificationmethod.py`.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::json;

use super::{Json, Kind, Options, Sample, SamplePush, json_headers};
use crate::auth::VerifiedDelivery;
use crate::event::{Content, Event, EventInfo, ParsePayloadError, PushEvent, SkipReason, each};
use crate::image::{Repository, Tag};
use crate::wire::Text;

pub(super) static KIND: Kind = Kind {
    name: "quay",
    title: "Quay",
    default_registry: Some("quay.io"),
    example_registry: "quay.io",
    answer_budget: |_| Duration::from_secs(8),
    auth: &["path_token", "basic"],
    hmac: None,
    envelopes: &["native"],
    events: &[],
    repo_key: false,
    handshake: false,
    parse,
    sample,
    signs: "nothing; the token or basic credentials in the URL are the only credential",
    repeats: "waits 10 s and tries 5 times, 30 s apart; disables the notification after 3 failures in a row",
    setup: "\
In Quay, in the repository's settings: Create Notification
  When this event occurs  Push to Repository
  Then issue              Webhook POST
  Webhook URL             {url}
With `type: basic`, put user name and secret into the URL: https://user:secret@host/webhooks/...
Quay disables a notification after three failed tries in a row.",
};

#[derive(serde::Deserialize)]
struct WireNotification<'a> {
    #[serde(borrow, default)]
    repository: Text<'a>,
    #[serde(borrow, default)]
    docker_url: Text<'a>,
    #[serde(borrow, default)]
    updated_tags: WireTags<'a>,
    #[serde(default)]
    pruned_image_count: serde_json::Value,
}

/// A list of tags. In 2013 it was an object from tags to the ids of their images.
#[derive(Default)]
struct WireTags<'a>(Vec<Text<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for WireTags<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TagsVisitor)
    }
}

struct TagsVisitor;

impl<'de> Visitor<'de> for TagsVisitor {
    type Value = WireTags<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of tags, or an object with tags as keys")
    }

    fn visit_unit<E>(self) -> Result<WireTags<'de>, E> {
        Ok(WireTags::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<WireTags<'de>, A::Error> {
        let mut tags = Vec::new();
        while let Some(tag) = seq.next_element()? {
            tags.push(tag);
        }
        Ok(WireTags(tags))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireTags<'de>, A::Error> {
        let mut tags = BTreeSet::new();
        while let Some((Text(Some(tag)), IgnoredAny)) = map.next_entry()? {
            if !tags.insert(tag) {
                return Err(A::Error::custom("a tag is repeated"));
            }
        }
        Ok(WireTags(
            tags.into_iter().map(|it| Text(Some(it))).collect(),
        ))
    }
}

const NO_REPOSITORY: ParsePayloadError =
    ParsePayloadError::missing("repository", "docker_url or repository");

super::bare_parse_into!(WireNotification);

fn parse(delivery: &VerifiedDelivery, _: &Options) -> Result<Vec<Event>, ParsePayloadError> {
    let body = Json::of(delivery.body());
    let notification: WireNotification<'_> = body.object()?;
    // Builds, vulnerabilities, mirroring and expiry don't have this list.
    let WireTags(tags) = notification.updated_tags;
    if tags.is_empty() {
        return Ok(vec![Event::Other(SkipReason::NotAPush)]);
    }
    let names: Vec<_> = tags.iter().filter_map(Text::get).collect();
    // Exactly the body of the test button.
    if names == ["latest", "foo"] && notification.pruned_image_count == 3 {
        return Ok(vec![Event::Other(SkipReason::Ping)]);
    }
    let url = notification
        .docker_url
        .get()
        .map(|it| it.split_once("://").map_or(it, |(_, rest)| rest));
    let (host, path) = match (
        url.and_then(|it| it.split_once('/')),
        notification.repository.get(),
    ) {
        (Some((host, path)), _) => (Some(host).filter(|it| !it.is_empty()), path),
        (None, Some(path)) => (None, path),
        (None, None) => return Err(NO_REPOSITORY),
    };
    let repository = Repository::parse(path).map_err(|_| NO_REPOSITORY)?;
    each(&tags, |tag| {
        Ok(Event::Push(PushEvent {
            registry: host.into(),
            repository: repository.clone(),
            tag: Some(
                tag.tag()
                    .ok_or(ParsePayloadError::missing("tag", "updated_tags"))?,
            ),
            digest: None,
            content: Content::Image,
            info: EventInfo::new("repo_push", None, None, None),
        }))
    })
}

fn sample(push: &SamplePush<'_>) -> Sample {
    let image = push.image;
    let path = image.repository.as_str();
    let (namespace, name) = path.split_once('/').unwrap_or(("library", path));
    let body = json!({
        "repository": path, "namespace": namespace, "name": name,
        "docker_url": image.name(),
        "homepage": format!("https://{}/repository/{path}", image.registry),
        "updated_tags": [image.pin.tag().map_or("latest", Tag::as_str)],
    });
    Sample {
        headers: json_headers(),
        body: body.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str) -> String {
        crate::kinds::tests::parse(&KIND, &[], body.as_bytes())
    }

    #[test]
    fn each_updated_tag_is_an_image() {
        insta::assert_snapshot!(check(r#"{"repository":"a/b","docker_url":"https://quay.example.com:8443/a/b","updated_tags":["1","2"]}"#), @"
        Image quay.example.com:8443/a/b tag=1 digest=- type=repo_push id=- actor=- at=-
        Image quay.example.com:8443/a/b tag=2 digest=- type=repo_push id=- actor=- at=-
        ");
        insta::assert_snapshot!(check(r#"{"repository":"a/b","updated_tags":["1"]}"#), @"Image -/a/b tag=1 digest=- type=repo_push id=- actor=- at=-");
        insta::assert_snapshot!(check(r#"{"docker_url":"/a/b","updated_tags":["1"]}"#), @"Image -/a/b tag=1 digest=- type=repo_push id=- actor=- at=-");
    }

    #[test]
    fn the_object_of_2013_has_tags_as_keys() {
        insta::assert_snapshot!(check(r#"{"repository":"a/b","updated_tags":{"v1":"fake-id","latest":7}}"#), @"
        Image -/a/b tag=latest digest=- type=repo_push id=- actor=- at=-
        Image -/a/b tag=v1 digest=- type=repo_push id=- actor=- at=-
        ");
        assert_eq!(
            check(r#"{"repository":"a/b","updated_tags":{}}"#),
            "not_a_push"
        );
    }

    #[test]
    fn a_broken_tag_does_not_affect_the_others() {
        insta::assert_snapshot!(check(r#"{"repository":"a/b","updated_tags":[7,"v1","$(id)"]}"#), @"
        malformed the payload names no valid tag, looked for at updated_tags
        Image -/a/b tag=v1 digest=- type=repo_push id=- actor=- at=-
        malformed the payload names no valid tag, looked for at updated_tags
        ");
    }

    #[test]
    fn a_notification_without_updated_tags_is_not_a_push() {
        for body in [
            r#"{"repository":"a/b","updated_tags":[]}"#,
            r#"{"repository":"a/b","updated_tags":null}"#,
            r#"{"repository":"a/b","build_id":"x","docker_tags":["latest"]}"#,
            r#"{"repository":"a/b","tags":["latest"],"vulnerability":{"id":"CVE-1"}}"#,
            r#"{"message":"Mirror started"}"#,
        ] {
            assert_eq!(check(body), "not_a_push", "{body}");
        }
    }

    #[test]
    fn the_test_button_is_a_ping() {
        assert_eq!(
            check(r#"{"repository":"a/b","updated_tags":["latest","foo"],"pruned_image_count":3}"#),
            "ping"
        );
        assert!(
            check(r#"{"repository":"a/b","updated_tags":["latest","foo"]}"#).starts_with("Image")
        );
        for count in ["null", "2", "\"3\"", "[3]", "3.5"] {
            let body = format!(
                r#"{{"repository":"a/b","updated_tags":["latest","foo"],"pruned_image_count":{count}}}"#
            );
            assert!(check(&body).starts_with("Image"), "{count}");
        }
    }

    #[test]
    fn a_push_without_a_valid_image_name_is_refused() {
        for body in [
            r#"{"updated_tags":["1"]}"#,
            r#"{"repository":"-a","updated_tags":["1"]}"#,
            r#"{"repository":"a/b","updated_tags":[7]}"#,
            r#"{"repository":"a/b","updated_tags":["$(id)"]}"#,
            r#"{"repository":"a/b","updated_tags":"v1"}"#,
            r#"{"repository":"a/b","updated_tags":{"$(id)":"x"}}"#,
            r#"{"repository":"a/b","updated_tags":{"a":"x","a":"y"}}"#,
            r#"{"repository":"a/b","updated_tags":["1"],"updated_tags":["2"]}"#,
            "[]",
        ] {
            assert!(check(body).starts_with("400 "), "{body}");
        }
    }
}
