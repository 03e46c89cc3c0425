"""How the functions say why they don't start.

Python 3.11, standard library only.
"""

from __future__ import annotations

import os
import subprocess

from harness import base_environment
from lambda_emulator import sqs_variables
from serve import DEAD_LETTERS, QUEUE
from stage import API_TOKEN, ATTEMPTS, CONFIG, TOKENS, Stage

SHORT = "fake-short"
"""A secret that is too short for a source."""


def what_keeps_one_from_starting_is_told(stage: Stage) -> None:
    """Each binary as Lambda starts it, with one variable unset or wrong: one line that names it, exit code 2."""
    proof, sqs = stage.proof, stage.server.sqs
    proof.part("both: what keeps a function from starting is told in one line, with exit code 2")
    invalid = config_with(stage, "invalid", CONFIG.replace("sources:", "sauces:"))
    disagreeing = config_with(stage, "disagreeing", CONFIG.replace(f"attempts: {ATTEMPTS}", "attempts: 9"))
    cases: list[tuple[str, str, str | None, str]] = [
        ("webhook", "PROOF_HUB", None, "sources.hub.auth[0].secret"),
        ("webhook", "PROOF_HUB", SHORT, "sources.hub.auth[0].secret"),
        ("scanner", "PROOF_API_TOKEN", None, "scanner.api_token"),
        ("scanner", "SCANHOOK_DLQ_URL", None, "SCANHOOK_DLQ_URL"),
        ("scanner", "SCANHOOK_DLQ_URL", sqs.queue_url("other"), "SCANHOOK_DLQ_URL names other"),
        ("scanner", "SCANHOOK_QUEUE_URL", sqs.queue_url("nobody"), "nobody"),
        ("scanner", "SCANHOOK_CONFIG", disagreeing, "retry.attempts is 9"),
        ("scanner", "AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:1", sqs.queue_url(QUEUE)),
        ("scanner", "PATH", "/nowhere", "sysdig-cli-scanner"),
    ]
    for role in ("webhook", "scanner"):
        cases += [
            (role, "AWS_LAMBDA_RUNTIME_API", None, "this is a Lambda function"),
            (role, "SCANHOOK_QUEUE_URL", None, "SCANHOOK_QUEUE_URL"),
            (role, "SCANHOOK_CONFIG", None, "SCANHOOK_CONFIG"),
            (role, "SCANHOOK_CONFIG", "file:/nowhere.yaml", "/nowhere.yaml"),
            (role, "SCANHOOK_CONFIG", invalid, "sauces"),
        ]
    secrets = [*TOKENS.values(), *API_TOKEN.values(), SHORT]
    for role, name, value, expected in cases:
        code, said = start(stage, role, name, value)
        claim = f"{role}, {'no' if value is None else 'another'} {name}"
        proof.equal(f"{claim}: exit code 2, one line", (code, len(said.splitlines())), (2, 1))
        proof.true(
            f"  that tells of {expected.rsplit('/', 1)[-1]}", said.startswith(f"{role}: ") and expected in said, said
        )
        proof.true("  and no secret", not any(it in said for it in secrets))


def config_with(stage: Stage, name: str, text: str) -> str:
    """Where a configuration with that text is."""
    file = stage.shop.directory / f"{name}.yaml"
    file.write_text(text)
    return f"file:{file}"


def start(stage: Stage, role: str, name: str, value: str | None) -> tuple[int, str]:
    """Starts a function with `value` for the variable `name`, and tells exit code and stderr."""
    variables = {
        **sqs_variables(stage.server.sqs, QUEUE, DEAD_LETTERS),
        **(TOKENS if role == "webhook" else API_TOKEN),
        "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:1",
        "SCANHOOK_CONFIG": f"file:{stage.server.config}",
        "PATH": f"{stage.shop.directory / 'cli'}:{os.environ['PATH']}",
    }
    variables.pop(name)
    if value is not None:
        variables[name] = value
    env = base_environment(**variables)
    command = [str(stage.binaries / role)]
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr
