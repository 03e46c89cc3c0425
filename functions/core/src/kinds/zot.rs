//! zot: CloudEvents in binary mode. `Ce-Type` contains the type, and the body is the data. It names no host.
//!
//! zot never repeats a delivery. Source: project-zot/zot, `pkg/extensions/events`.

use std::time::Duration;

use http::HeaderName;
use serde::Deserialize;
use serde_json::json;

use super::{Json, Kind, Options, Sample, SamplePush, json_headers};
use crate::auth::VerifiedDelivery;
use crate::event::{Event, EventInfo, NamedRegistry, ParsePayloadError, PushEvent, SkipReason};
use crate::image::{Digest, Repository, Tag};
use crate::manifest::Manifest;
use crate::wire::{Instant, Text, object};

pub(super) static KIND: Kind = Kind {
    name: "zot",
    title: "zot",
    default_registry: None,
    example_registry: "zot.example.com",
    answer_budget: |_| Duration::from_secs(20),
    auth: &["bearer", "basic", "token", "path_token"],
    hmac: None,
    envelopes: &["CloudEvents binary"],
    events: &[],
    repo_key: false,
    handshake: false,
    parse,
    sample,
    signs: "nothing; it sends the credentials or headers of its sink",
    repeats: "waits 30 s and never repeats: a 503 or a wrong secret loses the push",
    setup: "\
In zot's config.json, under extensions:
  \"events\": { \"enable\": true, \"sinks\": [{
    \"type\": \"http\", \"address\": \"{url}\",
    \"credentials\": { \"token\": \"<the secret>\" } }] }
zot never repeats a delivery.",
};

static CE_TYPE: HeaderName = HeaderName::from_static("ce-type");
static CE_ID: HeaderName = HeaderName::from_static("ce-id");
static CE_TIME: HeaderName = HeaderName::from_static("ce-time");

#[derive(Deserialize)]
struct WireImage<'a> {
    #[serde(borrow, default)]
    name: Text<'a>,
    /// A tag or a digest.
    #[serde(borrow, default)]
    reference: Text<'a>,
    #[serde(borrow, default)]
    digest: Text<'a>,
    /// JSON in a string.
    #[serde(borrow, default)]
    manifest: Text<'a>,
    #[serde(borrow, default, deserialize_with = "object")]
    actor: WireActor<'a>,
}

#[derive(Deserialize, Default)]
struct WireActor<'a> {
    #[serde(borrow, default)]
    name: Text<'a>,
}

#[cfg(feature = "bench")]
pub(super) fn bare_parse(body: &[u8]) -> bool {
    let Ok(image) = serde_json::from_slice::<WireImage<'_>>(body) else {
        return false;
    };
    let manifest = image.manifest.get().unwrap_or_default();
    std::hint::black_box(Manifest::content(manifest.as_bytes()));
    true
}

fn parse(delivery: &VerifiedDelivery, _: &Options) -> Result<Vec<Event>, ParsePayloadError> {
    // The prefix of the type is configurable.
    let event_type = delivery.header(&CE_TYPE).ok_or(ParsePayloadError::missing(
        "event type",
        "the header Ce-Type",
    ))?;
    let body = Json::of(delivery.body());
    let image: WireImage<'_> = body.object()?;
    if !event_type.ends_with(".image.updated") {
        return Ok(vec![Event::Other(SkipReason::NotAPush)]);
    }
    let repository = image.name.get().and_then(|it| Repository::parse(it).ok());
    let (tag, digest) = (
        image.reference.tag(),
        image.digest.digest().or(image.reference.digest()),
    );
    if tag.is_none() && digest.is_none() {
        return Err(ParsePayloadError::missing(
            "tag or digest",
            "reference or digest",
        ));
    }
    let manifest = image.manifest.get().unwrap_or_default();
    let at: Option<jiff::Timestamp> = delivery.header(&CE_TIME).and_then(|it| it.parse().ok());
    let at = Instant(at.filter(|it| *it >= jiff::Timestamp::UNIX_EPOCH));
    Ok(vec![Event::Push(PushEvent {
        registry: NamedRegistry::Unnamed,
        repository: repository.ok_or(ParsePayloadError::missing("name", "name"))?,
        tag,
        digest,
        content: Manifest::content(manifest.as_bytes()),
        info: EventInfo::new(
            event_type,
            delivery.header(&CE_ID),
            image.actor.name.get(),
            at.0,
        ),
    })])
}

