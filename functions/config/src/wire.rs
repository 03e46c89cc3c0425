//! The YAML as it is written. Unknown and repeated keys are refused here; meaning is checked in [`crate::config`].

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_norway::Value;

use crate::secrets::SecretRef;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireConfig {
    pub(crate) sources: Entries<WireSource>,
    #[serde(default)]
    pub(crate) registries: Entries<WireRegistry>,
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
    #[serde(default)]
    pub(crate) untagged: scanhook_core::source::Untagged,
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
    pub(crate) matches: Entries<Option<Vec<String>>>,
    #[serde(default)]
    pub(crate) ping: Entries<Option<Vec<String>>>,
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
#[serde(untagged)]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireRateLimit {
    pub(crate) per_minute: u32,
    pub(crate) burst: Option<u32>,
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
    #[serde(rename = "type")]
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
    pub(crate) insecure: bool,
    pub(crate) ca: Option<String>,
    pub(crate) pulls: Option<u32>,
    #[serde(default)]
    pub(crate) allow: Vec<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireCredentials {
    #[serde(rename = "type")]
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
    pub(crate) api_token: SecretRef,
    #[serde(default)]
    pub(crate) policies: Vec<String>,
    pub(crate) timeout: Option<Span>,
    pub(crate) concurrency: Option<u32>,
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
    pub(crate) attempts: Option<u32>,
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
        let text = text(Value::deserialize(deserializer)?);
        text.and_then(|it| humantime::parse_duration(&it).ok())
            .map(Self)
            .ok_or_else(|| de::Error::custom("expected a duration such as 30s, 10m, 1h or 90d"))
    }
}

/// A size as people write it: `1MiB`.
pub(crate) struct Size(pub(crate) u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = text(Value::deserialize(deserializer)?);
        text.and_then(|it| it.parse::<ByteSize>().ok())
            .map(|it| Self(it.as_u64()))
            .ok_or_else(|| de::Error::custom("expected a size such as 1MiB or 8GiB"))
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = text(Value::deserialize(deserializer)?);
        text.and_then(|it| Self::parse(&it)).ok_or_else(|| {
            de::Error::custom(
                "expected a reference such as env:NAME, file:PATH, ssm:/NAME or secretsmanager:NAME[#key]",
            )
        })
    }
}

fn text(value: Value) -> Option<String> {
    if let Value::String(text) = value {
        Some(text)
    } else {
        None
    }
}

/// A map in the order of the file that refuses a repeated key, which a plain map would silently replace.
pub(crate) struct Entries<T>(pub(crate) Vec<(String, T)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<T>, A::Error> {
                let mut entries: Vec<(String, T)> = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    let is_repeated = entries.iter().any(|(it, _)| *it == key);
                    let value = map.next_value()?;
                    if is_repeated {
                        return Err(de::Error::custom(format_args!(
                            "the key {key:?} is repeated"
                        )));
                    }
                    entries.push((key, value));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}
