//! How a private registry is convinced, by each type of credentials.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_sqs::config::{BehaviorVersion, Region};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use scanhook_config::config::Config;
use scanhook_core::record::RecordVerdict;
use scanhook_registry::Sdk;
use serde_json::{Value, json};

use crate::registry::{Answer, Asked, Content, FakeRegistry, answer_json, status, with};
use crate::world::{PASSWORD, REGISTRY, Setup, TOKEN, World, message_for};

const PASSED: &str = "passed [0, 2, 2, 1, 1] confirmed";

fn basic(username: &str, password: &str) -> String {
    format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{password}"))
    )
}

/// Answers whoever shows this, and asks all others for a login.
fn wants(content: Content, authorization: String) -> impl Fn(&Asked) -> Answer + use<> {
    move |asked| match &asked.authorization {
        Some(shown) if *shown == authorization => content.answer(asked),
        _ => with(401, "www-authenticate", "Basic realm=\"r\""),
    }
}

fn content() -> (Content, String) {
    let mut content = Content::default();
    let digest = content.image("demo/prints-env", Some("1.0"), "a");
    (content, digest)
}

/// The outcome of an image of `host`.
async fn outcome(world: &World, host: &str, receive: u32) -> String {
    let mut message = message_for("scan", "demo/prints-env");
    message["image"]["registry"] = host.into();
    message["image"]["digest"] = Value::Null;
    world.outcome(&message.to_string(), receive).await
}

#[tokio::test]
async fn a_name_and_a_password_open_a_private_registry() {
    let (content, _) = content();
    let registry = FakeRegistry::start(wants(content, basic("robot", PASSWORD))).await;
    let setup = |password: &str| Setup {
        registries: format!(
            r#"  {REGISTRY}: {{ insecure: true, credentials: {{ type: basic, username: robot, password: "{password}" }} }}"#
        ),
        hosts: vec![(REGISTRY, registry.address)],
        environment: vec![("WRONG", "fake-wrong-password".to_owned())],
        ..Setup::default()
    };
    let world = World::set_up(setup("env:PASSWORD")).await;
    assert_eq!(outcome(&world, REGISTRY, 1).await, PASSED);
    let world = World::set_up(setup("env:WRONG")).await;
    assert_eq!(
        outcome(&world, REGISTRY, 1).await,
        "dead letter: unauthorized"
    );
}

#[tokio::test]
async fn a_replaced_password_is_read_again_before_anything_is_given_up() {
    let (content, _) = content();
    let registry = FakeRegistry::start(wants(content, basic("robot", "fake-new-password"))).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "fake-old-password").unwrap();
    let setup = Setup {
        registries: format!(
            r#"  {REGISTRY}: {{ insecure: true, credentials: {{ type: basic, username: robot, password: "file:{}" }} }}"#,
            file.display()
        ),
        hosts: vec![(REGISTRY, registry.address)],
        ..Setup::default()
    };
    let world = World::set_up(setup).await;
    std::fs::write(&file, "fake-new-password").unwrap();
    assert_eq!(outcome(&world, REGISTRY, 1).await, PASSED);
}

/// An entry of `registries` for a host, whose password is in a file that the test changes.
fn entry_with_file(host: &str, keys: &str, file: &Path) -> String {
    format!(
        r#"  {host}: {{ insecure: true, credentials: {{ {keys}: "file:{}" }} }}"#,
        file.display()
    )
}

#[tokio::test]
async fn a_refused_token_that_could_not_be_read_again_is_tried_again() {
    let registry = FakeRegistry::holding({
        let mut content = Content::default();
        content.image("demo/bad-token", Some("1.0"), "a");
        content
    });
    let registry = registry.await;
    let world = World::set_up(Setup {
        registries: format!("  {REGISTRY}: {{ insecure: true }}"),
        hosts: vec![(REGISTRY, registry.address)],
        ..Setup::default()
    });
    let world = world.await;
    let mut message = message_for("scan", "demo/bad-token");
    message["image"]["digest"] = Value::Null;
    let token = world.directory.path().join("token");
    std::fs::remove_file(&token).unwrap();
    let outcome = world.outcome(&message.to_string(), 1).await;
    assert_eq!(outcome, "retried: bad_token", "the file is gone");
    std::fs::write(&token, "").unwrap();
    let outcome = world.outcome(&message.to_string(), 2).await;
    assert_eq!(outcome, "retried: bad_token", "the file is empty");
    std::fs::write(&token, TOKEN).unwrap();
    let outcome = world.outcome(&message.to_string(), 2).await;
    assert_eq!(outcome, "dead letter: bad_token", "the same fresh value");
}

