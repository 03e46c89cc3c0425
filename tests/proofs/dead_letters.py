#!/usr/bin/env python3
"""`scanhook dlq` on thousands of dead letters of ten reasons, on two endpoints: that of `scanhook serve`, and moto's SQS with moto's
DynamoDB for a ledger. Listed, filtered, shown, exported, redriven in part; then redriven and interrupted at random, by SIGINT and by
SIGKILL: every request is in exactly one of the two queues afterwards. Move tasks on ours only, since moto has none.

`--rounds N` says how often a redrive is interrupted on each endpoint (default 8 on ours and 2 on moto; 50 is the long form), `--seed N`
when. There are 5,100 letters on ours and 204 on moto, which is slow where there are many; `--moto-letters 5100` waits for that, and `--only moto`
leaves ours out. Run by the Python of a virtual environment that has boto3; PROOF_SERVERS is the directory of moto_server. `tests/proofs/run` makes both.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from harness import ROOT, Disproved, Proof, Workshop, base_environment, free_port, http, require_binaries, run_proof, until
from serve import DEAD_LETTERS, QUEUE, SCANHOOK, start_server
from sqs_conformance import SERVERS

CONFIG = """
sources:
  any: { kind: distribution, registry: registry.example.com, auth: [{ type: bearer, secret: "env:PROOF_TOKEN" }] }
scanner: { api_token: "env:PROOF_TOKEN" }
"""
LETTERS, MOTO_LETTERS = 5100, 204
TEAMS = 51
"""Sources of as many letters each; each round redrives one of them."""
REASONS = [
    "bad_token", "database", "image_not_found", "network", "no_report",
    "rate_limited", "report_mismatch", "scanner_error", "timeout", "unauthorized",
]  # fmt: skip
FROM_LEDGER = "network"
"""The reason that no letter tells, as if SQS had moved them: only the ledger knows it."""
TABLE = "proof-ledger"
IN_BOTH = 40
"""So many messages can a killed process leave in both queues, by the documentation."""


@dataclass
class Letter:
    number: int
    of: int
    """How many there are."""

    @property
    def scan_id(self) -> str:
        return f"01PROOF{self.number:05}"

    @property
    def reason(self) -> str:
        return REASONS[self.number % len(REASONS)]

    @property
    def team(self) -> str:
        return f"team-{self.number // (self.of // TEAMS)}"

    @property
    def image(self) -> dict[str, Any]:
        name = f"{self.team}/app-{self.number}"
        return {"registry": "registry.example.com", "repository": name, "tag": "1.0", "digest": None}

    def body(self) -> str:
        received = "2026-11-21T20:00:00Z"
        event = {"id": None, "type": "push", "actor": "ci", "occurred_at": None, "received_at": received}
        message = {"version": 1, "scan_id": self.scan_id, "source": self.team, "image": self.image}
        return json.dumps(message | {"event": event, "force": False, "traceparent": None, "of_later_version": [self.number]})

    def attributes(self) -> dict[str, Any]:
        if self.reason == FROM_LEDGER:
            return {}
        minute = f"{self.number % 60:02}"
        told = {
            "reason": self.reason, "detail": f"detail of {self.number}", "attempts": "10",
            "scan_id": self.scan_id, "failed_at": f"2026-11-21T21:{minute}:00Z",
        }  # fmt: skip
        return {f"scanhook.{name}": {"DataType": "String", "StringValue": value} for name, value in told.items()}

    def record(self) -> dict[str, Any]:
        """What the ledger has of it."""
        image = f"{self.image['registry']}/{self.image['repository']}"
        counts = dict.fromkeys(["policies_failed"], [])
        absent = dict.fromkeys(["digest", "platform", "identity", "result_url", "cli_version", "actor", "tag_moved"])
        return counts | absent | {
            "scan_id": self.scan_id, "source": self.team, "image": image, "tag": "1.0", "state": "retrying",
            "verdict": "error", "reason": self.reason, "detail": f"the ledger's detail of {self.number}", "attempts": 9,
            "received_at": "2026-11-21T20:00:00Z", "started_at": "2026-11-21T21:00:00Z", "finished_at": "2026-11-21T21:30:00Z",
        }  # fmt: skip


@dataclass
class Endpoint:
    """Two queues, a ledger, and the arguments by which `scanhook dlq` finds them."""

    name: str
    sqs: Any
    source: str
    dead: str
    env: dict[str, str]
    arguments: list[str]
    letters: list[Letter]
    base: str
    """Its URL."""
    ours: bool

    def command(self, *arguments: str) -> list[str]:
        return [str(SCANHOOK), "dlq", arguments[0], *self.arguments, *arguments[1:]]

    def run(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(self.command(*arguments), env=self.env, capture_output=True, text=True, timeout=600)
        if done.returncode != code:
            raise Disproved(f"dlq {arguments}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return done.stdout

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--output", "json", code=code))

    def depth(self, url: str) -> tuple[int, int]:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        attributes = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return int(attributes[names[0]]), int(attributes[names[1]])

    def settle(self, *, killed: bool = False) -> None:
        """Waits until nothing is hidden; moto's time flies after a command that was killed."""

        if killed and not self.ours:
            time.sleep(1.2)  # its last receives may wait for messages so long

        def is_settled() -> bool:
            hidden = self.depth(self.dead)[1]
            if hidden and killed and not self.ours:
                http("POST", f"{self.base}/proof/later")
            return hidden == 0

        until("what was held is visible again", is_settled, patience=120)

    def bodies(self, url: str) -> list[str]:
        """The bodies of all messages of a queue, which stay in it."""
        if not self.ours:
            return http("GET", f"{self.base}/proof/{url.rsplit('/', 1)[1]}").json()["bodies"]
        bodies, after = [], ""
        while True:
            page = http("GET", f"{url}{after}").json()
            bodies += [it["body"] for it in page["messages"]]
            if not page["next"]:
                return bodies
            after = f"?after={page['next']}"

    def ids(self, url: str) -> Counter[str]:
        return Counter(json.loads(it)["scan_id"] for it in self.bodies(url))


