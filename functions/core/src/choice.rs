//! Decides what of a pushed manifest is scanned: the image itself, or every entry of an index that some runtime could take
//! for a wanted platform.
//!
//! containerd and Docker take the first entry whose normalised platform fits, CRI-O and Podman one that is spelled exactly
//! or marked zstd: whoever pushes could show one of them an image that another never sees. So each candidate is read, and
//! each that is an image is scanned.
//!
//! **Invariant**: an entry that could be an image is scanned or an error, and never a reason to skip anything. Only what was
//! read is known not to be an image.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::event::FreeText;
use crate::image::{Digest, Image};
use crate::manifest::{Entry, ImageManifest, Label, Manifest};
use crate::platform::{self, Platform, Spelling};
use crate::target::Target;

/// The most candidates for one platform.
const MAX_CANDIDATES: usize = 8;

/// How deep indexes may be nested in the pushed one.
const MAX_DEPTH: usize = 4;

/// The most entries of one index.
const MAX_ENTRIES: usize = 1_000;

/// The most manifests that are read for one platform.
const MAX_READ: usize = 32;

/// What the registry has under a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// This manifest.
    Manifest(Manifest),
    /// No manifest.
    Absent,
    /// Something that could not be read; the caller knows why.
    Unread,
}

/// The manifests of a repository that were read so far.
pub type Manifests = HashMap<Digest, Looked>;

/// The outcome for one image, or for one wanted platform without any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// It is scanned.
    Image(Target, ImageManifest),
    /// It is not an image: this type shows it.
    NotAnImage(Target, String),
    /// It can't be scanned, for this reason.
    Unsupported(Target, String),
    /// It could not be read.
    Unread(Target),
    /// The index has no image for this platform.
    Missing(Platform),
}

/// How an image was chosen from its index, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Its place in the index, from 1 on; `2.1` is the first entry of the index in the second.
    pub entry: String,
    /// How many entries that index has.
    pub entries: usize,
    /// How many of all entries a runtime could take for the platform.
    pub candidates: usize,
    /// Candidates that are not images.
    pub passed_over: Vec<PassedOver>,
    /// Entries that no runtime takes for the platform while there are these candidates.
    pub others: usize,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            entry,
            entries,
            candidates,
            others,
            ..
        } = self;
        write!(
            f,
            "{entry} of {entries}; {candidates} for this platform, {others} others"
        )?;
        for PassedOver { entry, media_type } in &self.passed_over {
            write!(f, "; {entry} is not an image: {media_type}")?;
        }
        Ok(())
    }
}

/// A candidate that is not an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// Its place.
    pub entry: String,
    /// The type that shows it.
    #[serde(rename = "type")]
    pub media_type: String,
}

/// This manifest has to be read before the question can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed(pub Digest);

/// Decides what is scanned of the manifest `digest`, to which `image` was resolved.
pub fn choose(
    image: &Image,
    digest: &Digest,
    wanted: &[Platform],
    manifests: &Manifests,
) -> Result<Vec<Subject>, Needed> {
    let target = Target::new(image, digest.clone());
    let entries = match look(manifests, digest)? {
        Looked::Manifest(Manifest::Image(manifest)) => {
            return Ok(vec![Subject::Image(target, manifest.clone())]);
        }
        Looked::Manifest(Manifest::NotAnImage(what)) => {
            return Ok(vec![Subject::NotAnImage(target, what.clone())]);
        }
        Looked::Absent | Looked::Unread => return Ok(vec![Subject::Unread(target)]),
        Looked::Manifest(Manifest::Index(entries)) => entries,
    };
    let index = Index {
        image,
        digest,
        entries,
        manifests,
    };
    let mut wishes: Vec<Platform> = Vec::new();
    for wish in wanted {
        if !wishes.iter().any(|it| it.is_same(wish)) {
            wishes.push(wish.clone());
        }
    }
    if wanted.is_empty() {
        wishes.extend(Platform::parse(platform::DEFAULT).ok());
    }
    let mut subjects = Vec::new();
    for wish in &wishes {
        subjects.extend(index.subjects(wish)?);
    }
    if !subjects.iter().all(|it| matches!(it, Subject::Missing(_))) {
        return Ok(subjects);
    }
    // No wanted platform has an image. The index is not an image only if no other platform has one either.
    let mut any = Any::default();
    let first = match index.first_image(entries, None, 0, &mut any) {
        Ok(first) => first,
        Err(Stop::Needed(needed)) => return Err(needed),
        Err(Stop::Limit(limit)) => return Ok(vec![index.unsupported(&limit)]),
    };
    match (first, any.unknown) {
        (Some(_), _) if !wanted.is_empty() => Ok(subjects),
        (Some(platform), _) => match platform.to_platform() {
            Some(platform) => index.subjects(&platform),
            None => Ok(vec![index.unsupported(
                "the index lists its first image for a platform that has no name",
            )]),
        },
        (None, Some(unknown)) => Ok(vec![unknown]),
        (None, None) => {
            let what = any.what.unwrap_or_else(|| "an empty index".to_owned());
            Ok(vec![Subject::NotAnImage(target, what)])
        }
    }
}

