//! API Gateway: turns an HTTP request into the event that a function receives, and the function's answer into an HTTP
//! response.
//!
//! It behaves as an HTTP API with a `$default` stage and payload format 2.0:
//! <https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html>.
//!
//! **Invariant**: the functions are pure, and a request that API Gateway would refuse makes no event.

mod response;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Response, StatusCode, Version, request};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde::Serialize;

pub use self::response::{internal_server_error, response};
use crate::sqs::ACCOUNT;

/// The most bytes that API Gateway accepts for request line and headers together.
pub const LARGEST_HEAD: usize = 10_240;

/// The most bytes that API Gateway accepts for a body.
pub const LARGEST_BODY: usize = 10 << 20;

/// The most bytes that Lambda accepts for an event. Base64 adds a third to a body, so a body below API Gateway's limit
/// can still exceed it.
const LARGEST_EVENT: usize = 6 << 20;

/// Headers that belong to one hop. A function neither sees nor sets them.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What API Gateway knows about a request besides the request itself.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub request_id: String,
    pub source_ip: IpAddr,
    /// The host of the request, with or without port. It replaces the header `Host`.
    pub host: Authority,
    pub received_at: Timestamp,
    /// The route that matched, such as `POST /webhooks/{source}`.
    pub route_key: String,
    pub path_parameters: BTreeMap<String, String>,
}

/// Why a request makes no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("request line and headers are over {LARGEST_HEAD} bytes")]
    HeadTooLarge,
    #[error("the body is larger than API Gateway and Lambda accept")]
    BodyTooLarge,
}

