//! Turns a function's answer into an HTTP response.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::HOP_BY_HOP;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireResponse {
    status_code: u16,
    #[serde(default)]
    headers: Option<Map<String, Value>>,
    #[serde(default)]
    cookies: Option<Vec<String>>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: Option<bool>,
}

/// Makes the response to a function's answer. An answer that API Gateway can't read becomes an internal error.
pub fn response(answer: &Value) -> Response<Bytes> {
    if answer.get("statusCode").is_none() {
        // "API Gateway makes the following assumptions": status 200, JSON, and the whole answer is the body.
        let body = answer
            .as_str()
            .map_or_else(|| answer.to_string(), str::to_owned);
        return with_json(StatusCode::OK, body.into());
    }
    parse_response(answer).unwrap_or_else(internal_server_error)
}

/// The response when the function failed, timed out or returned an unreadable answer.
pub fn internal_server_error() -> Response<Bytes> {
    message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
}

fn parse_response(answer: &Value) -> Option<Response<Bytes>> {
    let wire = WireResponse::deserialize(answer).ok()?;
    let body = wire.body.unwrap_or_default();
    let body = if wire.is_base64_encoded == Some(true) {
        BASE64_STANDARD.decode(body).ok()?
    } else {
        body.into_bytes()
    };
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = StatusCode::from_u16(wire.status_code)
        .ok()
        .filter(|it| it.as_u16() >= 200)?;
    for (name, value) in wire.headers.unwrap_or_default() {
        let name = HeaderName::try_from(name).ok()?;
        let value = match value {
            Value::String(text) => text,
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => return None,
        };
        // The server sets the content length itself.
        if !HOP_BY_HOP.contains(&name) && name != header::CONTENT_LENGTH {
            response
                .headers_mut()
                .append(name, HeaderValue::try_from(value).ok()?);
        }
    }
    for cookie in wire.cookies.unwrap_or_default() {
        response
            .headers_mut()
            .append(header::SET_COOKIE, HeaderValue::try_from(cookie).ok()?);
    }
    Some(response)
}

/// An answer that API Gateway makes itself.
pub(super) fn message(status: StatusCode, message: &str) -> Response<Bytes> {
    with_json(status, json!({"message": message}).to_string().into())
}

fn with_json(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
