//! Any token, any key set and any discovery document: nothing is accepted that an independent reading of the same bytes refuses.
//!
//! An input is a byte for the part, and then
//! - 0: a token, for the key that has signed those of `tokens.json` with true RSA. What differs from them is refused;
//! - 1: a byte for whose token is expected, then a token's header, claims and a key set, a line each. They are signed with what
//!   stands for RSA here, and judged once more from what serde_json keeps as it is spelled;
//! - 2: an issuer and its discovery document, a line each.
#![no_main]

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use scanhook_core::auth::{Verifier, verify};
use scanhook_core::delivery::Delivery;
use scanhook_core::oidc::{Expected, GOOGLE, Identity, KeySet, is_issuer, keys_url, payload};
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;

const NOW: i64 = 1_795_291_200;
const EMAIL: &str = "push@project.iam.gserviceaccount.com";

fn rsa(modulus: &[u8], exponent: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let key = RsaPublicKeyComponents {
        n: modulus,
        e: exponent,
    };
    key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
        .is_ok()
}

/// In the place of RSA, so that any key can sign anything.
fn echo(modulus: &[u8], exponent: &[u8], message: &[u8], signature: &[u8]) -> bool {
    signature == [modulus, exponent, message].concat()
}

/// Signed by the published key of RFC 7515, A.2.
#[derive(Deserialize)]
struct Tokens {
    key: Value,
    /// Right in all.
    good: Vec<String>,
    /// Right but for their claims.
    signed: Vec<String>,
}

static TOKENS: LazyLock<Tokens> =
    LazyLock::new(|| serde_json::from_str(include_str!("../tokens.json")).unwrap());

static KEYS: LazyLock<Arc<KeySet>> = LazyLock::new(|| {
    let set = serde_json::json!({"keys": [TOKENS.key]}).to_string();
    Arc::new(KeySet::parse(set.as_bytes(), rsa).unwrap())
});

/// The bits of `choice`: Google or another issuer, by e-mail or by subject.
fn expected(choice: u8) -> Expected {
    let issuer = ["https://issuer.example.com", GOOGLE];
    Expected {
        issuer: issuer[usize::from(choice & 1)].to_owned(),
        audience: "scanhook".to_owned(),
        identity: if choice & 2 == 0 {
            Identity::Email(EMAIL.to_owned())
        } else {
            Identity::Subject("1137".to_owned())
        },
    }
}

fn accepts(expected: Expected, keys: &Arc<KeySet>, token: &[u8]) -> bool {
    let Ok(value) = HeaderValue::from_bytes(&[b"Bearer ", token].concat()) else {
        return false;
    };
    let delivery = Delivery {
        headers: HeaderMap::from_iter([(header::AUTHORIZATION, value)]),
        path_token: None,
        body: Bytes::new(),
        received_at: Timestamp::from_second(NOW).unwrap(),
    };
    let keys = Some(Arc::clone(keys));
    verify(delivery, &[Verifier::Oidc { expected, keys }]).is_ok()
}

fn any_token(token: &[u8]) {
    let is_in = |list: &[String]| list.iter().any(|it| it.as_bytes() == token);
    let is_good = is_in(&TOKENS.good);
    let is_signed = is_good || is_in(&TOKENS.signed);
    let [by_email, google, by_subject, google_by_subject] =
        [0, 1, 2, 3].map(|choice| accepts(expected(choice), &KEYS, token));
    assert_eq!(payload(token, &KEYS).is_some(), is_signed);
    assert_eq!(by_email, is_good);
    assert!(is_signed || !by_subject);
    assert!(!google && !google_by_subject);
}

/// The members of a JSON object, each with its text; every key as often as it is there.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

impl Members {
    fn read(json: &[u8]) -> Option<Self> {
        serde_json::from_str(std::str::from_utf8(json).ok()?).ok()
    }

    /// Whether none of these is there more than once.
    fn are_single(&self, names: &[&str]) -> bool {
        let count = |name: &str| self.0.iter().filter(|(key, _)| key == name).count();
        names.iter().all(|it| count(it) <= 1)
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// A member that must be there, and of this type.
    fn needed<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let (_, text) = self.0.iter().find(|(key, _)| key == name)?;
        serde_json::from_str(text.get()).ok()
    }

    /// One that may be missing or null, but of no other type: then it is `None` in `Some`.
    fn optional<T: DeserializeOwned>(&self, name: &str) -> Option<Option<T>> {
        if self.has(name) {
            self.needed(name)
        } else {
            Some(None)
        }
    }
}

/// Modulus and exponent.
type RsaKey = (Vec<u8>, Vec<u8>);

/// The keys for RS256 of a set, with their ids, if there are any.
fn keys_of(set: &[u8]) -> Option<Vec<(String, RsaKey)>> {
    let set = Members::read(set)?;
    let keys: Vec<Value> = set.needed("keys").filter(|_| set.are_single(&["keys"]))?;
    let is_for_us = |key: &Value| {
        let says = |name: &str, value: &str| key[name].is_null() || key[name] == value;
        let operations = key["key_ops"].as_array();
        let may_verify = operations.is_some_and(|it| {
            it.iter().all(Value::is_string) && it.contains(&Value::from("verify"))
        });
        key["kty"] == "RSA"
            && says("alg", "RS256")
            && says("use", "sig")
            && (key["key_ops"].is_null() || may_verify)
    };
    let key = |it: &Value| {
        let member = |name: &str| BASE64.decode(it.get(name)?.as_str()?).ok();
        let id = it.get("kid")?.as_str()?.to_owned();
        Some((id, (member("n")?, member("e")?))).filter(|_| is_for_us(it))
    };
    let keys: Vec<_> = keys.iter().take(100).filter_map(key).collect();
    Some(keys).filter(|it| !it.is_empty())
}

