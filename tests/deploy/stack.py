#!/usr/bin/env python3
"""template.yaml, deployed by `sam deploy` itself onto ministack: the webhook as the zip that cargo-lambda makes, the scanner
as its image, pushed to a registry and run read-only by podman. A signed delivery to the API ends as a verdict in the ledger, a
poison message as a dead letter with its reason; then an update, a way back, and an update that fails.

Runs in a network namespace of its own, in which ministack listens for functions in containers, and nothing else is reached.
Python 3.11 and boto3.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from any_registry import listen, new_digest
from containers import BASE, PODMAN, build, make_base, podman
from deliveries import JSON, harbor_push
from harness import ROOT, TARGET, Answer, Proof, Workshop, base_environment, http, listens, run_proof, until
from image import RECIPE
from mirror import mirror, staged
from docker_registry import start_registry
from registry import REPOSITORY, start_images, tag_only_push

STACK = "scanhook"
BRIDGE = "10.88.0.1"
"""The address of this machine on podman's own network, made in our namespace: ministack calls it host.docker.internal."""
GATEWAY = 4566
IMAGES = f"{BRIDGE}:5000"
"""A registry that answers, for what is pushed by tag only."""
SAM = TARGET / "template-venv/bin"
BUILT = "scannerfunction:scanhook"
"""What `sam build` calls the image."""
ECR = "000000000000.dkr.ecr.us-east-1.amazonaws.com"
"""The registry of ministack's account, which in our namespace is one of Debian's on the loopback device."""

WEBHOOK_SECRET = f"fake-{secrets.token_hex(24)}"
API_TOKEN = f"fake-api-token-{secrets.token_hex(8)}"
CONFIG = f"""
registries: {{ "{IMAGES}": {{ insecure: true }}, harbor.example.com: {{ insecure: true }} }}
sources:
  ci:
    kind: generic
    registry: "{IMAGES}"
    auth: [{{ type: bearer, secret: "secretsmanager:scanhook/webhook#ci" }}]
  harbor:
    kind: harbor
    registry: harbor.example.com
    auth: [{{ type: token, secret: "secretsmanager:scanhook/webhook#harbor" }}]
scanner: {{ api_token: "secretsmanager:scanhook/scanner#sysdig" }}
"""


def prove(proof: Proof, shop: Workshop) -> None:
    make_base()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    hosts = shop.directory / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {ECR}\n")
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)
    with mirror() as (url, _):
        context = staged(shop.directory / "context", url)
        build(context, RECIPE, BUILT, BASE=BASE, TOOLS=BASE, SYSDIG_DOWNLOAD_URL=url, REVISION="0123abc")
    cloud = Cloud(shop)
    cloud.start()
    is_deployed(proof, cloud)
    scans_what_is_pushed(proof, cloud)
    buries_what_it_cannot_read(proof, cloud)
    is_updated_and_taken_back(proof, cloud)


