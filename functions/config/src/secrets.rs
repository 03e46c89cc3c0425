//! The values behind secret references: read when first needed, again after a while, and again when one was refused.

mod store;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::Instant;

use self::store::{LIMIT, Store};
use crate::Environment;
use crate::aws::Aws;
use crate::cached::{Cached, Fresh};
use crate::file::ReadFileError;
use crate::http::Client;
use crate::oidc::Keys;

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
                let (name, key) = match rest.split_once('#') {
                    Some((name, key)) => (name, Some(key)),
                    None => (rest, None),
                };
                let is_whole = !name.is_empty() && key != Some("");
                is_whole.then(|| Self::SecretsManager {
                    name: name.to_owned(),
                    key: key.map(str::to_owned),
                })
            }
            _ => None,
        }
    }

    /// The reference to all of what this one refers to a key of.
    fn document(&self) -> Self {
        match self {
            Self::SecretsManager { name, .. } => Self::SecretsManager {
                name: name.clone(),
                key: None,
            },
            other => other.clone(),
        }
    }

    fn key(&self) -> Option<&str> {
        match self {
            Self::SecretsManager { key, .. } => key.as_deref(),
            _ => None,
        }
    }

    /// Whether `role` may read this: in AWS only what begins with its prefix, which is what its policy allows.
    pub fn is_of(&self, role: Role) -> bool {
        let name = match self {
            Self::Env(_) | Self::File(_) => return true,
            Self::Ssm(name) => name.strip_prefix('/'),
            // An ARN: arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME-RANDOM
            Self::SecretsManager { name, .. } if name.starts_with("arn:") => {
                name.split_once(":secret:").map(|(_, name)| name)
            }
            Self::SecretsManager { name, .. } => Some(name.as_str()),
        };
        name.is_some_and(|it| it.starts_with(role.prefix()))
    }
}

/// Who needs a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The webhook, for `sources.*.auth`.
    Webhook,
    /// The scanner, for `registries` and `scanner`.
    Scanner,
}

impl Role {
    /// What the names of its secrets in AWS begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Webhook => "scanhook/webhook",
            Self::Scanner => "scanhook/scanner",
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
    /// It keeps strangers out of scanhook, and its operator has chosen it: at least 16 bytes and no placeholder.
    Chosen,
    /// It lets scanhook in elsewhere, and another system has issued it or sets its rules: not empty.
    Given,
}

/// The longest file that holds a secret, in bytes: what Secrets Manager takes.
const LONGEST_SECRET: u64 = 64 << 10;

/// The longest file that holds a configuration, or the certificates of all authorities that a system trusts.
const LONGEST_TEXT: u64 = 1 << 20;

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
    #[error("the file {} can't be read ({problem})", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        problem: ReadFileError,
    },
    /// The store in AWS does not give it.
    #[error("{store} does not give {name}: {problem}")]
    Store {
        /// The store's name.
        store: &'static str,
        /// What was asked for.
        name: String,
        /// The store's error, or why there is no answer.
        problem: String,
    },
    /// A key is wanted, but the secret is no JSON object.
    #[error("the secret is no JSON object, so it has no keys")]
    NotJson,
    /// The secret's JSON lacks the key.
    #[error("the secret has no key {0}")]
    NoKey(String),
    /// The key's value is a number or something else.
    #[error("the value of the secret's key {0} is no text")]
    NotText(String),
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

/// The result of reading again a secret whose value was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reread {
    /// There is another value by now, which may be accepted.
    Changed,
    /// The value is fresh, and the one that was refused.
    Same,
    /// Nothing could be read, or nothing of use, so the refused value may be an old one.
    Failed,
}

/// A secret is read again after this long, so that a rotated one is seen without a restart.
pub const KEEP: Duration = Duration::from_mins(5);

/// Where secrets come from, each read once for all who refer to it. Copies share what was read.
#[derive(Clone)]
pub struct Secrets {
    store: Arc<Store>,
    /// By their reference without a key.
    documents: Arc<Mutex<BTreeMap<String, Arc<Document>>>>,
    /// By their issuer.
    keys: Arc<Mutex<BTreeMap<String, Keys>>>,
    client: Arc<Client>,
}

/// The text behind a reference; several secrets may be keys of one.
type Document = Cached<SecretString, ResolveSecretError>;

impl Secrets {
    /// Nothing of AWS is looked at before a reference leads there.
    pub fn new(environment: &Environment, aws: Aws) -> Self {
        Self {
            store: Arc::new(Store::new(environment, aws)),
            documents: Arc::default(),
            keys: Arc::default(),
            client: Arc::default(),
        }
    }

