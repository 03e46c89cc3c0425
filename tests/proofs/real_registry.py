#!/usr/bin/env python3
"""Real input: Debian's docker-registry notifies `scanhook serve` of what skopeo pushes to it, and the scans that follow
are those of the pushed images, and only those.

Needs the Debian packages docker-registry and skopeo; `tests/proofs/run` builds scanhook.
"""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import oci
from docker_registry import Registry, start_registry
from harness import Book, Proof, Workshop, base_environment, free_port, http, require_binaries, require_programs, run_proof, until
from serve import DEAD_LETTERS, QUEUE, SCANHOOK, Server, link_stand_in, start_server


def start_notifying(shop: Workshop, port: int, webhook: str, token: str) -> tuple[Registry, Callable[[], dict[str, Any]]]:
    """Starts a registry that notifies scanhook of everything, blobs, pulls and deletes too; and its own count of that."""
    debug = free_port()
    notifications = f"""
notifications:
  events: {{ includereferences: true }}
  endpoints:
    - name: scanhook
      url: {webhook}
      headers: {{ Authorization: [Bearer {token}] }}
      timeout: 5s
      threshold: 3
      backoff: 100ms
"""
    registry = start_registry(shop, more=notifications, server=f', debug: {{ addr: "127.0.0.1:{debug}" }}', listen=f"127.0.0.1:{port}")

    def deliveries() -> dict[str, Any]:
        [endpoint] = http("GET", f"http://127.0.0.1:{debug}/debug/vars").json()["registry"]["notifications"]["endpoints"]
        return endpoint["Metrics"]

    return registry, deliveries


