//! What the webhook would do with a saved delivery: every event with its outcome and the reason.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use scanhook_config::config::MAX_BODY;
use scanhook_config::file;
use scanhook_core::auth::{Credential, Scheme, VerifiedDelivery, verify};
use scanhook_core::delivery::{Delivery, join_repeated};
use scanhook_core::event::{Event, ParsePayloadError, PushEvent, SkipReason};
use scanhook_core::image::{Image, Tag};
use scanhook_core::select::{MAX_IMAGES, Selected};
use scanhook_core::source::{Filter, Source};
use serde::Serialize;

use crate::args::Output;
use crate::outcome::{Outcome, unusable};
use crate::{output, send};

/// What the webhook would do with the sample. Its fields are stable.
#[derive(Serialize)]
struct Report {
    source: String,
    kind: &'static str,
    /// The status of the answer, given a valid credential and a working queue.
    status: u16,
    /// Why the whole delivery would be refused.
    problem: Option<String>,
    /// The code to answer Event Grid's validation with.
    validation: Option<String>,
    /// One for each event, in the order of the delivery.
    events: Vec<Decided>,
}

#[derive(Serialize)]
struct Decided {
    outcome: &'static str,
    reason: Option<&'static str>,
    why: String,
    image: Option<String>,
    tag: Option<String>,
    digest: Option<String>,
}

pub(super) fn command(
    source: &Source,
    body_limit: u64,
    file: &Path,
    shown: Output,
) -> anyhow::Result<Outcome> {
    let delivery = delivery(source, file).map_err(unusable)?;
    let report = report(source, body_limit, &delivery);
    match shown {
        Output::Json => output::json(&report)?,
        Output::Table => print(&report)?,
    }
    let is_malformed = |it: &Decided| it.reason == Some(SkipReason::Malformed.as_str());
    let is_fine = report.problem.is_none() && !report.events.iter().any(is_malformed);
    Ok(if is_fine {
        Outcome::Fine
    } else {
        Outcome::Findings
    })
}

/// The saved delivery, verified by a credential made up here, so that no secret is read.
fn delivery(source: &Source, file: &Path) -> anyhow::Result<VerifiedDelivery> {
    let token = "a dry run has no stranger";
    let verifier = Credential {
        scheme: Scheme::PathToken,
        secret: token.into(),
    }
    .verifier();
    let body =
        file::read(file, MAX_BODY).with_context(|| format!("could not read {}", file.display()))?;
    let delivery = Delivery {
        headers: join_repeated(headers(source, file)?),
        path_token: Some(token.to_owned()),
        body: Bytes::from(body),
        received_at: Timestamp::UNIX_EPOCH,
    };
    verify(delivery, &[verifier]).map_err(|_| anyhow!("the dry run's own credential is wrong"))
}

fn headers(source: &Source, file: &Path) -> anyhow::Result<HeaderMap> {
    let beside = [
        file.with_added_extension("headers"),
        file.with_extension("headers"),
    ];
    let mut headers = HeaderMap::new();
    let Some(beside) = beside.iter().find(|it| it.is_file()) else {
        let image = Image::parse(&format!("{}/scanhook/test:latest", source.registry))?;
        for (name, value) in send::make_sample(source, &image).headers {
            headers.append(name, HeaderValue::try_from(value)?);
        }
        return Ok(headers);
    };
    let text = file::read_text(beside, MAX_BODY)
        .with_context(|| format!("could not read {}", beside.display()))?;
    for (index, line) in text.lines().enumerate() {
        let place = || format!("{}:{}: not `Name: value`", beside.display(), index + 1);
        if line.trim().is_empty() {
            continue;
        }
        let (name, value) = line.split_once(':').with_context(place)?;
        let name = HeaderName::try_from(name.trim()).with_context(place)?;
        headers.append(
            name,
            HeaderValue::try_from(value.trim()).with_context(place)?,
        );
    }
    Ok(headers)
}

fn report(source: &Source, body_limit: u64, delivery: &VerifiedDelivery) -> Report {
    let mut report = Report {
        source: source.name.to_string(),
        kind: source.kind.name,
        status: 200,
        problem: None,
        validation: None,
        events: Vec::new(),
    };
    if u64::try_from(delivery.body().len()).is_ok_and(|it| it > body_limit) {
        report.status = 413;
        report.problem = Some(format!(
            "the body is longer than limits.body, {body_limit} bytes"
        ));
        return report;
    }
    match (source.kind.parse)(delivery, &source.options) {
        Ok(events) => decide(source, events, &mut report),
        Err(err) => {
            report.status = 400;
            report.problem = Some(problem(&err));
        }
    }
    report
}

