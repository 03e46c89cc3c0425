//! Who may send: signatures, tokens, their near misses, and rotation.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::Request;
use scanhook_core::auth::{Algorithm, Credential, Encoding, HmacScheme, Scheme};
use scanhook_emulator::sqs::Recorder;

use crate::world::{
    CONFIG, SOURCES, bare, check, credential, instead, push, queued, recorded_by, scan_of_push,
    secret, send, signed, signed_with, started, with, without,
};

const SIGNATURE: &str = "x-hub-signature-256";

fn signature_of(body: &str) -> String {
    let request = signed("github", body.to_owned());
    request.headers()[SIGNATURE].to_str().unwrap().to_owned()
}

/// Sends GitHub's push with this value for its signature.
async fn check_signature(value: &str) -> String {
    check(with(bare("github", push("github")), SIGNATURE, value)).await
}

#[tokio::test]
async fn each_kinds_own_credential_opens_its_source() {
    for source in SOURCES {
        assert_eq!(
            check(signed(source, push(source))).await,
            scan_of_push(source)
        );
    }
}

#[tokio::test]
async fn no_source_is_open_without_a_credential() {
    for source in SOURCES {
        assert_eq!(check(bare(source, push(source))).await, "401", "{source}");
    }
}

#[tokio::test]
async fn a_signature_that_is_not_exactly_the_right_one_is_refused() {
    let right = signature_of(&push("github"));
    assert_eq!(check_signature(&right).await, scan_of_push("github"));
    let hex = right.strip_prefix("sha256=").unwrap();
    for wrong in [
        String::new(),
        "sha256=".to_owned(),
        hex.to_owned(),
        format!("sha256={}", hex.split_at(62).0),
        format!("sha256={}", hex.split_at(63).0),
        format!("sha256={hex}00"),
        format!("sha256={hex}{hex}"),
        format!("sha256={}", hex.to_uppercase()),
        format!("SHA256={hex}"),
        format!("sha1={hex}"),
        format!("sha512={hex}"),
        format!("sha256= {hex}"),
        format!("sha256={}zz", hex.split_at(62).0),
        format!("sha256={}", "0".repeat(64)),
        signature_of("another body"),
    ] {
        assert_eq!(check_signature(&wrong).await, "401", "{wrong}");
    }
}

#[tokio::test]
async fn a_credential_that_is_there_twice_is_refused_in_either_order() {
    for (source, name, wrong) in [
        ("github", SIGNATURE, "sha256=00"),
        ("prod", "authorization", "wrong"),
        ("mirror", "authorization", "Bearer wrong"),
    ] {
        let request = signed(source, push(source));
        let right = request.headers()[name].to_str().unwrap().to_owned();
        for [first, second] in [[right.as_str(), wrong], [wrong, &right], [&right, &right]] {
            let twice = with(instead(request.clone(), name, first), name, second);
            assert_eq!(check(twice).await, "401", "{source}: {first} {second}");
            let joined = instead(request.clone(), name, &format!("{first},{second}"));
            assert_eq!(check(joined).await, "401", "{source}: {first},{second}");
            let joined = instead(request.clone(), name, &format!("{first}, {second}"));
            assert_eq!(check(joined).await, "401", "{source}: {first}, {second}");
        }
    }
}

#[tokio::test]
async fn no_other_algorithm_or_header_helps_a_wrong_signature() {
    let sha1 = Credential {
        scheme: Scheme::Hmac(HmacScheme {
            header: http::HeaderName::from_static("x-hub-signature"),
            algorithm: Algorithm::Sha1,
            encoding: Encoding::Hex,
            prefix: "sha1=".to_owned(),
        }),
        secret: credential("github", 0).secret,
    };
    let with_sha1 = signed_with("github", &sha1, push("github"));
    assert_eq!(check(with_sha1.clone()).await, "401");
    let both = with(with_sha1.clone(), SIGNATURE, "sha256=00");
    assert_eq!(check(both).await, "401");
    let value = with_sha1.headers()["x-hub-signature"].to_str().unwrap();
    assert_eq!(check_signature(value).await, "401");
}

