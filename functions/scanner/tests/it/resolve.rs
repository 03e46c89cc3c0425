//! What is scanned: by what the registry says of it, through the whole function.

use std::time::Duration;

use scanhook_scanner::scanner::MARGIN;
use serde_json::{Value, json};

use crate::registry::{CONFIG, Content, FakeRegistry, IMAGE, LAYER, artifact, image, index};
use crate::world::{DIGEST, REGISTRY, Setup, World, message_for, received};

const PASSED: &str = "passed [0, 2, 2, 1, 1] confirmed";

/// A world whose registry holds this.
async fn world(content: Content, source: &str, scanner: &str) -> (World, FakeRegistry) {
    let registry = FakeRegistry::holding(content).await;
    let setup = Setup {
        source,
        scanner,
        registries: format!("  {REGISTRY}: {{ insecure: true }}"),
        hosts: vec![(REGISTRY, registry.address)],
        ..Setup::default()
    };
    (World::set_up(setup).await, registry)
}

/// A message for a tag, a digest or both.
fn message(scan_id: &str, tag: Option<&str>, digest: Option<&str>) -> String {
    let mut message = message_for(scan_id, "demo/pass");
    message["image"]["tag"] = tag.into();
    message["image"]["digest"] = digest.into();
    message.to_string()
}

fn short(digest: &str) -> &str {
    digest
        .get("sha256:".len()..)
        .and_then(|it| it.get(..8))
        .unwrap()
}

#[tokio::test]
async fn a_tag_is_scanned_by_the_digest_that_it_names() {
    let mut content = Content::default();
    let digest = content.image("demo/pass", Some("1.0"), "a");
    let (world, registry) = world(content, "", "").await;
    assert_eq!(
        world.outcome(&message("tag", Some("1.0"), None), 1).await,
        PASSED
    );
    let record = world.record("tag").unwrap();
    assert_eq!(record.digest.unwrap().as_str(), digest);
    assert_eq!(
        (record.tag_moved, record.index, record.platform),
        (None, None, None)
    );
    let asked: Vec<_> = registry.asked().into_iter().map(|it| it.method).collect();
    assert_eq!(asked, ["HEAD", "GET"]);
}

#[tokio::test]
async fn a_tag_of_a_registry_that_tells_no_digest_is_read_for_it() {
    let manifest = image("a", 1000);
    let bytes = manifest.to_string();
    let digest = crate::registry::digest_of(&bytes);
    let registry = FakeRegistry::start(move |_| crate::registry::answer_json(&manifest)).await;
    let setup = Setup {
        registries: format!("  {REGISTRY}: {{ insecure: true }}"),
        hosts: vec![(REGISTRY, registry.address)],
        ..Setup::default()
    };
    let world = World::set_up(setup).await;
    assert_eq!(
        world.outcome(&message("tag", Some("1.0"), None), 1).await,
        PASSED
    );
    assert_eq!(
        world.record("tag").unwrap().digest.unwrap().as_str(),
        digest
    );
}

#[tokio::test]
async fn the_events_digest_is_what_is_scanned_and_a_moved_tag_is_told() {
    let mut content = Content::default();
    let old = content.image("demo/pass", Some("1.0"), "a");
    let new = content.image("demo/pass", Some("1.0"), "b");
    let (world, _registry) = world(content, "", "").await;
    for (scan_id, digest, moved) in [("stays", &new, false), ("moved", &old, true)] {
        let message = message(scan_id, Some("1.0"), Some(digest));
        assert_eq!(world.outcome(&message, 1).await, PASSED);
        let record = world.record(scan_id).unwrap();
        assert_eq!(record.digest.unwrap().as_str(), digest);
        assert_eq!(record.tag_moved, Some(moved));
    }
    // Without a digest it is the new content, which was scanned by now.
    let outcome = world.outcome(&message("late", Some("1.0"), None), 1).await;
    assert_eq!(outcome, "passed repeated");
    // A tag that is gone names nothing else.
    let message = message("gone", Some("0.9"), Some(&old));
    assert_eq!(world.outcome(&message, 1).await, "passed repeated");
    assert_eq!(world.record("gone").unwrap().tag_moved, None);
}

