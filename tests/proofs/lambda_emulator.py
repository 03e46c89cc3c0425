"""Functions under AWS's own Lambda runtime interface emulator, and the events that AWS would send them.

Python 3.11, standard library only.
"""

from __future__ import annotations

import base64
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import TARGET, Process, Workshop, base_environment, free_port, http, listens, until
from serve import Sqs

VENV = TARGET / "proofs-venv"
QUEUE_ARN = "arn:aws:sqs:us-east-1:000000000000:scanhook"
TEXT_TYPES = ("text/", "application/json", "application/javascript", "application/xml")


def find_emulator() -> Path:
    """The emulator that the SAM CLI in the proofs' virtual environment brings along."""
    machine = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
    found = list(VENV.glob(f"lib/python*/site-packages/samcli/local/rapid/aws-lambda-rie-{machine}"))
    if not found:
        sys.exit("there is no aws-lambda-rie: tests/proofs/run installs it")
    return found[0]


@dataclass
class Function:
    """A function under the emulator, which takes one invocation at a time."""

    process: Process
    url: str

    def invoke(self, event: Any) -> Any:
        """Invokes the function and tells its answer; its errors are answers too."""
        answer = http("POST", self.url, {"content-type": "application/json"}, json.dumps(event).encode())
        if answer.status != 200:
            raise RuntimeError(f"the emulator answered {answer.status}: {answer.body!r}")
        return answer.json()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What the function's log says of an event."""
        lines = (it for it in self.process.output().splitlines() if it.startswith("{"))
        return [line for line in map(json.loads, lines) if line.get("event") == event]


def start_function(shop: Workshop, emulator: Path, binary: Path, timeout: int, **variables: str) -> Function:
    """Starts a function that may take `timeout` seconds, with those environment variables."""
    address, runtime = free_port(), free_port()
    command: list[str | Path] = [
        emulator,
        *("--runtime-interface-emulator-address", f"127.0.0.1:{address}"),
        *("--runtime-api-address", f"127.0.0.1:{runtime}"),
        *("--log-level", "warn"),
        binary,
    ]
    environment = base_environment(AWS_LAMBDA_FUNCTION_TIMEOUT=str(timeout), **variables)
    process = shop.start(binary.name, command, environment)
    function = Function(process, f"http://127.0.0.1:{address}/2015-03-31/functions/function/invocations")
    until(f"the emulator of {binary.name} listens", lambda: listens(address))
    return function


def sqs_variables(sqs: Sqs, queue: str, dead_letters: str) -> dict[str, str]:
    """The variables by which a function finds its queues."""
    return {
        "AWS_ENDPOINT_URL_SQS": sqs.url,
        "SCANHOOK_QUEUE_URL": sqs.queue_url(queue),
        "SCANHOOK_DLQ_URL": sqs.queue_url(dead_letters),
    }


# Events


def http_event(
    method: str, path: str, headers: Mapping[str, str], body: bytes | None, is_base64: bool | None = None
) -> dict[str, Any]:
    """The event of an HTTP API, payload version 2.0. Without `is_base64` the content type decides."""
    headers = {name.lower(): value for name, value in headers.items()}
    if is_base64 is None:
        is_base64 = not headers.get("content-type", "").startswith(TEXT_TYPES)
    host = "abc123.execute-api.us-east-1.amazonaws.com"
    route = f"{method} {path}"
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": route,
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": host, "content-length": str(len(body or b"")), "x-forwarded-proto": "https", **headers},
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "abc123",
            "domainName": host,
            "domainPrefix": "abc123",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.10",
                "userAgent": "proof",
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": route,
            "stage": "$default",
            "time": "21/Nov/2026:20:00:00 +0000",
            "timeEpoch": 1795291200000,
        },
        "isBase64Encoded": is_base64 and body is not None,
    }
    if body is not None:
        event["body"] = base64.b64encode(body).decode() if is_base64 else body.decode()
    return event


def sqs_event(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The event of Lambda's event source mapping for messages that were received."""
    return {"Records": [_record(it) for it in messages]}


def _record(message: dict[str, Any]) -> dict[str, Any]:
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": {
            name: {
                "stringValue": value["StringValue"],
                "dataType": value["DataType"],
                "stringListValues": [],
                "binaryListValues": [],
            }
            for name, value in message.get("MessageAttributes", {}).items()
        },
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": QUEUE_ARN,
        "awsRegion": "us-east-1",
    }


def failed_identifiers(answer: dict[str, Any]) -> set[str]:
    """The message ids that a batch's answer names; an answer of any other shape is an error."""
    if set(answer) != {"batchItemFailures"}:
        raise RuntimeError(f"no answer to a batch: {answer}")
    identifiers = [it["itemIdentifier"] for it in answer["batchItemFailures"]]
    if len(set(identifiers)) != len(identifiers):
        raise RuntimeError(f"a record is named twice: {answer}")
    return set(identifiers)
