//! Tokens signed by an identity provider: a JWT (RFC 7519) in `Authorization: Bearer`, checked with keys that the
//! caller fetched.
//!
//! **Invariant**: the algorithm is RS256 and the keys are the given ones; nothing in a token selects either. Every
//! expected claim must be present.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::Uri;
use jiff::Timestamp;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Longer than any token that fits into API Gateway's limit for all headers, 10,240 bytes.
const LONGEST_TOKEN: usize = 10_240;

/// The allowed difference between two clocks, in seconds.
const LEEWAY: f64 = 30.0;

/// More keys than any provider publishes at once.
const MOST_KEYS: usize = 100;

/// Google's issuer. Its tokens may omit the scheme. Source: `OpenID` Connect, developers.google.com, the table of an ID
/// token's claims.
pub const GOOGLE: &str = "https://accounts.google.com";

/// The host of Google's keys, as its discovery document names it. All other issuers have their keys at their own host.
/// Source: `OpenID` Connect, developers.google.com, which documents `https://www.googleapis.com/oauth2/v3/certs` as the
/// `jwks_uri`.
const GOOGLE_KEYS: &str = "www.googleapis.com";

/// Which tokens are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The signer: the `iss` claim, and where its keys are found.
    pub issuer: String,
    /// One of the `aud` claim must be this.
    pub audience: String,
    /// The account of the token.
    pub identity: Identity,
}

/// The account that a token was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The `email` claim, with `email_verified`.
    Email(String),
    /// The `sub` claim.
    Subject(String),
}

/// Verifies a signature of RSASSA-PKCS1-v1_5 with SHA-256: modulus, exponent, message, signature. It is an argument,
/// because the library for it depends on a source of randomness, which verifying doesn't need.
pub type Rs256 = fn(&[u8], &[u8], &[u8], &[u8]) -> bool;

#[derive(Debug, Clone)]
pub struct KeySet {
    keys: Vec<Key>,
    rs256: Rs256,
}

#[derive(Debug, Clone)]
struct Key {
    id: String,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

/// Not a set of keys, or one without a key for RS256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a JWK set with an RSA key for signatures")]
pub struct ParseKeySetError;

impl KeySet {
    /// Parses a JWK set (RFC 7517). Ignores keys of another type, for another use or algorithm, or without an id, and
    /// everything that isn't a key (section 5).
    pub fn parse(json: &[u8], rs256: Rs256) -> Result<Self, ParseKeySetError> {
        #[derive(Deserialize)]
        struct WireSet {
            keys: Vec<Value>,
        }
        #[derive(Deserialize)]
        struct WireKey {
            kty: String,
            kid: Option<String>,
            alg: Option<String>,
            #[serde(rename = "use")]
            usage: Option<String>,
            key_ops: Option<Vec<String>>,
            n: String,
            e: String,
        }
        let set: WireSet = object(json).ok_or(ParseKeySetError)?;
        let keys = set.keys.into_iter().take(MOST_KEYS).filter_map(|it| {
            let key = Some(it).filter(Value::is_object)?;
            let it: WireKey = serde_json::from_value(key).ok()?;
            let is_for_us = it.kty == "RSA"
                && it.alg.is_none_or(|it| it == "RS256")
                && it.usage.is_none_or(|it| it == "sig")
                && it
                    .key_ops
                    .is_none_or(|it| it.iter().any(|it| it == "verify"));
            Some(Key {
                id: it.kid.filter(|_| is_for_us)?,
                modulus: BASE64.decode(it.n).ok()?,
                exponent: BASE64.decode(it.e).ok()?,
            })
        });
        let keys: Vec<_> = keys.collect();
        if keys.is_empty() {
            Err(ParseKeySetError)
        } else {
            Ok(Self { keys, rs256 })
        }
    }
}

/// Parses a JSON object in UTF-8. serde alone would also accept a list for a struct, and invalid UTF-8 in skipped
/// values.
fn object<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(json).ok()?;
    let is_object = text.trim_ascii_start().starts_with('{');
    serde_json::from_str(text).ok().filter(|_| is_object)
}

/// Whether this can be an issuer: an https URL without query or fragment. Plain http is allowed only on this machine.
pub fn is_issuer(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else {
        return false;
    };
    let is_plain_text = text.is_ascii() && !text.contains(['?', '#', '@']);
    is_plain_text && origin(&uri).is_some()
}

