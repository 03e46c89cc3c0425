//! Prometheus metrics: those of both functions, and those that only a server has; all with the prefix `scanhook_`.

use std::sync::OnceLock;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use metrics_util::layers::{Layer as _, Prefix, PrefixLayer};
use scanhook_core::source::SourceName;
use scanhook_telemetry::metrics::{Kind, METRICS, Metric};

/// The gauges of a server, with their help texts.
const GAUGES: [(&str, &str); 5] = [
    ("queue_depth", "Messages waiting to be received"),
    (
        "queue_in_flight",
        "Messages being scanned or waiting for their next attempt",
    ),
    (
        "queue_oldest_age_seconds",
        "The age of the oldest message, 0 if the queue is empty; embedded queue only",
    ),
    (
        "ready",
        "Whether a part works, as in /readyz: 1 or 0, NaN while unknown",
    ),
    (
        "not_ready",
        "1 while a part fails for this cause, as in /readyz",
    ),
];

/// The counters of a server, besides those of the functions.
const COUNTERS: [(&str, &str); 4] = [
    (
        "connections_closed",
        "Connections closed in favour of new ones while all connections of a listener were in use",
    ),
    (
        "messages_expired",
        "Messages older than the retention of a queue; those of the main queue became dead letters",
    ),
    (
        "queue_failures",
        "Failed operations of the embedded queue, by cause",
    ),
    (
        "queue_refusals",
        "Requests that the SQS endpoint refused without reading them, by reason",
    ),
];

/// Buckets for attempts: up to hours, for long scans of `work`.
const DURATIONS: [f64; 12] = [
    0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3_600.0, 14_400.0,
];

/// Buckets from delivery to verdict: up to four days, the default retention of SQS.
const AGES: [f64; 12] = [
    1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0, 345_600.0,
];

/// Installs the recorder at the first call; returns the handle that renders its metrics.
pub(crate) fn prometheus() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let (recorder, handle) = recorder();
        // Fails only if another recorder is installed, and nothing else in this program installs one.
        let _ = metrics::set_global_recorder(recorder);
        describe();
        handle
    })
}

fn recorder() -> (Prefix<PrometheusRecorder>, PrometheusHandle) {
    let buckets = |builder: PrometheusBuilder, name: &str, values: &[f64]| {
        let name = Matcher::Full(format!("scanhook_{name}"));
        match builder.set_buckets_for_metric(name, values) {
            Ok(builder) => builder,
            Err(_) => unreachable!("there are buckets"),
        }
    };
    let builder = PrometheusBuilder::new().with_recommended_naming(true);
    let builder = buckets(builder, "processing_duration_seconds", &DURATIONS);
    let builder = buckets(builder, "event_age_seconds", &AGES);
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    (PrefixLayer::new("scanhook").layer(recorder), handle)
}

/// Registers the help texts. Units are in the names already; a declared unit would be appended again.
fn describe() {
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => {
                describe_counter!(metric.name, metric.help);
                // Prometheus sees no increase if a counter's first value isn't 0.
                if metric.labels.is_empty() {
                    counter!(metric.name).increment(0);
                }
            }
            Kind::Seconds => describe_histogram!(metric.name, metric.help),
        }
    }
    for (name, help) in GAUGES {
        describe_gauge!(name, help);
    }
    for (name, help) in COUNTERS {
        describe_counter!(name, help);
    }
}

