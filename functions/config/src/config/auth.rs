//! The credentials of a source.

use http::HeaderName;
use scanhook_core::auth::{Algorithm, Encoding, HmacScheme, Scheme};
use scanhook_core::kinds::Kind;
use scanhook_core::oidc::{Expected, Identity, is_issuer};

use super::error::{expected, expected_word};
use super::{AuthConfig, ConfigError, check_role, error};
use crate::secrets::Role;
use crate::wire::{REFERENCE, WireAuth};

const TYPES: [&str; 6] = ["hmac", "token", "bearer", "basic", "path_token", "oidc"];

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
        other => return Err(expected_word(&format!("{path}.type"), other, &TYPES)),
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
        return Ok(AuthConfig::Oidc(oidc(wire, path)?));
    }
    let username = |what: &str| expected(&format!("{path}.username"), what);
    let scheme = match wire.auth_type.as_str() {
        "hmac" => Scheme::Hmac(hmac_scheme(&wire, kind, path)?),
        "token" => Scheme::Token(header(
            wire.header.as_deref().unwrap_or("authorization"),
            path,
        )?),
        "basic" => {
            let name = wire.username.ok_or_else(|| username("a user name"))?;
            if name.contains(':') {
                return Err(username("a user name without a colon (RFC 7617)"));
            }
            Scheme::Basic(name)
        }
        "bearer" => Scheme::Bearer,
        _ => Scheme::PathToken,
    };
    let path = format!("{path}.secret");
    let secret = wire.secret.ok_or_else(|| expected(&path, REFERENCE))?;
    check_role(&secret, Role::Webhook, &path)?;
    Ok(AuthConfig::Shared { scheme, secret })
}

/// Whose tokens are taken: everything must be said, for anybody can have a token of Google's for something else.
fn oidc(wire: WireAuth, path: &str) -> Result<Expected, ConfigError> {
    let given = |key: &str, what: &str, value: Option<String>| {
        let value = value.filter(|it| !it.trim().is_empty());
        value.ok_or_else(|| expected(&format!("{path}.{key}"), what))
    };
    let url = "an https URL without query, such as https://accounts.google.com";
    let issuer = wire.issuer.filter(|it| is_issuer(it));
    let issuer = given("issuer", url, issuer)?;
    let identity = match (wire.email, wire.subject) {
        (Some(_), Some(_)) => {
            let problem = "either email or subject says of whom a token must tell, not both";
            return Err(error(&format!("{path}.subject"), problem));
        }
        (None, subject @ Some(_)) => Identity::Subject(given("subject", "a subject", subject)?),
        (email, None) => Identity::Email(given("email", "an email address", email)?),
    };
    Ok(Expected {
        issuer,
        audience: given("audience", "an audience", wire.audience)?,
        identity,
    })
}

fn hmac_scheme(wire: &WireAuth, kind: &Kind, path: &str) -> Result<HmacScheme, ConfigError> {
    let missing = |key: &str| {
        let what = format!(
            "the {key} of its signature, since {} has none of its own",
            kind.name
        );
        expected(&format!("{path}.{key}"), what)
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
        (Some(other), _) => {
            let known = ["sha1", "sha256", "sha512"];
            return Err(expected_word(&format!("{path}.algorithm"), other, &known));
        }
        (None, Some(preset)) => preset.algorithm,
        (None, None) => return Err(missing("algorithm")),
    };
    let encoding = match (wire.encoding.as_deref(), &preset) {
        (Some("base64"), _) => Encoding::Base64,
        (None, Some(preset)) => preset.encoding,
        (Some("hex"), _) | (None, None) => Encoding::Hex,
        (Some(other), _) => {
            let known = ["hex", "base64"];
            return Err(expected_word(&format!("{path}.encoding"), other, &known));
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
        .map_err(|_| expected(&format!("{path}.header"), "the name of a header"))
}
