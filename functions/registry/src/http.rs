//! One HTTP call to a registry or to a host that it names, with limits for time, size and redirects. [`super::address`]
//! checks its connections.
//!
//! **Invariant**: a header or form with a secret goes only to the host it was made for, whatever redirects name; https
//! never becomes http.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Certificate, Client, Method, NoProxy, Proxy, StatusCode, Url, redirect};
use scanhook_config::Environment;
use scanhook_core::failure::ErrorReason;
use scanhook_core::image::Digest;
use scanhook_core::redact;

use super::address::{BlockedError, Dns, Guarded, Reach};

/// The time for a connection, including name resolution.
const CONNECT: Duration = Duration::from_secs(5);

/// The time for one request and its answer.
const CALL: Duration = Duration::from_secs(15);

/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 4;

/// The largest manifest. Source: OCI distribution specification, "Pushing manifests": registries accept at least 4 MiB,
/// and common ones no more.
pub(super) const MAX_MANIFEST: usize = 4 << 20;

/// The largest answer of a token server.
pub(super) const MAX_TOKEN: usize = 256 << 10;

/// An answer with any status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The digest that the registry reports for its manifest. Source: OCI distribution specification, "Pulling
    /// manifests".
    pub(super) fn digest(&self) -> Option<Digest> {
        let value = self.headers.get("docker-content-digest")?;
        Digest::parse(value.to_str().ok()?).ok()
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// No answer arrived.
    #[error("{detail}")]
    Unreachable {
        reason: ErrorReason,
        /// The text for the operator.
        detail: String,
        /// Whether an immediate retry may help.
        again: bool,
    },
    /// The call would break a rule of this crate.
    #[error("{0}")]
    Refused(String),
    /// The answer is larger than any valid one.
    #[error("the answer of {0} is larger than any manifest")]
    TooLarge(String),
}

/// How far the host of a URL is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trust {
    /// The addresses that the host may have.
    pub(super) reach: Reach,
    /// The entry of `registries` whose certificates are trusted besides the system's.
    pub(super) entry: Option<usize>,
    /// Whether plain HTTP is allowed.
    pub(super) plain: bool,
    /// Whether the registry's credentials may be sent to the host.
    pub(super) credentials: bool,
}

pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) accept: &'static str,
    /// Sent only to the URL's own host, like the body.
    pub(super) header: Option<(&'static str, HeaderValue)>,
    pub(super) body: Option<Body>,
    pub(super) cap: usize,
}

/// A body of one type.
pub(super) enum Body {
    Form(String),
    Json(String),
}

/// The parts of a [`Trust`] that a connection depends on.
type ClientKey = (Reach, Option<usize>, bool);

/// Makes connections, and reuses them for later calls.
pub(super) struct Http {
    dns: Dns,
    proxies: Vec<Proxy>,
    proxy_hosts: Arc<[String]>,
    /// By the entry of `registries`.
    certificates: Vec<Vec<Certificate>>,
    clients: Mutex<HashMap<ClientKey, Client>>,
}

