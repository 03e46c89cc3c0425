"""`scanhook serve`, its SQS endpoint in the wire format of AWS's SDKs, and its commands.

Python 3.11, standard library only.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import BINARIES, PATIENCE, Disproved, Process, Workshop, answers, base_environment, http, until

SCANHOOK = BINARIES / "scanhook"

QUEUE = "scanhook"
DEAD_LETTERS = "scanhook-dlq"


class SqsRefused(Exception):
    """An error that the endpoint answered."""


@dataclass
class Sqs:
    """An SQS endpoint."""

    url: str

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        headers = {"content-type": "application/x-amz-json-1.0", "x-amz-target": f"AmazonSQS.{operation}"}
        answer = http("POST", self.url, headers, json.dumps(parameters).encode())
        if answer.status != 200:
            raise SqsRefused(f"{operation}: {answer.status} {answer.body.decode(errors='replace')}")
        return answer.json()

    def queue_url(self, queue: str) -> str:
        return f"{self.url}/000000000000/{queue}"

    def attributes(self, queue: str) -> dict[str, str]:
        answer = self.call("GetQueueAttributes", QueueUrl=self.queue_url(queue), AttributeNames=["All"])
        return answer["Attributes"]

    def depth(self, queue: str) -> int:
        """How many messages it holds: visible, in flight and delayed."""
        attributes = self.attributes(queue)
        kinds = ["", "NotVisible", "Delayed"]
        return sum(int(attributes[f"ApproximateNumberOfMessages{it}"]) for it in kinds)

    def send(self, queue: str, body: str) -> str:
        return self.call("SendMessage", QueueUrl=self.queue_url(queue), MessageBody=body)["MessageId"]

    def receive(self, queue: str, count: int, hidden: int = 60, patience: float = PATIENCE) -> list[dict[str, Any]]:
        """Receives exactly `count` messages, hidden for `hidden` seconds from then."""
        received: list[dict[str, Any]] = []
        if count > 0:
            until(f"{count} messages in {queue}", lambda: self._receive_more(queue, count, hidden, received), patience)
        return received

    def _receive_more(self, queue: str, count: int, hidden: int, received: list[dict[str, Any]]) -> bool:
        received += self.receive_now(queue, count - len(received), hidden)
        return len(received) == count

    def receive_now(self, queue: str, count: int = 10, hidden: int = 60) -> list[dict[str, Any]]:
        """Receives what one call gives, at most `count`."""
        answer = self.call(
            "ReceiveMessage",
            QueueUrl=self.queue_url(queue),
            MaxNumberOfMessages=min(10, count),
            VisibilityTimeout=hidden,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        )
        return answer.get("Messages", [])

    def take(self, queue: str, count: int, patience: float = PATIENCE) -> list[dict[str, Any]]:
        """Receives exactly `count` messages and deletes them."""
        messages = self.receive(queue, count, patience=patience)
        for message in messages:
            self.delete(queue, message)
        return messages

    def delete(self, queue: str, message: dict[str, Any]) -> None:
        self.call("DeleteMessage", QueueUrl=self.queue_url(queue), ReceiptHandle=message["ReceiptHandle"])


def text_attributes(message: dict[str, Any]) -> dict[str, str]:
    """The message attributes of a received message."""
    return {name: value["StringValue"] for name, value in message.get("MessageAttributes", {}).items()}


@dataclass
class Server:
    """A `scanhook serve` that is ready."""

    process: Process
    config: Path
    data: Path
    url: str
    sqs: Sqs
    env: dict[str, str]

    def scans(self, limit: int = 1000) -> list[dict[str, Any]]:
        """The ledger's records, oldest first."""
        listed = self._scanhook("scans", "list", "--data-dir", self.data, "--limit", str(limit), "--output", "json")
        return json.loads(listed)[::-1]

    def send(self, source: str, image: str) -> list[dict[str, Any]]:
        """Has `scanhook send` deliver a push of `image`, rightly signed, and tells what was answered."""
        sent = self._scanhook(
            "send", source, "--image", image, "--config", self.config, "--url", self.url, "--output", "json"
        )
        return json.loads(sent)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What its log says of an event."""
        lines = (it for it in self.process.output().splitlines() if it.startswith("{"))
        return [line for line in map(json.loads, lines) if line.get("event") == event]

    def _scanhook(self, *arguments: str | Path) -> bytes:
        command = [str(it) for it in (SCANHOOK, *arguments)]
        return subprocess.run(command, env=self.env, stdout=subprocess.PIPE, check=True).stdout


def start_server(
    shop: Workshop,
    config: str,
    *arguments: str | Path,
    env: dict[str, str],
    listen: str = "127.0.0.1:0",
    sqs_listen: str = "127.0.0.1:0",
    data: Path | None = None,
) -> Server:
    """Starts `scanhook serve` with the text of a configuration, and waits until it is ready."""
    config_file, data = shop.directory / "scanhook.yaml", data or shop.directory / "data"
    config_file.write_text(config)
    command = [SCANHOOK, "serve", "--config", config_file, "--data-dir", data]
    command += ["--listen", listen, "--sqs-listen", sqs_listen, *arguments]
    process = shop.start("serve", command, env)

    def addresses() -> re.Match[str] | None:
        if not process.is_running():
            raise Disproved("`scanhook serve` ended at its start")
        return re.search(
            r"deliveries at (http://[0-9.:]+)/webhooks/SOURCE\n.*AWS_ENDPOINT_URL_SQS=(http://[0-9.:]+)\n",
            process.output(),
        )

    url, sqs = until("the addresses of `scanhook serve`", addresses).groups()
    until("`scanhook serve` is ready", lambda: answers(f"{url}/readyz"))
    return Server(process, config_file, data, url, Sqs(sqs), env)


def start_queues(shop: Workshop) -> Server:
    """Starts a `scanhook serve` of which only the SQS endpoint is used."""
    source = 'kind: distribution, registry: registry.example.com, auth: [{ type: bearer, secret: "env:PROOF_TOKEN" }]'
    config = f'sources: {{ any: {{ {source} }} }}\nscanner: {{ api_token: "env:PROOF_TOKEN" }}\n'
    return start_server(shop, config, "--no-scan", env=base_environment(PROOF_TOKEN="fake-token-0123456789"))


def link_stand_in(directory: Path) -> Path:
    """Makes the stand-in CLI available in `directory`: scanhook itself, by the CLI's name."""
    directory.mkdir(parents=True, exist_ok=True)
    link = directory / "sysdig-cli-scanner"
    link.symlink_to(SCANHOOK)
    return link
