//! A case file, and the request that it describes.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use scanhook_config::Environment;
use scanhook_config::config::Config;
use scanhook_config::secrets::SecretRef;
use scanhook_core::auth::Presented;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::outcome::Outcome;

/// The source's name in each case's configuration, and in its URL.
const SOURCE: &str = "conformance";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// What the case shows, in a sentence.
    pub(crate) says: String,
    /// The entry under the source's name in `scanhook.yaml`.
    pub(crate) source: Value,
    request: WireRequest,
    pub(crate) expect: Outcome,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRequest {
    #[serde(default = "post")]
    method: String,
    #[serde(default = "path")]
    path: String,
    /// A list of values is a header that is sent more than once.
    #[serde(default)]
    headers: BTreeMap<String, OneOrMany>,
    /// Whether the request has the first of the source's credentials.
    #[serde(default)]
    sign: bool,
    json: Option<Value>,
    text: Option<String>,
    base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn post() -> String {
    "POST".to_owned()
}

fn path() -> String {
    format!("/webhooks/{SOURCE}")
}

impl Case {
    pub(crate) fn config(&self) -> Result<Config, String> {
        // JSON is YAML.
        let yaml = json!({"sources": {SOURCE: self.source}}).to_string();
        Config::parse(&yaml).map_err(|err| format!("the source: {err}"))
    }

    /// The secret of each variable. Credentials written by hand in a case can use them too.
    pub(crate) fn environment() -> Environment {
        Arc::new(|name| Some(secret(name)))
    }

    pub(crate) fn request(&self) -> Result<Request<Bytes>, String> {
        let wire = &self.request;
        let mut request = Request::builder()
            .method(wire.method.as_str())
            .uri(wire.path.as_str())
            .body(wire.body()?)
            .map_err(|err| format!("the request: {err}"))?;
        for (name, values) in &wire.headers {
            let name = HeaderName::try_from(name).map_err(|err| format!("{name}: {err}"))?;
            let values = match values {
                OneOrMany::One(value) => std::slice::from_ref(value),
                OneOrMany::Many(values) => values.as_slice(),
            };
            for value in values {
                let value = HeaderValue::try_from(value).map_err(|err| format!("{name}: {err}"))?;
                request.headers_mut().append(&name, value);
            }
        }
        if wire.sign {
            self.sign(&mut request)?;
        }
        Ok(request)
    }

    fn sign(&self, request: &mut Request<Bytes>) -> Result<(), String> {
        let config = self.config()?;
        let auth = &config.sources[SOURCE].auth[0];
        let Some((scheme, SecretRef::Env(variable))) = auth.shared() else {
            return Err("the secret is not in the environment".to_owned());
        };
        let credential = scanhook_core::auth::Credential {
            scheme: scheme.clone(),
            secret: secret(variable).into(),
        };
        match credential.present(request.body()) {
            Some(Presented::Header(name, value)) => {
                request.headers_mut().insert(name, value);
            }
            Some(Presented::PathSegment(token)) => {
                let path = format!("{}/{}", request.uri().path(), token.expose_secret());
                *request.uri_mut() = path.parse().map_err(|_| "no path".to_owned())?;
            }
            None => return Err("the secret can't be in a header".to_owned()),
        }
        Ok(())
    }
}

fn secret(variable: &str) -> String {
    format!("conformance-{}", variable.to_ascii_lowercase())
}

impl WireRequest {
    fn body(&self) -> Result<Bytes, String> {
        match (&self.json, &self.text, &self.base64) {
            (Some(value), None, None) => Ok(written(value).to_string().into()),
            (None, Some(text), None) => Ok(text.clone().into()),
            (None, None, Some(text)) => BASE64
                .decode(text)
                .map(Bytes::from)
                .map_err(|err| format!("base64: {err}")),
            (None, None, None) => Ok(Bytes::new()),
            _ => Err("a body is one of json, text and base64".to_owned()),
        }
    }
}

/// Replaces `{"$base64": …}` and `{"$json": …}` with text, because senders write JSON within JSON.
fn written(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(written).collect(),
        Value::Object(members) => {
            if let (Some(inner), 1) = (members.get("$base64"), members.len()) {
                return BASE64.encode(written(inner).to_string()).into();
            }
            if let (Some(inner), 1) = (members.get("$json"), members.len()) {
                return written(inner).to_string().into();
            }
            let members = members.iter().map(|(key, it)| (key.clone(), written(it)));
            Value::Object(members.collect())
        }
        other => other.clone(),
    }
}
