//! Classifies an unsuccessful answer by its status, or by the error codes in its body if the status alone misleads.
//!
//! **Invariant**: only codes of a closed set are read from a body. No text of a stranger becomes a reason or a detail.

use std::fmt;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use scanhook_core::failure::ErrorReason;
use serde_json::Value;

use super::http::Answer;

/// The known codes and their meanings. If an answer has several, the first one in this list decides: those that an
/// operator can act on come first. Rate limits precede all, because a registry that limits doesn't show whether it
/// would refuse. Sources: OCI distribution specification, "Error Codes"; the distribution project's
/// `registry/api/errcode` and `registry/api/v2/errors.go`; Harbor's `src/lib/errors/const.go`.
const CODES: [(&str, ErrorReason); 16] = [
    ("TOOMANYREQUESTS", ErrorReason::RateLimited),
    ("UNAUTHORIZED", ErrorReason::Unauthorized),
    ("DENIED", ErrorReason::Unauthorized),
    ("PROJECTPOLICYVIOLATION", ErrorReason::Unauthorized),
    ("NAME_UNKNOWN", ErrorReason::ImageNotFound),
    ("NAME_INVALID", ErrorReason::ImageNotFound),
    ("MANIFEST_UNKNOWN", ErrorReason::ImageNotFound),
    ("TAG_INVALID", ErrorReason::ImageNotFound),
    ("MANIFEST_BLOB_UNKNOWN", ErrorReason::ImageNotFound),
    ("BLOB_UNKNOWN", ErrorReason::ImageNotFound),
    ("UNSUPPORTED", ErrorReason::UnsupportedImage),
    ("MANIFEST_INVALID", ErrorReason::UnsupportedImage),
    ("MANIFEST_UNVERIFIED", ErrorReason::UnsupportedImage),
    ("DIGEST_INVALID", ErrorReason::UnsupportedImage),
    ("UNAVAILABLE", ErrorReason::Network),
    ("UNKNOWN", ErrorReason::Network),
];

/// Why a request didn't succeed. Displayed as the status and the known codes.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) reason: ErrorReason,
    status: StatusCode,
    codes: Vec<&'static str>,
}

impl Answer {
    /// Classifies the answer, which must not be a success.
    pub(super) fn problem(&self) -> Problem {
        problem_of(self.status, &self.headers, &self.body)
    }

    pub(super) fn is_rate_limited(&self) -> bool {
        !self.status.is_success() && self.problem().reason == ErrorReason::RateLimited
    }
}

