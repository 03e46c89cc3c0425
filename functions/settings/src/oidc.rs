//! The keys of identity providers: fetched from the configured issuer's discovery document, kept, and fetched again.
//!
//! **Invariant**: nothing of a token or of a delivery chooses where keys come from.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Uri, header};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use scanhook_core::oidc::{GOOGLE, KeySet};
use serde::Deserialize;
use tokio::time::Instant;

use crate::cached::{Cached, Fresh};
use crate::http::Client;

/// Where Google's discovery document says that its keys are. Source: `OpenID` Connect, developers.google.com, which
/// documents `https://www.googleapis.com/oauth2/v3/certs` as the `jwks_uri`. All others have theirs at the issuer's host.
const GOOGLE_KEYS: &str = "www.googleapis.com";

/// The longest single request.
const LIMIT: Duration = Duration::from_secs(2);

/// The longest discovery document or key set, in bytes.
const LONGEST: usize = 1 << 17;

/// How long keys are kept at least and at most, whatever `Cache-Control` says.
const KEEP: std::ops::RangeInclusive<Duration> = Duration::from_mins(5)..=Duration::from_hours(24);

/// How long keys are kept of which the provider says nothing.
const USUALLY: Duration = Duration::from_hours(1);

/// Why there are no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct FetchKeysError {
    place: &'static str,
    problem: String,
}

/// The keys of one issuer. Copies share them.
#[derive(Clone)]
pub struct Keys(Arc<Cached<KeySet, FetchKeysError>>);

impl Keys {
    pub(crate) fn new(issuer: &str, client: &Arc<Client>) -> Self {
        let (issuer, client) = (issuer.to_owned(), Arc::clone(client));
        let name = format!("the keys of {issuer}");
        Self(Cached::new(name, move || {
            let (issuer, client) = (issuer.clone(), Arc::clone(&client));
            Box::pin(async move { fetch(&issuer, &client).await })
        }))
    }

    /// What is known, without asking anybody.
    pub fn present(&self) -> Option<Arc<KeySet>> {
        self.0.present()
    }

    /// Fetches the keys if none are known yet.
    pub async fn first(&self) -> Result<Arc<KeySet>, FetchKeysError> {
        self.0.first().await
    }

    /// As [`Secret::freshen`](crate::secrets::Secret::freshen), with the time that the provider allows.
    pub async fn freshen(&self, until: Instant) {
        self.0.freshen(until).await;
    }

    /// As [`Secret::renew`](crate::secrets::Secret::renew): for a token with a key that is not known.
    pub async fn renew(&self, until: Instant) {
        self.0.renew(until).await;
    }
}

/// Whether this can be an issuer: an https URL without query or fragment; plain http only on this machine.
pub(crate) fn is_issuer(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else {
        return false;
    };
    let is_plain_text = text.is_ascii() && !text.contains(['?', '#', '@']);
    is_plain_text && origin(&uri).is_some()
}

/// Scheme and authority, if the scheme is https, or http on this machine.
fn origin(uri: &Uri) -> Option<(&str, &str)> {
    let (scheme, host) = (uri.scheme_str()?, uri.host()?);
    let is_secure = scheme == "https" || scheme == "http" && host == "127.0.0.1";
    let authority = uri.authority()?.as_str();
    (is_secure && !authority.contains('@')).then_some((scheme, authority))
}

/// Whether an issuer's keys may be there.
fn may_have_keys_at(issuer: &Uri, keys: &Uri) -> bool {
    let is_googles = issuer.to_string().trim_end_matches('/') == GOOGLE
        && origin(keys) == Some(("https", GOOGLE_KEYS));
    is_googles || origin(issuer).is_some() && origin(issuer) == origin(keys)
}

async fn fetch(issuer: &str, client: &Client) -> Result<Fresh<KeySet>, FetchKeysError> {
    #[derive(Deserialize)]
    struct WireDiscovery {
        issuer: String,
        jwks_uri: String,
    }
    let error = |place, problem: &str| FetchKeysError {
        place,
        problem: problem.to_owned(),
    };
    let (discovery, keys) = ("the discovery document", "the key set");
    let url = format!(
        "{}/.well-known/openid-configuration",
        issuer.trim_end_matches('/')
    );
    let (body, _) = get(&url, client)
        .await
        .map_err(|it| error(discovery, &it))?;
    let found: WireDiscovery = serde_json::from_slice(&body)
        .map_err(|_| error(discovery, "it names no issuer and jwks_uri"))?;
    if found.issuer != issuer {
        return Err(error(discovery, "it is of another issuer"));
    }
    let place = issuer.parse().ok().zip(found.jwks_uri.parse().ok());
    if !place.is_some_and(|(issuer, keys): (Uri, Uri)| may_have_keys_at(&issuer, &keys)) {
        return Err(error(discovery, "its keys are at another host"));
    }
    let (body, headers) = get(&found.jwks_uri, client)
        .await
        .map_err(|it| error(keys, &it))?;
    let value = KeySet::parse(&body, rs256).map_err(|err| error(keys, &err.to_string()))?;
    let keep = max_age(&headers).unwrap_or(USUALLY);
    Ok(Fresh {
        value,
        keep: keep.clamp(*KEEP.start(), *KEEP.end()),
    })
}

