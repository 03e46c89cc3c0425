//! The configuration that `--config` names.

use std::io::ErrorKind;

use scanhook_config::config::Config;
use scanhook_config::file::ReadFileError;
use scanhook_config::location::{LoadError, Location};
use scanhook_config::secrets::{ResolveSecretError, Secrets};

use crate::outcome::unusable;

/// Loads the configuration from a path, or from a location of the form that `SCANHOOK_CONFIG` has.
pub(crate) async fn load(text: &str, secrets: &Secrets) -> anyhow::Result<Config> {
    let location = if text.contains(':') {
        Location::parse(text).map_err(unusable)?
    } else {
        Location::File(text.into())
    };
    location.load(secrets).await.map_err(|err| match &err {
        LoadError::Read {
            source:
                ResolveSecretError::File {
                    problem: ReadFileError::Unreadable(ErrorKind::NotFound),
                    ..
                },
            ..
        } => {
            let advice =
                "no configuration found; write one with `scanhook init`, or name one with --config";
            unusable(anyhow::Error::from(err).context(advice))
        }
        _ => unusable(err),
    })
}
