//! JFrog Artifactory: predefined webhooks of the domain `docker`. The payload names no registry host.
//!
//! Sources: JFrog's documentation of webhooks, "Docker domain"; jfrog/terraform-provider-artifactory, `docker_webhook`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::{HmacPreset, Json, Kind, Options, RepoKey, Sample, SamplePush, json_headers};
use crate::auth::VerifiedDelivery;
use crate::auth::{Algorithm, Encoding};
use crate::event::{
    Content, Event, EventInfo, NamedRegistry, ParsePayloadError, PushEvent, SkipReason,
};
use crate::image::{Digest, Repository, Tag};
use crate::wire::{Text, object};

pub(super) static KIND: Kind = Kind {
    name: "artifactory",
    title: "JFrog Artifactory",
    default_registry: None,
    example_registry: "artifactory.example.com",
    answer_budget: |_| Duration::from_millis(2_500),
    auth: &["hmac", "token"],
    hmac: Some(HmacPreset {
        header: "x-jfrog-event-auth",
        algorithm: Algorithm::Sha256,
        encoding: Encoding::Hex,
        prefix: "",
    }),
    envelopes: &["native"],
    events: &["promoted"],
    repo_key: true,
    handshake: false,
    parse,
    sample,
    signs: "the body (HMAC-SHA-256) if payload signing is on; otherwise the same header contains the plain secret",
    repeats: "it repeats; how often and how long it waits is not documented",
    setup: "\
In Artifactory: Administration, Webhooks, New Webhook
  URL           {url}
  Events        Docker: tag was pushed
  Secret token  <the secret>
  Use secret for payload signing  on   (with `type: token, header: X-JFrog-Event-Auth`: off)
`repo_key: drop` for the sub-domain method, `repo_key: NAME` where people pull from a virtual repository.",
};

#[derive(Deserialize)]
struct WireHook<'a> {
    #[serde(borrow, default)]
    domain: Text<'a>,
    #[serde(borrow, default)]
    event_type: Text<'a>,
    #[serde(borrow, default, deserialize_with = "object")]
    data: WireData<'a>,
}

#[derive(Deserialize, Default)]
struct WireData<'a> {
    #[serde(borrow, default)]
    repo_key: Text<'a>,
    #[serde(borrow, default)]
    path: Text<'a>,
    #[serde(borrow, default)]
    sha256: Text<'a>,
    #[serde(borrow, default)]
    image_name: Text<'a>,
    #[serde(borrow, default)]
    tag: Text<'a>,
}

super::bare_parse_into!(WireHook);

fn parse(delivery: &VerifiedDelivery, options: &Options) -> Result<Vec<Event>, ParsePayloadError> {
    let body = Json::of(delivery.body());
    let hook: WireHook<'_> = body.object()?;
    let (Some(domain), Some(event_type)) = (hook.domain.get(), hook.event_type.get()) else {
        return Err(ParsePayloadError::missing(
            "event type",
            "domain or event_type",
        ));
    };
    let data = &hook.data;
    let is_wanted =
        event_type == "pushed" || event_type == "promoted" && options.has_event("promoted");
    if domain != "docker" || !is_wanted {
        return Ok(vec![Event::Other(SkipReason::NotAPush)]);
    }
    if data.repo_key.get() == Some("sample_repo") && data.sha256.get() == Some("sample_checksum") {
        return Ok(vec![Event::Other(SkipReason::Ping)]);
    }
    let digest = data
        .sha256
        .get()
        .and_then(|it| Digest::parse(&format!("sha256:{it}")).ok());
    if data.tag.get().is_none() && data.sha256.get().is_none() {
        return Err(ParsePayloadError::missing(
            "tag or digest",
            "data.tag or data.sha256",
        ));
    }
    // A manifest that was pushed by digest is in a folder of that name.
    let tag = data
        .tag
        .get()
        .filter(|it| !it.starts_with("sha256:") && !it.starts_with("sha256__"));
    let tag = tag
        .map(|it| Tag::parse(it).map_err(|_| ParsePayloadError::missing("tag", "data.tag")))
        .transpose()?;
    Ok(vec![Event::Push(PushEvent {
        registry: NamedRegistry::Unnamed,
        repository: repository(data, options)?,
        tag,
        digest,
        // `image_type` is also `oci` for images in an OCI repository.
        content: Content::Image,
        info: EventInfo::new(event_type, None, None, None),
    })])
}

