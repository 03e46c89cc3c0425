//! Any configuration and any pushes: each push becomes one request or one skip, and none that the configuration excludes
//! becomes a request.
//!
//! An input is a byte for the options, then lines: four with patterns separated by blanks (repositories to include and
//! exclude, tags to include and exclude), then a push a line: host, repository, tag and digest, `-` for none.
#![no_main]

use bytes::Bytes;
use globset::{Glob, GlobBuilder, GlobSet};
use libfuzzer_sys::fuzz_target;
use scanhook_core::event::{
    Content, Event, EventInfo, NamedRegistry, PushEvent, SkipReason,
};
use scanhook_core::image::{Digest, Registry, Repository, Tag};
use scanhook_core::kinds::{self, Options};
use scanhook_core::select::select;
use scanhook_core::source::{Filter, Source, SourceName, Untagged};

/// At most so many patterns and pushes: more of them are only slower.
const MANY: usize = 24;

fn globs(line: &[u8]) -> Vec<Glob> {
    let line = Bytes::copy_from_slice(line);
    let patterns = String::from_utf8_lossy(&line).into_owned();
    let patterns = patterns.split(' ').filter(|it| !it.is_empty()).take(MANY);
    let glob = |it: &str| GlobBuilder::new(it).literal_separator(true).build().ok();
    patterns.filter_map(glob).collect()
}

fn set(globs: &[Glob]) -> Option<GlobSet> {
    GlobSet::new(globs.iter().cloned()).ok()
}

/// Pattern by pattern, where the set tries them all at once.
fn matches(globs: &[Glob], text: &str) -> bool {
    globs.iter().any(|it| it.compile_matcher().is_match(text))
}

fn wants(include: &[Glob], exclude: &[Glob], text: &str) -> bool {
    (include.is_empty() || matches(include, text)) && !matches(exclude, text)
}

/// The one form of a host: lower case, without a scheme, a slash behind it, and the port that HTTPS has anyway.
fn normal(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let host = host
        .strip_prefix("https://")
        .or(host.strip_prefix("http://"))
        .unwrap_or(&host);
    let host = host.strip_suffix('/').unwrap_or(host);
    host.strip_suffix(":443").unwrap_or(host).to_owned()
}

fn push(line: &[u8], is_artifact: bool) -> Option<PushEvent> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    let host = words.next().filter(|it| *it != "-");
    let repository = Repository::parse(words.next()?).ok()?;
    let tag = words.next().and_then(|it| Tag::parse(it).ok());
    let digest = words.next().and_then(|it| Digest::parse(it).ok());
    Some(PushEvent {
        registry: host.into(),
        repository,
        tag,
        digest,
        content: if is_artifact {
            Content::Artifact
        } else {
            Content::Image
        },
        info: EventInfo::new("push", None, None, None),
    })
}

fuzz_target!(|input: &[u8]| {
    let Some((switches, rest)) = input.split_first() else {
        return;
    };
    let mut lines = rest.split(|it| *it == b'\n');
    let [include, exclude, tags, not_tags] =
        [(); 4].map(|()| globs(lines.next().unwrap_or_default()));
    let (Some(repositories), Some(excluded), Some(wanted_tags), Some(unwanted_tags)) =
        (set(&include), set(&exclude), set(&tags), set(&not_tags))
    else {
        return;
    };
    let source = Source {
        name: SourceName::try_from("fuzz".to_owned()).unwrap(),
        kind: kinds::find("harbor").unwrap(),
        registry: Registry::parse("h.example.com").unwrap(),
        hosts: vec![Registry::parse("h.internal:8443").unwrap()],
        repositories: Filter {
            include: repositories,
            exclude: excluded,
        },
        tags: Filter {
            include: wanted_tags,
            exclude: unwanted_tags,
        },
        untagged: if switches & 1 == 0 {
            Untagged::Skip
        } else {
            Untagged::Scan
        },
        options: Options::default(),
    };
    let pushes = lines.take(MANY).enumerate();
    let pushes = pushes.filter_map(|(at, line)| push(line, switches & 2 != 0 && at % 3 == 0));
    let pushes: Vec<_> = pushes.collect();
    let is_excluded = |it: &PushEvent| {
        let tag = it.tag.as_ref().map(Tag::as_str);
        let host = match &it.registry {
            NamedRegistry::Host(it) => Some(normal(it)),
            _ => None,
        };
        it.content == Content::Artifact
            || host.is_some_and(|it| !["h.example.com", "h.internal:8443"].contains(&it.as_str()))
            || (tag.is_none() && (it.digest.is_none() || source.untagged == Untagged::Skip))
            || !wants(&include, &exclude, it.repository.as_str())
            || tag.is_some_and(|it| !wants(&tags, &not_tags, it))
    };
    let (unwanted, wanted): (Vec<_>, Vec<_>) = pushes.iter().partition(|it| is_excluded(it));
    let selected = select(&source, pushes.iter().cloned().map(Event::Push).collect());
    let (folded, skipped): (Vec<_>, Vec<_>) = selected
        .skips
        .iter()
        .partition(|it| it.reason == SkipReason::RepeatedInDelivery);
    assert_eq!(skipped.len(), unwanted.len());
    assert_eq!(selected.requests.len() + folded.len(), wanted.len());
    for request in &selected.requests {
        let image = &request.image;
        assert_eq!(image.registry, source.registry);
        let is_asked_for = |it: &&&PushEvent| {
            it.repository == image.repository
                && it.tag.as_ref().is_none_or(|it| Some(it) == image.pin.tag())
                && it
                    .digest
                    .as_ref()
                    .is_none_or(|it| Some(it) == image.pin.digest())
        };
        assert!(wanted.iter().any(|it| is_asked_for(&it)));
    }
});
