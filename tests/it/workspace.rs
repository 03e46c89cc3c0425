//! Rules for manifests, the lock file and dependency trees.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

#[expect(
    clippy::disallowed_methods,
    reason = "cargo is asked about the workspace"
)]
fn cargo(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).args(["--locked", "--offline"]);
    let output = command.current_dir(root()).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// The crates that are linked into a package's program, each as `name v1.2.3`.
fn tree(package: &str) -> Vec<String> {
    let tree = cargo(&["tree", "-p", package, "-e", "normal", "--prefix", "none"]);
    tree.lines().map(str::to_owned).collect()
}

pub(crate) fn manifests() -> Vec<PathBuf> {
    let metadata = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|it| it["manifest_path"].as_str().unwrap().into())
        .collect()
}

/// The lines of each table of a manifest, without comments: `(table, line)`.
fn lines(manifest: &str) -> Vec<(String, String)> {
    let mut table = String::new();
    let mut lines = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            line.trim_matches(['[', ']']).clone_into(&mut table);
        } else if !line.is_empty() && !line.starts_with('#') {
            lines.push((table.clone(), line.to_owned()));
        }
    }
    lines
}

#[test]
fn the_lock_file_has_no_http_stack_that_is_no_longer_maintained() {
    let lock = read("Cargo.lock");
    let packages: Vec<_> = lock.split("[[package]]").collect();
    for (name, old) in [("hyper", "0.14"), ("h2", "0.3"), ("rustls", "0.21")] {
        let is_old = |it: &&&str| it.contains(&format!("name = \"{name}\"\nversion = \"{old}"));
        assert!(packages.iter().find(is_old).is_none(), "{name} {old}");
    }
}

#[test]
fn the_functions_include_no_single_sign_on() {
    for package in ["scanhook-webhook", "scanhook-scanner"] {
        let tree = tree(package);
        assert!(tree.iter().any(|it| it.starts_with("aws-sigv4 ")));
        let sso = tree.iter().find(|it| it.starts_with("aws-sdk-sso"));
        assert_eq!(sso, None, "{package}");
    }
}

#[test]
fn core_depends_on_no_runtime_and_no_service() {
    let manifest = read("functions/core/Cargo.toml");
    let lines = lines(&manifest);
    let dependencies = lines.iter().filter(|(table, _)| table == "dependencies");
    let names = dependencies.map(|(_, line)| line.split(['.', ' ']).next().unwrap());
    let names: Vec<_> = names.collect();
    let allowed = [
        "base64",
        "bytes",
        "form_urlencoded",
        "globset",
        "hex",
        "hmac",
        "http",
        "jiff",
        "percent-encoding",
        "secrecy",
        "serde",
        "serde_json",
        "serde_path_to_error",
        "sha1",
        "sha2",
        "strum",
        "subtle",
        "thiserror",
    ];
    assert_eq!(names, allowed);
    for forbidden in [
        "tokio",
        "aws-",
        "reqwest",
        "hyper",
        "axum",
        "tracing",
        "rand",
        "getrandom",
    ] {
        let found = tree("scanhook-core")
            .into_iter()
            .find(|it| it.starts_with(forbidden));
        assert_eq!(found, None);
    }
}

#[test]
fn a_panic_can_be_caught_in_a_release() {
    let manifest = read("Cargo.toml");
    let lines = lines(&manifest);
    let release: Vec<_> = lines
        .iter()
        .filter(|(table, _)| table == "profile.release")
        .map(|(_, line)| line.as_str())
        .collect();
    for setting in [
        "panic = \"unwind\"",
        "lto = \"thin\"",
        "codegen-units = 1",
        "strip = true",
    ] {
        assert!(release.contains(&setting), "{setting}");
    }
    let aborts = |(_, line): &(String, String)| line == "panic = \"abort\"";
    assert!(!lines.iter().any(aborts), "in another profile");
}

#[test]
fn every_crate_follows_the_lints_of_the_workspace() {
    for path in manifests() {
        let manifest = read(&path);
        let lints: Vec<_> = lines(&manifest)
            .into_iter()
            .filter(|(table, _)| table.starts_with("lints"))
            .collect();
        let expected = [("lints".to_owned(), "workspace = true".to_owned())];
        assert_eq!(lints, expected, "{}", path.display());
    }
}

#[test]
fn every_version_is_in_the_root_manifest() {
    for path in manifests() {
        for (table, line) in lines(&read(&path)) {
            let is_dependency = table.ends_with("dependencies");
            let must_inherit = is_dependency || table == "package" && line.starts_with("version");
            assert!(
                !must_inherit || line.contains("workspace = true"),
                "{}: {line}",
                path.display()
            );
            assert!(
                !table.contains("dependencies."),
                "{}: [{table}] is not read by this test",
                path.display()
            );
        }
    }
}

/// Every Rust file below a directory.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let mut files = Vec::new();
    for directory in ["functions", "layer", "local", "tests"] {
        sources(&root().join(directory), &mut files);
    }
    let page = read("docs/security.md");
    let named: Vec<_> = page
        .split('`')
        .filter_map(|it| it.split_once("::"))
        .collect();
    assert!(named.len() > 50, "{}", named.len());
    for (module, test) in named {
        let exists = files.iter().any(|path| {
            let name = path.file_stem().unwrap();
            name == module && read(path).contains(&format!("fn {test}("))
        });
        assert!(exists, "{module}::{test}");
    }
}
