//! GitHub's container registry: `package` events (repository and organisation hooks) and `registry_package` events
//! (GitHub Apps). They are signed with HMAC-SHA-256, and sent as JSON or as a form whose raw bytes are signed.
//!
//! The event type is read from the body, because `X-GitHub-Event` isn't signed. Source: docs.github.com, "Webhook
//! events and payloads" and "Validating webhook deliveries".

use std::borrow::Cow;
use std::time::Duration;

use http::HeaderName;
use serde::Deserialize;
use serde_json::json;

use super::{HmacPreset, Json, Kind, Options, Sample, SamplePush};
use crate::auth::VerifiedDelivery;
use crate::auth::{Algorithm, Encoding};
use crate::event::{
    Content, Event, EventInfo, NamedRegistry, ParsePayloadError, PushEvent, SkipReason,
};
use crate::image::{Digest, Repository, Tag};
use crate::wire::{Instant, Text, list_or_none, object};

pub(super) static KIND: Kind = Kind {
    name: "ghcr",
    title: "GitHub Container Registry",
    default_registry: Some("ghcr.io"),
    example_registry: "ghcr.io",
    answer_budget: |_| Duration::from_secs(8),
    auth: &["hmac"],
    hmac: Some(HmacPreset {
        header: "x-hub-signature-256",
        algorithm: Algorithm::Sha256,
        encoding: Encoding::Hex,
        prefix: "sha256=",
    }),
    envelopes: &["native", "native in a form"],
    events: &[],
    repo_key: false,
    handshake: false,
    parse,
    sample,
    signs: "the body (HMAC-SHA-256)",
    repeats: "waits 10 s and never repeats: a 503 or a wrong secret loses the push, unless it is redelivered under Recent Deliveries",
    setup: "\
On github.com, in the organisation's or repository's settings: Webhooks, Add webhook
  Payload URL   {url}
  Content type  application/json
  Secret        <the secret>
  Events        Packages (for a GitHub App: Registry packages)
GitHub never repeats a delivery by itself; redeliver failed ones under Recent Deliveries.",
};

static DELIVERY_ID: HeaderName = HeaderName::from_static("x-github-delivery");

#[derive(Deserialize)]
struct WireHook<'a> {
    #[serde(borrow, default)]
    action: Text<'a>,
    #[serde(borrow)]
    package: Option<WirePackage<'a>>,
    #[serde(borrow)]
    registry_package: Option<WirePackage<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    sender: WireAccount<'a>,
    #[serde(borrow, default)]
    zen: Text<'a>,
}

#[derive(Deserialize)]
struct WirePackage<'a> {
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow, default)]
    package_type: Text<'a>,
    #[serde(borrow, default, deserialize_with = "object")]
    owner: WireAccount<'a>,
    #[serde(borrow, default, deserialize_with = "object")]
    package_version: WireVersion<'a>,
}

#[derive(Deserialize, Default)]
struct WireAccount<'a> {
    #[serde(borrow, default)]
    login: Text<'a>,
}

#[derive(Deserialize, Default)]
struct WireVersion<'a> {
    #[serde(borrow, default)]
    version: Text<'a>,
    #[serde(borrow, default)]
    package_url: Text<'a>,
    #[serde(default)]
    updated_at: Instant,
    #[serde(default)]
    created_at: Instant,
    #[serde(borrow, default, deserialize_with = "object")]
    container_metadata: WireContainer<'a>,
}

#[derive(Deserialize, Default)]
struct WireContainer<'a> {
    #[serde(borrow, default, deserialize_with = "object")]
    tag: WireTag<'a>,
    #[serde(borrow, default, deserialize_with = "object")]
    manifest: WireManifest<'a>,
}

#[derive(Deserialize, Default)]
struct WireTag<'a> {
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow, default)]
    digest: Text<'a>,
}

#[derive(Deserialize, Default)]
struct WireManifest<'a> {
    #[serde(borrow, default)]
    digest: Text<'a>,
    #[serde(borrow, default, deserialize_with = "object")]
    config: WireDescriptor<'a>,
    #[serde(borrow, default, deserialize_with = "list_or_none")]
    layers: Vec<WireDescriptor<'a>>,
}

#[derive(Deserialize, Default)]
struct WireDescriptor<'a> {
    #[serde(borrow, default)]
    media_type: Text<'a>,
}

super::bare_parse_into!(WireHook);

