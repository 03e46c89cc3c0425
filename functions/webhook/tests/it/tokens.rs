//! Tokens of an identity provider: a provider on this machine, its keys, and everything that is no token of its.

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::StatusCode;
use http_body_util::Full;
use num_bigint::BigUint;
use scanhook_config::cached::GUARD;
use scanhook_config::config::Config;
use scanhook_config::secrets::Secrets;
use scanhook_webhook::config::webhook;
use scanhook_webhook::router::Webhook;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::world::{Answer, bare, environment, memory, send, serve, with};

/// The primes of the first, second and fifth group for Diffie-Hellman in RFC 2409 and RFC 3526: a key that is made of them
/// is nobody's secret.
const COMMON: &str = "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9";
const FIRST: &str = "A63A3620FFFFFFFFFFFFFFFF";
const SECOND: &str =
    "A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381FFFFFFFFFFFFFFFF";
const FIFTH: &str = "A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA237327FFFFFFFFFFFFFFFF";

/// A key for RS256.
struct RsaKey {
    modulus: BigUint,
    private_exponent: BigUint,
}

static OLD: LazyLock<RsaKey> = LazyLock::new(|| RsaKey::of(FIFTH, SECOND));
static NEW: LazyLock<RsaKey> = LazyLock::new(|| RsaKey::of(FIFTH, FIRST));

impl RsaKey {
    fn of(one: &str, other: &str) -> Self {
        let prime =
            |it: &str| BigUint::parse_bytes(format!("{COMMON}{it}").as_bytes(), 16).unwrap();
        let (p, q) = (prime(one), prime(other));
        let order = (&p - 1_u32) * (&q - 1_u32);
        Self {
            modulus: &p * &q,
            private_exponent: BigUint::from(65_537_u32).modinv(&order).unwrap(),
        }
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017, section 8.2.1).
    fn sign(&self, message: &str) -> Vec<u8> {
        let length = self.modulus.to_bytes_be().len();
        let mut tail = hex("3031300d060960864801650304020105000420");
        tail.extend(Sha256::digest(message));
        let mut block = vec![0, 1];
        block.resize(length - tail.len() - 1, 0xff);
        block.push(0);
        block.extend(tail);
        let signature =
            BigUint::from_bytes_be(&block).modpow(&self.private_exponent, &self.modulus);
        let signature = signature.to_bytes_be();
        [vec![0; length - signature.len()], signature].concat()
    }

    fn jwk(&self, kid: &str) -> Value {
        json!({"kty": "RSA", "alg": "RS256", "use": "sig", "kid": kid, "n": BASE64.encode(self.modulus.to_bytes_be()), "e": "AQAB"})
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let bytes = digits.map(|it| u8::from_str_radix(std::str::from_utf8(it).unwrap(), 16).unwrap());
    bytes.collect()
}

/// An identity provider on this machine.
#[derive(Clone)]
struct Provider {
    issuer: String,
    told: Arc<Mutex<Told>>,
}

/// What the provider tells.
struct Told {
    issuer: String,
    jwks_uri: String,
    keys: Vec<Value>,
    is_up: bool,
    fetched: usize,
}

async fn discovery(State(provider): State<Provider>) -> Response {
    let told = provider.told.lock().unwrap();
    if !told.is_up {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    json!({"issuer": told.issuer, "jwks_uri": told.jwks_uri, "response_types_supported": ["id_token"]})
        .to_string()
        .into_response()
}

async fn keys(State(provider): State<Provider>) -> Response {
    let mut told = provider.told.lock().unwrap();
    told.fetched += 1;
    let caching = [("cache-control", "public, max-age=3600")];
    (caching, json!({"keys": told.keys}).to_string()).into_response()
}

impl Provider {
    async fn started() -> Self {
        let told = Told {
            issuer: String::new(),
            jwks_uri: String::new(),
            keys: vec![OLD.jwk("old")],
            is_up: true,
            fetched: 0,
        };
        let mut provider = Self {
            issuer: String::new(),
            told: Arc::new(Mutex::new(told)),
        };
        let routes = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys));
        let (address, _) = serve(routes.with_state(provider.clone())).await;
        provider.issuer = format!("http://{address}");
        let mut told = provider.told.lock().unwrap();
        told.issuer.clone_from(&provider.issuer);
        told.jwks_uri = format!("{}/keys", provider.issuer);
        drop(told);
        provider
    }

