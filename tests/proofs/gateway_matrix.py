#!/usr/bin/env python3
"""The same HTTP requests to the webhook by three ways: through `scanhook serve`, through `cargo lambda watch`, and as API
Gateway's events through AWS's runtime interface emulator. The answers must be the same, but for a list of differences, each
with its source and who agrees with AWS.

The events for the runtime interface emulator are made here, after AWS's documentation and without a line of serve's code.

`--markdown` prints the table as docs/emulator.md has it.
Run by the Python of a virtual environment that has cargo-lambda and the SAM CLI's files: `tests/proofs/run` makes it.
"""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from any_registry import new_digest
from deliveries import DEBIAN, EVENTS_V1, FORM, HARBOR, as_form, distribution_push, ghcr_push, harbor_push, signature
from harness import BINARIES, Proof, Workshop, base_environment, free_port, listens, require_binaries, run_proof, until
from lambda_emulator import TEXT_TYPES, VENV, Function, find_emulator, http_event, sqs_variables, start_function
from serve import DEAD_LETTERS, QUEUE, SCANHOOK, start_server
from stage import API_TOKEN, BODY_LIMIT, CONFIG, TOKENS

DIGEST = f"sha256:{'ab' * 32}"
PUSH = ghcr_push("octo/api", DIGEST)
FORM_PUSH = as_form(PUSH)
TYPES = [
    "application/json",
    "application/json; charset=utf-8",
    "Application/JSON",
    "text/plain",
    "application/xml",
    "application/javascript",
    FORM,
    EVENTS_V1,
    "application/cloudevents+json",
    "application/octet-stream",
    "multipart/form-data; boundary=x",
    None,
]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"]
PATHS = [
    "/healthz",
    "/healthz/",
    "//healthz",
    "/healthz?a=1&a=2&b=%20",
    "/healthz?",
    "/./healthz",
    "/webhooks/../healthz",
    "/webhooks/%2e%2e/healthz",
    "/%68ealthz",
    "/healthz%3Fa",
    "/healthz%23a",
    "/healthz%20",
    "/healthz%00",
    "/healthz%",
    "/healthz%zz",
    "/h%c3%a4lthz",
    "/%ff",
    "/webhooks",
    "/webhooks/",
    "/webhooks/ghcr",
    "/webhooks/ghcr/",
    "/webhooks//ghcr",
    "/webhooks/gh%63r",
    "/webhooks/ghcr?x=1",
    "/webhooks/ghcr%2Fx",
    "/webhooks/ghcr;x=1",
    "/webhooks/nobody",
    "/webhooks/ghcr/a/b",
    "/" + "a" * 2000,
]


@dataclass(frozen=True)
class Case:
    """A request, and what it tries."""

    group: str
    name: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    chunked: bool = False


def cases() -> list[Case]:
    return [*content_types(), *methods(), *paths(), *repeated_headers(), *sizes()]


