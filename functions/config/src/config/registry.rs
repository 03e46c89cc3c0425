//! How images are pulled: one entry for a host or a pattern of hosts.

use globset::GlobMatcher;
use ipnet::IpNet;
use scanhook_core::image::Registry;
use secrecy::ExposeSecret as _;

use super::error::{expected, expected_word};
use super::{ConfigError, check_role, error, glob, is_loopback, secret_error};
use crate::secrets::{Role, Secret, SecretRef, Secrets, Strength};
use crate::wire::{REFERENCE, WireCredentials, WireRegistry};

/// How images of some hosts are pulled.
#[derive(Debug)]
pub struct RegistryConfig {
    /// The host, or a pattern of hosts, as written.
    pub pattern: String,
    /// None if it is a host.
    matcher: Option<GlobMatcher>,
    /// What to log in with.
    pub credentials: CredentialsConfig,
    /// Plain HTTP.
    pub insecure: bool,
    /// Where certificates are, in PEM, that are trusted besides the system's.
    pub ca: Option<SecretRef>,
    /// How many images are pulled at once.
    pub pulls: Option<u32>,
    /// Networks besides the public ones that this registry's realms and redirects may lead to.
    pub allow: Vec<IpNet>,
}

/// What to log in with.
#[derive(Debug)]
pub enum CredentialsConfig {
    /// Nothing.
    Anonymous,
    /// A name and a password.
    Basic {
        /// The user name.
        username: String,
        /// Where the password is.
        password: SecretRef,
    },
    /// A token that the registry itself takes.
    Bearer {
        /// The name under which the CLI, which knows no tokens, gives it as a password.
        username: String,
        /// Where the token is.
        token: SecretRef,
    },
    /// A token of Amazon ECR, for the role of the process.
    Ecr,
    /// An access token of Google, by a service account's key, else from the metadata server.
    Gar {
        /// Where the key's JSON is.
        key: Option<SecretRef>,
    },
    /// A refresh token of Azure's registry, for a service principal.
    Acr {
        /// The directory, by its id or domain.
        tenant: String,
        /// The principal's client id.
        username: String,
        /// Where its secret is.
        password: SecretRef,
    },
}

impl CredentialsConfig {
    /// The one secret of each type that has one: its key, and where it is.
    pub(super) fn secret(&self) -> Option<(&'static str, &SecretRef)> {
        match self {
            Self::Anonymous | Self::Ecr => None,
            Self::Basic { password, .. } | Self::Acr { password, .. } => {
                Some(("password", password))
            }
            Self::Bearer { token, .. } => Some(("token", token)),
            Self::Gar { key } => key.as_ref().map(|it| ("key", it)),
        }
    }
}

impl RegistryConfig {
    /// Reads the secret of its credentials, if they have one.
    pub async fn secret(&self, secrets: &Secrets) -> Result<Option<Secret>, ConfigError> {
        let Some((key, reference)) = self.credentials.secret() else {
            return Ok(None);
        };
        let path = format!("registries.{}.credentials.{key}", self.pattern);
        let secret = secrets.resolve(reference, Strength::Given).await;
        secret.map(Some).map_err(|err| secret_error(&path, &err))
    }

    /// Reads the certificates that are trusted besides the system's, if there are any.
    pub async fn certificates(&self, secrets: &Secrets) -> Result<Option<String>, ConfigError> {
        let Some(reference) = &self.ca else {
            return Ok(None);
        };
        let path = format!("registries.{}.ca", self.pattern);
        let pem = secrets.read(reference).await;
        let pem = pem.map_err(|err| secret_error(&path, &err))?;
        let pem = pem.expose_secret();
        if pem.contains("-----BEGIN CERTIFICATE-----") {
            Ok(Some(pem.to_owned()))
        } else {
            Err(error(&path, "holds no certificates in PEM"))
        }
    }

    /// Whether this entry is for that host.
    pub fn is_for(&self, registry: &Registry) -> bool {
        match &self.matcher {
            Some(matcher) => matcher.is_match(labels(registry.normal())),
            None => self.pattern == registry.normal(),
        }
    }

    /// The more of a host it spells out, the more specific an entry is; a whole name is most specific.
    pub(super) fn specificity(&self) -> usize {
        match self.matcher {
            Some(_) => self.pattern.replace(WILDCARDS, "").len(),
            None => usize::MAX,
        }
    }
}

const WILDCARDS: [char; 4] = ['*', '?', '{', '['];

/// Divides a host into its labels by `/`, so that `*` in a pattern stands for one label.
fn labels(host: &str) -> String {
    host.replace('.', "/")
}

