//! Spans as OTLP has them in JSON.

use scanhook_core::trace::TraceId;
use serde_json::{Map, Value, json};

use super::Ended;

/// What a request to a collector says. Ids are in hex and 64-bit numbers are strings. Source: OpenTelemetry protocol
/// specification, "JSON Protobuf encoding", and `trace.proto`.
pub(super) fn request<'a>(
    resource: &[(String, String)],
    spans: impl Iterator<Item = (TraceId, &'a Ended)>,
) -> Value {
    let resource = resource
        .iter()
        .map(|(name, value)| attribute(name, &value.as_str().into()));
    let scope = json!({"name": "scanhook", "version": env!("CARGO_PKG_VERSION")});
    let spans: Vec<_> = spans.map(|(trace_id, it)| span(trace_id, it)).collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": resource.collect::<Vec<_>>()},
        "scopeSpans": [{"scope": scope, "spans": spans}],
    }]})
}

fn span(trace_id: TraceId, span: &Ended) -> Value {
    let kind = match span.fields.get("otel.kind").and_then(Value::as_str) {
        Some("server") => 2,
        Some("client") => 3,
        Some("producer") => 4,
        Some("consumer") => 5,
        _ => 1,
    };
    let began = span.began_at.as_nanosecond();
    let took = i128::try_from(span.took.as_nanos()).unwrap_or_default();
    let told = span.fields.iter();
    let told = told.filter(|it| it.0 != "trace_id" && !it.0.starts_with("otel."));
    let mut json = Map::new();
    let mut set = |name: &str, value: Value| json.insert(name.to_owned(), value);
    set("traceId", trace_id.to_string().into());
    set("spanId", span.id.to_string().into());
    if let Some(parent) = span.parent {
        set("parentSpanId", parent.to_string().into());
    }
    // Sampled, as all that is sent.
    set("flags", 1.into());
    set("name", span.name.into());
    set("kind", kind.into());
    set("startTimeUnixNano", began.to_string().into());
    set("endTimeUnixNano", (began + took).to_string().into());
    let attributes = told.map(|(name, value)| attribute(name, value));
    set("attributes", attributes.collect());
    if let Some(problem) = span.fields.get("otel.status_description") {
        set("status", json!({"code": 2, "message": problem}));
    }
    Value::Object(json)
}

fn attribute(name: &str, value: &Value) -> Value {
    let value = match value {
        Value::Bool(value) => json!({"boolValue": value}),
        Value::Number(number) if number.is_f64() => json!({"doubleValue": number}),
        Value::Number(number) => json!({"intValue": number.to_string()}),
        Value::String(text) => json!({"stringValue": text}),
        other => json!({"stringValue": other.to_string()}),
    };
    json!({"key": name, "value": value})
}