fn parse(delivery: &VerifiedDelivery, _: &Options) -> Result<Vec<Event>, ParsePayloadError> {
    let payload = payload(delivery)?;
    let payload = Json::of(&payload);
    let hook: WireHook<'_> = payload.object()?;
    let Some(package) = hook.package.as_ref().or(hook.registry_package.as_ref()) else {
        let reason = if hook.zen.get().is_some() {
            SkipReason::Ping
        } else {
            SkipReason::NotAPush
        };
        return Ok(vec![Event::Other(reason)]);
    };
    let action = hook.action.get().unwrap_or_default();
    let package_type = package.package_type.get().unwrap_or_default();
    let is_container = ["container", "docker"]
        .iter()
        .any(|it| package_type.eq_ignore_ascii_case(it));
    if !is_container || !matches!(action, "published" | "updated") {
        return Ok(vec![Event::Other(SkipReason::NotAPush)]);
    }
    let version = &package.package_version;
    let container = &version.container_metadata;
    let Name {
        registry,
        repository,
        tag,
    } = name(package)?;
    let tag = match container.tag.name.get() {
        Some(_) => container.tag.name.tag(),
        // In an event without metadata, only the URL contains the tag.
        None => tag,
    };
    let digest = [
        &container.manifest.digest,
        &container.tag.digest,
        &version.version,
    ]
    .into_iter()
    .find_map(Text::digest);
    let layers = container.manifest.layers.iter();
    let layers = layers.map(|it| it.media_type.get());
    Ok(vec![Event::Push(PushEvent {
        registry,
        repository,
        tag,
        digest,
        content: Content::of_manifest(container.manifest.config.media_type.get(), layers),
        info: EventInfo::new(
            action,
            delivery.header(&DELIVERY_ID),
            hook.sender.login.get(),
            version.updated_at.0.or(version.created_at.0),
        ),
    })])
}

/// Returns the JSON of a delivery: the body, or the field `payload` of a form. The body itself decides, because the
/// content type isn't signed.
fn payload(delivery: &VerifiedDelivery) -> Result<Cow<'_, [u8]>, ParsePayloadError> {
    let body = delivery.body();
    if body.trim_ascii_start().starts_with(b"{") {
        return Ok(Cow::Borrowed(body));
    }
    let mut fields = form_urlencoded::parse(body).filter(|(name, _)| name == "payload");
    match (fields.next(), fields.next()) {
        (Some((_, payload)), None) => Ok(Cow::Owned(payload.into_owned().into_bytes())),
        _ => Err(ParsePayloadError::malformed(
            ".",
            "neither an object nor a form with one field `payload`",
        )),
    }
}

/// What a package's URL, or its owner and name, contain.
struct Name {
    registry: NamedRegistry,
    repository: Repository,
    tag: Option<Tag>,
}

/// Reads the package's URL, which ends with a colon if there is no tag. Without a URL, reads owner and name.
fn name(package: &WirePackage<'_>) -> Result<Name, ParsePayloadError> {
    const MISSING: ParsePayloadError = ParsePayloadError::missing(
        "name",
        "package_version.package_url, or owner.login and name of the package",
    );
    let url = package
        .package_version
        .package_url
        .get()
        .map(|it| it.split_once("://").map_or(it, |(_, rest)| rest))
        .and_then(|it| it.split_once('/'));
    let (host, path, tag) = match (url, package.owner.login.get(), package.name.get()) {
        (Some((host, path)), _, _) => {
            let path = path.split('@').next().unwrap_or_default();
            let (path, tag) = path.split_once(':').unwrap_or((path, ""));
            (Some(host), path.to_ascii_lowercase(), Tag::parse(tag).ok())
        }
        (None, Some(owner), Some(name)) => {
            (None, format!("{owner}/{name}").to_ascii_lowercase(), None)
        }
        _ => return Err(MISSING),
    };
    Ok(Name {
        registry: host.into(),
        repository: Repository::try_from(path).map_err(|_| MISSING)?,
        tag,
    })
}

