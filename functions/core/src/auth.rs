//! How a delivery proves that it comes from the configured registry, and how `scanhook send` proves the same.
//!
//! Everything is compared in constant time over its full length: signatures as MACs, tokens and passwords as the
//! SHA-256 of both sides, which also hides the length.
//!
//! **Invariant**: a [`Verifier`] is made of exactly one algorithm and one place to look at; nothing in a delivery
//! chooses either, and there is no fallback from one to another.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use secrecy::{ExposeSecret, SecretString};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};
use subtle::ConstantTimeEq;

use crate::delivery::Delivery;
use crate::oidc::{Expected, KeySet};

/// A hash function of an HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC-SHA-1; sound as a MAC, and all that Nexus and Cloudsmith offer.
    Sha1,
    /// HMAC-SHA-256.
    Sha256,
    /// HMAC-SHA-512.
    Sha512,
}

/// How the bytes of a MAC are written into a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Lower-case hexadecimal digits; upper case is refused.
    Hex,
    /// Standard base64 with padding.
    Base64,
}

/// Where the signature of a delivery is and how it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HmacScheme {
    /// The header.
    pub header: HeaderName,
    /// The hash function.
    pub algorithm: Algorithm,
    /// The notation.
    pub encoding: Encoding,
    /// What stands before the signature, and must.
    pub prefix: String,
}

/// A way to authenticate a delivery, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheme {
    /// A signature over the raw body.
    Hmac(HmacScheme),
    /// A header whose whole value is the secret.
    Token(HeaderName),
    /// `Authorization: Bearer <secret>`.
    Bearer,
    /// `Authorization: Basic`, with this user name and the secret as password.
    Basic(String),
    /// The secret is the last segment of the path.
    PathToken,
}

impl Scheme {
    /// The word for it in the configuration.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Hmac(_) => "hmac",
            Self::Token(_) => "token",
            Self::Bearer => "bearer",
            Self::Basic(_) => "basic",
            Self::PathToken => "path_token",
        }
    }
}

/// A scheme and its secret.
pub struct Credential {
    /// The way.
    pub scheme: Scheme,
    /// The shared secret.
    pub secret: SecretString,
}

/// Where a credential is put in a request.
pub enum Presented {
    /// Into this header.
    Header(HeaderName, HeaderValue),
    /// Behind the source's URL, after a slash.
    PathSegment(SecretString),
}

impl Credential {
    /// Prepares the check of deliveries; the secret itself is not kept.
    pub fn verifier(&self) -> Verifier {
        let secret = self.secret.expose_secret().as_bytes();
        match &self.scheme {
            Scheme::Hmac(scheme) => Verifier::Hmac {
                key: Box::new(MacKey::new(scheme.algorithm, secret)),
                scheme: scheme.clone(),
            },
            Scheme::Token(header) => Verifier::Token {
                header: header.clone(),
                hash: Hash::of(secret),
            },
            Scheme::Bearer => Verifier::Bearer {
                hash: Hash::of(secret),
            },
            Scheme::Basic(username) => {
                let pair = format!("{username}:{}", self.secret.expose_secret());
                Verifier::Basic {
                    hash: Hash::of(pair.as_bytes()),
                }
            }
            Scheme::PathToken => Verifier::PathToken {
                hash: Hash::of(secret),
            },
        }
    }

    /// What a sender that knows the secret adds to a request with this body. `None` if the secret can't stand in
    /// a header.
    pub fn present(&self, body: &[u8]) -> Option<Presented> {
        let secret = self.secret.expose_secret();
        let (name, value) = match &self.scheme {
            Scheme::Hmac(scheme) => {
                let mac = MacKey::new(scheme.algorithm, secret.as_bytes()).sign(body);
                let text = match scheme.encoding {
                    Encoding::Hex => hex::encode(mac),
                    Encoding::Base64 => BASE64.encode(mac),
                };
                (scheme.header.clone(), format!("{}{text}", scheme.prefix))
            }
            Scheme::Token(header) => (header.clone(), secret.to_owned()),
            Scheme::Bearer => (header::AUTHORIZATION, format!("Bearer {secret}")),
            Scheme::Basic(username) => (
                header::AUTHORIZATION,
                format!("Basic {}", BASE64.encode(format!("{username}:{secret}"))),
            ),
            Scheme::PathToken => return Some(Presented::PathSegment(self.secret.clone())),
        };
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some(Presented::Header(name, value))
    }
}