def signed(body: bytes, content_type: str | None, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    named = (("Content-Type", content_type),) if content_type is not None else ()
    return (*named, *signature(body).items(), *more)


def content_types() -> list[Case]:
    listed = []
    for content_type in TYPES:
        body = FORM_PUSH if content_type == FORM else PUSH
        shown = content_type or "none"
        for coding in (None, "identity", "gzip"):
            sent = gzip.compress(body, mtime=0) if coding == "gzip" else body
            more = (("Content-Encoding", coding),) if coding else ()
            headers = signed(sent, content_type, *more)
            listed.append(Case("content types", f"{shown}, {coding or 'as it is'}", "POST", "/webhooks/ghcr", headers, sent))
        headers = signed(body, content_type)
        listed.append(Case("content types", f"{shown}, in chunks", "POST", "/webhooks/ghcr", headers, body, True))
        odd = b'{"zen":"\xff\xfe"}'
        listed.append(Case("content types", f"{shown}, no UTF-8", "POST", "/webhooks/ghcr", signed(odd, content_type), odd))
        listed.append(Case("content types", f"{shown}, empty", "POST", "/webhooks/ghcr", signed(b"", content_type)))
    return listed


def methods() -> list[Case]:
    return [
        Case("methods", f"{method} {path}", method, path, signed(b"", None))
        for method in METHODS
        for path in ("/healthz", "/webhooks/ghcr", "/webhooks/hub/x", "/none")
        if (method, path) != ("HEAD", "/none")
    ]


def paths() -> list[Case]:
    push = harbor_push("prod/api", DIGEST)
    listed = [Case("paths", f"GET {it[:40]}", "GET", it) for it in PATHS]
    listed += [Case("paths", f"POST {it[:40]}", "POST", it, signed(PUSH, "application/json"), PUSH) for it in PATHS]
    token = TOKENS["PROOF_HUB"]
    odd = "".join(f"%{ord(it):02x}" for it in token)
    listed += [
        Case("paths", "a token in the path", "POST", f"/webhooks/hub/{token}", (), push),
        Case("paths", "the same, percent-encoded", "POST", f"/webhooks/hub/{odd}", (), push),
        Case("paths", "the same, with a slash at its end", "POST", f"/webhooks/hub/{token}/", (), push),
        Case("paths", "the same, with a plus", "POST", f"/webhooks/hub/+{token}", (), push),
    ]
    return listed


def repeated_headers() -> list[Case]:
    [(name, right)] = signature(PUSH).items()
    wrong = "sha256=" + "0" * 64
    harbor, push = HARBOR["Authorization"], harbor_push("prod/api", DIGEST)
    kind = ("Content-Type", "application/json")
    bearer, pushed = DEBIAN["Authorization"], distribution_push("team/app", DIGEST)
    rows: list[tuple[str, str, bytes, list[tuple[str, str]]]] = [
        ("a signature twice", "ghcr", PUSH, [kind, (name, right), (name, right)]),
        ("a right and a wrong signature", "ghcr", PUSH, [kind, (name, right), (name, wrong)]),
        ("a wrong and a right signature", "ghcr", PUSH, [kind, (name, wrong), (name, right)]),
        ("a signature in capitals", "ghcr", PUSH, [kind, (name.upper(), right)]),
        ("a signature between blanks", "ghcr", PUSH, [kind, (name, f"  {right}  ")]),
        ("no signature", "ghcr", PUSH, [kind]),
        ("an authorization twice", "harbor", push, [kind, ("Authorization", harbor), ("Authorization", harbor)]),
        ("an empty and a right authorization", "harbor", push, [kind, ("Authorization", ""), ("Authorization", harbor)]),
        ("a bearer token", "debian", pushed, [("Content-Type", EVENTS_V1), ("Authorization", bearer)]),
        ("two bearer tokens", "debian", pushed, [kind, ("Authorization", "Bearer x"), ("Authorization", bearer)]),
        ("two content types", "ghcr", PUSH, [kind, ("Content-Type", "text/plain"), (name, right)]),
        ("cookies", "ghcr", PUSH, [kind, (name, right), ("Cookie", "a=1; b=2"), ("Cookie", "c=3")]),
        ("two content encodings", "ghcr", PUSH, [kind, (name, right), ("Content-Encoding", "identity"), ("Content-Encoding", "gzip")]),
        ("two trace parents", "ghcr", PUSH, [kind, (name, right), ("traceparent", "x"), ("traceparent", "y")]),
        ("a header that is no ASCII", "ghcr", PUSH, [kind, (name, right), ("X-Name", "J\xfcrgen")]),
        ("hop-by-hop headers", "ghcr", PUSH, [kind, (name, right), ("TE", "trailers"), ("Keep-Alive", "timeout=5")]),
        ("a host that is none", "ghcr", PUSH, [kind, (name, right), ("Host", "ex ample:xx")]),
        ("a host with a port", "ghcr", PUSH, [kind, (name, right), ("Host", "hooks.example.com:8443")]),
    ]
    return [
        Case("repeated headers", title, "POST", f"/webhooks/{source}", tuple(headers), body)
        for title, source, body, headers in rows
    ]


def sizes() -> list[Case]:
    def padded(length: int) -> bytes:
        return b" " * length

    kind = "application/json"
    return [
        Case("sizes", "the longest body", "POST", "/webhooks/ghcr", signed(padded(BODY_LIMIT), kind), padded(BODY_LIMIT)),
        Case("sizes", "a byte more", "POST", "/webhooks/ghcr", signed(b"", kind), padded(BODY_LIMIT + 1)),
        Case("sizes", "a byte more, in chunks", "POST", "/webhooks/ghcr", signed(b"", kind), padded(BODY_LIMIT + 1), True),
        Case("sizes", "a byte more, as form", "POST", "/webhooks/ghcr", signed(b"", FORM), padded(BODY_LIMIT + 1)),
        Case("sizes", "5 MiB of base64", "POST", "/webhooks/ghcr", signed(b"", None), padded(5 << 20)),
        Case("sizes", "11 MiB", "POST", "/webhooks/ghcr", signed(b"", kind), padded(11 << 20)),
        Case("sizes", "a head of 10,300 bytes", "GET", "/healthz", (("X-Long", "a" * 10_300),)),
        Case("sizes", "a head of 9,000 bytes", "GET", "/healthz", (("X-Long", "a" * 9_000),)),
    ]


@dataclass(frozen=True)
class Seen:
    """What of an answer counts."""

    status: int | str
    content_type: str = ""
    body: str = ""

    def __str__(self) -> str:
        return f"{self.status} {self.content_type} {self.body}".strip()


def seen(status: int, content_type: str, body: bytes) -> Seen:
    text = re.sub(r'"[0-7][0-9A-HJKMNP-TV-Z]{25}"', '"ULID"', body.decode(errors="replace"))
    return Seen(status, content_type, text)


def by_http(address: str, case: Case) -> Seen:
    """The answer of a server. It may answer, and hang up, before it has read all."""
    connection = http.client.HTTPConnection(address, timeout=60)
    has_host = any(name == "Host" for name, _ in case.headers)
    connection.putrequest(case.method, case.path, skip_host=has_host, skip_accept_encoding=True)
    for name, value in case.headers:
        connection.putheader(name, value.encode("latin-1"))
    try:
        if case.chunked:
            connection.putheader("Transfer-Encoding", "chunked")
            half = len(case.body) // 2
            connection.endheaders(iter([case.body[:half], case.body[half:]]), encode_chunked=True)
        else:
            connection.putheader("Content-Length", str(len(case.body)))
            connection.endheaders(case.body)
    except OSError:
        pass
    try:
        answer = connection.getresponse()
        return seen(answer.status, answer.headers.get("content-type", ""), answer.read())
    except (OSError, http.client.HTTPException):
        return Seen("hangs up")
    finally:
        connection.close()


def event_of(case: Case) -> dict[str, Any]:
    """The event that API Gateway makes of a request. Source: "Working with AWS Lambda proxy integrations for HTTP APIs"."""
    headers: dict[str, str] = {}
    for name, value in case.headers:
        name, value = name.lower(), value.strip()
        if name not in ("te", "keep-alive", "connection", "cookie"):
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    path, _, query = case.path.partition("?")
    path = unquote_to_bytes(path).decode(errors="replace").partition("?")[0]
    is_text = headers.get("content-type", "").split(";")[0].strip().lower().startswith(TEXT_TYPES)
    try:
        case.body.decode()
    except UnicodeDecodeError:
        is_text = False
    event = http_event(case.method, path, headers, case.body or None, not is_text)
    event["rawQueryString"] = query
    cookies = [it for name, value in case.headers if name == "Cookie" for it in value.split("; ")]
    if cookies:
        event["cookies"] = cookies
    return event


def by_event(function: Function, case: Case) -> Seen:
    """The answer of a function to the event, as API Gateway gives it."""
    try:
        answer = function.invoke(event_of(case))
    except RuntimeError as err:
        return Seen(f"emulator: {err}"[:80])
    if "statusCode" not in answer:
        return Seen(500, "application/json", '{"message":"Internal Server Error"}')
    body = answer.get("body") or ""
    raw = base64.b64decode(body) if answer.get("isBase64Encoded") else body.encode()
    if case.method == "HEAD":
        raw = b""
    return seen(answer["statusCode"], answer["headers"].get("content-type", ""), raw)


def start_watch(shop: Workshop, env: dict[str, str]) -> str:
    """`cargo lambda watch` with the webhook as its function, built already; its address."""
    project = shop.directory / "watched"
    (project / "src").mkdir(parents=True)
    manifest = '[package]\nname = "webhook"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n'
    (project / "Cargo.toml").write_text(manifest)
    (project / "src/main.rs").write_text("fn main() {}\n")
    port = free_port()
    command: list[str | Path] = [VENV / "bin/cargo-lambda", "lambda", "watch", "--only-lambda-apis", "--ignore-changes"]
    command += ["--disable-cors", "--invoke-address", "127.0.0.1", "--invoke-port", str(port)]
    command += ["--manifest-path", project / "Cargo.toml"]
    shop.start("cargo lambda watch", command, env)
    until("cargo lambda watch listens", lambda: listens(port))
    function = {
        **env,
        "AWS_LAMBDA_RUNTIME_API": f"http://127.0.0.1:{port}/.rt",
        "AWS_LAMBDA_FUNCTION_NAME": "_",
        "AWS_LAMBDA_FUNCTION_VERSION": "1",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
    }
    shop.start("webhook", [BINARIES / "webhook"], function)
    return f"127.0.0.1:{port}"


def invoked(shop: Workshop, watch: str) -> Any:
    """The status that the function answers when `cargo lambda invoke` hands it the event of a delivery."""
    event = shop.directory / "event.json"
    event.write_text(json.dumps(http_event("POST", "/webhooks/harbor", HARBOR, harbor_push("prod/api", new_digest()))))
    address, port = watch.split(":")
    command = [VENV / "bin/cargo-lambda", "lambda", "invoke", "_", "--invoke-address", address, "--invoke-port", port]
    done = subprocess.run([*command, "--data-file", event], env=base_environment(HOME=os.environ["HOME"]), capture_output=True, text=True)
    return json.loads(done.stdout)["statusCode"] if done.returncode == 0 else done.stderr


EMULATOR, WATCH = "runtime emulator", "cargo lambda watch"


@dataclass(frozen=True)
class Difference:
    """Cases in which another way gives another answer than serve, and why."""

    what: str
    way: str
    cases: str
    """What `group: name` of each looks like."""
    status: int
    serve: str
    """What serve answers."""
    right: str
    """Who answers as AWS does."""
    source: str


PROXY = "Working with AWS Lambda proxy integrations for HTTP APIs"
ROUTER = "cargo-lambda, crates/cargo-lambda-watch/src/trigger_router.rs"
DIFFERENCES = [
    Difference(
        "bytes that are no UTF-8, with a text type or none",
        WATCH,
        r"content types: (application/json(; charset=utf-8)?|text/plain|none), (gzip|no UTF-8)",
        500,
        "what the function says of the bytes: 415, 400",
        "serve, where there is no type: it is no text to API Gateway. For a text type AWS says nothing",
        f"{ROUTER} takes no type, `text/` and `application/json` for text, and fails if it is none; "
        "ministackorg/ministack, pull request 766, a test on AWS",
    ),
    Difference(
        "a percent-encoded path",
        WATCH,
        r"paths: (GET|POST) /(%68ealthz|healthz%(3Fa|23a|20|00))|paths: POST /webhooks/ghcr%2Fx",
        404,
        "the answer of the decoded path",
        "serve",
        f"{ROUTER} hands it on as it came; HTTP APIs decode `rawPath` (assumptions.md)",
    ),
    Difference(
        "a repeated credential",
        WATCH,
        r"repeated headers: (a signature twice|a right and a wrong signature|an authorization twice)",
        202,
        "401: the joined value is no credential",
        "serve",
        f'{PROXY}: "Duplicate headers are combined with commas"; {ROUTER} sends one of them',
    ),
    Difference(
        "two content encodings",
        WATCH,
        r"repeated headers: two content encodings",
        202,
        "415",
        "serve",
        f'{PROXY}: "Duplicate headers are combined with commas"',
    ),
    Difference(
        "a header that is no ASCII",
        WATCH,
        r"repeated headers: a header that is no ASCII",
        500,
        "202",
        "nobody knows: AWS says nothing",
        "the event's headers are text; cargo-lambda fails to write such a one",
    ),
    Difference(
        "a host on which `lambda_http` panics",
        WATCH,
        r"repeated headers: a host that is none",
        500,
        "400, before anything reads it",
        "serve",
        "RFC 9112, section 3.2; AWS refuses such a host before that",
    ),
    Difference(
        "the same host",
        EMULATOR,
        r"repeated headers: a host that is none",
        500,
        "400",
        "serve",
        "there is no API Gateway before the runtime emulator, and no request would become this event",
    ),
    Difference(
        "request line and headers over 10,240 bytes",
        WATCH,
        r"sizes: a head of 10,300 bytes",
        200,
        "431",
        "serve",
        "Quotas for configuring and running an HTTP API",
    ),
    Difference(
        "the same head",
        EMULATOR,
        r"sizes: a head of 10,300 bytes",
        200,
        "431",
        "serve",
        "there is no API Gateway before the runtime emulator, and no request would become this event",
    ),
    Difference(
        "a body whose event Lambda does not take",
        EMULATOR,
        r"sizes: (5 MiB of base64|11 MiB)",
        500,
        "413: the configuration's `limits.body`, which is below what API Gateway and Lambda take",
        "serve",
        "an event has at most 6 MB (Lambda quotas); no request would become this event",
    ),
]


def difference(way: str, case: Case) -> Difference | None:
    title = f"{case.group}: {case.name}"
    found = [it for it in DIFFERENCES if it.way == way and re.fullmatch(it.cases, title)]
    return found[0] if found else None


def prove(proof: Proof, shop: Workshop) -> None:
    server = start_server(shop, CONFIG, "--no-scan", env=base_environment(**TOKENS, **API_TOKEN))
    variables = {**sqs_variables(server.sqs, QUEUE, DEAD_LETTERS), **TOKENS, "SCANHOOK_CONFIG": f"file:{server.config}"}
    function = start_function(shop, find_emulator(None), BINARIES / "webhook", 29, **variables)
    watch = start_watch(shop, base_environment(**variables, HOME=os.environ["HOME"]))
    address = server.url.removeprefix("http://")
    met, group = set(), ""
    for case in cases():
        if case.group != group:
            group = case.group
            proof.part(group)
        ours = by_http(address, case)
        for way, theirs in ((EMULATOR, by_event(function, case)), (WATCH, by_http(watch, case))):
            listed = difference(way, case)
            if listed is None:
                proof.equal(f"{case.name}: {ours.status}, {way} too", theirs, ours)
            else:
                met.add(listed)
                proof.true(f"{case.name}: {ours.status}, {way} differs as listed", theirs != ours, theirs)
                proof.equal(f"  and says {listed.status}", theirs.status, listed.status)
    proof.equal("every difference of the list was met", [it.what for it in DIFFERENCES if it not in met], [])
    proof.equal("a delivery invoked by `cargo lambda invoke` is taken: 202", invoked(shop, watch), 202)


def print_markdown() -> None:
    print("| the request | who differs, and says | `serve` says | who agrees with AWS | source |\n|---|---|---|---|---|")
    for it in DIFFERENCES:
        print(f"| {it.what} | {it.way}: {it.status} | {it.serve} | {it.right} | {it.source} |")


def main() -> int:
    if "--markdown" in sys.argv[1:]:
        print_markdown()
        return 0
    require_binaries(SCANHOOK, BINARIES / "webhook")
    return run_proof("one request, three ways to the webhook", prove)


if __name__ == "__main__":
    sys.exit(main())
