//! Google Artifact Registry: an access token, by a service account's key, for a role of AWS, else from the metadata server.
//!
//! Sources: Google Cloud, "Using OAuth 2.0 for server to server applications" (RFC 7523) and "About VM metadata". A token
//! lasts an hour; the registry takes it as the password of `oauth2accesstoken`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use scanhook_config::secrets::Secret;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use super::{CachedLogin, Makers};
use crate::error::LoginError;
use crate::grant::{self, Grant};
use crate::http::Http;

mod federation;

/// Only to read, only from registries.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform.read-only";

const USERNAME: &str = "oauth2accesstoken";

/// The two files of Google's that say how to log in; a service account's key needs no `type` here.
#[derive(Deserialize)]
#[serde(untagged)]
enum WireCredentials {
    Key(WireKey),
    Federation(federation::WireFederation),
}

/// What of a service account's key is needed.
#[derive(Deserialize)]
struct WireKey {
    client_email: String,
    private_key: String,
    token_uri: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
}

/// Makes a login.
pub(super) async fn login(
    key: Option<&Secret>,
    makers: &Makers,
    http: &Http,
) -> Result<CachedLogin, LoginError> {
    let token = match key {
        None => from_metadata(makers, http).await?,
        Some(key) => match read(key).await? {
            WireCredentials::Key(key) => by_key(&key, makers, http).await?,
            WireCredentials::Federation(wire) => {
                let (token, lifetime) = federation::token(&wire, makers, http).await?;
                return Ok(CachedLogin::new(USERNAME, token, lifetime));
            }
        },
    };
    let lifetime = token.lifetime().unwrap_or_default();
    Ok(CachedLogin::new(USERNAME, token.access()?, lifetime))
}

async fn read(key: &Secret) -> Result<WireCredentials, LoginError> {
    let json = key.value().await;
    serde_json::from_str(json.expose_secret()).map_err(|_| no_key())
}

fn no_key() -> LoginError {
    LoginError::unauthorized(
        "the key of the credentials of type gar is neither a service account's nor a configuration for workload identity federation",
    )
}

async fn by_key(key: &WireKey, makers: &Makers, http: &Http) -> Result<grant::Token, LoginError> {
    let assertion = assertion(key, (makers.now)()).ok_or_else(no_key)?;
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", &assertion),
    ];
    grant::ask(http, Grant::Post(&key.token_uri, &form)).await
}

/// A JWT, signed with the account's key.
fn assertion(key: &WireKey, now: Timestamp) -> Option<String> {
    let claims = Claims {
        iss: &key.client_email,
        scope: SCOPE,
        aud: &key.token_uri,
        iat: now.as_second(),
        exp: now.as_second() + 3600,
    };
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","typ":"JWT"}"#);
    let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).ok()?);
    let signed = format!("{header}.{claims}");
    let der = PrivatePkcs8KeyDer::from_pem_slice(key.private_key.as_bytes()).ok()?;
    let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).ok()?;
    let mut signature = vec![0; pair.public().modulus_len()];
    let random = SystemRandom::new();
    pair.sign(
        &RSA_PKCS1_SHA256,
        &random,
        signed.as_bytes(),
        &mut signature,
    )
    .ok()?;
    Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// The metadata server is at a link-local address, in the clear, and gets no secret.
async fn from_metadata(makers: &Makers, http: &Http) -> Result<grant::Token, LoginError> {
    let host = (makers.environment)("GCE_METADATA_HOST");
    let host = host.unwrap_or_else(|| "metadata.google.internal".to_owned());
    let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token");
    grant::ask(http, Grant::Metadata(&url)).await
}