fn decide(source: &Source, events: Vec<Event>, report: &mut Report) {
    let mut selected = Selected::default();
    for event in events {
        let (original, skips) = (event.clone(), selected.skips.len());
        let requests = selected.requests.len();
        selected.add(source, event);
        if let Some(skip) = selected.skips.get(skips) {
            report.events.push(Decided {
                outcome: "skipped",
                reason: Some(skip.reason.as_str()),
                why: why(source, skip.reason, &original),
                image: skip.image.clone(),
                tag: skip.tag.as_ref().map(ToString::to_string),
                digest: skip.digest.as_ref().map(ToString::to_string),
            });
        } else if let Some(request) = selected.requests.get(requests) {
            let image = &request.image;
            report.events.push(Decided {
                outcome: "queued",
                reason: None,
                why: format!(
                    "{} of an image that the source selects",
                    request.event.event_type.as_str()
                ),
                image: Some(image.name()),
                tag: image.pin.tag().map(ToString::to_string),
                digest: image.pin.digest().map(ToString::to_string),
            });
        }
    }
    if selected.is_over_limit {
        let queued = report.events.iter_mut().filter(|it| it.outcome == "queued");
        for event in queued {
            event.outcome = "skipped";
            event.reason = Some(SkipReason::TooManyImages.as_str());
            event.why = too_many();
        }
        selected.requests.clear();
    }
    if selected.is_refused(source) {
        report.status = 400;
        report.problem = Some(too_many());
        return;
    }
    report.validation = selected.validation.map(|it| it.as_str().to_owned());
    report.status = if selected.requests.is_empty() {
        200
    } else {
        202
    };
}

fn too_many() -> String {
    format!("the delivery has more than {MAX_IMAGES} images")
}

/// What is wrong, with details that answers leave out: the reader has the payload.
fn problem(err: &ParsePayloadError) -> String {
    match err {
        ParsePayloadError::Malformed { problem, .. } => format!("{err}: {}", problem.as_str()),
        ParsePayloadError::Missing { .. } => err.to_string(),
    }
}

/// Why an event is skipped: names the part of the configuration or of the payload that decided it.
fn why(source: &Source, reason: SkipReason, event: &Event) -> String {
    match (reason, event) {
        (_, Event::Malformed(err)) => problem(err),
        (SkipReason::Ping, _) => "a test of the connection".to_owned(),
        (SkipReason::NotAPush, _) => "its type or action is not a push".to_owned(),
        (SkipReason::NotAnImage, Event::Push(_)) => {
            "its media types are not those of an image that a runtime can run".to_owned()
        }
        (SkipReason::ForeignRegistry, Event::Push(push)) => foreign(source, push),
        (SkipReason::Untagged, Event::Push(push)) if push.digest.is_none() => {
            "it has no valid tag or digest".to_owned()
        }
        (SkipReason::Untagged, _) => "pushed by digest only, and `untagged` is skip".to_owned(),
        (SkipReason::FilteredRepository, Event::Push(push)) => {
            let (filter, name) = (&source.repositories, push.repository.as_str());
            filtered(filter, name, ["include", "exclude"])
        }
        (SkipReason::FilteredTag, Event::Push(push)) => {
            let tag = push.tag.as_ref().map_or("", Tag::as_str);
            filtered(&source.tags, tag, ["tags.include", "tags.exclude"])
        }
        (SkipReason::TooManyImages, _) => too_many(),
        (SkipReason::RepeatedInDelivery, _) => {
            "the same image is earlier in this delivery".to_owned()
        }
        _ => "the payload is about something that is not an image".to_owned(),
    }
}

fn foreign(source: &Source, push: &PushEvent) -> String {
    let known: Vec<_> = source.own_hosts().map(ToString::to_string).collect();
    format!(
        "the payload names {:?}; `registry` and `hosts` are {}",
        push.registry.to_string(),
        known.join(", ")
    )
}

fn filtered(filter: &Filter, text: &str, [include, exclude]: [&str; 2]) -> String {
    match filter.exclude.matches(text).first() {
        Some(index) => format!("pattern {} of `{exclude}` matches {text}", index + 1),
        None => format!("no pattern of `{include}` matches {text}"),
    }
}

fn print(report: &Report) -> anyhow::Result<()> {
    let summary = match (&report.problem, &report.validation) {
        (Some(problem), _) => problem.clone(),
        (None, Some(code)) => format!("a validation, answered with {code}"),
        (None, None) => {
            let queued = report
                .events
                .iter()
                .filter(|it| it.reason.is_none())
                .count();
            format!("{queued} to scan, {} skipped", report.events.len() - queued)
        }
    };
    output::line(&format!(
        "{} ({}): {} {summary}",
        report.source, report.kind, report.status
    ))?;
    if report.events.is_empty() {
        return Ok(());
    }
    let row = |it: &Decided| {
        let mut image = it.image.clone().unwrap_or_default();
        for (mark, part) in [(':', &it.tag), ('@', &it.digest)] {
            if let Some(part) = part {
                image.push(mark);
                image.push_str(part);
            }
        }
        let outcome = it.reason.map_or(it.outcome.to_owned(), |reason| {
            format!("{}: {reason}", it.outcome)
        });
        vec![image, outcome, it.why.clone()]
    };
    output::table(
        &["image", "outcome", "why"],
        report.events.iter().map(row).collect(),
    )
}
