//! A configured sender: its name, its kind, and which of its pushes are wanted.

use std::fmt;
use std::sync::Arc;

use globset::GlobSet;
use serde::{Deserialize, Serialize, Serializer};

use crate::ecr::EcrHost;
use crate::event::NamedRegistry;
use crate::image::Registry;
use crate::kinds::{Kind, Options};

/// The name of a source: 1 to 64 letters, digits, `-`, `_` or `.`. It is in the source's URL and messages, and is the
/// message group in SQS, which allows at most 128 letters, digits and punctuation characters, but no space. A copy
/// shares its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct SourceName(Arc<str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a source's name is 1 to 64 letters, digits, '-', '_' or '.', and starts with a letter or digit"
)]
pub struct ParseSourceNameError;

impl SourceName {
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

/// What happens to a manifest that was pushed only by digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Untagged {
    /// It is skipped: children of an index, attestations and the like are pushed this way.
    #[default]
    Skip,
    /// It is scanned by its digest.
    Scan,
}

/// A text is wanted if it matches `include` and doesn't match `exclude`.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Empty matches everything.
    pub include: GlobSet,
    /// Empty matches nothing.
    pub exclude: GlobSet,
}

impl Filter {
    pub fn wants(&self, text: &str) -> bool {
        (self.include.is_empty() || self.include.is_match(text))
            && (self.exclude.is_empty() || !self.exclude.is_match(text))
    }
}

/// The parts of a source's configuration that turn its deliveries into scan requests.
#[derive(Debug, Clone)]
pub struct Source {
    pub name: SourceName,
    /// The type of the sending registry.
    pub kind: &'static Kind,
    /// The host that images are pulled from.
    pub registry: Registry,
    /// Other hosts that a payload may name for the same registry.
    pub hosts: Vec<Registry>,
    pub repositories: Filter,
    pub tags: Filter,
    pub untagged: Untagged,
    pub options: Options,
}

impl Source {
    /// Whether the registry in a payload is this source's. A payload without one can only mean this source's.
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

    pub fn owns_host(&self, host: &Registry) -> bool {
        self.own_hosts().any(|it| it == host)
    }

    pub fn own_hosts(&self) -> impl Iterator<Item = &Registry> {
        std::iter::once(&self.registry).chain(&self.hosts)
    }
}
