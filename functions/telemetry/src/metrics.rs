//! What is counted and measured, and how a function on Lambda tells it: CloudWatch's embedded metric format, on stdout.
//!
//! The handlers use the facade of the `metrics` crate, and know neither this format nor the Prometheus one of `serve`.
//!
//! **Invariant**: the values of labels come from the configuration and from closed sets, never from a payload.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Label, Metadata,
    Recorder, SharedString, Unit,
};
use serde_json::{Map, Value, json};

use scanhook_config::Environment;

/// What a label says where there is nothing to say, since CloudWatch takes no empty value: no reason, or a source that is
/// not configured. No source can have this name.
pub const NONE: &str = "-";

/// CloudWatch's namespace for all of it, unless the environment names another one.
const NAMESPACE: &str = "scanhook";

/// Names that namespace, so that two stacks in one account don't count together. Source: the variable of AWS's own
/// libraries for this format (awslabs/aws-embedded-metrics-python, README).
const NAMESPACE_VARIABLE: &str = "AWS_EMF_NAMESPACE";

/// Values of one metric in one line. Source: CloudWatch's specification of the embedded metric format.
const MAX_VALUES: usize = 100;

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, without prefix and suffix.
    pub name: &'static str,
    /// What sort of figure it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

/// The sorts of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// How often something happened.
    Counter,
    /// Durations in seconds.
    Seconds,
}

/// Every metric of the two functions.
pub const METRICS: [Metric; 12] = [
    Metric {
        name: "webhook_events_received",
        kind: Kind::Counter,
        labels: &["source", "outcome", "reason"],
        help: "Events of deliveries, and deliveries that were refused, by what became of them: queued, skipped, refused",
    },
    Metric {
        name: "messages_published",
        kind: Kind::Counter,
        labels: &["source"],
        help: "Messages that the queue has acknowledged",
    },
    Metric {
        name: "auth_accepted",
        kind: Kind::Counter,
        labels: &["source", "entry"],
        help: "Authentic deliveries by the entry of auth they were verified with",
    },
    Metric {
        name: "messages_processed",
        kind: Kind::Counter,
        labels: &["source", "verdict"],
        help: "Scans that came to an end: passed, failed, skipped, repeated, or error, which is a dead letter",
    },
    Metric {
        name: "scan_errors",
        kind: Kind::Counter,
        labels: &["reason", "class"],
        help: "Attempts that failed, those that are tried again included",
    },
    Metric {
        name: "scans_without_policy",
        kind: Kind::Counter,
        labels: &["source"],
        help: "Images that passed because no policy was evaluated",
    },
    Metric {
        name: "identity_unconfirmed",
        kind: Kind::Counter,
        labels: &[],
        help: "Verdicts of reports that don't say by digest which image they are about",
    },
    Metric {
        name: "ledger_unavailable",
        kind: Kind::Counter,
        labels: &[],
        help: "Operations that the ledger did not take",
    },
    Metric {
        name: "trace_spans_dropped",
        kind: Kind::Counter,
        labels: &[],
        help: "Spans of traces that no collector took",
    },
    Metric {
        name: "configuration_stale",
        kind: Kind::Counter,
        labels: &[],
        help: "Readings of a changed configuration that failed, so that the last good one stays in use",
    },
    Metric {
        name: "processing_duration_seconds",
        kind: Kind::Seconds,
        labels: &[],
        help: "From the begin of an attempt to its end",
    },
    Metric {
        name: "event_age_seconds",
        kind: Kind::Seconds,
        labels: &[],
        help: "From the delivery of an event to its verdict",
    },
];

/// Keeps what is counted until it is written: in a function, at the end of each invocation.
#[derive(Clone)]
pub struct EmbeddedFormat {
    namespace: Arc<str>,
    pending: Arc<Mutex<Pending>>,
}

impl Default for EmbeddedFormat {
    fn default() -> Self {
        Self::new(NAMESPACE)
    }
}

/// What was counted since it was last written, by labels and name.
type Pending = BTreeMap<Vec<Label>, BTreeMap<KeyName, Figure>>;

