//! The function's own program: how it starts, how it refuses to, and what it never tells.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::Request;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use scanhook_core::message::QueueMessage;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::queue::{Act, Endpoint};
use crate::world::{
    CONFIG, SOURCES, bare, credential, event, method, push, secret, serve, signed, signed_with,
    with,
};

/// After this long something hangs.
const TOO_LONG: Duration = Duration::from_mins(1);

const CANARY: &str = "canary";

/// The program, with nothing in its environment but this.
#[expect(
    clippy::disallowed_methods,
    reason = "the program under test is a process"
)]
fn program(environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_webhook"));
    command
        .env_clear()
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Waits for the program to end by itself.
async fn end(child: Child) -> (ExitStatus, String, String) {
    let output = tokio::time::timeout(TOO_LONG, child.wait_with_output());
    let output = output.await.expect("the program hangs").unwrap();
    let text = |it| String::from_utf8(it).unwrap();
    (output.status, text(output.stdout), text(output.stderr))
}

/// Runs a program that must refuse to start, and returns its one line.
async fn refusal(environment: &[(&str, &str)]) -> String {
    let (status, stdout, stderr) = end(program(environment).spawn().unwrap()).await;
    assert_eq!(status.code(), Some(2), "{stdout}{stderr}");
    assert_eq!(stdout, "");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.trim_end().to_owned()
}

#[tokio::test]
async fn without_lambda_it_says_what_it_is_and_ends() {
    assert_eq!(
        refusal(&[]).await,
        "webhook: this is a Lambda function; `scanhook serve` runs it without Lambda"
    );
}

const RUNTIME: (&str, &str) = ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9");
const REGION: (&str, &str) = ("AWS_REGION", "us-east-1");
const QUEUE: (&str, &str) = (
    "SCANHOOK_QUEUE_URL",
    "http://127.0.0.1:9/000000000000/scans",
);

#[tokio::test]
async fn an_incomplete_environment_is_told_by_the_missing_name() {
    for (environment, expected) in [
        (&[RUNTIME][..], "webhook: SCANHOOK_QUEUE_URL is not set"),
        (&[RUNTIME, QUEUE], "webhook: SCANHOOK_CONFIG is not set"),
        (
            &[RUNTIME, QUEUE, ("SCANHOOK_CONFIG", "canary.yaml")],
            "webhook: the configuration's location must be file:PATH, ssm:/NAME or secretsmanager:NAME",
        ),
        (
            &[RUNTIME, QUEUE, ("SCANHOOK_LOG", "=canary=")],
            "webhook: SCANHOOK_LOG must be a level (error, warn, info, debug, trace) or a list of target=level",
        ),
    ] {
        assert_eq!(refusal(environment).await, expected);
    }
}

/// Writes a configuration and returns what the program says of it.
pub(crate) async fn refusal_of(config: &str, environment: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let location = write(directory.path(), config);
    let mut variables = vec![RUNTIME, QUEUE, REGION, ("SCANHOOK_CONFIG", &location)];
    variables.extend(environment);
    let line = refusal(&variables).await;
    line.replace(location.strip_prefix("file:").unwrap(), "FILE")
}

fn write(directory: &Path, config: &str) -> String {
    let path = directory.join("scanhook.yaml");
    std::fs::write(&path, config).unwrap();
    format!("file:{}", path.display())
}

#[tokio::test]
async fn a_bad_configuration_is_told_by_its_keys_path_and_never_by_its_value() {
    let config = |auth: &str| {
        format!("sources: {{ prod: {{ kind: harbor, registry: h.example.com, auth: [{auth}] }} }}")
    };
    let reference =
        "expected a reference such as env:NAME, file:PATH, ssm:/NAME or secretsmanager:NAME[#key]";
    for (auth, expected) in [
        ("", "sources.prod.auth (line 1, column 65): expected a list of at least one credential, or anybody could cause scans, found an empty list".to_owned()),
        ("{ type: token, secret: canary-literal-value }", format!("sources.prod.auth[0].secret (line 1, column 89): {reference}, found a string")),
        ("{ type: token, secret: 4711471147114711 }", format!("sources.prod.auth[0].secret (line 1, column 89): {reference}, found a number")),
        ("{ type: token, secret: [canary] }", format!("sources.prod.auth[0].secret (line 1, column 89): {reference}, found a list")),
        ("{ type: canary-4711, secret: \"env:A\" }", "sources.prod.auth[0].type (line 1, column 74): expected one of hmac, token, bearer, basic, path_token, oidc, found a string".to_owned()),
    ] {
        let line = refusal_of(&config(auth), &[]).await;
        assert_eq!(line, format!("webhook: the file FILE is not a valid configuration: {expected}"));
    }
    let auth = "{ type: token, secret: \"env:A\" }";
    for (value, expected) in [
        (None, "the environment variable A is not set"),
        (Some(""), "the secret is empty"),
        (
            Some("canary"),
            "the secret is shorter than 16 bytes; make one with: openssl rand -hex 32",
        ),
        (
            Some("canary-CHANGEME-canary"),
            "the secret is a placeholder; make one with: openssl rand -hex 32",
        ),
    ] {
        let environment: Vec<_> = value.map(|it| ("A", it)).into_iter().collect();
        let line = refusal_of(&config(auth), &environment).await;
        assert_eq!(
            line,
            format!("webhook: sources.prod.auth[0].secret: {expected}")
        );
    }
}

/// Lambda's runtime API for one program: hands out events, and passes its answers on.
#[derive(Clone)]
struct Runtime {
    events: Arc<Mutex<VecDeque<Value>>>,
    answers: mpsc::UnboundedSender<String>,
}

async fn next(State(runtime): State<Runtime>) -> Response {
    let event = runtime.events.lock().unwrap().pop_front();
    let Some(event) = event else {
        return std::future::pending().await;
    };
    let headers = [
        ("lambda-runtime-aws-request-id", "request-1"),
        ("lambda-runtime-deadline-ms", "4102444800000"),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:us-east-1:123456789012:function:webhook",
        ),
        (
            "lambda-runtime-trace-id",
            "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1",
        ),
    ];
    (headers, event.to_string()).into_response()
}

