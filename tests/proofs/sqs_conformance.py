#!/usr/bin/env python3
"""One list of checks, each of something that AWS documents of SQS, put to three endpoints in one run: that of
`scanhook serve`, moto and ministack. It prints a table of them; scanhook must do all of it right.

`--also NAME=URL`, as often as wanted, asks a further endpoint, which has its column then; `--markdown` prints the table as
docs/emulator.md has it.
Run by the Python of a virtual environment that has boto3 and awscli; PROOF_SERVERS is the directory of the programs
moto_server and ministack. `tests/proofs/run` makes both.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import sqs_checks_messages  # noqa: F401, each adds its checks to the list
import sqs_checks_queues  # noqa: F401
import sqs_checks_redrive  # noqa: F401
from harness import Disproved, Workshop, base_environment, free_port, require_binaries, until, workshop
from serve import SCANHOOK, start_server
from sqs_checks import CHECKS, TEXT, Check, Target, judge

OURS = "scanhook"
SERVERS = Path(os.environ.get("PROOF_SERVERS", Path(sys.executable).parent))
CONFIG = """
sources:
  any: { kind: distribution, registry: registry.example.com, auth: [{ type: bearer, secret: "env:PROOF_TOKEN" }] }
scanner: { api_token: "env:PROOF_TOKEN" }
"""


def start_scanhook(shop: Workshop) -> Target:
    env = base_environment(PROOF_TOKEN="fake-token-0123456789")
    server = start_server(shop, CONFIG, "--no-scan", env=env)
    return Target(OURS, server.sqs.url, patience=30)


def start_other(shop: Workshop, name: str, program: str, port: int, *arguments: str, **env: str) -> Target:
    target = Target(name, f"http://127.0.0.1:{port}", patience=8)
    process = shop.start(name, [SERVERS / program, *arguments], base_environment(**env))

    def lists_queues() -> bool:
        if not process.is_running():
            raise Disproved(f"{name} ended at its start")
        try:
            target.sqs.list_queues()
        except Exception:  # whatever a server says that is not up yet
            return False
        return True

    until(f"{name} is up", lists_queues)
    return target


def start_others(shop: Workshop) -> list[Target]:
    """The other servers; one that is not installed is left out, and that is said."""
    targets = []
    for name, program in (("moto", "moto_server"), ("ministack", "ministack")):
        if not (SERVERS / program).is_file():
            print(f"SKIPPED: {name} is not installed, so its column is missing", file=sys.stderr)
            continue
        port = free_port()
        if name == "moto":
            targets.append(start_other(shop, name, program, port, "-H", "127.0.0.1", "-p", str(port)))
        else:
            env = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "MINISTACK_HOST": "localhost"}
            targets.append(start_other(shop, name, program, port, **env, HOME=str(shop.directory)))
    return targets


def further(argument: str) -> Target:
    name, is_there, url = argument.partition("=")
    if not (name and is_there and url.startswith(("http://", "https://"))):
        raise argparse.ArgumentTypeError(f"{argument} is no NAME=URL")
    return Target(name, url.rstrip("/"), patience=8)


Outcomes = dict[str, list[str | None]]
"""For each server, what was wrong at each check, or None."""


def run_checks(targets: list[Target]) -> Outcomes:
    with ThreadPoolExecutor(len(targets)) as threads:
        columns = threads.map(lambda target: [judge(check, target) for check in CHECKS], targets)
        return {target.name: column for target, column in zip(targets, columns, strict=True)}


def answer(wrong: str | None) -> str:
    """What the table says in short."""
    if wrong is None:
        return "yes"
    return "text" if wrong.startswith(TEXT) else "no"


def summary(outcomes: Outcomes) -> str:
    def count(column: list[str | None]) -> str:
        answers = [answer(it) for it in column]
        but = f" and {answers.count('text')} more but for an error's text" if "text" in answers else ""
        return f"{answers.count('yes')} of {len(answers)}{but}"

    return ", ".join(f"{name} {count(column)}" for name, column in outcomes.items())


def print_table(outcomes: Outcomes) -> None:
    print(f"{'check':84}" + "".join(f"{name:11}" for name in outcomes))
    for number, check in enumerate(CHECKS):
        answers = {name: column[number] for name, column in outcomes.items()}
        print(f"{check.title:84}" + "".join(f"{answer(it):11}" for it in answers.values()))
        for name, wrong in answers.items():
            if wrong:
                print(f"    {name}: {wrong}")
        if any(answers.values()):
            print(f"    AWS: {check.documented} ({check.page})")
    print(f"\nright: {summary(outcomes)}")


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def print_markdown(outcomes: Outcomes) -> None:
    print(f"Right: {summary(outcomes)}.\n")
    print("| check | " + " | ".join(outcomes) + " | what AWS documents, where they differ |")
    print("|---|" + "---|" * len(outcomes) + "---|")
    for number, check in enumerate(CHECKS):
        answers = [column[number] for column in outcomes.values()]
        documented = f"{check.documented} ({check.page})" if any(answers) else ""
        cells = [
            check.title,
            *(f"{answer(it)}: {it.removeprefix(TEXT)}" if it else "yes" for it in answers),
            documented,
        ]
        print("| " + " | ".join(map(cell, cells)) + " |")


def main() -> int:
    parser = argparse.ArgumentParser(description="One list of checks, put to several SQS endpoints.")
    parser.add_argument("--also", type=further, action="append", default=[], metavar="NAME=URL")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    require_binaries(SCANHOOK)
    with workshop() as shop:
        targets = [start_scanhook(shop), *start_others(shop), *options.also]
        names = [it.name for it in targets]
        if len(set(names)) < len(names):
            parser.error(f"two endpoints of one name: {', '.join(names)}")
        outcomes = run_checks(targets)
        failed: list[tuple[Check, Any]] = [
            (check, wrong) for check, wrong in zip(CHECKS, outcomes[OURS], strict=True) if wrong
        ]
        if options.markdown:
            print_markdown(outcomes)
            return 1 if failed else 0
        print(f"# SQS as AWS documents it, asked of {', '.join(names)}\n")
        print_table(outcomes)
        for check, wrong in failed:
            print(f"not ok: {check.title}: {wrong}")
        if failed:
            shop.show_logs()
    print(f"\n{len(CHECKS) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
