//! Image references in the grammar of the OCI distribution specification.
//!
//! **Invariant**: a value of these types is safe on a command line, in a path of a registry's API and in a log line: it
//! contains no control character, white space, leading `-`, `..` or second `@`.
//!
//! Grammar: <https://github.com/distribution/reference/blob/main/reference.go> and the OCI distribution
//! specification, "Pulling manifests".

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};

/// Why a text isn't (part of) an image reference. Contains nothing of the text itself, which may be hostile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseImageError {
    #[error("not a registry host: a name or address, lower case, with an optional port")]
    Registry,
    #[error(
        "not a repository: lower-case letters, digits and single separators, in components divided by '/'"
    )]
    Repository,
    #[error("not a tag: at most 128 letters, digits, '_', '.', '-', and neither '.' nor '-' first")]
    Tag,
    #[error(
        "not a digest: 'sha256:' and 64 lower-case hexadecimal digits, or 'sha512:' and 128 of them"
    )]
    Digest,
    #[error("an image needs a tag or a digest")]
    Unpinned,
}

macro_rules! text_newtype {
    ($name:ident, $doc:literal, $error:ident, $check:path) => {
        text_newtype!(#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)] struct $name, $doc, $error, $check);
    };
    ($(#[$compared:meta])? struct $name:ident, $doc:literal, $error:ident, $check:path) => {
        #[doc = $doc]
        #[doc = " A copy shares its text."]
        #[derive(Debug, Clone, Deserialize)]
        $(#[$compared])?
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text`, and keeps it unchanged.
            pub fn parse(text: &str) -> Result<Self, ParseImageError> {
                if $check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(ParseImageError::$error)
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseImageError;

            fn try_from(text: String) -> Result<Self, ParseImageError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.as_str().to_owned()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

text_newtype!(
    struct Registry,
    "A registry's host, lower case, with its port if it has one: `harbor.example.com:8443`. Compared in its normal form, \
     used as it is spelled.",
    Registry,
    is_registry
);
text_newtype!(
    Repository,
    "The path of a repository within its registry: `team/app`.",
    Repository,
    is_repository
);
text_newtype!(Tag, "A tag, at most 128 characters.", Tag, is_tag);
text_newtype!(
    Digest,
    "`sha256:` and 64 lower-case hexadecimal digits, or `sha512:` and 128.",
    Digest,
    is_digest
);

/// Docker Hub's host names; all mean `docker.io`.
const DOCKER_HUB: [&str; 4] = [
    "docker.io",
    "index.docker.io",
    "registry-1.docker.io",
    "registry.hub.docker.com",
];

impl Registry {
    /// Parses a host as payloads and configuration spell it. Removes a scheme and a trailing slash, folds case, and
    /// replaces every name of Docker Hub with `docker.io`. A path, user information or anything else is an error.
    pub fn normalise(text: &str) -> Result<Self, ParseImageError> {
        let text = text.to_ascii_lowercase();
        let host = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .unwrap_or(&text);
        let registry = Self::parse(host.strip_suffix('/').unwrap_or(host))?;
        if DOCKER_HUB.contains(&registry.normal()) {
            Self::parse("docker.io")
        } else {
            Ok(registry)
        }
    }

    /// The form that is compared: without the default port of HTTPS.
    pub fn normal(&self) -> &str {
        self.0.strip_suffix(":443").unwrap_or(&self.0)
    }
}

impl PartialEq for Registry {
    fn eq(&self, other: &Self) -> bool {
        self.normal() == other.normal()
    }
}

impl Eq for Registry {}

impl Hash for Registry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.normal().hash(state);
    }
}

impl Digest {
    /// Computes the SHA-256 of the content.
    pub fn of(content: &[u8]) -> Self {
        Self(format!("sha256:{}", hex::encode(Sha256::digest(content))).into())
    }

    /// Whether this is the digest of the content.
    pub fn is_of(&self, content: &[u8]) -> bool {
        match self.parts() {
            ("sha512", digits) => hex::encode(Sha512::digest(content)) == digits,
            (_, digits) => hex::encode(Sha256::digest(content)) == digits,
        }
    }

    /// The algorithm and the hexadecimal digits.
    pub fn parts(&self) -> (&str, &str) {
        self.0.split_once(':').unwrap_or_default()
    }
}

/// Which manifest of a repository is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pin {
    /// The manifest that the tag names when it is resolved.
    Tag(Tag),
    /// This content.
    Digest(Digest),
    /// This content, which the tag named at the time of the event.
    TagAndDigest(Tag, Digest),
}

impl Pin {
    /// Makes a pin from tag and digest; `None` without both.
    pub fn new(tag: Option<Tag>, digest: Option<Digest>) -> Option<Self> {
        match (tag, digest) {
            (Some(tag), Some(digest)) => Some(Self::TagAndDigest(tag, digest)),
            (Some(tag), None) => Some(Self::Tag(tag)),
            (None, Some(digest)) => Some(Self::Digest(digest)),
            (None, None) => None,
        }
    }

    pub fn tag(&self) -> Option<&Tag> {
        match self {
            Self::Tag(tag) | Self::TagAndDigest(tag, _) => Some(tag),
            Self::Digest(_) => None,
        }
    }

    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Digest(digest) | Self::TagAndDigest(_, digest) => Some(digest),
            Self::Tag(_) => None,
        }
    }
}

/// One image of one registry. In JSON it is an object of `registry`, `repository`, `tag` and `digest`; one of the last
/// two may be null.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "WireImage", into = "WireImage")]
pub struct Image {
    /// The registry that it is pulled from.
    pub registry: Registry,
    pub repository: Repository,
    pub pin: Pin,
}

#[derive(Serialize, Deserialize)]
struct WireImage {
    registry: Registry,
    repository: Repository,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

impl TryFrom<WireImage> for Image {
    type Error = ParseImageError;

    fn try_from(wire: WireImage) -> Result<Self, ParseImageError> {
        let pin = Pin::new(wire.tag, wire.digest).ok_or(ParseImageError::Unpinned)?;
        Ok(Self {
            registry: wire.registry,
            repository: wire.repository,
            pin,
        })
    }
}

impl From<Image> for WireImage {
    fn from(image: Image) -> Self {
        Self {
            tag: image.pin.tag().cloned(),
            digest: image.pin.digest().cloned(),
            registry: image.registry,
            repository: image.repository,
        }
    }
}

impl Image {
    /// Parses a pull string as people type it, with Docker's normalisation: `nginx` is
    /// `docker.io/library/nginx:latest`. The first component is a host if it contains `.` or `:`, or is `localhost`.
    pub fn parse(text: &str) -> Result<Self, ParseImageError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (path, tag) = match name.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(Tag::parse(tag)?)),
            _ => (name, None),
        };
        let (registry, repository) = split_host(path)?;
        let pin = match Pin::new(tag, digest) {
            Some(pin) => pin,
            None => Pin::Tag(Tag::parse("latest")?),
        };
        Ok(Self {
            registry,
            repository,
            pin,
        })
    }

    /// Registry and repository: `harbor.example.com/prod/api`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = self.pin.tag() {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = self.pin.digest() {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Splits `host/path` by Docker's rule for the end of the host, and normalises both.
pub fn split_host(name: &str) -> Result<(Registry, Repository), ParseImageError> {
    let (registry, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
            (Registry::normalise(host)?, path)
        }
        _ => (Registry::parse("docker.io")?, name),
    };
    let repository = if registry.as_str() == "docker.io" {
        docker_hub_repository(path)?
    } else {
        Repository::parse(path)?
    };
    Ok((registry, repository))
}

/// Parses a repository of Docker Hub. A name without a namespace is an official image, `library/<name>`.
pub fn docker_hub_repository(path: &str) -> Result<Repository, ParseImageError> {
    if path.contains('/') {
        Repository::parse(path)
    } else {
        Repository::try_from(format!("library/{path}"))
    }
}

/// The longest name that registries allow.
const MAX_NAME: usize = 255;

fn is_registry(text: &str) -> bool {
    let (host_is_good, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        (address.parse::<std::net::Ipv6Addr>().is_ok(), port)
    } else {
        let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        (host.split('.').all(is_host_label), port)
    };
    let port_is_good = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    text.len() <= MAX_NAME && host_is_good && port_is_good
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && label
            .bytes()
            .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|it| it.is_ascii_digit())
        && port.len() <= 5
        && port.parse::<u16>().is_ok_and(|it| it > 0)
}

fn is_repository(text: &str) -> bool {
    text.len() <= MAX_NAME && text.split('/').all(is_path_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let is_word = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit();
    let mut separator: &[u8] = b"";
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !is_word(*first) || !is_word(*last) {
        return false;
    }
    let mut start = 0;
    for (index, byte) in bytes.iter().enumerate() {
        if is_word(*byte) {
            let is_separator = separator.is_empty()
                || matches!(separator, b"." | b"_" | b"__")
                || separator.iter().all(|it| *it == b'-');
            if !is_separator {
                return false;
            }
            start = index + 1;
            separator = b"";
        } else if matches!(byte, b'.' | b'_' | b'-') {
            separator = bytes.get(start..=index).unwrap_or_default();
        } else {
            return false;
        }
    }
    true
}

/// Whether every byte is good. It checks all bytes, which takes a few vector instructions; stopping early would need a
/// comparison for each byte.
fn every_byte(text: &str, is_good: impl Fn(u8) -> bool) -> bool {
    text.bytes().fold(true, |good, it| good & is_good(it))
}

fn is_tag(text: &str) -> bool {
    text.len() <= 128
        && every_byte(text, |it| {
            it.is_ascii_alphanumeric() || matches!(it, b'_' | b'.' | b'-')
        })
        && text.starts_with(|it: char| it.is_ascii_alphanumeric() || it == '_')
}

fn is_digest(text: &str) -> bool {
    let is_hex = |it: &str| every_byte(it, |it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
    text.strip_prefix("sha256:")
        .is_some_and(|it| it.len() == 64 && is_hex(it))
        || text
            .strip_prefix("sha512:")
            .is_some_and(|it| it.len() == 128 && is_hex(it))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use regex_lite::Regex;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn check(text: &str, expected: &str) {
        let shown = Image::parse(text).map_or_else(|err| format!("{err:?}"), |it| it.to_string());
        assert_eq!(shown, expected, "{text:?}");
    }

    #[test]
    fn pull_strings_are_parsed_like_docker_does() {
        check("nginx", "docker.io/library/nginx:latest");
        check("team/app:1", "docker.io/team/app:1");
        check("index.docker.io/team/app:1", "docker.io/team/app:1");
        check("localhost/app:1", "localhost/app:1");
        check("127.0.0.1:5000/a/b/c:V1_x", "127.0.0.1:5000/a/b/c:V1_x");
        check("[::1]:5000/a:b", "[::1]:5000/a:b");
        check(
            "Harbor.Example.COM/a__b/c---d",
            "harbor.example.com/a__b/c---d:latest",
        );
        check(
            &format!("h.io/a:t@sha256:{HEX}"),
            &format!("h.io/a:t@sha256:{HEX}"),
        );
        check(
            &format!("h.io/a@sha256:{HEX}"),
            &format!("h.io/a@sha256:{HEX}"),
        );
    }

    #[test]
    fn an_invalid_reference_is_refused() {
        for text in [
            "",
            "/",
            "h.io/",
            "h.io//a",
            "h.io/a/",
            "h.io/-a",
            "h.io/a-",
            "h.io/.a",
            "h.io/a..b",
            "h.io/a___b",
            "h.io/a._b",
            "h.io/A",
            "h.io/a b",
            "h.io/a\n",
            "h.io/a\u{0}",
            "h.io/../../x",
            "h.io/$(id)",
            "h.io/a;b",
            "-h.io/a",
            "h.io:0/a",
            "h.io:99999/a",
            "h.io:1:2/a",
            "h.io::5000/a",
            "h.io:/a",
            "h.io:+80/a",
            "[::1]5000/a",
            "[::1]:/a",
            "user:pass@h.io/a",
            "h..io/a",
            "h.io./a",
            "[::1/a",
            "[::1]x/a",
        ] {
            assert!(Image::parse(text).is_err(), "{text:?}");
        }
        check("h.io/a:-x", "Tag");
        check("h.io/a:.x", "Tag");
        check(&format!("h.io/a:{}", "x".repeat(129)), "Tag");
        check("h.io/a@sha256:abc", "Digest");
        check(&format!("h.io/a@sha256:{}", HEX.to_uppercase()), "Digest");
        check(&format!("h.io/a@sha512:{HEX}"), "Digest");
        check(&format!("h.io/a@sha256:{HEX}@sha256:{HEX}"), "Digest");
        check(&format!("h.io/{}", "a".repeat(300)), "Repository");
    }

    #[test]
    fn a_digest_is_checked_by_its_algorithm() {
        let [sha256, sha512] = [
            Digest::of(b"content"),
            Digest::parse(&format!(
                "sha512:{}",
                hex::encode(Sha512::digest(b"content"))
            ))
            .unwrap(),
        ];
        for digest in [sha256, sha512] {
            assert!(digest.is_of(b"content"), "{digest}");
            assert!(!digest.is_of(b"other"), "{digest}");
        }
    }

    #[test]
    fn an_image_in_json_needs_a_tag_or_a_digest() {
        let json = r#"{"registry":"h.io","repository":"a","tag":null,"digest":null}"#;
        assert!(serde_json::from_str::<Image>(json).is_err());
        let json = r#"{"registry":"h.io","repository":"a","tag":"t","digest":null}"#;
        let image: Image = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&image).unwrap(), json);
    }

    /// The grammar of distribution/reference (`reference.go`) and of OCI's distribution specification. Digests are
    /// restricted to SHA-256 and SHA-512, and the standard library parses IPv6 addresses.
    struct Grammar {
        name: Regex,
        tag: Regex,
        digest: Regex,
        host: Regex,
        port: Regex,
    }

    static GRAMMAR: LazyLock<Grammar> = LazyLock::new(|| {
        let whole = |expression: &str| Regex::new(&format!("^(?:{expression})$")).unwrap();
        let component = "[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*";
        let label = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?";
        Grammar {
            name: whole(&format!("{component}(?:/{component})*")),
            tag: whole("[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"),
            digest: whole("sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}"),
            host: whole(&format!("{label}(?:\\.{label})*")),
            port: whole("[0-9]{1,5}"),
        }
    });

    fn is_host(text: &str) -> bool {
        let colon = text.rfind(':').filter(|_| !text.ends_with(']'));
        let (host, port) = text.split_at(colon.unwrap_or(text.len()));
        let address = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let host_is_good = match address {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => GRAMMAR.host.is_match(host),
        };
        let port_is_good = port.strip_prefix(':').is_none_or(|it| {
            let number = it.parse::<u32>().unwrap_or_default();
            GRAMMAR.port.is_match(it) && (1..=65_535).contains(&number)
        });
        host_is_good && port_is_good
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn names_follow_the_grammar(text in "[a-zA0-1._/-]{0,12}|[a-z]{250,258}") {
            let is_name = GRAMMAR.name.is_match(&text) && text.len() <= 255;
            prop_assert_eq!(Repository::parse(&text).is_ok(), is_name);
        }

        #[test]
        fn tags_follow_the_grammar(text in "[a-zA-Z0-9_.:/ é-]{0,4}|[a-z]{126,130}") {
            prop_assert_eq!(Tag::parse(&text).is_ok(), GRAMMAR.tag.is_match(&text));
        }

        #[test]
        fn digests_follow_the_grammar(text in "sha(256|512):([0-9a-f]{63,65}|[0-9a-f]{127,129}|[0-9a-fA-Fg]{64})|[a-f0-9]{64}") {
            prop_assert_eq!(Digest::parse(&text).is_ok(), GRAMMAR.digest.is_match(&text));
        }

        #[test]
        fn hosts_follow_the_grammar(text in "[a-bA.:-]{0,6}(:[0-9]{0,6})?|[a-z]{62,65}|\\[?[:a-f0-9]{0,6}\\]?(:?[0-9]{0,6})?") {
            prop_assert_eq!(Registry::parse(&text).is_ok(), is_host(&text));
        }

        #[test]
        fn a_parsed_image_survives_formatting_and_json(text in "([a-zA-B0-9.:-]{1,8}/)?[a-z0-9_./-]{0,10}(:[A-Za-z0-9_.-]{0,5})?(@sha256:[0-9a-f]{64})?") {
            if let Ok(image) = Image::parse(&text) {
                let written = image.to_string();
                let json = serde_json::to_string(&image).unwrap();
                prop_assert_eq!(serde_json::from_str::<Image>(&json).unwrap(), image.clone());
                prop_assert_eq!(Image::parse(&written), Ok(image));
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = Image::parse(&text);
            let _ = Registry::normalise(&text);
        }
    }
}