async fn answered(State(runtime): State<Runtime>, body: Bytes) -> &'static str {
    let _ = runtime
        .answers
        .send(String::from_utf8(body.to_vec()).unwrap());
    "{}"
}

/// What a program did with events: its answers, its output, and what is in the queue.
struct Ran {
    answers: Vec<String>,
    output: String,
    sent: String,
}

/// Runs the program on these requests at the most talkative log level.
async fn run(requests: &[Request<Bytes>]) -> Ran {
    run_with(&[], requests).await
}

async fn run_with(variables: &[(&str, &str)], requests: &[Request<Bytes>]) -> Ran {
    let (answers, mut told) = mpsc::unbounded_channel();
    let events = requests.iter().map(|it| event(it, true)).collect();
    let runtime = Runtime {
        events: Arc::new(Mutex::new(events)),
        answers,
    };
    let base = "/2018-06-01/runtime/invocation";
    let routes = Router::new()
        .route(&format!("{base}/next"), get(next))
        .route(&format!("{base}/{{id}}/response"), post(answered))
        .route(&format!("{base}/{{id}}/error"), post(answered));
    let (runtime_api, runtime_server) = serve(routes.with_state(runtime)).await;
    let queue = Endpoint::new(&[Act::Take]);
    let (endpoint, queue_server) = queue.serve().await;
    let directory = tempfile::tempdir().unwrap();
    let location = write(directory.path(), CONFIG);
    let url = format!("{endpoint}/000000000000/scans");
    let mut child = program(&[
        ("AWS_LAMBDA_RUNTIME_API", &runtime_api),
        ("AWS_LAMBDA_FUNCTION_NAME", "webhook"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "canary-access-key"),
        ("AWS_SECRET_ACCESS_KEY", "canary-secret-key"),
        ("AWS_SESSION_TOKEN", "canary-session-token"),
        ("AWS_ENDPOINT_URL_SQS", &endpoint),
        ("SCANHOOK_CONFIG", &location),
        ("SCANHOOK_QUEUE_URL", &url),
        ("SCANHOOK_LOG", "trace"),
        ("RUST_LOG", "trace"),
        ("RUST_BACKTRACE", "full"),
    ]);
    for variable in [
        "HUB",
        "HARBOR",
        "MIRROR",
        "MIRROR_BASIC",
        "GITHUB_OLD",
        "GITHUB_NEW",
        "OTHER_GITHUB",
        "AZURE",
    ] {
        child.env(variable, secret(variable));
    }
    child.envs(variables.iter().copied());
    let mut child = child.spawn().unwrap();
    let output = (
        tokio::spawn(read_all(child.stdout.take().unwrap())),
        tokio::spawn(read_all(child.stderr.take().unwrap())),
    );
    let mut answers = Vec::new();
    while answers.len() < requests.len() {
        match tokio::time::timeout(TOO_LONG, told.recv()).await {
            Ok(Some(answer)) => answers.push(answer),
            _ => break,
        }
    }
    child.start_kill().unwrap();
    let output = [output.0.await.unwrap(), output.1.await.unwrap()].concat();
    assert_eq!(answers.len(), requests.len(), "{output}");
    runtime_server.abort();
    queue_server.abort();
    Ran {
        answers,
        output,
        sent: queue.sent(),
    }
}

