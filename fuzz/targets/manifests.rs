//! Any manifest: what a runtime would run is never "not an image". Any index: an image that a runtime could take for a wanted
//! platform is scanned, or an error says why not; and nothing is scanned that nobody would take.
//!
//! An input is a byte that says which. A manifest is a byte for its content type, and the bytes of its JSON. An index is made
//! of the bytes, with everything that it lists, so that each input is well-formed.
#![no_main]

use std::collections::{BTreeSet, HashMap};

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use scanhook_core::choice::{Fetched, Manifests, Needed, Subject, choose};
use scanhook_core::image::{Digest, Image};
use scanhook_core::manifest::Manifest;
use scanhook_core::platform::Platform;
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

const CONTENT_TYPES: [Option<&str>; 6] = [
    None,
    Some(MANIFEST),
    Some(INDEX),
    Some(DOCKER_MANIFEST),
    Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
    Some("text/plain; charset=utf-8"),
];

/// Configs of images, as `docs/reference/images.md` lists them.
const IMAGES: [&str; 6] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "",
    "application/octet-stream",
    "application/json",
    "text/html",
];

/// Layers that hold files beside an image's config only.
const DOCKERS: [&str; 3] = ["application/octet-stream", "application/json", "text/html"];

const ARTIFACTS: [&str; 6] = [
    "application/vnd.cncf.helm.config.v1+json",
    "application/vnd.acr.helm.chart",
    "application/vnd.oci.empty.v1+json",
    "application/vnd.buildkit.cacheconfig.v0",
    "application/vnd.dev.cosign.simplesigning.v1+json",
    "application/vnd.in-toto+json",
];

const OTHERS: [&str; 3] = [
    "application/vnd.amazon.soci.index.v2+json",
    "application/vnd.nobody.knows",
    "text/spdx+json",
];

const LAYERS: [&str; 9] = [
    OCI_LAYER,
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.erofs",
    "application/vnd.example.erofs+zstd",
    "application/vnd.erofs.layer.v1",
    "",
    "text/html",
    "application/vnd.in-toto+json",
    "text/spdx+json",
];

/// Types of entries that are labelled as manifests, the usual ones first.
const LABELS: [&str; 5] = [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX, ""];

/// Platforms, how indexes spell them, and what else runs on them.
const PLATFORMS: [(&str, &[&str], &[&str]); 8] = [
    (
        "linux/amd64",
        &[
            "linux/amd64",
            "Linux/AMD64",
            "linux/x86_64",
            "linux/x86-64/v1",
            "linux/amd64/V1",
            "/amd64",
        ],
        &["linux/386"],
    ),
    (
        "linux/arm64",
        &[
            "linux/arm64",
            "linux/arm64/v8",
            "linux/aarch64",
            "linux/ARM64/8",
            "/aarch64/V8",
        ],
        &["linux/arm/v7", "linux/arm/v6"],
    ),
    (
        "linux/arm/v7",
        &["linux/arm/v7", "linux/arm", "linux/armhf", "linux/arm/7"],
        &["linux/arm/v6"],
    ),
    // CRI-O looks for a plain arm, which containerd takes for v7.
    (
        "linux/arm/v6",
        &["linux/arm/v6", "linux/armel", "LINUX/arm/6"],
        &["linux/arm/v7"],
    ),
    (
        "linux/amd64/v2",
        &["linux/amd64/v2", "linux/x86_64/v2", "linux/AMD64/V2"],
        &["linux/amd64", "linux/386"],
    ),
    (
        "windows/amd64",
        &["windows/amd64", "Windows/x86_64", "/amd64"],
        &[],
    ),
    ("linux/386", &["linux/386", "linux/i386"], &[]),
    ("unknown/unknown", &["unknown/unknown"], &[]),
];

/// At most so many entries of an index and layers of a manifest.
const MANY: usize = 12;

/// What is under a digest that an index lists.
enum Node {
    Manifest(Value),
    Absent,
    Unread,
}

/// Everything that the pushed manifest leads to.
#[derive(Default)]
struct Repository(HashMap<String, Node>);

