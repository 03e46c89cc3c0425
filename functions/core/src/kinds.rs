//! The registry types that scanhook supports. Each has a file with its wire structs, parser, authentication preset and
//! answer budget, and with the delivery that `scanhook send` makes.
//!
//! **Invariant**: the configuration selects the kind. Nothing in a delivery selects a parser: Gitea sends GitHub's
//! headers.

use std::cell::OnceCell;
use std::fmt;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::auth::{Algorithm, Encoding, HmacScheme, VerifiedDelivery};
use crate::ecr::EcrHost;
use crate::event::{Event, ParsePayloadError};
use crate::image::{Image, Registry};
use crate::wire::{UniqueValue, readable};

mod acr;
mod artifactory;
mod distribution;
mod docker_hub;
mod ecr;
mod gar;
pub mod generic;
mod ghcr;
mod gitea;
mod gitlab;
mod harbor;
mod nexus;
mod quay;
mod zot;

/// A registry type. Kinds are compared by name.
pub struct Kind {
    /// Its name in the configuration.
    pub name: &'static str,
    /// The registry's display name.
    pub title: &'static str,
    /// The host that all images of this kind are pulled from, if there is only one.
    pub default_registry: Option<&'static str>,
    /// A typical host of such a registry, for samples and examples.
    pub example_registry: &'static str,
    /// How long the sender of these headers waits for an answer, minus the network's time.
    pub answer_budget: fn(&HeaderMap) -> Duration,
    /// The credential types that it can send: those with a secret, best first, then `oidc`.
    pub auth: &'static [&'static str],
    /// Its signature scheme, if it signs.
    pub hmac: Option<HmacPreset>,
    /// The formats of its deliveries, for people.
    pub envelopes: &'static [&'static str],
    /// Events besides pushes that a source may ask for.
    pub events: &'static [&'static str],
    /// Whether its payloads contain a repository key, which may or may not be part of the pull string.
    pub repo_key: bool,
    /// Whether it sends an `OPTIONS` request before it delivers, as in the CloudEvents webhook specification.
    pub handshake: bool,
    /// Parses an authenticated delivery. Returns all of its events, in order.
    pub parse: fn(&VerifiedDelivery, &Options) -> Result<Vec<Event>, ParsePayloadError>,
    /// Makes the delivery that this registry would send for a push.
    pub sample: fn(&SamplePush<'_>) -> Sample,
    /// What it signs, in a few words for people.
    pub signs: &'static str,
    /// How long it waits for an answer and what it does after a failure, for people. Each kind's page has the details.
    pub repeats: &'static str,
    /// How to set up the registry, in a few lines; `{url}` is replaced by the source's URL.
    pub setup: &'static str,
}

/// The part of a source's configuration that its parser needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// The wanted events of [`Kind::events`].
    pub events: Vec<String>,
    /// How the repository key appears in the pull string; `None` means the kind's default.
    pub repo_key: Option<RepoKey>,
    /// Where the fields of a generic body are; `None` means the default body.
    pub payload: Option<Box<generic::Mapping>>,
}

impl Options {
    fn has_event(&self, name: &str) -> bool {
        self.events.iter().any(|it| it == name)
    }
}

/// How the key of an Artifactory or Nexus repository appears in the pull string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepoKey {
    /// It is the first part of the path.
    Keep,
    /// It isn't in the path, because a sub-domain or port replaces it.
    Drop,
    /// Another key replaces it, such as that of a virtual repository.
    Name(String),
}

/// How a registry sends its signature.
#[derive(Debug, Clone, Copy)]
pub struct HmacPreset {
    /// In lower case.
    pub header: &'static str,
    pub algorithm: Algorithm,
    pub encoding: Encoding,
    /// The text before the signature.
    pub prefix: &'static str,
}

impl HmacPreset {
    pub fn scheme(&self) -> HmacScheme {
        HmacScheme {
            header: HeaderName::from_static(self.header),
            algorithm: self.algorithm,
            encoding: self.encoding,
            prefix: self.prefix.to_owned(),
        }
    }
}

/// A push to make a sample delivery for.
pub struct SamplePush<'a> {
    pub image: &'a Image,
    /// The event's id, for registries that send one.
    pub id: &'a str,
    pub at: Timestamp,
}

/// A delivery without its credential.
pub struct Sample {
    pub headers: Vec<(HeaderName, String)>,
    pub body: Vec<u8>,
}

