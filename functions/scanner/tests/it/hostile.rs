//! Registries that are broken, busy or hostile: where connections and credentials go, and what becomes of the record.

use std::fmt::Write as _;
use std::time::Duration;

use scanhook_scanner::scanner::MARGIN;
use serde_json::json;

use crate::registry::{Answer, Asked, Content, FakeRegistry, answer_json, image, status, with};
use crate::world::{DIGEST, PASSWORD, REGISTRY, Setup, World, message_for};

const PASSED: &str = "passed [0, 2, 2, 1, 1] confirmed";

/// Robot's password, as Basic carries it.
const BASIC: &str = "Basic cm9ib3Q6ZmFrZS1yZWdpc3RyeS1wYXNzd29yZA==";

fn by_tag(scan_id: &str) -> String {
    let mut message = message_for(scan_id, "demo/pass");
    message["image"]["digest"] = serde_json::Value::Null;
    message.to_string()
}

fn by_digest(scan_id: &str, repository: &str, digest: &str) -> String {
    let mut message = message_for(scan_id, repository);
    message["image"]["digest"] = digest.into();
    message.to_string()
}

/// The entry of the registry, in the clear, with its password and what else is said.
fn entry(more: &str) -> String {
    let credentials = r#"credentials: { type: basic, username: robot, password: "env:PASSWORD" }"#;
    format!("  {REGISTRY}: {{ insecure: true, {credentials}{more} }}")
}