fn problem_of(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Problem {
    let sent = codes_in(body);
    let is_sent = |(code, _): &&(&str, _)| sent.iter().any(|it| it.eq_ignore_ascii_case(code));
    let understood: Vec<_> = CODES.iter().filter(is_sent).collect();
    let first = understood.first().map(|(_, reason)| *reason);
    let reason = match status {
        StatusCode::TOO_MANY_REQUESTS => ErrorReason::RateLimited,
        _ if first == Some(ErrorReason::RateLimited) => ErrorReason::RateLimited,
        // GitHub's limits. Source: GitHub's documentation, "Rate limits for the REST API".
        StatusCode::FORBIDDEN if headers.contains_key(RETRY_AFTER) => ErrorReason::RateLimited,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorReason::Unauthorized,
        // A proxy or a broken server may send any code.
        StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::REQUEST_TIMEOUT => {
            ErrorReason::Network
        }
        it if it.is_server_error() => ErrorReason::Network,
        // Some registries hide a refusal behind these statuses. Other codes don't matter: there is no such image.
        StatusCode::NOT_FOUND | StatusCode::GONE => match first {
            Some(ErrorReason::Unauthorized) => ErrorReason::Unauthorized,
            _ => ErrorReason::ImageNotFound,
        },
        StatusCode::NOT_ACCEPTABLE => first.unwrap_or(ErrorReason::UnsupportedImage),
        _ => first.unwrap_or(ErrorReason::Network),
    };
    Problem {
        reason,
        status,
        codes: understood.into_iter().map(|(code, _)| *code).collect(),
    }
}

/// Reads the codes of `{"errors": [{"code": …}]}`, and ignores everything else.
fn codes_in(body: &[u8]) -> Vec<String> {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let errors = json.get("errors").and_then(Value::as_array);
    let codes = errors.into_iter().flatten().filter_map(|it| it.get("code"));
    codes
        .filter_map(|it| it.as_str().map(str::to_owned))
        .collect()
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "status {}", self.status.as_u16())?;
        if !self.codes.is_empty() {
            write!(formatter, " ({})", self.codes.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;
    use serde_json::json;

    use super::*;

    fn problem(status: u16, headers: &HeaderMap, body: &str) -> String {
        let status = StatusCode::from_u16(status).unwrap();
        let problem = problem_of(status, headers, body.as_bytes());
        format!("{}: {problem}", problem.reason.as_str())
    }

    fn check(status: u16, codes: &[&str], expected: &str) {
        let errors: Vec<_> = codes
            .iter()
            .map(|it| json!({"code": it, "message": "m"}))
            .collect();
        let body = json!({ "errors": errors }).to_string();
        let problem = problem(status, &HeaderMap::new(), &body);
        assert_eq!(problem, expected, "{status} {codes:?}");
    }

    #[test]
    fn the_status_decides_without_a_code() {
        for (status, reason) in [
            (400, "network"),
            (401, "unauthorized"),
            (403, "unauthorized"),
            (404, "image_not_found"),
            (405, "network"),
            (406, "unsupported_image"),
            (407, "network"),
            (408, "network"),
            (410, "image_not_found"),
            (416, "network"),
            (429, "rate_limited"),
            (500, "network"),
            (501, "network"),
            (503, "network"),
        ] {
            check(status, &[], &format!("{reason}: status {status}"));
        }
    }

    #[test]
    fn a_code_decides_if_the_status_misleads() {
        check(
            400,
            &["TOOMANYREQUESTS"],
            "rate_limited: status 400 (TOOMANYREQUESTS)",
        );
        check(
            401,
            &["TOOMANYREQUESTS"],
            "rate_limited: status 401 (TOOMANYREQUESTS)",
        );
        check(
            403,
            &["toomanyrequests"],
            "rate_limited: status 403 (TOOMANYREQUESTS)",
        );
        check(
            503,
            &["TOOMANYREQUESTS"],
            "rate_limited: status 503 (TOOMANYREQUESTS)",
        );
        check(
            404,
            &["UNAUTHORIZED"],
            "unauthorized: status 404 (UNAUTHORIZED)",
        );
        check(404, &["DENIED"], "unauthorized: status 404 (DENIED)");
        check(400, &["DENIED"], "unauthorized: status 400 (DENIED)");
        check(
            400,
            &["NAME_UNKNOWN"],
            "image_not_found: status 400 (NAME_UNKNOWN)",
        );
        check(
            400,
            &["NAME_INVALID"],
            "image_not_found: status 400 (NAME_INVALID)",
        );
        check(
            400,
            &["MANIFEST_UNKNOWN"],
            "image_not_found: status 400 (MANIFEST_UNKNOWN)",
        );
        check(
            400,
            &["DIGEST_INVALID"],
            "unsupported_image: status 400 (DIGEST_INVALID)",
        );
        check(
            405,
            &["UNSUPPORTED"],
            "unsupported_image: status 405 (UNSUPPORTED)",
        );
        check(
            412,
            &["PROJECTPOLICYVIOLATION"],
            "unauthorized: status 412 (PROJECTPOLICYVIOLATION)",
        );
    }

    #[test]
    fn a_code_does_not_override_a_clear_status() {
        check(
            401,
            &["NAME_UNKNOWN"],
            "unauthorized: status 401 (NAME_UNKNOWN)",
        );
        check(
            404,
            &["UNSUPPORTED"],
            "image_not_found: status 404 (UNSUPPORTED)",
        );
        check(429, &["DENIED"], "rate_limited: status 429 (DENIED)");
        check(502, &["UNAUTHORIZED"], "network: status 502 (UNAUTHORIZED)");
        check(407, &["DENIED"], "network: status 407 (DENIED)");
    }

    #[test]
    fn the_code_that_an_operator_can_act_on_decides() {
        check(
            404,
            &["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "DENIED", "UNAUTHORIZED"],
            "unauthorized: status 404 (UNAUTHORIZED, DENIED, NAME_UNKNOWN, MANIFEST_UNKNOWN)",
        );
        check(
            401,
            &["UNAUTHORIZED", "TOOMANYREQUESTS"],
            "rate_limited: status 401 (TOOMANYREQUESTS, UNAUTHORIZED)",
        );
        check(
            400,
            &["UNKNOWN", "MANIFEST_INVALID"],
            "unsupported_image: status 400 (MANIFEST_INVALID, UNKNOWN)",
        );
    }

    #[test]
    fn a_403_with_a_retry_after_is_a_rate_limit() {
        let value = HeaderValue::from_static("60");
        let headers = HeaderMap::from_iter([(RETRY_AFTER, value)]);
        assert_eq!(problem(403, &headers, ""), "rate_limited: status 403");
        assert_eq!(problem(401, &headers, ""), "unauthorized: status 401");
    }

    #[test]
    fn everything_else_in_a_body_is_ignored() {
        for body in [
            "",
            "<html>DENIED</html>",
            "null",
            r#"{"errors": "DENIED"}"#,
            r#"{"errors": ["DENIED", {"code": 7}, {"code": null}, {"message": "DENIED"}]}"#,
            r#"{"code": "DENIED"}"#,
            r#"{"errors": [{"code": "TRY https://example.com"}]}"#,
            r#"{"errors": [{"code": "DENIED"}]"#,
        ] {
            let problem = problem(404, &HeaderMap::new(), body);
            assert_eq!(problem, "image_not_found: status 404", "{body}");
        }
    }
}