enum Figure {
    Count(u64),
    Values(Vec<f64>),
}

impl EmbeddedFormat {
    fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.into(),
            pending: Arc::default(),
        }
    }

    /// Has everything in this process that is counted from now on kept here.
    pub fn install(environment: &Environment) -> Self {
        let namespace = environment(NAMESPACE_VARIABLE).filter(|it| !it.is_empty());
        let recorder = Self::new(namespace.as_deref().unwrap_or(NAMESPACE));
        // A second one in one process, as in tests, leaves the first in place.
        let _ = metrics::set_global_recorder(recorder.clone());
        recorder
    }

    /// Writes what was counted since the last time to stdout, as happened at `now`, in milliseconds since 1970.
    pub fn flush(&self, now: i64) {
        // In one write, so that no other line gets between; a reader that has gone away is no reason to fail.
        let _ = std::io::stdout()
            .lock()
            .write_all(self.take(now).as_bytes());
    }

    /// The lines for what was counted since the last time.
    pub fn take(&self, now: i64) -> String {
        let mut lines = String::new();
        for (labels, figures) in std::mem::take(&mut *self.pending()) {
            let mut figures: Vec<_> = figures.into_iter().collect();
            while !figures.is_empty() {
                let line = line(&self.namespace, &labels, &mut figures, now);
                // Writing to a string can't fail.
                let _ = writeln!(lines, "{line}");
            }
        }
        lines
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, key: &Key) -> Arc<Handle> {
        let mut labels: Vec<_> = key.labels().cloned().collect();
        labels.sort();
        Arc::new(Handle {
            labels,
            name: KeyName::from(key.name().to_owned()),
            recorder: self.clone(),
        })
    }
}

/// One line, with all that fits into it of the figures; what does not fit is left.
fn line(
    namespace: &str,
    labels: &[Label],
    figures: &mut Vec<(KeyName, Figure)>,
    now: i64,
) -> Value {
    let dimensions: Vec<_> = labels.iter().map(Label::key).collect();
    let mut members = Map::new();
    let mut metrics = Vec::new();
    for label in labels {
        members.insert(label.key().to_owned(), label.value().into());
    }
    figures.retain_mut(|(name, figure)| {
        let (unit, value, is_left) = match figure {
            Figure::Count(count) => ("Count", json!(count), false),
            Figure::Values(values) => {
                let rest = values.split_off(values.len().min(MAX_VALUES));
                let now = std::mem::replace(values, rest);
                ("Seconds", json!(now), !values.is_empty())
            }
        };
        metrics.push(json!({"Name": name.as_str(), "Unit": unit}));
        members.insert(name.as_str().to_owned(), value);
        is_left
    });
    let directive = json!({"Namespace": namespace, "Dimensions": [dimensions], "Metrics": metrics});
    members.insert(
        "_aws".to_owned(),
        json!({"Timestamp": now, "CloudWatchMetrics": [directive]}),
    );
    Value::Object(members)
}

/// One metric with one set of labels.
struct Handle {
    labels: Vec<Label>,
    name: KeyName,
    recorder: EmbeddedFormat,
}

impl Handle {
    fn change(&self, empty: Figure, change: impl FnOnce(&mut Figure)) {
        let mut pending = self.recorder.pending();
        let figures = pending.entry(self.labels.clone()).or_default();
        change(figures.entry(self.name.clone()).or_insert(empty));
    }
}

impl CounterFn for Handle {
    fn increment(&self, value: u64) {
        self.change(Figure::Count(0), |it| {
            if let Figure::Count(count) = it {
                *count += value;
            }
        });
    }

    /// Nothing of ours counts elsewhere.
    fn absolute(&self, _: u64) {}
}

impl HistogramFn for Handle {
    fn record(&self, value: f64) {
        self.change(Figure::Values(Vec::new()), |it| {
            if let Figure::Values(values) = it {
                values.push(value);
            }
        });
    }
}

impl GaugeFn for Handle {
    fn increment(&self, _: f64) {}
    fn decrement(&self, _: f64) {}
    fn set(&self, _: f64) {}
}