async fn read_all(mut pipe: impl AsyncRead + Unpin) -> String {
    let mut text = String::new();
    pipe.read_to_string(&mut text).await.unwrap();
    text
}

fn status(answer: &str) -> u64 {
    let answer: Value = serde_json::from_str(answer).unwrap();
    assert_eq!(answer["isBase64Encoded"], false, "{answer}");
    let content_type = &answer["headers"]["content-type"];
    let status = answer["statusCode"].as_u64().unwrap();
    if status < 400 {
        assert_eq!(content_type, "application/json");
    } else {
        assert_eq!(content_type, "application/problem+json");
    }
    status
}

#[tokio::test]
async fn the_function_takes_a_push_of_each_source_from_the_runtime_to_the_queue() {
    let requests = SOURCES.map(|it| signed(it, push(it)));
    let ran = run(&requests).await;
    for answer in &ran.answers {
        assert_eq!(status(answer), 202);
    }
    let sent: Vec<Value> = serde_json::from_str(&ran.sent).unwrap();
    assert_eq!(sent.len(), SOURCES.len());
    for (entry, source) in sent.iter().zip(SOURCES) {
        let message = QueueMessage::parse(entry["MessageBody"].as_str().unwrap()).unwrap();
        assert_eq!(message.source.as_str(), source);
    }
    let lines = ran.output.lines();
    let lines: Vec<Value> = lines.map(|it| serde_json::from_str(it).unwrap()).collect();
    let taken = lines.iter().filter(|it| it["event"] == "delivery.taken");
    assert_eq!(taken.count(), SOURCES.len(), "{}", ran.output);
}

#[tokio::test]
async fn the_line_of_a_handshake_tells_its_ids_also_when_it_is_refused() {
    let ask = |token: &str| {
        let mut request = with(
            method(bare("azure", ""), "OPTIONS"),
            "webhook-request-origin",
            "eventgrid.azure.net",
        );
        *request.uri_mut() = format!("/webhooks/azure/{token}").parse().unwrap();
        request
    };
    let ran = run(&[ask(&secret("AZURE")), ask("wrong")]).await;
    let lines = ran.output.lines();
    let lines: Vec<Value> = lines.map(|it| serde_json::from_str(it).unwrap()).collect();
    for event in ["handshake", "delivery.refused"] {
        let line = lines.iter().find(|it| it["event"] == event);
        let line = line.unwrap_or_else(|| panic!("{event} is not in {}", ran.output));
        assert_eq!(line["source"], "azure");
        assert_eq!(line["delivery"].as_str().unwrap().len(), 26);
        assert_eq!(line["trace_id"].as_str().unwrap().len(), 32);
    }
}

/// A collector, and what is sent to it.
async fn collector() -> (String, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    let (sender, requests) = mpsc::unbounded_channel();
    let take = async move |body: Bytes| {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        sender.send(request).unwrap();
    };
    let (address, _) = serve(Router::new().route("/v1/traces", post(take))).await;
    (format!("http://{address}"), requests)
}

