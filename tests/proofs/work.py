#!/usr/bin/env python3
"""`scanhook work`: workers are killed, hang, are cut off from SQS and are stopped in the middle of scans; nothing is lost, and nothing
is scanned twice but what a worker was at that such a thing happened to. Once with a ledger for each worker, once with one in DynamoDB.

And the rest of what a worker promises: scans longer than their messages are hidden, no more at once than configured, an end in order,
nothing received while Sysdig's backend is down, and a readiness that names what fails.

`--rounds N` says how often something happens to a worker with each ledger (default 4; 50 is the long form), `--seed N` what and to
whom. Run by the Python of a virtual environment that has boto3; PROOF_SERVERS is the directory of the Python that has moto.
`tests/proofs/run` makes both and builds scanhook.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from any_registry import listen, new_digest
from backfill import serving
from harness import Book, Disproved, Process, Proof, Workshop, base_environment, http, require_binaries, run_proof, until
from ledger import SERVERS, TABLE, start_dynamodb
from serve import DEAD_LETTERS, QUEUE, SCANHOOK, Server, link_stand_in, start_server

REGISTRY = listen()
HIDDEN = 5
"""Seconds that a message is hidden at a time; the least that a worker takes."""
AWAY = 8.0
"""Seconds that a worker hangs or is cut off: longer than that."""
CONCURRENCY = 2
API_TOKEN = f"fake-api-token-{secrets.token_hex(8)}"


def config(backend: str) -> str:
    return f"""
sources:
  any: {{ kind: distribution, registry: "{REGISTRY}", auth: [{{ type: bearer, secret: "env:PROOF_TOKEN" }}] }}
registries: {{ "{REGISTRY}": {{ insecure: true }} }}
scanner: {{ api_url: "http://{backend}", api_token: "env:PROOF_API_TOKEN", timeout: 25s, concurrency: {CONCURRENCY} }}
retry: {{ attempts: 10, base: 1s, cap: 2s }}
"""


@dataclass
class Wire:
    """The way of one worker to SQS, on loopback. While it is cut, connections are made and nothing comes through."""

    port: int
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    is_cut: bool = False
    receives: int = 0
    """How many requests to receive went through."""
    ends: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            near, _ = self.listener.accept()
            far = socket.create_connection(("127.0.0.1", self.port))
            self.ends += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                if not self.is_cut:
                    self.receives += data.count(b"AmazonSQS.ReceiveMessage\r")
                    other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def heal(self) -> None:
        """What was said meanwhile is lost, with the connections that it was said on."""
        ends, self.ends = self.ends, []
        self.is_cut = False
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@dataclass
class Run:
    """A run of the CLI, as it was written down by a script around it."""

    app: str
    worker: int
    began: float
    ended: float | None = None
    beside: bool = False
    """Whether another one of the same image was still running."""


@dataclass
class Scene:
    """A queue, workers, and what happens to them."""

    shop: Workshop
    server: Server
    backend: str
    table: str | None = None
    dynamodb: str = ""
    workers: list[Worker] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    """Scan ids."""

    @cached_property
    def book(self) -> Book:
        return Book(self.directory / "runs")

    @property
    def directory(self) -> Path:
        return self.shop.directory / ("table" if self.table else "own")

    def hire(self, count: int, *arguments: str) -> None:
        for _ in range(count):
            worker = Worker(self, len(self.workers), Wire(int(self.server.sqs.url.rpartition(":")[2])), arguments)
            self.workers.append(worker)
            worker.start()

    def send(self, app: str, seconds: float, times: int = 1, behaviour: str = "pass") -> None:
        """Asks for scans of an image whose CLI takes that long, by as many messages; the stand-in knows the behaviour."""
        digest = new_digest()
        for _ in range(times):
            scan_id = f"01WORK{len(self.sent):06}{'T' if self.table else 'S'}"
            image = {"registry": REGISTRY, "repository": f"app-{app}-{seconds}/{behaviour}", "tag": "1.0", "digest": digest}
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            event = {"id": None, "type": "push", "actor": None, "occurred_at": None, "received_at": now}
            message = {"version": 1, "scan_id": scan_id, "source": "any", "image": image, "event": event, "force": False}
            self.server.sqs.send(QUEUE, json.dumps(message))
            self.sent.append(scan_id)

    def runs(self) -> list[Run]:
        runs: dict[str, Run] = {}
        written = self.directory / "runs"
        for line in written.read_text().splitlines() if written.exists() else []:
            what, app, worker, at, pid = line.split()
            key = f"{app} {worker} {pid}"
            if what == "begin":
                runs[key] = Run(app, int(worker), float(at))
            elif key in runs and what == "end":
                runs[key].ended = float(at)
            elif key in runs:
                runs[key].beside = True
        return sorted(runs.values(), key=lambda it: it.began)

    def messages(self, queue: str = QUEUE) -> list[dict[str, Any]]:
        return http("GET", self.server.sqs.queue_url(queue)).json()["messages"]

    def finished(self) -> Counter[str]:
        """The scans that have a verdict, by their lines in the logs, with how often each was told."""
        lines = (line for worker in self.workers for process in worker.processes for line in log(process))
        return Counter(it["scan_id"] for it in lines if it.get("event") == "scan.finished" and it["verdict"] == "passed")

    def wait_until_empty(self, patience: float = 90) -> None:
        until("an empty queue", lambda: not self.messages(), patience)


@dataclass
class Worker:
    """A `scanhook work` behind a wire; it may be started again."""

    scene: Scene
    number: int
    wire: Wire
    arguments: tuple[str, ...]
    processes: list[Process] = field(default_factory=list)
    events: list[tuple[str, float, float]] = field(default_factory=list)
    """What happened to it, from when to when."""
    url: str = ""

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True)
        runs = self.scene.directory / "runs"
        # What a kill interrupted may still run beside this one.
        (self.home / "cli").write_text(f"""{self.scene.book.script}
