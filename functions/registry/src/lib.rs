//! Asks registries about images: the digest of a tag, the content of a digest, and the login to pull it.
//!
//! In reading order: [`Registries`] (all of them), `session` (the requests for one image), `challenge` and
//! `credentials` (how to authenticate), `http` and `address` (how a call is made, and where it may lead).
//!
//! **Invariant**: a registry never decides where credentials go. They belong to the image's own host, and are sent only
//! to that host and to hosts that the configuration names.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use reqwest::{Certificate, Url};
use scanhook_config::config::{Config, ConfigError};
use scanhook_config::secrets::{Reread, Secrets};
use scanhook_config::{Clock, Environment, file};
use scanhook_core::failure::ErrorReason;
use scanhook_core::image::{Image, Registry};
use scanhook_core::login::RegistryLogin;
use scanhook_core::platform::Platform;
use scanhook_core::target::Target;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::address::Reach;
use self::credentials::{Credentials, Logins, Makers};
use self::http::{CallError, Http, Trust};
use self::session::Session;
use scanhook_core::time::{after, until};

mod address;
mod challenge;
mod credentials;
mod error;
mod grant;
mod http;
mod link;
mod listing;
mod problem;
mod session;

pub use address::{Dns, system_dns};
pub use credentials::Sdk;

/// The dependencies of requests to registries. They are arguments, so that tests and the demo can replace them.
pub struct RegistryDeps {
    pub dns: Dns,
    pub sdk: Sdk,
    pub now: Clock,
}

pub struct Registries {
    config: Arc<Config>,
    /// By entry of the configuration.
    credentials: Vec<Credentials>,
    /// By entry of the configuration: the certificates for the CLI.
    bundles: Vec<Option<Arc<str>>>,
    makers: Makers,
    http: Http,
    hosts: Mutex<HashMap<Registry, Arc<Host>>>,
}

struct Host {
    registry: Registry,
    base: Url,
    trust: Trust,
    allow: Vec<IpNet>,
    logins: Logins,
    pulls: Option<Arc<Semaphore>>,
    /// The pause that the registry asked for.
    pause: Mutex<Option<Pause>>,
}

struct Pause {
    until: Timestamp,
    /// When to resolve one image despite the pause, to see whether the registry still asks for it.
    next_probe: Timestamp,
}

/// How often a paused registry is probed.
const PROBE: Duration = Duration::from_mins(1);

/// The registry's answer about an image.
pub struct Resolved {
    /// What to scan, or why not: at least one for each wanted platform.
    pub subjects: Vec<Subject>,
    /// Whether the tag now names something other than the event reported; `None` if that is unknown.
    pub tag_moved: Option<bool>,
    /// The login for the CLI.
    pub login: Option<RegistryLogin>,
}

/// The outcome for one wanted platform.
#[derive(Debug)]
pub enum Subject {
    Image(Target),
    /// It isn't an image but content of this type.
    NotAnImage(Target, String),
    /// It is an image that can't be scanned.
    Unscannable(Target, ErrorReason, String),
    /// The index has no image for this platform.
    Missing(Platform),
}

/// Why an image could not be resolved.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub struct ResolveError {
    pub reason: ErrorReason,
    /// The text for the operator.
    pub detail: String,
    /// The pause that the registry asks for.
    pub pause: Option<Duration>,
    /// Whether credentials were refused and could not be read again: a fresh value may be accepted.
    pub is_unconfirmed: bool,
}

/// Hosts whose API is on another host. Source: Docker's documentation, "Docker Hub usage and limits".
const API_HOSTS: [(&str, &str); 1] = [("docker.io", "registry-1.docker.io")];

/// Token servers on another host that are known to belong to a registry, so that they need no entry of their own.
/// Sources: Docker's "Token authentication specification"; GitLab's documentation of the container registry.
const REALM_HOSTS: [(&str, &str); 2] = [
    ("docker.io", "auth.docker.io"),
    ("registry.gitlab.com", "gitlab.com"),
];