/// A host as it is written, without its port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|it| it.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Checks an entry; adds to `warnings` what is allowed and dangerous.
pub(super) fn registry(
    pattern: String,
    wire: WireRegistry,
    warnings: &mut Vec<String>,
) -> Result<RegistryConfig, ConfigError> {
    let path = format!("registries.{pattern}");
    let (pattern, matcher) = match Registry::normalise(&pattern) {
        Ok(host) => (host.normal().to_owned(), None),
        Err(_) if pattern.contains(WILDCARDS) => {
            let pattern = pattern.to_ascii_lowercase();
            let pattern = pattern.strip_suffix(":443").unwrap_or(&pattern).to_owned();
            let matcher = glob(&labels(&pattern), &path)?.compile_matcher();
            (pattern, Some(matcher))
        }
        Err(err) => return Err(error(&path, err.to_string())),
    };
    if wire.insecure.0 && wire.ca.is_some() {
        return Err(error(
            &format!("{path}.ca"),
            "of no use with insecure: true, which is plain HTTP",
        ));
    }
    let pulls = wire.pulls.map(|it| it.0);
    let insecure = wire.insecure.0;
    if pulls == Some(0) {
        return Err(expected(&format!("{path}.pulls"), "a number of at least 1"));
    }
    let ca = wire.ca.map(|it| ca(&it, &format!("{path}.ca")));
    let allow = wire.allow.iter().enumerate().map(|(index, it)| {
        let network = it.parse::<IpNet>();
        network.map_err(|_| {
            let path = format!("{path}.allow[{index}]");
            expected(&path, "a network such as 10.1.0.0/16")
        })
    });
    let credentials = {
        let path = format!("{path}.credentials");
        let credentials = credentials(wire.credentials, &path)?;
        if let Some((key, reference)) = credentials.secret() {
            check_role(reference, Role::Scanner, &format!("{path}.{key}"))?;
        }
        credentials
    };
    let has_login = !matches!(credentials, CredentialsConfig::Anonymous);
    if insecure && has_login && !is_loopback(without_port(&pattern)) {
        warnings.push(format!(
            "{path}: insecure: true sends its credentials over plain HTTP, where others on the way can read them"
        ));
    }
    Ok(RegistryConfig {
        matcher,
        credentials,
        insecure,
        ca: ca.transpose()?,
        pulls,
        allow: allow.collect::<Result<_, _>>()?,
        pattern,
    })
}

/// Where certificates may be: they are no secret, but a function has no files of its own.
fn ca(text: &str, path: &str) -> Result<SecretRef, ConfigError> {
    match SecretRef::parse(text) {
        None | Some(SecretRef::Env(_)) => {
            let what = "file:PATH, ssm:/NAME or secretsmanager:NAME[#key]";
            Err(expected(path, what))
        }
        Some(reference) => check_role(&reference, Role::Scanner, path).map(|()| reference),
    }
}

const TYPES: [&str; 6] = ["basic", "bearer", "ecr", "gar", "acr", "anonymous"];

fn credentials(
    wire: Option<WireCredentials>,
    path: &str,
) -> Result<CredentialsConfig, ConfigError> {
    let Some(wire) = wire else {
        return Ok(CredentialsConfig::Anonymous);
    };
    let WireCredentials {
        credentials_type,
        mut username,
        mut password,
        mut token,
        mut key,
        mut tenant,
    } = wire;
    let missing = |name: &str, what: &str| expected(&format!("{path}.{name}"), what);
    // The CLI would log in with half a login, or with none.
    if username.as_ref().is_some_and(|it| it.trim().is_empty()) {
        return Err(missing("username", "a user name"));
    }
    let credentials = match credentials_type.as_str() {
        "anonymous" => CredentialsConfig::Anonymous,
        "basic" => CredentialsConfig::Basic {
            username: username
                .take()
                .ok_or_else(|| missing("username", "a user name"))?,
            password: password
                .take()
                .ok_or_else(|| missing("password", REFERENCE))?,
        },
        "bearer" => CredentialsConfig::Bearer {
            username: username.take().unwrap_or_else(|| "token".to_owned()),
            token: token.take().ok_or_else(|| missing("token", REFERENCE))?,
        },
        "ecr" => CredentialsConfig::Ecr,
        "gar" => CredentialsConfig::Gar { key: key.take() },
        "acr" => CredentialsConfig::Acr {
            tenant: tenant
                .take()
                .filter(|it| is_tenant(it))
                .ok_or_else(|| missing("tenant", "a directory's id or domain"))?,
            username: username
                .take()
                .ok_or_else(|| missing("username", "a user name"))?,
            password: password
                .take()
                .ok_or_else(|| missing("password", REFERENCE))?,
        },
        other => return Err(expected_word(&format!("{path}.type"), other, &TYPES)),
    };
    let unused = [
        ("username", username.is_some()),
        ("password", password.is_some()),
        ("token", token.is_some()),
        ("key", key.is_some()),
        ("tenant", tenant.is_some()),
    ];
    match unused.iter().find(|(_, is_set)| *is_set) {
        Some((name, _)) => {
            let problem = format!("type {credentials_type} has no such key");
            Err(error(&format!("{path}.{name}"), problem))
        }
        None => Ok(credentials),
    }
}

/// It becomes part of a URL.
fn is_tenant(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'.'))
}
