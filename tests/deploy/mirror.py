"""A mirror of Sysdig's downloads on the loopback device, with the stand-in in the CLI's place.

So `layer/pin` and `layer/fetch` do all they do for a user, checksums included. Python 3.11, standard library only.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import ROOT, TARGET, base_environment, serving

VERSION = "9.9.9"
STAND_IN = TARGET / "debug" / "sysdig-cli-scanner-stand-in"


@contextmanager
def mirror() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Serves files by path; tells the address and the files, which may be changed."""
    files: dict[str, bytes] = {}
    for arch, content in (("amd64", STAND_IN.read_bytes()), ("arm64", b"not for this machine")):
        path = f"/{VERSION}/linux/{arch}/sysdig-cli-scanner"
        files[path] = content
        files[f"{path}.sha256"] = f"{hashlib.sha256(content).hexdigest()}  sysdig-cli-scanner\n".encode()

    def answer(_method: str, path: str, _query: object, _headers: object) -> tuple[int, dict[str, str], bytes]:
        return (200, {}, files[path]) if path in files else (404, {}, b"")

    with serving(answer) as address:
        yield f"http://{address}", files


def staged(context: Path, url: str) -> Path:
    """Lays out what a clone holds after `cargo lambda build`, with the mirror's version pinned by `layer/pin`."""
    (context / "layer").mkdir(parents=True)
    for name in ("fetch", "pin", "sysdig-cli.lock"):
        shutil.copy(ROOT / "layer" / name, context / "layer" / name)
    pin = [str(context / "layer/pin"), VERSION, "2026-11-01"]
    subprocess.run(pin, env=base_environment(SYSDIG_DOWNLOAD_URL=url), check=True, stdout=subprocess.DEVNULL)
    binary = context / "target/lambda/scanner/bootstrap"
    binary.parent.mkdir(parents=True)
    shutil.copy(TARGET / "lambda/scanner/bootstrap", binary)
    shutil.copy(ROOT / ".dockerignore", context / ".dockerignore")
    return context