fn sample(push: &SamplePush<'_>) -> Sample {
    let image = push.image;
    let (owner, name) = image
        .repository
        .as_str()
        .split_once('/')
        .unwrap_or(("owner", image.repository.as_str()));
    let digest = image.pin.digest();
    let tag = image.pin.tag().map_or("", Tag::as_str);
    let version = digest.map_or("", Digest::as_str);
    let body = json!({
        "action": "published",
        "package": {
            "id": 1, "name": name, "namespace": owner, "ecosystem": "CONTAINER", "package_type": "CONTAINER",
            "owner": {"login": owner, "type": "Organization"},
            "package_version": {
                "id": 1, "version": version, "name": version,
                "created_at": push.at, "updated_at": push.at,
                "package_url": format!("{}/{}:{tag}", image.registry, image.repository),
                "container_metadata": {
                    "tag": {"name": tag, "digest": version},
                    "labels": {},
                    "manifest": {
                        "digest": version,
                        "media_type": "application/vnd.oci.image.manifest.v1+json",
                        "config": {"media_type": "application/vnd.oci.image.config.v1+json"},
                    },
                },
            },
            "registry": {"name": "GitHub CONTAINER registry", "type": "CONTAINER", "vendor": "GitHub Inc"},
        },
        "sender": {"login": "scanhook-send"},
    });
    let mut headers = super::json_headers();
    headers.push((DELIVERY_ID.clone(), push.id.to_owned()));
    headers.push((
        HeaderName::from_static("x-github-event"),
        "package".to_owned(),
    ));
    Sample {
        headers,
        body: body.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tests::parse as check;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn parse(body: &str) -> String {
        check(
            &KIND,
            &[("x-github-delivery", "d-1"), ("x-github-event", "package")],
            body.as_bytes(),
        )
    }

    fn package(key: &str, action: &str, package_type: &str, version: &str) -> String {
        format!(
            r#"{{"action":"{action}","{key}":{{"name":"App/Sub","package_type":"{package_type}","owner":{{"login":"Team"}},"package_version":{version}}},"sender":{{"login":"ci"}}}}"#
        )
    }

    #[test]
    fn both_event_shapes_and_both_actions_are_pushes() {
        let version = format!(
            r#"{{"package_url":"ghcr.io/Team/App:v1","created_at":"0001-01-01T00:00:00Z","container_metadata":{{"tag":{{"name":"v1","digest":"{DIGEST}"}}}}}}"#
        );
        for (key, action, package_type) in [
            ("package", "published", "CONTAINER"),
            ("registry_package", "updated", "docker"),
        ] {
            assert_eq!(
                parse(&package(key, action, package_type, &version)),
                format!(
                    "Image ghcr.io/team/app tag=v1 digest=sha256:012345 type={action} id=d-1 actor=ci at=-"
                ),
            );
        }
    }

    #[test]
    fn a_url_that_ends_with_a_colon_is_untagged_and_a_digest_never_becomes_a_tag() {
        let version = format!(
            r#"{{"version":"{DIGEST}","name":"{DIGEST}","package_url":"ghcr.io/team/app:","container_metadata":{{"tag":{{"name":""}},"manifest":null}}}}"#
        );
        insta::assert_snapshot!(parse(&package("package", "published", "container", &version)), @"Image ghcr.io/team/app tag=- digest=sha256:012345 type=published id=d-1 actor=ci at=-");
    }

    #[test]
    fn without_a_url_owner_and_name_are_the_repository() {
        insta::assert_snapshot!(
            parse(&package("package", "published", "container", r#"{"name":"v2","container_metadata":{"tag":{"name":"v2"}}}"#)),
            @"Image -/team/app/sub tag=v2 digest=- type=published id=d-1 actor=ci at=-"
        );
    }

    #[test]
    fn a_chart_is_recognised_by_its_config_type() {
        let version = r#"{"container_metadata":{"tag":{"name":"1"},"manifest":{"config":{"media_type":"application/vnd.cncf.helm.config.v1+json"}}}}"#;
        assert!(
            parse(&package("package", "published", "container", version)).starts_with("Artifact ")
        );
    }

    #[test]
    fn other_events_are_recognised_by_the_body_alone() {
        assert_eq!(
            parse(r#"{"zen":"Keep it logically awesome.","hook_id":1}"#),
            "ping"
        );
        assert_eq!(parse(r#"{"action":"opened","issue":{}}"#), "not_a_push");
        assert_eq!(
            parse(&package("package", "deleted", "container", "{}")),
            "not_a_push"
        );
        assert_eq!(
            parse(&package("package", "published", "npm", "{}")),
            "not_a_push"
        );
        assert!(
            parse(&package(
                "package",
                "published",
                "container",
                r#"{"package_url":"ghcr.io/$(id)/x:1"}"#
            ))
            .starts_with("400 ")
        );
        assert!(
            parse(r#"{"action":"published","package":{"package_type":"container"}}"#)
                .starts_with("400 ")
        );
        assert!(parse(r#"{"action":"published","action":"deleted"}"#).starts_with("400 "));
    }

    #[test]
    fn a_form_contains_the_same_json_in_one_payload_field() {
        let json = package(
            "package",
            "published",
            "container",
            r#"{"container_metadata":{"tag":{"name":"v2"}}}"#,
        );
        let form: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("payload", &json)
            .finish();
        for content_type in [
            "application/x-www-form-urlencoded",
            "Application/X-WWW-Form-Urlencoded; charset=utf-8",
            "text/plain",
        ] {
            let headers = [("content-type", content_type)];
            for body in [&form, &json] {
                assert_eq!(
                    check(&KIND, &headers, body.as_bytes()),
                    "Image -/team/app/sub tag=v2 digest=- type=published id=- actor=ci at=-"
                );
            }
        }
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        for wrong in [
            format!("{form}&{form}"),
            "other=1".to_owned(),
            String::new(),
            "payload=%7B".to_owned(),
        ] {
            assert!(
                check(&KIND, &headers, wrong.as_bytes()).starts_with("400 "),
                "{wrong}"
            );
        }
    }
}
