//! One image asked for: up to five calls to its registry, and one to its token server.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use reqwest::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Method, StatusCode, Url};
use scanhook_core::event::FreeText;
use scanhook_core::image::{Digest, Image, Pin};
use scanhook_core::manifest::{Choice, ImageManifest, Manifest};
use scanhook_core::plan::RegistryLogin;
use scanhook_core::platform::Platform;
use scanhook_core::retry::pause_of;
use scanhook_core::target::Target;
use scanhook_core::verdict::ErrorReason;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::challenge::{self, Challenge};
use super::http::{Answer, Call, CallError, MAX_MANIFEST, MAX_TOKEN, shown};
use super::{Host, Registries, ResolveError, Resolved, Subject};

/// The types of manifests that are understood, and of artifacts that are told to be none.
/// Source: OCI distribution specification, "Pulling manifests".
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.artifact.manifest.v1+json";

/// How often one call is made that fails in passing.
const TRIES: u32 = 3;

/// The pause before the first repetition; it doubles.
const PAUSE: Duration = Duration::from_millis(250);

/// A longer wish of the registry is left to the queue.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Session<'a> {
    registries: &'a Registries,
    host: Arc<Host>,
    image: &'a Image,
    login: Option<RegistryLogin>,
    authorization: Option<HeaderValue>,
    /// Whether all that could convince the registry was tried.
    is_authenticated: bool,
    /// Whether the token server is one that must not see the login, so that the CLI must not go there with it either.
    is_withheld: bool,
    scope: Scope,
}

/// What a token is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The image's repository.
    Repository,
    /// The list of repositories.
    Catalog,
}

/// A token server's answer. Source: the distribution project's token authentication specification.
#[derive(Deserialize)]
struct WireToken {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'a> Session<'a> {
    /// A session with the image's registry, with the login that is configured for it.
    pub(super) async fn open(
        registries: &'a Registries,
        image: &'a Image,
    ) -> Result<Self, ResolveError> {
        let host = registries.host(&image.registry).ok_or_else(|| {
            let problem = "the registry's host makes no URL".to_owned();
            ResolveError::new(ErrorReason::Network, problem)
        })?;
        let login = registries.login_of(&host).await?;
        let bearer = login.as_ref().filter(|_| host.logins.is_bearer());
        let authorization = bearer.and_then(|it| header("Bearer", it.password.expose_secret()));
        Ok(Self {
            registries,
            host,
            image,
            login,
            is_authenticated: authorization.is_some(),
            authorization,
            is_withheld: false,
            scope: Scope::Repository,
        })
    }

    /// The login that the registry is shown if it asks for one.
    pub(super) fn login(&self) -> Option<&RegistryLogin> {
        self.login.as_ref()
    }

    /// The registry.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// The same for the list of repositories.
    pub(super) fn of_catalog(self) -> Self {
        Self {
            scope: Scope::Catalog,
            ..self
        }
    }

    /// Finds out what is to be scanned.
    pub(super) async fn resolve(
        mut self,
        wanted: &[Platform],
        max_image: u64,
    ) -> Result<Resolved, ResolveError> {
        if let Some(pause) = self.host.paused(self.now()) {
            return Err(rate_limited(&self.host, Some(pause)));
        }
        let digest = match &self.image.pin {
            Pin::Tag(tag) => self.digest_of(tag.as_str()).await?,
            Pin::Digest(digest) | Pin::TagAndDigest(_, digest) => digest.clone(),
        };
        let target = Target::new(self.image, digest.clone());
        let subjects = match self.manifest(&digest).await? {
            Manifest::Image(manifest) => vec![sized(target, manifest, max_image)],
            Manifest::NotAnImage(what) => vec![not_an_image(target, &what)],
            Manifest::Index(index) => {
                let mut subjects = Vec::new();
                for choice in index.choose(self.image, &digest, wanted) {
                    subjects.push(match choice {
                        Choice::Missing(platform) => Subject::Missing(platform),
                        Choice::Scan(target) => self.child(target, max_image).await?,
                    });
                }
                subjects
            }
        };
        let tag_moved = match &self.image.pin {
            // Whatever keeps the tag from being looked up, the digest is what counts.
            Pin::TagAndDigest(tag, _) => {
                let present = self.digest_of(tag.as_str()).await.ok();
                present.map(|it| it != digest)
            }
            Pin::Tag(_) | Pin::Digest(_) => None,
        };
        Ok(Resolved {
            subjects,
            tag_moved,
            login: self.login.filter(|_| !self.is_withheld),
        })
    }

    /// Looks at an index's child before it is scanned.
    async fn child(&mut self, target: Target, max_image: u64) -> Result<Subject, ResolveError> {
        Ok(match self.manifest(target.digest()).await? {
            Manifest::Image(manifest) => sized(target, manifest, max_image),
            Manifest::NotAnImage(what) => not_an_image(target, &what),
            Manifest::Index(_) => {
                let problem = "the index lists an index as an image".to_owned();
                Subject::Unscannable(target, ErrorReason::UnsupportedImage, problem)
            }
        })
    }

