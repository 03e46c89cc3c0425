"""What the checks of `sqs_conformance` share: the list they are in, an endpoint to ask, and a fresh queue for each.

Python 3.11, boto3 and the AWS CLI.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from harness import LOOK, Answer, base_environment, http

ALL = {"MessageAttributeNames": ["All"], "MessageSystemAttributeNames": ["All"]}
MEBIBYTE = 1 << 20


TEXT = "text: "
"""So begins what is wrong where only an error's text differs: AWS's references name its codes, not its texts."""


class Different(Exception):
    """An answer that is not the documented one."""


@dataclass
class Target:
    """An SQS endpoint."""

    name: str
    endpoint: str
    patience: float

    @cached_property
    def sqs(self) -> Any:
        config = Config(
            parameter_validation=False,
            retries={"total_max_attempts": 1},
            read_timeout=self.patience + 25,
            proxies={},
        )
        keys = {"aws_access_key_id": "fake-access-key", "aws_secret_access_key": "fake-secret-key"}
        session = boto3.session.Session(region_name="us-east-1", **keys)
        return session.client("sqs", endpoint_url=self.endpoint, config=config)

    def queue(self, **attributes: str) -> Queue:
        """A new queue."""
        return self.queue_named(fresh_name(), **attributes)

    def queue_named(self, name: str, **attributes: str) -> Queue:
        parameters = {"Attributes": attributes} if attributes else {}
        return Queue(self, name, self.sqs.create_queue(QueueName=name, **parameters)["QueueUrl"])

    def nowhere(self) -> str:
        """The URL of a queue that does not exist."""
        queue = self.queue()
        return queue.url.replace(queue.name, fresh_name())

    def until(self, what: str, look: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + self.patience
        while not (seen := look()):
            if time.monotonic() > deadline:
                raise Different(f"{what}: never")
            time.sleep(LOOK)
        return seen

    def post(self, operation: str, body: bytes) -> Answer:
        """A request past any client."""
        headers = {
            "content-type": "application/x-amz-json-1.0",
            "x-amz-target": f"AmazonSQS.{operation}",
            "authorization": "AWS4-HMAC-SHA256 Credential=fake/20261122/us-east-1/sqs/aws4_request, "
            "SignedHeaders=host, Signature=00",
        }
        return http("POST", f"{self.endpoint}/", headers, body)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = str(Path(sys.executable).with_name("aws"))
        command = [program, "--endpoint-url", self.endpoint, "--output", "json", "sqs", *arguments]
        return subprocess.run(command, env=base_environment(), capture_output=True, text=True, timeout=120)

    def cli_json(self, *arguments: str) -> Any:
        done = self.cli(*arguments)
        if done.returncode != 0:
            raise Different(done.stderr.strip())
        return json.loads(done.stdout or "null")


@dataclass
class Queue:
    """A queue of an endpoint."""

    target: Target
    name: str
    url: str

    @property
    def sqs(self) -> Any:
        return self.target.sqs

    @property
    def arn(self) -> str:
        return self.attribute("QueueArn")

    def attributes(self, *names: str) -> dict[str, str]:
        answer = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=list(names))
        return answer.get("Attributes", {})

    def attribute(self, name: str) -> Any:
        return self.attributes(name).get(name)

    def set(self, **attributes: str) -> None:
        self.sqs.set_queue_attributes(QueueUrl=self.url, Attributes=attributes)

    def depths(self) -> list[int]:
        """Visible, in flight, delayed."""
        names = [f"ApproximateNumberOfMessages{it}" for it in ("", "NotVisible", "Delayed")]
        attributes = self.attributes(*names)
        return [int(attributes[it]) for it in names]

    def send(self, body: str = "x", **parameters: Any) -> dict[str, Any]:
        return self.sqs.send_message(QueueUrl=self.url, MessageBody=body, **parameters)

    def send_batch(self, *entries: dict[str, Any]) -> dict[str, Any]:
        return self.sqs.send_message_batch(QueueUrl=self.url, Entries=list(entries))

    def receive(self, **parameters: Any) -> list[dict[str, Any]]:
        return self.sqs.receive_message(QueueUrl=self.url, **{**ALL, **parameters}).get("Messages", [])

    def one(self, **parameters: Any) -> dict[str, Any]:
        """Receives a message, as soon as there is one."""
        return self.target.until("a message", lambda: self.receive(**parameters))[0]

    def delete(self, message: dict[str, Any]) -> None:
        self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])

    def hide(self, message: dict[str, Any], seconds: int) -> None:
        self.sqs.change_message_visibility(
            QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=seconds
        )


def fresh_name() -> str:
    return f"probe-{uuid.uuid4().hex}"


@dataclass
class Check:
    """Something that AWS documents, and how to see whether a server does it."""

    operation: str
    claim: str
    documented: str
    page: str
    see: Callable[[Target], None]

    @property
    def title(self) -> str:
        return f"{self.operation}: {self.claim}"


CHECKS: list[Check] = []


def check(
    operation: str, claim: str, documented: str, page: str = ""
) -> Callable[[Callable[[Target], None]], Callable[[Target], None]]:
    """Adds a check to the list; `page` is the documentation's, the operation's own if there is none."""

    def add(see: Callable[[Target], None]) -> Callable[[Target], None]:
        where = page or f"API_{operation}"
        CHECKS.append(Check(operation, claim, documented, where, see))
        return see

    return add


def judge(check: Check, target: Target) -> str | None:
    """What is wrong at a server, in a line; None if nothing is."""
    try:
        check.see(target)
    except Different as err:
        return short(str(err))
    except ClientError as err:
        return short(f"{error_name(err)}: {err.response['Error'].get('Message', '')}")
    except Exception as err:  # other servers answer in ways that no client expects
        return short(f"{type(err).__name__}: {err}")
    return None


def short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 110 else f"{line[:107]}..."


def expect(actual: Any, expected: Any) -> None:
    if actual != expected:
        raise Different(f"{cut(actual)}, not {cut(expected)}")


def cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 48 else f"{text[:45]}..."


def error_name(err: ClientError) -> str:
    """The modelled error's name, or the code if it is not modelled."""
    name = type(err).__name__
    return err.response["Error"]["Code"] if name == "ClientError" else name


def refused(act: Callable[[], Any], name: str, words: str = "", also: str = "") -> None:
    """The call must end in the error `name`, with `words` in its text; `also` is right where AWS names both."""
    try:
        act()
    except ClientError as err:
        message = err.response["Error"].get("Message", "")
        if error_name(err) not in (name, also):
            raise Different(f"{error_name(err)}: {message}") from None
        if words not in message:
            raise Different(f"{TEXT}{message}") from None
        return
    raise Different("taken")


def has(mapping: dict[str, Any], *names: str) -> None:
    missing = [it for it in names if it not in mapping]
    if missing:
        raise Different(f"without {', '.join(missing)}")


def has_not(mapping: dict[str, Any], *names: str) -> None:
    found = [it for it in names if it in mapping]
    if found:
        raise Different(f"with {', '.join(found)}")
