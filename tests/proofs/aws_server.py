#!/usr/bin/env python3
"""moto on this machine: DynamoDB, SQS, SSM and Secrets Manager. Usage: aws_server.py PORT [CERTIFICATE KEY]

moto checks a condition and writes in two steps that other threads may come between. DynamoDB's conditional writes are atomic, so requests
take turns here; what two workers do in two calls still meets.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import boto3
from botocore.config import Config
from harness import Process, Workshop, base_environment, free_port, listens, until

TABLE = "scanhook-ledger"


@dataclass
class Moto:
    process: Process
    url: str
    trusted: Path | None

    def client(self, service: str) -> Any:
        keys = base_environment()
        return boto3.client(
            service,
            endpoint_url=self.url,
            verify=str(self.trusted) if self.trusted else None,
            config=Config(max_pool_connections=32),
            region_name=keys["AWS_REGION"],
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )

    def create_table(self) -> None:
        """Makes the ledger's table as docs/architecture.md tells templates to."""

        def key(*names: str) -> list[dict[str, str]]:
            return [{"AttributeName": name, "KeyType": kind} for name, kind in zip(names, ("HASH", "RANGE"), strict=True)]

        listed = {"KeySchema": key("list_shard", "listed_at"), "Projection": {"ProjectionType": "ALL"}}
        self.client("dynamodb").create_table(
            TableName=TABLE,
            AttributeDefinitions=[{"AttributeName": it, "AttributeType": "S"} for it in ("pk", "sk", "list_shard", "listed_at")],
            KeySchema=key("pk", "sk"),
            GlobalSecondaryIndexes=[{"IndexName": "by_time", **listed}],
            BillingMode="PAY_PER_REQUEST",
        )


def start_moto(shop: Workshop, certificate: tuple[Path, Path] | None = None) -> Moto:
    """Starts it, over TLS if there is a certificate with its key."""
    port = free_port()
    process = shop.start("moto", [sys.executable, __file__, str(port), *(certificate or ())])
    until("moto listens", lambda: listens(port))
    return Moto(process, f"{'https' if certificate else 'http'}://127.0.0.1:{port}", certificate[0] if certificate else None)


class OneAtATime:
    def __init__(self, app: Any) -> None:
        self.app = app
        self.lock = Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self.lock:
            return list(self.app(environ, start_response))


if __name__ == "__main__":
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    app = OneAtATime(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True, ssl_context=tuple(sys.argv[2:]) or None)
