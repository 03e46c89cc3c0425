#!/usr/bin/env python3
"""A DynamoDB-compatible server: moto, with one request at a time. Usage: dynamodb_server.py PORT

moto checks a condition and writes in two steps that other threads may come between. DynamoDB's conditional writes are
atomic, so requests take turns here; what two workers do in two calls still meets.

Runs in the environment of the servers that are compared with, `target/proofs-servers`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from threading import Lock
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple


class OneAtATime:
    def __init__(self, app: Any) -> None:
        self.app = app
        self.lock = Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self.lock:
            return list(self.app(environ, start_response))


run_simple("127.0.0.1", int(sys.argv[1]), OneAtATime(DomainDispatcherApplication(create_backend_app)), threaded=True)
