//! CNCF Distribution (`registry:2`, `registry:3`): an envelope of events, authenticated by a static header.
//!
//! It repeats a delivery forever after any answer other than 2xx and 3xx, and later events wait behind it. So an
//! envelope that can be parsed is never refused because of one of its events. Source: distribution/distribution,
//! `notifications/{event,http,endpoint}.go`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::{Json, Kind, Options, Sample, SamplePush};
use crate::auth::VerifiedDelivery;
use crate::event::{Content, Event, EventInfo, ParsePayloadError, PushEvent, SkipReason};
use crate::image::{Digest, Repository, Tag};
use crate::media_type;
use crate::wire::{Instant, Text, list, list_or_none, object};

pub(super) static KIND: Kind = Kind {
    name: "distribution",
    title: "Distribution (registry:2, registry:3)",
    default_registry: None,
    example_registry: "registry.example.com:5000",
    answer_budget: |_| Duration::from_millis(800),
    auth: &["bearer", "token", "basic", "path_token"],
    hmac: None,
    envelopes: &["native"],
    events: &[],
    repo_key: false,
    handshake: false,
    parse,
    sample,
    signs: "nothing; it sends the headers you list",
    repeats: "waits 1 s (raise `timeout`) and repeats forever; a refused event blocks the endpoint's later ones",
    setup: "\
In the registry's config.yml:
  notifications:
    endpoints:
      - name: scanhook
        url: {url}
        headers:
          Authorization: [Bearer <the secret>]
        timeout: 5s
        threshold: 5
        backoff: 1s
        ignore: { actions: [pull, mount, delete], mediatypes: [application/octet-stream] }",
};

#[derive(Deserialize)]
struct WireEnvelope<'a> {
    #[serde(borrow, deserialize_with = "list")]
    events: Vec<WireEvent<'a>>,
}

#[derive(Deserialize, Default)]
struct WireEvent<'a> {
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
    #[serde(borrow, default, deserialize_with = "object")]
    actor: WireActor<'a>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct WireTarget<'a> {
    #[serde(borrow, default)]
    media_type: Text<'a>,
    #[serde(borrow, default)]
    digest: Text<'a>,
    #[serde(borrow, default)]
    repository: Text<'a>,
    #[serde(borrow, default)]
    tag: Text<'a>,
    #[serde(borrow, default)]
    url: Text<'a>,
    /// A manifest's config and layers, or an index's children. Sent only if `includereferences` is set.
    #[serde(borrow, default, deserialize_with = "list_or_none")]
    references: Vec<WireReference<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct WireReference<'a> {
    #[serde(borrow, default)]
    media_type: Text<'a>,
}

#[derive(Deserialize, Default)]
struct WireRequest<'a> {
    #[serde(borrow, default)]
    host: Text<'a>,
}

#[derive(Deserialize, Default)]
struct WireActor<'a> {
    #[serde(borrow, default)]
    name: Text<'a>,
}

super::bare_parse_into!(WireEnvelope);

pub(super) fn parse(
    delivery: &VerifiedDelivery,
    _: &Options,
) -> Result<Vec<Event>, ParsePayloadError> {
    let body = Json::of(delivery.body());
    let envelope: WireEnvelope<'_> = body.object()?;
    Ok(envelope.events.iter().map(event).collect())
}

fn event(event: &WireEvent<'_>) -> Event {
    if event.action.get() != Some("push") {
        return Event::Other(SkipReason::NotAPush);
    }
    let target = &event.target;
    let url = target.url.get();
    let media_type = target.media_type.get();
    // Registries up to 2.1 send application/octet-stream for manifests (distribution#1617).
    let is_manifest = url.is_some_and(|it| is_of(it, "manifests"))
        // Only manifests have tags.
        || target.tag.get().is_some()
        || media_type.is_some_and(media_type::is_manifest);
    let is_blob = url.is_some_and(|it| is_of(it, "blobs"))
        || media_type.is_some_and(|it| it == BLOB || media_type::is_file_system(it));
    if is_blob && !is_manifest {
        return Event::Other(SkipReason::NotAnImage);
    }
    let repository = target
        .repository
        .get()
        .and_then(|it| Repository::parse(it).ok());
    let Some(repository) = repository else {
        let missing = ParsePayloadError::missing("repository", "events[].target.repository");
        return Event::Malformed(missing);
    };
    Event::Push(PushEvent {
        // X-Forwarded-Host changes only the target's URL, so that URL is closer to the host that people pull from.
        registry: url.and_then(host_of).or(event.request.host.get()).into(),
        repository,
        tag: target.tag.tag(),
        digest: target.digest.digest(),
        content: Content::of_references(target.references.iter().map(|it| it.media_type.get())),
        info: EventInfo::new(
            "push",
            event.id.get(),
            event.actor.name.get(),
            event.timestamp.0,
        ),
    })
}