#[tokio::test]
async fn a_refused_password_that_could_not_be_read_again_is_tried_again() {
    let (mut content, _) = content();
    content.image("demo/registry-401", Some("1.0"), "b");
    let registry = FakeRegistry::start(wants(content, basic("robot", PASSWORD))).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "fake-wrong-password").unwrap();
    let world = World::set_up(Setup {
        registries: entry_with_file(REGISTRY, "type: basic, username: robot, password", &file),
        hosts: vec![(REGISTRY, registry.address)],
        ..Setup::default()
    });
    let world = world.await;
    std::fs::remove_file(&file).unwrap();
    assert_eq!(
        outcome(&world, REGISTRY, 1).await,
        "retried: unauthorized",
        "refused by the registry"
    );
    std::fs::write(&file, PASSWORD).unwrap();
    assert_eq!(outcome(&world, REGISTRY, 2).await, PASSED);
    std::fs::remove_file(&file).unwrap();
    let mut message = message_for("cli", "demo/registry-401");
    message["image"]["digest"] = Value::Null;
    let refused_to_cli = world.outcome(&message.to_string(), 1).await;
    assert_eq!(
        refused_to_cli, "retried: unauthorized",
        "refused to the CLI"
    );
    std::fs::write(&file, PASSWORD).unwrap();
    let refused_to_cli = world.outcome(&message.to_string(), 2).await;
    assert_eq!(refused_to_cli, "dead letter: unauthorized");
}

/// A registry of Azure whose exchange gives `fake-refresh-token`, which it takes itself if `is_taken`.
async fn azure(is_taken: bool) -> FakeRegistry {
    let password = if is_taken {
        "fake-refresh-token"
    } else {
        "fake-other-token"
    };
    let null_user = "00000000-0000-0000-0000-000000000000";
    let holds = wants(content().0, basic(null_user, password));
    FakeRegistry::start(move |asked| match asked.path.as_str() {
        "/oauth2/exchange" => answer_json(&json!({"refresh_token": "fake-refresh-token"})),
        _ => holds(asked),
    })
    .await
}

#[tokio::test]
async fn a_token_server_that_refuses_a_secret_has_it_read_again_first() {
    let host = "team.azurecr.io";
    let registry = azure(true).await;
    let directory = FakeRegistry::start(|asked| {
        if asked.body.contains("client_secret=fake-new-password") {
            answer_json(&json!({"access_token": "fake-directory-token", "expires_in": 3599}))
        } else {
            status(401)
        }
    })
    .await;
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("password");
    std::fs::write(&file, "fake-old-password").unwrap();
    let keys = "type: acr, tenant: example.com, username: id, password";
    let world = World::set_up(Setup {
        source: "hosts: [team.azurecr.io]",
        registries: entry_with_file(host, keys, &file),
        hosts: vec![(host, registry.address)],
        environment: vec![(
            "AZURE_AUTHORITY_HOST",
            format!("http://{}", directory.address),
        )],
        ..Setup::default()
    });
    let world = world.await;
    std::fs::remove_file(&file).unwrap();
    assert_eq!(outcome(&world, host, 1).await, "retried: unauthorized");
    std::fs::write(&file, "fake-old-password").unwrap();
    assert_eq!(
        outcome(&world, host, 2).await,
        "dead letter: unauthorized",
        "the same fresh value"
    );
    std::fs::write(&file, "fake-new-password").unwrap();
    let message = {
        let mut message = message_for("new", "demo/prints-env");
        message["image"]["registry"] = host.into();
        message["image"]["digest"] = Value::Null;
        message.to_string()
    };
    let event = world.receive(&[&message]).await;
    let response = world.handle(&event).await;
    assert!(response.batch_item_failures.is_empty());
    assert_eq!(
        world.record("new").unwrap().verdict,
        Some(RecordVerdict::Passed)
    );
}