    /// For a command, on a machine where AWS's settings are where people keep them.
    pub fn local(environment: &Environment) -> Self {
        Self::new(environment, Aws::local(environment))
    }

    /// Reads a secret, if it was not read for another key already.
    pub async fn resolve(
        &self,
        reference: &SecretRef,
        strength: Strength,
    ) -> Result<Secret, ResolveSecretError> {
        let document = self.document(&reference.document());
        let text = document.first().await?;
        let value = extract(&text, reference.key(), strength)?;
        Ok(Secret {
            reference: reference.clone(),
            strength,
            document,
            present: RwLock::new(Extracted {
                from: text,
                value: Arc::new(value),
            }),
        })
    }

    /// Reads what a reference leads to, whatever it is, and keeps nothing of it: for what is longer than a secret, and none.
    pub(crate) async fn read(
        &self,
        reference: &SecretRef,
    ) -> Result<SecretString, ResolveSecretError> {
        let text = self.store.read(reference, LONGEST_TEXT).await?;
        match reference.key() {
            None => Ok(text),
            key => extract(&text, key, Strength::Given),
        }
    }

    /// The keys of an identity provider, not fetched yet.
    pub fn keys(&self, issuer: &str) -> Keys {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let of_issuer = keys.entry(issuer.to_owned());
        of_issuer
            .or_insert_with(|| Keys::new(issuer, &self.client))
            .clone()
    }

    fn document(&self, reference: &SecretRef) -> Arc<Document> {
        let name = reference.to_string();
        let mut documents = self
            .documents
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let document = documents.entry(name.clone()).or_insert_with(|| {
            let (store, reference) = (Arc::clone(&self.store), reference.clone());
            Cached::new(name, move || {
                let (store, reference) = (Arc::clone(&store), reference.clone());
                Box::pin(async move {
                    let value = store.read(&reference, LONGEST_SECRET).await?;
                    Ok(Fresh { value, keep: KEEP })
                })
            })
        });
        Arc::clone(document)
    }
}

/// A secret with its present value.
pub struct Secret {
    reference: SecretRef,
    strength: Strength,
    document: Arc<Document>,
    present: RwLock<Extracted>,
}

/// A value, and the document it was taken from.
struct Extracted {
    from: Arc<SecretString>,
    value: Arc<SecretString>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.reference)
    }
}

impl Secret {
    /// The value as it is known, without asking anybody: the same pointer as long as the value is the same.
    pub fn present(&self) -> Arc<SecretString> {
        let Some(document) = self.document.present() else {
            unreachable!("it was read before this secret was made")
        };
        let seen = self.present.read().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&seen.from, &document) {
            return Arc::clone(&seen.value);
        }
        drop(seen);
        let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
        match extract(&document, self.reference.key(), self.strength) {
            Ok(value) if value.expose_secret() == present.value.expose_secret() => {}
            Ok(value) => {
                let name = self.reference.to_string();
                tracing::info!(event = "secret.changed", name, "{name} has another value");
                present.value = Arc::new(value);
            }
            Err(err) => {
                let name = self.reference.to_string();
                tracing::error!(
                    event = "refresh.failed",
                    name,
                    "{name} was changed, but is of no use, so its last value stays in use: {err}"
                );
            }
        }
        present.from = document;
        Arc::clone(&present.value)
    }

    /// Sees to it that the value is not too old: after five minutes it is read again in the background, after ten
    /// before it is used, for which this waits until `until` at most. One that can't be read again stays in use.
    pub async fn freshen(&self, until: Instant) {
        self.document.freshen(until).await;
    }

    /// Reads the value again because it was refused or did not fit, at most once in [`GUARD`](crate::cached::GUARD)
    /// whoever asks; waits for it until `until` at most.
    pub async fn renew(&self, until: Instant) {
        self.document.renew(until).await;
    }

    /// The present value, for who has time to wait for a reading that is overdue.
    pub async fn value(&self) -> SecretString {
        self.freshen(Instant::now() + LIMIT).await;
        SecretString::clone(&self.present())
    }

    /// Reads the secret again because the system that it is for refused `refused`. No stranger can cause that, so every call
    /// reads.
    pub async fn reread(&self, refused: &SecretString) -> Reread {
        if self.present().expose_secret() != refused.expose_secret() {
            return Reread::Changed;
        }
        let document = self.document.renew_now(Instant::now() + LIMIT).await;
        let fresh = document.and_then(|it| extract(&it, self.reference.key(), self.strength).ok());
        match fresh {
            Some(fresh) if fresh.expose_secret() == refused.expose_secret() => Reread::Same,
            Some(_) => Reread::Changed,
            None => Reread::Failed,
        }
    }
}