/// Starts the counters that have only the label `source` at 0 for these sources.
pub(crate) fn begin_at_zero<'a>(sources: impl Iterator<Item = &'a SourceName>) {
    let is_by_source = |it: &Metric| it.kind == Kind::Counter && it.labels == ["source"];
    for source in sources {
        for metric in METRICS.iter().filter(|it| is_by_source(it)) {
            counter!(metric.name, "source" => source.to_string()).increment(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use metrics::{Key, Label, Level, Metadata, Recorder, gauge, with_local_recorder};
    use scanhook_telemetry::metrics::EmbeddedFormat;
    use serde_json::Value;

    use super::*;

    /// The sum of each series, by name and labels.
    type Sums = BTreeMap<(String, Vec<String>), f64>;

    /// Records every metric a few times, with all its labels.
    fn record_all(recorder: &dyn Recorder) {
        let metadata = Metadata::new("test", Level::INFO, None);
        for (number, metric) in METRICS.iter().enumerate() {
            for times in 1..=3_u32 {
                let labels = metric.labels.iter();
                let labels = labels.map(|it| Label::new(*it, format!("{it}-{times}")));
                let key = Key::from_parts(metric.name, labels.collect::<Vec<_>>());
                match metric.kind {
                    Kind::Counter => recorder
                        .register_counter(&key, &metadata)
                        .increment(u64::from(times) + number as u64),
                    Kind::Seconds => recorder
                        .register_histogram(&key, &metadata)
                        .record(f64::from(times) * 1.25),
                }
            }
        }
    }

    fn embedded(text: &str) -> Sums {
        let mut sums = Sums::new();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let directive = &line["_aws"]["CloudWatchMetrics"][0];
            let names = directive["Dimensions"][0].as_array().unwrap().iter();
            let labels = names.map(|it| {
                let name = it.as_str().unwrap();
                format!("{name}={}", line[name].as_str().unwrap())
            });
            let labels: Vec<_> = labels.collect();
            for metric in directive["Metrics"].as_array().unwrap() {
                let name = metric["Name"].as_str().unwrap();
                let sum = match &line[name] {
                    Value::Array(values) => values.iter().map(|it| it.as_f64().unwrap()).sum(),
                    value => value.as_f64().unwrap(),
                };
                *sums.entry((name.to_owned(), labels.clone())).or_default() += sum;
            }
        }
        sums
    }

    fn prometheus(text: &str) -> Sums {
        let mut sums = Sums::new();
        for line in text
            .lines()
            .filter(|it| !it.is_empty() && !it.starts_with('#'))
        {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let name = name.strip_prefix("scanhook_").unwrap();
            let Some(name) = name
                .strip_suffix("_total")
                .or_else(|| name.strip_suffix("_sum"))
            else {
                assert!(
                    name.ends_with("_bucket") || name.ends_with("_count"),
                    "{line}"
                );
                continue;
            };
            let labels = labels
                .trim_end_matches('}')
                .split(',')
                .filter(|it| !it.is_empty());
            let mut labels: Vec<_> = labels.map(|it| it.replace('"', "")).collect();
            labels.sort();
            sums.insert((name.to_owned(), labels), value.parse().unwrap());
        }
        sums
    }

    #[test]
    fn the_same_events_give_the_same_metrics_in_both_formats() {
        let ours = EmbeddedFormat::default();
        record_all(&ours);
        let (theirs, handle) = recorder();
        record_all(&theirs);
        let (ours, theirs) = (embedded(&ours.take(0)), prometheus(&handle.render()));
        assert_eq!(ours.len(), theirs.len());
        assert!(ours.len() > METRICS.len());
        for (series, sum) in &ours {
            assert!((sum - theirs[series]).abs() < 1e-9, "{series:?}");
        }
    }

    /// The label names of every series that a server exports, by the series' name.
    fn exported() -> BTreeMap<String, BTreeSet<String>> {
        let (recorder, handle) = recorder();
        record_all(&recorder);
        with_local_recorder(&recorder, || {
            for (name, _) in GAUGES {
                match name {
                    "ready" => gauge!(name, "part" => "x").set(1.0),
                    "not_ready" => gauge!(name, "part" => "x", "cause" => "y").set(1.0),
                    _ => gauge!(name, "queue" => "x").set(1.0),
                }
            }
            counter!("messages_expired", "queue" => "x").increment(1);
            counter!("queue_failures", "cause" => "x").increment(1);
            counter!("queue_refusals", "reason" => "x").increment(1);
            counter!("connections_closed").increment(1);
        });
        let mut exported = BTreeMap::<_, BTreeSet<_>>::new();
        for line in handle.render().lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.trim_end_matches('}').split(',');
            let names = labels.filter_map(|it| Some(it.split_once('=')?.0.to_owned()));
            exported.entry(name.to_owned()).or_default().extend(names);
        }
        exported
    }

    /// The series in a text of queries, each with the text up to the next series: matchers, `by` and so on.
    fn queried(text: &str) -> Vec<(String, String)> {
        let parts = text.split("scanhook_").skip(1);
        let name_end = |part: &str| part.find(|it: char| !it.is_ascii_lowercase() && it != '_');
        let split = parts.map(|it| it.split_at(name_end(it).unwrap_or(it.len())));
        split
            .map(|(name, rest)| (format!("scanhook_{name}"), rest.to_owned()))
            .collect()
    }

    #[test]
    fn the_dashboard_and_the_alerts_query_exported_series_and_labels() {
        let exported = exported();
        let dashboard = include_str!("../../../docs/monitoring/grafana-dashboard.json");
        let alerts = include_str!("../../../docs/monitoring/prometheus-alerts.yaml");
        let mut shown = BTreeSet::new();
        for (text, is_dashboard) in [(dashboard, true), (alerts, false)] {
            for (name, rest) in queried(text) {
                let labels = exported
                    .get(&name)
                    .unwrap_or_else(|| panic!("{name} is not exported"));
                let braces = rest.strip_prefix('{').and_then(|it| it.split_once('}'));
                let matchers = braces.map_or("", |it| it.0).replace('\\', "");
                for matcher in matchers.split(',').filter(|it| !it.is_empty()) {
                    let label = matcher.split(['=', '!']).next().unwrap();
                    // Prometheus adds the label `instance` itself.
                    assert!(
                        label == "instance" || labels.contains(label),
                        "{name} {label}"
                    );
                }
                if is_dashboard {
                    shown.insert(name);
                }
            }
        }
        for metric in METRICS {
            let suffix = match metric.kind {
                Kind::Counter => "total",
                Kind::Seconds => "bucket",
            };
            let is_metric = |it: &String| {
                *it == format!("scanhook_{}_{suffix}", metric.name)
                    || *it == format!("scanhook_{}", metric.name)
            };
            // Published messages repeat the queued events, and only the Lambda functions reload their configuration.
            let is_left_out = ["messages_published", "configuration_stale"].contains(&metric.name);
            let is_shown = shown.iter().any(is_metric) || is_left_out;
            assert!(is_shown, "{} is not shown", metric.name);
        }
    }

    #[test]
    fn the_text_for_prometheus_has_types_and_help() {
        let (recorder, handle) = recorder();
        with_local_recorder(&recorder, || {
            describe();
            counter!("ledger_unavailable").increment(1);
            metrics::histogram!("event_age_seconds").record(90.0);
            gauge!("ready", "part" => "queue").set(1.0);
        });
        let text = handle.render();
        for line in [
            "# HELP scanhook_ledger_unavailable_total Operations that the ledger did not take",
            "# TYPE scanhook_ledger_unavailable_total counter",
            "scanhook_ledger_unavailable_total 1",
            "scanhook_trace_spans_dropped_total 0",
            "# TYPE scanhook_event_age_seconds histogram",
            "scanhook_event_age_seconds_bucket{le=\"60\"} 0",
            "scanhook_event_age_seconds_bucket{le=\"300\"} 1",
            "scanhook_event_age_seconds_bucket{le=\"+Inf\"} 1",
            "# TYPE scanhook_ready gauge",
            "scanhook_ready{part=\"queue\"} 1",
        ] {
            assert!(
                text.lines().any(|it| it == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
