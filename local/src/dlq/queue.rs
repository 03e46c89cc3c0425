//! Finds the dead-letter queue: in AWS, of a running `serve`, or of a stopped one.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use scanhook_emulator::sqs;

use crate::args::dlq::DlqQueueArgs;
use crate::endpoint::{self, Endpoint};
use crate::host::queues::DEAD_LETTERS;
use crate::outcome::unusable;

/// The shortest default visibility timeout of messages that are read.
const HIDE: Duration = Duration::from_secs(30);

/// The lowest rate of messages per second to expect from a slow endpoint.
const SLOWEST: u64 = 50;

/// A dead-letter queue, and the client that reaches it.
pub(crate) struct DeadLetterQueue {
    pub(crate) client: Client,
    pub(crate) url: String,
    pub(crate) arn: String,
    /// The URLs of its source queues.
    pub(crate) sources: Vec<String>,
    /// About how many messages are visible.
    pub(crate) visible: u64,
    /// The visibility timeout for receives.
    pub(crate) hide: Duration,
    /// Our own endpoint, which shows messages without a receive. None in AWS.
    pub(crate) endpoint: Option<Endpoint>,
}

impl DeadLetterQueue {
    /// Opens the queue that the arguments name, and refuses one that isn't a dead-letter queue: looking counts as a receive,
    /// which could push live messages over their limit.
    pub(crate) async fn open(args: &DlqQueueArgs) -> anyhow::Result<Self> {
        let (client, url, endpoint) = if let Some(url) = &args.queue_url {
            (endpoint::aws_client().await, url.clone(), None)
        } else {
            let endpoint = endpoint::open(&args.ledger.data_dir)
                .await
                .map_err(unusable)?;
            let url = sqs::queue_url(&endpoint.base, DEAD_LETTERS);
            (endpoint.client.clone(), url, Some(endpoint))
        };
        read(client, url, endpoint, args).await.map_err(unusable)
    }
}

async fn read(
    client: Client,
    url: String,
    endpoint: Option<Endpoint>,
    args: &DlqQueueArgs,
) -> anyhow::Result<DeadLetterQueue> {
    if url
        .rsplit_once('.')
        .is_some_and(|(_, suffix)| suffix == "fifo")
    {
        bail!("{url} is a FIFO queue; scanhook's dead letters are in a standard queue");
    }
    let output = client
        .get_queue_attributes()
        .queue_url(&url)
        .attribute_names(QueueAttributeName::All)
        .send()
        .await
        .with_context(|| format!("could not read the attributes of the queue {url}"))?;
    let attributes = output.attributes().context("the queue has no attributes")?;
    let text = |name| attributes.get(&name).map(String::as_str);
    let count = |name| text(name).and_then(|it| it.parse().ok()).unwrap_or(0);
    let visible = count(QueueAttributeName::ApproximateNumberOfMessages);
    let is_source = text(QueueAttributeName::RedrivePolicy).is_some_and(|it| !it.is_empty());
    let sources = if args.any_queue {
        Vec::new()
    } else {
        sources(&client, &url).await?
    };
    if !args.any_queue && is_source {
        bail!(
            "{url} has a dead-letter queue of its own: looking counts as a receive and could move live messages there; \
             --any-queue looks anyway"
        );
    }
    if !args.any_queue && sources.is_empty() {
        bail!("{url} isn't a dead-letter queue of any queue; --any-queue looks anyway");
    }
    Ok(DeadLetterQueue {
        arn: text(QueueAttributeName::QueueArn)
            .context("the queue has no ARN")?
            .to_owned(),
        visible,
        hide: args
            .hide
            .unwrap_or(HIDE + Duration::from_secs(visible / SLOWEST)),
        client,
        url,
        sources,
        endpoint,
    })
}

async fn sources(client: &Client, url: &str) -> anyhow::Result<Vec<String>> {
    let mut pages = client
        .list_dead_letter_source_queues()
        .queue_url(url)
        .into_paginator()
        .send();
    let mut sources = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.with_context(|| {
            format!("could not list the source queues of {url}; --any-queue works without them")
        })?;
        sources.extend_from_slice(page.queue_urls());
    }
    Ok(sources)
}

/// The queue that a redrive sends to.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) url: String,
    pub(crate) arn: String,
}

impl DeadLetterQueue {
    /// The destination of a redrive: the named queue, else the only source queue.
    pub(crate) async fn destination(&self, named: Option<&str>) -> anyhow::Result<Destination> {
        let url = match (named, self.sources.as_slice()) {
            (Some(url), _) => url,
            (None, [url]) => url,
            (None, []) => {
                bail!("no source queue is known; name the queue to send to with --destination")
            }
            (None, several) => bail!(
                "this is the dead-letter queue of {} queues; name one with --destination: {}",
                several.len(),
                several.join(", ")
            ),
        };
        if url == self.url {
            return Err(anyhow!("--destination is the dead-letter queue itself"));
        }
        let output = self
            .client
            .get_queue_attributes()
            .queue_url(url)
            .attribute_names(QueueAttributeName::QueueArn)
            .send()
            .await
            .with_context(|| format!("could not read the attributes of the queue {url}"))?;
        let arn = output
            .attributes()
            .and_then(|it| it.get(&QueueAttributeName::QueueArn));
        let arn = arn.context("the queue has no ARN")?.clone();
        if arn == self.arn {
            bail!("--destination is the dead-letter queue itself");
        }
        Ok(Destination {
            url: url.to_owned(),
            arn,
        })
    }
}

impl DeadLetterQueue {
    /// About how many messages are visible, and how many are hidden.
    pub(crate) async fn depth(&self) -> anyhow::Result<(u64, u64)> {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        let call = self.client.get_queue_attributes().queue_url(&self.url);
        let output = call.set_attribute_names(Some(names.to_vec())).send().await;
        let output = output.context("could not read the queue's depth")?;
        let count = |name| {
            let text = output.attributes().and_then(|it| it.get(&name));
            text.and_then(|it| it.parse().ok()).unwrap_or(0)
        };
        let [visible, hidden] = names;
        Ok((count(visible), count(hidden)))
    }
}
