//! A configured sender: its name, its kind, and what of its pushes is wanted.

use std::fmt;
use std::sync::Arc;

use globset::GlobSet;
use serde::{Deserialize, Serialize, Serializer};

use crate::ecr::EcrHost;
use crate::event::NamedRegistry;
use crate::image::Registry;
use crate::kinds::{Kind, Options};

/// The name of a source: in its URL, in each message of it and, as message group, in SQS, which allows letters,
/// digits and punctuation, but no space, and at most 128 characters. Here: letters, digits, `-`, `_`, `.`, at most 64. A copy shares its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct SourceName(Arc<str>);

/// Not the name of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a source's name is 1 to 64 letters, digits, '-', '_' or '.', and starts with a letter or digit"
)]
pub struct ParseSourceNameError;

impl SourceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SourceName {
    type Error = ParseSourceNameError;

    fn try_from(text: String) -> Result<Self, ParseSourceNameError> {
        let is_good = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|it| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_' | b'.'))
            && text.starts_with(|it: char| it.is_ascii_alphanumeric());
        if is_good {
            Ok(Self(text.into()))
        } else {
            Err(ParseSourceNameError)
        }
    }
}

impl From<SourceName> for String {
    fn from(name: SourceName) -> Self {
        name.as_str().to_owned()
    }
}

impl Serialize for SourceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for SourceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is done with a manifest that was pushed by digest only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Untagged {
    /// Nothing: the children of an index, attestations and the like come this way.
    #[default]
    Skip,
    /// It is scanned by its digest.
    Scan,
}

/// Patterns of which one must match and none may.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Empty means: everything.
    pub include: GlobSet,
    /// Empty means: nothing.
    pub exclude: GlobSet,
}

impl Filter {
    /// Whether `text` is wanted.
    pub fn wants(&self, text: &str) -> bool {
        (self.include.is_empty() || self.include.is_match(text))
            && (self.exclude.is_empty() || !self.exclude.is_match(text))
    }
}

/// What the webhook needs to know of a source to turn its deliveries into scan requests.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name.
    pub name: SourceName,
    /// The registry type that sends.
    pub kind: &'static Kind,
    /// The host images are pulled from.
    pub registry: Registry,
    /// Further hosts that a payload may name for the same registry.
    pub hosts: Vec<Registry>,
    /// Wanted repositories.
    pub repositories: Filter,
    /// Wanted tags.
    pub tags: Filter,
    /// What happens to manifests without a tag.
    pub untagged: Untagged,
    /// What its parser needs to know.
    pub options: Options,
}

impl Source {
    /// Whether the registry that a payload names is this source's. A payload that names none can only mean this one.
    pub fn owns(&self, named: &NamedRegistry) -> bool {
        match named {
            NamedRegistry::Unnamed => true,
            NamedRegistry::Host(host) => {
                host == self.registry.as_str()
                    || Registry::normalise(host).is_ok_and(|it| self.owns_host(&it))
            }
            NamedRegistry::Ecr { account, region } => self
                .own_hosts()
                .filter_map(EcrHost::parse)
                .any(|it| it.account == account && it.region == region),
        }
    }

    /// Whether this host is `registry` or one of `hosts`.
    pub fn owns_host(&self, host: &Registry) -> bool {
        self.own_hosts().any(|it| it == host)
    }

    /// `registry` and `hosts`.
    pub fn own_hosts(&self) -> impl Iterator<Item = &Registry> {
        std::iter::once(&self.registry).chain(&self.hosts)
    }
}