/// Every kind, by name.
pub static ALL: [&Kind; 14] = [
    &acr::KIND,
    &artifactory::KIND,
    &distribution::KIND,
    &docker_hub::KIND,
    &ecr::KIND,
    &gar::KIND,
    &generic::KIND,
    &ghcr::KIND,
    &gitea::KIND,
    &gitlab::KIND,
    &harbor::KIND,
    &nexus::KIND,
    &quay::KIND,
    &zot::KIND,
];

pub fn find(name: &str) -> Option<&'static Kind> {
    ALL.into_iter().find(|it| it.name == name)
}

impl Kind {
    /// Whether a payload of this kind can match one of these hosts. ECR's payloads name an account and a region, which
    /// only hosts of ECR have.
    pub fn can_own<'a>(&self, mut hosts: impl Iterator<Item = &'a Registry>) -> bool {
        *self != ecr::KIND || hosts.any(|it| EcrHost::parse(it).is_some())
    }

    /// Whether registries of this kind repeat a refused delivery forever while later ones wait. GitLab does so unless
    /// `maxretries` is set.
    pub fn repeats_refusals(&self) -> bool {
        [&distribution::KIND, &gitlab::KIND].contains(&self)
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Kind {}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// JSON text of a payload, parsed into wire structs that borrow from it.
struct Json<'a> {
    text: &'a [u8],
    readable: OnceCell<Option<Vec<u8>>>,
}

impl<'a> Json<'a> {
    fn of(text: &'a [u8]) -> Self {
        Self {
            text,
            readable: OnceCell::new(),
        }
    }

    /// Parses an object. A list is an error, because serde would fill a struct from its elements.
    fn object<'b, T: Deserialize<'b>>(&'b self) -> Result<T, ParsePayloadError> {
        if self.is_list() {
            return Err(ParsePayloadError::malformed(".", "a list"));
        }
        self.object_or_list()
    }

    fn is_list(&self) -> bool {
        self.text.trim_ascii_start().starts_with(b"[")
    }

    fn object_or_list<'b, T: Deserialize<'b>>(&'b self) -> Result<T, ParsePayloadError> {
        self.read(malformed::<T>)
    }

    /// Parses text that has no wire struct. A repeated key is an error.
    fn value(&self) -> Result<Value, ParsePayloadError> {
        let UniqueValue(value) = self.read(|_, err| malformed_at(&position(err), err))?;
        Ok(value)
    }

