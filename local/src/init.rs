//! `scanhook init`: a starter configuration with comments, and a secret for it.
//!
//! **Invariant**: no file is overwritten, and only its owner can read the secret.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use scanhook_config::Environment;
use scanhook_config::config::Config;
use scanhook_core::image::Registry;
use scanhook_core::kinds::Kind;
use scanhook_core::source::SourceName;

use crate::args::InitArgs;
use crate::outcome::{Outcome, unusable};
use crate::output;

/// The variable that Sysdig's own tools read.
const TOKEN: &str = "SECURE_API_TOKEN";

pub(crate) fn command(args: &InitArgs, environment: &Environment) -> anyhow::Result<Outcome> {
    let registry = match (&args.registry, args.kind.default_registry) {
        (Some(host), _) => host.clone(),
        (None, Some(host)) => Registry::parse(host).map_err(unusable)?,
        (None, None) => Registry::parse(args.kind.example_registry).map_err(unusable)?,
    };
    let name = args
        .name
        .as_ref()
        .map_or(args.kind.name, SourceName::as_str);
    let secret = args.config.with_file_name(format!("{name}.secret"));
    for path in [&args.config, &secret] {
        if path.symlink_metadata().is_ok() {
            let err = anyhow::anyhow!(
                "{} already exists; `init` never overwrites a file",
                path.display()
            );
            return Err(unusable(err));
        }
    }
    let has_token = environment(TOKEN).is_some_and(|it| !it.is_empty());
    let text = configuration(args.kind, &registry, name, &secret, has_token).map_err(unusable)?;
    // Write only what `check` accepts.
    Config::parse(&text)
        .context("--name or --registry is not valid")
        .map_err(unusable)?;
    create(
        &secret,
        0o600,
        &format!("{}\n", hex::encode(rand::random::<[u8; 32]>())),
    )?;
    create(&args.config, 0o644, &text)?;
    output::line(&next(args, name, &secret, &registry, has_token))?;
    Ok(Outcome::Fine)
}

/// Writes a file that must not exist.
fn create(path: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut it| it.write_all(text.as_bytes()));
    written
        .with_context(|| format!("could not write {}", path.display()))
        .map_err(unusable)
}

/// The credential in YAML: the strongest type that the registry can send and a secret file can contain.
fn auth(kind: &Kind, secret: &str) -> anyhow::Result<String> {
    let usable = ["hmac", "token", "bearer", "basic", "path_token"];
    let best = kind.auth.iter().find(|it| usable.contains(it));
    match best {
        Some(&"basic") => Ok(format!(
            "{{ type: basic, username: scanhook, secret: {secret} }}"
        )),
        Some(best) => Ok(format!("{{ type: {best}, secret: {secret} }}")),
        None => bail!(
            "{} has no credential that a secret file can hold; write its source by hand",
            kind.title
        ),
    }
}

fn configuration(
    kind: &Kind,
    registry: &Registry,
    name: &str,
    secret: &Path,
    has_token: bool,
) -> anyhow::Result<String> {
    // A JSON string is a YAML string.
    let secret = serde_json::to_string(&format!("file:{}", secret.display()))?;
    let auth = auth(kind, &secret)?;
    // The scanner's section needs a token from Sysdig. Without the section, everything but scanning works.
    let mark = if has_token { "" } else { "# " };
    Ok(format!(
        r#"# scanhook's configuration. Every setting: docs/configuration.md. `scanhook check` validates this file.
# Never write a secret here: `file:PATH` and `env:NAME` refer to it.

sources:
  # The registry sends its deliveries to /webhooks/{name}.
  {name}:
    kind: {kind}
    # The host that images are pulled from. Deliveries that name another host are skipped.
    registry: {registry}
    # The credentials that deliveries must have: one of these. A second entry helps to rotate a secret.
    auth: [{auth}]
    # Which repositories and tags to scan. `*` matches within a component, `**` across components. Default: all.
    # include: ["prod/**"]
    # exclude: ["**/cache"]
    # tags: {{ exclude: ["*-dev"] }}

# How to pull images, by host. Without an entry, images are pulled anonymously.
# registries:
#   {registry}:
#     credentials: {{ type: basic, username: scanhook, password: "env:REGISTRY_PASSWORD" }}

# The scanner. Create the API token in Sysdig Secure: Settings, Sysdig Secure API Token.
{mark}scanner:
{mark}  api_url: https://secure.sysdig.com
{mark}  api_token: "env:{TOKEN}"
  # Sysdig policies to evaluate, besides those that Sysdig always applies.
  # policies: [sysdig-best-practices]
  # timeout: 10m
  # concurrency: 1

# The same content is scanned once within this time.
# dedup: {{ window: 10m }}
"#,
        kind = kind.name,
    ))
}

/// The next steps, for a person.
fn next(
    args: &InitArgs,
    name: &str,
    secret: &Path,
    registry: &Registry,
    has_token: bool,
) -> String {
    let config = args.config.display();
    let flag = if args.config == Path::new("scanhook.yaml") {
        String::new()
    } else {
        format!(" --config {config}")
    };
    let token = if has_token {
        String::new()
    } else {
        format!(
            "\n  2. Set {TOKEN} to your Sysdig API token, and uncomment the section `scanner` in {config}."
        )
    };
    format!(
        "wrote {config}, and the secret of {name} to {secret} (keep it out of version control)\n\nNext:\n  \
         1. Check that your images are pulled from {registry}.{token}\n  \
         {third}. Run `scanhook check{flag}` to see what to enter at the registry; the secret is in {secret}.\n  \
         {fourth}. Run `scanhook serve{flag}`{no_scan}, and `scanhook send {name}{flag}` in another terminal.",
        secret = secret.display(),
        third = if has_token { 2 } else { 3 },
        fourth = if has_token { 3 } else { 4 },
        no_scan = if has_token {
            ""
        } else {
            " (with --no-scan until you have a token)"
        },
    )
}

#[cfg(test)]
mod tests {
    use scanhook_core::kinds;

    use super::*;

    #[test]
    fn the_configuration_of_every_kind_is_valid_with_and_without_a_token() {
        for kind in kinds::ALL {
            let registry =
                Registry::parse(kind.default_registry.unwrap_or(kind.example_registry)).unwrap();
            for has_token in [false, true] {
                let text = configuration(
                    kind,
                    &registry,
                    "my-source",
                    Path::new("my-source.secret"),
                    has_token,
                )
                .unwrap();
                let config = Config::parse(&text)
                    .unwrap_or_else(|err| panic!("{}: {err}\n{text}", kind.name));
                assert_eq!(config.scanner.is_some(), has_token, "{text}");
                assert!(config.sources.contains_key("my-source"));
            }
        }
    }
}
