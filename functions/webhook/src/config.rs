//! From the configuration and the environment to a webhook that is ready.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use scanhook_core::auth::Credential;
use scanhook_core::message::ScanId;
use scanhook_settings::Environment;
use scanhook_settings::config::{Config, ConfigError};
use scanhook_settings::location::Location;

use crate::queue::{ATTEMPT, Queue};
use crate::router::{Sender, Webhook};

/// How long init waits for the queue to answer; the webhook starts without it.
const WARM_UP: Duration = Duration::from_secs(2);

/// Builds the function's webhook: `SCANHOOK_CONFIG` says where the configuration is, `SCANHOOK_QUEUE_URL` where
/// messages go.
pub async fn load(environment: &Environment) -> anyhow::Result<Webhook> {
    let get = |name: &str| environment(name).with_context(|| format!("{name} is not set"));
    let url = get("SCANHOOK_QUEUE_URL")?;
    let config = Location::parse(&get("SCANHOOK_CONFIG")?)?.load()?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let sdk = scanhook_settings::aws::function_config(environment, "SQS", ATTEMPT);
    let queue = Queue::Sqs {
        client: aws_sdk_sqs::Client::new(&sdk),
        url,
    };
    let webhook = webhook(&config, queue, environment).await?;
    match tokio::time::timeout(WARM_UP, webhook.queue.warm()).await {
        Ok(Ok(())) => {}
        Ok(Err(err)) => tracing::warn!("starting without the queue: {err:#}"),
        Err(_) => tracing::warn!("starting without the queue: it does not answer"),
    }
    Ok(webhook)
}

/// Builds a webhook that sends to `queue`. Resolves every source's secrets.
pub async fn webhook(
    config: &Config,
    queue: Queue,
    environment: &Environment,
) -> Result<Webhook, ConfigError> {
    let mut sources = BTreeMap::new();
    for (name, source) in &config.sources {
        let credentials = source.credentials(environment).await?;
        let verifiers = credentials.iter().map(Credential::verifier).collect();
        sources.insert(
            name.clone(),
            Sender {
                source: source.source.clone(),
                verifiers,
            },
        );
    }
    let body_limit = usize::try_from(config.body_limit).unwrap_or(usize::MAX);
    Ok(Webhook {
        sources,
        queue,
        body_limit,
        now,
        new_id,
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the webhook's clock, handed on as a function"
)]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

fn new_id() -> ScanId {
    match ScanId::try_from(ulid::Ulid::generate().to_string()) {
        Ok(id) => id,
        Err(_) => unreachable!("a ULID is 26 letters and digits"),
    }
}
