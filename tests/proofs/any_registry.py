"""A registry for every host name: a proxy on loopback that answers for whichever host it is asked, in plain HTTP.

scanhook looks at each manifest before it scans, so the images of the proofs have to be somewhere. A source whose registry is
`insecure` is asked through the proxy that the environment names, and so keeps a host name that nobody serves.

Python 3.11, standard library only.
"""

from __future__ import annotations

import functools
import hashlib
import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import oci

MANIFESTS: dict[str, bytes] = {}
"""By their digests, which are those of their bytes; every repository has all of them."""


def new_digest() -> str:
    """The digest of an image that nobody had before, and that can be pulled from every repository."""
    config, layer = ({"mediaType": it, "digest": _digest(secrets.token_bytes(8)), "size": 1000} for it in (oci.CONFIG, oci.LAYER))
    manifest = {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": config, "layers": [layer]}
    content = json.dumps(manifest).encode()
    digest = _digest(content)
    MANIFESTS[digest] = content
    return digest


def listen(host: str = "127.0.0.1", port: int = 0) -> str:
    """Starts a registry that ends with this process, and returns its address."""
    server = _Server((host, port), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"{host}:{server.server_port}"


@functools.cache
def proxy() -> dict[str, str]:
    """The variables by which a scanner finds the registry of every host name; what has an address is asked itself."""
    return {"http_proxy": f"http://{listen()}", "no_proxy": "127.0.0.1"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    """Source: OCI distribution specification, "Pulling manifests"; RFC 9112, 3.2.2, for what a proxy is asked."""

    protocol_version = "HTTP/1.1"
    # Head and body in one piece, at once.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        repository, _, reference = urlsplit(self.path).path.removeprefix("/v2/").partition("/manifests/")
        content = MANIFESTS.get(reference) if repository else None
        self.send_response(200 if content else 404)
        if content:
            self.send_header("Content-Type", oci.MANIFEST)
            self.send_header("Docker-Content-Digest", reference)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if content and self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
