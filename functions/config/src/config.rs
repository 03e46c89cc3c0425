//! The configuration, checked: every value here can be used as it is.

mod auth;
mod error;
mod outline;
mod payload;
mod registry;
mod source;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::try_join_all;
use http::Uri;
use scanhook_core::auth::{Credential, Scheme};
use scanhook_core::image::Registry;
use scanhook_core::oidc::Expected;
use scanhook_core::platform::Platform;
use scanhook_core::retry::{DEAD_LETTERS_KEPT, RetryPolicy};
use scanhook_core::source::{Source, SourceName};
use secrecy::SecretString;
use serde::Deserialize as _;
use serde_path_to_error::Track;
use serde_saphyr::{MergeKeyPolicy, NonFiniteFloatPolicy};

pub use self::error::ConfigError;
use self::error::expected;
use self::registry::registry;
pub use self::registry::{CredentialsConfig, RegistryConfig};
use self::source::{glob, source};
use crate::secrets::{ResolveSecretError, Role, Secret, SecretRef, Secrets, Strength};
use crate::wire::{REFERENCE, WireConfig, WireRetry, WireScanner};

/// All that `scanhook.yaml` says.
#[derive(Debug)]
pub struct Config {
    /// The senders, by name.
    pub sources: BTreeMap<SourceName, SourceConfig>,
    /// How images are pulled, in the order of the file.
    pub registries: Vec<RegistryConfig>,
    /// The scanner, if this configuration is for one too.
    pub scanner: Option<ScannerConfig>,
    /// How long content counts as scanned.
    pub dedup_window: Duration,
    /// How failures are tried again.
    pub retry: RetryPolicy,
    /// How long the ledger keeps what it knows: `ledger.keep` and the dedup window, since a message that arrives at the end
    /// of the window may wait as long as a dead letter before a scan satisfies it.
    pub ledger_keep: Duration,
    /// The longest body of a delivery, in bytes.
    pub body_limit: u64,
    /// What is written in the file but not acted on by this version, each as a sentence.
    pub warnings: Vec<String>,
}

/// One sender.
#[derive(Debug)]
pub struct SourceConfig {
    /// What it is and what is wanted of it.
    pub source: Source,
    /// How it authenticates; any one suffices.
    pub auth: Vec<AuthConfig>,
    /// Policies for its images.
    pub policies: Vec<String>,
    /// How many deliveries are taken; `None`: all.
    pub rate_limit: Option<RateLimit>,
    /// Which platforms of an index are scanned; none means the usual one.
    pub platforms: Vec<Platform>,
}

/// One way to authenticate.
#[derive(Debug)]
pub enum AuthConfig {
    /// By a secret that both sides know.
    Shared {
        /// The way.
        scheme: Scheme,
        /// Where its secret is.
        secret: SecretRef,
    },
    /// By a token of an identity provider.
    Oidc(Expected),
}

impl AuthConfig {
    /// The word for it in the configuration.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Shared { scheme, .. } => scheme.as_str(),
            Self::Oidc(_) => "oidc",
        }
    }

    /// The way and the place of its secret, if it has one.
    pub fn shared(&self) -> Option<(&Scheme, &SecretRef)> {
        match self {
            Self::Shared { scheme, secret } => Some((scheme, secret)),
            Self::Oidc(_) => None,
        }
    }
}

/// How many deliveries a source may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// In the long run.
    pub per_minute: NonZeroU32,
    /// At once.
    pub burst: NonZeroU32,
}

/// How scans are run.
#[derive(Debug)]
pub struct ScannerConfig {
    /// Sysdig's address.
    pub api_url: String,
    /// Where Sysdig's token is.
    pub api_token: SecretRef,
    /// Policies for every image.
    pub policies: Vec<String>,
    /// The longest time for one scan.
    pub timeout: Duration,
    /// How many scans run at once in `serve` and `work`.
    pub concurrency: u32,
    /// The largest image that is scanned: the sum of its compressed layers, in bytes.
    pub max_image: u64,
}

impl ScannerConfig {
    /// Reads Sysdig's token.
    pub async fn token(&self, secrets: &Secrets) -> Result<Secret, ConfigError> {
        let token = secrets.resolve(&self.api_token, Strength::Given).await;
        token.map_err(|err| secret_error("scanner.api_token", &err))
    }
}

impl Config {
    /// Tells the log what is allowed and probably not meant.
    pub fn log_warnings(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }

    /// Reads and checks the text of a `scanhook.yaml`.
    pub fn parse(yaml: &str) -> Result<Self, ConfigError> {
        let config = read(yaml).and_then(Self::check);
        config.map_err(|err| err.located(yaml))
    }

