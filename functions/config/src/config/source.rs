//! One source: what it is, and what of its pushes is wanted.

use std::num::NonZeroU32;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use scanhook_core::image::Registry;
use scanhook_core::kinds::{self, Kind, Options, RepoKey};
use scanhook_core::platform::Platform;
use scanhook_core::source::{Filter, Source, SourceName, Untagged};

use super::auth::auth_config;
use super::error::{expected, expected_word};
use super::payload::mapping;
use super::{AuthConfig, ConfigError, RateLimit, SourceConfig, checked_policies, error};
use crate::wire::{WirePayload, WireRateLimit, WireSource, WireTags};

const HOST: &str = "the host that images are pulled from: a name or an address in lower case, with an optional port";

const PLATFORM: &str = "OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64; `:` and an OS version may follow";

/// Checks a source; what of it is not acted on is added to `warnings`.
pub(super) fn source(
    name: SourceName,
    wire: WireSource,
    path: &str,
    warnings: &mut Vec<String>,
) -> Result<SourceConfig, ConfigError> {
    let kind = kinds::find(&wire.kind).ok_or_else(|| {
        let names: Vec<_> = kinds::ALL.iter().map(|it| it.name).collect();
        expected_word(&format!("{path}.kind"), &wire.kind, &names)
    })?;
    let host = |key: &str, text: &str| {
        Registry::normalise(text).map_err(|_| expected(&format!("{path}.{key}"), HOST))
    };
    let registry = match wire.registry.as_deref().or(kind.default_registry) {
        Some(text) => host("registry", text)?,
        None => return Err(expected(&format!("{path}.registry"), HOST)),
    };
    let hosts = wire
        .hosts
        .iter()
        .enumerate()
        .map(|(index, it)| host(&format!("hosts[{index}]"), it));
    if wire.auth.is_empty() {
        let what = "a list of at least one credential, or anybody could cause scans";
        return Err(expected(&format!("{path}.auth"), what));
    }
    let auth = wire.auth.into_iter().enumerate();
    let auth = auth
        .map(|(index, it)| auth_config(it, kind, &format!("{path}.auth[{index}]")))
        .collect::<Result<Vec<_>, _>>()?;
    let unknown = auth
        .iter()
        .map(AuthConfig::as_str)
        .filter(|it| !kind.auth.contains(it));
    warnings.extend(unknown.map(|it| {
        format!(
            "{path}.auth: {} itself sends no {it} credential",
            kind.title
        )
    }));
    let platforms = platforms(&wire.platforms, path)?;
    let options = options(kind, wire.events, wire.repo_key, wire.payload, path)?;
    let WireTags { include, exclude } = wire.tags;
    let hosts = hosts.collect::<Result<Vec<_>, _>>()?;
    if !kind.can_own(std::iter::once(&registry).chain(&hosts)) {
        let problem = "neither it nor one of `hosts` is a host of Amazon ECR, such as ACCOUNT.dkr.ecr.REGION.amazonaws.com: \
                       events name an account and a region, which are compared with those of the host";
        return Err(error(&format!("{path}.registry"), problem));
    }
    let untagged = match wire.untagged.as_deref() {
        None | Some("skip") => Untagged::Skip,
        Some("scan") => Untagged::Scan,
        Some(other) => {
            let path = format!("{path}.untagged");
            return Err(expected_word(&path, other, &["skip", "scan"]));
        }
    };
    let source = Source {
        name,
        kind,
        registry,
        hosts,
        repositories: filter(&wire.include, &wire.exclude, path)?,
        tags: filter(&include, &exclude, &format!("{path}.tags"))?,
        untagged,
        options,
    };
    Ok(SourceConfig {
        source,
        auth,
        policies: checked_policies(wire.policies, path)?,
        platforms,
        rate_limit: wire
            .rate_limit
            .map(|it| rate_limit(&it, &format!("{path}.rate_limit")))
            .transpose()?,
    })
}

fn rate_limit(wire: &WireRateLimit, path: &str) -> Result<RateLimit, ConfigError> {
    let positive = |key: &str, value: u32| {
        let what = "a number of at least 1";
        NonZeroU32::new(value).ok_or_else(|| expected(&format!("{path}.{key}"), what))
    };
    let per_minute = wire.per_minute.0;
    Ok(RateLimit {
        per_minute: positive("per_minute", per_minute)?,
        burst: positive("burst", wire.burst.map_or(per_minute, |it| it.0))?,
    })
}

fn platforms(texts: &[String], path: &str) -> Result<Vec<Platform>, ConfigError> {
    let mut platforms = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let path = format!("{path}.platforms[{index}]");
        let platform = Platform::parse(text).map_err(|_| expected(&path, PLATFORM))?;
        if platforms.contains(&platform) {
            return Err(error(&path, "is repeated"));
        }
        platforms.push(platform);
    }
    Ok(platforms)
}