fn look<'a>(manifests: &'a Manifests, digest: &Digest) -> Result<&'a Looked, Needed> {
    manifests.get(digest).ok_or_else(|| Needed(digest.clone()))
}

/// The pushed index.
struct Index<'a> {
    image: &'a Image,
    digest: &'a Digest,
    entries: &'a [Entry],
    manifests: &'a Manifests,
}

/// The state of the search for an image of any platform.
#[derive(Default)]
struct Any {
    /// The type of the first entry that is not an image.
    what: Option<String>,
    /// The first entry that may be one.
    unknown: Option<Subject>,
    read: usize,
}

/// What was found for one platform.
#[derive(Default)]
struct Found {
    /// Images, and what may be one, each with its place and the number of entries in its index.
    subjects: Vec<(String, usize, Subject)>,
    candidates: usize,
    /// The candidates that were read, and whether only as a blob.
    seen: Vec<(Digest, bool)>,
    passed_over: Vec<PassedOver>,
    /// Every entry of every index on the way.
    listed: Vec<Digest>,
    /// How many entries there are in all.
    entries: usize,
    read: usize,
}

impl Found {
    fn count_candidate(&mut self, wish: &Platform) -> Result<(), Stop> {
        self.candidates += 1;
        if self.candidates > MAX_CANDIDATES {
            let limit = format!("the index has more than {MAX_CANDIDATES} entries for {wish}");
            return Err(Stop::Limit(limit));
        }
        Ok(())
    }
}

/// Why the search ends without a result.
enum Stop {
    Needed(Needed),
    /// The index is beyond this limit.
    Limit(String),
}

impl From<Needed> for Stop {
    fn from(needed: Needed) -> Self {
        Self::Needed(needed)
    }
}