impl Http {
    pub(super) fn new(
        environment: &Environment,
        dns: Dns,
        certificates: Vec<Vec<Certificate>>,
    ) -> Self {
        // A process has only one provider. If another one is installed already, it is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let get = |names: [&str; 2]| {
            names
                .iter()
                .find_map(|it| environment(it).filter(|it| !it.is_empty()))
        };
        let excluded = get(["no_proxy", "NO_PROXY"]).and_then(|it| NoProxy::from_string(&it));
        let named = [
            (
                get(["https_proxy", "HTTPS_PROXY"]),
                Proxy::https as fn(Url) -> _,
            ),
            (get(["http_proxy", "HTTP_PROXY"]), Proxy::http),
        ];
        let mut proxies = Vec::new();
        let mut proxy_hosts = Vec::new();
        for (text, kind) in named {
            let Some(text) = text else { continue };
            let text = if text.contains("://") {
                text
            } else {
                format!("http://{text}")
            };
            let Ok(url) = Url::parse(&text) else {
                tracing::warn!("a proxy variable of the environment isn't a URL and is ignored");
                continue;
            };
            proxy_hosts.extend(url.host_str().map(str::to_owned));
            let proxy: Result<Proxy, reqwest::Error> = kind(url);
            proxies.extend(proxy.ok().map(|it| it.no_proxy(excluded.clone())));
        }
        Self {
            dns,
            proxies,
            proxy_hosts: proxy_hosts.into(),
            certificates,
            clients: Mutex::default(),
        }
    }

    /// Sends a request and follows redirects. `trust_of` returns how far the host of a URL is trusted.
    pub(super) async fn call(
        &self,
        call: Call,
        trust_of: impl Fn(&Url) -> Trust,
    ) -> Result<Answer, CallError> {
        let origin = call.url.clone();
        let mut url = call.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let trust = trust_of(&url);
            check(&url, &trust)?;
            let mut request = self
                .client(&trust)?
                .request(call.method.clone(), url.clone())
                .header(ACCEPT, call.accept);
            if url.origin() == origin.origin() {
                if let Some((name, value)) = &call.header {
                    request = request.header(*name, value);
                }
                request = match &call.body {
                    Some(Body::Form(form)) => request
                        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                        .body(form.clone()),
                    Some(Body::Json(json)) => request
                        .header(CONTENT_TYPE, "application/json")
                        .body(json.clone()),
                    None => request,
                };
            } else if call.body.is_some() {
                let problem = format!("{} redirects a form to another host", shown(&origin));
                return Err(CallError::Refused(problem));
            }
            let response = request.send().await.map_err(|err| failure(&url, err))?;
            let headers = response.headers().clone();
            let location = headers.get(LOCATION).and_then(|it| it.to_str().ok());
            if let (true, Some(location)) = (response.status().is_redirection(), location) {
                url = redirected(&url, location)?;
                continue;
            }
            let status = response.status();
            let body = read(response, &url, call.cap).await?;
            return Ok(Answer {
                status,
                headers,
                body,
            });
        }
        Err(CallError::Refused(format!(
            "{} redirects too often",
            shown(&origin)
        )))
    }

    fn client(&self, trust: &Trust) -> Result<Client, CallError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (trust.reach.clone(), trust.entry, trust.plain);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let resolver = Guarded {
            dns: Arc::clone(&self.dns),
            reach: trust.reach.clone(),
            proxies: Arc::clone(&self.proxy_hosts),
        };
        let mut builder = Client::builder()
            .user_agent(concat!("scanhook/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(CALL)
            .dns_resolver(resolver)
            .no_proxy();
        for proxy in &self.proxies {
            builder = builder.proxy(proxy.clone());
        }
        let certificates = trust.entry.and_then(|it| self.certificates.get(it));
        let certificates = certificates.into_iter().flatten().cloned();
        builder = if trust.plain {
            // Reading the system's certificates takes time, and plain connections need none.
            builder.tls_certs_only(certificates)
        } else {
            builder.tls_certs_merge(certificates)
        };
        let client = builder.build().map_err(|err| CallError::Unreachable {
            reason: ErrorReason::Internal,
            detail: format!("could not make an HTTP client: {err}"),
            again: false,
        })?;
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// Checks everything about a URL that can be checked before connecting.
fn check(url: &Url, trust: &Trust) -> Result<(), CallError> {
    match url.scheme() {
        "https" if !trust.plain => {}
        "http" if trust.plain => {}
        _ => {
            let problem = format!("{:?} would be asked by {}", shown(url), url.scheme());
            return Err(CallError::Refused(problem));
        }
    }
    if !url.username().is_empty() || url.password().is_some() {
        let problem = format!("the URL of {} contains a login", shown(url));
        return Err(CallError::Refused(problem));
    }
    // An address in a URL never reaches the resolver. `Url` has normalised its notation.
    let host = url.host_str().unwrap_or_default();
    let literal = host.trim_matches(['[', ']']).parse();
    match literal {
        Ok(address) if !trust.reach.permits(address) => Err(blocked(url)),
        _ => Ok(()),
    }
}

fn redirected(from: &Url, location: &str) -> Result<Url, CallError> {
    let to = from
        .join(location)
        .map_err(|_| CallError::Refused(format!("{} redirects to an invalid URL", shown(from))))?;
    if from.scheme() == "https" && to.scheme() != "https" {
        let problem = format!(
            "{} redirects from https to {}://{}",
            shown(from),
            to.scheme(),
            shown(&to)
        );
        return Err(CallError::Refused(problem));
    }
    Ok(to)
}

async fn read(
    mut response: reqwest::Response,
    url: &Url,
    cap: usize,
) -> Result<Vec<u8>, CallError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|err| failure(url, err))? {
        if body.len() + chunk.len() > cap {
            return Err(CallError::TooLarge(shown(url)));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A URL's host, with the port unless it is the scheme's default.
pub(super) fn authority(url: &Url) -> Option<String> {
    let port = url.port().map_or_else(String::new, |it| format!(":{it}"));
    Some(format!("{}{port}", url.host_str()?))
}

/// The part of a URL that may be shown: never path or query, which may hold tokens.
pub(super) fn shown(url: &Url) -> String {
    redact::shown(&authority(url).unwrap_or_default())
}

fn blocked(url: &Url) -> CallError {
    CallError::Refused(format!(
        "{} is at an address that is not public; if it belongs to the registry, add its network to registries.*.allow",
        shown(url)
    ))
}

fn failure(url: &Url, err: reqwest::Error) -> CallError {
    let (is_connect, is_timeout) = (err.is_connect(), err.is_timeout());
    let err = err.without_url();
    let mut texts = vec![err.to_string()];
    let mut source = err.source();
    let mut is_untrusted = false;
    while let Some(cause) = source {
        if cause.is::<BlockedError>() {
            return blocked(url);
        }
        let text = cause.to_string();
        is_untrusted |= text.contains("invalid peer certificate");
        texts.push(text);
        source = cause.source();
    }
    let cause = texts.pop().unwrap_or_default();
    let detail = format!("the request to {} failed: {cause}", shown(url));
    CallError::Unreachable {
        reason: if is_untrusted {
            ErrorReason::UntrustedTls
        } else {
            ErrorReason::Network
        },
        detail: redact::shown(&detail),
        // An unreachable host won't be reachable in a moment. The queue retries later.
        again: !is_connect && !is_timeout,
    }
}
