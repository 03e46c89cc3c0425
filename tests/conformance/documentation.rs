//! Tests the pages on registries.

use scanhook_config::config::Config;
use scanhook_core::kinds;

use crate::{files, root};

#[test]
fn every_configuration_in_the_pages_is_valid() {
    let pages = files(&root().join("docs/registries"), ".md");
    let adding = root().join("docs/adding-a-registry.md");
    let mut count = 0;
    for page in pages.into_iter().chain([adding]) {
        let text = std::fs::read_to_string(&page).unwrap();
        let blocks = text.split("```yaml\n").skip(1);
        for block in blocks.filter_map(|it| it.split("```").next()) {
            if !block.contains("sources:") {
                continue;
            }
            count += 1;
            let config = Config::parse(block)
                .unwrap_or_else(|err| panic!("{}: {err}\n{block}", page.display()));
            let warnings = &config.warnings;
            assert!(warnings.is_empty(), "{}: {warnings:?}", page.display());
        }
    }
    assert!(count >= kinds::ALL.len(), "only {count} configurations");
}

#[test]
fn every_kind_has_a_page_with_a_configuration_of_that_kind() {
    let index = std::fs::read_to_string(root().join("docs/registries/README.md")).unwrap();
    for kind in kinds::ALL {
        let name = kind.name;
        let page = root().join(format!("docs/registries/{name}.md"));
        let page = std::fs::read_to_string(&page).unwrap_or_else(|err| panic!("{name}: {err}"));
        let mut lines = page.lines().map(str::split_whitespace);
        assert!(lines.any(|it| it.take(2).eq(["kind:", name])), "{name}");
        assert!(page.contains("scanhook send "), "{name}");
        assert!(index.contains(&format!("]({name}.md)")), "{name}");
    }
}
