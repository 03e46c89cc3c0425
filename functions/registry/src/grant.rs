//! Gets tokens from servers that the operator chose: the URL in a service account's key, the directory, the metadata
//! server.

use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::address::Reach;
use super::error::LoginError;
use super::http::{Body, Call, CallError, Http, MAX_TOKEN, Trust, shown};

/// A request for a token.
pub(super) enum Grant<'a> {
    /// A form to the operator's URL: https, or this machine.
    Post(&'a str, &'a [(&'a str, &'a str)]),
    /// A form to the registry itself, with the trust of the registry.
    Registry(&'a str, &'a [(&'a str, &'a str)], &'a Trust),
    /// JSON at a URL of the operator's, with a bearer token that was got at another.
    Json(&'a str, &'a str, &'a str),
    /// Google's metadata server.
    Metadata(&'a str),
}

/// A token server's answer. Source: RFC 6749, section 5.1.
#[derive(Deserialize)]
pub(super) struct Token {
    #[serde(rename = "access_token")]
    access: Option<String>,
    /// In seconds. Some directories send a string; an unreadable value must not invalidate the token.
    expires_in: Option<Value>,
    #[serde(rename = "refresh_token")]
    refresh: Option<String>,
}

impl Token {
    pub(super) fn access(self) -> Result<String, LoginError> {
        given(self.access)
    }

    pub(super) fn refresh(self) -> Result<String, LoginError> {
        given(self.refresh)
    }

    /// How long the token is valid, if the server reports it.
    pub(super) fn lifetime(&self) -> Option<Duration> {
        let seconds = match self.expires_in.as_ref()? {
            Value::String(text) => text.parse().ok(),
            number => number.as_u64(),
        };
        seconds.map(Duration::from_secs)
    }
}

/// An empty token counts as missing.
fn given(token: Option<String>) -> Result<String, LoginError> {
    token
        .filter(|it| !it.is_empty())
        .ok_or_else(|| LoginError::network("the token server sent no token"))
}

/// Requests a token.
pub(super) async fn ask<T: DeserializeOwned>(
    http: &Http,
    grant: Grant<'_>,
) -> Result<T, LoginError> {
    let parse = |url: &str| {
        Url::parse(url)
            .map_err(|_| LoginError::unauthorized("the URL of the token server is invalid"))
    };
    let (url, method, header, body, trust) = match grant {
        Grant::Post(url, pairs) => {
            let url = parse(url)?;
            let trust = of_operator(&url);
            (url, Method::POST, None, Some(form(pairs)), trust)
        }
        Grant::Registry(url, pairs, trust) => {
            let trust = trust.clone();
            (parse(url)?, Method::POST, None, Some(form(pairs)), trust)
        }
        Grant::Json(url, token, json) => {
            let url = parse(url)?;
            let trust = of_operator(&url);
            let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| LoginError::network("the token server sent no token"))?;
            bearer.set_sensitive(true);
            let header = Some(("authorization", bearer));
            let body = Some(Body::Json(json.to_owned()));
            (url, Method::POST, header, body, trust)
        }
        Grant::Metadata(url) => {
            let header = Some(("metadata-flavor", HeaderValue::from_static("Google")));
            let trust = trust(Reach::Metadata, true);
            (parse(url)?, Method::GET, header, None, trust)
        }
    };
    let call = Call {
        method,
        url: url.clone(),
        accept: "application/json",
        header,
        body,
        cap: MAX_TOKEN,
    };
    let answer = http
        .call(call, |_| trust.clone())
        .await
        .map_err(|err| match err {
            CallError::Unreachable { detail, .. } => LoginError::network(detail),
            CallError::Refused(detail) => LoginError::unauthorized(detail),
            CallError::TooLarge(host) => {
                LoginError::network(format!("the answer of {host} is too large"))
            }
        })?;
    if !answer.status.is_success() {
        let problem = format!("{} gives no token: status {}", shown(&url), answer.status);
        return Err(match answer.status {
            StatusCode::REQUEST_TIMEOUT => LoginError::network(problem),
            StatusCode::TOO_MANY_REQUESTS => LoginError::rate_limited(problem),
            status if status.is_client_error() => LoginError::unauthorized(problem),
            _ => LoginError::network(problem),
        });
    }
    serde_json::from_slice(&answer.body)
        .map_err(|_| LoginError::network(format!("{} sent an unreadable token", shown(&url))))
}

fn form(pairs: &[(&str, &str)]) -> Body {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(pairs);
    Body::Form(form.finish())
}

fn of_operator(url: &Url) -> Trust {
    let is_this_machine = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
    trust(Reach::Configured, url.scheme() == "http" && is_this_machine)
}

fn trust(reach: Reach, plain: bool) -> Trust {
    Trust {
        reach,
        entry: None,
        plain,
        credentials: false,
    }
}
