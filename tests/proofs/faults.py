#!/usr/bin/env python3
"""`scanhook serve --fault`: the queue throttles and dawdles, the scanner dies, and what it had begun is scanned after all.

Python 3.11, standard library only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from deliveries import new_digest
from harness import Proof, Workshop, base_environment, http, require_binaries, run_proof, until
from serve import DEAD_LETTERS, QUEUE, SCANHOOK, SqsRefused, link_stand_in, start_server

CONFIG = """
sources:
  debian: { kind: distribution, registry: registry.example.com, auth: [{ type: bearer, secret: "env:PROOF_TOKEN" }] }
scanner: { api_token: "env:PROOF_API_TOKEN" }
"""
ENV = base_environment(PROOF_TOKEN="fake-token-0123456789", PROOF_API_TOKEN="fake-api-token")


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


def queue_faults(proof: Proof, shop: Workshop) -> None:
    proof.part("a queue that throttles and dawdles")
    server = start_server(
        shop, CONFIG, "--no-scan", "--fault", "sqs-throttle=30%,sqs-latency=20ms", "--seed", "7", env=ENV
    )
    headers = {"content-type": "application/x-amz-json-1.0", "x-amz-target": "AmazonSQS.ListQueues"}
    began = time.monotonic()
    answers = [http("POST", server.sqs.url, headers, b"{}") for _ in range(100)]
    took = time.monotonic() - began
    throttled = [it for it in answers if it.status != 200]
    proof.true("about 30 of 100 requests are throttled", 10 < len(throttled) < 50, len(throttled))
    told = {(it.status, it.headers["x-amzn-query-error"]) for it in throttled}
    proof.equal("with the error that SDKs retry", told, {(403, "RequestThrottled;Sender")})
    proof.true("each waits 20 ms", took >= 2, took)
    command = [SCANHOOK, "send", "debian", "--count", "10", "--config", server.config, "--url", server.url]
    done = subprocess.run([*command, "--output", "json"], env=ENV, capture_output=True, timeout=120)
    statuses = [it["status"] for it in json.loads(done.stdout)]
    proof.true("the webhook retries within its time, or says 503", {202} <= set(statuses) <= {202, 503}, statuses)

    def depth() -> int:
        try:
            return server.sqs.depth(QUEUE)
        except SqsRefused:
            return -1

    queued = until("the depth", lambda: (it := depth()) >= 0 and [it])
    proof.true("at least what it took is queued", queued[0] >= statuses.count(202), (queued, statuses))
    server.process.terminate()


def scanner_crash(proof: Proof, shop: Workshop) -> None:
    proof.part("a scanner that crashes")
    cli = link_stand_in(shop.directory / "cli")
    arguments = ("--scanner-cli", cli)
    server = start_server(shop, CONFIG, *arguments, "--fault", "scanner-crash=100%", "--seed", "1", env=ENV)
    # With its digest: no registry answers for this host, and the scan goes on with what the event says.
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
