"""The scanner function: which records it names, and what becomes of them.

Python 3.11, standard library only.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from any_registry import new_digest
from deliveries import HARBOR, harbor_push
from harness import Proof, descendants
from lambda_emulator import Function, failed_identifiers, http_event, sqs_event
from serve import DEAD_LETTERS, QUEUE, text_attributes
from stage import API_TOKEN, Stage

SCRATCH = Path("/tmp/scanhook")
"""Where the scanner function writes; the only writable place that Lambda has."""

VERDICTS = {
    "pass": "passed",
    "pass-clean": "passed",
    "fail": "failed",
    "accepted": "passed",
    "no-policy": "passed",
    "slow": "passed",
    "grandchild": "passed",
}
"""What the stand-in CLI shows by the repository's last component, and the verdict on it."""

MALFORMED = '{"version":1,"scan_id":'


def prove(stage: Stage, webhook: Function) -> None:
    scanner = stage.start("scanner", 120, **API_TOKEN)
    a_batch_fails_record_by_record(stage, webhook, scanner)
    failures_end_in_the_dead_letter_queue(stage, scanner)
    stage.says_none_of(scanner, API_TOKEN)
    # Two can't share the scratch space.
    scanner.process.end()
    hurried = stage.start("scanner", 18, **API_TOKEN)
    what_cannot_start_comes_back(stage, webhook, hurried)


@dataclass
class Batch:
    """Ten records that were received: a malformed, a panicking, a hanging one, and seven to scan."""

    messages: list[dict[str, Any]]

    def of(self, name: str) -> str:
        """The id of the record for the repository prod/`name`; of the malformed one without."""
        [identifier] = [str(it["MessageId"]) for it in self.messages if repository_of(it) == name]
        return identifier

    def event(self) -> dict[str, Any]:
        """Those that fail come first, so that the others show that they are still worked on."""
        order = ["malformed", "panic", "hang-ignoring-term", *VERDICTS]
        return sqs_event(sorted(self.messages, key=lambda it: order.index(repository_of(it))))


def repository_of(message: dict[str, Any]) -> str:
    if message["Body"] == MALFORMED:
        return "malformed"
    repository: str = json.loads(message["Body"])["image"]["repository"]
    return repository.removeprefix("prod/")


def queue_batch(stage: Stage, webhook: Function) -> Batch:
    """Has the webhook queue nine images, adds a malformed message, and receives all ten."""
    for name in ["panic", "hang-ignoring-term", *VERDICTS]:
        push = http_event("POST", "/webhooks/harbor", HARBOR, harbor_push(f"prod/{name}", new_digest()))
        answer = webhook.invoke(push)
        if answer["statusCode"] != 202:
            raise RuntimeError(f"prod/{name} was not queued: {answer}")
    stage.server.sqs.send(QUEUE, MALFORMED)
    return Batch(stage.server.sqs.receive(QUEUE, 10))


def invoke_scanner(stage: Stage, scanner: Function, messages: list[dict[str, Any]], event: dict[str, Any]) -> set[str]:
    """Invokes the scanner, and does what Lambda's mapping does: deletes what is not named."""
    failed = failed_identifiers(scanner.invoke(event))
    delete_others(stage, messages, failed)
    return failed


def delete_others(stage: Stage, messages: list[dict[str, Any]], failed: set[str]) -> None:
    for message in messages:
        if message["MessageId"] not in failed:
            stage.server.sqs.delete(QUEUE, message)


def a_batch_fails_record_by_record(stage: Stage, webhook: Function, scanner: Function) -> None:
    proof = stage.proof
    proof.part("scanner: a batch of ten with a malformed, a hanging and a panicking record")
    empty = scanner.invoke({"Records": []})
    proof.equal("no record, no failure", empty, {"batchItemFailures": []})
    batch = queue_batch(stage, webhook)
    malformed = batch.of("malformed")
    failing = {batch.of("hang-ignoring-term"), batch.of("panic")}
    proof.equal("the records were received for the first time", receive_counts(batch.messages), {1})
    failed = invoke_scanner(stage, scanner, batch.messages, batch.event())
    proof.equal("the answer names exactly the hanging and the panicking one", failed, failing)
    proof.true("not the malformed one", malformed not in failed)
    leaves_nothing_behind(proof, scanner)

    verdicts = {it["image"].rsplit("/", 1)[1]: it["verdict"] for it in scanner.lines("scan.finished")}
    proof.equal("each of the others has its verdict", {it: verdicts.get(it) for it in VERDICTS}, VERDICTS)
    errors = [it for it in scanner.lines("scan.finished") if it["verdict"] == "error"]
    reasons = {it["image"].rsplit("/", 1)[1]: it["reason"] for it in errors}
    proof.equal("and the two their errors", reasons, {"hang-ignoring-term": "timeout", "panic": "internal"})

    [letter] = stage.server.sqs.take(DEAD_LETTERS, 1)
    attributes = text_attributes(letter)
    proof.equal("the malformed one lies in the dead-letter queue, as it was", letter["Body"], MALFORMED)
    proof.equal("its reason is bad_message", attributes.pop("scanhook.reason"), "bad_message")
    proof.equal("its attempts are told", attributes.pop("scanhook.attempts"), "1")
    proof.equal("so is the detail", attributes.pop("scanhook.detail"), "the message is malformed")
    proof.true("and the time, in UTC", attributes.pop("scanhook.failed_at").endswith("Z"))
    proof.equal("and no attribute that is not known", attributes, {})
    proof.equal("nothing else is in the dead-letter queue", stage.server.sqs.depth(DEAD_LETTERS), 0)
    proof.equal("two are left in the queue", stage.server.sqs.depth(QUEUE), 2)


