//! Where each key of a file is, and of which type its value is: what an error may show of it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, NonFiniteFloatPolicy, Spanned};

/// A file without its values.
pub(super) struct Outline(Spanned<Content>);

/// Where something is, or, if it is missing, what it is missing in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) column: u64,
    /// The value's type in YAML; of what is missing, "nothing".
    pub(super) found: Option<&'static str>,
}

enum Content {
    Scalar(&'static str),
    List(Vec<Outline>),
    Map(Vec<(String, Outline)>),
}

impl Outline {
    pub(super) fn of(yaml: &str) -> Option<Self> {
        let options = serde_saphyr::options! {
            with_snippet: false,
            strict_booleans: true,
            non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
        };
        serde_saphyr::from_str_with_options(yaml, options).ok()
    }

    /// The place of a path such as `sources.prod.auth[0].secret`; the empty one is that of the whole file.
    pub(super) fn find(&self, path: &str) -> Place {
        let path = path.trim_start_matches('.');
        let found = if path.is_empty() {
            self.found()
        } else if let Some((child, rest)) = self.child(path) {
            return child.find(rest);
        } else {
            "nothing"
        };
        Place {
            line: self.0.referenced.line(),
            column: self.0.referenced.column(),
            found: Some(found),
        }
    }

    fn child<'a>(&self, path: &'a str) -> Option<(&Self, &'a str)> {
        match &self.0.value {
            Content::Scalar(_) => None,
            Content::List(entries) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                Some((entries.get(index.parse::<usize>().ok()?)?, rest))
            }
            // A key, such as a host, may itself have dots.
            Content::Map(entries) => {
                let entries = entries.iter().filter_map(|(key, child)| {
                    let rest = path.strip_prefix(key.as_str())?;
                    let is_whole = rest.is_empty() || rest.starts_with(['.', '[']);
                    is_whole.then_some((child, rest))
                });
                entries.min_by_key(|(_, rest)| rest.len())
            }
        }
    }

    fn found(&self) -> &'static str {
        match &self.0.value {
            Content::Scalar(name) => name,
            Content::List(entries) if entries.is_empty() => "an empty list",
            Content::List(_) => "a list",
            Content::Map(entries) if entries.is_empty() => "an empty map",
            Content::Map(_) => "a map",
        }
    }
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Content, E> {
        Ok(Content::Scalar("a boolean"))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Content, E> {
        let is_negative = number < 0;
        Ok(Content::Scalar(if is_negative {
            "a negative number"
        } else {
            "a number"
        }))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Content, E> {
        Ok(Content::Scalar("a number"))
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<Content, E> {
        Ok(Content::Scalar("a number"))
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<Content, E> {
        Ok(Content::Scalar("a number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Content, E> {
        Ok(Content::Scalar("a decimal number"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
        let is_empty = text.trim().is_empty();
        Ok(Content::Scalar(if is_empty {
            "an empty string"
        } else {
            "a string"
        }))
    }

    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<Content, E> {
        Ok(Content::Scalar("binary data"))
    }

    fn visit_unit<E: Error>(self) -> Result<Content, E> {
        Ok(Content::Scalar("null"))
    }

    fn visit_none<E: Error>(self) -> Result<Content, E> {
        Ok(Content::Scalar("null"))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element()? {
            entries.push(entry);
        }
        Ok(Content::List(entries))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Content::Map(entries))
    }
}
