//! One run: database, image and report, in the order and with the words of the real CLI.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use crate::behaviour::{self, Act, Behaviour, Ends, Stage};
use crate::command::{Image, Options};
use crate::database::{self, Database};
use crate::environment::Environment;
use crate::lock;
use crate::report::{self, Shape};
use crate::run::{self, Run, progress};
use crate::stop::Stop;

/// Runs one scan, and returns the exit code.
pub(crate) fn scan(options: &Options, environment: &Environment) -> Result<u8, Stop> {
    if environment.token.is_empty() {
        return Err(Stop::usage(
            "environment variable SECURE_API_TOKEN cannot be empty",
        ));
    }
    work(options, environment).or_else(|stop| {
        progress(&stop.words)?;
        Ok(stop.code)
    })
}

fn work(options: &Options, environment: &Environment) -> Result<u8, Stop> {
    let (started, behaviour) = (Instant::now(), behaviour::of(options.image.name()));
    let version = lock::stand_in_version();
    progress(&format!(
        "Starting analysis with Sysdig scanner version {version}"
    ))?;
    check(environment)?;
    let cache = database::open_cache(&options.cache)?;
    let mut run = Run {
        options,
        environment,
        cache,
        database: load_database(options, environment, behaviour)?,
    };
    load_image(&mut run, behaviour)?;
    let shape = match behaviour.act {
        Act::Reports(shape) => shape,
        Act::Stops(..) | Act::Does(_) => Shape::Passed,
    };
    progress("Uploading result to backend...")?;
    progress("Done")?;
    if let Some(report) = report::text(options, shape, started.elapsed()) {
        let path = &options.report;
        fs::write(path, report)
            .map_err(|err| Stop::error(format!("open {}: {err}", path.display())))?;
    }
    match behaviour.ends {
        Ends::Code(code) => Ok(code),
        Ends::Second | Ends::Killed | Ends::Never => Ok(0),
    }
}

/// Refuses an environment in which the real CLI could not work.
fn check(environment: &Environment) -> Result<(), Stop> {
    let home = environment.home.as_deref();
    writable(
        "HOME",
        home.ok_or_else(|| Stop::error("$HOME is not defined"))?,
    )?;
    writable("TMPDIR", &environment.temporary)?;
    environment
        .certificates
        .as_deref()
        .map_or(Ok(()), holds_certificates)
}

fn load_database(
    options: &Options,
    environment: &Environment,
    behaviour: &Behaviour,
) -> Result<Database, Stop> {
    progress("Retrieving MainDB...")?;
    stop_at(Stage::Database, behaviour, &options.image)?;
    for refused in ["bad-token", "wrong-region"] {
        if environment.token.contains(refused) {
            stop_at(Stage::Database, behaviour::of(refused), &options.image)?;
        }
    }
    let database = Database::open(&options.database)?;
    progress(if database.cached {
        "Done, using cached DB"
    } else {
        "Done 116.3 MB"
    })?;
    progress("Loading MainDB...")?;
    progress("Done")?;
    Ok(database)
}

fn load_image(run: &mut Run<'_>, behaviour: &Behaviour) -> Result<(), Stop> {
    progress("Retrieving image...")?;
    stop_at(Stage::Image, behaviour, &run.options.image)?;
    if let Act::Does(action) = behaviour.act {
        action(run)?;
    }
    progress("Done")?;
    progress("Scan started...")
}

/// Stops if the behaviour stops at this stage.
fn stop_at(stage: Stage, behaviour: &Behaviour, image: &Image) -> Result<(), Stop> {
    match (&behaviour.act, behaviour.ends) {
        (Act::Stops(at, words), Ends::Code(code)) if *at == stage => {
            Err(run::stop(code, words, image))
        }
        _ => Ok(()),
    }
}

/// Refuses a directory that is not writable.
fn writable(variable: &str, directory: &Path) -> Result<(), Stop> {
    let probe = directory.join(format!(".sysdig-cli-scanner-{}", std::process::id()));
    File::create_new(&probe)
        .and_then(|_| fs::remove_file(&probe))
        .map_err(|err| {
            Stop::error(format!(
                "{variable} {} is not writable: {err}",
                directory.display()
            ))
        })
}

/// Refuses a file without certificates, because then nothing is trusted. Go reports this only at the first connection.
fn holds_certificates(path: &Path) -> Result<(), Stop> {
    let pem = fs::read_to_string(path).unwrap_or_default();
    if pem.contains("-----BEGIN CERTIFICATE-----") {
        return Ok(());
    }
    Err(Stop::error(format!(
        "SSL_CERT_FILE {} holds no certificates: x509: certificate signed by unknown authority",
        path.display()
    )))
}
