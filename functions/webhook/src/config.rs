//! From the configuration and the environment to a webhook that is ready.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use futures_util::future::{join_all, try_join_all};
use scanhook_config::Environment;
use scanhook_config::aws::Aws;
use scanhook_config::config::{Config, ConfigError};
use scanhook_config::live::Live;
use scanhook_config::location::Location;
use scanhook_config::secrets::Secrets;
use scanhook_core::message::ScanId;
use scanhook_core::source::SourceName;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::credentials::Credentials;
use crate::queue::Queue;
use crate::rate::Limiter;
use crate::router::{SourceContext, Webhook, router};

/// How long init waits for the queue to answer; the webhook starts without it.
const WARM_UP: Duration = Duration::from_secs(2);

/// The turns that a first request takes on a near network: to connect, to be handed on, to be written; one to spare.
const TURNS: usize = 4;

/// Builds the function's webhook: `SCANHOOK_CONFIG` says where the configuration is, which is read again while it runs,
/// `SCANHOOK_QUEUE_URL` where messages go.
pub async fn load(environment: &Environment) -> anyhow::Result<Live<Router>> {
    let get = |name: &str| environment(name).with_context(|| format!("{name} is not set"));
    let url = get("SCANHOOK_QUEUE_URL")?;
    let location = Location::parse(&get("SCANHOOK_CONFIG")?)?;
    let aws = Aws::function(environment);
    let queue = Queue::sqs((&aws.config("SQS").await).into(), url);
    let secrets = Secrets::new(environment, aws);
    let build = {
        let (secrets, queue) = (secrets.clone(), queue.clone());
        move |config: Config| {
            let (secrets, queue) = (secrets.clone(), queue.clone());
            async move {
                let sources = senders(&config, &secrets).await?;
                warm(&sources).await;
                Ok(router(Arc::new(assemble(&config, sources, queue))))
            }
        }
    };
    let opened = async {
        // A configuration in a file is read without a pause. So the queue goes first, whose answer then comes meanwhile.
        for _ in 0..TURNS {
            yield_now().await;
        }
        let opened = Live::open(location, secrets, build).await;
        opened.map_err(anyhow::Error::msg)
    };
    // The connection is made while the configuration is read; what is wrong with that ends the start at once.
    let warm_up = async { Ok(timeout(WARM_UP, queue.warm()).await) };
    let (warmth, live) = tokio::try_join!(warm_up, opened)?;
    match warmth {
        Ok(Ok(())) => {}
        Ok(Err(err)) => tracing::warn!("starting without the queue: {err:#}"),
        Err(_) => tracing::warn!("starting without the queue: it does not answer"),
    }
    Ok(live)
}

/// Builds a webhook that sends to `queue`. Resolves every source's secrets.
pub async fn webhook(
    config: &Config,
    queue: Queue,
    secrets: &Secrets,
) -> Result<Webhook, ConfigError> {
    let sources = senders(config, secrets).await?;
    Ok(assemble(config, sources, queue))
}

async fn senders(
    config: &Config,
    secrets: &Secrets,
) -> Result<BTreeMap<SourceName, SourceContext>, ConfigError> {
    let opened = config.sources.iter().map(async |(name, source)| {
        let sender = SourceContext {
            credentials: Credentials::open(source, secrets).await?,
            limiter: source.rate_limit.map(Limiter::new),
            source: source.source.clone(),
        };
        Ok((name.clone(), sender))
    });
    // All at once: the secrets of many sources must be there before Lambda's init ends.
    Ok(try_join_all(opened).await?.into_iter().collect())
}

/// Fetches the keys of identity providers; the webhook starts without them.
async fn warm(sources: &BTreeMap<SourceName, SourceContext>) {
    let warmed = sources.values().map(async |sender| {
        let name = &sender.source.name;
        match timeout(WARM_UP, sender.credentials.warm()).await {
            Ok(Ok(())) => {}
            Ok(Err(err)) => tracing::warn!("starting without the keys for {name}: {err:#}"),
            Err(_) => tracing::warn!("starting without the keys for {name}: no answer"),
        }
    });
    join_all(warmed).await;
}

fn assemble(
    config: &Config,
    sources: BTreeMap<SourceName, SourceContext>,
    queue: Queue,
) -> Webhook {
    Webhook {
        sources,
        queue,
        body_limit: usize::try_from(config.body_limit).unwrap_or(usize::MAX),
        now: scanhook_config::now,
        new_id,
    }
}

/// A new id for a scan request: a ULID of now.
pub fn new_id() -> ScanId {
    match ScanId::try_from(ulid::Ulid::generate().to_string()) {
        Ok(id) => id,
        Err(_) => unreachable!("a ULID is 26 letters and digits"),
    }
}