    fn change(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told.lock().unwrap());
    }

    fn fetched(&self) -> usize {
        std::mem::take(&mut self.told.lock().unwrap().fetched)
    }

    /// A webhook whose source takes this provider's tokens.
    async fn webhook(&self) -> Arc<Webhook> {
        let issuer = &self.issuer;
        let config = format!(
            "sources: {{ google: {{ kind: gar, registry: europe-docker.pkg.dev, auth: [{{ type: oidc, issuer: \"{issuer}\", audience: scanhook, email: push@project.iam.gserviceaccount.com }}] }} }}"
        );
        let config = Config::parse(&config).unwrap();
        let secrets = Secrets::local(&environment());
        Arc::new(webhook(&config, memory(), &secrets).await.unwrap())
    }

    #[expect(clippy::disallowed_methods, reason = "the provider's clock")]
    fn claims(&self) -> Value {
        let now = jiff::Timestamp::now().as_second();
        json!({
            "iss": self.issuer, "aud": "scanhook", "azp": "1137", "sub": "1137",
            "email": "push@project.iam.gserviceaccount.com", "email_verified": true,
            "iat": now, "exp": now + 3600,
        })
    }

    fn token(&self) -> String {
        signed(&OLD, "old", &self.claims())
    }
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let encoded = [header, claims].map(|it| BASE64.encode(it.to_string()));
    encoded.join(".")
}

fn signed(key: &RsaKey, kid: &str, claims: &Value) -> String {
    let text = unsigned(&json!({"alg": "RS256", "kid": kid, "typ": "JWT"}), claims);
    let signature = BASE64.encode(key.sign(&text));
    format!("{text}.{signature}")
}

fn body() -> String {
    json!({"action": "INSERT", "digest": format!("europe-docker.pkg.dev/p/r/app@{}", crate::world::DIGEST), "tag": "europe-docker.pkg.dev/p/r/app:1"})
        .to_string()
}

async fn deliver(webhook: &Arc<Webhook>, token: &str) -> Answer {
    let request = with(
        bare("google", body()),
        "authorization",
        &format!("Bearer {token}"),
    );
    send(webhook, request.map(Full::new)).await
}

async fn status(webhook: &Arc<Webhook>, token: &str) -> u16 {
    deliver(webhook, token).await.status.as_u16()
}

async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_token_of_the_issuer_is_taken_and_its_keys_are_fetched_once() {
    let provider = Provider::started().await;
    let webhook = provider.webhook().await;
    for _ in 0..3 {
        assert_eq!(status(&webhook, &provider.token()).await, 202);
    }
    assert_eq!(provider.fetched(), 1);
}

#[tokio::test]
async fn everything_else_is_answered_401() {
    let provider = Provider::started().await;
    let webhook = provider.webhook().await;
    let good = provider.token();
    assert_eq!(status(&webhook, &good).await, 202);
    let claims = provider.claims();
    let now = claims["iat"].as_i64().unwrap();
    let changed = |claim: &str, value: Value| {
        let mut claims = claims.clone();
        claims[claim] = value;
        signed(&OLD, "old", &claims)
    };
    let header = |alg: &str| json!({"alg": alg, "kid": "old", "typ": "JWT"});
    let none = unsigned(&header("none"), &claims);
    // Whoever takes HS256 with the public key in the place of the secret takes what everybody can sign.
    let by_public_key = |key: &[u8]| {
        let text = unsigned(&header("HS256"), &claims);
        let mac = <hmac::Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key).unwrap();
        let mac = hmac::Mac::finalize(hmac::Mac::chain_update(mac, &text)).into_bytes();
        format!("{text}.{}", BASE64.encode(mac))
    };
    let (signed_part, signature) = good.rsplit_once('.').unwrap();
    let mut flipped = BASE64.decode(signature).unwrap();
    flipped[100] ^= 1;
    for (what, token) in [
        ("no token", String::new()),
        ("alg none", format!("{none}.")),
        ("alg none, signed", format!("{none}.{signature}")),
        (
            "HS256 by the modulus",
            by_public_key(&OLD.modulus.to_bytes_be()),
        ),
        (
            "HS256 by the JWK",
            by_public_key(OLD.jwk("old").to_string().as_bytes()),
        ),
        ("another key of the same id", signed(&NEW, "old", &claims)),
        ("an unknown key", signed(&NEW, "new", &claims)),
        (
            "a flipped bit",
            format!("{signed_part}.{}", BASE64.encode(flipped)),
        ),
        ("no signature", format!("{signed_part}.")),
        (
            "other claims under the signature",
            format!(
                "{}.{signature}",
                unsigned(&header("RS256"), &json!({"iss": 1}))
            ),
        ),
        ("expired", changed("exp", json!(now - 60))),
        ("not yet valid", changed("nbf", json!(now + 600))),
        ("issued in the future", changed("iat", json!(now + 600))),
        (
            "another audience",
            changed("aud", json!("https://hooks.example.com")),
        ),
        (
            "another issuer",
            changed("iss", json!("https://accounts.google.com")),
        ),
        (
            "another account",
            changed("email", json!("other@project.iam.gserviceaccount.com")),
        ),
        ("not verified", changed("email_verified", json!(false))),
        ("huge", changed("padding", json!("x".repeat(20_000)))),
    ] {
        assert_eq!(status(&webhook, &token).await, 401, "{what}");
    }
    let twice = with(
        bare("google", body()),
        "authorization",
        &format!("Bearer {good}"),
    );
    let twice = with(twice, "authorization", &format!("Bearer {good}"));
    assert_eq!(send(&webhook, twice.map(Full::new)).await.status, 401);
    let nothing = send(&webhook, bare("google", body()).map(Full::new)).await;
    assert_eq!(nothing.status, 401);
}