/// What comes of a tag of a registry that answers so, on the second receive.
async fn outcome(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> (String, String) {
    let registry = FakeRegistry::start(answer).await;
    let setup = Setup {
        registries: entry(""),
        hosts: vec![(REGISTRY, registry.address)],
        ..Setup::default()
    };
    let world = World::set_up(setup).await;
    let outcome = world.outcome(&by_tag("scan"), 2).await;
    let detail = world.record("scan").unwrap().detail.unwrap_or_default();
    (outcome, detail)
}

#[tokio::test]
async fn each_bad_answer_is_an_error_with_a_reason() {
    let good = || image("a", 1).to_string().into_bytes();
    let mut told = String::new();
    for (name, answer) in [
        ("wrong content", answer_json(&image("a", 1))),
        ("cut off", Answer::Cut(good())),
        ("endless", Answer::Endless),
        ("401 without a challenge", status(401)),
        ("403", status(403)),
        ("404", status(404)),
        ("418", status(418)),
        ("500", status(500)),
        ("503", status(503)),
        ("redirects to itself", with(302, "location", "/v2/again")),
        ("redirects to nowhere", with(302, "location", "http://")),
        (
            "redirects to a file",
            with(302, "location", "file:///etc/passwd"),
        ),
        (
            "redirects with a login",
            with(302, "location", "http://a:b@registry.example.com/"),
        ),
    ] {
        let is_tag = |asked: &Asked| asked.path.ends_with("/1.0") && asked.method == "HEAD";
        let (outcome, detail) = outcome(move |asked| {
            // The tag is known, so that the answer in question is that of the manifest.
            if is_tag(asked) {
                with(200, "docker-content-digest", DIGEST)
            } else {
                answer.clone()
            }
        })
        .await;
        writeln!(told, "{name}: {outcome}: {detail}").unwrap();
    }
    insta::assert_snapshot!(told, @r#"
    wrong content: retried: network: registry.example.com sent content that doesn't match the digest
    cut off: retried: network: the request to registry.example.com failed: end of file before message length reached
    endless: dead letter: unsupported_image: the answer of registry.example.com is larger than any manifest
    401 without a challenge: dead letter: unauthorized: registry.example.com refuses us with its credentials: status 401
    403: dead letter: unauthorized: registry.example.com refuses us with its credentials: status 403
    404: dead letter: image_not_found: registry.example.com has no such image: status 404
    418: retried: network: registry.example.com answers with status 418
    500: retried: network: registry.example.com answers with status 500
    503: retried: network: registry.example.com answers with status 503
    redirects to itself: dead letter: unauthorized: registry.example.com redirects too often
    redirects to nowhere: dead letter: unauthorized: registry.example.com redirects to an invalid URL
    redirects to a file: dead letter: unauthorized: "" would be asked by file
    redirects with a login: dead letter: unauthorized: the URL of registry.example.com contains a login
    "#);
}

fn errors(status: u16, codes: &[&str]) -> Answer {
    let errors: Vec<_> = codes
        .iter()
        .map(|it| json!({"code": it, "message": "m"}))
        .collect();
    let body = json!({ "errors": errors }).to_string().into_bytes();
    Answer::Full(status, Vec::new(), body)
}

#[tokio::test]
async fn an_error_code_decides_where_the_status_misleads() {
    let mut told = String::new();
    for (status, codes) in [
        (404, &["MANIFEST_UNKNOWN", "DENIED"][..]),
        (404, &["MANIFEST_UNKNOWN"]),
        (400, &["NAME_UNKNOWN"]),
        (400, &["TOOMANYREQUESTS"]),
        (401, &["TOOMANYREQUESTS"]),
        (403, &["TOOMANYREQUESTS"]),
        (401, &["UNAUTHORIZED"]),
        (412, &["PROJECTPOLICYVIOLATION"]),
        (416, &[]),
    ] {
        let outcome = outcome(move |asked| {
            // The tag is known, so that the answer in question is that of the manifest.
            match asked.method.as_str() {
                "HEAD" => with(200, "docker-content-digest", DIGEST),
                _ => errors(status, codes),
            }
        });
        let (outcome, detail) = outcome.await;
        writeln!(told, "{status}: {outcome}: {detail}").unwrap();
    }
    insta::assert_snapshot!(told, @"
    404: dead letter: unauthorized: registry.example.com refuses us with its credentials: status 404 (DENIED, MANIFEST_UNKNOWN)
    404: dead letter: image_not_found: registry.example.com has no such image: status 404 (MANIFEST_UNKNOWN)
    400: dead letter: image_not_found: registry.example.com has no such image: status 400 (NAME_UNKNOWN)
    400: retried: rate_limited: registry.example.com asks for a pause
    401: retried: rate_limited: registry.example.com asks for a pause
    403: retried: rate_limited: registry.example.com asks for a pause
    401: dead letter: unauthorized: registry.example.com refuses us with its credentials: status 401 (UNAUTHORIZED)
    412: dead letter: unauthorized: registry.example.com refuses us with its credentials: status 412 (PROJECTPOLICYVIOLATION)
    416: retried: network: registry.example.com answers with status 416
    ");
}

#[tokio::test]
async fn a_registry_that_never_answers_costs_no_more_than_the_time_there_is() {
    let registry = FakeRegistry::start(|_| Answer::Never).await;
    let setup = Setup {
        registries: entry(""),
        hosts: vec![(REGISTRY, registry.address)],
        ..Setup::default()
    };
    let world = World::set_up(setup).await;
    let event = world.receive(&[&by_tag("scan")]).await;
    let deadline = world.clock.now() + MARGIN + Duration::from_millis(300);
    let response = world.handle_until(&event, deadline).await;
    assert_eq!(world.describe(&event, &response).await, "retried: network");
}

#[tokio::test]
async fn a_failure_in_passing_is_asked_again_at_once() {
    let mut content = Content::default();
    content.image("demo/pass", Some("1.0"), "a");
    let count = std::sync::atomic::AtomicU32::new(0);
    let (outcome, _) =
        outcome(
            move |asked| match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 => status(503),
                1 => with(429, "retry-after", "0"),
                _ => content.answer(asked),
            },
        )
        .await;
    assert_eq!(outcome, PASSED);
}

#[tokio::test]
async fn a_registry_that_asks_for_a_pause_gets_it() {
    let registry = FakeRegistry::start(|_| with(429, "retry-after", "1234")).await;
    let setup = Setup {
        registries: entry(""),
        hosts: vec![(REGISTRY, registry.address)],
        ..Setup::default()
    };
    let world = World::set_up(setup).await;
    assert_eq!(
        world.outcome(&by_tag("first"), 1).await,
        "retried: rate_limited"
    );
    assert_eq!(world.hidden_for().await, 1234);
    let asked = registry.asked().len();
    // Known digest or not, nothing is asked or pulled during it.
    let other = by_digest("other", "demo/pass", DIGEST);
    assert_eq!(world.outcome(&other, 1).await, "retried: rate_limited");
    assert_eq!(registry.asked().len(), asked);
}

/// A world whose registry has one image and answers so, as long as it answers anything.
async fn limited(
    limit: impl Fn() -> Option<Answer> + Send + Sync + 'static,
) -> (World, FakeRegistry) {
    let mut content = Content::default();
    content.image("demo/pass", Some("1.0"), "a");
    let registry =
        FakeRegistry::start(move |asked| limit().unwrap_or_else(|| content.answer(asked))).await;
    let setup = Setup {
        registries: entry(""),
        hosts: vec![(REGISTRY, registry.address)],
        ..Setup::default()
    };
    (World::set_up(setup).await, registry)
}

#[tokio::test]
async fn no_retry_after_keeps_a_message_longer_than_the_cap() {
    for (status, wish, expected) in [
        (429, "86400", 3600),
        (429, "99999999999999999999", 3600),
        (429, "Thu, 31 Dec 9998 23:59:59 GMT", 3600),
        (503, "86400", 3600),
        // Unix times, in seconds and milliseconds: ten minutes from now.
        (429, "1795291800", 600),
        (429, "1795291800000", 600),
        (503, "Sat, 21 Nov 2026 20:10:00 GMT", 600),
    ] {
        let (world, _registry) = limited(move || Some(with(status, "retry-after", wish))).await;
        let outcome = world.outcome(&by_tag("scan"), 1).await;
        assert!(outcome.starts_with("retried: "), "{wish}: {outcome}");
        assert_eq!(world.hidden_for().await, expected, "{status} {wish}");
    }
}

#[tokio::test]
async fn a_retry_after_that_can_not_be_read_pauses_nothing() {
    for wish in ["-1", "soon", "1e9", ""] {
        let (world, registry) = limited(move || Some(with(429, "retry-after", wish))).await;
        let outcome = world.outcome(&by_tag("scan"), 1).await;
        assert_eq!(outcome, "retried: rate_limited", "{wish}");
        assert!((15..=30).contains(&world.hidden_for().await), "{wish}");
        let asked = registry.asked().len();
        world.outcome(&by_tag("other"), 1).await;
        assert!(registry.asked().len() > asked, "{wish}");
    }
}

#[tokio::test]
async fn one_scan_a_minute_is_let_through_during_a_pause() {
    let (world, registry) = limited(|| Some(with(429, "retry-after", "86400"))).await;
    let asked = async |scan_id: &str| {
        let before = registry.asked().len();
        assert_eq!(
            world.outcome(&by_tag(scan_id), 1).await,
            "retried: rate_limited"
        );
        registry.asked().len() - before
    };
    assert_eq!(asked("first").await, 1);
    world.clock.advance(Duration::from_secs(59));
    assert_eq!(asked("too-soon").await, 0);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(asked("probe").await, 1);
    assert_eq!(asked("beside").await, 0);
    world.clock.advance(Duration::from_mins(1));
    assert_eq!(asked("next-probe").await, 1);
}

#[tokio::test]
async fn a_success_ends_a_pause() {
    let limits = std::sync::atomic::AtomicBool::new(true);
    let limits = std::sync::Arc::new(limits);
    let switch = std::sync::Arc::clone(&limits);
    let (world, _registry) = limited(move || {
        let is_on = switch.load(std::sync::atomic::Ordering::Relaxed);
        is_on.then(|| with(429, "retry-after", "86400"))
    })
    .await;
    let outcome = async |scan_id: &str| world.outcome(&by_tag(scan_id), 1).await;
    assert_eq!(outcome("first").await, "retried: rate_limited");
    limits.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(outcome("too-soon").await, "retried: rate_limited");
    world.clock.advance(Duration::from_mins(1));
    assert_eq!(outcome("probe").await, PASSED);
    assert_eq!(outcome("after").await, "passed repeated");
}

#[tokio::test]
async fn a_shorter_wish_takes_the_place_of_a_longer_one() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let (world, _registry) = limited(move || {
        let wishes = ["3000", "70"];
        let count = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        wishes.get(count).map(|it| with(429, "retry-after", it))
    })
    .await;
    let outcome = async |scan_id: &str| world.outcome(&by_tag(scan_id), 1).await;
    assert_eq!(outcome("first").await, "retried: rate_limited");
    world.clock.advance(Duration::from_mins(1));
    assert_eq!(outcome("probe").await, "retried: rate_limited");
    world.clock.advance(Duration::from_secs(59));
    assert_eq!(outcome("too-soon").await, "retried: rate_limited");
    world.clock.advance(Duration::from_secs(11));
    assert_eq!(outcome("after").await, PASSED);
}

#[tokio::test]
async fn no_more_images_are_pulled_at_once_than_the_registry_is_to_bear() {
    let mut content = Content::default();
    content.image("demo/pass", Some("1.0"), "a");
    let registry = FakeRegistry::holding(content).await;
    let setup = Setup {
        registries: entry(", pulls: 1"),
        hosts: vec![(REGISTRY, registry.address)],
        ..Setup::default()
    };
    let world = World::set_up(setup).await;
    let host = scanhook_core::image::Registry::parse(REGISTRY).unwrap();
    let permit = world.scanner.registries.pull(&host).await.unwrap();
    let event = world.receive(&[&by_tag("scan")]).await;
    let deadline = world.clock.now() + MARGIN + Duration::from_millis(100);
    let response = world.handle_until(&event, deadline).await;
    assert_eq!(world.describe(&event, &response).await, "retried: timeout");
    assert!(registry.asked().is_empty());
    drop(permit);
    let response = world.handle(&event).await;
    assert_eq!(world.describe(&event, &response).await, PASSED);
}

/// A registry that sends to a realm, and what it takes for a token from there. Without one it holds nothing back but the
/// manifest's bytes.
fn wants_token(content: Content, realm: &str) -> impl Fn(&Asked) -> Answer + use<> {
    let challenge =
        format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:other/secret:pull\"");
    move |asked| match asked.authorization.as_deref() {
        Some("Bearer fake-token-of-the-realm") => content.answer(asked),
        _ => with(401, "www-authenticate", &challenge),
    }
}

