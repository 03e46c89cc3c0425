"""Debian's docker-registry with an image in it, so that a tag becomes a digest as it does in production.

Python 3.11, standard library only.
"""

from __future__ import annotations

import json

import oci
from docker_registry import Registry, start_registry
from harness import Workshop

REPOSITORY, TAG = "prod/tagged", "1.0"


def tag_only_push() -> bytes:
    """What a CI job posts that doesn't know the digest, to a source of kind `generic`."""
    return json.dumps({"repository": REPOSITORY, "tag": TAG}).encode()


def start_images(shop: Workshop, listen: str) -> tuple[Registry, str]:
    """Starts a registry and pushes the image; and its digest."""
    registry = start_registry(shop, "images", listen=listen)
    layout = oci.Layout(shop.directory / "layout")
    image = layout.image("a file")
    layout.tag(image, TAG)
    registry.push(layout, TAG, REPOSITORY)
    return registry, image["digest"]
