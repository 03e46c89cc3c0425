//! A function's configuration, read again while it runs, and what works by it.
//!
//! **Invariant**: what works is replaced only by what was read, checked and built whole. A configuration that is wrong or
//! can't be read changes nothing but the log and a metric.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::cached::{Cached, Fresh};
use crate::config::Config;
use crate::location::Location;
use crate::secrets::Secrets;

/// A configuration is read again in the background after this long; one of twice the age is not used before it was tried
/// to read it again.
pub const KEEP: Duration = Duration::from_mins(1);

/// What works by a configuration: a router, a scanner.
pub struct Live<T> {
    cached: Arc<Cached<Arc<T>, String>>,
}

/// What was built last, and of which text.
struct Built<T> {
    text: SecretString,
    value: Arc<T>,
}

impl<T: Send + Sync + 'static> Live<T> {
    /// Reads the configuration and builds what works by it; fails with what an operator reads. `build` is called again
    /// whenever the configuration's text is another one.
    pub async fn open<F>(
        location: Location,
        secrets: Secrets,
        build: impl Fn(Config) -> F + Clone + Send + Sync + 'static,
    ) -> Result<Self, String>
    where
        F: Future<Output = anyhow::Result<T>> + Send + 'static,
    {
        let name = location.to_string();
        let last: Arc<Mutex<Option<Built<T>>>> = Arc::default();
        let cached = Cached::new(name, move || {
            let (location, secrets) = (location.clone(), secrets.clone());
            let (build, last) = (build.clone(), Arc::clone(&last));
            Box::pin(async move {
                let rebuilt = rebuilt(&location, &secrets, build, &last).await;
                if rebuilt.is_err() && is_built(&last) {
                    metrics::counter!("configuration_stale").increment(1);
                }
                let value = rebuilt.map_err(|err| format!("{err:#}"))?;
                Ok(Fresh { value, keep: KEEP })
            })
        });
        cached.first().await?;
        Ok(Self { cached })
    }

    /// What works by the newest configuration. Waits at most this long for one that must be read first.
    pub async fn present(&self, patience: Duration) -> Arc<T> {
        self.cached.freshen(Instant::now() + patience).await;
        match self.cached.present() {
            Some(value) => Arc::clone(&value),
            None => unreachable!("it was built before this was made"),
        }
    }
}

async fn rebuilt<T, F: Future<Output = anyhow::Result<T>>>(
    location: &Location,
    secrets: &Secrets,
    build: impl Fn(Config) -> F,
    last: &Mutex<Option<Built<T>>>,
) -> anyhow::Result<Arc<T>> {
    let text = location.read(secrets).await?;
    if let Some(value) = unchanged(last, &text) {
        return Ok(value);
    }
    let config = location.check(&text)?;
    config.log_warnings();
    let value = Arc::new(build(config).await?);
    if is_built(last) {
        tracing::info!(
            event = "configuration.changed",
            "working by another configuration from now on"
        );
    }
    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Built {
        text,
        value: Arc::clone(&value),
    });
    Ok(value)
}

fn unchanged<T>(last: &Mutex<Option<Built<T>>>, text: &SecretString) -> Option<Arc<T>> {
    let last = last.lock().unwrap_or_else(PoisonError::into_inner);
    let built = last.as_ref()?;
    (built.text.expose_secret() == text.expose_secret()).then(|| Arc::clone(&built.value))
}

fn is_built<T>(last: &Mutex<Option<Built<T>>>) -> bool {
    last.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .is_some()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::Environment;
    use crate::aws::Aws;
    use crate::cached::GUARD;

    const PATIENCE: Duration = Duration::from_millis(500);

    /// A configuration with one source.
    fn config(name: &str) -> String {
        format!(
            "sources: {{ {name}: {{ kind: ghcr, auth: [{{ type: hmac, secret: 'env:A' }}] }} }}"
        )
    }

    /// Builds the source's name, unless that is `unbuildable`.
    async fn build(config: Config) -> anyhow::Result<String> {
        let name = config.sources.keys().next().unwrap().to_string();
        anyhow::ensure!(name != "unbuildable", "that can't be built");
        Ok(name)
    }

    async fn opened(file: &Path) -> Result<Live<String>, String> {
        let environment: Environment = Arc::new(|_| None);
        let secrets = Secrets::new(&environment, Aws::function(&environment));
        Live::open(Location::File(file.to_owned()), secrets, build).await
    }

    fn written(directory: &tempfile::TempDir, text: &str) -> PathBuf {
        let file = directory.path().join("scanhook.yaml");
        std::fs::write(&file, text).unwrap();
        file
    }

    /// What is in use after this time; what it began to read in the background is done by then.
    async fn after(live: &Live<String>, time: Duration) -> String {
        tokio::time::advance(time).await;
        let present = live.present(PATIENCE).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        String::clone(&present)
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_read_after_a_minute_while_work_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let live = opened(&written(&directory, &config("one"))).await.unwrap();
        written(&directory, &config("two"));
        assert_eq!(after(&live, KEEP.mul_f64(0.9)).await, "one");
        assert_eq!(after(&live, KEEP.mul_f64(0.1)).await, "one");
        assert_eq!(after(&live, Duration::ZERO).await, "two");
    }

    #[tokio::test(start_paused = true)]
    async fn a_configuration_of_two_minutes_is_not_used_before_it_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let live = opened(&written(&directory, &config("one"))).await.unwrap();
        written(&directory, &config("two"));
        assert_eq!(after(&live, 2 * KEEP).await, "two");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_wrong_or_gone_leaves_the_last_one_in_use_and_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = written(&directory, &config("one"));
        let live = opened(&file).await.unwrap();
        for wrong in ["sources: [", "sources: {}", &config("unbuildable"), ""] {
            written(&directory, wrong);
            assert_eq!(after(&live, 2 * KEEP).await, "one", "{wrong}");
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(after(&live, 2 * KEEP).await, "one");
        written(&directory, &config("two"));
        assert_eq!(after(&live, GUARD).await, "two");
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_text_is_not_built_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = written(&directory, &config("one"));
        let live = opened(&file).await.unwrap();
        let first = live.present(PATIENCE).await;
        tokio::time::advance(2 * KEEP).await;
        written(&directory, &config("one"));
        assert!(Arc::ptr_eq(&first, &live.present(PATIENCE).await));
    }

    #[tokio::test]
    async fn a_start_fails_with_what_an_operator_reads() {
        let directory = tempfile::tempdir().unwrap();
        let file = written(&directory, &config("unbuildable"));
        assert_eq!(opened(&file).await.err().unwrap(), "that can't be built");
        written(&directory, "sources: { one: { kind: ghcr } }");
        let told = opened(&file).await.err().unwrap();
        assert!(
            told.contains("is not a valid configuration: sources.one.auth (line "),
            "{told}"
        );
    }
}
