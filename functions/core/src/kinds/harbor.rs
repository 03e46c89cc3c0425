//! Harbor 2: its default format and CloudEvents, authenticated by its auth header, which is sent as typed.
//!
//! Harbor repeats a delivery twice after any answer other than 2xx. Every manifest that is stored raises an event,
//! including children of an index and signatures. Source: goharbor/harbor, `src/pkg/notifier/formats` and
//! `src/controller/event/handler/webhook/artifact`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::{Json, Kind, Options, Sample, SamplePush, is_digest, json_headers};
use crate::auth::VerifiedDelivery;
use crate::event::{Content, Event, EventInfo, ParsePayloadError, PushEvent, SkipReason, each};
use crate::image::{Digest, Repository, Tag};
use crate::wire::{Instant, Text, list_or_none, object};

pub(super) static KIND: Kind = Kind {
    name: "harbor",
    title: "Harbor",
    default_registry: None,
    example_registry: "harbor.example.com",
    answer_budget: |_| Duration::from_millis(2_500),
    auth: &["token", "bearer", "basic", "path_token"],
    hmac: None,
    envelopes: &["native", "CloudEvents"],
    events: &[],
    repo_key: false,
    handshake: false,
    parse,
    sample,
    signs: "nothing; it sends its auth header as you typed it",
    repeats: "waits 3 s and tries 3 times in all, after any answer other than 2xx",
    setup: "\
In Harbor, in the project: Webhooks, New Webhook
  Notify type     http
  Payload format  Default or CloudEvents
  Event type      Artifact pushed
  Endpoint URL    {url}
  Auth header     <the secret; with `type: bearer`: Bearer and the secret>",
};

/// Both formats. CloudEvents has `specversion`, and its data in `data`.
#[derive(Deserialize)]
struct WireNotification<'a> {
    #[serde(borrow, default, rename = "type")]
    event_type: Text<'a>,
    #[serde(borrow, default)]
    specversion: Text<'a>,
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(borrow, default)]
    operator: Text<'a>,
    #[serde(default)]
    occur_at: Instant,
    #[serde(default)]
    time: Instant,
    #[serde(borrow, default, deserialize_with = "object")]
    event_data: WireData<'a>,
    #[serde(borrow, default, deserialize_with = "object")]
    data: WireData<'a>,
}

#[derive(Deserialize, Default)]
struct WireData<'a> {
    #[serde(borrow, default, deserialize_with = "list_or_none")]
    resources: Vec<WireResource<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    repository: WireRepository<'a>,
}

#[derive(Deserialize, Default)]
struct WireResource<'a> {
    #[serde(borrow, default)]
    digest: Text<'a>,
    #[serde(borrow, default)]
    tag: Text<'a>,
    #[serde(borrow, default)]
    resource_url: Text<'a>,
}

#[derive(Deserialize, Default)]
struct WireRepository<'a> {
    #[serde(borrow, default)]
    repo_full_name: Text<'a>,
    #[serde(borrow, default)]
    namespace: Text<'a>,
    #[serde(borrow, default)]
    name: Text<'a>,
}

super::bare_parse_into!(WireNotification);

fn parse(delivery: &VerifiedDelivery, _: &Options) -> Result<Vec<Event>, ParsePayloadError> {
    let body = Json::of(delivery.body());
    let notification: WireNotification<'_> = body.object()?;
    let event_type = notification
        .event_type
        .get()
        .ok_or(ParsePayloadError::missing("event type", "type"))?;
    let data = if notification.specversion.get().is_some() {
        &notification.data
    } else {
        &notification.event_data
    };
    // Harbor 1.10 sends pushImage.
    if !matches!(
        event_type,
        "PUSH_ARTIFACT" | "pushImage" | "harbor.artifact.pushed"
    ) || data.resources.is_empty()
    {
        return Ok(vec![Event::Other(SkipReason::NotAPush)]);
    }
    let repository = repository(&data.repository)?;
    let info = EventInfo::new(
        event_type,
        notification.id.get(),
        notification.operator.get(),
        notification.occur_at.0.or(notification.time.0),
    );
    each(&data.resources, |it| {
        push(it, repository.clone(), info.clone())
    })
}

const NO_REPOSITORY: ParsePayloadError =
    ParsePayloadError::missing("repository", "repository.repo_full_name of the data");

/// Returns the repository of all resources, if it is named.
fn repository(repository: &WireRepository<'_>) -> Result<Option<Repository>, ParsePayloadError> {
    let name = match (
        repository.repo_full_name.get(),
        repository.namespace.get(),
        repository.name.get(),
    ) {
        (Some(name), _, _) => Repository::parse(name),
        (None, Some(namespace), Some(name)) => Repository::try_from(format!("{namespace}/{name}")),
        _ => return Ok(None),
    };
    name.map(Some).map_err(|_| NO_REPOSITORY)
}

