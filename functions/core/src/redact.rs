//! Makes the output of a program safe to show: without secrets, control characters and the parts of URLs that may
//! contain secrets, and no longer than an operator reads.
//!
//! **Invariant**: a secret is removed in each form in which programs print it: plain, in base64 at any offset, in
//! percent and in JSON encoding, and whatever happened to its line breaks.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// Replaces removed text.
const MARK: &str = "[redacted]";

/// A shorter encoded form would match by chance.
const MIN_ENCODED: usize = 8;

/// The most lines that are shown, and the most bytes of them.
const MAX_LINES: usize = 3;
const MAX_SHOWN: usize = 1024;

/// Removes the secrets of one run from its output.
pub struct Redactor {
    /// Longest first, so that no form is removed from the middle of a longer one.
    forms: Vec<String>,
}

impl Redactor {
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut forms: Vec<String> = secrets.into_iter().flat_map(forms).collect();
        forms.sort_unstable_by(|one, other| other.len().cmp(&one.len()).then(one.cmp(other)));
        forms.dedup();
        Self { forms }
    }

    /// Returns the text without secrets and control characters.
    pub fn clean(&self, text: &str) -> String {
        let mut text = plain(text);
        for form in &self.forms {
            if text.contains(form) {
                text = text.replace(form, MARK);
            }
        }
        without_credentials(&without_url_secrets(&text))
    }

    /// Like [`Redactor::clean`], for text whose start is lost: also removes what may be the rest of a secret.
    pub fn clean_tail(&self, text: &str) -> String {
        let longest = self.forms.first().map_or(0, String::len);
        let cleaned = self.clean(text);
        tail(&cleaned, cleaned.len().saturating_sub(longest)).to_owned()
    }
}

/// Returns the part of a text that is shown: its last lines, joined into one.
pub fn shown(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().take(MAX_LINES).collect();
    let lines: Vec<&str> = lines.into_iter().rev().collect();
    tail(&lines.join(" | "), MAX_SHOWN).to_owned()
}

/// At most the last `length` bytes, from the start of a character.
fn tail(text: &str, length: usize) -> &str {
    let start = text.len().saturating_sub(length);
    (start..=text.len())
        .find_map(|it| text.get(it..))
        .unwrap_or_default()
}

/// Removes escape sequences and control characters. A run of white space becomes one line break if it contains one,
/// otherwise one space.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(it) = rest.next() {
        match it {
            '\u{1b}' => match rest.next() {
                Some('[') => skip_through(&mut rest, |it| matches!(it, '@'..='~')),
                Some(']') => skip_through(&mut rest, |it| matches!(it, '\u{7}' | '\u{1b}')),
                _ => {}
            },
            '\u{9b}' => skip_through(&mut rest, |it| matches!(it, '@'..='~')),
            '\n' => {
                let length = plain.trim_end().len();
                plain.truncate(length);
                plain.push('\n');
            }
            it if it.is_whitespace() => {
                if !plain.ends_with([' ', '\n']) {
                    plain.push(' ');
                }
            }
            // SQS refuses the last two in attributes.
            it if it.is_control() || matches!(it, '\u{fffe}' | '\u{ffff}') => {}
            it => plain.push(it),
        }
    }
    plain.trim().to_owned()
}

fn skip_through(rest: &mut impl Iterator<Item = char>, is_last: impl Fn(char) -> bool) {
    for it in rest {
        if is_last(it) {
            break;
        }
    }
}

fn forms(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let mut forms = vec![plain(secret), plain(secret).replace('\n', " ")];
    // Logs may show a single line of a key.
    let lines = secret.lines().map(plain);
    forms.extend(lines.filter(|it| it.len() >= 2 * MIN_ENCODED));
    let mut encoded = vec![percent_encoded(bytes, false), percent_encoded(bytes, true)];
    encoded.push(percent_encoded(bytes, true).replace("%20", "+"));
    encoded.push(percent_encoded(bytes, false).replace("%20", "+"));
    encoded.extend(serde_json::to_string(secret).map(|it| it.trim_matches('"').to_owned()));
    encoded.extend((0..3).flat_map(|offset| base64_at(offset, bytes)));
    forms.extend(encoded.into_iter().filter(|it| it.len() >= MIN_ENCODED));
    forms.retain(|it| !it.is_empty());
    forms
}

/// The characters of base64 that depend on the secret alone, if `offset` (modulo 3) bytes precede it.
fn base64_at(offset: usize, secret: &[u8]) -> [String; 2] {
    let bytes = [vec![0; offset].as_slice(), secret].concat();
    let first = (offset * 8).div_ceil(6);
    let last = bytes.len() * 8 / 6;
    let cut = |text: String| text.get(first..last).unwrap_or_default().to_owned();
    [
        cut(STANDARD_NO_PAD.encode(&bytes)),
        cut(URL_SAFE_NO_PAD.encode(&bytes)),
    ]
}

fn percent_encoded(bytes: &[u8], is_upper: bool) -> String {
    let pieces = percent_encode(bytes, RESERVED);
    let pieces = pieces.map(|it| match it.strip_prefix('%') {
        Some(escaped) if !is_upper => format!("%{}", escaped.to_ascii_lowercase()),
        _ => it.to_owned(),
    });
    pieces.collect()
}