impl Repository {
    /// Puts something there, and below it what it lists; returns its digest and the type that it would be listed with.
    fn put(&mut self, u: &mut Unstructured<'_>, depth: usize) -> Result<(String, &'static str)> {
        let (node, label) = match u.int_in_range(0..=15)? {
            0..=6 => (Node::Manifest(image(u)?), MANIFEST),
            7..=12 if depth > 0 => (Node::Manifest(self.index(u, depth - 1)?), INDEX),
            13 => (Node::Absent, MANIFEST),
            14 => (Node::Unread, MANIFEST),
            _ => (
                Node::Manifest(
                    json!({"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": []}),
                ),
                MANIFEST,
            ),
        };
        let number = self.0.len();
        let digest = if seldom(u, 8)? {
            format!("sha512:{number:0128x}")
        } else {
            format!("sha256:{number:064x}")
        };
        self.0.insert(digest.clone(), node);
        Ok((digest, label))
    }

    fn index(&mut self, u: &mut Unstructured<'_>, depth: usize) -> Result<Value> {
        let mut entries: Vec<Value> = Vec::new();
        for _ in 0..u.int_in_range(0..=MANY)? {
            let mut entry = if !entries.is_empty() && seldom(u, 8)? {
                u.choose(&entries)?.clone()
            } else {
                let (digest, label) = self.put(u, depth)?;
                json!({"mediaType": label, "digest": digest, "size": 7})
            };
            if seldom(u, 8)? {
                let labels = LABELS.into_iter().chain(ARTIFACTS).chain(OTHERS);
                let labels: Vec<_> = labels.chain([OCI_LAYER]).collect();
                entry["mediaType"] = (*u.choose(&labels)?).into();
            }
            if seldom(u, 24)? {
                entry["digest"] = "md5:d41d8cd98f00b204e9800998ecf8427e".into();
            }
            if seldom(u, 8)? {
                entry["annotations"] = json!({"io.github.containers.compression.zstd": "true"});
            }
            if seldom(u, 8)? {
                entry["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
                entry["artifactType"] = (*u.choose(&OTHERS)?).into();
            }
            entry["platform"] = match u.int_in_range(0..=9)? {
                0 => Value::Null,
                1..=4 => platform(u, "linux/amd64")?,
                _ => {
                    let (_, spellings, _) = u.choose(&PLATFORMS)?;
                    let spelling = u.choose(spellings)?;
                    platform(u, spelling)?
                }
            };
            entries.push(entry);
        }
        Ok(json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}))
    }

    fn manifest(&self, digest: &str) -> Option<&Value> {
        match self.0.get(digest) {
            Some(Node::Manifest(manifest)) => Some(manifest),
            _ => None,
        }
    }
}

/// Once in `times`; never once the input is used up.
fn seldom(u: &mut Unstructured<'_>, times: u8) -> Result<bool> {
    Ok(u.int_in_range(1..=times)? == times)
}

fn image(u: &mut Unstructured<'_>) -> Result<Value> {
    let configs: Vec<_> = IMAGES.into_iter().chain(OTHERS).chain(ARTIFACTS).collect();
    let config = if u.arbitrary()? {
        IMAGES[0]
    } else {
        u.choose(&configs)?
    };
    let mut layers = Vec::new();
    for _ in 0..u.int_in_range(0..=3)? {
        layers.push(json!({"mediaType": u.choose(&LAYERS)?, "digest": "sha256:0", "size": 7}));
    }
    let media_type = *u.choose(&[MANIFEST, DOCKER_MANIFEST])?;
    let mut manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": {"mediaType": config}, "layers": layers});
    if seldom(u, 4)? {
        manifest["artifactType"] = (*u.choose(&OTHERS)?).into();
    }
    Ok(manifest)
}

fn platform(u: &mut Unstructured<'_>, spelling: &str) -> Result<Value> {
    let mut parts = spelling.split('/');
    let mut platform = json!({"os": parts.next(), "architecture": parts.next()});
    if let Some(variant) = parts.next() {
        platform["variant"] = variant.into();
    }
    if seldom(u, 8)? {
        platform["os.version"] = "10.0.20348".into();
    }
    Ok(platform)
}

// The reference: the rules of `docs/reference/images.md`, of the JSON.

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    let list = value.get(key).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

fn holds_files(layer: &str) -> bool {
    let layer = layer.to_ascii_lowercase();
    let base = layer.split('+').next().unwrap_or_default();
    layer.is_empty()
        || layer.starts_with("application/vnd.oci.image.layer.")
        || layer.starts_with("application/vnd.docker.image.rootfs.")
        || layer.starts_with("application/vnd.erofs.layer.")
        || base.ends_with(".erofs")
}

