#!/usr/bin/env python3
"""`scanhook serve` on bad days: nothing acknowledged is lost, and readiness, figures and log each name the cause.

The disk is full or becomes read-only, and the clock is set by five days. A locked ledger, a process that is stopped and a queue of large
messages are tested in `local/tests/it`. It mounts file systems, so it runs as root on Linux; the clock needs Debian's `faketime`.

Python 3.11, standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from any_registry import new_digest, proxy
from deliveries import EVENTS_V1, distribution_push
from harness import Proof, Workshop, base_environment, http, require_binaries, require_programs, run_proof, until
from serve import QUEUE, SCANHOOK, Server, link_stand_in, start_server

CONFIG = """
registries: { debian.example.com: { insecure: true } }
sources:
  debian: { kind: distribution, registry: debian.example.com, auth: [{ type: bearer, secret: "env:PROOF_TOKEN" }] }
scanner: { api_token: "env:PROOF_API_TOKEN", api_url: "http://127.0.0.1:1" }
"""
TOKEN = "fake-token-0123456789"
ENV = base_environment(PROOF_TOKEN=TOKEN, PROOF_API_TOKEN="fake-api-token", **proxy())
HEADERS = {"authorization": f"Bearer {TOKEN}", "content-type": EVENTS_V1}

FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"
DAY = 86_400


# Ways to make a day bad


@contextlib.contextmanager
def mounted(directory: Path, *arguments: str | Path) -> Iterator[Path]:
    directory.mkdir()
    run("mount", *arguments, directory)
    try:
        yield directory
    finally:
        # Where a claim did not hold, a server may still have it.
        run("umount", "--lazy", directory)


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


# What a server tells


def push(server: Server, repository: str = "team/app") -> tuple[int, str | None]:
    """Delivers a push of a new image; tells the status and the scan's id."""
    answer = http("POST", f"{server.url}/webhooks/debian", HEADERS, distribution_push(repository, new_digest()))
    queued = answer.json()["queued"] if answer.status == 202 else []
    return answer.status, queued[0]["scan_id"] if queued else None


def push_many(server: Server, count: int) -> set[str]:
    """The scans' ids of so many pushes that must be accepted."""
    answers = [push(server) for _ in range(count)]
    if any(status != 202 for status, _ in answers):
        raise AssertionError(answers)
    return {it for _, it in answers if it}


def waiting(server: Server, queue: str = QUEUE) -> list[str]:
    """The scans' ids of all messages of a queue."""
    ids: list[str] = []
    url = path = f"{server.sqs.url}/000000000000/{queue}"
    while path:
        page = http("GET", path).json()
        ids += [json.loads(it["body"])["scan_id"] for it in page["messages"]]
        path = f"{url}?after={page['next']}" if page["next"] else ""
    return ids


def is_told(server: Server, part: str, cause: str) -> dict[str, bool]:
    """Whether readiness, figures and log name the cause for which a part fails."""
    ready = http("GET", f"{server.url}/readyz")
    figures = http("GET", f"{server.url}/metrics").body.decode()
    lines = server.lines("part.fails")
    return {
        "readiness": ready.status == 503 and ready.json().get("causes", {}).get(part) == cause,
        "figures": f'scanhook_not_ready{{part="{part}",cause="{cause}"}} 1\n' in figures
        and f'scanhook_ready{{part="{part}"}} 0\n' in figures,
        "log": any((it["part"], it["cause"]) == (part, cause) for it in lines),
    }


def names(proof: Proof, server: Server, part: str, cause: str) -> None:
    def all_tell() -> bool:
        return all(is_told(server, part, cause).values())

    with contextlib.suppress(Exception):
        until("the cause", all_tell, pause=0.5)
    everywhere = dict.fromkeys(["readiness", "figures", "log"], True)
    proof.equal(f"{part} fails by {cause} in readiness, figures and log", is_told(server, part, cause), everywhere)


def is_ready(server: Server) -> bool:
    return http("GET", f"{server.url}/readyz").status == 200


def refusal(shop: Workshop, data: Path) -> str:
    """What a start says that must fail."""
    arguments = ["--config", shop.directory / "scanhook.yaml", "--data-dir", data]
    listen = ["--listen", "127.0.0.1:0", "--sqs-listen", "127.0.0.1:0"]
    command = [SCANHOOK, "serve", "--no-scan", *arguments, *listen]
    done = subprocess.run(command, env=ENV, cwd=shop.directory, capture_output=True, text=True, timeout=60)
    return f"{done.returncode}: {done.stderr}"


# The days


