//! One run: database, image, report, in the order and words of the real CLI.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::behaviour::{self, Act, Behaviour, Ends, Stage};
use crate::console::Console;
use crate::database::{self, Database};
use crate::environment::Environment;
use crate::lock;
use crate::options::{Options, Output};
use crate::report;
use crate::stop::Stop;

/// One run and what it holds.
pub(crate) struct Scan<'a> {
    pub(crate) options: &'a Options,
    pub(crate) environment: &'a Environment,
    pub(crate) console: Console,
    pub(crate) database: Option<Database>,
    pub(crate) cache: Option<File>,
    behaviour: &'static Behaviour,
    started: Instant,
}

/// Scans as asked, and returns the exit code.
pub(crate) fn scan(options: &Options, environment: &Environment) -> Result<u8, Stop> {
    if environment.token.is_empty() && !options.standalone {
        return Err(Stop::usage(
            "environment variable SECURE_API_TOKEN cannot be empty",
        ));
    }
    let mut scan = Scan {
        options,
        environment,
        console: Console::open(options)?,
        database: None,
        cache: None,
        behaviour: behaviour::of(options.image.name()),
        started: Instant::now(),
    };
    scan.run().or_else(|stop| {
        scan.console.progress(&stop.words)?;
        Ok(stop.code)
    })
}

impl Scan<'_> {
    fn run(&mut self) -> Result<u8, Stop> {
        self.progress(&format!(
            "Starting analysis with Sysdig scanner version {}",
            lock::stand_in_version()
        ))?;
        let home = self
            .environment
            .home
            .as_deref()
            .ok_or_else(|| Stop::error("$HOME is not defined"))?;
        writable("HOME", home)?;
        writable("TMPDIR", &self.environment.temporary)?;
        if let Some(path) = &self.environment.certificates {
            holds_certificates(path)?;
        }
        self.cache = database::open_cache(&self.options.cache, self.options.clear_cache)?;
        self.load_database()?;
        self.load_image()?;
        self.report()
    }

    fn load_database(&mut self) -> Result<(), Stop> {
        self.progress("Retrieving MainDB...")?;
        self.stop_at(Stage::Database)?;
        if !self.options.standalone {
            for refused in ["bad-token", "wrong-region"] {
                if self.environment.token.contains(refused) {
                    return self.stop_like(behaviour::of(refused));
                }
            }
        }
        self.database = Database::open(&self.options.database)?;
        let cached = self.database.as_ref().is_none_or(|it| it.cached);
        self.progress(if cached {
            "Done, using cached DB"
        } else {
            "Done 116.3 MB"
        })?;
        self.progress("Loading MainDB...")?;
        self.progress("Done")
    }

    fn load_image(&mut self) -> Result<(), Stop> {
        self.progress("Retrieving image...")?;
        self.stop_at(Stage::Image)?;
        if let Act::Does(deed) = self.behaviour.act {
            deed(self)?;
        }
        self.progress("Done")?;
        self.progress("Scan started...")
    }

    fn report(&mut self) -> Result<u8, Stop> {
        let shape = match self.behaviour.act {
            Act::Reports(shape) => shape,
            Act::Stops(..) | Act::Does(_) => report::Shape::Passed,
        };
        if self.options.upload {
            self.progress("Uploading result to backend...")?;
            self.progress("Done")?;
        }
        let took = self.started.elapsed();
        self.progress(&format!("Total execution time {}", go_duration(took)))?;
        self.console.table(&report::table(self.options, shape))?;
        if let Some(report) = report::text(self.options, shape, took) {
            match &self.options.output {
                Output::Nowhere => {}
                Output::Stdout => io::stdout().write_all(&report)?,
                Output::File(path) => {
                    fs::write(path, report)
                        .map_err(|err| Stop::error(format!("open {}: {err}", path.display())))?;
                }
            }
        }
        match self.behaviour.ends {
            Ends::Code(code) if !self.options.standalone => Ok(code),
            Ends::Code(_) | Ends::Second | Ends::Killed | Ends::Never => Ok(0),
        }
    }

    /// Prints a line of progress.
    pub(crate) fn progress(&mut self, words: &str) -> Result<(), Stop> {
        Ok(self.console.progress(words)?)
    }

    fn stop_at(&self, stage: Stage) -> Result<(), Stop> {
        match self.behaviour.act {
            Act::Stops(at, _) if at == stage => self.stop_like(self.behaviour),
            _ => Ok(()),
        }
    }

    /// Stops with the words and the exit code of a behaviour.
    pub(crate) fn stop_like(&self, behaviour: &Behaviour) -> Result<(), Stop> {
        let Act::Stops(_, words) = behaviour.act else {
            return Ok(());
        };
        let code = match behaviour.ends {
            Ends::Code(code) => code,
            Ends::Second | Ends::Killed | Ends::Never => 3,
        };
        let image = &self.options.image;
        let words = words
            .replace("{image}", &image.text)
            .replace("{host}", &image.host)
            .replace("{repository}", &image.repository)
            .replace("{manifest}", &image.manifest_url());
        Err(Stop { code, words })
    }
}

/// Refuses a directory nothing can be written to.
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

/// Refuses a file without certificates, with which nothing would be trusted. Go reports that at the first connection only.
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

/// A duration as Go prints it, below an hour.
pub(crate) fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match duration.as_secs() {
        0 => format!("{}ms", seconds * 1000.0),
        1..60 => format!("{seconds}s"),
        whole => format!("{}m{}s", whole / 60, whole % 60),
    }
}
