//! The pages of `docs/reference`, as tests compare them with what the code writes.
//!
//! **Invariant**: a field or word that the page lacks, or has too many, fails the test that compares them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

/// A page of `docs/reference`.
pub struct Page {
    name: String,
    text: String,
}

impl Page {
    /// Reads the page of that name.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn read(name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference");
        match std::fs::read_to_string(root.join(name)) {
            Ok(text) => Self {
                name: name.to_owned(),
                text,
            },
            Err(err) => panic!("docs/reference/{name}: {err}"),
        }
    }

    /// The lines from a heading to the next one.
    fn section<'a>(&'a self, heading: &'a str) -> impl Iterator<Item = &'a str> {
        let is_heading = |line: &str| line.starts_with('#');
        let mut lines = self.text.lines();
        assert!(
            lines.any(|it| is_heading(it) && it.trim_start_matches(['#', ' ']) == heading),
            "docs/reference/{} has no heading {heading:?}",
            self.name
        );
        lines.take_while(move |it| !is_heading(it))
    }

    /// The rows of the tables below a heading, without their heads: the cells of each.
    pub fn rows(&self, heading: &str) -> Vec<Vec<String>> {
        let cells = |line: &str| {
            let line = line.trim_matches('|');
            line.split('|').map(|it| it.trim().to_owned()).collect()
        };
        let rows = self.section(heading).filter(|it| it.starts_with("| `"));
        rows.map(cells).collect()
    }

    /// The names in the first column of the tables below a heading.
    pub fn names(&self, heading: &str) -> BTreeSet<String> {
        let rows = self.rows(heading).into_iter();
        rows.filter_map(|it| it.first().map(|it| it.trim_matches('`').to_owned()))
            .collect()
    }

    /// The examples in JSON below a heading.
    ///
    /// # Panics
    ///
    /// If one is not JSON.
    pub fn examples(&self, heading: &str) -> Vec<Value> {
        let mut examples = Vec::new();
        let mut lines = self.section(heading);
        while lines.any(|it| it == "```json") {
            let block: Vec<_> = lines.by_ref().take_while(|it| *it != "```").collect();
            match serde_json::from_str(&block.join("\n")) {
                Ok(example) => examples.push(example),
                Err(err) => panic!("docs/reference/{}, {heading}: {err}", self.name),
            }
        }
        examples
    }

    /// Compares the table of fields below a heading with what was written: the values together have all its fields and no
    /// others, and each is of the type that the table has. So are the table's own examples.
    ///
    /// # Panics
    ///
    /// If they differ.
    #[track_caller]
    pub fn check(&self, heading: &str, written: &[Value]) {
        let place = format!("docs/reference/{}, {heading}", self.name);
        let mut types = BTreeMap::new();
        for row in self.rows(heading) {
            let [field, kind, _, example] = row.as_slice() else {
                panic!("{place}: not field, type, meaning, example: {row:?}");
            };
            let example: Value = match serde_json::from_str(example.trim_matches('`')) {
                Ok(example) => example,
                Err(err) => panic!("{place}, the example of {field}: {err}"),
            };
            assert!(is_of(kind, &example), "{place}, the example of {field}");
            types.insert(field.trim_matches('`').to_owned(), kind.clone());
        }
        let mut seen = BTreeSet::new();
        for value in written {
            visit(value, "", &types, &mut |field, value| {
                let kind = types.get(field);
                let kind =
                    kind.unwrap_or_else(|| panic!("{place} lacks the field {field}: {value}"));
                assert!(is_of(kind, value), "{place}: {field} is no {kind}: {value}");
                seen.insert(field.to_owned());
            });
        }
        let unseen: Vec<_> = types.keys().filter(|it| !seen.contains(*it)).collect();
        assert!(unseen.is_empty(), "{place}: nothing has {unseen:?}");
    }

    /// Compares the examples below a heading with its own table of fields, of which they need not have all.
    ///
    /// # Panics
    ///
    /// If they differ, or there is none.
    #[track_caller]
    pub fn check_examples(&self, heading: &str, table: &str, written: &[Value]) {
        let examples = self.examples(heading);
        assert!(!examples.is_empty(), "{heading}");
        let all: Vec<_> = examples.iter().chain(written).cloned().collect();
        self.check(table, &all);
    }
}

/// Whether a value is of a type as tables write it, such as `text or null`.
fn is_of(kind: &str, value: &Value) -> bool {
    let first = kind.split([' ', ',']).next().unwrap_or_default();
    match (first, value) {
        (_, Value::Null) => kind.contains("or null"),
        ("any", _)
        | ("text", Value::String(_))
        | ("number", Value::Number(_))
        | ("boolean", Value::Bool(_))
        | ("list", Value::Array(_))
        | ("object" | "map", Value::Object(_)) => true,
        ("time", Value::String(text)) => text.contains('T') && text.ends_with('Z'),
        _ => false,
    }
}

/// Visits each field of a value and of those within it, but nothing within a map or a list that has no rows of its own.
fn visit(
    value: &Value,
    place: &str,
    types: &BTreeMap<String, String>,
    seen: &mut impl FnMut(&str, &Value),
) {
    let is_closed = |field: &str| {
        types
            .get(field)
            .is_some_and(|it| it.starts_with("map") || it.starts_with("any"))
    };
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let field = if place.is_empty() {
                    name.clone()
                } else {
                    format!("{place}.{name}")
                };
                seen(&field, value);
                if !is_closed(&field) {
                    visit(value, &field, types, seen);
                }
            }
        }
        Value::Array(entries) => {
            let field = format!("{place}[]");
            for entry in entries {
                if types.contains_key(&field) {
                    seen(&field, entry);
                }
                if !is_closed(&field) {
                    visit(entry, &field, types, seen);
                }
            }
        }
        _ => {}
    }
}
