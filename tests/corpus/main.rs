//! Real data of other people's systems, which is no part of the project: `SCANHOOK_CORPUS` says where it lies.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that fails should stop where it fails, and this one prints a table"
)]

mod registries;
mod reports;
mod vectors;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// A path within the corpus.
fn corpus(path: &str) -> PathBuf {
    let environment = scanhook_config::environment();
    let root = environment("SCANHOOK_CORPUS")
        .expect("set SCANHOOK_CORPUS to the folder that holds registries/ and sysdig/");
    Path::new(&root).join(path)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The files of a folder of the corpus whose names end so, in order.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|it| it.unwrap().path());
    let mut paths: Vec<_> = paths
        .filter(|it| it.to_string_lossy().ends_with(end))
        .collect();
    paths.sort();
    paths
}