/// Returns scheme and authority, if the scheme is https, or http on this machine.
fn origin(uri: &Uri) -> Option<(&str, &str)> {
    let (scheme, host) = (uri.scheme_str()?, uri.host()?);
    let is_secure = scheme == "https" || scheme == "http" && host == "127.0.0.1";
    let authority = uri.authority()?.as_str();
    (is_secure && !authority.contains('@')).then_some((scheme, authority))
}

/// Why a discovery document yields no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// It isn't JSON with both members.
    #[error("it has no issuer or no jwks_uri")]
    Incomplete,
    /// Its issuer isn't exactly the one that was asked.
    #[error("it is of another issuer")]
    OtherIssuer,
    /// The keys are neither at the issuer's own scheme, host and port nor, for Google, at Google's host for keys.
    #[error("its keys are at another host")]
    OtherHost,
}

/// Returns the URL of an issuer's keys from its discovery document (`OpenID` Connect Discovery 1.0, section 3).
pub fn keys_url(issuer: &str, document: &[u8]) -> Result<String, DiscoveryError> {
    #[derive(Deserialize)]
    struct WireDiscovery {
        issuer: String,
        jwks_uri: String,
    }
    let found: WireDiscovery = object(document).ok_or(DiscoveryError::Incomplete)?;
    if found.issuer != issuer {
        return Err(DiscoveryError::OtherIssuer);
    }
    let place = issuer.parse().ok().zip(found.jwks_uri.parse().ok());
    if place.is_some_and(|(issuer, keys)| may_have_keys_at(&issuer, &keys)) {
        Ok(found.jwks_uri)
    } else {
        Err(DiscoveryError::OtherHost)
    }
}

fn may_have_keys_at(issuer: &Uri, keys: &Uri) -> bool {
    let is_googles = issuer.to_string().trim_end_matches('/') == GOOGLE
        && origin(keys) == Some(("https", GOOGLE_KEYS));
    is_googles || origin(issuer).is_some() && origin(issuer) == origin(keys)
}

#[derive(Deserialize)]
struct WireHeader {
    alg: String,
    kid: String,
    /// Whether there are extensions that must be understood. We understand none.
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
}

fn is_there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

