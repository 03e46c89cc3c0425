#!/usr/bin/env python3
"""AWS's SDK for JavaScript, and sqs-consumer on it, on the SQS endpoint of `scanhook serve`: `sqs_consumer.mjs`.

`tests/proofs/run` installs Node.js and the libraries of `package.json`, and builds scanhook.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from harness import ROOT, TARGET, Proof, Workshop, base_environment, require_binaries, run_proof
from serve import SCANHOOK, start_queues

LIBRARIES = TARGET / "proofs-node"


def prove(proof: Proof, shop: Workshop) -> None:
    server = start_queues(shop)
    # Node.js looks for libraries where the script is.
    script = shutil.copy(ROOT / "tests/proofs/sqs_consumer.mjs", LIBRARIES)
    command = [Path(sys.executable).with_name("node"), script, server.sqs.url]
    done = subprocess.run(command, env=base_environment(), capture_output=True, text=True, timeout=120)
    proof.part("AWS's SDK for JavaScript, and sqs-consumer")
    claims = [json.loads(it) for it in done.stdout.splitlines()]
    for it in claims:
        proof.true(it["claim"], it["holds"], it.get("actual"))
    proof.equal("the script comes to its end", (done.returncode, done.stderr), (0, ""))


if __name__ == "__main__":
    require_binaries(SCANHOOK)
    sys.exit(run_proof("sqs-consumer and AWS's SDK for JavaScript on the SQS endpoint", prove))
