#!/usr/bin/env python3
"""Three `scanhook work` that share one ledger in DynamoDB are killed, hung and stopped in the middle of scans. Each image is asked for
by two messages: every message gets its verdict, and no image is scanned again unless something happened to the worker that scanned it.

What a worker does by itself is tested in `local/tests/it/work.rs`. `--rounds N` is how often something happens (default 4; 20 is the long
form), `--seed N` what and to whom. `tests/proofs/run` installs moto, which is the DynamoDB, and builds scanhook.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from any_registry import listen, new_digest
from aws_server import TABLE, start_moto
from harness import Book, Disproved, Process, Proof, Workshop, base_environment, http, require_binaries, run_proof, until
from serve import DEAD_LETTERS, QUEUE, SCANHOOK, Server, link_stand_in, start_server

REGISTRY = listen()
HIDDEN = 5
"""Seconds that a message is hidden at a time; the least that a worker takes."""
AWAY = 8.0
"""Seconds that a worker hangs: longer than that."""
CONFIG = f"""
sources:
  any: {{ kind: distribution, registry: "{REGISTRY}", auth: [{{ type: bearer, secret: "env:PROOF_TOKEN" }}] }}
registries: {{ "{REGISTRY}": {{ insecure: true }} }}
scanner: {{ api_url: "http://127.0.0.1:1", api_token: "env:PROOF_API_TOKEN", timeout: 25s, concurrency: 2 }}
retry: {{ attempts: 10, base: 1s, cap: 2s }}
"""


@dataclass
class Run:
    """A run of the CLI, as a script around it wrote it down."""

    app: str
    worker: int
    began: float
    ended: float | None = None
    beside: bool = False
    """Whether another one of the same image was still running."""


@dataclass
class Worker:
    shop: Workshop
    server: Server
    env: dict[str, str]
    book: Book
    number: int
    events: list[tuple[str, float, float]] = field(default_factory=list)
    """What happened to it, from when until when."""

    def __post_init__(self) -> None:
        self.home = self.shop.directory / f"worker-{self.number}"
        stand_in = link_stand_in(self.home / "bin")
        (self.home / "cli").write_text(f"""{self.book.script}
for word in "$@"; do case "$word" in *app-*) app="${{word#*app-}}"; app="${{app%%/*}}";; esac; done
for pid in $(sed -n "s/^begin $app [0-9]* [0-9.]* //p" {self.book.path} 2>/dev/null); do
    [ -e "/proc/$pid" ] && beside=1
