#!/usr/bin/env python3
"""The figures, by Prometheus' own tool: `promtool` (Debian's package `prometheus`) checks what `serve` and `work` show, the alert rules,
each alert by a unit test (`alerts.yaml`), and the dashboard's queries.

CloudWatch's format is tested in `functions/telemetry/src/metrics.rs`, what is counted in `functions/*/tests/it/metrics.rs`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from any_registry import new_digest, proxy
from deliveries import HARBOR, harbor_push
from harness import ROOT, Disproved, Proof, Workshop, base_environment, http, require_binaries, require_programs, run_proof, until
from serve import QUEUE, SCANHOOK, Server, link_stand_in, start_server
from stage import API_TOKEN, CONFIG, TOKENS

MONITORING = ROOT / "docs/monitoring"
PREFIX = "scanhook_"

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


def is_settled(server: Server, scans: int) -> bool:
    records = server.scans()
    return len(records) == scans and all(it["state"] in ("done", "dead_letter") for it in records)


def serve_is_taken(proof: Proof, shop: Workshop) -> None:
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
    a_first_count_is_noticed(proof, shop, fresh, text.body.decode())
    server.process.terminate()
    server = start_server(Workshop(place, shop.processes), CONFIG, "--no-scan", env=env)
    path, headers, body = deliveries()[0]
    http("POST", server.url + path, headers, body)
    work_is_taken(proof, shop, server, env)


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


def prove(proof: Proof, shop: Workshop) -> None:
    rules_are_taken(proof, shop)
    serve_is_taken(proof, shop)


if __name__ == "__main__":
    require_programs(promtool="prometheus")
    require_binaries(SCANHOOK)
    sys.exit(run_proof("the figures, by promtool", prove))
