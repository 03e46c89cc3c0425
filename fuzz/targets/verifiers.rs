//! Any credential and any delivery: what the sender presents is taken, and nothing that differs from it.
//!
//! An input is a byte for the scheme, the secret up to a line break, a header's value up to another, and the body.
#![no_main]

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use scanhook_core::auth::{Algorithm, Credential, Encoding, HmacScheme, Presented, Scheme, verify};
use scanhook_core::delivery::Delivery;
use secrecy::ExposeSecret as _;

fn scheme(choice: u8) -> Scheme {
    let hmac = |algorithm, encoding, prefix: &str| {
        Scheme::Hmac(HmacScheme {
            header: HeaderName::from_static("x-signature"),
            algorithm,
            encoding,
            prefix: prefix.to_owned(),
        })
    };
    match choice % 8 {
        0 => hmac(Algorithm::Sha1, Encoding::Hex, ""),
        1 => hmac(Algorithm::Sha256, Encoding::Hex, "sha256="),
        2 => hmac(Algorithm::Sha512, Encoding::Base64, ""),
        3 => hmac(Algorithm::Sha1, Encoding::Base64, "sha1="),
        4 => Scheme::Token(HeaderName::from_static("x-token")),
        5 => Scheme::Bearer,
        6 => Scheme::Basic("user".to_owned()),
        _ => Scheme::PathToken,
    }
}

fn place(scheme: &Scheme) -> Option<HeaderName> {
    match scheme {
        Scheme::Hmac(scheme) => Some(scheme.header.clone()),
        Scheme::Token(header) => Some(header.clone()),
        Scheme::Bearer | Scheme::Basic(_) => Some(header::AUTHORIZATION),
        Scheme::PathToken => None,
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else {
        return;
    };
    let mut parts = rest.splitn(3, |it| *it == b'\n');
    let (Some(secret), Some(given), Some(body)) = (parts.next(), parts.next(), parts.next()) else {
        return;
    };
    let Ok(secret) = std::str::from_utf8(secret) else {
        return;
    };
    let scheme = scheme(*choice);
    let place = place(&scheme);
    let is_signature = matches!(scheme, Scheme::Hmac(_));
    let credential = Credential {
        scheme,
        secret: secret.into(),
    };
    let verifiers = [credential.verifier()];
    let accepts = |values: &[&HeaderValue], path_token: Option<&str>, body: &[u8]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(
                place.clone().unwrap_or(header::AUTHORIZATION),
                (*value).clone(),
            );
        }
        let delivery = Delivery {
            headers,
            path_token: path_token.map(str::to_owned),
            body: Bytes::copy_from_slice(body),
            received_at: Timestamp::UNIX_EPOCH,
        };
        verify(delivery, &verifiers).is_ok()
    };
    assert!(!accepts(&[], None, body));
    match credential.present(body) {
        Some(Presented::Header(_, value)) => {
            assert!(accepts(&[&value], None, body));
            assert!(!accepts(&[&value, &value], None, body));
            let mut other = body.to_vec();
            if let Some(last) = other.last_mut() {
                *last ^= 1;
                assert_eq!(accepts(&[&value], None, &other), !is_signature);
            }
            let Ok(given) = HeaderValue::from_bytes(given) else {
                return;
            };
            if accepts(&[&given], None, body) {
                // Only the case of an authentication scheme's name does not matter.
                let equal = if place == Some(header::AUTHORIZATION) {
                    given.as_bytes().eq_ignore_ascii_case(value.as_bytes())
                } else {
                    given == value
                };
                assert!(equal);
            }
        }
        Some(Presented::PathSegment(token)) => {
            assert!(accepts(&[], Some(token.expose_secret()), body));
            if let Ok(given) = std::str::from_utf8(given) {
                assert_eq!(accepts(&[], Some(given), body), given == secret);
            }
        }
        None => {}
    }
});
