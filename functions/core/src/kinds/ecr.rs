//! Amazon ECR. It has no webhooks: EventBridge sends its events through an API destination, or as CloudEvents that an
//! input transformer makes.
//!
//! EventBridge waits 5 seconds and retries only after 429, 5xx and timeouts. Sources: Amazon ECR user guide, "Sample
//! events"; EventBridge user guide, "API destinations".

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::{Json, Kind, Options, Sample, SamplePush};
use crate::auth::VerifiedDelivery;
use crate::ecr::{EcrHost, is_account};
use crate::event::{
    Content, Event, EventInfo, NamedRegistry, ParsePayloadError, PushEvent, SkipReason,
};
use crate::image::Repository;
use crate::wire::{Instant, Text, object};

pub(super) static KIND: Kind = Kind {
    name: "ecr",
    title: "Amazon ECR",
    default_registry: None,
    example_registry: "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
    answer_budget: |_| Duration::from_secs(4),
    auth: &["token", "basic"],
    hmac: None,
    envelopes: &["EventBridge", "CloudEvents"],
    events: &["replication"],
    repo_key: false,
    handshake: false,
    parse,
    sample,
    signs: "nothing; EventBridge sends the connection's API key or basic credentials",
    repeats: "waits 5 s; repeats for 24 h after 429, 5xx and time-outs, but never after another 4xx",
    setup: "\
In EventBridge, in the registry's account and region:
  Connection       API key: header Authorization, value <the secret>
  API destination  POST {url}
  Rule             {\"source\":[\"aws.ecr\"],\"detail-type\":[\"ECR Image Action\"],
                    \"detail\":{\"action-type\":[\"PUSH\"],\"result\":[\"SUCCESS\"]}}, target: the API destination, with a dead-letter queue",
};

/// An EventBridge event or a CloudEvent.
#[derive(Deserialize)]
struct WireEvent<'a> {
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(default)]
    time: Instant,
    #[serde(borrow, default)]
    account: Text<'a>,
    #[serde(borrow, default)]
    region: Text<'a>,
    #[serde(borrow, default, rename = "detail-type")]
    detail_type: Text<'a>,
    #[serde(borrow, default, deserialize_with = "object")]
    detail: WireDetail<'a>,
    #[serde(borrow, default, rename = "type")]
    cloud_event_type: Text<'a>,
    #[serde(borrow, default)]
    source: Text<'a>,
    #[serde(borrow, default, deserialize_with = "object")]
    data: WireData<'a>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct WireDetail<'a> {
    #[serde(borrow, default)]
    result: Text<'a>,
    #[serde(borrow, default)]
    action_type: Text<'a>,
    #[serde(borrow, default)]
    repository_name: Text<'a>,
    #[serde(borrow, default)]
    image_digest: Text<'a>,
    #[serde(borrow, default)]
    image_tag: Text<'a>,
    /// The config's type.
    #[serde(borrow, default)]
    artifact_media_type: Text<'a>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct WireData<'a> {
    #[serde(borrow, default)]
    registry_id: Text<'a>,
    #[serde(borrow, default)]
    repository_name: Text<'a>,
    #[serde(borrow, default)]
    image_digest: Text<'a>,
    #[serde(borrow, default)]
    image_tag: Text<'a>,
}

super::bare_parse_into!(WireEvent);

fn parse(delivery: &VerifiedDelivery, options: &Options) -> Result<Vec<Event>, ParsePayloadError> {
    let body = Json::of(delivery.body());
    let event: WireEvent<'_> = body.object()?;
    let detail = &event.detail;
    let is_push = match (event.detail_type.get(), event.cloud_event_type.get()) {
        (Some("ECR Image Action"), _) => detail.action_type.get() == Some("PUSH"),
        // A replica is an image of another registry, which is scanned there, unless the source asks for replicas.
        (Some("ECR Replication Action"), _) => options.has_event("replication"),
        (None, Some("com.amazon.ecr.image.push")) => return cloud_event(&event),
        (Some(_), _) | (None, Some(_)) => false,
        (None, None) => return Err(ParsePayloadError::missing("event type", "detail-type")),
    };
    if !is_push || detail.result.get() != Some("SUCCESS") {
        return Ok(vec![Event::Other(SkipReason::NotAPush)]);
    }
    let content = Content::of_manifest(detail.artifact_media_type.get(), []);
    let name = [
        &detail.repository_name,
        &detail.image_tag,
        &detail.image_digest,
    ];
    push(
        &event,
        event.account.get(),
        event.region.get(),
        name,
        content,
    )
}

/// `source` is `urn:aws:ecr:REGION:ACCOUNT:repository/NAME`.
fn cloud_event(event: &WireEvent<'_>) -> Result<Vec<Event>, ParsePayloadError> {
    let data = &event.data;
    let part = |index| event.source.get().and_then(|it| it.split(':').nth(index));
    let account = data.registry_id.get().or(part(4));
    let name = [&data.repository_name, &data.image_tag, &data.image_digest];
    push(event, account, part(3), name, Content::Image)
}

fn push(
    event: &WireEvent<'_>,
    account: Option<&str>,
    region: Option<&str>,
    [repository, tag, digest]: [&Text<'_>; 3],
    content: Content,
) -> Result<Vec<Event>, ParsePayloadError> {
    let repository = repository.get().and_then(|it| Repository::parse(it).ok());
    let account = account
        .filter(|it| is_account(it))
        .ok_or(ParsePayloadError::missing(
            "account",
            "account, or data.registryId or source of a CloudEvent",
        ))?;
    let region = region
        .filter(|it| {
            it.bytes()
                .all(|it| it.is_ascii_alphanumeric() || it == b'-')
        })
        .ok_or(ParsePayloadError::missing(
            "region",
            "region, or source of a CloudEvent",
        ))?;
    if tag.get().is_none() && digest.get().is_none() {
        return Err(ParsePayloadError::missing(
            "tag or digest",
            "detail.image-tag or detail.image-digest",
        ));
    }
    Ok(vec![Event::Push(PushEvent {
        registry: NamedRegistry::Ecr {
            account: account.to_owned(),
            region: region.to_owned(),
        },
        repository: repository.ok_or(ParsePayloadError::missing(
            "repository",
            "detail.repository-name",
        ))?,
        tag: tag.tag(),
        digest: digest.digest(),
        content,
        info: EventInfo::new("PUSH", event.id.get(), None, event.time.0),
    })])
}

fn sample(push: &SamplePush<'_>) -> Sample {
    let image = push.image;
    let host = EcrHost::parse(&image.registry);
    let (account, region) = host.map_or(("", ""), |it| (it.account, it.region));
    let body = json!({
        "version": "0", "id": push.id, "detail-type": "ECR Image Action", "source": "aws.ecr",
        "account": account, "time": push.at, "region": region, "resources": [],
        "detail": {
            "result": "SUCCESS", "action-type": "PUSH",
            "repository-name": image.repository, "image-digest": image.pin.digest(), "image-tag": image.pin.tag(),
            "manifest-media-type": "application/vnd.oci.image.manifest.v1+json",
            "artifact-media-type": "application/vnd.oci.image.config.v1+json",
        },
    });
    let content_type = "application/json; charset=utf-8".to_owned();
    Sample {
        headers: vec![(http::header::CONTENT_TYPE, content_type)],
        body: body.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tests::{parse as check_with, parse_with};

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn check(body: &str) -> String {
        check_with(&KIND, &[], body.as_bytes())
    }

    fn event(detail_type: &str, action: &str, more: &str) -> String {
        format!(
            r#"{{"id":"e","detail-type":"{detail_type}","account":"123456789012","region":"eu-central-1","time":"2026-11-21T20:00:00Z","detail":{{"result":"SUCCESS","action-type":"{action}","repository-name":"team/app","image-digest":"{DIGEST}"{more}}}}}"#
        )
    }

    #[test]
    fn a_push_belongs_to_the_registry_of_its_account_and_region() {
        let tagged = event("ECR Image Action", "PUSH", r#","image-tag":"v1""#);
        insta::assert_snapshot!(check(&tagged), @"Image account 123456789012 in eu-central-1/team/app tag=v1 digest=sha256:012345 type=PUSH id=e actor=- at=2026-11-21T20:00:00Z");
        insta::assert_snapshot!(check(&event("ECR Image Action", "PUSH", r#","image-tag":"""#)), @"Image account 123456789012 in eu-central-1/team/app tag=- digest=sha256:012345 type=PUSH id=e actor=- at=2026-11-21T20:00:00Z");
    }

    #[test]
    fn a_chart_is_recognised_by_its_artifact_media_type() {
        let chart = event(
            "ECR Image Action",
            "PUSH",
            r#","artifact-media-type":"application/vnd.cncf.helm.config.v1+json""#,
        );
        assert!(check(&chart).starts_with("Artifact "));
    }

    #[test]
    fn a_cloud_event_of_a_push_is_accepted() {
        let body = r#"{"specversion":"1.0","id":"c","type":"com.amazon.ecr.image.push","source":"urn:aws:ecr:us-east-1:123456789012:repository/my-repo","data":{"repositoryName":"my-repo","imageTag":"v1","registryId":"123456789012"}}"#;
        insta::assert_snapshot!(check(body), @"Image account 123456789012 in us-east-1/my-repo tag=v1 digest=- type=PUSH id=c actor=- at=-");
        let without_account = body.replace(r#","registryId":"123456789012""#, "");
        assert_eq!(check(&without_account), check(body));
    }

    #[test]
    fn other_events_are_not_pushes() {
        for (detail_type, action) in [
            ("ECR Image Action", "DELETE"),
            ("ECR Image Action", "UPDATE_STORAGE_CLASS"),
            ("ECR Image Scan", ""),
            ("ECR Scan Resource Change", ""),
            ("ECR Referrer Action", "PUSH"),
            ("ECR Replication Action", "REPLICATE"),
            ("ECR Pull Through Cache Action", ""),
        ] {
            assert_eq!(
                check(&event(detail_type, action, "")),
                "not_a_push",
                "{detail_type} {action}"
            );
        }
        assert_eq!(
            check(&event("ECR Image Action", "PUSH", "").replace("SUCCESS", "FAILURE")),
            "not_a_push"
        );
        let options = Options {
            events: vec!["replication".to_owned()],
            ..Options::default()
        };
        let replica = event(
            "ECR Replication Action",
            "REPLICATE",
            r#","image-tag":"v1""#,
        );
        assert!(parse_with(&KIND, &options, &[], replica.as_bytes()).starts_with("Image "));
    }

    #[test]
    fn a_push_without_a_valid_image_name_is_refused() {
        let good = event("ECR Image Action", "PUSH", "");
        for (part, other) in [
            ("123456789012", "12345"),
            ("eu-central-1", "evil.com:1"),
            ("eu-central-1", ""),
            ("team/app", "-x"),
            ("\"repository-name\"", "\"name\""),
            ("\"image-digest\"", "\"digest\""),
        ] {
            assert!(
                check(&good.replace(part, other)).starts_with("400 "),
                "{other}"
            );
        }
        assert!(check("{}").starts_with("400 "));
        assert!(check(&good.replace("\"region\"", "\"account\"")).starts_with("400 "));
    }
}
