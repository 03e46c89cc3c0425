//! `scanhook backfill`: queues what a registry holds and the ledger doesn't know.
//!
//! **Invariant**: what was queued is written down, on disk, right after the queue's acknowledgement; so a run that is
//! interrupted, and one that is repeated, queues nothing twice but what was under way when it was killed.

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
use scanhook_config::aws::json::{SQS, Service};
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

/// So many tags are asked for at once.
const QUESTIONS: usize = 8;

/// So many messages are sent together, and are twice in the queue at worst if the process is killed right then.
const BATCH: usize = 10;

/// How long the queue may take to acknowledge a batch.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a registry is left alone that asks for a pause and does not say how long.
const PAUSE: Duration = Duration::from_secs(30);

/// A registry that wants to be left alone for longer, or that often, ends the run.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
const MOST_PAUSES: u32 = 5;

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Done {
    repositories: usize,
    tags: usize,
    /// Tags that the source's configuration, or `--since`, leaves out.
    filtered: usize,
    /// Tags whose content the ledger knows, or an earlier run queued.
    known: usize,
    /// Tags of content that another tag of this run named.
    repeated: usize,
    /// Scan requests; with `--dry-run`, those that would have been queued.
    queued: usize,
    /// What could not be learned, by repository or image, with why.
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
    let done = signals::until_stopped(work, &stop).await?;
    match args.output {
        Output::Json => output::json(&done)?,
        Output::Table => report(&done)?,
    }
    let is_fine = done.errors.is_empty() && !done.interrupted;
    Ok(if is_fine {
        Outcome::Fine
    } else {
        Outcome::Findings
    })
}

fn report(done: &Done) -> anyhow::Result<()> {
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

/// Everything a run needs.
struct Run<'a> {
    args: &'a BackfillArgs,
    source: &'a Source,
    registries: Registries,
    /// None for a dry run.
    queue: Option<Queue>,
    known: Known,
    journal: Journal,
    since: Option<Timestamp>,
    next: Instant,
    done: Done,
}

async fn backfill(
    args: &BackfillArgs,
    environment: &Environment,
    stop: &CancellationToken,
) -> anyhow::Result<Done> {
    let secrets = Secrets::local(environment);
    let config = Arc::new(configuration::load(&args.config.location, &secrets).await?);
    let source = config.sources.get(args.source.as_str());
    let source = source
        .with_context(|| format!("{} has no source {}", args.config.location, args.source))
        .map_err(unusable)?;
    let outside = scanning::registry_deps(system_dns());
    let registries = Registries::load(&secrets, environment, Arc::clone(&config), outside).await;
    let registries = registries.map_err(unusable)?;
    let now = Clock::System.now();
    let (data_dir, name) = (&args.data_dir, &source.source.name);
    // Held to the end: with it a queue ends that no `serve` offers.
    let (queue, _endpoint) = queue(args, environment).await.map_err(unusable)?;
    let journal = if args.dry_run {
        Journal::read(data_dir, name, now)
    } else {
        Journal::open(data_dir, name, now)
    };
    let journal = journal.map_err(unusable)?;
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
        done: Done {
            dry_run: args.dry_run,
            ..Done::default()
        },
    };
    run.all(stop).await?;
    Ok(run.done)
}

/// Where requests go; nowhere for a dry run.
async fn queue(
    args: &BackfillArgs,
    environment: &Environment,
) -> anyhow::Result<(Option<Queue>, Option<Endpoint>)> {
    if args.dry_run {
        return Ok((None, None));
    }
    if let Some(url) = &args.queue_url {
        let service = Service::new(SQS, &Aws::local(environment));
        return Ok((Some(Queue::sqs(service, url.clone())), None));
    }
    let endpoint = endpoint::open(&args.data_dir).await?;
    let url = queue_url(&endpoint.base, queues::QUEUE);
    let queue = Queue::sqs(endpoint::service(&endpoint.base), url);
    Ok((Some(queue), Some(endpoint)))
}

