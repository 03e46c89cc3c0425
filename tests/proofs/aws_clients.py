#!/usr/bin/env python3
"""AWS's own clients, boto3 and the AWS CLI, on the SQS endpoint of `scanhook serve`: they send, receive and delete, and
read the dead letter of a scan that failed with its reason.

Run by the Python of a virtual environment that has boto3 and awscli; `tests/proofs/run` makes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from any_registry import new_digest, proxy
from harness import Proof, Workshop, base_environment, require_binaries, run_proof, until
from serve import DEAD_LETTERS, QUEUE, SCANHOOK, Server, link_stand_in, start_server, text_attributes

CONFIG = """
registries: { registry.example.com: { insecure: true } }
sources:
  debian: { kind: distribution, registry: registry.example.com, auth: [{ type: bearer, secret: "env:PROOF_TOKEN" }] }
scanner: { api_token: "env:PROOF_API_TOKEN" }
retry: { attempts: 3, base: 1s, cap: 1s }
"""
SECRETS = {"PROOF_TOKEN": "fake-token-0123456789", "PROOF_API_TOKEN": "fake-api-token"}
DIGEST = new_digest()


@dataclass
class AwsCli:
    """`aws sqs` on the endpoint. Version 1, which is the one that pip installs, ignores AWS_ENDPOINT_URL_SQS for this
    service (aws/aws-cli#8737), so it is led there by its option."""

    endpoint: str
    env: dict[str, str]

    def run(self, operation: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = str(Path(sys.executable).with_name("aws"))
        command = [program, "sqs", operation, *arguments, "--endpoint-url", self.endpoint, "--output", "json"]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60)

    def __call__(self, operation: str, *arguments: str) -> Any:
        done = self.run(operation, *arguments)
        if done.returncode != 0:
            raise RuntimeError(f"aws sqs {operation}: {done.stderr}")
        return json.loads(done.stdout or "null")


def receive(sqs: Any, url: str, **more: Any) -> list[dict[str, Any]]:
    everything = {"MessageAttributeNames": ["All"], "MessageSystemAttributeNames": ["All"]}
    return sqs.receive_message(QueueUrl=url, **everything, **more).get("Messages", [])


def dead_letter_of_a_scan(proof: Proof, server: Server, sqs: Any, cli: AwsCli) -> None:
    proof.part("a scan that fails for good: its dead letter")
    [delivered] = server.send("debian", f"registry.example.com/team/not-found:1.0@{DIGEST}")
    [queued] = delivered["answer"]["queued"]
    proof.equal("a delivery of an image that does not exist is taken", delivered["status"], 202)
    url = server.sqs.queue_url(DEAD_LETTERS)
    [letter] = until("its dead letter", lambda: receive(sqs, url, VisibilityTimeout=0))
    attributes = text_attributes(letter)
    proof.equal("boto3 reads its reason", attributes.get("scanhook.reason"), "image_not_found")
    proof.equal("  after two attempts", attributes.get("scanhook.attempts"), "2")
    proof.equal("  of the scan that the answer told", attributes.get("scanhook.scan_id"), queued["scan_id"])
    proof.true("  with a detail for people", len(attributes.get("scanhook.detail", "")) > 10, attributes)
    failed_at = datetime.fromisoformat(attributes["scanhook.failed_at"].replace("Z", "+00:00"))
    age = (datetime.now(UTC) - failed_at).total_seconds()
    proof.true("  and the time, just now", -1 < age < 60, age)
    proof.equal("  and no other attribute", len(attributes), 5)
    proof.equal("  each of them a text", {it["DataType"] for it in letter["MessageAttributes"].values()}, {"String"})
    body = json.loads(letter["Body"])
    told = (body["version"], body["scan_id"], body["source"], body["image"]["repository"], body["image"]["tag"])
    proof.equal("its body is the message", told, (1, queued["scan_id"], "debian", "team/not-found", "1.0"))
    proof.equal("its group is the source", letter["Attributes"]["MessageGroupId"], "debian")
    [record] = server.scans()
    shown = [record[name] for name in ("scan_id", "state", "verdict", "reason", "attempts")]
    proof.equal("`scans list` tells the same", shown, [queued["scan_id"], "dead_letter", "error", "image_not_found", 2])

    look = ("receive-message", "--queue-url", url, "--visibility-timeout", "0", "--message-attribute-names")
    [by_cli] = cli(*look, "scanhook.*")["Messages"]
    proof.equal("the AWS CLI reads the same attributes", text_attributes(by_cli), attributes)
    proof.equal("  of the same message", by_cli["MessageId"], letter["MessageId"])
    [one] = cli(*look, "scanhook.reason")["Messages"]
    proof.equal("  and only the one it asks for", text_attributes(one), {"scanhook.reason": "image_not_found"})


def redrive(proof: Proof, server: Server, sqs: Any, cli: AwsCli) -> None:
    proof.part("that dead letter moves back, and is scanned and buried again")
    arns = {it: f"arn:aws:sqs:us-east-1:000000000000:{it}" for it in (QUEUE, DEAD_LETTERS)}
    url = server.sqs.queue_url(DEAD_LETTERS)
    [before] = server.scans()
    task = cli("start-message-move-task", "--source-arn", arns[DEAD_LETTERS], "--destination-arn", arns[QUEUE])
    proof.true("the AWS CLI starts a move task", bool(task["TaskHandle"]))

    def tasks() -> Any:
        return sqs.list_message_move_tasks(SourceArn=arns[DEAD_LETTERS])["Results"]

    until("the task's end", lambda: tasks()[0]["Status"] == "COMPLETED")
    proof.equal("boto3 lists it: one message moved", tasks()[0]["ApproximateNumberOfMessagesMoved"], 1)
    [letter] = until("the new dead letter", lambda: receive(sqs, url))
    attributes = text_attributes(letter)
    proof.equal("it is of the same scan", attributes["scanhook.scan_id"], before["scan_id"])
    proof.equal("it has its reason once", (attributes["scanhook.reason"], len(attributes)), ("image_not_found", 5))
    [after] = server.scans()
    proof.true("the scan was tried again", after["started_at"] > before["started_at"])
    cli("delete-message", "--queue-url", url, "--receipt-handle", letter["ReceiptHandle"])
    proof.equal("the AWS CLI deletes it", server.sqs.depth(DEAD_LETTERS), 0)


def messages_from_clients(proof: Proof, server: Server, sqs: Any, cli: AwsCli) -> None:
    proof.part("messages that AWS's clients put into scanhook's queue")
    url = server.sqs.queue_url(QUEUE)
    image = {"registry": "registry.example.com", "repository": "team/fail", "tag": "2.0", "digest": DIGEST}
    event = {"id": None, "type": "push", "actor": "proof", "occurred_at": None, "received_at": "2026-11-21T20:00:00Z"}
    message = {"version": 1, "scan_id": "sent-by-the-cli", "source": "debian", "image": image, "event": event}
    cli("send-message", "--queue-url", url, "--message-body", json.dumps(message))
    [record] = until("its scan", lambda: [it for it in server.scans() if it["verdict"] == "failed"])
    told = (record["scan_id"], record["image"], record["tag"], record["digest"], record["actor"])
    expected = ("sent-by-the-cli", "registry.example.com/team/fail", "2.0", DIGEST, "proof")
    proof.equal("one that the AWS CLI sent is scanned", told, expected)
    sqs.send_message(QueueUrl=url, MessageBody="no message of ours")
    letters = server.sqs.queue_url(DEAD_LETTERS)
    [letter] = until("the dead letter", lambda: receive(sqs, letters))
    proof.equal("one that is none becomes a dead letter", letter["Body"], "no message of ours")
    proof.equal("  with its reason", text_attributes(letter)["scanhook.reason"], "bad_message")
    sqs.delete_message(QueueUrl=letters, ReceiptHandle=letter["ReceiptHandle"])
    proof.equal("both queues are empty", (server.sqs.depth(QUEUE), server.sqs.depth(DEAD_LETTERS)), (0, 0))


def cli_on_a_queue(proof: Proof, server: Server, cli: AwsCli) -> None:
    proof.part("the AWS CLI on a queue of its own")
    urls = cli("list-queues")["QueueUrls"]
    proof.equal("it lists scanhook's queues", urls, [server.sqs.queue_url(QUEUE), server.sqs.queue_url(DEAD_LETTERS)])
    url = cli("get-queue-url", "--queue-name", QUEUE)["QueueUrl"]
    attributes = cli("get-queue-attributes", "--queue-url", url, "--attribute-names", "All")["Attributes"]
    policy = json.loads(attributes["RedrivePolicy"])
    expected = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:scanhook-dlq", "maxReceiveCount": 3}
    proof.equal("it reads the redrive policy: retry.attempts and the dead-letter queue", policy, expected)

    url = cli("create-queue", "--queue-name", "cli", "--attributes", "VisibilityTimeout=60")["QueueUrl"]
    colour = json.dumps({"colour": {"DataType": "String", "StringValue": "grün"}})
    sent = cli("send-message", "--queue-url", url, "--message-body", "Grüße", "--message-attributes", colour)
    proof.equal("it sends", sent["MD5OfMessageBody"], hashlib.md5("Grüße".encode(), usedforsecurity=False).hexdigest())
    everything = ("--message-attribute-names", "All", "--message-system-attribute-names", "All")
    look = ("receive-message", "--queue-url", url, *everything)
    [message] = cli(*look)["Messages"]
    told = (message["MessageId"], message["Body"], text_attributes(message))
    proof.equal("it receives", told, (sent["MessageId"], "Grüße", {"colour": "grün"}))
    proof.equal("  for the first time", message["Attributes"]["ApproximateReceiveCount"], "1")
    proof.equal("  and not twice", cli(*look), None)
    handle = ("--queue-url", url, "--receipt-handle", message["ReceiptHandle"])
    cli("change-message-visibility", *handle, "--visibility-timeout", "0")
    [message] = cli(*look)["Messages"]
    proof.equal("it makes a message visible again", message["Attributes"]["ApproximateReceiveCount"], "2")
    cli("delete-message", "--queue-url", url, "--receipt-handle", message["ReceiptHandle"])
    proof.equal("it deletes", server.sqs.depth("cli"), 0)
    entries = json.dumps([{"Id": str(it), "MessageBody": f"message {it}"} for it in range(3)])
    batch = cli("send-message-batch", "--queue-url", url, "--entries", entries)
    proof.equal("it sends a batch", [it["Id"] for it in batch["Successful"]], ["0", "1", "2"])
    cli("purge-queue", "--queue-url", url)
    proof.equal("it purges", server.sqs.depth("cli"), 0)
    cli("delete-queue", "--queue-url", url)
    done = cli.run("receive-message", "--queue-url", url)
    is_known = "(AWS.SimpleQueueService.NonExistentQueue)" in done.stderr and done.returncode != 0
    proof.true("it deletes the queue, and knows the error that follows", is_known, (done.returncode, done.stderr))


def prove(proof: Proof, shop: Workshop) -> None:
    stand_in = link_stand_in(shop.directory / "cli")
    server = start_server(shop, CONFIG, "--scanner-cli", stand_in, env=base_environment(**SECRETS, **proxy()))
    settings = {
        "AWS_ENDPOINT_URL_SQS": server.sqs.url,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    env = base_environment(**settings)
    os.environ.update(env)
    sqs, cli = boto3.client("sqs"), AwsCli(server.sqs.url, env)
    dead_letter_of_a_scan(proof, server, sqs, cli)
    redrive(proof, server, sqs, cli)
    messages_from_clients(proof, server, sqs, cli)
    cli_on_a_queue(proof, server, cli)


def main() -> int:
    require_binaries(SCANHOOK)
    return run_proof("AWS CLI and boto3 on the SQS endpoint of `scanhook serve`", prove)


if __name__ == "__main__":
    sys.exit(main())
