#!/usr/bin/env python3
"""The trace of one delivery, end to end: both functions, as the binaries that are deployed, under AWS's own Lambda
runtime interface emulator, with a collector that takes OTLP on this machine.

Every request of theirs reaches two collectors: one of the proofs', which is strict about the form, and a real one, rotel; both must take
the same spans. So it is with `scanhook serve`.

A function is frozen once it has answered. So what it did must be with the collector by then; and a collector that is
away or hangs must not keep an answer back.

`tests/proofs/run` installs aws-lambda-rie and rotel, and builds the binaries. `--show` prints the trace.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from any_registry import new_digest, proxy
from collector import Collector, Span, tree
from deliveries import HARBOR, harbor_push
from harness import BINARIES, Disproved, Proof, Workshop, base_environment, free_port, http, require_binaries, run_proof, until
from lambda_emulator import Function, failed_identifiers, find_emulator, http_event, sqs_event
from real_collector import RealCollector
from serve import QUEUE, SCANHOOK, link_stand_in, start_server
from stage import API_TOKEN, CONFIG, TOKENS, Stage

LAMBDAS_TIME = 60
"""What the functions may take, in seconds."""

BELOW = {
    "delivery": None,
    "verify": "delivery",
    "send": "delivery",
    "scan": "send",
    "resolve": "scan",
    "image": "scan",
    "claim": "image",
    "cli": "image",
    "judge": "image",
}
"""Each span, and the one that it is below of; the outermost is below the sender's."""


def deliver(webhook: Function, repository: str, **headers: str) -> dict[str, Any]:
    """Delivers a push and tells the answer; one that is not 202 is an error."""
    event = http_event("POST", "/webhooks/harbor", {**HARBOR, **headers}, harbor_push(repository, new_digest()))
    answer = webhook.invoke(event)
    if answer["statusCode"] != 202:
        raise RuntimeError(f"{repository} was not queued: {answer}")
    return answer


def start_scanner(stage: Stage, **variables: str) -> Function:
    """Starts the scanner with a scratch space of its own."""
    return stage.start("scanner", LAMBDAS_TIME, TMPDIR=str(stage.shop.directory), **API_TOKEN, **variables)


def scan(stage: Stage, scanner: Function) -> set[str]:
    """Has the scanner work on the one message of the queue, and tells whom its answer names."""
    messages = stage.server.sqs.receive(QUEUE, 1)
    failed = failed_identifiers(scanner.invoke(sqs_event(messages)))
    for message in messages:
        stage.server.sqs.delete(QUEUE, message)
    return failed


def a_trace_leads_from_the_sender_to_the_judgement(stage: Stage, real: RealCollector, show: bool) -> None:
    proof, collector = stage.proof, Collector(behind=real.url)
    proof.part("both: the trace of one delivery")
    to_collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    webhook = stage.start("webhook", LAMBDAS_TIME, **TOKENS, **to_collector)
    trace_id, senders_span = secrets.token_hex(16), secrets.token_hex(8)
    deliver(webhook, "prod/fail", traceparent=f"00-{trace_id}-{senders_span}-01")
    names = {it.name for it in collector.spans(trace_id)}
    proof.equal("what the webhook did is with the collector when it answers", names, {"delivery", "verify", "send"})
    scanner = start_scanner(stage, **to_collector)
    proof.equal("the scanner answers that the record is done", scan(stage, scanner), set())
    spans = collector.spans(trace_id)
    proof.equal("what it did is with the collector by then", sorted(it.name for it in spans), sorted(BELOW))
    is_a_chain(proof, spans, senders_span)
    proof.equal("the spans are told by two services", {it.service for it in spans}, {"scanhook-webhook", "scanhook-scanner"})
    [image] = [it for it in spans if it.name == "image"]
    proof.equal("the image's has its verdict", image.attributes["verdict"], "failed")
    told = [*webhook.lines("delivery.taken"), *scanner.lines("scan.finished")]
    proof.equal("the lines of both logs have the trace", [it["trace_id"] for it in told], [trace_id] * 2)
    proof.equal("all of it had the form of OTLP", collector.malformed(), [])
    a_real_collector_has_the_same(proof, real, trace_id, spans)
    if show:
        print("\n   begin     took  service           span\n" + "\n".join(tree(spans, senders_span)))
    scanner.process.end()
    webhook.process.end()


