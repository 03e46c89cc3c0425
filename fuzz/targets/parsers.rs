//! Any delivery, read as any kind and selected: no panic, and nothing queued that the configuration excludes.
//!
//! An input is a byte for the kind, a byte for the options, header lines, an empty line, and the body. The variable `KIND`
//! names the one kind that is read, whatever the byte says, so that each can be given its time.
#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use globset::{Glob, GlobSet};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use scanhook_core::auth::{Credential, Scheme, Verifier, verify};
use scanhook_core::delivery::Delivery;
use scanhook_core::image::{Image, Registry};
use scanhook_core::kinds::generic::{Condition, Mapping, Place};
use scanhook_core::kinds::{self, Kind, Options, RepoKey};
use scanhook_core::select::select;
use scanhook_core::source::{Filter, Source, SourceName, Untagged};

const TOKEN: &str = "path-token-of-the-fuzzer";

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let credential = Credential {
        scheme: Scheme::PathToken,
        secret: TOKEN.into(),
    };
    credential.verifier()
});

static FILTER: LazyLock<Filter> = LazyLock::new(|| {
    let exclude = GlobSet::builder()
        .add(Glob::new("**{cache,secret}**").unwrap())
        .build();
    Filter {
        include: GlobSet::empty(),
        exclude: exclude.unwrap(),
    }
});

static ONLY: LazyLock<Option<&'static Kind>> = LazyLock::new(|| {
    let name = std::env::var("KIND").ok()?;
    Some(kinds::find(&name).unwrap_or_else(|| panic!("KIND={name} is no kind")))
});

/// A map that reads the lists and the conditions of the conformance cases.
fn mapping() -> Mapping {
    let pointer = |text: &str| Place::Pointer(text.to_owned());
    Mapping {
        events: "/items".to_owned(),
        matches: vec![
            Condition {
                place: pointer("/kind"),
                allowed: Some(vec!["PUSHED".to_owned(), "TAGGED".to_owned()]),
            },
            Condition {
                place: pointer("/error"),
                allowed: None,
            },
        ],
        ping: vec![Condition {
            place: pointer("/kind"),
            allowed: Some(vec!["TEST".to_owned()]),
        }],
        repository: vec!["/image/group".to_owned(), "/image/name".to_owned()],
        tag: Some("/image/tag".to_owned()),
        digest: Some("/image/sha".to_owned()),
        host: Some("/image/host".to_owned()),
        ..Mapping::default()
    }
}

fn source(kind: &'static Kind, switches: u8) -> Source {
    let repo_key = match switches & 3 {
        0 => None,
        1 => Some(RepoKey::Keep),
        2 => Some(RepoKey::Drop),
        _ => Some(RepoKey::Name("virtual".to_owned())),
    };
    let is_greedy = switches & 4 != 0;
    let events = kind.events.iter().map(ToString::to_string);
    Source {
        name: SourceName::try_from("fuzz".to_owned()).unwrap(),
        kind,
        registry: Registry::parse(kind.example_registry).unwrap(),
        hosts: Vec::new(),
        repositories: FILTER.clone(),
        tags: FILTER.clone(),
        untagged: if is_greedy {
            Untagged::Scan
        } else {
            Untagged::Skip
        },
        options: Options {
            events: events.filter(|_| is_greedy).collect(),
            repo_key: repo_key.filter(|_| kind.repo_key),
            payload: (switches & 8 != 0).then(|| Box::new(mapping())),
        },
    }
}

/// Header lines up to an empty one, and what follows.
fn split(mut rest: &[u8]) -> (HeaderMap, &[u8]) {
    let mut headers = HeaderMap::new();
    while let Some(end) = rest.iter().position(|it| *it == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|it| *it == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    (headers, rest)
}

fuzz_target!(|input: &[u8]| {
    let [kind, switches, rest @ ..] = input else {
        return;
    };
    let kind = ONLY.unwrap_or(kinds::ALL[usize::from(*kind) % kinds::ALL.len()]);
    let source = source(kind, *switches);
    let (headers, body) = split(rest);
    let delivery = Delivery {
        headers,
        path_token: Some(TOKEN.to_owned()),
        body: Bytes::copy_from_slice(body),
        received_at: Timestamp::UNIX_EPOCH,
    };
    let Ok(delivery) = verify(delivery, std::slice::from_ref(&*VERIFIER)) else {
        panic!("the token is right");
    };
    let Ok(events) = (kind.parse)(&delivery, &source.options) else {
        return;
    };
    let count = events.len();
    let selected = select(&source, events);
    assert!(selected.requests.len() + selected.skips.len() <= count);
    for request in &selected.requests {
        let image = &request.image;
        assert_eq!(image.registry, source.registry);
        assert!(source.repositories.wants(image.repository.as_str()));
        assert!(
            image
                .pin
                .tag()
                .is_none_or(|it| source.tags.wants(it.as_str()))
        );
        assert!(image.pin.tag().is_some() || source.untagged == Untagged::Scan);
        assert_eq!(Image::parse(&image.to_string()).as_ref(), Ok(image));
    }
});
