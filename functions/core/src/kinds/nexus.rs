//! Sonatype Nexus: component events of one repository, signed with HMAC-SHA-1. The payload contains neither host nor
//! digest.
//!
//! Nexus never repeats a delivery. Source: sonatype/nexus-public, `components/nexus-core/.../webhooks` and
//! `components/nexus-repository-content/.../webhooks`.

use std::time::Duration;

use http::HeaderName;
use serde::Deserialize;
use serde_json::json;

use super::{HmacPreset, Json, Kind, Options, RepoKey, Sample, SamplePush};
use crate::auth::VerifiedDelivery;
use crate::auth::{Algorithm, Encoding};
use crate::event::{
    Content, Event, EventInfo, NamedRegistry, ParsePayloadError, PushEvent, SkipReason,
};
use crate::image::{Repository, Tag};
use crate::wire::{Instant, Text};

pub(super) static KIND: Kind = Kind {
    name: "nexus",
    title: "Sonatype Nexus",
    default_registry: None,
    example_registry: "nexus.example.com:8082",
    answer_budget: |_| Duration::from_secs(15),
    auth: &["hmac"],
    hmac: Some(HmacPreset {
        header: "x-nexus-webhook-signature",
        algorithm: Algorithm::Sha1,
        encoding: Encoding::Hex,
        prefix: "",
    }),
    envelopes: &["native"],
    events: &[],
    repo_key: true,
    handshake: false,
    parse,
    sample,
    signs: "the body (HMAC-SHA-1), if the webhook has a secret key",
    repeats: "waits 20 s and never repeats: a 503 or a wrong secret loses the push",
    setup: "\
In Nexus: Administration, System, Capabilities, Create capability, Webhook: Repository
  Repository   one Docker repository (one source for each)
  Event types  component
  URL          {url}
  Secret key   <the secret>
Nexus never repeats a delivery. With path-based routing set `repo_key: keep`.",
};

static DELIVERY_ID: HeaderName = HeaderName::from_static("x-nexus-webhook-delivery");

#[derive(Deserialize)]
struct WireHook<'a> {
    #[serde(borrow, default)]
    action: Text<'a>,
    #[serde(borrow, default, rename = "repositoryName")]
    repository_name: Text<'a>,
    #[serde(borrow, default)]
    initiator: Text<'a>,
    #[serde(default)]
    timestamp: Instant,
    /// Absent in events of assets, repositories and audits.
    #[serde(borrow)]
    component: Option<WireComponent<'a>>,
}

#[derive(Deserialize)]
struct WireComponent<'a> {
    #[serde(borrow, default)]
    format: Text<'a>,
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow, default)]
    version: Text<'a>,
}

super::bare_parse_into!(WireHook);

fn parse(delivery: &VerifiedDelivery, options: &Options) -> Result<Vec<Event>, ParsePayloadError> {
    let body = Json::of(delivery.body());
    let hook: WireHook<'_> = body.object()?;
    let (Some(component), Some(action @ ("CREATED" | "UPDATED"))) =
        (&hook.component, hook.action.get())
    else {
        return Ok(vec![Event::Other(SkipReason::NotAPush)]);
    };
    if component.format.get() != Some("docker") {
        return Ok(vec![Event::Other(SkipReason::NotAnImage)]);
    }
    let name = component
        .name
        .get()
        .ok_or(ParsePayloadError::missing("name", "component.name"))?;
    let name = match &options.repo_key {
        None | Some(RepoKey::Drop) => name.to_owned(),
        Some(RepoKey::Keep) => format!(
            "{}/{name}",
            hook.repository_name
                .get()
                .ok_or(ParsePayloadError::missing("repository", "repositoryName"))?
        ),
        Some(RepoKey::Name(key)) => format!("{key}/{name}"),
    };
    // The version of an untagged manifest is its digest.
    let digest = component.version.digest();
    let tag = component.version.tag();
    if tag.is_none() && digest.is_none() {
        return Err(ParsePayloadError::missing("version", "component.version"));
    }
    Ok(vec![Event::Push(PushEvent {
        registry: NamedRegistry::Unnamed,
        repository: Repository::try_from(name)
            .map_err(|_| ParsePayloadError::missing("name", "component.name"))?,
        tag,
        digest,
        content: Content::Image,
        info: EventInfo::new(
            action,
            delivery.header(&DELIVERY_ID),
            hook.initiator.get(),
            hook.timestamp.0,
        ),
    })])
}

