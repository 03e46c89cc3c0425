//! Which media types and artifact types say that something is not an image.
//!
//! In doubt it is an image, and the scanner finds out from the manifest.

/// Types that only things other than images have, as manifest, config, layer or artifact type.
/// Sources: the Helm, ORAS, cosign and in-toto documentation; the fact sheet on registries, section 16.9.
const NOT_AN_IMAGE: [&str; 9] = [
    "application/octet-stream",
    "application/vnd.acr.helm.chart",
    "application/vnd.cncf.helm.config.v1+json",
    "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
    "application/vnd.dev.cosign.artifact.sbom.v1+json",
    "application/vnd.dev.cosign.simplesigning.v1+json",
    "application/vnd.in-toto+json",
    "application/vnd.oci.artifact.manifest.v1+json",
    "application/vnd.oci.empty.v1+json",
];

/// Manifests and indexes of images.
/// Source: OCI image specification, and Docker's "Image Manifest Version 2" with both older schema 1 types.
const MANIFESTS: [&str; 6] = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// Whether this type is one that an image never has.
pub fn is_not_an_image(media_type: &str) -> bool {
    NOT_AN_IMAGE.contains(&media_type)
}

/// Whether this is the type of an image's manifest or index.
pub fn is_manifest(media_type: &str) -> bool {
    MANIFESTS.contains(&media_type)
}

/// Whether this is the type of an index of images.
pub fn is_index(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.docker.distribution.manifest.list.v2+json"
            | "application/vnd.oci.image.index.v1+json"
    )
}

/// Whether this is the type of the manifest of a single image, or of what looks like one.
pub fn is_image_manifest(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.docker.distribution.manifest.v2+json"
            | "application/vnd.oci.image.manifest.v1+json"
    )
}

/// Whether this is one of the two types of Docker's first schema.
pub fn is_schema_1(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

/// Whether this is the type of an image's config. An absent one counts: in doubt it is an image.
pub fn is_image_config(media_type: &str) -> bool {
    matches!(
        media_type,
        "" | "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
    )
}

/// Whether this is the type of a layer with files of an image, in any compression, also encrypted or kept elsewhere. An
/// absent one counts.
pub fn is_file_system(media_type: &str) -> bool {
    media_type.is_empty()
        || media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.")
}