    fn check(wire: WireConfig) -> Result<Self, ConfigError> {
        let mut warnings = Vec::new();
        let mut sources = BTreeMap::new();
        for (name, wire) in wire.sources {
            let path = format!("sources.{name}");
            let name = SourceName::try_from(name).map_err(|err| error(&path, err.to_string()))?;
            let source = source(name.clone(), wire, &path, &mut warnings)?;
            sources.insert(name, source);
        }
        if sources.is_empty() {
            return Err(expected("sources", "a map of at least one source"));
        }
        let registries = wire.registries.into_iter();
        let registries = registries.map(|(pattern, wire)| registry(pattern, wire, &mut warnings));
        let registries: Vec<RegistryConfig> = registries.collect::<Result<_, _>>()?;
        for (index, entry) in registries.iter().enumerate() {
            if registries
                .iter()
                .take(index)
                .any(|it| it.pattern == entry.pattern)
            {
                let problem = format!(
                    "the host {:?} is repeated: hosts are compared in lower case and without :443",
                    entry.pattern
                );
                return Err(error("registries", problem));
            }
        }
        let scanner = wire.scanner.map(scanner).transpose()?;
        let dedup_window = wire.dedup.window.map_or(Duration::from_mins(10), |it| it.0);
        Ok(Self {
            sources,
            registries,
            scanner,
            dedup_window,
            retry: retry(&wire.retry)?,
            ledger_keep: history_kept(wire.ledger.keep.map(|it| it.0))?
                .saturating_add(dedup_window),
            body_limit: body_limit(wire.limits.body.map(|it| it.0))?,
            warnings,
        })
    }

    /// How to pull from a host: the most specific entry for it, of equals the first.
    pub fn registry(&self, registry: &Registry) -> Option<&RegistryConfig> {
        let entries = self.registries.iter().filter(|it| it.is_for(registry));
        entries.rev().max_by_key(|it| it.specificity())
    }

    /// The files that hold its secrets.
    pub fn secret_files(&self) -> impl Iterator<Item = PathBuf> {
        let auth = self.sources.values().flat_map(|it| &it.auth);
        let auth = auth.filter_map(|it| it.shared().map(|(_, secret)| secret));
        let credentials = self.registries.iter();
        let credentials = credentials.filter_map(|it| it.credentials.secret().map(|(_, it)| it));
        let token = self.scanner.as_ref().map(|it| &it.api_token);
        let references = auth.chain(credentials).chain(token);
        references.filter_map(|it| match it {
            SecretRef::File(path) => Some(path.clone()),
            _ => None,
        })
    }

    /// Whether the configuration itself names this host, as a registry or as that of a source.
    pub fn names(&self, registry: &Registry) -> bool {
        let mut sources = self.sources.values().map(|it| &it.source);
        self.registry(registry).is_some() || sources.any(|it| it.owns_host(registry))
    }
}

impl SourceConfig {
    /// Reads the secrets of this source's credentials: one for each entry of `auth`, in that order; `None` for `oidc`,
    /// which has none.
    pub async fn secrets(&self, secrets: &Secrets) -> Result<Vec<Option<Secret>>, ConfigError> {
        let resolved = self.auth.iter().enumerate().map(async |(index, auth)| {
            let Some((_, reference)) = auth.shared() else {
                return Ok(None);
            };
            let secret = secrets.resolve(reference, Strength::Chosen).await;
            let path = format!("sources.{}.auth[{index}].secret", self.source.name);
            secret.map(Some).map_err(|err| secret_error(&path, &err))
        });
        try_join_all(resolved).await
    }

    /// The credentials that a sender can show who knows what we know, with their secrets' present values.
    pub async fn credentials(&self, secrets: &Secrets) -> Result<Vec<Credential>, ConfigError> {
        let resolved = self.secrets(secrets).await?;
        let credentials = self.auth.iter().zip(resolved).filter_map(|(auth, secret)| {
            Some(Credential {
                scheme: auth.shared()?.0.clone(),
                secret: SecretString::clone(&secret?.present()),
            })
        });
        Ok(credentials.collect())
    }
}

/// Reads a file's YAML into the types of its values.
fn read(yaml: &str) -> Result<WireConfig, ConfigError> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        // Only true and false, as in YAML 1.2: `on` and `no` are strings.
        strict_booleans: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Error,
    };
    let mut path = None;
    let wire = serde_saphyr::with_deserializer_from_str_with_options(yaml, options, |it| {
        let mut track = Track::new();
        let wire = WireConfig::deserialize(serde_path_to_error::Deserializer::new(it, &mut track));
        path = wire.is_err().then(|| track.path().to_string());
        wire
    });
    wire.map_err(|err| {
        let path = path.unwrap_or_default();
        // Between two keys the path ends with `?`.
        let path = path.trim_end_matches('?').trim_end_matches('.');
        ConfigError::of_yaml(&err, path)
    })
}

/// The error of a reference that can't be resolved, with its key's path.
fn secret_error(path: &str, err: &ResolveSecretError) -> ConfigError {
    error(path, err.to_string())
}

/// Refuses a reference to what the one who needs it may not read.
fn check_role(reference: &SecretRef, role: Role, path: &str) -> Result<(), ConfigError> {
    if reference.is_of(role) {
        return Ok(());
    }
    let (who, prefix) = match role {
        Role::Webhook => ("webhook", Role::Webhook.prefix()),
        Role::Scanner => ("scanner", Role::Scanner.prefix()),
    };
    let problem = format!("the {who} may only read secrets of AWS whose names begin with {prefix}");
    Err(error(path, problem))
}