    fn read<'b, T: Deserialize<'b>>(
        &'b self,
        problem: fn(&'b [u8], &serde_json::Error) -> ParsePayloadError,
    ) -> Result<T, ParsePayloadError> {
        serde_json::from_slice(self.text).or_else(|err| self.again(&err, problem))
    }

    /// Parses the text again without the values that can't be read: perhaps none of them is needed.
    #[cold]
    fn again<'b, T: Deserialize<'b>>(
        &'b self,
        err: &serde_json::Error,
        problem: fn(&'b [u8], &serde_json::Error) -> ParsePayloadError,
    ) -> Result<T, ParsePayloadError> {
        match self.readable.get_or_init(|| readable(self.text)) {
            Some(text) => serde_json::from_slice(text).map_err(|err| problem(text, &err)),
            None => Err(problem(self.text, err)),
        }
    }
}

/// Finds the place that can't be read: a field of ours, or the position where the text isn't JSON. Other keys are the
/// sender's text and must not be shown.
#[cold]
fn malformed<'a, T: Deserialize<'a>>(text: &'a [u8], err: &serde_json::Error) -> ParsePayloadError {
    let mut again = serde_json::Deserializer::from_slice(text);
    match serde_path_to_error::deserialize::<_, T>(&mut again) {
        Err(found) if err.is_data() => malformed_at(&found.path().to_string(), err),
        _ => malformed_at(&position(err), err),
    }
}

fn malformed_at(at: &str, err: &serde_json::Error) -> ParsePayloadError {
    ParsePayloadError::malformed(at, &err.to_string())
}

fn position(err: &serde_json::Error) -> String {
    format!("line {}, column {}", err.line(), err.column())
}

/// Whether a body can be parsed into this kind's wire structs. Benchmarks use it as a baseline.
#[cfg(feature = "bench")]
pub fn bare_parse(kind: &str, body: &[u8]) -> bool {
    match kind {
        "acr" => acr::bare_parse(body),
        "artifactory" => artifactory::bare_parse(body),
        "distribution" | "gitlab" => distribution::bare_parse(body),
        "docker-hub" => docker_hub::bare_parse(body),
        "ecr" => ecr::bare_parse(body),
        "gar" => gar::bare_parse(body),
        "generic" => generic::bare_parse(body),
        "ghcr" => ghcr::bare_parse(body),
        "gitea" => gitea::bare_parse(body),
        "harbor" => harbor::bare_parse(body),
        "nexus" => nexus::bare_parse(body),
        "quay" => quay::bare_parse(body),
        "zot" => zot::bare_parse(body),
        _ => false,
    }
}

/// Defines a kind's bare parse for the wire struct of its body.
macro_rules! bare_parse_into {
    ($wire:ident) => {
        #[cfg(feature = "bench")]
        pub(super) fn bare_parse(body: &[u8]) -> bool {
            std::hint::black_box(serde_json::from_slice::<$wire<'_>>(body)).is_ok()
        }
    };
}
use bare_parse_into;

/// Whether the tag is a digest, as for a manifest that was pushed by its digest.
fn is_digest(tag: &str) -> bool {
    tag.starts_with("sha256:") || tag.starts_with("sha512:")
}

fn json_headers() -> Vec<(HeaderName, String)> {
    vec![(http::header::CONTENT_TYPE, "application/json".to_owned())]
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::Bytes;
    use globset::{Glob, GlobSet};
    use proptest::prelude::*;
    use secrecy::SecretString;
    use serde_json::json;

    use super::*;
    use crate::auth::verify;
    use crate::auth::{Credential, Scheme};
    use crate::delivery::Delivery;
    use crate::image::Tag;
    use crate::select::select;
    use crate::source::{Filter, Source, SourceName, Untagged};

    /// Parses a body as this kind, sent with these headers, and formats each event as a line.
    pub(crate) fn parse(kind: &Kind, headers: &[(&str, &str)], body: &[u8]) -> String {
        parse_with(kind, &Options::default(), headers, body)
    }

    /// Like [`parse`], for a source with these options.
    pub(crate) fn parse_with(
        kind: &Kind,
        options: &Options,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> String {
        match (kind.parse)(&verified(headers, body), options) {
            Ok(events) => events.iter().map(line).collect::<Vec<_>>().join("\n"),
            Err(err) => format!("400 {err}"),
        }
    }

    fn verified(headers: &[(&str, &str)], body: &[u8]) -> VerifiedDelivery {
        let secret = "fake-path-token-of-a-test";
        let verifier = Credential {
            scheme: Scheme::PathToken,
            secret: SecretString::from(secret),
        }
        .verifier();
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect();
        let delivery = Delivery {
            headers,
            path_token: Some(secret.to_owned()),
            body: Bytes::copy_from_slice(body),
            received_at: Timestamp::UNIX_EPOCH,
        };
        verify(delivery, &[verifier]).unwrap_or_else(|_| panic!("the token is right"))
    }

    fn line(event: &Event) -> String {
        match event {
            Event::Other(reason) => reason.as_str().to_owned(),
            Event::Validation(code) => format!("validation {}", code.as_str()),
            Event::Malformed(err) => format!("malformed {err}"),
            Event::Push(push) => format!(
                "{:?} {}/{} tag={} digest={} type={} id={} actor={} at={}",
                push.content,
                push.registry,
                push.repository,
                push.tag.as_ref().map_or("-", |it| it.as_str()),
                push.digest
                    .as_ref()
                    .map_or("-", |it| it.as_str().get(..13).unwrap()),
                push.info.event_type.as_str(),
                push.info.id.as_ref().map_or("-", |it| it.as_str()),
                push.info.actor.as_ref().map_or("-", |it| it.as_str()),
                push.info
                    .occurred_at
                    .map_or("-".to_owned(), |it| it.to_string()),
            ),
        }
    }

    #[test]
    fn the_sample_of_each_kind_is_parsed_as_the_push_it_was_made_for() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for kind in ALL {
            let host = kind.example_registry;
            let image = Image::parse(&format!("{host}/team/app:1.2.3@{digest}")).unwrap();
            let sample = (kind.sample)(&SamplePush {
                image: &image,
                id: "id-1",
                at: "2026-11-21T20:00:00Z".parse().unwrap(),
            });
            let headers: Vec<_> = sample
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let events =
                (kind.parse)(&verified(&headers, &sample.body), &Options::default()).unwrap();
            let [Event::Push(push)] = events.as_slice() else {
                panic!("{}: {events:?}", kind.name)
            };
            assert_eq!(push.repository, image.repository, "{}", kind.name);
            assert_eq!(push.tag.as_ref(), image.pin.tag(), "{}", kind.name);
            assert_eq!(push.content, crate::event::Content::Image, "{}", kind.name);
            assert!(
                push.digest.is_none() || push.digest.as_ref() == image.pin.digest(),
                "{}",
                kind.name
            );
            let source = source(kind);
            assert!(source.owns(&push.registry), "{}", kind.name);
        }
    }

    #[test]
    fn kinds_are_found_and_compared_by_name() {
        assert_eq!(find("ghcr"), Some(&ghcr::KIND));
        assert_ne!(find("ghcr"), find("gitea"));
        assert_eq!(format!("{:?}", ghcr::KIND), "ghcr");
        assert_eq!(find("GHCR"), None);
    }

    #[test]
    fn only_kinds_that_send_lists_accept_a_list() {
        for kind in ALL {
            let headers = [("ce-type", "example.image.updated")];
            let parsed = parse(kind, &headers, br#" ["published",{},{},{},{},{}]"#);
            assert!(parsed.starts_with("400 "), "{}: {parsed}", kind.name);
            let parsed = parse(kind, &headers, b" []");
            let expected = matches!(kind.name, "acr" | "generic");
            assert_eq!(parsed.is_empty(), expected, "{}: {parsed}", kind.name);
        }
    }

    #[test]
    fn an_unreadable_body_is_reported_with_its_position() {
        let hub = find("docker-hub").unwrap();
        let parsed = parse(
            hub,
            &[],
            br#"{"push_data":{"tag":"1","tag":"2"},"repository":{}}"#,
        );
        assert_eq!(
            parsed,
            "400 the body is not JSON of the expected shape, at push_data"
        );
        let parsed = parse(hub, &[], br#"{"push_data":{"tag":"1"},"repository":{}} x"#);
        assert_eq!(
            parsed,
            "400 the body is not JSON of the expected shape, at line 1, column 43"
        );
        // Keys that aren't ours may contain anything, so they must not be shown.
        for body in [
            &br#"{"push_data":{"tag":"1","a-secret":t}}"#[..],
            br#"{"a-secret":{"a-secret":"#,
        ] {
            let parsed = parse(hub, &[], body);
            assert!(!parsed.contains("a-secret"), "{parsed}");
        }
        let generic = find("generic").unwrap();
        let parsed = parse(generic, &[], br#"{"a-secret":{"x":1,"x":2}}"#);
        assert!(parsed.contains("at line 1"), "{parsed}");
    }

    proptest! {
        #[test]
        fn no_body_makes_a_parser_panic(body: Vec<u8>, text in "[\\[\\]{}\":,a-z0-9 ]{0,200}") {
            for kind in ALL {
                let _ = (kind.parse)(&verified(&[], &body), &Options::default());
                let _ = (kind.parse)(&verified(&[], text.as_bytes()), &Options::default());
            }
        }
    }

    /// Values that a hostile or broken sender may put anywhere.
    fn replacement(choice: usize) -> Value {
        let values = [
            json!(null),
            json!(7),
            json!(-1.5e300),
            json!(true),
            json!(""),
            json!([]),
            json!({}),
            json!([null, 7, "x"]),
            json!("../../etc"),
            json!("--config=/etc/passwd"),
            json!("$(id)"),
            json!("team/secret"),
            json!("secret"),
            json!("evil.example.com/team/app:1"),
            json!("registry.example.com/team/secret:1"),
            json!("sha256:abc"),
            json!(format!("sha256:{}", "0".repeat(64))),
            json!("a\u{0}b\u{feff}"),
            json!("x".repeat(300)),
        ];
        values[choice % values.len()].clone()
    }

    /// Lists every position in a value, as a JSON Pointer.
    fn places(value: &Value, at: &str, found: &mut Vec<String>) {
        found.push(at.to_owned());
        match value {
            Value::Array(items) => {
                for (index, it) in items.iter().enumerate() {
                    places(it, &format!("{at}/{index}"), found);
                }
            }
            Value::Object(members) => {
                for (key, it) in members {
                    places(
                        it,
                        &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")),
                        found,
                    );
                }
            }
            _ => {}
        }
    }

    fn source(kind: &'static Kind) -> Source {
        let globs = |pattern: &str| GlobSet::new([Glob::new(pattern).unwrap()]).unwrap();
        Source {
            name: SourceName::try_from("test".to_owned()).unwrap(),
            kind,
            registry: Registry::parse(kind.example_registry).unwrap(),
            hosts: Vec::new(),
            repositories: Filter {
                include: globs("**"),
                exclude: globs("**secret**"),
            },
            tags: Filter {
                include: GlobSet::empty(),
                exclude: globs("{secret,1.2.4}"),
            },
            untagged: Untagged::Skip,
            options: Options::default(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn a_damaged_delivery_neither_panics_nor_queues_an_excluded_image(
            which in 0..ALL.len(), tag in "1\\.2\\.[34]", damages in prop::collection::vec((any::<usize>(), any::<usize>()), 0..4),
        ) {
            let kind = ALL[which];
            let image = format!("{}/team/app:{tag}@sha256:{}", kind.example_registry, "ab".repeat(32));
            let at = "2026-11-21T20:00:00Z".parse().unwrap();
            let sample = (kind.sample)(&SamplePush { image: &Image::parse(&image).unwrap(), id: "id-1", at });
            let mut body: Value = serde_json::from_slice(&sample.body).unwrap();
            for (place, value) in damages {
                let mut found = Vec::new();
                places(&body, "", &mut found);
                if let Some(it) = body.pointer_mut(&found[place % found.len()]) {
                    *it = replacement(value);
                }
            }
            let headers: Vec<_> = sample.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let source = source(kind);
            let Ok(events) = (kind.parse)(&verified(&headers, body.to_string().as_bytes()), &source.options) else { return Ok(()) };
            for request in select(&source, events).requests {
                prop_assert_eq!(&request.image.registry, &source.registry);
                prop_assert!(!request.image.repository.as_str().contains("secret"));
                let tag = request.image.pin.tag().map(Tag::as_str);
                prop_assert!(tag.is_some_and(|it| !matches!(it, "secret" | "1.2.4")), "{:?}", tag);
            }
        }
    }

    #[test]
    fn a_field_that_nobody_reads_may_hold_anything() {
        let deep = format!("{}1{}", "[".repeat(140), "]".repeat(140));
        let nested = format!("{}1{}", "{\"a\":".repeat(140), "}".repeat(140));
        for kind in ALL {
            let image = format!(
                "{}/team/app:1@sha256:{}",
                kind.example_registry,
                "ab".repeat(32)
            );
            let image = Image::parse(&image).unwrap();
            let at = "2026-11-21T20:00:00Z".parse().unwrap();
            let id = "id-1";
            let sample = (kind.sample)(&SamplePush {
                image: &image,
                id,
                at,
            });
            let headers: Vec<_> = sample
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let right = parse(kind, &headers, &sample.body);
            assert!(right.contains("Image"), "{}: {right}", kind.name);
            let body = String::from_utf8(sample.body).unwrap();
            for value in [
                r#""\ud800""#,
                r#""\udc00\ud800""#,
                "1e999",
                "-1e999",
                &deep,
                &nested,
            ] {
                for key in ["zzz", r"z\ud800"] {
                    let body = body.replacen('{', &format!("{{\"{key}\":{value},"), 1);
                    let parsed = parse(kind, &headers, body.as_bytes());
                    assert_eq!(parsed, right, "{}: {key} {value:.30}", kind.name);
                }
            }
        }
    }

    #[test]
    fn deeply_nested_json_neither_overflows_the_stack_nor_becomes_a_push() {
        for kind in ALL {
            for depth in [200, 400_000] {
                for key in ["events", "data", "package", "push_data", "other"] {
                    let deep = format!("{{\"{key}\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
                    assert!(
                        !parse(kind, &[], deep.as_bytes()).contains("Image"),
                        "{} {key}",
                        kind.name
                    );
                    let deep = format!(
                        "{{\"{key}\":{}1{}}}",
                        "{\"a\":".repeat(depth),
                        "}".repeat(depth)
                    );
                    assert!(
                        !parse(kind, &[], deep.as_bytes()).contains("Image"),
                        "{} {key}",
                        kind.name
                    );
                }
            }
        }
    }
}