/// A world whose source has this host of Azure, with a login of this directory.
async fn world_of_acr(
    host: &'static str,
    registry: &FakeRegistry,
    directory: &FakeRegistry,
) -> World {
    World::set_up(Setup {
        source: "hosts: [team.azurecr.io]",
        registries: format!(
            r#"  {host}: {{ insecure: true, credentials: {{ type: acr, tenant: example.com, username: id, password: "env:PASSWORD" }} }}"#
        ),
        hosts: vec![(host, registry.address)],
        environment: vec![(
            "AZURE_AUTHORITY_HOST",
            format!("http://{}", directory.address),
        )],
        ..Setup::default()
    })
    .await
}

#[tokio::test]
async fn a_refused_login_that_can_not_be_made_again_is_tried_again() {
    let host = "team.azurecr.io";
    let registry = azure(false).await;
    let is_down = Arc::new(AtomicBool::new(false));
    let directory = FakeRegistry::start({
        let is_down = Arc::clone(&is_down);
        move |_| {
            if is_down.swap(true, Ordering::SeqCst) {
                return status(503);
            }
            answer_json(&json!({"access_token": "fake-directory-token", "expires_in": 3599}))
        }
    })
    .await;
    let world = world_of_acr(host, &registry, &directory).await;
    assert_eq!(
        outcome(&world, host, 1).await,
        "retried: unauthorized",
        "the directory is down by now"
    );
}

#[tokio::test]
async fn the_realm_of_the_registry_gives_a_token_for_the_login() {
    let (content, _) = content();
    let registry = FakeRegistry::start(move |asked| {
        if asked.path.starts_with("/token?") {
            let is_robot = asked.authorization == Some(basic("robot", PASSWORD));
            return if is_robot {
                answer_json(&json!({"access_token": "fake-token"}))
            } else {
                status(401)
            };
        }
        match asked.authorization.as_deref() {
            Some("Bearer fake-token") => content.answer(asked),
            _ => with(
                401,
                "www-authenticate",
                &format!("Bearer realm=\"http://{}/token\",service=\"s\"", asked.host),
            ),
        }
    })
    .await;
    let setup = Setup {
        registries: format!(
            r#"  {REGISTRY}: {{ insecure: true, credentials: {{ type: basic, username: robot, password: "env:PASSWORD" }} }}"#
        ),
        hosts: vec![(REGISTRY, registry.address)],
        ..Setup::default()
    };
    let world = World::set_up(setup).await;
    assert_eq!(outcome(&world, REGISTRY, 1).await, PASSED);
    let paths: Vec<_> = registry.asked().into_iter().map(|it| it.path).collect();
    assert_eq!(
        paths[1],
        "/token?service=s&scope=repository%3Ademo%2Fprints-env%3Apull"
    );
    // One token for all questions about an image.
    assert_eq!(
        paths.iter().filter(|it| it.starts_with("/token")).count(),
        1
    );
}

#[tokio::test]
async fn a_bearer_token_is_shown_to_the_registry_as_it_is() {
    let (content, _) = content();
    let registry = FakeRegistry::start(wants(content, format!("Bearer {PASSWORD}"))).await;
    let setup = Setup {
        registries: format!(
            r#"  {REGISTRY}: {{ insecure: true, credentials: {{ type: bearer, token: "env:PASSWORD" }} }}"#
        ),
        hosts: vec![(REGISTRY, registry.address)],
        ..Setup::default()
    };
    let world = World::set_up(setup).await;
    assert_eq!(outcome(&world, REGISTRY, 1).await, PASSED);
}

/// How AWS is reached, at an endpoint of ours.
fn sdk(endpoint: &FakeRegistry) -> Sdk {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
            "fake", "fake", None, None, "test",
        )))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(format!("http://{}", endpoint.address))
        .build()
        .into()
}