fn error(path: &str, problem: impl Into<String>) -> ConfigError {
    ConfigError::new(path, problem)
}

fn scanner(wire: WireScanner) -> Result<ScannerConfig, ConfigError> {
    let api_url = wire
        .api_url
        .unwrap_or_else(|| "https://secure.sysdig.com".to_owned());
    let url = api_url.parse::<Uri>().ok();
    let url = url.filter(|_| api_url.is_ascii() && !api_url.contains('@'));
    let is_safe = match url.as_ref().and_then(|it| it.scheme_str().zip(it.host())) {
        Some(("https", _)) => true,
        Some(("http", host)) => is_loopback(host),
        _ => {
            let what = "a URL such as https://secure.sysdig.com";
            return Err(expected("scanner.api_url", what));
        }
    };
    if !is_safe {
        let what = "an https URL, since Sysdig's token goes there; http only on this machine";
        return Err(expected("scanner.api_url", what));
    }
    let timeout = wire.timeout.map_or(Duration::from_mins(10), |it| it.0);
    if timeout.is_zero() {
        return Err(expected("scanner.timeout", "a duration longer than 0s"));
    }
    let concurrency = wire.concurrency.map_or(1, |it| it.0);
    if !(1..=64).contains(&concurrency) {
        return Err(expected("scanner.concurrency", "a number between 1 and 64"));
    }
    let api_token = wire.api_token;
    let api_token = api_token.ok_or_else(|| expected("scanner.api_token", REFERENCE))?;
    check_role(&api_token, Role::Scanner, "scanner.api_token")?;
    let max_image = wire.max_image.map_or(8 << 30, |it| it.0);
    if max_image == 0 {
        return Err(expected("scanner.max_image", "a size larger than 0B"));
    }
    let policies = checked_policies(wire.policies, "scanner")?;
    Ok(ScannerConfig {
        api_url,
        api_token,
        policies,
        timeout,
        concurrency,
        max_image,
    })
}

fn checked_policies(policies: Vec<String>, path: &str) -> Result<Vec<String>, ConfigError> {
    match policies
        .iter()
        .position(|it| it.is_empty() || it.chars().any(char::is_control))
    {
        Some(index) => Err(expected(
            &format!("{path}.policies[{index}]"),
            "the name of a policy, without control characters",
        )),
        None => Ok(policies),
    }
}

fn retry(wire: &WireRetry) -> Result<RetryPolicy, ConfigError> {
    let attempts = wire.attempts.map_or(10, |it| it.0);
    if !(2..=1000).contains(&attempts) {
        return Err(expected(
            "retry.attempts",
            "a number between 2 and 1000, since SQS may count a receive that nobody saw",
        ));
    }
    let base = wire.base.as_ref();
    let base = base.map_or(Duration::from_secs(30), |it| it.0);
    let cap = wire.cap.as_ref();
    let cap = cap.map_or(Duration::from_hours(1), |it| it.0);
    if cap < base {
        let what = "a duration that is not shorter than retry.base";
        return Err(expected("retry.cap", what));
    }
    Ok(RetryPolicy {
        attempts,
        base,
        cap,
    })
}

fn history_kept(keep: Option<Duration>) -> Result<Duration, ConfigError> {
    let keep = keep.unwrap_or(Duration::from_hours(90 * 24));
    if keep < DEAD_LETTERS_KEPT {
        let what = "at least 14d, as long as the dead-letter queue keeps a message";
        return Err(expected("ledger.keep", what));
    }
    Ok(keep)
}

/// Whether a host, without a port, is this machine.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|it| it.is_loopback())
}

/// The longest body of a delivery that a configuration can allow, in bytes: Lambda takes at most 6 MB, and base64 inflates.
pub const MAX_BODY: u64 = 4 << 20;

fn body_limit(bytes: Option<u64>) -> Result<u64, ConfigError> {
    let bytes = bytes.unwrap_or(1 << 20);
    if (1024..=MAX_BODY).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(expected("limits.body", "a size between 1KiB and 4MiB"))
    }
}

#[cfg(test)]
mod mistakes;

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
sources:
  prod:
    kind: harbor
    registry: harbor.example.com
    auth:
      - { type: token, header: Authorization, secret: "env:HARBOR" }
