//! What a registry holds: its repositories, their tags, and what a tag names; for `backfill`.
//!
//! Source: OCI distribution specification, "Listing Tags"; the distribution project's HTTP API V2, "Catalog" and "Pagination".

use std::collections::HashSet;

use jiff::Timestamp;
use reqwest::header::{HeaderMap, LINK};
use reqwest::{Method, Url};
use scanhook_core::choice::Subject;
use scanhook_core::image::{Digest, Image, Pin, Registry, Repository, Tag};
use scanhook_core::verdict::ErrorReason;
use serde::Deserialize;

use super::session::Session;
use super::{Registries, ResolveError};

/// How many names a page is asked to have. A registry may give fewer.
const PAGE: usize = 1000;

/// A list that goes on after so many pages is none.
const MOST_PAGES: usize = 10_000;

/// No image is older: 2013-01-01T00:00:00Z.
const DOCKER: i64 = 1_356_998_400;

const JSON: &str = "application/json";

#[derive(Deserialize)]
struct WireTags {
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct WireCatalog {
    repositories: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct WireConfig {
    created: Option<Timestamp>,
}

impl Registries {
    /// Lists a repository's tags. What is no tag by the specification is left out.
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

    /// Lists the registry's repositories, where it has a catalog and shows it to us.
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

    /// The digest that an image's tag names now.
    pub async fn digest(&self, image: &Image) -> Result<Digest, ResolveError> {
        let mut session = Session::open(self, image).await?;
        match &image.pin {
            Pin::Tag(tag) => session.digest_of(tag.as_str()).await,
            Pin::Digest(digest) | Pin::TagAndDigest(_, digest) => Ok(digest.clone()),
        }
    }

    /// When an image was built, if its configuration tells; of an index, the image that would be scanned.
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
        // Reproducible builds write 1970 or 1980 there. Docker came out in March 2013.
        let is_told = |it: &Timestamp| it.as_second() >= DOCKER;
        Ok(wire.and_then(|it| it.created).filter(is_told))
    }
}

/// A session is about an image; where it is about a repository, any of it will do.
fn any_image(registry: &Registry, repository: Repository) -> Result<Image, ResolveError> {
    let tag = Tag::parse("latest")
        .map_err(|err| ResolveError::new(ErrorReason::Internal, err.to_string()))?;
    Ok(Image {
        registry: registry.clone(),
        repository,
        pin: Pin::Tag(tag),
    })
}

/// What names something by the specification; a registry may list more.
fn parsed<T, E>(names: &[String], parse: impl Fn(&str) -> Result<T, E>) -> Vec<T> {
    names.iter().filter_map(|it| parse(it).ok()).collect()
}

/// Reads a list to its end.
async fn pages(
    mut session: Session<'_>,
    path: &str,
    names_in: impl Fn(&[u8]) -> Option<Vec<String>>,
) -> Result<Vec<String>, ResolveError> {
    let mut names = Vec::new();
    let mut asked = HashSet::new();
    let mut query = format!("n={PAGE}");
    for _ in 0..MOST_PAGES {
        let answer = session
            .ask_for(Method::GET, &format!("{path}?{query}"), JSON)
            .await?;
        let page = names_in(&answer.body);
        names.extend(page.ok_or_else(|| {
            let problem = format!(
                "{} answers with something else than a list",
                session.host().registry
            );
            ResolveError::new(ErrorReason::Network, problem)
        })?);
        match next(&answer.headers, &session.host().base, path) {
            Some(next) if asked.insert(next.clone()) => query = next,
            // A list that leads back to itself has ended.
            _ => return Ok(names),
        }
    }
    let problem = format!("the list of {} does not end", session.host().registry);
    Err(ResolveError::new(ErrorReason::Network, problem))
}

/// The query of the next page. Only that is taken of the link: it can't lead elsewhere. Source: RFC 8288.
fn next(headers: &HeaderMap, base: &Url, path: &str) -> Option<String> {
    let links = headers
        .get_all(LINK)
        .iter()
        .filter_map(|it| it.to_str().ok());
    // A target may have commas, but no angle brackets.
    let mut links = links.flat_map(|it| it.split('<').skip(1).filter_map(|it| it.split_once('>')));
    let (target, _) = links.find(|(_, parameters)| {
        parameters.contains("rel=\"next\"") || parameters.contains("rel=next")
    })?;
    let url = base.join(path).ok()?.join(target).ok()?;
    url.query().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn check(link: &str, expected: Option<&str>) {
        let base = Url::parse("https://h.io/v2/").unwrap();
        let headers = HeaderMap::from_iter([(LINK, HeaderValue::from_str(link).unwrap())]);
        assert_eq!(
            next(&headers, &base, "a/b/tags/list").as_deref(),
            expected,
            "{link}"
        );
    }

    #[test]
    fn only_the_query_of_a_link_is_followed() {
        check(
            r#"</v2/a/b/tags/list?n=2&last=1.0>; rel="next""#,
            Some("n=2&last=1.0"),
        );
        check(
            r#"<https://h.io/v2/a/b/tags/list?last=x>; rel="next""#,
            Some("last=x"),
        );
        check(r"<?last=x>; rel=next", Some("last=x"));
        check(
            r#"<http://169.254.169.254/latest?last=x>; rel="next""#,
            Some("last=x"),
        );
        check(
            r#"</v2/?last=0>; rel="prev", </v2/?last=2>; rel="next""#,
            Some("last=2"),
        );
        check(
            r#"</v2/?last=1,rel=next,2>; rel="next""#,
            Some("last=1,rel=next,2"),
        );
        check(r#"</v2/?last=0>; rel="prev""#, None);
        check("nonsense", None);
        check(r#"<nonsense; rel="next""#, None);
    }
}
