//! `scanhook backfill`: queues the images of a registry that were never scanned.
//!
//! **Invariant**: queued messages are recorded on disk right after the queue acknowledges them. So an interrupted or repeated run
//! queues nothing twice, except the batch that was in flight when it was killed.

mod known;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{StreamExt as _, stream};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use jiff::Timestamp;
use scanhook_config::Environment;
use scanhook_config::aws::Aws;
use scanhook_config::secrets::Secrets;
use scanhook_core::event::{Content, Event, EventInfo, NamedRegistry, PushEvent};
use scanhook_core::failure::ErrorReason;
use scanhook_core::history::ScanFilter;
use scanhook_core::image::{Digest, Image, Pin, Repository, Tag};
use scanhook_core::message::QueueMessage;
use scanhook_core::select::{ScanRequest, select};
use scanhook_core::source::Source;
use scanhook_emulator::sqs::queue_url;
use scanhook_registry::{Registries, ResolveError, system_dns};
use scanhook_scanner::ledger::History as _;
use scanhook_webhook::config::new_id;
use scanhook_webhook::queue::Queue;
use scanhook_worker::clock::Clock;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::known::{Journal, Known};
use crate::args::{BackfillArgs, LedgerArgs, Output};
use crate::endpoint::{self, Endpoint};
use crate::host::data_dir;
use crate::host::{queues, scanning, signals};
use crate::outcome::{Outcome, unusable};
use crate::scans::Records;
use crate::{configuration, output};

/// The number of concurrent lookups of tags.
const LOOKUPS: usize = 8;

/// The messages of one batch, which is also the most that a killed process can queue twice.
const BATCH: usize = 10;

/// The timeout for the queue's acknowledgement of a batch.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause for a registry that asks for one without a duration.
const PAUSE: Duration = Duration::from_secs(30);

/// A longer pause, or more pauses for one request, end the run.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
const MOST_PAUSES: u32 = 5;

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Summary {
    repositories: usize,
    tags: usize,
    /// Tags that the source's configuration or `--since` excludes.
    filtered: usize,
    /// Tags whose content has a record in the ledger, or was queued by an earlier run.
    known: usize,
    /// Tags with the same content as another tag of this run.
    repeated: usize,
    /// Queued scans; with `--dry-run`, the scans that would be queued.
    queued: usize,
    /// Why a repository or image could not be read, by its name.
    errors: BTreeMap<String, String>,
    interrupted: bool,
    dry_run: bool,
}

pub(crate) async fn command(
    args: BackfillArgs,
    environment: Environment,
) -> anyhow::Result<Outcome> {
    let stop = CancellationToken::new();
    let work = Box::pin(backfill(&args, &environment, &stop));
    let summary = signals::until_stopped(work, &stop).await?;
    match args.output {
        Output::Json => output::json(&summary)?,
        Output::Table => report(&summary)?,
    }
    let is_fine = summary.errors.is_empty() && !summary.interrupted;
    Ok(if is_fine {
        Outcome::Fine
    } else {
        Outcome::Findings
    })
}

fn report(done: &Summary) -> anyhow::Result<()> {
    let verb = if done.dry_run {
        "would queue"
    } else {
        "queued"
    };
    output::line(&format!(
        "{verb} {} scans from {} tags in {} repositories; skipped {} known, {} duplicate and {} filtered tags",
        done.queued, done.tags, done.repositories, done.known, done.repeated, done.filtered
    ))?;
    for (what, why) in &done.errors {
        output::notice(&format!("{what}: {why}"));
    }
    if done.interrupted {
        output::notice("interrupted; run it again to resume");
    }
    Ok(())
}

struct Run<'a> {
    args: &'a BackfillArgs,
    source: &'a Source,
    registries: Registries,
    /// `None` for a dry run.
    queue: Option<Queue>,
    known: Known,
    journal: Journal,
    since: Option<Timestamp>,
    next: Instant,
    summary: Summary,
}

async fn backfill(
    args: &BackfillArgs,
    environment: &Environment,
    stop: &CancellationToken,
) -> anyhow::Result<Summary> {
    let secrets = Secrets::local(environment);
    let config = Arc::new(configuration::load(&args.config.location, &secrets).await?);
    let source = config
        .sources
        .get(args.source.as_str())
        .with_context(|| format!("{} has no source {}", args.config.location, args.source))
        .map_err(unusable)?;
    let deps = scanning::registry_deps(system_dns());
    let registries = Registries::load(&secrets, environment, Arc::clone(&config), deps)
        .await
        .map_err(unusable)?;
    let now = Clock::System.now();
    let (data_dir, name) = (&args.data_dir, &source.source.name);
    // Keep the endpoint to the end: if no `serve` is running, it is the queue's only server.
    let (queue, _endpoint) = queue(args, environment).await.map_err(unusable)?;
    let journal = if args.dry_run {
        Journal::read(data_dir, name, now)
    } else {
        Journal::open(data_dir, name, now)
    }
    .map_err(unusable)?;
    let known = known(args, source.source.registry.as_str(), now).await?;
    let mut run = Run {
        args,
        source: &source.source,
        registries,
        queue,
        known,
        journal,
        since: args.since.map(|it| it.before(now)),
        next: Instant::now(),
        summary: Summary {
            dry_run: args.dry_run,
            ..Summary::default()
        },
    };
    run.all(stop).await?;
    Ok(run.summary)
}