/// The id of the key that a header names, if it is a header to be believed.
fn key_id(header: &[u8]) -> Option<String> {
    let header = Members::read(header)?;
    let is_right = header.are_single(&["alg", "kid"])
        && header.needed::<String>("alg")? == "RS256"
        && !header.has("crit");
    header.needed("kid").filter(|_| is_right)
}

fn are_right(claims: &[u8], choice: u8) -> Option<()> {
    const NAMES: [&str; 8] = [
        "iss",
        "aud",
        "exp",
        "nbf",
        "iat",
        "sub",
        "email",
        "email_verified",
    ];
    let claims = Members::read(claims).filter(|it| it.are_single(&NAMES))?;
    let issuer: String = claims.needed("iss")?;
    let audience: Value = claims.needed("aud")?;
    let expiry: f64 = claims.needed("exp")?;
    let times = [claims.optional::<f64>("nbf")?, claims.optional("iat")?];
    let (subject, email) = (claims.optional::<String>("sub")?, claims.optional("email")?);
    let is_verified = claims.optional::<bool>("email_verified")?;
    let issuers: &[&str] = if choice & 1 == 0 {
        &["https://issuer.example.com"]
    } else {
        &["https://accounts.google.com", "accounts.google.com"]
    };
    let is_for_us = match audience {
        Value::String(it) => it == "scanhook",
        Value::Array(it) => it.iter().all(Value::is_string) && it.contains(&Value::from("scanhook")),
        _ => false,
    };
    let is_of_whom = if choice & 2 == 0 {
        email == Some(EMAIL.to_owned()) && is_verified == Some(true)
    } else {
        subject.as_deref() == Some("1137")
    };
    let now = NOW as f64;
    let is_in_time = expiry > now - 30.0 && times.iter().flatten().all(|it| *it <= now + 30.0);
    (issuers.contains(&issuer.as_str()) && is_for_us && is_of_whom && is_in_time).then_some(())
}

fn any_parts(choice: u8, header: &[u8], claims: &[u8], set: &[u8]) {
    let keys = KeySet::parse(set, echo);
    let ours = keys_of(set);
    assert_eq!(keys.is_ok(), ours.is_some());
    let (Ok(keys), Some(ours)) = (keys, ours) else {
        return;
    };
    let mut first = HashMap::new();
    for (id, key) in &ours {
        first.entry(id.as_str()).or_insert(key);
    }
    let id = key_id(header);
    let key = id.as_ref().and_then(|it| first.get(it.as_str()).copied());
    let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
    let sign = |(modulus, exponent): &RsaKey| {
        let signature = [modulus, exponent, signed.as_bytes()].concat();
        format!("{signed}.{}", BASE64.encode(signature))
    };
    let keys = Arc::new(keys);
    for (_, signer) in &ours {
        let token = sign(signer);
        let is_short = token.len() <= 10_240;
        // Two keys may be the same, or the bytes of both together.
        let is_signed = is_short
            && key.is_some_and(|it| [&it.0[..], &it.1].concat() == [&signer.0[..], &signer.1].concat());
        assert_eq!(payload(token.as_bytes(), &keys).is_some(), is_signed);
        assert_eq!(
            accepts(expected(choice), &keys, token.as_bytes()),
            is_signed && are_right(claims, choice).is_some()
        );
    }
}

/// What an issuer or a place of keys is to a browser: its scheme, host and port.
fn origin(text: &str) -> Option<(String, String, Option<u16>)> {
    let url = Url::parse(text).ok()?;
    let is_bare = url.username().is_empty() && url.password().is_none();
    let host = url.host_str().filter(|_| is_bare)?.to_owned();
    Some((url.scheme().to_owned(), host, url.port_or_known_default()))
}

fn any_document(issuer: &[u8], document: &[u8]) {
    let Ok(issuer) = std::str::from_utf8(issuer) else {
        return;
    };
    let Ok(place) = keys_url(issuer, document) else {
        return;
    };
    let document = Members::read(document).unwrap();
    assert!(document.are_single(&["issuer", "jwks_uri"]));
    assert_eq!(document.needed::<String>("issuer").unwrap(), issuer);
    assert_eq!(document.needed::<String>("jwks_uri").unwrap(), place);
    if !is_issuer(issuer) {
        return;
    }
    let (Some(from), Some(to)) = (origin(issuer), origin(&place)) else {
        return;
    };
    assert!(to.0 == "https" || to.0 == "http" && to.1 == "127.0.0.1");
    let google = ("https".to_owned(), "www.googleapis.com".to_owned(), Some(443));
    let is_googles = from == origin(GOOGLE).unwrap() && to == google;
    assert!(from == to || is_googles, "{from:?} {to:?}");
}

fuzz_target!(|input: &[u8]| {
    let Some((part, rest)) = input.split_first() else {
        return;
    };
    match part % 3 {
        0 => any_token(rest),
        1 => {
            let Some((choice, rest)) = rest.split_first() else {
                return;
            };
            let mut lines = rest.splitn(3, |it| *it == b'\n');
            if let (Some(header), Some(claims), Some(set)) =
                (lines.next(), lines.next(), lines.next())
            {
                any_parts(*choice, header, claims, set);
            }
        }
        _ => {
            let mut lines = rest.splitn(2, |it| *it == b'\n');
            if let (Some(issuer), Some(document)) = (lines.next(), lines.next()) {
                any_document(issuer, document);
            }
        }
    }
});