    /// The digest that a tag names now.
    pub(super) async fn digest_of(&mut self, tag: &str) -> Result<Digest, ResolveError> {
        let told = self.ask(Method::HEAD, tag).await?;
        let told = told.headers.get("docker-content-digest");
        let told = told.and_then(|it| Digest::parse(it.to_str().ok()?).ok());
        match told {
            Some(digest) => Ok(digest),
            // The header is only recommended.
            None => Ok(digest_of(&self.ask(Method::GET, tag).await?.body)),
        }
    }

    /// The manifest with this digest, which its bytes must have.
    pub(super) async fn manifest(&mut self, digest: &Digest) -> Result<Manifest, ResolveError> {
        let answer = self.ask(Method::GET, digest.as_str()).await?;
        if digest_of(&answer.body) != *digest {
            let problem = format!(
                "{} answers with other content than the digest names",
                self.host.registry
            );
            return Err(ResolveError::new(ErrorReason::Network, problem));
        }
        let content_type = answer.headers.get(CONTENT_TYPE);
        let content_type = content_type.and_then(|it| it.to_str().ok());
        Manifest::parse(content_type, &answer.body)
            .map_err(|err| ResolveError::new(ErrorReason::UnsupportedImage, err.to_string()))
    }

    /// Asks for a manifest.
    async fn ask(&mut self, method: Method, reference: &str) -> Result<Answer, ResolveError> {
        let path = format!("{}/manifests/{reference}", self.image.repository);
        self.ask_for(method, &path, ACCEPT).await
    }

    /// Asks for what is at a path of the registry's API, and authenticates if that is asked for.
    pub(super) async fn ask_for(
        &mut self,
        method: Method,
        path: &str,
        accept: &'static str,
    ) -> Result<Answer, ResolveError> {
        let url = self.host.base.join(path);
        let url = url.map_err(|_| {
            ResolveError::new(ErrorReason::Network, "the image makes no URL".to_owned())
        })?;
        loop {
            let authorization = self.authorization.clone();
            let answer = self.call(method.clone(), &url, accept, authorization, MAX_MANIFEST);
            let answer = answer.await?;
            let status = answer.status;
            if status == StatusCode::UNAUTHORIZED && !self.is_authenticated {
                self.authenticate(&answer.headers).await?;
                continue;
            }
            return match status {
                it if it.is_success() => Ok(answer),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.refusal(status)),
                StatusCode::NOT_FOUND => {
                    let problem = format!("{} has no such image", self.host.registry);
                    Err(ResolveError::new(ErrorReason::ImageNotFound, problem))
                }
                _ => {
                    let problem = format!(
                        "{} answers with status {}",
                        self.host.registry,
                        status.as_u16()
                    );
                    Err(ResolveError::new(ErrorReason::Network, problem))
                }
            };
        }
    }

    fn refusal(&self, status: StatusCode) -> ResolveError {
        let with = match (&self.login, self.is_withheld) {
            (None, _) => "without credentials",
            (Some(_), true) => "without the credentials, which its realm must not see",
            (Some(_), false) => "with its credentials",
        };
        let problem = format!(
            "{} refuses us {with}: status {}",
            self.host.registry,
            status.as_u16()
        );
        ResolveError::new(ErrorReason::Unauthorized, problem)
    }

