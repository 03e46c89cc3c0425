//! One HTTP request of a registry.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;

/// A delivery as it came in. Nothing of it may be believed.
pub struct Delivery {
    /// The request's headers.
    pub headers: HeaderMap,
    /// What stood behind the source's name in the path.
    pub path_token: Option<String>,
    /// The raw body, as long as the limits allow.
    pub body: Bytes,
    /// When it came in.
    pub received_at: Timestamp,
}

impl Delivery {
    /// Whether it carries something in the place of a bearer token.
    pub fn has_bearer(&self) -> bool {
        let value = self.headers.get(header::AUTHORIZATION);
        value.is_some_and(|it| {
            let scheme = it.as_bytes().split_at_checked(7).map(|(scheme, _)| scheme);
            scheme.is_some_and(|it| it.eq_ignore_ascii_case(b"bearer "))
        })
    }
}

/// Joins the values of a repeated header by commas, as API Gateway does before a function sees them, so that a delivery
/// is read alike in whichever way it comes. A credential that is sent twice is thereby a wrong one.
pub fn join_repeated(headers: HeaderMap) -> HeaderMap {
    if headers.len() == headers.keys_len() {
        return headers;
    }
    let joined = headers.keys().map(|name| {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let value = HeaderValue::from_bytes(&values.join(b",".as_slice()));
        (name.clone(), value.unwrap_or(HeaderValue::from_static("")))
    });
    joined.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_headers_are_joined_as_api_gateway_does() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("a", "1"), ("b", "x"), ("a", "2, 3"), ("a", "")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let joined = join_repeated(headers);
        assert_eq!(
            (joined.len(), &joined["a"], &joined["b"]),
            (
                2,
                &HeaderValue::from_static("1,2, 3,"),
                &HeaderValue::from_static("x")
            )
        );
    }
}
