#!/usr/bin/env python3
"""`scanhook dlq` on dead letters of ten reasons in moto's SQS, with moto's DynamoDB for a ledger: listed, filtered, shown, exported,
redriven in part.

Redrives that are interrupted are tested in `local/tests/it/dlq.rs`. `tests/proofs/run` installs moto and builds scanhook.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aws_server import TABLE, Moto, start_moto
from harness import Disproved, Proof, Workshop, base_environment, require_binaries, run_proof, until
from serve import DEAD_LETTERS, QUEUE, SCANHOOK

LETTERS = 102
TEAMS = 51
"""Sources of as many letters each."""
REASONS = [
    "bad_token", "database", "image_not_found", "network", "no_report",
    "rate_limited", "report_mismatch", "scanner_error", "timeout", "unauthorized",
]  # fmt: skip
FROM_LEDGER = "network"
"""The reason that no letter has, as if SQS had moved them: only the ledger has it."""


@dataclass
class Letter:
    number: int

    @property
    def scan_id(self) -> str:
        return f"01PROOF{self.number:05}"

    @property
    def reason(self) -> str:
        return REASONS[self.number % len(REASONS)]

    @property
    def team(self) -> str:
        return f"team-{self.number // (LETTERS // TEAMS)}"

    @property
    def repository(self) -> str:
        return f"{self.team}/app-{self.number}"

    def body(self) -> str:
        image = {"registry": "registry.example.com", "repository": self.repository, "tag": "1.0", "digest": None}
        event = {"id": None, "type": "push", "actor": "ci", "occurred_at": None, "received_at": "2026-11-21T20:00:00Z"}
        message = {"version": 1, "scan_id": self.scan_id, "source": self.team, "image": image, "event": event}
        return json.dumps(message | {"force": False, "traceparent": None, "of_later_version": [self.number]})

    def attributes(self) -> dict[str, Any]:
        if self.reason == FROM_LEDGER:
            return {}
        told = {
            "reason": self.reason, "detail": f"detail of {self.number}", "attempts": "10",
            "scan_id": self.scan_id, "failed_at": f"2026-11-21T21:{self.number % 60:02}:00Z",
        }  # fmt: skip
        return {f"scanhook.{name}": {"DataType": "String", "StringValue": value} for name, value in told.items()}

    def record(self) -> str:
        """What the ledger has of it."""
        absent = dict.fromkeys(["digest", "platform", "identity", "result_url", "cli_version", "actor", "tag_moved"])
        return json.dumps(absent | {
            "scan_id": self.scan_id, "source": self.team, "image": f"registry.example.com/{self.repository}", "tag": "1.0",
            "state": "retrying", "verdict": "error", "reason": self.reason, "detail": "", "attempts": 9, "policies_failed": [],
            "received_at": "2026-11-21T20:00:00Z", "started_at": "2026-11-21T21:00:00Z", "finished_at": "2026-11-21T21:30:00Z",
        })  # fmt: skip


@dataclass
class Endpoint:
    """Two queues, a ledger, and the arguments by which `scanhook dlq` finds them."""

    call: Callable[..., Any]
    """Calls an operation of SQS."""
    source: str
    dead: str
    env: dict[str, str]
    arguments: list[str]
    letters: list[Letter]

    def command(self, *arguments: str) -> list[str]:
        return [str(SCANHOOK), "dlq", arguments[0], *self.arguments, *arguments[1:]]

    def run(self, *arguments: str) -> str:
        done = subprocess.run(self.command(*arguments), env=self.env, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            raise Disproved(f"dlq {arguments}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--output", "json"))

    def depth(self, url: str) -> tuple[int, int]:
        """Visible, and in flight."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        attributes = self.call("GetQueueAttributes", QueueUrl=url, AttributeNames=names)["Attributes"]
        return int(attributes[names[0]]), int(attributes[names[1]])

    def settle(self) -> None:
        until("what was held is visible again", lambda: self.depth(self.dead)[1] == 0, patience=120)

    def fill(self) -> None:
        for first in range(0, len(self.letters), 10):
            entries = [
                {"Id": str(it.number), "MessageBody": it.body(), "MessageAttributes": it.attributes(), "MessageGroupId": it.team}
                for it in self.letters[first : first + 10]
            ]
            if self.call("SendMessageBatch", QueueUrl=self.dead, Entries=entries).get("Failed"):
                raise Disproved("the letters were not taken")