@dataclass
class Cli:
    """The stand-in CLI behind a script that writes down with which arguments it was run."""

    program: Path
    log: Path

    def runs(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def record_runs(directory: Path) -> Cli:
    stand_in = link_stand_in(directory / "stand-in")
    cli = Cli(directory / "sysdig-cli-scanner", directory / "runs")
    cli.program.write_text(f'{Book(cli.log).script}write "$*"\nexec "{stand_in}" "$@"\n')
    cli.program.chmod(0o755)
    return cli


def outcome(record: dict[str, Any]) -> str:
    return record["verdict"] if record["reason"] is None else f"{record['verdict']}: {record['reason']}"


def scan_of(record: dict[str, Any]) -> tuple[str, str, str, str]:
    """What tells one scan from another: image, tag, digest and what came of it."""
    return (record["image"].split("/", 1)[1], record["tag"], record["digest"], outcome(record))


def settled(server: Server) -> list[tuple[str, str, str, str]]:
    """The scans that are done, in an order that doesn't depend on when each of an index's children was."""
    return sorted(scan_of(it) for it in server.scans() if it["state"] == "done")


def prove(proof: Proof, shop: Workshop) -> None:
    token, port = secrets.token_hex(32), free_port()
    cli = record_runs(shop.directory)
    config = f"""
sources:
  debian: {{ kind: distribution, registry: "127.0.0.1:{port}", auth: [{{ type: bearer, secret: "env:PROOF_TOKEN" }}] }}
registries:
  "127.0.0.1:{port}": {{ insecure: true }}
scanner: {{ api_token: "env:PROOF_API_TOKEN" }}
"""
    env = base_environment(PROOF_TOKEN=token, PROOF_API_TOKEN="fake-api-token")
    server = start_server(shop, config, "--scanner-cli", cli.program, env=env)
    registry, deliveries = start_notifying(shop, port, f"{server.url}/webhooks/debian", token)
    layout = oci.Layout(shop.directory / "layout")
    expected: list[tuple[str, str, str, str]] = []

    def scanned(claim: str, repository: str, tag: str, outcome: str, digest: str, *children: str) -> None:
        """Claims that exactly this scan was added, or those of an index's children."""
        proof.equal(f"{claim}: the registry tells the digest that was pushed", registry.digest(repository, tag), digest)
        expected.extend((repository, tag, it, outcome) for it in children or [digest])
        until(claim, lambda: len(settled(server)) >= len(expected))
        proof.equal(f"{claim}: {repository}:{tag} {outcome}", settled(server), sorted(expected))

    def skipped(claim: str, reason: str, count: int, act: Any) -> None:
        """Claims that `count` further deliveries were skipped for that reason, and nothing was queued."""
        before = reasons([server])
        act()
        until(claim, lambda: reasons([server])[reason] >= before[reason] + count)
        proof.equal(f"{claim}: nothing is scanned ({reason})", settled(server), sorted(expected))

    proof.part("pushes")
    first = layout.image("first")
    layout.tag(first, "1.0")
    registry.push(layout, "1.0", "team/app")
    scanned("an image", "team/app", "1.0", "passed", first["digest"])
    registry.push(layout, "1.0", "team/fail")
    scanned("an image that fails its policies", "team/fail", "1.0", "failed", first["digest"])

    children = [layout.image("multi", "amd64"), layout.image("multi", "arm64")]
    index = layout.index(*children)
    layout.tag(index, "multi")
    registry.push(layout, "multi", "team/multi", "--all")
    scanned("a multi-arch index", "team/multi", "multi", "passed", index["digest"], children[0]["digest"])
    until("its children's events", lambda: reasons([server])["untagged"] >= 2)
    proof.equal("its two children were told of, and are scanned with the index only", reasons([server])["untagged"], 2)

    signature_tag = first["digest"].replace(":", "-") + ".sig"
    signature = layout.signature(first["digest"])
    layout.tag(signature, signature_tag)
    registry.push(layout, signature_tag, "team/app")
    # It has an image's config, so the event is queued, and the manifest shows what it is.
    scanned("a cosign signature", "team/app", signature_tag, "skipped: not_an_image", signature["digest"])
    # Three events: config, layer and manifest.
    layout.tag(layout.chart("chart"), "chart")
    skipped("a Helm chart", "not_an_image", 3, lambda: registry.push(layout, "chart", "team/chart"))
    proof.true("the registry has the chart", registry.digest("team/chart", "chart") is not None)

    proof.part("the same and the moved")
    runs = len(cli.runs())
    registry.push(layout, "1.0", "team/app")
    scanned("the same image again", "team/app", "1.0", "passed: repeated", first["digest"])
    proof.equal("the CLI was not run for it", len(cli.runs()), runs)
    second = layout.image("second")
    layout.tag(second, "1.1")
    registry.push(layout, "1.1", "team/app", to="1.0")
    scanned("a moved tag", "team/app", "1.0", "passed", second["digest"])
    registry.push(layout, "1.1", "team/app", to="stable")
    scanned("another tag for the same content", "team/app", "stable", "passed: repeated", second["digest"])
    registry.push(layout, "1.1", "team/other")
    scanned("the same content in another repository", "team/other", "1.1", "passed", second["digest"])
    registry.push(layout, "1.1", "team/docker", "--format", "v2s2")
    docker_digest = registry.digest("team/docker", "1.1") or ""
    is_new = docker_digest not in ("", second["digest"])
    proof.true("Docker's manifest of the same image has a digest of its own", is_new)
    scanned("an image in Docker's format", "team/docker", "1.1", "passed", docker_digest)

    proof.part("what is no push")
    skipped("a pull", "not_a_push", 1, lambda: registry.skopeo("inspect", "--tls-verify=false", f"docker://{registry.host}/team/app:1.0"))
    skipped("a delete", "not_a_push", 1, lambda: registry.skopeo("delete", "--tls-verify=false", f"docker://{registry.host}/team/app:1.0"))
    proof.equal("the registry has it no more", registry.digest("team/app", "1.0"), None)

    proof.part("a push while scanhook is down")
    proof.equal("scanhook ended in order", server.process.terminate(), 0)
    late = layout.image("late")
    layout.tag(late, "late")
    registry.push(layout, "late", "team/late")
    until("the registry's attempts while nobody listens", lambda: deliveries()["Errors"] > 0)
    down = server
    addresses = [urlsplit(it).netloc for it in (down.url, down.sqs.url)]
    server = start_server(
        shop, config, "--scanner-cli", cli.program, env=env, listen=addresses[0], sqs_listen=addresses[1]
    )
    scanned("the image that was pushed meanwhile", "team/late", "late", "passed", late["digest"])

    proof.part("only those")
    # The registry sends one event after the other, so once the last one is here, all are.
    last = layout.image("last")
    layout.tag(last, "last")
    registry.push(layout, "last", "team/last")
    scanned("the last image", "team/last", "last", "passed", last["digest"])
    both = [down, server]
    until("each event of the registry was taken", lambda: deliveries()["Events"] == len(taken(both)))
    metrics = deliveries()
    proof.equal("each event of the registry was taken", len(taken(both)), metrics["Successes"])
    proof.equal("none waits in the registry", metrics["Pending"], 0)
    proof.equal("scanhook refused none", [line for it in both for line in it.lines("delivery.refused")], [])
    queued = sum(line["queued"] for line in taken(both))
    proof.equal("as many scans were queued as are listed", queued, len({it["scan_id"] for it in server.scans()}))
    proof.equal("what was skipped had these reasons", set(reasons(both)), {"untagged", "not_an_image", "not_a_push"})
    images = [
        f"pull://{registry.host}/{repository}:{tag}@{digest}"
        for repository, tag, digest, outcome in expected
        if outcome not in ("passed: repeated", "skipped: not_an_image")
    ]
    runs_of = [next(it for it in run.split() if it.startswith("pull://")) for run in cli.runs()]
    proof.equal("the CLI was run once for each content, by its digest", sorted(runs_of), sorted(images))
    proof.equal("the queue is empty", server.sqs.depth(QUEUE), 0)
    proof.equal("so is the dead-letter queue", server.sqs.depth(DEAD_LETTERS), 0)


def taken(servers: list[Server]) -> list[dict[str, Any]]:
    """The deliveries that scanhook took, as its log tells."""
    return [line for it in servers for line in it.lines("delivery.taken")]


def reasons(servers: list[Server]) -> Counter[str]:
    """How many deliveries were skipped, by their reason."""
    return Counter(line["reason"] for line in taken(servers) if line.get("reason"))


def main() -> int:
    require_programs(docker_registry="docker-registry", skopeo="skopeo")
    require_binaries(SCANHOOK)
    return run_proof("docker-registry and skopeo: the scans that follow, and only those", prove)


if __name__ == "__main__":
    sys.exit(main())
