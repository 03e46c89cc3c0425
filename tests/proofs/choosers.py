#!/usr/bin/env python3
"""Two real choosers as witnesses: of generated indexes in Debian's docker-registry, scanhook scans each image that Debian's skopeo or
containerd takes for the wanted platform, and nothing that neither takes.

The indexes mix spellings of the wanted platform with others, images with signatures, SBOMs, attestations and SOCI indexes, nested
indexes, repeated entries and marks. Ranks of platforms and entries without a platform are not among them: there these two commands do
not do what a runtime does, and unit tests beside the code have them.

`--indexes N` says how many (default 40; 500 is the long form), `--seed N` which. Needs the Debian packages docker-registry, skopeo and
containerd, and root for the latter; `tests/proofs/run` builds scanhook. Python 3.11, standard library only.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import oci
from docker_registry import Registry, digest_of, start_registry
from harness import Disproved, Proof, Workshop, base_environment, http, require_binaries, require_programs, run_proof, until
from real_registry import outcome
from serve import DEAD_LETTERS, QUEUE, SCANHOOK, Server, link_stand_in, start_server

INDEXES = 40
REPOSITORY = "team/app"
TOKEN = "fake-secret-of-a-proof-0123456789"
EVENTS = 100
"""How many pushes a delivery has."""

DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
SOCI = "application/vnd.amazon.soci.index.v2+json"
EMPTY = "application/vnd.oci.empty.v1+json"
IN_TOTO = "application/vnd.in-toto+json"

PLAIN = {"amd64": "linux/amd64", "arm64": "linux/arm64/v8"}
"""The usual spelling of each wanted platform."""

SPELLINGS = {
    "amd64": """linux/amd64 linux/amd64/v1 linux/amd64/V1 linux/AMD64 Linux/amd64 LINUX/AMD64/V1 linux/x86_64 linux/x86-64 linux/X86_64
        linux/x86_64/v1 /amd64 /x86_64""".split(),
    "arm64": """linux/arm64 linux/arm64/v8 linux/arm64/8 linux/arm64/V8 linux/ARM64 Linux/arm64 LINUX/ARM64/V8 linux/aarch64
        linux/aarch64/v8 linux/AARCH64 /arm64 /aarch64/8""".split(),
}
"""How a wanted platform can be written."""

OTHERS = {
    "amd64": """linux/amd64/v2 linux/amd64/v3 linux/x86_64/v2 linux/386 linux/arm64 linux/arm64/v8 linux/arm/v7 linux/x64
        linux/amd64/foo linux/amd64p32""".split(),
    "arm64": """linux/arm64/v9 linux/arm64/v8.1 linux/arm/v8 linux/arm/v7 linux/arm linux/armhf linux/amd64 linux/amd64/v1 linux/386
        linux/arm64be linux/arm64/foo""".split(),
}
"""Platforms that are near to a wanted one and are not it."""

STRANGERS = "linux/s390x linux/ppc64le linux/riscv64 windows/amd64 windows/arm64 freebsd/amd64 darwin/arm64 unknown/unknown".split()
"""Platforms on which nobody runs what is wanted, whatever else there is."""

OCI_LAYERS = [
    oci.LAYER,
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.erofs",
]

# The type of the manifest, that of its config, those of its layers.
IMAGES: list[tuple[str, str, list[str]]] = [
    *((oci.MANIFEST, oci.CONFIG, [it]) for it in OCI_LAYERS),
    (oci.MANIFEST, oci.CONFIG, []),
    (oci.MANIFEST, oci.CONFIG, ["text/spdx+json", oci.LAYER]),
    (oci.MANIFEST, "application/vnd.nobody.knows.v1+json", [oci.LAYER]),
    (oci.MANIFEST, "application/json", ["application/octet-stream"]),
    (oci.MANIFEST, "", [oci.LAYER]),
    (DOCKER_MANIFEST, DOCKER_CONFIG, [DOCKER_LAYER]),
    (DOCKER_MANIFEST, DOCKER_CONFIG, []),
    (DOCKER_MANIFEST, "application/octet-stream", [DOCKER_LAYER]),
    (DOCKER_MANIFEST, "text/html", [DOCKER_LAYER, DOCKER_LAYER]),
    (DOCKER_MANIFEST, "application/vnd.nobody.knows.v1+json", [DOCKER_LAYER]),
]
ARTIFACTS: list[tuple[str, str, list[str]]] = [
    (oci.MANIFEST, oci.CONFIG, [oci.COSIGN_LAYER]),
    (oci.MANIFEST, oci.CONFIG, [IN_TOTO, IN_TOTO]),
    (oci.MANIFEST, oci.CONFIG, ["text/spdx+json"]),
    (oci.MANIFEST, EMPTY, ["application/vnd.cyclonedx+json"]),
    (oci.MANIFEST, EMPTY, [IN_TOTO]),
    (oci.MANIFEST, SOCI, ["application/octet-stream"]),
    (oci.MANIFEST, oci.HELM_CONFIG, [oci.HELM_LAYER]),
    (oci.MANIFEST, "application/vnd.buildkit.cacheconfig.v0", [oci.LAYER]),
]

# What entries carry beside their platform, right or wrong.
MARKS: list[dict[str, Any]] = [
    {"annotations": {"io.github.containers.compression.zstd": "true"}},
    {"annotations": {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": f"sha256:{'a' * 64}"}},
    {"annotations": {"com.amazon.soci.index-digest": f"sha256:{'b' * 64}"}},
    {"annotations": {"com.amazon.soci.image-manifest-digest": f"sha256:{'c' * 64}"}},
    {"annotations": {"org.opencontainers.image.ref.name": "1.0"}},
    {"artifactType": SOCI},
    {"artifactType": "application/vnd.example.sbom"},
    {"artifactType": oci.CONFIG},
]

# What a platform carries beside its name.
FEATURES: list[dict[str, Any]] = [
    {"os.version": "5.10.0"},
    {"os.version": ""},
    {"os.features": ["win32k"]},
    {"features": ["sse4"]},
]


@dataclass
class Index:
    """A tagged index, and of what it holds, at any depth, the images: the digest of each config, and that of its manifest."""

    tag: str
    wanted: str
    digest: str
    content: Any
    images: dict[str, str]
    artifacts: set[str]


@dataclass
class Generator:
    """Pushes indexes by chance. Each has an image for the wanted platform, and at most eight entries for it at all depths."""

    chance: random.Random
    registry: Registry
    images: dict[str, str] = field(default_factory=dict)
    artifacts: set[str] = field(default_factory=set)
    wanted: str = ""
    room: int = 0
    count: int = 0

    def __post_init__(self) -> None:
        self.layer = self.registry.push_blob(REPOSITORY, b"a layer")

    def index(self, number: int) -> Index:
        self.wanted = self.chance.choice(sorted(SPELLINGS))
        self.images, self.artifacts, self.room = {}, set(), 7
        sure = self._entry(self._nested(2, sure=True) if self._often(0.15) else self._image(), self._spelling())
        entries = [sure, *self._entries(1)]
        self.chance.shuffle(entries)
        tag = f"index-{number}"
        descriptor, content = self._push_index(entries, tag)
        return Index(tag, self.wanted, descriptor["digest"], content, self.images, self.artifacts)

    def _entries(self, depth: int) -> list[dict[str, Any]]:
        """Entries for the wanted platform, as long as there is room, and for others."""
        entries: list[dict[str, Any]] = []
        for _ in range(self.chance.randint(0, 3)):
            if self.room > 0:
                self.room -= 1
                repeats = entries and self._often(0.2)
                content = self.chance.choice(entries) if repeats else self._content(depth)
                entries.append(self._entry(content, self._spelling()))
        near = OTHERS[self.wanted] if depth == 1 else []
        for _ in range(self.chance.randint(0, 3)):
            repeats = entries and self._often(0.1)
            content = self.chance.choice(entries) if repeats else self._content(4)
            entries.append(self._entry(content, self.chance.choice(near + STRANGERS)))
        return entries

    def _content(self, depth: int) -> dict[str, Any]:
        if depth < 4 and self._often(0.2):
            return self._nested(depth + 1)
        return self._image() if self._often(0.6) else self._artifact()

    def _nested(self, depth: int, sure: bool = False) -> dict[str, Any]:
        entries = self._entries(depth)
        if sure:
            entries.append(self._entry(self._image(), self._spelling()))
        self.chance.shuffle(entries)
        return self._push_index(entries)[0]

    def _entry(self, content: dict[str, Any], platform: str) -> dict[str, Any]:
        os, architecture, *variant = platform.split("/")
        named: dict[str, Any] = {"os": os, "architecture": architecture}
        if not os and self._often(0.5):
            del named["os"]
        if variant:
            named["variant"] = variant[0]
        if self._often(0.2):
            named |= self.chance.choice(FEATURES)
        marks = self.chance.choice(MARKS) if self._often(0.3) else {}
        bare = {key: content[key] for key in ("mediaType", "digest", "size")}
        return {**bare, "platform": named, **marks}

    def _spelling(self) -> str:
        return PLAIN[self.wanted] if self._often(0.3) else self.chance.choice(SPELLINGS[self.wanted])

    def _image(self) -> dict[str, Any]:
        config, manifest = self._push_manifest(*self.chance.choice(IMAGES))
        self.images[config] = manifest["digest"]
        return manifest

    def _artifact(self) -> dict[str, Any]:
        config, manifest = self._push_manifest(*self.chance.choice(ARTIFACTS))
        self.artifacts.add(config)
        return manifest

    def _push_manifest(self, media_type: str, config_type: str, layer_types: list[str]) -> tuple[str, dict[str, Any]]:
        """Each has a config of its own, by which it is known again."""
        self.count += 1
        config = self.registry.push_blob(REPOSITORY, json.dumps({"os": "linux", "architecture": "amd64", "count": self.count}).encode())
        layers = [{"mediaType": it, **self.layer} for it in layer_types]
        content = {"schemaVersion": 2, "mediaType": media_type, "config": {"mediaType": config_type, **config}, "layers": layers}
        if not config_type:
            del content["config"]["mediaType"]
        if media_type == oci.MANIFEST and self._often(0.2):
            content["artifactType"] = "application/vnd.example.thing"
        return config["digest"], self._push(media_type, content)

    def _push_index(self, entries: list[dict[str, Any]], tag: str | None = None) -> tuple[dict[str, Any], Any]:
        media_type = DOCKER_LIST if self._often(0.2) else oci.INDEX
        content = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}
        if media_type == oci.INDEX and self._often(0.1):
            del content["mediaType"]
        return self._push(media_type, content, tag), content

    def _push(self, media_type: str, content: Any, tag: str | None = None) -> dict[str, Any]:
        body = json.dumps(content).encode()
        digest = self.registry.put(REPOSITORY, media_type, body, tag)
        return {"mediaType": media_type, "digest": digest, "size": len(body)}

    def _often(self, share: float) -> bool:
        return self.chance.random() < share


@dataclass
class Witnesses:
    """Debian's skopeo and containerd, asked what they take of an index for its wanted platform."""

    host: str
    socket: Path
    env: dict[str, str]

    def take(self, index: Index) -> set[str]:
        """The digests of the images that at least one of them takes."""
        # As CRI-O asks on such a machine, which knows the variant of its ARM, and as people ask.
        variants = {"amd64": [""], "arm64": ["", "v8"]}[index.wanted]
        return {image for it in variants if (image := self._skopeo(index, it))} | self._containerd(index)

    def _skopeo(self, index: Index, variant: str) -> str | None:
        """The one image, if it is one, whose config skopeo shows."""
        wish = ["--override-os", "linux", "--override-arch", index.wanted]
        wish += ["--override-variant", variant] if variant else []
        image = f"docker://{self.host}/{REPOSITORY}:{index.tag}"
        command = ["skopeo", *wish, "inspect", "--config", "--raw", "--tls-verify=false", image]
        ran = subprocess.run(command, env=self.env, capture_output=True)
        # By its spelling there may be none, or none in the nested index that it follows.
        if ran.returncode != 0 and b"no image found in" in ran.stderr:
            return None
        config = digest_of(ran.stdout)
        if ran.returncode != 0 or config not in index.images.keys() | index.artifacts:
            raise Disproved(f"skopeo shows no config of {index}: {ran.stderr.decode()}")
        return index.images.get(config)

    def _containerd(self, index: Index) -> set[str]:
        """The images among the content that containerd fetches into an empty namespace."""
        image = f"{self.host}/{REPOSITORY}:{index.tag}"
        self._ctr(index.tag, "fetch", "--plain-http", "--platform", f"linux/{index.wanted}", image)
        fetched = self._ctr(index.tag, "ls", "-q").split()
        return set(index.images.values()) & set(fetched)

    def _ctr(self, namespace: str, *arguments: str) -> str:
        command = ["ctr", "--address", str(self.socket), "--namespace", namespace, "content", *arguments]
        ran = subprocess.run(command, env=self.env, capture_output=True, text=True)
        if ran.returncode != 0:
            raise Disproved(f"ctr content {arguments}: {ran.stderr}")
        return ran.stdout


