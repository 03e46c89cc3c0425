//! What a thread, and every program it starts, may still reach. Source: `landlock(7)`, and the kernel's
//! userspace-api/landlock.
//!
//! A confined program also sees no memory and no environment of a process outside, as the kernel lets it trace none.

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// The newest rules that are known here. An older kernel enforces those of them that it knows.
const RULES: ABI = ABI::V6;

/// The devices that may be read and written. No terminal: what is typed there is for others, and what is written there may be
/// read as typed.
const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// Paths, by what a program may do there.
pub(super) struct Reach<'a> {
    /// Everything.
    pub(super) written: [&'a Path; 2],
    /// Nothing, not even below; everything else may be read, but for devices.
    pub(super) hidden: &'a [PathBuf],
    /// Read and run, though it may be hidden.
    pub(super) program: &'a Path,
}

/// Confines this thread; whether the kernel enforces it.
pub(super) fn confine(reach: &Reach<'_>) -> Result<bool, RulesetError> {
    let read = AccessFs::from_read(RULES);
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(RULES))?
        .scope(Scope::from_all(RULES))?
        .create()?
        // Names alone: a rule for a directory holds for all that is below it.
        .add_rules(path_beneath_rules(["/"], AccessFs::ReadDir))?
        .add_rules(path_beneath_rules(not_hidden(reach.hidden), read))?
        .add_rules(path_beneath_rules([reach.program], read))?
        .add_rules(path_beneath_rules(reach.written, AccessFs::from_all(RULES)))?
        .add_rules(path_beneath_rules(
            DEVICES,
            AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev,
        ))?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Whether the kernel can keep a confined process from cutting files short that it may only read.
pub(super) fn keeps_lengths() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Truncate)
        .is_ok()
}

/// Whether the kernel can keep a confined process from sending signals to others.
pub(super) fn keeps_signals() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .scope(Scope::Signal)
        .is_ok()
}

/// Everything but what is hidden, in as few paths as there can be: rules only ever allow.
fn not_hidden(hidden: &[PathBuf]) -> Vec<PathBuf> {
    let is_hidden = |path: &Path| {
        let mut hidden = hidden
            .iter()
            .map(PathBuf::as_path)
            .chain([Path::new("/dev")]);
        hidden.any(|it| path.starts_with(it))
    };
    let hides_below =
        |path: &Path| path == Path::new("/") || hidden.iter().any(|it| it.starts_with(path));
    let mut allowed = Vec::new();
    let mut undecided = vec![PathBuf::from("/")];
    while let Some(path) = undecided.pop() {
        if is_hidden(&path) {
            continue;
        }
        if hides_below(&path) {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            // What a link leads to is decided there.
            let entries = entries.filter(|it| it.file_type().is_ok_and(|it| !it.is_symlink()));
            undecided.extend(entries.map(|it| it.path()));
        } else {
            allowed.push(path);
        }
    }
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_allowed_but_what_is_hidden() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        for name in ["data/scratch", "data-of-others", "secrets", "work"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("secrets/token"), "fake").unwrap();
        fs::write(root.join("secrets/public"), "fake").unwrap();
        std::os::unix::fs::symlink(root.join("data"), root.join("link")).unwrap();
        let allowed = not_hidden(&[root.join("data"), root.join("secrets/token")]);
        let mut below: Vec<_> = allowed
            .iter()
            .filter_map(|it| it.strip_prefix(&root).ok())
            .collect();
        below.sort_unstable();
        let expected = ["data-of-others", "secrets/public", "work"].map(Path::new);
        assert_eq!(below, expected);
        assert!(allowed.contains(&PathBuf::from("/usr")));
        assert!(!allowed.iter().any(|it| it.starts_with("/dev")));
    }
}