/// The check that one credential stands for. Holds no plain secret.
pub enum Verifier {
    /// See [`Scheme::Hmac`].
    Hmac {
        /// Where and how.
        scheme: HmacScheme,
        /// The key, already mixed in.
        key: Box<MacKey>,
    },
    /// See [`Scheme::Token`].
    Token {
        /// Where.
        header: HeaderName,
        /// Of the token.
        hash: Hash,
    },
    /// See [`Scheme::Bearer`].
    Bearer {
        /// Of the token.
        hash: Hash,
    },
    /// See [`Scheme::Basic`].
    Basic {
        /// Of `username:password`.
        hash: Hash,
    },
    /// See [`Scheme::PathToken`].
    PathToken {
        /// Of the token.
        hash: Hash,
    },
    /// A token that an identity provider signed.
    Oidc {
        /// Whose.
        expected: Expected,
        /// The provider's keys; `None` as long as they are not known, and then no token is right.
        keys: Option<Arc<KeySet>>,
    },
}

impl Verifier {
    /// Whether a delivery carries the credential. A header that is there more than once counts as wrong.
    fn accepts(&self, delivery: &Delivery) -> bool {
        let Delivery {
            headers,
            path_token,
            body,
            received_at,
        } = delivery;
        match self {
            Self::Hmac { scheme, key } => only(headers, &scheme.header)
                .and_then(|it| it.strip_prefix(scheme.prefix.as_bytes()))
                .and_then(|it| decode(scheme.encoding, it))
                .is_some_and(|it| key.verify(body, &it)),
            Self::Token { header, hash } => {
                only(headers, header).is_some_and(|it| hash.matches(it))
            }
            Self::Bearer { hash } => {
                authorization(headers, b"bearer").is_some_and(|it| hash.matches(it))
            }
            Self::Basic { hash } => authorization(headers, b"basic")
                .and_then(|it| BASE64.decode(it).ok())
                .is_some_and(|it| hash.matches(&it)),
            Self::PathToken { hash } => path_token
                .as_deref()
                .is_some_and(|it| hash.matches(it.as_bytes())),
            Self::Oidc { expected, keys } => keys
                .as_ref()
                .zip(authorization(headers, b"bearer"))
                .is_some_and(|(keys, token)| expected.accepts(token, keys, *received_at)),
        }
    }
}

/// The value of a header that is there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes()),
        _ => None,
    }
}

/// What follows the scheme, whose case does not matter (RFC 9110, section 11.1), in `Authorization`.
fn authorization<'a>(headers: &'a HeaderMap, scheme: &[u8]) -> Option<&'a [u8]> {
    let value = only(headers, &header::AUTHORIZATION)?;
    let (given, rest) = value.split_at_checked(scheme.len())?;
    if given.eq_ignore_ascii_case(scheme) {
        rest.strip_prefix(b" ")
    } else {
        None
    }
}

fn decode(encoding: Encoding, text: &[u8]) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Hex if text.iter().any(u8::is_ascii_uppercase) => None,
        Encoding::Hex => hex::decode(text).ok(),
        Encoding::Base64 => BASE64.decode(text).ok(),
    }
}

/// The SHA-256 of a secret.
pub struct Hash([u8; 32]);

impl Hash {
    fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    fn matches(&self, given: &[u8]) -> bool {
        self.0.ct_eq(&Self::of(given).0).into()
    }
}

/// A keyed MAC, ready for a body.
pub enum MacKey {
    /// HMAC-SHA-1.
    Sha1(Hmac<Sha1>),
    /// HMAC-SHA-256.
    Sha256(Hmac<Sha256>),
    /// HMAC-SHA-512.
    Sha512(Hmac<Sha512>),
}