fn sample(push: &SamplePush<'_>) -> Sample {
    let image = push.image;
    let digest = image.pin.digest().map(Digest::as_str);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json"},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}],
    });
    let body = json!({
        "name": image.repository,
        "reference": image.pin.tag().map(Tag::as_str).or(digest),
        "digest": digest,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "manifest": manifest.to_string(),
        "actor": {"name": "scanhook-send"},
    });
    let mut headers = json_headers();
    let cloud_event = [
        ("ce-specversion", "1.0".to_owned()),
        ("ce-type", "zotregistry.image.updated".to_owned()),
        ("ce-source", "zotregistry.dev".to_owned()),
        ("ce-id", push.id.to_owned()),
        ("ce-time", push.at.to_string()),
    ];
    headers.extend(cloud_event.map(|(name, value)| (HeaderName::from_static(name), value)));
    Sample {
        headers,
        body: body.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tests::parse as check_with;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn check(event_type: &str, body: &str) -> String {
        let headers = [
            ("ce-type", event_type),
            ("ce-id", "c"),
            ("ce-time", "2026-11-21T21:30:13.283972592Z"),
        ];
        check_with(&KIND, &headers, body.as_bytes())
    }

    fn image(reference: &str, manifest: &str) -> String {
        let manifest = serde_json::to_string(manifest).unwrap();
        format!(
            r#"{{"name":"team/app","reference":"{reference}","digest":"{DIGEST}","manifest":{manifest},"actor":{{"name":"jane"}}}}"#
        )
    }

    #[test]
    fn an_update_of_a_tag_or_a_digest_is_a_push() {
        insta::assert_snapshot!(check("zotregistry.image.updated", &image("1.20", "{}")), @"Image -/team/app tag=1.20 digest=sha256:012345 type=zotregistry.image.updated id=c actor=jane at=2026-11-21T21:30:13.283972592Z");
        insta::assert_snapshot!(check("com.example.image.updated", &image(DIGEST, "not json")), @"Image -/team/app tag=- digest=sha256:012345 type=com.example.image.updated id=c actor=jane at=2026-11-21T21:30:13.283972592Z");
    }

    #[test]
    fn charts_and_signatures_are_recognised_by_the_manifest() {
        for manifest in [
            r#"{"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json"}}"#,
            r#"{"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json"}]}"#,
            r#"{"config":{"mediaType":"application/vnd.nobody.knows"},"layers":[{"mediaType":"text/plain"}]}"#,
        ] {
            assert!(
                check("zotregistry.image.updated", &image("1", manifest)).starts_with("Artifact "),
                "{manifest}"
            );
        }
        for manifest in [
            r#"{"artifactType":"application/vnd.in-toto+json"}"#,
            r#"{"config":{"mediaType":"application/vnd.nobody.knows"},"layers":[]}"#,
            r#"{"config":{"mediaType":"text/html"},"layers":[{"mediaType":"text/html"}]}"#,
            r#"{"config":{},"layers":[{"mediaType":"text/plain"},{}]}"#,
        ] {
            assert!(
                check("zotregistry.image.updated", &image("1", manifest)).starts_with("Image "),
                "{manifest}"
            );
        }
    }

    /// zot and runtimes are written in Go, which accepts a key in any case. Layers that run could hide behind another
    /// spelling.
    #[test]
    fn a_manifest_that_runtimes_could_read_differently_is_an_image() {
        for manifest in [
            r#"{"layers":[{"mediaType":"text/plain"}],"Layers":[{}]}"#,
            r#"{"config":{"mediaType":"application/vnd.oci.empty.v1+json"},"CONFIG":{}}"#,
            r#"{"config":{"mediaType":"application/vnd.oci.empty.v1+json","mediatype":""}}"#,
            r#"{"config":{"mediaType":"application/vnd.oci.empty.v1+json"},"manifests":[{}]}"#,
        ] {
            assert!(
                check("zotregistry.image.updated", &image("1", manifest)).starts_with("Image "),
                "{manifest}"
            );
        }
    }

    #[test]
    fn other_types_are_not_pushes_and_a_missing_type_is_refused() {
        for event_type in [
            "zotregistry.image.deleted",
            "zotregistry.image.lint_failed",
            "zotregistry.image.scanned",
            "zotregistry.repository.created",
        ] {
            assert_eq!(check(event_type, &image("1", "")), "not_a_push");
        }
        assert_eq!(
            check_with(&KIND, &[], image("1", "").as_bytes()),
            "400 the payload names no valid event type, looked for at the header Ce-Type"
        );
    }

    #[test]
    fn a_push_without_a_valid_image_name_is_refused() {
        for body in [
            "{}",
            "[]",
            r#"{"name":"a"}"#,
            r#"{"name":"-a","reference":"1"}"#,
            r#"{"name":"a","reference":"$(id)"}"#,
            r#"{"name":"a","name":"b","reference":"1"}"#,
        ] {
            assert!(
                check("zotregistry.image.updated", body).starts_with("400 "),
                "{body}"
            );
        }
    }
}