def failures_end_in_the_dead_letter_queue(stage: Stage, scanner: Function) -> None:
    proof, sqs = stage.proof, stage.server.sqs
    proof.part("scanner: the failing ones come back until their last receive, and then lie in the dead-letter queue")
    # Hidden at first until the deadline plus 60 s: that they come back now shows the wait of the retry policy.
    for receive, returning, buried in [
        (2, {"hang-ignoring-term", "panic"}, {}),
        (3, {"panic"}, {"hang-ignoring-term": ("timeout", "3")}),
        (4, set(), {"panic": ("internal", "4")}),
    ]:
        messages = sqs.receive(QUEUE, len(returning) + len(buried), patience=10)
        proof.equal(f"receive {receive} within seconds", receive_counts(messages), {receive})
        failed = invoke_scanner(stage, scanner, messages, sqs_event(messages))
        names = {repository_of(it) for it in messages if it["MessageId"] in failed}
        proof.equal(f"  the answer names {' and '.join(sorted(returning)) or 'nobody'}", names, returning)
        letters = {repository_of(it): text_attributes(it) for it in sqs.take(DEAD_LETTERS, len(buried))}
        told = {name: (it["scanhook.reason"], it["scanhook.attempts"]) for name, it in letters.items()}
        proof.equal(f"  the dead letters are {buried or 'none'}", told, buried)
        scan_ids = {json.loads(it["Body"])["scan_id"] for it in messages if repository_of(it) in letters}
        proof.equal("  each with its scan's id", {it["scanhook.scan_id"] for it in letters.values()}, scan_ids)
    proof.equal("the queue is empty", sqs.depth(QUEUE), 0)
    proof.equal("so is the dead-letter queue", sqs.depth(DEAD_LETTERS), 0)
    leaves_nothing_behind(proof, scanner)


def what_cannot_start_comes_back(stage: Stage, webhook: Function, scanner: Function) -> None:
    """The function may take 18 s, of which it keeps 15 for its end: time for no more than three runs of 1 s."""
    proof, sqs = stage.proof, stage.server.sqs
    proof.part("scanner: a batch that is too long for one invocation")
    for _ in range(5):
        push = harbor_push("prod/hang-ignoring-term", new_digest())
        webhook.invoke(http_event("POST", "/webhooks/harbor", HARBOR, push))
    messages = sqs.receive(QUEUE, 5)
    began = time.monotonic()
    failed = invoke_scanner(stage, scanner, messages, sqs_event(messages))
    took = time.monotonic() - began
    proof.equal("the answer names all", failed, {it["MessageId"] for it in messages})
    proof.true("long before the function's time is up", took < 10, took)
    lines = scanner.lines("scan.finished")
    unstarted = [line["scan_id"] for line in lines if "no time left to start it" in line["detail"]]
    proof.true("the first ones ran", 1 <= len(lines) - len(unstarted) <= 3, lines)
    scan_ids = {json.loads(it["Body"])["scan_id"] for it in sqs.receive_now(QUEUE)}
    proof.true("those without time for a start are visible at once", set(unstarted) <= scan_ids, (unstarted, scan_ids))
    leaves_nothing_behind(proof, scanner)


def receive_counts(messages: list[dict[str, Any]]) -> set[int]:
    return {int(it["Attributes"]["ApproximateReceiveCount"]) for it in messages}


def leaves_nothing_behind(proof: Proof, scanner: Function) -> None:
    """Below the emulator there is the function, and below that nothing."""
    processes = descendants(scanner.process.popen.pid)
    directories = [str(it) for it in SCRATCH.glob("slot-*/scan-*")]
    proof.equal("no process and no directory of a run is left", (len(processes), directories), (1, []))


@contextmanager
def own_scratch() -> Iterator[None]:
    """Removes the scanner function's scratch space afterwards if it was not there before."""
    was_there = SCRATCH.exists()
    try:
        yield
    finally:
        if not was_there:
            shutil.rmtree(SCRATCH, ignore_errors=True)