/// The queue to send to; `None` for a dry run.
async fn queue(
    args: &BackfillArgs,
    environment: &Environment,
) -> anyhow::Result<(Option<Queue>, Option<Endpoint>)> {
    if args.dry_run {
        return Ok((None, None));
    }
    if let Some(url) = &args.queue_url {
        let settings = Aws::local(environment).config("SQS").await;
        return Ok((Some(Queue::sqs((&settings).into(), url.clone())), None));
    }
    let endpoint = endpoint::open(&args.data_dir).await?;
    let url = queue_url(&endpoint.base, queues::QUEUE);
    let queue = Queue::sqs(endpoint.settings.clone(), url);
    Ok((Some(queue), Some(endpoint)))
}

/// The ledger's records of the registry.
async fn known(args: &BackfillArgs, registry: &str, now: Timestamp) -> anyhow::Result<Known> {
    let mut known = Known::new(args.only_missing);
    let exists = args.table.is_some() || data_dir::ledger(&args.data_dir).is_file();
    if !exists {
        return Err(unusable(no_ledger(&args.data_dir)));
    }
    let ledger = LedgerArgs {
        data_dir: args.data_dir.clone(),
        table: args.table.clone(),
    };
    // The filter matches anywhere in a reference. Records that match by accident do no harm.
    let filter = ScanFilter {
        image: Some(format!("{registry}/")),
        ..ScanFilter::default()
    };
    let records = Records::open(&ledger).await?;
    for record in records.latest(&filter, usize::MAX, now).await? {
        known.add(&record, now);
    }
    Ok(known)
}

fn no_ledger(data_dir: &Path) -> anyhow::Error {
    anyhow::anyhow!(
        "there is no ledger in {}: run this where `scanhook serve` ran, or name its --data-dir or a DynamoDB table with --table",
        data_dir.display()
    )
}

