//! SSM's Parameter Store and Secrets Manager on this machine: what they hold, what they were asked, and a switch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::world::serve;

/// A store that checks each call for what AWS insists on.
#[derive(Clone, Default)]
pub(crate) struct Store {
    held: Arc<Mutex<BTreeMap<String, String>>>,
    calls: Arc<Mutex<Vec<String>>>,
    state: Arc<Mutex<Mood>>,
}

/// What the store does with a call.
#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) enum Mood {
    #[default]
    Up,
    Down,
    Denying,
}

impl Store {
    /// A store that holds this, behind an address.
    pub(crate) async fn holding(held: &[(&str, &str)]) -> (Self, String) {
        let store = Self::default();
        for (name, value) in held {
            store.put(name, value);
        }
        let router = Router::new().route("/", post(answer));
        let (address, _) = serve(router.with_state(store.clone())).await;
        (store, format!("http://{address}"))
    }

    pub(crate) fn put(&self, name: &str, value: &str) {
        let mut held = self.held.lock().unwrap();
        held.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn turn(&self, state: Mood) {
        *self.state.lock().unwrap() = state;
    }

    /// What was asked since this was asked last, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        let mut calls = std::mem::take(&mut *self.calls.lock().unwrap());
        calls.sort();
        calls
    }
}

async fn answer(State(store): State<Store>, headers: HeaderMap, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let target = headers["x-amz-target"].to_str().unwrap();
    let (service, name) = match target {
        "AmazonSSM.GetParameter" => {
            assert_eq!(request["WithDecryption"], true);
            ("ssm", &request["Name"])
        }
        "secretsmanager.GetSecretValue" => ("secretsmanager", &request["SecretId"]),
        other => panic!("{other}"),
    };
    let name = name.as_str().unwrap();
    store
        .calls
        .lock()
        .unwrap()
        .push(format!("{service}:{name}"));
    assert_is_signed(&headers, service);
    let refuse = |status: u16, code: &str| {
        let body = json!({"__type": code, "message": "User: arn:aws:sts::1:assumed-role/x is not the one"});
        let status = StatusCode::from_u16(status).unwrap();
        (status, body.to_string()).into_response()
    };
    match *store.state.lock().unwrap() {
        Mood::Down => return refuse(500, "InternalServerError"),
        Mood::Denying => return refuse(400, "AccessDeniedException"),
        Mood::Up => {}
    }
    let held = store.held.lock().unwrap();
    match (service, held.get(name)) {
        ("ssm", Some(value)) => {
            let value = json!({"Name": name, "Type": "SecureString", "Value": value, "Version": 1});
            json!({"Parameter": value}).to_string().into_response()
        }
        (_, Some(value)) => {
            json!({"Name": name, "SecretString": value, "VersionStages": ["AWSCURRENT"]})
                .to_string()
                .into_response()
        }
        ("ssm", None) => refuse(400, "ParameterNotFound"),
        (_, None) => refuse(400, "ResourceNotFoundException"),
    }
}

/// Signature version 4, as the API references describe it.
fn assert_is_signed(headers: &HeaderMap, service: &str) {
    let text = |name: &str| headers[name].to_str().unwrap();
    assert_eq!(text("content-type"), "application/x-amz-json-1.1");
    assert_eq!(text("x-amz-security-token"), "fake-session-token");
    let date = text("x-amz-date").split_once('T').unwrap().0;
    let authorization = text("authorization");
    let scope = format!(
        "AWS4-HMAC-SHA256 Credential=FAKEACCESSKEY/{date}/eu-west-1/{service}/aws4_request, "
    );
    assert!(authorization.starts_with(&scope), "{authorization}");
    for signed in ["host", "x-amz-date", "x-amz-security-token", "x-amz-target"] {
        let (_, names) = authorization.split_once("SignedHeaders=").unwrap();
        assert!(names.contains(signed), "{signed}: {authorization}");
    }
    let (_, signature) = authorization.split_once("Signature=").unwrap();
    assert_eq!(signature.len(), 64);
}

/// The environment of a function whose stores are at `endpoint`.
pub(crate) fn function(endpoint: &str) -> Vec<(&str, &str)> {
    vec![
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "FAKEACCESSKEY"),
        ("AWS_SECRET_ACCESS_KEY", "fake-secret-access-key"),
        ("AWS_SESSION_TOKEN", "fake-session-token"),
        ("AWS_ENDPOINT_URL_SSM", endpoint),
        ("AWS_ENDPOINT_URL_SECRETS_MANAGER", endpoint),
    ]
}
