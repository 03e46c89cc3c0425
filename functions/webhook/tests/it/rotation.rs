//! Secrets that change while the webhook runs: where they are read, how often, and what becomes of deliveries.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use scanhook_config::Environment;
use scanhook_config::aws::Aws;
use scanhook_config::cached::GUARD;
use scanhook_config::config::Config;
use scanhook_config::secrets::{KEEP, Secrets};
use scanhook_core::auth::{Credential, Scheme};
use scanhook_webhook::config::webhook;
use scanhook_webhook::router::Webhook;

use crate::process::refusal_of;
use crate::store::{Mood, Store, function};
use crate::world::{memory, push, send, signed_with};

const CONFIG: &str = r#"
sources:
  github:
    kind: ghcr
    auth:
      - { type: hmac, secret: "secretsmanager:scanhook/webhook#github" }
      - { type: hmac, secret: "secretsmanager:scanhook/webhook#next" }
  prod:
    kind: harbor
    registry: harbor.example.com
    auth: [{ type: token, secret: "ssm:/scanhook/webhook/harbor" }]
"#;

const SECRET: &str = "scanhook/webhook";
const PARAMETER: &str = "/scanhook/webhook/harbor";

fn pair(github: &str, next: &str) -> String {
    serde_json::json!({"github": github, "next": next, "port": 4711}).to_string()
}

async fn started(endpoint: &str) -> Arc<Webhook> {
    let variables: Vec<_> = function(endpoint)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let environment: Environment = Arc::new(move |name| {
        let variable = variables.iter().find(|(it, _)| it == name);
        variable.map(|(_, value)| value.clone())
    });
    let secrets = Secrets::new(&environment, Aws::function(&environment));
    let config = Config::parse(CONFIG).unwrap();
    Arc::new(webhook(&config, memory(), &secrets).await.unwrap())
}

/// The status of an authentic push that is signed with this secret.
async fn push_with(webhook: &Arc<Webhook>, source: &str, secret: &str) -> u16 {
    let config = Config::parse(CONFIG).unwrap();
    let (scheme, _) = config.sources[source].auth[0].shared().unwrap();
    let credential = Credential {
        scheme: Scheme::clone(scheme),
        secret: secret.into(),
    };
    let request = signed_with(source, &credential, push(source)).map(Full::new);
    send(webhook, request).await.status.as_u16()
}

/// Lets time pass, but for what waits on sockets.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn one_call_serves_all_keys_of_a_secret() {
    let (store, endpoint) = Store::holding(&[
        (SECRET, &pair("fake-github-secret", "fake-next-secret!")),
        (PARAMETER, "fake-harbor-secret\n"),
    ])
    .await;
    let webhook = started(&endpoint).await;
    assert_eq!(
        push_with(&webhook, "github", "fake-github-secret").await,
        202
    );
    assert_eq!(
        push_with(&webhook, "github", "fake-next-secret!").await,
        202
    );
    assert_eq!(push_with(&webhook, "prod", "fake-harbor-secret").await, 202);
    assert_eq!(
        store.calls(),
        [
            "secretsmanager:scanhook/webhook",
            "ssm:/scanhook/webhook/harbor"
        ]
    );
}

#[tokio::test]
async fn a_rotated_secret_is_taken_with_the_first_delivery_that_it_signs() {
    let (store, endpoint) = Store::holding(&[
        (SECRET, &pair("fake-github-secret", "fake-next-secret!")),
        (PARAMETER, "fake-harbor-secret"),
    ])
    .await;
    let webhook = started(&endpoint).await;
    store.put(SECRET, &pair("fake-next-secret!", "fake-third-secret"));
    store.put(PARAMETER, "fake-rotated-secret");
    pass(GUARD).await;
    store.calls();
    assert_eq!(
        push_with(&webhook, "github", "fake-third-secret").await,
        202
    );
    assert_eq!(
        push_with(&webhook, "prod", "fake-rotated-secret").await,
        202
    );
    assert_eq!(
        push_with(&webhook, "github", "fake-github-secret").await,
        401
    );
    assert_eq!(push_with(&webhook, "prod", "fake-harbor-secret").await, 401);
    assert_eq!(
        push_with(&webhook, "github", "fake-next-secret!").await,
        202
    );
}

#[tokio::test]
async fn a_thousand_strangers_cause_one_reading_in_an_interval() {
    let (store, endpoint) = Store::holding(&[
        (SECRET, &pair("fake-github-secret", "fake-next-secret!")),
        (PARAMETER, "fake-harbor-secret"),
    ])
    .await;
    let webhook = started(&endpoint).await;
    for _ in 0..3 {
        pass(GUARD).await;
        store.calls();
        let strangers = |count: usize| {
            let each = (0..count).map(|_| push_with(&webhook, "github", "fake-wrong-secret"));
            futures_util::future::join_all(each)
        };
        // The first come at once, and wait for one reading; the others come within the interval, which lasts as long as
        // the clock stands still.
        let mut statuses = strangers(20).await;
        tokio::time::pause();
        statuses.extend(strangers(980).await);
        tokio::time::resume();
        assert!(statuses.iter().all(|it| *it == 401));
        assert_eq!(store.calls(), ["secretsmanager:scanhook/webhook"]);
    }
}

