"""Debian's docker-registry with an image in it, so that a tag becomes a digest as it does in production.

Python 3.11, standard library only.
"""

from __future__ import annotations

import json
import subprocess

import oci
from harness import Workshop, answers, base_environment, until

REPOSITORY, TAG = "prod/tagged", "1.0"


def tag_only_push() -> bytes:
    """What a CI job posts that doesn't know the digest, to a source of kind `generic`."""
    return json.dumps({"repository": REPOSITORY, "tag": TAG}).encode()


def start_registry(shop: Workshop, listen: str, host: str) -> str:
    """Starts a registry that is `host` for its clients, pushes the image, and tells its digest."""
    config = shop.directory / "images.yml"
    config.write_text(
        f"version: 0.1\nlog: {{ level: warn }}\nstorage: {{ filesystem: {{ rootdirectory: {shop.directory}/images }} }}\n"
        f"http: {{ addr: '{listen}' }}\n"
    )
    shop.start("images", ["docker-registry", "serve", config])
    until("the registry answers", lambda: answers(f"http://{host}/v2/"))
    layout = oci.Layout(shop.directory / "layout")
    image = layout.image("a file")
    layout.tag(image, TAG)
    push = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
    push += [f"oci:{layout.directory}:{TAG}", f"docker://{host}/{REPOSITORY}:{TAG}"]
    subprocess.run(push, env=base_environment(HOME=str(shop.directory)), check=True)
    return image["digest"]
