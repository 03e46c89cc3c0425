//! One HTTP call to a registry or to where it points: limited in time, size and number of redirects, over connections that
//! [`super::address`] checks.
//!
//! **Invariant**: a header or form with a secret goes to the host it was made for and to no other, whatever redirects say; https
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

/// Until a connection is made, its name resolved included.
const CONNECT: Duration = Duration::from_secs(5);

/// For one request with its answer.
const CALL: Duration = Duration::from_secs(15);

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 4;

/// The largest manifest. Source: OCI distribution specification, "Pushing manifests": registries take at least 4 MiB, and
/// common ones no more.
pub(super) const MAX_MANIFEST: usize = 4 << 20;

/// The largest answer of a token server.
pub(super) const MAX_TOKEN: usize = 256 << 10;

/// An answer of any status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The digest that the registry names for its manifest. Source: OCI distribution specification, "Pulling manifests".
    pub(super) fn digest(&self) -> Option<Digest> {
        let told = self.headers.get("docker-content-digest")?;
        Digest::parse(told.to_str().ok()?).ok()
    }
}

/// No answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// There is none to be had.
    #[error("{detail}")]
    Unreachable {
        /// What to call it.
        reason: ErrorReason,
        /// What an operator reads.
        detail: String,
        /// Whether to ask again at once may help.
        again: bool,
    },
    /// It would have to be had in a way that is not taken.
    #[error("{0}")]
    Refused(String),
    /// It is larger than any good one.
    #[error("{0} answers with more than any manifest has")]
    TooLarge(String),
}

/// How far a URL's host is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trust {
    /// Which addresses it may have.
    pub(super) reach: Reach,
    /// The entry of `registries` whose certificates count besides the system's.
    pub(super) entry: Option<usize>,
    /// Whether it may be asked in the clear.
    pub(super) plain: bool,
    /// Whether the registry's credentials may be shown to it.
    pub(super) credentials: bool,
}

/// What is asked.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) accept: &'static str,
    /// For the URL's own host only, as is the body.
    pub(super) header: Option<(&'static str, HeaderValue)>,
    pub(super) body: Option<Body>,
    pub(super) cap: usize,
}

/// A body, and of which type it is.
pub(super) enum Body {
    Form(String),
    Json(String),
}

/// What of a [`Trust`] a connection depends on.
type ClientKey = (Reach, Option<usize>, bool);

/// Makes connections, and keeps them for the next call.
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
        // Only one provider can be the process's, and another one may be it already: the same.
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
                tracing::warn!("a proxy variable of the environment is no URL, so it is not used");
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

    /// Asks, and follows redirects; `trust_of` says how far the host of a URL is trusted.
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
                let problem = format!("{} redirects a form elsewhere", shown(&origin));
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
            "{} redirects and redirects",
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
            // Reading the system's certificates takes time, and these connections need none.
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

/// Checks what of a URL is to be checked before a connection is made.
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
        let problem = format!("{} is named with a login in its URL", shown(url));
        return Err(CallError::Refused(problem));
    }
    // Of an address in a URL no resolver is asked. `Url` has every notation of one normalised.
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
        .map_err(|_| CallError::Refused(format!("{} redirects to what is no URL", shown(from))))?;
    if from.scheme() == "https" && to.scheme() != "https" {
        let problem = format!(
            "{} redirects to {}, and from https to less",
            shown(from),
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

/// A URL's host, with its port if that is not its scheme's own.
pub(super) fn authority(url: &Url) -> Option<String> {
    let port = url.port().map_or_else(String::new, |it| format!(":{it}"));
    Some(format!("{}{port}", url.host_str()?))
}

/// What of a URL is told: never its path or query, which may hold tokens.
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
    let detail = format!("{} could not be asked: {cause}", shown(url));
    CallError::Unreachable {
        reason: if is_untrusted {
            ErrorReason::UntrustedTls
        } else {
            ErrorReason::Network
        },
        detail: redact::shown(&detail),
        // What is not there now will not be there in a moment; the queue asks again later.
        again: !is_connect && !is_timeout,
    }
}