impl Index<'_> {
    /// The outcome for one wanted platform.
    fn subjects(&self, wish: &Platform) -> Result<Vec<Subject>, Needed> {
        let mut found = Found::default();
        match self.search(wish, self.entries, "", 0, &mut found) {
            Ok(()) => {}
            Err(Stop::Needed(needed)) => return Err(needed),
            Err(Stop::Limit(limit)) => {
                let mut subject = self.unsupported(&limit);
                if let Subject::Unsupported(target, _) = &mut subject {
                    target.platform = Some(wish.clone());
                }
                return Ok(vec![subject]);
            }
        }
        if found.subjects.is_empty() {
            return Ok(vec![Subject::Missing(wish.clone())]);
        }
        let others = found.entries.saturating_sub(found.candidates);
        let subjects = found
            .subjects
            .into_iter()
            .map(|(entry, entries, mut subject)| {
                if let Some(target) = subject.target_mut() {
                    target.platform = Some(wish.clone());
                    target.siblings.clone_from(&found.listed);
                    target.choice = Some(Choice {
                        entry,
                        entries,
                        candidates: found.candidates,
                        passed_over: found.passed_over.clone(),
                        others,
                    });
                }
                subject
            });
        Ok(subjects.collect())
    }

    /// Looks for images for `wish` among entries of one index, group by group, and in the indexes among them.
    fn search(
        &self,
        wish: &Platform,
        entries: &[Entry],
        within: &str,
        depth: usize,
        found: &mut Found,
    ) -> Result<(), Stop> {
        check_index(entries, depth)?;
        found.entries += entries.len();
        let digests = entries.iter().filter_map(|it| it.digest.clone().ok());
        found.listed.extend(digests);
        let platforms: Vec<_> = entries.iter().map(|it| it.platform.clone()).collect();
        let before = found.subjects.len();
        for group in platform::candidates(wish, &platforms) {
            for place in group {
                let Some(entry) = entries.get(place) else {
                    continue;
                };
                if is_runnable(entry, place, entries) {
                    self.candidate(wish, entry, (within, place, entries.len()), depth, found)?;
                }
            }
            if found.subjects.len() > before {
                break;
            }
        }
        Ok(())
    }

    fn candidate(
        &self,
        wish: &Platform,
        entry: &Entry,
        (within, place, entries): (&str, usize, usize),
        depth: usize,
        found: &mut Found,
    ) -> Result<(), Stop> {
        let place = format!("{within}{}", place + 1);
        let digest = match understood(entry) {
            Ok(digest) => digest,
            Err(problem) => {
                found.count_candidate(wish)?;
                let is_error = |(_, _, it): &_| matches!(it, Subject::Unsupported(..));
                // One error is enough: a second one of the same index would overwrite the record of the first.
                if !found.subjects.iter().any(is_error) {
                    let problem = format!("entry {place} of the index {problem}");
                    let subject = self.unsupported(&problem);
                    found.subjects.push((place, entries, subject));
                }
                return Ok(());
            }
        };
        let is_blob = matches!(entry.label, Label::Blob(_));
        // A missing blob is passed over, but not where another entry lists it as a manifest.
        let is_seen = |(it, as_blob): &(Digest, bool)| it == digest && (is_blob || !as_blob);
        if found.seen.iter().any(is_seen) {
            return Ok(());
        }
        count(&mut found.read)?;
        let looked = look(self.manifests, digest)?;
        let as_blob = is_blob && *looked == Looked::Absent;
        found.seen.push((digest.clone(), as_blob));
        if let Looked::Manifest(Manifest::Index(entries)) = looked {
            // Its own entries are the candidates.
            found.entries -= 1;
            return self.search(wish, entries, &format!("{place}."), depth + 1, found);
        }
        found.count_candidate(wish)?;
        let target = self.target(digest);
        let subject = match (looked, &entry.label) {
            (Looked::Manifest(Manifest::Image(manifest)), _) => {
                Subject::Image(target, manifest.clone())
            }
            (Looked::Manifest(Manifest::NotAnImage(media_type)), _)
            | (Looked::Absent, Label::Blob(media_type)) => {
                found.passed_over.push(PassedOver {
                    entry: place,
                    media_type: FreeText::new(media_type).as_str().to_owned(),
                });
                return Ok(());
            }
            _ => Subject::Unread(target),
        };
        found.subjects.push((place, entries, subject));
        Ok(())
    }

    /// The platform of the first image in the order of the entries, nested ones in their place.
    fn first_image(
        &self,
        entries: &[Entry],
        of_index: Option<&Spelling>,
        depth: usize,
        any: &mut Any,
    ) -> Result<Option<Spelling>, Stop> {
        check_index(entries, depth)?;
        for (place, entry) in entries.iter().enumerate() {
            let platform = entry.platform.as_ref().or(of_index);
            if !is_runnable(entry, place, entries) {
                any.what
                    .get_or_insert_with(|| entry.label.as_str().to_owned());
                continue;
            }
            let digest = match understood(entry) {
                Ok(digest) => digest,
                Err(problem) => {
                    let problem = format!("entry {} of the index {problem}", place + 1);
                    any.unknown
                        .get_or_insert_with(|| self.unsupported(&problem));
                    continue;
                }
            };
            count(&mut any.read)?;
            match (look(self.manifests, digest)?, &entry.label) {
                (Looked::Manifest(Manifest::Image(_)), _) => {
                    return Ok(Some(platform.cloned().unwrap_or_default()));
                }
                (Looked::Manifest(Manifest::Index(entries)), _) => {
                    let found = self.first_image(entries, platform, depth + 1, any)?;
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                (Looked::Manifest(Manifest::NotAnImage(media_type)), _)
                | (Looked::Absent, Label::Blob(media_type)) => {
                    any.what.get_or_insert_with(|| media_type.clone());
                }
                (Looked::Absent | Looked::Unread, _) => {
                    any.unknown
                        .get_or_insert_with(|| Subject::Unread(self.target(digest)));
                }
            }
        }
        Ok(None)
    }

    fn target(&self, digest: &Digest) -> Target {
        let mut target = Target::new(self.image, digest.clone());
        target.index = Some(self.digest.clone());
        target
    }

    /// The index itself, which can't be scanned.
    fn unsupported(&self, problem: &str) -> Subject {
        Subject::Unsupported(
            Target::new(self.image, self.digest.clone()),
            problem.to_owned(),
        )
    }
}

impl Subject {
    fn target_mut(&mut self) -> Option<&mut Target> {
        match self {
            Self::Image(target, _)
            | Self::NotAnImage(target, _)
            | Self::Unsupported(target, _)
            | Self::Unread(target) => Some(target),
            Self::Missing(_) => None,
        }
    }
}

