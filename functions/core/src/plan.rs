//! What is run for a message: the CLI's arguments and environment, as values.
//!
//! Source for every flag and variable: `docs/reference/outcomes.md`, "The call".
//!
//! **Invariant**: secrets are only in the environment, and the environment is made from nothing. The image comes last,
//! behind its scheme, so that nothing of it can be taken for a flag.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use crate::image::Image;

/// A user name and password for a registry.
#[derive(Clone)]
pub struct RegistryLogin {
    /// The user name.
    pub username: String,
    /// The password.
    pub password: SecretString,
}

/// A scan that is decided on.
pub struct ScanPlan {
    /// What to scan.
    pub image: Image,
    /// Sysdig's address.
    pub api_url: String,
    /// Sysdig's token.
    pub api_token: SecretString,
    /// The policies to evaluate besides those that always apply.
    pub policies: Vec<String>,
    /// How to log in to the image's registry; else anonymously.
    pub login: Option<RegistryLogin>,
    /// All certificates to trust, in PEM; `None`: the system's.
    pub certificates: Option<Arc<str>>,
}

/// Where a run may write.
pub struct RunDirectories<'a> {
    /// Of this run only: home, temporary files, working directory, cache and report.
    pub scan: &'a Path,
    /// The vulnerability database, used by no other run at the same time and kept between runs.
    pub database: &'a Path,
}

impl RunDirectories<'_> {
    /// Where the CLI writes its report.
    pub fn report(&self) -> PathBuf {
        self.scan.join("result.json")
    }

    /// The file of the certificates for the CLI, if they are not only the system's.
    pub fn certificates(&self) -> PathBuf {
        self.scan.join("certificates.pem")
    }
}

/// What of our own environment the CLI is given.
#[derive(Clone, Default)]
pub struct Inherited {
    /// `PATH`, and the proxy variables that are set, each with its name.
    pub variables: Vec<(&'static str, OsString)>,
}

/// The variables of our own environment that the CLI needs too.
pub const INHERITED: [&str; 7] = [
    "PATH",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

impl ScanPlan {
    /// The CLI's arguments.
    pub fn arguments(&self, directories: &RunDirectories<'_>) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![
            format!("--apiurl={}", self.api_url).into(),
            "--console-log".into(),
            "--loglevel=info".into(),
            flag("--output=json-file=", &directories.report()),
            "--output-schema=v1".into(),
            flag("--dbpath=", directories.database),
            flag("--cachepath=", &directories.scan.join("cache")),
        ];
        // Repeated rather than joined by commas: a policy's name may hold one.
        arguments.extend(
            self.policies
                .iter()
                .map(|it| format!("--policy={it}").into()),
        );
        arguments.push(format!("pull://{}", self.image).into());
        arguments
    }

    /// The CLI's whole environment.
    pub fn environment(
        &self,
        directories: &RunDirectories<'_>,
        inherited: &Inherited,
    ) -> Vec<(&'static str, OsString)> {
        let mut environment = inherited.variables.clone();
        environment.push(("HOME", directories.scan.into()));
        environment.push(("TMPDIR", directories.scan.join("tmp").into()));
        environment.push(("SECURE_API_TOKEN", self.api_token.expose_secret().into()));
        if let Some(login) = &self.login {
            environment.push(("REGISTRY_USER", login.username.clone().into()));
            environment.push(("REGISTRY_PASSWORD", login.password.expose_secret().into()));
        }
        // The CLI is a Go program. Source: Go's `crypto/x509`, root_unix.go.
        if self.certificates.is_some() {
            environment.push(("SSL_CERT_FILE", directories.certificates().into()));
        }
        environment
    }

    /// Every secret of the run, to be struck out of whatever the CLI prints.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let password = self.login.as_ref().map(|it| it.password.expose_secret());
        std::iter::once(self.api_token.expose_secret()).chain(password)
    }
}

fn flag(name: &str, path: &Path) -> OsString {
    let mut flag = OsString::from(name);
    flag.push(path);
    flag
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(login: Option<RegistryLogin>) -> ScanPlan {
        ScanPlan {
            image: Image::parse("h.io:5000/a/b:1").unwrap(),
            api_url: "https://secure.sysdig.com".to_owned(),
            api_token: SecretString::from("fake-token-of-a-test"),
            policies: vec!["two words, and a comma".to_owned(), "$(id);`id`".to_owned()],
            login,
            certificates: None,
        }
    }

    const DIRECTORIES: fn() -> RunDirectories<'static> = || RunDirectories {
        scan: Path::new("/tmp/scan"),
        database: Path::new("/tmp/db"),
    };

    #[test]
    fn the_image_comes_last_and_each_policy_is_one_argument() {
        let arguments = plan(None).arguments(&DIRECTORIES());
        let text: Vec<_> = arguments.iter().map(|it| it.to_str().unwrap()).collect();
        insta::assert_snapshot!(text.join("\n"), @r"
        --apiurl=https://secure.sysdig.com
        --console-log
        --loglevel=info
        --output=json-file=/tmp/scan/result.json
        --output-schema=v1
        --dbpath=/tmp/db
        --cachepath=/tmp/scan/cache
        --policy=two words, and a comma
        --policy=$(id);`id`
        pull://h.io:5000/a/b:1
        ");
    }

    #[test]
    fn certificates_of_a_scan_are_in_its_own_directory() {
        let plan = ScanPlan {
            certificates: Some("fake certificates".into()),
            ..plan(None)
        };
        let environment = plan.environment(&DIRECTORIES(), &Inherited::default());
        let last = environment.last().unwrap();
        assert_eq!(
            last,
            &("SSL_CERT_FILE", "/tmp/scan/certificates.pem".into())
        );
    }

    #[test]
    fn secrets_are_in_the_environment_and_never_among_the_arguments() {
        let login = RegistryLogin {
            username: "robot".to_owned(),
            password: SecretString::from("fake-password-of-a-test"),
        };
        let plan = plan(Some(login));
        let arguments = plan.arguments(&DIRECTORIES());
        for secret in plan.secrets() {
            assert!(
                arguments
                    .iter()
                    .all(|it| !it.to_str().unwrap().contains(secret))
            );
        }
        let inherited = Inherited {
            variables: vec![("PATH", "/bin".into())],
        };
        let environment = plan.environment(&DIRECTORIES(), &inherited);
        let names: Vec<_> = environment.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "PATH",
                "HOME",
                "TMPDIR",
                "SECURE_API_TOKEN",
                "REGISTRY_USER",
                "REGISTRY_PASSWORD"
            ]
        );
    }
}
