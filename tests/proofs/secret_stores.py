#!/usr/bin/env python3
"""The webhook as it is deployed, with its configuration and its secrets in moto's SSM and Secrets Manager, which are
rotated while it runs, and its messages in moto's SQS; all of it over TLS.

`tests/proofs/run` installs moto and aws-lambda-rie, and builds the webhook.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path

from any_registry import new_digest
from aws_server import start_moto
from deliveries import DEBIAN, JSON, distribution_push, harbor_push
from harness import BINARIES, Proof, Workshop, base_environment, free_port, require_binaries, require_programs, run_proof, until
from lambda_emulator import Function, find_emulator, http_event, start_function

NAME, PARAMETER, CONFIGURATION = "scanhook/webhook", "/scanhook/webhook/debian", "/scanhook/config"
CONFIG = f"""
sources:
  harbor: {{ kind: harbor, registry: harbor.example.com, auth: [{{ type: token, secret: "secretsmanager:{NAME}#harbor" }}] }}
  debian: {{ kind: distribution, registry: debian.example.com, auth: [{{ type: bearer, secret: "ssm:{PARAMETER}" }}] }}
"""


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for this machine and its key, as files. Whoever trusts it trusts only it."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=scanhook proof"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run([*command, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    return certificate, key


def harbor(webhook: Function, token: str) -> int:
    headers = {"content-type": JSON, "Authorization": token}
    event = http_event("POST", "/webhooks/harbor", headers, harbor_push("prod/api", new_digest()))
    return webhook.invoke(event)["statusCode"]


def debian(webhook: Function, token: str) -> int:
    headers = {**DEBIAN, "Authorization": f"Bearer {token}"}
    event = http_event("POST", "/webhooks/debian", headers, distribution_push("team/app", new_digest()))
    return webhook.invoke(event)["statusCode"]


def prove(proof: Proof, shop: Workshop) -> None:
    moto = start_moto(shop, certificate(shop.directory))
    manager, ssm, sqs = (moto.client(it) for it in ("secretsmanager", "ssm", "sqs"))
    old, new = ([secrets.token_hex(32), secrets.token_hex(32)] for _ in range(2))
    url = sqs.create_queue(QueueName="scanhook")["QueueUrl"]
    manager.create_secret(Name=NAME, SecretString=json.dumps({"harbor": old[0]}))
    ssm.put_parameter(Name=PARAMETER, Value=old[1], Type="SecureString")
    ssm.put_parameter(Name=CONFIGURATION, Value=CONFIG, Type="String")
    variables = {"AWS_ENDPOINT_URL": moto.url, "SCANHOOK_QUEUE_URL": url, "SCANHOOK_CONFIG": f"ssm:{CONFIGURATION}"}
    trusting = {**variables, "SSL_CERT_FILE": str(moto.trusted)}
    webhook = start_function(shop, find_emulator(), BINARIES / "webhook", 29, **trusting)

    proof.part("the configuration and the secrets are those of the stores")
    proof.equal("Secrets Manager, a key: 202", harbor(webhook, old[0]), 202)
    proof.equal("SSM, decrypted: 202", debian(webhook, old[1]), 202)
    proof.equal("another secret: 401", harbor(webhook, new[0]), 401)
    messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    proof.equal("what was taken is in the queue", len(messages), 2)

    proof.part("a server that the system's certificates do not vouch for is given nothing")
    function = [BINARIES / "webhook"]
    alone = {**base_environment(), **variables, "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{free_port()}"}
    done = subprocess.run(function, env=alone, capture_output=True, text=True, timeout=60)
    words = f"SSM does not give {CONFIGURATION}: no connection: invalid peer certificate"
    proof.true("the start fails, and says why", done.returncode == 2 and words in done.stderr, done)

    proof.part("secrets are rotated while it runs")
    manager.put_secret_value(SecretId=NAME, SecretString=json.dumps({"harbor": new[0]}))
    ssm.put_parameter(Name=PARAMETER, Value=new[1], Type="SecureString", Overwrite=True)
    until("the new key is taken", lambda: harbor(webhook, new[0]) == 202)
    until("the new parameter is taken", lambda: debian(webhook, new[1]) == 202)
    proof.equal("Secrets Manager, the new one: 202", harbor(webhook, new[0]), 202)
    proof.equal("SSM, the new one: 202", debian(webhook, new[1]), 202)
    proof.equal("Secrets Manager, the old one: 401", harbor(webhook, old[0]), 401)
    proof.equal("SSM, the old one: 401", debian(webhook, old[1]), 401)
    changed = sorted(it["name"] for it in webhook.lines("secret.changed"))
    proof.equal("each change is told once", changed, [f"secretsmanager:{NAME}#harbor", f"ssm:{PARAMETER}"])

    proof.part("secrets go, and the last ones stay in use")
    manager.delete_secret(SecretId=NAME, ForceDeleteWithoutRecovery=True)
    until("a refusal finds it gone", lambda: harbor(webhook, old[0]) == 401 and webhook.lines("refresh.failed"))
    proof.equal("the last known one: 202", harbor(webhook, new[0]), 202)
    told = webhook.lines("refresh.failed")[0]["message"]
    proof.true("the error tells the store's code", "ResourceNotFoundException" in told, told)
    output = webhook.process.output()
    proof.equal("no secret is in the log", [it for it in old + new if it in output], [])


def main() -> int:
    require_programs(openssl="openssl")
    require_binaries(BINARIES / "webhook")
    return run_proof("secrets and configuration in SSM and Secrets Manager, rotated while the webhook runs", prove)


if __name__ == "__main__":
    sys.exit(main())
