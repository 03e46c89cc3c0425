//! What a registry has under a name: an image, an index of images, or something else.
//!
//! Whoever pushes writes the manifest, and may want to avoid a scan. So it is read like by runtimes, which are written
//! in Go. Content that two readers could read differently is an error, and only what no runtime would run is not an
//! image.
//!
//! Source: OCI image specification, "Image Manifest" and "Image Index"; Docker's "Image Manifest Version 2, Schema 2".

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::event::Content;
use crate::image::Digest;
use crate::media_type::{self, Shown};
use crate::platform::Spelling;

/// The parts of a manifest that scanning needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    Image(ImageManifest),
    Index(Vec<Entry>),
    /// Something else. This media type shows that.
    NotAnImage(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    pub config: Option<Digest>,
    /// The sum of its compressed layers, in bytes.
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The digest, or the text of one that we can't read.
    pub digest: Result<Digest, String>,
    pub label: Label,
    /// The platform that it is listed for.
    pub platform: Option<Spelling>,
    /// Whether newer Podman and CRI-O prefer it among equals. Source: containers/image,
    /// `internal/manifest/oci_index.go`, `OCI1InstanceAnnotationCompressionZSTD`.
    pub is_zstd: bool,
}

/// What the media type of an index entry claims. Whoever pushes writes that too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Label {
    /// A manifest or an index.
    Manifest,
    /// A layer or config of this type. `BuildKit` lists those of its caches.
    Blob(String),
    /// An unknown type.
    Unknown(String),
}

/// Why it is unknown whether a manifest is an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseManifestError {
    /// It isn't JSON, or not that of a manifest.
    #[error("the manifest is malformed")]
    Malformed,
    /// One reader would see an image, another an index.
    #[error("the manifest claims to be an image and an index at once")]
    Ambiguous,
    /// Docker's first schema, which no scanner reads.
    #[error("the manifest is of Docker's schema 1; push the image again with a current client")]
    Schema1,
}

impl Label {
    /// The media type, or a fixed text for manifests.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Manifest => "a manifest",
            Self::Blob(media_type) | Self::Unknown(media_type) => media_type,
        }
    }
}

/// The objects of a manifest. Go's `encoding/json` accepts a key in any case, and uses the last one of repeated keys.
/// So a key that Go would accept for one of ours is an error, like a repeated one. Unneeded values are skipped without
/// decoding.
macro_rules! wire {
    ($name:ident { $($key:literal $field:ident: $type:ty,)* }) => {
        #[derive(Default)]
        struct $name {
            $($field: Option<$type>,)*
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;

                impl<'de> Visitor<'de> for Fields {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        let mut wire = $name::default();
                        let mut seen = Vec::new();
                        while let Some(key) = map.next_key::<String>()? {
                            match key.as_str() {
                                $($key => {
                                    if seen.contains(&$key) {
                                        return Err(A::Error::custom("a key is repeated"));
                                    }
                                    seen.push($key);
                                    wire.$field = map.next_value()?;
                                })*
                                other => {
                                    if [$($key),*].iter().any(|it| is_folded(it, other)) {
                                        return Err(A::Error::custom("a key is spelled otherwise"));
                                    }
                                    map.next_value::<IgnoredAny>()?;
                                }
                            }
                        }
                        Ok(wire)
                    }
                }

                deserializer.deserialize_map(Fields)
            }
        }
    };
}

/// Whether Go accepts `key` for `ours`, which is ASCII. Source: Go, `encoding/json/fold.go`.
fn is_folded(ours: &str, key: &str) -> bool {
    let fold = |it: char| match it {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        _ => it.to_ascii_lowercase(),
    };
    key.chars().map(fold).eq(ours.chars().map(fold))
}

wire!(WireManifest {
    "schemaVersion" schema_version: serde_json::Number,
    "mediaType" media_type: String,
    "config" config: WireDescriptor,
    "layers" layers: Descriptors,
    "manifests" manifests: Descriptors,
    // Of an OCI artifact manifest.
    "artifactType" artifact_type: String,
    // Only Docker's schema 1 has this key.
    "fsLayers" fs_layers: IgnoredAny,
});

wire!(WireDescriptor {
    "mediaType" media_type: String,
    "digest" digest: String,
    "size" size: i64,
    "platform" platform: WirePlatform,
    "annotations" annotations: WireAnnotations,
});

/// A manifest can't contain more descriptors with a digest. Descriptors without one would need sixty times the memory
/// of their text.
const MAX_DESCRIPTORS: usize = 50_000;

#[derive(Default)]
struct Descriptors(Vec<WireDescriptor>);

impl<'de> Deserialize<'de> for Descriptors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;

        impl<'de> Visitor<'de> for Elements {
            type Value = Descriptors;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Descriptors, A::Error> {
                let mut descriptors = Vec::new();
                while let Some(descriptor) = seq.next_element()? {
                    if descriptors.len() == MAX_DESCRIPTORS {
                        return Err(A::Error::custom("a list is too long"));
                    }
                    descriptors.push(descriptor);
                }
                Ok(Descriptors(descriptors))
            }
        }

        deserializer.deserialize_seq(Elements)
    }
}

