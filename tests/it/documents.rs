//! Tests that links in the documents work.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.canonicalize().unwrap()
}

/// Finds every document below a directory.
fn documents(directory: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let is_ours = !name.to_string_lossy().starts_with('.') && name != "target";
        if path.is_dir() && is_ours {
            documents(&path, found);
        } else if path.extension().is_some_and(|it| it == "md") {
            found.insert(path);
        }
    }
}

fn all() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    documents(&root(), &mut found);
    found
}

/// The lines of prose, without code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The anchors of a document's headings, in GitHub's form.
fn anchors(path: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let headings = prose(&text).filter(|it| it.starts_with('#'));
    let anchor = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = kept.chars().filter_map(|it| match it {
            ' ' => Some('-'),
            it if it.is_alphanumeric() || it == '-' || it == '_' => Some(it),
            _ => None,
        });
        kept.collect()
    };
    headings.map(anchor).collect()
}

/// The targets of a document's links within the repository: the file, and the anchor if there is one.
fn links(path: &Path) -> Vec<(PathBuf, Option<String>)> {
    let text = std::fs::read_to_string(path).unwrap();
    let text: Vec<_> = prose(&text).collect();
    let text = text.join("\n");
    let targets = text.split("](").skip(1);
    let targets = targets.filter_map(|it| it.split_once(')')).map(|it| it.0);
    let ours = targets.filter(|it| !it.contains("://"));
    let resolved = ours.map(|it| {
        let (file, anchor) = it
            .split_once('#')
            .map_or((it, None), |(file, anchor)| (file, Some(anchor.to_owned())));
        let file = if file.is_empty() {
            path.to_owned()
        } else {
            path.with_file_name("").join(file)
        };
        (file, anchor)
    });
    resolved.collect()
}

#[test]
fn every_link_leads_to_a_file_and_to_a_heading_in_it() {
    let mut count = 0;
    for document in all() {
        for (file, anchor) in links(&document) {
            let (from, to) = (document.display(), file.display());
            assert!(file.exists(), "{from} links to {to}");
            if let Some(anchor) = anchor {
                assert!(
                    anchors(&file).contains(&anchor),
                    "{from} links to {to}#{anchor}"
                );
            }
            count += 1;
        }
    }
    assert!(count > 100, "{count}");
}

#[test]
fn every_document_is_in_the_index() {
    let docs = root().join("docs");
    let mut reachable = BTreeSet::new();
    // The index, and the indexes of the two directories that have their own.
    for index in ["README.md", "registries/README.md", "decisions/README.md"] {
        let index = docs.join(index);
        let linked = links(&index).into_iter();
        reachable.extend(linked.map(|(file, _)| file.canonicalize().unwrap()));
    }
    let mut documents = BTreeSet::new();
    self::documents(&docs, &mut documents);
    let lost = documents.difference(&reachable);
    let lost: Vec<_> = lost.filter(|it| **it != docs.join("README.md")).collect();
    assert!(lost.is_empty(), "docs/README.md does not lead to {lost:?}");
}