/// ECR's API, which gives a login to whoever asks.
async fn ecr() -> FakeRegistry {
    let token = STANDARD.encode("AWS:fake-ecr-password");
    FakeRegistry::start(move |_| {
        answer_json(&json!({"authorizationData": [{"authorizationToken": token, "expiresAt": 4_000_000_000_u64}]}))
    })
    .await
}

/// A world whose source has this host, with `credentials: { type: ecr }`.
async fn world_of_ecr(host: &'static str, registry: &FakeRegistry, api: &FakeRegistry) -> World {
    World::set_up(Setup {
        source: &format!("hosts: [\"{host}\"]"),
        registries: format!("  \"{host}\": {{ insecure: true, credentials: {{ type: ecr }} }}"),
        hosts: vec![(host, registry.address)],
        sdk: sdk(api),
        ..Setup::default()
    })
    .await
}

#[tokio::test]
async fn ecr_gives_a_login_that_serves_until_it_is_about_to_end() {
    let host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
    let (content, _) = content();
    let registry = FakeRegistry::start(wants(content, basic("AWS", "fake-ecr-password"))).await;
    let ecr = ecr().await;
    let world = world_of_ecr(host, &registry, &ecr).await;
    assert_eq!(outcome(&world, host, 1).await, PASSED);
    assert_eq!(outcome(&world, host, 2).await, PASSED);
    assert_eq!(world.ledger.0.lock().unwrap().granted, 1);
    assert_eq!(ecr.asked().len(), 1);

    let refusing = FakeRegistry::start(|_| status(403)).await;
    let world = world_of_ecr(host, &registry, &refusing).await;
    assert_eq!(outcome(&world, host, 1).await, "dead letter: unauthorized");

    // A limit of AWS has the status of a refusal.
    let limiting = FakeRegistry::start(|_| {
        let error = json!({"__type": "ThrottlingException", "message": "Rate exceeded"});
        Answer::Full(400, Vec::new(), error.to_string().into_bytes())
    });
    let limiting = limiting.await;
    let world = world_of_ecr(host, &registry, &limiting).await;
    assert_eq!(outcome(&world, host, 1).await, "retried: rate_limited");
}

#[tokio::test]
async fn ecr_gives_a_login_in_every_partition_and_for_every_form_of_host() {
    for (host, region) in [
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "eu-west-1"),
        (
            "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
            "us-gov-west-1",
        ),
        ("123456789012.dkr-ecr.us-east-1.on.aws", "us-east-1"),
        ("123456789012.dkr-ecr-fips.us-east-1.on.aws", "us-east-1"),
        (
            "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
            "cn-north-1",
        ),
        (
            "123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu",
            "eusc-de-east-1",
        ),
    ] {
        let (content, _) = content();
        let registry = FakeRegistry::start(wants(content, basic("AWS", "fake-ecr-password"))).await;
        let ecr = ecr().await;
        let world = world_of_ecr(host, &registry, &ecr).await;
        assert_eq!(outcome(&world, host, 1).await, PASSED, "{host}");
        let [asked] = ecr.asked().try_into().unwrap();
        // Signed for the region in the registry's name.
        let authorization = asked.authorization.unwrap();
        let scope = format!("/{region}/ecr/aws4_request");
        assert!(authorization.contains(&scope), "{authorization}");
    }
}

#[tokio::test]
async fn a_host_that_only_looks_like_one_of_ecr_gets_no_login_of_it() {
    for host in [
        "123456789012.dkr.ecr.eu-west-1.example.org",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com.example.org",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com:8443",
        "ecr.example.org",
    ] {
        let (content, _) = content();
        let registry = FakeRegistry::start(wants(content, basic("AWS", "fake-ecr-password"))).await;
        let ecr = ecr().await;
        let world = world_of_ecr(host, &registry, &ecr).await;
        let outcome = outcome(&world, host, 1).await;
        assert_eq!(outcome, "dead letter: unauthorized", "{host}");
        assert!(ecr.asked().is_empty(), "{host}");
        assert!(registry.shown().is_empty(), "{host}");
    }
}

