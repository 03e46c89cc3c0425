//! Decides which events of a delivery are scanned. Every event becomes a scan request or a skip with its reason.

use crate::event::{Content, Event, EventInfo, FreeText, PushEvent, Skip, SkipReason};
use crate::image::{Image, Pin, Tag};
use crate::source::{Source, SourceName, Untagged};

/// An image to be scanned because of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRequest {
    /// The source of the event.
    pub source: SourceName,
    pub image: Image,
    pub event: EventInfo,
}

/// The most images of one delivery that are queued.
pub const MAX_IMAGES: usize = 1_000;

/// The decisions on a delivery.
#[derive(Debug, Default)]
pub struct Selected {
    /// To be queued, in the order of the events.
    pub requests: Vec<ScanRequest>,
    /// Not to be queued.
    pub skips: Vec<Skip>,
    /// The code that the sender expects back.
    pub validation: Option<FreeText>,
    /// Whether there were more images than [`MAX_IMAGES`].
    pub is_over_limit: bool,
}

/// Decides each event of a delivery by its source's configuration. A delivery with too many images queues nothing.
pub fn select(source: &Source, events: Vec<Event>) -> Selected {
    let mut selected = Selected::default();
    for event in events {
        selected.add(source, event);
    }
    if selected.is_over_limit {
        let unwanted = selected.requests.drain(..).map(too_many);
        selected.skips.extend(unwanted);
    }
    selected
}

impl Selected {
    /// Decides one more event: adds a request, a skip or a validation code.
    pub fn add(&mut self, source: &Source, event: Event) {
        let decided = match event {
            Event::Push(push) => self.request(source, push),
            Event::Other(reason) => Err(Skip::of_event(reason)),
            Event::Malformed(_) => Err(Skip::of_event(SkipReason::Malformed)),
            Event::Validation(code) => {
                self.validation = Some(code);
                return;
            }
        };
        match decided {
            Ok(request) => self.requests.push(request),
            Err(skip) => self.skips.push(skip),
        }
    }

    /// Whether the whole delivery is refused because it has too many images. A sender that repeats a refusal forever
    /// gets skips instead.
    pub fn is_refused(&self, source: &Source) -> bool {
        self.is_over_limit && !source.kind.repeats_refusals()
    }

    fn request(&mut self, source: &Source, push: PushEvent) -> Result<ScanRequest, Skip> {
        if let Some(reason) = skip_reason(source, &push) {
            return Err(skip(source, reason, push));
        }
        let Some(pin) = Pin::new(push.tag.clone(), push.digest.clone()) else {
            return Err(skip(source, SkipReason::Untagged, push));
        };
        if self.is_over_limit {
            return Err(skip(source, SkipReason::TooManyImages, push));
        }
        let same = self
            .requests
            .iter_mut()
            .filter(|it| it.image.repository == push.repository)
            .find_map(|it| Some((joined(&it.image.pin, &pin)?, it)));
        if let Some((joined, same)) = same {
            same.image.pin = joined;
            return Err(skip(source, SkipReason::RepeatedInDelivery, push));
        }
        if self.requests.len() == MAX_IMAGES {
            self.is_over_limit = true;
            return Err(skip(source, SkipReason::TooManyImages, push));
        }
        let image = Image {
            registry: source.registry.clone(),
            repository: push.repository,
            pin,
        };
        Ok(ScanRequest {
            source: source.name.clone(),
            image,
            event: push.info,
        })
    }
}

/// Combines two pins of the same manifest: they are equal, or one adds the tag to the other's digest.
fn joined(one: &Pin, other: &Pin) -> Option<Pin> {
    match (one, other) {
        (one, other) if one == other => Some(one.clone()),
        (Pin::Digest(digest), tagged @ Pin::TagAndDigest(_, of_tag))
        | (tagged @ Pin::TagAndDigest(_, of_tag), Pin::Digest(digest))
            if digest == of_tag =>
        {
            Some(tagged.clone())
        }
        _ => None,
    }
}

