//! `scanhook check`: validates a configuration as far as possible without sending or scanning.

use anyhow::Context as _;
use jiff::civil::Date;
use scanhook_config::Environment;
use scanhook_config::config::{AuthConfig, Config, SourceConfig};
use scanhook_config::secrets::Secrets;
use scanhook_core::auth::Scheme;
use scanhook_core::oidc::Identity;
use scanhook_stand_in::lock;

use crate::args::CheckArgs;
use crate::outcome::{Outcome, unusable};
use crate::{configuration, output};

mod sample;

pub(crate) async fn command(args: CheckArgs, environment: Environment) -> anyhow::Result<Outcome> {
    let secrets = Secrets::local(&environment);
    let config = configuration::load(&args.config.location, &secrets).await?;
    if let (Some(file), Some(name)) = (&args.sample, &args.source) {
        let source = config.sources.get(name.as_str());
        let source = source
            .with_context(|| format!("{} has no source {name}", args.config.location))
            .map_err(unusable)?;
        return sample::command(&source.source, config.body_limit, file, args.output);
    }
    resolve_all(&config, &secrets).await?;
    for source in config.sources.values() {
        output::line(&describe(source, args.url.trim_end_matches('/')))?;
    }
    let mut warnings = config.warnings.clone();
    warnings.extend(missing_keys(&config, &secrets).await);
    warnings.extend(pin_warning(today()));
    for warning in &warnings {
        output::notice(&format!("warning: {warning}"));
    }
    output::line(&format!(
        "{} is valid: all secrets resolved, sources: {}",
        args.config.location,
        config.sources.len()
    ))?;
    Ok(Outcome::Fine)
}

async fn resolve_all(config: &Config, secrets: &Secrets) -> anyhow::Result<()> {
    for source in config.sources.values() {
        source.credentials(secrets).await.map_err(unusable)?;
    }
    for registry in &config.registries {
        registry.secret(secrets).await.map_err(unusable)?;
        registry.certificates(secrets).await.map_err(unusable)?;
    }
    if let Some(scanner) = &config.scanner {
        scanner.token(secrets).await.map_err(unusable)?;
    }
    Ok(())
}

/// Fetches the keys of each identity provider, and returns a warning for each failure. Not an error, because the server may have
/// another network than this machine.
async fn missing_keys(config: &Config, secrets: &Secrets) -> Vec<String> {
    let mut missing = Vec::new();
    for (name, source) in &config.sources {
        for (index, auth) in source.auth.iter().enumerate() {
            let AuthConfig::Oidc(expected) = auth else {
                continue;
            };
            if let Err(err) = secrets.keys(&expected.issuer).first().await {
                missing.push(format!(
                    "sources.{name}.auth[{index}]: could not fetch the keys of {} from this machine: {err}",
                    expected.issuer
                ));
            }
        }
    }
    missing
}

/// A source's URL, and what to set up at its registry.
fn describe(config: &SourceConfig, base: &str) -> String {
    let source = &config.source;
    let is_path_token = config
        .auth
        .iter()
        .all(|it| matches!(it.shared(), Some((Scheme::PathToken, _))));
    let url = format!("{base}/webhooks/{}", source.name);
    let url = if is_path_token {
        format!("{url}/<the secret>")
    } else {
        url
    };
    let secrets: Vec<_> = config
        .auth
        .iter()
        .map(|it| match it {
            AuthConfig::Shared { scheme, secret } => format!("{} ({secret})", scheme.as_str()),
            AuthConfig::Oidc(expected) => format!(
                "oidc (a token of {} for the audience {}, issued to {})",
                expected.issuer,
                expected.audience,
                match &expected.identity {
                    Identity::Email(text) | Identity::Subject(text) => text,
                }
            ),
        })
        .collect();
    let setup = source
        .kind
        .setup
        .replace("{url}", &url)
        .replace('\n', "\n  ");
    format!(
        "{}: {} images of {}\n  URL     {url}\n  secret  {}\n  form    {}\n  signs   {}\n  repeats {}\n  {setup}\n",
        source.name,
        source.kind.title,
        source.registry,
        secrets.join(", or "),
        source.kind.envelopes.join("; "),
        source.kind.signs,
        source.kind.repeats,
    )
}

/// Sysdig supports a version of its CLI for one year.
const SUPPORT_DAYS: i32 = 365;

fn pin_warning(today: Date) -> Option<String> {
    let (version, released) = (lock::value("version")?, lock::value("released")?);
    let age = today - released.parse::<Date>().ok()?;
    (age.get_days() > SUPPORT_DAYS).then(|| {
        format!(
            "layer/sysdig-cli.lock pins the Sysdig CLI {version} of {released}, which is over a year old and no longer \
             supported; pin a newer version with layer/pin VERSION"
        )
    })
}

#[expect(clippy::disallowed_methods, reason = "the command's clock")]
fn today() -> Date {
    jiff::Timestamp::now()
        .to_zoned_datetime(jiff::tz::TimeZone::UTC)
        .date()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_gets_a_warning_after_a_year() {
        let released: Date = lock::value("released").unwrap().parse().unwrap();
        let after =
            |days: i32| pin_warning(released.checked_add(jiff::Span::new().days(days)).unwrap());
        assert_eq!(after(365), None);
        assert!(after(366).unwrap().contains("layer/pin"));
    }
}
