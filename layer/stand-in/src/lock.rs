//! The pin in `layer/sysdig-cli.lock`: the CLI's version, release date and checksums.

const LOCK: &str = include_str!("../../sysdig-cli.lock");

/// The value of a key of the lock: `version`, `released`, `sha256_amd64`, `sha256_arm64`.
pub fn value(key: &str) -> Option<&'static str> {
    LOCK.lines()
        .filter_map(|line| line.split_once(" = "))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.trim_matches('"'))
}

/// The pinned version, marked so that nobody mistakes the stand-in's verdicts for real ones.
pub fn stand_in_version() -> String {
    format!("{}-stand-in", value("version").unwrap_or("0.0.0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_names_a_version_a_date_and_two_different_sums() {
        assert_eq!(value("version").unwrap().split('.').count(), 3);
        value("released")
            .unwrap()
            .parse::<jiff::civil::Date>()
            .unwrap();
        let sums = [
            value("sha256_amd64").unwrap(),
            value("sha256_arm64").unwrap(),
        ];
        assert!(sums.iter().all(|sum| hex::decode(sum).unwrap().len() == 32));
        assert_ne!(sums[0], sums[1]);
    }
}