fn skip_reason(source: &Source, push: &PushEvent) -> Option<SkipReason> {
    let tag = push.tag.as_ref().map(Tag::as_str);
    if push.content == Content::Artifact {
        Some(SkipReason::NotAnImage)
    } else if !source.owns(&push.registry) {
        Some(SkipReason::ForeignRegistry)
    } else if push.is_untagged() && source.untagged == Untagged::Skip {
        Some(SkipReason::Untagged)
    } else if !source.repositories.wants(push.repository.as_str()) {
        Some(SkipReason::FilteredRepository)
    } else if tag.is_some_and(|it| !source.tags.wants(it)) {
        Some(SkipReason::FilteredTag)
    } else {
        None
    }
}

fn too_many(request: ScanRequest) -> Skip {
    let image = request.image;
    Skip {
        reason: SkipReason::TooManyImages,
        image: Some(image.name()),
        tag: image.pin.tag().cloned(),
        digest: image.pin.digest().cloned(),
        expected: None,
    }
}

/// Makes a skip. It names the source's own registry, because a foreign name comes from a stranger.
fn skip(source: &Source, reason: SkipReason, push: PushEvent) -> Skip {
    Skip {
        reason,
        image: Some(format!("{}/{}", source.registry, push.repository)),
        tag: push.tag,
        digest: push.digest,
        expected: (reason == SkipReason::ForeignRegistry).then(|| source.registry.clone()),
    }
}

#[cfg(test)]
mod tests {
    use globset::{Glob, GlobSet, GlobSetBuilder};
    use proptest::prelude::*;

    use super::*;
    use crate::event::NamedRegistry;
    use crate::image::{Digest, Registry, Repository};
    use crate::kinds;
    use crate::source::Filter;

    fn globs(patterns: &[&str]) -> GlobSet {
        let mut builder = GlobSetBuilder::new();
        for pattern in patterns {
            builder.add(Glob::new(pattern).unwrap());
        }
        builder.build().unwrap()
    }

    fn source() -> Source {
        Source {
            name: SourceName::try_from("prod".to_owned()).unwrap(),
            kind: kinds::find("harbor").unwrap(),
            registry: Registry::parse("h.example.com").unwrap(),
            hosts: vec![Registry::parse("h.internal:8443").unwrap()],
            repositories: Filter {
                include: globs(&["prod/**"]),
                exclude: globs(&["**/cache"]),
            },
            tags: Filter {
                include: globs(&[]),
                exclude: globs(&["*-dev"]),
            },
            untagged: Untagged::Skip,
            options: kinds::Options::default(),
        }
    }

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn push(
        host: Option<&str>,
        repository: &str,
        tag: Option<&str>,
        digest: Option<&str>,
    ) -> Event {
        Event::Push(PushEvent {
            registry: host.into(),
            repository: Repository::parse(repository).unwrap(),
            tag: tag.map(|it| Tag::parse(it).unwrap()),
            digest: digest.map(|it| Digest::parse(it).unwrap()),
            content: Content::Image,
            info: EventInfo {
                id: None,
                event_type: FreeText::new("push"),
                actor: None,
                occurred_at: None,
            },
        })
    }

