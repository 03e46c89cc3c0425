//! What a run that ended with exit code 3 died of, by what it printed: one table.
//!
//! The CLI has one exit code for every error, so its words are all there is. Each row says where the words come from:
//! `Seen` in public records of the CLI, or `Inferred` from the libraries it most likely uses (go-containerregistry,
//! containers/image, Go's net). The first row that matches wins; unknown text is transient.

use crate::failure::ErrorReason;
use crate::image::Image;

/// Where a row's words come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// Printed by the CLI in a public record.
    Seen,
    /// Printed by a library the CLI most likely uses.
    Inferred,
}

/// One row: the CLI died of `reason` if its text matches `pattern`.
pub struct Row {
    /// The conclusion.
    pub reason: ErrorReason,
    /// What must be in the text.
    pub pattern: Pattern,
    /// Where it is known from.
    pub evidence: Evidence,
    /// A text it was made for.
    pub example: &'static str,
}

/// What is looked for, without regard to case.
pub enum Pattern {
    /// Any of these.
    Any(&'static [Sign]),
    /// All of these.
    All(&'static [Sign]),
}

/// A trait of a text.
pub enum Sign {
    /// These characters stand somewhere in it.
    Text(&'static str),
    /// This word stands in it, not as a part of a longer one.
    Word(&'static str),
    /// An HTTP status: one of these numbers near "status" or "HTTP", or before its phrase; never a bare number, since
    /// digests, sizes and times hold such digits too.
    Status(&'static [u16]),
}

use Evidence::{Inferred, Seen};
use Pattern::{All, Any};
use Sign::{Status, Text, Word};

/// The rows, in the order in which they are tried.
pub static TABLE: [Row; 13] = [
    Row {
        reason: ErrorReason::BadToken,
        pattern: Any(&[Text("secure_api_token")]),
        evidence: Seen,
        example: "environment variable SECURE_API_TOKEN cannot be empty",
    },
    Row {
        reason: ErrorReason::BadToken,
        pattern: All(&[Text("unable to retrieve maindb"), Status(&[401, 403])]),
        evidence: Seen,
        example: "Unable to retrieve MainDB: unexpected status 401 Unauthorized. Exiting now",
    },
    Row {
        reason: ErrorReason::Database,
        pattern: Any(&[Text("unable to retrieve maindb"), Text("main.db")]),
        evidence: Seen,
        example: "Unable to retrieve MainDB ... Exiting now",
    },
    Row {
        reason: ErrorReason::RateLimited,
        pattern: Any(&[
            Word("toomanyrequests"),
            Text("rate limit"),
            Text("too many requests"),
            Status(&[429]),
        ]),
        evidence: Inferred,
        example: "TOOMANYREQUESTS: You have reached your pull rate limit",
    },
    Row {
        reason: ErrorReason::ImageNotFound,
        pattern: Any(&[
            Text("manifest_unknown"),
            Text("manifest unknown"),
            Text("name_unknown"),
            Status(&[404]),
        ]),
        evidence: Inferred,
        example: "GET https://registry/v2/a/manifests/1: MANIFEST_UNKNOWN: manifest unknown",
    },
    Row {
        reason: ErrorReason::Unauthorized,
        pattern: Any(&[
            Word("unauthorized"),
            Text("authentication required"),
            Word("denied"),
            Status(&[401, 403]),
        ]),
        evidence: Inferred,
        example: "GET https://registry/v2/a/manifests/1: UNAUTHORIZED: authentication required",
    },
    Row {
        reason: ErrorReason::UnsupportedImage,
        pattern: Any(&[
            Word("unsupported"),
            Text("unsupported mediatype"),
            Text("schema1"),
            Text("no child with platform"),
            Text("no image found in image index for architecture"),
            Text("no image found in manifest list for architecture"),
        ]),
        evidence: Inferred,
        example: "no child with platform linux/amd64 in index registry/a:1",
    },
    Row {
        reason: ErrorReason::NoSpace,
        pattern: Any(&[Text("no space left on device")]),
        evidence: Inferred,
        example: "write /tmp/layer: no space left on device",
    },
    Row {
        reason: ErrorReason::UntrustedTls,
        pattern: Any(&[Text("x509:")]),
        evidence: Inferred,
        example: "x509: certificate signed by unknown authority",
    },
    Row {
        reason: ErrorReason::Network,
        pattern: Any(&[
            Text("i/o timeout"),
            Text("context deadline exceeded"),
            Text("connection reset"),
            Text("connection refused"),
            Text("no such host"),
            Text("temporary failure in name resolution"),
            Text("tls handshake timeout"),
        ]),
        evidence: Inferred,
        example: "dial tcp 192.0.2.1:443: i/o timeout",
    },
    Row {
        reason: ErrorReason::Network,
        pattern: Any(&[Status(&[408, 500, 502, 503, 504]), Word("unavailable")]),
        evidence: Inferred,
        example: "unexpected status code 503 Service Unavailable",
    },
    Row {
        reason: ErrorReason::Network,
        pattern: Any(&[Word("eof")]),
        evidence: Inferred,
        example: "read manifest: unexpected EOF",
    },
    Row {
        reason: ErrorReason::ScannerError,
        pattern: All(&[]),
        evidence: Inferred,
        example: "something nobody has seen",
    },
];

/// Names what the CLI died of while it scanned `image`. `stderr` is the end of what it printed.
pub fn reason(image: &Image, stderr: &str) -> ErrorReason {
    // Whoever pushes chooses the image's name, and names must not decide how an error is treated.
    let mut text = stderr
        .replace(&image.to_string(), "")
        .replace(&image.name(), "");
    text = text.replace(&format!("/v2/{}/", image.repository), "/v2//");
    reason_of(&text.to_lowercase())
}

/// Names what exit code 2 means: the CLI refused its arguments, unless Go's runtime ended it, which uses the same code.
pub fn reason_for_bad_parameters(stderr: &str) -> ErrorReason {
    let is_crash = ["goroutine ", "fatal error: "]
        .iter()
        .any(|it| stderr.contains(it));
    if is_crash {
        ErrorReason::ScannerError
    } else {
        ErrorReason::BadParameters
    }
}

fn reason_of(text: &str) -> ErrorReason {
    let words: Vec<&str> = text
        .split(|it: char| !it.is_alphanumeric() && it != '_')
        .filter(|it| !it.is_empty())
        .collect();
    let holds = |sign: &Sign| match sign {
        Text(part) => text.contains(part),
        Word(word) => words.contains(word),
        Status(numbers) => numbers.iter().any(|it| tells_status(text, &words, *it)),
    };
    let matches = |row: &&Row| match &row.pattern {
        Any(signs) => signs.iter().any(holds),
        All(signs) => signs.iter().all(holds),
    };
    TABLE
        .iter()
        .find(matches)
        .map_or(ErrorReason::ScannerError, |row| row.reason)
}

/// The phrase of each status. Source: RFC 9110, section 15, and RFC 6585.
const PHRASES: [(u16, &str); 9] = [
    (401, "401 unauthorized"),
    (403, "403 forbidden"),
    (404, "404 not found"),
    (408, "408 request timeout"),
    (429, "429 too many requests"),
    (500, "500 internal server error"),
    (502, "502 bad gateway"),
    (503, "503 service unavailable"),
    (504, "504 gateway timeout"),
];

/// How many words may stand between "status" and its number.
const NEAR: usize = 3;

fn tells_status(text: &str, words: &[&str], number: u16) -> bool {
    let phrases = PHRASES.iter().filter(|(it, _)| *it == number);
    let number = number.to_string();
    let near_its_name = words.iter().enumerate().any(|(at, word)| {
        let before = words.get(at.saturating_sub(NEAR)..at).unwrap_or_default();
        let is_name = |it: &&str| matches!(*it, "status" | "statuscode" | "http" | "code");
        *word == number && before.iter().any(is_name)
    });
    near_its_name || phrases.into_iter().any(|(_, it)| text.contains(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> ErrorReason {
        super::reason(&Image::parse("h.io/team/app:1").unwrap(), text)
    }

    #[test]
    fn the_images_name_decides_nothing() {
        let image = Image::parse("h.io/toomanyrequests/denied/eof:manifest_unknown").unwrap();
        for text in [
            format!("unable to retrieve image {image}: strange"),
            format!(
                "GET https://h.io/v2/{}/manifests/x: strange",
                image.repository
            ),
        ] {
            assert_eq!(
                super::reason(&image, &text),
                ErrorReason::ScannerError,
                "{text}"
            );
        }
    }

    #[test]
    fn the_example_of_each_row_is_decided_by_that_row() {
        for row in &TABLE {
            assert_eq!(reason(row.example), row.reason, "{}", row.example);
        }
    }

    #[test]
    fn digits_that_are_no_status_decide_nothing() {
        for text in [
            "layer sha256:401404429500503 failed after 404 bytes",
            "wrote 503 files in 429 ms",
            "2026-11-21T20:04:01.401Z strange",
            "port 5000, pid 404",
            "stopped (503 bytes, pid 500): internal inconsistency",
        ] {
            assert_eq!(reason(text), ErrorReason::ScannerError, "{text}");
        }
    }

    #[test]
    fn a_status_counts_in_each_way_it_is_printed() {
        for (text, expected) in [
            (
                "received unexpected HTTP status: 502 Bad Gateway",
                ErrorReason::Network,
            ),
            ("unexpected status code 404", ErrorReason::ImageNotFound),
            ("status=429", ErrorReason::RateLimited),
            ("403 Forbidden", ErrorReason::Unauthorized),
            (
                "Unable to retrieve MainDB: GET https://x: 403 Forbidden",
                ErrorReason::BadToken,
            ),
            ("HTTP/1.1 500", ErrorReason::Network),
        ] {
            assert_eq!(reason(text), expected, "{text}");
        }
    }
}
