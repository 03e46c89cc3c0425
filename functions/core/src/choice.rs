//! Decides what to scan of a pushed manifest: the image itself, or every entry of an index that a runtime could choose
//! for a wanted platform.
//!
//! containerd and Docker choose the first entry whose normalised platform fits. CRI-O and Podman choose one that is
//! spelled exactly the same or marked zstd. So whoever pushes could show one runtime an image that another never sees.
//! Therefore each candidate is read, and each that is an image is scanned.
//!
//! **Invariant**: an entry that could be an image is scanned or an error, and never a reason to skip anything. Only
//! content that was read is known not to be an image.

use std::collections::HashMap;

use crate::event::FreeText;
use crate::image::{Digest, Image};
use crate::manifest::{Entry, ImageManifest, Label, Manifest};
use crate::platform::{self, Platform, Spelling};
use crate::target::{Choice, PassedOver, Target};

/// The most candidates for one platform.
const MAX_CANDIDATES: usize = 8;

/// How deep indexes may be nested in the pushed one.
const MAX_DEPTH: usize = 4;

/// The most entries of one index.
const MAX_ENTRIES: usize = 1_000;

/// The most manifests that are read for one platform.
const MAX_READ: usize = 32;

/// The registry's content under a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    Manifest(Manifest),
    /// There is no manifest.
    Absent,
    /// It could not be read; the caller knows why.
    Unread,
}

/// The manifests of a repository that were read so far.
pub type Manifests = HashMap<Digest, Fetched>;

/// The outcome for one image, or for a wanted platform without any image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// It is scanned.
    Image(Target, ImageManifest),
    /// It isn't an image; this type shows it.
    NotAnImage(Target, String),
    /// It can't be scanned, for this reason.
    Unsupported(Target, String),
    /// It could not be read.
    Unread(Target),
    /// The index has no image for this platform.
    Missing(Platform),
}

/// The digest of a manifest that must be read before the choice can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed(pub Digest);

