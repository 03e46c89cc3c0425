#!/usr/bin/env python3
"""`scanhook serve` in a container, with its state on a volume: killed while it works and started again, it has lost nothing.
And the manifests for Kubernetes, against Kubernetes' and KEDA's own schemas.

Python 3.11, standard library, PyYAML, kubernetes-validate and cloudcoil-models-keda, which is made of KEDA's definitions.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys

import kubernetes_validate
import yaml
from cloudcoil.models.keda import v1alpha1 as keda

from any_registry import new_digest, proxy
from containers import BASE, build, inspect, make_base, podman, start_container
from deliveries import HARBOR, harbor_push
from harness import ROOT, Proof, Workshop, answers, free_port, http, run_proof, until
from mirror import mirror, staged
from serve import SCANHOOK
from stage import API_TOKEN, CONFIG, TOKENS

IMAGE = "localhost/scanhook"
USER = 65532
DELIVERIES = 24
KUBERNETES = "1.37"
LARGEST_IMAGE = 8
"""GiB: `scanner.max_image` by default."""
MANIFESTS = ROOT / "deploy/kubernetes"


def prove(proof: Proof, shop: Workshop) -> None:
    manifests_are_valid(proof)
    make_base()
    with mirror() as (url, _):
        context = staged(shop.directory / "context", url)
        shutil.copy(SCANHOOK, context / "scanhook")
        (context / ".dockerignore").unlink()
        arguments = {"BASE": BASE, "TOOLS": BASE, "SYSDIG_DOWNLOAD_URL": url, "BINARY": "scanhook"}
        build(context, ROOT / "Dockerfile", f"{IMAGE}:1", **arguments)
    config = inspect(f"{IMAGE}:1")["Config"]
    proof.part("serve in a container, killed at work")
    proof.equal("the image's user", config["User"], f"{USER}:{USER}")
    loses_nothing(proof, shop, config["Cmd"])


def loses_nothing(proof: Proof, shop: Workshop, command: list[str]) -> None:
    shop.directory.chmod(0o755)
    settings, data = shop.directory / "scanhook.yaml", shop.directory / "volume"
    settings.write_text(CONFIG)
    data.mkdir()
    os.chown(data, USER, USER)
    port = free_port()
    # As in the image, but on a port that is free here.
    arguments = [f"127.0.0.1:{port}" if it == "0.0.0.0:8080" else it for it in command] + ["--sqs-listen", "127.0.0.1:0"]
    given = [it for name, value in {**TOKENS, **API_TOKEN, **proxy()}.items() for it in ("--env", f"{name}={value}")]
    volumes = ["--volume", f"{settings}:/etc/scanhook/scanhook.yaml:ro", "--volume", f"{data}:/var/lib/scanhook"]
    hardened = ["--read-only", "--tmpfs", "/tmp:mode=1777", "--cap-drop", "all", "--security-opt", "no-new-privileges"]
    name, url = f"serve-{os.getpid()}", f"http://127.0.0.1:{port}"

    def start() -> None:
        start_container(shop, name, *hardened, *volumes, *given, f"{IMAGE}:1", *arguments)
        until("the container is ready", lambda: answers(f"{url}/readyz"), patience=60)

    def scans() -> list[dict]:
        listed = podman("exec", name, "/usr/bin/scanhook", "scans", "list", "--data-dir", "/var/lib/scanhook",
                        "--limit", "1000", "--output", "json")
        return json.loads(listed)

    try:
        start()
        queued = []
        for _ in range(DELIVERIES):
            answer = http("POST", f"{url}/webhooks/harbor", HARBOR, harbor_push("prod/slow", new_digest()))
            queued += [it["scan_id"] for it in answer.json()["queued"]]
        proof.equal(f"{DELIVERIES} deliveries are taken: 202", len(queued), DELIVERIES)
        before = until("some scans are done", lambda: [it for it in scans() if it["state"] == "done"])
        proof.true(f"{len(before)} scans are done, the others are not", len(before) < DELIVERIES)
        podman("kill", "--signal", "KILL", name)
        until("it is gone", lambda: name not in podman("ps", "--all", "--format", "{{.Names}}"))
        proof.true("killed", not answers(f"{url}/healthz"))
        start()
        done = until("every scan is done", lambda: all_done(scans(), queued), patience=120)
        proof.equal("started again on the same volume, it ends every scan", {it["verdict"] for it in done.values()}, {"passed"})
        proof.equal("  each of them once in the ledger", len(done), DELIVERIES)
        owners = {it.stat().st_uid for it in data.rglob("*")}
        proof.equal("all it wrote is on the volume, as its user", owners, {USER})
    finally:
        podman("rm", "--force", "--time", "0", name, check=False)


def all_done(records: list[dict], queued: list[str]) -> dict[str, dict] | None:
    done = {it["scan_id"]: it for it in records if it["state"] == "done"}
    return done if set(queued) <= done.keys() else None


def manifests_are_valid(proof: Proof) -> None:
    proof.part(f"manifests for Kubernetes {KUBERNETES}")
    for path in sorted(MANIFESTS.glob("*.yaml")):
        documents = list(yaml.safe_load_all(path.read_text()))
        kinds = [it["kind"] for it in documents]
        wrong = [it["kind"] for it in documents if not _is_valid(it)]
        proof.equal(f"{path.name}: {', '.join(kinds)} are valid", wrong, [])
        for workload in documents:
            if workload["kind"] in ("Deployment", "StatefulSet"):
                is_hardened(proof, workload["spec"]["template"]["spec"])
                has_room_for_scans(proof, workload)
        [policy] = [it["spec"] for it in documents if it["kind"] == "NetworkPolicy"]
        let_in = [it["ports"] for it in policy["ingress"] if "monitoring" in str(it["from"])]
        proof.equal("  Prometheus gets to that listener, and nowhere else", let_in, [[{"protocol": "TCP", "port": 8082}]])
    for name, kind, key in (("serve.yaml", "Service", "ports"), ("work.yaml", "ScaledObject", "triggers"),
                            ("work.yaml", "ScaledObject", "maxReplicaCount")):
        [broken] = [it for it in yaml.safe_load_all((MANIFESTS / name).read_text()) if it["kind"] == kind]
        broken["spec"][f"{key}z"] = broken["spec"].pop(key)
        proof.true(f"{key} of a {kind}, misspelt, is noticed", not _is_valid(broken))


def _is_valid(document: dict) -> bool:
    try:
        if document["apiVersion"].startswith("keda.sh/"):
            model = getattr(keda, document["kind"]).model_validate(document)
            # Keys that it doesn't know are dropped without a word.
            return model.model_dump(mode="json", by_alias=True, exclude_unset=True) == document
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except (kubernetes_validate.ValidationError, ValueError):
        return False
    return True


def is_hardened(proof: Proof, pod: dict) -> None:
    (container,) = pod["containers"]
    security = container["securityContext"]
    proof.equal("  its root is read-only", security["readOnlyRootFilesystem"], True)
    proof.equal("  it has no capabilities", security["capabilities"], {"drop": ["ALL"]})
    proof.equal("  it is not root", (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]), (True, USER))
    proof.equal("  it has no token", pod["automountServiceAccountToken"], False)
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    proof.equal("  its probes", probes, {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"})
    ports = {it["name"]: it["containerPort"] for it in container["ports"]}
    asked = {ports[container[f"{name}Probe"]["httpGet"]["port"]] for name in probes}
    proof.true("  they have a listener of their own", f"--health-listen=0.0.0.0:{asked.pop()}" in container["args"] and not asked)
    proof.true("  it asks for resources", {"requests", "limits"} <= container["resources"].keys())
    proof.true("  its image is by digest", re.search("@sha256:[0-9a-f]{64}$", container["image"]), container["image"])


def has_room_for_scans(proof: Proof, workload: dict) -> None:
    """Scratch lies in the data directory, where the largest image that is scanned by default must fit."""
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (directory,) = [it.split("=")[1] for it in container["args"] if it.startswith("--data-dir=")]
    (volume,) = [it["name"] for it in container["volumeMounts"] if it["mountPath"] == directory]
    sizes = {it["name"]: it["emptyDir"]["sizeLimit"] for it in pod["volumes"] if "emptyDir" in it}
    for claim in workload["spec"].get("volumeClaimTemplates", []):
        sizes[claim["metadata"]["name"]] = claim["spec"]["resources"]["requests"]["storage"]
    proof.true(f"  {directory}, where scratch lies, has {sizes[volume]}", int(sizes[volume].removesuffix("Gi")) > LARGEST_IMAGE, sizes)


if __name__ == "__main__":
    sys.exit(run_proof("the server in a container, and the manifests", prove))