def start_witnesses(shop: Workshop, host: str) -> Witnesses:
    """Starts a containerd of our own, which leaves everything outside the workshop alone."""
    home = shop.directory / "containerd"
    home.mkdir()
    config, socket = home / "config.toml", home / "socket"
    config.write_text(f"""
version = 2
root = "{home}/root"
state = "{home}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{socket}"
[ttrpc]
address = "{socket}.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "{home}/opt"
""")
    shop.start("containerd", ["containerd", "--config", config])
    witnesses = Witnesses(host, socket, base_environment(HOME=str(shop.directory)))
    version = ["ctr", "--address", str(socket), "version"]
    until("containerd answers", lambda: subprocess.run(version, capture_output=True).returncode == 0)
    return witnesses


def start_scanhook(shop: Workshop, host: str) -> Server:
    auth = '[{ type: bearer, secret: "env:PROOF_TOKEN" }]'
    source = f'kind: distribution, registry: "{host}", auth: {auth}'
    config = f"""
sources:
  default: {{ {source} }}
  amd64: {{ {source}, platforms: [linux/amd64] }}
  arm64: {{ {source}, platforms: [linux/arm64] }}
registries:
  "{host}": {{ insecure: true }}
scanner: {{ api_token: "env:PROOF_API_TOKEN", concurrency: 4 }}
retry: {{ attempts: 4, base: 1s, cap: 1s }}
"""
    cli = link_stand_in(shop.directory / "stand-in")
    env = base_environment(PROOF_TOKEN=TOKEN, PROOF_API_TOKEN="fake-api-token")
    return start_server(shop, config, "--scanner-cli", cli, env=env)


