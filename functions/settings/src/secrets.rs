//! The values behind secret references: read when first needed, again after a while, and again when one was refused.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use crate::Environment;

/// Where a secret is. The configuration never holds one itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// `env:NAME`
    Env(String),
    /// `file:PATH`
    File(PathBuf),
    /// `ssm:/NAME`
    Ssm(String),
    /// `secretsmanager:NAME[#json-key]`
    SecretsManager {
        /// The secret's name or ARN.
        name: String,
        /// The key within its JSON.
        key: Option<String>,
    },
}

impl SecretRef {
    /// Reads a reference; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once(':')?;
        if rest.is_empty() {
            return None;
        }
        match scheme {
            "env" => Some(Self::Env(rest.to_owned())),
            "file" => Some(Self::File(rest.into())),
            "ssm" if rest.starts_with('/') => Some(Self::Ssm(rest.to_owned())),
            "secretsmanager" => {
                let (name, key) = rest
                    .split_once('#')
                    .map_or((rest, None), |(name, key)| (name, Some(key.to_owned())));
                Some(Self::SecretsManager {
                    name: name.to_owned(),
                    key,
                })
            }
            _ => None,
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Ssm(name) => write!(f, "ssm:{name}"),
            Self::SecretsManager { name, key: None } => write!(f, "secretsmanager:{name}"),
            Self::SecretsManager {
                name,
                key: Some(key),
            } => write!(f, "secretsmanager:{name}#{key}"),
        }
    }
}

/// What a secret must be like to be of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// Chosen for scanhook: at least 16 bytes and no placeholder.
    Chosen,
    /// Given by somebody else's system: not empty.
    Given,
}

/// The shortest secret of our own choice.
const MIN_LENGTH: usize = 16;

/// Texts that people leave in the place of a secret.
const PLACEHOLDERS: [&str; 5] = [
    "changeme",
    "change-me",
    "change_me",
    "replace-me",
    "placeholder",
];

/// Why a secret can't be used. Never tells the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveSecretError {
    /// The variable is not set.
    #[error("the environment variable {0} is not set")]
    Unset(String),
    /// The file can't be read.
    #[error("the file {} can't be read ({kind})", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        kind: std::io::ErrorKind,
    },
    /// A reference into AWS.
    #[error("this version reads secrets from env: and file: only")]
    Unsupported,
    /// Nothing in it.
    #[error("the secret is empty")]
    Empty,
    /// Less than 16 bytes.
    #[error("the secret is shorter than {MIN_LENGTH} bytes; make one with: openssl rand -hex 32")]
    Short,
    /// Somebody forgot to put one in.
    #[error("the secret is a placeholder; make one with: openssl rand -hex 32")]
    Placeholder,
}

/// A secret is read again after this long, so that a rotated file is seen without a restart.
const KEEP: Duration = Duration::from_mins(5);

/// A secret with its present value.
pub struct Secret {
    reference: SecretRef,
    strength: Strength,
    environment: Environment,
    present: Mutex<(SecretString, Instant)>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.reference)
    }
}

impl Secret {
    /// Reads the secret for the first time.
    pub async fn resolve(
        reference: &SecretRef,
        strength: Strength,
        environment: &Environment,
    ) -> Result<Self, ResolveSecretError> {
        let value = read(reference, strength, environment).await?;
        Ok(Self {
            reference: reference.clone(),
            strength,
            environment: environment.clone(),
            present: Mutex::new((value, Instant::now())),
        })
    }

    /// The present value, read again if it is older than five minutes. One that can't be read again stays in use.
    pub async fn value(&self) -> SecretString {
        let mut present = self.present.lock().await;
        if present.1.elapsed() >= KEEP {
            self.refresh(&mut present).await;
        }
        present.0.clone()
    }

    /// Reads the secret again because `refused` was refused, and tells the value if that is another one.
    pub async fn other_than(&self, refused: &SecretString) -> Option<SecretString> {
        let mut present = self.present.lock().await;
        if present.0.expose_secret() == refused.expose_secret() {
            self.refresh(&mut present).await;
        }
        (present.0.expose_secret() != refused.expose_secret()).then(|| present.0.clone())
    }

    async fn refresh(&self, present: &mut (SecretString, Instant)) {
        present.1 = Instant::now();
        match read(&self.reference, self.strength, &self.environment).await {
            Ok(value) => present.0 = value,
            Err(err) => {
                tracing::warn!(reference = %self.reference, "could not read a secret again: {err}");
            }
        }
    }
}

