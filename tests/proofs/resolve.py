#!/usr/bin/env python3
"""Each content once: Debian's docker-registry holds what skopeo pushed, and scanhook scans what the registry says is there.

Platforms of an index, artifacts, tags that move in flight, repeated deliveries; a private registry behind a password, behind a
token server and behind a certificate of its own. Needs the Debian packages docker-registry, skopeo and openssl;
`tests/proofs/run` builds scanhook.
"""

from __future__ import annotations

import base64
import crypt
import http.server
import json
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import oci
from harness import (
    Proof,
    Workshop,
    base_environment,
    free_port,
    listens,
    require_binaries,
    require_programs,
    run_proof,
    until,
)
from real_registry import record_runs
from serve import DEAD_LETTERS, QUEUE, SCANHOOK, Server, start_server

USER, PASSWORD = "robot", "fake-registry-password"
ENV = base_environment(
    PROOF_TOKEN="fake-secret-of-a-proof-0123456789",
    PROOF_API_TOKEN="fake-api-token",
    PROOF_PASSWORD=PASSWORD,
)


@dataclass
class Registry:
    """A docker-registry without notifications."""

    shop: Workshop
    host: str
    options: list[str]

    def push(self, layout: oci.Layout, tag: str, repository: str, to: str | None = None) -> None:
        source, target = f"oci:{layout.directory}:{tag}", f"docker://{self.host}/{repository}:{to or tag}"
        command = ["skopeo", "--insecure-policy", "copy", "--all", *self.options, source, target]
        environment = base_environment(HOME=str(self.shop.directory))
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"skopeo copy: {done.stderr}")


def start_registry(shop: Workshop, name: str, auth: str = "", tls: str = "", options: list[str] | None = None) -> Registry:
    port = free_port()
    config = shop.directory / f"{name}.yml"
    config.write_text(f"""
version: 0.1
log: {{ level: warn }}
storage: {{ filesystem: {{ rootdirectory: "{shop.directory}/{name}" }} }}
http: {{ addr: "127.0.0.1:{port}"{tls} }}
{auth}
""")
    shop.start(name, ["docker-registry", "serve", config])
    until(f"{name} listens", lambda: listens(port))
    return Registry(shop, f"127.0.0.1:{port}", ["--dest-tls-verify=false", *(options or [])])