    fn check(events: Vec<Event>) -> String {
        let selected = select(&source(), events);
        let requests = selected
            .requests
            .iter()
            .map(|it| format!("scan {}", it.image));
        let skips = selected.skips.iter().map(|it| {
            format!(
                "skip {} {}",
                it.reason.as_str(),
                it.image.as_deref().unwrap_or("-")
            )
        });
        requests.chain(skips).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn each_skip_has_its_reason() {
        insta::assert_snapshot!(check(vec![
            push(Some("h.example.com"), "prod/api", Some("1"), Some(DIGEST)),
            push(Some("h.example.com"), "prod/api", Some("1"), Some(DIGEST)),
            push(Some("H.INTERNAL:8443"), "prod/api", Some("2"), None),
            push(None, "prod/api", None, Some(DIGEST)),
            push(None, "prod/api", None, None),
            push(None, "prod/cache", Some("1"), None),
            push(None, "dev/api", Some("1"), None),
            push(None, "prod/api", Some("1-dev"), None),
            push(Some("h.example.com:444"), "prod/api", Some("1"), None),
            push(Some("user@h.example.com"), "prod/api", Some("1"), None),
            push(Some("h.example.com."), "prod/api", Some("1"), None),
            push(Some("evil.example.com"), "prod/api", Some("1"), None),
            Event::Other(SkipReason::Ping),
        ]), @r"
        scan h.example.com/prod/api:1@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
        scan h.example.com/prod/api:2
        skip repeated_in_delivery h.example.com/prod/api
        skip untagged h.example.com/prod/api
        skip untagged h.example.com/prod/api
        skip filtered_repository h.example.com/prod/cache
        skip filtered_repository h.example.com/dev/api
        skip filtered_tag h.example.com/prod/api
        skip foreign_registry h.example.com/prod/api
        skip foreign_registry h.example.com/prod/api
        skip foreign_registry h.example.com/prod/api
        skip foreign_registry h.example.com/prod/api
        skip ping -
        ");
    }

    /// Whoever pushes chooses the tag. Only the manifest shows what it is (openshift/oc-mirror#981).
    #[test]
    fn a_tag_that_looks_like_a_signature_is_queued() {
        for suffix in ["", ".sig", ".att", ".sbom"] {
            let tag = format!("{}{suffix}", DIGEST.replace(':', "-"));
            let events = vec![push(None, "prod/api", Some(&tag), Some(DIGEST))];
            assert_eq!(select(&source(), events).requests.len(), 1, "{tag}");
        }
    }

    #[test]
    fn a_delivery_with_too_many_images_queues_none() {
        let pushes = |count: usize| {
            let tags = (0..count).map(|it| push(None, "prod/api", Some(&format!("t{it}")), None));
            tags.collect::<Vec<_>>()
        };
        let mut events = pushes(MAX_IMAGES);
        events.extend(pushes(5));
        events.push(Event::Other(SkipReason::Ping));
        let selected = select(&source(), events.clone());
        assert_eq!(selected.requests.len(), MAX_IMAGES);
        assert!(!selected.is_refused(&source()));
        events.extend(pushes(MAX_IMAGES + 1));
        let selected = select(&source(), events);
        assert!(selected.requests.is_empty() && selected.is_refused(&source()));
        let count = |reason| {
            selected
                .skips
                .iter()
                .filter(|it| it.reason == reason)
                .count()
        };
        assert_eq!(count(SkipReason::TooManyImages), MAX_IMAGES + 1);
        assert_eq!(count(SkipReason::RepeatedInDelivery), MAX_IMAGES + 5);
        for kind in kinds::ALL {
            let source = Source { kind, ..source() };
            let repeats_for_ever = matches!(kind.name, "distribution" | "gitlab");
            let selected = select(&source, pushes(MAX_IMAGES + 1));
            assert_eq!(
                selected.is_refused(&source),
                !repeats_for_ever,
                "{}",
                kind.name
            );
        }
    }

    #[test]
    fn the_skip_of_a_foreign_registry_names_the_expected_one() {
        let events = vec![
            push(Some("evil.example.com"), "prod/api", Some("1"), None),
            push(None, "dev/api", Some("1"), None),
        ];
        let skips = select(&source(), events).skips;
        let expected = skips[0].expected.as_ref().map(Registry::as_str);
        assert_eq!(expected, Some("h.example.com"));
        assert_eq!(skips[1].expected, None);
    }

    #[test]
    fn hosts_are_compared_normalised_and_images_are_pulled_from_the_configured_host() {
        for registry in ["h.example.com", "h.example.com:443"] {
            let source = Source {
                registry: Registry::normalise(registry).unwrap(),
                hosts: vec![Registry::normalise("H.Internal:443").unwrap()],
                ..source()
            };
            for host in [
                "h.example.com",
                "h.example.com:443",
                "H.Example.COM:443",
                "https://h.example.com:443/",
                "HTTPS://h.example.com",
                "h.internal",
                "h.internal:443",
            ] {
                let selected = select(&source, vec![push(Some(host), "prod/api", Some("1"), None)]);
                assert_eq!(selected.requests.len(), 1, "{registry} {host}");
                assert_eq!(selected.requests[0].image.registry.as_str(), registry);
            }
            for host in [
                "h.example.com:80",
                "h.example.com:4430",
                "h.example.com:443:443",
                "h.example.com.",
                "h.example.com.:443",
                ":443",
            ] {
                let selected = select(&source, vec![push(Some(host), "prod/api", Some("1"), None)]);
                let reason = selected.skips[0].reason;
                assert_eq!(reason, SkipReason::ForeignRegistry, "{registry} {host}");
            }
        }
    }

    #[test]
    fn an_account_and_a_region_are_compared_with_those_of_every_host() {
        let ecr = |registry: &str, hosts: &[&str]| Source {
            kind: kinds::find("ecr").unwrap(),
            registry: Registry::parse(registry).unwrap(),
            hosts: hosts
                .iter()
                .map(|it| Registry::parse(it).unwrap())
                .collect(),
            ..source()
        };
        let is_queued = |source: &Source, account: &str, region: &str| {
            let mut event = push(None, "prod/api", Some("1"), None);
            if let Event::Push(push) = &mut event {
                push.registry = NamedRegistry::Ecr {
                    account: account.to_owned(),
                    region: region.to_owned(),
                };
            }
            let requests = select(source, vec![event]).requests;
            assert!(
                requests
                    .iter()
                    .all(|it| it.image.registry == source.registry)
            );
            !requests.is_empty()
        };
        for host in [
            "123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu",
            "123456789012.dkr-ecr-fips.eusc-de-east-1.on.aws",
            "123456789012.dkr.ecr.eusc-de-east-1.example.org:8443",
        ] {
            for source in [
                ecr(host, &[]),
                ecr("cache.example.com", &[host]),
                ecr("123456789012.dkr.ecr.eu-west-1.amazonaws.com", &[host]),
            ] {
                assert!(
                    is_queued(&source, "123456789012", "eusc-de-east-1"),
                    "{host}"
                );
                assert!(
                    !is_queued(&source, "123456789013", "eusc-de-east-1"),
                    "{host}"
                );
                assert!(
                    !is_queued(&source, "123456789012", "eusc-de-east-2"),
                    "{host}"
                );
            }
        }
    }

    #[test]
    fn untagged_manifests_are_scanned_by_digest_if_the_source_wants_it() {
        let source = Source {
            untagged: Untagged::Scan,
            ..source()
        };
        let events = vec![
            push(None, "prod/api", None, Some(DIGEST)),
            push(None, "prod/api", None, None),
        ];
        let selected = select(&source, events);
        assert_eq!(selected.requests.len(), 1);
        assert_eq!(selected.skips[0].reason, SkipReason::Untagged);
    }

    #[test]
    fn the_tag_and_the_digest_of_one_manifest_make_one_scan_with_both() {
        let source = Source {
            untagged: Untagged::Scan,
            ..source()
        };
        let tagged = || push(None, "prod/api", Some("1"), Some(DIGEST));
        let untagged = || push(None, "prod/api", None, Some(DIGEST));
        for events in [vec![untagged(), tagged()], vec![tagged(), untagged()]] {
            let selected = select(&source, events);
            assert_eq!(selected.requests.len(), 1);
            assert!(matches!(
                selected.requests[0].image.pin,
                Pin::TagAndDigest(..)
            ));
            assert_eq!(selected.skips[0].reason, SkipReason::RepeatedInDelivery);
        }
        let other_digest = format!("sha256:{}", "ab".repeat(32));
        let other = || push(None, "prod/api", None, Some(&other_digest));
        for events in [vec![other(), tagged()], vec![tagged(), other()]] {
            assert_eq!(select(&source, events).requests.len(), 2);
        }
        let second_tag = push(None, "prod/api", Some("2"), Some(DIGEST));
        assert_eq!(
            select(&source, vec![tagged(), second_tag]).requests.len(),
            2
        );
    }

    proptest! {
        #[test]
        fn nothing_that_the_configuration_excludes_is_ever_queued(
            names in prop::collection::vec(("(prod|dev)/[a-z]{1,5}(/cache)?", "[a-z]{1,5}(-dev)?", prop::option::of("(h\\.example\\.com|evil\\.example\\.com)")), 0..8),
        ) {
            let events: Vec<_> = names.iter().map(|(repository, tag, host)| push(host.as_deref(), repository, Some(tag), None)).collect();
            let count = events.len();
            let selected = select(&source(), events);
            prop_assert_eq!(selected.requests.len() + selected.skips.len(), count);
            for request in selected.requests {
                prop_assert!(request.image.repository.as_str().starts_with("prod/"));
                prop_assert!(!request.image.repository.as_str().ends_with("/cache"));
                prop_assert!(!request.image.pin.tag().unwrap().as_str().ends_with("-dev"));
                prop_assert_eq!(request.image.registry.as_str(), "h.example.com");
            }
        }
    }
}
