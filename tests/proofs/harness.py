"""What the proofs share: claims that are counted, processes that are always ended, and an HTTP client.

Python 3.11, standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
BINARIES = TARGET / "proofs"
"""Copies of what was built, made by `tests/proofs/run`."""

PATIENCE = 30.0
"""How long, in seconds, a condition may take to come true."""

LOOK = 0.02
"""The pause between two looks at a condition."""


class Disproved(Exception):
    """A claim that does not hold."""


class Proof:
    """Counts the claims that hold; the first that does not ends the proof."""

    def __init__(self, title: str) -> None:
        self.passed = 0
        print(f"# {title}", flush=True)

    def part(self, title: str) -> None:
        print(f"\n{title}", flush=True)

    def equal(self, claim: str, actual: Any, expected: Any) -> None:
        if actual != expected:
            raise Disproved(f"{claim}\n  expected {expected!r}\n  but was  {actual!r}")
        self._holds(claim)

    def true(self, claim: str, condition: bool, shown: Any = "") -> None:
        if not condition:
            raise Disproved(f"{claim}\n  {shown}")
        self._holds(claim)

    def _holds(self, claim: str) -> None:
        self.passed += 1
        print(f"  ok {self.passed:3} {claim}", flush=True)


def run_proof(title: str, prove: Callable[[Proof, Workshop], None]) -> int:
    """Runs a proof in a temporary directory and tells the exit code; nothing it started is left behind."""
    proof = Proof(title)
    try:
        with workshop() as shop:
            try:
                prove(proof, shop)
            except BaseException:
                shop.show_logs()
                raise
    except Disproved as err:
        print(f"\nnot ok: {err}\n{proof.passed} passed, 1 failed", flush=True)
        return 1
    print(f"\n{proof.passed} passed, 0 failed", flush=True)
    return 0


def until(what: str, look: Callable[[], Any], patience: float = PATIENCE, pause: float = LOOK) -> Any:
    """Looks until there is something to see, and returns it."""
    deadline = time.monotonic() + patience
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise Disproved(f"{what}: not within {patience:g} s")
        time.sleep(pause)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, for programs that can't be given port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def require_programs(**packages: str) -> None:
    """Ends with advice if a program is missing; `packages` maps it (with _ for -) to its Debian package."""
    programs = {name.replace("_", "-"): package for name, package in packages.items()}
    missing = sorted({package for name, package in programs.items() if not shutil.which(name)})
    if missing:
        sys.exit(f"install what is missing: apt-get install --no-install-recommends {' '.join(missing)}")


def require_binaries(*paths: Path) -> None:
    for path in paths:
        if not path.is_file():
            sys.exit(f"there is no {path.name}: tests/proofs/run builds it")


# Processes


@dataclass
class Process:
    """A process that was started here, in a process group of its own."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def is_running(self) -> bool:
        return self.popen.poll() is None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def terminate(self, patience: float = PATIENCE) -> int:
        """Asks it to end, and tells its exit code."""
        if self.is_running():
            self.popen.terminate()
        return self.popen.wait(patience)

    def end(self) -> None:
        """Ends it and its group, whatever state they are in."""
        family = [self.popen.pid, *descendants(self.popen.pid)]
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.terminate(patience=15)
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.popen.wait()


def descendants(pid: int) -> list[int]:
    """The processes that stem from `pid`, as the kernel tells them now."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents.setdefault(int(parent), []).append(int(stat.parent.name))
    found, open_ends = [], [pid]
    while open_ends:
        children = parents.get(open_ends.pop(), [])
        found += children
        open_ends += children
    return found


@dataclass
class Workshop:
    """A temporary directory and the processes that work in it."""

    directory: Path
    processes: list[Process] = field(default_factory=list)

    def start(self, name: str, command: list[str | Path], env: dict[str, str] | None = None) -> Process:
        """Starts a program; `env` is its whole environment."""
        log = self.directory / f"{name}-{len(self.processes)}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [str(it) for it in command],
                env=base_environment() if env is None else env,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process(name, popen, log)
        self.processes.append(process)
        return process

    def show_logs(self) -> None:
        for process in self.processes:
            tail = [it[:400] for it in process.output().splitlines()[-15:]]
            print("\n".join([f"\n--- the last lines of {process.name}", *tail]), flush=True)


@contextlib.contextmanager
def workshop() -> Iterator[Workshop]:
    with tempfile.TemporaryDirectory(prefix="scanhook-proof-") as directory:
        shop = Workshop(Path(directory))
        try:
            yield shop
        finally:
            for process in reversed(shop.processes):
                process.end()


def base_environment(**variables: str) -> dict[str, str]:
    """An environment without this machine's settings; the credentials are worth nothing."""
    return {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": "fake-access-key",
        "AWS_SECRET_ACCESS_KEY": "fake-secret-key",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        **variables,
    }


# HTTP


@dataclass
class Answer:
    """An HTTP answer of any status."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body or b"null")


def http(method: str, url: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> Answer:
    request = urllib.request.Request(url, body, headers or {}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=120) as response:
            return Answer(response.status, _lower(response.headers), response.read())
    except urllib.error.HTTPError as err:
        with err:
            return Answer(err.code, _lower(err.headers), err.read())


def answers(url: str) -> bool:
    """Whether something answers at `url` with a 200."""
    try:
        return http("GET", url).status == 200
    except OSError:
        return False


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


Answering = Callable[[str, str, dict[str, list[str]], Any], tuple[int, dict[str, str], bytes]]
"""Method, path, query and headers of a request, to status, headers and body."""


@contextlib.contextmanager
def serving(answer: Answering) -> Iterator[str]:
    """An HTTP server of this process; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            status, headers, body = answer(self.command, url.path, parse_qs(url.query), self.headers)
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Book:
    """A file of lines that CLIs write, which can write no file of ours themselves, but talk to what listens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        book = self

        class Line(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                line = self.rfile.readline()
                with book.lock, path.open("ab") as file:
                    file.write(line)
                self.wfile.write(b"written\n")

        self.lock = threading.Lock()
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Line)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        self.script = f"""#!/bin/bash
write() {{ exec 3<>/dev/tcp/127.0.0.1/{port}; echo "$*" >&3; read -r _ <&3; exec 3>&-; }}
"""
        """The beginning of a script that writes lines with `write`."""
