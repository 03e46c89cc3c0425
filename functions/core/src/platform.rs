//! Platforms as people and registries spell them, and the entries of an index that a runtime could choose for one.
//!
//! Spellings are normalised and ranked like in containerd (containerd/platforms, `database.go` and `compare.go`). CRI-O
//! and Podman compare them literally (containers/image, `internal/pkg/platform`).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// A wanted platform: `OS/ARCHITECTURE[/VARIANT][:OS.VERSION]`, in lower case but not normalised. Each part is 1 to 32
/// letters, digits, `-`, `_` or `.`.
///
/// Source: OCI image index specification, "platform". A copy shares its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Platform(Arc<str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a platform: expected OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64; `:` and an OS version may follow"
)]
pub struct ParsePlatformError;

/// The platform that is wanted of an index if the source names none.
pub const DEFAULT: &str = "linux/amd64";

impl Platform {
    /// Checks `text`, and folds its case.
    pub fn parse(text: &str) -> Result<Self, ParsePlatformError> {
        let text = text.to_ascii_lowercase();
        let (name, version) = match text.split_once(':') {
            Some((name, version)) => (name, Some(version)),
            None => (text.as_str(), None),
        };
        let is_part = |it: &str| {
            (1..=32).contains(&it.len())
                && it
                    .bytes()
                    .all(|it| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
        };
        let count = name.split('/').count();
        if (2..=3).contains(&count) && name.split('/').chain(version).all(is_part) {
            Ok(Self(text.into()))
        } else {
            Err(ParsePlatformError)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether both mean the same platform.
    pub fn is_same(&self, other: &Self) -> bool {
        self.spelling().normal() == other.spelling().normal()
    }

    fn spelling(&self) -> Spelling {
        let (name, os_version) = self.0.split_once(':').unwrap_or((&self.0, ""));
        let mut parts = name.split('/').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        Spelling {
            os: part(),
            architecture: part(),
            variant: part(),
            os_version: os_version.to_owned(),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Platform {
    type Error = ParsePlatformError;

    fn try_from(text: String) -> Result<Self, ParsePlatformError> {
        Self::parse(&text)
    }
}

impl Serialize for Platform {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A platform as an index spells it. Any text is possible; an absent part is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spelling {
    pub os: String,
    pub architecture: String,
    pub variant: String,
    /// The version of the operating system. Windows images have one.
    pub os_version: String,
}

impl Spelling {
    /// Returns the platform by which a source would select this one, if it has a valid name.
    pub fn to_platform(&self) -> Option<Platform> {
        let normal = self.normal();
        // containerd treats an absent operating system as its own.
        let os = if normal.os.is_empty() {
            "linux"
        } else {
            &normal.os
        };
        let text = [os, &normal.architecture, &normal.variant].join("/");
        Platform::parse(text.trim_end_matches('/')).ok()
    }

    /// Source: containerd/platforms, `database.go`, "normalizeOS" and "normalizeArch".
    fn normal(&self) -> Self {
        let os = self.os.to_lowercase();
        let (architecture, variant) = (
            self.architecture.to_lowercase(),
            self.variant.to_lowercase(),
        );
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8" | "8.0" | "v8.0") => ("arm64", ""),
            ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            other => other,
        };
        Self {
            os: if os == "macos" {
                "darwin".to_owned()
            } else {
                os
            },
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            os_version: self.os_version.clone(),
        }
    }

    /// Whether an image for this operating system fits `wanted`, which must be normalised.
    fn is_for_os(&self, wanted: &Self) -> bool {
        let os = self.normal().os;
        // containerd treats an absent operating system as its own.
        (os.is_empty() || os == wanted.os)
            && (self.os_version.is_empty()
                || wanted.os_version.is_empty()
                || build(&self.os_version).eq(build(&wanted.os_version)))
    }
}

/// The parts of an operating system's version that must match. Windows puts revisions after the third dot. Source:
/// Microsoft's documentation, "Windows container version compatibility".
fn build(version: &str) -> impl Iterator<Item = &str> {
    version.split('.').take(3)
}

/// Returns the indexes in `entries` that a runtime could choose for `wanted`, in groups. The images in the first group
/// that has any are chosen; later groups don't matter then. Entries without a platform are the last group.
pub fn candidates(wanted: &Platform, entries: &[Option<Spelling>]) -> Vec<Vec<usize>> {
    let (wanted, nothing) = (wanted.spelling().normal(), Spelling::default());
    let places = |is_taken: &dyn Fn(&Spelling) -> bool| {
        let taken = entries.iter().enumerate().filter(|(_, entry)| {
            let entry = entry.as_ref();
            entry.is_some_and(|it| it.is_for_os(&wanted) && is_taken(it))
        });
        taken.map(|(place, _)| place).collect::<Vec<_>>()
    };
    let mut groups: Vec<_> = ranks(&wanted)
        .into_iter()
        .map(|(architecture, variant)| {
            places(&|it| {
                let it = it.normal();
                it.architecture == architecture && it.variant == variant
            })
        })
        .filter(|it| !it.is_empty())
        .collect();
    // CRI-O and Podman compare spellings, so they may choose another entry than containerd.
    let spelled = spellings(&wanted)
        .into_iter()
        .map(|variant| {
            places(&|it| {
                it.os == wanted.os
                    && it.architecture == wanted.architecture
                    && it.variant == variant
            })
        })
        .find(|it| !it.is_empty());
    if groups.is_empty() {
        groups.extend(spelled);
    } else if let (Some(first), Some(spelled)) = (groups.first_mut(), spelled) {
        first.extend(spelled);
        first.sort_unstable();
        first.dedup();
    }
    // Docker treats an empty platform as absent. Source: moby/moby, `distribution/pull_v2.go`, "toOCIPlatform".
    let is_absent = |it: &Option<Spelling>| *it.as_ref().unwrap_or(&nothing) == nothing;
    let without = entries.iter().enumerate().filter(|(_, it)| is_absent(it));
    let without: Vec<_> = without.map(|(place, _)| place).collect();
    groups.extend((!without.is_empty()).then_some(without));
    groups
}

/// The architectures and variants that run on `wanted`, best first. Source: containerd/platforms, `compare.go`,
/// "platformVector".
fn ranks(wanted: &Spelling) -> Vec<(&str, String)> {
    let architecture = wanted.architecture.as_str();
    let mut ranks = vec![(architecture, wanted.variant.clone())];
    let version = |it: &str| it.strip_prefix('v').and_then(|it| it.parse::<u8>().ok());
    match architecture {
        "amd64" => {
            let level = version(&wanted.variant).unwrap_or(1);
            ranks.extend((2..level).rev().map(|it| ("amd64", format!("v{it}"))));
            if level > 1 {
                ranks.push(("amd64", String::new()));
            }
            ranks.push(("386", String::new()));
        }
        "arm" => ranks.extend(lower_arms(&wanted.variant).map(|it| ("arm", it))),
        "arm64" => {
            let variant = Some(wanted.variant.as_str()).filter(|it| !it.is_empty());
            let (major, minor) =
                variant.map_or(("v8", ""), |it| it.split_once('.').unwrap_or((it, "")));
            let minor: u8 = minor.parse().unwrap_or(0);
            // v9.0 is based on v8.5, so v9.x runs what v8.(x+5) runs, up to v8.9.
            let lower_eights = match version(major) {
                Some(9) => {
                    ranks.extend((1..minor).rev().map(|it| ("arm64", format!("v9.{it}"))));
                    if minor > 0 {
                        ranks.push(("arm64", "v9".to_owned()));
                    }
                    minor.saturating_add(5).min(9) + 1
                }
                Some(8) => minor,
                _ => 0,
            };
            ranks.extend(
                (1..lower_eights)
                    .rev()
                    .map(|it| ("arm64", format!("v8.{it}"))),
            );
            if lower_eights > 0 {
                ranks.push(("arm64", String::new()));
            }
            ranks.push(("arm", "v8".to_owned()));
            ranks.extend(lower_arms("v8").map(|it| ("arm", it)));
        }
        _ => {}
    }
    ranks
}

/// The variants that containers/image looks for, in order. Source: containers/image,
/// `internal/pkg/platform/platform_matcher.go`, `WantedPlatforms`.
fn spellings(wanted: &Spelling) -> Vec<String> {
    let mut variants = vec![wanted.variant.clone()];
    if wanted.architecture == "arm" {
        variants.extend(lower_arms(&wanted.variant));
    }
    variants.push(String::new());
    variants
}

/// The variants of 32-bit ARM below this one, best first.
fn lower_arms(variant: &str) -> impl Iterator<Item = String> + use<> {
    let version = variant
        .strip_prefix('v')
        .and_then(|it| it.parse::<u8>().ok());
    let below = version.filter(|it| (6..=8).contains(it)).unwrap_or(5);
    (5..below).rev().map(|it| format!("v{it}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_has_two_or_three_parts_and_may_have_an_os_version() {
        for text in [
            "linux/amd64",
            "linux/arm/v7",
            "windows/amd64",
            "windows/amd64:10.0.20348",
        ] {
            assert_eq!(Platform::parse(text).unwrap().as_str(), text);
        }
        assert_eq!(
            Platform::parse("Linux/ARM64").unwrap().as_str(),
            "linux/arm64"
        );
        for text in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "a/b/c/d",
            "linux/amd64 ",
            "linux/\n",
            "windows/amd64:",
            "windows/amd64:10:0",
            "windows:10.0/amd64",
        ] {
            assert_eq!(Platform::parse(text), Err(ParsePlatformError), "{text:?}");
        }
    }

    /// A platform as an index spells it; `-` means none.
    fn spelling(text: &str) -> Option<Spelling> {
        if text == "-" {
            return None;
        }
        let (name, os_version) = text.split_once(':').unwrap_or((text, ""));
        let mut parts = name.split('/').map(str::to_owned);
        Some(Spelling {
            os: parts.next().unwrap(),
            architecture: parts.next().unwrap(),
            variant: parts.next().unwrap_or_default(),
            os_version: os_version.to_owned(),
        })
    }

    fn check(wanted: &str, entries: &[&str], expected: &[&[usize]]) {
        let spellings: Vec<_> = entries.iter().map(|it| spelling(it)).collect();
        let found = candidates(&Platform::parse(wanted).unwrap(), &spellings);
        assert_eq!(found, expected, "{wanted} of {entries:?}");
    }

    /// Sources: containerd/platforms, `database.go` and its tests, `platforms_test.go`.
    #[test]
    fn every_spelling_of_a_platform_is_a_candidate() {
        let amd64 = [
            "linux/amd64",
            "linux/amd64/v1",
            "linux/x86_64",
            "linux/x86-64",
            "Linux/AMD64",
            "linux/X86_64/V1",
            "/amd64",
        ];
        check("linux/amd64", &amd64, &[&[0, 1, 2, 3, 4, 5, 6]]);
        check("linux/x86_64", &amd64, &[&[0, 1, 2, 3, 4, 5, 6]]);
        let arm64 = [
            "linux/arm64",
            "linux/arm64/v8",
            "linux/aarch64",
            "linux/arm64/8",
            "linux/aarch64/V8.0",
        ];
        for wanted in ["linux/arm64", "linux/arm64/v8", "linux/aarch64"] {
            check(wanted, &arm64, &[&[0, 1, 2, 3, 4]]);
        }
        check(
            "linux/arm/v7",
            &[
                "linux/arm",
                "linux/armhf",
                "linux/arm/7",
                "linux/arm/v7",
                "linux/armel",
            ],
            &[&[0, 1, 2, 3], &[4]],
        );
        check(
            "linux/386",
            &["linux/386", "linux/i386", "linux/i386/x"],
            &[&[0, 1, 2]],
        );
        check("darwin/arm64", &["macos/arm64", "linux/arm64"], &[&[0]]);
    }

    /// Sources: containerd/platforms, `compare.go` and `compare_test.go`.
    #[test]
    fn the_best_rank_comes_first() {
        check(
            "linux/amd64/v3",
            &[
                "linux/386",
                "linux/amd64/v2",
                "linux/amd64/v3",
                "linux/amd64/v4",
            ],
            &[&[2], &[1], &[0]],
        );
        check("linux/amd64", &["linux/amd64/v2", "linux/386"], &[&[1]]);
        check(
            "linux/arm/v8",
            &["linux/arm/v5", "linux/arm/v6", "linux/arm", "linux/arm/v8"],
            &[&[3], &[2], &[1], &[0]],
        );
        check("linux/arm/v6", &["linux/arm/v7", "linux/arm/v5"], &[&[1]]);
        check(
            "linux/arm64/v9.2",
            &[
                "linux/arm/v7",
                "linux/arm64",
                "linux/arm64/v8.7",
                "linux/arm64/v8.8",
                "linux/arm64/v9",
                "linux/arm64/v9.1",
                "linux/arm64/v9.3",
                "linux/arm64/v8.1",
            ],
            &[&[1, 5], &[4], &[2], &[7], &[1], &[0]],
        );
        check(
            "linux/arm64",
            &[
                "linux/arm/v8",
                "linux/arm/v6",
                "linux/arm64/v9",
                "linux/arm64/v8.1",
            ],
            &[&[0], &[1]],
        );
        check(
            "linux/riscv64",
            &["linux/riscv64/rva23", "linux/amd64"],
            &[],
        );
    }

    /// Sources: containers/image, `internal/pkg/platform/platform_matcher.go` and its tests.
    #[test]
    fn an_entry_that_cri_o_chooses_by_its_spelling_is_a_candidate() {
        // containerd chooses the plain arm, which is v7. CRI-O looks for v7, v6 and v5 before it.
        check(
            "linux/arm/v7",
            &["linux/arm", "linux/arm/v6", "linux/arm/v5"],
            &[&[0, 1], &[1], &[2]],
        );
        check(
            "linux/amd64/v3",
            &["linux/amd64", "linux/amd64/v2"],
            &[&[0, 1], &[0]],
        );
        check("linux/riscv64/rva23", &["linux/riscv64"], &[&[0]]);
        // With another spelling, CRI-O finds neither.
        check(
            "linux/amd64/v3",
            &["linux/x86_64", "linux/amd64/v2"],
            &[&[1], &[0]],
        );
    }

    #[test]
    fn entries_without_a_platform_count_if_no_other_is_an_image() {
        check("linux/amd64", &["-", "linux/amd64", "-"], &[&[1], &[0, 2]]);
        check("linux/s390x", &["-", "linux/amd64"], &[&[0]]);
        // Docker treats an empty platform as absent.
        check("linux/amd64", &["linux/arm64", "/"], &[&[1]]);
        check("linux/amd64", &["/", "linux/386", "-"], &[&[1], &[0, 2]]);
        check("linux/amd64", &["unknown/unknown", "windows/amd64"], &[]);
    }

    #[test]
    fn windows_revisions_are_ignored_and_a_missing_version_fits() {
        let entries = [
            "windows/amd64:10.0.17763.5122",
            "windows/amd64:10.0.20348.2113",
            "windows/amd64",
            "windows/amd64:10.0.20348",
            "linux/amd64",
        ];
        check("windows/amd64:10.0.20348", &entries, &[&[1, 2, 3]]);
        check("windows/amd64:10.0.20348.1", &entries, &[&[1, 2, 3]]);
        check("windows/amd64", &entries, &[&[0, 1, 2, 3]]);
    }

    #[test]
    fn the_platform_of_the_first_image_can_be_named() {
        let named = |text: &str| {
            let platform = spelling(text).unwrap().to_platform();
            platform.map_or("-".to_owned(), |it| it.to_string())
        };
        assert_eq!(named("Windows/x86_64:10.0.20348"), "windows/amd64");
        assert_eq!(named("/aarch64/v8"), "linux/arm64");
        assert_eq!(named("linux/arm"), "linux/arm/v7");
        assert_eq!(named("linux/a b"), "-");
        assert_eq!(named("linux/"), "-");
    }
}
