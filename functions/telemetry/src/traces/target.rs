//! Whether traces are exported: the variables that OpenTelemetry's crates don't read, or don't check.

use std::time::Duration;

use http::Uri;
use scanhook_config::Environment;

/// OpenTelemetry's default. Source: OpenTelemetry specification, "OTLP exporter configuration".
const TIMEOUT: Duration = Duration::from_secs(10);

/// A collector as far as it is not for OpenTelemetry's crates to know.
pub(super) struct Target {
    pub(super) url: Uri,
    /// The longest single request.
    pub(super) timeout: Duration,
}

/// A variable that is not as OpenTelemetry has it, or asks for what is not supported here. Its value may be a secret and is
/// not shown.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} must be {expected}")]
pub struct ParseTargetError {
    variable: &'static str,
    expected: &'static str,
}

impl ParseTargetError {
    /// A variable that OpenTelemetry's exporter reads and refuses.
    pub(super) const EXPORTER: Self = Self {
        variable: "OTEL_EXPORTER_OTLP_*",
        expected: "as OpenTelemetry's specification has it, without compression",
    };
}

impl Target {
    /// `None` if no collector is named. Source: OpenTelemetry specification, "OTLP exporter configuration" and "Environment
    /// variables".
    pub(super) fn from_environment(
        environment: &Environment,
    ) -> Result<Option<Self>, ParseTargetError> {
        // A variable that is set to nothing counts as unset.
        let get = |name: &str| environment(name).filter(|it| !it.is_empty());
        // What is for traces alone comes before what is for all signals.
        let either = |names: [&'static str; 2]| {
            let mut values = names.into_iter();
            values.find_map(|name| Some((name, get(name)?)))
        };
        let is_off = get("OTEL_SDK_DISABLED").is_some_and(|it| it.eq_ignore_ascii_case("true"));
        let exporter = get("OTEL_TRACES_EXPORTER");
        if is_off || exporter.as_deref() == Some("none") {
            return Ok(None);
        }
        let endpoint = either([
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ]);
        let Some((variable, url)) = endpoint else {
            return Ok(None);
        };
        let expect = |is_so: bool, variable, expected| {
            let error = ParseTargetError { variable, expected };
            if is_so { Ok(()) } else { Err(error) }
        };
        let is_otlp = exporter.is_none_or(|it| it == "otlp");
        expect(is_otlp, "OTEL_TRACES_EXPORTER", "otlp or none")?;
        if let Some((variable, protocol)) = either([
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "OTEL_EXPORTER_OTLP_PROTOCOL",
        ]) {
            expect(protocol == "http/protobuf", variable, "http/protobuf")?;
        }
        let url: Option<Uri> = url.parse().ok();
        let url = url.filter(|it| {
            matches!(it.scheme_str(), Some("http" | "https")) && it.authority().is_some()
        });
        let url = url.ok_or(ParseTargetError {
            variable,
            expected: "an http or https URL",
        })?;
        let timeout = either([
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
            "OTEL_EXPORTER_OTLP_TIMEOUT",
        ]);
        let timeout = timeout.map_or(Ok(TIMEOUT), |(variable, text)| {
            let expected = "a number of milliseconds";
            let milliseconds = text.parse().map(Duration::from_millis);
            milliseconds.map_err(|_| ParseTargetError { variable, expected })
        })?;
        Ok(Some(Self { url, timeout }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Target>, ParseTargetError> {
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let environment: Environment = Arc::new(move |name| {
            let mut variables = variables.iter();
            variables.find(|it| it.0 == name).map(|it| it.1.clone())
        });
        Target::from_environment(&environment)
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/");

    #[test]
    fn without_a_collector_there_is_no_target() {
        for variables in [
            &[][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
            &[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")],
            &[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert!(read(variables).unwrap().is_none(), "{variables:?}");
        }
    }

    #[test]
    fn what_is_for_traces_alone_comes_first() {
        let target = read(&[
            ENDPOINT,
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "https://t.example.com/x/",
            ),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "7000"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "250"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
        ]);
        let target = target.unwrap().unwrap();
        assert_eq!(target.url, "https://t.example.com/x/");
        assert_eq!(target.timeout, Duration::from_millis(250));
    }

    #[test]
    fn a_problem_is_shown_by_the_variables_name_and_never_by_its_value() {
        for (variable, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "canary:4317"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "canary"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://canary"),
            ("OTEL_TRACES_EXPORTER", "canary"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "canary"),
        ] {
            let error = read(&[(variable, value), ENDPOINT]).err().unwrap();
            let text = error.to_string();
            assert!(
                text.starts_with(variable) && !text.contains("canary"),
                "{text}"
            );
        }
    }
}
