//! The doctor, on CLIs of which some are ill.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use scanhook_config::Environment;
use scanhook_config::config::Config;
use scanhook_config::secrets::Secrets;
use scanhook_core::image::Image;
use scanhook_core::tools::sysdig::TOOL;
use scanhook_registry::{Registries, RegistryDeps, Sdk, system_dns};
use scanhook_scanner::cli::{Cli, Inherited};
use scanhook_scanner::config::ScannerSettings;
use scanhook_scanner::doctor::{self, Diagnosis, Finding, Images, Outcome};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::processes::alive;
use crate::world::{TOKEN, confinement, stand_in};

/// A CLI of ours that says it is the pinned one: it hangs at its first scan, knows tokens and digests, and has the
/// stand-in do the rest.
const WELL: &str = r#"#!/bin/sh
case "$*" in
--version) echo "Sysdig CLI Scanner PINNED"; exit 0 ;;
*--scanhook-doctor*) exec STAND_IN "$@" ;;
*@sha256:0000*) echo "MANIFEST_UNKNOWN: manifest unknown" >&2; exit 3 ;;
esac
case "$SECURE_API_TOKEN" in
scanhook-doctor*) echo "Unable to retrieve MainDB: 401 Unauthorized" >&2; exit 3 ;;
esac
[ -e "DIRECTORY/hung" ] || exec sleep 60
exec STAND_IN "$@"
"#;

struct Ward {
    directory: TempDir,
    registry: TcpListener,
}

impl Ward {
    async fn open() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            registry: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    fn script(&self, text: &str) -> PathBuf {
        let pinned = include_str!("../../../../layer/sysdig-cli.lock");
        let pinned = pinned.lines().find_map(|it| it.strip_prefix("version = "));
        let directory = self.directory.path();
        let text = text
            .replace("PINNED", pinned.unwrap().trim_matches('"'))
            .replace("STAND_IN", stand_in().to_str().unwrap())
            .replace("DIRECTORY", directory.to_str().unwrap());
        let path = directory.join("sysdig-cli-scanner");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Notices the run that hangs, so that no other one does: a run can't write down that it has been here.
    async fn see_it_hang(&self) {
        while !alive(self.directory.path())
            .iter()
            .any(|it| it.contains("sleep 60"))
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::fs::write(self.directory.path().join("hung"), "").unwrap();
        std::future::pending::<()>().await;
    }

    async fn examine(&self, program: &Path) -> Diagnosis {
        let host = self.registry.local_addr().unwrap();
        let yaml = format!(
            "sources: {{ prod: {{ kind: harbor, registry: \"{host}\", auth: [{{ type: token, secret: \"env:NOT_READ_HERE\" }}] }} }}\n\
             scanner: {{ api_url: \"https://{host}\", api_token: \"env:TOKEN\", timeout: 20s }}"
        );
        let environment: Environment = Arc::new(|name| (name == "TOKEN").then(|| TOKEN.to_owned()));
        let config = Arc::new(Config::parse(&yaml).unwrap());
        let secrets = Secrets::local(&environment);
        let settings = ScannerSettings::load(&secrets, Arc::clone(&config))
            .await
            .unwrap();
        let deps = RegistryDeps {
            dns: system_dns(),
            sdk: Sdk::default(),
            now: Arc::new(|| jiff::Timestamp::UNIX_EPOCH),
        };
        let registries = Registries::load(&secrets, &environment, config, deps)
            .await
            .unwrap();
        let cli = Cli {
            tool: &TOOL,
            program: program.to_owned(),
            inherited: Inherited(vec![("PATH", "/usr/bin:/bin".into())]),
            confinement: confinement().await,
        };
        let image = |name: &str| Image::parse(&format!("{host}/demo/{name}:1.0")).unwrap();
        let images = Images {
            pass: image("pass"),
            fail: image("fail"),
        };
        let scratch = self.directory.path();
        let limit = Duration::from_mins(2);
        let diagnosis = doctor::examine(
            &cli,
            (&settings, &registries),
            images,
            scratch,
            &environment,
            limit,
        );
        let diagnosis = diagnosis.await.unwrap();
        let left = std::fs::read_dir(scratch).unwrap().filter(|it| {
            let name = it.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("doctor-")
        });
        assert_eq!(left.count(), 0, "nothing is left behind");
        let json = serde_json::to_string(&diagnosis).unwrap();
        assert!(!json.contains(TOKEN), "{json}");
        diagnosis
    }
}

/// The outcome of each check but that of the network, in a line each.
fn checks(diagnosis: &Diagnosis) -> String {
    let lines = diagnosis.checks.iter().filter(|it| it.check != "network");
    let lines = lines.map(|it| format!("{} {}", it.check, it.outcome.as_str()));
    lines.collect::<Vec<_>>().join("\n")
}

/// What is found of each assumption on the CLI, in a line each.
fn findings(diagnosis: &Diagnosis) -> String {
    let rows = diagnosis
        .assumptions
        .iter()
        .filter(|it| it.id.starts_with("cli-"));
    let rows = rows.map(|it| format!("{} {}", it.id, it.finding.as_str()));
    rows.collect::<Vec<_>>().join("\n")
}

fn detail<'a>(diagnosis: &'a Diagnosis, check: &str) -> &'a str {
    let mut checks = diagnosis.checks.iter();
    &checks.find(|it| it.check == check).unwrap().detail
}