def source_of(index: Index) -> str:
    """Who wants nothing in particular wants linux/amd64."""
    return "default" if index.wanted == "amd64" and len(index.content["manifests"]) % 2 else index.wanted


def deliver(server: Server, host: str, indexes: list[Index]) -> None:
    """Delivers these pushes to scanhook, as a docker-registry does."""
    headers = {"content-type": "application/vnd.docker.distribution.events.v1+json", "authorization": f"Bearer {TOKEN}"}
    for source in ("default", "amd64", "arm64"):
        pushes = [it for it in indexes if source_of(it) == source]
        for start in range(0, len(pushes), EVENTS):
            events = [event(host, it) for it in pushes[start : start + EVENTS]]
            answer = http("POST", f"{server.url}/webhooks/{source}", headers, json.dumps({"events": events}).encode())
            if len(answer.json()["queued"]) != len(events):
                raise Disproved(f"the pushes are not queued: {answer.status} {answer.body!r}")


def event(host: str, index: Index) -> dict[str, Any]:
    target = {
        "mediaType": index.content.get("mediaType", oci.INDEX),
        "digest": index.digest,
        "repository": REPOSITORY,
        "url": f"http://{host}/v2/{REPOSITORY}/manifests/{index.digest}",
        "tag": index.tag,
    }
    request = {"host": host, "method": "PUT"}
    return {"id": index.tag, "timestamp": "2026-11-21T20:00:00Z", "action": "push", "target": target, "request": request}


