//! Which dead-letter queue: one of AWS, that of a `serve` that runs, or that of one that does not.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use scanhook_emulator::clock::Clock;
use scanhook_emulator::faults::Faults;
use scanhook_emulator::sqs::{self, Store};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::args::dlq::DlqQueueArgs;
use crate::data_dir::{self, DataDir};
use crate::serve::{DEAD_LETTERS, embedded_client};
use crate::unusable;

/// The longest single try of a call; a long poll is part of it.
const ATTEMPT: Duration = Duration::from_secs(10);

/// So long does SQS hide what is looked at, at least.
const HIDE: Duration = Duration::from_secs(30);

/// So many messages are looked at in a second, also where each call takes long.
const SLOWEST: u64 = 50;

/// A dead-letter queue that can be reached.
pub(crate) struct DeadLetterQueue {
    pub(crate) client: Client,
    pub(crate) url: String,
    pub(crate) arn: String,
    /// The URLs of the queues whose dead letters come here.
    pub(crate) sources: Vec<String>,
    /// Messages that a receive would give now, about.
    pub(crate) visible: u64,
    /// Messages that somebody else has received and not deleted, about.
    pub(crate) hidden: u64,
    /// How long a received message stays hidden.
    pub(crate) hide: Duration,
    /// Where our own endpoint is; it shows messages without a receive.
    pub(crate) endpoint: Option<SocketAddr>,
    /// The endpoint of a queue file that nobody else serves.
    _served: Option<Served>,
}

/// An endpoint that ends with the command.
struct Served {
    _stop: DropGuard,
    _data_dir: DataDir,
}

impl DeadLetterQueue {
    /// Finds the queue that the arguments mean, and refuses one that is no dead-letter queue.
    pub(crate) async fn open(args: &DlqQueueArgs) -> anyhow::Result<Self> {
        let (client, url, endpoint, served) = match &args.queue_url {
            Some(url) => (outside().await, url.clone(), None, None),
            None => embedded(&args.ledger.data_dir).await.map_err(unusable)?,
        };
        let queue = read(client, url, endpoint, served, args).await;
        queue.map_err(unusable)
    }
}

async fn outside() -> Client {
    Client::new(&scanhook_settings::aws::sdk_config(ATTEMPT).await)
}

/// The queue of the `serve` that runs on this directory; if none runs, of its file.
async fn embedded(
    path: &Path,
) -> anyhow::Result<(Client, String, Option<SocketAddr>, Option<Served>)> {
    if !data_dir::queue(path).is_file() {
        bail!(
            "there is no queue in {}: run this where `scanhook serve` ran, or name its --data-dir, or an SQS queue with --queue-url",
            path.display()
        );
    }
    let at = |address: SocketAddr| {
        let base = format!("http://{address}");
        (embedded_client(&base), sqs::queue_url(&base, DEAD_LETTERS))
    };
    let data_dir = match DataDir::try_lock(path)? {
        Some(data_dir) => data_dir,
        None => match data_dir::endpoint(path) {
            Some(address) if TcpStream::connect(address).await.is_ok() => {
                let (client, url) = at(address);
                return Ok((client, url, Some(address), None));
            }
            _ => DataDir::lock(path).await?,
        },
    };
    let store = Store::open(&data_dir.queue(), Clock::System)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    tokio::spawn(sqs::serve(listener, store, Faults::none(), stopped));
    let (client, url) = at(address);
    let served = Served {
        _stop: stop.drop_guard(),
        _data_dir: data_dir,
    };
    Ok((client, url, Some(address), Some(served)))
}

async fn read(
    client: Client,
    url: String,
    endpoint: Option<SocketAddr>,
    served: Option<Served>,
    args: &DlqQueueArgs,
) -> anyhow::Result<DeadLetterQueue> {
    if url
        .rsplit_once('.')
        .is_some_and(|(_, suffix)| suffix == "fifo")
    {
        bail!("{url} is a FIFO queue, and scanhook's dead letters are in a standard queue");
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
            "{url} has a dead-letter queue of its own: looking at it counts as a receive and may move its messages there; \
             --any-queue looks all the same"
        );
    }
    if !args.any_queue && sources.is_empty() {
        bail!("{url} is no queue's dead-letter queue; --any-queue looks at it all the same");
    }
    Ok(DeadLetterQueue {
        arn: text(QueueAttributeName::QueueArn)
            .context("the queue tells no ARN")?
            .to_owned(),
        visible,
        hidden: count(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        hide: args
            .hide
            .unwrap_or(HIDE + Duration::from_secs(visible / SLOWEST)),
        client,
        url,
        sources,
        endpoint,
        _served: served,
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
            format!("could not tell whose dead-letter queue {url} is; --any-queue does not ask")
        })?;
        sources.extend_from_slice(page.queue_urls());
    }
    Ok(sources)
}

/// A queue that messages go to.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) url: String,
    pub(crate) arn: String,
}

impl DeadLetterQueue {
    /// The queue that letters go back to: the named one, else the only one whose dead letters come here.
    pub(crate) async fn destination(&self, named: Option<&str>) -> anyhow::Result<Destination> {
        let url = match (named, self.sources.as_slice()) {
            (Some(url), _) => url,
            (None, [url]) => url,
            (None, []) => bail!("name the queue to send to with --destination"),
            (None, several) => bail!(
                "the dead letters of {} queues come here; name one with --destination: {}",
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
        let arn = arn.context("the queue tells no ARN")?.clone();
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
    /// How many messages are visible and how many are hidden now, about.
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