for word in "$@"; do case "$word" in *app-*) app="${{word#*app-}}"; app="${{app%%/*}}";; esac; done
for pid in $(sed -n "s/^begin $app [0-9]* [0-9.]* //p" {runs} 2>/dev/null); do
    [ -e "/proc/$pid" ] && beside=1
done
write "begin $app {self.number} $(date +%s.%N) $$"
[ -z "$beside" ] || write "beside $app {self.number} 0 $$"
sleep "${{app##*-}}"
{self.home}/bin/sysdig-cli-scanner "$@"
code=$?
write "end $app {self.number} $(date +%s.%N) $$"
exit $code
""")
        (self.home / "cli").chmod(0o755)
        link_stand_in(self.home / "bin")

    @property
    def home(self) -> Path:
        return self.scene.directory / f"worker-{self.number}"

    @property
    def process(self) -> Process:
        return self.processes[-1]

    def start(self) -> None:
        scene = self.scene
        command = [
            SCANHOOK, "work", "--queue-url", f"{self.wire.url}/000000000000/{QUEUE}", "--config", scene.server.config,
            "--data-dir", self.home / "data", "--listen", "127.0.0.1:0", "--scanner-cli", self.home / "cli",
            "--hidden-for", f"{HIDDEN}s", *(["--table", scene.table] if scene.table else []), *self.arguments,
        ]  # fmt: skip
        env = scene.server.env | {"AWS_ENDPOINT_URL_SQS": self.wire.url, "AWS_ENDPOINT_URL_DYNAMODB": scene.dynamodb}
        self.processes.append(scene.shop.start(f"worker {self.number}", command, env))

        def address() -> re.Match[str] | None:
            if not self.process.is_running():
                raise Disproved("`scanhook work` ended at its start")
            return re.search(r"are at (http://[0-9.:]+)/readyz", self.process.output())

        self.url = until("the address of `scanhook work`", address).group(1)

    def parts(self) -> tuple[int, dict[str, str]]:
        answer = http("GET", f"{self.url}/readyz")
        return answer.status, answer.json()["parts"]

    def happen(self, how: str) -> None:
        """Has something happen to it, and brings it back."""
        began = time.time()
        match how:
            case "killed":
                self.process.popen.kill()
                self.process.popen.wait()
                self.start()
            case "hung":
                self.process.popen.send_signal(signal.SIGSTOP)
                time.sleep(AWAY)
                self.process.popen.send_signal(signal.SIGCONT)
            case "cut off":
                self.wire.is_cut = True
                time.sleep(AWAY)
                self.wire.heal()
            case "stopped":
                code = self.process.terminate()
                if code != 0:
                    raise Disproved(f"SIGTERM ended a worker with {code}")
                self.start()
        self.events.append((how, began, time.time()))


def log(process: Process) -> Iterator[dict[str, Any]]:
    for line in process.output().splitlines():
        with contextlib.suppress(ValueError):
            if line.startswith("{"):
                yield json.loads(line)


HOWS = ["killed", "hung", "cut off", "stopped"]


def disturbances(scene: Scene, run: Run) -> set[str]:
    """What happened to a run's worker from its begin until its message was deleted."""
    # Without an end it was ended with its worker, at the latest when its image's time was over.
    ended = run.ended or run.began + float(run.app.rpartition("-")[2]) + 1
    events = scene.workers[run.worker].events
    return {how for how, began, until_then in events if began <= ended + 2 and until_then >= run.began}