    /// Does what the registry wants to see done first.
    async fn authenticate(&mut self, headers: &HeaderMap) -> Result<(), ResolveError> {
        self.is_authenticated = true;
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<_> = challenges
            .filter_map(|it| it.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let bearer = challenges.iter().find_map(|it| match it {
            Challenge::Bearer { realm, service } => Some((realm, service)),
            Challenge::Basic => None,
        });
        self.authorization = match (bearer, &self.login) {
            (Some((realm, service)), _) => {
                let token = self.token(realm, service.as_deref()).await?;
                header("Bearer", &token)
            }
            (None, Some(login)) if challenges.contains(&Challenge::Basic) => basic(login),
            _ => return Err(self.refusal(StatusCode::UNAUTHORIZED)),
        };
        Ok(())
    }

    /// Fetches a token to pull this repository. The scope is ours: what the registry names could be another's.
    async fn token(&mut self, realm: &str, service: Option<&str>) -> Result<String, ResolveError> {
        let no_url = || {
            ResolveError::new(
                ErrorReason::Unauthorized,
                format!("{} names a realm that is no URL", self.host.registry),
            )
        };
        let mut url = Url::parse(realm).map_err(|_| no_url())?;
        url.set_fragment(None);
        if url.scheme() != "https" && !self.host.trust.plain {
            let problem = format!(
                "{} names the realm {}, which is less than https",
                self.host.registry,
                shown(&url)
            );
            return Err(ResolveError::new(ErrorReason::Unauthorized, problem));
        }
        let scope = match self.scope {
            Scope::Repository => format!("repository:{}:pull", self.image.repository),
            Scope::Catalog => "registry:catalog:*".to_owned(),
        };
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", &scope);
        let trust = self.registries.trust(&self.host, &url);
        let authorization = self
            .login
            .as_ref()
            .filter(|_| trust.credentials)
            .and_then(basic);
        self.is_withheld = self.login.is_some() && !trust.credentials;
        let answer = self.call(
            Method::GET,
            &url,
            "application/json",
            authorization,
            MAX_TOKEN,
        );
        let answer = answer.await?;
        match answer.status {
            it if it.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(self.refusal(answer.status));
            }
            status => {
                let problem = format!("{} answers with status {}", shown(&url), status.as_u16());
                return Err(ResolveError::new(ErrorReason::Network, problem));
            }
        }
        let wire: Option<WireToken> = serde_json::from_slice(&answer.body).ok();
        wire.and_then(|it| it.token.or(it.access_token))
            .filter(|it| !it.is_empty())
            .ok_or_else(|| {
                ResolveError::new(
                    ErrorReason::Network,
                    format!("{} answers with no token", shown(&url)),
                )
            })
    }

    /// Makes a call, again if it fails in passing, and leaves a registry alone that wants to be.
    async fn call(
        &self,
        method: Method,
        url: &Url,
        accept: &'static str,
        authorization: Option<HeaderValue>,
        cap: usize,
    ) -> Result<Answer, ResolveError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let call = Call {
                method: method.clone(),
                url: url.clone(),
                accept,
                header: authorization.clone().map(|it| (AUTHORIZATION.as_str(), it)),
                form: None,
                cap,
            };
            let trust_of = |it: &Url| self.registries.trust(&self.host, it);
            let pause = PAUSE * 2_u32.pow(tries - 1);
            let (failure, pause) = match self.registries.http.call(call, trust_of).await {
                Ok(answer) if answer.status == StatusCode::TOO_MANY_REQUESTS => {
                    let wish = self.wish(&answer.headers);
                    (rate_limited(&self.host, wish), wish)
                }
                Ok(answer) if is_passing(answer.status) => {
                    let problem = format!(
                        "{} answers with status {}",
                        shown(url),
                        answer.status.as_u16()
                    );
                    let mut failure = ResolveError::new(ErrorReason::Network, problem);
                    failure.unanswered = true;
                    (failure, Some(self.wish(&answer.headers).unwrap_or(pause)))
                }
                Ok(answer) => return Ok(answer),
                Err(err) => {
                    let is_passing = matches!(err, CallError::Unreachable { again: true, .. });
                    (err.into(), is_passing.then_some(pause))
                }
            };
            match pause {
                Some(pause) if tries < TRIES && pause <= LONGEST_PAUSE => {
                    tokio::time::sleep(pause).await;
                }
                _ => {
                    if let Some(pause) = failure.pause {
                        self.host.leave_alone(self.now(), pause);
                    }
                    return Err(failure);
                }
            }
        }
    }

    fn now(&self) -> Timestamp {
        (self.registries.makers.now)()
    }

    fn wish(&self, headers: &HeaderMap) -> Option<Duration> {
        let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
        pause_of(text, self.now())
    }
}

fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || status == StatusCode::REQUEST_TIMEOUT
}

fn rate_limited(host: &Host, pause: Option<Duration>) -> ResolveError {
    ResolveError {
        pause,
        ..ResolveError::new(
            ErrorReason::RateLimited,
            format!("{} asks for a pause", host.registry),
        )
    }
}

fn sized(mut target: Target, manifest: ImageManifest, max_image: u64) -> Subject {
    target.config = manifest.config;
    if manifest.size > max_image {
        let problem = format!(
            "its compressed layers have {} bytes, and scanner.max_image is {max_image}",
            manifest.size
        );
        Subject::Unscannable(target, ErrorReason::TooLarge, problem)
    } else {
        Subject::Image(target)
    }
}

fn not_an_image(target: Target, what: &str) -> Subject {
    Subject::NotAnImage(target, FreeText::new(what).as_str().to_owned())
}

fn digest_of(bytes: &[u8]) -> Digest {
    let text = format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
    match Digest::parse(&text) {
        Ok(digest) => digest,
        Err(_) => unreachable!("a SHA-256 in hexadecimal digits"),
    }
}

fn basic(login: &RegistryLogin) -> Option<HeaderValue> {
    let pair = format!("{}:{}", login.username, login.password.expose_secret());
    header("Basic", &STANDARD.encode(pair))
}

fn header(scheme: &str, value: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::try_from(format!("{scheme} {value}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}