async fn get(url: &str, client: &Client) -> Result<(Bytes, HeaderMap), String> {
    let request = Request::get(url).header(header::ACCEPT, "application/json");
    let request = request.body(Bytes::new()).map_err(|_| "it is at no URL")?;
    let response = client.send(request, LIMIT, LONGEST).await;
    let response = response.map_err(|err| err.to_string())?;
    if response.status() == http::StatusCode::OK {
        let (parts, body) = response.into_parts();
        Ok((body, parts.headers))
    } else {
        Err(format!("status {}", response.status()))
    }
}

fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::CACHE_CONTROL)?.to_str().ok()?;
    let mut directives = value.split(',').map(str::trim);
    let seconds = directives.find_map(|it| it.strip_prefix("max-age="))?;
    seconds.parse().ok().map(Duration::from_secs)
}

/// RSASSA-PKCS1-v1_5 with SHA-256, for keys of 2048 to 8192 bits.
fn rs256(modulus: &[u8], exponent: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let key = RsaPublicKeyComponents {
        n: modulus,
        e: exponent,
    };
    key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_reached_by_https_or_on_this_machine() {
        for good in [
            "https://accounts.google.com",
            "https://login.microsoftonline.com/tenant/v2.0",
            "http://127.0.0.1:4711",
        ] {
            assert!(is_issuer(good), "{good}");
        }
        for bad in [
            "",
            "accounts.google.com",
            "http://accounts.google.com",
            "http://127.0.0.1.evil.example",
            "http://localhost:4711",
            "https://user@accounts.google.com",
            "https://issuer.example.com/?x=1",
            "https://issuer.example.com/#x",
            "file:///etc/passwd",
        ] {
            assert!(!is_issuer(bad), "{bad}");
        }
    }

    #[test]
    fn keys_are_at_the_issuers_own_host_but_for_google() {
        for (issuer, keys, expected) in [
            (
                "https://accounts.google.com",
                "https://www.googleapis.com/oauth2/v3/certs",
                true,
            ),
            (
                "https://accounts.google.com",
                "https://www.googleapis.com:8443/oauth2/v3/certs",
                false,
            ),
            (
                "https://accounts.google.com",
                "http://www.googleapis.com/oauth2/v3/certs",
                false,
            ),
            (
                "https://accounts.google.com",
                "https://evil.example/oauth2/v3/certs",
                false,
            ),
            (
                "https://issuer.example.com",
                "https://www.googleapis.com/oauth2/v3/certs",
                false,
            ),
            (
                "https://issuer.example.com/a",
                "https://issuer.example.com/keys",
                true,
            ),
            (
                "https://issuer.example.com",
                "https://issuer.example.com:444/keys",
                false,
            ),
            (
                "https://issuer.example.com",
                "http://issuer.example.com/keys",
                false,
            ),
            (
                "https://issuer.example.com",
                "https://issuer.example.com@evil.example/keys",
                false,
            ),
            ("http://127.0.0.1:1", "http://127.0.0.1:1/keys", true),
            ("http://127.0.0.1:1", "http://127.0.0.1:2/keys", false),
        ] {
            let (from, to) = (issuer.parse().unwrap(), keys.parse().unwrap());
            assert_eq!(may_have_keys_at(&from, &to), expected, "{issuer} {keys}");
        }
    }

    #[test]
    fn the_providers_time_is_read_from_cache_control() {
        for (value, expected) in [
            ("public, max-age=21204, must-revalidate", Some(21_204)),
            ("max-age=0", Some(0)),
            ("no-store", None),
            ("max-age=soon", None),
        ] {
            let headers = [(header::CACHE_CONTROL, value.parse().unwrap())];
            let headers = HeaderMap::from_iter(headers);
            assert_eq!(
                max_age(&headers),
                expected.map(Duration::from_secs),
                "{value}"
            );
        }
    }
}
