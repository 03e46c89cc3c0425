//! How a delivery proves that it comes from the configured registry, and how `scanhook send` proves the same.
//!
//! Everything is compared in constant time over its full length: signatures as MACs, tokens and passwords as the
//! SHA-256 of both sides, which also hides the length.
//!
//! **Invariant**: a [`Verifier`] is made of exactly one algorithm and one place to look at; nothing in a delivery
//! chooses either, and there is no fallback from one to another.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
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
    pub(crate) fn accepts(&self, delivery: &Delivery) -> bool {
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