fn push(
    resource: &WireResource<'_>,
    repository: Option<Repository>,
    info: EventInfo,
) -> Result<Event, ParsePayloadError> {
    let (host, path) = resource.resource_url.get().map_or((None, None), |it| {
        divide(it, repository.as_ref().map(Repository::as_str))
    });
    let repository = repository
        .or_else(|| Repository::parse(path?.split(['@', ':']).next()?).ok())
        .ok_or(NO_REPOSITORY)?;
    let digest = resource.digest.digest();
    let tag = match resource.tag.get() {
        // The tag of a manifest that was pushed by digest is the digest (goharbor/harbor#19982).
        Some(tag) if is_digest(tag) => None,
        Some(tag) => Some(
            Tag::parse(tag)
                .map_err(|_| ParsePayloadError::missing("tag", "resources[].tag of the data"))?,
        ),
        None => None,
    };
    if tag.is_none() && digest.is_none() {
        return Err(ParsePayloadError::missing(
            "tag or digest",
            "resources[].tag or .digest of the data",
        ));
    }
    Ok(Event::Push(PushEvent {
        registry: host.into(),
        repository,
        tag,
        digest,
        content: Content::Image,
        info,
    }))
}

/// Splits `host[:port]/project/repository:tag`, with or without a scheme, into the host and the rest. Text that starts
/// with the repository has no host.
fn divide<'a>(
    resource_url: &'a str,
    repository: Option<&str>,
) -> (Option<&'a str>, Option<&'a str>) {
    let rest = resource_url
        .strip_prefix("https://")
        .or_else(|| resource_url.strip_prefix("http://"))
        .unwrap_or(resource_url);
    let behind = repository.and_then(|it| rest.strip_prefix(it));
    let has_no_host = behind.is_some_and(|it| it.is_empty() || it.starts_with(['@', ':']));
    match rest.split_once('/') {
        Some((host, path)) if !host.is_empty() && !has_no_host => (Some(host), Some(path)),
        _ => (None, None),
    }
}

