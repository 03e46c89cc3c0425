#!/usr/bin/env python3
"""The scanner's image, built by buildah from functions/scanner/Dockerfile on a base of Debian packages, and run by podman as
Lambda would: read-only but for /tmp, as a user of no name, invoked through the runtime interface emulator.

Python 3.11, standard library only.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

from any_registry import new_digest, proxy
from containers import BASE, PODMAN, build, buildah, inspect, make_base, podman, start_container
from deliveries import DEBIAN, HARBOR, harbor_push
from harness import ROOT, Proof, Workshop, base_environment, free_port, http, listens, run_proof, until
from lambda_emulator import Function, failed_identifiers, sqs_event, sqs_variables
from mirror import VERSION, mirror, staged
from registry import REPOSITORY, start_images, tag_only_push
from serve import DEAD_LETTERS, QUEUE, start_server, text_attributes
from stage import API_TOKEN, CONFIG, TOKENS

RECIPE = ROOT / "functions/scanner/Dockerfile"
IMAGE = "localhost/scanhook-scanner"
ADDED = {
    "opt/bin": 0o755,
    "opt/bin/sysdig-cli-scanner": 0o755,
    "var/runtime/bootstrap": 0o755,
}
"""What the image has beyond its base."""


SOURCE = """sources:
  ci: {{ kind: generic, registry: "{images}", auth: [{{ type: bearer, secret: "env:PROOF_DEBIAN" }}] }}"""
"""A source whose images lie in a registry that answers."""


def prove(proof: Proof, shop: Workshop) -> None:
    make_base()
    with mirror() as (url, files):
        context = staged(shop.directory / "context", url)
        arguments = {"BASE": BASE, "TOOLS": BASE, "SYSDIG_DOWNLOAD_URL": url, "REVISION": "0123abc"}
        is_built_from_verified_parts_only(proof, context, files, arguments)
        proof.part("the image")
        build(context, RECIPE, f"{IMAGE}:1", **arguments)
        for path in context.rglob("*"):
            os.utime(path, (1, 1))
        build(context, RECIPE, f"{IMAGE}:2", **arguments)
    first, second = inspect(f"{IMAGE}:1"), inspect(f"{IMAGE}:2")
    proof.equal(f"a second build has the same digest: {first['Digest'][:19]}…", second["Digest"], first["Digest"])
    holds_nothing_else(proof, first)
    scans_as_lambda_runs_it(proof, shop)
    sbom_names_what_is_in_it(proof)


def is_built_from_verified_parts_only(
    proof: Proof, context: Path, files: dict[str, bytes], arguments: dict[str, str]
) -> None:
    proof.part("nothing unverified gets in")
    path = f"/{VERSION}/linux/amd64/sysdig-cli-scanner"
    right = files[path]
    files[path] = right + b"\n"
    printed = build(context, RECIPE, f"{IMAGE}:wrong", check=False, **arguments)
    files[path] = right
    proof.true("a CLI with another checksum is refused", "the lock says" in printed, printed[-500:])
    binary = context / "target/lambda/scanner/bootstrap"
    function = binary.read_bytes()
    binary.write_bytes(function[:18] + b"\xb7" + function[19:])
    printed = build(context, RECIPE, f"{IMAGE}:wrong", check=False, **arguments)
    binary.write_bytes(function)
    proof.true("so is a function built for another processor", "is not built for amd64" in printed, printed[-500:])
    proof.equal("neither made an image", podman("images", "--quiet", f"{IMAGE}:wrong").strip(), "")


def holds_nothing_else(proof: Proof, image: dict) -> None:
    base = inspect(BASE)
    own = len(image["RootFS"]["Layers"]) - len(base["RootFS"]["Layers"])
    proof.equal(f"adds one layer of {(image['Size'] - base['Size']) / 1e6:.1f} MB to a base of {base['Size'] / 1e6:.0f} MB", own, 1)
    print(podman("history", "--format", "       {{.Size}}  {{.CreatedBy}}", f"{IMAGE}:1").rstrip()[:900])
    before, after = files_of(BASE), files_of(f"{IMAGE}:1")
    proof.equal("what it adds", {name: after[name] for name in after.keys() - before.keys()}, ADDED)
    proof.equal("it takes nothing away", before.keys() - after.keys(), set())
    # So there is no shell and no package manager but what the base has.
    others = [name for name in before.keys() & after.keys() if before[name] != after[name]]
    proof.equal("and leaves every mode as it was", others, [])
    config = image["Config"]
    proof.equal("it names no user", config.get("User", ""), "")
    proof.equal("its environment is the base's", config.get("Env"), base["Config"].get("Env"))
    proof.equal("its command", config["Cmd"], ["scanner"])
    proof.equal("its revision", config["Labels"]["org.opencontainers.image.revision"], "0123abc")


def files_of(image: str) -> dict[str, int]:
    """All paths of an image, and their modes."""
    container = buildah("from", "--pull-never", image).strip().splitlines()[-1]
    try:
        root = Path(buildah("mount", container).strip().splitlines()[-1])
        return {str(it.relative_to(root)): stat.S_IMODE(it.lstat().st_mode) for it in root.rglob("*")}
    finally:
        buildah("rm", container)


def scans_as_lambda_runs_it(proof: Proof, shop: Workshop) -> None:
    proof.part("the image at work: root read-only, only /tmp writable, user 12345, no capabilities")
    images = f"127.0.0.1:{free_port()}"
    _, digest = start_images(shop, images)
    configured = CONFIG.replace("sources:", SOURCE.format(images=images), 1)
    configured = configured.replace("registries: {", f'registries: {{ "{images}": {{ insecure: true }},', 1)
    server = start_server(shop, configured, "--no-scan", env=base_environment(**TOKENS, **API_TOKEN))
    config = shop.directory / "scanhook.yaml"
    config.chmod(0o644)
    shop.directory.chmod(0o755)
    port = free_port()
    variables = {
        **base_environment(**API_TOKEN, **sqs_variables(server.sqs, QUEUE, DEAD_LETTERS), **proxy()),
        "SCANHOOK_CONFIG": "file:/run/scanhook.yaml",
        "AWS_LAMBDA_FUNCTION_TIMEOUT": "120",
    }
    del variables["PATH"]
    given = [it for name, value in variables.items() for it in ("--env", f"{name}={value}")]
    # As the base's entrypoint starts it, but on ports that are free here.
    entrypoint = ["/usr/local/bin/aws-lambda-rie", "--runtime-interface-emulator-address", f"127.0.0.1:{port}"]
    entrypoint += ["--runtime-api-address", f"127.0.0.1:{free_port()}", "/var/runtime/bootstrap"]
    name = f"scanner-{os.getpid()}"
    process = start_container(
        shop, name, "--read-only", "--tmpfs", "/tmp:mode=1777,size=512m", "--user", "12345:54321", "--cap-drop", "all",
        "--security-opt", "no-new-privileges", "--volume", f"{config}:/run/scanhook.yaml:ro",
        "--entrypoint", json.dumps(entrypoint), *given, f"{IMAGE}:1",
    )
    try:
        until("the emulator in the container listens", lambda: listens(port) or not process.is_running())
        scanner = Function(process, f"http://127.0.0.1:{port}/2015-03-31/functions/function/invocations")
        for repository in ("prod/pass", "prod/fail", "prod/no-space"):
            answer = http("POST", f"{server.url}/webhooks/harbor", HARBOR, harbor_push(repository, new_digest()))
            proof.equal(f"a signed push of {repository}: 202", answer.status, 202)
        answer = http("POST", f"{server.url}/webhooks/ci", DEBIAN, tag_only_push())
        proof.equal("and one of a tag only, in Debian's registry: 202", answer.status, 202)
        messages = server.sqs.receive(QUEUE, 4)
        failed = failed_identifiers(scanner.invoke(sqs_event(messages)))
        proof.equal("no record of the batch comes back", failed, set())
        finished = {it["image"]: it for it in scanner.lines("scan.finished")}
        verdicts = {image: it["verdict"] for image, it in finished.items()}
        expected = {
            "harbor.example.com/prod/pass": "passed",
            "harbor.example.com/prod/fail": "failed",
            "harbor.example.com/prod/no-space": "error",
            f"{images}/{REPOSITORY}": "passed",
        }
        proof.equal("the verdicts", verdicts, expected)
        proof.equal("the tag was resolved to the registry's digest", finished[f"{images}/{REPOSITORY}"]["digest"], digest)
        versions = {it["cli_version"] for it in scanner.lines("scan.finished") if it["verdict"] != "error"}
        proof.true(f"by the CLI of the image: {versions}", all("stand-in" in it for it in versions), versions)
        (letter,) = server.sqs.take(DEAD_LETTERS, 1)
        proof.equal("what can't be scanned is a dead letter with its reason", text_attributes(letter)["scanhook.reason"], "no_space")
        inside = [*PODMAN, "exec", "--user", "12345:54321", name]
        refused = subprocess.run([*inside, "touch", "/opt/bin/x"], capture_output=True, text=True)
        proof.true("nothing else can be written", "Read-only file system" in refused.stderr, refused)
        left = subprocess.run([*inside, "find", "/tmp", "-name", "*.json"], capture_output=True, text=True).stdout
        proof.true("no report is left in /tmp", "report" not in left, left)
        output = process.output()
        proof.equal("no secret in its log", [it for it in API_TOKEN.values() if it in output], [])
    finally:
        podman("rm", "--force", "--time", "0", name, check=False)


def sbom_names_what_is_in_it(proof: Proof) -> None:
    proof.part("the SBOM")
    texts = [subprocess.run([ROOT / "deploy/sbom"], check=True, capture_output=True, text=True).stdout for _ in range(2)]
    proof.equal("is the same twice", texts[1], texts[0])
    document = json.loads(texts[0])
    components = {it["name"]: it for it in document["components"]}
    cli = components["sysdig-cli-scanner"]
    lock = (ROOT / "layer/sysdig-cli.lock").read_text()
    proof.true("names the CLI by the sums of the lock", all(it["value"] in lock for it in cli["properties"]))
    command = ["cargo", "tree", "--locked", "-p", "scanhook-scanner", "-e", "normal", "--prefix", "none"]
    tree = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    crates = {it.split()[0] for it in tree.splitlines() if it}
    proof.equal(f"and each of the function's {len(crates)} crates", crates - components.keys(), set())
    unsigned = [it["name"] for it in document["components"] if "hashes" not in it and not it["name"].startswith("scanhook-")]
    proof.equal("each with its checksum, but for ours and the CLI", unsigned, ["sysdig-cli-scanner"])


if __name__ == "__main__":
    sys.exit(run_proof("the scanner's image: built, bounded, at work", prove))
