//! What the configuration says of scanning.

use std::sync::Arc;
use std::time::Duration;

use scanhook_config::config::{Config, ConfigError, ScannerConfig};
use scanhook_config::secrets::{Reread, Secret, Secrets};
use scanhook_core::image::Image;
use scanhook_core::platform::Platform;
use scanhook_core::retry::RetryPolicy;
use scanhook_core::source::{Source, SourceName};
use scanhook_core::tools::{Backend, ScanInputs};
use secrecy::SecretString;

/// The settings, with every secret at hand.
#[derive(Debug)]
pub struct ScannerSettings {
    config: Arc<Config>,
    api_token: Secret,
}

impl ScannerSettings {
    /// Reads every secret that scanning needs.
    pub async fn load(secrets: &Secrets, config: Arc<Config>) -> Result<Self, ConfigError> {
        let scanner = config.scanner.as_ref();
        let missing = || ConfigError::new("scanner", "missing: without it nothing can be scanned");
        let scanner = scanner.ok_or_else(missing)?;
        let api_token = scanner.token(secrets).await?;
        Ok(Self { config, api_token })
    }

    fn scanner(&self) -> &ScannerConfig {
        match &self.config.scanner {
            Some(scanner) => scanner,
            None => unreachable!("checked by `load`"),
        }
    }

    /// Sysdig's address.
    pub fn api_url(&self) -> &str {
        &self.scanner().api_url
    }

    /// The longest time for one scan.
    pub fn timeout(&self) -> Duration {
        self.scanner().timeout
    }

    /// How failures are tried again.
    pub fn retry(&self) -> &RetryPolicy {
        &self.config.retry
    }

    /// How long content counts as scanned.
    pub fn dedup_window(&self) -> Duration {
        self.config.dedup_window
    }

    /// The source of that name, if it is configured.
    pub fn source(&self, name: &SourceName) -> Option<&Source> {
        self.config.sources.get(name).map(|it| &it.source)
    }

    /// The policies for images of that source; `None` if it is not configured.
    pub fn policies(&self, source: &SourceName) -> Option<Vec<String>> {
        let of_source = &self.config.sources.get(source)?.policies;
        let mut policies = self.scanner().policies.clone();
        policies.extend(
            of_source
                .iter()
                .filter(|it| !self.scanner().policies.contains(it))
                .cloned(),
        );
        Some(policies)
    }

    /// Which platforms of an index are wanted for images of that source; none means the usual one.
    pub fn platforms(&self, source: &SourceName) -> &[Platform] {
        let source = self.config.sources.get(source);
        source.map_or(&[], |it| it.platforms.as_slice())
    }

    /// The largest image that is scanned, in bytes.
    pub fn max_image(&self) -> u64 {
        self.scanner().max_image
    }

    /// What a run for an image needs, with the policies for all sources, and without what only its registry knows.
    pub async fn inputs(&self, image: Image) -> ScanInputs {
        let scanner = self.scanner();
        ScanInputs {
            image,
            backend: Some(Backend {
                url: scanner.api_url.clone(),
                token: self.api_token.value().await,
            }),
            policies: scanner.policies.clone(),
            login: None,
            certificates: None,
        }
    }

    /// Reads Sysdig's token again, which was refused.
    pub async fn reread_token(&self, refused: &SecretString) -> Reread {
        self.api_token.reread(refused).await
    }
}
