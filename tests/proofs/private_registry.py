#!/usr/bin/env python3
"""Private registries: Debian's docker-registry behind a password, behind a token server and behind a certificate of its own.

What scanhook makes of a registry's answers is tested in `functions/scanner/tests/it/{resolve,cases,credentials}.rs`. Needs the Debian
packages docker-registry, skopeo and openssl; `tests/proofs/run` builds scanhook.
"""

from __future__ import annotations

import base64
import crypt
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import oci
from docker_registry import Registry, start_registry
from harness import Proof, Workshop, base_environment, require_binaries, require_programs, run_proof, serving, until
from real_registry import outcome, record_runs
from serve import SCANHOOK, start_server

USER, PASSWORD = "robot", "fake-registry-password"
ENV = base_environment(PROOF_TOKEN="fake-secret-of-a-proof-0123456789", PROOF_API_TOKEN="fake-api-token", PROOF_PASSWORD=PASSWORD)
LOGIN = f', credentials: {{ type: basic, username: {USER}, password: "env:PROOF_PASSWORD" }}'


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

    def answer(self, _method: str, _path: str, query: dict[str, list[str]], headers: Any) -> tuple[int, dict[str, str], bytes]:
        authorization = headers["authorization"]
        self.seen.append(authorization)
        expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if authorization != f"Basic {expected}":
            return 401, {}, b"{}"
        return 200, {}, json.dumps({"token": self._token(query.get("scope", []))}).encode()

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


def insecure(host: str, more: str = "") -> str:
    return f'  "{host}": {{ insecure: true{more} }}\n'


def configuration(host: str, entries: str) -> str:
    """A source whose deliveries have only tags, so that the registry must be asked."""
    source = f'kind: docker-hub, registry: "{host}", auth: [{{ type: path_token, secret: "env:PROOF_TOKEN" }}]'
    return (
        f'sources: {{ tags: {{ {source} }} }}\nregistries:\n{entries}\n'
        'scanner: { api_token: "env:PROOF_API_TOKEN" }\nretry: { attempts: 6, base: 1s, cap: 1s }\n'
    )


def prove(proof: Proof, shop: Workshop) -> None:
    layout = oci.Layout(shop.directory / "private-layout")
    image = layout.image("private")
    layout.tag(image, "1.0")
    cli = record_runs(shop.directory / "private-cli")
    login = ["--dest-creds", f"{USER}:{PASSWORD}"]

    def scan(registry: Registry, entries: str) -> dict[str, Any]:
        server = start_server(shop, configuration(registry.host, entries), "--scanner-cli", cli.program, env=ENV)
        [sent] = server.send("tags", f"{registry.host}/team/private:1.0")
        [queued] = sent["answer"]["queued"]

        def settled() -> list[dict[str, Any]]:
            return [it for it in server.scans() if it["scan_id"] == queued["scan_id"] and it["state"] in ("done", "dead_letter")]

        [record] = until("the scan", settled)
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
    registry = start_registry(shop, "password", auth)
    registry.login = login
    registry.push(layout, "1.0", "team/private")
    check("with its password it is scanned", registry, insecure(registry.host, LOGIN), "passed")
    check("without it is not", registry, insecure(registry.host), "error: unauthorized")

    proof.part("a registry behind a token server")
    certificate, key = make_authority(shop, "tokens")
    tokens = TokenServer(certificate, key)
    with serving(tokens.answer) as tokens_host:
        realm = f"http://{tokens_host}/token"
        auth = f"auth: {{ token: {{ realm: '{realm}', service: proof, issuer: proof, rootcertbundle: {certificate} }} }}"
        registry = start_registry(shop, "tokens", auth)
        registry.login = login
        registry.push(layout, "1.0", "team/private")
        token_host = insecure(tokens_host)
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
    registry = start_registry(shop, "tls", server=tls)
    registry.push(layout, "1.0", "team/private")
    check("with its certificate it is trusted", registry, f'  "{registry.host}": {{ ca: "file:{authority[0]}" }}\n', "passed")
    check("without it is not", registry, f'  "{registry.host}": {{}}\n', "error: untrusted_tls")


def main() -> int:
    require_programs(docker_registry="docker-registry", skopeo="skopeo", openssl="openssl")
    require_binaries(SCANHOOK)
    return run_proof("docker-registry behind a password, a token server and a certificate of its own", prove)


if __name__ == "__main__":
    sys.exit(main())
