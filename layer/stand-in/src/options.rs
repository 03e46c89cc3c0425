//! The command line: the flags of the real CLI that are not older than its v1 report, and nothing else.
//!
//! Stricter than the real one where scanhook could otherwise pass something by mistake: a flag is given once, `--dbpath` and
//! the report's file are absolute, `--output-json` and `--json-scan-result` (older report files) are unknown.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::iter;
use std::path::PathBuf;

use crate::reference::Reference;
use crate::stop::Stop;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Request {
    Help,
    Version,
    Scan(Box<Options>),
}

/// One scan, as asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) image: Reference,
    /// The pull string to report.
    pub(crate) pull_string: String,
    /// Empty only if `standalone`.
    pub(crate) api_url: String,
    pub(crate) standalone: bool,
    pub(crate) upload: bool,
    pub(crate) policies: Vec<String>,
    pub(crate) output: Output,
    pub(crate) log: Log,
    pub(crate) database: Place,
    pub(crate) cache: Place,
    pub(crate) clear_cache: bool,
}

/// Where the JSON report goes.
#[derive(Debug, PartialEq)]
pub(crate) enum Output {
    Nowhere,
    Stdout,
    File(PathBuf),
}

/// Where the log goes.
#[derive(Debug, PartialEq)]
pub(crate) enum Log {
    Console,
    File(PathBuf),
}

/// Where a file the CLI keeps lies.
#[derive(Debug, PartialEq)]
pub(crate) enum Place {
    Nowhere,
    BesideExecutable,
    Directory(PathBuf),
}

struct Flag {
    short: Option<char>,
    long: &'static str,
    /// The name of its value, if it takes one.
    value: Option<&'static str>,
}

const FLAGS: [Flag; 24] = [
    flag(Some('a'), "apiurl", Some("URL")),
    flag(Some('t'), "apitimeout", Some("SECONDS")),
    flag(Some('n'), "standalone", None),
    flag(None, "output", Some("json|json-file=PATH")),
    flag(None, "output-schema", Some("v1")),
    flag(None, "policy", Some("ID")),
    flag(Some('d'), "dbpath", Some("DIRECTORY")),
    flag(Some('p'), "cachepath", Some("DIRECTORY")),
    flag(Some('c'), "clearcache", None),
    flag(None, "no-cache", None),
    flag(Some('l'), "loglevel", Some("LEVEL")),
    flag(Some('o'), "logfile", Some("FILE")),
    flag(None, "console-log", None),
    flag(Some('s'), "skiptlsverify", None),
    flag(Some('u'), "skipupload", None),
    flag(None, "override-pullstring", Some("REFERENCE")),
    flag(None, "separate-by-layer", None),
    flag(None, "separate-by-image", None),
    flag(None, "offline-analyzer", None),
    flag(None, "skip-get-database", None),
    flag(None, "full-vulns-table", None),
    flag(None, "detailed-policies-eval", None),
    flag(None, "version", None),
    flag(Some('h'), "help", None),
];

const fn flag(short: Option<char>, long: &'static str, value: Option<&'static str>) -> Flag {
    Flag { short, long, value }
}

/// Parses the arguments after the program's name.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Request, Stop> {
    let (given, images) = Given::read(arguments)?;
    if given.has("help") {
        return Ok(Request::Help);
    }
    if given.has("version") {
        return Ok(Request::Version);
    }
    let [image] = images.as_slice() else {
        return Err(Stop::usage(format!(
            "exactly one image name is required, {} given",
            images.len()
        )));
    };
    given.options(image).map(|it| Request::Scan(Box::new(it)))
}