fn keyed<M: KeyInit>(key: &[u8]) -> M {
    match M::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("an HMAC takes a key of any length (RFC 2104)"),
    }
}

impl MacKey {
    fn new(algorithm: Algorithm, secret: &[u8]) -> Self {
        match algorithm {
            Algorithm::Sha1 => Self::Sha1(keyed(secret)),
            Algorithm::Sha256 => Self::Sha256(keyed(secret)),
            Algorithm::Sha512 => Self::Sha512(keyed(secret)),
        }
    }

    /// Compares the whole MAC in constant time; one of another length is wrong.
    fn verify(&self, body: &[u8], mac: &[u8]) -> bool {
        match self {
            Self::Sha1(key) => key.clone().chain_update(body).verify_slice(mac).is_ok(),
            Self::Sha256(key) => key.clone().chain_update(body).verify_slice(mac).is_ok(),
            Self::Sha512(key) => key.clone().chain_update(body).verify_slice(mac).is_ok(),
        }
    }

    fn sign(self, body: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1(key) => key.chain_update(body).finalize().into_bytes().to_vec(),
            Self::Sha256(key) => key.chain_update(body).finalize().into_bytes().to_vec(),
            Self::Sha512(key) => key.chain_update(body).finalize().into_bytes().to_vec(),
        }
    }
}

/// A delivery that carried one of its source's credentials.
///
/// **Invariant**: only [`verify`] makes one.
pub struct VerifiedDelivery {
    headers: HeaderMap,
    body: Bytes,
    entry: usize,
}

/// No credential of the source was there, or it was wrong. Which of both is nobody's business. The delivery is given
/// back: its credential may be right for a secret that was changed a moment ago.
#[derive(thiserror::Error)]
#[error("no valid credential")]
pub struct Unauthorized(pub Box<Delivery>);

impl fmt::Debug for Unauthorized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unauthorized")
    }
}

/// Checks a delivery against a source's credentials, of which any one suffices.
pub fn verify(
    delivery: Delivery,
    verifiers: &[Verifier],
) -> Result<VerifiedDelivery, Unauthorized> {
    match verifiers.iter().position(|it| it.accepts(&delivery)) {
        Some(entry) => Ok(VerifiedDelivery {
            headers: delivery.headers,
            body: delivery.body,
            entry,
        }),
        None => Err(Unauthorized(Box::new(delivery))),
    }
}

impl VerifiedDelivery {
    /// The raw body, over which a signature was made if there was one. A byte order mark before it, which a reader of JSON
    /// may pass over (RFC 8259, section 8.1), is left out.
    pub fn body(&self) -> &[u8] {
        self.body
            .strip_prefix(b"\xef\xbb\xbf")
            .unwrap_or(&self.body)
    }