fn gives_token(_: &Asked) -> Answer {
    answer_json(&json!({"token": "fake-token-of-the-realm"}))
}

/// What comes of a private image whose registry names a realm elsewhere: outcome, and what each of both was shown.
async fn with_realm(realm: &str, more: &str, behaviour: &str) -> (String, Vec<String>, Vec<Asked>) {
    let mut content = Content::default();
    let digest = content.image(&format!("demo/{behaviour}"), Some("1.0"), "a");
    let elsewhere = FakeRegistry::start(gives_token).await;
    let realm = realm.replace("PORT", &elsewhere.address.port().to_string());
    let registry = FakeRegistry::start(wants_token(content, &realm)).await;
    let setup = Setup {
        registries: entry("") + "\n" + more,
        hosts: vec![
            (REGISTRY, registry.address),
            ("auth.example.org", elsewhere.address),
        ],
        ..Setup::default()
    };
    let world = World::set_up(setup).await;
    let message = by_digest("scan", &format!("demo/{behaviour}"), &digest);
    let outcome = world.outcome(&message, 2).await;
    (outcome, registry.shown(), elsewhere.asked())
}

#[tokio::test]
async fn a_realm_elsewhere_gets_the_credentials_only_if_the_configuration_names_it() {
    let named = "  auth.example.org: { insecure: true }";
    let (outcome, shown, asked) =
        with_realm("http://auth.example.org/token", named, "registry-login").await;
    assert_eq!(outcome, PASSED);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].authorization.as_deref(), Some(BASIC));
    // The scope is that of the image, whatever the registry would like to have a token for.
    assert_eq!(
        asked[0].path,
        "/token?service=s&scope=repository%3Ademo%2Fregistry-login%3Apull"
    );
    assert!(
        shown
            .iter()
            .all(|it| it == "Bearer fake-token-of-the-realm"),
        "{shown:?}"
    );
}