/// Whether some runtime would take this entry, if it were an image. containerd takes what is labelled as a manifest. CRI-O,
/// Podman and Docker ignore the label; among entries without a platform CRI-O and Podman take the first, or one that is
/// marked zstd, and Docker the next where the first is an index that it can't pull. So a `BuildKit` cache, which is an index
/// of a hundred layers, is not read layer by layer.
/// Sources: containers/image, `internal/manifest/oci_index.go`, "chooseInstance"; moby/moby, `distribution/pull_v2.go`,
/// "pullManifestList".
fn is_runnable(entry: &Entry, place: usize, entries: &[Entry]) -> bool {
    let is_blob = |it: &Entry| matches!(it.label, Label::Blob(_));
    let is_first = || entries.iter().position(|it| it.platform.is_none()) == Some(place);
    !is_blob(entry)
        || entry.platform.is_some()
        || entry.is_zstd
        || is_first()
        || !entries.iter().all(is_blob)
}

/// The digest of an entry, or the part of the entry that is not understood.
fn understood(entry: &Entry) -> Result<&Digest, String> {
    let shown = |text: &str| FreeText::new(text).as_str().to_owned();
    match (&entry.digest, &entry.label) {
        (Err(text), _) => Err(format!(
            "has a digest that is not understood: {:?}",
            shown(text)
        )),
        (_, Label::Unknown(media_type)) => Err(format!(
            "is of a type that is not understood: {:?}",
            shown(media_type)
        )),
        (Ok(digest), _) => Ok(digest),
    }
}

fn check_index(entries: &[Entry], depth: usize) -> Result<(), Stop> {
    if entries.len() > MAX_ENTRIES {
        let limit = format!(
            "an index has {} entries; {MAX_ENTRIES} are allowed",
            entries.len()
        );
        Err(Stop::Limit(limit))
    } else if depth > MAX_DEPTH {
        Err(Stop::Limit(format!(
            "indexes are nested more than {MAX_DEPTH} deep"
        )))
    } else {
        Ok(())
    }
}

