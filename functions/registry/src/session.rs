//! The calls for one image: one or two to its registry, one for each manifest of an index that is read, and one to its
//! token server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use reqwest::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Method, StatusCode, Url};
use scanhook_core::choice::{self, Fetched, Manifests, Needed};
use scanhook_core::event::FreeText;
use scanhook_core::failure::ErrorReason;
use scanhook_core::image::{Digest, Image, Pin};
use scanhook_core::login::RegistryLogin;
use scanhook_core::manifest::{ImageManifest, Manifest, ParseManifestError};
use scanhook_core::platform::Platform;
use scanhook_core::target::Target;
use secrecy::ExposeSecret as _;
use serde::Deserialize;

use super::challenge::{self, Challenge};
use super::http::{Answer, Call, CallError, MAX_MANIFEST, MAX_TOKEN, shown};
use super::problem::Problem;
use super::{Host, Registries, ResolveError, Resolved, Subject};

/// The types of manifests that we read, and those that are known not to be images or not readable, so that errors can
/// name them. Source: OCI distribution specification, "Pulling manifests".
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.artifact.manifest.v1+json, application/vnd.docker.distribution.manifest.v1+prettyjws";

/// How often a call is attempted that fails with a transient error.
const TRIES: u32 = 3;

/// The pause before the first retry. It doubles each time.
const PAUSE: Duration = Duration::from_millis(250);

/// Longer pauses are left to the queue.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why manifests could not be read.
pub(super) type Problems = HashMap<Digest, ResolveError>;

pub(super) struct Session<'a> {
    registries: &'a Registries,
    host: Arc<Host>,
    image: &'a Image,
    login: Option<RegistryLogin>,
    authorization: Option<HeaderValue>,
    /// Whether every way to authenticate was tried.
    is_authenticated: bool,
    /// Whether the token server must not see the login. Then the CLI must not use it there either.
    is_withheld: bool,
    scope: Scope,
}

/// What a token is requested for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Repository,
    Catalog,
}

