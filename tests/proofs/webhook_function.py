"""The webhook function: what it answers, and what it queues.

Python 3.11, standard library only.
"""

from __future__ import annotations

import json
from typing import Any

from any_registry import new_digest
from deliveries import DEBIAN, FORM, HARBOR, HUB_PATH, JSON, as_form, distribution_push, ghcr_push, harbor_push, hub_push, signature
from harness import Proof
from lambda_emulator import Function, http_event
from serve import QUEUE
from stage import BODY_LIMIT, TOKENS, Stage


def prove(stage: Stage, webhook: Function) -> None:
    deliveries_are_queued(stage, webhook)
    others_are_answered(stage, webhook)
    stage.says_none_of(webhook, TOKENS)


def deliveries_are_queued(stage: Stage, webhook: Function) -> None:
    stage.proof.part("webhook: what was pushed is queued, whether the body comes as text or as base64")
    digest = new_digest()
    ghcr, form = ghcr_push("octo/api", digest), as_form(ghcr_push("octo/api", digest))
    pushes = [
        ("harbor", "harbor.example.com/prod/api", "/webhooks/harbor", HARBOR, harbor_push("prod/api", digest)),
        ("debian", "debian.example.com/team/app", "/webhooks/debian", DEBIAN, distribution_push("team/app", digest)),
        ("ghcr", "ghcr.io/octo/api", "/webhooks/ghcr", {"content-type": JSON, **signature(ghcr)}, ghcr),
        ("ghcr", "ghcr.io/octo/api", "/webhooks/ghcr", {"content-type": FORM, **signature(form)}, form),
        ("ghcr", "ghcr.io/octo/api", "/webhooks/ghcr", signature(ghcr), ghcr),
        ("hub", "docker.io/octo/app", HUB_PATH, {"content-type": JSON}, hub_push("octo/app")),
    ]
    for source, image, path, headers, body in pushes:
        content_type = headers.get("content-type", "no content type")
        for is_base64 in (False, True):
            encoding = "base64" if is_base64 else "text"
            answer = webhook.invoke(http_event("POST", path, headers, body, is_base64))
            queued = is_answered(stage.proof, f"{source}, {content_type}, {encoding}: 202", answer, 202)["queued"]
            [message] = stage.server.sqs.take(QUEUE, 1)
            told = [{"scan_id": it["scan_id"], "image": it["image"], "digest": it["digest"]} for it in queued]
            stage.proof.equal("  the message in the queue is the image that was told", [told_by(message)], told)
            expected = {"image": image, "digest": None if source == "hub" else digest}
            seen = {name: told[0][name] for name in expected}
            stage.proof.equal("  and the one that was pushed", seen, expected)
            stage.proof.equal("  its group is the source", message["Attributes"].get("MessageGroupId"), source)
    stage.proof.equal("nothing else is in the queue", stage.server.sqs.depth(QUEUE), 0)


def told_by(message: dict[str, Any]) -> dict[str, Any]:
    """A queued message in the words of the webhook's answer."""
    body = json.loads(message["Body"])
    image = body["image"]
    name = f"{image['registry']}/{image['repository']}"
    return {"scan_id": body["scan_id"], "image": name, "digest": image["digest"]}


def is_answered(proof: Proof, claim: str, answer: dict[str, Any], status: int) -> Any:
    """Claims the status of an answer in API Gateway's format, and tells its JSON."""
    proof.equal(claim, answer.get("statusCode"), status)
    content_type = answer["headers"]["content-type"]
    expected = "application/json" if status < 300 else "application/problem+json"
    if (content_type, answer["isBase64Encoded"]) != (expected, False):
        proof.equal(f"{claim}: as text", (content_type, answer["isBase64Encoded"]), (expected, False))
    return json.loads(answer["body"])


def others_are_answered(stage: Stage, webhook: Function) -> None:
    stage.proof.part("webhook: everything else is answered, and nothing is queued")
    push = harbor_push("prod/api", new_digest())
    deleted = push.replace(b"PUSH_ARTIFACT", b"DELETE_ARTIFACT")
    ping = b'{"zen":"Design for failure.","hook_id":1,"hook":{}}'
    signed_ping = {"content-type": JSON, **signature(ping)}
    wrong = {**HARBOR, "Authorization": "fake-wrong-token-0123456789"}
    fits, too_long = b" " * BODY_LIMIT, b" " * (BODY_LIMIT + 1)
    harbor = "/webhooks/harbor"
    cases: list[tuple[str, int, dict[str, Any]]] = [
        ("a delete", 200, http_event("POST", harbor, HARBOR, deleted)),
        ("a ping", 200, http_event("POST", "/webhooks/ghcr", signed_ping, ping)),
        ("a wrong token", 401, http_event("POST", harbor, wrong, push)),
        ("a signature of another body", 401, http_event("POST", "/webhooks/ghcr", signed_ping, ping + b" ")),
        ("no payload", 400, http_event("POST", harbor, HARBOR, b"{}")),
        ("bytes that are no UTF-8", 400, http_event("POST", harbor, HARBOR, b"\xff\xfe\x00", True)),
        ("an unknown route", 404, http_event("POST", "/", HARBOR, push)),
        ("another method", 405, http_event("GET", harbor, HARBOR, None)),
        ("the longest body, read and understood as no payload", 400, http_event("POST", harbor, HARBOR, fits)),
        ("a byte more, as text", 413, http_event("POST", harbor, HARBOR, too_long)),
        ("a byte more, as base64", 413, http_event("POST", harbor, HARBOR, too_long, True)),
        ("a compressed body", 415, http_event("POST", harbor, {**HARBOR, "content-encoding": "gzip"}, push, True)),
    ]
    refusals = set()
    for claim, status, event in cases:
        answer = webhook.invoke(event)
        body = is_answered(stage.proof, f"{claim}: {status}", answer, status)
        if status == 200:
            stage.proof.equal("  nothing queued, one skipped", [len(body["queued"]), len(body["skipped"])], [0, 1])
        else:
            stage.proof.equal("  a problem document", (body["type"], body["status"]), ("about:blank", status))
        if status == 401:
            refusals.add(answer["body"])
    stage.proof.equal("every 401 has the same body", len(refusals), 1)
    health = webhook.invoke(http_event("GET", "/healthz", {}, None))
    stage.proof.equal("GET /healthz: 200", (health["statusCode"], health["body"]), (200, "ok"))
    broken = {**http_event("POST", harbor, HARBOR, push), "isBase64Encoded": True, "body": "%%%"}
    failure = webhook.invoke(broken)
    stage.proof.true("an event that API Gateway never sends is an error of that invocation", "errorType" in failure)
    again = webhook.invoke(http_event("POST", harbor, HARBOR, deleted))
    stage.proof.equal("after which the function goes on", again["statusCode"], 200)
    stage.proof.equal("the queue is empty", stage.server.sqs.depth(QUEUE), 0)
