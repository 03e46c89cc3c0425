#!/usr/bin/env python3
"""moto's server with queues of thousands of messages. Usage: moto_server.py PORT

moto counts all messages of a queue, three times, for each one that is received, reads the clock for every message, several times in each
call, and looks for a receipt among all that any message ever had; and it reads a directory for each request. A few messages a second are
left of it with 5,000 in a queue. Here its SQS reads a cheaper clock, knows whose a receipt is and how long a queue keeps messages, and does the
rest as always, but one thing at a time: two deletions at once bring one of the messages back, and receives meanwhile end in errors.

`GET /proof/QUEUE` shows the bodies of a queue's messages and how many are hidden, and changes nothing. `POST /proof/later` lets five
minutes pass for SQS.

Runs in the environment of the servers that are compared with, `target/proofs-servers`.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from moto import backends, server
from moto.core import DEFAULT_ACCOUNT_ID
from moto.sqs import models

LATER = 300
passed = 0
"""Seconds that passed for SQS alone."""

holders: dict[str, models.Message] = {}
"""Whose each receipt is."""
mark_received = models.Message.mark_received


def remember(self: models.Message, visibility_timeout: int | None = None) -> None:
    mark_received(self, visibility_timeout)
    holders[self.receipt_handle] = self


def is_kept(self: models.SQSBackend, queue_name: str, message: models.Message) -> bool:
    return self.get_queue(queue_name).message_retention_period + message.sent_timestamp / 1000 > time.time()


one_at_a_time = threading.RLock()
receive_now = models.SQSBackend.receive_message


def receive_message(self: models.SQSBackend, queue_name: str, count: int, wait: int, *others: Any) -> list[models.Message]:
    end = time.monotonic() + wait
    while True:
        with one_at_a_time:
            received = receive_now(self, queue_name, count, 0, *others)
        left = end - time.monotonic()
        if received or left <= 0:
            return received
        self.get_queue(queue_name).wait_for_messages(left)


def locked(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        with one_at_a_time:
            return method(*arguments, **named)

    return call


models.SQSBackend.receive_message = receive_message
for name in ("change_message_visibility", "delete_message"):
    setattr(models.SQSBackend, name, locked(getattr(models.SQSBackend, name)))
modules = tuple(backends.list_of_moto_modules())
backends.list_of_moto_modules = lambda: modules
logging.getLogger("werkzeug").setLevel(logging.ERROR)
models.unix_time_millis = lambda: (time.time() + passed) * 1000
models.Message.mark_received = remember
models.SQSBackend.is_message_valid_based_on_retention_period = is_kept
models.Message.had_receipt_handle = lambda self, handle: holders.get(handle) is self


class Application(server.DomainDispatcherApplication):
    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        _, prefix, *name = environ["PATH_INFO"].split("/")
        if prefix != "proof":
            return super().__call__(environ, start_response)
        answer: dict[str, Any] = {}
        if environ["REQUEST_METHOD"] == "POST":
            global passed
            passed += LATER
        else:
            messages = list(models.sqs_backends[DEFAULT_ACCOUNT_ID]["us-east-1"].queues[name[0]]._messages)
            answer = {"bodies": [it.body for it in messages], "hidden": sum(not it.visible for it in messages)}
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]


server.DomainDispatcherApplication = Application
server.main(["-H", "127.0.0.1", "-p", sys.argv[1]])