/// All but the unreserved characters. Source: RFC 3986, section 2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Removes user information and query from every URL.
fn without_url_secrets(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        let end = after
            .find(|it: char| it.is_whitespace() || matches!(it, '"' | '\'' | '<' | '>' | '`'))
            .unwrap_or(after.len());
        let (url, following) = after.split_at(end);
        cleaned.push_str(before);
        cleaned.push_str("://");
        let (address, query) = url
            .split_once('?')
            .map_or((url, None), |(address, query)| (address, Some(query)));
        // A password may contain a slash. Text before "@sha256:" is an image.
        let host = address
            .rmatch_indices('@')
            .find(|(at, _)| {
                !address
                    .get(*at..)
                    .unwrap_or_default()
                    .starts_with("@sha256:")
            })
            .map(|(at, _)| at);
        if let Some(at) = host {
            cleaned.push_str(MARK);
            cleaned.push_str(address.get(at..).unwrap_or_default());
        } else {
            cleaned.push_str(address);
        }
        if query.is_some() {
            cleaned.push('?');
            cleaned.push_str(MARK);
        }
        rest = following;
    }
    cleaned.push_str(rest);
    cleaned
}

/// Removes the text after an authorization scheme: tokens that the program requested itself, so we don't know them.
fn without_credentials(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut after_scheme = false;
    for word in text.split_inclusive([' ', '\n']) {
        let (bare, space) = word.split_at(word.trim_end().len());
        let is_long = bare.len() >= 2 * MIN_ENCODED && !bare.contains(MARK);
        cleaned.push_str(if after_scheme && is_long { MARK } else { bare });
        cleaned.push_str(space);
        let scheme = bare.trim_start_matches(['"', '\'']);
        after_scheme =
            scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("basic");
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "fake+token/of a?test";

    fn check(text: &str, expected: &str) {
        assert_eq!(Redactor::new([TOKEN]).clean(text), expected);
    }

    #[test]
    fn a_secret_is_removed_in_each_form_in_which_programs_print_it() {
        check("token fake+token/of a?test!", "token [redacted]!");
        check("t=fake%2Btoken%2Fof%20a%3Ftest", "t=[redacted]");
        check("t=fake%2btoken%2fof+a%3ftest", "t=[redacted]");
        check("fake+tok\u{1b}[0men/of \t a?test", "[redacted]");
        for before in ["", "u", "us", "usr", "user:"] {
            let text = STANDARD.encode(format!("{before}{TOKEN}"));
            let cleaned = Redactor::new([TOKEN]).clean(&text);
            assert!(cleaned.contains(MARK), "{text} {cleaned}");
        }
    }

    #[test]
    fn each_line_of_a_key_is_removed() {
        let key = "-----BEGIN KEY-----\nZmFrZSBrZXkgb2YgYSB0ZXN0\nc2Vjb25kIGxpbmU\n";
        let redactor = Redactor::new([key]);
        for printed in [
            key.to_owned(),
            key.replace('\n', "\r\n"),
            key.replace('\n', " "),
        ] {
            assert_eq!(redactor.clean(&printed), "[redacted]");
        }
        assert_eq!(
            redactor.clean("bad ZmFrZSBrZXkgb2YgYSB0ZXN0"),
            "bad [redacted]"
        );
        let json = serde_json::to_string(key).unwrap();
        assert_eq!(redactor.clean(&json), "\"[redacted]\"");
    }

    #[test]
    fn urls_lose_their_user_and_their_query() {
        check(
            "Get \"https://robot:pa/ss@h.io/v2/?sig=x&y=z\": 403",
            "Get \"https://[redacted]@h.io/v2/?[redacted]\": 403",
        );
        check(
            "http://u@p.io and https://h.io/a",
            "http://[redacted]@p.io and https://h.io/a",
        );
        let image = format!("pull://h.io/a:1@sha256:{}", "0".repeat(64));
        check(&image, &image);
    }

    #[test]
    fn tokens_that_the_program_requested_itself_are_removed() {
        check(
            "Authorization: Bearer eyJhbGciOiJub25lIn0.e30.",
            "Authorization: Bearer [redacted]",
        );
        check("basic authentication", "basic authentication");
    }

    #[test]
    fn the_text_keeps_its_lines_and_no_control_characters() {
        check(
            "\u{1b}]0;title\u{7}a \n\tb\u{0}\u{9b}31mc\u{ffff}\u{1b}c\r\n",
            "a\nbc",
        );
    }

    #[test]
    fn the_rest_of_a_secret_at_a_lost_start_is_removed() {
        let text = format!("oken/of a?test {} the end", "x".repeat(200));
        let cleaned = Redactor::new([TOKEN]).clean_tail(&text);
        assert!(!cleaned.contains("oken") && cleaned.ends_with("the end"));
    }

    #[test]
    fn the_last_three_lines_are_shown_and_at_most_a_kibibyte_of_them() {
        assert_eq!(shown("a\nb\nc\nd"), "b | c | d");
        let text = format!("{}end", "ä".repeat(1000));
        assert!(shown(&text).len() <= MAX_SHOWN && shown(&text).ends_with("äend"));
    }

    proptest! {
        #[test]
        fn no_secret_survives(before in ".{0,40}", secret in "[!-~]{8,40}", after in ".{0,40}") {
            // The mark itself may contain text that looks like a secret.
            prop_assume!(!MARK.contains(&secret));
            let cleaned = Redactor::new([secret.as_str()]).clean(&format!("{before}{secret}{after}"));
            prop_assert!(!cleaned.contains(&secret), "{cleaned}");
        }
    }
}
