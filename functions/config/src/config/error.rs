//! What is wrong with a configuration, and where.
//!
//! **Invariant**: an error shows keys, and, where only some words are valid, a text that looks like one of them. It never
//! shows another value.

use std::fmt;

use serde_saphyr::granit_parser::ErrorKind;
use serde_saphyr::{Error, ExternalMessageSource};

use super::outline::{Outline, Place};

/// Something in the configuration is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(Box<Mistake>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mistake {
    /// The key, such as `sources.prod.auth[0].secret`; empty for the whole file.
    path: String,
    problem: Problem,
    /// Where it is in the file, if the file itself is wrong.
    place: Option<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Problem {
    /// Something else belongs here.
    Expected {
        what: String,
        found: Option<String>,
    },
    Refused(String),
}

impl ConfigError {
    /// An error of a key's value; the problem does not contain the value.
    pub fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::of(path, Problem::Refused(problem.into()))
    }

    fn of(path: impl Into<String>, problem: Problem) -> Self {
        Self(Box::new(Mistake {
            path: path.into(),
            problem,
            place: None,
        }))
    }

    /// Adds line, column and the found value's type, as far as the parser did not.
    pub(super) fn located(mut self, yaml: &str) -> Self {
        let is_of_value = matches!(self.0.problem, Problem::Expected { found: None, .. });
        // Of a value the parser may give its key's place, but of a key that is wrong it gives the right one.
        if (is_of_value || self.0.place.is_none())
            && let Some(outline) = Outline::of(yaml)
        {
            self.0.place = Some(outline.find(&self.0.path));
        }
        self
    }

    /// What the parser found at a path, without what it quotes of the file.
    pub(super) fn of_yaml(err: &Error, path: &str) -> Self {
        let mut problem = refused(path, err);
        let location = err.location().filter(|it| it.line() > 0);
        problem.0.place = location.map(|it| Place {
            line: it.line(),
            column: it.column(),
            found: None,
        });
        problem
    }
}

/// An error of a value that is not what belongs there.
pub(super) fn expected(path: &str, what: impl Into<String>) -> ConfigError {
    let problem = Problem::Expected {
        what: what.into(),
        found: None,
    };
    ConfigError::of(path, problem)
}

/// An error of a value that is none of these words.
pub(super) fn expected_word(path: &str, word: &str, known: &[&str]) -> ConfigError {
    let found = match nearest(word, known) {
        Some(it) => Some(format!("{word:?}; did you mean {it:?}?")),
        None => is_word(word).then(|| format!("{word:?}")),
    };
    let problem = Problem::Expected {
        what: format!("one of {}", known.join(", ")),
        found,
    };
    ConfigError::of(path, problem)
}

/// Whether a text looks like a key or a word of ours. Any other may be a secret in a wrong place.
fn is_word(text: &str) -> bool {
    let is_of_words = |it: u8| it.is_ascii_lowercase() || matches!(it, b'_' | b'-');
    (1..=20).contains(&text.len()) && text.bytes().all(is_of_words)
}

fn refused(path: &str, err: &Error) -> ConfigError {
    match err.without_snippet() {
        Error::AliasError { error, .. } => refused(path, error),
        Error::Unexpected { expected: what, .. } | Error::InvalidScalar { ty: what, .. } => {
            expected(path, in_plain_words(what))
        }
        Error::SerdeInvalidType { expected: what, .. }
        | Error::SerdeInvalidValue { expected: what, .. } => expected(path, in_plain_words(what)),
        Error::NullIntoString { .. } => expected(path, "a string"),
        Error::Eof { .. } => expected(path, "a map"),
        // Only serde's untagged enums report so, with the text that we give them.
        Error::Message { msg, .. } => expected(path, msg),
        Error::SerdeUnknownVariant {
            variant,
            expected: known,
            ..
        } => expected_word(path, variant, known),
        Error::SerdeUnknownField {
            field,
            expected: known,
            ..
        } => unknown_key(path, field, known),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            ConfigError::new(path, format!("the key {key:?} is repeated"))
        }
        Error::DuplicateMappingKey { key: None, .. } => ConfigError::new(path, "a key is repeated"),
        Error::MergeKeyNotAllowed { .. } => {
            ConfigError::new(path, "merge keys (<<) are not supported")
        }
        Error::MultipleDocuments { .. } => {
            ConfigError::new(path, "expected one document, found another after ---")
        }
        Error::UnknownAnchor { .. } => ConfigError::new(path, "this anchor is defined nowhere"),
        Error::ExternalMessage { source, .. } => ConfigError::new(path, not_yaml(source)),
        _ => ConfigError::new(path, "the file's YAML is too large, too deep or malformed"),
    }
}

fn unknown_key(path: &str, key: &str, known: &[&'static str]) -> ConfigError {
    let parent = path.strip_suffix(key);
    let parent = parent.map_or(path, |it| it.strip_suffix('.').unwrap_or(it));
    let (path, found) = match nearest(key, known) {
        Some(it) => (path, format!("the key {key:?}; did you mean {it:?}?")),
        None if is_word(key) => (path, format!("the key {key:?}")),
        None => (parent, "another key".to_owned()),
    };
    let problem = Problem::Expected {
        what: format!("one of {}", known.join(", ")),
        found: Some(found),
    };
    ConfigError::of(path, problem)
}

fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |it: &str| strsim::damerau_levenshtein(&word.to_lowercase(), it);
    let nearest = known.iter().map(|it| (distance(it), *it)).min()?;
    // At most every third character differs.
    (nearest.0 * 3 <= nearest.1.len()).then_some(nearest.1)
}

fn in_plain_words(expected: &str) -> &str {
    match expected {
        "string scalar" => "a string",
        "sequence start" | "a sequence" => "a list",
        "mapping start" => "a map",
        _ if expected.starts_with("struct ") => "a map",
        _ => expected,
    }
}

fn not_yaml(source: &ExternalMessageSource) -> String {
    match source {
        ExternalMessageSource::Parser(err) => match err.kind() {
            ErrorKind::UnexpectedCharacter { .. } => {
                "not YAML: this character can't start a value; quote the value".to_owned()
            }
            _ => format!("not YAML: {}", err.info()),
        },
        _ => "not YAML".to_owned(),
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.path.as_str() {
            "" => f.write_str("top level")?,
            path => f.write_str(path)?,
        }
        if let Some(Place { line, column, .. }) = self.0.place {
            write!(f, " (line {line}, column {column})")?;
        }
        match &self.0.problem {
            Problem::Refused(text) => write!(f, ": {text}"),
            Problem::Expected { what, found } => {
                write!(f, ": expected {what}")?;
                let found = found.as_deref().or(self.0.place.and_then(|it| it.found));
                found.map_or(Ok(()), |it| write!(f, ", found {it}"))
            }
        }
    }
}

impl std::error::Error for ConfigError {}
