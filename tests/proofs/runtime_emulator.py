#!/usr/bin/env python3
"""Both functions, as the binaries that are deployed, under AWS's own Lambda runtime interface emulator.

The webhook gets events of an HTTP API and must answer and queue; the scanner gets batches of records that were really
received from the queue, with records that are malformed, hang and panic among them, and must name exactly those that
are to come back. The queue is the SQS endpoint of `scanhook serve --no-scan`.

`tests/proofs/run` installs aws-lambda-rie and builds the binaries, the scanner with the feature `faults`: with it a
record panics whose repository ends in `/panic`.
"""

from __future__ import annotations

import sys

import scanner_function
import webhook_function
from harness import BINARIES, Proof, Workshop, base_environment, require_binaries, run_proof
from lambda_emulator import find_emulator
from serve import SCANHOOK, link_stand_in, start_server
from stage import API_TOKEN, CONFIG, TOKENS, Stage


def prove(proof: Proof, shop: Workshop) -> None:
    server = start_server(shop, CONFIG, "--no-scan", env=base_environment(**TOKENS, **API_TOKEN))
    link_stand_in(shop.directory / "cli")
    stage = Stage(proof, shop, find_emulator(), BINARIES, server)
    # Each function gets its own secrets only.
    webhook = stage.start("webhook", 29, **TOKENS)
    webhook_function.prove(stage, webhook)
    scanner_function.prove(stage, webhook)


if __name__ == "__main__":
    require_binaries(SCANHOOK, BINARIES / "webhook", BINARIES / "scanner")
    with scanner_function.own_scratch():
        sys.exit(run_proof("aws-lambda-rie: both functions, event by event and batch by batch", prove))
