//! The host of a request, and the guard of routes that are for this machine only.
//!
//! A browser on this machine runs strangers' pages and can reach loopback addresses. Such a page can attack a listener in two ways:
//! by a host name that it makes point here ("DNS rebinding"), and by cross-site requests.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use url::Url;

use super::{Caller, Refusal, Refuse};

/// The authority in a request's `Host`. RFC 9112, section 3.2, requires exactly one; only HTTP/1.0 may omit it. An absolute request
/// target must have the same authority.
pub(super) fn authority(head: &Parts) -> Result<Option<Authority>, Refusal> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(parse(host).ok_or(Refusal::BadHost)?),
        (None, _) if head.version < Version::HTTP_11 => None,
        _ => return Err(Refusal::BadHost),
    };
    match head.uri.authority() {
        Some(target) if host.as_ref() != Some(target) => Err(Refusal::BadHost),
        _ => Ok(host),
    }
}

/// A host with an optional port. It must also be valid in a URL, so that all readers agree on it.
fn parse(host: &HeaderValue) -> Option<Authority> {
    let authority: Authority = host.to_str().ok()?.parse().ok()?;
    let has_user = authority.as_str().contains('@');
    let is_url = Url::parse(&format!("http://{authority}/")).is_ok();
    (is_url && !has_user).then_some(authority)
}

/// The host names that a guard admits besides `localhost`.
#[derive(Clone, Debug, Default)]
pub struct AllowedHosts(Arc<[String]>);

impl FromIterator<String> for AllowedHosts {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

impl AllowedHosts {
    /// Guards routes: they answer only for `localhost`, the connection's address of this machine, and these names, on any port. They
    /// refuse cross-site requests, except a navigation to `/`. `refuse` answers refused requests.
    pub fn guard(&self, router: Router, refuse: &Refuse) -> Router {
        let (hosts, refuse) = (self.clone(), Arc::clone(refuse));
        router.layer(from_fn(move |request: Request, next: Next| {
            let (hosts, refuse) = (hosts.clone(), Arc::clone(&refuse));
            async move {
                match hosts.admit(&request) {
                    Ok(()) => next.run(request).await,
                    Err(refusal) => refuse(request.uri(), refusal),
                }
            }
        }))
    }

    fn admit(&self, request: &Request) -> Result<(), Refusal> {
        let caller = request.extensions().get::<Caller>();
        let host = caller.and_then(|it| Some((it.local, it.host.as_ref()?)));
        let (local, host) = host.ok_or(Refusal::OtherHost)?;
        if !self.contains(host.host(), local) {
            return Err(Refusal::OtherHost);
        }
        if is_from_another_site(request.headers(), host) && !is_navigation(request) {
            return Err(Refusal::OtherSite);
        }
        Ok(())
    }

    fn contains(&self, host: &str, local: IpAddr) -> bool {
        let ip = host.trim_start_matches('[').trim_end_matches(']');
        if ip
            .parse()
            .is_ok_and(|it: IpAddr| it.to_canonical() == local)
        {
            return true;
        }
        let mut names = std::iter::once("localhost").chain(self.0.iter().map(String::as_str));
        names.any(|it| it.eq_ignore_ascii_case(host))
    }
}

/// Sources: "Fetch Metadata Request Headers", and RFC 6454 for `Origin`.
fn is_from_another_site(headers: &HeaderMap, host: &Authority) -> bool {
    let is_same_site = |it: &HeaderValue| it == "same-origin" || it == "none";
    let is_same_origin = |origin: &HeaderValue| {
        let parts = origin.to_str().ok().and_then(|it| it.split_once("://"));
        parts.is_some_and(|(_, authority)| authority.parse().is_ok_and(|it: Authority| it == *host))
    };
    let mut sites = headers.get_all(FETCH_SITE).iter();
    let mut origins = headers.get_all(header::ORIGIN).iter();
    !sites.all(is_same_site) || !origins.all(is_same_origin)
}

/// Whether a person follows a link to `/`. The page with the link can't read the answer.
fn is_navigation(request: &Request) -> bool {
    let is =
        |name: HeaderName, value: &str| request.headers().get(name).is_some_and(|it| it == value);
    request.method() == Method::GET
        && request.uri().path() == "/"
        && is(FETCH_MODE, "navigate")
        && is(FETCH_DEST, "document")
}

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn authority_of(request: http::request::Builder) -> Result<Option<String>, Refusal> {
        let (head, ()) = request.body(()).unwrap().into_parts();
        authority(&head).map(|host| host.map(|it| it.to_string()))
    }

