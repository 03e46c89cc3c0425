//! Logins for registries: selected by the configured host, and made anew before they expire.
//!
//! **Invariant**: a login is made for one registry's host, from that host's own entry, whatever a registry answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use scanhook_config::Environment;
use scanhook_config::config::{ConfigError, CredentialsConfig, RegistryConfig};
use scanhook_config::secrets::{Reread, Secret, Secrets};
use scanhook_core::failure::ErrorReason;
use scanhook_core::image::Registry;
use scanhook_core::login::RegistryLogin;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use super::error::LoginError;
use super::http::{Http, Trust};
use scanhook_config::Clock;

mod acr;
mod ecr;
mod gar;

pub use ecr::Sdk;

/// How an entry of `registries` logs in.
#[derive(Debug, Clone)]
pub(super) enum Credentials {
    Anonymous,
    Basic {
        username: String,
        password: Arc<Secret>,
    },
    Bearer {
        username: String,
        token: Arc<Secret>,
    },
    Ecr,
    Gar {
        key: Option<Arc<Secret>>,
    },
    Acr {
        tenant: String,
        username: String,
        password: Arc<Secret>,
    },
}

/// A login that expires.
struct CachedLogin {
    login: RegistryLogin,
    made_at: Instant,
    until: Instant,
    /// The secret that it was made with, if any.
    secret: Option<SecretString>,
}

/// What logins are made with.
pub(super) struct Makers {
    pub(super) environment: Environment,
    pub(super) sdk: Sdk,
    pub(super) now: Clock,
}

impl Credentials {
    /// Reads the secret of an entry.
    pub(super) async fn load(
        entry: &RegistryConfig,
        secrets: &Secrets,
    ) -> Result<Self, ConfigError> {
        let secret = entry.secret(secrets).await?.map(Arc::new);
        Ok(match (&entry.credentials, secret) {
            (CredentialsConfig::Basic { username, .. }, Some(password)) => Self::Basic {
                username: username.clone(),
                password,
            },
            (CredentialsConfig::Bearer { username, .. }, Some(token)) => Self::Bearer {
                username: username.clone(),
                token,
            },
            (
                CredentialsConfig::Acr {
                    tenant, username, ..
                },
                Some(password),
            ) => Self::Acr {
                tenant: tenant.clone(),
                username: username.clone(),
                password,
            },
            (CredentialsConfig::Gar { .. }, key) => Self::Gar { key },
            (CredentialsConfig::Ecr, _) => Self::Ecr,
            _ => Self::Anonymous,
        })
    }

    fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Basic { password, .. } | Self::Acr { password, .. } => Some(password),
            Self::Bearer { token, .. } => Some(token),
            Self::Gar { key } => key.as_deref(),
            Self::Anonymous | Self::Ecr => None,
        }
    }
}

/// The logins for one registry's host.
pub(super) struct Logins {
    registry: Registry,
    trust: Trust,
    credentials: Credentials,
    cached: Mutex<Option<CachedLogin>>,
}

/// A login is renewed when it would expire within this time: a scan may use it that long.
const SPARE: Duration = Duration::from_mins(15);

impl Logins {
    pub(super) fn new(registry: Registry, trust: Trust, credentials: Credentials) -> Self {
        Self {
            registry,
            trust,
            credentials,
            cached: Mutex::new(None),
        }
    }

    /// Whether the registry accepts the login's password as a bearer token.
    pub(super) fn is_bearer(&self) -> bool {
        matches!(self.credentials, Credentials::Bearer { .. })
    }

    /// Returns the current login, if the registry has credentials.
    pub(super) async fn login(
        &self,
        makers: &Makers,
        http: &Http,
    ) -> Result<Option<RegistryLogin>, LoginError> {
        let (username, secret) = match &self.credentials {
            Credentials::Anonymous => return Ok(None),
            Credentials::Basic { username, password } => (username, password),
            Credentials::Bearer { username, token } => (username, token),
            _ => {
                let mut cached = self.cached.lock().await;
                if let Some(present) = cached.as_ref().filter(|it| it.until > Instant::now()) {
                    return Ok(Some(present.login.clone()));
                }
                // Boxed, because AWS's client would make every surrounding future large.
                let made = Box::pin(self.make(makers, http)).await?;
                let login = made.login.clone();
                *cached = Some(made);
                return Ok(Some(login));
            }
        };
        Ok(Some(RegistryLogin {
            username: username.clone(),
            password: secret.value().await,
        }))
    }

