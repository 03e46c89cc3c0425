#!/usr/bin/env python3
"""`scanhook backfill` of Debian's docker-registry: exactly what the ledger does not know is queued, interrupted and resumed, and
nothing when it is run once more. Then of a registry of ours that gives seven names a page, points elsewhere with each link, wants
tokens, and asks for pauses.

`--tags N` says how many tags there are in the first one's three repositories (default 130; 520 is the long form). Needs the Debian
package docker-registry; `tests/proofs/run` builds scanhook. Python 3.11, standard library only.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.server
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from harness import (
    Disproved,
    Proof,
    Workshop,
    answers,
    base_environment,
    free_port,
    require_binaries,
    require_programs,
    run_proof,
    until,
)
from harness import http as ask
from oci import CONFIG, LAYER, MANIFEST
from serve import QUEUE, SCANHOOK, Server, start_server

TAGS = 130
USER, PASSWORD = "robot", "fake-registry-password"
SHAPED = 3
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
    answer = ask("PUT", url, {"content-type": media_type}, content)
    if answer.status != 201:
        raise Disproved(f"{url}: {answer.status} {answer.body!r}")


def push_blob(host: str, repository: str, content: bytes) -> dict[str, Any]:
    started = ask("POST", f"http://{host}/v2/{repository}/blobs/uploads/")
    location = started.headers["location"]
    put(f"{location}&digest={digest_of(content)}", "application/octet-stream", content)
    return {"digest": digest_of(content), "size": len(content)}


def repositories(tags: int) -> dict[str, int]:
    """How many tags each has."""
    return {"prod/api": tags - tags // 3 - 20, "prod/web": tags // 3, "dev/tool": 20}


def push_all(host: str, tags: int) -> dict[tuple[str, str], str]:
    """Pushes images that differ by an annotation, some under a signature's tag, and returns their digests by repository and tag."""
    pushed = {}
    for repository, count in repositories(tags).items():
        layer = {"mediaType": LAYER, **push_blob(host, repository, b"a layer")}
        config = json.dumps({"architecture": "amd64", "os": "linux", "created": BUILT}).encode()
        config = {"mediaType": CONFIG, **push_blob(host, repository, config)}
        for number in range(count):
            # Every tenth tag names what the one before it names.
            content = number - 1 if number % 10 == 9 else number
            manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
            body = json.dumps(manifest | {"annotations": {"number": f"{repository} {content}"}}).encode()
            tag = f"{number}-dev" if number % 25 == 24 else f"1.{number}"
            if number < SHAPED:
                tag = f"{digest_of(body).replace(':', '-')}.sig"
            put(f"http://{host}/v2/{repository}/manifests/{tag}", MANIFEST, body)
            pushed[repository, tag] = digest_of(body)
    return pushed


def is_wanted(repository: str, tag: str) -> bool:
    """By the source's configuration; that a tag has the form of a signature's decides nothing."""
    return repository != "dev/tool" and not tag.endswith("-dev")


def record(host: str, repository: str, digest: str, number: int, state: str) -> tuple[Any, ...]:
    verdict, reason = ("passed", None) if state == "done" else ("error", "network")
    absent = dict.fromkeys(["tag", "platform", "identity", "result_url", "cli_version", "actor", "detail"])
    told = absent | {
        "scan_id": f"01KNOWN{number}", "source": "debian", "image": f"{host}/{repository}", "digest": digest, "state": state,
        "verdict": verdict, "reason": reason, "policies_failed": [], "attempts": 1, "received_at": BUILT,
        "started_at": BUILT, "finished_at": BUILT,
    }  # fmt: skip
    return (told["scan_id"], "", 1, json.dumps(told), 1 << 52)


