//! Where traces go, as OpenTelemetry's environment variables say it.

use http::{HeaderName, HeaderValue, Uri};

use scanhook_config::Environment;

/// A collector, and what it is told of this process.
pub(super) struct Target {
    pub(super) url: Uri,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// What names this process among others.
    pub(super) resource: Vec<(String, String)>,
}

/// A variable that is not as OpenTelemetry has it, or asks for what is not had here. Its value is not told: headers hold
/// secrets.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} must be {expected}")]
pub struct ParseTargetError {
    variable: &'static str,
    expected: &'static str,
}

impl Target {
    /// Source: OpenTelemetry specification, "OTLP exporter configuration" and "Environment variables".
    pub(super) fn from_environment(
        environment: &Environment,
        service: &str,
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
        let Some((variable, mut url)) = endpoint else {
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
            expect(protocol == "http/json", variable, "http/json")?;
        }
        if variable == "OTEL_EXPORTER_OTLP_ENDPOINT" {
            url = format!("{}/v1/traces", url.trim_end_matches('/'));
        }
        let url: Option<Uri> = url.parse().ok();
        let url = url.filter(|it| {
            matches!(it.scheme_str(), Some("http" | "https")) && it.authority().is_some()
        });
        let url = url.ok_or(ParseTargetError {
            variable,
            expected: "an http or https URL",
        })?;
        let headers = either([
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
            "OTEL_EXPORTER_OTLP_HEADERS",
        ]);
        let headers = headers.map_or(Ok(Vec::new()), |(variable, text)| {
            headers_in(&text).ok_or(ParseTargetError {
                variable,
                expected: "a list of name=value, percent-encoded",
            })
        })?;
        let variable = "OTEL_RESOURCE_ATTRIBUTES";
        let attributes = pairs(&get(variable).unwrap_or_default()).ok_or(ParseTargetError {
            variable,
            expected: "a list of name=value, percent-encoded",
        })?;
        let is_named = |it: &(String, String)| it.0 == "service.name";
        let mut resource = attributes;
        if let Some(name) = get("OTEL_SERVICE_NAME") {
            resource.retain(|it| !is_named(it));
            resource.push(("service.name".to_owned(), name));
        } else if !resource.iter().any(is_named) {
            resource.push(("service.name".to_owned(), service.to_owned()));
        }
        Ok(Some(Self {
            url,
            headers,
            resource,
        }))
    }
}

fn headers_in(text: &str) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let headers = pairs(text)?.into_iter().map(|(name, value)| {
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::try_from(name).ok()?, value))
    });
    headers.collect()
}

/// Reads `a=b,c=d` with percent-encoded values. Source: W3C, "Baggage", section 3.3.1, which OpenTelemetry names.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let members = text.split(',').map(str::trim).filter(|it| !it.is_empty());
    let pair = |member: &str| {
        let (name, value) = member.split_once('=')?;
        let (name, value) = (name.trim(), decode(value.trim())?);
        (!name.is_empty()).then(|| (name.to_owned(), value))
    };
    members.map(pair).collect()
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let digit = |it: u8| char::from(it).to_digit(16);
            let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(decoded).ok()
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
        Target::from_environment(&environment, "scanhook-test")
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
    fn an_endpoint_for_all_signals_has_the_path_of_traces_added_and_one_for_traces_has_not() {
        let url = |variables: &[_]| read(variables).unwrap().unwrap().url.to_string();
        assert_eq!(url(&[ENDPOINT]), "http://127.0.0.1:4318/v1/traces");
        let traces = (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "https://t.example.com/x/",
        );
        assert_eq!(url(&[ENDPOINT, traces]), "https://t.example.com/x/");
    }

    #[test]
    fn headers_and_names_are_decoded() {
        let headers = (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20fake-token, x-tenant = a%2Cb ,",
        );
        let resource = (
            "OTEL_RESOURCE_ATTRIBUTES",
            "service.name=other,deployment.environment.name=pr%C3%B6d",
        );
        let target = read(&[ENDPOINT, headers, resource]).unwrap().unwrap();
        let headers: Vec<_> = target
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(
            headers,
            [("authorization", "Bearer fake-token"), ("x-tenant", "a,b")]
        );
        assert!(target.headers.iter().all(|it| it.1.is_sensitive()));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = pair("deployment.environment.name", "pröd");
        assert_eq!(
            target.resource,
            [pair("service.name", "other"), environment.clone()]
        );
        let named = ("OTEL_SERVICE_NAME", "mine");
        let target = read(&[ENDPOINT, named, resource]).unwrap().unwrap();
        assert_eq!(target.resource, [environment, pair("service.name", "mine")]);
        let target = read(&[ENDPOINT]).unwrap().unwrap();
        assert_eq!(target.resource, [pair("service.name", "scanhook-test")]);
    }

    #[test]
    fn what_is_wrong_is_told_by_name_and_never_by_value() {
        for (variable, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "canary:4317"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "canary"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://canary"),
            ("OTEL_TRACES_EXPORTER", "canary"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "canary"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=%zzcanary"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=canary%0a"),
            ("OTEL_RESOURCE_ATTRIBUTES", "=canary"),
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
