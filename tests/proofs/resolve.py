#!/usr/bin/env python3
"""Each content once: Debian's docker-registry holds what skopeo pushed, and scanhook scans what the registry says is there.

Platforms of an index, artifacts, tags that move in flight, repeated deliveries; a private registry behind a password, behind a
token server and behind a certificate of its own; and, in a registry of ours, manifests, indexes and answers as people met them.
Needs the Debian packages docker-registry, skopeo and openssl; `tests/proofs/run` builds scanhook.
"""

from __future__ import annotations

import base64
import crypt
import hashlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import oci
from backfill import digest_of, serving
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
from real_registry import SOCI, Cli, listed, record_runs
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


def configuration(host: str, entries: str, **platforms: str) -> str:
    """Sources whose deliveries have digests or only tags, and those that want platforms, by their names."""

    def source(name: str, kind: str, more: str = "") -> str:
        auth = '[{ type: path_token, secret: "env:PROOF_TOKEN" }]'
        return f'  {name}: {{ kind: {kind}, registry: "{host}", auth: {auth}{more} }}\n'

    return (
        "sources:\n"
        + source("digests", "distribution")
        + source("tags", "docker-hub")
        + "".join(source(name, "distribution", f", platforms: {it}") for name, it in platforms.items())
        + f"registries:\n{entries}\n"
        + 'scanner: { api_token: "env:PROOF_API_TOKEN" }\nretry: { attempts: 6, base: 1s, cap: 1s }\n'
    )


def insecure(host: str, more: str = "") -> str:
    return f'  "{host}": {{ insecure: true{more} }}\n'


DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
SCHEMA_1_TYPE = "application/vnd.docker.distribution.manifest.v1"
SCHEMA_1 = {
    "schemaVersion": 1,
    "name": "old/app",
    "tag": "1",
    "architecture": "amd64",
    "fsLayers": [{"blobSum": digest_of(b"a layer")}],
    "history": [{"v1Compatibility": "{}"}],
    "signatures": [{"header": {}, "signature": "fake", "protected": "fake"}],
}

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
    config = configuration(registry.host, insecure(registry.host), platforms="[linux/amd64, linux/s390x]")
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
        server = start_server(shop, configuration(registry.host, entries), "--scanner-cli", cli.program, env=ENV)
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
    with serving(tokens.answer) as tokens_host:
        realm = f"http://{tokens_host}/token"
        auth = f"auth: {{ token: {{ realm: '{realm}', service: proof, issuer: proof, rootcertbundle: {certificate} }} }}"
        registry = start_registry(shop, "tokens", auth, options=login)
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
    registry = start_registry(shop, "tls", tls=tls)
    registry.push(layout, "1.0", "team/private")
    check("with its certificate it is trusted", registry, f'  "{registry.host}": {{ ca: "file:{authority[0]}" }}\n', "passed")
    check("without it is not", registry, f'  "{registry.host}": {{}}\n', "error: untrusted_tls")


@dataclass
class Shapes:
    """A registry that holds manifests as they come, one repository each, under the tag `1` and by their digests."""

    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    heads: dict[str, int] = field(default_factory=dict)
    """The status of the answer to HEAD, where it is not 200."""
    digests: dict[str, str] = field(default_factory=dict)
    """The digest of the tag, where it is not that of the content."""

    def push(self, repository: str, content: Any, digest: str | None = None) -> oci.Descriptor:
        """Puts a manifest there and moves the tag to it; as an entry of an index it has the digest that is given."""
        body = json.dumps(content).encode()
        digest = digest or digest_of(body)
        media_type = content.get("mediaType", oci.MANIFEST)
        for reference in ("1", digest):
            self.manifests[repository, reference] = (media_type, body)
        return {"mediaType": media_type, "digest": digest, "size": len(body)}

    def answer(self, method: str, path: str, _query: Any, _headers: Any) -> tuple[int, dict[str, str], bytes]:
        _, _, *repository, _, reference = path.split("/")
        name = "/".join(repository)
        if (name, reference) not in self.manifests:
            return 404, {}, b"{}"
        media_type, body = self.manifests[name, reference]
        status = self.heads.get(name, 200) if method == "HEAD" else 200
        digest = self.digest(name) if reference == "1" else reference
        return status, {"content-type": media_type, "docker-content-digest": digest}, body

    def digest(self, repository: str) -> str:
        """The digest that the tag names."""
        return self.digests.get(repository) or digest_of(self.manifests[repository, "1"][1])


