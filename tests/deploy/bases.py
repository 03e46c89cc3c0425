#!/usr/bin/env python3
"""`deploy/base`, in the place where `deploy/build` calls it: the images that ours are built on, by digest, from Debian's
docker-registry and from one that wants a token.

Python 3.11, standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import oci
from containers import buildah, inspect
from harness import ROOT, Proof, Workshop, base_environment, free_port, run_proof, serving
from registry import REPOSITORY, TAG, start_images

TOOLS = "prod/tools"
STAND_INS = {
    "cargo": "",
    "cargo-lambda": "",
    "docker": "",
    "git": "echo 1700000000",
    "sam": 'echo "sam: $BASE $TOOLS"; env | grep -c "^\\(BASE\\|TOOLS\\)="',
}
"""What `deploy/build` calls, so that only what it gives them is seen."""


class Tree:
    """What of a clone `deploy/build` uses, and a recipe whose bases are in a registry of ours."""

    def __init__(self, directory: Path, base: str, tools: str) -> None:
        self.directory = directory
        self.lock = directory / "deploy/base-images.lock"
        self.recipe = directory / "functions/scanner/Dockerfile"
        for name in ("deploy", "functions/scanner", "bin", "target/lambda/scanner"):
            (directory / name).mkdir(parents=True)
        for name in ("build", "base", "base-images.lock"):
            shutil.copy(ROOT / "deploy" / name, directory / "deploy" / name)
        written = (ROOT / "functions/scanner/Dockerfile").read_text()
        for argument, image in (("BASE", base), ("TOOLS", tools)):
            (line,) = [it for it in written.splitlines() if it.startswith(f"ARG {argument}=")]
            written = written.replace(line, f"ARG {argument}={image}")
        self.recipe.write_text(written)
        (directory / "deploy/sbom").write_text("#!/bin/sh\necho {}\n")
        for name, text in STAND_INS.items():
            (directory / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        for path in (*directory.glob("bin/*"), directory / "deploy/sbom"):
            path.chmod(0o755)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        environment = base_environment(**environment)
        environment["PATH"] = f"{self.directory / 'bin'}:{environment['PATH']}"
        return subprocess.run(
            [str(self.directory / command[0]), *command[1:]], cwd=self.directory, env=environment, capture_output=True, text=True
        )

    def build(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("deploy/build", "x86_64", **environment)

    def locked(self) -> dict[str, str]:
        lines = [it.split(" = ") for it in self.lock.read_text().splitlines() if not it.startswith("#")]
        return {image: digest.strip('"') for image, digest in lines}


def prove(proof: Proof, shop: Workshop) -> None:
    host = f"127.0.0.1:{free_port()}"
    _, first = start_images(shop, host)
    tools = push(shop, host, TOOLS, "tools")
    base, other = f"{host}/{REPOSITORY}:{TAG}", f"{host}/{TOOLS}:{TAG}"
    tree = Tree(shop.directory / "clone", base, other)
    by_digest = f"{host}/{REPOSITORY}@{first} {host}/{TOOLS}@{tools}"

    proof.part("the first build")
    built = tree.build()
    proof.equal("ends well", (built.returncode, built.stderr[-300:] if built.returncode else ""), (0, ""))
    proof.true("is from both digests that the registry has", f"sam: {by_digest}\n2\n" in built.stdout, built.stdout)
    proof.true("prints them", all(f"is {it}" in built.stderr for it in (first, tools)), built.stderr)
    proof.equal("and locks them", tree.locked(), {base: first, other: tools})
    is_built_from_the_digest(proof, shop, built.stdout)

    proof.part("a tag that moves")
    second = push(shop, host, REPOSITORY, "a changed file")
    proof.true("to another image", second != first)
    moved = tree.build()
    proof.equal("the build is from the same digests", (moved.returncode, f"sam: {by_digest}\n" in moved.stdout), (0, True))
    told = f"WARNING: the tag {base} has moved from {first} to {second}"
    proof.true("and tells both, and how to accept the new one", told in moved.stderr and "--update" in moved.stderr, moved.stderr)
    proof.equal("the lock is as it was", tree.locked(), {base: first, other: tools})
    updated = tree.run("deploy/base", "--update", str(tree.recipe))
    proof.true("--update says what it changes", f"from {first} to {second}" in updated.stderr, updated.stderr)
    proof.equal("in the lock", tree.locked(), {base: second, other: tools})
    again = tree.build()
    proof.true("then the build is from the new one", f"sam: {host}/{REPOSITORY}@{second} " in again.stdout, again.stdout)
    proof.true("without a warning", "WARNING" not in again.stderr, again.stderr)

    proof.part("what is given by hand, and what is not there")
    given = f"nowhere.example.com/base@sha256:{'a' * 64}"
    built = tree.build(BASE=given, TOOLS=given)
    proof.equal("a digest is taken as it is, and asks nobody", (built.returncode, f"sam: {given} {given}\n" in built.stdout), (0, True))
    gone = f"{host}/{REPOSITORY}:gone"
    built = tree.build(BASE=gone)
    proof.true("a tag that is neither there nor locked ends the build", built.returncode == 1 and "sam:" not in built.stdout, built)
    proof.true("which names it", f"could not look up {gone}" in built.stderr, built.stderr)
    shop.directory.joinpath("clone/deploy/base-images.lock").open("a").write(f'{gone} = "{first}"\n')
    built = tree.build(BASE=gone)
    proof.true("with a digest in the lock, that is built from, and told", f"using {first} from the lock" in built.stderr, built.stderr)
    for wrong in ("base", "host/base", f"{host}/{REPOSITORY}", f"{base}@sha256:abc", f"{base} --x"):
        built = tree.build(BASE=wrong)
        proof.true(f"{wrong!r} is no image", built.returncode == 1 and "does not name an image" in built.stderr, built.stderr)

    proof.part("a registry that wants a token, as public ones do")
    manifest = json.dumps({"schemaVersion": 2}).encode()
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    with public_registry(manifest) as (address, asked):
        image = f"{address}/lambda/provided:al2023"
        built = tree.build(BASE=image)
        proof.true("is asked for one", f"sam: {address}/lambda/provided@{digest} " in built.stdout, built.stderr)
        proof.equal("for this repository", asked, ["the registry repository:lambda/provided:pull"])
    with public_registry(b"<html>log in</html>") as (address, _):
        built = tree.build(BASE=f"{address}/lambda/provided:al2023")
        proof.true("what is no manifest is not locked", built.returncode == 1 and "returned no manifest" in built.stderr, built.stderr)


def push(shop: Workshop, host: str, repository: str, text: str) -> str:
    layout = oci.Layout(shop.directory / f"layout-{text}")
    image = layout.image(text)
    layout.tag(image, TAG)
    command = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
    command += [f"oci:{layout.directory}:{TAG}", f"docker://{host}/{repository}:{TAG}"]
    subprocess.run(command, env=base_environment(HOME=str(shop.directory)), check=True)
    return image["digest"]


def is_built_from_the_digest(proof: Proof, shop: Workshop, printed: str) -> None:
    """By a builder, from what the build gives it."""
    base = printed.split()[1]
    context = shop.directory / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("ARG BASE=nowhere.example.com/never:asked\nFROM ${BASE}\nCOPY Dockerfile /\n")
    build = ["bud", "--isolation", "chroot", "--tls-verify=false", "--build-arg", "BASE", "--tag", "localhost/based", str(context)]
    os.environ["BASE"] = base
    buildah(*build)
    del os.environ["BASE"]
    proof.equal("a builder takes the first from the environment: layers of the image", len(inspect("localhost/based")["RootFS"]["Layers"]), 2)


@contextmanager
def public_registry(manifest: bytes) -> Iterator[tuple[str, list[str]]]:
    """One that wants a token; and what its token server is asked."""
    asked: list[str] = []

    def answer(_method: str, path: str, query: dict[str, list[str]], headers: Any) -> tuple[int, dict[str, str], bytes]:
        if path == "/token":
            asked.append(f"{query['service'][0]} {query['scope'][0]}")
            return 200, {}, b'{"token": "fake-token", "expires_in": 60}'
        if headers["Authorization"] == "Bearer fake-token" and path == "/v2/lambda/provided/manifests/al2023":
            return 200, {}, manifest
        return 401, {"WWW-Authenticate": f'Bearer realm="http://{headers["Host"]}/token",service="the registry"'}, b"{}"

    with serving(answer) as address:
        yield address, asked


if __name__ == "__main__":
    sys.exit(run_proof("base images: by digest, and a moved tag is a warning", prove))