    /// A header's value, if it is there and visible ASCII. Headers are not signed: they may only agree with the body.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|it| it.to_str().ok())
    }

    /// Which entry of the source's `auth` was used, from 0.
    pub fn entry(&self) -> usize {
        self.entry
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "fake-secret-of-a-test";

    fn github() -> Scheme {
        Scheme::Hmac(HmacScheme {
            header: HeaderName::from_static("x-hub-signature-256"),
            algorithm: Algorithm::Sha256,
            encoding: Encoding::Hex,
            prefix: "sha256=".to_owned(),
        })
    }

    fn accepts(
        scheme: Scheme,
        secret: &str,
        headers: &[(&str, &[u8])],
        path_token: Option<&str>,
        body: &str,
    ) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        let delivery = Delivery {
            headers: map,
            path_token: path_token.map(str::to_owned),
            body: Bytes::copy_from_slice(body.as_bytes()),
            received_at: Timestamp::UNIX_EPOCH,
        };
        verify(
            delivery,
            &[Credential {
                scheme,
                secret: SecretString::from(secret),
            }
            .verifier()],
        )
        .is_ok()
    }

    /// The vector of docs.github.com, "Validating webhook deliveries".
    const VECTOR: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn accepts_signature(value: &str) -> bool {
        let headers = [("X-Hub-Signature-256", value.as_bytes())];
        accepts(
            github(),
            "It's a Secret to Everybody",
            &headers,
            None,
            "Hello, World!",
        )
    }

    #[test]
    fn the_published_vector_of_github_is_accepted() {
        assert!(accepts_signature(&format!("sha256={VECTOR}")));
    }

    #[test]
    fn a_signature_that_is_not_exactly_the_right_one_is_refused() {
        for value in [
            String::new(),
            "sha256=".to_owned(),
            VECTOR.to_owned(),
            format!("sha1={VECTOR}"),
            format!("SHA256={VECTOR}"),
            format!("sha256={}", VECTOR.to_uppercase()),
            format!("sha256={}", VECTOR.get(..62).unwrap()),
            format!("sha256={}", VECTOR.get(..63).unwrap()),
            format!("sha256={VECTOR}00"),
            format!("sha256={VECTOR}{VECTOR}"),
            format!("sha256={VECTOR},sha256={VECTOR}"),
            format!("sha256= {VECTOR}"),
            format!("sha256={}zz", VECTOR.get(..62).unwrap()),
            format!("sha256={}", VECTOR.replace("757", "756")),
        ] {
            assert!(!accepts_signature(&value), "{value}");
        }
        let right = format!("sha256={VECTOR}");
        let twice = [
            ("X-Hub-Signature-256", right.as_bytes()),
            ("X-Hub-Signature-256", right.as_bytes()),
        ];
        assert!(!accepts(
            github(),
            "It's a Secret to Everybody",
            &twice,
            None,
            "Hello, World!"
        ));
    }

    /// The text with each of its bits changed in turn; the eighth stays zero, so that it is still text.
    fn flips(text: &str) -> impl Iterator<Item = String> {
        let bytes = text.as_bytes().to_vec();
        (0..bytes.len() * 7).map(move |bit| {
            let mut bytes = bytes.clone();
            bytes[bit / 7] ^= 1 << (bit % 7);
            String::from_utf8(bytes).unwrap()
        })
    }

    /// How each kind signs, and Cloudsmith; then how secrets are sent as they are.
    fn schemes() -> Vec<Scheme> {
        let presets = crate::kinds::ALL.iter().filter_map(|it| it.hmac);
        let signed = presets.map(|it| Scheme::Hmac(it.scheme()));
        let cloudsmith = Scheme::Hmac(HmacScheme {
            header: HeaderName::from_static("x-cloudsmith-signature"),
            algorithm: Algorithm::Sha1,
            encoding: Encoding::Hex,
            prefix: "sha1=".to_owned(),
        });
        let base64 = Scheme::Hmac(HmacScheme {
            header: HeaderName::from_static("x-signature"),
            algorithm: Algorithm::Sha512,
            encoding: Encoding::Base64,
            prefix: String::new(),
        });
        let token = Scheme::Token(HeaderName::from_static("x-token"));
        let basic = Scheme::Basic("robot$ci".to_owned());
        signed
            .chain([cloudsmith, base64, token, Scheme::Bearer, basic])
            .collect()
    }

    #[test]
    fn every_scheme_is_called_by_its_word_in_the_configuration() {
        let words: std::collections::BTreeSet<_> = schemes().iter().map(Scheme::as_str).collect();
        assert_eq!(
            words.into_iter().collect::<Vec<_>>(),
            ["basic", "bearer", "hmac", "token"]
        );
        assert_eq!(Scheme::PathToken.as_str(), "path_token");
    }

    #[test]
    fn every_one_bit_change_of_secret_body_or_header_is_refused() {
        let (secret, body) = ("fake-secret-of-a-test", "Hello, World!");
        let schemes = schemes();
        assert!(schemes.len() >= 4 + 5, "four kinds sign");
        for scheme in schemes {
            let credential = Credential {
                scheme: scheme.clone(),
                secret: SecretString::from(secret),
            };
            let Some(Presented::Header(name, value)) = credential.present(body.as_bytes()) else {
                panic!("{scheme:?} is not in a header")
            };
            let is_taken = |secret: &str, header: &str, value: &str, body: &str| {
                let (Ok(name), Ok(value)) =
                    (HeaderName::try_from(header), HeaderValue::try_from(value))
                else {
                    return false;
                };
                accepts(
                    scheme.clone(),
                    secret,
                    &[(name.as_str(), value.as_bytes())],
                    None,
                    body,
                )
            };
            let (name, value) = (name.as_str(), value.to_str().unwrap());
            assert!(is_taken(secret, name, value, body), "{scheme:?}");
            assert!(
                flips(secret).all(|it| !is_taken(&it, name, value, body)),
                "{scheme:?}"
            );
            // A header's name and the word `Bearer` or `Basic` are the same in another case.
            let other_value = flips(value).filter(|it| {
                let is_authorization = matches!(scheme, Scheme::Bearer | Scheme::Basic(_));
                !(is_authorization
                    && it.eq_ignore_ascii_case(value)
                    && it.split(' ').nth(1) == value.split(' ').nth(1))
            });
            assert!(
                other_value
                    .into_iter()
                    .all(|it| !is_taken(secret, name, &it, body)),
                "{scheme:?}"
            );
            let other_name = flips(name).filter(|it| !it.eq_ignore_ascii_case(name));
            assert!(
                other_name
                    .into_iter()
                    .all(|it| !is_taken(secret, &it, value, body)),
                "{scheme:?}"
            );
            let is_signed = matches!(scheme, Scheme::Hmac(_));
            assert!(
                flips(body).all(|it| is_taken(secret, name, value, &it) != is_signed),
                "{scheme:?}"
            );
        }
    }

    #[test]
    fn tokens_must_be_equal_to_the_last_byte_and_stand_alone() {
        let token = |value: &str| {
            accepts(
                Scheme::Token(http::header::AUTHORIZATION),
                SECRET,
                &[("Authorization", value.as_bytes())],
                None,
                "",
            )
        };
        assert!(token(SECRET));
        for wrong in [
            "",
            "fake-secret-of-a-tes",
            "fake-secret-of-a-tesT",
            "fake-secret-of-a-test ",
            "Bearer fake-secret-of-a-test",
        ] {
            assert!(!token(wrong), "{wrong:?}");
        }
        let right = SECRET.as_bytes();
        for values in [[right, b"wrong"], [b"wrong", right], [right, right]] {
            let headers = [("Authorization", values[0]), ("Authorization", values[1])];
            assert!(!accepts(
                Scheme::Token(http::header::AUTHORIZATION),
                SECRET,
                &headers,
                None,
                ""
            ));
        }
        let joined = format!("{SECRET},wrong");
        assert!(!token(&joined));
    }

    #[test]
    fn bearer_wants_its_scheme_in_any_case_and_one_space() {
        let bearer = |value: &str| {
            accepts(
                Scheme::Bearer,
                SECRET,
                &[("Authorization", value.as_bytes())],
                None,
                "",
            )
        };
        assert!(bearer(&format!("Bearer {SECRET}")));
        assert!(bearer(&format!("bearer {SECRET}")));
        for wrong in [
            SECRET.to_owned(),
            format!("Bearer  {SECRET}"),
            format!("Basic {SECRET}"),
            "Bearer ".to_owned(),
            "Bearer".to_owned(),
        ] {
            assert!(!bearer(&wrong), "{wrong:?}");
        }
    }

    #[test]
    fn basic_takes_a_colon_in_the_password_and_nothing_malformed() {
        use base64::Engine as _;
        let encode = |it: &[u8]| base64::engine::general_purpose::STANDARD.encode(it);
        let secret = "fake:password:with:colons";
        let basic = |value: String| {
            accepts(
                Scheme::Basic("robot$ci".to_owned()),
                secret,
                &[("Authorization", value.as_bytes())],
                None,
                "",
            )
        };
        assert!(basic(format!(
            "Basic {}",
            encode(format!("robot$ci:{secret}").as_bytes())
        )));
        for wrong in [
            format!("Basic {}", encode(b"robot$ci")),
            format!("Basic {}", encode(b"robot$ci:fake")),
            format!("Basic {}", encode(b"other:fake:password:with:colons")),
            format!("Basic {}", encode(b"\xff\xfe:x")),
            "Basic !!!".to_owned(),
            "Basic ".to_owned(),
        ] {
            assert!(!basic(wrong.clone()), "{wrong:?}");
        }
    }

    #[test]
    fn a_path_token_counts_only_in_the_path() {
        assert!(accepts(Scheme::PathToken, SECRET, &[], Some(SECRET), ""));
        assert!(!accepts(
            Scheme::PathToken,
            SECRET,
            &[],
            Some("fake-secret-of-a-tes"),
            ""
        ));
        assert!(!accepts(Scheme::PathToken, SECRET, &[], None, ""));
        assert!(!accepts(
            Scheme::PathToken,
            SECRET,
            &[("Authorization", SECRET.as_bytes())],
            None,
            ""
        ));
        assert!(!accepts(
            Scheme::Token(http::header::AUTHORIZATION),
            SECRET,
            &[],
            Some(SECRET),
            ""
        ));
    }

    #[test]
    fn either_of_two_secrets_is_accepted_and_told_apart() {
        let old = Credential {
            scheme: Scheme::Bearer,
            secret: SecretString::from("fake-old-secret-value"),
        };
        let new = Credential {
            scheme: Scheme::Bearer,
            secret: SecretString::from("fake-new-secret-value"),
        };
        let verifiers = [old.verifier(), new.verifier()];
        for (entry, credential) in [old, new].iter().enumerate() {
            let Some(Presented::Header(name, value)) = credential.present(b"") else {
                panic!("not a header")
            };
            let headers = HeaderMap::from_iter([(name, value)]);
            let verified = verify(
                Delivery {
                    headers,
                    path_token: None,
                    body: Bytes::new(),
                    received_at: Timestamp::UNIX_EPOCH,
                },
                &verifiers,
            )
            .unwrap();
            assert_eq!(verified.entry(), entry);
        }
    }

    proptest! {
        #[test]
        fn what_a_sender_signs_is_accepted_whatever_the_body(body: Vec<u8>, which in 0usize..6) {
            let hmac = |algorithm, encoding| Scheme::Hmac(HmacScheme {
                header: HeaderName::from_static("x-signature"), algorithm, encoding, prefix: "v=".to_owned(),
            });
            let scheme = match which {
                0 => hmac(Algorithm::Sha1, Encoding::Hex),
                1 => hmac(Algorithm::Sha256, Encoding::Base64),
                2 => hmac(Algorithm::Sha512, Encoding::Hex),
                3 => Scheme::Bearer,
                4 => Scheme::Basic("user".to_owned()),
                _ => Scheme::Token(HeaderName::from_static("x-token")),
            };
            let credential = Credential { scheme, secret: SecretString::from(SECRET) };
            let Some(Presented::Header(name, value)) = credential.present(&body) else { panic!("not a header") };
            let headers = HeaderMap::from_iter([(name, value)]);
            let delivery = Delivery { headers, path_token: None, body: Bytes::from(body), received_at: Timestamp::UNIX_EPOCH };
            prop_assert!(verify(delivery, &[credential.verifier()]).is_ok());
        }

        #[test]
        fn no_header_value_makes_a_verifier_panic_or_accept(value: Vec<u8>, body: Vec<u8>) {
            let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
            for scheme in [github(), Scheme::Bearer, Scheme::Basic("u".to_owned()), Scheme::Token(http::header::AUTHORIZATION)] {
                let verifier = Credential { scheme, secret: SecretString::from(SECRET) }.verifier();
                let mut headers = HeaderMap::new();
                headers.insert("x-hub-signature-256", value.clone());
                headers.insert("authorization", value.clone());
                let delivery = Delivery { headers, path_token: None, body: Bytes::from(body.clone()), received_at: Timestamp::UNIX_EPOCH };
                prop_assert!(verify(delivery, &[verifier]).is_err());
            }
        }
    }
}