impl Registries {
    /// Reads every secret and certificate that pulling needs.
    pub async fn load(
        secrets: &Secrets,
        environment: &Environment,
        config: Arc<Config>,
        deps: RegistryDeps,
    ) -> Result<Self, ConfigError> {
        let mut credentials = Vec::with_capacity(config.registries.len());
        let mut certificates = Vec::with_capacity(config.registries.len());
        let mut bundles = Vec::with_capacity(config.registries.len());
        for entry in &config.registries {
            credentials.push(Credentials::load(entry, secrets).await?);
            let pem = entry.certificates(secrets).await?;
            let path = format!("registries.{}.ca", entry.pattern);
            certificates.push(match &pem {
                Some(pem) => {
                    parse_certificates(pem).map_err(|problem| ConfigError::new(path, problem))?
                }
                None => Vec::new(),
            });
            bundles.push(pem.map(|it| bundle(environment, &it)));
        }
        Ok(Self {
            config,
            credentials,
            bundles,
            http: Http::new(environment, deps.dns, certificates),
            makers: Makers {
                environment: Arc::clone(environment),
                sdk: deps.sdk,
                now: deps.now,
            },
            hosts: Mutex::default(),
        })
    }

    /// Waits until one more image may be pulled from this registry. Hold the permit during resolving and pulling.
    pub async fn pull(&self, registry: &Registry) -> Option<OwnedSemaphorePermit> {
        let pulls = self.host(registry)?.pulls.clone()?;
        pulls.acquire_owned().await.ok()
    }

    /// Resolves an image's name. Of an index, selects the images for the wanted platforms. An image whose compressed
    /// layers are larger than `max_image` is unscannable.
    pub async fn resolve(
        &self,
        image: &Image,
        wanted: &[Platform],
        max_image: u64,
    ) -> Result<Resolved, ResolveError> {
        let mut is_first = true;
        loop {
            let session = Session::open(self, image).await?;
            let login = session.login().cloned();
            let err = match (session.resolve(wanted, max_image).await, login) {
                (Err(err), Some(refused)) if err.reason == ErrorReason::Unauthorized => {
                    match self.reread_login(&image.registry, &refused).await {
                        Reread::Changed if is_first => {
                            is_first = false;
                            continue;
                        }
                        Reread::Same => err,
                        Reread::Changed | Reread::Failed => err.unconfirmed(),
                    }
                }
                (resolved, _) => return resolved,
            };
            return Err(err);
        }
    }

    /// Returns the CLI's login without asking the registry; for trials.
    pub async fn login(&self, registry: &Registry) -> Result<Option<RegistryLogin>, ResolveError> {
        match self.host(registry) {
            Some(host) => self.login_of(&host).await,
            None => Ok(None),
        }
    }

    /// Returns the certificates that the CLI trusts when it scans this registry's images, in PEM; `None` means the
    /// system's. They never include another registry's certificates.
    pub fn certificates(&self, registry: &Registry) -> Option<Arc<str>> {
        self.bundles.get(self.entry(registry)?)?.clone()
    }

    /// Whether this registry uses plain HTTP.
    pub fn is_plain(&self, registry: &Registry) -> bool {
        self.config.registry(registry).is_some_and(|it| it.insecure)
    }

    /// Reads credentials again that were refused.
    pub async fn reread_login(&self, registry: &Registry, refused: &RegistryLogin) -> Reread {
        match self.host(registry) {
            Some(host) => {
                let logins = &host.logins;
                logins.reread(refused, &self.makers, &self.http).await
            }
            None => Reread::Same,
        }
    }

    async fn login_of(&self, host: &Host) -> Result<Option<RegistryLogin>, ResolveError> {
        let login = host.logins.login(&self.makers, &self.http).await;
        login.map_err(|err| ResolveError {
            is_unconfirmed: err.is_unconfirmed,
            ..ResolveError::new(err.reason, err.detail)
        })
    }

