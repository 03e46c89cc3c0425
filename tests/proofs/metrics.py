#!/usr/bin/env python3
"""The figures: Prometheus' own tool takes them, CloudWatch's format is kept, and both tell the same of the same events.

The same deliveries go through `scanhook serve`, which tells Prometheus, and through both functions under AWS's Lambda
runtime interface emulator, which tell CloudWatch. `promtool` (Debian's package `prometheus`) checks what `serve` and
`work` tell, the alert rules, each alert by a unit test (`alerts.yaml`), and the dashboard's queries.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import emf
from any_registry import new_digest, proxy
from deliveries import DEBIAN, HARBOR, JSON, distribution_push, harbor_push
from harness import (
    BINARIES,
    ROOT,
    Disproved,
    Proof,
    Workshop,
    base_environment,
    http,
    require_binaries,
    require_programs,
    run_proof,
    until,
)
from lambda_emulator import find_emulator, http_event, sqs_event
from serve import QUEUE, SCANHOOK, Server, link_stand_in, start_server
from stage import API_TOKEN, CONFIG, TOKENS, Stage

MONITORING = ROOT / "docs/monitoring"
PREFIX = "scanhook_"

ONLY_OF_A_SERVER = {"ready", "queue_depth", "queue_in_flight", "queue_oldest_age_seconds"}
"""What a function has no figures for."""

HOSTILE, TOGETHER = 1000, 20
"""Repositories that would like to be labels; so many in one delivery."""

Delivery = tuple[str, dict[str, str], bytes]
"""Path, headers and body."""


def deliveries() -> list[Delivery]:
    """One of each sort that is counted differently; scans of the stand-in CLI end as the repository's name says."""
    harbor = "/webhooks/harbor"
    pushes = [(harbor, HARBOR, harbor_push(f"prod/{name}", new_digest())) for name in ["pass", "fail", "no-policy", "unsupported", "pass"]]
    wrong = {**HARBOR, "Authorization": "fake-wrong-token-0123456789"}
    return [
        *pushes,
        (harbor, HARBOR, pushes[0][2].replace(b"PUSH_ARTIFACT", b"DELETE_ARTIFACT")),
        (harbor, HARBOR, b"{}"),
        (harbor, wrong, pushes[0][2]),
        ("/webhooks/nobody", HARBOR, pushes[0][2]),
    ]


def promtool(*arguments: str | Path, stdin: bytes | None = None) -> tuple[int, str]:
    command = ["promtool", *(str(it) for it in arguments)]
    ran = subprocess.run(command, input=stdin, capture_output=True, check=False)
    return ran.returncode, (ran.stdout + ran.stderr).decode()


def is_taken(proof: Proof, claim: str, *arguments: str | Path, stdin: bytes | None = None) -> None:
    code, said = promtool(*arguments, stdin=stdin)
    proof.true(claim, code == 0, said)


def rules_are_taken(proof: Proof, shop: Workshop) -> None:
    proof.part("promtool: rules and queries")
    rules = MONITORING / "prometheus-alerts.yaml"
    is_taken(proof, "the alert rules are rules", "check", "rules", rules)
    tests = ROOT / "tests/proofs/alerts.yaml"
    is_taken(proof, "each alert fires when it should, and not before", "test", "rules", tests)
    alerts = set(re.findall(r"- alert: (\w+)", rules.read_text()))
    fired = set(re.findall(r"alertname: (\w+)\n +eval_time: \w+\n +exp_alerts:\n", tests.read_text()))
    quiet = set(re.findall(r"\{ alertname: (\w+), eval_time: 3h \}", tests.read_text()))
    proof.equal("no alert is left out: each fires in one test", fired, alerts)
    proof.equal("  and is quiet in another", quiet, alerts)
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    records = shop.directory / "dashboard.json"
    # Rules are YAML, and so JSON too.
    as_rules = [{"record": f"query:{number}", "expr": expand(it)} for number, it in enumerate(queries)]
    records.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": as_rules}]}))
    is_taken(proof, f"the dashboard's {len(queries)} queries are queries", "check", "rules", records)


def expand(query: str) -> str:
    """A query as Grafana sends it."""
    return query.replace("$__rate_interval", "5m").replace("$instance", ".*")


def exposition(text: str) -> Counter[emf.Series]:
    """What `/metrics` tells, as the functions would: counts, and of histograms how many values there are."""
    told: Counter[emf.Series] = Counter()
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups()
        name = name.removeprefix(PREFIX)
        pairs = tuple(sorted(re.findall(r'(\w+)="([^"]*)"', labels or "")))
        if name.endswith(("_bucket", "_sum")) or name in ONLY_OF_A_SERVER:
            continue
        name = name.removesuffix("_total").removesuffix("_count")
        # What never happened is told here and not to CloudWatch.
        if float(value):
            told[name, pairs] += int(value)
    return told