#[tokio::test]
async fn a_realm_that_nobody_named_is_not_even_asked_at_an_address_that_is_not_public() {
    for realm in [
        "http://auth.example.org/token",
        "http://127.0.0.1:PORT/token",
        "http://[::ffff:127.0.0.1]:PORT/token",
        "http://2130706433:PORT/token",
        "http://0x7f.1:PORT/token",
        "http://169.254.169.254/latest/meta-data/",
        "http://metadata.google.internal/",
        "ftp://auth.example.org/",
        "no url",
    ] {
        let (outcome, shown, asked) = with_realm(realm, "", "registry-login").await;
        assert!(asked.is_empty(), "{realm}: {asked:?}");
        assert_eq!(shown, [""; 0], "{realm}");
        // Where nothing answers, something may do so later.
        let expected = if realm.contains("metadata.google") {
            "retried: network"
        } else {
            "dead letter: unauthorized"
        };
        assert_eq!(outcome, expected, "{realm}");
    }
}

#[tokio::test]
async fn a_realm_in_an_allowed_network_is_asked_without_credentials_and_so_is_the_cli() {
    let mut content = Content::default();
    let digest = content.image("demo/registry-login", Some("1.0"), "a");
    let elsewhere = FakeRegistry::start(gives_token).await;
    let registry = FakeRegistry::start(wants_token(content, "http://auth.example.org/token")).await;
    let setup = Setup {
        registries: entry(", allow: [127.0.0.0/8]"),
        hosts: vec![
            (REGISTRY, registry.address),
            ("auth.example.org", elsewhere.address),
        ],
        ..Setup::default()
    };
    let world = World::set_up(setup).await;
    let message = by_digest("scan", "demo/registry-login", &digest);
    // The stand-in wants the login and is not given it: it would take it to the same realm.
    assert_eq!(
        world.outcome(&message, 2).await,
        "dead letter: unauthorized"
    );
    let asked = elsewhere.asked();
    assert_eq!((asked.len(), asked[0].authorization.as_deref()), (1, None));
    assert_eq!(registry.shown(), ["Bearer fake-token-of-the-realm"; 2]);
}