/// Layers that Docker takes beside an image's config, whatever they are.
fn is_dockers(layer: &str) -> bool {
    let layer = layer.to_ascii_lowercase();
    let is_docker = layer.starts_with("application/vnd.docker.");
    DOCKERS.contains(&layer.as_str())
        || layer.starts_with("application/vnd.oci.image.")
        || (is_docker && !layer.starts_with("application/vnd.docker.ai."))
}

fn is_image(manifest: &Value) -> bool {
    let Some(config) = manifest.get("config").filter(|it| it.is_object()) else {
        return false;
    };
    let config = text(config, "mediaType");
    let is_images = IMAGES.contains(&config.to_ascii_lowercase().as_str());
    let layers = list(manifest, "layers");
    let mut types = layers.iter().map(|it| text(it, "mediaType"));
    let has_files = types.any(|it| holds_files(it) || (is_images && is_dockers(it)));
    !ARTIFACTS.contains(&config) && (has_files || (is_images && layers.is_empty()))
}

/// The platforms that an entry may be listed for: several if it names no operating system, none if it has no platform.
fn platforms_of(entry: &Value) -> Vec<&'static str> {
    let platform = &entry["platform"];
    let parts = ["os", "architecture", "variant"].map(|it| text(platform, it));
    let spelling = parts.join("/");
    let spelling = spelling.strip_suffix('/').unwrap_or(&spelling);
    let is_it = |it: &&(&str, &[&str], &[&str])| it.1.contains(&spelling);
    PLATFORMS.iter().filter(is_it).map(|it| it.0).collect()
}

/// What there is for one platform.
#[derive(Default)]
struct There {
    images: BTreeSet<String>,
    /// Something that may be an image.
    is_unclear: bool,
}

impl Repository {
    /// What there is in an index, at any depth, behind entries that `is_wanted`.
    fn look(&self, index: &Value, is_wanted: &dyn Fn(&Value) -> bool, there: &mut There) {
        for entry in list(index, "manifests").iter().filter(|it| is_wanted(it)) {
            let (digest, label) = (text(entry, "digest"), text(entry, "mediaType"));
            let is_blob = holds_files(label) && !label.is_empty() || ARTIFACTS.contains(&label);
            if Digest::parse(digest).is_err() || !(LABELS.contains(&label) || is_blob) {
                there.is_unclear = true;
                continue;
            }
            match self.0.get(digest) {
                Some(Node::Manifest(manifest)) if manifest.get("manifests").is_some() => {
                    self.look(manifest, is_wanted, there);
                }
                Some(Node::Manifest(manifest)) if is_image(manifest) => {
                    there.images.insert(digest.to_owned());
                }
                Some(Node::Manifest(_)) => {}
                Some(Node::Absent) if is_blob => {}
                Some(Node::Absent | Node::Unread) | None => there.is_unclear = true,
            }
        }
    }

    fn there(&self, index: &Value, is_wanted: &dyn Fn(&Value) -> bool) -> There {
        let mut there = There::default();
        self.look(index, is_wanted, &mut there);
        there
    }

    /// Chooses as the scanner does, which reads what is needed and nothing else.
    fn choose(&self, digest: &str, wanted: &[Platform]) -> Vec<Subject> {
        let image = Image::parse("h.io/a:1").unwrap();
        let digest = Digest::parse(digest).unwrap();
        let mut manifests = Manifests::new();
        loop {
            match choose(&image, &digest, wanted, &manifests) {
                Ok(subjects) => return subjects,
                Err(Needed(needed)) => {
                    let looked = match &self.0[needed.as_str()] {
                        Node::Manifest(it) => {
                            let parsed = Manifest::parse(None, it.to_string().as_bytes());
                            Fetched::Manifest(parsed.expect("the manifest is well-formed"))
                        }
                        Node::Absent => Fetched::Absent,
                        Node::Unread => Fetched::Unread,
                    };
                    let known = manifests.insert(needed, looked);
                    assert!(known.is_none(), "it was read already");
                    // For each platform, for any platform, and for that of the first image.
                    assert!(manifests.len() <= 1 + 32 * (wanted.len() + 3));
                }
            }
        }
    }
}