fn sample(push: &SamplePush<'_>) -> Sample {
    let image = push.image;
    let body = json!({
        "timestamp": push.at, "nodeId": "scanhook-send", "initiator": "scanhook-send/127.0.0.1",
        "repositoryName": "docker-hosted", "action": "CREATED",
        "component": {
            "id": push.id, "componentId": push.id, "format": "docker",
            "name": image.repository, "version": image.pin.tag().map_or("latest", Tag::as_str),
        },
    });
    let headers = vec![
        (
            http::header::CONTENT_TYPE,
            "application/json; charset=UTF-8".to_owned(),
        ),
        (
            HeaderName::from_static("x-nexus-webhook-id"),
            "rm:repository:component".to_owned(),
        ),
        (DELIVERY_ID.clone(), push.id.to_owned()),
    ];
    Sample {
        headers,
        body: body.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tests::parse_with;

    fn component(action: &str, format: &str, version: &str) -> String {
        format!(
            r#"{{"timestamp":"2016-11-10T23:57:49.664+0000","initiator":"admin/127.0.0.1","repositoryName":"docker-hosted","action":"{action}","component":{{"format":"{format}","name":"team/app","version":"{version}"}}}}"#
        )
    }

    fn check(body: &str) -> String {
        parse_with(
            &KIND,
            &Options::default(),
            &[("x-nexus-webhook-delivery", "d")],
            body.as_bytes(),
        )
    }

    #[test]
    fn a_created_or_updated_docker_component_is_a_push() {
        insta::assert_snapshot!(check(&component("CREATED", "docker", "1.25")), @"Image -/team/app tag=1.25 digest=- type=CREATED id=d actor=admin/127.0.0.1 at=2016-11-10T23:57:49.664Z");
        assert!(check(&component("UPDATED", "docker", "1")).starts_with("Image "));
        let digest = format!("sha256:{}", "ab".repeat(32));
        assert!(
            check(&component("CREATED", "docker", &digest)).contains("tag=- digest=sha256:ababab")
        );
        let options = Options {
            repo_key: Some(RepoKey::Keep),
            ..Options::default()
        };
        assert!(
            parse_with(
                &KIND,
                &options,
                &[],
                component("CREATED", "docker", "1").as_bytes()
            )
            .contains("/docker-hosted/team/app ")
        );
    }

    #[test]
    fn other_events_and_formats_are_not_pushes_of_images() {
        assert_eq!(check(&component("DELETED", "docker", "1")), "not_a_push");
        assert_eq!(check(&component("PURGED", "docker", "1")), "not_a_push");
        assert_eq!(check(&component("CREATED", "npm", "1")), "not_an_image");
        for body in [
            r#"{"action":"CREATED","asset":{"format":"docker"}}"#,
            r#"{"action":"CREATED","repository":{}}"#,
            r#"{"action":"PURGED","components":["a"]}"#,
        ] {
            assert_eq!(check(body), "not_a_push", "{body}");
        }
    }

    #[test]
    fn a_push_without_a_valid_image_name_is_refused() {
        let good = component("CREATED", "docker", "1");
        for (part, other) in [
            ("team/app", "-x"),
            ("team/app", ""),
            ("\"1\"", "\"$(id)\""),
            ("\"1\"", "7"),
            ("\"format\"", "\"name\""),
        ] {
            assert!(
                check(&good.replace(part, other)).starts_with("400 "),
                "{other}"
            );
        }
        assert!(check("[]").starts_with("400 "));
    }
}