impl EventError {
    /// API Gateway's own answer, sent instead of the function's.
    pub fn response(self) -> Response<Bytes> {
        match self {
            Self::HeadTooLarge => response::message(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "Request Header Fields Too Large",
            ),
            Self::BodyTooLarge => {
                response::message(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large")
            }
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireEvent<'a> {
    version: &'static str,
    route_key: &'a str,
    raw_path: &'a str,
    raw_query_string: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<String>,
    headers: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    query_string_parameters: BTreeMap<String, String>,
    request_context: WireContext<'a>,
    #[serde(skip_serializing_if = "is_empty")]
    body: Cow<'a, str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    path_parameters: &'a BTreeMap<String, String>,
    is_base64_encoded: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireContext<'a> {
    account_id: &'static str,
    api_id: &'static str,
    domain_name: &'a str,
    domain_prefix: &'a str,
    http: WireHttp<'a>,
    request_id: &'a str,
    route_key: &'a str,
    stage: &'static str,
    time: String,
    time_epoch: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireHttp<'a> {
    method: &'a str,
    path: &'a str,
    protocol: String,
    source_ip: IpAddr,
    user_agent: &'a str,
}

/// Makes a request's event, in the JSON that a function receives.
pub fn event(head: &request::Parts, body: &[u8], arrival: &Arrival) -> Result<String, EventError> {
    if head_size(head) > LARGEST_HEAD {
        return Err(EventError::HeadTooLarge);
    }
    if body.len() > LARGEST_BODY {
        return Err(EventError::BodyTooLarge);
    }
    let headers = joined_headers(&head.headers, body.len(), arrival);
    let header = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
    let path = decoded_path(head.uri.path());
    let query = head.uri.query().unwrap_or_default();
    let (text, is_base64_encoded) = encoded_body(&head.headers, body);
    // API Gateway omits these members when they are empty; so does serde here.
    let event = WireEvent {
        version: "2.0",
        route_key: &arrival.route_key,
        raw_path: &path,
        raw_query_string: query,
        cookies: cookies(&head.headers),
        headers: &headers,
        query_string_parameters: query_parameters(query),
        request_context: WireContext {
            account_id: ACCOUNT,
            api_id: "local",
            domain_name: arrival.host.as_str(),
            domain_prefix: arrival.host.as_str().split('.').next().unwrap_or_default(),
            http: WireHttp {
                method: head.method.as_str(),
                path: &path,
                protocol: protocol(head.version),
                source_ip: arrival.source_ip,
                user_agent: header("user-agent"),
            },
            request_id: &arrival.request_id,
            route_key: &arrival.route_key,
            stage: "$default",
            time: arrival
                .received_at
                .strftime("%d/%b/%Y:%H:%M:%S +0000")
                .to_string(),
            time_epoch: arrival.received_at.as_millisecond(),
        },
        body: text,
        path_parameters: &arrival.path_parameters,
        is_base64_encoded,
    };
    let Ok(event) = serde_json::to_string(&event) else {
        unreachable!("strings and numbers always serialise")
    };
    if event.len() > LARGEST_EVENT {
        return Err(EventError::BodyTooLarge);
    }
    Ok(event)
}

fn is_empty(text: &str) -> bool {
    text.is_empty()
}

/// Returns the body as the event holds it, and whether that is base64.
///
/// API Gateway recognises text by content type alone. Everything else is base64: a missing type, and JSON types such as
/// `application/vnd.docker.distribution.events.v2+json`.
fn encoded_body<'a>(headers: &HeaderMap, body: &'a [u8]) -> (Cow<'a, str>, bool) {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|it| it.to_str().ok())
        .unwrap_or_default();
    let media_type = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let is_text = media_type.starts_with("text/")
        || matches!(
            media_type.as_str(),
            "application/json" | "application/xml" | "application/javascript"
        );
    match std::str::from_utf8(body) {
        Ok(text) if is_text || text.is_empty() => (text.into(), false),
        _ => (BASE64_STANDARD.encode(body).into(), true),
    }
}

/// Lower-cases header names and joins repeated headers with commas. Cookies are left out; the event holds them
/// separately.
fn joined_headers(
    headers: &HeaderMap,
    body_length: usize,
    arrival: &Arrival,
) -> BTreeMap<String, String> {
    let mut joined = BTreeMap::new();
    for name in headers.keys() {
        if !HOP_BY_HOP.contains(name) && *name != header::COOKIE {
            joined.insert(
                name.as_str().to_owned(),
                values(headers, name).collect::<Vec<_>>().join(","),
            );
        }
    }
    joined.insert("host".to_owned(), arrival.host.to_string());
    joined.insert("content-length".to_owned(), body_length.to_string());
    joined.insert("x-forwarded-proto".to_owned(), "http".to_owned());
    let hops = joined
        .remove("x-forwarded-for")
        .into_iter()
        .chain([arrival.source_ip.to_string()]);
    let hops = hops.collect::<Vec<_>>().join(", ");
    joined.insert("x-forwarded-for".to_owned(), hops);
    joined
}

fn cookies(headers: &HeaderMap) -> Vec<String> {
    let split = |value: String| {
        value
            .split(';')
            .map(|it| it.trim().to_owned())
            .collect::<Vec<_>>()
    };
    values(headers, &header::COOKIE)
        .flat_map(split)
        .filter(|it| !it.is_empty())
        .collect()
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> + 'a {
    headers
        .get_all(name)
        .into_iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Decodes query parameters and joins repeated ones with commas.
fn query_parameters(query: &str) -> BTreeMap<String, String> {
    let mut parameters = BTreeMap::<String, String>::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        parameters
            .entry(name.into_owned())
            .and_modify(|joined| {
                joined.push(',');
                joined.push_str(&value);
            })
            .or_insert_with(|| value.clone().into_owned());
    }
    parameters
}

/// Returns the path as HTTP APIs pass it on: percent-decoded, despite the name `rawPath`, and cut off at a decoded `?`.
/// It always begins with a slash, even if the request has none (`OPTIONS *`), so that no reader can take it for part of
/// the host.
fn decoded_path(path: &str) -> String {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let decoded = slash.bytes().chain(percent_decode_str(path));
    let decoded: Vec<u8> = decoded.take_while(|it| *it != b'?').collect();
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Counts the bytes of request line and headers in HTTP/1.1.
fn head_size(head: &request::Parts) -> usize {
    let target = head.uri.path_and_query().map_or(1, |it| it.as_str().len());
    let request_line = head.method.as_str().len() + target + "  HTTP/1.1\r\n".len();
    let header = |(name, value): (&HeaderName, &HeaderValue)| {
        name.as_str().len() + value.len() + ": \r\n".len()
    };
    request_line + head.headers.iter().map(header).sum::<usize>()
}

fn protocol(version: Version) -> String {
    format!("{version:?}")
}