#[tokio::test]
async fn a_realm_that_gives_no_answer_has_nothing_scanned_and_no_login_given() {
    let unavailable = FakeRegistry::start(|_: &Asked| with(503, "x-of", "a realm")).await;
    for realm in [unavailable.address, "127.0.0.1:1".parse().unwrap()] {
        let mut content = Content::default();
        let digest = content.image("demo/pass", Some("1.0"), "a");
        let challenge = "http://auth.example.org/token";
        let registry = FakeRegistry::start(wants_token(content, challenge)).await;
        let setup = Setup {
            registries: entry(", allow: [127.0.0.0/8]"),
            hosts: vec![(REGISTRY, registry.address), ("auth.example.org", realm)],
            ..Setup::default()
        };
        let world = World::set_up(setup).await;
        // The digest is known, and still the CLI, which would take the login to that realm, is not started.
        let outcome = world
            .outcome(&by_digest("scan", "demo/pass", &digest), 1)
            .await;
        assert_eq!(outcome, "retried: network", "{realm}");
        assert_eq!(world.ledger.0.lock().unwrap().granted, 0, "{realm}");
        assert_eq!(registry.shown(), [""; 0], "{realm}");
    }
}

#[tokio::test]
async fn a_redirect_takes_no_credentials_elsewhere() {
    let mut content = Content::default();
    let digest = content.image("demo/pass", Some("1.0"), "a");
    let elsewhere = FakeRegistry::holding(content).await;
    for (location, allow, reached) in [
        ("http://cdn.example.org", ", allow: [127.0.0.0/8]", true),
        ("http://cdn.example.org", "", false),
        ("http://127.0.0.1:PORT", "", false),
        ("http://[::ffff:7f00:1]:PORT", "", false),
    ] {
        let location = location.replace("PORT", &elsewhere.address.port().to_string());
        let registry = FakeRegistry::start(move |asked| match asked.authorization {
            None => with(401, "www-authenticate", "Basic realm=\"r\""),
            Some(_) => with(307, "location", &format!("{location}{}", asked.path)),
        })
        .await;
        let setup = Setup {
            registries: entry(allow),
            hosts: vec![
                (REGISTRY, registry.address),
                ("cdn.example.org", elsewhere.address),
            ],
            ..Setup::default()
        };
        let world = World::set_up(setup).await;
        let before = elsewhere.asked().len();
        let outcome = world
            .outcome(&by_digest("scan", "demo/pass", &digest), 2)
            .await;
        assert_eq!(
            outcome,
            if reached {
                PASSED
            } else {
                "dead letter: unauthorized"
            }
        );
        assert_eq!(elsewhere.asked().len() > before, reached);
        assert_eq!(elsewhere.shown(), [""; 0]);
        assert!(registry.shown().iter().all(|it| it == BASIC));
    }
}

