//! The YAML as it is written. Unknown and repeated keys and values of a wrong type are refused here; meaning is checked in
//! [`crate::config`], where a key that must be there is missed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use indexmap::IndexMap;
use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};

use crate::secrets::SecretRef;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireConfig {
    #[serde(default)]
    pub(crate) sources: BTreeMap<String, WireSource>,
    /// In the order of the file, for of equal patterns the first counts.
    #[serde(default)]
    pub(crate) registries: IndexMap<String, WireRegistry>,
    pub(crate) scanner: Option<WireScanner>,
    #[serde(default)]
    pub(crate) dedup: WireDedup,
    #[serde(default)]
    pub(crate) retry: WireRetry,
    #[serde(default)]
    pub(crate) ledger: WireLedger,
    #[serde(default)]
    pub(crate) limits: WireLimits,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireSource {
    #[serde(default)]
    pub(crate) kind: String,
    pub(crate) registry: Option<String>,
    #[serde(default)]
    pub(crate) hosts: Vec<String>,
    #[serde(default)]
    pub(crate) auth: Vec<WireAuth>,
    #[serde(default)]
    pub(crate) include: Vec<String>,
    #[serde(default)]
    pub(crate) exclude: Vec<String>,
    #[serde(default)]
    pub(crate) tags: WireTags,
    pub(crate) untagged: Option<String>,
    #[serde(default)]
    pub(crate) platforms: Vec<String>,
    #[serde(default)]
    pub(crate) policies: Vec<String>,
    #[serde(default)]
    pub(crate) events: Vec<String>,
    pub(crate) repo_key: Option<String>,
    pub(crate) payload: Option<WirePayload>,
    pub(crate) rate_limit: Option<WireRateLimit>,
}

/// A map of JSON Pointers; what is not named is not read.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WirePayload {
    #[serde(default)]
    pub(crate) events: String,
    #[serde(default, rename = "match")]
    pub(crate) matches: IndexMap<String, Option<Vec<String>>>,
    #[serde(default)]
    pub(crate) ping: IndexMap<String, Option<Vec<String>>>,
    #[serde(default)]
    pub(crate) repository: OneOrMany,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) media_type: Option<String>,
    pub(crate) id: Option<String>,
    #[serde(rename = "type")]
    pub(crate) event_type: Option<String>,
    pub(crate) actor: Option<String>,
    pub(crate) time: Option<String>,
}

/// A text, or a list of texts.
#[derive(serde::Deserialize)]
#[serde(untagged, expecting = "a JSON Pointer or a list of them")]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireRateLimit {
    #[serde(default)]
    pub(crate) per_minute: Count,
    pub(crate) burst: Option<Count>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireTags {
    #[serde(default)]
    pub(crate) include: Vec<String>,
    #[serde(default)]
    pub(crate) exclude: Vec<String>,
}

/// Flat rather than an enum by `type`: inside a tagged enum the path of an error would end at the entry.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireAuth {
    #[serde(default, rename = "type")]
    pub(crate) auth_type: String,
    pub(crate) header: Option<String>,
    pub(crate) algorithm: Option<String>,
    pub(crate) encoding: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) username: Option<String>,
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
    pub(crate) email: Option<String>,
    pub(crate) subject: Option<String>,
    pub(crate) secret: Option<SecretRef>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireRegistry {
    pub(crate) credentials: Option<WireCredentials>,
    #[serde(default)]
    pub(crate) insecure: Flag,
    pub(crate) ca: Option<String>,
    pub(crate) pulls: Option<Count>,
    #[serde(default)]
    pub(crate) allow: Vec<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireCredentials {
    #[serde(default, rename = "type")]
    pub(crate) credentials_type: String,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<SecretRef>,
    pub(crate) token: Option<SecretRef>,
    pub(crate) key: Option<SecretRef>,
    pub(crate) tenant: Option<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireScanner {
    pub(crate) api_url: Option<String>,
    pub(crate) api_token: Option<SecretRef>,
    #[serde(default)]
    pub(crate) policies: Vec<String>,
    pub(crate) timeout: Option<Span>,
    pub(crate) concurrency: Option<Count>,
    pub(crate) max_image: Option<Size>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireDedup {
    pub(crate) window: Option<Span>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireRetry {
    pub(crate) attempts: Option<Count>,
    pub(crate) base: Option<Span>,
    pub(crate) cap: Option<Span>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireLedger {
    pub(crate) keep: Option<Span>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireLimits {
    pub(crate) body: Option<Size>,
}

/// A duration as people write it: `10m`, `90d`.
pub(crate) struct Span(pub(crate) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(
            deserializer,
            "a duration such as 30s, 10m, 1h or 90d",
            |it| humantime::parse_duration(it.text()?).ok().map(Self),
        )
    }
}

/// A size as people write it: `1MiB`.
pub(crate) struct Size(pub(crate) u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, "a size such as 1MiB or 8GiB", |it| {
            Some(Self(it.text()?.parse::<ByteSize>().ok()?.as_u64()))
        })
    }
}

/// How many.
#[derive(Clone, Copy, Default)]
pub(crate) struct Count(pub(crate) u32);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, "a whole number below 2^32", |it| match it {
            Scalar::Number(number) => number.try_into().ok().map(Self),
            _ => None,
        })
    }
}

/// Whether.
#[derive(Clone, Copy, Default)]
pub(crate) struct Flag(pub(crate) bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, "true or false", |it| match it {
            Scalar::Flag(flag) => Some(Self(flag)),
            _ => None,
        })
    }
}

/// The forms of a reference.
pub(crate) const REFERENCE: &str =
    "a reference such as env:NAME, file:PATH, ssm:/NAME or secretsmanager:NAME[#key]";

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, REFERENCE, |it| Self::parse(it.text()?))
    }
}

enum Scalar<'a> {
    Text(&'a str),
    Number(u64),
    Flag(bool),
}

impl<'a> Scalar<'a> {
    fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Reads a scalar that has a form of its own. Unlike serde's own types, it says what it expects whatever it finds.
fn parsed<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    what: &'static str,
    parse: fn(Scalar<'_>) -> Option<T>,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(ScalarVisitor { what, parse })
}

struct ScalarVisitor<T> {
    what: &'static str,
    parse: fn(Scalar<'_>) -> Option<T>,
}

impl<T> ScalarVisitor<T> {
    fn parse<E: de::Error>(self, scalar: Scalar<'_>) -> Result<T, E> {
        let parsed = (self.parse)(scalar);
        parsed.ok_or_else(|| E::invalid_value(Unexpected::Other("another value"), &self.what))
    }
}

impl<T> Visitor<'_> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        self.parse(Scalar::Text(text))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.parse(Scalar::Number(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.parse(Scalar::Number(number.try_into().unwrap_or(u64::MAX)))
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<T, E> {
        self.parse(Scalar::Flag(flag))
    }
}
