//! The answers to deliveries that are not accepted: fixed texts that show a stranger nothing. A sender that has shown its
//! credential also gets the place in its payload.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// Why a delivery is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// The connection ended before the body did, or took too long.
    UnreadableBody,
    /// Its `Host` is none: only in `serve`, since API Gateway refuses it.
    BadHost,
    /// For this machine only, and asked for by another name or by a page of another site: only in `serve` and `work`.
    Forbidden,
    /// Authentic, but no payload of this source's kind.
    NotAPayload,
    /// Authentic, but with more images than one delivery may have.
    TooManyImages,
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
            Self::UnreadableBody | Self::BadHost | Self::NotAPayload | Self::TooManyImages => {
                StatusCode::BAD_REQUEST
            }
            Self::Forbidden => StatusCode::FORBIDDEN,
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
            Self::BadHost => "bad_host",
            Self::Forbidden => "forbidden",
            Self::NotAPayload => "not_a_payload",
            Self::TooManyImages => "too_many_images",
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

    fn title(self) -> &'static str {
        match self {
            Self::UnreadableBody => "The body could not be read",
            Self::BadHost => "Not a valid Host",
            Self::Forbidden => "For this machine only: --allow-host NAME admits another host",
            Self::NotAPayload => "Not a payload of this source's kind",
            Self::TooManyImages => "Too many images in one delivery",
            Self::Unauthorized => "No valid credential",
            Self::NotFound => "No such resource",
            Self::MethodNotAllowed => "Method not allowed",
            Self::Timeout => "The request did not arrive in time",
            Self::TooLarge => "The body is too large",
            Self::UnsupportedEncoding => "Content encoding not supported",
            Self::Internal => "Internal error",
            Self::TooMany(_) => "Too many deliveries",
            Self::Unavailable => "Not available now, try again",
        }
    }

    /// The answer, with a detail for a sender that has shown its credential.
    pub(crate) fn with_detail(self, detail: Option<&str>) -> Response {
        /// RFC 9457.
        #[derive(Serialize)]
        struct Problem<'a> {
            r#type: &'static str,
            title: &'static str,
            status: u16,
            #[serde(skip_serializing_if = "Option::is_none")]
            detail: Option<&'a str>,
        }
        let problem = Problem {
            r#type: "about:blank",
            title: self.title(),
            status: self.status().as_u16(),
            detail,
        };
        let Ok(json) = serde_json::to_vec(&problem) else {
            unreachable!("strings always serialise")
        };
        let mut response = Response::new(Body::from(json));
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

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        self.with_detail(None)
    }
}