def client(service: str, url: str) -> Any:
    config = Config(retries={"max_attempts": 3}, max_pool_connections=32)
    keys = {"aws_access_key_id": "fake", "aws_secret_access_key": "fake", "region_name": "us-east-1"}
    return boto3.client(service, endpoint_url=url, config=config, **keys)


def fill(endpoint: Endpoint) -> None:
    def send(some: list[Letter]) -> None:
        entries = [
            {"Id": str(it.number), "MessageBody": it.body(), "MessageAttributes": it.attributes(), "MessageGroupId": it.team}
            for it in some
        ]
        answer = endpoint.sqs.send_message_batch(QueueUrl=endpoint.dead, Entries=entries)
        if answer.get("Failed"):
            raise Disproved(f"{endpoint.name} did not take letters: {answer['Failed']}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(send, [endpoint.letters[it : it + 10] for it in range(0, len(endpoint.letters), 10)]))


def start_ours(shop: Workshop) -> Endpoint:
    letters = [Letter(number, LETTERS) for number in range(LETTERS)]
    env = base_environment(PROOF_TOKEN="fake-token-0123456789")
    server = start_server(shop, CONFIG, "--no-scan", env=env)
    with sqlite3.connect(server.data / "ledger.sqlite", timeout=30) as ledger:
        rows = [(it.scan_id, "", 1, json.dumps(it.record()), 1 << 52) for it in letters if it.reason == FROM_LEDGER]
        ledger.executemany("INSERT INTO scan (scan_id, platform, received_at, record, expires) VALUES (?, ?, ?, ?, ?)", rows)
    sqs = client("sqs", server.sqs.url)
    source, dead = server.sqs.queue_url(QUEUE), server.sqs.queue_url(DEAD_LETTERS)
    return Endpoint("scanhook serve", sqs, source, dead, env, ["--data-dir", str(server.data)], letters, server.sqs.url, ours=True)


def start_moto(shop: Workshop, count: int) -> Endpoint | None:
    if not (SERVERS / "moto_server").is_file():
        print("SKIPPED: moto is not installed", file=sys.stderr)
        return None
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    script = ROOT / "tests/proofs/moto_server.py"
    process = shop.start("moto", [SERVERS / "python", script, str(port)], base_environment())
    sqs, dynamodb = client("sqs", url), client("dynamodb", url)

    def is_up() -> bool:
        if not process.is_running():
            raise Disproved("moto ended at its start")
        try:
            sqs.list_queues()
        except Exception:  # whatever a server says that is not up yet
            return False
        return True

    until("moto is up", is_up)
    dead = sqs.create_queue(QueueName=DEAD_LETTERS)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    # Looking at a queue counts as a receive here; none is to become a dead letter again by that.
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1000})
    source = sqs.create_queue(QueueName=QUEUE, Attributes={"RedrivePolicy": policy})["QueueUrl"]
    dynamodb.create_table(
        TableName=TABLE,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": it, "AttributeType": "S"} for it in ("pk", "sk")],
    )
    letters = [Letter(number, count) for number in range(count)]
    rows = [it for it in letters if it.reason == FROM_LEDGER]
    for start in range(0, len(rows), 25):
        items = [
            {
                "pk": {"S": f"scan#{it.scan_id}"}, "sk": {"S": "platform#"}, "record": {"S": json.dumps(it.record())},
                "expires_at": {"N": str(1 << 40)},
            }
            for it in rows[start : start + 25]
        ]  # fmt: skip
        dynamodb.batch_write_item(RequestItems={TABLE: [{"PutRequest": {"Item": it}} for it in items]})
    env = base_environment(AWS_ENDPOINT_URL=url)
    return Endpoint("moto", sqs, source, dead, env, ["--queue-url", dead, "--table", TABLE], letters, url, ours=False)