#[tokio::test]
async fn a_message_that_names_another_registry_than_its_sources_has_nobody_asked() {
    let mut content = Content::default();
    let digest = content.image("demo/pass", Some("1.0"), "a");
    let other = FakeRegistry::holding(content).await;
    let setup = Setup {
        registries: entry(""),
        hosts: vec![("registry.example.com.evil.org", other.address)],
        ..Setup::default()
    };
    let world = World::set_up(setup).await;
    let mut message: serde_json::Value =
        serde_json::from_str(&by_digest("scan", "demo/pass", &digest)).unwrap();
    message["image"]["registry"] = "registry.example.com.evil.org".into();
    let outcome = world.outcome(&message.to_string(), 2).await;
    assert_eq!(outcome, "dead letter: bad_message");
    assert!(other.asked().is_empty());
    let [letter] = world.dead_letters().await.try_into().unwrap();
    assert_eq!(
        letter.attributes["scanhook.detail"],
        "the message names registry.example.com.evil.org, but source prod pulls from registry.example.com: an old name \
         that is listed in the source's `hosts` lets such messages through"
    );
}

#[tokio::test]
async fn a_message_may_name_its_sources_registry_in_any_spelling_or_by_an_old_name() {
    for (source, named, is_let_through) in [
        ("", "registry.example.com:443", true),
        ("hosts: [old.example.com]", "old.example.com", true),
        ("hosts: [\"old.example.com:443\"]", "old.example.com", true),
        ("", "old.example.com", false),
        ("", "registry.example.com:80", false),
    ] {
        let mut content = Content::default();
        let digest = content.image("demo/pass", Some("1.0"), "a");
        let registry = FakeRegistry::holding(content).await;
        let host = named.split(':').next().unwrap();
        let world = World::set_up(Setup {
            source,
            registries: entry("") + "\n  old.example.com: { insecure: true }",
            hosts: vec![(host, registry.address)],
            ..Setup::default()
        })
        .await;
        let mut message: serde_json::Value =
            serde_json::from_str(&by_digest("scan", "demo/pass", &digest)).unwrap();
        message["image"]["registry"] = named.into();
        let outcome = world.outcome(&message.to_string(), 2).await;
        let is_bad = outcome == "dead letter: bad_message";
        assert_eq!(is_bad, !is_let_through, "{source} {named}: {outcome}");
    }
}

#[tokio::test]
async fn a_configured_registry_may_be_anywhere_but_where_metadata_is() {
    let setup = Setup {
        registries: entry(""),
        hosts: vec![(REGISTRY, "169.254.169.254:80".parse().unwrap())],
        ..Setup::default()
    };
    let world = World::set_up(setup).await;
    let outcome = world
        .outcome(&by_digest("scan", "demo/pass", DIGEST), 2)
        .await;
    assert_eq!(outcome, "dead letter: unauthorized");
}

#[tokio::test]
async fn no_password_is_in_what_an_operator_reads() {
    let (_, detail) = outcome(|_| with(401, "www-authenticate", "Basic")).await;
    assert_eq!(
        detail,
        "registry.example.com refuses us with its credentials: status 401"
    );
    assert!(!detail.contains(PASSWORD));
}