    fn host(&self, registry: &Registry) -> Option<Arc<Host>> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(registry) {
            return Some(Arc::clone(host));
        }
        let host = Arc::new(self.make_host(registry)?);
        hosts.insert(registry.clone(), Arc::clone(&host));
        Some(host)
    }

    fn make_host(&self, registry: &Registry) -> Option<Host> {
        let index = self.entry(registry);
        let entry = index.and_then(|it| self.config.registries.get(it));
        let plain = entry.is_some_and(|it| it.insecure);
        let allow = entry.map(|it| it.allow.clone()).unwrap_or_default();
        let scheme = if plain { "http" } else { "https" };
        let api = API_HOSTS.iter().find(|(it, _)| *it == registry.normal());
        let api = api.map_or(registry.as_str(), |(_, api)| api);
        let credentials = index.and_then(|it| self.credentials.get(it).cloned());
        let pulls = entry.and_then(|it| it.pulls);
        let reach = if self.config.names(registry) {
            Reach::Configured
        } else {
            Reach::Foreign(allow.clone())
        };
        let trust = Trust {
            reach,
            entry: index,
            plain,
            credentials: true,
        };
        let credentials = credentials.unwrap_or(Credentials::Anonymous);
        Some(Host {
            registry: registry.clone(),
            base: Url::parse(&format!("{scheme}://{api}/v2/")).ok()?,
            logins: Logins::new(registry.clone(), trust.clone(), credentials),
            trust,
            allow,
            pulls: pulls.map(|it| Arc::new(Semaphore::new(usize::try_from(it).unwrap_or(1)))),
            pause: Mutex::default(),
        })
    }

    fn entry(&self, registry: &Registry) -> Option<usize> {
        let found = self.config.registry(registry)?;
        let mut entries = self.config.registries.iter();
        entries.position(|it| std::ptr::eq(it, found))
    }

    /// How far to trust the host of a URL that `host` led to.
    fn trust(&self, host: &Host, url: &Url) -> Trust {
        if url.origin() == host.base.origin() {
            return host.trust.clone();
        }
        let is_plain = url.scheme() == "http";
        let named = http::authority(url).and_then(|it| Registry::normalise(&it).ok());
        let index = named.as_ref().and_then(|it| self.entry(it));
        if let Some((index, entry)) =
            index.and_then(|it| Some((it, self.config.registries.get(it)?)))
        {
            return Trust {
                reach: Reach::Configured,
                entry: Some(index),
                plain: is_plain && entry.insecure,
                credentials: true,
            };
        }
        let pair = (host.registry.normal(), url.host_str().unwrap_or_default());
        Trust {
            reach: Reach::Foreign(host.allow.clone()),
            entry: None,
            plain: is_plain && host.trust.plain,
            credentials: !is_plain && url.port().is_none() && REALM_HOSTS.contains(&pair),
        }
    }
}

fn parse_certificates(pem: &str) -> Result<Vec<Certificate>, String> {
    match Certificate::from_pem_bundle(pem.as_bytes()) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err("holds no certificates in PEM".to_owned()),
    }
}

/// Where the system's certificates may be; the first existing file is used. Source: Go's `crypto/x509`,
/// `root_linux.go`, because the bundle replaces what the CLI would read.
const SYSTEM_CERTIFICATES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// In bytes; much larger than any system's bundle.
const LONGEST_BUNDLE: u64 = 4 << 20;

/// Joins the system's certificates and `pem`. `SSL_CERT_FILE` of our own environment names the system's, as for our own
/// requests.
fn bundle(environment: &Environment, pem: &str) -> Arc<str> {
    let named = environment("SSL_CERT_FILE").filter(|it| !it.is_empty());
    let read = |path: &str| file::read_text(Path::new(path), LONGEST_BUNDLE).ok();
    let system = match named {
        Some(named) => read(&named),
        None => SYSTEM_CERTIFICATES.iter().find_map(|it| read(it)),
    };
    // A system without a bundle file has a directory of certificates, which Go reads besides the bundle.
    format!("{}\n{pem}\n", system.unwrap_or_default()).into()
}

impl Host {
    /// Returns the rest of the pause. Once a minute during a pause it returns `None`, so that the caller probes the
    /// registry.
    fn paused(&self, now: Timestamp) -> Option<Duration> {
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = pause.as_mut()?;
        let remaining = until(pause.until, now);
        if remaining.is_zero() {
            return None;
        }
        if pause.next_probe <= now {
            pause.next_probe = after(now, PROBE);
            return None;
        }
        Some(remaining)
    }

    /// Starts a pause. It replaces an earlier one, because the latest answer counts.
    fn start_pause(&self, now: Timestamp, pause: Duration) {
        let pause = Pause {
            until: after(now, pause),
            next_probe: after(now, PROBE),
        };
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = Some(pause);
    }

    /// Ends the pause when the registry answers again.
    fn resume(&self) {
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl ResolveError {
    /// Without a pause.
    fn new(reason: ErrorReason, detail: String) -> Self {
        Self {
            reason,
            detail,
            pause: None,
            is_unconfirmed: false,
        }
    }

    /// Marks the error: the credentials could not be read again.
    fn unconfirmed(self) -> Self {
        Self {
            is_unconfirmed: true,
            ..self
        }
    }
}

impl From<CallError> for ResolveError {
    fn from(err: CallError) -> Self {
        let detail = err.to_string();
        let reason = match err {
            CallError::Unreachable { reason, .. } => reason,
            // A retry won't help. The CLI would follow the redirect and must not, so the scan ends here.
            CallError::Refused(_) => ErrorReason::Unauthorized,
            CallError::TooLarge(_) => ErrorReason::UnsupportedImage,
        };
        Self::new(reason, detail)
    }
}