def look(proof: Proof, endpoint: Endpoint) -> None:
    proof.part(f"{endpoint.name}: looking")
    began = time.monotonic()
    listed = endpoint.json("list")
    took = time.monotonic() - began
    counts = {it["reason"]: (it["requests"], it["messages"]) for it in listed["groups"]}
    all_letters = endpoint.letters
    each = Counter(it.reason for it in all_letters)
    claim = f"{len(all_letters)} letters are listed by ten reasons, in {took:.1f} s"
    proof.equal(claim, counts, {reason: (count, count) for reason, count in each.items()})
    expected = {it.scan_id: (it.reason, it.team, it.image["repository"]) for it in all_letters}
    told = {it["scan_id"]: (it["reason"], it["source"], it["image"].split("/", 1)[1]) for it in listed["letters"]}
    proof.equal("each with its reason, source and image", told, expected)
    [of_ledger] = {it["attempts"] for it in listed["letters"] if it["reason"] == FROM_LEDGER}
    proof.equal("what the letter does not tell, the ledger does", of_ledger, 9)
    endpoint.settle()
    proof.equal("all are visible again, and none is gone", endpoint.depth(endpoint.dead), (len(all_letters), 0))
    table = endpoint.run("list", "--limit", "3")
    proof.true("the table begins with the groups", 0 < table.index("requests") < table.index("detail"), table)
    cases = [
        (["--reason", "timeout"], lambda it: it.reason == "timeout"),
        (["--reason", f"timeout,{FROM_LEDGER}", "--source", "team-7"], lambda it: it.reason in ("timeout", FROM_LEDGER) and it.team == "team-7"),
        (["--image", "registry.example.com/team-1*/*"], lambda it: it.team.startswith("team-1")),
        (["--since", "2026-11-21T21:50:00Z"], lambda it: it.reason != FROM_LEDGER and it.number % 60 >= 50),
    ]
    for arguments, admits in cases:
        told = {it["scan_id"] for it in endpoint.json("list", *arguments)["letters"]}
        proof.equal(" ".join(arguments), told, {it.scan_id for it in all_letters if admits(it)})

    one = next(it for it in all_letters if it.reason == "timeout")
    shown = endpoint.run("show", one.scan_id)
    words = [one.scan_id, f"detail of {one.number}", "scanner.timeout", "What to do", "of_later_version"]
    proof.equal("show tells everything and what to do", [it for it in words if it not in shown], [])
    [message_id] = next(it for it in listed["letters"] if it["scan_id"] == one.scan_id)["message_ids"]
    by_message = endpoint.json("show", message_id)
    proof.equal("by the message's id too", by_message["letter"]["scan_id"], one.scan_id)
    lines = [json.loads(it) for it in endpoint.run("export").splitlines()]
    bodies = {it["scan_id"]: it["body"] for it in lines}
    proof.equal("export writes every letter, complete", bodies, {it.scan_id: json.loads(it.body()) for it in all_letters})
    endpoint.settle()


