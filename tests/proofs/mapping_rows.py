#!/usr/bin/env python3
"""What a function's answer does to its batch, asked of another event source mapping: that of ministack.

First each row of AWS's table by a function that answers as its messages tell it; our own mapping gets the same rows in
local/emulator/tests/it/mapping.rs. Then both real functions, webhook and scanner, as they are deployed, beside `scanhook
serve`. What ministack does otherwise than AWS is a list here, so that a change of it is noticed.

`--markdown` prints the table as docs/emulator.md has it.
Run by the Python of a virtual environment that has boto3; PROOF_SERVERS is the directory of the program ministack.
`tests/proofs/run` makes both.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from typing import Any

import boto3
import scanner_function
from botocore.config import Config
from any_registry import new_digest, proxy
from deliveries import HARBOR, harbor_push
from harness import BINARIES, Proof, Workshop, base_environment, free_port, require_binaries, run_proof, until
from lambda_emulator import http_event, sqs_variables
from serve import DEAD_LETTERS, QUEUE, SCANHOOK, Server, link_stand_in, start_server, text_attributes
from sqs_conformance import SERVERS, start_other
from stage import API_TOKEN, ATTEMPTS, CONFIG, TOKENS

HIDDEN = 5
"""The visibility timeout of the rows' queues, in seconds."""

LONG_HIDDEN = 60
"""The same of the row whose function ends it early."""

SHOW = "show"
"""What that function does."""

TIMEOUT = 2
"""What the rows' function may take, in seconds."""


@dataclass(frozen=True)
class Row:
    """A batch of two messages, `a` and `b`, and what becomes of it."""

    name: str
    deed: str
    """What the function does at the first receive; at later ones it succeeds."""
    back: str
    """Who comes back, as AWS documents it."""
    ministack: str
    """Who comes back under ministack."""
    documented: str


SUCCESS = "an empty or null batchItemFailures list, an empty or null response: complete success"
BAD_LIST = "an empty or null itemIdentifier, or one with a bad key name: complete failure"
BAD_JSON = "an invalid JSON response: complete failure"
EXCEPTION = "the function throws an exception: complete failure"

ROWS = [
    Row("an empty list", '{"batchItemFailures":[]}', "", "", SUCCESS),
    Row("null", "null", "", "", SUCCESS),
    Row("an empty object", "{}", "", "", SUCCESS),
    Row("a null list", '{"batchItemFailures":null}', "", "ab", SUCCESS),
    Row("`b` listed", '{"batchItemFailures":[{"itemIdentifier":"$b"}]}', "b", "b", "only the listed become visible again"),
    Row("an empty identifier", '{"batchItemFailures":[{"itemIdentifier":""}]}', "ab", "", BAD_LIST),
    Row("a null identifier", '{"batchItemFailures":[{"itemIdentifier":null}]}', "ab", "", BAD_LIST),
    Row("a bad key name", '{"batchItemFailures":[{"id":"$b"}]}', "ab", "", BAD_LIST),
    Row("an identifier of no message", '{"batchItemFailures":[{"itemIdentifier":"nobody"}]}', "ab", "", "not in words"),
    Row("no JSON", "{", "ab", "", BAD_JSON),
    Row("JSON of another shape", '["$b"]', "ab", "", BAD_JSON),
    Row("an error", "error", "ab", "ab", EXCEPTION),
    Row("a crash", "crash", "ab", "ab", EXCEPTION),
    Row("a time-out", "sleep", "ab", "ab", "a time-out is a function error"),
    Row("`b` listed, and made visible at once", SHOW, "b", "b", "ChangeMessageVisibility counts from its call"),
]

