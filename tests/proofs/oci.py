"""Makes OCI image layouts by hand: blobs, manifests and indexes of a few bytes each.

Python 3.11, standard library only.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = "application/vnd.oci.image.config.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
COSIGN_LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
HELM_CONFIG = "application/vnd.cncf.helm.config.v1+json"
HELM_LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"

Descriptor = dict[str, Any]


@dataclass
class Layout:
    """An OCI image layout in a directory."""

    directory: Path

    def __post_init__(self) -> None:
        (self.directory / "blobs" / "sha256").mkdir(parents=True)
        (self.directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self._tagged: list[Descriptor] = []

    def image(self, content: str, architecture: str = "amd64") -> Descriptor:
        """An image of one layer with one file."""
        archive = _archive(content)
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(archive)]},
        }
        layer = self._blob(LAYER, gzip.compress(archive, mtime=0))
        manifest = self._manifest(self._json(CONFIG, config), layer)
        return {**manifest, "platform": {"os": "linux", "architecture": architecture}}

    def index(self, *children: Descriptor) -> Descriptor:
        """An index of images."""
        return self._json(INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(children)})

    def signature(self, digest: str) -> Descriptor:
        """What cosign pushes beside the image with that digest: it looks like an image but for its layer."""
        critical = {"image": {"docker-manifest-digest": digest}, "type": "cosign container image signature"}
        layer = self._json(COSIGN_LAYER, {"critical": critical})
        layer["annotations"] = {"dev.cosignproject.cosign/signature": "fake-signature"}
        rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
        config = {"architecture": "", "os": "", "config": {}, "rootfs": rootfs}
        return self._manifest(self._json(CONFIG, config), layer)

    def chart(self, name: str) -> Descriptor:
        """A Helm chart."""
        config = self._json(HELM_CONFIG, {"name": name, "version": "1.0.0", "apiVersion": "v2"})
        return self._manifest(config, self._blob(HELM_LAYER, gzip.compress(_archive(name), mtime=0)))

    def tag(self, descriptor: Descriptor, tag: str) -> None:
        """Gives a manifest or index a name in this layout."""
        self._tagged.append({**descriptor, "annotations": {"org.opencontainers.image.ref.name": tag}})
        index = {"schemaVersion": 2, "manifests": self._tagged}
        (self.directory / "index.json").write_text(json.dumps(index))

    def _manifest(self, config: Descriptor, layer: Descriptor) -> Descriptor:
        return self._json(MANIFEST, {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]})

    def _json(self, media_type: str, value: Any) -> Descriptor:
        return self._blob(media_type, json.dumps(value).encode())

    def _blob(self, media_type: str, content: bytes) -> Descriptor:
        digest = _digest(content)
        (self.directory / "blobs" / "sha256" / digest.removeprefix("sha256:")).write_bytes(content)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _archive(content: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        file = tarfile.TarInfo("content")
        file.size = len(content.encode())
        archive.addfile(file, io.BytesIO(content.encode()))
    return buffer.getvalue()
