//! The environment variables the CLI reads.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the stand-in reads of the environment; `everything` is only for printing it.
pub(crate) struct Environment {
    pub(crate) token: String,
    pub(crate) registry_user: String,
    pub(crate) registry_password: String,
    pub(crate) home: Option<PathBuf>,
    pub(crate) temporary: PathBuf,
    /// What to trust instead of the system's certificates, as every Go program reads it.
    pub(crate) certificates: Option<PathBuf>,
    pub(crate) everything: Vec<(OsString, OsString)>,
}

impl Environment {
    /// Reads the environment of this process.
    pub(crate) fn of_process() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the module that reads the environment"
        )]
        let everything: Vec<_> = std::env::vars_os().collect();
        let get = |name: &str| {
            let found = everything.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let text = |name: &str| get(name).to_string_lossy().into_owned();
        let path =
            |name: &str| Some(PathBuf::from(get(name))).filter(|it| !it.as_os_str().is_empty());
        Self {
            token: text("SECURE_API_TOKEN"),
            registry_user: text("REGISTRY_USER"),
            registry_password: text("REGISTRY_PASSWORD"),
            home: path("HOME"),
            certificates: path("SSL_CERT_FILE"),
            temporary: path("TMPDIR").unwrap_or_else(|| PathBuf::from("/tmp")),
            everything,
        }
    }
}