class Cloud:
    """ministack, a container engine for its image functions, and a registry in the place of ECR."""

    def __init__(self, shop: Workshop) -> None:
        self.shop = shop
        self.socket = shop.directory / "podman.sock"
        self.endpoint = f"http://127.0.0.1:{GATEWAY}"
        self.built = shop.directory / "built.yaml"
        self.repository: str | None = None
        self.digest = ""

    def start(self) -> None:
        containers = self.shop.directory / "containers.conf"
        containers.write_text('[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n')
        certificate, key = self.shop.directory / "ecr.crt", self.shop.directory / "ecr.key"
        request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
        request += ["-subj", "/CN=ECR", "-addext", f"subjectAltName=DNS:{ECR}", "-out", str(certificate), "-keyout", str(key)]
        subprocess.run(request, check=True, capture_output=True)
        settings = {"CONTAINERS_CONF": str(containers), "SSL_CERT_FILE": str(certificate)}
        service = [*PODMAN, "system", "service", "--time=0", f"unix://{self.socket}"]
        self.shop.start("podman", service, {**os.environ, **settings})
        until("podman's socket", self.socket.exists)
        # The first container on podman's network makes its bridge.
        run = [*PODMAN, "run", "--rm", "--network", "podman", "--entrypoint", "true", BASE]
        subprocess.run(run, env={**os.environ, **settings}, check=True, capture_output=True)
        listen("0.0.0.0", 80)
        _, self.digest = start_images(self.shop, "0.0.0.0:5000")
        start_registry(self.shop, "ecr", server=f", tls: {{ certificate: {certificate}, key: {key} }}", listen="127.0.0.1:443")
        variables = base_environment(
            DOCKER_HOST=f"unix://{self.socket}",
            BIND_HOST="0.0.0.0",
            GATEWAY_PORT=str(GATEWAY),
            MINISTACK_HOST="localhost",
            LAMBDA_DOCKER_NETWORK="podman",
            LAMBDA_DOCKER_FLAGS=f"--read-only --tmpfs /tmp --add-host host.docker.internal:{BRIDGE} --add-host harbor.example.com:{BRIDGE}",
            AWS_ENDPOINT_URL=self.endpoint,
            HOME=str(self.shop.directory),
        )
        self.shop.start("ministack", [Path(sys.executable).with_name("ministack")], variables)
        until("ministack listens", lambda: listens(GATEWAY))
        with zipfile.ZipFile(TARGET / "lambda/webhook/bootstrap.zip") as archive:
            archive.extractall(self.shop.directory / "webhook")
        (self.shop.directory / "webhook/bootstrap").chmod(0o755)

    def client(self, service: str) -> Any:
        return boto3.client(
            service, endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id="fake-access-key",
            aws_secret_access_key="fake-secret-key", config=Config(retries={"max_attempts": 1}),
        )

    def deploy(self, *parameters: str, edit: Any = None) -> subprocess.CompletedProcess[str]:
        """What a user does after `deploy/build`."""
        command = [str(SAM / "python"), "-B", str(ROOT / "tests/deploy/built.py")]
        arguments = [str(self.shop.directory / "webhook"), BUILT, str(self.built)]
        subprocess.run([*command, *arguments], check=True)
        if edit:
            self.built.write_text(edit(self.built.read_text()))
        environment = base_environment(
            AWS_ENDPOINT_URL=self.endpoint, DOCKER_HOST=f"unix://{self.socket}", SAM_CLI_TELEMETRY="0",
            HOME=str(self.shop.directory),
        )
        # The second time its own stack of repositories exists, and ministack calls that nothing to update an error.
        images = ["--image-repository", self.repository] if self.repository else ["--resolve-image-repos"]
        return subprocess.run(
            [
                str(SAM / "sam"), "deploy", "--template", str(self.built), "--stack-name", STACK, "--resolve-s3",
                *images, "--capabilities", "CAPABILITY_IAM", "--no-confirm-changeset",
                "--no-progressbar", "--parameter-overrides", "Architecture=x86_64", *parameters,
            ],
            cwd=self.shop.directory, env=environment, capture_output=True, text=True,
        )

    def outputs(self) -> dict[str, str]:
        (stack,) = self.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
        return {it["OutputKey"]: it["OutputValue"] for it in stack["Outputs"]}

    def api(self) -> str:
        """The API's id, out of `https://ID.execute-api.REGION.amazonaws.com/webhooks/`."""
        return self.outputs()["WebhookUrl"].split("//")[1].split(".")[0]

    def make_routes(self) -> list[str]:
        """Makes the API's routes one by one, out of what the stack says of them: ministack doesn't read that."""
        processed = self.client("cloudformation").get_template(StackName=STACK, TemplateStage="Processed")["TemplateBody"]
        template = json.loads(processed) if isinstance(processed, str) else processed
        paths = template["Resources"]["Api"]["Properties"]["Body"]["paths"]
        gateway = self.client("apigatewayv2")
        function = self.client("lambda").get_function(FunctionName=f"{STACK}-webhook")["Configuration"]["FunctionArn"]
        integration = gateway.create_integration(
            ApiId=self.api(), IntegrationType="AWS_PROXY", IntegrationUri=function, PayloadFormatVersion="2.0"
        )["IntegrationId"]
        routes = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
        for route in routes:
            gateway.create_route(ApiId=self.api(), RouteKey=route, Target=f"integrations/{integration}")
        return routes

    def deliver(self, body: bytes, secret: str = WEBHOOK_SECRET, source: str = "harbor") -> Answer:
        headers = {"Host": f"{self.api()}.execute-api.localhost:{GATEWAY}", "content-type": JSON, "Authorization": secret}
        # Behind the host AWS takes $default for granted, ministack wants it named.
        return http("POST", f"{self.endpoint}/$default/webhooks/{source}", headers, body)

    def said(self, function: str) -> str:
        """The last of a function's log."""
        events = self.client("logs").filter_log_events(logGroupName=f"/aws/lambda/{STACK}-{function}")["events"]
        return "\n".join(it["message"] for it in events)[-2500:]

    def records(self) -> dict[str, dict[str, Any]]:
        """The ledger's records by repository."""
        items = self.client("dynamodb").scan(TableName=self.outputs()["LedgerTable"])["Items"]
        records = [json.loads(it["record"]["S"]) for it in items if "record" in it]
        return {it["image"]: it for it in records if it["state"] == "done"}