/// The text of `--help`.
pub(crate) fn help() -> String {
    let flags = FLAGS.iter().map(|flag| {
        let short = flag
            .short
            .map_or_else(|| "    ".to_owned(), |it| format!("-{it}, "));
        let value = flag.value.map_or_else(String::new, |it| format!("={it}"));
        format!("  {short}--{}{value}", flag.long)
    });
    let usage =
        "Usage:\n  sysdig-cli-scanner [OPTIONS] [ImageName]\n\nApplication Options:".to_owned();
    iter::once(usage)
        .chain(flags)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The flags of one command line, by long name, each with its values.
struct Given(BTreeMap<&'static str, Vec<String>>);

impl Given {
    /// Sorts the arguments into flags and images.
    fn read(arguments: Vec<OsString>) -> Result<(Self, Vec<String>), Stop> {
        let mut given = BTreeMap::<_, Vec<String>>::new();
        let mut images = Vec::new();
        let mut arguments = arguments.into_iter().map(text).peekable();
        while let Some(argument) = arguments.next() {
            let argument = argument?;
            if !argument.starts_with('-') {
                images.push(argument);
                continue;
            }
            let (name, attached) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (argument.as_str(), None),
            };
            let flag = find(name).ok_or_else(|| {
                Stop::usage(format!("unknown flag `{}'", name.trim_start_matches('-')))
            })?;
            let value = match (flag.value, attached) {
                (None, None) => String::new(),
                (None, Some(_)) => {
                    return Err(Stop::usage(format!(
                        "bool flag `--{}' cannot have an argument",
                        flag.long
                    )));
                }
                (Some(_), Some(value)) => value,
                (Some(_), None) => arguments
                    .next_if(|it| it.as_ref().is_ok_and(|it| !it.starts_with('-')))
                    .ok_or_else(|| {
                        Stop::usage(format!("expected argument for flag `--{}'", flag.long))
                    })??,
            };
            given.entry(flag.long).or_default().push(value);
        }
        match given
            .iter()
            .find(|(name, values)| **name != "policy" && values.len() > 1)
        {
            Some((name, _)) => Err(Stop::usage(format!(
                "flag `--{name}' is given more than once"
            ))),
            None => Ok((Self(given), images)),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.first().map(String::as_str)
    }

    /// The value of a flag that must hold what `valid` wants.
    fn valid(&self, name: &str, valid: impl Fn(&str) -> bool) -> Result<Option<&str>, Stop> {
        match self.value(name) {
            Some(value) if !valid(value) => Err(Stop::usage(format!(
                "invalid argument for flag `--{name}': {value:?}"
            ))),
            value => Ok(value),
        }
    }

    fn options(&self, image: &str) -> Result<Options, Stop> {
        let standalone = self.has("standalone");
        let api_url = self.valid("apiurl", is_http_url)?;
        if api_url.is_none() && !standalone {
            return Err(Stop::usage(
                "the required flag `-a, --apiurl' was not specified",
            ));
        }
        for name in ["offline-analyzer", "skip-get-database"] {
            if self.has(name) && !standalone {
                return Err(Stop::usage(format!("flag `--{name}' needs `--standalone'")));
            }
        }
        if self.has("logfile") && self.has("console-log") {
            return Err(Stop::usage(
                "flags `--logfile' and `--console-log' exclude each other",
            ));
        }
        let policies = self.0.get("policy").cloned().unwrap_or_default();
        if policies.iter().any(|it| it.trim().is_empty()) {
            return Err(Stop::usage("invalid argument for flag `--policy': \"\""));
        }
        self.valid("apitimeout", |it| it.parse::<u32>().is_ok())?;
        self.valid("output-schema", |it| it == "v1")?;
        self.valid("loglevel", |it| {
            ["trace", "debug", "info", "warn", "error"].contains(&it)
        })?;
        let output = match self.valid("output", |it| it == "json" || report_file(it).is_some())? {
            None => Output::Nowhere,
            Some(output) => report_file(output).map_or(Output::Stdout, Output::File),
        };
        let log = match self.valid("logfile", |it| !it.is_empty())? {
            Some(file) => Log::File(file.into()),
            None if self.has("console-log") => Log::Console,
            None => Log::File("scan-logs".into()),
        };
        let database = self.valid("dbpath", |it| it.starts_with('/'))?;
        let cache = self.valid("cachepath", |it| !it.is_empty())?;
        let image = Reference::parse(image)?;
        Ok(Options {
            pull_string: self
                .valid("override-pullstring", |it| !it.is_empty())?
                .unwrap_or(&image.text)
                .to_owned(),
            image,
            api_url: api_url.unwrap_or_default().trim_end_matches('/').to_owned(),
            standalone,
            upload: !standalone && !self.has("skipupload"),
            policies,
            output,
            log,
            database: place(database, self.has("skip-get-database")),
            cache: place(cache, self.has("no-cache")),
            clear_cache: self.has("clearcache"),
        })
    }
}

fn text(argument: OsString) -> Result<String, Stop> {
    argument
        .into_string()
        .map_err(|it| Stop::usage(format!("argument {} is not UTF-8", it.display())))
}

/// Finds `--long` or `-s`.
fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| match name.strip_prefix("--") {
        Some(long) => flag.long == long,
        None => flag.short.is_some_and(|it| name == format!("-{it}")),
    })
}

fn is_http_url(url: &str) -> bool {
    ["https://", "http://"]
        .into_iter()
        .filter_map(|it| url.strip_prefix(it))
        .any(|it| !it.is_empty() && !it.starts_with('/'))
}

/// The absolute path in `json-file=PATH`.
fn report_file(output: &str) -> Option<PathBuf> {
    output
        .strip_prefix("json-file=")
        .map(PathBuf::from)
        .filter(|it| it.is_absolute())
}