/// Returns the repository's key and the path in it, without the last two segments: the tag's folder and the manifest.
fn repository<'a>(
    data: &'a WireData<'_>,
    options: &Options,
) -> Result<Repository, ParsePayloadError> {
    const MISSING: ParsePayloadError =
        ParsePayloadError::missing("repository", "data.path, data.image_name or data.repo_key");
    let folder = |it: &'a str| it.rsplit_once('/').map(|(it, _)| it);
    let image = match data.path.get() {
        Some(path) => folder(path).and_then(folder),
        // The name may be only the last segment. So it replaces a missing path, but not an unreadable one.
        None => data.image_name.get(),
    };
    let image = image.ok_or(MISSING)?;
    let name = match (&options.repo_key, data.repo_key.get()) {
        (Some(RepoKey::Drop), _) => image.to_owned(),
        (Some(RepoKey::Name(key)), _) => format!("{key}/{image}"),
        (Some(RepoKey::Keep) | None, Some(key)) => format!("{key}/{image}"),
        (Some(RepoKey::Keep) | None, None) => return Err(MISSING),
    };
    Repository::try_from(name).map_err(|_| MISSING)
}

fn sample(push: &SamplePush<'_>) -> Sample {
    let image = push.image;
    let path = image.repository.as_str();
    let (repo_key, name) = path.split_once('/').unwrap_or(("docker-local", path));
    let tag = image.pin.tag().map_or("latest", Tag::as_str);
    let body = json!({
        "domain": "docker",
        "event_type": "pushed",
        "data": {
            "repo_key": repo_key, "path": format!("{name}/{tag}/manifest.json"), "name": "manifest.json",
            "sha256": image.pin.digest().map(|it| it.parts().1), "size": 1024,
            "image_name": name, "tag": tag, "image_type": "docker",
            "platforms": [{"architecture": "amd64", "os": "linux"}],
        },
        "subscription_key": "scanhook",
        "source": "scanhook-send",
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

    fn push(data: &str) -> String {
        format!(
            r#"{{"domain":"docker","event_type":"pushed","data":{{"repo_key":"docker-local",{data}}}}}"#
        )
    }

    fn check(body: &str) -> String {
        parse_with(&KIND, &Options::default(), &[], body.as_bytes())
    }

    #[test]
    fn the_repository_is_the_key_and_the_path_without_tag_and_manifest() {
        let hex = "0123456789abcdef".repeat(4);
        let body = push(&format!(
            r#""path":"team/app/v1/list.manifest.json","sha256":"{hex}","image_name":"app","tag":"v1""#
        ));
        insta::assert_snapshot!(check(&body), @"Image -/docker-local/team/app tag=v1 digest=sha256:012345 type=pushed id=- actor=- at=-");
        let with = |repo_key| {
            let options = Options {
                repo_key: Some(repo_key),
                ..Options::default()
            };
            parse_with(&KIND, &options, &[], body.as_bytes())
        };
        assert!(with(RepoKey::Drop).contains("-/team/app "));
        assert!(
            with(RepoKey::Name("docker-virtual".to_owned())).contains("-/docker-virtual/team/app ")
        );
        insta::assert_snapshot!(check(&push(r#""image_name":"app","tag":"sha256__00""#)), @"Image -/docker-local/app tag=- digest=- type=pushed id=- actor=- at=-");
    }

    #[test]
    fn an_image_type_of_oci_does_not_make_an_artifact() {
        let of_oci = push(r#""path":"c/1/manifest.json","tag":"1","image_type":"oci""#);
        assert!(check(&of_oci).starts_with("Image "));
    }

    #[test]
    fn other_domains_and_test_deliveries_are_not_pushes() {
        let good = push(r#""path":"a/1/manifest.json","tag":"1""#);
        for (part, other) in [
            ("\"docker\"", "\"artifact\""),
            ("pushed", "deleted"),
            ("pushed", "promoted"),
        ] {
            assert_eq!(check(&good.replacen(part, other, 1)), "not_a_push");
        }
        assert_eq!(
            check(
                r#"{"domain":"docker","event_type":"pushed","data":{"repo_key":"sample_repo","sha256":"sample_checksum"}}"#
            ),
            "ping"
        );
        let real = push(r#""path":"a/1/manifest.json","tag":"1""#);
        let of_that_name = real.replace("docker-local", "sample_repo");
        assert!(check(&of_that_name).starts_with("Image -/sample_repo/a "));
        let options = Options {
            events: vec!["promoted".to_owned()],
            ..Options::default()
        };
        assert!(
            parse_with(
                &KIND,
                &options,
                &[],
                good.replace("pushed", "promoted").as_bytes()
            )
            .starts_with("Image ")
        );
    }

    #[test]
    fn a_push_without_a_valid_image_name_is_refused() {
        for body in [
            "{}".to_owned(),
            r#"{"domain":"docker","event_type":"pushed","data":{}}"#.to_owned(),
            push(r#""tag":"1""#),
            push(r#""path":"-a/1/manifest.json","tag":"1""#),
            push(r#""path":"manifest.json","image_name":"a","tag":"1""#),
            push(r#""path":"1/manifest.json","image_name":"a","tag":"1""#),
            push(r#""path":"a/1/manifest.json""#),
            push(r#""path":"a/1/manifest.json","tag":"$(id)""#),
            push(r#""tag":"1","tag":"2","path":"a/1/m""#),
        ] {
            assert!(check(&body).starts_with("400 "), "{body}");
        }
    }
}
