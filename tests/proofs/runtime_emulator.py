#!/usr/bin/env python3
"""Both functions, as the binaries that are deployed, under AWS's own Lambda runtime interface emulator.

The webhook gets events of an HTTP API and must answer and queue; the scanner gets batches of records that were really
received from the queue, with records that are malformed, hang and panic among them, and must name exactly those that
are to come back. The queue is the SQS endpoint of `scanhook serve --no-scan`.

`tests/proofs/run` installs aws-lambda-rie and builds the binaries, the scanner with the feature `faults`: with it a
record panics whose repository ends in `/panic`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import function_start
import scanner_function
import webhook_function
from harness import BINARIES, Proof, Workshop, base_environment, require_binaries, run_proof
from lambda_emulator import find_emulator
from serve import SCANHOOK, link_stand_in, start_server
from stage import API_TOKEN, CONFIG, TOKENS, Stage


def prove_with(emulator: Path, binaries: Path) -> Callable[[Proof, Workshop], None]:
    def prove(proof: Proof, shop: Workshop) -> None:
        server = start_server(shop, CONFIG, "--no-scan", env=base_environment(**TOKENS, **API_TOKEN))
        link_stand_in(shop.directory / "cli")
        stage = Stage(proof, shop, emulator, binaries, server)
        function_start.what_keeps_one_from_starting_is_told(stage)
        # Each function gets its own secrets only.
        webhook = stage.start("webhook", 29, **TOKENS)
        webhook_function.prove(stage, webhook)
        scanner_function.prove(stage, webhook)

    return prove


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--emulator", help="aws-lambda-rie, if not that of the proofs' virtual environment")
    arguments.add_argument("--binaries", type=Path, default=BINARIES, help="where webhook and scanner are")
    given = arguments.parse_args()
    binaries = given.binaries.resolve()
    require_binaries(SCANHOOK, binaries / "webhook", binaries / "scanner")
    with scanner_function.own_scratch():
        prove = prove_with(find_emulator(given.emulator), binaries)
        return run_proof("aws-lambda-rie: both functions, event by event and batch by batch", prove)


if __name__ == "__main__":
    sys.exit(main())