def openssl(*arguments: str | Path, stdin: bytes | None = None) -> bytes:
    command = ["openssl", *(str(it) for it in arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout


def make_authority(shop: Workshop, name: str) -> tuple[Path, Path]:
    """A certificate that nobody else signed and that may sign others, and its key."""
    certificate, key = shop.directory / f"{name}.pem", shop.directory / f"{name}.key"
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
        *("-addext", "basicConstraints=critical,CA:TRUE", "-keyout", key, "-out", certificate),
    )
    return certificate, key


def make_certificate(shop: Workshop, authority: tuple[Path, Path]) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that this authority signed, and its key."""
    certificate, key, request = (shop.directory / f"server.{it}" for it in ("pem", "key", "csr"))
    openssl(
        *("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=server", "-keyout", key, "-out", request),
        *("-addext", "subjectAltName=IP:127.0.0.1"),
    )
    openssl(
        *("x509", "-req", "-days", "2", "-copy_extensions", "copy", "-CAcreateserial"),
        *("-CA", authority[0], "-CAkey", authority[1], "-in", request, "-out", certificate),
    )
    return certificate, key


@dataclass
class TokenServer:
    """Gives tokens that a docker-registry takes to whoever logs in, and writes down what it is shown."""

    certificate: Path
    key: Path
    seen: list[str | None] = field(default_factory=list)
    port: int = 0

    def answer(self, authorization: str | None, query: str) -> tuple[int, dict[str, str]]:
        self.seen.append(authorization)
        expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if authorization != f"Basic {expected}":
            return 401, {}
        scopes = urllib.parse.parse_qs(query).get("scope", [])
        return 200, {"token": self._token(scopes)}

    def _token(self, scopes: list[str]) -> str:
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, rest = scope.split(":", 1)
            name, actions = rest.rsplit(":", 1)
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        der = openssl("x509", "-in", self.certificate, "-outform", "der")
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        claims = {"iss": "proof", "sub": USER, "aud": "proof", "nbf": now - 60, "iat": now, "exp": now + 300, "jti": "1"}
        signed = ".".join(_base64url(json.dumps(it).encode()) for it in (header, {**claims, "access": access}))
        return f"{signed}.{_base64url(openssl('dgst', '-sha256', '-sign', self.key, stdin=signed.encode()))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@contextmanager
def serving(tokens: TokenServer) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = urllib.parse.urlsplit(self.path).query
            status, body = tokens.answer(self.headers.get("authorization"), query)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    tokens.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def configuration(registry: Registry, entries: str, platforms: str = "[]") -> str:
    def source(name: str, kind: str, more: str = "") -> str:
        auth = '[{ type: path_token, secret: "env:PROOF_TOKEN" }]'
        return f'  {name}: {{ kind: {kind}, registry: "{registry.host}", auth: {auth}{more} }}\n'

    return (
        "sources:\n"
        + source("digests", "distribution")
        + source("tags", "docker-hub")
        + source("platforms", "distribution", f", platforms: {platforms}")
        + f"registries:\n{entries}\n"
        + 'scanner: { api_token: "env:PROOF_API_TOKEN" }\nretry: { attempts: 6, base: 1s, cap: 1s }\n'
    )


def insecure(host: str, more: str = "") -> str:
    return f'  "{host}": {{ insecure: true{more} }}\n'


LOGIN = f', credentials: {{ type: basic, username: {USER}, password: "env:PROOF_PASSWORD" }}'


def outcome(record: dict[str, Any]) -> str:
    return record["verdict"] if record["reason"] is None else f"{record['verdict']}: {record['reason']}"


def settled(server: Server, scan_id: str, count: int) -> list[dict[str, Any]]:
    """The records of a scan request once it is done, by platform."""

    def look() -> list[dict[str, Any]]:
        records = [it for it in server.scans() if it["scan_id"] == scan_id]
        is_settled = len(records) == count and all(it["state"] in ("done", "dead_letter") for it in records)
        return sorted(records, key=lambda it: it["platform"] or "") if is_settled else []

    return until(f"the scan {scan_id}", look)


def deliver(server: Server, source: str, image: str) -> str:
    [sent] = server.send(source, image)
    [queued] = sent["answer"]["queued"]
    return queued["scan_id"]


def public(proof: Proof, shop: Workshop) -> None:
    registry = start_registry(shop, "public")
    cli = record_runs(shop.directory / "public-cli")
    layout = oci.Layout(shop.directory / "layout")
    config = configuration(registry, insecure(registry.host), "[linux/amd64, linux/s390x]")
    arguments = ("--scanner-cli", cli.program)
    server = start_server(shop, config, *arguments, env=ENV)

    proof.part("an index with three platforms of which two are wanted")
    children = {it: layout.image("multi", it) for it in ("amd64", "arm64", "s390x")}
    index = layout.index(*children.values())
    layout.tag(index, "multi")
    registry.push(layout, "multi", "team/app")
    image = f"{registry.host}/team/app:multi@{index['digest']}"
    records = settled(server, deliver(server, "platforms", image), 2)
    told = [(it["platform"], it["digest"], it["index"], outcome(it)) for it in records]
    expected = [
        (f"linux/{it}", children[it]["digest"], index["digest"], "passed") for it in ("amd64", "s390x")
    ]
    proof.equal("two scans, by their own digests", told, expected)
    pulled = [next(it for it in run.split() if it.startswith("pull://")) for run in cli.runs()]
    expected = [f"pull://{registry.host}/team/app:multi@{digest}" for _, digest, _, _ in told]
    proof.equal("the CLI pulled those and no others", sorted(pulled), sorted(expected))
    [usual] = settled(server, deliver(server, "digests", image), 1)
    told = (usual["platform"], usual["digest"], outcome(usual))
    proof.equal("without a wish it is linux/amd64, once", told, ("linux/amd64", children["amd64"]["digest"], "passed: repeated"))

    proof.part("what is no image")
    first = layout.image("first")
    layout.tag(first, "1.0")
    registry.push(layout, "1.0", "team/app")
    artifacts = {
        "signature": layout.signature(first["digest"]),
        "chart": layout.chart("chart"),
        "sbom": layout.artifact(oci.CONFIG, "application/spdx+json", "{}"),
        "cache": layout.artifact("application/vnd.buildkit.cacheconfig.v0", oci.LAYER, "cache"),
        "unknown": layout.artifact("application/vnd.nobody.knows.v1+json", "application/octet-stream", "x"),
    }
    before = len(cli.runs())
    for tag, artifact in artifacts.items():
        layout.tag(artifact, tag)
        registry.push(layout, tag, "team/artifacts")
        # Docker Hub's payload does not tell what was pushed.
        [record] = settled(server, deliver(server, "tags", f"{registry.host}/team/artifacts:{tag}"), 1)
        told = (outcome(record), record["digest"])
        proof.equal(f"{tag}: skipped as {record['detail']}", told, ("skipped: not_an_image", artifact["digest"]))
    proof.equal("the CLI was run for none of them", len(cli.runs()), before)

    proof.part("six deliveries of one push")
    image = f"{registry.host}/team/app:1.0"
    sources = ["digests", "tags", "digests", "tags", "digests", "tags"]
    images = [f"{image}@{first['digest']}" if it == "digests" else image for it in sources]
    ids = [deliver(server, *it) for it in zip(sources, images, strict=True)]
    outcomes = sorted(outcome(settled(server, it, 1)[0]) for it in ids)
    proof.equal("are one scan", outcomes, ["passed"] + ["passed: repeated"] * 5)
    proof.equal("and one run of the CLI", len(cli.runs()), before + 1)

    proof.part("a tag that moves in flight")
    server.process.terminate()
    waiting = start_server(shop, config, "--no-scan", env=ENV)
    by_digest = deliver(waiting, "digests", f"{image}@{first['digest']}")
    by_tag = deliver(waiting, "tags", image)
    waiting.process.terminate()
    second = layout.image("second")
    layout.tag(second, "2.0")
    registry.push(layout, "2.0", "team/app", to="1.0")
    runs = len(cli.runs())
    server = start_server(shop, config, *arguments, env=ENV)
    [record] = settled(server, by_digest, 1)
    told = (record["digest"], record["tag_moved"])
    proof.equal("an event with a digest is about that digest, and the move is told", told, (first["digest"], True))
    [record] = settled(server, by_tag, 1)
    told = (record["digest"], record["tag_moved"], outcome(record))
    proof.equal("an event without one is about the new content", told, (second["digest"], None, "passed"))
    proof.equal("which is scanned once", len(cli.runs()), runs + 1)
    lines = [it for it in server.lines("scan.finished") if it["scan_id"] == by_digest]
    proof.equal("the log tells the move too", [it["tag_moved"] for it in lines], [True])
    proof.equal("nothing is left", (server.sqs.depth(QUEUE), server.sqs.depth(DEAD_LETTERS)), (0, 0))
    server.process.terminate()


def private(proof: Proof, shop: Workshop) -> None:
    layout = oci.Layout(shop.directory / "private-layout")
    image = layout.image("private")
    layout.tag(image, "1.0")
    cli = record_runs(shop.directory / "private-cli")
    login = ["--dest-creds", f"{USER}:{PASSWORD}"]

    def scan(registry: Registry, entries: str) -> dict[str, Any]:
        """What comes of a push that is told by its tag only, so that the registry must be asked."""
        server = start_server(shop, configuration(registry, entries), "--scanner-cli", cli.program, env=ENV)
        [record] = settled(server, deliver(server, "tags", f"{registry.host}/team/private:1.0"), 1)
        server.process.terminate()
        proof.true("the password is nowhere in the log", PASSWORD not in server.process.output())
        return record

    def check(claim: str, registry: Registry, entries: str, expected: str) -> None:
        record = scan(registry, entries)
        digest = image["digest"] if expected.startswith("passed") else None
        proof.equal(f"{claim}: {record['detail']}", (outcome(record), record["digest"]), (expected, digest))

    proof.part("a registry behind a password")
    htpasswd = shop.directory / "htpasswd"
    htpasswd.write_text(f"{USER}:{crypt.crypt(PASSWORD, crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16))}\n")
    auth = f"auth: {{ htpasswd: {{ realm: proof, path: {htpasswd} }} }}"
    registry = start_registry(shop, "password", auth, options=login)
    registry.push(layout, "1.0", "team/private")
    check("with its password it is scanned", registry, insecure(registry.host, LOGIN), "passed")
    check("without it is not", registry, insecure(registry.host), "error: unauthorized")

    proof.part("a registry behind a token server")
    certificate, key = make_authority(shop, "tokens")
    tokens = TokenServer(certificate, key)
    with serving(tokens):
        realm = f"http://127.0.0.1:{tokens.port}/token"
        auth = f"auth: {{ token: {{ realm: '{realm}', service: proof, issuer: proof, rootcertbundle: {certificate} }} }}"
        registry = start_registry(shop, "tokens", auth, options=login)
        registry.push(layout, "1.0", "team/private")
        token_host = insecure(f"127.0.0.1:{tokens.port}")
        tokens.seen.clear()
        check("a realm that is configured gets the login", registry, insecure(registry.host, LOGIN) + token_host, "passed")
        proof.true("as Basic", bool(tokens.seen) and all(it and it.startswith("Basic ") for it in tokens.seen), tokens.seen)
        tokens.seen.clear()
        check("one that is not is not even asked", registry, insecure(registry.host, LOGIN), "error: unauthorized")
        proof.equal("it was not asked", tokens.seen, [])
        allowed = insecure(registry.host, LOGIN + ", allow: [127.0.0.0/8]")
        check("one in an allowed network is asked", registry, allowed, "error: unauthorized")
        proof.true("without the login", bool(tokens.seen) and set(tokens.seen) == {None}, tokens.seen)

    proof.part("a registry with a certificate of its own")
    authority = make_authority(shop, "authority")
    certificate, key = make_certificate(shop, authority)
    tls = f", tls: {{ certificate: {certificate}, key: {key} }}"
    registry = start_registry(shop, "tls", tls=tls)
    registry.push(layout, "1.0", "team/private")
    check("with its certificate it is trusted", registry, f'  "{registry.host}": {{ ca: "file:{authority[0]}" }}\n', "passed")
    check("without it is not", registry, f'  "{registry.host}": {{}}\n', "error: untrusted_tls")


def prove(proof: Proof, shop: Workshop) -> None:
    public(proof, shop)
    private(proof, shop)


def main() -> int:
    require_programs(docker_registry="docker-registry", skopeo="skopeo", openssl="openssl")
    require_binaries(SCANHOOK)
    return run_proof("docker-registry: each content once, with the credentials of its host", prove)


if __name__ == "__main__":
    sys.exit(main())
