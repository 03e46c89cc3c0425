//! The keys of identity providers: fetched from the configured issuer's discovery document, kept, and fetched again.
//!
//! **Invariant**: nothing of a token or of a delivery chooses where keys come from.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use scanhook_core::oidc::{KeySet, keys_url};
use tokio::time::Instant;

use crate::cached::{Cached, Fresh};
use crate::http::Client;

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

async fn fetch(issuer: &str, client: &Client) -> Result<Fresh<KeySet>, FetchKeysError> {
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
    let place = keys_url(issuer, &body).map_err(|err| error(discovery, &err.to_string()))?;
    let (body, headers) = get(&place, client).await.map_err(|it| error(keys, &it))?;
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
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    use scanhook_core::oidc::payload;
    use serde_json::{Value, json};

    use super::*;

    /// Those of RFC 7515 (appendix A) and RFC 7520 (section 4), with the public or shared key of each. Project Wycheproof's for
    /// JWS are in no package.
    fn vectors() -> Vec<(String, String, Value)> {
        let vectors: Vec<Value> = serde_json::from_str(include_str!("oidc/rfc.json")).unwrap();
        let text = |it: &Value| it.as_str().unwrap().to_owned();
        let vectors = vectors.iter();
        let parts = vectors.map(|it| (text(&it["source"]), text(&it["token"]), it["key"].clone()));
        parts.collect()
    }

    /// The keys of all vectors, each as one that its token names.
    fn keys() -> KeySet {
        let keys = vectors().into_iter().map(|(_, _, key)| key);
        let keys: Vec<_> = keys.filter(|it| it["kid"].is_string()).collect();
        KeySet::parse(json!({"keys": keys}).to_string().as_bytes(), rs256).unwrap()
    }

    #[test]
    fn of_the_rfcs_tokens_only_rs256_with_a_key_id_is_taken() {
        let is_taken = |(source, token, _): (String, String, Value)| {
            payload(token.as_bytes(), &keys()).map(|it| (source, String::from_utf8(it).unwrap()))
        };
        let taken: Vec<_> = vectors().into_iter().filter_map(is_taken).collect();
        let [(source, text)] = &taken[..] else {
            panic!("{taken:?}");
        };
        assert_eq!(source, "RFC 7520 4.1");
        assert!(text.starts_with("It\u{2019}s a dangerous business, Frodo"));
        assert_eq!(vectors().len(), 17);
    }

    #[test]
    fn of_the_rfcs_signatures_those_of_rs256_are_right_until_a_bit_changes() {
        let mut right = Vec::new();
        for (source, token, key) in vectors() {
            let member = |it: &str| BASE64.decode(key[it].as_str()?).ok();
            let (Some(n), Some(e)) = (member("n"), member("e")) else {
                continue;
            };
            let Some((signed, signature)) = token.rsplit_once('.').filter(|_| !token.contains('{'))
            else {
                continue;
            };
            let mut signature = BASE64.decode(signature).unwrap();
            if !rs256(&n, &e, signed.as_bytes(), &signature) {
                continue;
            }
            right.push(source);
            for bit in 0..signature.len() * 8 {
                signature[bit / 8] ^= 1 << (bit % 8);
                assert!(!rs256(&n, &e, signed.as_bytes(), &signature), "bit {bit}");
                signature[bit / 8] ^= 1 << (bit % 8);
            }
        }
        assert_eq!(right, ["RFC 7515 A.2", "RFC 7520 4.1"]);
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