def is_settled(server: Server, scans: int) -> bool:
    records = server.scans()
    return len(records) == scans and all(it["state"] in ("done", "dead_letter") for it in records)


def through_serve(proof: Proof, shop: Workshop) -> Counter[emf.Series]:
    proof.part("serve: what Prometheus is told")
    place = shop.directory / "serve"
    place.mkdir()
    env = base_environment(**TOKENS, **API_TOKEN, **proxy())
    env["PATH"] = f"{link_stand_in(place / 'cli').parent}:{env['PATH']}"
    server = start_server(Workshop(place, shop.processes), CONFIG, env=env)
    fresh = http("GET", f"{server.url}/metrics").body.decode()
    queued = 0
    for path, headers, body in deliveries():
        queued += http("POST", server.url + path, headers, body).status == 202
        until("the scan", lambda: is_settled(server, queued))
    text = http("GET", f"{server.url}/metrics")
    is_taken(proof, "promtool takes it", "check", "metrics", stdin=text.body)
    for name in sorted(ONLY_OF_A_SERVER):
        proof.true(f"  {name} is told", f"\n{PREFIX}{name}{{" in text.body.decode())
    a_first_count_is_noticed(proof, shop, fresh, text.body.decode())
    told = exposition(text.body.decode())
    hostile_names_make_no_label(proof, server)
    work_is_taken(proof, shop, server, env)
    server.process.terminate()
    return told


def a_first_count_is_noticed(proof: Proof, shop: Workshop, fresh: str, later: str) -> None:
    """Has Prometheus judge what a server told when it was fresh, and after its first image that no policy was evaluated for."""
    series = f'{PREFIX}scans_without_policy_total{{source="harbor"}}'

    def value(text: str) -> str:
        found = re.search(rf"^{re.escape(series)} (\d+)$", text, re.MULTILINE)
        return found[1] if found else "_"

    alert = {"alertname": "ScanhookNoPolicy", "eval_time": "11m"}
    expected = [{
        "exp_labels": {"severity": "info", "source": "harbor"},
        "exp_annotations": {
            "summary": "Images of harbor pass because no policy is evaluated",
            "description": "Name policies in scanner.policies or sources.*.policies, or attach them in Sysdig.",
        },
    }]  # fmt: skip
    samples = {"series": series, "values": f"{value(fresh)}x9 {value(later)}x30"}
    test = {"interval": "1m", "input_series": [samples], "alert_rule_test": [alert | {"exp_alerts": expected}]}
    file = shop.directory / "first-count.yaml"
    file.write_text(json.dumps({"rule_files": [str(MONITORING / "prometheus-alerts.yaml")], "tests": [test]}))
    is_taken(proof, f"the alert fires on a first count: {samples['values']}", "test", "rules", file)


def hostile_names_make_no_label(proof: Proof, server: Server) -> None:
    path = "/webhooks/debian"
    event = json.loads(distribution_push("team/app", new_digest()))["events"][0]
    def push(number: int) -> dict[str, object]:
        name = f"hostile/hostile-{number}"
        url = event["target"]["url"].replace("team/app", name)
        return {**event, "id": f"hostile-{number}", "target": {**event["target"], "repository": name, "url": url, "digest": new_digest()}}
    before = http("GET", f"{server.url}/metrics").body.decode()
    queued = 0
    for first in range(0, HOSTILE, TOGETHER):
        body = json.dumps({"events": [push(number) for number in range(first, first + TOGETHER)]}).encode()
        queued += len(http("POST", server.url + path, DEBIAN, body).json().get("queued", []))
    proof.equal(f"{HOSTILE} hostile repositories are queued", queued, HOSTILE)
    nonsense = {**HARBOR, "traceparent": "hostile", "content-type": JSON}
    for number in range(20):
        http("POST", f"{server.url}/webhooks/hostile-{number}", nonsense, body)
        http("POST", f"{server.url}/webhooks/harbor", nonsense, json.dumps({"type": f"hostile-{number}"}).encode())
    until("some of them are scanned", lambda: sum("hostile" in it["image"] and it["state"] == "done" for it in server.scans()) >= 20, 120)
    after = http("GET", f"{server.url}/metrics").body.decode()
    proof.true("  none of them is told", "hostile" not in after)
    new = sorted(set(exposition(after)) - set(exposition(before)))
    names = {name for name, _ in new}
    sources = {value for _, labels in new for label, value in labels if label == "source"}
    proof.true(f"  and the {len(new)} new series are of a configured source", sources <= {"debian", "harbor"} and len(new) < 12, (names, new))


