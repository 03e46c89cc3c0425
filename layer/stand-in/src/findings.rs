//! The packages and findings that the stand-in reports for every image.

/// A package of the image.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) path: Option<&'static str>,
}

/// A vulnerability of one package.
pub(crate) struct Finding {
    pub(crate) cve: &'static str,
    pub(crate) severity: &'static str,
    pub(crate) package: &'static str,
    pub(crate) fix: Option<&'static str>,
    /// A date without a fixed version is not a fix.
    pub(crate) solution: Option<&'static str>,
    pub(crate) score: f64,
}

impl Finding {
    /// The seed of its id. It includes the package, because the same CVE occurs in several packages.
    pub(crate) fn seed(&self) -> String {
        format!("{} in {}", self.cve, self.package)
    }
}

#[rustfmt::skip] // A table reads by its rows.
pub(crate) const PACKAGES: [Package; 4] = [
    Package { name: "openssl", version: "3.5.1-1", kind: "os", path: None },
    Package { name: "zlib1g", version: "1:1.3.1-1", kind: "os", path: None },
    Package { name: "requests", version: "2.31.0", kind: "python", path: Some("/app/requests-2.31.0.dist-info/METADATA") },
    Package { name: "lodash", version: "4.17.20", kind: "javascript", path: Some("/app/node_modules/lodash/package.json") },
];

/// Critical findings come first. No real CVE has such a year.
#[rustfmt::skip] // A table reads by its rows.
pub(crate) const FINDINGS: [Finding; 8] = [
    // One CVE in two packages: findings are counted by entry, not by name.
    finding("CVE-2099-0001", "critical", "openssl", Some("3.5.2-1"), Some("2099-01-02"), 9.8),
    finding("CVE-2099-0001", "critical", "zlib1g", Some("1:1.3.2-1"), Some("2099-01-02"), 9.8),
    finding("CVE-2099-0002", "high", "requests", Some("2.32.0"), Some("2099-01-03"), 8.0),
    finding("CVE-2099-0003", "high", "lodash", None, Some("2099-01-04"), 7.5),
    finding("CVE-2099-0004", "medium", "lodash", Some("4.17.21"), None, 5.0),
    finding("CVE-2099-0005", "medium", "zlib1g", None, None, 4.3),
    finding("CVE-2099-0006", "low", "openssl", None, None, 3.1),
    finding("CVE-2099-0007", "negligible", "openssl", None, None, 0.0),
];

/// The number of critical findings.
pub(crate) const CRITICAL: usize = 2;

const fn finding(
    cve: &'static str,
    severity: &'static str,
    package: &'static str,
    fix: Option<&'static str>,
    solution: Option<&'static str>,
    score: f64,
) -> Finding {
    Finding {
        cve,
        severity,
        package,
        fix,
        solution,
        score,
    }
}