def is_deployed(proof: Proof, cloud: Cloud) -> None:
    proof.part("sam deploy")
    cloud.client("ssm").put_parameter(Name="/scanhook/config", Type="String", Value=CONFIG)
    manager = cloud.client("secretsmanager")
    manager.create_secret(Name="scanhook/webhook", SecretString=json.dumps({"harbor": WEBHOOK_SECRET, "ci": WEBHOOK_SECRET}))
    manager.create_secret(Name="scanhook/scanner", SecretString=json.dumps({"sysdig": API_TOKEN}))
    done = cloud.deploy()
    proof.true("deploys the stack", done.returncode == 0, (done.stdout + done.stderr)[-3000:])
    functions = cloud.client("lambda")
    scanner = functions.get_function(FunctionName=f"{STACK}-scanner")
    proof.true("the scanner is the image that sam pushed", scanner["Code"]["ImageUri"].startswith(ECR), scanner["Code"])
    cloud.repository = scanner["Code"]["ImageUri"].rpartition(":")[0]
    alarms = cloud.client("cloudwatch").describe_alarms()["MetricAlarms"]
    proof.equal("with its 15 alarms", len(alarms), 15)
    mapping = functions.list_event_source_mappings(FunctionName=f"{STACK}-scanner")["EventSourceMappings"]
    proof.equal("its five routes", len(cloud.make_routes()), 5)
    proof.equal("and its mapping", [it["BatchSize"] for it in mapping], [1])


def scans_what_is_pushed(proof: Proof, cloud: Cloud) -> None:
    proof.part("a signed delivery to the API, a verdict in the ledger")
    for repository, verdict in (("prod/pass", "passed"), ("prod/fail", "failed")):
        answer = cloud.deliver(harbor_push(repository, new_digest()))
        proof.true(f"{repository}: 202", answer.status == 202, f"{answer}\n{cloud.said('webhook')}")
        image = f"harbor.example.com/{repository}"
        record = until(f"the verdict on {repository}", lambda: cloud.records().get(image), patience=120)
        proof.equal(f"  {verdict}", record["verdict"], verdict)
    answer = cloud.deliver(tag_only_push(), f"Bearer {WEBHOOK_SECRET}", source="ci")
    proof.true("one by tag only, in a registry that answers: 202", answer.status == 202, f"{answer}\n{cloud.said('webhook')}")
    record = until("its verdict", lambda: cloud.records().get(f"{IMAGES}/{REPOSITORY}"), patience=120)
    proof.equal("  passed, by the digest that the registry told", (record["verdict"], record["digest"]), ("passed", cloud.digest))
    refused = cloud.deliver(harbor_push("prod/pass", new_digest()), "fake-wrong-token-0123456789")
    proof.equal("a wrong credential: 401", refused.status, 401)


def buries_what_it_cannot_read(proof: Proof, cloud: Cloud) -> None:
    proof.part("a poison message")
    sqs, outputs = cloud.client("sqs"), cloud.outputs()
    sqs.send_message(QueueUrl=outputs["QueueUrl"], MessageBody='{"version":1,"scan_id":')

    def letter() -> Any:
        received = sqs.receive_message(QueueUrl=outputs["DeadLetterQueueUrl"], MessageAttributeNames=["All"])
        return received.get("Messages")

    (message,) = until("the dead letter", letter, patience=120)
    reason = message["MessageAttributes"]["scanhook.reason"]["StringValue"]
    proof.equal("lies in the dead-letter queue with its reason", reason, "bad_message")


def is_updated_and_taken_back(proof: Proof, cloud: Cloud) -> None:
    proof.part("an update, and the way back")
    functions = cloud.client("lambda")
    webhook = f"{STACK}-webhook"

    def level() -> str:
        return functions.get_function_configuration(FunctionName=webhook)["Environment"]["Variables"]["SCANHOOK_LOG"]

    def still_scans(repository: str) -> None:
        proof.equal(f"{repository}: 202", cloud.deliver(harbor_push(repository, new_digest())).status, 202)
        until("its verdict", lambda: cloud.records().get(f"harbor.example.com/{repository}"), patience=120)

    for change, expected in (("LogLevel=debug", "debug"), ("LogLevel=info", "info")):
        done = cloud.deploy(change)
        proof.true(f"sam deploy with {change}", done.returncode == 0, (done.stdout + done.stderr)[-3000:])
        proof.equal("  takes effect", level(), expected)
        still_scans(f"prod/{expected}")

    # SQS hides a message for 43,200 s at most, so the update fails half-way.
    broken = cloud.deploy("LogLevel=warn", edit=hide_too_long)
    proof.true("an update that fails", broken.returncode != 0, broken.stdout[-1500:])
    (stack,) = cloud.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
    proof.equal("is rolled back", stack["StackStatus"], "UPDATE_ROLLBACK_COMPLETE")
    proof.equal("to what was there", level(), "info")
    still_scans("prod/rolled-back")


def hide_too_long(template: str) -> str:
    changed = template.replace("VisibilityTimeout: 5400", "VisibilityTimeout: 99999")
    assert changed != template
    return changed


def main() -> int:
    if "SCANHOOK_NAMESPACE" not in os.environ:
        # Its own network, and its own mounts for what podman leaves behind.
        environment = {**os.environ, "SCANHOOK_NAMESPACE": "1"}
        command = ["unshare", "--net", "--mount", sys.executable, "-B", __file__]
        return subprocess.run(command, env=environment).returncode
    try:
        return run_proof("the stack: deployed, at work, updated, taken back", prove)
    finally:
        podman("rm", "--all", "--force", "--time", "0", check=False)


if __name__ == "__main__":
    sys.exit(main())
