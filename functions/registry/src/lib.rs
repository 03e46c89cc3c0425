//! What registries say of images: which digest a tag names, what is behind a digest, and with which login it is pulled.
//!
//! In reading order: [`Registries`] (all of them), `session` (one image asked for), `challenge` and `credentials` (how a
//! registry is convinced), `http` and `address` (how a call is made, and where it may lead).
//!
//! **Invariant**: a registry says what it has and never where credentials go: they are those of the image's own host, and
//! are shown to that host and to those that the configuration names.

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

/// Everything outside that registries are asked with; arguments, so that tests and the demo have their own.
pub struct RegistryDeps {
    /// How names become addresses.
    pub dns: Dns,
    /// How AWS is reached.
    pub sdk: Sdk,
    /// What time it is.
    pub now: Clock,
}

/// The registries that images are pulled from.
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

/// One registry.
struct Host {
    registry: Registry,
    base: Url,
    trust: Trust,
    allow: Vec<IpNet>,
    logins: Logins,
    pulls: Option<Arc<Semaphore>>,
    /// The pause that it asked for.
    pause: Mutex<Option<Pause>>,
}

/// A pause that a registry asked for.
struct Pause {
    until: Timestamp,
    /// When one image is resolved all the same, to see whether the registry still wants the pause.
    next_probe: Timestamp,
}

/// How often a paused registry is probed.
const PROBE: Duration = Duration::from_mins(1);

/// What a registry says of an image.
pub struct Resolved {
    /// What there is to scan, or why there is not: one for each wanted platform.
    pub subjects: Vec<Subject>,
    /// Whether the tag names something else by now than what the event told; `None` if that was not to be learned.
    pub tag_moved: Option<bool>,
    /// What the CLI is to log in with.
    pub login: Option<RegistryLogin>,
}

/// What becomes of one wanted platform.
#[derive(Debug)]
pub enum Subject {
    /// It is scanned.
    Image(Target),
    /// It is no image, but something of this type.
    NotAnImage(Target, String),
    /// It is an image that can't be scanned.
    Unscannable(Target, ErrorReason, String),
    /// There is none.
    Missing(Platform),
}

/// What a registry has could not be learned.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub struct ResolveError {
    /// Why.
    pub reason: ErrorReason,
    /// What an operator reads.
    pub detail: String,
    /// The pause that the registry asks for.
    pub pause: Option<Duration>,
    /// Whether credentials were refused that could not be read again: a fresh value may be accepted.
    pub is_unconfirmed: bool,
}

/// Hosts whose API is elsewhere. Source: Docker's documentation, "Docker Hub usage and limits".
const API_HOSTS: [(&str, &str); 1] = [("docker.io", "registry-1.docker.io")];

/// Token servers that are known to belong to a registry of another host, so that they need no entry of their own.
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

    /// Waits until one more image may be pulled from this registry. The permit is held while it is asked and pulled from.
    pub async fn pull(&self, registry: &Registry) -> Option<OwnedSemaphorePermit> {
        let pulls = self.host(registry)?.pulls.clone()?;
        pulls.acquire_owned().await.ok()
    }

    /// Asks what is behind an image's name. Of an index the images of the wanted platforms are taken; one whose compressed
    /// layers are larger than `max_image` is not to be scanned.
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

    /// What the CLI is to log in with, for a trial that asks no registry.
    pub async fn login(&self, registry: &Registry) -> Result<Option<RegistryLogin>, ResolveError> {
        match self.host(registry) {
            Some(host) => self.login_of(&host).await,
            None => Ok(None),
        }
    }

    /// The certificates that the CLI trusts in scans of this registry's images, in PEM; `None`: the system's. Another
    /// registry's certificates are never among them.
    pub fn certificates(&self, registry: &Registry) -> Option<Arc<str>> {
        self.bundles.get(self.entry(registry)?)?.clone()
    }

    /// Whether this registry is asked in plain HTTP.
    pub fn is_plain(&self, registry: &Registry) -> bool {
        self.config.registry(registry).is_some_and(|it| it.insecure)
    }

    /// Reads again the credentials that were refused.
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

    /// How far a URL's host is trusted that `host` led to.
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

/// Where the system's certificates are: the first of these that exists. Source: Go's `crypto/x509`, `root_linux.go`, since
/// the bundle takes the place of what the CLI would read.
const SYSTEM_CERTIFICATES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Much longer than that of any system, in bytes.
const LONGEST_BUNDLE: u64 = 4 << 20;

/// The system's certificates and `pem`. `SSL_CERT_FILE` of our own environment names the system's, as it does for our own
/// requests.
fn bundle(environment: &Environment, pem: &str) -> Arc<str> {
    let named = environment("SSL_CERT_FILE").filter(|it| !it.is_empty());
    let read = |path: &str| file::read_text(Path::new(path), LONGEST_BUNDLE).ok();
    let system = match named {
        Some(named) => read(&named),
        None => SYSTEM_CERTIFICATES.iter().find_map(|it| read(it)),
    };
    // A system that has none in one file has them in a directory, which Go reads besides the bundle.
    format!("{}\n{pem}\n", system.unwrap_or_default()).into()
}

impl Host {
    /// What is left of its pause. `None` if there is none, and once a minute if there is one: the caller then asks it.
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

    /// Pauses for that long, in place of an earlier pause: the last answer counts.
    fn leave_alone(&self, now: Timestamp, pause: Duration) {
        let pause = Pause {
            until: after(now, pause),
            next_probe: after(now, PROBE),
        };
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = Some(pause);
    }

    /// Ends the pause, since it answers again.
    fn resume(&self) {
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl ResolveError {
    /// From an answer that asks for no pause.
    fn new(reason: ErrorReason, detail: String) -> Self {
        Self {
            reason,
            detail,
            pause: None,
            is_unconfirmed: false,
        }
    }

    /// The same for credentials that could not be read again.
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
            // Not to be helped by asking again, and the CLI, which would follow, must not be led there.
            CallError::Refused(_) => ErrorReason::Unauthorized,
            CallError::TooLarge(_) => ErrorReason::UnsupportedImage,
        };
        Self::new(reason, detail)
    }
}