#[tokio::test]
async fn a_new_key_is_fetched_with_its_first_token_and_strangers_cause_one_fetch() {
    let provider = Provider::started().await;
    let webhook = provider.webhook().await;
    assert_eq!(status(&webhook, &provider.token()).await, 202);
    provider.change(|it| it.keys = vec![OLD.jwk("old"), NEW.jwk("new")]);
    provider.fetched();
    pass(GUARD).await;
    let by_new = signed(&NEW, "new", &provider.claims());
    assert_eq!(status(&webhook, &by_new).await, 202);
    assert_eq!(status(&webhook, &provider.token()).await, 202);
    assert_eq!(provider.fetched(), 1);
    pass(GUARD).await;
    let unknown = signed(&OLD, "unknown", &provider.claims());
    let strangers = (0..20).map(|_| status(&webhook, &unknown));
    let statuses = futures_util::future::join_all(strangers).await;
    assert!(statuses.iter().all(|it| *it == 401));
    assert_eq!(provider.fetched(), 1);
    // A key that the issuer withdrew opens nothing any more.
    provider.change(|it| it.keys = vec![NEW.jwk("new")]);
    pass(Duration::from_hours(2)).await;
    assert_eq!(status(&webhook, &provider.token()).await, 401);
    assert_eq!(status(&webhook, &by_new).await, 202);
}

#[tokio::test]
async fn as_long_as_no_keys_are_known_a_token_is_answered_503() {
    let provider = Provider::started().await;
    let webhook = provider.webhook().await;
    provider.change(|it| it.is_up = false);
    for _ in 0..3 {
        let answer = deliver(&webhook, &provider.token()).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers["retry-after"], "10");
    }
    let nothing = send(&webhook, bare("google", body()).map(Full::new)).await;
    assert_eq!(nothing.status, 401);
    provider.change(|it| it.is_up = true);
    pass(GUARD).await;
    assert_eq!(status(&webhook, &provider.token()).await, 202);
    // Keys that are known stay in use while the provider is down.
    provider.change(|it| it.is_up = false);
    pass(Duration::from_hours(3)).await;
    assert_eq!(status(&webhook, &provider.token()).await, 202);
}

#[tokio::test]
async fn keys_come_from_the_configured_issuer_only() {
    let other = Provider::started().await;
    let elsewhere: [fn(&mut Told, &Provider); 4] = [
        |told, other| told.jwks_uri = format!("{}/keys", other.issuer),
        |told, other| told.issuer.clone_from(&other.issuer),
        |told, _| told.jwks_uri = "https://www.googleapis.com/oauth2/v3/certs".to_owned(),
        |told, _| {
            told.keys = vec![
                json!({"kty": "RSA", "kid": "x".repeat(1 << 18)}),
                OLD.jwk("old"),
            ];
        },
    ];
    for change in elsewhere {
        let provider = Provider::started().await;
        provider.change(|it| change(it, &other));
        let webhook = provider.webhook().await;
        assert_eq!(status(&webhook, &provider.token()).await, 503);
    }
    assert_eq!(other.fetched(), 0);
}