#[derive(Deserialize)]
struct WireClaims {
    iss: String,
    aud: OneOrMany,
    exp: f64,
    nbf: Option<f64>,
    iat: Option<f64>,
    sub: Option<String>,
    email: Option<String>,
    email_verified: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Expected {
    /// Whether `token` is signed by one of `keys`, valid `now`, and has the expected issuer, audience and account.
    pub(crate) fn accepts(&self, token: &[u8], keys: &KeySet, now: Timestamp) -> bool {
        payload(token, keys)
            .and_then(|it| object(&it))
            .is_some_and(|it| self.agrees(&it, now))
    }

    fn agrees(&self, claims: &WireClaims, now: Timestamp) -> bool {
        let now = now.as_duration().as_secs_f64();
        let is_issuer = claims.iss == self.issuer
            || self.issuer == GOOGLE && GOOGLE.strip_prefix("https://") == Some(&claims.iss);
        let is_audience = match &claims.aud {
            OneOrMany::One(aud) => *aud == self.audience,
            OneOrMany::Many(auds) => auds.contains(&self.audience),
        };
        let is_identity = match &self.identity {
            Identity::Email(email) => {
                claims.email.as_ref() == Some(email) && claims.email_verified == Some(true)
            }
            Identity::Subject(subject) => claims.sub.as_ref() == Some(subject),
        };
        let has_begun = |it: Option<f64>| it.is_none_or(|it| it <= now + LEEWAY);
        is_issuer
            && is_audience
            && is_identity
            && claims.exp > now - LEEWAY
            && has_begun(claims.nbf)
            && has_begun(claims.iat)
    }
}

/// Returns a token's payload, if one of `keys` signed it. A token is a JWS in the compact serialization (RFC 7515).
pub fn payload(token: &[u8], keys: &KeySet) -> Option<Vec<u8>> {
    if token.len() > LONGEST_TOKEN {
        return None;
    }
    let token = std::str::from_utf8(token).ok()?;
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    let header: WireHeader = object(&BASE64.decode(header).ok()?)?;
    if header.alg != "RS256" || header.crit {
        return None;
    }
    let key = keys.keys.iter().find(|it| it.id == header.kid)?;
    let signature = BASE64.decode(signature).ok()?;
    if !(keys.rs256)(&key.modulus, &key.exponent, signed.as_bytes(), &signature) {
        return None;
    }
    BASE64.decode(payload).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Replaces RSA: a signature is valid if it repeats the modulus, the exponent and the message. The crate that has
    /// RSA tests it.
    fn echo(modulus: &[u8], exponent: &[u8], message: &[u8], signature: &[u8]) -> bool {
        signature == [modulus, exponent, message].concat()
    }

    const NOW: i64 = 1_795_291_200;

    fn keys() -> KeySet {
        let key = |kid: &str, n: &[u8]| json!({"kty": "RSA", "alg": "RS256", "use": "sig", "kid": kid, "n": BASE64.encode(n), "e": "AQAB"});
        let keys = json!({"keys": [key("old", b"modulus-1"), key("new", b"modulus-2")]});
        KeySet::parse(keys.to_string().as_bytes(), echo).unwrap()
    }

    fn expected() -> Expected {
        Expected {
            issuer: "https://issuer.example.com".to_owned(),
            audience: "scanhook".to_owned(),
            identity: Identity::Email("push@project.iam.gserviceaccount.com".to_owned()),
        }
    }

    fn good() -> Value {
        json!({
            "iss": "https://issuer.example.com", "aud": "scanhook", "sub": "1137", "azp": "1137",
            "email": "push@project.iam.gserviceaccount.com", "email_verified": true,
            "iat": NOW - 60, "exp": NOW + 3540,
        })
    }

    fn token_of(header: &Value, claims: &str, modulus: &[u8]) -> String {
        let signed = format!(
            "{}.{}",
            BASE64.encode(header.to_string()),
            BASE64.encode(claims)
        );
        let signature = [modulus, &[1, 0, 1], signed.as_bytes()].concat();
        format!("{signed}.{}", BASE64.encode(signature))
    }

    fn token(claims: &Value) -> String {
        token_of(
            &json!({"alg": "RS256", "kid": "new", "typ": "JWT"}),
            &claims.to_string(),
            b"modulus-2",
        )
    }

    fn accepts(expected: &Expected, token: &str) -> bool {
        expected.accepts(
            token.as_bytes(),
            &keys(),
            Timestamp::from_second(NOW).unwrap(),
        )
    }

    /// Whether a good token is still accepted after replacing a claim; `null` removes it.
    fn accepts_with(claim: &str, value: Value) -> bool {
        let mut claims = good();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(claim);
        } else {
            claims[claim] = value;
        }
        accepts(&expected(), &token(&claims))
    }

    #[test]
    fn a_good_token_is_accepted_with_either_key_until_it_expires() {
        assert!(accepts(&expected(), &token(&good())));
        let header = json!({"alg": "RS256", "kid": "old"});
        assert!(accepts(
            &expected(),
            &token_of(&header, &good().to_string(), b"modulus-1")
        ));
        assert!(accepts_with("aud", json!(["other", "scanhook"])));
        assert!(accepts_with("exp", json!(NOW - 29)));
        assert!(accepts_with("exp", json!(1_795_291_201.5)));
        assert!(accepts_with("nbf", json!(NOW + 29)));
        assert!(accepts_with("iat", Value::Null));
    }

    #[test]
    fn each_claim_must_be_present_and_right() {
        for (claim, values) in [
            (
                "iss",
                vec![
                    json!("https://issuer.example.com/"),
                    json!("issuer.example.com"),
                    json!(""),
                    json!(["https://issuer.example.com"]),
                ],
            ),
            (
                "aud",
                vec![
                    json!("other"),
                    json!([]),
                    json!(["scanhooks"]),
                    json!("scanhook,other"),
                    json!({"scanhook": 1}),
                ],
            ),
            (
                "email",
                vec![
                    json!("other@project.iam.gserviceaccount.com"),
                    json!("push@project.iam.gserviceaccount.com.evil.example"),
                    json!("PUSH@project.iam.gserviceaccount.com"),
                    json!(""),
                ],
            ),
            (
                "email_verified",
                vec![json!(false), json!("true"), json!(1)],
            ),
            (
                "exp",
                vec![
                    json!(NOW - 30),
                    json!(0),
                    json!(-1),
                    json!("4102444800"),
                    json!(true),
                ],
            ),
        ] {
            assert!(!accepts_with(claim, Value::Null), "no {claim}");
            for value in values {
                assert!(!accepts_with(claim, value.clone()), "{claim} {value}");
            }
        }
        for claim in ["nbf", "iat"] {
            assert!(!accepts_with(claim, json!(NOW + 31)), "{claim}");
            assert!(!accepts_with(claim, json!("soon")), "{claim}");
        }
    }

