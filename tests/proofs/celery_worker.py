#!/usr/bin/env python3
"""A celery worker whose broker is the SQS endpoint of `scanhook serve`: it does each task once, those with a delay and those that are
retried too, and takes up what a killed worker had begun.

celery imports this file for its tasks. `tests/proofs/run` installs celery and builds scanhook.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from pathlib import Path

from celery import Celery, Task
from harness import Process, Proof, Workshop, base_environment, require_binaries, run_proof, until
from serve import SCANHOOK, start_queues

QUEUE = "celery"
DONE = Path(os.environ.get("PROOF_DONE", "/nowhere"))
app = Celery("celery_worker", broker=os.environ.get("PROOF_BROKER"))
app.conf.update(
    # kombu takes an endpoint for one that has TLS, if it is not told.
    broker_transport_options={"is_secure": False, "region": "us-east-1", "visibility_timeout": 5, "wait_time_seconds": 2},
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_default_queue=QUEUE,
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=1,
)


def write(line: str) -> None:
    with DONE.open("a") as file:
        file.write(f"{line} {time.time()}\n")


@app.task
def note(name: str) -> None:
    write(name)


@app.task(bind=True, max_retries=2, default_retry_delay=1)
def retried(self: Task) -> None:
    write("retried")
    if self.request.retries < 2:
        raise self.retry()


@app.task
def hangs_once() -> None:
    first = "hangs" not in DONE.read_text()
    write("hangs")
    if first:
        time.sleep(3600)


def prove(proof: Proof, shop: Workshop) -> None:
    server = start_queues(shop)
    app.conf.broker_url = f"sqs://fake-access-key:fake-secret-key@{server.sqs.url.removeprefix('http://')}//"
    done = shop.directory / "done"
    done.touch()
    env = base_environment(PROOF_BROKER=app.conf.broker_url, PROOF_DONE=str(done), PYTHONPATH=str(Path(__file__).parent))

    def start_worker() -> Process:
        return shop.start("celery", [sys.executable, "-m", "celery", "-A", "celery_worker", "worker", "-P", "solo", "-l", "WARNING"], env)

    def counts() -> Counter[str]:
        return Counter(it.split()[0] for it in done.read_text().splitlines())

    proof.part("celery")
    began = time.time()
    for number in range(15):
        note.delay(f"note-{number}")
    note.apply_async(["later"], countdown=3)
    retried.delay()
    worker = start_worker()
    expected = Counter({**{f"note-{it}": 1 for it in range(15)}, "later": 1, "retried": 3})
    until("the tasks", lambda: counts().total() >= expected.total() and server.sqs.depth(QUEUE) == 0)
    proof.equal("each task is done once, and one that is retried three times", counts(), expected)
    [later] = [float(it.split()[1]) for it in done.read_text().splitlines() if it.startswith("later")]
    proof.true("the one with a delay was done after it", later - began >= 3, later - began)
    hangs_once.delay()
    until("a task that hangs", lambda: counts()["hangs"] == 1)
    worker.popen.kill()
    worker.popen.wait()
    worker = start_worker()
    until("the queue is empty", lambda: counts()["hangs"] == 2 and server.sqs.depth(QUEUE) == 0)
    proof.equal("what a killed worker had begun is done by the next", counts(), expected + Counter({"hangs": 2}))


if __name__ == "__main__":
    require_binaries(SCANHOOK)
    sys.exit(run_proof("celery on the SQS endpoint", prove))
