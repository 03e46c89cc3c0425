//! What lives and lies under a scratch directory.

use std::fs;
use std::path::Path;

/// The processes whose home is under `root`, by their command lines.
pub(crate) fn alive(root: &Path) -> Vec<String> {
    let root = fs::canonicalize(root).unwrap();
    let home = format!("HOME={}/", root.display());
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let paths = processes.map(|it| it.path());
    let is_there = |path: &std::path::PathBuf| {
        fs::read(path.join("environ")).is_ok_and(|environment| {
            environment
                .split(|it| *it == 0)
                .any(|it| it.starts_with(home.as_bytes()))
        })
    };
    paths
        .filter(is_there)
        .filter_map(|it| fs::read_to_string(it.join("cmdline")).ok())
        .map(|it| it.replace('\0', " "))
        .collect()
}

/// The files and directories under `root`, two levels deep, without the stand-in's own marks.
pub(crate) fn left(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for slot in fs::read_dir(root).unwrap().flatten() {
        let name = slot.file_name().into_string().unwrap();
        if let Ok(entries) = fs::read_dir(slot.path()) {
            let names = entries
                .flatten()
                .map(|it| it.file_name().into_string().unwrap());
            let names = names.filter(|it| !it.starts_with(".stand-in"));
            found.extend(names.map(|it| format!("{name}/{it}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}