"#;

    fn check(yaml: &str) -> String {
        match Config::parse(yaml) {
            Ok(config) => format!("ok {}", config.warnings.join("; ")),
            Err(err) => without_place(&err.to_string()),
        }
    }

    /// The tests of single keys are about what is wrong with them; `mistakes` is about lines and columns.
    fn without_place(message: &str) -> String {
        let (path, rest) = message.split_once(" (line ").unwrap();
        format!("{path}{}", rest.split_once(')').unwrap().1)
    }

    fn check_with(line: &str) -> String {
        check(&format!("{GOOD}    {line}\n"))
    }

    fn check_auth(entry: &str) -> String {
        check(&GOOD.replace(
            r#"{ type: token, header: Authorization, secret: "env:HARBOR" }"#,
            entry,
        ))
    }

    #[test]
    fn the_smallest_configuration_has_the_contracts_defaults() {
        let config = Config::parse(GOOD).unwrap();
        assert_eq!(config.body_limit, 1 << 20);
        assert_eq!(config.dedup_window, Duration::from_mins(10));
        assert_eq!(
            config.retry,
            RetryPolicy {
                attempts: 10,
                base: Duration::from_secs(30),
                cap: Duration::from_hours(1)
            }
        );
        assert!(config.warnings.is_empty());
    }

    #[test]
    fn the_ledger_forgets_nothing_before_the_dead_letter_queue_does() {
        let check_keep = |keep: &str| check(&format!("{GOOD}ledger: {{ keep: {keep} }}"));
        for keep in ["1s", "0s", "13d", "335h 59m"] {
            assert_eq!(
                check_keep(keep),
                "ledger.keep: expected at least 14d, as long as the dead-letter queue keeps a message, found a string",
                "{keep}"
            );
        }
        assert_eq!(check_keep("14d"), "ok ");
        assert_eq!(check_keep("1000y"), "ok ");
    }

    #[test]
    fn a_scan_is_remembered_as_long_as_a_message_that_it_satisfies_may_wait() {
        let days = |days: u64| Duration::from_hours(days * 24);
        for (lines, kept) in [
            ("", days(90) + Duration::from_mins(10)),
            ("dedup: { window: 100d }\nledger: { keep: 14d }", days(114)),
        ] {
            let config = Config::parse(&format!("{GOOD}{lines}")).unwrap();
            assert_eq!(config.ledger_keep, kept, "{lines}");
        }
    }

    #[test]
    fn a_source_of_ecr_has_a_host_of_ecr() {
        let ecr = |registry: &str, hosts: &str| {
            check(&format!(
                "sources:\n  a:\n    kind: ecr\n    registry: {registry}\n    hosts: [{hosts}]\n    auth: [{{ type: token, secret: \"env:A\" }}]\n"
            ))
        };
        let own = "123456789012.dkr-ecr.eusc-de-east-1.on.amazonwebservices.eu";
        assert_eq!(ecr(own, "").trim_end(), "ok");
        assert_eq!(ecr("cache.example.com", own).trim_end(), "ok");
        for (registry, hosts) in [
            ("registry.example.com", ""),
            ("public.ecr.aws", "cache.example.com"),
        ] {
            let problem = ecr(registry, hosts);
            assert!(problem.starts_with("sources.a.registry: "), "{problem}");
        }
    }

    #[test]
    fn keys_of_registries_are_compared_in_one_form() {
        for (key, named) in [
            ("R.example.com", "r.example.com:443"),
            ("r.example.com:443", "r.example.com"),
            ("\"*.Example.com:443\"", "r.example.com"),
            ("\"*.example.com\"", "r.example.com:443"),
        ] {
            let config = Config::parse(&format!("{GOOD}registries:\n  {key}: {{}}\n")).unwrap();
            let named = Registry::parse(named).unwrap();
            assert!(config.registry(&named).is_some(), "{key} {named}");
            let other = Registry::parse("r.example.com:80").unwrap();
            assert!(config.registry(&other).is_none(), "{key}");
        }
        let twice = "registries:\n  r.example.com: {}\n  R.example.com:443: {}\n";
        assert_eq!(
            check(&format!("{GOOD}{twice}")),
            "registries: the host \"r.example.com\" is repeated: hosts are compared in lower case and without :443"
        );
    }

    #[test]
    fn an_error_names_the_path_of_its_key() {
        insta::assert_snapshot!(check("{}"), @"sources: expected a map of at least one source, found nothing");
        insta::assert_snapshot!(check("sources: {}"), @"sources: expected a map of at least one source, found an empty map");
        insta::assert_snapshot!(check("sources: [1, 2]"), @"sources: expected a map, found a list");
        insta::assert_snapshot!(check_with("colour: red"), @r#"sources.prod.colour: expected one of kind, registry, hosts, auth, include, exclude, tags, untagged, platforms, policies, events, repo_key, payload, rate_limit, found the key "colour""#);
        insta::assert_snapshot!(check_with("registry: other.example.com"), @r#"sources.prod: the key "registry" is repeated"#);
        insta::assert_snapshot!(check(&format!("{GOOD}{}", GOOD.replace("sources:\n", ""))), @r#"sources: the key "prod" is repeated"#);
        insta::assert_snapshot!(check_with("hosts: [\"user@host\"]"), @"sources.prod.hosts[0]: expected the host that images are pulled from: a name or an address in lower case, with an optional port, found a string");
        insta::assert_snapshot!(check_with("include: [\"{\"]"), @"sources.prod.include[0]: expected a pattern, in which *, ** and ? match characters and {a,b} alternatives, found a string");
        insta::assert_snapshot!(check_with("untagged: perhaps"), @r#"sources.prod.untagged: expected one of skip, scan, found "perhaps""#);
        insta::assert_snapshot!(check(&GOOD.replace("harbor\n", "harbour\n")), @r#"sources.prod.kind: expected one of acr, artifactory, distribution, docker-hub, ecr, gar, generic, ghcr, gitea, gitlab, harbor, nexus, quay, zot, found "harbour"; did you mean "harbor"?"#);
        insta::assert_snapshot!(check(&GOOD.replace("    registry: harbor.example.com\n", "")), @"sources.prod.registry: expected the host that images are pulled from: a name or an address in lower case, with an optional port, found nothing");
        insta::assert_snapshot!(check(&GOOD.replace("prod:", "\"a b\":")), @"sources.a b: a source's name is 1 to 64 letters, digits, '-', '_' or '.', and starts with a letter or digit");
        insta::assert_snapshot!(check(&format!("{GOOD}limits: {{ body: 1GiB }}")), @"limits.body: expected a size between 1KiB and 4MiB, found a string");
        insta::assert_snapshot!(check(&format!("{GOOD}limits: {{ body: much }}")), @"limits.body: expected a size such as 1MiB or 8GiB, found a string");
        insta::assert_snapshot!(check(&format!("{GOOD}retry: {{ attempts: 1 }}")), @"retry.attempts: expected a number between 2 and 1000, since SQS may count a receive that nobody saw, found a number");
        insta::assert_snapshot!(check(&format!("{GOOD}retry: {{ base: 2h }}")), @"retry.cap: expected a duration that is not shorter than retry.base, found nothing");
        insta::assert_snapshot!(check(&format!("{GOOD}dedup: {{ window: soon }}")), @"dedup.window: expected a duration such as 30s, 10m, 1h or 90d, found a string");
        insta::assert_snapshot!(check(&format!("{GOOD}scanner: {{ api_url: \"ftp://x\", api_token: \"env:T\" }}")), @"scanner.api_url: expected a URL such as https://secure.sysdig.com, found a string");
        insta::assert_snapshot!(check(&format!("{GOOD}registries: {{ a.io: {{ credentials: {{ type: basic }} }} }}")), @"registries.a.io.credentials.username: expected a user name, found nothing");
        insta::assert_snapshot!(check(&format!("{GOOD}registries: {{ a.io: {{ credentials: {{ type: magic }} }} }}")), @r#"registries.a.io.credentials.type: expected one of basic, bearer, ecr, gar, acr, anonymous, found "magic""#);
    }

    #[test]
    fn a_source_must_say_how_it_is_authenticated() {
        assert!(check_auth("").starts_with("sources.prod.auth"));
        assert_eq!(
            check_auth("{ type: none, secret: \"env:A\" }"),
            "sources.prod.auth[0].type: expected one of hmac, token, bearer, basic, path_token, oidc, found \"none\""
        );
        assert_eq!(
            check_auth("{ type: bearer }"),
            "sources.prod.auth[0].secret: expected a reference such as env:NAME, file:PATH, ssm:/NAME or secretsmanager:NAME[#key], found nothing"
        );
        assert_eq!(
            check_auth("{ type: bearer, secret: a-literal-secret-value }"),
            "sources.prod.auth[0].secret: expected a reference such as env:NAME, file:PATH, ssm:/NAME or secretsmanager:NAME[#key], found a string"
        );
        assert_eq!(
            check_auth("{ type: bearer, header: X, secret: \"env:A\" }"),
            "sources.prod.auth[0].header: does not belong to this type of credential"
        );
        assert_eq!(
            check_auth("{ type: basic, secret: \"env:A\" }"),
            "sources.prod.auth[0].username: expected a user name, found nothing"
        );
        assert_eq!(
            check_auth("{ type: hmac, secret: \"env:A\" }"),
            "sources.prod.auth[0].header: expected the header of its signature, since harbor has none of its own, found nothing"
        );
        assert_eq!(
            check_auth("{ type: hmac, header: X-Signature, algorithm: sha256, secret: \"env:A\" }"),
            "ok sources.prod.auth: Harbor itself sends no hmac credential"
        );
        assert_eq!(
            check_auth("{ type: token, header: \"a b\", secret: \"env:A\" }"),
            "sources.prod.auth[0].header: expected the name of a header, found a string"
        );
        let ghcr = GOOD
            .replace("harbor\n", "ghcr\n")
            .replace("    registry: harbor.example.com\n", "");
        let config = Config::parse(&ghcr.replace("token, header: Authorization", "hmac")).unwrap();
        let Some((Scheme::Hmac(scheme), _)) = config.sources["prod"].auth[0].shared() else {
            panic!("not hmac")
        };
        assert_eq!(
            (scheme.header.as_str(), scheme.prefix.as_str()),
            ("x-hub-signature-256", "sha256=")
        );
    }

    #[test]
    fn what_belongs_to_other_kinds_is_refused() {
        insta::assert_snapshot!(check_with("events: [quarantine]"), @"sources.prod.events[0]: Harbor has no events besides pushes");
        insta::assert_snapshot!(check_with("repo_key: drop"), @"sources.prod.repo_key: Harbor has no repository key in its payloads");
        insta::assert_snapshot!(check_with("payload: { repository: /a, tag: /b }"), @"sources.prod.payload: only sources of kind generic have a payload map");
        let acr = GOOD.replace("harbor\n", "acr\n");
        insta::assert_snapshot!(check(&format!("{acr}    events: [quarantine]\n")), @"ok");
        insta::assert_snapshot!(check(&format!("{acr}    events: [delete]\n")), @r#"sources.prod.events[0]: expected one of quarantine, found "delete""#);
    }

    #[test]
    fn a_payload_map_is_checked_when_it_is_read() {
        let generic = |payload: &str| {
            check(&format!(
                "{}    payload: {payload}\n",
                GOOD.replace("harbor\n", "generic\n")
            ))
        };
        insta::assert_snapshot!(generic("{ repository: [/a, /b], tag: /t, match: { /type: [PUSH], \"header:Ce-Type\": null } }"), @"ok");
        insta::assert_snapshot!(generic("{ repository: a, tag: /t }"), @"sources.prod.payload.repository: expected a JSON Pointer such as /data/tag, found a string");
        insta::assert_snapshot!(generic("{ repository: /a }"), @"sources.prod.payload: expected a map that has tag or digest, found a map");
        insta::assert_snapshot!(generic("{ repository: [], tag: /t }"), @"sources.prod.payload.repository: expected a JSON Pointer such as /data/repository, or a list of them, found an empty list");
        insta::assert_snapshot!(generic("{ repository: /a, tag: t }"), @"sources.prod.payload.tag: expected a JSON Pointer such as /data/tag, found a string");
        insta::assert_snapshot!(generic("{ repository: /a, tag: /t, match: { type: [PUSH] } }"), @"sources.prod.payload.match: expected keys that are JSON Pointers such as /type, or header:NAME, found a map");
        insta::assert_snapshot!(generic("{ repository: /a, tag: /t, match: { /a: [x], /a: [y] } }"), @r#"sources.prod.payload.match: the key "/a" is repeated"#);
        insta::assert_snapshot!(generic("{ repository: /a, tag: /t, label: /x }"), @r#"sources.prod.payload.label: expected one of events, match, ping, repository, tag, digest, host, media_type, id, type, actor, time, found the key "label""#);
    }

    #[test]
    fn a_star_in_a_registry_pattern_is_one_label() {
        let yaml = format!(
            "{GOOD}registries:\n  \"*.dkr.ecr.*.amazonaws.com\": {{ credentials: {{ type: basic, username: a, password: \"env:A\" }} }}\n  h.io:5000: {{}}\n"
        );
        let config = Config::parse(&yaml).unwrap();
        let found = |host: &str| {
            config
                .registry(&Registry::parse(host).unwrap())
                .map(|it| it.pattern.as_str())
        };
        assert_eq!(
            found("1.dkr.ecr.eu-west-1.amazonaws.com"),
            Some("*.dkr.ecr.*.amazonaws.com")
        );
        for host in [
            "x.dkr.ecr.y.amazonaws.com.evil",
            "x.y.dkr.ecr.z.amazonaws.com",
            "dkr.ecr.y.amazonaws.com",
            "h.io",
            "h.io:5001",
        ] {
            assert_eq!(found(host), None, "{host}");
        }
        assert_eq!(found("h.io:5000"), Some("h.io:5000"));
    }

    #[test]
    fn a_token_of_a_provider_must_be_for_us_and_of_one_account() {
        let all = "type: oidc, issuer: \"https://issuer.example.com\", audience: scanhook";
        let entry = |more: &str| check_auth(&format!("{{ {all}, {more} }}"));
        let told = "ok sources.prod.auth: Harbor itself sends no oidc credential";
        assert_eq!(entry("email: push@example.com"), told);
        assert_eq!(entry("subject: \"1137\""), told);
        for (more, expected) in [
            (
                "email: \"\"",
                "email: expected an email address, found an empty string",
            ),
            (
                "email: a@b, subject: c",
                "subject: either email or subject says of whom a token must tell, not both",
            ),
            (
                "email: a@b, secret: \"env:A\"",
                "secret: does not belong to this type of credential",
            ),
        ] {
            assert_eq!(entry(more), format!("sources.prod.auth[0].{expected}"));
        }
        for (entry, expected) in [
            (
                "type: oidc, audience: a, email: a@b",
                "issuer: expected an https URL without query, such as https://accounts.google.com, found nothing",
            ),
            (
                "type: oidc, issuer: \"https://i.example.com\", email: a@b",
                "audience: expected an audience, found nothing",
            ),
            (
                "type: oidc, issuer: \"https://i.example.com\", audience: a",
                "email: expected an email address, found nothing",
            ),
            (
                "type: oidc, issuer: \"http://i.example.com\", audience: a, email: a@b",
                "issuer: expected an https URL without query, such as https://accounts.google.com, found a string",
            ),
            (
                "type: bearer, secret: \"env:A\", audience: a",
                "audience: does not belong to this type of credential",
            ),
        ] {
            let told = check_auth(&format!("{{ {entry} }}"));
            assert_eq!(told, format!("sources.prod.auth[0].{expected}"));
        }
    }

    /// What is wrong with a configuration whose references all lead to these values.
    async fn resolved(yaml: &str, of_first: &'static str, of_others: &'static str) -> String {
        let environment: crate::Environment = std::sync::Arc::new(move |name| {
            Some(if name == "FIRST" { of_first } else { of_others }.to_owned())
        });
        let secrets = Secrets::local(&environment);
        let config = match Config::parse(yaml) {
            Ok(config) => config,
            Err(err) => return err.to_string(),
        };
        let all = async {
            for source in config.sources.values() {
                source.secrets(&secrets).await?;
            }
            for registry in &config.registries {
                registry.secret(&secrets).await?;
            }
            match &config.scanner {
                Some(scanner) => scanner.token(&secrets).await.map(drop),
                None => Ok(()),
            }
        };
        all.await
            .map_or_else(|err| err.to_string(), |()| "ok".to_owned())
    }

    #[tokio::test]
    async fn each_secret_of_a_source_is_long_enough_whatever_it_is_for() {
        for auth in [
            "type: hmac, header: X-Signature, algorithm: sha256",
            "type: token",
            "type: bearer",
            "type: basic, username: push",
            "type: path_token",
        ] {
            let second = GOOD.replace(
                r#"secret: "env:HARBOR" }"#,
                &format!(
                    r#"secret: "env:FIRST" }}
      - {{ {auth}, secret: "env:SECOND" }}"#
                ),
            );
            let resolve =
                async |second_value| resolved(&second, "fake-16-bytes...", second_value).await;
            let refused = "sources.prod.auth[1].secret: the secret is";
            assert_eq!(resolve("fake-16-bytes...").await, "ok", "{auth}");
            assert!(
                resolve("fake-15-bytes..")
                    .await
                    .starts_with(&format!("{refused} shorter")),
                "{auth}"
            );
            for empty in ["", "\n", "                \n"] {
                assert_eq!(resolve(empty).await, format!("{refused} empty"), "{auth}");
            }
        }
    }

    #[tokio::test]
    async fn a_secret_that_others_have_issued_is_of_any_length_but_none() {
        for (lines, path) in [
            ("scanner: { api_token: \"env:X\" }", "scanner.api_token"),
            (
                "registries: { a.io: { credentials: { type: basic, username: a, password: \"env:X\" } } }",
                "registries.a.io.credentials.password",
            ),
            (
                "registries: { a.io: { credentials: { type: bearer, token: \"env:X\" } } }",
                "registries.a.io.credentials.token",
            ),
            (
                "registries: { a.io: { credentials: { type: gar, key: \"env:X\" } } }",
                "registries.a.io.credentials.key",
            ),
            (
                "registries: { a.io: { credentials: { type: acr, tenant: t, username: a, password: \"env:X\" } } }",
                "registries.a.io.credentials.password",
            ),
        ] {
            let yaml = format!("{}{lines}\n", GOOD.replace("env:HARBOR", "env:FIRST"));
            let resolve = async |value| resolved(&yaml, "fake-16-bytes...", value).await;
            assert_eq!(resolve("short").await, "ok", "{path}");
            for empty in ["", "\n", " \t\r\n"] {
                let refused = format!("{path}: the secret is empty");
                assert_eq!(resolve(empty).await, refused, "{empty:?}");
            }
        }
        for credentials in [
            "type: basic, username: \"\", password: \"env:X\"",
            "type: bearer, username: \" \", token: \"env:X\"",
            "type: acr, tenant: t, username: \"\", password: \"env:X\"",
        ] {
            let yaml =
                format!("{GOOD}registries: {{ a.io: {{ credentials: {{ {credentials} }} }} }}\n");
            let problem =
                "registries.a.io.credentials.username: expected a user name, found an empty string";
            assert_eq!(check(&yaml), problem);
        }
    }

    #[test]
    fn a_rate_limit_takes_a_minute_at_once_unless_it_says_otherwise() {
        let limit = |line: &str| {
            let config = Config::parse(&format!("{GOOD}    rate_limit: {line}\n"));
            config.map(|it| {
                let limit = it.sources["prod"].rate_limit.unwrap();
                (limit.per_minute.get(), limit.burst.get())
            })
        };
        assert_eq!(limit("{ per_minute: 60 }").unwrap(), (60, 60));
        assert_eq!(limit("{ per_minute: 60, burst: 5 }").unwrap(), (60, 5));
        for (line, path) in [
            ("{ per_minute: 0 }", "per_minute"),
            ("{ per_minute: 1, burst: 0 }", "burst"),
        ] {
            let told = without_place(&limit(line).unwrap_err().to_string());
            assert_eq!(
                told,
                format!(
                    "sources.prod.rate_limit.{path}: expected a number of at least 1, found a number"
                )
            );
        }
    }

    #[test]
    fn a_secret_of_another_role_is_refused() {
        assert_eq!(
            check_auth("{ type: bearer, secret: \"ssm:/scanhook/scanner/x\" }"),
            "sources.prod.auth[0].secret: the webhook may only read secrets of AWS whose names begin with scanhook/webhook"
        );
        for (lines, path) in [
            (
                "scanner: { api_token: \"secretsmanager:scanhook/webhook#x\" }",
                "scanner.api_token",
            ),
            (
                "registries: { r.example.com: { credentials: { type: basic, username: a, password: \"ssm:/x\" } } }",
                "registries.r.example.com.credentials.password",
            ),
        ] {
            assert_eq!(
                check(&format!("{GOOD}{lines}\n")),
                format!(
                    "{path}: the scanner may only read secrets of AWS whose names begin with scanhook/scanner"
                )
            );
        }
    }

    #[test]
    fn the_most_specific_entry_counts_of_equals_the_first() {
        let yaml = format!(
            "{GOOD}registries:\n  \"*.io\": {{}}\n  \"a.*\": {{}}\n  \"*.b.io\": {{}}\n  \"c.b.*\": {{}}\n  c.b.io: {{}}\n  \"[::1]:5000\": {{}}\n"
        );
        let config = Config::parse(&yaml).unwrap();
        let found = |host: &str| {
            let entry = config.registry(&Registry::parse(host).unwrap());
            entry.map(|it| it.pattern.as_str())
        };
        assert_eq!(found("h.io"), Some("*.io"));
        assert_eq!(found("a.io"), Some("*.io"));
        assert_eq!(found("x.b.io"), Some("*.b.io"));
        assert_eq!(found("c.b.com"), Some("c.b.*"));
        assert_eq!(found("c.b.io"), Some("c.b.io"));
        assert_eq!(found("[::1]:5000"), Some("[::1]:5000"));
        assert_eq!(found("h.org"), None);
    }

    #[test]
    fn an_entry_of_a_registry_is_checked_to_the_end() {
        let registry = |entry: &str| check(&format!("{GOOD}registries:\n  a.io: {entry}\n"));
        for good in [
            "{}",
            "{ insecure: true, pulls: 4, allow: [10.0.0.0/8, \"fd00::/8\"] }",
            "{ ca: \"file:/etc/ssl/harbor.pem\" }",
            "{ ca: \"ssm:/scanhook/scanner/harbor-ca\" }",
            "{ ca: \"secretsmanager:scanhook/scanner#harbor-ca\" }",
            "{ credentials: { type: anonymous } }",
            "{ credentials: { type: bearer, token: \"env:T\" } }",
            "{ credentials: { type: ecr } }",
            "{ credentials: { type: gar } }",
            "{ credentials: { type: gar, key: \"env:K\" } }",
            "{ credentials: { type: acr, tenant: example.com, username: id, password: \"env:P\" } }",
        ] {
            assert_eq!(registry(good), "ok ", "{good}");
        }
        insta::assert_snapshot!(registry("{ allow: [10.0.0.0/33] }"), @"registries.a.io.allow[0]: expected a network such as 10.1.0.0/16, found a string");
        insta::assert_snapshot!(registry("{ allow: [harbor.internal] }"), @"registries.a.io.allow[0]: expected a network such as 10.1.0.0/16, found a string");
        insta::assert_snapshot!(registry("{ ca: /etc/ssl/harbor.pem }"), @"registries.a.io.ca: expected file:PATH, ssm:/NAME or secretsmanager:NAME[#key], found a string");
        insta::assert_snapshot!(registry("{ ca: \"env:CA\" }"), @"registries.a.io.ca: expected file:PATH, ssm:/NAME or secretsmanager:NAME[#key], found a string");
        insta::assert_snapshot!(registry("{ ca: \"ssm:/scanhook/webhook/ca\" }"), @"registries.a.io.ca: the scanner may only read secrets of AWS whose names begin with scanhook/scanner");
        insta::assert_snapshot!(registry("{ ca: \"file:/x\", insecure: true }"), @"registries.a.io.ca: of no use with insecure: true, which is plain HTTP");
        insta::assert_snapshot!(registry("{ pulls: 0 }"), @"registries.a.io.pulls: expected a number of at least 1, found a number");
        insta::assert_snapshot!(registry("{ credentials: { type: ecr, password: \"env:P\" } }"), @"registries.a.io.credentials.password: type ecr has no such key");
        insta::assert_snapshot!(registry("{ credentials: { type: bearer } }"), @"registries.a.io.credentials.token: expected a reference such as env:NAME, file:PATH, ssm:/NAME or secretsmanager:NAME[#key], found nothing");
        insta::assert_snapshot!(registry("{ credentials: { type: acr, tenant: a/b, username: id, password: \"env:P\" } }"), @"registries.a.io.credentials.tenant: expected a directory's id or domain, found a string");
        insta::assert_snapshot!(check_with("platforms: [amd64]"), @"sources.prod.platforms[0]: expected OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64; `:` and an OS version may follow, found a string");
        insta::assert_snapshot!(check_with("platforms: [linux/arm64, linux/arm64]"), @"sources.prod.platforms[1]: is repeated");
        insta::assert_snapshot!(check(&format!("{GOOD}scanner: {{ api_token: \"env:T\", max_image: 0B }}")), @"scanner.max_image: expected a size larger than 0B, found a string");
        assert_eq!(check_with("platforms: [linux/amd64, linux/arm/v7]"), "ok ");
    }
}
