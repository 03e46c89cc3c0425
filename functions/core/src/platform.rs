//! A platform, as registries and people name it: `linux/amd64`, `linux/arm/v7`.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// Operating system, architecture and, if told, its variant, divided by `/`; lower-case letters, digits, `-`, `_`, `.`.
///
/// Source: OCI image index specification, "platform". A copy shares its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Platform(Arc<str>);

/// Not a platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a platform: expected OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64")]
pub struct ParsePlatformError;

/// The platform that is taken from an index if a source wants none in particular.
pub const DEFAULT: &str = "linux/amd64";

impl Platform {
    /// Checks `text` and takes it as it is.
    pub fn parse(text: &str) -> Result<Self, ParsePlatformError> {
        let is_part = |it: &str| {
            (1..=32).contains(&it.len())
                && it
                    .bytes()
                    .all(|it| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
        };
        let count = text.split('/').count();
        if (2..=3).contains(&count) && text.split('/').all(is_part) {
            Ok(Self(text.into()))
        } else {
            Err(ParsePlatformError)
        }
    }

    /// The checked text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether an image for `other` is what is meant by this platform. A variant that is not told is any; 64-bit ARM
    /// has one only, so that naming it makes no difference.
    pub fn includes(&self, other: &Self) -> bool {
        let (os, architecture, variant) = self.parts();
        let (other_os, other_architecture, other_variant) = other.parts();
        os == other_os
            && architecture == other_architecture
            && (variant.is_none() || variant == other_variant)
    }

    fn parts(&self) -> (&str, &str, Option<&str>) {
        let mut parts = self.0.split('/');
        let (os, architecture) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let variant = parts
            .next()
            .filter(|it| !(architecture == "arm64" && *it == "v8"));
        (os, architecture, variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Platform {
    type Error = ParsePlatformError;

    fn try_from(text: String) -> Result<Self, ParsePlatformError> {
        Self::parse(&text)
    }
}

impl Serialize for Platform {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_has_two_parts_or_three() {
        for text in ["linux/amd64", "linux/arm/v7", "windows/amd64"] {
            assert_eq!(Platform::parse(text).unwrap().as_str(), text);
        }
        for text in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "a/b/c/d",
            "Linux/amd64",
            "linux/amd64 ",
            "linux/\n",
        ] {
            assert_eq!(Platform::parse(text), Err(ParsePlatformError), "{text:?}");
        }
    }

    #[test]
    fn a_variant_counts_only_if_it_is_told() {
        let includes = |wanted: &str, other: &str| {
            Platform::parse(wanted)
                .unwrap()
                .includes(&Platform::parse(other).unwrap())
        };
        assert!(includes("linux/arm", "linux/arm/v7"));
        assert!(includes("linux/arm64/v8", "linux/arm64"));
        assert!(includes("linux/arm64", "linux/arm64/v8"));
        assert!(!includes("linux/arm/v6", "linux/arm/v7"));
        assert!(!includes("linux/arm/v7", "linux/arm"));
        assert!(!includes("linux/amd64", "windows/amd64"));
    }
}
