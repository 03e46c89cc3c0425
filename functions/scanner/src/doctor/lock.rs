//! The pin of `layer/sysdig-cli.lock`.

const LOCK: &str = include_str!("../../../../layer/sysdig-cli.lock");

/// The pinned version.
pub(super) fn version() -> &'static str {
    value("version").unwrap_or_default()
}

/// The sum of the pinned binary for this machine's architecture.
pub(super) fn sha256() -> Option<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => value("sha256_amd64"),
        "aarch64" => value("sha256_arm64"),
        _ => None,
    }
}

fn value(key: &str) -> Option<&'static str> {
    LOCK.lines()
        .filter_map(|line| line.split_once(" = "))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.trim_matches('"'))
}
