//! Lists a registry's repositories, their tags, and the digest of a tag; for `backfill`.
//!
//! Source: OCI distribution specification, "Listing Tags"; the distribution project's HTTP API V2, "Catalog" and "Pagination".

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;
use reqwest::{Method, Url};
use scanhook_core::choice::Subject;
use scanhook_core::failure::ErrorReason;
use scanhook_core::image::{Digest, Image, Pin, Registry, Repository, Tag};
use serde::Deserialize;

use super::session::Session;
use super::{Registries, ResolveError, link};

/// How many names to request per page. A registry may send fewer.
const PAGE: usize = 1000;

/// The most pages of a list. A longer one is treated as endless.
const MOST_PAGES: usize = 10_000;

/// No image is older: 2013-01-01T00:00:00Z.
const DOCKER: i64 = 1_356_998_400;

const JSON: &str = "application/json";

// A list may be null: Distribution's is, for a repository without tags. An answer without the member isn't a list.

#[derive(Deserialize)]
struct WireTags {
    #[serde(deserialize_with = "Option::deserialize")]
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct WireCatalog {
    #[serde(deserialize_with = "Option::deserialize")]
    repositories: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct WireConfig {
    created: Option<Timestamp>,
}

impl Registries {
    /// Lists a repository's tags, without names that aren't valid tags.
    pub async fn tags(
        &self,
        registry: &Registry,
        repository: &Repository,
    ) -> Result<Vec<Tag>, ResolveError> {
        let image = any_image(registry, repository.clone())?;
        let session = Session::open(self, &image).await?;
        let path = format!("{repository}/tags/list");
        let names = |body: &[u8]| {
            let wire: WireTags = serde_json::from_slice(body).ok()?;
            Some(wire.tags.unwrap_or_default())
        };
        Ok(parsed(&pages(session, &path, names).await?, Tag::parse))
    }

    /// Lists the registry's repositories, if it has a catalog that we may read.
    pub async fn repositories(&self, registry: &Registry) -> Result<Vec<Repository>, ResolveError> {
        let any = Repository::parse("any")
            .map_err(|err| ResolveError::new(ErrorReason::Internal, err.to_string()))?;
        let image = any_image(registry, any)?;
        let session = Session::open(self, &image).await?.of_catalog();
        let names = |body: &[u8]| {
            let wire: WireCatalog = serde_json::from_slice(body).ok()?;
            Some(wire.repositories.unwrap_or_default())
        };
        Ok(parsed(
            &pages(session, "_catalog", names).await?,
            Repository::parse,
        ))
    }

    /// Returns the digest that an image's tag names now.
    pub async fn digest(&self, image: &Image) -> Result<Digest, ResolveError> {
        let mut session = Session::open(self, image).await?;
        match &image.pin {
            Pin::Tag(tag) => session.digest_of(tag.as_str()).await,
            Pin::Digest(digest) | Pin::TagAndDigest(_, digest) => Ok(digest.clone()),
        }
    }

    /// Returns when an image was built, if its configuration contains that. For an index, it is the image that would be
    /// scanned.
    pub async fn created(
        &self,
        image: &Image,
        digest: &Digest,
    ) -> Result<Option<Timestamp>, ResolveError> {
        let mut session = Session::open(self, image).await?;
        let (chosen, _) = session.choose(digest, None, &[]).await?;
        let config = chosen.into_iter().find_map(|it| match it {
            Subject::Image(_, manifest) => manifest.config,
            _ => None,
        });
        let Some(config) = config else {
            return Ok(None);
        };
        let path = format!("{}/blobs/{config}", image.repository);
        let answer = session.ask_for(Method::GET, &path, "*/*").await?;
        let wire: Option<WireConfig> = serde_json::from_slice(&answer.body).ok();
        // Reproducible builds write 1970 or 1980. Docker was released in March 2013.
        let is_plausible = |it: &Timestamp| it.as_second() >= DOCKER;
        Ok(wire.and_then(|it| it.created).filter(is_plausible))
    }
}

/// A session needs an image. For requests about a repository, any image of it works.
fn any_image(registry: &Registry, repository: Repository) -> Result<Image, ResolveError> {
    let tag = Tag::parse("latest")
        .map_err(|err| ResolveError::new(ErrorReason::Internal, err.to_string()))?;
    Ok(Image {
        registry: registry.clone(),
        repository,
        pin: Pin::Tag(tag),
    })
}

/// Parses names, without those that the specification doesn't allow.
fn parsed<T, E>(names: &[String], parse: impl Fn(&str) -> Result<T, E>) -> Vec<T> {
    names.iter().filter_map(|it| parse(it).ok()).collect()
}

/// Reads a whole list. If its end is in doubt, that is an error: an incomplete list would pass for a complete one.
async fn pages(
    mut session: Session<'_>,
    path: &str,
    names_in: impl Fn(&[u8]) -> Option<Vec<String>>,
) -> Result<Vec<String>, ResolveError> {
    let registry = session.host().registry.clone();
    let unreadable =
        |problem: String| ResolveError::new(ErrorReason::Network, format!("{registry} {problem}"));
    let (mut names, mut asked) = (BTreeSet::new(), HashSet::new());
    let mut query = format!("n={PAGE}");
    while asked.len() < MOST_PAGES {
        let answer = session
            .ask_for(Method::GET, &format!("{path}?{query}"), JSON)
            .await;
        let answer = answer.map_err(|err| match err.reason {
            // The list exists, because one page was read.
            ErrorReason::ImageNotFound if !asked.is_empty() => {
                unreadable(format!("has no page {} of a list", asked.len() + 1))
            }
            _ => err,
        })?;
        let page = names_in(&answer.body);
        let page = page.ok_or_else(|| unreadable("sent something other than a list".to_owned()))?;
        let known = names.len();
        let last = page.last().filter(|_| page.len() == PAGE).cloned();
        names.extend(page);
        asked.insert(query);
        let next = link::next(&answer.headers).map_err(|err| unreadable(format!("sends {err}")))?;
        query = match (next, last) {
            (Some(target), _) => query_of(target, &session.host().base, path)
                .ok_or_else(|| unreadable("links to a next page without a query".to_owned()))?,
            // Without `Link`, a full page might not be the last one. Source: OCI distribution specification 1.0,
            // "Listing Tags".
            (None, Some(last)) if names.len() > known => {
                let last: String = form_urlencoded::byte_serialize(last.as_bytes()).collect();
                format!("n={PAGE}&last={last}")
            }
            (None, _) => return Ok(names.into_iter().collect()),
        };
        if asked.contains(&query) {
            return Err(unreadable(
                "links back to a page of the list that was already read".to_owned(),
            ));
        }
    }
    Err(unreadable("sends an endless list".to_owned()))
}

/// Returns the query of the next page. Nothing else of the link is used, so it can't lead to another host.
fn query_of(target: &str, base: &Url, path: &str) -> Option<String> {
    let url = base.join(path).ok()?.join(target).ok()?;
    url.query().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_query_of_a_link_is_followed() {
        let base = Url::parse("https://h.io/v2/").unwrap();
        for (target, expected) in [
            ("/v2/a/b/tags/list?n=2&last=1.0", Some("n=2&last=1.0")),
            ("https://h.io/v2/a/b/tags/list?last=x", Some("last=x")),
            ("?last=x", Some("last=x")),
            ("http://169.254.169.254/latest?last=x", Some("last=x")),
            ("//evil.example.org/v2/?last=x", Some("last=x")),
            ("/v2/?last=1,rel=next,2", Some("last=1,rel=next,2")),
            ("/v2/a/b/tags/list/2", None),
            ("http://", None),
        ] {
            let query = query_of(target, &base, "a/b/tags/list");
            assert_eq!(query.as_deref(), expected, "{target}");
        }
    }
}
