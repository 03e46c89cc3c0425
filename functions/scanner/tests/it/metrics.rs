//! What is counted and measured of scans, and that messages have no say in its labels.

use std::collections::BTreeMap;

use scanhook_telemetry::metrics::{EmbeddedFormat, METRICS};
use serde_json::Value;

use crate::world::{World, message, message_for};

/// What the lines of a recorder say: `name{label=value,…}` to its count, or to how many values it has.
fn figures(recorder: &EmbeddedFormat) -> BTreeMap<String, u64> {
    let mut figures = BTreeMap::new();
    for line in recorder.take(0).lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        let dimensions = directive["Dimensions"][0].as_array().unwrap();
        let labels = dimensions.iter().map(|it| {
            let name = it.as_str().unwrap();
            format!("{name}={}", line[name].as_str().unwrap())
        });
        let labels = labels.collect::<Vec<_>>().join(",");
        for metric in directive["Metrics"].as_array().unwrap() {
            let name = metric["Name"].as_str().unwrap();
            let figure = match &line[name] {
                Value::Array(values) => u64::try_from(values.len()).unwrap(),
                count => count.as_u64().unwrap(),
            };
            *figures.entry(format!("{name}{{{labels}}}")).or_default() += figure;
            let known = METRICS.iter().find(|it| it.name == name).unwrap();
            let mut told: Vec<_> = dimensions.iter().map(|it| it.as_str().unwrap()).collect();
            let mut labels = known.labels.to_vec();
            told.sort_unstable();
            labels.sort_unstable();
            assert_eq!(told, labels, "{name}");
        }
    }
    figures
}

#[tokio::test]
async fn each_attempt_is_counted_by_what_became_of_it() {
    let recorder = EmbeddedFormat::default();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let world = World::start().await;
    for (body, receive) in [
        (message("pass"), 1),
        (message("network"), 1),
        (message("network"), 10),
        ("no json".to_owned(), 1),
    ] {
        let mut event = world.receive(&[&body]).await;
        crate::world::received(&mut event, receive);
        world.handle(&event).await;
    }
    // The same content once more, for another request.
    let again = message_for("again", "demo/pass").to_string();
    let event = world.receive(&[&again]).await;
    world.handle(&event).await;
    let figures = figures(&recorder);
    let figures: Vec<_> = figures
        .iter()
        .map(|(name, it)| format!("{name} {it}"))
        .collect();
    assert_eq!(
        figures,
        [
            "event_age_seconds{} 2",
            "messages_processed{source=-,verdict=error} 1",
            "messages_processed{source=prod,verdict=error} 1",
            "messages_processed{source=prod,verdict=passed} 1",
            "messages_processed{source=prod,verdict=repeated} 1",
            "processing_duration_seconds{} 3",
            "scan_errors{class=permanent,reason=bad_message} 1",
            "scan_errors{class=transient,reason=network} 2",
        ]
    );
}

#[tokio::test]
async fn hostile_messages_make_no_label() {
    let recorder = EmbeddedFormat::default();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let world = World::start().await;
    for number in 0..200 {
        let name = format!("hostile-{number}");
        let mut body = message_for(&name, &name);
        body["source"] = name.into();
        let event = world.receive(&[&body.to_string()]).await;
        world.handle(&event).await;
    }
    let figures = figures(&recorder);
    assert_eq!(figures["messages_processed{source=-,verdict=error}"], 200);
    assert_eq!(
        figures["scan_errors{class=permanent,reason=unknown_source}"],
        200
    );
    assert_eq!(figures.len(), 3, "{figures:?}");
}