fn sample(push: &SamplePush<'_>) -> Sample {
    let image = push.image;
    let path = image.repository.as_str();
    let (namespace, name) = path.split_once('/').unwrap_or(("library", path));
    let digest = image.pin.digest().map(Digest::as_str);
    let (tag, separator) = match (image.pin.tag(), digest) {
        (Some(tag), _) => (tag.as_str(), ':'),
        (None, digest) => (digest.unwrap_or_default(), '@'),
    };
    let body = json!({
        "type": "PUSH_ARTIFACT",
        "occur_at": push.at.as_second(),
        "operator": "scanhook-send",
        "event_data": {
            "resources": [{
                "digest": digest.unwrap_or_default(),
                "tag": tag,
                "resource_url": format!("{}{separator}{tag}", image.name()),
            }],
            "repository": {
                "date_created": push.at.as_second(), "name": name, "namespace": namespace,
                "repo_full_name": path, "repo_type": "private",
            },
        },
    });
    Sample {
        headers: json_headers(),
        body: body.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn parse(body: &str) -> String {
        crate::kinds::tests::parse(&KIND, &[], body.as_bytes())
    }

    fn default_format(event_type: &str, resources: &str) -> String {
        format!(
            r#"{{"type":"{event_type}","occur_at":1680501893,"operator":"robot$ci","event_data":{{"resources":{resources},"repository":{{"repo_full_name":"prod/api","namespace":"prod","name":"api"}}}}}}"#
        )
    }

    #[test]
    fn each_resource_of_a_push_is_an_image() {
        let resources = format!(
            r#"[{{"digest":"{DIGEST}","tag":"1","resource_url":"h.example.com:8443/prod/api:1"}},{{"digest":"sha256:short","tag":"2","resource_url":"https://h.example.com/prod/api:2"}}]"#
        );
        insta::assert_snapshot!(parse(&default_format("PUSH_ARTIFACT", &resources)), @r"
        Image h.example.com:8443/prod/api tag=1 digest=sha256:012345 type=PUSH_ARTIFACT id=- actor=robot$ci at=2023-04-03T06:04:53Z
        Image h.example.com/prod/api tag=2 digest=- type=PUSH_ARTIFACT id=- actor=robot$ci at=2023-04-03T06:04:53Z
        ");
    }

    #[test]
    fn cloud_events_contain_the_same_in_data() {
        let body = format!(
            r#"{{"specversion":"1.0","id":"ce-1","type":"harbor.artifact.pushed","time":"2023-04-03T06:16:38Z","operator":"admin","data":{{"resources":[{{"digest":"{DIGEST}","tag":"{DIGEST}","resource_url":"h.example.com/prod/api@{DIGEST}"}}],"repository":{{"namespace":"prod","name":"api"}}}}}}"#
        );
        insta::assert_snapshot!(parse(&body), @"Image h.example.com/prod/api tag=- digest=sha256:012345 type=harbor.artifact.pushed id=ce-1 actor=admin at=2023-04-03T06:16:38Z");
    }

    #[test]
    fn a_digest_of_any_algorithm_is_not_a_tag() {
        let digest = format!("sha512:{}", "0123456789abcdef".repeat(8));
        let resources = format!(r#"[{{"digest":"{digest}","tag":"{digest}"}}]"#);
        let parsed = parse(&default_format("PUSH_ARTIFACT", &resources));
        assert!(
            parsed.starts_with("Image -/prod/api tag=- digest=sha512:012345 "),
            "{parsed}"
        );
    }

    #[test]
    fn a_resource_names_the_repository_if_nothing_else_does() {
        let of = |url: &str| {
            parse(&format!(
                r#"{{"type":"PUSH_ARTIFACT","event_data":{{"resources":[{{"tag":"1","digest":"{DIGEST}","resource_url":"{url}"}}]}}}}"#
            ))
        };
        for url in [
            "h.example.com:8443/prod/sub/api:1".to_owned(),
            format!("https://h.example.com:8443/prod/sub/api@{DIGEST}"),
        ] {
            assert!(
                of(&url).starts_with("Image h.example.com:8443/prod/sub/api tag=1 "),
                "{url}"
            );
        }
        for url in ["h.example.com", "/prod/api:1", "h.example.com/-api:1", ""] {
            assert!(of(url).starts_with("400 "), "{url}");
        }
    }

    #[test]
    fn a_resource_without_a_host_names_none() {
        for url in ["prod/api", "prod/api:1"] {
            let resources = format!(r#"[{{"tag":"1","resource_url":"{url}"}}]"#);
            let parsed = parse(&default_format("PUSH_ARTIFACT", &resources));
            assert!(parsed.starts_with("Image -/prod/api tag=1 "), "{parsed}");
        }
    }

    #[test]
    fn other_events_are_not_pushes() {
        for event_type in [
            "PULL_ARTIFACT",
            "DELETE_ARTIFACT",
            "SCANNING_COMPLETED",
            "QUOTA_EXCEED",
            "REPLICATION",
            "TAG_RETENTION",
            "harbor.artifact.pulled",
            "NEW",
        ] {
            assert_eq!(
                parse(&default_format(event_type, r#"[{"digest":"x"}]"#)),
                "not_a_push"
            );
        }
        assert_eq!(parse(&default_format("PUSH_ARTIFACT", "[]")), "not_a_push");
        assert_eq!(
            parse(&default_format("PUSH_ARTIFACT", "null")),
            "not_a_push"
        );
        assert_eq!(
            parse(r#"{"type":"TAG_RETENTION","event_data":null}"#),
            "not_a_push"
        );
    }

    #[test]
    fn a_broken_resource_does_not_affect_the_others() {
        let resources = r#"[{"tag":"1"},{},{"tag":"$(id)"},7]"#;
        insta::assert_snapshot!(parse(&default_format("PUSH_ARTIFACT", resources)), @"
        Image -/prod/api tag=1 digest=- type=PUSH_ARTIFACT id=- actor=robot$ci at=2023-04-03T06:04:53Z
        malformed the payload names no valid tag or digest, looked for at resources[].tag or .digest of the data
        malformed the payload names no valid tag, looked for at resources[].tag of the data
        malformed the payload names no valid tag or digest, looked for at resources[].tag or .digest of the data
        ");
    }

    #[test]
    fn a_push_without_a_valid_image_name_is_refused() {
        for resources in [
            r"[{}]",
            r#"[{"tag":"$(id)"}]"#,
            r#"[{"tag":"sha256:short"}]"#,
            r#"[{"tag":"1","tag":"2"}]"#,
        ] {
            assert!(
                parse(&default_format("PUSH_ARTIFACT", resources)).starts_with("400 "),
                "{resources}"
            );
        }
        let good = default_format("PUSH_ARTIFACT", r#"[{"tag":"1"}]"#);
        assert!(parse(&good).starts_with("Image -/prod/api"));
        assert!(parse(&good.replace("prod/api", "-prod/api")).starts_with("400 "));
        for body in [
            "",
            "[]",
            "{}",
            r#"{"type":7}"#,
            r#"{"type":"PUSH_ARTIFACT","type":"PULL_ARTIFACT"}"#,
        ] {
            assert!(parse(body).starts_with("400 "), "{body}");
        }
    }
}
