//! Classifies a manifest by the media types of its config and layers.
//!
//! Whoever pushes writes these types. So an unknown type is no reason to skip anything: only what no runtime would run
//! is not an image, and in doubt it is one. `artifactType`, `subject` and annotations are ignored.
//!
//! The types of images are compared without case, like in Docker (moby/moby, `distribution/pull_v2.go`,
//! "checkSupportedMediaType"). CRI-O and Podman ignore those of an OCI manifest's layers.

/// Config types of images.
const IMAGE_CONFIGS: [&str; 3] = [
    // An absent type is read as an empty one. containerd, `core/images/mediatypes.go`.
    "",
    // OCI image specification, "media-types".
    "application/vnd.oci.image.config.v1+json",
    // Docker's "Image Manifest Version 2, Schema 2".
    "application/vnd.docker.container.image.v1+json",
];

/// Types that Docker also accepts for images, because registries once wrote them (moby/moby#22378). Source: moby/moby,
/// `distribution/registry.go`, "defaultImageTypes".
const DOCKERS_OTHERS: [&str; 3] = ["application/octet-stream", "application/json", "text/html"];

/// Config types of content that is known not to be an image.
const ARTIFACT_CONFIGS: [&str; 6] = [
    // Helm, `pkg/registry/constants.go`.
    "application/vnd.cncf.helm.config.v1+json",
    // Azure Container Registry's documentation of its webhooks: a chart before Helm 3.
    "application/vnd.acr.helm.chart",
    // OCI image specification, "Guidance for an empty descriptor".
    "application/vnd.oci.empty.v1+json",
    // BuildKit, `cache/remotecache/v1/spec.go`.
    "application/vnd.buildkit.cacheconfig.v0",
    // cosign, `pkg/types/media.go`.
    "application/vnd.dev.cosign.simplesigning.v1+json",
    // in-toto attestation framework, "Validation model".
    "application/vnd.in-toto+json",
];

/// What the media types of a manifest show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown<'a> {
    /// An image, or nothing shows otherwise.
    Image,
    /// Not an image; this type shows it.
    Artifact(&'a str),
}

/// Judges a manifest by the type of its config, then by those of its layers. An absent type is an empty text.
pub fn judge<'a>(config: &'a str, layers: impl IntoIterator<Item = &'a str>) -> Shown<'a> {
    if is_artifact_config(config) {
        return Shown::Artifact(config);
    }
    let is_images = is_image_config(config);
    let could_hold_files = |it: &str| is_file_system(it) || (is_images && is_taken_by_docker(it));
    let mut first = None;
    for layer in layers {
        if could_hold_files(layer) {
            return Shown::Image;
        }
        first = first.or(Some(layer));
    }
    match first {
        // A signature has an image's config, but none of its layers.
        Some(layer) if is_images => Shown::Artifact(layer),
        // An image without layers, such as one that only sets variables.
        None if is_images => Shown::Image,
        _ => Shown::Artifact(config),
    }
}

/// Whether this is a config type of content that is known not to be an image.
pub fn is_artifact_config(media_type: &str) -> bool {
    ARTIFACT_CONFIGS.contains(&media_type)
}

/// Whether this is the config type of an image. An absent type is.
pub fn is_image_config(media_type: &str) -> bool {
    is_one_of(&IMAGE_CONFIGS, media_type) || is_one_of(&DOCKERS_OTHERS, media_type)
}

/// Whether a layer of this type could contain files of an image, in any compression, even encrypted or stored
/// elsewhere. An absent type could.
pub fn is_file_system(media_type: &str) -> bool {
    media_type.is_empty()
        // OCI image specification, "media-types"; containers/ocicrypt adds `+encrypted`.
        || starts_with(media_type, "application/vnd.oci.image.layer.")
        // Docker's "Image Manifest Version 2, Schema 2": `diff.tar.gzip` and `foreign.diff.tar.gzip`.
        || starts_with(media_type, "application/vnd.docker.image.rootfs.")
        || is_erofs(media_type)
}

/// Whether Docker accepts a layer of this type, whatever it contains. Source: moby/moby, `distribution/pull_v2.go`,
/// "checkSupportedMediaType", and `distribution/registry.go`, "supportedMediaTypes".
fn is_taken_by_docker(media_type: &str) -> bool {
    is_one_of(&DOCKERS_OTHERS, media_type)
        || starts_with(media_type, "application/vnd.oci.image.")
        || (starts_with(media_type, "application/vnd.docker.")
            && !starts_with(media_type, "application/vnd.docker.ai."))
}

/// Layers that are file systems of the kernel's EROFS. Sources: containerd, `plugins/diff/erofs` (any type that ends
/// with `.erofs` before a `+`) and `images.MediaTypeErofsLayer`; the draft erofs/erofs-image-spec.
fn is_erofs(media_type: &str) -> bool {
    let base = media_type.split('+').next().unwrap_or_default();
    let last = base.rsplit('.').next();
    last.is_some_and(|it| it.eq_ignore_ascii_case("erofs"))
        || starts_with(base, "application/vnd.erofs.layer.")
}