#[tokio::test]
async fn a_cli_that_does_as_assumed_verifies_what_its_runs_show() {
    let ward = Ward::open().await;
    let script = ward.script(WELL);
    let diagnosis = tokio::select! {
        diagnosis = ward.examine(&script) => diagnosis,
        () = ward.see_it_hang() => unreachable!("it waits for ever"),
    };
    // Only that it is not the pinned file speaks against it.
    insta::assert_snapshot!(checks(&diagnosis), @"
    cli_present ok
    cli_checksum failed
    confinement ok
    cli_version ok
    token ok
    database ok
    pass_image ok
    fail_image ok
    absent_image ok
    wrong_token ok
    wrong_parameters ok
    ");
    insta::assert_snapshot!(findings(&diagnosis), @"
    cli-1 verified
    cli-2 verified
    cli-3 verified
    cli-4 verified
    cli-5 not_checked
    cli-6 verified
    cli-7 verified
    cli-8 verified
    cli-9 verified
    cli-10 verified
    cli-11 verified
    cli-12 not_checked
    cli-13 not_checked
    cli-14 not_checked
    cli-15 not_checked
    cli-16 verified
    ");
    assert!(!diagnosis.is_healthy());
    let reached = diagnosis
        .checks
        .iter()
        .find(|it| it.check == "network")
        .unwrap();
    assert_eq!(reached.outcome, Outcome::Ok, "{}", reached.detail);
}

#[tokio::test]
async fn the_stand_in_is_called_one_and_verifies_nothing() {
    let ward = Ward::open().await;
    let diagnosis = ward.examine(&stand_in()).await;
    assert!(!diagnosis.is_healthy());
    assert!(detail(&diagnosis, "cli_checksum").contains("layer/sysdig-cli.lock says"));
    assert!(
        detail(&diagnosis, "cli_version")
            .ends_with("-stand-in: this is the stand-in, which scans nothing")
    );
    for row in &diagnosis.assumptions {
        assert_eq!(row.finding, Finding::NotChecked, "{row:?}");
    }
    assert_eq!(
        diagnosis.assumptions[0].how,
        "a stand-in ran, not the Sysdig CLI"
    );
}

#[tokio::test]
async fn without_a_cli_that_is_said_and_nothing_is_concluded() {
    let ward = Ward::open().await;
    let diagnosis = ward.examine(&ward.directory.path().join("nowhere")).await;
    assert!(!diagnosis.is_healthy());
    insta::assert_snapshot!(checks(&diagnosis), @"
    cli_present failed
    cli_checksum not_checked
    confinement ok
    cli_version failed
    token not_checked
    database not_checked
    pass_image not_checked
    fail_image not_checked
    absent_image not_checked
    wrong_token not_checked
    wrong_parameters not_checked
    ");
    assert!(!findings(&diagnosis).contains("verified"));
}

#[tokio::test]
async fn another_version_is_told_beside_the_pinned_one() {
    let ward = Ward::open().await;
    let script = ward.script(&WELL.replace("PINNED", "1.19.0"));
    let diagnosis = ward.examine(&script).await;
    let told = detail(&diagnosis, "cli_version");
    assert!(
        told.starts_with("1.19.0, but layer/sysdig-cli.lock pins 1."),
        "{told}"
    );
}

#[tokio::test]
async fn a_cli_that_ends_otherwise_than_assumed_refutes_it() {
    let ward = Ward::open().await;
    let script = ward.script("#!/bin/sh\n[ \"$1\" = --version ] && echo PINNED\nexit 0\n");
    let diagnosis = ward.examine(&script).await;
    insta::assert_snapshot!(checks(&diagnosis), @"
    cli_present ok
    cli_checksum failed
    confinement ok
    cli_version ok
    token not_checked
    database not_checked
    pass_image failed
    fail_image failed
    absent_image failed
    wrong_token failed
    wrong_parameters failed
    ");
    insta::assert_snapshot!(findings(&diagnosis), @"
    cli-1 refuted
    cli-2 refuted
    cli-3 refuted
    cli-4 refuted
    cli-5 not_checked
    cli-6 not_checked
    cli-7 not_checked
    cli-8 not_checked
    cli-9 not_checked
    cli-10 not_checked
    cli-11 not_checked
    cli-12 not_checked
    cli-13 not_checked
    cli-14 not_checked
    cli-15 not_checked
    cli-16 refuted
    ");
    let rows = &diagnosis.assumptions;
    let exit_codes = rows.iter().find(|it| it.id == "cli-4").unwrap();
    assert!(
        exit_codes.how.contains("instead of code 2"),
        "{}",
        exit_codes.how
    );
}

#[tokio::test]
async fn a_refused_token_is_told_with_the_words_of_its_refusal() {
    let ward = Ward::open().await;
    let script = ward.script(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo PINNED && exit\n\
         echo \"Unable to retrieve MainDB: 401 Unauthorized $SECURE_API_TOKEN\" >&2\nexit 3\n",
    );
    let diagnosis = ward.examine(&script).await;
    let token = diagnosis
        .checks
        .iter()
        .find(|it| it.check == "token")
        .unwrap();
    assert_eq!(token.outcome, Outcome::Failed);
    assert!(token.detail.contains("bad_token: "), "{}", token.detail);
    assert!(token.detail.contains("[redacted]"), "{}", token.detail);
}