#[tokio::test]
async fn while_the_store_is_down_the_last_values_stay_in_use() {
    let (store, endpoint) = Store::holding(&[
        (SECRET, &pair("fake-github-secret", "fake-next-secret!")),
        (PARAMETER, "fake-harbor-secret"),
    ])
    .await;
    let webhook = started(&endpoint).await;
    for mood in [Mood::Denying, Mood::Down] {
        store.turn(mood);
        pass(3 * KEEP).await;
        assert_eq!(push_with(&webhook, "prod", "fake-harbor-secret").await, 202);
        assert_eq!(push_with(&webhook, "prod", "fake-wrong-secret!").await, 401);
    }
    // What is read again but is of no use changes nothing either.
    store.turn(Mood::Up);
    store.put(PARAMETER, "short");
    store.put(SECRET, r#"{"github": "fake-rotated-secret"}"#);
    pass(3 * KEEP).await;
    assert_eq!(push_with(&webhook, "prod", "fake-harbor-secret").await, 202);
    assert_eq!(
        push_with(&webhook, "github", "fake-rotated-secret").await,
        202
    );
    assert_eq!(
        push_with(&webhook, "github", "fake-next-secret!").await,
        202
    );
}

#[tokio::test]
async fn a_secret_that_was_withdrawn_long_ago_opens_nothing_even_if_nobody_sent_since() {
    let (store, endpoint) = Store::holding(&[
        (SECRET, &pair("fake-github-secret", "fake-next-secret!")),
        (PARAMETER, "fake-harbor-secret"),
    ])
    .await;
    let webhook = started(&endpoint).await;
    store.put(PARAMETER, "fake-rotated-secret");
    pass(2 * KEEP).await;
    assert_eq!(push_with(&webhook, "prod", "fake-harbor-secret").await, 401);
    assert_eq!(
        push_with(&webhook, "prod", "fake-rotated-secret").await,
        202
    );
}

#[tokio::test]
async fn what_a_store_does_not_give_ends_the_start_with_the_keys_path() {
    let (store, endpoint) = Store::holding(&[(SECRET, &pair("fake-github-secret", "short"))]).await;
    let of = |reference: &str| {
        format!(
            "sources: {{ prod: {{ kind: harbor, registry: h.example.com, auth: [{{ type: token, secret: \"{reference}\" }}] }} }}"
        )
    };
    let path = "webhook: sources.prod.auth[0].secret:";
    for (reference, expected) in [
        (
            "ssm:/scanhook/webhook/none",
            "SSM does not give /scanhook/webhook/none: ParameterNotFound: User: arn:aws:sts::1:assumed-role/x is not the one",
        ),
        (
            "secretsmanager:scanhook/webhook#next",
            "the secret is shorter than 16 bytes; make one with: openssl rand -hex 32",
        ),
        (
            "secretsmanager:scanhook/webhook#none",
            "the secret has no key none",
        ),
        (
            "secretsmanager:scanhook/webhook#port",
            "the value of the secret's key port is no text",
        ),
        (
            "secretsmanager:scanhook/webhook-other",
            "Secrets Manager does not give scanhook/webhook-other: ResourceNotFoundException: User: arn:aws:sts::1:assumed-role/x is not the one",
        ),
    ] {
        let line = refusal_of(&of(reference), &function(&endpoint)).await;
        assert_eq!(line, format!("{path} {expected}"));
    }
    let line = refusal_of(&of("ssm:/scanhook/scanner/x"), &function(&endpoint)).await;
    let expected = "the file FILE is not a valid configuration: sources.prod.auth[0].secret (line 1, column 89): the webhook may only read secrets of AWS whose names begin with scanhook/webhook";
    assert_eq!(line, format!("webhook: {expected}"));
    store.turn(Mood::Down);
    store.calls();
    let line = refusal_of(&of("ssm:/scanhook/webhook/x"), &function(&endpoint)).await;
    assert!(
        line.starts_with(&format!(
            "{path} SSM does not give /scanhook/webhook/x: InternalServerError"
        )),
        "{line}"
    );
    let tries = store.calls().len();
    assert!((2..10).contains(&tries), "{tries}");
    let nowhere = function("http://127.0.0.1:9");
    let line = refusal_of(&of("ssm:/scanhook/webhook/x"), &nowhere).await;
    assert!(
        line.starts_with(&format!(
            "{path} SSM does not give /scanhook/webhook/x: no connection"
        )),
        "{line}"
    );
}

#[tokio::test]
async fn the_configuration_itself_can_be_in_either_store() {
    let bad = "sources: { prod: { kind: harbor, colour: red } }";
    let (_store, endpoint) =
        Store::holding(&[("/scanhook/config", bad), ("scanhook/config", bad)]).await;
    for (location, told) in [
        ("ssm:/scanhook/config", "parameter"),
        ("secretsmanager:scanhook/config", "secret"),
    ] {
        let mut environment = function(&endpoint);
        environment.push(("SCANHOOK_CONFIG", location));
        let line = refusal_of("", &environment).await;
        let expected = format!(
            "webhook: the {told} {location} is not a valid configuration: sources.prod.colour (line 1, column 34): expected one of kind, registry,"
        );
        assert!(line.starts_with(&expected), "{line}");
    }
}
