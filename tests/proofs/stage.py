"""What the two functions play on under the emulator: their configuration, their secrets, their queue.

Python 3.11, standard library only.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from any_registry import proxy
from harness import Proof, Workshop
from lambda_emulator import Function, sqs_variables, start_function
from serve import DEAD_LETTERS, QUEUE, Server

BODY_LIMIT = 1 << 20
ATTEMPTS = 4

TOKENS = {
    "PROOF_HARBOR": secrets.token_hex(32),
    "PROOF_DEBIAN": secrets.token_hex(32),
    "PROOF_GHCR": secrets.token_hex(32),
    "PROOF_HUB": secrets.token_hex(32),
}
API_TOKEN = {"PROOF_API_TOKEN": f"fake-api-token-{secrets.token_hex(8)}"}

CONFIG = f"""
registries: {{ "*.example.com": {{ insecure: true }} }}
sources:
  harbor: {{ kind: harbor, registry: harbor.example.com, auth: [{{ type: token, secret: "env:PROOF_HARBOR" }}] }}
  debian: {{ kind: distribution, registry: debian.example.com, auth: [{{ type: bearer, secret: "env:PROOF_DEBIAN" }}] }}
  ghcr: {{ kind: ghcr, auth: [{{ type: hmac, secret: "env:PROOF_GHCR" }}] }}
  hub: {{ kind: docker-hub, auth: [{{ type: path_token, secret: "env:PROOF_HUB" }}] }}
scanner: {{ api_token: "env:PROOF_API_TOKEN", timeout: 1s }}
retry: {{ attempts: {ATTEMPTS}, base: 1s, cap: 2s }}
"""


@dataclass
class Stage:
    """Everything that the parts of the proof play on."""

    proof: Proof
    shop: Workshop
    emulator: Path
    binaries: Path
    server: Server

    def start(self, name: str, timeout: int, **variables: str) -> Function:
        """Starts a function with the variables that its role allows it, and no other's."""
        stand_in = self.shop.directory / "cli"
        own = {
            "PATH": f"{stand_in}:{os.environ['PATH']}",
            "SCANHOOK_CONFIG": f"file:{self.server.config}",
            **sqs_variables(self.server.sqs, QUEUE, DEAD_LETTERS),
            **proxy(),
            **variables,
        }
        return start_function(self.shop, self.emulator, self.binaries / name, timeout, **own)

    def says_none_of(self, function: Function, tokens: dict[str, str]) -> None:
        """Claims that no secret is in a function's log."""
        output = function.process.output()
        said = [name for name, token in tokens.items() if token in output]
        self.proof.equal(f"the log of the {function.process.name} holds no secret", said, [])
