//! What a span or an event says of itself: names and values, as JSON has them.

use std::error::Error;
use std::fmt::Debug;

use serde_json::Value;
use tracing::field::{Field, Visit};

/// Names and values, in the order in which they were first told.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    /// Each name once, with its latest value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.iter().find(|it| it.0 == name).map(|it| it.1)
    }

    fn set(&mut self, field: &Field, value: Value) {
        match self.0.iter_mut().find(|it| it.0 == field.name()) {
            Some(known) => known.1 = value,
            None => self.0.push((field.name(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.set(field, format!("{value:?}").into());
    }

    /// An error with its causes, of which each says what the one before doesn't.
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(err) = cause {
            let told = err.to_string();
            if !text.contains(&told) {
                text = format!("{text}: {told}");
            }
            cause = err.source();
        }
        self.set(field, text.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{Event, Subscriber};
    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::{Context, SubscriberExt as _};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not write the file")]
    struct Write(#[source] std::io::Error);

    #[derive(Clone, Default)]
    struct Keep(Arc<Mutex<Fields>>);

    impl<S: Subscriber> Layer<S> for Keep {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            event.record(&mut *self.0.lock().unwrap());
        }
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let keep = Keep::default();
        let subscriber = tracing_subscriber::registry().with(keep.clone());
        tracing::subscriber::with_default(subscriber, || {
            let err = Write(std::io::Error::other("the disk is full"));
            tracing::error!(error = &err as &dyn Error, "a line");
        });
        let fields = keep.0.lock().unwrap();
        assert_eq!(
            fields.get("error"),
            Some(&Value::from("could not write the file: the disk is full"))
        );
    }
}
