"""How the functions start, or say why they don't.

Python 3.11, standard library only.
"""

from __future__ import annotations

import os
import subprocess

from harness import DEAD_LETTERS, QUEUE, base_environment
from lambda_emulator import sqs_variables
from stage import API_TOKEN, ATTEMPTS, CONFIG, TOKENS, Stage


def what_keeps_one_from_starting_is_told(stage: Stage) -> None:
    """Each binary, started as Lambda would with one thing wrong: one line that names it, and exit code 2."""
    stage.proof.part("both: what keeps a function from starting is told in one line, with exit code 2")
    sqs, directory = stage.server.sqs, stage.shop.directory
    other = directory / "other.yaml"
    other.write_text(CONFIG.replace(f"attempts: {ATTEMPTS}", "attempts: 9"))
    broken = directory / "broken.yaml"
    broken.write_text(CONFIG.replace("sources:", "sauces:"))
    common = {"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:1", "SCANHOOK_CONFIG": f"file:{stage.server.config}"}
    queues = {**common, **sqs_variables(sqs, QUEUE, DEAD_LETTERS)}
    path = {"PATH": f"{directory / 'cli'}:{os.environ['PATH']}"}
    roles = {"webhook": {**queues, **TOKENS}, "scanner": {**queues, **API_TOKEN, **path}}
    refused = {"AWS_ENDPOINT_URL_SQS": "http://127.0.0.1:1"}
    short = {"PROOF_HUB": "fake-short"}
    cases: list[tuple[str, dict[str, str | None], str]] = [
        *((role, {name: None}, name) for role in roles for name in ("SCANHOOK_CONFIG", "SCANHOOK_QUEUE_URL")),
        *((role, {"AWS_LAMBDA_RUNTIME_API": None}, "this is a Lambda function") for role in roles),
        *((role, {"SCANHOOK_CONFIG": "file:/nowhere.yaml"}, "/nowhere.yaml") for role in roles),
        *((role, {"SCANHOOK_CONFIG": f"file:{broken}"}, "sauces") for role in roles),
        ("webhook", {"PROOF_HUB": None}, "sources.hub.auth[0].secret"),
        ("webhook", short, "sources.hub.auth[0].secret"),
        ("scanner", {"SCANHOOK_DLQ_URL": None}, "SCANHOOK_DLQ_URL"),
        ("scanner", {"SCANHOOK_DLQ_URL": sqs.queue_url("other")}, "SCANHOOK_DLQ_URL names other"),
        ("scanner", {"PROOF_API_TOKEN": None}, "scanner.api_token"),
        ("scanner", {"SCANHOOK_CONFIG": f"file:{other}"}, "retry.attempts is 9"),
        ("scanner", {"SCANHOOK_QUEUE_URL": sqs.queue_url("nobody")}, "nobody"),
        ("scanner", {"PATH": "/nowhere"}, "sysdig-cli-scanner"),
        ("scanner", refused, "127.0.0.1:1"),
    ]
    for role, changes, expected in cases:
        variables = {name: it for name, it in (roles[role] | changes).items() if it is not None}
        command, env = [stage.binaries / role], base_environment(**variables)
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        lines = done.stderr.splitlines()
        [(name, value)] = changes.items()
        claim = f"{role}, {'no' if value is None else 'another'} {name}"
        shape = (done.returncode, len(lines), lines[0].startswith(f"{role}: ") if lines else False)
        if shape != (2, 1, True):
            stage.proof.equal(f"{claim}: exit code, lines, start\n  {done.stderr[:2000]}", shape, (2, 1, True))
        stage.proof.true(f"{claim}: told", expected in lines[0], lines[0])
        said = [name for name, token in {**TOKENS, **API_TOKEN, **short}.items() if token in done.stderr]
        if said:
            stage.proof.equal(f"{claim}: no secret is told", said, [])
