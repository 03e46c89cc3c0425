//! What a registry has under a name: an image, an index of images, or something else.
//!
//! Whoever pushes writes the manifest, and would like it not to be scanned. So what a runtime would run counts as an
//! image, whatever else the manifest calls itself; and everything that is not one is told, never passed.
//!
//! Source: OCI image specification, "Image Manifest" and "Image Index"; Docker's "Image Manifest Version 2, Schema 2".

use serde::Deserialize;
use serde_json::Value;

use crate::image::{Digest, Image};
use crate::media_type::{self, Shown};
use crate::platform::{self, Platform};
use crate::target::Target;

/// A manifest, as far as scanning needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// The manifest of one image.
    Image(ImageManifest),
    /// An index of images.
    Index(Index),
    /// Something else, of this type.
    NotAnImage(String),
}

/// The manifest of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// The digest of its config.
    pub config: Option<Digest>,
    /// The sum of its compressed layers, in bytes.
    pub size: u64,
}

/// An index of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its images, in its order; attestations and the like are none.
    images: Vec<Child>,
    /// All that it lists.
    children: Vec<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Child {
    digest: Digest,
    platform: Option<Platform>,
}

/// What comes of a wish for an image of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// This one is scanned.
    Scan(Target),
    /// The index has none for this platform.
    Missing(Platform),
}

/// A manifest that can't be told to be an image or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseManifestError {
    /// Not JSON, or none of a manifest's.
    #[error("the manifest is malformed")]
    Malformed,
    /// Both image and index, so that each reader sees what it likes.
    #[error("the manifest claims to be an image and an index at once")]
    Ambiguous,
    /// Docker's first schema, which no scanner reads.
    #[error(
        "the manifest is of Docker's schema 1; push the image again with a tool of this decade"
    )]
    Schema1,
    /// An index of indexes.
    #[error("the index lists other indexes only")]
    Nested,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireManifest {
    schema_version: Option<Value>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<WireDescriptor>,
    layers: Option<Vec<WireDescriptor>>,
    manifests: Option<Vec<WireDescriptor>>,
    /// Only Docker's schema 1 has it.
    fs_layers: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: i64,
    platform: Option<WirePlatform>,
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Option<serde_json::Map<String, Value>>,
}

#[derive(Deserialize)]
struct WirePlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// `BuildKit` marks the children of an index that are attestations of its images.
/// Source: `BuildKit`, docs/attestations/attestation-storage.md.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

impl Manifest {
    /// Reads the bytes of a manifest; `content_type` is what the registry calls it, which counts if it does not say
    /// itself.
    pub fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Self, ParseManifestError> {
        let wire: WireManifest =
            serde_json::from_slice(bytes).map_err(|_| ParseManifestError::Malformed)?;
        let named = content_type.map(|it| it.split(';').next().unwrap_or_default().trim());
        let media_type = wire.media_type.as_deref().or(named).unwrap_or_default();
        if wire.fs_layers.is_some() || media_type::is_schema_1(media_type) {
            return Err(ParseManifestError::Schema1);
        }
        if wire.schema_version.is_some_and(|it| it != 2) {
            return Err(ParseManifestError::Malformed);
        }
        match (wire.config, wire.layers, wire.manifests) {
            (None, None, Some(manifests)) => index(manifests),
            (Some(config), layers, None) => Ok(image(&config, &layers.unwrap_or_default())),
            (_, _, Some(_)) => Err(ParseManifestError::Ambiguous),
            // An OCI artifact manifest has neither; so has whatever is invented next.
            (None, None, None)
                if !media_type::is_manifest(media_type) && !media_type.is_empty() =>
            {
                Ok(Self::NotAnImage(
                    wire.artifact_type.unwrap_or_else(|| media_type.to_owned()),
                ))
            }
            (None, ..) => Err(ParseManifestError::Malformed),
        }
    }
}

/// An image, or something else by [`media_type::judge`].
fn image(config: &WireDescriptor, layers: &[WireDescriptor]) -> Manifest {
    let layer_types = layers.iter().map(|it| it.media_type.as_str());
    if let Shown::Artifact(what) = media_type::judge(&config.media_type, layer_types) {
        return Manifest::NotAnImage(what.to_owned());
    }
    let sizes = layers.iter().map(|it| u64::try_from(it.size).unwrap_or(0));
    Manifest::Image(ImageManifest {
        config: Digest::parse(&config.digest).ok(),
        size: sizes.fold(0, u64::saturating_add),
    })
}