fn count(read: &mut usize) -> Result<(), Stop> {
    *read += 1;
    if *read > MAX_READ {
        let limit =
            format!("more than {MAX_READ} manifests would have to be read for one platform");
        return Err(Stop::Limit(limit));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    /// A digest whose first digits are `name`, which is hexadecimal.
    fn digest(name: &str) -> Digest {
        Digest::parse(&format!("sha256:{name:0<64}")).unwrap()
    }

    /// The name that [`digest`] made this digest from, or the digest itself if it is another one.
    fn name(digest: &Digest) -> String {
        digest.parts().1.trim_end_matches('0').to_owned()
    }

    fn image() -> Looked {
        Looked::Manifest(Manifest::Image(ImageManifest {
            config: None,
            size: 1,
        }))
    }

    fn artifact() -> Looked {
        Looked::Manifest(Manifest::NotAnImage("a/b".to_owned()))
    }

    /// An entry `NAME PLATFORM`; `-` is no platform.
    fn entry(text: &str) -> Entry {
        let (name, platform) = text.split_once(' ').unwrap();
        let mut parts = platform.split('/').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        let platform = (platform != "-").then(|| Spelling {
            os: part(),
            architecture: part(),
            variant: part(),
            os_version: String::new(),
        });
        Entry {
            digest: Ok(digest(name)),
            label: Label::Manifest,
            platform,
            is_zstd: false,
        }
    }

    fn index(entries: &[&str]) -> Looked {
        Looked::Manifest(Manifest::Index(
            entries.iter().map(|it| entry(it)).collect(),
        ))
    }

    fn blobs(count: usize) -> Vec<Entry> {
        let blob = |number| Entry {
            label: Label::Blob(LAYER.to_owned()),
            ..entry(&format!("b{number:03} -"))
        };
        (0..count).map(blob).collect()
    }

    fn read(found: &[(&str, Looked)]) -> Manifests {
        let found = found.iter().map(|(name, it)| (digest(name), it.clone()));
        found.collect()
    }

    fn chosen(wanted: &[&str], manifests: &Manifests) -> Result<Vec<Subject>, Needed> {
        let wanted: Vec<_> = wanted
            .iter()
            .map(|it| Platform::parse(it).unwrap())
            .collect();
        choose(
            &Image::parse("h.io/a:1").unwrap(),
            &digest("e"),
            &wanted,
            manifests,
        )
    }

    fn line(subject: &Subject) -> String {
        let target = |it: &Target| {
            let platform = it.platform.as_ref().map_or("-", Platform::as_str);
            let place = it.choice.as_ref().map_or("-".to_owned(), |it| {
                let passed_over: Vec<_> =
                    it.passed_over.iter().map(|it| it.entry.as_str()).collect();
                format!(
                    "{}/{} of {} {passed_over:?} {}",
                    it.entry, it.entries, it.candidates, it.others
                )
            });
            format!("{} {platform} {place}", name(it.digest()))
        };
        match subject {
            Subject::Image(it, _) => format!("scan {}", target(it)),
            Subject::NotAnImage(it, what) => format!("no image {} {what}", name(it.digest())),
            Subject::Unsupported(it, problem) => format!("error {}: {problem}", target(it)),
            Subject::Unread(it) => format!("unread {}", target(it)),
            Subject::Missing(platform) => format!("missing {platform}"),
        }
    }

    fn check(wanted: &[&str], found: &[(&str, Looked)]) -> String {
        match chosen(wanted, &read(found)) {
            Ok(subjects) => subjects.iter().map(line).collect::<Vec<_>>().join("\n"),
            Err(Needed(digest)) => format!("needs {}", name(&digest)),
        }
    }

    #[test]
    fn a_choice_is_written_for_people() {
        let choice = Choice {
            entry: "2.1".to_owned(),
            entries: 3,
            candidates: 2,
            passed_over: vec![PassedOver {
                entry: "3".to_owned(),
                media_type: "a/b".to_owned(),
            }],
            others: 1,
        };
        assert_eq!(
            choice.to_string(),
            "2.1 of 3; 2 for this platform, 1 others; 3 is not an image: a/b"
        );
    }

    #[test]
    fn what_is_asked_for_is_read_first() {
        assert_eq!(check(&[], &[]), "needs e");
        assert_eq!(check(&[], &[("e", image())]), "scan e - -");
        assert_eq!(check(&["linux/arm64"], &[("e", image())]), "scan e - -");
        assert_eq!(check(&[], &[("e", artifact())]), "no image e a/b");
        assert_eq!(check(&[], &[("e", index(&["a linux/amd64"]))]), "needs a");
        // What nobody could take is not read.
        let two = index(&["a linux/amd64", "b linux/arm64"]);
        let found = [("e", two), ("a", image())];
        assert_eq!(check(&[], &found), "scan a linux/amd64 1/2 of 1 [] 1");
    }

    /// awslabs/soci-snapshotter#1695: the SOCI index of a lazily loaded image is listed beside it, for the same platform.
    #[test]
    fn a_candidate_that_is_not_an_image_is_passed_over() {
        let entries = index(&["a linux/amd64", "b linux/arm64/v8", "c linux/arm64"]);
        let found = [("e", entries), ("b", image()), ("c", artifact())];
        assert_eq!(
            check(&["linux/arm64"], &found),
            r#"scan b linux/arm64 2/3 of 2 ["3"] 1"#
        );
    }

    /// containerd takes the first, CRI-O the one that is spelled exactly.
    #[test]
    fn every_candidate_that_is_an_image_is_scanned() {
        let found = [
            (
                "e",
                index(&["a linux/amd64/v1", "b linux/amd64", "a linux/x86_64"]),
            ),
            ("a", image()),
            ("b", image()),
        ];
        assert_eq!(
            check(&[], &found),
            "scan a linux/amd64 1/3 of 2 [] 1\nscan b linux/amd64 2/3 of 2 [] 1"
        );
    }

    #[test]
    fn each_wanted_platform_is_searched_once() {
        let found = [
            (
                "e",
                index(&["a linux/amd64", "b linux/arm64", "c linux/arm"]),
            ),
            ("a", image()),
            ("b", image()),
            ("c", image()),
        ];
        insta::assert_snapshot!(check(&["linux/arm/v7", "linux/arm64", "linux/aarch64/v8", "linux/s390x"], &found), @r"
        scan c linux/arm/v7 3/3 of 1 [] 2
        scan b linux/arm64 2/3 of 1 [] 2
        missing linux/s390x
        ");
    }

    /// goauthentik's images since 2026.8 (CodesWhat/drydock#816); concourse/registry-image-resource#368.
    #[test]
    fn an_index_in_an_index_is_followed() {
        let nested = index(&["a linux/amd64", "d linux/amd64"]);
        let found = [
            ("e", index(&["b linux/arm64", "c linux/amd64"])),
            ("b", image()),
            ("c", nested.clone()),
            ("a", image()),
            ("d", artifact()),
        ];
        assert_eq!(
            check(&[], &found),
            r#"scan a linux/amd64 2.1/2 of 2 ["2.2"] 1"#
        );
        let found = [
            ("e", index(&["b linux/arm64", "c -"])),
            ("c", nested),
            ("a", image()),
            ("d", artifact()),
        ];
        assert_eq!(
            check(&[], &found),
            r#"scan a linux/amd64 2.1/2 of 2 ["2.2"] 1"#
        );
    }

    #[test]
    fn a_later_group_counts_where_no_earlier_one_holds_an_image() {
        let found = [
            ("e", index(&["a linux/amd64", "b linux/386", "c -"])),
            ("a", artifact()),
            ("b", artifact()),
            ("c", image()),
        ];
        assert_eq!(
            check(&[], &found),
            r#"scan c linux/amd64 3/3 of 3 ["1", "2"] 0"#
        );
    }

    #[test]
    fn without_the_usual_platform_that_of_the_first_image_is_wanted() {
        let found = [
            (
                "e",
                index(&[
                    "a unknown/unknown",
                    "b windows/amd64",
                    "c linux/arm64",
                    "d windows/amd64",
                ]),
            ),
            ("a", artifact()),
            ("b", image()),
            ("d", image()),
        ];
        insta::assert_snapshot!(check(&[], &found), @r"
        scan b windows/amd64 2/4 of 2 [] 2
        scan d windows/amd64 4/4 of 2 [] 2
        ");
        assert_eq!(check(&["linux/amd64"], &found), "missing linux/amd64");
        let found = [("e", index(&["a linux/a b"])), ("a", image())];
        assert_eq!(
            check(&[], &found),
            "error e - -: the index lists its first image for a platform that has no name"
        );
    }

    #[test]
    fn an_index_without_any_image_is_not_an_image() {
        for wanted in [&[] as &[&str], &["linux/arm64", "linux/amd64"]] {
            let found = [
                ("e", index(&["a unknown/unknown", "b -"])),
                ("a", artifact()),
                ("b", artifact()),
            ];
            assert_eq!(check(wanted, &found), "no image e a/b");
            assert_eq!(
                check(wanted, &[("e", index(&[]))]),
                "no image e an empty index"
            );
            // BuildKit's cache: its layers are not read as manifests one by one.
            let cache = Looked::Manifest(Manifest::Index(blobs(100)));
            let found = [("e", cache), ("b", Looked::Absent)];
            assert_eq!(check(wanted, &found), format!("no image e {LAYER}"));
        }
    }

    #[test]
    fn a_label_hides_no_image_that_a_runtime_would_take() {
        let mut entries = blobs(3);
        entries[0].digest = Ok(digest("a"));
        entries[2].is_zstd = true;
        entries[2].digest = Ok(digest("c"));
        let found = [
            ("e", Looked::Manifest(Manifest::Index(entries.clone()))),
            ("a", image()),
            ("c", image()),
        ];
        assert_eq!(
            check(&[], &found),
            "scan a linux/amd64 1/3 of 2 [] 1\nscan c linux/amd64 3/3 of 2 [] 1"
        );
        entries[1].platform = entry("b linux/amd64").platform;
        entries[1].digest = Ok(digest("b"));
        let found = [
            ("e", Looked::Manifest(Manifest::Index(entries))),
            ("b", image()),
        ];
        assert_eq!(check(&[], &found), "scan b linux/amd64 2/3 of 1 [] 2");
    }

    /// Docker tries the entries without a platform one by one where the first is an index that it can't pull.
    #[test]
    fn a_label_hides_no_image_behind_an_index_that_holds_none() {
        let mut blob = blobs(1).remove(0);
        blob.digest = Ok(digest("a"));
        let entries = vec![entry("d -"), blob, entry("b -")];
        let found = [
            ("e", Looked::Manifest(Manifest::Index(entries))),
            ("d", index(&["c linux/amd64"])),
            ("c", artifact()),
            ("a", image()),
            ("b", image()),
        ];
        assert_eq!(
            check(&[], &found),
            "scan a linux/amd64 2/3 of 3 [\"1.1\"] 0\nscan b linux/amd64 3/3 of 3 [\"1.1\"] 0"
        );
    }

    /// Found by fuzzing.
    #[test]
    fn an_index_that_is_a_candidate_by_its_spelling_and_by_its_rank_is_searched_once() {
        let found = [
            (
                "e",
                index(&["a linux/arm", "b linux/arm/v6", "b linux/arm/v5", "d -"]),
            ),
            ("a", artifact()),
            ("b", index(&[])),
            ("d", image()),
        ];
        assert_eq!(
            check(&["linux/arm/v7"], &found),
            r#"scan d linux/arm/v7 4/4 of 2 ["1"] 1"#
        );
    }

    /// Found by fuzzing.
    #[test]
    fn a_missing_manifest_is_not_passed_over_because_another_entry_calls_it_a_blob() {
        let mut blob = blobs(1).remove(0);
        blob.digest = Ok(digest("a"));
        blob.platform = entry("a linux/amd64").platform;
        let entries = vec![blob, entry("a linux/amd64"), entry("b -")];
        let found = [
            ("e", Looked::Manifest(Manifest::Index(entries))),
            ("a", Looked::Absent),
            ("b", image()),
        ];
        assert_eq!(
            check(&[], &found),
            "unread a linux/amd64 2/3 of 2 [\"1\"] 1"
        );
    }

    /// google/go-containerregistry#2427, regclient#776.
    #[test]
    fn an_entry_that_is_not_understood_is_an_error_where_it_is_a_candidate() {
        let strange = |label: Label, digest| Entry {
            digest,
            label,
            ..entry("a linux/amd64")
        };
        let unknown = || Label::Unknown("x/y".to_owned());
        let blake3 = || Err("blake3:00".to_owned());
        let list = |entries: Vec<Entry>| Looked::Manifest(Manifest::Index(entries));
        let both = list(vec![
            strange(unknown(), Ok(digest("a"))),
            strange(Label::Manifest, blake3()),
            entry("b linux/amd64"),
        ]);
        insta::assert_snapshot!(check(&[], &[("e", both.clone()), ("b", image())]), @r#"
        error e linux/amd64 1/3 of 3 [] 0: entry 1 of the index is of a type that is not understood: "x/y"
        scan b linux/amd64 3/3 of 3 [] 0
        "#);
        let many = list(vec![
            strange(unknown(), Ok(digest("a")));
            MAX_CANDIDATES + 1
        ]);
        assert_eq!(
            check(&[], &[("e", many)]),
            "error e linux/amd64 -: the index has more than 8 entries for linux/amd64"
        );
        // It does not concern another platform, but is never left out in silence.
        assert_eq!(
            check(&["linux/s390x"], &[("e", both), ("b", image())]),
            "missing linux/s390x"
        );
        let other = list(vec![
            Entry {
                platform: entry("a linux/s390x").platform,
                ..strange(unknown(), Ok(digest("a")))
            },
            entry("b linux/arm64"),
        ]);
        assert_eq!(
            check(&[], &[("e", other.clone()), ("b", image())]),
            "scan b linux/arm64 2/2 of 1 [] 1"
        );
        assert_eq!(
            check(&[], &[("e", other), ("b", artifact())]),
            r#"error e - -: entry 1 of the index is of a type that is not understood: "x/y""#
        );
    }

    #[test]
    fn what_could_not_be_read_is_neither_scanned_nor_passed_over() {
        for looked in [Looked::Absent, Looked::Unread] {
            let found = [
                ("e", index(&["a linux/amd64", "b linux/amd64", "c -"])),
                ("a", looked.clone()),
                ("b", image()),
            ];
            assert_eq!(
                check(&[], &found),
                "unread a linux/amd64 1/3 of 2 [] 1\nscan b linux/amd64 2/3 of 2 [] 1"
            );
            let found = [
                ("e", index(&["a linux/arm64", "b unknown/unknown"])),
                ("a", looked),
                ("b", artifact()),
            ];
            assert_eq!(check(&[], &found), "unread a - -");
        }
    }

    #[test]
    fn beyond_a_limit_an_index_is_an_error_that_names_the_limit() {
        let names: Vec<_> = (1..=9).map(|it| format!("{it} linux/amd64")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let mut found = vec![("e", index(&names))];
        found.extend(
            names
                .iter()
                .map(|it| (it.split_once(' ').unwrap().0, image())),
        );
        assert_eq!(
            check(&[], &found),
            "error e linux/amd64 -: the index has more than 8 entries for linux/amd64"
        );
        found[0] = ("e", index(&names[1..]));
        assert_eq!(check(&[], &found).lines().count(), 8);

        let nested = ["1", "2", "3", "4", "5"];
        let deep = |depth: usize| {
            let mut found = vec![("e", index(&["1 -"]))];
            for pair in nested[..=depth].windows(2) {
                found.push((pair[0], index(&[&format!("{} linux/amd64", pair[1])])));
            }
            found.push((nested[depth], image()));
            found
        };
        assert_eq!(
            check(&[], &deep(3)),
            "scan 4 linux/amd64 1.1.1.1/1 of 1 [] 0"
        );
        assert_eq!(
            check(&[], &deep(4)),
            "scan 5 linux/amd64 1.1.1.1.1/1 of 1 [] 0"
        );
        let mut deeper = deep(4);
        deeper.pop();
        deeper.extend([("5", index(&["6 linux/amd64"])), ("6", image())]);
        assert_eq!(
            check(&[], &deeper),
            "error e linux/amd64 -: indexes are nested more than 4 deep"
        );

        let many = vec![entry("a linux/amd64"); 1_001];
        let found = [
            ("e", Looked::Manifest(Manifest::Index(many))),
            ("a", image()),
        ];
        assert_eq!(
            check(&[], &found),
            "error e linux/amd64 -: an index has 1001 entries; 1000 are allowed"
        );

        // Many nested indexes, each with nothing.
        let names: Vec<_> = (0..33).map(|it| format!("a{it:02} -")).collect();
        let entries: Vec<_> = names.iter().map(String::as_str).collect();
        let mut found = vec![("e", index(&entries))];
        found.extend(
            names
                .iter()
                .map(|it| (it.split_once(' ').unwrap().0, index(&[]))),
        );
        assert_eq!(
            check(&[], &found),
            "error e linux/amd64 -: more than 32 manifests would have to be read for one platform"
        );
    }

    /// What a registry may hold under the names `0` to `9` and `e`.
    fn contents() -> impl Strategy<Value = Vec<Looked>> {
        let platforms = [
            "linux/amd64",
            "linux/AMD64/v1",
            "linux/x86_64",
            "linux/amd64/v2",
            "linux/386",
            "linux/arm64",
            "linux/aarch64/v8",
            "linux/arm/v6",
            "linux/arm",
            "unknown/unknown",
            "windows/amd64",
            "-",
            "-",
        ];
        let label = prop::sample::select(vec![
            Label::Manifest,
            Label::Manifest,
            Label::Manifest,
            Label::Blob(LAYER.to_owned()),
            Label::Unknown("x/y".to_owned()),
        ]);
        let entry = (
            1..10_u8,
            prop::sample::select(platforms.to_vec()),
            label,
            0..30_u8,
        )
            .prop_map(|(name, platform, label, odd)| {
                let mut entry = entry(&format!("{name} {platform}"));
                entry.label = label;
                if odd == 0 {
                    entry.digest = Err("md5:0".to_owned());
                }
                entry.is_zstd = odd == 1;
                entry
            });
        let index =
            prop::collection::vec(entry, 0..6).prop_map(|it| Looked::Manifest(Manifest::Index(it)));
        let looked = prop_oneof![3 => Just(image()), 2 => Just(artifact()), 3 => index.clone(), 1 => Just(Looked::Absent), 1 => Just(Looked::Unread)];
        (index, prop::collection::vec(looked, 9)).prop_map(|(own, others)| {
            let mut all = vec![own];
            all.extend(others);
            all
        })
    }

    /// Whether an image that is labelled as a manifest is listed for `wish` or without a platform, and so is every nested
    /// index on the way to it.
    fn holds_image(wish: &str, at: usize, contents: &[Looked], depth: usize) -> bool {
        match &contents[at] {
            Looked::Manifest(Manifest::Image(_)) => depth > 0,
            Looked::Manifest(Manifest::Index(entries)) if depth < 6 => entries.iter().any(|it| {
                let fits = it.platform.as_ref().is_none_or(|it| {
                    let named = it.to_platform();
                    named.is_some_and(|it| it.is_same(&Platform::parse(wish).unwrap()))
                });
                let next = it.digest.as_ref().ok().and_then(|it| name(it).parse().ok());
                fits && it.label == Label::Manifest
                    && next.is_some_and(|it| holds_image(wish, it, contents, depth + 1))
            }),
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn an_image_for_a_wanted_platform_is_scanned_or_an_error(
            contents in contents(),
            wanted in prop::sample::subsequence(vec!["linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386"], 0..3),
        ) {
            let mut manifests = Manifests::new();
            manifests.insert(digest("e"), contents[0].clone());
            // Reads what is needed, as the scanner does, and nothing twice.
            let subjects = loop {
                match chosen(&wanted, &manifests) {
                    Ok(subjects) => break subjects,
                    Err(Needed(needed)) => {
                        let looked = contents[name(&needed).parse::<usize>().unwrap()].clone();
                        prop_assert!(manifests.insert(needed, looked).is_none());
                    }
                }
            };
            prop_assert!(!subjects.is_empty());
            let skipped = subjects.iter().any(|it| matches!(it, Subject::NotAnImage(..)));
            prop_assert!(!skipped || subjects.len() == 1, "{subjects:?}");
            let wishes = if wanted.is_empty() { vec!["linux/amd64"] } else { wanted };
            for wish in wishes {
                if holds_image(wish, 0, &contents, 0) {
                    prop_assert!(!skipped, "{subjects:?}");
                    let platform = Platform::parse(wish).unwrap();
                    let of_wish = subjects.iter().filter(|it| match it {
                        Subject::Image(it, _) | Subject::Unread(it) | Subject::Unsupported(it, _) => it.platform.as_ref() == Some(&platform),
                        _ => false,
                    });
                    prop_assert!(of_wish.count() > 0, "{wish}: {subjects:?}");
                }
            }
        }
    }
}
