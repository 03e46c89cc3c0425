"""Containers without a daemon: buildah builds them, podman runs them, and a base is made of Debian's packages.

The base has the shape of AWS's `public.ecr.aws/lambda/provided`: `/lambda-entrypoint.sh`, which starts
`/var/runtime/bootstrap` under the runtime interface emulator, and no more. Python 3.11, standard library only.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import TARGET, Process, Workshop

STORE = TARGET / "containers"
BASE = "localhost/lambda-base"
PACKAGES = "ca-certificates,curl"

ENTRYPOINT = """#!/bin/sh
if [ $# -ne 1 ]; then
    echo "entrypoint requires the handler name to be the first argument" >&2
    exit 142
fi
export _HANDLER="$1"
if [ -z "${AWS_LAMBDA_RUNTIME_API:-}" ]; then
    exec /usr/local/bin/aws-lambda-rie /var/runtime/bootstrap
fi
exec /var/runtime/bootstrap
"""

_STORAGE = ("--root", str(STORE / "storage"), "--runroot", str(STORE / "run"), "--storage-driver", "overlay")
PODMAN = ["podman", *_STORAGE, "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc"]
# More than a session of root may have here otherwise.
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]


def podman(*arguments: str | Path, check: bool = True) -> str:
    return _output([*PODMAN, *map(str, arguments)], check)


def buildah(*arguments: str | Path, check: bool = True) -> str:
    return _output(["buildah", *_STORAGE, *map(str, arguments)], check)


def _output(command: list[str], check: bool) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}")
    return done.stdout


def build(context: Path, recipe: str | Path, tag: str, *options: str, check: bool = True, **arguments: str) -> str:
    """Builds an image as a builder without caches does, every file dated 1970, and tells what was printed."""
    given = [it for name, value in arguments.items() for it in ("--build-arg", f"{name}={value}")]
    command = ["bud", "--isolation", "chroot", "--no-cache", "--timestamp", "0", *options, *given]
    return buildah(*command, "--tag", tag, "--file", recipe, context, check=check)


def inspect(image: str) -> Any:
    return json.loads(podman("image", "inspect", image))[0]


def start_container(shop: Workshop, name: str, *arguments: str | Path) -> Process:
    """Runs a container in the foreground of a process of ours; the container ends with it."""
    run = ["run", "--rm", "--name", name, *LIMITS, "--network", "host", *map(str, arguments)]
    return shop.start(name, [*PODMAN, *run], dict(os.environ))


def emulator() -> Path:
    """AWS's runtime interface emulator, as the SAM CLI brings it along."""
    machine = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
    found = list(TARGET.glob(f"template-venv/lib/python*/site-packages/samcli/local/rapid/aws-lambda-rie-{machine}"))
    if not found:
        sys.exit("there is no aws-lambda-rie: tests/deploy/run installs it")
    return found[0]


def make_base() -> None:
    """Makes the base from Debian's packages, unless there is one."""
    if podman("image", "exists", BASE, check=False) == "" and BASE in podman("images", "--format", "{{.Repository}}"):
        return
    root = STORE / "rootfs"
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    log = STORE / "debootstrap.log"
    with log.open("w") as output:
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)]
        if subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode != 0:
            sys.exit(f"debootstrap failed: {log.read_text()[-2000:]}")
    for directory in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(root / directory, ignore_errors=True)
    shutil.copy(emulator(), root / "usr/local/bin/aws-lambda-rie")
    (root / "usr/local/bin/aws-lambda-rie").chmod(0o755)
    (root / "var/runtime").mkdir()
    (root / "var/task").mkdir()
    # Where Amazon Linux has the bundle that SSL_CERT_FILE names.
    (root / "etc/pki/tls/certs").mkdir(parents=True)
    (root / "etc/pki/tls/certs/ca-bundle.crt").symlink_to("/etc/ssl/certs/ca-certificates.crt")
    entrypoint = root / "lambda-entrypoint.sh"
    entrypoint.write_text(ENTRYPOINT)
    entrypoint.chmod(0o755)
    archive = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
    path = "ENV PATH=/usr/local/bin:/usr/bin:/bin"
    changes = ["--change", 'ENTRYPOINT ["/lambda-entrypoint.sh"]', "--change", "WORKDIR /var/task", "--change", path]
    done = subprocess.run([*PODMAN, "import", "--quiet", *changes, "-", BASE], stdin=archive.stdout, capture_output=True)
    if archive.wait() != 0 or done.returncode != 0:
        sys.exit(f"could not import the base: {done.stderr.decode(errors='replace')[-2000:]}")
    shutil.rmtree(root)
