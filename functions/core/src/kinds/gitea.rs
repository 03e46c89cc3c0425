//! Gitea, Forgejo and Codeberg: `package` events, signed with HMAC-SHA-256. They contain neither digest nor media type.
//!
//! Gitea also sends the headers of GitHub and Gogs, and empty signatures if no secret is set. It never repeats a
//! delivery. Source: go-gitea/gitea, `services/webhook/{deliver,notifier}.go`.

use std::time::Duration;

use http::HeaderName;
use serde::Deserialize;
use serde_json::json;

use super::{HmacPreset, Json, Kind, Options, Sample, SamplePush, json_headers};
use crate::auth::VerifiedDelivery;
use crate::auth::{Algorithm, Encoding};
use crate::event::{Content, Event, EventInfo, ParsePayloadError, PushEvent, SkipReason};
use crate::image::{Repository, Tag};
use crate::wire::{Instant, Text, object};

pub(super) static KIND: Kind = Kind {
    name: "gitea",
    title: "Gitea, Forgejo",
    default_registry: None,
    example_registry: "gitea.example.com",
    answer_budget: |_| Duration::from_secs(4),
    auth: &["hmac", "token"],
    hmac: Some(HmacPreset {
        header: "x-gitea-signature",
        algorithm: Algorithm::Sha256,
        encoding: Encoding::Hex,
        prefix: "",
    }),
    envelopes: &["native"],
    events: &[],
    repo_key: false,
    handshake: false,
    parse,
    sample,
    signs: "the body (HMAC-SHA-256)",
    repeats: "waits 5 s and never repeats: a 503 or a wrong secret loses the push",
    setup: "\
In Gitea, in the owner's settings (a repository's webhooks fire for linked packages only): Webhooks, Add Webhook, Gitea
  Target URL    {url}
  HTTP method   POST, application/json
  Secret        <the secret>
  Trigger on    Custom events: Package
Gitea never repeats a delivery. It posts to private addresses only if ALLOWED_HOST_LIST names them.",
};

static DELIVERY_ID: HeaderName = HeaderName::from_static("x-gitea-delivery");

#[derive(Deserialize)]
struct WireHook<'a> {
    #[serde(borrow, default)]
    action: Text<'a>,
    /// Absent in all other events, including the test delivery.
    #[serde(borrow)]
    package: Option<WirePackage<'a>>,
    #[serde(borrow, default, deserialize_with = "object")]
    sender: WireUser<'a>,
}

#[derive(Deserialize)]
struct WirePackage<'a> {
    #[serde(borrow, default, rename = "type")]
    package_type: Text<'a>,
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow, default)]
    version: Text<'a>,
    #[serde(borrow, default)]
    html_url: Text<'a>,
    #[serde(default)]
    created_at: Instant,
    #[serde(borrow, default, deserialize_with = "object")]
    owner: WireUser<'a>,
}

#[derive(Deserialize, Default)]
struct WireUser<'a> {
    #[serde(borrow, default)]
    login: Text<'a>,
}

super::bare_parse_into!(WireHook);

fn parse(delivery: &VerifiedDelivery, _: &Options) -> Result<Vec<Event>, ParsePayloadError> {
    let body = Json::of(delivery.body());
    let hook: WireHook<'_> = body.object()?;
    let Some(package) = hook
        .package
        .filter(|_| hook.action.get() == Some("created"))
    else {
        return Ok(vec![Event::Other(SkipReason::NotAPush)]);
    };
    if package.package_type.get() != Some("container") {
        return Ok(vec![Event::Other(SkipReason::NotAnImage)]);
    }
    let (owner, name) = (
        package
            .owner
            .login
            .get()
            .ok_or(ParsePayloadError::missing("owner", "package.owner.login"))?,
        package
            .name
            .get()
            .ok_or(ParsePayloadError::missing("name", "package.name"))?,
    );
    let repository = Repository::try_from(format!("{owner}/{name}").to_ascii_lowercase())
        .map_err(|_| ParsePayloadError::missing("name", "package.name"))?;
    let (tag, digest) = (package.version.tag(), package.version.digest());
    if tag.is_none() && digest.is_none() {
        return Err(ParsePayloadError::missing("version", "package.version"));
    }
    let host = package
        .html_url
        .get()
        .and_then(|it| it.split_once("://"))
        .and_then(|(_, it)| it.split('/').next());
    Ok(vec![Event::Push(PushEvent {
        registry: host.filter(|it| !it.is_empty()).into(),
        repository,
        tag,
        digest,
        content: Content::Image,
        info: EventInfo::new(
            "created",
            delivery.header(&DELIVERY_ID),
            hook.sender.login.get(),
            package.created_at.0,
        ),
    })])
}

fn sample(push: &SamplePush<'_>) -> Sample {
    let image = push.image;
    let (owner, name) = image
        .repository
        .as_str()
        .split_once('/')
        .unwrap_or(("owner", image.repository.as_str()));
    let version = image.pin.tag().map_or("latest", Tag::as_str);
    let body = json!({
        "action": "created",
        "package": {
            "id": 1, "type": "container", "name": name, "version": version,
            "html_url": format!("https://{}/{owner}/-/packages/container/{name}/{version}", image.registry),
            "created_at": push.at, "owner": {"login": owner}, "creator": {"login": "scanhook-send"},
        },
        "organization": null,
        "sender": {"login": "scanhook-send"},
    });
    let mut headers = json_headers();
    headers.push((
        HeaderName::from_static("x-gitea-event"),
        "package".to_owned(),
    ));
    headers.push((
        HeaderName::from_static("x-github-event"),
        "package".to_owned(),
    ));
    headers.push((DELIVERY_ID.clone(), push.id.to_owned()));
    Sample {
        headers,
        body: body.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str) -> String {
        crate::kinds::tests::parse(&KIND, &[("x-gitea-delivery", "d")], body.as_bytes())
    }

    fn package(action: &str, package_type: &str, version: &str) -> String {
        format!(
            r#"{{"action":"{action}","package":{{"type":"{package_type}","name":"App","version":"{version}","html_url":"https://git.example.com:3000/sub/Team/-/packages","created_at":"2026-11-21T20:00:00+01:00","owner":{{"login":"Team"}}}},"sender":{{"login":"jane"}}}}"#
        )
    }

    #[test]
    fn a_created_container_is_a_push_under_its_lower_case_name() {
        insta::assert_snapshot!(check(&package("created", "container", "v1")), @"Image git.example.com:3000/team/app tag=v1 digest=- type=created id=d actor=jane at=2026-11-21T19:00:00Z");
        let digest = format!("sha256:{}", "ab".repeat(32));
        assert!(
            check(&package("created", "container", &digest)).contains("tag=- digest=sha256:ababab")
        );
    }

    #[test]
    fn other_events_are_not_pushes() {
        assert_eq!(check(&package("deleted", "container", "v1")), "not_a_push");
        assert_eq!(check(&package("created", "npm", "v1")), "not_an_image");
        assert_eq!(
            check(r#"{"ref":"refs/heads/main","commits":[]}"#),
            "not_a_push"
        );
    }

    #[test]
    fn a_push_without_a_valid_image_name_is_refused() {
        let good = package("created", "container", "v1");
        for (part, other) in [
            ("\"App\"", "\"-x\""),
            ("\"App\"", "7"),
            ("\"v1\"", "\"$(id)\""),
            ("\"login\"", "\"name\""),
            ("\"type\"", "\"name\""),
        ] {
            assert!(
                check(&good.replace(part, other)).starts_with("400 "),
                "{other}"
            );
        }
    }
}