async fn read(
    reference: &SecretRef,
    strength: Strength,
    environment: &Environment,
) -> Result<SecretString, ResolveSecretError> {
    let text = match reference {
        SecretRef::Env(name) => {
            environment(name).ok_or_else(|| ResolveSecretError::Unset(name.clone()))?
        }
        SecretRef::File(path) => {
            let text = tokio::fs::read_to_string(path).await;
            let text = text.map_err(|err| ResolveSecretError::File {
                path: path.clone(),
                kind: err.kind(),
            })?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        SecretRef::Ssm(_) | SecretRef::SecretsManager { .. } => {
            return Err(ResolveSecretError::Unsupported);
        }
    };
    check(&text, strength)?;
    Ok(SecretString::from(text))
}

fn check(text: &str, strength: Strength) -> Result<(), ResolveSecretError> {
    let lower = text.to_ascii_lowercase();
    let is_one_character = text.chars().all(|it| text.starts_with(it));
    if text.is_empty() {
        Err(ResolveSecretError::Empty)
    } else if strength == Strength::Given {
        Ok(())
    } else if text.len() < MIN_LENGTH {
        Err(ResolveSecretError::Short)
    } else if is_one_character
        || text.starts_with('<')
        || PLACEHOLDERS.iter().any(|it| lower.contains(it))
    {
        Err(ResolveSecretError::Placeholder)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    async fn resolve(
        reference: &str,
        value: Option<&str>,
        strength: Strength,
    ) -> Result<Secret, ResolveSecretError> {
        let value = value.map(str::to_owned);
        let environment: Environment = Arc::new(move |_| value.clone());
        Secret::resolve(
            &SecretRef::parse(reference).unwrap(),
            strength,
            &environment,
        )
        .await
    }

    #[tokio::test]
    async fn a_secret_that_protects_nothing_is_refused() {
        for (value, problem) in [
            (None, ResolveSecretError::Unset("X".to_owned())),
            (Some(""), ResolveSecretError::Empty),
            (Some("fake-15-bytes.."), ResolveSecretError::Short),
            (
                Some("ChangeMe-ChangeMe-ChangeMe"),
                ResolveSecretError::Placeholder,
            ),
            (
                Some("<paste the secret here>"),
                ResolveSecretError::Placeholder,
            ),
            (
                Some("xxxxxxxxxxxxxxxxxxxxxxxx"),
                ResolveSecretError::Placeholder,
            ),
        ] {
            assert_eq!(
                resolve("env:X", value, Strength::Chosen).await.unwrap_err(),
                problem
            );
        }
        assert!(
            resolve("env:X", Some("fake-16-bytes..."), Strength::Chosen)
                .await
                .is_ok()
        );
        assert!(
            resolve("env:X", Some("short"), Strength::Given)
                .await
                .is_ok()
        );
        assert_eq!(
            resolve("env:X", Some(""), Strength::Given)
                .await
                .unwrap_err(),
            ResolveSecretError::Empty
        );
    }

    #[tokio::test]
    async fn a_refused_secret_is_read_again_and_told_only_if_it_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "fake-old-secret-value\n").unwrap();
        let secret = resolve(&format!("file:{}", path.display()), None, Strength::Chosen)
            .await
            .unwrap();
        let old = secret.value().await;
        assert_eq!(old.expose_secret(), "fake-old-secret-value");
        assert!(secret.other_than(&old).await.is_none());
        std::fs::write(&path, "fake-new-secret-value\n").unwrap();
        assert_eq!(
            secret.other_than(&old).await.unwrap().expose_secret(),
            "fake-new-secret-value"
        );
        std::fs::remove_file(&path).unwrap();
        let new = secret.value().await;
        assert!(secret.other_than(&new).await.is_none());
        assert_eq!(
            format!("{secret:?}"),
            format!("Secret(file:{})", path.display())
        );
    }

    #[test]
    fn what_is_no_reference_is_no_reference() {
        for text in [
            "",
            "env:",
            "literal-secret-value",
            "https://x",
            "ssm:relative",
            "ENV:X",
        ] {
            assert_eq!(SecretRef::parse(text), None, "{text}");
        }
        for text in [
            "env:X",
            "file:/a/b:c",
            "ssm:/a/b",
            "secretsmanager:scanhook/webhook#harbor",
        ] {
            assert_eq!(SecretRef::parse(text).unwrap().to_string(), text);
        }
    }
}
