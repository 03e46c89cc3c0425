//! `scanhook check`: everything about a configuration that can be checked without sending or scanning.

use anyhow::Context as _;
use jiff::civil::Date;
use scanhook_core::auth::Scheme;
use scanhook_settings::Environment;
use scanhook_settings::config::{Config, SourceConfig, secret_error};
use scanhook_settings::secrets::{Secret, SecretRef, Strength};
use scanhook_stand_in::lock;

use crate::args::CheckArgs;
use crate::{Outcome, output, serve, unusable};

mod sample;

pub(crate) async fn command(args: CheckArgs, environment: Environment) -> anyhow::Result<Outcome> {
    let config = serve::load_config(&args.config)?;
    if let (Some(file), Some(name)) = (&args.sample, &args.source) {
        let source = config.sources.get(name.as_str());
        let source = source
            .with_context(|| format!("{} has no source {name}", args.config))
            .map_err(unusable)?;
        return sample::command(&source.source, config.body_limit, file, args.output);
    }
    resolve_all(&config, &environment).await?;
    for source in config.sources.values() {
        output::line(&describe(source, args.url.trim_end_matches('/')))?;
    }
    let mut warnings = config.warnings.clone();
    warnings.extend(pin_warning(today()));
    for warning in &warnings {
        output::notice(&format!("warning: {warning}"));
    }
    output::line(&format!(
        "{} is valid: all secrets resolved, sources: {}",
        args.config,
        config.sources.len()
    ))?;
    Ok(Outcome::Fine)
}

async fn resolve_all(config: &Config, environment: &Environment) -> anyhow::Result<()> {
    for source in config.sources.values() {
        source.credentials(environment).await.map_err(unusable)?;
    }
    let check = async |path: &str, reference: &SecretRef, strength: Strength| {
        let resolved = Secret::resolve(reference, strength, environment).await;
        resolved
            .map(drop)
            .map_err(|err| unusable(secret_error(path, &err)))
    };
    for registry in &config.registries {
        if let Some(credentials) = &registry.credentials {
            let path = format!("registries.{}.credentials.password", registry.pattern);
            check(&path, &credentials.password, Strength::Given).await?;
        }
    }
    if let Some(scanner) = &config.scanner {
        check("scanner.api_token", &scanner.api_token, Strength::Given).await?;
    }
    Ok(())
}

/// A source's URL and what to do at its registry.
fn describe(config: &SourceConfig, base: &str) -> String {
    let source = &config.source;
    let is_path_token = config.auth.iter().all(|it| it.scheme == Scheme::PathToken);
    let url = format!("{base}/webhooks/{}", source.name);
    let url = if is_path_token {
        format!("{url}/<the secret>")
    } else {
        url
    };
    let secrets: Vec<_> = config
        .auth
        .iter()
        .map(|it| format!("{} ({})", it.scheme.as_str(), it.secret))
        .collect();
    let setup = source
        .kind
        .setup
        .replace("{url}", &url)
        .replace('\n', "\n  ");
    format!(
        "{}: {} images of {}\n  URL     {url}\n  secret  {}\n  form    {}\n  {setup}\n",
        source.name,
        source.kind.title,
        source.registry,
        secrets.join(", or "),
        source.kind.envelopes.join("; "),
    )
}

/// Sysdig supports a version of its CLI for one year.
const SUPPORT_DAYS: i32 = 365;

fn pin_warning(today: Date) -> Option<String> {
    let (version, released) = (lock::value("version")?, lock::value("released")?);
    let age = today - released.parse::<Date>().ok()?;
    (age.get_days() > SUPPORT_DAYS).then(|| {
        format!(
            "layer/sysdig-cli.lock pins the Sysdig CLI {version} of {released}, which is over a year old and past its \
             support; pin a newer one with layer/pin VERSION"
        )
    })
}

#[expect(clippy::disallowed_methods, reason = "the command's clock")]
fn today() -> Date {
    jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_warned_of_after_a_year() {
        let released: Date = lock::value("released").unwrap().parse().unwrap();
        let after =
            |days: i32| pin_warning(released.checked_add(jiff::Span::new().days(days)).unwrap());
        assert_eq!(after(365), None);
        assert!(after(366).unwrap().contains("layer/pin"));
    }
}