fn index(manifests: Vec<WireDescriptor>) -> Result<Manifest, ParseManifestError> {
    let digest = |it: &WireDescriptor| Digest::parse(&it.digest).ok();
    let children = manifests.iter().filter_map(digest).collect();
    let is_empty = manifests.is_empty();
    let first_type = manifests
        .first()
        .map(|it| it.artifact_type.as_ref().unwrap_or(&it.media_type).clone());
    let has_indexes = manifests
        .iter()
        .any(|it| media_type::is_index(&it.media_type));
    let images: Vec<_> = manifests.into_iter().filter_map(child).collect();
    match (images.is_empty(), has_indexes) {
        (false, _) => Ok(Manifest::Index(Index { images, children })),
        (true, true) => Err(ParseManifestError::Nested),
        (true, false) if is_empty => Ok(Manifest::NotAnImage("an empty index".to_owned())),
        (true, false) => Ok(Manifest::NotAnImage(first_type.unwrap_or_default())),
    }
}

fn child(wire: WireDescriptor) -> Option<Child> {
    let is_attestation = wire
        .annotations
        .is_some_and(|it| it.contains_key(REFERENCE_TYPE));
    let is_unknown = wire
        .platform
        .as_ref()
        .is_some_and(|it| it.os == "unknown" && it.architecture == "unknown");
    let platform = wire.platform.and_then(|it| {
        let text = [it.os, it.architecture, it.variant]
            .join("/")
            .to_lowercase();
        Platform::parse(text.trim_end_matches('/')).ok()
    });
    // What refers to an image, such as a signature, is listed without a platform and with its own type.
    let is_referrer = platform.is_none() && wire.artifact_type.is_some();
    if is_unknown
        || (is_attestation && platform.is_none())
        || is_referrer
        || !media_type::is_image_manifest(&wire.media_type)
    {
        return None;
    }
    Some(Child {
        digest: Digest::parse(&wire.digest).ok()?,
        platform,
    })
}

impl Index {
    /// Chooses the images for the wanted platforms; without a wish that for [`platform::DEFAULT`], else the first.
    /// `image` is how the index was asked for, `digest` its own.
    pub fn choose(&self, image: &Image, digest: &Digest, wanted: &[Platform]) -> Vec<Choice> {
        let scan = |child: &Child, platform: Option<&Platform>| {
            let mut target = Target::new(image, child.digest.clone());
            target.platform = platform.cloned();
            target.index = Some(digest.clone());
            target.siblings.clone_from(&self.children);
            Choice::Scan(target)
        };
        if wanted.is_empty() {
            let default = Platform::parse(platform::DEFAULT).ok();
            let chosen = default.and_then(|it| self.image_for(&it));
            let chosen = chosen.or_else(|| self.images.first());
            let chosen = chosen.map(|it| scan(it, it.platform.as_ref()));
            return chosen.into_iter().collect();
        }
        let choices = wanted.iter().map(|wish| match self.image_for(wish) {
            // Told as it was wished, so that a request's records don't change with how an index spells it.
            Some(child) => scan(child, Some(wish)),
            None => Choice::Missing(wish.clone()),
        });
        choices.collect()
    }

