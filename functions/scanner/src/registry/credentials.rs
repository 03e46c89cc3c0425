//! What to log in to a registry with: chosen by the configured host, made fresh where it does not last.
//!
//! **Invariant**: a login is made for one registry's host, from that host's own entry, whatever any answer says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use scanhook_core::image::Registry;
use scanhook_core::plan::RegistryLogin;
use scanhook_core::verdict::ErrorReason;
use scanhook_settings::Environment;
use scanhook_settings::config::{ConfigError, CredentialsConfig, RegistryConfig};
use scanhook_settings::secrets::{Secret, Secrets};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use super::http::{Http, Trust};
use crate::batch::Clock;

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

/// There are credentials, but no login is to be had with them.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub(super) struct LoginError {
    pub(super) reason: ErrorReason,
    pub(super) detail: String,
}

/// A login that lasts for a while.
#[derive(Clone)]
struct Lasting {
    login: RegistryLogin,
    until: Instant,
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

/// The logins of one registry's host.
pub(super) struct Logins {
    registry: Registry,
    trust: Trust,
    credentials: Credentials,
    lasting: Mutex<Option<Lasting>>,
}

/// A login is made anew when it would end within this time: a scan with it may take as long.
const SPARE: Duration = Duration::from_mins(15);

impl Logins {
    pub(super) fn new(registry: Registry, trust: Trust, credentials: Credentials) -> Self {
        Self {
            registry,
            trust,
            credentials,
            lasting: Mutex::new(None),
        }
    }

    /// Whether the registry itself takes the login's password as a token.
    pub(super) fn is_bearer(&self) -> bool {
        matches!(self.credentials, Credentials::Bearer { .. })
    }

    /// The present login, if there is one to be had.
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
                let mut lasting = self.lasting.lock().await;
                if let Some(present) = lasting.as_ref().filter(|it| it.until > Instant::now()) {
                    return Ok(Some(present.login.clone()));
                }
                // Boxed, since AWS's client would make every future around it a large one.
                let made = Box::pin(self.make(makers, http)).await?;
                let login = made.login.clone();
                *lasting = Some(made);
                return Ok(Some(login));
            }
        };
        Ok(Some(RegistryLogin {
            username: username.clone(),
            password: secret.value().await,
        }))
    }

    async fn make(&self, makers: &Makers, http: &Http) -> Result<Lasting, LoginError> {
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
                unreachable!("nothing is made for these")
            }
        }
    }

    /// Forgets a login that was refused, reads its secret again, and says whether there is another one by now.
    pub(super) async fn has_other_than(
        &self,
        refused: &RegistryLogin,
        makers: &Makers,
        http: &Http,
    ) -> bool {
        if let Some(secret) = self.credentials.secret() {
            match self.credentials {
                Credentials::Basic { .. } | Credentials::Bearer { .. } => {
                    return secret.other_than(&refused.password).await.is_some();
                }
                _ => {
                    let present = secret.value().await;
                    secret.other_than(&present).await;
                }
            }
        }
        let forgotten = {
            let mut lasting = self.lasting.lock().await;
            let is_refused = lasting
                .as_ref()
                .is_some_and(|it| is_same(&it.login, refused));
            if is_refused { lasting.take() } else { None }
        };
        // One that was just made will not be better the next time.
        let is_fresh = forgotten.is_some_and(|it| it.until > Instant::now() + MOST_OF_ITS_LIFE);
        let other = self.login(makers, http).await;
        !is_fresh && matches!(other, Ok(Some(it)) if !is_same(&it, refused))
    }
}

/// Every such login lasts an hour or more, less what is spared.
const MOST_OF_ITS_LIFE: Duration = Duration::from_mins(40);

fn is_same(one: &RegistryLogin, other: &RegistryLogin) -> bool {
    one.username == other.username && one.password.expose_secret() == other.password.expose_secret()
}

impl Lasting {
    fn new(username: &str, password: String, lifetime: Duration) -> Self {
        Self {
            login: RegistryLogin {
                username: username.to_owned(),
                password: SecretString::from(password),
            },
            until: Instant::now() + lifetime.saturating_sub(SPARE),
        }
    }
}

impl LoginError {
    pub(super) fn unauthorized(detail: impl Into<String>) -> Self {
        Self {
            reason: ErrorReason::Unauthorized,
            detail: detail.into(),
        }
    }

    pub(super) fn network(detail: impl Into<String>) -> Self {
        Self {
            reason: ErrorReason::Network,
            detail: detail.into(),
        }
    }
}