/// A token server's answer. Source: the distribution project's token authentication specification.
#[derive(Deserialize)]
struct WireToken {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'a> Session<'a> {
    /// Opens a session with the image's registry and the login that is configured for it.
    pub(super) async fn open(
        registries: &'a Registries,
        image: &'a Image,
    ) -> Result<Self, ResolveError> {
        let host = registries.host(&image.registry).ok_or_else(|| {
            let problem = "the registry's host forms no valid URL".to_owned();
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

    /// The login that the registry gets if it asks for one.
    pub(super) fn login(&self) -> Option<&RegistryLogin> {
        self.login.as_ref()
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// Changes the session's scope to the list of repositories.
    pub(super) fn of_catalog(self) -> Self {
        Self {
            scope: Scope::Catalog,
            ..self
        }
    }

    /// Finds out what to scan.
    pub(super) async fn resolve(
        mut self,
        wanted: &[Platform],
        max_image: u64,
    ) -> Result<Resolved, ResolveError> {
        if let Some(pause) = self.host.paused(self.now()) {
            return Err(rate_limited(&self.host, Some(pause)));
        }
        let (digest, manifest) = match &self.image.pin {
            Pin::Tag(tag) => self.find(tag.as_str()).await?,
            Pin::Digest(digest) | Pin::TagAndDigest(_, digest) => (digest.clone(), None),
        };
        let (chosen, problems) = self.choose(&digest, manifest, wanted).await?;
        let subjects = chosen
            .into_iter()
            .map(|it| subject(it, &problems, max_image))
            .collect();
        let tag_moved = match &self.image.pin {
            // If the tag can't be looked up, only the digest counts.
            Pin::TagAndDigest(tag, _) => {
                let present = self.head(tag.as_str()).await.ok();
                let present = present.filter(|it| it.status.is_success());
                let present = present.and_then(|it| it.digest());
                let present = present.filter(|it| it.parts().0 == digest.parts().0);
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

    /// Reads the manifests that are needed to choose from the one with this digest. An entry that can't be read is
    /// returned with its problem. If the problem is transient or a refusal, the whole image is resolved again later.
    pub(super) async fn choose(
        &mut self,
        digest: &Digest,
        manifest: Option<Manifest>,
        wanted: &[Platform],
    ) -> Result<(Vec<choice::Subject>, Problems), ResolveError> {
        let mut manifests = Manifests::new();
        let mut problems = Problems::new();
        manifests.extend(manifest.map(|it| (digest.clone(), Fetched::Manifest(it))));
        loop {
            let needed = match choice::choose(self.image, digest, wanted, &manifests) {
                Ok(chosen) => return Ok((chosen, problems)),
                Err(Needed(needed)) => needed,
            };
            let looked = match self.manifest(&needed).await {
                Ok(manifest) => Fetched::Manifest(manifest),
                Err(err) if needed == *digest || concerns_whole_image(err.reason) => {
                    return Err(err);
                }
                Err(err) => {
                    let is_absent = err.reason == ErrorReason::ImageNotFound;
                    problems.insert(needed.clone(), err);
                    if is_absent {
                        Fetched::Absent
                    } else {
                        Fetched::Unread
                    }
                }
            };
            manifests.insert(needed, looked);
        }
    }

    /// Returns the digest that a tag names now.
    pub(super) async fn digest_of(&mut self, tag: &str) -> Result<Digest, ResolveError> {
        Ok(self.find(tag).await?.0)
    }

    /// Returns the digest that a tag names now, and its manifest if it had to be read. Not every registry supports
    /// HEAD: an answer that says nothing about the image is followed by a GET (containerd/containerd#5860,
    /// crazy-max/diun#1614).
    async fn find(&mut self, tag: &str) -> Result<(Digest, Option<Manifest>), ResolveError> {
        let head = self.head(tag).await?;
        let status = head.status;
        let refusal = match self.accepted(head).map(|it| it.digest()) {
            Ok(Some(digest)) => return Ok((digest, None)),
            // The header is only recommended.
            Ok(None) => None,
            Err(err) if is_final_for_head(status) => return Err(err),
            Err(err) => Some(err),
        };
        let answer = match (self.ask(Method::GET, tag).await, refusal) {
            (Ok(answer), _) => answer,
            // If GET finds no image, the refusal of HEAD is the better error: an operator can act on it.
            (Err(err), Some(refusal))
                if err.reason == ErrorReason::ImageNotFound
                    && refusal.reason == ErrorReason::Unauthorized =>
            {
                return Err(refusal);
            }
            (Err(err), _) => return Err(err),
        };
        let reported = answer.digest().filter(|it| it.is_of(&answer.body));
        let digest = reported.unwrap_or_else(|| Digest::of(&answer.body));
        let manifest = parse(&answer).map_err(unsupported)?;
        Ok((digest, Some(manifest)))
    }

    /// Returns the manifest with this digest, after checking its bytes against it.
    async fn manifest(&mut self, digest: &Digest) -> Result<Manifest, ResolveError> {
        let answer = self.ask(Method::GET, digest.as_str()).await?;
        let manifest = parse(&answer);
        // The digest of a signed schema 1 manifest excludes the signatures that are sent with it.
        let is_schema_1 = manifest == Err(ParseManifestError::Schema1);
        if !is_schema_1 && !digest.is_of(&answer.body) {
            let problem = format!(
                "{} sent content that doesn't match the digest",
                self.host.registry
            );
            return Err(ResolveError::new(ErrorReason::Network, problem));
        }
        manifest.map_err(unsupported)
    }

    async fn ask(&mut self, method: Method, reference: &str) -> Result<Answer, ResolveError> {
        let path = format!("{}/manifests/{reference}", self.image.repository);
        self.ask_for(method, &path, ACCEPT).await
    }

    async fn head(&mut self, reference: &str) -> Result<Answer, ResolveError> {
        let path = format!("{}/manifests/{reference}", self.image.repository);
        self.answer(Method::HEAD, &path, ACCEPT).await
    }

    /// Requests a path of the registry's API, and authenticates if asked to.
    pub(super) async fn ask_for(
        &mut self,
        method: Method,
        path: &str,
        accept: &'static str,
    ) -> Result<Answer, ResolveError> {
        let answer = self.answer(method, path, accept).await?;
        self.accepted(answer)
    }

    /// Returns an answer of any status, after authentication if the registry asks for it.
    async fn answer(
        &mut self,
        method: Method,
        path: &str,
        accept: &'static str,
    ) -> Result<Answer, ResolveError> {
        let url = self.host.base.join(path);
        let url = url.map_err(|_| {
            ResolveError::new(
                ErrorReason::Network,
                "the image forms no valid URL".to_owned(),
            )
        })?;
        loop {
            let authorization = self.authorization.clone();
            let answer = self.call(method.clone(), &url, accept, authorization, MAX_MANIFEST);
            let answer = answer.await?;
            if answer.status == StatusCode::UNAUTHORIZED && !self.is_authenticated {
                self.authenticate(&answer).await?;
                continue;
            }
            return Ok(answer);
        }
    }

    /// Returns a successful answer, or the error that it means.
    fn accepted(&self, answer: Answer) -> Result<Answer, ResolveError> {
        if answer.status.is_success() {
            return Ok(answer);
        }
        let problem = answer.problem();
        let registry = &self.host.registry;
        let detail = match problem.reason {
            ErrorReason::Unauthorized => return Err(self.refusal(&problem)),
            ErrorReason::ImageNotFound => format!("{registry} has no such image: {problem}"),
            _ => format!("{registry} answers with {problem}"),
        };
        Err(ResolveError::new(problem.reason, detail))
    }

    fn refusal(&self, refused: &Problem) -> ResolveError {
        let with = match (&self.login, self.is_withheld) {
            (None, _) => "without credentials",
            (Some(_), true) => "without the credentials, which its realm must not see",
            (Some(_), false) => "with its credentials",
        };
        let problem = format!("{} refuses us {with}: {refused}", self.host.registry);
        ResolveError::new(ErrorReason::Unauthorized, problem)
    }

    /// Does what the registry wants to see done first.
    async fn authenticate(&mut self, refusal: &Answer) -> Result<(), ResolveError> {
        self.is_authenticated = true;
        let challenges = refusal.headers.get_all(WWW_AUTHENTICATE).iter();
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
            _ => return Err(self.refusal(&refusal.problem())),
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
        if !answer.status.is_success() {
            let problem = answer.problem();
            if problem.reason == ErrorReason::Unauthorized {
                return Err(self.refusal(&problem));
            }
            let problem = format!("{} answers with {problem}", shown(&url));
            return Err(ResolveError::new(ErrorReason::Network, problem));
        }
        let wire: Option<WireToken> = serde_json::from_slice(&answer.body).ok();
        let tokens = wire.into_iter().flat_map(|it| [it.token, it.access_token]);
        tokens.flatten().find(|it| !it.is_empty()).ok_or_else(|| {
            ResolveError::new(
                ErrorReason::Network,
                format!("{} sent no token", shown(&url)),
            )
        })
    }

    /// Makes a call, retries transient failures, and pauses a registry that asks for it.
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
                body: None,
                cap,
            };
            let trust_of = |it: &Url| self.registries.trust(&self.host, it);
            let pause = PAUSE * 2_u32.pow(tries - 1);
            let (failure, pause) = match self.registries.http.call(call, trust_of).await {
                Ok(answer) if answer.is_rate_limited() => {
                    let requested = self.requested_pause(&answer.headers);
                    (rate_limited(&self.host, requested), requested)
                }
                Ok(answer) if is_transient(&method, answer.status) => {
                    let problem = format!("{} answers with {}", shown(url), answer.problem());
                    let mut failure = ResolveError::new(ErrorReason::Network, problem);
                    failure.pause = self.requested_pause(&answer.headers);
                    let pause = failure.pause.unwrap_or(pause);
                    (failure, Some(pause))
                }
                Ok(answer) => {
                    // An answer of the token server doesn't show that the registry answers again.
                    if answer.status.is_success() && url.origin() == self.host.base.origin() {
                        self.host.resume();
                    }
                    return Ok(answer);
                }
                // A registry that closes the connection at HEAD doesn't support it: a GET follows.
                Err(CallError::Unreachable { again: true, .. }) if method == Method::HEAD => {
                    return Ok(Answer {
                        status: StatusCode::NOT_IMPLEMENTED,
                        headers: HeaderMap::new(),
                        body: Vec::new(),
                    });
                }
                Err(err) => {
                    let is_transient = matches!(err, CallError::Unreachable { again: true, .. });
                    (err.into(), is_transient.then_some(pause))
                }
            };
            match pause {
                Some(pause) if tries < TRIES && pause <= LONGEST_PAUSE => {
                    tokio::time::sleep(pause).await;
                }
                _ => {
                    if let Some(pause) = failure.pause {
                        self.host.start_pause(self.now(), pause);
                    }
                    return Err(failure);
                }
            }
        }
    }

    fn now(&self) -> Timestamp {
        (self.registries.makers.now)()
    }

    fn requested_pause(&self, headers: &HeaderMap) -> Option<Duration> {
        let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
        self.registries.config.retry.pause_of(text, self.now())
    }
}

/// Whether a retry may get another answer. A HEAD is retried only if [`is_final_for_head`]; otherwise a GET follows.
fn is_transient(method: &Method, status: StatusCode) -> bool {
    if *method == Method::HEAD {
        return status.is_server_error() && is_final_for_head(status);
    }
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || status == StatusCode::REQUEST_TIMEOUT
}

/// Whether a GET would get the same answer.
fn is_final_for_head(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 407 | 429 | 500 | 502 | 503 | 504)
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

/// Whether this reason concerns the whole image rather than one manifest of its index. Transient errors are retried
/// later, and refused credentials are read again first.
fn concerns_whole_image(reason: ErrorReason) -> bool {
    reason.may_pass() || reason == ErrorReason::Unauthorized
}

/// Converts the outcome of a choice, with the problem of what could not be read.
fn subject(chosen: choice::Subject, problems: &Problems, max_image: u64) -> Subject {
    match chosen {
        choice::Subject::Image(target, manifest) => sized(target, manifest, max_image),
        choice::Subject::NotAnImage(target, what) => {
            Subject::NotAnImage(target, FreeText::new(&what).as_str().to_owned())
        }
        choice::Subject::Unsupported(target, problem) => {
            Subject::Unscannable(target, ErrorReason::UnsupportedImage, problem)
        }
        choice::Subject::Unread(target) => {
            let problem = problems.get(target.digest());
            let (reason, detail) = problem.map_or_else(
                || {
                    (
                        ErrorReason::Internal,
                        "the manifest was not read".to_owned(),
                    )
                },
                |it| (it.reason, it.detail.clone()),
            );
            Subject::Unscannable(target, reason, detail)
        }
        choice::Subject::Missing(platform) => Subject::Missing(platform),
    }
}

fn sized(mut target: Target, manifest: ImageManifest, max_image: u64) -> Subject {
    (target.config, target.size) = (manifest.config, manifest.size);
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

fn parse(answer: &Answer) -> Result<Manifest, ParseManifestError> {
    let content_type = answer.headers.get(CONTENT_TYPE);
    let content_type = content_type.and_then(|it| it.to_str().ok());
    Manifest::parse(content_type, &answer.body)
}

fn unsupported(err: ParseManifestError) -> ResolveError {
    ResolveError::new(ErrorReason::UnsupportedImage, err.to_string())
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