done
write "begin $app {self.number} $(date +%s.%N) $$"
[ -z "$beside" ] || write "beside $app {self.number} 0 $$"
sleep "${{app##*-}}"
{stand_in} "$@"
code=$?
write "end $app {self.number} $(date +%s.%N) $$"
exit $code
""")
        (self.home / "cli").chmod(0o755)
        self.start()

    def start(self) -> None:
        command = [SCANHOOK, "work", "--queue-url", self.server.sqs.queue_url(QUEUE), "--config", self.server.config,
            "--data-dir", self.home / "data", "--listen", "127.0.0.1:0", "--scanner-cli", self.home / "cli",
            "--hidden-for", f"{HIDDEN}s", "--drain", "2s", "--table", TABLE]  # fmt: skip
        self.process: Process = self.shop.start(f"worker {self.number}", command, self.env)
        until("the address of `scanhook work`", lambda: re.search(r"are at http://[0-9.:]+/readyz", self.process.output()))

    def happen(self, how: str) -> None:
        """Has something happen to it, and brings it back."""
        began = time.time()
        if how == "hung":
            self.process.popen.send_signal(signal.SIGSTOP)
            time.sleep(AWAY)
            self.process.popen.send_signal(signal.SIGCONT)
        else:
            if how == "killed":
                self.process.popen.kill()
                self.process.popen.wait()
            elif self.process.terminate() != 0:
                raise Disproved("SIGTERM did not end a worker with 0")
            self.start()
        self.events.append((how, began, time.time()))


def runs(book: Book) -> list[Run]:
    found: dict[str, Run] = {}
    for line in book.path.read_text().splitlines() if book.path.exists() else []:
        what, app, worker, at, pid = line.split()
        key = f"{app} {worker} {pid}"
        if what == "begin":
            found[key] = Run(app, int(worker), float(at))
        elif key in found and what == "end":
            found[key].ended = float(at)
        elif key in found:
            found[key].beside = True
    return sorted(found.values(), key=lambda it: it.began)


def send(server: Server, app: str, number: int) -> None:
    """Asks for scans of a new image by two messages; its name ends in the seconds that its CLI takes."""
    digest = new_digest()
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for which in "AB":
        image = {"registry": REGISTRY, "repository": f"app-{app}/pass", "tag": "1.0", "digest": digest}
        event = {"id": None, "type": "push", "actor": None, "occurred_at": None, "received_at": now}
        message = {"version": 1, "scan_id": f"01WORK{number:05}{which}", "source": "any", "image": image, "event": event, "force": False}
        server.sqs.send(QUEUE, json.dumps(message))


def messages(server: Server, queue: str = QUEUE) -> list[dict[str, Any]]:
    return http("GET", server.sqs.queue_url(queue)).json()["messages"]


def prove(proof: Proof, shop: Workshop, rounds: int, chance: random.Random) -> None:
    env = base_environment(PROOF_TOKEN="fake-token-0123456789", PROOF_API_TOKEN=f"fake-api-token-{secrets.token_hex(8)}")
    server = start_server(shop, CONFIG, "--no-scan", env=env)
    # A receive whose answer is lost hides its message for the queue's own time.
    url = server.sqs.queue_url(QUEUE)
    server.sqs.call("SetQueueAttributes", QueueUrl=url, Attributes={"VisibilityTimeout": str(HIDDEN)})
    dynamodb = start_moto(shop)
    dynamodb.create_table()
    env |= {"AWS_ENDPOINT_URL_SQS": server.sqs.url, "AWS_ENDPOINT_URL_DYNAMODB": dynamodb.url}
    book = Book(shop.directory / "runs")

    proof.part(f"three workers with one ledger in DynamoDB, {rounds} misfortunes")
    workers = [Worker(shop, server, env, book, number) for number in range(3)]
    hows = (["killed", "hung", "stopped"] * rounds)[:rounds]
    chance.shuffle(hows)
    for number, how in enumerate(hows):
        for more in range(4):
            send(server, f"{number}-{more}-{chance.choice([2, 3, 4])}", 4 * number + more)
        victim = chance.choice(workers)

        def is_busy(victim: Worker = victim) -> bool:
            return any(it.worker == victim.number and not it.ended and it.began > time.time() - 4 for it in runs(book))

        with suppress(Disproved):
            until("it scans", is_busy, patience=10)
        time.sleep(chance.uniform(0, 1))
        victim.happen(how)
    until("an empty queue", lambda: not messages(server), patience=180)

    command = [SCANHOOK, "scans", "list", "--limit", "10000", "--table", TABLE, "--output", "json"]
    listed = subprocess.run(command, env=env, capture_output=True, check=True)
    told = Counter((it["state"], it["verdict"]) for it in json.loads(listed.stdout))
    proof.equal("every message has its verdict in the table", told, Counter({("done", "passed"): 8 * rounds}))
    proof.equal("no dead letter", messages(server, DEAD_LETTERS), [])
    of_app: dict[str, list[Run]] = {}
    for run in runs(book):
        of_app.setdefault(run.app, []).append(run)

    def disturbances(run: Run) -> set[str]:
        """What happened to a run's worker from its begin until its message was deleted."""
        # Without an end it was ended with its worker, at the latest when its image's time was over.
        ended = run.ended or run.began + float(run.app.rpartition("-")[2]) + 1
        return {how for how, began, over in workers[run.worker].events if began <= ended + 2 and over >= run.began}

    proof.equal("every image was scanned", len(of_app), 4 * rounds)
    without_cause = [it for same in of_app.values() for it in same[:-1] if not disturbances(it)]
    proof.equal("none was scanned again whose worker nothing had happened to", without_cause, [])
    at_once = [same for same in of_app.values() if any(it.beside for it in same)]
    orphans = [same for same in at_once if not set().union(*map(disturbances, same)) & {"killed", "hung"}]
    proof.equal("and none twice at the same time, unless a worker was killed or hung", orphans, [])
    struck = Counter(how for same in of_app.values() for it in same for how in disturbances(it))
    proof.true("the misfortunes struck scans", struck.total() >= rounds / 2, struck)
    print(f"     {sum(map(len, of_app.values()))} runs for {len(of_app)} images; struck: {dict(struck)}; at the same time: {len(at_once)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    require_binaries(SCANHOOK)
    print(f"--seed {options.seed}", flush=True)
    return run_proof("workers that share a ledger", lambda *it: prove(*it, options.rounds, random.Random(options.seed)))


if __name__ == "__main__":
    sys.exit(main())
