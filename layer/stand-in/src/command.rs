//! The command line: what scanhook passes to the CLI, and nothing else.
//!
//! Stricter than the real CLI, so that no mistake passes: every flag is required once (except `--policy`) with a valid value, and the
//! image comes last.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;

use regex_lite::Regex;

use crate::stop::Stop;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Request {
    Version,
    Scan(Box<Options>),
}

/// The arguments of one scan.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) image: Image,
    pub(crate) api_url: String,
    pub(crate) policies: Vec<String>,
    pub(crate) report: PathBuf,
    pub(crate) database: PathBuf,
    pub(crate) cache: PathBuf,
}

/// An image reference and its parts.
#[derive(Debug)]
pub(crate) struct Image {
    /// The reference as given, without `pull://`.
    pub(crate) text: String,
    pub(crate) host: String,
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
}

/// Parses the arguments after the program's name.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Request, Stop> {
    let arguments: Vec<_> = arguments.into_iter().map(text).collect::<Result<_, _>>()?;
    if arguments == ["--version"] {
        return Ok(Request::Version);
    }
    let Some((image, mut flags)) = arguments.split_last().map(|(it, rest)| (it, rest.to_vec()))
    else {
        return Err(Stop::usage("exactly one image name is required, 0 given"));
    };
    let mut required = |name: &str, is_valid: fn(&str) -> bool| {
        let mut occurrences = flags.extract_if(.., |it| it.split('=').next() == Some(name));
        let flag = occurrences
            .next()
            .ok_or_else(|| Stop::usage(format!("the required flag `{name}' was not specified")))?;
        let rest = flag.strip_prefix(name).unwrap_or_default();
        match rest.strip_prefix('=').unwrap_or(rest) {
            _ if occurrences.next().is_some() => Err(Stop::usage(format!(
                "flag `{name}' is given more than once"
            ))),
            value if is_valid(value) => Ok(value.to_owned()),
            value => Err(Stop::usage(format!(
                "invalid argument for flag `{name}': {value:?}"
            ))),
        }
    };
    let api_url = required("--apiurl", is_http_url)?;
    required("--console-log", str::is_empty)?;
    required("--loglevel", |it| it == "info")?;
    required("--output-schema", |it| it == "v1")?;
    let report = required("--output", |it| it.starts_with("json-file=/"))?;
    let database = required("--dbpath", |it| it.starts_with('/'))?;
    let cache = required("--cachepath", |it| it.starts_with('/'))?;
    let mut policies = Vec::new();
    for flag in flags {
        match flag.strip_prefix("--policy=") {
            Some(policy) if !policy.trim().is_empty() => policies.push(policy.to_owned()),
            Some(_) => return Err(Stop::usage("invalid argument for flag `--policy': \"\"")),
            None => {
                return Err(Stop::usage(format!(
                    "unknown flag or second image `{flag}'"
                )));
            }
        }
    }
    Ok(Request::Scan(Box::new(Options {
        image: Image::parse(image)?,
        api_url: api_url.trim_end_matches('/').to_owned(),
        policies,
        report: report.trim_start_matches("json-file=").into(),
        database: database.into(),
        cache: cache.into(),
    })))
}

/// An image reference with transport and host, which scanhook never omits. The grammar is that of the distribution project.
static IMAGE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let word = "[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*";
    let label = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?";
    let host = format!(r"(?:{label}(?:\.{label})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?");
    let digest = "sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}";
    Regex::new(&format!(
        r"^pull://((?<host>{host})/(?<repository>{word}(?:/{word})*)(?::(?<tag>\w[\w.-]{{0,127}}))?(?:@(?<digest>{digest}))?)$"
    ))
    .ok()
});

impl Image {
    fn parse(image: &str) -> Result<Self, Stop> {
        let found = IMAGE.as_ref().and_then(|it| it.captures(image));
        let found =
            found.ok_or_else(|| Stop::usage(format!("invalid image reference {image:?}")))?;
        let part = |name| found.name(name).map(|it| it.as_str().to_owned());
        Ok(Self {
            text: image.trim_start_matches("pull://").to_owned(),
            host: part("host").unwrap_or_default(),
            repository: part("repository").unwrap_or_default(),
            tag: part("tag"),
            digest: part("digest"),
        })
    }

    /// The last component of the repository, which selects the behaviour.
    pub(crate) fn name(&self) -> &str {
        self.repository
            .rsplit('/')
            .next()
            .unwrap_or(&self.repository)
    }

    /// The URL of the image's manifest.
    pub(crate) fn manifest_url(&self) -> String {
        let wanted = self.digest.as_deref().or(self.tag.as_deref());
        format!(
            "https://{}/v2/{}/manifests/{}",
            self.host,
            self.repository,
            wanted.unwrap_or("latest")
        )
    }
}

fn text(argument: OsString) -> Result<String, Stop> {
    argument
        .into_string()
        .map_err(|it| Stop::usage(format!("argument {} is not UTF-8", it.display())))
}