wire!(WirePlatform {
    "os" os: String,
    "architecture" architecture: String,
    "variant" variant: String,
    "os.version" os_version: String,
});

wire!(WireAnnotations {
    "io.github.containers.compression.zstd" zstd: String,
});

impl Manifest {
    /// Parses the bytes of a manifest. `content_type` is the registry's type; it counts if the manifest has none.
    pub fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Self, ParseManifestError> {
        let wire: WireManifest =
            serde_json::from_slice(bytes).map_err(|_| ParseManifestError::Malformed)?;
        let named = content_type.map(|it| it.split(';').next().unwrap_or_default().trim());
        let media_type = wire.media_type.as_deref().or(named).unwrap_or_default();
        if wire.fs_layers.is_some() || media_type::is_schema_1(media_type) {
            return Err(ParseManifestError::Schema1);
        }
        if wire.schema_version.is_some_and(|it| it.as_u64() != Some(2)) {
            return Err(ParseManifestError::Malformed);
        }
        match (wire.config, wire.layers, wire.manifests) {
            (None, None, Some(Descriptors(manifests))) => {
                Ok(Self::Index(manifests.into_iter().map(entry).collect()))
            }
            (Some(config), layers, None) => Ok(image(config, layers.unwrap_or_default().0)),
            (_, _, Some(_)) => Err(ParseManifestError::Ambiguous),
            // An OCI artifact manifest has neither config nor layers. Future formats may not either.
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

    /// Classifies the content of a manifest in a payload. It counts as an image if it can't be read, or if runtimes
    /// could read it differently.
    pub(crate) fn content(bytes: &[u8]) -> Content {
        fn media_type(descriptor: &WireDescriptor) -> Option<&str> {
            descriptor.media_type.as_deref()
        }
        match serde_json::from_slice(bytes) {
            Ok(WireManifest {
                config,
                layers,
                manifests: None,
                ..
            }) => Content::of_manifest(
                config.as_ref().and_then(media_type),
                layers.iter().flat_map(|it| &it.0).map(media_type),
            ),
            _ => Content::Image,
        }
    }
}

/// Returns an image, or something else according to [`media_type::judge`].
fn image(config: WireDescriptor, layers: Vec<WireDescriptor>) -> Manifest {
    let config_type = config.media_type.unwrap_or_default();
    let layer_types = layers
        .iter()
        .map(|it| it.media_type.as_deref().unwrap_or_default());
    if let Shown::Artifact(what) = media_type::judge(&config_type, layer_types) {
        return Manifest::NotAnImage(what.to_owned());
    }
    let sizes = layers
        .iter()
        .map(|it| u64::try_from(it.size.unwrap_or(0)).unwrap_or(0));
    Manifest::Image(ImageManifest {
        config: config.digest.and_then(|it| Digest::parse(&it).ok()),
        size: sizes.fold(0, u64::saturating_add),
    })
}

fn entry(wire: WireDescriptor) -> Entry {
    let digest = wire.digest.unwrap_or_default();
    let media_type = wire.media_type.unwrap_or_default();
    let is_blob =
        media_type::is_file_system(&media_type) || media_type::is_artifact_config(&media_type);
    let label = if media_type.is_empty()
        || media_type::is_manifest(&media_type)
        || media_type == "application/vnd.oci.artifact.manifest.v1+json"
    {
        Label::Manifest
    } else if is_blob {
        Label::Blob(media_type)
    } else {
        Label::Unknown(media_type)
    };
    let platform = wire.platform.map(|it| Spelling {
        os: it.os.unwrap_or_default(),
        architecture: it.architecture.unwrap_or_default(),
        variant: it.variant.unwrap_or_default(),
        os_version: it.os_version.unwrap_or_default(),
    });
    Entry {
        digest: Digest::parse(&digest).map_err(|_| digest),
        label,
        platform,
        is_zstd: wire.annotations.and_then(|it| it.zstd).as_deref() == Some("true"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    fn digest(hex: &str) -> String {
        format!("sha256:{}", hex.repeat(64))
    }

    fn check_text(text: &str) -> String {
        match Manifest::parse(None, text.as_bytes()) {
            Ok(Manifest::Image(it)) => format!("image of {} bytes", it.size),
            Ok(Manifest::Index(it)) => format!("index of {}", it.len()),
            Ok(Manifest::NotAnImage(it)) => format!("no image: {it}"),
            Err(err) => format!("{err:?}"),
        }
    }

    fn check(json: &Value) -> String {
        check_text(&json.to_string())
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

    #[test]
    fn an_image_is_recognised_by_its_config_and_layers() {
        assert_eq!(
            check(&manifest(CONFIG, &[LAYER, LAYER])),
            "image of 2000 bytes"
        );
        assert_eq!(check(&manifest(CONFIG, &[])), "image of 0 bytes");
        assert_eq!(
            check(&manifest(CONFIG, &["text/spdx+json"])),
            "no image: text/spdx+json"
        );
        let mut untyped = manifest(CONFIG, &[LAYER]);
        untyped["config"]["mediaType"] = Value::Null;
        untyped["layers"][0]["mediaType"] = Value::Null;
        assert_eq!(check(&untyped), "image of 1000 bytes");
        let old = json!({"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "artifactType": "a/b", "blobs": []});
        assert_eq!(check(&old), "no image: a/b");
        let typed = Manifest::parse(Some("text/html; charset=utf-8"), b"{}").unwrap();
        assert_eq!(typed, Manifest::NotAnImage("text/html".to_owned()));
    }

    #[test]
    fn other_claims_of_a_manifest_are_ignored() {
        let mut image = manifest(CONFIG, &["text/plain", LAYER]);
        image["artifactType"] = "application/vnd.example.thing".into();
        image["subject"] = json!({"mediaType": IMAGE, "digest": digest("c"), "size": 7});
        image["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
        assert_eq!(check(&image), "image of 2000 bytes");
    }

    #[test]
    fn an_entry_of_an_index_keeps_its_label_and_its_platform() {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
            {"mediaType": IMAGE, "digest": digest("a"), "size": 7, "platform": {"os": "linux", "architecture": "arm", "variant": "v7", "os.version": "1"}},
            {"mediaType": LAYER, "digest": digest("b"), "size": 7, "annotations": {"io.github.containers.compression.zstd": "true"}},
            {"mediaType": "application/vnd.nobody.knows.this", "digest": "blake3:00", "size": 7},
            {},
        ]});
        let Ok(Manifest::Index(entries)) = Manifest::parse(None, index.to_string().as_bytes())
        else {
            panic!("an index")
        };
        let shown = |it: &Entry| {
            let platform = it.platform.as_ref().map_or("-".to_owned(), |it| {
                [
                    it.os.as_str(),
                    &it.architecture,
                    &it.variant,
                    &it.os_version,
                ]
                .join("/")
            });
            let digest = it
                .digest
                .as_ref()
                .map_or_else(String::clone, |it| it.as_str().chars().take(9).collect());
            format!("{digest:?} {:?} {platform} {}", it.label, it.is_zstd)
        };
        insta::assert_snapshot!(entries.iter().map(shown).collect::<Vec<_>>().join("\n"), @r#"
        "sha256:aa" Manifest linux/arm/v7/1 false
        "sha256:bb" Blob("application/vnd.oci.image.layer.v1.tar+gzip") - true
        "blake3:00" Unknown("application/vnd.nobody.knows.this") - false
        "" Manifest - false
        "#);
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
            json!({"schemaVersion": 2.5, "config": {}}),
            json!({"layers": []}),
        ] {
            assert_eq!(check(&malformed), "Malformed", "{malformed}");
        }
    }

    /// Go accepts these keys as ours, so a runtime would run what they hide.
    #[test]
    fn a_key_in_another_case_is_an_error() {
        let image = manifest(CONFIG, &[LAYER]).to_string();
        for (key, other) in [
            ("config", "Config"),
            ("layers", "LAYERS"),
            ("layers", "layer\u{17f}"),
            ("mediaType", "mediatype"),
            ("schemaVersion", "SchemaVersion"),
        ] {
            let renamed = image.replacen(&format!("\"{key}\""), &format!("\"{other}\""), 1);
            assert_eq!(check_text(&renamed), "Malformed", "{other}");
        }
        let hidden = r#"{"schemaVersion":2,"mediaType":"a/b","Manifests":[]}"#;
        assert_eq!(check_text(hidden), "Malformed");
        let entry = r#"{"manifests":[{"platform":{"os":"linux"},"Platform":{"os":"linux"}}]}"#;
        assert_eq!(check_text(entry), "Malformed");
        assert_eq!(
            check_text(r#"{"manifests":[{"platform":{"OS":"linux"}}]}"#),
            "Malformed"
        );
        assert_eq!(
            check_text(r#"{"manifests":[],"manifests":[]}"#),
            "Malformed"
        );
    }

    /// Each of these needs sixty times the memory of its text.
    #[test]
    fn a_list_longer_than_any_valid_manifest_is_an_error() {
        for rest in [r#""config":{},"layers""#, r#""manifests""#] {
            let list = |count| format!("{{{rest}:[{}{{}}]}}", "{},".repeat(count));
            assert_ne!(check_text(&list(30_000)), "Malformed");
            assert_eq!(check_text(&list(60_000)), "Malformed");
        }
    }

    #[test]
    fn unneeded_values_are_skipped_without_decoding() {
        let image = manifest(CONFIG, &[LAYER]).to_string();
        let deep = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
        for value in [r#""\ud800""#, "1e999999", &deep, r#"{"a":1,"a":2}"#] {
            let more = image.replacen('{', &format!("{{\"org.example\":{value},"), 1);
            assert_eq!(check_text(&more), "image of 1000 bytes", "{value:.20}");
        }
    }
}