FUNCTION = '''#!{python}
"""A function that does to a batch what its first message tells, and notes each invocation in a file."""
import http.client, json, os, sys, time

api = os.environ["AWS_LAMBDA_RUNTIME_API"]
while True:
    connection = http.client.HTTPConnection(api)
    connection.request("GET", "/2018-06-01/runtime/invocation/next")
    response = connection.getresponse()
    invocation = response.headers["Lambda-Runtime-Aws-Request-Id"]
    records = json.loads(response.read())["Records"]
    bodies = [json.loads(it["body"]) for it in records]
    received = int(records[0]["attributes"]["ApproximateReceiveCount"])
    first = int(records[0]["attributes"]["ApproximateFirstReceiveTimestamp"]) / 1000
    note = {{"row": bodies[0]["row"], "names": [it["name"] for it in bodies], "waited": time.time() - first}}
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(json.dumps(note) + "\\n")
    deed, path = (bodies[0]["deed"], "response") if received == 1 else ('{{"batchItemFailures":[]}}', "response")
    handles = {{body["name"]: record["receiptHandle"] for body, record in zip(bodies, records)}}
    if deed == "crash":
        sys.exit(1)
    if deed == "sleep":
        time.sleep(30)
    if deed == "show":
        queue = records[0]["eventSourceARN"].rsplit(":", 1)[1]
        change = {{"QueueUrl": os.environ["QUEUES"] + queue, "ReceiptHandle": handles["b"], "VisibilityTimeout": 0}}
        sqs = http.client.HTTPConnection(os.environ["SQS"])
        headers = {{"content-type": "application/x-amz-json-1.0", "x-amz-target": "AmazonSQS.ChangeMessageVisibility"}}
        sqs.request("POST", "/", json.dumps(change), headers)
        sqs.getresponse().read()
        deed = '{{"batchItemFailures":[{{"itemIdentifier":"$b"}}]}}'
    if deed == "error":
        deed, path = '{{"errorType":"Deliberate","errorMessage":"as told"}}', "error"
    ids = {{body["name"]: record["messageId"] for body, record in zip(bodies, records)}}
    answer = deed.replace("$b", ids.get("b", "nobody"))
    connection = http.client.HTTPConnection(api)
    connection.request("POST", f"/2018-06-01/runtime/invocation/{{invocation}}/{{path}}", answer)
    connection.getresponse().read()
'''


class Ministack:
    """AWS as ministack plays it."""

    def __init__(self, shop: Workshop, port: int) -> None:
        variables = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "MINISTACK_HOST": "localhost"}
        # Functions find its services by the same variables as clients do.
        start_other(shop, "ministack", "ministack", port, **variables, HOME=str(shop.directory))
        self.url = f"http://127.0.0.1:{port}"
        settings: dict[str, Any] = {
            "endpoint_url": self.url,
            "region_name": "us-east-1",
            "aws_access_key_id": "fake-access-key",
            "aws_secret_access_key": "fake-secret-key",
            "config": Config(retries={"max_attempts": 0}),
        }
        self.sqs = boto3.client("sqs", **settings)
        self.functions = boto3.client("lambda", **settings)

    def create_queue(self, name: str, **attributes: str) -> str:
        return self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]

    def create_function(self, name: str, program: bytes, timeout: int, **variables: str) -> None:
        bundle = io.BytesIO()
        with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            bootstrap = zipfile.ZipInfo("bootstrap")
            bootstrap.external_attr = 0o755 << 16
            file.writestr(bootstrap, program)
        self.functions.create_function(
            FunctionName=name,
            Runtime="provided.al2023",
            Role="arn:aws:iam::000000000000:role/any",
            Handler="bootstrap",
            Code={"ZipFile": bundle.getvalue()},
            Timeout=timeout,
            Environment={"Variables": variables},
        )

    def map(self, queue: str, function: str, batch_size: int) -> None:
        self.functions.create_event_source_mapping(
            EventSourceArn=f"arn:aws:sqs:us-east-1:000000000000:{queue}",
            FunctionName=function,
            BatchSize=batch_size,
            FunctionResponseTypes=["ReportBatchItemFailures"],
        )

    def depth(self, url: str) -> int:
        names = [f"ApproximateNumberOfMessages{it}" for it in ("", "NotVisible", "Delayed")]
        told = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(map(int, told.values()))


