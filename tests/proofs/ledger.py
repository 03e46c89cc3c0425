#!/usr/bin/env python3
"""The ledger in DynamoDB: the suite that SQLite meets, on a DynamoDB-compatible server; then the scanner function, as the
binary that is deployed, with that table, and `scanhook scans` reading it.

The table is made as docs/reference/ledger.md describes it. `tests/proofs/run` installs moto and aws-lambda-rie, and builds
the binaries.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from typing import Any

import scanner_function
from any_registry import new_digest
from aws_server import TABLE, Moto, start_moto
from deliveries import HARBOR, harbor_push
from harness import BINARIES, ROOT, Proof, Workshop, base_environment, require_binaries, run_proof
from lambda_emulator import Function, failed_identifiers, find_emulator, http_event, sqs_event
from serve import DEAD_LETTERS, QUEUE, SCANHOOK, link_stand_in, start_server, text_attributes
from stage import API_TOKEN, CONFIG, TOKENS, Stage

NOBODY = "127.0.0.1:1"


def prove(proof: Proof, shop: Workshop) -> None:
    server = start_moto(shop)
    one_suite_holds_on_both_stores(proof, server)
    server.create_table()
    environment = base_environment(**TOKENS, **API_TOKEN)
    # Sysdig is somebody on this machine who does not answer.
    config = CONFIG.replace("scanner: {", f'scanner: {{ api_url: "https://{NOBODY}",')
    # A scan's time pays for asking a table that is gone, too.
    config = config.replace("timeout: 1s", "timeout: 15s")
    serve = start_server(shop, config, "--no-scan", env=environment)
    link_stand_in(shop.directory / "cli")
    stage = Stage(proof, shop, find_emulator(), BINARIES, serve)
    webhook = stage.start("webhook", 29, **TOKENS)
    variables = {"SCANHOOK_LEDGER_TABLE": TABLE, "AWS_ENDPOINT_URL_DYNAMODB": server.url}
    scanner = stage.start("scanner", 120, **API_TOKEN, **variables)
    six_deliveries_of_one_push_are_one_scan(stage, webhook, scanner, server)
    the_commands_read_the_table(proof, server)
    who_may_invoke_the_function_may_ask_the_doctor(stage, scanner)
    a_message_cannot_ask_the_doctor(stage, scanner)
    without_the_table_scans_go_on(stage, webhook, scanner, server)
    stage.says_none_of(scanner, API_TOKEN)


def one_suite_holds_on_both_stores(proof: Proof, server: Moto) -> None:
    proof.part("the suite of the ledger, on SQLite and on DynamoDB")
    # Of the workspace, so that the dependencies are those that were built for its tests.
    command = ["cargo", "test", "--quiet", "--locked", "--workspace", "--bin", "scanhook"]
    command += ["--features", "scanhook/dynamodb-tests", "--", "--test-threads", "2", "ledger::tests"]
    environment = {**os.environ, "SCANHOOK_TEST_DYNAMODB": server.url, "RUST_BACKTRACE": "0"}
    # One at a time and by name, so that it is seen which ran.
    listed = subprocess.run([*command, "--list"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    cases: dict[str, set[str]] = {"sqlite": set(), "dynamodb": set()}
    for store, case in re.findall(r"^ledger::tests::(\w+)::(\w+): test$", listed.stdout.decode(), re.MULTILINE):
        cases[store].add(case)
    proof.equal("both have the same cases", cases["dynamodb"], cases["sqlite"])
    began = time.monotonic()
    ran = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = ran.stdout.decode(errors="replace")
    told = re.search(r"test result: ok\. (\d+) passed; 0 failed", output)
    proof.true("all of them hold", ran.returncode == 0 and told is not None, output)
    count = int(told[1]) if told else 0
    proof.true(f"{count} in {time.monotonic() - began:.0f} s", count >= 2 * len(cases["sqlite"]) > 0)
    race = "of_two_workers_that_race_one_wins_each_of_a_thousand_times"
    proof.true("the race of two workers among them, a thousand times on each", race in cases["dynamodb"])


def push(stage: Stage, webhook: Function, repository: str, digest: str, count: int) -> list[dict[str, Any]]:
    """Has the webhook take deliveries of one push, and receives what it queued."""
    event = http_event("POST", "/webhooks/harbor", HARBOR, harbor_push(repository, digest))
    answers = [webhook.invoke(event)["statusCode"] for _ in range(count)]
    stage.proof.equal(f"{count} deliveries were taken", answers, [202] * count)
    return stage.server.sqs.receive(QUEUE, count)


def scan(stage: Stage, scanner: Function, messages: list[dict[str, Any]]) -> None:
    failed = failed_identifiers(scanner.invoke(sqs_event(messages)))
    stage.proof.equal("none failed", failed, set())
    for message in messages:
        stage.server.sqs.delete(QUEUE, message)


def six_deliveries_of_one_push_are_one_scan(
    stage: Stage, webhook: Function, scanner: Function, server: Moto
) -> None:
    proof = stage.proof
    proof.part("the scanner function: six deliveries of one push")
    scan(stage, scanner, push(stage, webhook, "prod/fail", new_digest(), 6))
    lines = scanner.lines("scan.finished")
    reasons = sorted(str(it.get("reason")) for it in lines)
    proof.equal("one scan, five repeated", reasons, ["None", *["repeated"] * 5])
    proof.equal("all with its verdict", {it["verdict"] for it in lines}, {"failed"})
    items = server.client("dynamodb").scan(TableName=TABLE)["Items"]
    claims = [it for it in items if it["pk"]["S"].startswith("claim#")]
    proof.equal("the table holds one claim", len(claims), 1)
    proof.equal("  which is done", json.loads(claims[0]["verdict"]["S"]), "failed")
    proof.equal("and six records", len(items) - len(claims), 6)
    soonest = min(int(it["expires_at"]["N"]) for it in items) - time.time()
    # `ledger.keep` and `dedup.window`, by default.
    kept = 90 * 86400 + 600
    proof.true("all expire in 90 days and ten minutes", kept - 300 < soonest <= kept, soonest)
    proof.equal("nobody warned of the ledger", scanner.lines("ledger.unavailable"), [])


def scans(server: Moto, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = base_environment(AWS_ENDPOINT_URL_DYNAMODB=server.url)
    command = [str(SCANHOOK), "scans", *arguments, "--table", TABLE, "--output", "json"]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def the_commands_read_the_table(proof: Proof, server: Moto) -> None:
    proof.part("scanhook scans --table")
    listed = json.loads(scans(server, "list").stdout)
    proof.equal("lists all six", len(listed), 6)
    times = [it["received_at"] for it in listed]
    proof.equal("  the latest first", times, sorted(times, reverse=True))
    some = json.loads(scans(server, "list", "--limit", "2").stdout)
    proof.equal("--limit takes the latest", some, listed[:2])
    for arguments, count in [
        (("--image", "prod/fail"), 6),
        (("--image", "prod/pass"), 0),
        (("--verdict", "failed"), 6),
        (("--verdict", "passed"), 0),
        (("--source", "harbor", "--since", "1h"), 6),
        (("--source", "ghcr"), 0),
        (("--since", "2099-01-01T00:00:00Z"), 0),
    ]:
        found = json.loads(scans(server, "list", *arguments).stdout)
        proof.equal(f"{' '.join(arguments)} finds {count}", len(found), count)
    [scanned] = [it for it in listed if it["reason"] is None]
    proof.equal("show has the record of one scan", json.loads(scans(server, "show", scanned["scan_id"]).stdout), [scanned])
    proof.true("  with its findings", scanned["critical"] + scanned["high"] > 0, scanned)
    unknown = scans(server, "show", "01NONE")
    proof.equal("a scan that nobody knows is a failure", unknown.returncode, 1)


def who_may_invoke_the_function_may_ask_the_doctor(stage: Stage, scanner: Function) -> None:
    proof = stage.proof
    proof.part("the scanner function: an invocation that asks for the doctor")
    images = {"pass_image": f"{NOBODY}/demo/pass:1.0", "fail_image": f"{NOBODY}/demo/fail:1.0"}
    answer = scanner.invoke({"doctor": images})
    outcomes = {it["check"]: it["outcome"] for it in answer["checks"]}
    proof.equal("the ledger's table answers", outcomes["ledger"], "ok")
    proof.equal("the stand-in is not the pinned CLI", (outcomes["cli_checksum"], outcomes["cli_version"]), ("failed",) * 2)
    proof.equal("Sysdig can't be reached", outcomes["network"], "failed")
    findings = {it["finding"] for it in answer["assumptions"]}
    proof.equal("nothing is verified by a stand-in", findings, {"not_checked"})
    proof.true("the machine is a function", answer["host"]["is_lambda"])
    refused = scanner.invoke({"doctor": {"command": "id"}})
    proof.true("what else is asked of it is refused", "unknown field" in refused.get("errorMessage", ""), refused)
    empty = scanner.invoke({"Records": [], "doctor": {}})
    proof.equal("what has records is a batch, whatever else it has", empty, {"batchItemFailures": []})
    scanner_function.leaves_nothing_behind(proof, scanner)


def a_message_cannot_ask_the_doctor(stage: Stage, scanner: Function) -> None:
    proof, sqs = stage.proof, stage.server.sqs
    proof.part("the scanner function: a message that asks for the doctor")
    body = '{"doctor":{}}'
    sqs.send(QUEUE, body)
    scan(stage, scanner, sqs.receive(QUEUE, 1))
    [letter] = sqs.take(DEAD_LETTERS, 1)
    told = (letter["Body"], text_attributes(letter)["scanhook.reason"])
    proof.equal("it is no message", told, (body, "bad_message"))


def without_the_table_scans_go_on(stage: Stage, webhook: Function, scanner: Function, server: Moto) -> None:
    proof = stage.proof
    proof.part("the scanner function: the ledger does not answer")
    messages = push(stage, webhook, "prod/pass", new_digest(), 2)
    server.process.end()
    began = time.monotonic()
    scan(stage, scanner, messages)
    took = time.monotonic() - began
    verdicts = [it["verdict"] for it in scanner.lines("scan.finished")[6:]]
    proof.equal("both are scanned", verdicts, ["passed", "passed"])
    told = {it["operation"] for it in scanner.lines("ledger.unavailable")}
    proof.equal("the log says what was not kept", told, {"claim", "record"})
    proof.true("without a long wait", took < 30, took)
    unread = scans(server, "list")
    proof.equal("the command fails", unread.returncode, 1)
    proof.true("  and says why", b"ledger is unavailable" in unread.stderr, unread.stderr)


def main() -> int:
    require_binaries(SCANHOOK, BINARIES / "webhook", BINARIES / "scanner")
    with scanner_function.own_scratch():
        return run_proof("the ledger: one suite on SQLite and DynamoDB, and the function with its table", prove)


if __name__ == "__main__":
    sys.exit(main())