impl Recorder for EmbeddedFormat {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.handle(key))
    }

    /// Depths of queues are CloudWatch's own; a function has none.
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.handle(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.handle(key))
    }
}

#[cfg(test)]
mod tests {
    use metrics::{counter, histogram, with_local_recorder};

    use super::*;

    fn lines(recorder: &EmbeddedFormat) -> Vec<Value> {
        let text = recorder.take(1_700_000_000_000);
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines()
            .map(|it| serde_json::from_str(it).unwrap())
            .collect()
    }

    #[test]
    fn a_line_tells_all_that_has_the_same_labels() {
        let recorder = EmbeddedFormat::default();
        with_local_recorder(&recorder, || {
            counter!("messages_published", "source" => "prod").increment(2);
            counter!("messages_published", "source" => "prod").increment(3);
            counter!("scans_without_policy", "source" => "prod").increment(1);
            counter!("ledger_unavailable").increment(1);
        });
        assert_eq!(
            lines(&recorder),
            [
                json!({
                    "_aws": {"Timestamp": 1_700_000_000_000_i64, "CloudWatchMetrics": [{
                        "Namespace": "scanhook",
                        "Dimensions": [[]],
                        "Metrics": [{"Name": "ledger_unavailable", "Unit": "Count"}],
                    }]},
                    "ledger_unavailable": 1,
                }),
                json!({
                    "_aws": {"Timestamp": 1_700_000_000_000_i64, "CloudWatchMetrics": [{
                        "Namespace": "scanhook",
                        "Dimensions": [["source"]],
                        "Metrics": [
                            {"Name": "messages_published", "Unit": "Count"},
                            {"Name": "scans_without_policy", "Unit": "Count"},
                        ],
                    }]},
                    "source": "prod",
                    "messages_published": 5,
                    "scans_without_policy": 1,
                }),
            ]
        );
        assert!(lines(&recorder).is_empty(), "it is told once");
    }

    #[test]
    fn a_stack_counts_in_a_namespace_of_its_own() {
        let namespace = |value: Option<&str>| {
            let value = value.map(str::to_owned);
            let environment: Environment =
                Arc::new(move |name| value.clone().filter(|_| name == "AWS_EMF_NAMESPACE"));
            let recorder = EmbeddedFormat::install(&environment);
            with_local_recorder(&recorder, || counter!("ledger_unavailable").increment(1));
            lines(&recorder)[0]["_aws"]["CloudWatchMetrics"][0]["Namespace"].clone()
        };
        assert_eq!(namespace(Some("scanhook/one")), "scanhook/one");
        assert_eq!(namespace(Some("")), "scanhook");
        assert_eq!(namespace(None), "scanhook");
    }

    #[test]
    fn the_order_of_labels_makes_no_difference() {
        let recorder = EmbeddedFormat::default();
        with_local_recorder(&recorder, || {
            counter!("scan_errors", "reason" => "network", "class" => "transient").increment(1);
            counter!("scan_errors", "class" => "transient", "reason" => "network").increment(1);
        });
        let [line] = lines(&recorder).try_into().unwrap();
        assert_eq!(line["scan_errors"], 2);
    }

    #[test]
    fn no_line_has_more_values_than_cloudwatch_takes_and_none_is_lost() {
        let recorder = EmbeddedFormat::default();
        with_local_recorder(&recorder, || {
            for number in 0..250 {
                histogram!("event_age_seconds").record(f64::from(number));
            }
            histogram!("processing_duration_seconds").record(0.5);
        });
        let lines = lines(&recorder);
        let values = lines
            .iter()
            .map(|it| it["event_age_seconds"].as_array().unwrap());
        let counts: Vec<_> = values.clone().map(Vec::len).collect();
        assert_eq!(counts, [100, 100, 50]);
        let sum: f64 = values.flatten().map(|it| it.as_f64().unwrap()).sum();
        assert!((sum - 31_125.0).abs() < 1e-9);
        assert_eq!(lines[0]["processing_duration_seconds"], json!([0.5]));
        assert_eq!(lines[1].get("processing_duration_seconds"), None);
    }
}