#[tokio::test]
async fn a_secret_opens_its_own_source_only() {
    for target in SOURCES {
        for owner in SOURCES.into_iter().filter(|it| *it != target) {
            let stolen = credential(owner, 0);
            let request = signed_with(target, &stolen, push(target));
            assert_eq!(check(request).await, "401", "{owner} at {target}");
        }
    }
}

#[tokio::test]
async fn a_token_must_be_right_to_the_last_byte() {
    let right = secret("HARBOR");
    let shorter = right.split_at(right.len() - 1).0;
    for wrong in [
        "",
        shorter,
        &format!("{right}x"),
        &format!("{shorter}2"),
        &format!("Bearer {right}"),
        &right.to_uppercase(),
    ] {
        let request = with(bare("prod", push("prod")), "authorization", wrong);
        assert_eq!(check(request).await, "401", "{wrong}");
    }
}

#[tokio::test]
async fn a_bearer_token_needs_its_scheme_and_one_space() {
    let right = secret("MIRROR");
    for good in [format!("Bearer {right}"), format!("bearer {right}")] {
        let request = with(bare("mirror", push("mirror")), "authorization", &good);
        assert_eq!(check(request).await, scan_of_push("mirror"), "{good}");
    }
    for wrong in [
        right.clone(),
        format!("Bearer{right}"),
        format!("Bearer  {right}"),
        format!("Token {right}"),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
    ] {
        let request = with(bare("mirror", push("mirror")), "authorization", &wrong);
        assert_eq!(check(request).await, "401", "{wrong}");
    }
}

#[tokio::test]
async fn a_basic_password_may_hold_colons_and_nothing_else_odd_is_taken() {
    let right = secret("MIRROR_BASIC");
    assert!(right.contains(':'));
    let basic = |it: &[u8]| format!("Basic {}", BASE64.encode(it));
    let request = |value: &str| with(bare("mirror", push("mirror")), "authorization", value);
    let good = basic(format!("ci:{right}").as_bytes());
    assert_eq!(check(request(&good)).await, scan_of_push("mirror"));
    for wrong in [
        basic(b"ci"),
        basic(b""),
        basic(right.as_bytes()),
        basic(format!("CI:{right}").as_bytes()),
        basic(format!("ci:{right}:").as_bytes()),
        basic(&[0xff, 0xfe, b':']),
        "Basic not base64!".to_owned(),
        format!(
            "Basic {}",
            good.strip_prefix("Basic ").unwrap().to_lowercase()
        ),
    ] {
        assert_eq!(check(request(&wrong)).await, "401", "{wrong}");
    }
}

/// Posts Docker Hub's push to a path.
async fn check_path(path: &str) -> String {
    let mut request = bare("hub", push("hub"));
    *request.uri_mut() = path.parse().unwrap();
    check(request).await
}

#[tokio::test]
async fn a_path_token_counts_whole_in_its_place_and_nowhere_else() {
    let token = secret("HUB");
    let shorter = token.split_at(token.len() - 1).0;
    assert_eq!(
        check_path(&format!("/webhooks/hub/{token}")).await,
        scan_of_push("hub")
    );
    for wrong in [
        format!("/webhooks/hub/{shorter}"),
        format!("/webhooks/hub/{token}x"),
        format!("/webhooks/hub/{token}%00"),
        format!("/webhooks/hub/{}", token.to_uppercase()),
        format!("/webhooks/hub?token={token}"),
        format!("/webhooks/hub/x?secret={token}"),
        format!("/webhooks/hub#{token}"),
    ] {
        assert_eq!(check_path(&wrong).await, "401", "{wrong}");
    }
    let in_a_header = with(bare("hub", push("hub")), "authorization", &token);
    assert_eq!(check(in_a_header).await, "401");
}

#[tokio::test]
async fn a_percent_encoded_path_token_is_the_same_token() {
    let token = secret("HUB").replace(':', "%3A");
    assert_eq!(
        check_path(&format!("/webhooks/hub/{token}")).await,
        scan_of_push("hub")
    );
    let twice = token.replace('%', "%25");
    assert_eq!(check_path(&format!("/webhooks/hub/{twice}")).await, "401");
}

