//! The modules of a crate import each other without cycles.
//!
//! A module may use items of its parent and its children. Of two siblings, each including everything below it, only one
//! may lead to the other, even indirectly.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::workspace::{manifests, read};

type Module = Vec<String>;

/// The modules of a crate, each with the paths in its text and the items that it imports.
struct Crate(BTreeMap<Module, Vec<Module>>);

#[test]
fn no_modules_import_each_other_in_a_cycle() {
    let cycles = manifests().into_iter().flat_map(|manifest| {
        let source = manifest.with_file_name("src");
        let cycles = Crate::read(&source).cycles();
        cycles
            .into_iter()
            .map(move |it| format!("{}: {it}", source.display()))
    });
    let cycles: Vec<_> = cycles.collect();
    assert!(cycles.is_empty(), "{}", cycles.join("\n"));
}

#[test]
fn a_cycle_is_found_through_groups_reexports_and_children() {
    let modules = [
        ("", "mod a; mod b; mod c; pub use b::Thing;"),
        ("a", "use crate::{c, x::Y}; fn f() { super::Thing::new() }"),
        ("b", "mod inner;"),
        ("b::inner", "use super::super::c::{self, Z};"),
        ("c", "use crate::a::{Q};"),
        ("c::below", "use super::Z; // crate::b"),
    ];
    let modules = modules.map(|(name, text)| (module(name), paths(text, &module(name))));
    let cycles = Crate(modules.into_iter().collect()).cycles();
    assert_eq!(cycles, ["a → b → c → a"]);
}

fn module(name: &str) -> Module {
    name.split("::")
        .filter(|it| !it.is_empty())
        .map(str::to_owned)
        .collect()
}

impl Crate {
    fn read(source: &Path) -> Self {
        let mut modules = BTreeMap::new();
        let mut directories = vec![source.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(&directory).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|it| it == "rs") {
                    let name = name(path.strip_prefix(source).unwrap());
                    modules.insert(name.clone(), paths(&read(&path), &name));
                }
            }
        }
        Self(modules)
    }

    /// The module of an item: the one that defines it, not one that re-exports it.
    fn owner(&self, path: &[String]) -> Module {
        let known = (0..=path.len())
            .rev()
            .find(|it| self.0.contains_key(&path[..*it]));
        let module = path[..known.unwrap_or(0)].to_vec();
        let item = path.get(module.len());
        let handed_on = self.0[&module].iter().find(|it| {
            let is_below = it.len() > module.len() + 1 && it.starts_with(&module);
            is_below && it.last() == item && self.0.contains_key(&it[..=module.len()])
        });
        handed_on.map_or(module, |it| self.owner(it))
    }

    /// For each module, which of its children lead to which.
    fn arrows(&self) -> BTreeMap<Module, BTreeMap<String, BTreeSet<String>>> {
        let mut arrows = BTreeMap::<Module, BTreeMap<String, BTreeSet<String>>>::new();
        for (module, paths) in &self.0 {
            for owner in paths.iter().map(|it| self.owner(it)) {
                let common = module
                    .iter()
                    .zip(&owner)
                    .take_while(|(a, b)| a == b)
                    .count();
                if let (Some(from), Some(to)) = (module.get(common), owner.get(common)) {
                    let siblings = arrows.entry(module[..common].to_vec()).or_default();
                    siblings.entry(from.clone()).or_default().insert(to.clone());
                }
            }
        }
        arrows
    }

    fn cycles(&self) -> Vec<String> {
        let mut cycles = Vec::new();
        for (parent, siblings) in self.arrows() {
            for start in siblings.keys() {
                let mut way =
                    way(&siblings, start, start, &mut BTreeSet::new()).unwrap_or_default();
                if way.iter().min() == Some(start) {
                    way.insert(0, start.clone());
                    let names = way
                        .iter()
                        .map(|it| [&parent[..], std::slice::from_ref(it)].concat().join("::"));
                    cycles.push(names.collect::<Vec<_>>().join(" → "));
                }
            }
        }
        cycles
    }
}

/// Finds a path from one module to another.
fn way(
    siblings: &BTreeMap<String, BTreeSet<String>>,
    from: &str,
    to: &str,
    seen: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    siblings.get(from)?.iter().find_map(|next| {
        if next == to {
            return Some(vec![to.to_owned()]);
        }
        let rest = seen
            .insert(next.clone())
            .then(|| way(siblings, next, to, seen));
        rest?.map(|rest| [vec![next.clone()], rest].concat())
    })
}

/// A module's name from its file: `a/b.rs` is `a::b`.
fn name(file: &Path) -> Module {
    let file: PathBuf = file.with_extension("");
    let parts = file.iter().map(|it| it.to_str().unwrap().to_owned());
    parts
        .filter(|it| !["lib", "main", "mod"].contains(&it.as_str()))
        .collect()
}

/// Returns every path within its own crate that a module names, from the crate's root. Tests are excluded: they may use
/// everything.
fn paths(text: &str, module: &[String]) -> Vec<Module> {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code = text
        .lines()
        .map(|it| it.split("//").next().unwrap_or_default());
    let tokens = tokens(&code.collect::<Vec<_>>().join("\n"));
    let mut paths = Vec::new();
    for (place, token) in tokens.iter().enumerate() {
        let is_start = place == 0 || tokens[place - 1] != "::";
        let is_followed = tokens.get(place + 1).is_some_and(|it| it == "::");
        let is_child_in_use = place > 0 && tokens[place - 1] == "use";
        if is_start && is_followed {
            match token.as_str() {
                "crate" => tree(&tokens[place + 2..], Vec::new(), &mut paths),
                "self" | "super" => tree(&tokens[place..], module.to_vec(), &mut paths),
                _ if is_child_in_use => tree(&tokens[place..], module.to_vec(), &mut paths),
                _ => 0,
            };
        }
    }
    paths
}

/// Splits code into names and the marks between them.
fn tokens(code: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut before = ' ';
    for it in code.chars() {
        let is_name = |it: char| it.is_alphanumeric() || it == '_';
        match tokens.last_mut() {
            Some(last) if is_name(it) && is_name(before) => last.push(it),
            Some(last) if it == ':' && before == ':' => last.push(it),
            _ if it.is_whitespace() => {}
            _ => tokens.push(it.to_string()),
        }
        before = it;
    }
    tokens
}

/// Reads a path, or a tree of paths, that continues from `base`. Returns the number of its tokens.
fn tree(tokens: &[String], mut base: Module, paths: &mut Vec<Module>) -> usize {
    let mut place = 0;
    loop {
        match tokens.get(place).map(String::as_str) {
            Some("self") => {}
            Some("super") => drop(base.pop()),
            Some("{") => {
                place += 1;
                while tokens.get(place).is_some_and(|it| it != "}") {
                    place += match tokens[place].as_str() {
                        "," => 1,
                        _ => tree(&tokens[place..], base.clone(), paths).max(1),
                    };
                }
                return place + 1;
            }
            Some(name) if name.starts_with(|it: char| it.is_alphabetic() || it == '_') => {
                base.push(name.to_owned());
            }
            _ => return place,
        }
        place += 1;
        if tokens.get(place).is_none_or(|it| it != "::") {
            paths.push(base);
            return place;
        }
        place += 1;
    }
}
