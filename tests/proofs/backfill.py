#!/usr/bin/env python3
"""`scanhook backfill` of Debian's docker-registry with 520 tags in three repositories: exactly what the ledger does not know is
queued, interrupted and resumed, and nothing when it is run once more.

Needs the Debian package docker-registry; `tests/proofs/run` builds scanhook. Python 3.11, standard library only.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from typing import Any

from harness import Disproved, Proof, Workshop, answers, base_environment, free_port, http, require_binaries, require_programs, run_proof, until
from oci import CONFIG, LAYER, MANIFEST
from serve import QUEUE, SCANHOOK, start_server

REPOSITORIES = {"prod/api": 300, "prod/web": 200, "dev/tool": 20}
BUILT = "2026-11-01T00:00:00Z"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def start_registry(shop: Workshop) -> str:
    port = free_port()
    config = shop.directory / "registry.yml"
    config.write_text(f"""
version: 0.1
log: {{ level: error }}
storage: {{ filesystem: {{ rootdirectory: "{shop.directory}/registry" }} }}
http: {{ addr: "127.0.0.1:{port}" }}
""")
    shop.start("registry", ["docker-registry", "serve", config])
    until("docker-registry answers", lambda: answers(f"http://127.0.0.1:{port}/v2/"))
    return f"127.0.0.1:{port}"


def put(url: str, media_type: str, content: bytes) -> None:
    answer = http("PUT", url, {"content-type": media_type}, content)
    if answer.status != 201:
        raise Disproved(f"{url}: {answer.status} {answer.body!r}")


def push_blob(host: str, repository: str, content: bytes) -> dict[str, Any]:
    started = http("POST", f"http://{host}/v2/{repository}/blobs/uploads/")
    location = started.headers["location"]
    put(f"{location}&digest={digest_of(content)}", "application/octet-stream", content)
    return {"digest": digest_of(content), "size": len(content)}


def push_all(host: str) -> dict[tuple[str, str], str]:
    """Pushes images that differ by an annotation, and tells their digests by repository and tag."""
    pushed = {}
    for repository, count in REPOSITORIES.items():
        layer = {"mediaType": LAYER, **push_blob(host, repository, b"a layer")}
        config = json.dumps({"architecture": "amd64", "os": "linux", "created": BUILT}).encode()
        config = {"mediaType": CONFIG, **push_blob(host, repository, config)}
        for number in range(count):
            # Every tenth tag names what the one before it names.
            content = number - 1 if number % 10 == 9 else number
            manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
            body = json.dumps(manifest | {"annotations": {"number": f"{repository} {content}"}}).encode()
            tag = f"{number}-dev" if number % 25 == 24 else f"1.{number}"
            put(f"http://{host}/v2/{repository}/manifests/{tag}", MANIFEST, body)
            pushed[repository, tag] = digest_of(body)
    return pushed


def record(host: str, repository: str, digest: str, number: int, state: str) -> tuple[Any, ...]:
    verdict, reason = ("passed", None) if state == "done" else ("error", "network")
    absent = dict.fromkeys(["tag", "platform", "identity", "result_url", "cli_version", "actor", "detail"])
    told = absent | {
        "scan_id": f"01KNOWN{number}", "source": "debian", "image": f"{host}/{repository}", "digest": digest, "state": state,
        "verdict": verdict, "reason": reason, "policies_failed": [], "attempts": 1, "received_at": BUILT,
        "started_at": BUILT, "finished_at": BUILT,
    }  # fmt: skip
    return (told["scan_id"], "", 1, json.dumps(told), 1 << 52)


def prove(proof: Proof, shop: Workshop) -> None:
    host = start_registry(shop)
    pushed = push_all(host)
    source = "tags: { exclude: ['*-dev'] }, auth: [{ type: bearer, secret: 'env:PROOF_TOKEN' }]"
    config = f"""
sources:
  debian: {{ kind: distribution, registry: "{host}", {source} }}
registries:
  "{host}": {{ insecure: true }}