#[tokio::test]
async fn a_path_token_does_not_stand_in_for_a_signature() {
    let mut request = bare("github", push("github"));
    *request.uri_mut() = format!("/webhooks/github/{}", secret("GITHUB_OLD"))
        .parse()
        .unwrap();
    assert_eq!(check(request).await, "401");
}

#[tokio::test]
async fn while_a_secret_is_rotated_the_old_and_the_new_one_are_taken() {
    for entry in [0, 1] {
        let request = signed_with("github", &credential("github", entry), push("github"));
        assert_eq!(check(request).await, scan_of_push("github"), "{entry}");
    }
}

#[tokio::test]
async fn the_signature_covers_the_raw_bytes_whatever_the_content_type() {
    // Line ends and trailing spaces would be lost by anyone who reads and writes the JSON again.
    let body = format!("{}\r\n  \r\n", push("github").replace(",\"", " ,\r\n  \""));
    for content_type in [
        Some("application/json"),
        Some("application/vnd.docker.distribution.events.v2+json"),
        Some("text/plain"),
        None,
    ] {
        let request = |body: &str| {
            let request = without(signed("github", body.to_owned()), "content-type");
            match content_type {
                Some(it) => with(request, "content-type", it),
                None => request,
            }
        };
        let right = request(&body);
        assert_eq!(check(right.clone()).await, scan_of_push("github"));
        let trimmed = right.map(|it| it.slice(..it.len() - 1));
        assert_eq!(check(trimmed).await, "401", "{content_type:?}");
    }
}

#[tokio::test]
async fn a_form_is_verified_over_its_raw_bytes_and_read_from_its_payload_field() {
    let form = format!(
        "payload={}",
        push("github")
            .replace('{', "%7B")
            .replace('"', "%22")
            .replace('}', "%7d")
            .replace(':', "%3A")
    );
    let request = |form: String| {
        instead(
            signed("github", form),
            "content-type",
            "application/x-www-form-urlencoded",
        )
    };
    assert_eq!(check(request(form.clone())).await, scan_of_push("github"));
    let reencoded = request(form.clone()).map(|_| form.replace("%7d", "%7D").into());
    assert_eq!(check(reencoded).await, "401");
    assert_eq!(check(request(format!("{form}&{form}"))).await, "400");
    // The header that says what it is is not signed, so the body tells.
    assert_eq!(check(request(push("github"))).await, scan_of_push("github"));
    assert_eq!(check(signed("github", form)).await, scan_of_push("github"));
}

#[tokio::test]
async fn every_refusal_of_a_stranger_reads_the_same() {
    let recorder = Recorder::default();
    let webhook = Arc::new(started(recorded_by(&recorder)).await);
    let full = |it: Request<bytes::Bytes>| it.map(http_body_util::Full::new);
    let reference = send(&webhook, full(bare("prod", push("prod")))).await;
    assert_eq!(reference.status, 401);
    let mut path_token = bare("hub", push("hub"));
    *path_token.uri_mut() = "/webhooks/hub/wrong".parse().unwrap();
    for request in [
        bare("hub", push("hub")),
        path_token,
        bare("mirror", ""),
        with(bare("mirror", "x"), "authorization", "Bearer wrong"),
        with(bare("mirror", "x"), "authorization", "Basic wrong"),
        with(bare("github", push("github")), SIGNATURE, "sha256=00"),
        with(bare("github", push("github")), SIGNATURE, ""),
        bare("github", "not json"),
        with(signed("github", push("github")), SIGNATURE, "sha256=00"),
        signed_with("other-github", &credential("github", 0), push("github")),
    ] {
        assert_eq!(send(&webhook, full(request)).await, reference);
    }
    assert!(queued(&recorder).is_empty());
}

#[test]
fn the_configuration_of_these_tests_holds_no_secret_itself() {
    assert!(!CONFIG.contains("canary"));
}
