"""A collector that is not ours: rotel, an OpenTelemetry collector in Rust. What it has taken it writes in the words of the OpenTelemetry
Collector's debug exporter, which are read here.

Python 3.11, standard library only.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from collector import Span
from harness import TARGET, Workshop, base_environment, free_port, listens, until

MEMBER = re.compile(r" *([A-Z][A-Za-z ]*?) *: (.*)")
ATTRIBUTE = re.compile(r" *-> (.+?): (Str|Int|Bool|Double)\((.*)\)")
VALUES = {"Str": str, "Int": int, "Bool": lambda text: text == "true", "Double": float}


def find_rotel() -> Path:
    found = list((TARGET / "proofs-venv").glob("lib/python*/site-packages/rotel/rotel-agent"))
    if not found:
        sys.exit("there is no rotel: tests/proofs/run installs it")
    return found[0]


class RealCollector:
    """Takes spans at `url` until the workshop ends, and sends them nowhere."""

    def __init__(self, shop: Workshop) -> None:
        http, grpc = free_port(), free_port()
        self.url = f"http://127.0.0.1:{http}"
        command = [find_rotel(), "start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed"]
        endpoints = ["--otlp-http-endpoint", f"127.0.0.1:{http}", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}"]
        self._process = shop.start("rotel", command + endpoints, base_environment())
        until("rotel listens", lambda: listens(http))

    def spans(self, trace_id: str) -> list[Span]:
        return [it for it in read(self._process.output()) if it.trace_id == trace_id]


def read(log: str) -> list[Span]:
    """The spans of a log, of which the last may be incomplete."""
    spans: list[Span] = []
    service, attributes = "", {}
    for line in log.splitlines():
        if line == "Resource attributes:":
            attributes = {}
        elif line.startswith("Span #"):
            attributes = {}
            spans.append(Span(service, "", "", "", "", None, 0, 0, attributes, None))
        elif attribute := ATTRIBUTE.fullmatch(line):
            name, kind, value = attribute.groups()
            attributes[name] = VALUES[kind](value)
            if name == "service.name":
                service = value
        elif (member := MEMBER.fullmatch(line)) and spans:
            set_member(spans[-1], *member.groups())
    return spans


def set_member(span: Span, name: str, value: Any) -> None:
    match name:
        case "Trace ID":
            span.trace_id = value
        case "ID":
            span.span_id = value
        case "Parent ID":
            span.parent = value or None
        case "Name":
            span.name = value
        case "Kind":
            span.kind = value.removeprefix("SPAN_KIND_").lower()
        case "Start time":
            span.begin = int(value)
        case "End time":
            span.end = int(value)
        case "Status message":
            span.problem = value or None