def prove(proof: Proof, shop: Workshop, indexes: int, seed: int) -> None:
    registry = start_registry(shop)
    host = registry.host
    witnesses = start_witnesses(shop, host)
    server = start_scanhook(shop, host)
    generator = Generator(random.Random(seed), registry)

    proof.part(f"{indexes} indexes (--seed {seed})")
    generated = [generator.index(it) for it in range(indexes)]
    deliver(server, host, generated)
    with ThreadPoolExecutor(4) as pool:
        taken = dict(zip((it.tag for it in generated), pool.map(witnesses.take, generated), strict=True))
    until("every scan", lambda: server.sqs.depth(QUEUE) == 0, patience=60 + indexes)

    scans: dict[str, list[tuple[str, str]]] = {it.tag: [] for it in generated}
    for record in server.scans(limit=20 * indexes):
        scans[record["tag"]].append((record["digest"], outcome(record)))
    for index in generated:
        expected = sorted((it, "passed") for it in taken[index.tag])
        shown = f"linux/{index.wanted} of {json.dumps(index.content, indent=1)}\n  expected {expected}\n  but was  {scans[index.tag]}"
        claim = f"{index.tag}: for {source_of(index)}, {len(expected)} of {len(index.images)} images are taken, and scanned"
        proof.true(claim, sorted(scans[index.tag], key=str) == expected, shown)
    counts = sorted(Counter(len(it) for it in taken.values()).items())
    proof.true("the indexes differ in how many images are taken", len(counts) > 2, counts)
    proof.equal("no dead letter", server.sqs.depth(DEAD_LETTERS), 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--indexes", type=int, default=INDEXES)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    require_programs(docker_registry="docker-registry", skopeo="skopeo", containerd="containerd", ctr="containerd")
    require_binaries(SCANHOOK)
    title = "skopeo and containerd as witnesses: of an index, what they take is scanned, and nothing else"
    return run_proof(title, lambda proof, shop: prove(proof, shop, options.indexes, options.seed))


if __name__ == "__main__":
    sys.exit(main())