def disk_full(proof: Proof, shop: Workshop) -> None:
    proof.part("a disk that is full")
    with mounted(shop.directory / "small", "-t", "tmpfs", "-o", "size=3m", "tmpfs") as data:
        server = start_server(shop, CONFIG, "--no-scan", env=ENV, data=data)
        accepted: set[str] = set()
        refused = 0
        while refused < 5:
            status, scan_id = push(server)
            accepted |= {scan_id} if scan_id else set()
            refused += status == 503
        proof.true("deliveries are accepted, then refused with 503", len(accepted) > 50, len(accepted))
        names(proof, server, "queue", "disk_full")
        lines = server.lines("queue.commit_failed") + server.lines("queue.failed")
        told = {(it["cause"], it["message"].partition(": ")[2]) for it in lines}
        proof.equal("each failed write names it too", told, {("disk_full", "the disk is full; free some space")})
        proof.equal("nothing acknowledged is lost", set(waiting(server)), accepted)
        counted = http("GET", f"{server.url}/metrics").body.decode()
        words = f'outcome="refused",reason="unavailable"}} {refused}\n'
        proof.true("each refusal is counted", words in counted, counted)
        [failures] = re.findall(r'queue_failures_total{cause="disk_full"} (\d+)\n', counted)
        proof.equal("and each failure of the queue", int(failures), len(server.lines("queue.failed")))
        server.process.popen.kill()
        server.process.popen.wait()
        run("mount", "-o", "remount,size=9m", data)
        server = start_server(shop, CONFIG, "--no-scan", env=ENV, data=data)
        proof.equal("nor after kill -9", set(waiting(server)), accepted)
        with contextlib.suppress(OSError), (data / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        while push(server)[0] == 202:
            pass
        (data / "filler").unlink()
        until("readiness", lambda: is_ready(server))
        proof.equal("with space again, it goes on by itself", push(server)[0], 202)
        server.process.terminate()


def read_only(proof: Proof, shop: Workshop) -> None:
    proof.part("a disk that becomes read-only")
    image = shop.directory / "disk.img"
    with image.open("wb") as file:
        file.truncate(24 << 20)
    run("mkfs.ext4", "-q", image)
    with mounted(shop.directory / "disk", "-o", "loop", image) as data:
        server = start_server(shop, CONFIG, "--no-scan", env=ENV, data=data)
        accepted = push_many(server, 20)
        # What the kernel does after an error of the disk.
        subprocess.run(["mount", "-o", "remount,abort", data], stderr=subprocess.DEVNULL)
        proof.equal("deliveries are refused with 503", push(server)[0], 503)
        names(proof, server, "queue", "read_only")
        names(proof, server, "ledger", "read_only")
        proof.equal("nothing acknowledged is lost", set(waiting(server)), accepted)
        server.process.popen.kill()
        server.process.popen.wait()
        said = refusal(shop, data)
        proof.true("a start says that it is read-only", said.startswith("2: ") and "ead-only" in said, said)
    run("mount", "-o", "loop", image, shop.directory / "disk")
    try:
        server = start_server(shop, CONFIG, "--no-scan", env=ENV, data=shop.directory / "disk")
        proof.equal("nor after the disk was mounted anew", set(waiting(server)), accepted)
        server.process.terminate()
    finally:
        run("umount", shop.directory / "disk")


def clock(proof: Proof, shop: Workshop) -> None:
    proof.part("a clock that is set by five days")
    [library] = Path("/").glob(FAKETIME.removeprefix("/"))
    offset = shop.directory / "offset"
    faked = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    env = {**ENV, **faked}

    def set_clock(days: int) -> None:
        beside = offset.with_suffix(".new")
        beside.write_text(f"{days:+}d\n")
        beside.rename(offset)

    def shown(server: Server) -> set[int]:
        """By how many days the server has seen its clock set."""
        return {round(it["seconds"] / DAY) for it in server.lines("clock.set")}

    set_clock(0)
    server = start_server(shop, CONFIG, "--no-scan", env=env)
    accepted = push_many(server, 3)
    set_clock(5)
    until("the clock", lambda: server.sqs.depth(QUEUE) >= 0 and shown(server) == {5})
    proof.equal("forward: nothing expires", set(waiting(server)), accepted)
    accepted |= push_many(server, 3)
    [received] = server.sqs.receive_now(QUEUE, 1, hidden=3)
    set_clock(-5)
    until("the clock", lambda: server.sqs.depth(QUEUE) >= 0 and -10 in shown(server))
    proof.equal("backward: nothing expires", set(waiting(server)), accepted)
    until("what was received", lambda: server.sqs.attributes(QUEUE)["ApproximateNumberOfMessages"] == "6")
    proof.true("and nothing stays hidden", received["MessageId"] != "")
    accepted |= push_many(server, 3)
    server.process.terminate()
    set_clock(5)
    server = start_server(shop, CONFIG, "--no-scan", env=env)
    proof.equal("ten days forward between two starts: nothing expires", set(waiting(server)), accepted)
    server.process.terminate()
    set_clock(0)
    cli = link_stand_in(shop.directory / "cli")
    server = start_server(shop, CONFIG, "--scanner-cli", cli, env=env)
    until("verdicts", lambda: {it["scan_id"] for it in server.scans() if it["verdict"] == "passed"} == accepted)
    proof.true("right again: all of them are scanned", True)
    figures = http("GET", f"{server.url}/metrics").body.decode()
    proof.true("none expired", 'scanhook_messages_expired_total{queue="scanhook"} 0\n' in figures, figures)
    gap = {round(it["gap_s"] / DAY) for it in server.lines("clock.gap")}
    proof.equal("the log names the gap", gap, {-5})
    server.process.terminate()


def prove(proof: Proof, shop: Workshop) -> None:
    clock(proof, shop)
    disk_full(proof, shop)
    read_only(proof, shop)


def main() -> int:
    require_binaries(SCANHOOK)
    require_programs(faketime="faketime", mount="mount")
    if os.geteuid() != 0:
        sys.exit("run this as root: it mounts file systems")
    return run_proof("bad days", prove)


if __name__ == "__main__":
    sys.exit(main())
