#!/usr/bin/env python3
"""The webhook's zip, as `cargo lambda build --release` makes it: what is in it, what it needs of Amazon Linux, how fast it
starts, and that it answers under AWS's runtime emulator.

Python 3.11, standard library only.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import webhook_function
from containers import emulator
from harness import TARGET, Proof, Workshop, base_environment, run_proof
from serve import QUEUE, SCANHOOK, start_server
from stage import API_TOKEN, CONFIG, TOKENS, Stage

ZIP = TARGET / "lambda/webhook/bootstrap.zip"

LONGEST_START = 0.020
"""Seconds from the start of the process to its first call of the runtime API, in the median. Measured: 3 ms (docs/performance.md)."""
LARGEST = 17_000_000
"""Bytes of the stripped binary."""
STARTS = 21

GLIBC = (2, 34)
"""Of Amazon Linux 2023. Source: its release notes."""
LIBRARIES = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


def prove(proof: Proof, shop: Workshop) -> None:
    proof.part("the zip")
    with zipfile.ZipFile(ZIP) as archive:
        (entry,) = archive.infolist()
        proof.equal("holds one file", entry.filename, "bootstrap")
        proof.equal("that may be run", (entry.external_attr >> 16) & 0o777, 0o755)
        archive.extract(entry, shop.directory)
    webhook = shop.directory / "bootstrap"
    webhook.chmod(0o755)
    size = webhook.stat().st_size
    proof.true(f"{size / 1e6:.2f} MB, zipped {ZIP.stat().st_size / 1e6:.2f} MB; at most 17 MB wanted", size <= LARGEST)
    for name, binary in (("webhook", webhook), ("scanner", TARGET / "lambda/scanner/bootstrap")):
        runs_on_amazon_linux(proof, name, binary)
    server = start_server(shop, CONFIG, "--no-scan", env=base_environment(**TOKENS, **API_TOKEN))
    stage = Stage(proof, shop, emulator(), shop.directory, server)
    starts_in_time(stage, webhook)
    # The binary of the zip, put through all that the debug build is put through in tests/proofs.
    webhook_function.prove(stage, stage.start("bootstrap", 29, **TOKENS))


def runs_on_amazon_linux(proof: Proof, name: str, binary: Path) -> None:
    needed = subprocess.run(["objdump", "-p", str(binary)], check=True, capture_output=True, text=True).stdout
    libraries = set(re.findall(r"NEEDED\s+(\S+)", needed))
    proof.true(f"the {name} needs no library but glibc's", libraries <= LIBRARIES, libraries)
    versions = {tuple(map(int, it.split("."))) for it in re.findall(r"GLIBC_([0-9.]+)", needed)}
    proof.true(f"  of {'.'.join(map(str, max(versions)))}; Amazon Linux 2023 has 2.34", max(versions) <= GLIBC)
    proof.true("  and has no symbols left", "no symbols" in _symbols(binary))


def _symbols(binary: Path) -> str:
    return subprocess.run(["objdump", "-t", str(binary)], check=True, capture_output=True, text=True).stdout


def starts_in_time(stage: Stage, webhook: Path) -> None:
    called: list[float] = []
    arrived = threading.Semaphore(0)

    class Runtime(BaseHTTPRequestHandler):
        """A runtime API that never has an invocation."""

        def do_GET(self) -> None:
            called.append(time.monotonic())
            arrived.release()

        def log_message(self, *_: object) -> None:
            pass

    api = ThreadingHTTPServer(("127.0.0.1", 0), Runtime)
    threading.Thread(target=api.serve_forever, daemon=True).start()
    environment = base_environment(
        AWS_LAMBDA_RUNTIME_API=f"127.0.0.1:{api.server_port}",
        AWS_LAMBDA_FUNCTION_NAME="webhook",
        AWS_LAMBDA_FUNCTION_MEMORY_SIZE="256",
        AWS_LAMBDA_FUNCTION_VERSION="1",
        AWS_ENDPOINT_URL_SQS=stage.server.sqs.url,
        SCANHOOK_CONFIG=f"file:{stage.server.config}",
        SCANHOOK_QUEUE_URL=stage.server.sqs.queue_url(QUEUE),
        SCANHOOK_LOG="error",
        **TOKENS,
    )
    taken = []
    for _ in range(STARTS):
        called.clear()
        began = time.monotonic()
        process = subprocess.Popen([str(webhook)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        in_time = arrived.acquire(timeout=10)
        process.kill()
        process.wait()
        if not in_time:
            break
        taken.append(called[0] - began)
    api.shutdown()
    api.server_close()
    stage.proof.equal("each start asks for an invocation", len(taken), STARTS)
    median = statistics.median(taken)
    # The machine may be busy, which the best start tells less of.
    stage.proof.true(f"after {median * 1000:.1f} ms in the median, {min(taken) * 1000:.1f} ms at best; 20 ms wanted",
                     min(taken) <= LONGEST_START, taken)


def main() -> int:
    if not SCANHOOK.is_file() or not ZIP.is_file():
        sys.exit("tests/deploy/run builds what is shown here")
    return run_proof("the webhook's zip: content, needs, start, answers", prove)


if __name__ == "__main__":
    sys.exit(main())
