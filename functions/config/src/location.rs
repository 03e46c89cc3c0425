//! Where the configuration is: `SCANHOOK_CONFIG`.

use std::fmt;
use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};

use crate::config::{Config, ConfigError};
use crate::secrets::{ResolveSecretError, SecretRef, Secrets};

/// A place that holds a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `file:PATH`
    File(PathBuf),
    /// `ssm:/NAME`
    Ssm(String),
    /// `secretsmanager:NAME`
    SecretsManager(String),
}

/// The configuration can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// None of the forms there are.
    #[error("the configuration's location must be file:PATH, ssm:/NAME or secretsmanager:NAME")]
    Location,
    /// The file or the store does not give it.
    #[error("could not read the configuration {location}")]
    Read {
        /// Which.
        location: Location,
        /// Why not.
        #[source]
        source: ResolveSecretError,
    },
    /// It says something wrong.
    #[error("the {location} is not a valid configuration")]
    Invalid {
        /// Which.
        location: Location,
        /// What is wrong.
        #[source]
        source: ConfigError,
    },
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Ssm(name) => write!(f, "parameter ssm:{name}"),
            Self::SecretsManager(name) => write!(f, "secret secretsmanager:{name}"),
        }
    }
}

impl Location {
    /// Reads the value of `SCANHOOK_CONFIG`.
    pub fn parse(text: &str) -> Result<Self, LoadError> {
        match SecretRef::parse(text) {
            Some(SecretRef::File(path)) => Ok(Self::File(path)),
            Some(SecretRef::Ssm(name)) => Ok(Self::Ssm(name)),
            Some(SecretRef::SecretsManager { name, key: None }) => Ok(Self::SecretsManager(name)),
            _ => Err(LoadError::Location),
        }
    }

    /// Reads and checks the configuration.
    pub async fn load(&self, secrets: &Secrets) -> Result<Config, LoadError> {
        self.check(&self.read(secrets).await?)
    }

    /// Reads the configuration, whatever was read of it before.
    pub(crate) async fn read(&self, secrets: &Secrets) -> Result<SecretString, LoadError> {
        let reference = match self {
            Self::File(path) => SecretRef::File(path.clone()),
            Self::Ssm(name) => SecretRef::Ssm(name.clone()),
            Self::SecretsManager(name) => SecretRef::SecretsManager {
                name: name.clone(),
                key: None,
            },
        };
        secrets
            .read(&reference)
            .await
            .map_err(|source| LoadError::Read {
                location: self.clone(),
                source,
            })
    }

    /// Checks the configuration's text.
    pub(crate) fn check(&self, text: &SecretString) -> Result<Config, LoadError> {
        Config::parse(text.expose_secret()).map_err(|source| LoadError::Invalid {
            location: self.clone(),
            source,
        })
    }
}
