//! From the configuration and the environment to a webhook that is ready.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use scanhook_core::auth::Credential;
use scanhook_core::message::ScanId;
use scanhook_core::source::SourceName;
use scanhook_settings::Environment;
use scanhook_settings::config::{Config, ConfigError};
use scanhook_settings::location::Location;
use tokio::time::timeout;

use crate::queue::{ATTEMPT, Queue};
use crate::router::{Sender, Webhook};

/// How long init waits for the queue to answer; the webhook starts without it.
const WARM_UP: Duration = Duration::from_secs(2);

/// Builds the function's webhook: `SCANHOOK_CONFIG` says where the configuration is, `SCANHOOK_QUEUE_URL` where
/// messages go.
pub async fn load(environment: &Environment) -> anyhow::Result<Webhook> {
    let get = |name: &str| environment(name).with_context(|| format!("{name} is not set"));
    let url = get("SCANHOOK_QUEUE_URL")?;
    let location = Location::parse(&get("SCANHOOK_CONFIG")?)?;
    let sdk = scanhook_settings::aws::function_config(environment, "SQS", ATTEMPT);
    let client = aws_sdk_sqs::Client::new(&sdk);
    let queue = Queue::sqs(client, url);
    let configure = async {
        let config = location.load()?;
        let sources = senders(&config, environment).await?;
        anyhow::Ok((config, sources))
    };
    // The connection is made while the configuration is read; what is wrong with that ends the start at once.
    let warm_up = async { Ok(timeout(WARM_UP, queue.warm()).await) };
    let (warmth, (config, sources)) = tokio::try_join!(warm_up, configure)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match warmth {
        Ok(Ok(())) => {}
        Ok(Err(err)) => tracing::warn!("starting without the queue: {err:#}"),
        Err(_) => tracing::warn!("starting without the queue: it does not answer"),
    }
    Ok(assemble(&config, sources, queue))
}

/// Builds a webhook that sends to `queue`. Resolves every source's secrets.
pub async fn webhook(
    config: &Config,
    queue: Queue,
    environment: &Environment,
) -> Result<Webhook, ConfigError> {
    let sources = senders(config, environment).await?;
    Ok(assemble(config, sources, queue))
}

async fn senders(
    config: &Config,
    environment: &Environment,
) -> Result<BTreeMap<SourceName, Sender>, ConfigError> {
    let mut senders = BTreeMap::new();
    for (name, source) in &config.sources {
        let credentials = source.credentials(environment).await?;
        let verifiers = credentials.iter().map(Credential::verifier).collect();
        let source = source.source.clone();
        senders.insert(name.clone(), Sender { source, verifiers });
    }
    Ok(senders)
}

fn assemble(config: &Config, sources: BTreeMap<SourceName, Sender>, queue: Queue) -> Webhook {
    Webhook {
        sources,
        queue,
        body_limit: usize::try_from(config.body_limit).unwrap_or(usize::MAX),
        now,
        new_id,
    }
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