def ask_rows(shop: Workshop, ministack: Ministack) -> dict[str, list[dict[str, Any]]]:
    """The invocations of each row's function until its queue is empty, the first ones first."""
    notes = shop.directory / "notes"
    notes.touch()
    program = FUNCTION.format(python=sys.executable).encode()
    queues = {}
    for number, row in enumerate(ROWS):
        hidden = LONG_HIDDEN if row.deed == SHOW else HIDDEN
        queues[row.name] = ministack.create_queue(f"row-{number}", VisibilityTimeout=str(hidden))
        [base] = {it.rsplit("/", 1)[0] for it in queues.values()}
    variables = {"NOTES": str(notes), "SQS": ministack.url.removeprefix("http://"), "QUEUES": f"{base}/"}
    for number, row in enumerate(ROWS):
        # A function of its own: one that sleeps or crashes keeps no other row waiting.
        ministack.create_function(f"row-{number}", program, TIMEOUT, **variables)
        entries = [
            {"Id": name, "MessageBody": json.dumps({"row": row.name, "name": name, "deed": row.deed})} for name in "ab"
        ]
        ministack.sqs.send_message_batch(QueueUrl=queues[row.name], Entries=entries)
    for number in range(len(ROWS)):
        ministack.map(f"row-{number}", f"row-{number}", 10)
    until("every row's queue is empty", lambda: all(ministack.depth(it) == 0 for it in queues.values()), 90)
    noted = [json.loads(it) for it in notes.read_text().splitlines()]
    return {row.name: [it for it in noted if it["row"] == row.name] for row in ROWS}


def told(noted: list[dict[str, Any]]) -> str:
    """Who came back after the first invocation."""
    return "".join(sorted({name for it in noted[1:] for name in it["names"]}))


def rows(proof: Proof, noted: dict[str, list[dict[str, Any]]]) -> None:
    proof.part("ministack: who comes back after an answer, and whether AWS documents it so")
    for row in ROWS:
        first, *later = noted[row.name]
        proof.equal(f"{row.name}: both come in one batch", sorted(first["names"]), ["a", "b"])
        verdict = "as AWS" if row.ministack == row.back else f"AWS: {row.back or 'nobody'}"
        proof.equal(f"  back comes {row.ministack or 'nobody'} ({verdict})", told(noted[row.name]), row.ministack)
        if later:
            waited = later[0]["waited"]
            if row.deed == SHOW:
                proof.true("  long before its visibility would have ended", waited < LONG_HIDDEN, waited)
            else:
                proof.true("  when their visibility ends", waited >= HIDDEN, waited)


REAL = ("pass", "network", "hang-ignoring-term")
"""The stand-in's images: one passes, one can't be fetched, one never ends."""

ENDS = {
    "malformed": "bad_message at 1",
    "network": f"network at {ATTEMPTS}",
    "hang-ignoring-term": "timeout at 3",
}
"""The dead letters they become: the reason, and at which receive. One that passes is only deleted."""

MALFORMED = scanner_function.MALFORMED


def by_serve(shop: Workshop) -> tuple[Server, dict[str, str]]:
    """The dead letters of these messages in `scanhook serve`, and that server."""
    cli = link_stand_in(shop.directory / "cli")
    server = start_server(shop, CONFIG, "--scanner-cli", cli, env=base_environment(**TOKENS, **API_TOKEN, **proxy()))
    for name in REAL:
        server.send("harbor", f"harbor.example.com/prod/{name}:1.0@{new_digest()}")
    server.sqs.send(QUEUE, MALFORMED)
    until("serve's queue is empty", lambda: server.sqs.depth(QUEUE) == 0, 60)
    return server, dict(map(letter, server.sqs.receive_now(DEAD_LETTERS)))


def letter(message: dict[str, Any]) -> tuple[str, str]:
    attributes = text_attributes(message)
    end = f"{attributes['scanhook.reason']} at {attributes['scanhook.attempts']}"
    return scanner_function.repository_of(message), end