    #[test]
    fn a_subject_can_name_the_account() {
        let by_subject = |subject: &str| Expected {
            identity: Identity::Subject(subject.to_owned()),
            ..expected()
        };
        let mut claims = good();
        claims.as_object_mut().unwrap().remove("email_verified");
        assert!(accepts(&by_subject("1137"), &token(&claims)));
        assert!(!accepts(&by_subject("1138"), &token(&claims)));
        claims.as_object_mut().unwrap().remove("sub");
        assert!(!accepts(&by_subject("1137"), &token(&claims)));
    }

    #[test]
    fn only_google_may_omit_its_scheme() {
        let google = Expected {
            issuer: GOOGLE.to_owned(),
            ..expected()
        };
        for (iss, is_good) in [
            ("https://accounts.google.com", true),
            ("accounts.google.com", true),
            ("http://accounts.google.com", false),
            ("accounts.google.com.evil.example", false),
        ] {
            let mut claims = good();
            claims["iss"] = json!(iss);
            assert_eq!(accepts(&google, &token(&claims)), is_good, "{iss}");
        }
    }

    #[test]
    fn the_token_chooses_neither_its_algorithm_nor_its_key() {
        for header in [
            json!({"alg": "none", "kid": "new"}),
            json!({"alg": "None", "kid": "new"}),
            json!({"alg": "HS256", "kid": "new"}),
            json!({"alg": "RS384", "kid": "new"}),
            json!({"alg": "RS256"}),
            json!({"alg": "RS256", "kid": "old"}),
            json!({"alg": "RS256", "kid": "unknown"}),
            json!({"alg": "RS256", "kid": ["new"]}),
            json!({"alg": ["RS256"], "kid": "new"}),
            json!({"alg": "RS256", "kid": "new", "crit": ["b64"], "b64": false}),
            json!({"alg": "RS256", "kid": "new", "crit": null}),
            json!({"kid": "new"}),
            json!([]),
            json!(["RS256", "new"]),
        ] {
            let token = token_of(&header, &good().to_string(), b"modulus-2");
            assert!(!accepts(&expected(), &token), "{header}");
        }
        // Other keys that a token names aren't even read.
        let header = json!({"alg": "RS256", "kid": "new", "jku": "https://evil.example/keys", "jwk": {}, "x5u": "x"});
        assert!(accepts(
            &expected(),
            &token_of(&header, &good().to_string(), b"modulus-2")
        ));
    }

