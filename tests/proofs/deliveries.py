"""Deliveries as the registries document them, with the credentials of the stage.

Python 3.11, standard library only.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from urllib.parse import quote_plus

from stage import TOKENS

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
EVENTS_V1 = "application/vnd.docker.distribution.events.v1+json"


def harbor_push(repository: str, digest: str) -> bytes:
    resource = {"digest": digest, "tag": "1.0", "resource_url": f"harbor.example.com/{repository}:1.0"}
    namespace, name = repository.split("/", 1)
    repository_data = {"name": name, "namespace": namespace, "repo_full_name": repository, "repo_type": "private"}
    event_data = {"resources": [resource], "repository": repository_data}
    event = {"type": "PUSH_ARTIFACT", "occur_at": 1795291200, "operator": "robot$ci", "event_data": event_data}
    return json.dumps(event).encode()


def distribution_push(repository: str, digest: str) -> bytes:
    target = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest,
        "repository": repository,
        "url": f"https://debian.example.com/v2/{repository}/manifests/{digest}",
        "tag": "1.0",
    }
    request = {"host": "debian.example.com", "method": "PUT"}
    event = {"id": "e1", "timestamp": "2026-11-21T20:00:00Z", "action": "push", "target": target, "request": request}
    return json.dumps({"events": [{**event, "actor": {}, "source": {"addr": "node:5000"}}]}, indent=3).encode()


def ghcr_push(repository: str, digest: str) -> bytes:
    owner, name = repository.split("/", 1)
    version = {
        "version": digest,
        "package_url": f"ghcr.io/{repository}:1.0",
        "container_metadata": {"tag": {"name": "1.0", "digest": digest}},
    }
    package = {
        "name": name,
        "namespace": owner,
        "owner": {"login": owner},
        "package_type": "CONTAINER",
        "package_version": version,
    }
    # An umlaut, so that what is signed is not what ASCII would be.
    return json.dumps({"action": "published", "package": package, "sender": {"login": "Jürgen"}}).encode()


def hub_push(repository: str) -> bytes:
    push = {"pushed_at": 1795291200, "pusher": "ci", "tag": "1.0", "images": []}
    namespace, name = repository.split("/", 1)
    return json.dumps(
        {"push_data": push, "repository": {"repo_name": repository, "namespace": namespace, "name": name}}
    ).encode()


def as_form(body: bytes) -> bytes:
    return f"payload={quote_plus(body)}".encode()


def signature(body: bytes) -> dict[str, str]:
    digest = hmac.new(TOKENS["PROOF_GHCR"].encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={digest}"}


HARBOR = {"content-type": JSON, "Authorization": TOKENS["PROOF_HARBOR"]}
DEBIAN = {"content-type": EVENTS_V1, "Authorization": f"Bearer {TOKENS['PROOF_DEBIAN']}"}
HUB_PATH = f"/webhooks/hub/{TOKENS['PROOF_HUB']}"
