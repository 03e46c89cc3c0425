#!/usr/bin/env python3
"""Both functions as they are deployed, with their configuration in moto's SSM, where it is changed while they run: a change is
in effect within the two minutes that docs/deploying.md promises, and a wrong one changes nothing.

`tests/proofs/run` installs moto and aws-lambda-rie, and builds the functions.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from any_registry import new_digest, proxy
from aws_server import start_moto
from deliveries import JSON, harbor_push
from harness import BINARIES, Proof, Workshop, require_binaries, run_proof, until
from lambda_emulator import Function, find_emulator, http_event, sqs_event, start_function
from serve import link_stand_in

CONFIGURATION = "/scanhook/config"
SECRETS = {"/scanhook/webhook/harbor": "fake-harbor-0123456789", "/scanhook/scanner/sysdig": "fake-api-token"}
PROMISED = 120.0
"""Seconds; docs/deploying.md, "Changing the configuration"."""
ATTEMPTS = 10


def config(*sources: str) -> str:
    one = "kind: harbor, registry: harbor.example.com, auth: [{ type: token, secret: 'ssm:/scanhook/webhook/harbor' }]"
    named = "".join(f"  {name}: {{ {one} }}\n" for name in sources)
    return f"registries: {{ harbor.example.com: {{ insecure: true }} }}\nsources:\n{named}scanner: {{ api_token: 'ssm:/scanhook/scanner/sysdig' }}\n"


def push(webhook: Function, source: str) -> int:
    headers = {"content-type": JSON, "Authorization": SECRETS["/scanhook/webhook/harbor"]}
    event = http_event("POST", f"/webhooks/{source}", headers, harbor_push("prod/pass", new_digest()))
    return webhook.invoke(event)["statusCode"]


def receive(sqs: Any, url: str) -> Any:
    """The message of the last delivery, as the event source mapping hands it on; it can be handed on again and again."""
    told = {"MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"]}
    [message] = sqs.receive_message(QueueUrl=url, VisibilityTimeout=3600, **told)["Messages"]
    return sqs_event([message])


def scans(scanner: Function, event: Any) -> dict[str, str]:
    """Invokes the scanner, and tells the last verdict of each source."""
    scanner.invoke(event)
    return {it["source"]: it["verdict"] for it in scanner.lines("scan.finished")}


def queues(sqs: Any) -> tuple[str, str]:
    dead = sqs.create_queue(QueueName="dead-letters")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": ATTEMPTS})
    return sqs.create_queue(QueueName="scans", Attributes={"RedrivePolicy": policy})["QueueUrl"], dead


def prove(proof: Proof, shop: Workshop) -> None:
    moto = start_moto(shop)
    ssm, sqs = moto.client("ssm"), moto.client("sqs")
    for name, value in SECRETS.items():
        ssm.put_parameter(Name=name, Value=value, Type="SecureString")

    def change(text: str) -> float:
        ssm.put_parameter(Name=CONFIGURATION, Value=text, Type="String", Overwrite=True)
        return time.monotonic()

    change(config("first"))
    queue, dead = queues(sqs)
    cli = link_stand_in(shop.directory / "cli").parent
    variables = {
        "AWS_ENDPOINT_URL": moto.url,
        "SCANHOOK_CONFIG": f"ssm:{CONFIGURATION}",
        "SCANHOOK_QUEUE_URL": queue,
        "PATH": f"{cli}:/usr/bin:/bin",
    }
    emulator = find_emulator()
    webhook = start_function(shop, emulator, BINARIES / "webhook", 29, **variables)
    # A scratch space of its own: other proofs run beside this one.
    own = {"SCANHOOK_DLQ_URL": dead, "TMPDIR": str(shop.directory), **proxy()}
    scanner = start_function(shop, emulator, BINARIES / "scanner", 120, **own, **variables)

    proof.part("a source that is not configured")
    proof.equal("the first source's delivery: 202", push(webhook, "first"), 202)
    # The emulator starts a function with its first invocation.
    proof.equal("is scanned", scans(scanner, receive(sqs, queue)), {"first": "passed"})
    proof.equal("the second's delivery: 404", push(webhook, "second"), 404)

    proof.part("is configured while both functions run")
    changed_at = change(config("first", "second"))
    until("the webhook takes it", lambda: push(webhook, "second") == 202, PROMISED, pause=1)
    taken = time.monotonic() - changed_at
    proof.true(f"its deliveries are taken after {taken:.0f} s; 120 s promised", taken <= PROMISED)
    event = receive(sqs, queue)
    until("the scanner knows it", lambda: scans(scanner, event).get("second") == "passed", PROMISED, pause=1)
    taken = time.monotonic() - changed_at
    proof.true(f"its images are scanned after {taken:.0f} s", taken <= PROMISED, taken)
    for function, name in ((webhook, "webhook"), (scanner, "scanner")):
        proof.equal(f"the {name} tells it once", len(function.lines("configuration.changed")), 1)

    proof.part("a configuration that is wrong")
    changed_at = change(config("third").replace("registry", "registri"))
    failed = "refresh.failed"
    until("the webhook has read it", lambda: push(webhook, "second") and webhook.lines(failed), PROMISED, pause=1)
    proof.true(f"is told after {time.monotonic() - changed_at:.0f} s, by the key's path",
               "sources.third" in webhook.lines(failed)[0]["message"], webhook.lines(failed))
    proof.equal("and changes nothing: 202", push(webhook, "second"), 202)
    proof.true("it is counted, for the alarm", '"configuration_stale":1' in webhook.process.output())
    change(config("third"))
    until("the right one is in effect", lambda: push(webhook, "third") == 202, PROMISED, pause=1)
    proof.equal("once it is put right, the one that was taken out: 404", push(webhook, "first"), 404)
    told = webhook.process.output() + scanner.process.output()
    proof.equal("no secret is in the logs", [it for it in SECRETS.values() if it in told], [])


def main() -> int:
    require_binaries(BINARIES / "webhook", BINARIES / "scanner")
    return run_proof("the configuration in SSM, changed while both functions run", prove)


if __name__ == "__main__":
    sys.exit(main())
