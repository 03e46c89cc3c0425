//! The Sysdig CLI. In reading order: the plan of a run, `report` (what it writes), `classify` (what it died of), `judge` (what
//! that means).
//!
//! Source for every flag and variable: Sysdig's documentation of the CLI scanner; what is only believed of it is a row of
//! `docs/assumptions.md`.
//!
//! **Invariant**: the image comes last, behind its scheme, so that nothing of it can be taken for a flag.

use std::ffi::OsString;
use std::path::Path;

use secrecy::ExposeSecret as _;

use super::{ExpectedReport, Plan, RunDirectories, ScanInputs, Tool};

pub mod classify;
mod judge;
pub mod report;

/// The Sysdig CLI.
pub static TOOL: Tool = Tool {
    name: "sysdig",
    title: "Sysdig CLI",
    program: "sysdig-cli-scanner",
    plan,
    judge_code: judge::judge_code,
    assumptions: "cli-",
    setup: "name the Sysdig CLI with --scanner-cli",
};

/// The CLI's exit codes. Source: its documentation, "Exit codes".
mod exit_code {
    pub(super) const POLICIES_PASSED: i32 = 0;
    pub(super) const POLICIES_FAILED: i32 = 1;
    pub(super) const BAD_PARAMETERS: i32 = 2;
    pub(super) const ERROR: i32 = 3;
}

fn plan(inputs: &ScanInputs, directories: &RunDirectories<'_>) -> Plan {
    let report = directories.scan.join("result.json");
    let certificates = directories.scan.join("certificates.pem");
    let mut arguments: Vec<OsString> = Vec::new();
    let mut environment: Vec<(_, OsString)> = Vec::new();
    if let Some(backend) = &inputs.backend {
        arguments.push(format!("--apiurl={}", backend.url).into());
        environment.push(("SECURE_API_TOKEN", backend.token.expose_secret().into()));
    }
    arguments.extend([
        "--console-log".into(),
        "--loglevel=info".into(),
        flag("--output=json-file=", &report),
        "--output-schema=v1".into(),
        flag("--dbpath=", directories.database),
        flag("--cachepath=", &directories.scan.join("cache")),
    ]);
    // Repeated rather than joined by commas: a policy's name may contain one.
    let policies = inputs.policies.iter();
    arguments.extend(policies.map(|it| format!("--policy={it}").into()));
    arguments.push(format!("pull://{}", inputs.image).into());
    if let Some(login) = &inputs.login {
        environment.push(("REGISTRY_USER", login.username.clone().into()));
        environment.push(("REGISTRY_PASSWORD", login.password.expose_secret().into()));
    }
    // The CLI is a Go program. Source: Go's `crypto/x509`, root_unix.go.
    if inputs.certificates.is_some() {
        environment.push(("SSL_CERT_FILE", certificates.clone().into()));
    }
    Plan {
        arguments,
        environment,
        files: inputs
            .certificates
            .iter()
            .map(|it| (certificates.clone(), it.clone()))
            .collect(),
        report: ExpectedReport {
            path: report,
            is_promised_by: |code| {
                matches!(
                    code,
                    exit_code::POLICIES_PASSED | exit_code::POLICIES_FAILED
                )
            },
            read: |json, redactor| report::parse(json, redactor).map_err(|err| err.to_string()),
        },
    }
}

fn flag(name: &str, path: &Path) -> OsString {
    let mut flag = OsString::from(name);
    flag.push(path);
    flag
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::super::Backend;
    use super::*;
    use crate::image::Image;
    use crate::login::RegistryLogin;

    fn inputs() -> ScanInputs {
        ScanInputs {
            image: Image::parse("h.io:5000/a/b:1").unwrap(),
            backend: Some(Backend {
                url: "https://secure.sysdig.com".to_owned(),
                token: SecretString::from("fake-token-of-a-test"),
            }),
            policies: vec!["two words, and a comma".to_owned(), "$(id);`id`".to_owned()],
            login: None,
            certificates: None,
        }
    }

    fn plan(inputs: &ScanInputs) -> Plan {
        let directories = RunDirectories {
            scan: Path::new("/tmp/scan"),
            database: Path::new("/tmp/db"),
        };
        super::plan(inputs, &directories)
    }

    #[test]
    fn the_image_comes_last_and_each_policy_is_one_argument() {
        let arguments = plan(&inputs()).arguments;
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
        let plan = plan(&ScanInputs {
            certificates: Some("fake certificates".into()),
            ..inputs()
        });
        let file = Path::new("/tmp/scan/certificates.pem");
        assert_eq!(plan.files, [(file.into(), "fake certificates".into())]);
        assert_eq!(
            plan.environment.last().unwrap(),
            &("SSL_CERT_FILE", file.into())
        );
    }

    #[test]
    fn secrets_are_in_the_environment_and_never_among_the_arguments() {
        let inputs = ScanInputs {
            login: Some(RegistryLogin {
                username: "robot".to_owned(),
                password: SecretString::from("fake-password-of-a-test"),
            }),
            ..inputs()
        };
        let plan = plan(&inputs);
        assert_eq!(inputs.secrets().count(), 2);
        for secret in inputs.secrets() {
            let mut arguments = plan.arguments.iter().map(|it| it.to_str().unwrap());
            assert!(arguments.all(|it| !it.contains(secret)));
        }
        let names: Vec<_> = plan.environment.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            ["SECURE_API_TOKEN", "REGISTRY_USER", "REGISTRY_PASSWORD"]
        );
    }
}
