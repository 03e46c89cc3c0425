//! `scanhook send`: deliveries as a source's registry would send them, with the right credential.

use anyhow::{Context as _, anyhow};
use scanhook_core::auth::{Credential, Presented};
use scanhook_core::image::Image;
use scanhook_core::kinds::{Sample, SamplePush};
use scanhook_core::source::Source;
use scanhook_settings::Environment;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::args::{Output, SendArgs};
use crate::{Outcome, output, serve, unusable};

/// A delivery that is ready to be sent.
pub(crate) struct Signed {
    url: reqwest::Url,
    sample: Sample,
    credential: Option<(http::HeaderName, http::HeaderValue)>,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

pub(crate) async fn command(args: SendArgs, environment: Environment) -> anyhow::Result<Outcome> {
    let config = serve::load_config(&args.config)?;
    let source = config.sources.get(args.source.as_str());
    let source = source
        .with_context(|| format!("{} has no source {}", args.config, args.source))
        .map_err(unusable)?;
    let credentials = source.credentials(&environment).await.map_err(unusable)?;
    let credential = credentials
        .first()
        .context("the source has no credential")
        .map_err(unusable)?;
    let client = client()?;
    let mut answers = Vec::new();
    for _ in 0..args.count {
        let sample = sample(&args, &source.source).map_err(unusable)?;
        let signed = sign(&args.url, &source.source, credential, sample).map_err(unusable)?;
        answers.push(post(&client, signed).await?);
    }
    match args.output {
        Output::Json => {
            output::json(
                &answers
                    .iter()
                    .map(|it| json!({"status": it.status, "answer": it.body}))
                    .collect::<Vec<_>>(),
            )?;
        }
        Output::Table => output::table(
            &["status", "image", "outcome"],
            answers.iter().flat_map(rows).collect(),
        )?,
    }
    let is_fine = answers.iter().all(|it| (200..300).contains(&it.status));
    Ok(if is_fine {
        Outcome::Fine
    } else {
        Outcome::Findings
    })
}

fn sample(args: &SendArgs, source: &Source) -> anyhow::Result<Sample> {
    let image = match &args.image {
        Some(text) => Image::parse(text).with_context(|| format!("--image {text:?}"))?,
        None => Image::parse(&format!("{}/scanhook/test:latest", source.registry))?,
    };
    let mut sample = make_sample(source, &image);
    if let Some(file) = &args.file {
        sample.body =
            std::fs::read(file).with_context(|| format!("could not read {}", file.display()))?;
    }
    Ok(sample)
}

/// The delivery of `source`'s kind for a push of `image`, just now.
#[expect(clippy::disallowed_methods, reason = "the command's clock")]
pub(crate) fn make_sample(source: &Source, image: &Image) -> Sample {
    let id = ulid::Ulid::generate().to_string();
    (source.kind.sample)(&SamplePush {
        image,
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
        .ok_or_else(|| anyhow!("the secret of {} can't stand in a header", source.name))?
    {
        Presented::Header(name, value) => Ok(Signed {
            url,
            sample,
            credential: Some((name, value)),
        }),
        Presented::PathSegment(token) => {
            url.path_segments_mut()
                .map_err(|()| anyhow!("--url is no base"))?
                .push(token.expose_secret());
            Ok(Signed {
                url,
                sample,
                credential: None,
            })
        }
    }
}

/// A client for [`post`].
pub(crate) fn client() -> anyhow::Result<reqwest::Client> {
    // A second command of the same process finds it installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(std::time::Duration::from_secs(30));
    client
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .context("could not make an HTTP client")
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
    // The URL may hold a token, so it is cut from errors.
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

/// A row for each image of an answer; one for an answer without any.
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