def manifest(content: str, config: str = oci.CONFIG, layer: str = oci.LAYER, **more: Any) -> dict[str, Any]:
    """The manifest of an image, or of something else by its types. Nobody pulls what it lists."""
    blob = {"digest": digest_of(content.encode()), "size": 7}
    layers = [{"mediaType": layer, **blob}]
    return {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": {"mediaType": config, **blob}, "layers": layers, **more}


def index(*entries: oci.Descriptor) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": list(entries)}


def shapes(proof: Proof, shop: Workshop) -> None:
    registry, cli = Shapes(), record_runs(shop.directory / "shapes-cli")
    with serving(registry.answer) as host:
        config = configuration(host, insecure(host), arm64="[linux/arm64]", armv7="[linux/arm/v7]")
        server = start_server(shop, config, "--scanner-cli", cli.program, env=ENV)
        Shaped(proof, registry, server, cli, host).prove()
        server.process.terminate()


@dataclass
class Shaped:
    """What comes of manifests, indexes and registries as people met them."""

    proof: Proof
    registry: Shapes
    server: Server
    cli: Cli
    host: str

    def check(self, claim: str, source: str, repository: str, *expected: str | None, comes: str = "passed") -> None:
        """Claims what comes of a delivery: these digests, if any is known, each with this outcome."""
        pin = "" if source == "tags" else f"@{self.registry.digest(repository)}"
        scan_id = deliver(self.server, source, f"{self.host}/{repository}:1{pin}")
        records = settled(self.server, scan_id, len(expected))
        outcomes = sorted((it["digest"], outcome(it)) for it in records)
        self.proof.equal(f"{claim}: {comes}", outcomes, sorted((it, comes) for it in expected))
        images = [f"pull://{self.host}/{repository}:1@{it}" for it in expected if comes == "passed"]
        self.proof.equal(f"{claim}: the CLI pulled what passed", self.pulled(repository), sorted(images))

    def pulled(self, repository: str) -> list[str]:
        pulled = [word for run in self.cli.runs() for word in run.split() if word.startswith("pull://")]
        return sorted(it for it in pulled if it.startswith(f"pull://{self.host}/{repository}:"))

    def prove(self) -> None:
        push, proof = self.registry.push, self.proof

        proof.part("registries that answer HEAD otherwise")
        for status in (404, 405, 501, 400, 403):
            name = f"head/{status}"
            image = push(name, manifest(name))
            self.registry.heads[name] = status
            self.check(f"HEAD gets {status}, and GET the image", "tags", name, image["digest"])

        proof.part("schema 1")
        push("schema1/signed", SCHEMA_1 | {"mediaType": f"{SCHEMA_1_TYPE}+prettyjws"})
        digest = f"sha256:{'5' * 64}"
        self.registry.digests["schema1/signed"] = digest
        self.registry.manifests["schema1/signed", digest] = self.registry.manifests["schema1/signed", "1"]
        refused = "error: unsupported_image"
        self.check("signed, with a digest that is not that of its content", "digests", "schema1/signed", digest, comes=refused)
        push("schema1/plain", SCHEMA_1 | {"mediaType": f"{SCHEMA_1_TYPE}+json"})
        self.check("unsigned, by its tag", "tags", "schema1/plain", None, comes=refused)
        records = [it for it in self.server.scans() if "schema1/" in it["image"]]
        proof.equal("both are tried once", {it["attempts"] for it in records}, {1})
        proof.true("and named for what they are", all("schema 1" in it["detail"] for it in records), records)

        proof.part("digests of another algorithm")
        content = manifest("sha512")
        sha512 = f"sha512:{hashlib.sha512(json.dumps(content).encode()).hexdigest()}"
        push("sha512/right", index(listed(push("sha512/right", content, sha512), "linux/amd64")))
        self.check("a child with a SHA-512", "digests", "sha512/right", sha512)
        wrong = f"sha512:{'a' * 128}"
        whole = push("sha512/wrong", index(listed(push("sha512/wrong", content, wrong), "linux/amd64")))
        self.refuse("one that is of other content", "sha512/wrong", whole)
        strange = f"blake3:{'a' * 64}"
        whole = push("sha512/strange", index(listed(push("sha512/strange", content, strange), "linux/amd64")))
        self.refuse("one of an algorithm that nobody knows", "sha512/strange", whole)

        proof.part("nested indexes")
        amd64, arm64 = push("nested/both", manifest("amd64")), push("nested/both", manifest("arm64"))
        inner = [push("nested/both", index(listed(it, f"linux/{name}"))) for it, name in ((amd64, "amd64"), (arm64, "arm64"))]
        push("nested/both", index(*(listed(it, f"linux/{name}") for it, name in zip(inner, ("amd64", "arm64"), strict=True))))
        self.check("of indexes only", "digests", "nested/both", amd64["digest"])
        amd64, arm64 = push("nested/one", manifest("amd64")), push("nested/one", manifest("arm64"))
        inner = push("nested/one", index(listed(amd64, "linux/amd64")))
        push("nested/one", index(listed(inner, "linux/amd64"), listed(arm64, "linux/arm64")))
        self.check("beside another platform's image", "digests", "nested/one", amd64["digest"])

        proof.part("entries of an index")
        image, soci = push("entries/soci", manifest("arm64")), manifest("soci", SOCI, "application/octet-stream", artifactType=SOCI)
        soci = listed(push("entries/soci", soci), "linux/arm64", artifactType=SOCI)
        push("entries/soci", index(listed(image, "linux/arm64/v8"), soci))
        self.check("a SOCI index that is spelled as it was wanted", "arm64", "entries/soci", image["digest"])
        first, second = push("entries/v1", manifest("first")), push("entries/v1", manifest("second"))
        push("entries/v1", index(listed(first, "linux/amd64/v1"), listed(second, "linux/amd64")))
        self.check("two spellings of one platform", "digests", "entries/v1", first["digest"], second["digest"])
        arm = push("entries/arm", manifest("arm"))
        push("entries/arm", index(listed(push("entries/arm", manifest("amd64")), "linux/amd64"), listed(arm, "linux/arm")))
        self.check("an ARM without a variant", "armv7", "entries/arm", arm["digest"])
        image = push("entries/typed", manifest("typed"))
        push("entries/typed", index({**image, "artifactType": oci.CONFIG}))
        self.check("without a platform, with an artifact type", "digests", "entries/typed", image["digest"])

        proof.part("types of configs")
        for config in ("application/octet-stream", "application/json", "text/html", "application/vnd.nobody.knows.v1+json"):
            name = f"configs/{config.rpartition('/')[2].replace('+', '-')}"
            image = push(name, manifest(name, config, DOCKER_LAYER))
            self.check(config, "digests", name, image["digest"])
        signature = push("configs/signature", manifest("signature", oci.CONFIG, oci.COSIGN_LAYER))
        claim, comes = "an image's, with the layer of a signature", "skipped: not_an_image"
        self.check(claim, "digests", "configs/signature", signature["digest"], comes=comes)

    def refuse(self, claim: str, repository: str, whole: oci.Descriptor) -> None:
        """Claims that a delivery of this index ends with an error."""
        scan_id = deliver(self.server, "digests", f"{self.host}/{repository}:1@{whole['digest']}")
        [record] = settled(self.server, scan_id, 1)
        self.proof.equal(f"{claim}: {outcome(record)}: {record['detail']}", (record["state"], record["verdict"]), ("dead_letter", "error"))
        self.proof.equal(f"{claim}: the CLI pulled nothing", self.pulled(repository), [])


def prove(proof: Proof, shop: Workshop) -> None:
    public(proof, shop)
    private(proof, shop)
    shapes(proof, shop)


def main() -> int:
    require_programs(docker_registry="docker-registry", skopeo="skopeo", openssl="openssl")
    require_binaries(SCANHOOK)
    return run_proof("docker-registry: each content once, with the credentials of its host", prove)


if __name__ == "__main__":
    sys.exit(main())
