"""A collector of traces: it takes what OTLP sends over HTTP in JSON, checks its form, and shows a trace as a tree.

The form is that of `trace.proto` in the JSON encoding of the OpenTelemetry protocol: ids in lower-case hex, enums as
numbers, 64-bit numbers as strings of digits.

Python 3.11, standard library only.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from harness import http

KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}


@dataclass
class Span:
    """A span, by what its process calls itself."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str | None
    begin: int
    end: int
    attributes: dict[str, Any]
    problem: str | None


class Collector:
    """Takes spans at `url` until the process ends; `behind` is the URL of a collector that gets every request too, and whose status is
    answered."""

    def __init__(self, behind: str | None = None) -> None:
        self._spans: list[Span] = []
        self._malformed: list[str] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector._take(self.path, self.headers["content-type"], body)
                passed_on = {it: self.headers[it] for it in self.headers if it.lower() not in ("host", "connection", "content-length")}
                self.send_response(http("POST", f"{behind}{self.path}", passed_on, body).status if behind else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def spans(self, trace_id: str) -> list[Span]:
        return [it for it in self._spans if it.trace_id == trace_id]

    def malformed(self) -> list[str]:
        """What did not have the form of OTLP."""
        return self._malformed

    def _take(self, path: str, content_type: str, body: bytes) -> None:
        try:
            expect((path, content_type), ("/v1/traces", "application/json"))
            message = members(json.loads(body), "resourceSpans")
            for of_resource in message["resourceSpans"]:
                members(of_resource, "resource", "scopeSpans")
                resource = attributes(members(of_resource["resource"], "attributes")["attributes"])
                for of_scope in of_resource["scopeSpans"]:
                    members(of_scope, "scope", "spans")
                    members(of_scope["scope"], "name", "version")
                    self._spans += [span(resource["service.name"], it) for it in of_scope["spans"]]
        except (KeyError, TypeError, ValueError) as err:
            self._malformed.append(f"{err!r}: {body[:500]!r}")


def expect(actual: Any, expected: Any) -> None:
    if actual != expected:
        raise ValueError(f"{actual!r} is not {expected!r}")


def members(value: dict[str, Any], *names: str, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """An object with these members and no others."""
    expect(sorted(set(value) - set(optional)), sorted(names))
    return value


def span(service: str, wire: dict[str, Any]) -> Span:
    names = ("traceId", "spanId", "flags", "name", "kind", "startTimeUnixNano", "endTimeUnixNano", "attributes")
    members(wire, *names, optional=("parentSpanId", "status"))
    problem = None
    if "status" in wire:
        expect(members(wire["status"], "code", "message")["code"], 2)
        problem = wire["status"]["message"]
    expect(wire["flags"], 1)
    begin, end = (int(matching(r"[0-9]{19}", wire[it])) for it in ("startTimeUnixNano", "endTimeUnixNano"))
    if begin > end:
        raise ValueError("a span ends before it begins")
    return Span(
        service,
        wire["name"],
        KINDS[wire["kind"]],
        matching(r"(?!0+$)[0-9a-f]{32}", wire["traceId"]),
        matching(r"(?!0+$)[0-9a-f]{16}", wire["spanId"]),
        matching(r"(?!0+$)[0-9a-f]{16}", wire["parentSpanId"]) if "parentSpanId" in wire else None,
        begin,
        end,
        attributes(wire["attributes"]),
        problem,
    )


def matching(pattern: str, text: str) -> str:
    if not re.fullmatch(pattern, text):
        raise ValueError(f"{text!r} is not {pattern}")
    return text


def attributes(wire: list[dict[str, Any]]) -> dict[str, Any]:
    read = {}
    for attribute in wire:
        [(kind, value)] = members(attribute, "key", "value")["value"].items()
        if kind == "intValue":
            value = int(matching(r"-?[0-9]+", value))
        elif not isinstance(value, {"stringValue": str, "boolValue": bool, "doubleValue": float}[kind]):
            raise ValueError(f"{value!r} is no {kind}")
        read[attribute["key"]] = value
    if len(read) != len(wire):
        raise ValueError("an attribute is there twice")
    return read


def tree(spans: list[Span], above: str | None, origin: int | None = None, depth: int = 0) -> list[str]:
    """The spans below a span, as lines: when they began and how long they took, in milliseconds."""
    lines = []
    origin = min(it.begin for it in spans) if origin is None else origin
    for it in sorted((it for it in spans if it.parent == above), key=lambda it: it.begin):
        told = " ".join(f"{name}={value}" for name, value in it.attributes.items())
        problem = f" ERROR {it.problem}" if it.problem else ""
        begin, took = (it.begin - origin) / 1e6, (it.end - it.begin) / 1e6
        name = f"{'  ' * depth}{it.name}"
        lines.append(f"{begin:8.1f} {took:8.1f}  {it.service:17} {name:14} {told}{problem}")
        lines += tree(spans, it.span_id, origin, depth + 1)
    return lines