/// Decides what to scan of the manifest `digest`, to which `image` was resolved.
pub fn choose(
    image: &Image,
    digest: &Digest,
    wanted: &[Platform],
    manifests: &Manifests,
) -> Result<Vec<Subject>, Needed> {
    let target = Target::new(image, digest.clone());
    let entries = match look(manifests, digest)? {
        Fetched::Manifest(Manifest::Image(manifest)) => {
            return Ok(vec![Subject::Image(target, manifest.clone())]);
        }
        Fetched::Manifest(Manifest::NotAnImage(what)) => {
            return Ok(vec![Subject::NotAnImage(target, what.clone())]);
        }
        Fetched::Absent | Fetched::Unread => return Ok(vec![Subject::Unread(target)]),
        Fetched::Manifest(Manifest::Index(entries)) => entries,
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
    // No wanted platform has an image. The index is "not an image" only if no other platform has one either.
    let mut any = AnySearch::default();
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

fn look<'a>(manifests: &'a Manifests, digest: &Digest) -> Result<&'a Fetched, Needed> {
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
struct AnySearch {
    /// The type of the first entry that isn't an image.
    what: Option<String>,
    /// The first entry that may be an image.
    unknown: Option<Subject>,
    read: usize,
}

/// The result of the search for one platform.
#[derive(Default)]
struct PlatformSearch {
    /// Images and possible images, each with its place and the number of entries in its index.
    subjects: Vec<(String, usize, Subject)>,
    candidates: usize,
    /// The candidates that were read, and whether each counted only as a blob.
    seen: Vec<(Digest, bool)>,
    passed_over: Vec<PassedOver>,
    /// Every entry of every index that was searched.
    listed: Vec<Digest>,
    /// The total number of entries.
    entries: usize,
    read: usize,
}

impl PlatformSearch {
    fn count_candidate(&mut self, wish: &Platform) -> Result<(), Stop> {
        self.candidates += 1;
        if self.candidates > MAX_CANDIDATES {
            let limit = format!("the index has more than {MAX_CANDIDATES} entries for {wish}");
            return Err(Stop::Limit(limit));
        }
        Ok(())
    }
}

/// Why the search ended without a result.
enum Stop {
    Needed(Needed),
    /// The index exceeds this limit.
    Limit(String),
}

impl From<Needed> for Stop {
    fn from(needed: Needed) -> Self {
        Self::Needed(needed)
    }
}

impl Index<'_> {
    /// Returns the outcome for one wanted platform.
    fn subjects(&self, wish: &Platform) -> Result<Vec<Subject>, Needed> {
        let mut search = PlatformSearch::default();
        match self.search(wish, self.entries, "", 0, &mut search) {
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
        if search.subjects.is_empty() {
            return Ok(vec![Subject::Missing(wish.clone())]);
        }
        let others = search.entries.saturating_sub(search.candidates);
        let subjects = search
            .subjects
            .into_iter()
            .map(|(entry, entries, mut subject)| {
                if let Some(target) = subject.target_mut() {
                    target.platform = Some(wish.clone());
                    target.siblings.clone_from(&search.listed);
                    target.choice = Some(Choice {
                        entry,
                        entries,
                        candidates: search.candidates,
                        passed_over: search.passed_over.clone(),
                        others,
                    });
                }
                subject
            });
        Ok(subjects.collect())
    }

    /// Searches the entries of one index for images for `wish`, group by group, and the indexes among them.
    fn search(
        &self,
        wish: &Platform,
        entries: &[Entry],
        within: &str,
        depth: usize,
        search: &mut PlatformSearch,
    ) -> Result<(), Stop> {
        check_index(entries, depth)?;
        search.entries += entries.len();
        let digests = entries.iter().filter_map(|it| it.digest.clone().ok());
        search.listed.extend(digests);
        let platforms: Vec<_> = entries.iter().map(|it| it.platform.clone()).collect();
        let before = search.subjects.len();
        for group in platform::candidates(wish, &platforms) {
            for place in group {
                let Some(entry) = entries.get(place) else {
                    continue;
                };
                if is_runnable(entry, place, entries) {
                    self.candidate(wish, entry, (within, place, entries.len()), depth, search)?;
                }
            }
            if search.subjects.len() > before {
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
        search: &mut PlatformSearch,
    ) -> Result<(), Stop> {
        let place = format!("{within}{}", place + 1);
        let digest = match understood(entry) {
            Ok(digest) => digest,
            Err(problem) => {
                search.count_candidate(wish)?;
                let is_error = |(_, _, it): &_| matches!(it, Subject::Unsupported(..));
                // One error is enough: a second one of the same index would overwrite the record of the first.
                if !search.subjects.iter().any(is_error) {
                    let problem = format!("entry {place} of the index {problem}");
                    let subject = self.unsupported(&problem);
                    search.subjects.push((place, entries, subject));
                }
                return Ok(());
            }
        };
        let is_blob = matches!(entry.label, Label::Blob(_));
        // A missing blob is passed over, unless another entry lists it as a manifest.
        let is_seen = |(it, as_blob): &(Digest, bool)| it == digest && (is_blob || !as_blob);
        if search.seen.iter().any(is_seen) {
            return Ok(());
        }
        count(&mut search.read)?;
        let looked = look(self.manifests, digest)?;
        let as_blob = is_blob && *looked == Fetched::Absent;
        search.seen.push((digest.clone(), as_blob));
        if let Fetched::Manifest(Manifest::Index(entries)) = looked {
            // The candidates are the entries of the nested index.
            search.entries -= 1;
            return self.search(wish, entries, &format!("{place}."), depth + 1, search);
        }
        search.count_candidate(wish)?;
        let target = self.target(digest);
        let subject = match (looked, &entry.label) {
            (Fetched::Manifest(Manifest::Image(manifest)), _) => {
                Subject::Image(target, manifest.clone())
            }
            (Fetched::Manifest(Manifest::NotAnImage(media_type)), _)
            | (Fetched::Absent, Label::Blob(media_type)) => {
                search.passed_over.push(PassedOver {
                    entry: place,
                    media_type: FreeText::new(media_type).as_str().to_owned(),
                });
                return Ok(());
            }
            _ => Subject::Unread(target),
        };
        search.subjects.push((place, entries, subject));
        Ok(())
    }

    /// Returns the platform of the first image in the order of the entries; nested entries count in their place.
    fn first_image(
        &self,
        entries: &[Entry],
        of_index: Option<&Spelling>,
        depth: usize,
        any: &mut AnySearch,
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
                (Fetched::Manifest(Manifest::Image(_)), _) => {
                    return Ok(Some(platform.cloned().unwrap_or_default()));
                }
                (Fetched::Manifest(Manifest::Index(entries)), _) => {
                    let found = self.first_image(entries, platform, depth + 1, any)?;
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                (Fetched::Manifest(Manifest::NotAnImage(media_type)), _)
                | (Fetched::Absent, Label::Blob(media_type)) => {
                    any.what.get_or_insert_with(|| media_type.clone());
                }
                (Fetched::Absent | Fetched::Unread, _) => {
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

    /// The outcome if the index itself can't be scanned.
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

/// Whether a runtime would choose this entry, if it were an image. containerd chooses entries that are labelled as
/// manifests. CRI-O, Podman and Docker ignore the label. Among entries without a platform, CRI-O and Podman choose the
/// first, or one that is marked zstd; Docker tries the next one if the first is an index that it can't pull. This rule
/// avoids reading a `BuildKit` cache, an index of a hundred layers, layer by layer. Sources: containers/image,
/// `internal/manifest/oci_index.go`, "chooseInstance"; moby/moby, `distribution/pull_v2.go`, "pullManifestList".
fn is_runnable(entry: &Entry, place: usize, entries: &[Entry]) -> bool {
    let is_blob = |it: &Entry| matches!(it.label, Label::Blob(_));
    let is_first = || entries.iter().position(|it| it.platform.is_none()) == Some(place);
    !is_blob(entry)
        || entry.platform.is_some()
        || entry.is_zstd
        || is_first()
        || !entries.iter().all(is_blob)
}

/// Returns the digest of an entry, or describes the part that we can't read.
fn understood(entry: &Entry) -> Result<&Digest, String> {
    let shown = |text: &str| FreeText::new(text).as_str().to_owned();
    match (&entry.digest, &entry.label) {
        (Err(text), _) => Err(format!("has an unsupported digest: {:?}", shown(text))),
        (_, Label::Unknown(media_type)) => {
            Err(format!("has an unsupported type: {:?}", shown(media_type)))
        }
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
mod tests;