#[tokio::test]
async fn the_spans_of_a_delivery_are_with_the_collector_when_it_is_answered() {
    let (endpoint, mut requests) = collector().await;
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
    let ran = run_with(&variables, &[signed("prod", push("prod"))]).await;
    let request = requests.try_recv().unwrap();
    let scopes = request.resource_spans.iter().flat_map(|it| &it.scope_spans);
    let spans: Vec<_> = scopes.flat_map(|it| &it.spans).collect();
    let mut names: Vec<_> = spans.iter().map(|it| it.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["delivery", "send", "verify"]);
    let span = |name: &str| *spans.iter().find(|it| it.name == name).unwrap();
    let root = span("delivery");
    assert!(root.parent_span_id.is_empty());
    for name in ["send", "verify"] {
        assert_eq!(span(name).parent_span_id, root.span_id, "{name}");
        assert_eq!(span(name).trace_id, root.trace_id, "{name}");
    }
    let place = format!(
        "00-{}-{}-01",
        hex::encode(&root.trace_id),
        hex::encode(&span("send").span_id)
    );
    assert!(ran.sent.contains(&place), "{place} is not in {}", ran.sent);
    let logged = format!(r#""trace_id":"{}""#, hex::encode(&root.trace_id));
    assert!(
        ran.output.contains(&logged),
        "{logged} is not in {}",
        ran.output
    );
}

#[tokio::test]
async fn refused_deliveries_and_those_that_the_sampler_drops_are_not_exported() {
    let wrong = with(bare("prod", push("prod")), "authorization", "wrong");
    let right = signed("prod", push("prod"));
    for (sampler, request, mark) in [
        ("always_on", wrong, None),
        ("always_off", right, Some("-00")),
    ] {
        let (endpoint, mut requests) = collector().await;
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_TRACES_SAMPLER", sampler),
        ];
        let ran = run_with(&variables, &[request]).await;
        assert!(requests.try_recv().is_err(), "{sampler}");
        let sent: Vec<Value> = serde_json::from_str(&ran.sent).unwrap();
        let bodies = sent.iter().map(|it| it["MessageBody"].as_str().unwrap());
        let places = bodies.map(|it| QueueMessage::parse(it).unwrap().traceparent.unwrap());
        let marks: Vec<_> = places.map(|it| it.to_string().split_off(52)).collect();
        assert_eq!(marks.first().map(String::as_str), mark);
    }
}

#[tokio::test]
async fn no_secret_is_in_a_log_an_answer_or_a_message_even_at_level_trace() {
    let mut requests = Vec::new();
    for source in SOURCES {
        let right = signed(source, push(source).replace("ci", "canary-of-a-body"));
        let wrong = format!("{}x", secret("WRONG"));
        let path = |it: String| {
            let mut request = bare(source, push(source));
            *request.uri_mut() = it.parse().unwrap();
            request
        };
        requests.extend([
            right.clone(),
            with(bare(source, push(source)), "authorization", &wrong),
            with(bare(source, push(source)), "x-hub-signature-256", &wrong),
            path(format!("/webhooks/{source}/{wrong}")),
            path(format!("/webhooks/nobody/{}", secret("HUB"))),
            path(format!("/webhooks/{source}/a/{wrong}")),
            path(format!("/webhooks/{source}?token={wrong}")),
            signed(source, format!("{{\"canary\":\"{wrong}\"}}")),
            signed(source, "canary of no JSON"),
            with(right.clone(), "content-encoding", "canary"),
            method(right, "PUT"),
            signed_with(source, &credential("prod", 0), push(source)),
        ]);
    }
    let ran = run(&requests).await;
    let statuses: Vec<_> = ran.answers.iter().map(|it| status(it)).collect();
    for expected in [200, 202, 400, 401, 404, 405, 415] {
        assert!(
            statuses.contains(&expected),
            "{expected} is not among {statuses:?}"
        );
    }
    assert!(ran.output.contains("delivery.refused"));
    assert!(ran.output.contains(r#""level":"DEBUG""#));
    for line in ran.output.lines() {
        assert!(!line.contains(CANARY), "{line}");
    }
    for answer in &ran.answers {
        assert!(!answer.contains(CANARY), "{answer}");
    }
    assert!(!ran.sent.contains("canary-secret"), "{}", ran.sent);
}