/// What the ledger has of the registry.
async fn known(args: &BackfillArgs, registry: &str, now: Timestamp) -> anyhow::Result<Known> {
    let mut known = Known::new(args.only_missing);
    let is_there = args.table.is_some() || data_dir::ledger(&args.data_dir).is_file();
    if !is_there {
        return Err(unusable(no_ledger(&args.data_dir)));
    }
    let ledger = LedgerArgs {
        data_dir: args.data_dir.clone(),
        table: args.table.clone(),
    };
    // Where it stands in a reference is not asked: what is too much does no harm.
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
            self.done.repositories += 1;
            let registry = &self.source.registry;
            let tags = async || self.registries.tags(registry, &repository).await;
            match patiently(stop, tags).await {
                Ok(tags) => {
                    progress.inc_length(tags.len() as u64);
                    self.tags(&repository, tags, &progress, stop).await?;
                }
                // It has no tags: where nothing but untagged manifests was pushed, there is no list of them either.
                Err(err) if is_catalog && err.reason == ErrorReason::ImageNotFound => {}
                Err(err) => {
                    let name = format!("{registry}/{repository}");
                    self.failed(name, &err, stop);
                }
            }
        }
        progress.finish_and_clear();
        self.done.interrupted = stop.is_cancelled();
        Ok(())
    }

    /// Records what could not be learned. A registry that still asks for a pause ends the run.
    fn failed(&mut self, what: String, err: &ResolveError, stop: &CancellationToken) {
        if err.reason == ErrorReason::RateLimited {
            stop.cancel();
        }
        self.done.errors.insert(what, err.to_string());
    }

    /// The repositories that are asked for: the named ones, or those of the catalog that match; and which of the two.
    async fn repositories(
        &self,
        stop: &CancellationToken,
    ) -> anyhow::Result<(Vec<Repository>, bool)> {
        let asked = &self.args.repositories;
        let named: Result<Vec<_>, _> = asked.iter().map(|it| Repository::parse(it)).collect();
        if let (false, Ok(named)) = (asked.is_empty(), named) {
            return Ok((named, false));
        }
        let globs = globs(asked).map_err(unusable)?;
        let catalog = async || self.registries.repositories(&self.source.registry).await;
        let catalog = patiently(stop, catalog).await.context(
            "could not list the registry's repositories; if it has no catalog, name them with --repositories",
        )?;
        let is_asked = |it: &Repository| asked.is_empty() || globs.is_match(it.as_str());
        Ok((catalog.into_iter().filter(is_asked).collect(), true))
    }

    async fn tags(
        &mut self,
        repository: &Repository,
        tags: Vec<Tag>,
        progress: &indicatif::ProgressBar,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        for some in tags.chunks(BATCH) {
            if stop.is_cancelled() {
                return Ok(());
            }
            progress.inc(some.len() as u64);
            self.done.tags += some.len();
            let wanted: Vec<_> = some
                .iter()
                .filter(|it| self.is_wanted(repository, it))
                .collect();
            self.done.filtered += some.len() - wanted.len();
            let registries = &self.registries;
            let images = wanted.into_iter().map(|tag| Image {
                registry: self.source.registry.clone(),
                repository: repository.clone(),
                pin: Pin::Tag(tag.clone()),
            });
            let since = self.since;
            let looks = stream::iter(images).map(async |image| {
                let look = patiently(stop, async || look(registries, &image, since).await).await;
                (image, look)
            });
            let looked: Vec<_> = looks.buffered(QUESTIONS).collect().await;
            let mut requests = Vec::new();
            for (image, look) in looked {
                match look {
                    Ok(Some(digest)) => requests.extend(self.request(image, digest)),
                    Ok(None) => self.done.filtered += 1,
                    Err(err) => self.failed(image.to_string(), &err, stop),
                }
            }
            self.queue(requests, stop).await?;
        }
        Ok(())
    }

    /// Whether the source's configuration wants the tag.
    fn is_wanted(&self, repository: &Repository, tag: &Tag) -> bool {
        let selected = select(self.source, vec![Event::Push(push(repository, tag, None))]);
        !selected.requests.is_empty()
    }

    /// A scan request, unless the content is known.
    fn request(&mut self, image: Image, digest: Digest) -> Option<ScanRequest> {
        let name = image.name();
        let earlier = self.journal.scan_of(&name, &digest);
        if self.known.has(&name, image.pin.tag(), &digest)
            || earlier.is_some_and(|it| !self.known.has_failed(it))
        {
            self.done.known += 1;
            return None;
        }
        if !self.known.first_time(&name, &digest) {
            self.done.repeated += 1;
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
            self.done.queued += requests.len();
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
        let sent = queue.send(messages.clone(), Instant::now() + PATIENCE);
        sent.await.context("stopped; run it again to resume")?;
        self.journal.add(&messages, now)?;
        self.done.queued += messages.len();
        Ok(())
    }
}

/// The event that a push of the tag would have been.
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

/// Asks, and repeats that after each pause that the registry asks for, if it is short enough to wait for.
async fn patiently<T>(
    stop: &CancellationToken,
    ask: impl AsyncFn() -> Result<T, ResolveError>,
) -> Result<T, ResolveError> {
    let mut pauses = 0;
    loop {
        let err = match ask().await {
            Err(err) if err.reason == ErrorReason::RateLimited => err,
            asked => return asked,
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

/// The digest that a tag names; none for an image that was built before `since`.
async fn look(
    registries: &Registries,
    image: &Image,
    since: Option<Timestamp>,
) -> Result<Option<Digest>, ResolveError> {
    let _permit = registries.pull(&image.registry).await;
    let digest = registries.digest(image).await?;
    let Some(since) = since else {
        return Ok(Some(digest));
    };
    // One that does not tell when it was built is not left out.
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