def work_is_taken(proof: Proof, shop: Workshop, server: Server, env: dict[str, str]) -> None:
    proof.part("work: what Prometheus is told")
    command = [SCANHOOK, "work", "--config", server.config, "--data-dir", shop.directory / "work", "--listen", "127.0.0.1:0",
        "--queue-url", server.sqs.queue_url(QUEUE)]
    worker = shop.start("work", command, {**env, "AWS_ENDPOINT_URL_SQS": server.sqs.url})
    def address() -> str | None:
        if not worker.is_running():
            raise Disproved("`scanhook work` ended at its start")
        found = re.search(r"metrics are at (http://[0-9.:]+)/readyz", worker.output())
        return found and found[1]
    url = until("the address of `scanhook work`", address)
    until("a verdict", lambda: b"scanhook_messages_processed_total{" in http("GET", f"{url}/metrics").body)
    is_taken(proof, "promtool takes it", "check", "metrics", stdin=http("GET", f"{url}/metrics").body)
    worker.end()


def through_the_functions(proof: Proof, shop: Workshop, emulator: Path) -> Counter[emf.Series]:
    proof.part("the functions: what CloudWatch is told")
    place = shop.directory / "functions"
    place.mkdir()
    inner = Workshop(place, shop.processes)
    link_stand_in(place / "cli")
    server = start_server(inner, CONFIG, "--no-scan", env=base_environment(**TOKENS, **API_TOKEN))
    stage = Stage(proof, inner, emulator, BINARIES, server)
    webhook = stage.start("webhook", 29, **TOKENS)
    # A scratch space of its own.
    scanner = stage.start("scanner", 60, TMPDIR=str(place), **API_TOKEN)
    for path, headers, body in deliveries():
        if webhook.invoke(http_event("POST", path, headers, body))["statusCode"] == 202:
            messages = server.sqs.receive(QUEUE, 1)
            scanner.invoke(sqs_event(messages))
            server.sqs.delete(QUEUE, messages[0])
    lines = [line for it in (webhook, scanner) for line in emf.lines_of(it.process.output())]
    faults = sorted({fault for line in lines for fault in emf.faults_of(line)})
    proof.equal(f"each of the {len(lines)} lines keeps to the format", faults, [])
    is_strict(proof, lines[0])
    return emf.figures(lines)


def is_strict(proof: Proof, line: str) -> None:
    """Claims that what checks the format can fail."""
    root = json.loads(line)
    name = root["_aws"]["CloudWatchMetrics"][0]["Metrics"][0]["Name"]
    broken = [
        {**root, name: "1"},
        {**root, name: list(range(101))},
        {it: value for it, value in root.items() if it != name},
        {**root, "_aws": {**root["_aws"], "Timestamp": 0}},
        {**root, "_aws": {**root["_aws"], "CloudWatchMetrics": []}},
        json.loads(line.replace('"Unit":"Count"', '"Unit":"Pieces"')),
        *({**root, it: ""} for it in root["_aws"]["CloudWatchMetrics"][0]["Dimensions"][0]),
    ]
    caught = [bool(emf.faults_of(json.dumps(it))) for it in broken]
    proof.equal(f"  and each of {len(broken)} broken ones is found out", caught, [True] * len(broken))


def prove_with(emulator: Path) -> Callable[[Proof, Workshop], None]:
    def prove(proof: Proof, shop: Workshop) -> None:
        rules_are_taken(proof, shop)
        ours = through_the_functions(proof, shop, emulator)
        theirs = through_serve(proof, shop)
        proof.part("both: the same of the same events")
        proof.equal("the same series", sorted(ours), sorted(theirs))
        for series in sorted(ours):
            name, labels = series
            told = ",".join(f"{label}={value}" for label, value in labels)
            proof.equal(f"  {name}{{{told}}}", ours[series], theirs[series])

    return prove


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--emulator", help="aws-lambda-rie, if not that of the proofs' virtual environment")
    given = arguments.parse_args()
    require_programs(promtool="prometheus")
    require_binaries(SCANHOOK, BINARIES / "webhook", BINARIES / "scanner")
    title = "The figures: promtool, CloudWatch's format, and the same in both"
    return run_proof(title, prove_with(find_emulator(given.emulator)))


if __name__ == "__main__":
    sys.exit(main())
