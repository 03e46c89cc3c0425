//! The credentials of a source.

use http::HeaderName;
use scanhook_core::auth::{Algorithm, Encoding, HmacScheme, Scheme};
use scanhook_core::kinds::Kind;
use scanhook_core::oidc::{Expected, Identity};

use super::{AuthConfig, ConfigError, check_role, error};
use crate::secrets::Role;
use crate::wire::WireAuth;

/// Checks an entry of `auth` of a source of this kind.
pub(super) fn auth_config(
    wire: WireAuth,
    kind: &Kind,
    path: &str,
) -> Result<AuthConfig, ConfigError> {
    let allowed: &[&str] = match wire.auth_type.as_str() {
        "hmac" => &["secret", "header", "algorithm", "encoding", "prefix"],
        "token" => &["secret", "header"],
        "basic" => &["secret", "username"],
        "bearer" | "path_token" => &["secret"],
        "oidc" => &["issuer", "audience", "email", "subject"],
        _ => {
            return Err(error(
                &format!("{path}.type"),
                "expected one of hmac, token, bearer, basic, path_token, oidc",
            ));
        }
    };
    let given = [
        ("header", wire.header.is_some()),
        ("algorithm", wire.algorithm.is_some()),
        ("encoding", wire.encoding.is_some()),
        ("prefix", wire.prefix.is_some()),
        ("username", wire.username.is_some()),
        ("issuer", wire.issuer.is_some()),
        ("audience", wire.audience.is_some()),
        ("email", wire.email.is_some()),
        ("subject", wire.subject.is_some()),
        ("secret", wire.secret.is_some()),
    ];
    if let Some((key, _)) = given
        .iter()
        .find(|(key, is_given)| *is_given && !allowed.contains(key))
    {
        return Err(error(
            &format!("{path}.{key}"),
            "does not belong to this type of credential",
        ));
    }
    if wire.auth_type == "oidc" {
        return Ok(AuthConfig::Oidc(expected(wire, path)?));
    }
    let missing = |key: &str| error(&format!("{path}.{key}"), "missing");
    let scheme = match wire.auth_type.as_str() {
        "hmac" => Scheme::Hmac(hmac_scheme(&wire, kind, path)?),
        "token" => Scheme::Token(header(
            wire.header.as_deref().unwrap_or("authorization"),
            path,
        )?),
        "basic" => {
            let username = wire.username.ok_or_else(|| missing("username"))?;
            if username.contains(':') {
                return Err(error(
                    &format!("{path}.username"),
                    "a user name can't hold a colon (RFC 7617)",
                ));
            }
            Scheme::Basic(username)
        }
        "bearer" => Scheme::Bearer,
        _ => Scheme::PathToken,
    };
    let secret = wire.secret.ok_or_else(|| missing("secret"))?;
    check_role(&secret, Role::Webhook, &format!("{path}.secret"))?;
    Ok(AuthConfig::Shared { scheme, secret })
}

/// Whose tokens are taken: everything must be said, for anybody can have a token of Google's for something else.
fn expected(wire: WireAuth, path: &str) -> Result<Expected, ConfigError> {
    let given = |key: &str, value: Option<String>| {
        let value = value.filter(|it| !it.trim().is_empty());
        value.ok_or_else(|| error(&format!("{path}.{key}"), "missing"))
    };
    let issuer = given("issuer", wire.issuer)?;
    if !scanhook_core::oidc::is_issuer(&issuer) {
        let problem = "expected an https URL without query, such as https://accounts.google.com";
        return Err(error(&format!("{path}.issuer"), problem));
    }
    let identity = match (wire.email, wire.subject) {
        (Some(_), Some(_)) => {
            let problem = "either email or subject says of whom a token must tell, not both";
            return Err(error(&format!("{path}.subject"), problem));
        }
        (None, Some(subject)) => Identity::Subject(given("subject", Some(subject))?),
        (email, None) => Identity::Email(given("email", email)?),
    };
    Ok(Expected {
        issuer,
        audience: given("audience", wire.audience)?,
        identity,
    })
}

fn hmac_scheme(wire: &WireAuth, kind: &Kind, path: &str) -> Result<HmacScheme, ConfigError> {
    let missing = |key: &str| {
        let problem = format!(
            "missing: {} has no signature of its own, so say how its deliveries are signed",
            kind.name
        );
        error(&format!("{path}.{key}"), problem)
    };
    let preset = kind.hmac.map(|it| it.scheme());
    let header = match (&wire.header, &preset) {
        (Some(name), _) => header(name, path)?,
        (None, Some(preset)) => preset.header.clone(),
        (None, None) => return Err(missing("header")),
    };
    let algorithm = match (wire.algorithm.as_deref(), &preset) {
        (Some("sha1"), _) => Algorithm::Sha1,
        (Some("sha256"), _) => Algorithm::Sha256,
        (Some("sha512"), _) => Algorithm::Sha512,
        (Some(_), _) => {
            return Err(error(
                &format!("{path}.algorithm"),
                "expected one of sha1, sha256, sha512",
            ));
        }
        (None, Some(preset)) => preset.algorithm,
        (None, None) => return Err(missing("algorithm")),
    };
    let encoding = match (wire.encoding.as_deref(), &preset) {
        (Some("base64"), _) => Encoding::Base64,
        (None, Some(preset)) => preset.encoding,
        (Some("hex"), _) | (None, None) => Encoding::Hex,
        (Some(_), _) => {
            return Err(error(
                &format!("{path}.encoding"),
                "expected one of hex, base64",
            ));
        }
    };
    let prefix = wire
        .prefix
        .clone()
        .or(preset.map(|it| it.prefix))
        .unwrap_or_default();
    Ok(HmacScheme {
        header,
        algorithm,
        encoding,
        prefix,
    })
}

fn header(name: &str, path: &str) -> Result<HeaderName, ConfigError> {
    name.parse()
        .map_err(|_| error(&format!("{path}.header"), "not the name of a header"))
}
