//! Authentication vectors of each scheme that can be configured.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use scanhook_core::auth::{Algorithm, Credential, Encoding, HmacScheme, Scheme, verify};
use scanhook_core::delivery::Delivery;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use crate::{corpus, files, read_json};

fn hmac(header: &'static str, algorithm: Algorithm, prefix: &str) -> Scheme {
    Scheme::Hmac(HmacScheme {
        header: HeaderName::from_static(header),
        algorithm,
        encoding: Encoding::Hex,
        prefix: prefix.to_owned(),
    })
}

/// The scheme and the secret that a vector is about.
fn credential(file: &str, case: &Value) -> Credential {
    let text = |key: &str| case[key].as_str().unwrap_or_default().to_owned();
    let (scheme, secret) = match file {
        "cloudsmith" => (
            hmac("x-cloudsmith-signature", Algorithm::Sha1, "sha1="),
            text("secret"),
        ),
        "gitea" => (
            hmac("x-gitea-signature", Algorithm::Sha256, ""),
            text("secret"),
        ),
        "github-docs" => (
            hmac("x-hub-signature-256", Algorithm::Sha256, "sha256="),
            text("secret"),
        ),
        "jfrog" if text("mode") == "signed" => (
            hmac("x-jfrog-event-auth", Algorithm::Sha256, ""),
            text("secret"),
        ),
        "jfrog" => (
            Scheme::Token(HeaderName::from_static("x-jfrog-event-auth")),
            text("secret"),
        ),
        "nexus-source" => (
            hmac("x-nexus-webhook-signature", Algorithm::Sha1, ""),
            text("secret"),
        ),
        "static-tokens" => match text("configured").strip_prefix("basic ") {
            Some(pair) => {
                let (name, password) = pair.split_once(':').unwrap();
                (Scheme::Basic(name.to_owned()), password.to_owned())
            }
            None => (Scheme::Token(header::AUTHORIZATION), text("configured")),
        },
        _ => panic!("{file} is a scheme that this test does not know"),
    };
    Credential {
        scheme,
        secret: SecretString::from(secret),
    }
}

#[test]
fn every_vector_is_accepted_or_refused_rightly() {
    let (mut count, mut changes) = (0, 0);
    for path in files(&corpus("registries/_vectors"), ".json") {
        let file = path.file_stem().unwrap().to_str().unwrap();
        let vectors: Value = read_json(&path);
        for case in vectors["cases"].as_array().unwrap() {
            let mut headers = HeaderMap::new();
            for (name, value) in case["headers"].as_object().unwrap() {
                let value = HeaderValue::from_bytes(value.as_str().unwrap().as_bytes());
                headers.append(HeaderName::try_from(name).unwrap(), value.unwrap());
            }
            let body = case["body"].as_str().unwrap_or_default().as_bytes();
            let credential = credential(file, case);
            let is_accepted = is_accepted(&credential, &headers, body);
            let is_valid = case["valid"].as_bool().unwrap();
            assert_eq!(is_accepted, is_valid, "{file}: {case}");
            if is_valid {
                changes += refused_changes(&credential, &headers, body);
            }
            count += 1;
        }
    }
    println!("\n{:<20} {count}/{count}", "vectors");
    println!("{:<20} {changes}/{changes}", "one-bit changes");
    assert!(count >= 10);
    assert!(changes > 1_000, "{changes}");
}

fn is_accepted(credential: &Credential, headers: &HeaderMap, body: &[u8]) -> bool {
    let delivery = Delivery {
        headers: headers.clone(),
        path_token: None,
        body: Bytes::copy_from_slice(body),
        received_at: jiff::Timestamp::UNIX_EPOCH,
    };
    verify(delivery, &[credential.verifier()]).is_ok()
}

/// Changes each bit of the secret, of the header that carries the credential and, where that is a signature, of the body;
/// none of it may be accepted. Returns how many changes there were.
fn refused_changes(credential: &Credential, headers: &HeaderMap, body: &[u8]) -> usize {
    let flips = |bytes: &[u8]| {
        let bytes = bytes.to_vec();
        (0..bytes.len() * 8).map(move |bit| {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        })
    };
    let mut count = 0;
    let mut refused = |credential: &Credential, headers: &HeaderMap, body: &[u8]| {
        assert!(!is_accepted(credential, headers, body));
        count += 1;
    };
    let secret = credential.secret.expose_secret();
    for secret in flips(secret.as_bytes()).filter_map(|it| String::from_utf8(it).ok()) {
        let other = Credential {
            scheme: credential.scheme.clone(),
            secret: SecretString::from(secret),
        };
        refused(&other, headers, body);
    }
    let name = match &credential.scheme {
        Scheme::Hmac(scheme) => scheme.header.clone(),
        Scheme::Token(header) => header.clone(),
        _ => header::AUTHORIZATION,
    };
    // The word `Basic` is the same in another case (RFC 9110, section 11.1).
    let fixed = if matches!(credential.scheme, Scheme::Basic(_)) {
        "Basic".len()
    } else {
        0
    };
    let value = headers[&name].as_bytes();
    for value in flips(value).skip(fixed * 8) {
        let Ok(value) = HeaderValue::from_bytes(&value) else {
            continue;
        };
        let mut headers = headers.clone();
        headers.insert(&name, value);
        refused(credential, &headers, body);
    }
    if matches!(credential.scheme, Scheme::Hmac(_)) {
        for body in flips(body) {
            refused(credential, headers, &body);
        }
    }
    count
}