fn check_manifest(content_type: Option<&str>, bytes: &[u8]) {
    let parsed = Manifest::parse(content_type, bytes);
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    match parsed {
        Ok(Manifest::Image(_)) => assert!(is_image(&value)),
        Ok(Manifest::NotAnImage(_)) => assert!(!is_image(&value)),
        Ok(Manifest::Index(entries)) => assert_eq!(entries.len(), list(&value, "manifests").len()),
        Err(_) => {}
    }
}

fn check_index(u: &mut Unstructured<'_>) -> Result<()> {
    let mut wanted = BTreeSet::new();
    for _ in 0..u.int_in_range(0..=3)? {
        wanted.insert(u.choose(&PLATFORMS)?.0);
    }
    let mut repository = Repository::default();
    let depth = u.int_in_range(2..=6)?;
    let pushed = repository.index(u, depth)?;
    let digest = format!("sha256:{}", "f".repeat(64));
    repository
        .0
        .insert(digest.clone(), Node::Manifest(pushed.clone()));
    let platforms: Vec<_> = wanted
        .iter()
        .map(|it| Platform::parse(it).unwrap())
        .collect();
    let subjects = repository.choose(&digest, &platforms);
    assert!(!subjects.is_empty());

    let is_skipped = |it: &Subject| matches!(it, Subject::NotAnImage(..));
    let any = repository.there(&pushed, &|it| !it["platform"].is_null());
    if any.is_unclear || !any.images.is_empty() {
        assert!(!subjects.iter().any(is_skipped), "{pushed}: {subjects:?}");
    }
    for subject in &subjects {
        if let Subject::Image(target, _) = subject {
            let manifest = repository.manifest(target.digest().as_str());
            assert!(manifest.is_some_and(is_image), "{subject:?}");
            assert_eq!(target.index.as_ref().map(Digest::as_str), Some(&*digest));
        }
    }
    // Without a wish it is linux/amd64, where there is one.
    let wishes: Vec<_> = match wanted.is_empty() {
        true => vec!["linux/amd64"],
        false => wanted.into_iter().collect(),
    };
    for wish in wishes {
        check_wish(&repository, &pushed, wish, &subjects);
    }
    Ok(())
}

fn check_wish(repository: &Repository, pushed: &Value, wish: &str, subjects: &[Subject]) {
    let (mut scanned, mut errors) = (BTreeSet::new(), 0);
    for subject in subjects {
        let (Subject::Image(target, _)
        | Subject::NotAnImage(target, _)
        | Subject::Unsupported(target, _)
        | Subject::Unread(target)) = subject
        else {
            continue;
        };
        if target
            .platform
            .as_ref()
            .is_some_and(|it| it.as_str() != wish)
        {
            continue;
        }
        match subject {
            Subject::Image(..) => {
                let is_new = scanned.insert(target.digest().as_str().to_owned());
                assert!(is_new, "scanned twice: {subject:?}");
            }
            Subject::NotAnImage(..) => {}
            _ => errors += 1,
        }
    }
    let shown = || format!("{wish} of {pushed}: {subjects:?}");
    assert!(scanned.len() + errors <= 8, "{}", shown());
    let there = repository.there(pushed, &|it| platforms_of(it).contains(&wish));
    if errors == 0 {
        assert!(there.images.is_subset(&scanned), "{}", shown());
        assert!(!there.is_unclear, "{}", shown());
    }
    let runs = PLATFORMS.iter().find(|it| it.0 == wish);
    let runs = |it: &&str| *it == wish || runs.is_some_and(|runs| runs.2.contains(it));
    let could = repository.there(pushed, &|entry| {
        entry["platform"].is_null() || platforms_of(entry).iter().any(|it| runs(it))
    });
    assert!(scanned.is_subset(&could.images), "{}", shown());
}

fuzz_target!(|input: &[u8]| {
    match input {
        [0, content_type, bytes @ ..] => {
            let content_type = CONTENT_TYPES[usize::from(*content_type) % CONTENT_TYPES.len()];
            check_manifest(content_type, bytes);
        }
        [_, bytes @ ..] => {
            // Never an error: an input that is used up continues as zeroes.
            let _ = check_index(&mut Unstructured::new(bytes));
        }
        [] => {}
    }
});