fn is_http_url(url: &str) -> bool {
    ["https://", "http://"]
        .into_iter()
        .filter_map(|it| url.strip_prefix(it))
        .any(|it| !it.is_empty() && !it.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    /// The arguments of scanhook, with some replaced, removed or added.
    fn parsed(change: impl Fn(&mut Vec<String>)) -> Result<Options, Stop> {
        let mut words: Vec<String> = [
            "--apiurl=https://secure.sysdig.com",
            "--console-log",
            "--loglevel=info",
            "--output=json-file=/tmp/a=b.json",
            "--output-schema=v1",
            "--dbpath=/db",
            "--cachepath=/cache",
            "pull://registry.example.com/demo/pass",
        ]
        .map(str::to_owned)
        .to_vec();
        change(&mut words);
        match parse(words.into_iter().map(OsString::from).collect())? {
            Request::Scan(options) => Ok(*options),
            Request::Version => panic!("a scan was asked for"),
        }
    }

    fn refused(flag: &str, instead: &[&str], expected: &str) {
        let stop = parsed(|words| {
            let place = words.iter().position(|it| it.starts_with(flag)).unwrap();
            words.splice(place..=place, instead.iter().map(|it| (*it).to_owned()));
        });
        let stop = stop.unwrap_err();
        assert_eq!(
            (stop.code, stop.words.as_str()),
            (2, expected),
            "{instead:?}"
        );
    }

    #[test]
    fn the_arguments_of_scanhook_are_accepted() {
        let options = parsed(|words| {
            words.insert(0, "--policy=one".to_owned());
            words.insert(0, "--policy=two words, and = signs".to_owned());
        });
        let options = options.unwrap();
        assert_eq!(options.policies, ["two words, and = signs", "one"]);
        assert_eq!(options.report, PathBuf::from("/tmp/a=b.json"));
        assert_eq!(options.image.text, "registry.example.com/demo/pass");
    }

    #[test]
    fn a_flag_that_is_unknown_missing_or_repeated_is_refused() {
        let unknown = ["--console-log", "--platform=linux/amd64"];
        refused(
            "--console-log",
            &unknown,
            "unknown flag or second image `--platform=linux/amd64'",
        );
        refused(
            "--console-log",
            &["--console-log", "-u"],
            "unknown flag or second image `-u'",
        );
        refused(
            "--console-log",
            &[],
            "the required flag `--console-log' was not specified",
        );
        let twice = ["--dbpath=/db", "--dbpath=/db"];
        refused(
            "--dbpath",
            &twice,
            "flag `--dbpath' is given more than once",
        );
        let two = ["pull://a.io/a", "pull://a.io/b"];
        refused("pull", &two, "unknown flag or second image `pull://a.io/a'");
    }

    #[test]
    fn an_invalid_value_is_refused() {
        for (flag, value) in [
            ("--apiurl", "ftp://secure.sysdig.com"),
            ("--apiurl", "https:///path"),
            ("--apiurl", ""),
            ("--console-log", "yes"),
            ("--loglevel", "loud"),
            ("--output", "json-file=report.json"),
            ("--output", "json"),
            ("--output-schema", "v2"),
            ("--dbpath", "db"),
            ("--cachepath", ""),
        ] {
            let words = format!("invalid argument for flag `{flag}': {value:?}");
            refused(flag, &[&format!("{flag}={value}")], &words);
        }
        let blank = ["--policy= ", "--dbpath=/db"];
        refused(
            "--dbpath",
            &blank,
            "invalid argument for flag `--policy': \"\"",
        );
    }

    #[test]
    fn an_image_may_have_a_port_a_tag_and_a_digest() {
        for (image, host, repository, tag) in [
            (
                "localhost:5000/demo/fail:1.2",
                "localhost:5000",
                "demo/fail",
                Some("1.2"),
            ),
            ("[::1]:5000/a/b", "[::1]:5000", "a/b", None),
            (
                "registry.example.com/a__b/c-d--e/f.g:_x",
                "registry.example.com",
                "a__b/c-d--e/f.g",
                Some("_x"),
            ),
        ] {
            let image = Image::parse(&format!("pull://{image}@{DIGEST}")).unwrap();
            let found = (
                image.host.as_str(),
                image.repository.as_str(),
                image.tag.as_deref(),
            );
            assert_eq!(found, (host, repository, tag));
            assert_eq!(image.digest.as_deref(), Some(DIGEST));
        }
    }

    #[test]
    fn an_invalid_reference_is_a_wrong_parameter() {
        let long_tag = format!("pull://a.io/demo/pass:{}", "x".repeat(129));
        let two_digests = format!("pull://a.io/demo/pass@{DIGEST}@{DIGEST}");
        for image in [
            "",
            "pull://",
            "a.io/demo/pass",
            "docker://a.io/demo/pass",
            "pull://pass",
            "pull://a.io/Demo/pass",
            "pull://a.io/demo//pass",
            "pull://a.io/demo/pass:",
            "pull://a.io/demo/pass@sha256:00",
            "pull://a.io/demo/___pass",
            "pull://a.io/demo/pa..ss",
            "pull://a.io/demo/pass-",
            "pull://a.io/demo/pass; id",
            "pull://a.io/demo/pass\n",
            "pull://host.:5000/a",
            "pull://host:port/a",
            "pull://pull://a/b",
            "pull://a.io/demo/../pass",
            &long_tag,
            &two_digests,
        ] {
            assert_eq!(Image::parse(image).unwrap_err().code, 2, "{image:?}");
        }
    }
}
