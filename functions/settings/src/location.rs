//! Where the configuration is: `SCANHOOK_CONFIG`.

use std::path::{Path, PathBuf};

use crate::config::{Config, ConfigError};

/// A place that holds a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `file:PATH`
    File(PathBuf),
}

/// The configuration can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not `file:PATH`.
    #[error(
        "the configuration's location must be file:PATH; this version reads no ssm: or secretsmanager: yet"
    )]
    Location,
    /// The file can't be read.
    #[error("could not read the configuration file {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file says something wrong.
    #[error("{} is not a valid configuration", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ConfigError,
    },
}

impl Location {
    /// Reads the value of `SCANHOOK_CONFIG`.
    pub fn parse(text: &str) -> Result<Self, LoadError> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(LoadError::Location),
        }
    }

    /// Reads and checks the configuration.
    pub fn load(&self) -> Result<Config, LoadError> {
        let Self::File(path) = self;
        load_file(path)
    }
}

fn load_file(path: &Path) -> Result<Config, LoadError> {
    let text = std::fs::read_to_string(path).map_err(|source| LoadError::Read {
        path: path.into(),
        source,
    })?;
    Config::parse(&text).map_err(|source| LoadError::Invalid {
        path: path.into(),
        source,
    })
}