def stripped(shop: Workshop, name: str) -> bytes:
    """A real binary without what only debuggers read."""
    target = shop.directory / f"{name}.stripped"
    subprocess.run(["strip", "-o", target, BINARIES / name], check=True)
    return target.read_bytes()


def by_ministack(shop: Workshop, ministack: Ministack, server: Server) -> dict[str, str]:
    """The dead letters of these messages between the real functions under ministack."""
    dead_letters = ministack.create_queue(DEAD_LETTERS)
    policy = {
        "deadLetterTargetArn": f"arn:aws:sqs:us-east-1:000000000000:{DEAD_LETTERS}",
        "maxReceiveCount": ATTEMPTS,
    }
    queue = ministack.create_queue(QUEUE, VisibilityTimeout="120", RedrivePolicy=json.dumps(policy))
    variables = {
        "AWS_ENDPOINT_URL_SQS": ministack.url,
        "SCANHOOK_QUEUE_URL": queue,
        "SCANHOOK_DLQ_URL": dead_letters,
        "SCANHOOK_CONFIG": f"file:{server.config}",
        "PATH": f"{shop.directory / 'cli'}:/usr/bin:/bin",
    }
    ministack.create_function("webhook", stripped(shop, "webhook"), 29, **variables, **TOKENS)
    ministack.create_function("scanner", stripped(shop, "scanner"), 60, **variables, **API_TOKEN, **proxy())
    # On Lambda each environment has a /tmp of its own; here all are on one machine.
    ministack.functions.put_function_concurrency(FunctionName="scanner", ReservedConcurrentExecutions=1)
    for name in REAL:
        event = http_event("POST", "/webhooks/harbor", HARBOR, harbor_push(f"prod/{name}", new_digest()))
        answer = ministack.functions.invoke(FunctionName="webhook", Payload=json.dumps(event))
        status = json.loads(answer["Payload"].read())["statusCode"]
        if status != 202:
            raise RuntimeError(f"prod/{name} was answered {status}")
    ministack.sqs.send_message(QueueUrl=queue, MessageBody=MALFORMED)
    ministack.map(QUEUE, "scanner", 1)
    until("ministack's queue is empty", lambda: ministack.depth(queue) == 0, 90)
    received = ministack.sqs.receive_message(
        QueueUrl=dead_letters, MaxNumberOfMessages=10, MessageAttributeNames=["All"], AttributeNames=["All"]
    )
    return dict(map(letter, received.get("Messages", [])))


def prove(proof: Proof, shop: Workshop) -> None:
    ministack = Ministack(shop, free_port())
    noted = ask_rows(shop, ministack)
    if "--markdown" in sys.argv[1:]:
        print_markdown(noted)
    rows(proof, noted)
    proof.part("the real functions: the same dead letters, and an empty queue")
    server, ours = by_serve(shop)
    proof.equal("in `scanhook serve`", ours, ENDS)
    proof.equal("under ministack", by_ministack(shop, ministack, server), ENDS)


def print_markdown(noted: dict[str, list[dict[str, Any]]]) -> None:
    print("| the function's first answer | back come: AWS, and here | ministack | AWS's documentation |\n|---|---|---|---|")
    for row in ROWS:
        seen = told(noted[row.name])
        differs = "" if seen == row.back else " (**differs**)"
        print(f"| {row.name} | {row.back or 'nobody'} | {seen or 'nobody'}{differs} | {row.documented} |")


def main() -> int:
    require_binaries(SCANHOOK, BINARIES / "webhook", BINARIES / "scanner")
    if not (SERVERS / "ministack").is_file():
        print("SKIPPED: ministack is not installed, so no other mapping is asked\n0 passed, 0 failed")
        return 0
    with scanner_function.own_scratch():
        return run_proof("the table of batch answers, asked of ministack", prove)


if __name__ == "__main__":
    sys.exit(main())
