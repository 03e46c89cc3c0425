#!/usr/bin/env python3
"""`scanhook serve --fault`: the queue throttles and dawdles, the scanner dies, and what it had begun is scanned after all.

Python 3.11, standard library only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from any_registry import new_digest, proxy
from harness import Answer, Proof, Workshop, base_environment, http, require_binaries, run_proof, until
from serve import DEAD_LETTERS, QUEUE, SCANHOOK, SqsRefused, link_stand_in, start_server

CONFIG = """
registries: { registry.example.com: { insecure: true } }
sources:
  debian: { kind: distribution, registry: registry.example.com, auth: [{ type: bearer, secret: "env:PROOF_TOKEN" }] }
scanner: { api_token: "env:PROOF_API_TOKEN" }
"""
ENV = base_environment(PROOF_TOKEN="fake-token-0123456789", PROOF_API_TOKEN="fake-api-token", **proxy())


def refusals(proof: Proof, shop: Workshop) -> None:
    proof.part("what can't be done is refused with exit code 2")
    cases = [
        (["--fault", "disk-full=1%"], "there is no fault disk-full; there are sqs-throttle"),
        (["--fault", "sqs-throttle=10"], "sqs-throttle is a share of 0% to 100%, such as sqs-throttle=10%"),
        (["--fault", "sqs-latency=200"], "sqs-latency is a time of up to a minute with its unit"),
        (["--fault", "sqs-throttle=1%,sqs-throttle=2%"], "sqs-throttle is given twice"),
        (["--fault", "scanner-crash=5%", "--no-scan"], "the scanner, which --no-scan leaves out"),
        (["--fault", "sqs-throttle=5%", "--queue-url", "http://127.0.0.1:1/1/q"], "which --queue-url replaces"),
        (["--seed", "1"], "--fault"),
        (["--fault", "sqs-throttle=5%", "--seed", "x"], "invalid value 'x' for '--seed <N>'"),
    ]
    for arguments, words in cases:
        command = [SCANHOOK, "serve", *arguments]
        done = subprocess.run(command, env=ENV, cwd=shop.directory, capture_output=True, text=True, timeout=60)
        shown = f"{done.returncode}: {done.stderr}"
        proof.true(" ".join(arguments), done.returncode == 2 and words in done.stderr, shown)


SEED = 7
SHARE = 0.3
"""Of the requests that are throttled."""


def throttled(count: int) -> list[bool]:
    """What the seed decides of each request, in their order (splitmix64, as in `emulator::faults`)."""
    whole = (1 << 64) - 1
    decided = []
    for number in range(1, count + 1):
        bits = (SEED + number * 0x9E3779B97F4A7C15) & whole
        bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & whole
        bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & whole
        decided.append(((bits ^ (bits >> 31)) >> 11) / (1 << 53) < SHARE)
    return decided


def tries(decided: list[bool], place: int, deliveries: int) -> list[int]:
    """How often each of so many deliveries, one after the other, has to be tried from a place on until it is taken."""
    counts = []
    for _ in range(deliveries):
        first = place
        while decided[place]:
            place += 1
        place += 1
        counts.append(place - first)
    return counts


def is_telling(counts: list[int]) -> bool:
    """Whether some need another try, and none more than fit into the 800 ms of `distribution` on a slow machine too: the
    third begins after 190 ms."""
    return max(counts) <= 3 and sum(it > 1 for it in counts) >= 4 and 3 in counts


def queue_faults(proof: Proof, shop: Workshop) -> None:
    proof.part("a queue that throttles and dawdles")
    faults = f"sqs-throttle={SHARE:.0%},sqs-latency=20ms"
    server = start_server(shop, CONFIG, "--no-scan", "--fault", faults, "--seed", str(SEED), env=ENV)
    headers = {"content-type": "application/x-amz-json-1.0", "x-amz-target": "AmazonSQS.ListQueues"}

    def ask(count: int) -> list[Answer]:
        return [http("POST", server.sqs.url, headers, b"{}") for _ in range(count)]

    began = time.monotonic()
    answers = ask(100)
    took = time.monotonic() - began
    refused = [it for it in answers if it.status != 200]
    proof.true("about 30 of 100 requests are throttled", 10 < len(refused) < 50, len(refused))
    told = {(it.status, it.headers["x-amzn-query-error"]) for it in refused}
    proof.equal("with the error that SDKs retry", told, {(403, "RequestThrottled;Sender")})
    proof.true("each waits 20 ms", took >= 2, took)

    decided = throttled(10_000)
    seen = [it.status != 200 for it in answers]
    # Before them, the server itself may have asked.
    [before] = [it for it in range(20) if decided[it : it + 100] == seen] or [None]
    proof.true("they are those that the seed says", before is not None, seen)
    place = next(it for it in range(before + 100, 9_000) if is_telling(tries(decided, it, 10)))
    ask(place - before - 100)
    sent = [server.send("debian", f"registry.example.com/team/app:{it}@{new_digest()}") for it in range(10)]
    statuses = [it["status"] for [it] in sent]
    needed = tries(decided, place, 10)
    proof.equal(f"the webhook takes deliveries that need {needed} tries", statuses, [202] * 10)
    place += sum(needed)
    seen = [it.status != 200 for it in ask(40)]
    proof.equal("with no try more or less", seen, decided[place : place + 40])

    # Latency and pauses leave time for four tries.
    hopeless = next(it for it in range(place + 40, 9_000) if all(decided[it : it + 4]))
    ask(hopeless - place - 40)
    command = [SCANHOOK, "send", "debian", "--config", server.config, "--url", server.url, "--output", "json"]
    done = subprocess.run(command, env=ENV, capture_output=True, timeout=120)
    [delivered] = json.loads(done.stdout)
    proof.equal("and says 503 where four tries are not enough", delivered["status"], 503)
    # Of 800 ms it needs 430 for four tries; the rest is what a slow machine may take.
    proof.true("after most of its time", 400 <= delivered["duration_ms"] <= 3000, delivered)

    def depth() -> int | None:
        try:
            return server.sqs.depth(QUEUE)
        except SqsRefused:
            return None

    [queued] = until("the depth", lambda: (it := depth()) is not None and [it])
    proof.equal("what was taken is queued once", queued, 10)
    server.process.terminate()


def scanner_crash(proof: Proof, shop: Workshop) -> None:
    proof.part("a scanner that crashes")
    cli = link_stand_in(shop.directory / "cli")
    arguments = ("--scanner-cli", cli)
    server = start_server(shop, CONFIG, *arguments, "--fault", "scanner-crash=100%", "--seed", "1", env=ENV)
    [delivered] = server.send("debian", f"registry.example.com/team/slow:1.0@{new_digest()}")
    proof.equal("a delivery is taken", delivered["status"], 202)
    words = "the function crashed, as --fault scanner-crash asks"
    until("the crash", lambda: words in server.process.output())
    seen = f"the whole batch failed: the function returned an error: {words}"
    proof.true("the mapping sees the function's error, and says why", seen in server.process.output())
    proof.equal("nothing is deleted", server.sqs.depth(QUEUE), 1)
    server.process.terminate()
    server = start_server(shop, CONFIG, *arguments, env=ENV)
    [record] = until("the scan", lambda: [it for it in server.scans() if it["verdict"] == "passed"])
    told = (record["scan_id"], record["image"])
    [queued] = delivered["answer"]["queued"]
    expected = (queued["scan_id"], "registry.example.com/team/slow")
    proof.equal("without the fault there is a verdict", told, expected)
    until("an empty queue", lambda: server.sqs.depth(QUEUE) == 0)
    proof.equal("and the queues are empty", (server.sqs.depth(QUEUE), server.sqs.depth(DEAD_LETTERS)), (0, 0))
    server.process.terminate()


def prove(proof: Proof, shop: Workshop) -> None:
    refusals(proof, shop)
    scanner_crash(proof, shop)
    queue_faults(proof, shop)


def main() -> int:
    require_binaries(SCANHOOK)
    return run_proof("faults on purpose", prove)


if __name__ == "__main__":
    sys.exit(main())
