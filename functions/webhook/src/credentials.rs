//! The credentials of one source, kept up to date while deliveries come in.
//!
//! **Invariant**: a delivery is refused only after secrets and keys that may have changed were looked at again, and no
//! number of refused deliveries causes more than one look within [`GUARD`](scanhook_config::cached::GUARD).

use std::sync::{Arc, PoisonError, RwLock};

use futures_util::future::join_all;
use scanhook_config::config::{AuthConfig, ConfigError, SourceConfig};
use scanhook_config::oidc::Keys;
use scanhook_config::secrets::{Secret, Secrets};
use scanhook_core::auth::{Credential, Scheme, Unauthorized, VerifiedDelivery, Verifier, verify};
use scanhook_core::delivery::Delivery;
use scanhook_core::oidc::{Expected, KeySet};
use secrecy::SecretString;
use tokio::time::Instant;

use crate::rejection::Rejection;

/// One entry for each of the source's `auth`, in that order.
pub struct Credentials {
    entries: Vec<Entry>,
    present: RwLock<Present>,
}

enum Entry {
    Shared { scheme: Scheme, secret: Secret },
    Oidc { expected: Expected, keys: Keys },
}

/// The verifiers, and what they were made of.
struct Present {
    made_of: Vec<Input>,
    verifiers: Arc<[Verifier]>,
}

/// What a verifier is made of; the same as long as it is the same pointer.
enum Input {
    Secret(Arc<SecretString>),
    Keys(Option<Arc<KeySet>>),
}

impl Input {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Secret(one), Self::Secret(other)) => Arc::ptr_eq(one, other),
            (Self::Keys(Some(one)), Self::Keys(Some(other))) => Arc::ptr_eq(one, other),
            (Self::Keys(None), Self::Keys(None)) => true,
            _ => false,
        }
    }
}

impl Entry {
    fn input(&self) -> Input {
        match self {
            Self::Shared { secret, .. } => Input::Secret(secret.present()),
            Self::Oidc { keys, .. } => Input::Keys(keys.present()),
        }
    }

    fn verifier(&self, input: &Input) -> Verifier {
        match (self, input) {
            (Self::Shared { scheme, .. }, Input::Secret(secret)) => Credential {
                scheme: scheme.clone(),
                secret: SecretString::clone(secret),
            }
            .verifier(),
            (Self::Oidc { expected, .. }, Input::Keys(keys)) => Verifier::Oidc {
                expected: expected.clone(),
                keys: keys.clone(),
            },
            _ => unreachable!("an entry's input is of its own sort"),
        }
    }

    async fn freshen(&self, until: Instant) {
        match self {
            Self::Shared { secret, .. } => secret.freshen(until).await,
            Self::Oidc { keys, .. } => keys.freshen(until).await,
        }
    }

    async fn renew(&self, until: Instant) {
        match self {
            Self::Shared { secret, .. } => secret.renew(until).await,
            Self::Oidc { keys, .. } => keys.renew(until).await,
        }
    }
}

impl Credentials {
    /// Reads the secrets of a source. The keys of identity providers are left to [`Credentials::warm`].
    pub async fn open(source: &SourceConfig, secrets: &Secrets) -> Result<Self, ConfigError> {
        let resolved = source.secrets(secrets).await?;
        let entries = source.auth.iter().zip(resolved);
        let entries = entries.filter_map(|(auth, secret)| match auth {
            AuthConfig::Shared { scheme, .. } => Some(Entry::Shared {
                scheme: scheme.clone(),
                secret: secret?,
            }),
            AuthConfig::Oidc(expected) => Some(Entry::Oidc {
                keys: secrets.keys(&expected.issuer),
                expected: expected.clone(),
            }),
        });
        let entries: Vec<_> = entries.collect();
        let present = RwLock::new(make(&entries));
        Ok(Self { entries, present })
    }

    /// Fetches the keys of identity providers, so that the first delivery need not. Fails if one can't be had.
    pub async fn warm(&self) -> anyhow::Result<()> {
        for entry in &self.entries {
            if let Entry::Oidc { keys, .. } = entry {
                keys.first().await?;
            }
        }
        Ok(())
    }

    /// Verifies a delivery, and once more with what is read again if it is refused. Waits for readings until `until` at
    /// most.
    pub async fn verify(
        &self,
        delivery: Delivery,
        until: Instant,
    ) -> Result<VerifiedDelivery, Rejection> {
        for entry in &self.entries {
            entry.freshen(until).await;
        }
        let verifiers = self.verifiers();
        let Unauthorized(delivery) = match verify(delivery, &verifiers) {
            Ok(verified) => return Ok(verified),
            Err(refused) => refused,
        };
        join_all(self.entries.iter().map(|it| it.renew(until))).await;
        let renewed = self.verifiers();
        if Arc::ptr_eq(&verifiers, &renewed) {
            return Err(self.refusal(&delivery));
        }
        verify(*delivery, &renewed).map_err(|Unauthorized(delivery)| self.refusal(&delivery))
    }

    /// A token can't be called wrong as long as its issuer's keys are not known.
    fn refusal(&self, delivery: &Delivery) -> Rejection {
        let lacks_keys =
            |it: &Entry| matches!(it, Entry::Oidc { keys, .. } if keys.present().is_none());
        if delivery.has_bearer() && self.entries.iter().any(lacks_keys) {
            Rejection::Unavailable
        } else {
            Rejection::Unauthorized
        }
    }

    fn verifiers(&self) -> Arc<[Verifier]> {
        let is_present = |present: &Present| {
            let mut pairs = self.entries.iter().zip(&present.made_of);
            pairs.all(|(entry, input)| entry.input().is(input))
        };
        let present = self.present.read().unwrap_or_else(PoisonError::into_inner);
        if is_present(&present) {
            return Arc::clone(&present.verifiers);
        }
        drop(present);
        let made = make(&self.entries);
        let verifiers = Arc::clone(&made.verifiers);
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = made;
        verifiers
    }
}

fn make(entries: &[Entry]) -> Present {
    let made_of: Vec<_> = entries.iter().map(Entry::input).collect();
    let pairs = entries.iter().zip(&made_of);
    let verifiers = pairs.map(|(entry, input)| entry.verifier(input)).collect();
    Present { made_of, verifiers }
}