def chaos(proof: Proof, scene: Scene, rounds: int, chance: random.Random) -> None:
    ledger = "one ledger in DynamoDB" if scene.table else "a ledger each"
    proof.part(f"three workers with {ledger}, {rounds} misfortunes")
    scene.hire(3, "--drain", "2s")
    copies = 2 if scene.table else 1
    hows = (HOWS * rounds)[:rounds]
    chance.shuffle(hows)
    for number, how in enumerate(hows):
        for more in range(4):
            scene.send(f"{number}-{more}", chance.choice([2, 3, 4]), copies)
        victim = chance.choice(scene.workers)
        busy = lambda: any(it.worker == victim.number and not it.ended and it.began > time.time() - 4 for it in scene.runs())  # noqa: E731
        with contextlib.suppress(Disproved):
            until("it scans", busy, patience=10)
        time.sleep(chance.uniform(0, 1))
        victim.happen(how)
    scene.wait_until_empty(patience=180)
    runs = scene.runs()
    finished = scene.finished()
    proof.equal("every message has its verdict", [it for it in scene.sent if not finished[it] and not scene.table], [])
    if scene.table:
        records = json.loads(listed(scene, "--table", TABLE, "--output", "json"))
        told = Counter((it["state"], it["verdict"]) for it in records)
        proof.equal("every message has its verdict in the table", told, Counter({("done", "passed"): len(scene.sent)}))
    proof.equal("no dead letter", scene.messages(DEAD_LETTERS), [])
    of_app: dict[str, list[Run]] = {}
    for run in runs:
        of_app.setdefault(run.app, []).append(run)
    proof.equal("every image was scanned", len(of_app), len(scene.sent) // copies)
    without_cause = [it for same in of_app.values() for it in same[:-1] if not disturbances(scene, it)]
    proof.equal("none was scanned again whose worker nothing had happened to", without_cause, [])
    at_once = [same for same in of_app.values() if any(it.beside for it in same)]
    orphans = [same for same in at_once if not set().union(*(disturbances(scene, it) for it in same)) & {"killed", "hung"}]
    proof.equal("and none twice at the same time, unless a worker was killed or hung", orphans, [])
    struck = Counter(how for it in runs for how in disturbances(scene, it))
    proof.true("the misfortunes struck scans", struck.total() >= rounds / 2, struck)
    print(f"     {len(runs)} runs for {len(of_app)} images; struck: {dict(struck)}; at the same time: {len(at_once)}")
    dismiss(scene)


def dismiss(scene: Scene) -> None:
    for worker in scene.workers:
        worker.process.terminate()


def listed(scene: Scene, *arguments: str | Path) -> str:
    env = scene.server.env | {"AWS_ENDPOINT_URL_DYNAMODB": scene.dynamodb}
    command = [SCANHOOK, "scans", "list", "--limit", "10000", *arguments]
    return subprocess.run(command, env=env, capture_output=True, check=True, text=True).stdout


def heartbeat(proof: Proof, scene: Scene) -> None:
    proof.part(f"scans longer than the {HIDDEN} s that a message is hidden, {CONCURRENCY} at once")
    scene.hire(1)
    [worker] = scene.workers
    for number in range(4):
        scene.send(str(number), 8)
    until("the first scans", lambda: len(scene.runs()) == CONCURRENCY)
    waiting = [it["receive_count"] for it in scene.messages() if it["state"] == "visible"]
    proof.equal("what can't be begun is not received", waiting, [0, 0])
    ledger = ["--data-dir", worker.home / "data"]
    records = json.loads(listed(scene, *ledger, "--output", "json"))
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    told = [(it["state"], it["claimed_until"] > now) for it in records]
    proof.equal("the ledger tells until when they are claimed", told, [("in_progress", True)] * CONCURRENCY)
    proof.true("and people read it", listed(scene, *ledger).count("in_progress until") == CONCURRENCY, listed(scene, *ledger))
    scene.wait_until_empty()
    ended = [it["claimed_until"] for it in json.loads(listed(scene, *ledger, "--output", "json"))]
    proof.equal("no longer than they run", ended, [None] * 4)
    runs = scene.runs()
    proof.equal("each is scanned once", sorted(Counter(it.app for it in runs).values()), [1, 1, 1, 1])
    most = max(sum(it.began <= one.began < (it.ended or 0) for it in runs) for one in runs)
    proof.equal("never more at once", most, CONCURRENCY)
    figures = http("GET", f"{worker.url}/metrics").body.decode()
    passed = 'scanhook_messages_processed_total{source="any",verdict="passed"} 4'
    proof.true("the figures tell", passed in figures, figures)

    proof.part("SIGTERM")
    for number in range(4):
        scene.send(f"late-{number}", 3)
    until("two more scans", lambda: len(scene.runs()) == 4 + CONCURRENCY)
    code = worker.process.terminate()
    proof.equal("what has begun is finished", (code, sum(not it.ended for it in scene.runs())), (0, 0))
    left = [(it["state"], it["receive_count"]) for it in scene.messages()]
    proof.equal("the rest is left untouched", left, [("visible", 0)] * 2)
    worker.start()
    scene.wait_until_empty()
    dismiss(scene)


def breaker(proof: Proof, scene: Scene, backend: dict[str, int]) -> None:
    proof.part("Sysdig's backend is down")
    scene.hire(1)
    [worker] = scene.workers
    until("the backend is seen", lambda: any(it.get("event") == "backend.seen" for it in log(worker.process)))
    backend["status"] = 503
    for number in range(3):
        scene.send(f"unknown-{number}", 0, behaviour="unknown-error")
    until("the breaker", lambda: worker.parts()[0] == 503)
    proof.equal("readiness names it", worker.parts()[1]["sysdig"], "fails")
    figures = http("GET", f"{worker.url}/metrics").body.decode()
    proof.true("so do the figures", 'scanhook_ready{part="sysdig"} 0' in figures, figures)
    down = until("the log's word", lambda: [it for it in log(worker.process) if it.get("event") == "backend.down"])
    proof.equal("and the log", len(down), 1)
    # What was being received ends, and what failed was to be tried again within two seconds.
    until("everything waits", lambda: all(it["state"] == "visible" for it in scene.messages()))
    scene.send("waits", 0)
    counts = lambda: [it["receive_count"] for it in scene.messages()]  # noqa: E731
    receives, received = worker.wire.receives, counts()
    time.sleep(4)
    proof.equal("no receive leaves the worker", worker.wire.receives - receives, 0)
    proof.equal("and none is spent", (len(received), counts()), (4, received))
    backend["status"] = 200
    until("readiness", lambda: worker.parts()[0] == 200)
    until("what waited is scanned", lambda: any(it.app.startswith("waits") and it.ended for it in scene.runs()))
    proof.true("when it is back, work goes on", True)
    dismiss(scene)


def readiness(proof: Proof, scene: Scene, dynamodb: Process) -> None:
    proof.part("what fails is named")
    scene.hire(1)
    [worker] = scene.workers
    works = dict.fromkeys(["configuration", "queue", "ledger", "sysdig"], "works")
    until("an answer of the backend", lambda: worker.parts() == (200, works))
    proof.true("ready with all parts", True)
    dynamodb.popen.kill()
    until("the ledger's failure", lambda: worker.parts() == (503, works | {"ledger": "fails"}))
    proof.true("the table is gone: the ledger", True)
    worker.wire.is_cut = True
    both = works | {"ledger": "fails", "queue": "fails"}
    until("the queue's failure", lambda: worker.parts() == (503, both))
    proof.true("cut off from SQS: the queue too", True)
    figures = http("GET", f"{worker.url}/metrics").body.decode()
    words = ['scanhook_ready{part="ledger"} 0', 'scanhook_ready{part="queue"} 0']
    proof.equal("so do the figures", [it for it in words if it not in figures], [])
    worker.wire.heal()
    until("the queue works again", lambda: worker.parts()[1]["queue"] == "works")
    dismiss(scene)


def without_cli(proof: Proof, scene: Scene) -> None:
    proof.part("no CLI")
    server = scene.server
    command = [SCANHOOK, "work", "--queue-url", server.sqs.queue_url(QUEUE), "--config", server.config, "--scanner-cli", "./none"]
    env = server.env | {"AWS_ENDPOINT_URL_SQS": server.sqs.url}
    worker = scene.shop.start("worker", [*command, "--listen", "127.0.0.1:0"], env)
    code, shown = worker.popen.wait(30), worker.output()
    proof.equal("is refused", code, 2)
    proof.true("with the way out that a worker has", "with --scanner-cli" in shown and "--no-scan" not in shown, shown)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    require_binaries(SCANHOOK)
    if not (SERVERS / "python").is_file():
        sys.exit("PROOF_SERVERS names no environment with moto: tests/proofs/run makes it")

    def prove(proof: Proof, shop: Workshop) -> None:
        print(f"--seed {options.seed}", flush=True)
        chance = random.Random(options.seed)
        backend = {"status": 200}
        with serving(lambda *_: (backend["status"], {}, b"")) as address:
            env = base_environment(PROOF_TOKEN="fake-token-0123456789", PROOF_API_TOKEN=API_TOKEN)
            server = start_server(shop, config(address), "--no-scan", env=env)
            # A receive whose answer is lost hides its message for the queue's own time.
            url = server.sqs.queue_url(QUEUE)
            server.sqs.call("SetQueueAttributes", QueueUrl=url, Attributes={"VisibilityTimeout": str(HIDDEN)})

            def scene(name: str, table: bool = False) -> Scene:
                (shop.directory / name).mkdir()
                of_its_own = Workshop(shop.directory / name, shop.processes)
                return Scene(of_its_own, server, address, TABLE if table else None, dynamodb.url if table else "")

            dynamodb = start_dynamodb(shop)
            dynamodb.create_table()
            heartbeat(proof, scene("heartbeat"))
            chaos(proof, scene("chaos"), options.rounds, chance)
            chaos(proof, scene("shared", table=True), options.rounds, chance)
            breaker(proof, scene("breaker"), backend)
            server.sqs.call("PurgeQueue", QueueUrl=url)
            readiness(proof, scene("readiness", table=True), dynamodb.process)
            without_cli(proof, scene("nothing"))

    return run_proof("workers", prove)


if __name__ == "__main__":
    sys.exit(main())
