#!/usr/bin/env python3
"""The trace of one delivery in a real collector, rotel: from both functions, as the binaries that are deployed, under AWS's Lambda runtime
interface emulator, and from `scanhook serve`.

Lambda freezes a function once it has answered, so each is stopped here as soon as it has: what it did must be with the collector by then.
What a span holds, and what a collector that is away costs, is tested in `local/tests/it/traces.rs`. `tests/proofs/run` installs
aws-lambda-rie and rotel, and builds the binaries.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import sys
from typing import Any

from any_registry import new_digest, proxy
from deliveries import HARBOR, harbor_push
from harness import (
    BINARIES,
    TARGET,
    Process,
    Proof,
    Workshop,
    base_environment,
    descendants,
    free_port,
    http,
    listens,
    require_binaries,
    run_proof,
    until,
)
from lambda_emulator import Function, find_emulator, http_event, sqs_event
from serve import QUEUE, SCANHOOK, link_stand_in, start_server
from stage import API_TOKEN, CONFIG, TOKENS, Stage

ABOVE = {
    "delivery": "the sender's", "verify": "delivery", "send": "delivery", "scan": "send", "resolve": "scan", "image": "scan",
    "claim": "image", "cli": "image", "judge": "image",
}  # fmt: skip
"""Each span, and the one that it is below of."""
MEMBER = re.compile(r" *(Trace ID|Parent ID|ID|Name) *: (.*)")


def start_rotel(shop: Workshop) -> tuple[Process, str]:
    """Starts a collector that writes what it takes, in the words of OpenTelemetry's debug exporter; and its URL."""
    found = list((TARGET / "proofs-venv").glob("lib/python*/site-packages/rotel/rotel-agent"))
    if not found:
        sys.exit("there is no rotel: tests/proofs/run installs it")
    port = free_port()
    command = [found[0], "start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed",
        "--otlp-http-endpoint", f"127.0.0.1:{port}", "--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}"]  # fmt: skip
    process = shop.start("rotel", command, base_environment())
    until("rotel listens", lambda: listens(port))
    return process, f"http://127.0.0.1:{port}"


def spans(rotel: Process, trace_id: str) -> list[dict[str, str]]:
    """The spans of a trace that it has written, each with its service."""
    found: list[dict[str, str]] = []
    service = ""
    for line in rotel.output().splitlines():
        if named := re.search(r"-> service\.name: Str\((.*)\)", line):
            service = named[1]
        elif line.startswith("Span #"):
            found.append({"service": service})
        elif (member := MEMBER.fullmatch(line)) and found:
            found[-1].setdefault(*member.groups())
    return [it for it in found if it.get("Trace ID") == trace_id and "Name" in it]


def has_trace(proof: Proof, rotel: Process, trace: tuple[str, str], services: dict[str, str]) -> None:
    """Claims that the collector has these spans of these services, each below the right one."""
    trace_id, senders_span = trace

    def written() -> list[dict[str, str]] | None:
        told = spans(rotel, trace_id)
        return told if len(told) >= len(services) else None

    told = until("the spans", written)
    ids = {it["Name"]: it["ID"] for it in told} | {"the sender's": senders_span}
    names = {one: name for name, one in ids.items()}
    proof.equal(f"{', '.join(services)}: with the collector", {it["Name"]: it["service"] for it in told}, services)
    chain = {it["Name"]: names[it["Parent ID"]] for it in told}
    proof.equal("  each below the right one", chain, {it: ABOVE[it] for it in services})


def new_trace() -> tuple[tuple[str, str], dict[str, str]]:
    trace = (secrets.token_hex(16), secrets.token_hex(8))
    return trace, {**HARBOR, "traceparent": f"00-{trace[0]}-{trace[1]}-01"}


def invoke_and_freeze(function: Function, event: Any) -> Any:
    answer = function.invoke(event)
    for pid in descendants(function.process.popen.pid):
        os.kill(pid, signal.SIGSTOP)
    return answer


def prove(proof: Proof, shop: Workshop) -> None:
    link_stand_in(shop.directory / "cli")
    rotel, url = start_rotel(shop)
    env = base_environment(**TOKENS, **API_TOKEN, **proxy(), OTEL_EXPORTER_OTLP_ENDPOINT=url)

    proof.part("both functions, frozen once they have answered")
    stage = Stage(proof, shop, find_emulator(), BINARIES, start_server(shop, CONFIG, "--no-scan", env=env))
    webhook = stage.start("webhook", 60, **TOKENS, OTEL_EXPORTER_OTLP_ENDPOINT=url)
    scanner = stage.start("scanner", 60, **API_TOKEN, TMPDIR=str(shop.directory), OTEL_EXPORTER_OTLP_ENDPOINT=url)
    trace, headers = new_trace()
    answer = invoke_and_freeze(webhook, http_event("POST", "/webhooks/harbor", headers, harbor_push("prod/fail", new_digest())))
    proof.equal("a delivery is taken", answer["statusCode"], 202)
    of_webhook = dict.fromkeys(["delivery", "verify", "send"], "scanhook-webhook")
    has_trace(proof, rotel, trace, of_webhook)
    invoke_and_freeze(scanner, sqs_event(stage.server.sqs.take(QUEUE, 1)))
    has_trace(proof, rotel, trace, of_webhook | dict.fromkeys(ABOVE.keys() - of_webhook.keys(), "scanhook-scanner"))
    stage.server.process.terminate()

    proof.part("serve")
    server = start_server(shop, CONFIG, "--scanner-cli", shop.directory / "cli/sysdig-cli-scanner", env=env)
    trace, headers = new_trace()
    answer = http("POST", f"{server.url}/webhooks/harbor", headers, harbor_push("prod/fail", new_digest()))
    proof.equal("a delivery is taken", answer.status, 202)
    has_trace(proof, rotel, trace, dict.fromkeys(ABOVE, "scanhook"))


if __name__ == "__main__":
    require_binaries(SCANHOOK, BINARIES / "webhook", BINARIES / "scanner")
    sys.exit(run_proof("the trace of one delivery in a collector", prove))
