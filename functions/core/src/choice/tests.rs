//! What is chosen from which index, and the property that no image is skipped.

use proptest::prelude::*;

use super::*;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A digest whose first digits are `name`, which must be hexadecimal.
fn digest(name: &str) -> Digest {
    Digest::parse(&format!("sha256:{name:0<64}")).unwrap()
}

/// The name that [`digest`] was called with, or the digits of another digest.
fn name(digest: &Digest) -> String {
    digest.parts().1.trim_end_matches('0').to_owned()
}

fn image() -> Fetched {
    Fetched::Manifest(Manifest::Image(ImageManifest {
        config: None,
        size: 1,
    }))
}

fn artifact() -> Fetched {
    Fetched::Manifest(Manifest::NotAnImage("a/b".to_owned()))
}

/// An entry `NAME PLATFORM`; `-` means no platform.
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

fn index(entries: &[&str]) -> Fetched {
    Fetched::Manifest(Manifest::Index(
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

fn read(found: &[(&str, Fetched)]) -> Manifests {
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
            let passed_over: Vec<_> = it.passed_over.iter().map(|it| it.entry.as_str()).collect();
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

fn check(wanted: &[&str], found: &[(&str, Fetched)]) -> String {
    match chosen(wanted, &read(found)) {
        Ok(subjects) => subjects.iter().map(line).collect::<Vec<_>>().join("\n"),
        Err(Needed(digest)) => format!("needs {}", name(&digest)),
    }
}

#[test]
fn a_choice_is_readable_for_people() {
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
fn the_pushed_manifest_is_read_first() {
    assert_eq!(check(&[], &[]), "needs e");
    assert_eq!(check(&[], &[("e", image())]), "scan e - -");
    assert_eq!(check(&["linux/arm64"], &[("e", image())]), "scan e - -");
    assert_eq!(check(&[], &[("e", artifact())]), "no image e a/b");
    assert_eq!(check(&[], &[("e", index(&["a linux/amd64"]))]), "needs a");
    // An entry that nobody could choose isn't read.
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

/// containerd chooses the first, CRI-O the one that is spelled exactly the same.
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
fn a_later_group_counts_if_no_earlier_one_has_an_image() {
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
fn without_the_default_platform_that_of_the_first_image_is_wanted() {
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
        // BuildKit's cache: its layers aren't read as manifests one by one.
        let cache = Fetched::Manifest(Manifest::Index(blobs(100)));
        let found = [("e", cache), ("b", Fetched::Absent)];
        assert_eq!(check(wanted, &found), format!("no image e {LAYER}"));
    }
}

#[test]
fn a_label_hides_no_image_that_a_runtime_would_choose() {
    let mut entries = blobs(3);
    entries[0].digest = Ok(digest("a"));
    entries[2].is_zstd = true;
    entries[2].digest = Ok(digest("c"));
    let found = [
        ("e", Fetched::Manifest(Manifest::Index(entries.clone()))),
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
        ("e", Fetched::Manifest(Manifest::Index(entries))),
        ("b", image()),
    ];
    assert_eq!(check(&[], &found), "scan b linux/amd64 2/3 of 1 [] 2");
}

/// Docker tries the entries without a platform one by one if the first is an index that it can't pull.
#[test]
fn a_label_hides_no_image_behind_an_index_without_images() {
    let mut blob = blobs(1).remove(0);
    blob.digest = Ok(digest("a"));
    let entries = vec![entry("d -"), blob, entry("b -")];
    let found = [
        ("e", Fetched::Manifest(Manifest::Index(entries))),
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
fn an_index_that_is_a_candidate_by_spelling_and_rank_is_searched_once() {
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
        ("e", Fetched::Manifest(Manifest::Index(entries))),
        ("a", Fetched::Absent),
        ("b", image()),
    ];
    assert_eq!(
        check(&[], &found),
        "unread a linux/amd64 2/3 of 2 [\"1\"] 1"
    );
}

/// google/go-containerregistry#2427, regclient#776.
#[test]
fn an_unsupported_entry_is_an_error_if_it_is_a_candidate() {
    let strange = |label: Label, digest| Entry {
        digest,
        label,
        ..entry("a linux/amd64")
    };
    let unknown = || Label::Unknown("x/y".to_owned());
    let blake3 = || Err("blake3:00".to_owned());
    let list = |entries: Vec<Entry>| Fetched::Manifest(Manifest::Index(entries));
    let both = list(vec![
        strange(unknown(), Ok(digest("a"))),
        strange(Label::Manifest, blake3()),
        entry("b linux/amd64"),
    ]);
    insta::assert_snapshot!(check(&[], &[("e", both.clone()), ("b", image())]), @r#"
    error e linux/amd64 1/3 of 3 [] 0: entry 1 of the index has an unsupported type: "x/y"
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
    // It doesn't concern another platform, but is never skipped silently.
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
        r#"error e - -: entry 1 of the index has an unsupported type: "x/y""#
    );
}

#[test]
fn an_unread_entry_is_neither_scanned_nor_passed_over() {
    for looked in [Fetched::Absent, Fetched::Unread] {
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
fn an_index_beyond_a_limit_is_an_error_that_names_the_limit() {
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
        ("e", Fetched::Manifest(Manifest::Index(many))),
        ("a", image()),
    ];
    assert_eq!(
        check(&[], &found),
        "error e linux/amd64 -: an index has 1001 entries; 1000 are allowed"
    );

    // Many nested indexes, each empty.
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

/// What a registry may have under the names `0` to `9` and `e`.
fn contents() -> impl Strategy<Value = Vec<Fetched>> {
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
        prop::collection::vec(entry, 0..6).prop_map(|it| Fetched::Manifest(Manifest::Index(it)));
    let looked = prop_oneof![3 => Just(image()), 2 => Just(artifact()), 3 => index.clone(), 1 => Just(Fetched::Absent), 1 => Just(Fetched::Unread)];
    (index, prop::collection::vec(looked, 9)).prop_map(|(own, others)| {
        let mut all = vec![own];
        all.extend(others);
        all
    })
}

/// Whether an image labelled as a manifest is listed for `wish` or without a platform, as is every nested index on the
/// way to it.
fn holds_image(wish: &str, at: usize, contents: &[Fetched], depth: usize) -> bool {
    match &contents[at] {
        Fetched::Manifest(Manifest::Image(_)) => depth > 0,
        Fetched::Manifest(Manifest::Index(entries)) if depth < 6 => entries.iter().any(|it| {
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
