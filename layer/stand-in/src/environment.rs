//! The environment variables that the CLI reads.

use std::ffi::OsString;
use std::path::PathBuf;

/// The variables that the stand-in reads; `everything` is only for printing.
pub(crate) struct Environment {
    pub(crate) token: String,
    pub(crate) registry_user: String,
    pub(crate) registry_password: String,
    pub(crate) home: Option<PathBuf>,
    pub(crate) temporary: PathBuf,
    /// The certificates to trust in place of the system's: `SSL_CERT_FILE`, as in every Go program.
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
