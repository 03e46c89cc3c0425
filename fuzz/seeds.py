"""Writes the seeds of every target, most from the conformance cases, and a dictionary of the keys and texts in them."""

import base64
import glob
import json
import os
import random

CASES = "../tests/conformance"

OCI, DOCKER = "application/vnd.oci.image", "application/vnd.docker"


def descriptor(media_type, **more):
    return {"mediaType": media_type, "digest": f"sha256:{'a' * 64}", "size": 7, **more}


def manifest(config, *layers):
    return {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": descriptor(config),
        "layers": [descriptor(it) for it in layers],
        "artifactType": "application/vnd.example.thing",
    }


PLATFORM = {"os": "windows", "architecture": "amd64", "variant": "v1", "os.version": "10.0.20348"}
ENTRY = descriptor(
    f"{OCI}.manifest.v1+json", platform=PLATFORM, annotations={"io.github.containers.compression.zstd": "true"}
)
MANIFESTS = [
    manifest(f"{OCI}.config.v1+json", f"{OCI}.layer.v1.tar+gzip", "application/vnd.dev.cosign.simplesigning.v1+json"),
    manifest(f"{DOCKER}.container.image.v1+json", f"{DOCKER}.image.rootfs.foreign.diff.tar.gzip"),
    manifest("application/vnd.nobody.knows", "application/vnd.erofs.layer.v1", "application/vnd.example.erofs+zstd"),
    manifest("application/octet-stream", "application/json", "text/html", ""),
    manifest("application/vnd.cncf.helm.config.v1+json", "application/vnd.acr.helm.chart"),
    manifest("application/vnd.oci.empty.v1+json", "application/vnd.in-toto+json"),
    manifest("application/vnd.buildkit.cacheconfig.v0"),
    {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [ENTRY, ENTRY]},
    {"mediaType": f"{DOCKER}.distribution.manifest.list.v2+json", "manifests": [], "config": None, "layers": None},
    {"schemaVersion": 1, "fsLayers": []},
]

ISSUERS = [
    ("https://accounts.google.com", "https://www.googleapis.com/oauth2/v3/certs"),
    ("https://issuer.example.com/tenant", "https://issuer.example.com:443/keys?v=1"),
    ("http://127.0.0.1:4711", "http://127.0.0.1:4711/keys"),
]


def written(value):
    """JSON with its `$base64` and `$json` members as the texts they stand for."""
    if isinstance(value, list):
        return [written(it) for it in value]
    if isinstance(value, dict):
        if list(value) == ["$base64"]:
            return base64.b64encode(json.dumps(written(value["$base64"])).encode()).decode()
        if list(value) == ["$json"]:
            return json.dumps(written(value["$json"]))
        return {key: written(it) for key, it in value.items()}
    return value


def body_of(request):
    if "json" in request:
        return json.dumps(written(request["json"])).encode()
    if "base64" in request:
        return base64.b64decode(request["base64"])
    return request.get("text", "").encode()


def words_of(value):
    """Every key, and every short text, of a JSON value."""
    if isinstance(value, list):
        return {word for it in value for word in words_of(it)}
    if isinstance(value, dict):
        return set(value) | {word for it in value.values() for word in words_of(it)}
    return {value} if isinstance(value, str) and 0 < len(value) <= 64 else set()


def seed(folder, name, content):
    os.makedirs(f"corpus/{folder}", exist_ok=True)
    with open(f"corpus/{folder}/{name}", "wb") as file:
        file.write(content)


def escaped(word):
    return "".join(chr(it) if 32 <= it < 127 and it not in b'"\\' else f"\\x{it:02x}" for it in word.encode())


def patterns(source):
    tags = source.get("tags", {})
    lists = source.get("include", []), source.get("exclude", []), tags.get("include", []), tags.get("exclude", [])
    return "".join(" ".join(it) + "\n" for it in lists)


words = set()
kinds = sorted(it for it in os.listdir(CASES) if os.path.isdir(f"{CASES}/{it}"))
for index, kind in enumerate(kinds):
    for path in glob.glob(f"{CASES}/{kind}/*.json"):
        name = os.path.basename(path).removesuffix(".json")
        with open(path) as file:
            case = json.load(file)
        request, source = case["request"], case["source"]
        headers = {key: it for key, it in request.get("headers", {}).items() if isinstance(it, str)}
        lines = "".join(f"{key}: {it}\n" for key, it in headers.items()).encode()
        body = body_of(request)
        words |= words_of(request.get("json"))
        for switches in (4, 12) if "payload" in source else (4,):
            seed(f"parsers/{kind}", f"{name}-{switches}", bytes([index, switches]) + lines + b"\n" + body)
        given = next((it for key, it in headers.items() if "sign" in key.lower() or "auth" in key.lower()), "")
        seed("verifiers", f"{kind}-{name}", bytes([index % 8]) + b"conformance-secret\n" + given.encode() + b"\n" + body)
        told = case["expect"].get("queued", []) + case["expect"].get("skipped", [])
        images = [it for it in told if it.get("image")]
        for at, it in enumerate(images):
            tag, digest = (f"{mark}{it[key]}" if it.get(key) else "" for mark, key in ((":", "tag"), ("@", "digest")))
            seed("references", f"{kind}-{name}-{at}", f"{it['image']}{tag}{digest}".encode())
        pushes = "".join(
            f"- {it['image'].split('/', 1)[1]} {it.get('tag') or '-'} {it.get('digest') or '-'}\n" for it in images
        )
        if pushes:
            seed("selection", f"{kind}-{name}", b"\0" + (patterns(source) + pushes).encode())
for at, it in enumerate(MANIFESTS):
    words |= words_of(it)
    seed("manifests", f"manifest-{at}", bytes([0, at]) + json.dumps(it).encode())
for at in range(16):
    seed("manifests", f"index-{at}", bytes([1]) + random.Random(at).randbytes(64 * at))
with open("tokens.json") as file:
    tokens = json.load(file)
key_set = {"keys": [{**tokens["key"], "n": "AQ", "key_ops": ["verify"]}, {"kty": "EC", "kid": "a", "alg": "ES256", "use": "enc"}]}
for at, token in enumerate(tokens["good"] + tokens["signed"] + tokens["refused"]):
    seed("tokens", f"token-{at}", b"\0" + token.encode())
    header, claims = (base64.urlsafe_b64decode(it + "==") for it in token.split(".")[:2])
    for choice in range(4):
        lines = header, claims, json.dumps(key_set).encode()
        seed("tokens", f"parts-{at}-{choice}", bytes([1, choice]) + b"\n".join(lines))
    words |= words_of(json.loads(header))
words |= words_of(json.loads(base64.urlsafe_b64decode(tokens["good"][0].split(".")[1] + "=="))) | words_of(key_set) | {"crit", "none"}
for at, (issuer, keys) in enumerate(ISSUERS):
    document = json.dumps({"issuer": issuer, "jwks_uri": keys})
    seed("tokens", f"discovery-{at}", b"\2" + f"{issuer}\n{document}".encode())
words |= {"issuer", "jwks_uri", *(it for pair in ISSUERS for it in pair)}
words |= {"true", "false", "null", "{", "}", "[", "]", ":", ",", "1e9", "sha256:" + "a" * 64, "../", "$(id)", "library/"}
with open("corpus/dictionary", "w") as file:
    file.writelines(f'"{escaped(it)}"\n' for it in sorted(words) if len(it.encode()) <= 64)
