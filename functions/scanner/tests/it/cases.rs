//! Indexes and manifests of public bug reports (`tests/cases`), through the whole function: what is scanned of each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use scanhook_core::record::RecordVerdict;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use crate::registry::{Answer, FakeRegistry, digest_of, image, status};
use crate::world::{REGISTRY, Setup, World, message_for};

fn read(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases");
    let text = std::fs::read_to_string(path.join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// What a registry holds, by digest.
#[derive(Clone, Default)]
struct Held(BTreeMap<String, String>);

impl Held {
    /// Puts an index and all that it lists, and returns its digest. The cases are written in another notation than ours, so
    /// that each digest is another one here: `renamed` has the new ones by the old.
    fn put(
        &mut self,
        manifest: &Value,
        children: &Value,
        renamed: &mut BTreeMap<String, String>,
    ) -> String {
        let mut manifest = manifest.clone();
        for entry in manifest["manifests"].as_array_mut().into_iter().flatten() {
            let old = entry["digest"].as_str().unwrap().to_owned();
            let new = match children.get(&old) {
                Some(child) => self.put(child, children, renamed),
                None => self.put_text(image(&old, 1000).to_string(), old.starts_with("sha512:")),
            };
            entry["digest"] = new.clone().into();
            renamed.insert(old, new);
        }
        self.put_text(manifest.to_string(), false)
    }

    fn put_text(&mut self, text: String, is_sha512: bool) -> String {
        let digest = if is_sha512 {
            format!("sha512:{}", hex::encode(Sha512::digest(&text)))
        } else {
            digest_of(&text)
        };
        self.0.insert(digest.clone(), text);
        digest
    }

    /// Answers for a digest, and for the tag `1.0`, which names `own`.
    fn answer(&self, path: &str, own: &str) -> Answer {
        let reference = path.rsplit('/').next().unwrap();
        let digest = if reference == "1.0" { own } else { reference };
        match self.0.get(digest) {
            Some(text) => {
                let headers = vec![("docker-content-digest", digest.to_owned())];
                Answer::Full(200, headers, text.clone().into_bytes())
            }
            None => status(404),
        }
    }
}

async fn world(
    source: &str,
    answer: impl Fn(&crate::registry::Asked) -> Answer + Send + Sync + 'static,
) -> (World, FakeRegistry) {
    let registry = FakeRegistry::start(answer).await;
    let setup = Setup {
        source,
        registries: format!("  {REGISTRY}: {{ insecure: true }}"),
        hosts: vec![(REGISTRY, registry.address)],
        ..Setup::default()
    };
    (World::set_up(setup).await, registry)
}

fn by_tag() -> String {
    let mut message = message_for("case", "demo/pass");
    message["image"]["digest"] = Value::Null;
    message.to_string()
}

/// The digests of the case that are scanned, without any other outcome, whether the event names the index or only its tag.
async fn scanned(case: &str) -> BTreeSet<String> {
    let case = read(case);
    // One case leaves out what another one has.
    let elsewhere = || read("11-nested-index.json")["children"].clone();
    let mut children = case.get("children").cloned().unwrap_or_else(elsewhere);
    if let Some(child) = case.get("child") {
        let digest = case["index"]["manifests"][0]["digest"].as_str().unwrap();
        children = json!({digest: child});
    }
    let (mut held, mut renamed) = (Held::default(), BTreeMap::new());
    let own = held.put(&case["index"], &children, &mut renamed);
    let source = match case["source_platforms"].as_array() {
        Some(platforms) if !platforms.is_empty() => format!("platforms: {}", json!(platforms)),
        _ => String::new(),
    };
    let (world, _registry) = world(&source, move |asked| held.answer(&asked.path, &own)).await;
    let event = world.receive(&[&by_tag()]).await;
    assert!(world.handle(&event).await.batch_item_failures.is_empty());
    let state = world.ledger.0.lock().unwrap();
    let old = |new: &str| renamed.iter().find(|(_, it)| *it == new).unwrap().0.clone();
    let records = state.records.values();
    let scanned = records.map(|it| {
        assert_eq!(it.verdict, Some(RecordVerdict::Passed), "{it:?}");
        old(it.digest.as_ref().unwrap().as_str())
    });
    scanned.collect()
}

#[tokio::test]
async fn each_index_is_scanned_for_what_a_runtime_would_take_of_it() {
    for (case, expected) in [
        ("02-soci-v2-arm64.json", vec!["sha256:fe987e88"]),
        (
            "02b-amd64-v1-first.json",
            vec!["sha256:1bc5b081", "sha256:f14c3dc0"],
        ),
        ("02d-arm-without-variant.json", vec!["sha256:f14c3dc0"]),
        ("06-index-sha512-child.json", vec!["sha512:88c35a84"]),
        (
            "06b-index-child-artifacttype-without-platform.json",
            vec!["sha256:25169535"],
        ),
        ("11-nested-index.json", vec!["sha256:5adb6157"]),
        ("11b-nested-amd64-plain-arm64.json", vec!["sha256:5adb6157"]),
    ] {
        let scanned = scanned(case).await;
        let starts: Vec<_> = scanned.iter().map(|it| it.get(..15).unwrap()).collect();
        assert_eq!(starts, expected, "{case}");
    }
}

#[tokio::test]
async fn a_config_of_a_type_that_docker_takes_for_an_image_is_one() {
    let mut manifest = read("08-config-octet-stream.json");
    for config in [
        "application/octet-stream",
        "application/json",
        "text/html",
        "",
    ] {
        manifest["config"]["mediaType"] = config.into();
        let mut held = Held::default();
        let own = held.put_text(manifest.to_string(), false);
        let (world, _registry) = world("", move |asked| held.answer(&asked.path, &own)).await;
        let outcome = world.outcome(&by_tag(), 1).await;
        assert_eq!(outcome, "passed [0, 2, 2, 1, 1] confirmed", "{config:?}");
    }
}

#[tokio::test]
async fn signed_schema_1_is_named_for_what_it_is() {
    let manifest = read("04-schema1-signed.json").to_string();
    for by in ["1.0", "digest"] {
        // Its digest is that of the bytes without their signatures.
        let body = manifest.clone();
        let digest = format!("sha256:{}", "5c".repeat(32));
        let told = digest.clone();
        let (world, _registry) = world("", move |_| {
            let headers = vec![
                ("docker-content-digest", told.clone()),
                (
                    "content-type",
                    "application/vnd.docker.distribution.manifest.v1+prettyjws".to_owned(),
                ),
            ];
            Answer::Full(200, headers, body.clone().into_bytes())
        })
        .await;
        let mut message = message_for("case", "demo/pass");
        message["image"]["digest"] = if by == "digest" {
            digest.into()
        } else {
            Value::Null
        };
        let outcome = world.outcome(&message.to_string(), 1).await;
        assert_eq!(outcome, "dead letter: unsupported_image");
        let detail = world.record("case").unwrap().detail.unwrap();
        assert!(detail.contains("schema 1"), "{detail}");
    }
}

/// crazy-max/diun#1614, nicholas-fedor/watchtower#667, containerd/containerd#5860: the case `05-nexus-head-404`.
#[tokio::test]
async fn a_registry_that_does_not_answer_head_is_asked_by_get() {
    // The first is no status at all, so that the answer can't be read.
    for code in [0, 400, 403, 404, 405, 408, 501, 505, 520] {
        let mut held = Held::default();
        let own = held.put_text(image("a", 1000).to_string(), false);
        let (world, registry) = world("", move |asked| match asked.method.as_str() {
            "HEAD" => status(code),
            _ => held.answer(&asked.path, &own),
        })
        .await;
        let outcome = world.outcome(&by_tag(), 1).await;
        assert_eq!(outcome, "passed [0, 2, 2, 1, 1] confirmed", "{code}");
        let asked: Vec<_> = registry.asked().into_iter().map(|it| it.method).collect();
        assert_eq!(asked, ["HEAD", "GET"], "{code}");
    }
    for code in [401, 407, 429, 500, 502, 503, 504] {
        let (world, registry) = world("", move |_| status(code)).await;
        let outcome = world.outcome(&by_tag(), 1).await;
        assert_ne!(outcome, "passed [0, 2, 2, 1, 1] confirmed", "{code}");
        assert!(
            registry.asked().iter().all(|it| it.method == "HEAD"),
            "{code}"
        );
    }
}

/// The GET that follows shows what a HEAD can't.
#[tokio::test]
async fn of_two_problems_the_one_that_can_be_acted_on_is_named() {
    for (head, get, expected) in [
        (403, 404, "dead letter: unauthorized"),
        (404, 403, "dead letter: unauthorized"),
        (405, 404, "dead letter: image_not_found"),
        (404, 503, "retried: network"),
    ] {
        let (world, _registry) = world("", move |asked| {
            status(if asked.method == "HEAD" { head } else { get })
        })
        .await;
        assert_eq!(world.outcome(&by_tag(), 2).await, expected, "{head} {get}");
    }
}

/// A push with a digest costs two questions: its manifest and its tag.
#[tokio::test]
async fn a_push_with_a_digest_costs_two_questions() {
    let mut held = Held::default();
    let own = held.put_text(image("a", 1000).to_string(), false);
    let digest = own.clone();
    for head in [200, 404] {
        let (held, own) = (held.clone(), own.clone());
        let (world, registry) = world("", move |asked| match asked.method.as_str() {
            "HEAD" if head != 200 => status(head),
            _ => held.answer(&asked.path, &own),
        })
        .await;
        let mut message = message_for("case", "demo/pass");
        message["image"]["digest"] = digest.clone().into();
        let outcome = world.outcome(&message.to_string(), 1).await;
        assert_eq!(outcome, "passed [0, 2, 2, 1, 1] confirmed");
        assert_eq!(registry.asked().len(), 2);
    }
}

/// distribution/distribution#2434 and older token servers of Azure: an empty `token` beside the real one.
#[tokio::test]
async fn a_token_server_may_leave_its_token_empty() {
    for token in [json!(""), Value::Null] {
        let mut held = Held::default();
        let own = held.put_text(image("a", 1000).to_string(), false);
        let answer = json!({"token": token, "access_token": "fake-token-of-a-test"});
        let (world, registry) = world("", move |asked| {
            if asked.path.starts_with("/token") {
                return crate::registry::answer_json(&answer);
            }
            if asked.authorization.as_deref() == Some("Bearer fake-token-of-a-test") {
                return held.answer(&asked.path, &own);
            }
            let challenge = format!("Bearer realm=\"http://{REGISTRY}/token\",service=\"s\"");
            crate::registry::with(401, "www-authenticate", &challenge)
        })
        .await;
        let outcome = world.outcome(&by_tag(), 1).await;
        assert_eq!(
            outcome,
            "passed [0, 2, 2, 1, 1] confirmed",
            "{:?}",
            registry.asked()
        );
    }
}

#[tokio::test]
async fn what_of_an_index_can_not_be_read_is_an_error_of_its_own() {
    let mut held = Held::default();
    let good = held.put_text(image("a", 1000).to_string(), false);
    let gone = digest_of("gone");
    let index = crate::registry::index(&[
        (&good, "linux/amd64"),
        (&gone, "linux/amd64"),
        (&gone, "linux/arm64"),
    ]);
    let own = held.put_text(index.to_string(), false);
    let (world, _registry) = world("platforms: [linux/amd64, linux/arm64]", move |asked| {
        held.answer(&asked.path, &own)
    })
    .await;
    let outcome = world.outcome(&by_tag(), 2).await;
    assert_eq!(outcome, "dead letter: image_not_found");
    let short = |digest: &str| -> String { digest.chars().skip("sha256:".len()).take(8).collect() };
    let mut expected = vec![
        format!(
            "linux/amd64 {} passed [0, 2, 2, 1, 1] confirmed",
            short(&good)
        ),
        format!("linux/amd64 {} error image_not_found", short(&gone)),
        format!("linux/arm64 {} error image_not_found", short(&gone)),
    ];
    expected.sort();
    let mut platforms = world.platforms("case");
    platforms.sort();
    assert_eq!(platforms, expected);
}