#[tokio::test]
async fn six_deliveries_of_one_push_are_one_scan() {
    let mut content = Content::default();
    let child = content.image("demo/pass", None, "a");
    let own = content.put("demo/pass", Some("1.0"), &index(&[(&child, "linux/amd64")]));
    let (world, _registry) = world(content, "", "").await;
    let mut outcomes = Vec::new();
    for (scan_id, tag, digest) in [
        ("a", Some("1.0"), Some(&own)),
        ("b", Some("1.0"), None),
        ("c", Some("1.0"), Some(&own)),
        ("d", None, Some(&own)),
        ("e", None, Some(&child)),
        ("f", Some("1.0"), None),
    ] {
        let message = message(scan_id, tag, digest.map(String::as_str));
        outcomes.push(world.outcome(&message, 1).await);
    }
    assert_eq!(outcomes[0], PASSED);
    assert_eq!(outcomes[1..], vec!["passed repeated"; 5]);
    assert_eq!(world.ledger.0.lock().unwrap().granted, 1);
}

fn three(content: &mut Content) -> (String, [String; 3]) {
    let children = ["a", "b", "c"].map(|it| content.image("demo/pass", None, it));
    let [amd64, arm64, s390x] = &children;
    let attestation = content.image("demo/pass", None, "attestation");
    let own = index(&[
        (arm64, "linux/arm64"),
        (amd64, "linux/amd64"),
        (s390x, "linux/s390x"),
        (&attestation, "unknown/unknown"),
    ]);
    (content.put("demo/pass", Some("1.0"), &own), children)
}

#[tokio::test]
async fn an_index_is_scanned_for_the_wanted_platforms_by_their_own_digests() {
    let mut content = Content::default();
    let (own, [amd64, arm64, _]) = three(&mut content);
    let (world, _registry) =
        world(content.clone(), "platforms: [linux/amd64, linux/arm64]", "").await;
    let event = world
        .receive(&[&message("two", Some("1.0"), Some(&own))])
        .await;
    assert!(world.handle(&event).await.batch_item_failures.is_empty());
    assert_eq!(
        world.platforms("two"),
        [
            format!("linux/amd64 {} {PASSED}", short(&amd64)),
            format!("linux/arm64 {} {PASSED}", short(&arm64)),
        ]
    );
    let index = world.record("two").unwrap().index.unwrap();
    assert_eq!(index.as_str(), own);

    // Without a wish it is the usual one, and for an index without that, the first.
    let (world, _registry) = self::world(content, "", "").await;
    assert_eq!(
        world.outcome(&message("usual", Some("1.0"), None), 1).await,
        PASSED
    );
    assert_eq!(
        world.platforms("usual"),
        [format!("linux/amd64 {} {PASSED}", short(&amd64))]
    );
}

#[tokio::test]
async fn an_index_without_the_usual_platform_is_scanned_for_its_first() {
    let mut content = Content::default();
    let child = content.image("demo/pass", None, "a");
    content.put(
        "demo/pass",
        Some("1.0"),
        &index(&[(&child, "linux/riscv64")]),
    );
    let (world, _registry) = world(content, "", "").await;
    assert_eq!(
        world.outcome(&message("first", Some("1.0"), None), 1).await,
        PASSED
    );
    assert_eq!(
        world.platforms("first"),
        [format!("linux/riscv64 {} {PASSED}", short(&child))]
    );
}

#[tokio::test]
async fn a_missing_platform_is_an_error_and_the_others_have_their_verdict() {
    let mut content = Content::default();
    let (own, [amd64, ..]) = three(&mut content);
    let (world, _registry) = world(content, "platforms: [linux/amd64, linux/ppc64le]", "").await;
    let event = world
        .receive(&[&message("two", Some("1.0"), Some(&own))])
        .await;
    assert!(world.handle(&event).await.batch_item_failures.is_empty());
    assert_eq!(
        world.platforms("two"),
        [
            format!("linux/amd64 {} {PASSED}", short(&amd64)),
            format!("linux/ppc64le {} error platform_missing", short(&own)),
        ]
    );
    let [letter] = world.dead_letters().await.try_into().unwrap();
    assert_eq!(letter.attributes["scanhook.reason"], "platform_missing");
}

#[tokio::test]
async fn of_several_failed_platforms_the_dead_letter_names_what_can_be_fixed() {
    for wanted in ["linux/ppc64le, linux/amd64", "linux/amd64, linux/ppc64le"] {
        let mut content = Content::default();
        let child = content.image("demo/registry-denied", None, "a");
        let own = index(&[(&child, "linux/amd64")]);
        let own = content.put("demo/registry-denied", Some("1.0"), &own);
        let source = format!("platforms: [{wanted}]");
        let (world, _registry) = world(content, &source, "").await;
        let mut message = message_for("two", "demo/registry-denied");
        message["image"]["digest"] = own.into();
        let outcome = world.outcome(&message.to_string(), 1).await;
        assert_eq!(outcome, "dead letter: unauthorized", "{wanted}");
        assert_eq!(world.platforms("two").len(), 2);
    }
}