/// Made for this test, and known to nobody.
const PRIVATE_KEY: &str = include_str!("../fixtures/fake-service-account.pem");

#[tokio::test]
async fn a_service_accounts_key_is_exchanged_for_an_access_token() {
    let host = "europe-docker.pkg.dev";
    let (content, _) = content();
    let registry = FakeRegistry::start(wants(
        content,
        basic("oauth2accesstoken", "fake-access-token"),
    ))
    .await;
    let google = FakeRegistry::start(|_| {
        answer_json(&json!({"access_token": "fake-access-token", "expires_in": 3599, "token_type": "Bearer"}))
    })
    .await;
    let token_uri = format!("http://{}/token", google.address);
    let key = json!({"type": "service_account", "client_email": "fake@example.iam", "private_key": PRIVATE_KEY, "token_uri": token_uri});
    let setup = Setup {
        source: "hosts: [europe-docker.pkg.dev]",
        registries: format!(
            "  {host}: {{ insecure: true, credentials: {{ type: gar, key: \"env:KEY\" }} }}"
        ),
        hosts: vec![(host, registry.address)],
        environment: vec![("KEY", key.to_string())],
        ..Setup::default()
    };
    let world = World::set_up(setup).await;
    assert_eq!(outcome(&world, host, 1).await, PASSED);
    let [asked] = google.asked().try_into().unwrap();
    let form: std::collections::HashMap<_, _> = form_urlencoded::parse(asked.body.as_bytes())
        .into_owned()
        .collect();
    assert_eq!(
        form["grant_type"],
        "urn:ietf:params:oauth:grant-type:jwt-bearer"
    );
    let parts: Vec<_> = form["assertion"].split('.').collect();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    assert_eq!(
        (claims["iss"].as_str(), claims["aud"].as_str()),
        (Some("fake@example.iam"), Some(token_uri.as_str()))
    );
    assert_eq!(
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(),
        3600
    );
    // RSA with 2048 bits.
    assert_eq!(URL_SAFE_NO_PAD.decode(parts[2]).unwrap().len(), 256);
}

/// A configuration of Google's for the role `scan` of AWS, and what its two servers ask and answer.
async fn with_federation(account: bool, source: &str) -> (String, Vec<Asked>) {
    let host = "europe-docker.pkg.dev";
    let (content, _) = content();
    let login = basic("oauth2accesstoken", "fake-access-token");
    let registry = FakeRegistry::start(wants(content, login)).await;
    let google = FakeRegistry::start(move |asked| match asked.path.as_str() {
        "/token" if account => {
            answer_json(&json!({"access_token": "fake-federated", "expires_in": 3599}))
        }
        "/token" => answer_json(&json!({"access_token": "fake-access-token", "expires_in": 3599})),
        _ if asked.authorization.as_deref() != Some("Bearer fake-federated") => status(401),
        _ => answer_json(
            &json!({"accessToken": "fake-access-token", "expireTime": "2999-01-01T00:00:00Z"}),
        ),
    })
    .await;
    let server = format!("http://{}", google.address);
    let mut file = json!({
        "type": "external_account",
        "universe_domain": "googleapis.com",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/aws",
        "subject_token_type": format!("urn:ietf:params:{source}"),
        "token_url": format!("{server}/token"),
        "credential_source": {
            "environment_id": "aws1",
            "region_url": "http://169.254.169.254/latest/meta-data/placement/availability-zone",
            "url": "http://169.254.169.254/latest/meta-data/iam/security-credentials",
            "regional_cred_verification_url": "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15",
        },
    });
    if account {
        file["service_account_impersonation_url"] =
            format!("{server}/v1/projects/-/serviceAccounts/scan@p.iam:generateAccessToken").into();
    }
    let keys = Credentials::new(
        "AKIAFAKE",
        "fake-key",
        Some("fake-session".to_owned()),
        None,
        "test",
    );
    let sdk = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(SharedCredentialsProvider::new(keys))
        .build();
    let setup = Setup {
        source: "hosts: [europe-docker.pkg.dev]",
        registries: format!(
            "  {host}: {{ insecure: true, credentials: {{ type: gar, key: \"env:KEY\" }} }}"
        ),
        hosts: vec![(host, registry.address)],
        environment: vec![("KEY", file.to_string())],
        sdk: sdk.into(),
        ..Setup::default()
    };
    let outcome = outcome(&World::set_up(setup).await, host, 1).await;
    (outcome, google.asked())
}