def start_on_moto(moto: Moto) -> Endpoint:
    sqs, dynamodb = moto.client("sqs"), moto.client("dynamodb")
    dead = sqs.create_queue(QueueName=DEAD_LETTERS)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1000})
    source = sqs.create_queue(QueueName=QUEUE, Attributes={"RedrivePolicy": policy})["QueueUrl"]
    moto.create_table()
    letters = [Letter(number) for number in range(LETTERS)]
    for it in letters:
        if it.reason == FROM_LEDGER:
            keys = {"pk": {"S": f"scan#{it.scan_id}"}, "sk": {"S": "platform#"}, "expires_at": {"N": str(1 << 40)}}
            dynamodb.put_item(TableName=TABLE, Item=keys | {"record": {"S": it.record()}})
    operations = {"GetQueueAttributes": sqs.get_queue_attributes, "SendMessageBatch": sqs.send_message_batch,
        "ReceiveMessage": sqs.receive_message}  # fmt: skip
    env = base_environment(AWS_ENDPOINT_URL=moto.url)
    arguments = ["--queue-url", dead, "--table", TABLE]
    return Endpoint(lambda name, **it: operations[name](**it), source, dead, env, arguments, letters)


def look(proof: Proof, endpoint: Endpoint) -> None:
    proof.part("looking")
    every = endpoint.letters
    listed = endpoint.json("list")
    counts = {it["reason"]: (it["requests"], it["messages"]) for it in listed["groups"]}
    proof.equal(f"{len(every)} letters are listed by ten reasons", counts, {
        reason: (count, count) for reason, count in Counter(it.reason for it in every).items()
    })  # fmt: skip
    told = {it["scan_id"]: (it["reason"], it["source"], it["image"].split("/", 1)[1]) for it in listed["letters"]}
    proof.equal("each with its reason, source and image", told, {it.scan_id: (it.reason, it.team, it.repository) for it in every})
    endpoint.settle()
    proof.equal("all are visible again, and none is gone", endpoint.depth(endpoint.dead), (len(every), 0))
    cases = [
        (["--reason", f"timeout,{FROM_LEDGER}", "--source", "team-7"], lambda it: it.reason in ("timeout", FROM_LEDGER) and it.team == "team-7"),
        (["--image", "registry.example.com/team-1*/*"], lambda it: it.team.startswith("team-1")),
        (["--since", "2026-11-21T21:50:00Z"], lambda it: it.reason != FROM_LEDGER and it.number % 60 >= 50),
    ]
    for arguments, admits in cases:
        told = {it["scan_id"] for it in endpoint.json("list", *arguments)["letters"]}
        proof.equal(" ".join(arguments), told, {it.scan_id for it in every if admits(it)})
    one = next(it for it in every if it.reason == "timeout")
    [message_id] = next(it for it in listed["letters"] if it["scan_id"] == one.scan_id)["message_ids"]
    proof.equal("one is shown by its message's id", endpoint.json("show", message_id)["letter"]["scan_id"], one.scan_id)
    lines = [json.loads(it) for it in endpoint.run("export").splitlines()]
    bodies = {it["scan_id"]: it["body"] for it in lines}
    proof.equal("export writes every letter, complete", bodies, {it.scan_id: json.loads(it.body()) for it in every})
    endpoint.settle()


def redrive_a_part(proof: Proof, endpoint: Endpoint) -> None:
    proof.part("redriving a part")
    part = [it for it in endpoint.letters if it.reason == FROM_LEDGER and len(it.team) == len("team-?")]
    arguments = ["redrive", "--reason", FROM_LEDGER, "--image", "registry.example.com/team-?/*", "--rate", "500"]
    planned = endpoint.json(*arguments)
    proof.equal("the dry run counts them", (planned["dry_run"], planned["requests"]), (True, len(part)))
    endpoint.settle()
    proof.equal("and does nothing", endpoint.depth(endpoint.source), (0, 0))
    done = endpoint.json(*arguments, "--yes")
    proof.equal("--yes redrives them", (done["redriven"], done["left_messages"]), (len(part), 0))
    endpoint.settle()
    for claim, url, expected in [
        ("exactly those are in the source queue, unchanged", endpoint.source, part),
        ("and exactly the others in the dead-letter queue", endpoint.dead, [it for it in endpoint.letters if it not in part]),
    ]:
        bodies: list[str] = []
        while received := endpoint.call("ReceiveMessage", QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=600).get("Messages"):
            bodies += [it["Body"] for it in received]
        proof.equal(claim, sorted(bodies), sorted(it.body() for it in expected))


def prove(proof: Proof, shop: Workshop) -> None:
    endpoint = start_on_moto(start_moto(shop))
    endpoint.fill()
    look(proof, endpoint)
    redrive_a_part(proof, endpoint)


if __name__ == "__main__":
    require_binaries(SCANHOOK)
    sys.exit(run_proof("dead letters in moto's SQS", prove))
