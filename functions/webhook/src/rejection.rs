//! The answers to deliveries that are not taken: fixed texts that tell a stranger nothing.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

/// Why a delivery is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// The connection ended before the body did, or took too long.
    UnreadableBody,
    /// Authentic, but no payload of this source's kind.
    NotAPayload,
    /// No valid credential, whatever the cause.
    Unauthorized,
    /// No such source or route.
    NotFound,
    /// A route, but not with this method.
    MethodNotAllowed,
    /// It did not arrive in time.
    Timeout,
    /// Longer than `limits.body`.
    TooLarge,
    /// Compressed, or encoded in another way.
    UnsupportedEncoding,
    /// A fault of ours.
    Internal,
    /// More than the source's rate limit; the seconds after which another is taken.
    TooMany(u64),
    /// The queue did not take everything in time, or the keys of an identity provider can't be had.
    Unavailable,
}

/// How long a sender waits before it tries again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("10");

impl Rejection {
    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Self::UnreadableBody | Self::NotAPayload => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The word for it in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnreadableBody => "unreadable_body",
            Self::NotAPayload => "not_a_payload",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::Internal => "internal",
            Self::TooMany(_) => "rate_limited",
            Self::Unavailable => "unavailable",
        }
    }

    /// A problem document (RFC 9457).
    fn body(self) -> &'static str {
        match self {
            Self::UnreadableBody => {
                r#"{"type":"about:blank","title":"The body could not be read","status":400}"#
            }
            Self::NotAPayload => {
                r#"{"type":"about:blank","title":"Not a payload of this source's kind","status":400}"#
            }
            Self::Unauthorized => {
                r#"{"type":"about:blank","title":"No valid credential","status":401}"#
            }
            Self::NotFound => r#"{"type":"about:blank","title":"No such resource","status":404}"#,
            Self::MethodNotAllowed => {
                r#"{"type":"about:blank","title":"Method not allowed","status":405}"#
            }
            Self::Timeout => {
                r#"{"type":"about:blank","title":"The request did not arrive in time","status":408}"#
            }
            Self::TooLarge => {
                r#"{"type":"about:blank","title":"The body is too large","status":413}"#
            }
            Self::UnsupportedEncoding => {
                r#"{"type":"about:blank","title":"Content encoding not supported","status":415}"#
            }
            Self::Internal => r#"{"type":"about:blank","title":"Internal error","status":500}"#,
            Self::TooMany(_) => {
                r#"{"type":"about:blank","title":"Too many deliveries","status":429}"#
            }
            Self::Unavailable => {
                r#"{"type":"about:blank","title":"Not available now, try again","status":503}"#
            }
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        let retry_after = match self {
            Self::TooMany(seconds) => Some(HeaderValue::from(seconds)),
            Self::Unavailable => Some(RETRY_AFTER),
            _ => None,
        };
        if let Some(retry_after) = retry_after {
            headers.insert(header::RETRY_AFTER, retry_after);
        }
        response
    }
}