#[tokio::test]
async fn a_role_of_aws_gets_an_access_token_of_google_without_a_key() {
    for account in [true, false] {
        let (outcome, asked) = with_federation(account, "aws:token-type:aws4_request").await;
        assert_eq!(outcome, PASSED);
        assert_eq!(asked.len(), if account { 2 } else { 1 });
        let form: std::collections::HashMap<_, _> =
            form_urlencoded::parse(asked[0].body.as_bytes())
                .into_owned()
                .collect();
        assert_eq!(
            form["grant_type"],
            "urn:ietf:params:oauth:grant-type:token-exchange"
        );
        let scope = if account {
            "iam"
        } else {
            "cloud-platform.read-only"
        };
        assert_eq!(
            form["scope"],
            format!("https://www.googleapis.com/auth/{scope}")
        );
        // It is encoded once more than a form wants it.
        let encoded = format!("call={}", form["subject_token"]);
        let (_, call) = form_urlencoded::parse(encoded.as_bytes()).next().unwrap();
        let call: Value = serde_json::from_str(&call).unwrap();
        assert_eq!(
            (
                call["url"].as_str(),
                call["method"].as_str(),
                call["body"].as_str()
            ),
            (
                Some(
                    "https://sts.eu-west-1.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15"
                ),
                Some("POST"),
                Some("")
            )
        );
        let header = |name: &str| {
            let headers = call["headers"].as_array().unwrap();
            let is_it = |it: &&Value| it["key"].as_str().unwrap().eq_ignore_ascii_case(name);
            headers.iter().find(is_it).unwrap()["value"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(header("host"), "sts.eu-west-1.amazonaws.com");
        assert_eq!(header("x-goog-cloud-target-resource"), form["audience"]);
        assert_eq!(header("x-amz-security-token"), "fake-session");
        let signature = header("authorization");
        for part in [
            "AWS4-HMAC-SHA256 Credential=AKIAFAKE/",
            "/eu-west-1/sts/aws4_request",
            "SignedHeaders=host;x-amz-date;x-amz-security-token;x-goog-cloud-target-resource",
        ] {
            assert!(signature.contains(part), "{part}: {signature}");
        }
        assert!(!asked[0].body.contains("fake-key"));
    }
}

#[tokio::test]
async fn a_configuration_for_another_source_than_aws_is_refused_before_anybody_is_asked() {
    let (outcome, asked) = with_federation(true, "oauth:token-type:jwt").await;
    assert_eq!(outcome, "dead letter: unauthorized");
    assert!(asked.is_empty());
}

#[tokio::test]
async fn without_a_key_the_metadata_server_gives_the_access_token() {
    let host = "europe-docker.pkg.dev";
    let (content, _) = content();
    let registry = FakeRegistry::start(wants(
        content,
        basic("oauth2accesstoken", "fake-access-token"),
    ))
    .await;
    let metadata = FakeRegistry::start(|_| {
        answer_json(&json!({"access_token": "fake-access-token", "expires_in": 3599}))
    })
    .await;
    let setup = Setup {
        source: "hosts: [europe-docker.pkg.dev]",
        registries: format!("  {host}: {{ insecure: true, credentials: {{ type: gar }} }}"),
        hosts: vec![(host, registry.address)],
        environment: vec![("GCE_METADATA_HOST", metadata.address.to_string())],
        ..Setup::default()
    };
    let world = World::set_up(setup).await;
    assert_eq!(outcome(&world, host, 1).await, PASSED);
    let [asked] = metadata.asked().try_into().unwrap();
    assert_eq!(
        asked.path,
        "/computeMetadata/v1/instance/service-accounts/default/token"
    );
}

/// What comes of an image of GAR whose metadata server answers so.
async fn with_metadata(answer: Answer) -> String {
    let host = "europe-docker.pkg.dev";
    let (content, _) = content();
    let login = basic("oauth2accesstoken", "fake-access-token");
    let registry = FakeRegistry::start(wants(content, login)).await;
    let metadata = FakeRegistry::start(move |_| answer.clone()).await;
    let setup = Setup {
        source: "hosts: [europe-docker.pkg.dev]",
        registries: format!("  {host}: {{ insecure: true, credentials: {{ type: gar }} }}"),
        hosts: vec![(host, registry.address)],
        environment: vec![("GCE_METADATA_HOST", metadata.address.to_string())],
        ..Setup::default()
    };
    outcome(&World::set_up(setup).await, host, 2).await
}

#[tokio::test]
async fn the_lifetime_of_a_token_never_costs_the_token() {
    for lifetime in [
        json!(u64::MAX),
        json!(0),
        json!(-1),
        json!("3599"),
        json!("soon"),
        json!(3599.5),
        json!(1e300),
        json!([]),
        Value::Null,
    ] {
        let token = json!({"access_token": "fake-access-token", "expires_in": lifetime});
        let outcome = with_metadata(answer_json(&token)).await;
        assert_eq!(outcome, PASSED, "{token}");
    }
}

#[tokio::test]
async fn a_token_server_without_a_token_is_a_transient_failure() {
    for (answer, expected) in [
        (
            answer_json(&json!({"access_token": ""})),
            "retried: network",
        ),
        (
            answer_json(&json!({"access_token": null})),
            "retried: network",
        ),
        (answer_json(&json!({})), "retried: network"),
        (answer_json(&json!([])), "retried: network"),
        (status(408), "retried: network"),
        (status(429), "retried: rate_limited"),
        (status(500), "retried: network"),
        (status(400), "dead letter: unauthorized"),
        (status(403), "dead letter: unauthorized"),
    ] {
        let name = format!("{answer:?}");
        assert_eq!(with_metadata(answer).await, expected, "{name}");
    }
}

#[tokio::test]
async fn a_service_principal_gets_a_refresh_token_of_its_registry() {
    let host = "team.azurecr.io";
    let (content, _) = content();
    let null_user = "00000000-0000-0000-0000-000000000000";
    let holds = wants(content, basic(null_user, "fake-refresh-token"));
    let registry = FakeRegistry::start(move |asked| match asked.path.as_str() {
        "/oauth2/exchange" if asked.body.contains("access_token=fake-directory-token") => {
            answer_json(&json!({"access_token": null, "refresh_token": "fake-refresh-token"}))
        }
        "/oauth2/exchange" => status(401),
        _ => holds(asked),
    })
    .await;
    let directory = FakeRegistry::start(|_| {
        answer_json(&json!({"access_token": "fake-directory-token", "expires_in": "3599"}))
    })
    .await;
    let world = world_of_acr(host, &registry, &directory).await;
    assert_eq!(outcome(&world, host, 1).await, PASSED);
    let [asked] = directory.asked().try_into().unwrap();
    assert_eq!(asked.path, "/example.com/oauth2/v2.0/token");
    assert!(
        asked.body.contains(&format!("client_secret={PASSWORD}")),
        "{}",
        asked.body
    );
}

#[test]
fn the_pages_name_the_token_servers_entry_with_valid_examples() {
    for (page, host) in [
        (
            include_str!("../../../../docs/registries/gitlab.md"),
            "gitlab.example.com",
        ),
        (
            include_str!("../../../../docs/registries/artifactory.md"),
            "artifactory.example.com",
        ),
    ] {
        let blocks = page.split("```yaml\n").skip(1);
        let blocks: Vec<_> = blocks.map(|it| it.split("```").next().unwrap()).collect();
        let config = Config::parse(&blocks.concat()).unwrap();
        let host = scanhook_core::image::Registry::parse(host).unwrap();
        assert_eq!(config.registry(&host).unwrap().pattern, host.as_str());
    }
}