#[tokio::test]
async fn a_platform_that_has_its_verdict_is_not_scanned_again_with_the_others() {
    for force in [false, true] {
        let mut content = Content::default();
        let (own, _) = three(&mut content);
        let (world, _registry) = world(content, "platforms: [linux/amd64, linux/arm64]", "").await;
        let mut message: Value =
            serde_json::from_str(&message("two", Some("1.0"), Some(&own))).unwrap();
        message["force"] = force.into();
        let event = world.receive(&[&message.to_string()]).await;
        world.clock.advance(Duration::from_secs(1));
        // Enough for the first, which is always started, and not for the second.
        let deadline = world.clock.now() + MARGIN + Duration::from_secs(14);
        let response = world.handle_until(&event, deadline).await;
        assert_eq!(response.batch_item_failures.len(), 1);
        let outcomes = |world: &World| {
            let platforms = world.platforms("two");
            platforms
                .iter()
                .map(|it| it.split(' ').skip(2).collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
        };
        assert_eq!(outcomes(&world), [PASSED, "error timeout"]);
        world.clock.advance(Duration::from_secs(1));
        let event = world.receive_again().await;
        assert!(world.handle(&event).await.batch_item_failures.is_empty());
        assert_eq!(outcomes(&world), [PASSED, PASSED]);
        assert_eq!(world.ledger.0.lock().unwrap().granted, 2, "force: {force}");
    }
}

#[tokio::test]
async fn what_is_no_image_is_skipped_with_its_type_and_never_scanned() {
    let mut content = Content::default();
    let mut tags = Vec::new();
    for (tag, config, layer) in [
        (
            "signature",
            CONFIG,
            "application/vnd.dev.cosign.simplesigning.v1+json",
        ),
        ("sbom", CONFIG, "text/spdx+json"),
        (
            "attestation",
            CONFIG,
            "application/vnd.dsse.envelope.v1+json",
        ),
        (
            "chart",
            "application/vnd.cncf.helm.config.v1+json",
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        ),
        ("cache", "application/vnd.buildkit.cacheconfig.v0", LAYER),
        (
            "unknown",
            "application/vnd.nobody.knows.v1+json",
            "application/octet-stream",
        ),
    ] {
        content.put("demo/fail", Some(tag), &artifact(config, tag, layer, 7));
        tags.push(tag);
    }
    let mut referrer = artifact("application/vnd.oci.empty.v1+json", "r", "text/plain", 2);
    referrer["artifactType"] = "application/vnd.example.thing".into();
    content.put("demo/fail", Some("referrer"), &referrer);
    let blob = crate::registry::digest_of("layer");
    let layers =
        json!({"schemaVersion": 2, "manifests": [{"mediaType": LAYER, "digest": blob, "size": 1}]});
    content.put("demo/fail", Some("old-cache"), &layers);
    let manifest = json!({"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "artifactType": "a/b"});
    content.put("demo/fail", Some("artifact"), &manifest);
    tags.extend(["referrer", "old-cache", "artifact"]);
    let (world, _registry) = world(content, "", "").await;
    let mut told = Vec::new();
    for tag in tags {
        let mut message = message_for(tag, "demo/fail");
        message["image"]["tag"] = tag.into();
        message["image"]["digest"] = Value::Null;
        assert_eq!(
            world.outcome(&message.to_string(), 1).await,
            "skipped not_an_image",
            "{tag}"
        );
        told.push(format!(
            "{tag}: {}",
            world.record(tag).unwrap().detail.unwrap()
        ));
    }
    insta::assert_snapshot!(told.join("\n"), @"
    signature: application/vnd.dev.cosign.simplesigning.v1+json
    sbom: text/spdx+json
    attestation: application/vnd.dsse.envelope.v1+json
    chart: application/vnd.cncf.helm.config.v1+json
    cache: application/vnd.buildkit.cacheconfig.v0
    unknown: application/vnd.nobody.knows.v1+json
    referrer: application/vnd.oci.empty.v1+json
    old-cache: application/vnd.oci.image.layer.v1.tar+gzip
    artifact: a/b
    ");
    assert_eq!(world.ledger.0.lock().unwrap().granted, 0);
}

#[tokio::test]
async fn an_image_is_measured_before_it_is_pulled() {
    let mut content = Content::default();
    content.put("demo/pass", Some("fits"), &image("a", 2048));
    content.put("demo/pass", Some("large"), &image("b", 2049));
    content.put("demo/pass", Some("lies"), &image("c", u64::MAX));
    let (world, _registry) = world(content, "", "max_image: 2KiB").await;
    let outcome = async |tag: &str| world.outcome(&message(tag, Some(tag), None), 1).await;
    assert_eq!(outcome("fits").await, PASSED);
    assert_eq!(outcome("large").await, "dead letter: too_large");
    let detail = world.record("large").unwrap().detail.unwrap();
    assert_eq!(
        detail,
        "its compressed layers have 2049 bytes, and scanner.max_image is 2048"
    );
}

#[tokio::test]
async fn a_manifest_that_nobody_can_read_is_an_error() {
    let mut content = Content::default();
    content.put(
        "demo/pass",
        Some("schema1"),
        &json!({"schemaVersion": 1, "fsLayers": []}),
    );
    let mut both = image("a", 1);
    both["manifests"] = json!([]);
    content.put("demo/pass", Some("both"), &both);
    content.put("demo/pass", Some("nothing"), &json!({"mediaType": IMAGE}));
    for tag in ["schema1", "both", "nothing"] {
        let (world, _registry) = world(content.clone(), "", "").await;
        let outcome = world.outcome(&message(tag, Some(tag), None), 1).await;
        assert_eq!(outcome, "dead letter: unsupported_image", "{tag}");
    }
}

#[tokio::test]
async fn an_image_may_appear_a_moment_after_its_event() {
    let (world, _registry) = world(Content::default(), "", "").await;
    let first = world
        .outcome(&message("late", Some("1.0"), Some(DIGEST)), 1)
        .await;
    assert_eq!(first, "retried: image_not_found");
    let mut event = world
        .receive(&[&message("gone", Some("1.0"), Some(DIGEST))])
        .await;
    received(&mut event, 2);
    let response = world.handle(&event).await;
    assert_eq!(
        world.describe(&event, &response).await,
        "dead letter: image_not_found"
    );
}

#[tokio::test]
async fn a_record_without_a_platform_gives_way_to_those_with_one() {
    let mut content = Content::default();
    let (own, _) = three(&mut content);
    let down = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let switch = std::sync::Arc::clone(&down);
    let registry = FakeRegistry::start(move |asked| {
        if switch.load(std::sync::atomic::Ordering::Relaxed) {
            crate::registry::status(404)
        } else {
            content.answer(asked)
        }
    })
    .await;
    let setup = Setup {
        source: "platforms: [linux/amd64, linux/arm64]",
        registries: format!("  {REGISTRY}: {{ insecure: true }}"),
        hosts: vec![(REGISTRY, registry.address)],
        ..Setup::default()
    };
    let world = World::set_up(setup).await;
    let first = world
        .outcome(&message("two", Some("1.0"), Some(&own)), 1)
        .await;
    assert_eq!(first, "retried: image_not_found");
    assert_eq!(world.platforms("two").len(), 1);
    down.store(false, std::sync::atomic::Ordering::Relaxed);
    world.clock.advance(Duration::from_secs(30));
    let event = world.receive_again().await;
    assert!(world.handle(&event).await.batch_item_failures.is_empty());
    let platforms = world.platforms("two");
    assert!(
        platforms.len() == 2 && platforms.iter().all(|it| it.ends_with(PASSED)),
        "{platforms:?}"
    );
}

#[tokio::test]
async fn what_could_not_be_looked_at_is_not_scanned_whether_its_digest_is_known_or_not() {
    for source in ["", "platforms: [linux/arm64]"] {
        let setup = Setup {
            source,
            hosts: vec![("elsewhere.example.com", "127.0.0.1:1".parse().unwrap())],
            ..Setup::default()
        };
        let world = World::set_up(setup).await;
        for digest in [None, Some(DIGEST)] {
            let scan_id = digest.map_or("tag", |_| "digest");
            let outcome = world
                .outcome(&message(scan_id, Some("1.0"), digest), 1)
                .await;
            assert_eq!(outcome, "retried: network");
        }
        assert_eq!(world.ledger.0.lock().unwrap().granted, 0);
    }
}
