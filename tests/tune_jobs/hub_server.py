"""A Hugging Face hub for tests: repositories, uploads of small files in commits and of large ones by Git LFS or Xet.

It speaks what huggingface_hub 2.4 and hf_xet 1.8 ask for in create_repo, model_info and upload_folder, and refuses
other calls. Of Xet it knows the first version of each call, to which hf_xet falls back.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "t" * 34  # opens nothing but this server
XET_TOKEN = "xet-token"  # which the hub gives for its storage
_XET: dict[str, tuple[int, dict[str, Any]]] = {  # calls of newer versions are not there
    "GET /v1/chunks/": (404, {}), "POST /v1/xorb-grants/": (404, {}), "POST /v2/shards": (404, {}),
    "POST /v1/shards": (200, {"result": 1}), "POST /v1/telemetry": (200, {}),
}  # fmt: skip


@dataclass
class Repository:
    """What was committed.

    Attributes:
        private: Whether only its owner sees it.
        files: Content by path.
        commits: Their messages.
    """

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class HubServer:
    """What was received.

    Attributes:
        url: Its address, for HF_ENDPOINT.
        large: Files that end so are sent by Git LFS.
        repositories: By OWNER/NAME.
        objects: Large files by SHA-256.
        by_xet: Number of large files that came by Xet.
        unknown: Calls that were refused.
        fails: Status of every commit; None: they work.
    """

    url: str = ""
    large: str = ".safetensors"
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    by_xet: int = 0
    unknown: list[str] = field(default_factory=list)
    fails: int | None = None

    def answer(self, call: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Answers one call with a status and JSON."""
        if call == "POST /api/repos/create":
            return self._create(json.loads(body))
        if found := re.fullmatch(r"PUT /objects/([0-9a-f]{64})", call):
            assert hashlib.sha256(body).hexdigest() == found[1]
            self.objects[found[1]] = body
            return 200, {}
        if call.startswith("POST /v1/xorbs/"):  # one file: this server is for models with one file of weights
            content = _unpacked(body)
            self.objects[hashlib.sha256(content).hexdigest()] = content
            self.by_xet += 1
            return 200, {"was_inserted": True}
        if known := [answer for start, answer in _XET.items() if call.startswith(start)]:
            return known[0]
        if call == "POST /api/validate-yaml":  # the header of README.md
            return 200, {"errors": [], "warnings": []}
        found = re.fullmatch(
            r"(?:GET|POST) /(?:api/models/)?([\w-]+/[\w-]+)"
            r"(|/preupload/main|/commit/main|\.git/info/lfs/objects/batch|/xet-write-token/main)",
            call,
        )
        if found is None:
            self.unknown.append(call)
            return 501, {"error": f"this hub does not know {call}"}
        name, what = found[1], found[2]
        repository = self.repositories.get(name)
        if repository is None:
            return 404, {"error": "Repository not found"}
        if not what:
            return 200, {"id": name, "private": repository.private, "siblings": [], "tags": [], "downloads": 0}
        if what == "/xet-write-token/main":
            return 200, {"accessToken": XET_TOKEN, "exp": int(time.time()) + 3600, "casUrl": self.url}
        if what == "/preupload/main":
            return 200, {"files": [self._mode(one["path"]) for one in json.loads(body)["files"]]}
        if what == ".git/info/lfs/objects/batch":
            return 200, {"transfer": "basic", "objects": [self._object(one) for one in json.loads(body)["objects"]]}
        return self._commit(name, repository, [json.loads(line) for line in body.splitlines()])

    def _create(self, wanted: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = f"{wanted['organization'] or 'minji'}/{wanted['name']}"
        answer = {"url": f"{self.url}/{name}"}
        if name.startswith("others/"):
            return 403, {"error": "no rights in others"}
        if name in self.repositories:
            return 409, answer
        self.repositories[name] = Repository(private=wanted["visibility"] == "private")
        return 200, answer

    def _mode(self, path: str) -> dict[str, Any]:
        return {"path": path, "shouldIgnore": False, "uploadMode": "lfs" if path.endswith(self.large) else "regular"}

    def _object(self, wanted: dict[str, Any]) -> dict[str, Any]:
        upload = {"href": f"{self.url}/objects/{wanted['oid']}", "header": {}}
        return {"oid": wanted["oid"], "size": wanted["size"], "actions": {"upload": upload}}

    def _commit(self, name: str, repository: Repository, lines: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        if self.fails is not None:
            return self.fails, {"error": "the hub is in trouble"}
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository.commits.append(value["summary"])
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile", line
                repository.files[value["path"]] = self.objects[value["oid"]]
        return 200, {"success": True, "commitOid": "a" * 40, "commitUrl": f"{self.url}/{name}/commit/{'a' * 40}"}


def _unpacked(body: bytes) -> bytes:
    """Joins the chunks of one upload to Xet, each behind its version, packed length, kind of packing and length."""
    import pyarrow

    content = b""
    while body:
        packed_bytes, kind, size = int.from_bytes(body[1:4], "little"), body[4], int.from_bytes(body[5:8], "little")
        chunk, body = body[8 : 8 + packed_bytes], body[8 + packed_bytes :]
        if kind:
            chunk = pyarrow.Codec("lz4").decompress(chunk, size).to_pybytes()
        if kind == 2:  # the first bytes of all four-byte words, then the second ones, and so on
            words = bytearray(size)
            for place in range(4):
                count = len(words[place::4])
                words[place::4], chunk = chunk[:count], chunk[count:]
            chunk = bytes(words)
        content += chunk
    return content


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Runs a hub on the loopback."""
    hub = HubServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            call = f"{self.command} {self.path.partition('?')[0]}"
            wanted = XET_TOKEN if self.path.startswith(("/v1/", "/v2/")) else TOKEN
            if self.headers.get("Authorization") != f"Bearer {wanted}" and not self.path.startswith("/objects/"):
                status, answer = 401, {"error": "Invalid credentials in Authorization header"}
            else:
                status, answer = hub.answer(call, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _serve  # noqa: N815  # http.server's names

        def log_message(self, *_: object) -> None:
            """Stays quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
