"""Debian's docker-registry on this machine, with what skopeo pushes to it or what is put there by hand.

Python 3.11, standard library only.
"""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass, field
from typing import Any

import oci
from harness import Disproved, Process, Workshop, base_environment, free_port, http, listens, until

TYPES = ", ".join([oci.MANIFEST, oci.INDEX, "application/vnd.docker.distribution.manifest.v2+json"])


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Registry:
    shop: Workshop
    host: str
    process: Process
    login: list[str] = field(default_factory=list)
    """How skopeo logs in."""

    def push(self, layout: oci.Layout, tag: str, repository: str, *options: str, to: str | None = None) -> None:
        """Pushes what a layout has under a tag, by this tag, by another one or by its digest."""
        to = to or tag
        target = f"docker://{self.host}/{repository}{'@' if ':' in to else ':'}{to}"
        self.skopeo("copy", "--quiet", "--dest-tls-verify=false", *self.login, *options, f"oci:{layout.directory}:{tag}", target)

    def skopeo(self, *arguments: str) -> None:
        command = ["skopeo", "--insecure-policy", *arguments]
        done = subprocess.run(command, env=base_environment(HOME=str(self.shop.directory)), capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"skopeo {arguments[0]}: {done.stderr}")

    def digest(self, repository: str, tag: str) -> str | None:
        """The digest that the registry has for a tag."""
        url = f"http://{self.host}/v2/{repository}/manifests/{tag}"
        return http("HEAD", url, {"accept": TYPES}).headers.get("docker-content-digest")

    def put(self, repository: str, media_type: str, content: bytes, tag: str | None = None) -> str:
        """Puts a manifest there, and returns its digest."""
        digest = digest_of(content)
        _put(f"http://{self.host}/v2/{repository}/manifests/{tag or digest}", media_type, content)
        return digest

    def push_blob(self, repository: str, content: bytes) -> dict[str, Any]:
        location = http("POST", f"http://{self.host}/v2/{repository}/blobs/uploads/").headers["location"]
        _put(f"{location}&digest={digest_of(content)}", "application/octet-stream", content)
        return {"digest": digest_of(content), "size": len(content)}


def _put(url: str, media_type: str, content: bytes) -> None:
    answer = http("PUT", url, {"content-type": media_type}, content)
    if answer.status != 201:
        raise Disproved(f"{url}: {answer.status} {answer.body!r}")


def start_registry(shop: Workshop, name: str = "registry", more: str = "", server: str = "", listen: str | None = None) -> Registry:
    """Starts one; `server` are further settings of its HTTP server, and `more` of all else."""
    listen = listen or f"127.0.0.1:{free_port()}"
    config = shop.directory / f"{name}.yml"
    config.write_text(f"""
version: 0.1
log: {{ level: warn }}
storage: {{ filesystem: {{ rootdirectory: "{shop.directory}/{name}" }}, delete: {{ enabled: true }} }}
http: {{ addr: "{listen}"{server} }}
{more}
""")
    process = shop.start(name, ["docker-registry", "serve", config])
    host, port = listen.split(":")
    until(f"{name} listens", lambda: listens(int(port)))
    return Registry(shop, listen.replace("0.0.0.0", "127.0.0.1"), process)