scanner: {{ api_token: "env:PROOF_TOKEN" }}
"""
    env = base_environment(PROOF_TOKEN="fake-token-0123456789")
    server = start_server(shop, config, "--no-scan", env=env)
    wanted = {(repository, digest) for (repository, tag), digest in pushed.items() if not tag.endswith("-dev")}
    ordered = sorted(wanted)
    done, dead = ordered[::5], ordered[1::25]
    with sqlite3.connect(server.data / "ledger.sqlite", timeout=30) as ledger:
        states = [(it, "done") for it in done] + [(it, "dead_letter") for it in dead]
        rows = [record(host, *it, number, state) for number, (it, state) in enumerate(states)]
        ledger.executemany("INSERT INTO scan (scan_id, platform, received_at, record, expires) VALUES (?, ?, ?, ?, ?)", rows)
    unknown = wanted - set(done)
    command = [SCANHOOK, "backfill", "debian", "--config", server.config, "--data-dir", server.data, "--output", "json"]

    def run(*arguments: str, code: int = 0) -> dict[str, Any]:
        ran = subprocess.run([*command, *arguments], env=env, cwd=shop.directory, capture_output=True, text=True, timeout=600)
        if ran.returncode != code:
            raise Disproved(f"backfill {arguments}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}")
        return json.loads(ran.stdout)

    def queued() -> Counter[tuple[str, str]]:
        """What is in the queue, by repository and digest."""
        found: Counter[tuple[str, str]] = Counter()
        after = ""
        while True:
            page = http("GET", f"{server.sqs.queue_url(QUEUE)}{after}").json()
            for message in page["messages"]:
                image = json.loads(message["body"])["image"]
                found[image["repository"], image["digest"]] += 1
            if not page["next"]:
                return found
            after = f"?after={page['next']}"

    proof.part("looking")
    planned = run("--dry-run")
    proof.equal("all tags of all repositories are seen", (planned["repositories"], planned["tags"]), (3, len(pushed)))
    proof.equal("the source's filter counts", planned["filtered"], sum(tag.endswith("-dev") for _, tag in pushed))
    proof.equal("what has no verdict would be queued", planned["queued"], len(unknown))
    proof.equal("with --only-missing no dead letters", run("--dry-run", "--only-missing")["queued"], len(unknown - set(dead)))
    proof.equal("what was built before --since is left out", run("--dry-run", "--since", "2026-11-02T00:00:00Z")["queued"], 0)
    proof.equal("what was built after it is not", run("--dry-run", "--since", "2026-10-31T00:00:00Z")["queued"], len(unknown))
    some = run("--dry-run", "--repositories", "prod/*")
    proof.equal("a glob chooses repositories", (some["repositories"], some["tags"]), (2, 500))
    one = run("--dry-run", "--repositories", "dev/tool")
    proof.equal("so does a name, without the catalog", (one["repositories"], one["tags"]), (1, 20))
    proof.equal("nothing was queued", queued(), Counter())

    proof.part("interrupted and resumed")
    for how, after in ((signal.SIGINT, 2.0), (signal.SIGKILL, 2.0), (signal.SIGINT, 1.5)):
        before = queued().total()
        popen = subprocess.Popen([*command, "--rate", "40"], env=env, cwd=shop.directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until("some are queued", lambda: queued().total() >= before + 20)
        try:
            popen.wait(after)
        except subprocess.TimeoutExpired:
            popen.send_signal(how)
        code = popen.wait(30)
        proof.equal(f"{how.name} ends it", code, 1 if how == signal.SIGINT else -9)
        proof.true("with a part queued", before < queued().total() < len(unknown), queued().total())
    finished = run("--rate", "500")
    proof.equal("the last run queues the rest", finished["errors"], {})
    proof.equal("exactly the unknown contents are queued", set(queued()), unknown)
    twice = queued().total() - len(unknown)
    proof.true("at most a batch twice, for the SIGKILL", twice <= 10, twice)
    proof.equal("once more queues nothing", run()["queued"], 0)
    proof.equal("and leaves the queue as it was", queued().total() - len(unknown), twice)


def main() -> int:
    require_programs(docker_registry="docker-registry")
    require_binaries(SCANHOOK)
    return run_proof("backfill of a real registry", prove)


if __name__ == "__main__":
    sys.exit(main())
