//! Azure Container Registry: makes a refresh token of the registry for a service principal.
//!
//! Source: Azure/acr, docs/AAD-OAuth.md. A token of the directory is exchanged at the registry for a refresh token,
//! which the registry accepts as the password of the null user. Microsoft identity platform, "client credentials flow".
//! A refresh token of the registry lasts three hours.

use std::time::Duration;

use scanhook_config::secrets::Secret;
use scanhook_core::image::Registry;
use secrecy::ExposeSecret as _;

use super::{CachedLogin, Makers};
use crate::error::LoginError;
use crate::grant::{self, Grant};
use crate::http::{Http, Trust};

const USERNAME: &str = "00000000-0000-0000-0000-000000000000";

const SCOPE: &str = "https://containerregistry.azure.net/.default";

const LIFETIME: Duration = Duration::from_hours(3);

/// Makes a login for a registry. As in Azure's own libraries, `AZURE_AUTHORITY_HOST` selects a directory other than the
/// public cloud's.
pub(super) async fn login(
    (registry, trust): (&Registry, &Trust),
    tenant: &str,
    (username, password): (&str, &Secret),
    makers: &Makers,
    http: &Http,
) -> Result<CachedLogin, LoginError> {
    let authority = (makers.environment)("AZURE_AUTHORITY_HOST")
        .unwrap_or_else(|| "https://login.microsoftonline.com".to_owned());
    let url = format!(
        "{}/{tenant}/oauth2/v2.0/token",
        authority.trim_end_matches('/')
    );
    let password = password.value().await;
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", username),
        ("client_secret", password.expose_secret()),
        ("scope", SCOPE),
    ];
    let directory: grant::Token = grant::ask(http, Grant::Post(&url, &form)).await?;
    let directory = directory.access()?;
    let scheme = if trust.plain { "http" } else { "https" };
    let url = format!("{scheme}://{registry}/oauth2/exchange");
    let form = [
        ("grant_type", "access_token"),
        ("service", registry.normal()),
        ("tenant", tenant),
        ("access_token", directory.as_str()),
    ];
    let token: grant::Token = grant::ask(http, Grant::Registry(&url, &form, trust)).await?;
    Ok(CachedLogin::new(USERNAME, token.refresh()?, LIFETIME))
}