    /// Makes a login. If the secret is refused and has changed meanwhile, tries once more.
    async fn make(&self, makers: &Makers, http: &Http) -> Result<CachedLogin, LoginError> {
        let Some(secret) = self.credentials.secret() else {
            return self.make_once(makers, http).await;
        };
        let value = secret.value().await;
        let made = match self.make_once(makers, http).await {
            Err(err) if err.reason == ErrorReason::Unauthorized => {
                match secret.reread(&value).await {
                    Reread::Changed => self.make_once(makers, http).await,
                    Reread::Same => Err(err),
                    Reread::Failed => Err(LoginError {
                        is_unconfirmed: true,
                        ..err
                    }),
                }
            }
            made => made,
        };
        Ok(CachedLogin {
            secret: Some(secret.value().await),
            ..made?
        })
    }

    async fn make_once(&self, makers: &Makers, http: &Http) -> Result<CachedLogin, LoginError> {
        match &self.credentials {
            Credentials::Ecr => ecr::login(&self.registry, &makers.sdk).await,
            Credentials::Gar { key } => gar::login(key.as_deref(), makers, http).await,
            Credentials::Acr {
                tenant,
                username,
                password,
            } => {
                let registry = (&self.registry, &self.trust);
                acr::login(registry, tenant, (username, password), makers, http).await
            }
            Credentials::Anonymous | Credentials::Basic { .. } | Credentials::Bearer { .. } => {
                unreachable!("these need no login to be made")
            }
        }
    }

    /// Reads the secret of a refused login again, and makes a new login if this kind of credentials needs one.
    pub(super) async fn reread(
        &self,
        refused: &RegistryLogin,
        makers: &Makers,
        http: &Http,
    ) -> Reread {
        if let Credentials::Basic {
            password: secret, ..
        }
        | Credentials::Bearer { token: secret, .. } = &self.credentials
        {
            return secret.reread(&refused.password).await;
        }
        let forgotten = {
            let mut cached = self.cached.lock().await;
            cached.take_if(|it| is_same(&it.login, refused))
        };
        let used = forgotten.as_ref().and_then(|it| it.secret.as_ref());
        let secret = match (self.credentials.secret(), used) {
            (Some(secret), Some(used)) => secret.reread(used).await,
            _ => Reread::Same,
        };
        // If a login was just made, another one won't be better.
        let was_fresh = forgotten.is_some_and(|it| it.made_at.elapsed() < FRESH);
        match (secret, self.login(makers, http).await) {
            (Reread::Failed, _) => Reread::Failed,
            (_, Err(err)) if err.reason != ErrorReason::Unauthorized || err.is_unconfirmed => {
                Reread::Failed
            }
            (Reread::Changed, Ok(Some(_))) => Reread::Changed,
            (_, Ok(Some(other))) if !was_fresh && !is_same(&other, refused) => Reread::Changed,
            _ => Reread::Same,
        }
    }
}

/// The longest life of a login, whatever its server claims. Source: Amazon ECR API reference, `GetAuthorizationToken`.
const LONGEST_LIFE: Duration = Duration::from_hours(12);

/// A login counts as just made for as long as a scan in Lambda may use it.
const FRESH: Duration = Duration::from_mins(15);

fn is_same(one: &RegistryLogin, other: &RegistryLogin) -> bool {
    one.username == other.username && one.password.expose_secret() == other.password.expose_secret()
}

impl CachedLogin {
    fn new(username: &str, password: String, lifetime: Duration) -> Self {
        Self {
            login: RegistryLogin {
                username: username.to_owned(),
                password: SecretString::from(password),
            },
            made_at: Instant::now(),
            secret: None,
            until: Instant::now() + lifetime.min(LONGEST_LIFE).saturating_sub(SPARE),
        }
    }
}

impl LoginError {
    pub(super) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(ErrorReason::Unauthorized, detail)
    }

    pub(super) fn rate_limited(detail: impl Into<String>) -> Self {
        Self::new(ErrorReason::RateLimited, detail)
    }

    pub(super) fn network(detail: impl Into<String>) -> Self {
        Self::new(ErrorReason::Network, detail)
    }

    fn new(reason: ErrorReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            is_unconfirmed: false,
        }
    }
}