    /// The image for exactly this platform, else the first that is included in it, as runtimes choose.
    fn image_for(&self, wish: &Platform) -> Option<&Child> {
        let platform_of =
            |it: &&Child, is: &dyn Fn(&Platform) -> bool| it.platform.as_ref().is_some_and(is);
        let exact = self
            .images
            .iter()
            .find(|it| platform_of(it, &|it| it == wish));
        exact.or_else(|| {
            self.images
                .iter()
                .find(|it| platform_of(it, &|it| wish.includes(it)))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    fn digest(hex: &str) -> String {
        format!("sha256:{}", hex.repeat(64))
    }

    fn check(json: &Value) -> String {
        match Manifest::parse(None, json.to_string().as_bytes()) {
            Ok(Manifest::Image(it)) => format!("image of {} bytes", it.size),
            Ok(Manifest::Index(it)) => format!("index of {}", it.images.len()),
            Ok(Manifest::NotAnImage(it)) => format!("no image: {it}"),
            Err(err) => format!("{err:?}"),
        }
    }

    fn manifest(config: &str, layers: &[&str]) -> Value {
        let layers = layers
            .iter()
            .map(|it| json!({"mediaType": it, "digest": digest("b"), "size": 1000}));
        json!({
            "schemaVersion": 2,
            "mediaType": IMAGE,
            "config": {"mediaType": config, "digest": digest("a"), "size": 7},
            "layers": layers.collect::<Vec<_>>(),
        })
    }

    fn child(hex: &str, platform: &str) -> Value {
        let mut parts = platform.split('/');
        json!({
            "mediaType": IMAGE,
            "digest": digest(hex),
            "size": 7,
            "platform": {
                "os": parts.next(),
                "architecture": parts.next(),
                "variant": parts.next().unwrap_or_default(),
            },
        })
    }

    fn index(children: &[Value]) -> Value {
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children})
    }

    #[test]
    fn an_image_has_an_images_config_and_layers_with_files() {
        assert_eq!(
            check(&manifest(CONFIG, &[LAYER, LAYER])),
            "image of 2000 bytes"
        );
        assert_eq!(check(&manifest(CONFIG, &[])), "image of 0 bytes");
        for (config, layer) in [
            (CONFIG, "application/vnd.dev.cosign.simplesigning.v1+json"),
            (CONFIG, "application/vnd.in-toto+json"),
            (CONFIG, "text/spdx+json"),
        ] {
            assert_eq!(
                check(&manifest(config, &[layer])),
                format!("no image: {layer}")
            );
        }
        for config in [
            "application/vnd.cncf.helm.config.v1+json",
            "application/vnd.oci.empty.v1+json",
            "application/vnd.buildkit.cacheconfig.v0",
        ] {
            assert_eq!(
                check(&manifest(config, &[LAYER])),
                format!("no image: {config}")
            );
        }
        let old = json!({"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "artifactType": "a/b", "blobs": []});
        assert_eq!(check(&old), "no image: a/b");
    }

    #[test]
    fn what_a_runtime_would_run_is_an_image_whatever_else_it_says() {
        let mut image = manifest(CONFIG, &["text/plain", LAYER]);
        image["artifactType"] = "application/vnd.example.thing".into();
        assert_eq!(check(&image), "image of 2000 bytes");
        let mut marked = child("c", "linux/amd64");
        marked["annotations"] = json!({REFERENCE_TYPE: "attestation-manifest"});
        marked["artifactType"] = "a/b".into();
        assert_eq!(check(&index(&[marked])), "index of 1");
    }

    #[test]
    fn an_index_counts_its_images_only() {
        let mut attestation = child("d", "unknown/unknown");
        attestation["annotations"] = json!({REFERENCE_TYPE: "attestation-manifest"});
        let referrer =
            json!({"mediaType": IMAGE, "digest": digest("e"), "size": 7, "artifactType": "a/b"});
        let layer = json!({"mediaType": LAYER, "digest": digest("f"), "size": 7});
        let nested = json!({"mediaType": INDEX, "digest": digest("9"), "size": 7});
        let images = [
            child("c", "linux/amd64"),
            attestation.clone(),
            referrer.clone(),
            nested.clone(),
        ];
        assert_eq!(check(&index(&images)), "index of 1");
        assert_eq!(check(&index(&[attestation])), format!("no image: {IMAGE}"));
        assert_eq!(check(&index(&[referrer])), "no image: a/b");
        // BuildKit's cache is an index of layers.
        assert_eq!(check(&index(&[layer])), format!("no image: {LAYER}"));
        assert_eq!(check(&index(&[nested])), "Nested");
        assert_eq!(check(&index(&[])), "no image: an empty index");
    }

    #[test]
    fn what_two_readers_could_read_differently_is_an_error() {
        let mut both = manifest(CONFIG, &[LAYER]);
        both["manifests"] = json!([]);
        assert_eq!(check(&both), "Ambiguous");
        assert_eq!(
            check(&json!({"schemaVersion": 1, "fsLayers": []})),
            "Schema1"
        );
        for malformed in [
            json!({}),
            json!([]),
            json!({"schemaVersion": 1}),
            json!({"layers": []}),
        ] {
            assert_eq!(check(&malformed), "Malformed", "{malformed}");
        }
        let typed = Manifest::parse(Some("text/html; charset=utf-8"), b"{}").unwrap();
        assert_eq!(typed, Manifest::NotAnImage("text/html".to_owned()));
    }

    fn chosen(children: &[Value], wanted: &[&str]) -> Vec<String> {
        let wanted: Vec<_> = wanted
            .iter()
            .map(|it| Platform::parse(it).unwrap())
            .collect();
        let bytes = index(children).to_string();
        let Manifest::Index(index) = Manifest::parse(None, bytes.as_bytes()).unwrap() else {
            panic!("no index")
        };
        let image = Image::parse("h.io/a:1").unwrap();
        let own = Digest::parse(&digest("0")).unwrap();
        let choices = index
            .choose(&image, &own, &wanted)
            .into_iter()
            .map(|it| match it {
                Choice::Scan(target) => {
                    assert_eq!(target.index.as_ref(), Some(&own));
                    assert_eq!(target.siblings.len(), children.len());
                    let platform = target.platform.as_ref().map_or("-", Platform::as_str);
                    format!("{:.1} {platform}", target.digest().hex())
                }
                Choice::Missing(platform) => format!("no {platform}"),
            });
        choices.collect()
    }

    #[test]
    fn the_wanted_platforms_are_chosen_and_a_missing_one_is_told() {
        let children = [
            child("1", "windows/amd64"),
            child("2", "linux/arm/v6"),
            child("3", "linux/arm/v7"),
            child("4", "linux/amd64"),
        ];
        assert_eq!(chosen(&children, &[]), ["4 linux/amd64"]);
        assert_eq!(chosen(&children[..3], &[]), ["1 windows/amd64"]);
        assert_eq!(
            chosen(&children, &["linux/arm/v7", "linux/arm", "linux/s390x"]),
            ["3 linux/arm/v7", "2 linux/arm", "no linux/s390x"]
        );
    }
}