/// Takes the value of a key from a document, or the whole of it without its line break at the end.
fn extract(
    document: &SecretString,
    key: Option<&str>,
    strength: Strength,
) -> Result<SecretString, ResolveSecretError> {
    let text = document.expose_secret();
    let value = match key {
        None => text.trim_end_matches(['\r', '\n']).to_owned(),
        Some(key) => {
            let mut members: BTreeMap<String, Value> =
                serde_json::from_str(text).map_err(|_| ResolveSecretError::NotJson)?;
            match members.remove(key) {
                Some(Value::String(text)) => text,
                Some(_) => return Err(ResolveSecretError::NotText(key.to_owned())),
                None => return Err(ResolveSecretError::NoKey(key.to_owned())),
            }
        }
    };
    check(&value, strength)?;
    Ok(SecretString::from(value))
}

fn check(text: &str, strength: Strength) -> Result<(), ResolveSecretError> {
    let lower = text.to_ascii_lowercase();
    let is_one_character = text.chars().all(|it| text.starts_with(it));
    if text.trim().is_empty() {
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

    use tokio::time::advance;

    use super::*;

    async fn resolve(
        reference: &str,
        value: Option<&str>,
        strength: Strength,
    ) -> Result<Secret, ResolveSecretError> {
        let value = value.map(str::to_owned);
        let environment: Environment = Arc::new(move |_| value.clone());
        let secrets = Secrets::local(&environment);
        let reference = SecretRef::parse(reference).unwrap();
        secrets.resolve(&reference, strength).await
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

    #[tokio::test(start_paused = true)]
    async fn a_refused_secret_is_the_same_only_if_it_could_be_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "fake-old-secret-value\n").unwrap();
        let secret = resolve(&format!("file:{}", path.display()), None, Strength::Chosen)
            .await
            .unwrap();
        let old = secret.value().await;
        assert_eq!(old.expose_secret(), "fake-old-secret-value");
        assert_eq!(secret.reread(&old).await, Reread::Same);
        std::fs::write(&path, "fake-new-secret-value\n").unwrap();
        assert_eq!(secret.reread(&old).await, Reread::Changed);
        let new = secret.value().await;
        assert_eq!(new.expose_secret(), "fake-new-secret-value");
        std::fs::remove_file(&path).unwrap();
        advance(2 * KEEP).await;
        assert_eq!(secret.reread(&new).await, Reread::Failed);
        assert_eq!(secret.reread(&old).await, Reread::Changed);
        std::fs::write(&path, "short").unwrap();
        assert_eq!(secret.reread(&new).await, Reread::Failed);
        advance(2 * KEEP).await;
        assert_eq!(secret.value().await.expose_secret(), new.expose_secret());
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
            "secretsmanager:#key",
            "secretsmanager:name#",
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

    #[test]
    fn each_role_reads_below_its_own_prefix() {
        for (text, webhook, scanner) in [
            ("env:X", true, true),
            ("file:/x", true, true),
            ("ssm:/scanhook/webhook/harbor", true, false),
            ("ssm:/scanhook/scanner/sysdig", false, true),
            ("ssm:/other/scanhook/webhook", false, false),
            ("secretsmanager:scanhook/webhook#harbor", true, false),
            ("secretsmanager:scanhook/scanner-eu", false, true),
            ("secretsmanager:prod/harbor", false, false),
            (
                "secretsmanager:arn:aws:secretsmanager:eu-west-1:123456789012:secret:scanhook/webhook-AbCdEf#x",
                true,
                false,
            ),
        ] {
            let reference = SecretRef::parse(text).unwrap();
            assert_eq!(reference.is_of(Role::Webhook), webhook, "{text}");
            assert_eq!(reference.is_of(Role::Scanner), scanner, "{text}");
        }
    }

    #[test]
    fn a_key_is_taken_from_a_json_object_and_from_nothing_else() {
        let document = SecretString::from(r#"{"harbor":"fake-harbor-secret\n","port":4711}"#);
        let extract =
            |key| extract(&document, key, Strength::Given).map(|it| it.expose_secret().to_owned());
        assert_eq!(extract(Some("harbor")).unwrap(), "fake-harbor-secret\n");
        assert_eq!(
            extract(Some("port")).unwrap_err().to_string(),
            "the value of the secret's key port is no text"
        );
        assert_eq!(
            extract(Some("ghcr")).unwrap_err().to_string(),
            "the secret has no key ghcr"
        );
        assert!(extract(None).unwrap().starts_with('{'));
        for text in ["fake-plain-secret", "[]", "\"x\"", ""] {
            let problem = super::extract(&text.into(), Some("x"), Strength::Given).unwrap_err();
            assert_eq!(problem, ResolveSecretError::NotJson, "{text}");
        }
    }
}
