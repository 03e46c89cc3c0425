//! Docker Hub: one delivery per push, without signature, header, event type or digest.
//!
//! Source: docker/docs, `docker-hub/repos/manage/webhooks.md`. `push_data.media_type` is sent but not documented.
//! `callback_url` is never called, because it comes from a stranger.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::{Json, Kind, Options, Sample, SamplePush, json_headers};
use crate::auth::VerifiedDelivery;
use crate::event::{Content, Event, EventInfo, NamedRegistry, ParsePayloadError, PushEvent};
use crate::image::{Tag, docker_hub_repository};
use crate::wire::{Instant, Text};

pub(super) static KIND: Kind = Kind {
    name: "docker-hub",
    title: "Docker Hub",
    default_registry: Some("docker.io"),
    example_registry: "docker.io",
    answer_budget: |_| Duration::from_millis(2_500),
    auth: &["path_token"],
    hmac: None,
    envelopes: &["native"],
    events: &[],
    repo_key: false,
    handshake: false,
    parse,
    sample,
    signs: "nothing; the token in the URL is the only credential",
    repeats: "not documented",
    setup: "\
On hub.docker.com, in the repository: Webhooks, a name, and as webhook URL
  {url}
Docker Hub signs nothing and sends no header, so the token in the URL is the only credential.",
};

#[derive(Deserialize)]
struct WirePush<'a> {
    #[serde(borrow)]
    push_data: WirePushData<'a>,
    #[serde(borrow)]
    repository: WireRepository<'a>,
}

#[derive(Deserialize)]
struct WirePushData<'a> {
    #[serde(borrow, default)]
    tag: Text<'a>,
    #[serde(borrow, default)]
    pusher: Text<'a>,
    #[serde(default)]
    pushed_at: Instant,
    /// The config's type, not the manifest's.
    #[serde(borrow, default)]
    media_type: Text<'a>,
}

#[derive(Deserialize)]
struct WireRepository<'a> {
    #[serde(borrow, default)]
    repo_name: Text<'a>,
    #[serde(borrow, default)]
    namespace: Text<'a>,
    #[serde(borrow, default)]
    name: Text<'a>,
}

super::bare_parse_into!(WirePush);

fn parse(delivery: &VerifiedDelivery, _: &Options) -> Result<Vec<Event>, ParsePayloadError> {
    let body = Json::of(delivery.body());
    let WirePush {
        push_data,
        repository,
    } = body.object()?;
    let path = match (
        repository.repo_name.get(),
        repository.namespace.get(),
        repository.name.get(),
    ) {
        (Some(path), _, _) => docker_hub_repository(path),
        (None, Some(namespace), Some(name)) => {
            docker_hub_repository(&format!("{namespace}/{name}"))
        }
        (None, None, Some(name)) => docker_hub_repository(name),
        (None, _, None) => {
            return Err(ParsePayloadError::missing(
                "repository",
                "repository.repo_name",
            ));
        }
    };
    let tag = push_data
        .tag
        .tag()
        .ok_or(ParsePayloadError::missing("tag", "push_data.tag"))?;
    Ok(vec![Event::Push(PushEvent {
        registry: NamedRegistry::Unnamed,
        repository: path.map_err(|_| ParsePayloadError::missing("repository", "repository"))?,
        tag: Some(tag),
        digest: None,
        content: Content::of_manifest(push_data.media_type.get(), []),
        info: EventInfo::new("push", None, push_data.pusher.get(), push_data.pushed_at.0),
    })])
}

fn sample(push: &SamplePush<'_>) -> Sample {
    let path = push.image.repository.as_str();
    let (namespace, name) = path.split_once('/').unwrap_or(("library", path));
    let body = json!({
        "callback_url": format!("https://registry.hub.docker.com/u/{path}/hook/none/"),
        "push_data": {
            "pushed_at": push.at.as_second(),
            "pusher": "scanhook-send",
            "tag": push.image.pin.tag().map_or("latest", Tag::as_str),
            "images": [],
            "media_type": "application/vnd.docker.container.image.v1+json",
        },
        "repository": {
            "repo_name": path, "namespace": namespace, "name": name, "owner": namespace,
            "repo_url": format!("https://hub.docker.com/r/{path}"),
            "is_official": false, "is_private": true, "status": "Active", "star_count": 0,
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

    fn check(body: &str) -> String {
        crate::kinds::tests::parse(&KIND, &[], body.as_bytes())
    }

    #[test]
    fn a_push_names_its_repository_in_one_of_three_ways() {
        let push = r#"{"tag":"1.0","pusher":"ci","pushed_at":1.417566161e+09,"images":null}"#;
        insta::assert_snapshot!(
            check(&format!(r#"{{"push_data":{push},"repository":{{"repo_name":"team/app","name":"x"}}}}"#)),
            @"Image -/team/app tag=1.0 digest=- type=push id=- actor=ci at=2014-12-03T00:22:41Z"
        );
        insta::assert_snapshot!(
            check(&format!(r#"{{"push_data":{push},"repository":{{"namespace":"team","name":"app"}}}}"#)),
            @"Image -/team/app tag=1.0 digest=- type=push id=- actor=ci at=2014-12-03T00:22:41Z"
        );
        insta::assert_snapshot!(
            check(&format!(r#"{{"push_data":{push},"repository":{{"repo_name":"nginx"}}}}"#)),
            @"Image -/library/nginx tag=1.0 digest=- type=push id=- actor=ci at=2014-12-03T00:22:41Z"
        );
    }

    #[test]
    fn a_chart_is_recognised_by_its_config_type() {
        let body = r#"{"push_data":{"tag":"1","media_type":"application/vnd.cncf.helm.config.v1+json"},"repository":{"repo_name":"a/b"}}"#;
        assert!(check(body).starts_with("Artifact "));
    }

    #[test]
    fn a_push_without_a_valid_tag_or_repository_is_refused() {
        for (body, problem) in [
            (
                r#"{"push_data":{},"repository":{"repo_name":"a/b"}}"#,
                "400 the payload names no valid tag, looked for at push_data.tag",
            ),
            (
                r#"{"push_data":{"tag":""},"repository":{"repo_name":"a/b"}}"#,
                "400 the payload names no valid tag, looked for at push_data.tag",
            ),
            (
                r#"{"push_data":{"tag":"$(id)"},"repository":{"repo_name":"a/b"}}"#,
                "400 the payload names no valid tag, looked for at push_data.tag",
            ),
            (
                r#"{"push_data":{"tag":"1"},"repository":{}}"#,
                "400 the payload names no valid repository, looked for at repository.repo_name",
            ),
            (
                r#"{"push_data":{"tag":"1"},"repository":{"repo_name":"../../x"}}"#,
                "400 the payload names no valid repository, looked for at repository",
            ),
            (
                r#"{"push_data":{"tag":"1"}}"#,
                "400 the body is not JSON of the expected shape, at .",
            ),
            (
                r#"{"push_data":{"tag":"1","tag":"2"},"repository":{"repo_name":"a/b"}}"#,
                "400 the body is not JSON of the expected shape, at push_data",
            ),
        ] {
            assert_eq!(check(body), problem, "{body}");
        }
    }
}