fn place(directory: Option<&str>, nowhere: bool) -> Place {
    match directory {
        _ if nowhere => Place::Nowhere,
        Some(directory) => Place::Directory(directory.into()),
        None => Place::BesideExecutable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Request, Stop> {
        parse(words.iter().map(OsString::from).collect())
    }

    fn scan(words: &[&str]) -> Options {
        match parse_words(words) {
            Ok(Request::Scan(options)) => *options,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    fn refused(words: &[&str], expected: &str) {
        let mut all = vec!["--apiurl=https://secure.sysdig.com", "demo/pass"];
        all.extend(words);
        let stop = parse_words(&all).unwrap_err();
        assert_eq!((stop.code, stop.words.as_str()), (2, expected), "{words:?}");
    }

    #[test]
    fn both_forms_of_a_flag_are_taken_with_the_image_first_or_last() {
        let one = scan(&[
            "pull://demo/pass",
            "--apiurl=https://a.example",
            "--policy",
            "one",
            "--policy=two words",
            "-d",
            "/db",
        ]);
        let two = scan(&[
            "-a",
            "https://a.example/",
            "--policy=one",
            "--policy",
            "two words",
            "--dbpath=/db",
            "pull://demo/pass",
        ]);
        assert_eq!(format!("{one:?}"), format!("{two:?}"));
        assert_eq!(one.policies, ["one", "two words"]);
        assert_eq!(one.database, Place::Directory("/db".into()));
        assert_eq!(one.pull_string, "demo/pass");
    }

    #[test]
    fn a_value_may_hold_equal_signs() {
        let options = scan(&[
            "--output",
            "json-file=/tmp/a=b.json",
            "--apiurl=http://127.0.0.1:1/?a=b",
            "demo/pass",
        ]);
        assert_eq!(options.output, Output::File("/tmp/a=b.json".into()));
        assert_eq!(options.api_url, "http://127.0.0.1:1/?a=b");
    }

    #[test]
    fn flags_that_do_not_exist_are_refused() {
        refused(&["--registry-user=robot"], "unknown flag `registry-user'");
        refused(&["--platform", "linux/amd64"], "unknown flag `platform'");
        refused(&["--timeout=5"], "unknown flag `timeout'");
        refused(
            &["--json-scan-result=/tmp/a"],
            "unknown flag `json-scan-result'",
        );
        refused(&["--iac"], "unknown flag `iac'");
        refused(&["--API_URL=x"], "unknown flag `API_URL'");
        refused(&["-apiurl", "x"], "unknown flag `apiurl'");
        refused(&["-su"], "unknown flag `su'");
        refused(&["--"], "unknown flag `'");
        refused(&["-"], "unknown flag `'");
    }

    #[test]
    fn flags_that_contradict_are_refused() {
        refused(
            &["--apiurl=https://b.example"],
            "flag `--apiurl' is given more than once",
        );
        refused(
            &["--skipupload", "-u"],
            "flag `--skipupload' is given more than once",
        );
        refused(
            &["--logfile=/tmp/log", "--console-log"],
            "flags `--logfile' and `--console-log' exclude each other",
        );
        refused(
            &["--skip-get-database"],
            "flag `--skip-get-database' needs `--standalone'",
        );
        refused(
            &["demo/fail"],
            "exactly one image name is required, 2 given",
        );
    }

    #[test]
    fn values_that_mean_nothing_are_refused() {
        refused(
            &["--output=json-file=report.json"],
            "invalid argument for flag `--output': \"json-file=report.json\"",
        );
        refused(
            &["--output=xml"],
            "invalid argument for flag `--output': \"xml\"",
        );
        refused(
            &["--output-schema=v2"],
            "invalid argument for flag `--output-schema': \"v2\"",
        );
        refused(
            &["--dbpath=db"],
            "invalid argument for flag `--dbpath': \"db\"",
        );
        refused(
            &["--apitimeout=2m"],
            "invalid argument for flag `--apitimeout': \"2m\"",
        );
        refused(
            &["--loglevel=loud"],
            "invalid argument for flag `--loglevel': \"loud\"",
        );
        refused(&["--policy="], "invalid argument for flag `--policy': \"\"");
        refused(
            &["--console-log=yes"],
            "bool flag `--console-log' cannot have an argument",
        );
        refused(&["--policy"], "expected argument for flag `--policy'");
        refused(
            &["--policy", "--skipupload"],
            "expected argument for flag `--policy'",
        );
    }

    #[test]
    fn the_address_of_the_api_must_be_given_and_be_http() {
        let missing = Stop::usage("the required flag `-a, --apiurl' was not specified");
        assert_eq!(parse_words(&["demo/pass"]).unwrap_err(), missing);
        for url in [
            "",
            "secure.sysdig.com",
            "ftp://secure.sysdig.com",
            "https://",
            "https:///path",
        ] {
            assert_eq!(
                parse_words(&["demo/pass", "--apiurl", url])
                    .unwrap_err()
                    .code,
                2,
                "{url}"
            );
        }
        assert!(scan(&["--standalone", "demo/pass"]).api_url.is_empty());
    }
}
