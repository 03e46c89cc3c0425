//! What is really scanned: one manifest, named by its digest, with what is known of its surroundings.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::image::{Digest, Image, Pin};
use crate::platform::Platform;

/// One manifest to scan.
///
/// **Invariant**: its image is pinned by a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    image: Image,
    digest: Digest,
    /// The platform, if it was chosen from an index.
    pub platform: Option<Platform>,
    /// The index it was chosen from.
    pub index: Option<Digest>,
    /// All that the index lists, and those nested in it.
    pub siblings: Vec<Digest>,
    /// How it was chosen from the index.
    pub choice: Option<Choice>,
    /// The digest of its config, if its manifest was read.
    pub config: Option<Digest>,
    /// The bytes of its compressed layers, as its manifest states; 0 if it was not read.
    pub size: u64,
}

impl Target {
    /// The manifest with this digest, which `image` named by tag, by this digest or by that of its index. The tag stays,
    /// for people to recognise it.
    pub fn new(image: &Image, digest: Digest) -> Self {
        let pin = match image.pin.tag() {
            Some(tag) => Pin::TagAndDigest(tag.clone(), digest.clone()),
            None => Pin::Digest(digest.clone()),
        };
        Self {
            image: Image {
                registry: image.registry.clone(),
                repository: image.repository.clone(),
                pin,
            },
            digest,
            platform: None,
            index: None,
            siblings: Vec::new(),
            choice: None,
            config: None,
            size: 0,
        }
    }

    /// The image as the CLI is asked for it.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The digest of the manifest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
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
