//! `scanhook send`: deliveries as a source's registry would send them, with a valid credential.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use scanhook_config::config::MAX_BODY;
use scanhook_config::secrets::Secrets;
use scanhook_config::{Environment, file};
use scanhook_core::auth::{Credential, Presented};
use scanhook_core::image::{Image, Registry};
use scanhook_core::kinds::{Sample, SamplePush};
use scanhook_core::source::Source;
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{Output, SendArgs};
use crate::outcome::{Outcome, unusable};
use crate::{configuration, http_client, output};

impl Answer {
    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// A delivery that is ready to be sent.
pub(crate) struct Signed {
    url: reqwest::Url,
    sample: Sample,
    credential: Option<(http::HeaderName, http::HeaderValue)>,
}

/// The webhook's answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

pub(crate) async fn command(args: SendArgs, environment: Environment) -> anyhow::Result<Outcome> {
    let secrets = Secrets::local(&environment);
    let config = configuration::load(&args.config.location, &secrets).await?;
    let source = config.sources.get(args.source.as_str());
    let source = source
        .with_context(|| format!("{} has no source {}", args.config.location, args.source))
        .map_err(unusable)?;
    let credentials = source.credentials(&secrets).await.map_err(unusable)?;
    let credential = credentials
        .first()
        .context("the source accepts only tokens of an identity provider (oidc), which scanhook can't create; add a second credential for `send`")
        .map_err(unusable)?;
    let client = http_client::outward()?;
    let deliver = async || -> anyhow::Result<Delivered> {
        let sample = sample(&args, &source.source).map_err(unusable)?;
        let signed = sign(&args.url, &source.source, credential, sample).map_err(unusable)?;
        let began = Instant::now();
        let answer = post(&client, signed).await;
        Ok((answer, began.elapsed()))
    };
    let is_load = args.count > 1;
    let progress = output::progress(u64::from(args.count), "sending");
    let began = Instant::now();
    let mut deliveries = stream::iter(0..args.count)
        .map(|_| deliver())
        .buffer_unordered(usize::from(args.concurrency));
    let mut delivered = Vec::new();
    while let Some(one) = deliveries.try_next().await? {
        progress.inc(1);
        match one {
            (Err(err), _) if !is_load => return Err(err),
            one => delivered.push(one),
        }
    }
    progress.finish_and_clear();
    let took = began.elapsed();
    if !args.summary && args.count <= MOST_SHOWN {
        show(&args, &delivered)?;
    }
    if is_load {
        let figures = Figures::of(&delivered, took);
        match args.output {
            Output::Json if args.summary || args.count > MOST_SHOWN => output::json(&figures)?,
            Output::Json => {}
            Output::Table => figures.show()?,
        }
    }
    let is_fine = |it: &Delivered| matches!(it, (Ok(answer), _) if answer.is_success());
    if delivered.iter().all(is_fine) {
        Ok(Outcome::Fine)
    } else {
        Ok(Outcome::Findings)
    }
}

/// For more deliveries than this, only the figures are shown.
const MOST_SHOWN: u32 = 20;

/// The answer to a delivery or why there is none, and the latency.
type Delivered = (anyhow::Result<Answer>, Duration);

fn show(args: &SendArgs, delivered: &[Delivered]) -> anyhow::Result<()> {
    match args.output {
        Output::Json => {
            let shown = delivered.iter().map(|(answer, took)| {
                let duration_ms = milliseconds(*took);
                match answer {
                    Ok(it) => json!({"status": it.status, "answer": it.body, "duration_ms": duration_ms}),
                    Err(err) => json!({"status": null, "error": format!("{err:#}"), "duration_ms": duration_ms}),
                }
            });
            output::json(&shown.collect::<Vec<_>>())
        }
        Output::Table => output::table(
            &["status", "image", "outcome"],
            delivered
                .iter()
                .flat_map(|(answer, _)| match answer {
                    Ok(answer) => rows(answer),
                    Err(err) => vec![vec!["-".to_owned(), String::new(), format!("{err:#}")]],
                })
                .collect(),
        ),
    }
}

/// Counts of answers, and their latency.
#[derive(Debug, PartialEq, Serialize)]
struct Figures {
    deliveries: usize,
    /// By HTTP status; `none` for deliveries without an answer.
    statuses: BTreeMap<String, usize>,
    /// The first error of a delivery without an answer.
    error: Option<String>,
    seconds: f64,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl Figures {
    fn of(delivered: &[Delivered], took: Duration) -> Self {
        let mut statuses = BTreeMap::new();
        let mut error = None;
        for (answer, _) in delivered {
            let status = match answer {
                Ok(answer) => answer.status.to_string(),
                Err(err) => {
                    error.get_or_insert_with(|| format!("{err:#}"));
                    "none".to_owned()
                }
            };
            *statuses.entry(status).or_default() += 1;
        }
        let mut times: Vec<_> = delivered.iter().map(|(_, took)| *took).collect();
        times.sort_unstable();
        let seconds = took.as_secs_f64();
        Self {
            deliveries: delivered.len(),
            statuses,
            error,
            seconds,
            per_second: f64::from(u32::try_from(delivered.len()).unwrap_or(u32::MAX))
                / seconds.max(f64::MIN_POSITIVE),
            p50_ms: percentile(&times, 50),
            p99_ms: percentile(&times, 99),
            max_ms: percentile(&times, 100),
        }
    }

    fn show(&self) -> anyhow::Result<()> {
        let statuses = self
            .statuses
            .iter()
            .map(|(status, count)| format!("{count} × {status}"));
        output::line(&format!(
            "{} deliveries in {:.2} s: {:.0} per second; latency {:.1} ms (p50), {:.1} ms (p99), {:.1} ms (max)\n{}",
            self.deliveries,
            self.seconds,
            self.per_second,
            self.p50_ms,
            self.p99_ms,
            self.max_ms,
            statuses.collect::<Vec<_>>().join(", "),
        ))?;
        if let Some(error) = &self.error {
            output::notice(&format!("no answer: {error}"));
        }
        Ok(())
    }
}

/// A percentile of sorted times, in milliseconds.
fn percentile(times: &[Duration], percent: usize) -> f64 {
    let rank = (times.len() * percent).div_ceil(100);
    times
        .get(rank.saturating_sub(1))
        .copied()
        .map_or(0.0, milliseconds)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn sample(args: &SendArgs, source: &Source) -> anyhow::Result<Sample> {
    let image = match &args.image {
        Some(text) => Image::parse(text).with_context(|| format!("--image {text:?}"))?,
        None => Image::parse(&format!("{}/scanhook/test:latest", source.registry))?,
    };
    let mut sample = make_sample(source, &image);
    if let Some(file) = &args.file {
        sample.body = file::read(file, MAX_BODY)
            .with_context(|| format!("could not read {}", file.display()))?;
    }
    for (name, value) in &args.header {
        sample.headers.retain(|(it, _)| it != name);
        sample
            .headers
            .push((name.clone(), value.to_str()?.to_owned()));
    }
    Ok(sample)
}

/// The delivery of `source`'s kind for a push of `image`, just now.
#[expect(clippy::disallowed_methods, reason = "the command's clock")]
pub(crate) fn make_sample(source: &Source, image: &Image) -> Sample {
    let id = ulid::Ulid::generate().to_string();
    // ECR's events contain its own account and region, even if images are pulled from another host.
    let can_be_named = |it: &&Registry| source.kind.can_own(std::iter::once(*it));
    let mut hosts = std::iter::once(&image.registry).chain(source.own_hosts());
    let registry = hosts.find(can_be_named).unwrap_or(&image.registry);
    (source.kind.sample)(&SamplePush {
        image: &Image {
            registry: registry.clone(),
            ..image.clone()
        },
        id: &id,
        at: jiff::Timestamp::now(),
    })
}

/// Adds the credential to a delivery for the webhook at `base`.
pub(crate) fn sign(
    base: &str,
    source: &Source,
    credential: &Credential,
    sample: Sample,
) -> anyhow::Result<Signed> {
    let presented = credential.present(&sample.body);
    let url = format!("{}/webhooks/{}", base.trim_end_matches('/'), source.name);
    let mut url = reqwest::Url::parse(&url).context("--url")?;
    anyhow::ensure!(
        matches!(url.scheme(), "http" | "https"),
        "--url must start with http:// or https://"
    );
    match presented
        .ok_or_else(|| anyhow!("the secret of {} can't be sent in a header", source.name))?
    {
        Presented::Header(name, value) => Ok(Signed {
            url,
            sample,
            credential: Some((name, value)),
        }),
        Presented::PathSegment(token) => {
            url.path_segments_mut()
                .map_err(|()| anyhow!("--url must be http://HOST or https://HOST"))?
                .push(token.expose_secret());
            Ok(Signed {
                url,
                sample,
                credential: None,
            })
        }
    }
}

/// Sends a delivery.
pub(crate) async fn post(client: &reqwest::Client, signed: Signed) -> anyhow::Result<Answer> {
    let mut request = client.post(signed.url).body(signed.sample.body);
    for (name, value) in signed.sample.headers {
        request = request.header(name, value);
    }
    if let Some((name, value)) = signed.credential {
        request = request.header(name, value);
    }
    // The URL can contain a token, so errors must not.
    let response = request
        .send()
        .await
        .map_err(|err| anyhow::Error::new(err.without_url()).context("could not send"))?;
    let status = response.status().as_u16();
    let body = response
        .bytes()
        .await
        .map_err(reqwest::Error::without_url)
        .context("could not read the answer")?;
    let body = serde_json::from_slice(&body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
    Ok(Answer { status, body })
}

/// One row for each image of an answer; one row for an answer without images.
fn rows(answer: &Answer) -> Vec<Vec<String>> {
    let status = answer.status.to_string();
    let text = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let list = |key: &str| {
        answer
            .body
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let image = |value: &Value| match value.get("tag").and_then(Value::as_str) {
        Some(tag) => format!("{}:{tag}", text(value, "image")),
        None => text(value, "image"),
    };
    let queued = list("queued").into_iter().map(|it| {
        vec![
            status.clone(),
            image(&it),
            format!("queued as {}", text(&it, "scan_id")),
        ]
    });
    let skipped = list("skipped").into_iter().map(|it| {
        vec![
            status.clone(),
            image(&it),
            format!("skipped: {}", text(&it, "reason")),
        ]
    });
    let rows: Vec<_> = queued.chain(skipped).collect();
    if rows.is_empty() {
        vec![vec![
            status.clone(),
            String::new(),
            text(&answer.body, "title"),
        ]]
    } else {
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_summarise_the_deliveries() {
        let delivered = |millis: u64| {
            let answer = match millis {
                100 => Err(anyhow!("could not send")),
                _ => Ok(Answer {
                    status: if millis <= 90 { 202 } else { 503 },
                    body: Value::Null,
                }),
            };
            (answer, Duration::from_millis(millis))
        };
        let all: Vec<_> = (1..=100).rev().map(delivered).collect();
        let figures = Figures::of(&all, Duration::from_secs(2));
        assert_eq!(
            (figures.p50_ms, figures.p99_ms, figures.max_ms),
            (50.0, 99.0, 100.0)
        );
        assert_eq!((figures.deliveries, figures.per_second), (100, 50.0));
        let statuses: Vec<_> = figures.statuses.into_iter().collect();
        let expected =
            [("202", 90), ("503", 9), ("none", 1)].map(|(it, count)| (it.to_owned(), count));
        assert_eq!(statuses, expected);
        assert_eq!(figures.error.as_deref(), Some("could not send"));
        assert!(percentile(&[], 99).abs() < f64::EPSILON);
    }
}