def redrive_a_part(proof: Proof, endpoint: Endpoint, here: set[str]) -> None:
    """Redrives one reason of ten teams; `here` are the ids in the dead-letter queue."""
    proof.part(f"{endpoint.name}: redriving a part")
    part = [it for it in endpoint.letters if it.reason == FROM_LEDGER and len(it.team) == len("team-?")]
    arguments = ["redrive", "--reason", FROM_LEDGER, "--image", "registry.example.com/team-?/*", "--rate", "500"]
    planned = endpoint.json(*arguments)
    proof.equal("the dry run tells how many", (planned["dry_run"], planned["requests"]), (True, len(part)))
    endpoint.settle()
    proof.equal("and does nothing", endpoint.depth(endpoint.source), (0, 0))
    done = endpoint.json(*arguments, "--yes")
    proof.equal("--yes redrives them", (done["redriven"], done["left_messages"]), (len(part), 0))
    moved = endpoint.bodies(endpoint.source)
    proof.equal("exactly those are in the source queue, unchanged", sorted(moved), sorted(it.body() for it in part))
    here -= {it.scan_id for it in part}
    endpoint.settle()
    proof.equal("and exactly the others in the dead-letter queue", endpoint.ids(endpoint.dead), Counter(here))


def after(seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed from now on."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def interrupt(endpoint: Endpoint, arguments: list[str], is_time: Callable[[], bool], how: signal.Signals) -> int:
    """Starts a command, interrupts it when it is time, and tells its exit code."""
    popen = subprocess.Popen(
        endpoint.command(*arguments), env=endpoint.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    while popen.poll() is None and not is_time():
        time.sleep(0.01)
    if popen.poll() is None:
        os.killpg(popen.pid, how)
    _, stderr = popen.communicate(timeout=120)
    if popen.returncode not in (0, 1, -signal.SIGKILL):
        raise Disproved(f"an interrupted redrive ended with {popen.returncode}: {stderr.decode()}")
    return popen.returncode


def interruptions(proof: Proof, endpoint: Endpoint, rounds: int, chance: random.Random, here: set[str]) -> None:
    """Interrupts half of the redrives at a random time, most of which looking takes, and half once some letters have arrived."""
    proof.part(f"{endpoint.name}: {rounds} redrives, each interrupted at a random point")
    there = endpoint.ids(endpoint.source)
    doubled, in_parts, ends = 0, 0, Counter()
    teams = [f"team-{it}" for it in range(TEAMS)]
    full = 0.0
    for number in range(rounds + 1):
        team = teams[number]
        mine = {it.scan_id for it in endpoint.letters if it.team == team and it.scan_id in here}
        arguments = ["redrive", "--source", team, "--rate", "200", *(["--hide", "2s"] if endpoint.ours else []), "--yes"]
        if number == 0:
            # The first one is not interrupted, and tells how long one takes.
            began = time.monotonic()
            endpoint.run(*arguments)
            full = time.monotonic() - began
            here -= mine
            there += Counter(mine)
            continue
        how = chance.choice([signal.SIGINT, signal.SIGKILL])
        enough = there.total() + chance.randrange(len(mine))
        by_time, time_up = chance.random() < 0.5, after(chance.uniform(0, full))
        code = interrupt(endpoint, arguments, time_up if by_time else lambda: endpoint.depth(endpoint.source)[0] > enough, how)
        ends[f"{how.name}, exit code {code}"] += 1
        endpoint.settle(killed=code == -signal.SIGKILL)
        now_dead, now_there = endpoint.ids(endpoint.dead), endpoint.ids(endpoint.source)
        lost = mine - set(now_dead) - set(now_there)
        if lost:
            raise Disproved(f"round {number}: {how.name} lost {sorted(lost)}")
        both = set(now_dead) & (set(now_there) - set(there))
        in_parts += bool(mine & set(now_dead)) and bool(mine & set(now_there))
        if how == signal.SIGINT and both or len(both) > IN_BOTH:
            raise Disproved(f"round {number}: after {how.name} in both queues: {sorted(both)}")
        strangers = (set(now_there) - set(there)) - mine
        if strangers:
            raise Disproved(f"round {number}: moved without being chosen: {sorted(strangers)}")
        endpoint.run(*arguments)
        endpoint.settle()
        now_dead, now_there = endpoint.ids(endpoint.dead), endpoint.ids(endpoint.source)
        if set(now_dead) & mine or not mine <= set(now_there):
            raise Disproved(f"round {number}: run again, it did not finish: {sorted(set(now_dead) & mine)}")
        extra = now_there - there - Counter(mine)
        # What a killed process had sent, and the server not yet taken, is in the source queue only later.
        unseen = set(extra) - both
        if unseen and (how == signal.SIGINT or len(unseen | both) > IN_BOTH):
            raise Disproved(f"round {number}: after {how.name} sent twice without need: {sorted(unseen)}")
        doubled += extra.total()
        here -= mine
        there = now_there
    print(f"     one redrive takes {full:.2f} s; ends: {dict(ends)}; after {in_parts} of them a part had arrived; sent twice after SIGKILL: {doubled}")
    proof.equal(f"{rounds} interruptions lost none, and SIGINT left none in both queues", sum(ends.values()), rounds)
    dead, source = endpoint.ids(endpoint.dead), endpoint.ids(endpoint.source)
    proof.equal("every request is in exactly one queue", set(dead) & set(source), set())
    proof.equal("none is missing", set(dead) | set(source), {it.scan_id for it in endpoint.letters})
    proof.equal("those that were not chosen are where they were, once", dead, Counter(here))


def move_tasks(proof: Proof, endpoint: Endpoint) -> None:
    proof.part(f"{endpoint.name}: everything, by a move task")
    # After fifty rounds there is hardly anything left to move.
    for url in (endpoint.dead, endpoint.source):
        endpoint.sqs.purge_queue(QueueUrl=url)
    fill(endpoint)
    before = endpoint.ids(endpoint.dead) + endpoint.ids(endpoint.source)
    code = interrupt(endpoint, ["redrive", "--rate", "300", "--yes"], after(3.0), signal.SIGINT)
    proof.equal("Ctrl-C cancels the task", code, 1)
    dead, source = endpoint.ids(endpoint.dead), endpoint.ids(endpoint.source)
    proof.equal("every message is in exactly one queue", dead + source, before)
    proof.true("some were moved and some not", bool(dead) and bool(source), (len(dead), len(source)))
    arn = endpoint.sqs.get_queue_attributes(QueueUrl=endpoint.dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    [task] = endpoint.sqs.list_message_move_tasks(SourceArn=arn)["Results"]
    proof.true("its destination was named", task["DestinationArn"].endswith(f":{QUEUE}"), task)
    killed = interrupt(endpoint, ["redrive", "--rate", "500", "--yes"], after(1.5), signal.SIGKILL)
    proof.equal("a command that is killed leaves the task running", killed, -signal.SIGKILL)
    endpoint.run("redrive", "--rate", "500", "--yes")
    proof.equal("the next one waits for it, and nothing is left", endpoint.ids(endpoint.dead), Counter())
    proof.equal("everything is in the source queue", endpoint.ids(endpoint.source), before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--moto-letters", type=int, default=MOTO_LETTERS)
    parser.add_argument("--only", choices=["ours", "moto"])
    options = parser.parse_args()
    if (options.rounds or 0) >= TEAMS:
        parser.error(f"--rounds: {TEAMS - 1} at most")
    require_binaries(SCANHOOK)

    def prove(proof: Proof, shop: Workshop) -> None:
        print(f"--seed {options.seed}", flush=True)
        chance = random.Random(options.seed)
        ours = start_ours(shop) if options.only != "moto" else None
        moto = start_moto(shop, options.moto_letters) if options.only != "ours" else None
        for endpoint, rounds in ((ours, 8), (moto, 2)):
            if endpoint is None:
                continue
            fill(endpoint)
            here = {it.scan_id for it in endpoint.letters}
            look(proof, endpoint)
            redrive_a_part(proof, endpoint, here)
            interruptions(proof, endpoint, options.rounds or rounds, chance, here)
            if endpoint.ours:
                move_tasks(proof, endpoint)

    return run_proof("dead letters on scanhook's endpoint and on moto", prove)


if __name__ == "__main__":
    sys.exit(main())