    #[test]
    fn a_host_is_valid_for_every_reader_or_refused() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "10.1.2.3:80",
            "[::1]:8080",
            "[::ffff:127.0.0.1]",
            "my_service:8080",
            "scanhook.example.com.",
            "xn--bcher-kva.example",
            "host:",
        ] {
            let found = authority_of(Request::get("/").header("host", host));
            assert_eq!(found, Ok(Some(host.to_owned())), "{host}");
        }
        for host in [
            "",
            "a b",
            ":80",
            "x/webhooks/ge?",
            "x/webhooks/ge#",
            "x\\webhooks\\ge?",
            "user@host",
            "http://host",
            "host:99999",
            "host:+80",
            "host:1:2",
            "[::zz]",
            "[::1",
            "999.1",
            "a%41",
            "xn--",
            "a,b/c",
            "b\u{fc}cher",
            "a<b",
            "a|b",
            "\u{7f}",
        ] {
            let Ok(value) = HeaderValue::from_bytes(host.as_bytes()) else {
                continue;
            };
            let found = authority_of(Request::get("/").header("host", value));
            assert_eq!(found, Err(Refusal::BadHost), "{host}");
        }
    }

    #[test]
    fn a_request_has_one_host_and_its_target_the_same() {
        let none = Request::get("/");
        assert_eq!(authority_of(none), Err(Refusal::BadHost));
        let old = Request::get("/").version(Version::HTTP_10);
        assert_eq!(authority_of(old), Ok(None));
        let two = Request::get("/").header("host", "a").header("host", "a");
        assert_eq!(authority_of(two), Err(Refusal::BadHost));
        let absolute = |host| Request::get("http://a:80/b").header("host", host);
        assert_eq!(authority_of(absolute("a:80")), Ok(Some("a:80".to_owned())));
        assert_eq!(authority_of(absolute("b")), Err(Refusal::BadHost));
        let old = Request::get("http://a/b").version(Version::HTTP_10);
        assert_eq!(authority_of(old), Err(Refusal::BadHost));
    }

    fn admits(local: &str, host: &str, headers: &[(&'static str, &str)]) -> Result<(), Refusal> {
        let mut request = Request::get("/").body(Body::empty()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let ip = |it: &str| it.parse::<IpAddr>().unwrap().to_canonical();
        request.extensions_mut().insert(Caller {
            peer: ip("127.0.0.1"),
            local: ip(local),
            host: host.parse().ok(),
        });
        AllowedHosts::from_iter(["scanhook".to_owned()]).admit(&request)
    }

    #[test]
    fn a_guard_admits_the_reached_address_localhost_and_allowed_names_on_any_port() {
        for (local, host) in [
            ("127.0.0.1", "127.0.0.1:9324"),
            ("127.0.0.1", "LocalHost:18080"),
            ("10.1.2.3", "10.1.2.3:8080"),
            ("10.1.2.3", "localhost"),
            ("10.1.2.3", "Scanhook:8080"),
            ("::1", "[::1]:8080"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("127.0.0.1", "[::ffff:127.0.0.1]"),
        ] {
            assert_eq!(admits(local, host, &[]), Ok(()), "{host} at {local}");
        }
        for (local, host) in [
            ("127.0.0.1", "rebound.example"),
            ("127.0.0.1", "10.1.2.3"),
            ("127.0.0.1", "127.1"),
            ("127.0.0.1", "2130706433"),
            ("127.0.0.1", "localhost.rebound.example"),
            ("127.0.0.1", "scanhook.rebound.example"),
            ("127.0.0.1", "[::1]"),
            ("127.0.0.1", ""),
        ] {
            let refused = admits(local, host, &[]);
            assert_eq!(refused, Err(Refusal::OtherHost), "{host} at {local}");
        }
    }

    #[test]
    fn a_guard_refuses_cross_site_requests_except_navigation() {
        let navigation = [
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        let frame = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
        let cross_site = ("sec-fetch-site", "cross-site");
        for headers in [
            &[("sec-fetch-site", "none")][..],
            &[
                ("sec-fetch-site", "same-origin"),
                ("origin", "http://localhost:18080"),
            ],
            &[("origin", "https://LOCALHOST:18080")],
            &[cross_site, navigation[0], navigation[1]],
        ] {
            assert_eq!(
                admits("127.0.0.1", "localhost:18080", headers),
                Ok(()),
                "{headers:?}"
            );
        }
        for headers in [
            &[cross_site][..],
            &[("sec-fetch-site", "same-site")],
            &[("origin", "null")],
            &[("origin", "http://localhost")],
            &[("origin", "http://rebound.example:18080")],
            &[
                ("origin", "http://localhost:18080"),
                ("origin", "http://rebound.example"),
            ],
            &[cross_site, navigation[0]],
            &[cross_site, frame[0], frame[1]],
        ] {
            let refused = admits("127.0.0.1", "localhost:18080", headers);
            assert_eq!(refused, Err(Refusal::OtherSite), "{headers:?}");
        }
    }
}
