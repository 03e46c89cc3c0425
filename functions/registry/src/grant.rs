//! A token from a place that the operator chose: where the key of a service account says, the directory, the metadata
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

/// What is asked for a token.
pub(super) enum Grant<'a> {
    /// A form at a URL of the operator's: https, or this machine.
    Post(&'a str, &'a [(&'a str, &'a str)]),
    /// A form at the registry itself, as far as it is trusted.
    Registry(&'a str, &'a [(&'a str, &'a str)], &'a Trust),
    /// JSON at a URL of the operator's, with a bearer token that was got at another.
    Json(&'a str, &'a str, &'a str),
    /// Google's metadata server.
    Metadata(&'a str),
}

/// What a token server answers. Source: RFC 6749, section 5.1.
#[derive(Deserialize)]
pub(super) struct Token {
    #[serde(rename = "access_token")]
    access: Option<String>,
    /// In seconds. Some directories send it as a text, and what is not needed must not cost the token.
    expires_in: Option<Value>,
    #[serde(rename = "refresh_token")]
    refresh: Option<String>,
}

impl Token {
    /// The access token.
    pub(super) fn access(self) -> Result<String, LoginError> {
        given(self.access)
    }

    /// The refresh token.
    pub(super) fn refresh(self) -> Result<String, LoginError> {
        given(self.refresh)
    }

    /// How long it lasts, if that is known.
    pub(super) fn lifetime(&self) -> Option<Duration> {
        let seconds = match self.expires_in.as_ref()? {
            Value::String(text) => text.parse().ok(),
            number => number.as_u64(),
        };
        seconds.map(Duration::from_secs)
    }
}

/// An empty token is none.
fn given(token: Option<String>) -> Result<String, LoginError> {
    token
        .filter(|it| !it.is_empty())
        .ok_or_else(|| LoginError::network("the token server answers with no token"))
}

/// Asks for a token.
pub(super) async fn ask<T: DeserializeOwned>(
    http: &Http,
    grant: Grant<'_>,
) -> Result<T, LoginError> {
    let parse = |url: &str| {
        Url::parse(url)
            .map_err(|_| LoginError::unauthorized("a token is to be had at what is no URL"))
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
                .map_err(|_| LoginError::network("the token server answers with no token"))?;
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
                LoginError::network(format!("{host} answers with too much"))
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
        .map_err(|_| LoginError::network(format!("{} gives a token that is none", shown(&url))))
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
