"""What the source says that a deployment must give: variables, permissions, routes, limits."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from pathlib import Path

from model import ROOT

SHARED = ("config", "telemetry", "core")
CRATES = {"webhook": ("webhook", *SHARED), "scanner": ("scanner", "registry", *SHARED)}
"""Whose source a function runs."""

COMMANDS_ONLY = {"functions/scanner/src/dynamodb/history.rs"}
"""What of it only commands run: reading the ledger."""

SERVICES = {
    "aws-sdk-dynamodb": "dynamodb",
    "aws-sdk-ecr": "ecr",
    "aws-sdk-secretsmanager": "secretsmanager",
    "aws-sdk-sqs": "sqs",
    "aws-sdk-ssm": "ssm",
}
"""SDK crates, and what IAM calls their service."""


def files(function: str) -> list[str]:
    """The source files of a function, without their tests."""
    found = []
    for crate in CRATES[function]:
        for path in sorted((ROOT / "functions" / crate / "src").rglob("*.rs")):
            if str(path.relative_to(ROOT)) not in COMMANDS_ONLY:
                found.append(path.read_text().split("#[cfg(test)]")[0])
    return found


def text_of(function: str) -> str:
    return "\n".join(files(function))


def variables(function: str) -> set[str]:
    return set(re.findall(r'"(SCANHOOK_[A-Z_]+)"', text_of(function)))


def permissions(function: str) -> set[str]:
    """The IAM actions of all operations that are called. A batch operation has its single one's permission."""
    found = set()
    for service, operation in operations():
        # In a file that names the crate: a URL has a `query()`, too.
        callers = (it for it in files(function) if f"aws_sdk_{crate_of(service)}" in it)
        if any(re.search(rf"\.\s*{operation}\(\)", it) for it in callers):
            action = "".join(part.capitalize() for part in operation.split("_"))
            found.add(f"{service}:{action.removesuffix('Batch')}")
    return found


def crate_of(service: str) -> str:
    return next(crate for crate, it in SERVICES.items() if it == service).removeprefix("aws-sdk-")


@functools.cache
def operations() -> list[tuple[str, str]]:
    """Service and operation (in snake case) of all SDK crates that the functions use, read from those crates' source."""
    metadata = json.loads(
        subprocess.run(
            ["cargo", "metadata", "--format-version", "1", "--locked"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout
    )
    packages = {it["name"]: it for it in metadata["packages"]}
    crates = {f"scanhook-{crate}" for used in CRATES.values() for crate in used}
    used = {it["name"] for crate in crates for it in packages[crate]["dependencies"] if it["kind"] is None}
    found = []
    for name in sorted(it for it in used if it.startswith("aws-sdk-")):
        # An SDK crate that is not in the table fails here, on purpose.
        service = SERVICES[name]
        directory = Path(packages[name]["manifest_path"]).parent / "src" / "operation"
        found += [(service, path.stem) for path in directory.glob("*.rs")]
    return found


def routes() -> set[str]:
    """The routes of the webhook's router, as API Gateway writes them."""
    source = (ROOT / "functions/webhook/src/router.rs").read_text().split("#[cfg(test)]")[0]
    found = set()
    for path, methods in re.findall(r'\.route\(\s*"([^"]+)",\s*([^;]*?)\)\s*(?=\.route|\.method_not|\.fallback|\.with)', source):
        for method in re.findall(r"\b(get|post|options|put|delete)\(", methods):
            found.add(f"{method.upper()} {path}")
    return found


def number(path: str, pattern: str) -> int:
    """The number that the only match of a pattern in a file holds."""
    (found,) = re.findall(pattern, (ROOT / path).read_text())
    return int(found)
