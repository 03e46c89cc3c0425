//! Authentication vectors of each scheme that can be configured.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use scanhook_core::auth::{Algorithm, Credential, Encoding, HmacScheme, Scheme};
use scanhook_core::delivery::{Delivery, verify};
use secrecy::SecretString;
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
    let mut count = 0;
    for path in files(&corpus("registries/_vectors"), ".json") {
        let file = path.file_stem().unwrap().to_str().unwrap();
        let vectors: Value = read_json(&path);
        for case in vectors["cases"].as_array().unwrap() {
            let mut headers = HeaderMap::new();
            for (name, value) in case["headers"].as_object().unwrap() {
                let value = HeaderValue::from_bytes(value.as_str().unwrap().as_bytes());
                headers.append(HeaderName::try_from(name).unwrap(), value.unwrap());
            }
            let body = case["body"].as_str().unwrap_or_default();
            let delivery = Delivery {
                headers,
                path_token: None,
                body: Bytes::copy_from_slice(body.as_bytes()),
            };
            let is_accepted = verify(delivery, &[credential(file, case).verifier()]).is_ok();
            assert_eq!(
                is_accepted,
                case["valid"].as_bool().unwrap(),
                "{file}: {case}"
            );
            count += 1;
        }
    }
    println!("\n{:<20} {count}/{count}", "vectors");
    assert!(count >= 10);
}