impl Run<'_> {
    async fn all(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        let progress = output::progress(0, "backfilling");
        let (repositories, is_catalog) = self.repositories(stop).await?;
        for repository in repositories {
            if stop.is_cancelled() {
                break;
            }
            self.summary.repositories += 1;
            let registry = &self.source.registry;
            let tags = async || self.registries.tags(registry, &repository).await;
            match patiently(stop, tags).await {
                Ok(tags) => {
                    progress.inc_length(tags.len() as u64);
                    self.tags(&repository, tags, &progress, stop).await?;
                }
                // A repository without tags: if only untagged manifests were pushed, some registries have no tag list.
                Err(err) if is_catalog && err.reason == ErrorReason::ImageNotFound => {}
                Err(err) => {
                    let name = format!("{registry}/{repository}");
                    self.failed(name, &err, stop);
                }
            }
        }
        progress.finish_and_clear();
        self.summary.interrupted = stop.is_cancelled();
        Ok(())
    }

    /// Records an error. If the registry still asks for a pause, the run ends.
    fn failed(&mut self, what: String, err: &ResolveError, stop: &CancellationToken) {
        if err.reason == ErrorReason::RateLimited {
            stop.cancel();
        }
        self.summary.errors.insert(what, err.to_string());
    }

    /// The named repositories, or those of the catalog that match; true if they come from the catalog.
    async fn repositories(
        &self,
        stop: &CancellationToken,
    ) -> anyhow::Result<(Vec<Repository>, bool)> {
        let patterns = &self.args.repositories;
        let named: Result<Vec<_>, _> = patterns.iter().map(|it| Repository::parse(it)).collect();
        if let (false, Ok(named)) = (patterns.is_empty(), named) {
            return Ok((named, false));
        }
        let globs = globs(patterns).map_err(unusable)?;
        let catalog = async || self.registries.repositories(&self.source.registry).await;
        let catalog = patiently(stop, catalog).await.context(
            "could not list the registry's repositories; if it has no catalog, name them with --repositories",
        )?;
        let is_selected = |it: &Repository| patterns.is_empty() || globs.is_match(it.as_str());
        Ok((catalog.into_iter().filter(is_selected).collect(), true))
    }

    async fn tags(
        &mut self,
        repository: &Repository,
        tags: Vec<Tag>,
        progress: &indicatif::ProgressBar,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        for batch in tags.chunks(BATCH) {
            if stop.is_cancelled() {
                return Ok(());
            }
            progress.inc(batch.len() as u64);
            self.summary.tags += batch.len();
            let wanted: Vec<_> = batch
                .iter()
                .filter(|it| self.is_wanted(repository, it))
                .collect();
            self.summary.filtered += batch.len() - wanted.len();
            let registries = &self.registries;
            let images = wanted.into_iter().map(|tag| Image {
                registry: self.source.registry.clone(),
                repository: repository.clone(),
                pin: Pin::Tag(tag.clone()),
            });
            let since = self.since;
            let lookups = stream::iter(images).map(async |image| {
                let digest =
                    patiently(stop, async || digest_since(registries, &image, since).await).await;
                (image, digest)
            });
            let digests: Vec<_> = lookups.buffered(LOOKUPS).collect().await;
            let mut requests = Vec::new();
            for (image, digest) in digests {
                match digest {
                    Ok(Some(digest)) => requests.extend(self.request(image, digest)),
                    Ok(None) => self.summary.filtered += 1,
                    Err(err) => self.failed(image.to_string(), &err, stop),
                }
            }
            self.queue(requests, stop).await?;
        }
        Ok(())
    }

    /// Whether the source's configuration selects the tag.
    fn is_wanted(&self, repository: &Repository, tag: &Tag) -> bool {
        let selected = select(self.source, vec![Event::Push(push(repository, tag, None))]);
        !selected.requests.is_empty()
    }

    /// The scan of an image, unless its content is known.
    fn request(&mut self, image: Image, digest: Digest) -> Option<ScanRequest> {
        let name = image.name();
        let earlier = self.journal.scan_of(&name, &digest);
        if self.known.has(&name, image.pin.tag(), &digest)
            || earlier.is_some_and(|it| !self.known.has_failed(it))
        {
            self.summary.known += 1;
            return None;
        }
        if !self.known.is_first(&name, &digest) {
            self.summary.repeated += 1;
            return None;
        }
        let tag = image.pin.tag()?.clone();
        let push = push(&image.repository, &tag, Some(digest));
        select(self.source, vec![Event::Push(push)]).requests.pop()
    }

    async fn queue(
        &mut self,
        requests: Vec<ScanRequest>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let count = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        let Some(queue) = self.queue.as_ref().filter(|_| count > 0) else {
            self.summary.queued += requests.len();
            return Ok(());
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep_until(self.next) => {}
        }
        self.next = self.next.max(Instant::now())
            + Duration::from_secs(count.into()) / u32::from(self.args.rate);
        let now = Clock::System.now();
        let messages: Vec<_> = requests
            .into_iter()
            .map(|it| QueueMessage::new(it, new_id(), now, None))
            .collect();
        queue
            .send(messages.clone(), Instant::now() + PATIENCE)
            .await
            .context("stopped; run it again to resume")?;
        self.journal.add(&messages, now)?;
        self.summary.queued += messages.len();
        Ok(())
    }
}

/// The event that a push of the tag would have caused.
fn push(repository: &Repository, tag: &Tag, digest: Option<Digest>) -> PushEvent {
    PushEvent {
        registry: NamedRegistry::Unnamed,
        repository: repository.clone(),
        tag: Some(tag.clone()),
        digest,
        content: Content::Image,
        info: EventInfo::new("backfill", None, None, None),
    }
}

/// Asks the registry, and asks again after each pause that it requests, unless a pause is too long.
async fn patiently<T>(
    stop: &CancellationToken,
    ask: impl AsyncFn() -> Result<T, ResolveError>,
) -> Result<T, ResolveError> {
    let mut pauses = 0;
    loop {
        let err = match ask().await {
            Err(err) if err.reason == ErrorReason::RateLimited => err,
            answer => return answer,
        };
        let pause = err.pause.unwrap_or(PAUSE);
        pauses += 1;
        if pause > LONGEST_PAUSE || pauses > MOST_PAUSES {
            return Err(err);
        }
        tokio::select! {
            () = stop.cancelled() => return Err(err),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The digest of a tag; `None` for an image that was built before `since`.
async fn digest_since(
    registries: &Registries,
    image: &Image,
    since: Option<Timestamp>,
) -> Result<Option<Digest>, ResolveError> {
    let _permit = registries.pull(&image.registry).await;
    let digest = registries.digest(image).await?;
    let Some(since) = since else {
        return Ok(Some(digest));
    };
    // Include an image without a build time.
    let created = registries.created(image, &digest).await?;
    Ok(Some(digest).filter(|_| created.is_none_or(|it| it >= since)))
}

fn globs(patterns: &[String]) -> anyhow::Result<GlobSet> {
    let mut globs = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        globs.add(glob.with_context(|| format!("--repositories {pattern:?}"))?);
    }
    globs.build().context("--repositories")
}