/// Whether this is the type of an image's manifest or index, including Docker's first schema. Source: OCI image
/// specification, and Docker's "Image Manifest Version 2" with both older schema 1 types.
pub fn is_manifest(media_type: &str) -> bool {
    is_image_manifest(media_type)
        || is_index(media_type)
        || is_schema_1(media_type)
        || media_type == "application/vnd.docker.distribution.manifest.v1"
}

/// Whether this is the type of an index of images.
pub fn is_index(media_type: &str) -> bool {
    const INDEXES: [&str; 2] = [
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.index.v1+json",
    ];
    is_one_of(&INDEXES, media_type)
}

/// Whether this is the type of a single image's manifest, or of content that looks like one.
pub fn is_image_manifest(media_type: &str) -> bool {
    const MANIFESTS: [&str; 2] = [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
    ];
    is_one_of(&MANIFESTS, media_type)
}

/// Whether this is one of the two types of Docker's first schema.
pub fn is_schema_1(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

fn is_one_of(types: &[&str], media_type: &str) -> bool {
    types.iter().any(|it| it.eq_ignore_ascii_case(media_type))
}

fn starts_with(media_type: &str, prefix: &str) -> bool {
    let start = media_type.get(..prefix.len());
    start.is_some_and(|it| it.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCI: &str = "application/vnd.oci.image.config.v1+json";
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    const OTHER: &str = "application/vnd.nobody.knows.this";

    fn check(config: &str, layers: &[&str], expected: Shown<'_>) {
        let shown = judge(config, layers.iter().copied());
        assert_eq!(shown, expected, "{config:?} {layers:?}");
    }

    #[test]
    fn an_image_config_with_a_layer_that_could_contain_files_is_an_image() {
        for config in IMAGE_CONFIGS.into_iter().chain(DOCKERS_OTHERS) {
            check(config, &[], Shown::Image);
            for layer in [
                "",
                LAYER,
                "application/vnd.oci.image.layer.v1.tar+zstd",
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "application/vnd.erofs",
                "application/vnd.erofs+zstd",
                "application/vnd.erofs.layer.v1",
                "application/vnd.oci.image.layer.erofs",
                "application/octet-stream",
                "application/json",
                "text/html",
                "application/vnd.docker.container.image.rootfs.diff+x-gtar",
                "application/vnd.oci.image.config.v1+json",
            ] {
                check(config, &[layer], Shown::Image);
                check(config, &[OTHER, layer], Shown::Image);
                check(config, &[layer, OTHER], Shown::Image);
            }
        }
    }

    /// Docker accepts types in any case, and CRI-O and Podman ignore those of layers.
    #[test]
    fn a_type_in_another_case_is_the_same_type() {
        for layer in [
            "application/vnd.OCI.image.layer.v1.tar+gzip",
            "Application/Vnd.Docker.Image.Rootfs.Diff.Tar.Gzip",
            "application/vnd.EROFS",
            "Text/HTML",
        ] {
            check(OCI, &[layer], Shown::Image);
        }
        check(&OCI.to_uppercase(), &[], Shown::Image);
        check(&OCI.to_uppercase(), &["text/html"], Shown::Image);
        assert!(is_manifest("application/vnd.oci.image.MANIFEST.v1+json"));
        assert!(is_index("application/vnd.OCI.image.index.v1+json"));
    }

    #[test]
    fn an_image_config_without_layers_of_an_image_is_an_attachment() {
        for layer in [
            "application/vnd.dev.cosign.simplesigning.v1+json",
            "application/vnd.in-toto+json",
            "text/spdx+json",
            "application/vnd.docker.ai.license",
            "application/vnd.oci.images_are_fun",
            OTHER,
        ] {
            check(OCI, &[layer, OTHER], Shown::Artifact(layer));
        }
    }

    #[test]
    fn a_config_of_a_known_artifact_is_never_an_image() {
        for config in ARTIFACT_CONFIGS {
            check(config, &[LAYER], Shown::Artifact(config));
            check(config, &[], Shown::Artifact(config));
        }
    }

    #[test]
    fn an_unknown_config_is_an_image_if_a_layer_could_contain_files() {
        check(OTHER, &[LAYER], Shown::Image);
        check(OTHER, &["text/plain", ""], Shown::Image);
        check(OTHER, &[], Shown::Artifact(OTHER));
        check(OTHER, &["text/plain"], Shown::Artifact(OTHER));
        // Amazon's SOCI index: Docker's other types count only beside an image's config.
        check(OTHER, &["application/octet-stream"], Shown::Artifact(OTHER));
    }
}