@dataclass
class Backfill:
    """The command, on the data of a server."""

    shop: Workshop
    server: Server
    source: str
    config: Path
    data: Path

    @property
    def command(self) -> list[str | Path]:
        return [SCANHOOK, "backfill", self.source, "--config", self.config, "--data-dir", self.data, "--output", "json"]

    def run(self, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
        env, command = self.server.env, [*self.command, *arguments]
        ran = subprocess.run(command, env=env, cwd=self.shop.directory, capture_output=True, text=True, timeout=600)
        if ran.returncode != code:
            raise Disproved(f"backfill {arguments}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}")
        return json.loads(ran.stdout) if ran.stdout else {"stderr": ran.stderr}

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        env, quiet = self.server.env, subprocess.DEVNULL
        return subprocess.Popen([*self.command, *arguments], env=env, cwd=self.shop.directory, stdout=quiet, stderr=quiet)

    def queued(self) -> Counter[tuple[str, str]]:
        """What is in the queue, by repository and digest."""
        found: Counter[tuple[str, str]] = Counter()
        after = ""
        while True:
            page = ask("GET", f"{self.server.sqs.queue_url(QUEUE)}{after}").json()
            for message in page["messages"]:
                image = json.loads(message["body"])["image"]
                found[image["repository"], image["digest"]] += 1
            if not page["next"]:
                return found
            after = f"?after={page['next']}"

    def enter(self, *rows: tuple[Any, ...]) -> None:
        """Writes records into the ledger."""
        with sqlite3.connect(self.server.data / "ledger.sqlite", timeout=30) as ledger:
            statement = "INSERT INTO scan (scan_id, platform, received_at, record, expires) VALUES (?, ?, ?, ?, ?)"
            ledger.executemany(statement, rows)


def real_registry(proof: Proof, shop: Workshop, tags: int) -> Server:
    host = start_registry(shop)
    pushed = push_all(host, tags)
    filters = "include: ['prod/**', 'dev/**'], exclude: ['dev/tool'], tags: { exclude: ['*-dev'] }"
    config = f"""
sources:
  debian: {{ kind: distribution, registry: "{host}", {filters}, auth: [{{ type: bearer, secret: 'env:PROOF_TOKEN' }}] }}
registries:
  "{host}": {{ insecure: true }}
scanner: {{ api_token: "env:PROOF_TOKEN" }}
"""
    env = base_environment(PROOF_TOKEN="fake-token-0123456789", PROOF_PASSWORD=PASSWORD)
    server = start_server(shop, config, "--no-scan", env=env)
    backfill = Backfill(shop, server, "debian", server.config, server.data)
    run, queued = backfill.run, backfill.queued
    wanted = {(repository, digest) for (repository, tag), digest in pushed.items() if is_wanted(repository, tag)}
    ordered = sorted(wanted)
    done, dead = ordered[::5], ordered[1::25]
    states = [(it, "done") for it in done] + [(it, "dead_letter") for it in dead]
    backfill.enter(*(record(host, *it, number, state) for number, (it, state) in enumerate(states)))
    unknown = wanted - set(done)

    proof.part("looking")
    planned = run("--dry-run")
    proof.equal("all tags of all repositories are seen", (planned["repositories"], planned["tags"]), (3, len(pushed)))
    filtered = sum(not is_wanted(*it) for it in pushed)
    proof.equal("the source's filters count, and a tag's form does not", planned["filtered"], filtered)
    proof.equal("what has no verdict would be queued", planned["queued"], len(unknown))
    proof.equal("with --only-missing no dead letters", run("--dry-run", "--only-missing")["queued"], len(unknown - set(dead)))
    proof.equal("what was built before --since is left out", run("--dry-run", "--since", "2026-11-02T00:00:00Z")["queued"], 0)
    proof.equal("what was built after it is not", run("--dry-run", "--since", "2026-10-31T00:00:00Z")["queued"], len(unknown))
    some = run("--dry-run", "--repositories", "prod/*")
    proof.equal("a glob chooses repositories", (some["repositories"], some["tags"]), (2, tags - 20))
    one = run("--dry-run", "--repositories", "dev/tool")
    told = {name: one[name] for name in ("repositories", "tags", "filtered", "queued")}
    expected = {"repositories": 1, "tags": 20, "filtered": 20, "queued": 0}
    proof.equal("so does a name, without the catalog, within the source's filters", told, expected)
    proof.equal("nothing was queued", queued(), Counter())
    proof.equal("nothing was written down", list(server.data.glob("backfill-*")), [])

    proof.part("what can't be done")
    proof.equal("a repository that is not there ends it with 1", list(run("--repositories", "prod/none", code=1)["errors"]), [f"{host}/prod/none"])
    stranger = Backfill(shop, server, "nobody", server.config, server.data)
    proof.true("a strange source with 2", "no source nobody" in stranger.run(code=2)["stderr"])
    empty = Backfill(shop, server, "debian", server.config, shop.directory / "empty")
    elsewhere = empty.run("--queue-url", "http://127.0.0.1:1/000000000000/q", code=2)
    proof.true("so does a ledger that is not there", "no ledger" in elsewhere["stderr"], elsewhere)

    proof.part("interrupted and resumed")
    step = len(unknown) // 6
    for how in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM):
        before = queued().total()
        popen = backfill.start("--rate", str(max(10, step // 2)))
        until("some are queued", lambda: queued().total() >= before + step)
        second = run("--rate", "500", code=2) if how == signal.SIGINT else None
        popen.send_signal(how)
        code = popen.wait(30)
        if second:
            proof.true("meanwhile a second one is refused", "another backfill of this source" in second["stderr"], second)
        proof.equal(f"{how.name} ends it", code, -9 if how == signal.SIGKILL else 1)
        proof.true("with a part queued", before < queued().total() < len(unknown), queued().total())
    finished = run("--rate", "500")
    proof.equal("the last run queues the rest", finished["errors"], {})
    proof.equal("exactly the unknown contents are queued", set(queued()), unknown)
    twice = queued().total() - len(unknown)
    proof.true("at most a batch twice, for the SIGKILL", twice <= 10, twice)
    proof.equal("once more queues nothing", run()["queued"], 0)
    proof.equal("and leaves the queue as it was", queued().total() - len(unknown), twice)
    [first, *_] = map(json.loads, (server.data / "backfill-debian.jsonl").read_text().splitlines())
    repository = first["image"].removeprefix(f"{host}/")
    failed = record(host, repository, first["digest"], 9999, "dead_letter")
    backfill.enter((first["scan_id"], *failed[1:3], failed[3].replace("01KNOWN9999", first["scan_id"]), failed[4]))
    proof.equal("what it queued and failed is queued once more", run()["queued"], 1)
    proof.equal("and not again", run()["queued"], 0)
    return server


@dataclass
class Difficult:
    """A registry that wants tokens of its own token server, gives seven names a page and links elsewhere for the next, has neither a
    digest's header nor tags for one of its repositories, refuses HEAD of some, and asks for a pause now and then.
    """

    tags: list[str]
    elsewhere: str = ""
    link: str = '<{}>; rel="next"'
    pauses: int = 0
    """How often it still asks for one, of each kind of question."""
    list_pauses: int = 1
    asked: list[str] = field(default_factory=list)
    seen_by_realm: list[str | None] = field(default_factory=list)

    @staticmethod
    def manifest(tag: str) -> bytes:
        none = {"mediaType": CONFIG, "digest": digest_of(b""), "size": 0}
        return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": none, "layers": [], "annotations": {"tag": tag}}).encode()

    def answer(self, method: str, path: str, query: dict[str, list[str]], headers: Any) -> tuple[int, dict[str, str], bytes]:
        host, authorization = headers["host"], headers["authorization"]
        if path == "/token":
            self.seen_by_realm.append(authorization)
            [scope] = query["scope"]
            return 200, {}, json.dumps({"token": f"fake-token-for-{scope}"}).encode()
        self.asked.append(path)
        scope = "registry:catalog:*" if path == "/v2/_catalog" else f"repository:{path.split('/')[2]}:pull"
        if authorization != f"Bearer fake-token-for-{scope}":
            return 401, {"www-authenticate": f'Bearer realm="http://{host}/token",service="difficult"'}, b""
        if self.pauses and "/manifests/" in path:
            self.pauses -= 1
            return 429, {"retry-after": "6"}, b""
        if self.list_pauses and path.endswith("/tags/list"):
            self.list_pauses -= 1
            return 429, {"retry-after": "6"}, b""
        match path.removeprefix("/v2/").split("/"):
            case ["_catalog"]:
                return self.page("repositories", ["app", "untagged"], path, query)
            case ["app", "tags", "list"]:
                return self.page("tags", self.tags, path, query)
            case ["app", "manifests", "1.7" | "1.8"] if method == "HEAD":
                return 404, {}, b""
            case ["app", "manifests", tag] if tag in self.tags:
                return 200, {"content-type": MANIFEST}, self.manifest(tag)
            case _:
                return 404, {}, b"{}"

    def page(self, name: str, names: list[str], path: str, query: dict[str, list[str]]) -> tuple[int, dict[str, str], bytes]:
        [last] = query.get("last", [""])
        rest = [it for it in names if it > last]
        headers = {}
        if len(rest) > 7:
            headers["link"] = self.link.format(f"http://{self.elsewhere}{path}?n=7&last={rest[6]}&x=a,b")
        return 200, headers, json.dumps({name: rest[:7]}).encode()


@contextmanager
def serving(answer: Any) -> Iterator[str]:
    """An HTTP server of this process; tells its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            status, headers, body = answer(self.command, url.path, parse_qs(url.query), self.headers)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def difficult_registry(proof: Proof, shop: Workshop, server: Server) -> None:
    proof.part("a difficult registry")
    registry = Difficult(sorted(f"1.{it}" for it in range(30)), pauses=1)
    strangers: list[str] = []

    def stranger(_method: str, path: str, _query: Any, _headers: Any) -> tuple[int, dict[str, str], bytes]:
        strangers.append(path)
        return 404, {}, b""

    with serving(registry.answer) as host, serving(stranger) as registry.elsewhere:
        config = shop.directory / "difficult.yaml"
        config.write_text(f"""
sources:
  difficult: {{ kind: distribution, registry: "{host}", auth: [{{ type: bearer, secret: 'env:PROOF_TOKEN' }}] }}
registries:
  "{host}": {{ insecure: true, pulls: 1, credentials: {{ type: basic, username: {USER}, password: "env:PROOF_PASSWORD" }} }}
scanner: {{ api_token: "env:PROOF_TOKEN" }}
""")
        backfill = Backfill(shop, server, "difficult", config, server.data)
        before, began = backfill.queued(), time.monotonic()
        done = backfill.run("--rate", "500")
        took = time.monotonic() - began
        expected = {("app", digest_of(registry.manifest(it))) for it in registry.tags}
        proof.equal("every page is read, a repository without tags is none, and a digest is made of what has none", (done["queued"], done["errors"]), (30, {}))
        proof.equal("each content is queued once, also where HEAD gets 404", backfill.queued() - before, Counter(expected))
        proof.true("the pauses that it asked for were kept", took >= 12, took)
        proof.equal("where its links pointed, nobody was asked", strangers, [])
        basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        proof.equal("its token server was shown its credentials", set(registry.seen_by_realm), {f"Basic {basic}"})
        registry.link = "{}"
        in_doubt = backfill.run("--repositories", "app", code=1)
        problem = f"{host} sends a Link header that can't be read"
        proof.equal("a list whose end is in doubt is an error", (in_doubt["queued"], in_doubt["errors"]), (0, {f"{host}/app": problem}))
        registry.link = '<{}>; rel="next"'
        registry.tags.append("2.0")
        registry.pauses = 10**6
        registry.asked.clear()
        popen = backfill.start()
        until("it waits", lambda: any("/manifests/" in it for it in registry.asked))
        popen.send_signal(signal.SIGINT)
        began = time.monotonic()
        proof.equal("Ctrl-C ends a wait", (popen.wait(30), time.monotonic() - began < 5), (1, True))
        journal = (server.data / "backfill-difficult.jsonl").read_text()
        proof.true("no credential is written down", PASSWORD not in journal and basic not in journal)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tags", type=int, default=TAGS)
    options = parser.parse_args()
    require_programs(docker_registry="docker-registry")
    require_binaries(SCANHOOK)

    def prove(proof: Proof, shop: Workshop) -> None:
        server = real_registry(proof, shop, options.tags)
        difficult_registry(proof, shop, server)

    return run_proof("backfill of registries", prove)


if __name__ == "__main__":
    sys.exit(main())