    #[test]
    fn an_almost_valid_token_is_refused() {
        let right = token(&good());
        let (signed, signature) = right.rsplit_once('.').unwrap();
        let (header, payload) = signed.split_once('.').unwrap();
        let twice = good()
            .to_string()
            .replacen('{', r#"{"email":"other@example.com","#, 1);
        let list = [
            "iss",
            "aud",
            "exp",
            "nbf",
            "iat",
            "sub",
            "email",
            "email_verified",
        ];
        let list = Value::from_iter(list.map(|it| good()[it].clone()));
        for wrong in [
            String::new(),
            "..".to_owned(),
            signed.to_owned(),
            format!("{signed}."),
            format!("{right}."),
            format!(".{right}"),
            format!("{right}="),
            format!(" {right}"),
            format!("{header}..{signature}"),
            format!("{header}.{payload}.{payload}.{signature}"),
            format!("{signed}.{}", BASE64.encode("other")),
            right.replacen('.', "-", 1),
            token_of(&json!({"alg": "RS256", "kid": "new"}), &twice, b"modulus-2"),
            token_of(
                &json!({"alg": "RS256", "kid": "new"}),
                &list.to_string(),
                b"modulus-2",
            ),
            token_of(
                &json!({"alg": "RS256", "kid": "new"}),
                "not json",
                b"modulus-2",
            ),
        ] {
            assert!(!accepts(&expected(), &wrong), "{wrong}");
        }
        let mut huge = good();
        huge["padding"] = json!("x".repeat(LONGEST_TOKEN));
        assert!(!accepts(&expected(), &token(&huge)));
    }

    #[test]
    fn a_key_set_has_only_the_keys_for_rs256() {
        let parse = |keys: Value| {
            let set = KeySet::parse(json!({"keys": keys}).to_string().as_bytes(), echo);
            set.map(|it| it.keys.into_iter().map(|it| it.id).collect::<Vec<_>>())
        };
        let good = json!({"kty": "RSA", "kid": "a", "n": "AQ", "e": "AQAB"});
        let others = [
            ("kty", "EC"),
            ("use", "enc"),
            ("alg", "RS512"),
            ("n", "no base64!"),
            ("e", "="),
        ];
        let others = others.map(|(member, value)| (member, json!(value)));
        let more = [
            ("kty", Value::Null),
            ("kid", json!(["a"])),
            ("key_ops", json!(["encrypt"])),
            ("use", json!(["sig"])),
        ];
        let others = others.into_iter().chain(more).map(|(member, value)| {
            let mut key = good.clone();
            key[member] = value;
            key
        });
        let no_objects = [
            json!(null),
            json!("a"),
            json!(["RSA", "b", null, null, null, "AQ", "AQAB"]),
        ];
        for other in others.chain(no_objects) {
            assert_eq!(parse(json!([other, good])).unwrap(), ["a"], "{other}");
            assert!(parse(json!([other])).is_err(), "{other}");
        }
        let list = json!([[good]]).to_string();
        for text in ["", "[]", "{}", "{\"keys\":{}}", &list] {
            assert!(KeySet::parse(text.as_bytes(), echo).is_err(), "{text}");
        }
    }

    #[test]
    fn an_issuer_uses_https_or_is_on_this_machine() {
        for good in [
            "https://accounts.google.com",
            "https://login.microsoftonline.com/tenant/v2.0",
            "http://127.0.0.1:4711",
        ] {
            assert!(is_issuer(good), "{good}");
        }
        for bad in [
            "",
            "accounts.google.com",
            "http://accounts.google.com",
            "http://127.0.0.1.evil.example",
            "http://localhost:4711",
            "https://user@accounts.google.com",
            "https://issuer.example.com/?x=1",
            "https://issuer.example.com/#x",
            "file:///etc/passwd",
        ] {
            assert!(!is_issuer(bad), "{bad}");
        }
    }

    #[test]
    fn keys_are_at_the_issuers_own_host_except_for_google() {
        for (issuer, keys, expected) in [
            (
                "https://accounts.google.com",
                "https://www.googleapis.com/oauth2/v3/certs",
                true,
            ),
            (
                "https://accounts.google.com",
                "https://www.googleapis.com:8443/oauth2/v3/certs",
                false,
            ),
            (
                "https://accounts.google.com",
                "http://www.googleapis.com/oauth2/v3/certs",
                false,
            ),
            (
                "https://accounts.google.com",
                "https://evil.example/oauth2/v3/certs",
                false,
            ),
            (
                "https://issuer.example.com",
                "https://www.googleapis.com/oauth2/v3/certs",
                false,
            ),
            (
                "https://issuer.example.com/a",
                "https://issuer.example.com/keys",
                true,
            ),
            (
                "https://issuer.example.com",
                "https://issuer.example.com:444/keys",
                false,
            ),
            (
                "https://issuer.example.com",
                "http://issuer.example.com/keys",
                false,
            ),
            (
                "https://issuer.example.com",
                "https://issuer.example.com@evil.example/keys",
                false,
            ),
            ("http://127.0.0.1:1", "http://127.0.0.1:1/keys", true),
            ("http://127.0.0.1:1", "http://127.0.0.1:2/keys", false),
        ] {
            let (from, to) = (issuer.parse().unwrap(), keys.parse().unwrap());
            assert_eq!(may_have_keys_at(&from, &to), expected, "{issuer} {keys}");
        }
    }
}