def a_real_collector_has_the_same(proof: Proof, real: RealCollector, trace_id: str, spans: list[Span]) -> None:
    def all_of(some: list[Span]) -> list[Span]:
        return sorted(some, key=lambda it: it.span_id)

    # It answers before it writes.
    with contextlib.suppress(Disproved):
        until("all spans are there", lambda: all_of(real.spans(trace_id)) == all_of(spans))
    proof.equal("a real collector has the same spans: names, parents, times, attributes", all_of(real.spans(trace_id)), all_of(spans))


def serve_tells_collectors_too(stage: Stage, real: RealCollector) -> None:
    proof, collector = stage.proof, Collector(behind=real.url)
    proof.part("serve: the traces of a scan with a verdict and of one without")
    stage.server.process.terminate()
    cli = stage.shop.directory / "cli/sysdig-cli-scanner"
    env = stage.server.env | proxy() | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    server = start_server(stage.shop, CONFIG, "--scanner-cli", cli, env=env)
    for repository, problem in [("prod/fail", False), ("prod/unsupported", True)]:
        trace_id, senders_span = secrets.token_hex(16), secrets.token_hex(8)
        headers = {**HARBOR, "traceparent": f"00-{trace_id}-{senders_span}-01"}
        answer = http("POST", f"{server.url}/webhooks/harbor", headers, harbor_push(repository, new_digest()))
        proof.equal(f"{repository} is queued", answer.status, 202)
        # The span of the scan ends last, but the delivery's, which is sent beside it.
        until("its scan is told", lambda: {"delivery", "scan"} <= {it.name for it in collector.spans(trace_id)})
        spans = collector.spans(trace_id)
        is_a_chain(proof, spans, senders_span)
        proof.equal("the spans are told by one service", {it.service for it in spans}, {"scanhook"})
        proof.equal("with an error if there was one", any(it.problem for it in spans), problem)
        a_real_collector_has_the_same(proof, real, trace_id, spans)
    proof.equal("all of it had the form of OTLP", collector.malformed(), [])


def is_a_chain(proof: Proof, spans: list[Span], senders_span: str) -> None:
    ids = {it.name: it.span_id for it in spans}
    for it in spans:
        above = BELOW[it.name]
        expected = senders_span if above is None else ids[above]
        proof.equal(f"  {it.name} is below {above or 'the span of the sender'}", it.parent, expected)


def a_collector_keeps_no_answer_back(stage: Stage) -> None:
    proof = stage.proof
    proof.part("both: a collector that is away, and one that hangs")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hangs = silent.getsockname()[1]
        for what, port in [("away", free_port()), ("hangs", hangs)]:
            to_collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
            webhook = stage.start("webhook", LAMBDAS_TIME, **TOKENS, **to_collector)
            deliver(webhook, "prod/pass")
            stage.server.sqs.take(QUEUE, 1)
            began = time.monotonic()
            for _ in range(5):
                deliver(webhook, "prod/pass")
            took = time.monotonic() - began
            # 200 ms are given to a collector, and none while it is known to be away.
            proof.true(f"{what}: five deliveries are answered within 2 s", took < 2, took)
            proof.equal("  and told once", len(webhook.lines("traces.unsent")), 1)
            stage.server.sqs.take(QUEUE, 4)
            scanner = start_scanner(stage, **to_collector)
            proof.equal("  the scanner scans", scan(stage, scanner), set())
            verdicts = [it["verdict"] for it in scanner.lines("scan.finished")]
            proof.equal("  with a verdict", verdicts, ["passed"])
            scanner.process.end()
            webhook.process.end()


def prove_with(emulator: Path, show: bool) -> Callable[[Proof, Workshop], None]:
    def prove(proof: Proof, shop: Workshop) -> None:
        server = start_server(shop, CONFIG, "--no-scan", env=base_environment(**TOKENS, **API_TOKEN))
        link_stand_in(shop.directory / "cli")
        stage = Stage(proof, shop, emulator, BINARIES, server)
        real = RealCollector(shop)
        a_trace_leads_from_the_sender_to_the_judgement(stage, real, show)
        a_collector_keeps_no_answer_back(stage)
        serve_tells_collectors_too(stage, real)

    return prove


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--emulator", help="aws-lambda-rie, if not that of the proofs' virtual environment")
    arguments.add_argument("--show", action="store_true", help="print the trace")
    given = arguments.parse_args()
    require_binaries(SCANHOOK, BINARIES / "webhook", BINARIES / "scanner")
    prove = prove_with(find_emulator(given.emulator), given.show)
    return run_proof("The trace of one delivery", prove)


if __name__ == "__main__":
    sys.exit(main())
