//! `scanhook doctor`: checks the real CLI, token and network on this machine.

use std::sync::Arc;
use std::time::Duration;

use scanhook_config::Environment;
use scanhook_config::secrets::Secrets;
use scanhook_core::tools::sysdig::TOOL;
use scanhook_registry::{Registries, system_dns};
use scanhook_scanner::cli::{Cli, Confinement, Inherited};
use scanhook_scanner::config::ScannerSettings;
use scanhook_scanner::doctor::{self, Diagnosis, Images};
use scanhook_scanner::program::named_program;
use scanhook_scanner::secret_places::secret_places;

use crate::args::{DoctorArgs, Output};
use crate::host::scanning;
use crate::outcome::{Outcome, unusable};
use crate::{configuration, output};

/// Effectively no limit: somebody at a terminal can interrupt, and each run has its own timeout.
const LIMIT: Duration = Duration::from_hours(12);

pub(crate) async fn command(args: DoctorArgs, environment: Environment) -> anyhow::Result<Outcome> {
    let secrets = Secrets::local(&environment);
    let config = Arc::new(configuration::load(&args.config.location, &secrets).await?);
    let hidden = secret_places(&config, &environment);
    let settings = ScannerSettings::load(&secrets, Arc::clone(&config)).await;
    let settings = settings.map_err(unusable)?;
    let registries = Registries::load(
        &secrets,
        &environment,
        config,
        scanning::registry_deps(system_dns()),
    )
    .await;
    let registries = registries.map_err(unusable)?;
    let cli = Cli {
        tool: &TOOL,
        // A missing CLI is a finding, not an error.
        program: named_program(&TOOL, &args.scanner_cli, &environment).unwrap_or(args.scanner_cli),
        inherited: Inherited::of(&environment),
        confinement: Confinement::of_this_program(hidden).await,
    };
    let images = Images {
        pass: args.pass_image,
        fail: args.fail_image,
    };
    output::notice("running several scans; this takes a while");
    let scratch = std::env::temp_dir();
    let diagnosis = doctor::examine(
        &cli,
        (&settings, &registries),
        images,
        &scratch,
        &environment,
        LIMIT,
    )
    .await?;
    match args.output {
        Output::Json => output::json(&diagnosis)?,
        Output::Table => show(&diagnosis)?,
    }
    Ok(if diagnosis.is_healthy() {
        Outcome::Fine
    } else {
        Outcome::Findings
    })
}

fn show(diagnosis: &Diagnosis) -> anyhow::Result<()> {
    let checks = diagnosis.checks.iter().map(|it| {
        vec![
            it.check.to_owned(),
            it.outcome.as_str().to_owned(),
            it.detail.clone(),
        ]
    });
    output::table(&["check", "outcome", "detail"], checks.collect())?;
    let assumptions = diagnosis.assumptions.iter().map(|it| {
        vec![
            it.id.to_owned(),
            it.finding.as_str().to_owned(),
            it.assumption.to_owned(),
            it.how.clone(),
        ]
    });
    output::table(
        &["assumption", "finding", "text", "evidence"],
        assumptions.collect(),
    )?;
    let host = &diagnosis.host;
    let mebibytes = |bytes: Option<u64>| {
        bytes.map_or_else(|| "unknown".to_owned(), |it| format!("{} MiB", it >> 20))
    };
    output::line(&format!(
        "machine: {}, {} processors, {} memory ({} free), {} free in {}",
        host.architecture,
        host.cpus
            .map_or_else(|| "unknown".to_owned(), |it| it.to_string()),
        mebibytes(host.memory_bytes),
        mebibytes(host.memory_available_bytes),
        mebibytes(host.disk_available_bytes),
        host.scratch,
    ))
}
