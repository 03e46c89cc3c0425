#!/usr/bin/env python3
"""`scanhook backfill` of Debian's docker-registry: its catalog, its pages, its digests and when its images were built; exactly what the
ledger does not know is queued, and nothing when it is run once more.

Filters, interruptions and registries that fail are tested in `local/tests/it/backfill.rs`. `--tags N` is how many tags there are in the
registry's three repositories (default 130; 520 is the long form). Needs the Debian package docker-registry; `tests/proofs/run` builds
scanhook. Python 3.11, standard library only.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
from typing import Any

from docker_registry import Registry, digest_of, start_registry
from harness import Disproved, Proof, Workshop, base_environment, http, require_binaries, require_programs, run_proof
from oci import CONFIG, LAYER, MANIFEST
from serve import QUEUE, SCANHOOK, start_server

BUILT = "2026-11-01T00:00:00Z"

Content = tuple[str, str]
"""Repository and digest."""


def push_all(registry: Registry, tags: int) -> dict[tuple[str, str], str]:
    """Pushes images that differ by an annotation, and returns their digests by repository and tag."""
    pushed = {}
    for repository, count in {"prod/api": tags - tags // 3 - 20, "prod/web": tags // 3, "dev/tool": 20}.items():
        layer = {"mediaType": LAYER, **registry.push_blob(repository, b"a layer")}
        built = json.dumps({"architecture": "amd64", "os": "linux", "created": BUILT}).encode()
        config = {"mediaType": CONFIG, **registry.push_blob(repository, built)}
        for number in range(count):
            # Every tenth tag names what the one before it names.
            content = number - 1 if number % 10 == 9 else number
            manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
            body = json.dumps(manifest | {"annotations": {"number": f"{repository} {content}"}}).encode()
            # Some have a tag of the form that a signature's has, which decides nothing.
            tag = f"1.{number}" if number > 3 else f"{digest_of(body).replace(':', '-')}.sig"
            pushed[repository, tag] = registry.put(repository, MANIFEST, body, tag)
    return pushed


def record(host: str, content: Content, number: int) -> tuple[Any, ...]:
    """A row of the ledger, of a scan that passed."""
    absent = dict.fromkeys(["tag", "platform", "identity", "result_url", "cli_version", "actor", "detail", "reason"])
    told = absent | {
        "scan_id": f"01KNOWN{number}", "source": "debian", "image": f"{host}/{content[0]}", "digest": content[1], "state": "done",
        "verdict": "passed", "policies_failed": [], "attempts": 1, "received_at": BUILT, "started_at": BUILT, "finished_at": BUILT,
    }  # fmt: skip
    return (told["scan_id"], "", 1, json.dumps(told), 1 << 52)


def prove(proof: Proof, shop: Workshop, tags: int) -> None:
    registry = start_registry(shop)
    pushed = push_all(registry, tags)
    config = f"""
sources:
  debian: {{ kind: distribution, registry: "{registry.host}", exclude: [dev/tool], auth: [{{ type: bearer, secret: 'env:PROOF_TOKEN' }}] }}
registries: {{ "{registry.host}": {{ insecure: true }} }}
scanner: {{ api_token: "env:PROOF_TOKEN" }}
"""
    server = start_server(shop, config, "--no-scan", env=base_environment(PROOF_TOKEN="fake-token-0123456789"))

    def run(*arguments: str) -> dict[str, Any]:
        command = [SCANHOOK, "backfill", "debian", "--config", server.config, "--data-dir", server.data, "--output", "json", "--rate", "500"]
        ran = subprocess.run([*command, *arguments], env=server.env, capture_output=True, text=True, timeout=600)
        if ran.returncode != 0:
            raise Disproved(f"backfill {arguments}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}")
        return json.loads(ran.stdout)

    def queued() -> list[Content]:
        """What is in the queue, sorted."""
        found, after = [], ""
        while True:
            page = http("GET", f"{server.sqs.queue_url(QUEUE)}{after}").json()
            images = [json.loads(it["body"])["image"] for it in page["messages"]]
            found += [(it["repository"], it["digest"]) for it in images]
            if not page["next"]:
                return sorted(found)
            after = f"?after={page['next']}"

    wanted = sorted({(repository, digest) for (repository, _), digest in pushed.items() if repository != "dev/tool"})
    with sqlite3.connect(server.data / "ledger.sqlite", timeout=30) as ledger:
        rows = [record(registry.host, it, number) for number, it in enumerate(wanted[::5])]
        ledger.executemany("INSERT INTO scan (scan_id, platform, received_at, record, expires) VALUES (?, ?, ?, ?, ?)", rows)
    unknown = sorted(set(wanted) - set(wanted[::5]))

    proof.part(f"docker-registry with {tags} tags")
    planned = run("--dry-run")
    proof.equal("all tags of all repositories are seen", (planned["repositories"], planned["tags"]), (3, len(pushed)))
    proof.equal("what has no verdict would be queued", planned["queued"], len(unknown))
    proof.equal("what was built before --since would not", run("--dry-run", "--since", "2026-11-02T00:00:00Z")["queued"], 0)
    proof.equal("what was built after it would", run("--dry-run", "--since", "2026-10-31T00:00:00Z")["queued"], len(unknown))
    proof.equal("nothing was queued", queued(), [])
    run()
    proof.equal("exactly the unknown contents are queued, once each", queued(), unknown)
    proof.equal("once more queues nothing", (run()["queued"], len(queued())), (0, len(unknown)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tags", type=int, default=130)
    options = parser.parse_args()
    require_programs(docker_registry="docker-registry")
    require_binaries(SCANHOOK)
    return run_proof("backfill of docker-registry", lambda proof, shop: prove(proof, shop, options.tags))


if __name__ == "__main__":
    sys.exit(main())