/// The type of every blob. Source: distribution/distribution, `registry/storage/blobstore.go`.
const BLOB: &str = "application/octet-stream";

/// Whether the URL ends with `/<what>/<reference>`. A repository's name may also have such a component.
fn is_of(url: &str, what: &str) -> bool {
    url.rsplit('/').nth(1) == Some(what)
}

fn host_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.split('/').next().filter(|it| !it.is_empty())
}

pub(super) fn sample(push: &SamplePush<'_>) -> Sample {
    let image = push.image;
    let digest = image.pin.digest();
    let reference = digest.map_or_else(|| image.pin.tag().map_or("", Tag::as_str), Digest::as_str);
    let body = json!({"events": [{
        "id": push.id,
        "timestamp": push.at,
        "action": "push",
        "target": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "size": 1024,
            "length": 1024,
            "digest": digest,
            "repository": image.repository,
            "url": format!("https://{}/v2/{}/manifests/{reference}", image.registry, image.repository),
            "tag": image.pin.tag(),
        },
        "request": {"id": push.id, "addr": "192.0.2.10:40000", "host": image.registry, "method": "PUT", "useragent": "scanhook-send"},
        "actor": {"name": "scanhook-send"},
        "source": {"addr": "registry-0:5000", "instanceID": push.id},
    }]});
    let content_type = "application/vnd.docker.distribution.events.v2+json".to_owned();
    Sample {
        headers: vec![(http::header::CONTENT_TYPE, content_type)],
        body: body.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tests::parse as check;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

    fn push(target: &str) -> String {
        format!(
            r#"{{"id":"e1","timestamp":"2026-11-21T20:00:00Z","action":"push","target":{target},"request":{{"host":"127.0.0.1:5000"}},"actor":{{}}}}"#
        )
    }

    fn parse(events: &[String]) -> String {
        check(
            &KIND,
            &[],
            format!(r#"{{"events":[{}]}}"#, events.join(",")).as_bytes(),
        )
    }

    #[test]
    fn a_tagged_manifest_is_a_push_to_the_host_of_its_url() {
        let target = format!(
            r#"{{"mediaType":"{MANIFEST}","digest":"{DIGEST}","repository":"team/app","tag":"v1","url":"https://r.example.com/v2/team/app/manifests/{DIGEST}"}}"#
        );
        insta::assert_snapshot!(parse(&[push(&target)]), @"Image r.example.com/team/app tag=v1 digest=sha256:012345 type=push id=e1 actor=- at=2026-11-21T20:00:00Z");
    }

    #[test]
    fn each_event_of_an_envelope_is_judged_separately() {
        let manifest = push(&format!(
            r#"{{"mediaType":"{MANIFEST}","digest":"{DIGEST}","repository":"a"}}"#
        ));
        let blob = push(&format!(
            r#"{{"mediaType":"application/octet-stream","digest":"{DIGEST}","repository":"a","url":"http://h/v2/a/blobs/{DIGEST}"}}"#
        ));
        let old = push(
            r#"{"mediaType":"application/octet-stream","repository":"a","url":"http://h/v2/a/manifests/x"}"#,
        );
        let chart = push(&format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{DIGEST}","repository":"a","tag":"1","references":[{{"mediaType":"application/vnd.cncf.helm.config.v1+json"}}]}}"#
        ));
        let pull = r#"{"action":"pull","target":{}}"#.to_owned();
        let gone = r#"{"action":"delete","target":{"mediaType":"","digest":""}}"#.to_owned();
        let odd =
            r#"{"action":7,"target":null,"request":null,"actor":[],"timestamp":{}}"#.to_owned();
        let hostile = push(&format!(
            r#"{{"mediaType":"{MANIFEST}","repository":"--config=/etc/passwd","tag":"1"}}"#
        ));
        insta::assert_snapshot!(parse(&[manifest, blob, old, chart, pull, gone, hostile]), @r"
        Image 127.0.0.1:5000/a tag=- digest=sha256:012345 type=push id=e1 actor=- at=2026-11-21T20:00:00Z
        not_an_image
        Image h/a tag=- digest=- type=push id=e1 actor=- at=2026-11-21T20:00:00Z
        Artifact 127.0.0.1:5000/a tag=1 digest=sha256:012345 type=push id=e1 actor=- at=2026-11-21T20:00:00Z
        not_a_push
        not_a_push
        malformed the payload names no valid repository, looked for at events[].target.repository
        ");
        assert_eq!(parse(&[odd]), "not_a_push");
        assert_eq!(parse(&["7".to_owned()]), "not_a_push");
    }

    #[test]
    fn without_a_type_a_blob_is_recognised_only_by_its_url() {
        let tagged = push(&format!(
            r#"{{"digest":"{DIGEST}","repository":"a","tag":"1"}}"#
        ));
        assert!(parse(&[tagged]).starts_with("Image 127.0.0.1:5000/a tag=1 digest=sha256:012345 "));
        let untagged = push(&format!(
            r#"{{"digest":"{DIGEST}","repository":"a","tag":""}}"#
        ));
        assert!(
            parse(std::slice::from_ref(&untagged)).starts_with("Image 127.0.0.1:5000/a tag=- ")
        );
        let url = format!(r#""url":"http://h/v2/a/blobs/{DIGEST}","tag""#);
        assert_eq!(parse(&[untagged.replace("\"tag\"", &url)]), "not_an_image");
    }

    #[test]
    fn a_manifest_of_an_unknown_type_is_queued() {
        for target in [
            r#""tag":"1""#.to_owned(),
            format!(r#""url":"http://h/v2/a/manifests/{DIGEST}""#),
            r#""url":"http://h/v2/a""#.to_owned(),
        ] {
            let unknown = push(&format!(
                r#"{{"mediaType":"application/vnd.nobody.knows.this","digest":"{DIGEST}","repository":"a",{target}}}"#
            ));
            assert!(parse(&[unknown]).starts_with("Image "), "{target}");
        }
        for blob in [
            "application/octet-stream",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ] {
            let blob = push(&format!(
                r#"{{"mediaType":"{blob}","digest":"{DIGEST}","repository":"a"}}"#
            ));
            assert_eq!(parse(&[blob]), "not_an_image");
        }
    }

    #[test]
    fn one_reference_of_an_image_type_makes_an_image() {
        const OTHER: &str = "application/vnd.nobody.knows.this";
        let with = |types: &[&str]| {
            let references: Vec<_> = types.iter().map(|it| json!({"mediaType": it})).collect();
            let references = json!(references);
            let parsed = parse(&[push(&format!(
                r#"{{"mediaType":"{MANIFEST}","digest":"{DIGEST}","repository":"a","tag":"1","references":{references}}}"#
            ))]);
            parsed.split(' ').next().unwrap_or_default().to_owned()
        };
        for image in [
            "application/vnd.oci.image.config.v1+json",
            "application/octet-stream",
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.manifest.v1+json",
            "",
        ] {
            assert_eq!(with(&[OTHER, image]), "Image", "{image}");
            assert_eq!(
                with(&[image, "application/vnd.oci.empty.v1+json"]),
                "Image",
                "{image}"
            );
        }
        assert_eq!(with(&[]), "Image");
        assert_eq!(with(&[OTHER, "application/vnd.in-toto+json"]), "Artifact");
    }

    #[test]
    fn an_invalid_envelope_or_a_repeated_key_is_refused() {
        for body in [
            "",
            "[]",
            "{}",
            r#"{"events":null}"#,
            r#"{"events":{}}"#,
            r#"{"events":[],"events":[]}"#,
            r#"{"events":[{"action":"push","action":"pull"}]}"#,
        ] {
            assert!(
                check(&KIND, &[], body.as_bytes()).starts_with("400 "),
                "{body}"
            );
        }
        assert_eq!(check(&KIND, &[], br#"{"events":[]}"#), "");
    }
}
