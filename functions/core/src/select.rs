//! Which of a delivery's events are scanned. Total: every event becomes a scan request or a skip with its reason.

use crate::event::{Content, Event, EventInfo, FreeText, PushEvent, Skip, SkipReason};
use crate::image::{Image, Pin, Tag};
use crate::source::{Source, SourceName, Untagged};

/// An image that is to be scanned because of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRequest {
    /// Who told of it.
    pub source: SourceName,
    /// What to scan.
    pub image: Image,
    /// Why.
    pub event: EventInfo,
}

/// A delivery, decided.
#[derive(Debug, Default)]
pub struct Selected {
    /// To be queued, in the order of the events.
    pub requests: Vec<ScanRequest>,
    /// Not to be queued.
    pub skips: Vec<Skip>,
    /// The code that the sender wants to see again.
    pub validation: Option<FreeText>,
}

/// Decides each event of a delivery by its source's configuration.
pub fn select(source: &Source, events: Vec<Event>) -> Selected {
    let mut selected = Selected::default();
    for event in events {
        selected.add(source, event);
    }
    selected
}

impl Selected {
    /// Decides one more event: there is one more request, one more skip, or a validation.
    pub fn add(&mut self, source: &Source, event: Event) {
        let decided = match event {
            Event::Push(push) => request(source, push, &mut self.requests),
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
}

fn request(
    source: &Source,
    push: PushEvent,
    earlier: &mut [ScanRequest],
) -> Result<ScanRequest, Skip> {
    if let Some(reason) = skip_reason(source, &push) {
        return Err(skip(source, reason, push));
    }
    let Some(pin) = Pin::new(push.tag.clone(), push.digest.clone()) else {
        return Err(skip(source, SkipReason::Untagged, push));
    };
    let same = earlier
        .iter_mut()
        .filter(|it| it.image.repository == push.repository)
        .find_map(|it| Some((joined(&it.image.pin, &pin)?, it)));
    if let Some((joined, same)) = same {
        same.image.pin = joined;
        return Err(skip(source, SkipReason::RepeatedInDelivery, push));
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

/// What two pins say together if they are of one manifest: the same, or one of them knows the tag of the other's digest.
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
    let is_foreign = push.host.as_deref().is_some_and(|it| !source.owns_host(it));
    if push.content == Content::Artifact {
        Some(SkipReason::NotAnImage)
    } else if is_foreign {
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

/// A skip names the source's own registry: a foreign one is a stranger's word.
fn skip(source: &Source, reason: SkipReason, push: PushEvent) -> Skip {
    Skip {
        reason,
        image: Some(format!("{}/{}", source.registry, push.repository)),
        tag: push.tag,
        digest: push.digest,
    }
}

#[cfg(test)]
mod tests {
    use globset::{Glob, GlobSet, GlobSetBuilder};
    use proptest::prelude::*;

    use super::*;
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
            host: host.map(str::to_owned),
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
    fn each_reason_to_skip_is_told() {
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

    /// Whoever pushes chooses the tag: what is under it, the manifest says (openshift/oc-mirror#981).
    #[test]
    fn a_tag_in_the_form_of_a_signatures_is_queued() {
        for suffix in ["", ".sig", ".att", ".sbom"] {
            let tag = format!("{}{suffix}", DIGEST.replace(':', "-"));
            let events = vec![push(None, "prod/api", Some(&tag), Some(DIGEST))];
            assert_eq!(select(&source(), events).requests.len(), 1, "{tag}");
        }
    }

    #[test]
    fn untagged_manifests_are_scanned_by_digest_where_the_source_wants_it() {
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
    fn the_tag_and_the_digest_of_one_manifest_are_one_scan_with_both_known() {
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
