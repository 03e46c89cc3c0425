//! An attempt's first step: what there is to scan, and room for it.

use std::time::Duration;

use jiff::Timestamp;
use scanhook_core::failure::{Class, ErrorReason};
use scanhook_core::time::until;
use scanhook_registry::{ResolveError, Resolved, Subject};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tracing::Instrument as _;

use super::attempt::Attempt;
use super::failure::{Failure, Retry};
use crate::cli::Slot;

/// What is to be done for a message, with all that is needed for it.
pub(super) struct Prepared {
    pub(super) policies: Vec<String>,
    pub(super) resolved: Resolved,
    /// None if there is nothing to run the CLI for.
    pub(super) slot: Option<Slot>,
    /// When the wait for all of this was over.
    pub(super) at: Timestamp,
    /// Held while the registry is pulled from.
    _pull: Option<OwnedSemaphorePermit>,
}

/// The longest time for all questions to a registry about one image.
const RESOLVE: Duration = Duration::from_mins(1);

impl Attempt<'_> {
    /// Asks the message's registry what there is to scan, and takes a slot for it.
    pub(super) async fn prepare(&self) -> Result<Prepared, Failure> {
        let (scanner, message) = (self.scanner, &self.message);
        let policies = scanner.settings.policies(&message.source).ok_or_else(|| {
            let detail = format!("no source {} is configured", message.source);
            self.failure(ErrorReason::UnknownSource, detail)
        })?;
        self.check_registry()?;
        #[cfg(feature = "faults")]
        assert!(
            !message.image.repository.as_str().ends_with("/panic"),
            "asked for by the image's name"
        );
        let pull = scanner.registries.pull(&message.image.registry);
        let pull = timeout(self.time_to_start(), pull).await;
        let pull = pull.map_err(|_| self.unattempted())?;
        let resolve = self.resolve().instrument(tracing::info_span!("resolve"));
        let resolved = resolve.await?;
        let is_image = |it: &Subject| matches!(it, Subject::Image(_));
        let slot = if resolved.subjects.iter().any(is_image) {
            Some(self.lease().await?)
        } else {
            None
        };
        Ok(Prepared {
            policies,
            resolved,
            slot,
            at: (scanner.now)(),
            _pull: pull,
        })
    }

    fn time_to_start(&self) -> Duration {
        until(self.times.start, (self.scanner.now)())
    }

    async fn lease(&self) -> Result<Slot, Failure> {
        let limit = self.time_to_start();
        let slot = timeout(limit, self.scanner.slots.lease()).await.ok();
        // A slot that is free at once would be had in no time at all.
        slot.filter(|_| !limit.is_zero())
            .ok_or_else(|| self.unattempted())
    }

    /// Checks that a message names its source's registry, so that whoever can only write to the queue can't choose the
    /// host that gets credentials.
    fn check_registry(&self) -> Result<(), Failure> {
        let named = &self.message.image.registry;
        match self.scanner.settings.source(&self.message.source) {
            Some(source) if !source.owns_host(named) => {
                let detail = format!(
                    "the message names {named}, but source {} pulls from {}: an old name that is listed in the source's `hosts` lets \
                     such messages through",
                    source.name, source.registry
                );
                Err(self.failure(ErrorReason::BadMessage, detail))
            }
            _ => Ok(()),
        }
    }

    /// Asks the registry what there is to scan. What could not be read is not given to the CLI.
    async fn resolve(&self) -> Result<Resolved, Failure> {
        let limit = until(self.times.end, (self.scanner.now)()).min(RESOLVE);
        if limit.is_zero() {
            return Err(self.unattempted());
        }
        let (registries, settings) = (&self.scanner.registries, &self.scanner.settings);
        let wanted = settings.platforms(&self.message.source);
        let resolve = registries.resolve(&self.message.image, wanted, settings.max_image());
        let resolved = timeout(limit, Box::pin(resolve)).await.unwrap_or_else(|_| {
            Err(ResolveError {
                reason: ErrorReason::Network,
                detail: "the registry did not answer in time".to_owned(),
                pause: None,
                is_unconfirmed: false,
            })
        });
        resolved.map_err(|err| {
            let mut failure = self.failure(err.reason, err.detail);
            failure.retry = err.pause.map_or(Retry::Later, Retry::NotBefore);
            if err.is_unconfirmed {
                failure.error.class = Class::Transient;
            }
            failure
        })
    }
}