/// What the kind's parser needs to know.
fn options(
    kind: &Kind,
    events: Vec<String>,
    repo_key: Option<String>,
    payload: Option<WirePayload>,
    path: &str,
) -> Result<Options, ConfigError> {
    let mut unknown = events.iter().enumerate();
    if let Some((index, event)) = unknown.find(|(_, it)| !kind.events.contains(&it.as_str())) {
        let path = format!("{path}.events[{index}]");
        return Err(match kind.events {
            [] => error(
                &path,
                format!("{} has no events besides pushes", kind.title),
            ),
            known => expected_word(&path, event, known),
        });
    }
    if repo_key.is_some() && !kind.repo_key {
        let problem = format!("{} has no repository key in its payloads", kind.title);
        return Err(error(&format!("{path}.repo_key"), problem));
    }
    if payload.is_some() && kind.name != "generic" {
        return Err(error(
            &format!("{path}.payload"),
            "only sources of kind generic have a payload map",
        ));
    }
    let repo_key = repo_key.map(|it| match it.as_str() {
        "keep" => RepoKey::Keep,
        "drop" => RepoKey::Drop,
        _ => RepoKey::Name(it),
    });
    let payload = payload
        .map(|it| mapping(it, &format!("{path}.payload")))
        .transpose()?;
    Ok(Options {
        events,
        repo_key,
        payload: payload.map(Box::new),
    })
}

fn filter(include: &[String], exclude: &[String], path: &str) -> Result<Filter, ConfigError> {
    Ok(Filter {
        include: glob_set(include, &format!("{path}.include"))?,
        exclude: glob_set(exclude, &format!("{path}.exclude"))?,
    })
}

fn glob_set(patterns: &[String], path: &str) -> Result<GlobSet, ConfigError> {
    let mut set = GlobSetBuilder::new();
    for (index, pattern) in patterns.iter().enumerate() {
        set.add(glob(pattern, &format!("{path}[{index}]"))?);
    }
    set.build()
        .map_err(|_| error(path, "the patterns are too large"))
}

/// Reads a pattern in which `*` stays within one component.
pub(super) fn glob(pattern: &str, path: &str) -> Result<Glob, ConfigError> {
    let glob = GlobBuilder::new(pattern).literal_separator(true).build();
    glob.map_err(|_| {
        let what = "a pattern, in which *, ** and ? match characters and {a,b} alternatives";
        expected(path, what)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What docs/configuration.md promises of patterns, component by component.
    fn matches(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern, path) {
            ([], []) => true,
            (["**"], _) => !path.is_empty(),
            (["**", rest @ ..], _) => (0..=path.len()).any(|it| matches(rest, &path[it..])),
            ([first, rest @ ..], [name, names @ ..]) => {
                matches_component(first.as_bytes(), name.as_bytes()) && matches(rest, names)
            }
            _ => false,
        }
    }

    fn matches_component(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => {
                (0..=name.len()).any(|it| matches_component(rest, &name[it..]))
            }
            ([b'?', rest @ ..], [_, names @ ..]) => matches_component(rest, names),
            ([first, rest @ ..], [byte, names @ ..]) => {
                first == byte && matches_component(rest, names)
            }
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn a_pattern_matches_as_its_components_do(
            pattern in prop::collection::vec("\\*\\*|\\*|[ab]|[ab]\\*|\\*[ab]|\\?|a\\?|[ab]{2}|\\*-\\*", 1..4),
            path in prop::collection::vec("[ab]{1,3}|a-b", 1..5),
        ) {
            let set = glob_set(&[pattern.join("/")], "test").unwrap();
            let pattern: Vec<_> = pattern.iter().map(String::as_str).collect();
            let path: Vec<_> = path.iter().map(String::as_str).collect();
            prop_assert_eq!(set.is_match(path.join("/")), matches(&pattern, &path));
        }

        #[test]
        fn several_patterns_match_what_one_of_them_matches(
            patterns in prop::collection::vec("(\\*\\*/)?[ab*?{},]{0,4}(/\\*\\*)?", 0..5), text in "[ab]{1,3}(/[ab]{1,3}){0,3}",
        ) {
            let good: Vec<_> = patterns.into_iter().filter(|it| glob(it, "test").is_ok()).collect();
            let Ok(set) = glob_set(&good, "test") else { return Ok(()) };
            let one = good.iter().any(|it| glob(it, "test").unwrap().compile_matcher().is_match(&text));
            prop_assert_eq!(set.is_match(&text), one);
        }

        #[test]
        fn no_pattern_makes_the_configuration_panic(pattern: String) {
            let _ = glob_set(&[pattern], "test");
        }
    }
}
