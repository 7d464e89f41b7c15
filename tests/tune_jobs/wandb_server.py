"""A W&B server for tests: takes in runs, files, artifacts and reports over HTTP, and misbehaves when asked to.

It speaks what wandb 0.31 and wandb-workspaces 0.4 ask for, refuses calls it does not know, and keeps what it was told,
so that tests compare values instead of believing that something arrived.
"""

import base64
import gzip
import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, cast

Mode = Literal["ok", "hangs", "errors", "no_quota", "forbidden", "too_many"]
STATUS = {"errors": 500, "no_quota": 402, "forbidden": 403, "too_many": 429}
KEY = "0123456789abcdef0123456789abcdef01234567"  # a W&B key has forty characters; this one opens nothing


@dataclass
class StoredRun:
    """One run as the server has it.

    Attributes:
        fields: What the last UpsertBucket said: groupName, jobType, displayName, tags, state and others.
        config: Its configuration, by name.
        history: Lines by their place; a line that is sent again replaces the one in its place.
        events: System metrics, likewise.
        summary: The last summary.
        exit_code: None until the run has ended.
        files: Uploaded files by name.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    events: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    files: dict[str, bytes] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """History in order."""
        return [self.history[place] for place in sorted(self.history)]


@dataclass
class WandbServer:
    """What was received, and how the server behaves from now on.

    Attributes:
        mode: "ok", or how it fails: every request hangs, or is answered 500, 402, 403 or 429.
        runs: By run id.
        artifacts: Each artifact's description, with the names of its files under "files" once they are known.
        views: Reports, as upsertView received them.
        requests: Path or operation of every request.
        unknown: Operations that were refused.
        refuses: Operations that are answered with an error.
        credentials: Every user and key that a request had, as `user:key`.
    """

    url: str = ""
    mode: Mode = "ok"
    runs: dict[str, StoredRun] = field(default_factory=dict)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)
    credentials: set[str] = field(default_factory=set)
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def environment(self) -> dict[str, str]:
        """What a process needs to speak to this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def run(self, name: str) -> StoredRun:
        """The run of this id; made when needed."""
        return self.runs.setdefault(name, StoredRun())

    def kept(self) -> dict[str, object]:
        """What a test in another process asks for: `/kept`."""
        runs = [
            {"name": run.fields["displayName"], "group": run.fields["groupName"], "exit_code": run.exit_code}
            | {"history": run.rows()}
            for run in self.runs.values()
        ]
        return {"runs": runs, "credentials": sorted(self.credentials), "unknown": self.unknown}

    def graphql(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Answers one GraphQL document."""
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        operation = found[1] if found else "?"
        self.requests.append(operation)
        if operation in self.refuses:
            return {"errors": [{"message": f"the server of the tests refuses {operation}"}]}
        answer = getattr(self, f"_{operation[0].lower()}{operation[1:]}", None)
        try:
            if answer is None:
                raise KeyError(operation)
            return {"data": answer(variables)}
        except KeyError as error:
            self.unknown.append(f"{operation}: {error}")
            return {"errors": [{"message": f"the server of the tests does not know {operation} {error}"}]}

    def _viewer(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        teams = {"edges": [{"node": {"name": "lab"}}]}
        return {
            "viewer": {"id": "u", "entity": "lab", "username": "me", "email": "", "flags": "{}", "teams": teams}
            | {"admin": False, "name": "me", "apiKeys": {"edges": []}, "deletedAt": None}
        }

    def _serverFeaturesQuery(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def _organizationCoreWeaveOrganizationID(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"entity": {"organization": None}}

    def _runStoppedStatus(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": {"run": {"stopped": False}}}

    def _runResumeStatus(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        run = self.runs.get(variables["name"])
        if run is None:
            return {"model": None}
        tail = [json.dumps(row) for row in run.rows()[-1:]]
        bucket = {
            "id": variables["name"],
            "name": variables["name"],
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.fields.get("displayName"),
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": len(run.events),
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "tags": run.fields.get("tags") or [],
            "notes": None,
            "wandbConfig": json.dumps({"t": {}}),
        }
        entity = {"id": "e", "name": "lab"}
        return {"model": {"id": "p", "name": variables["project"], "entity": entity, "bucket": bucket}}

    def _upsertBucket(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        inserted = variables["name"] not in self.runs
        run = self.run(variables["name"])
        run.fields |= {key: value for key, value in variables.items() if value is not None and key != "config"}
        config = json.loads(variables.get("config") or "{}")
        run.config |= {key: item["value"] for key, item in config.items()}
        if variables.get("summaryMetrics"):
            run.summary |= json.loads(variables["summaryMetrics"])
        project = {"id": "p", "name": variables.get("project") or "uncategorized", "entity": {"id": "e", "name": "lab"}}
        bucket = {
            "id": variables["name"],
            "name": variables["name"],
            "displayName": run.fields.get("displayName"),
            "description": "",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "sweepName": None,
            "project": project,
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _createRunFiles(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        run = variables["run"]
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{run}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    def _artifactType(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": {"artifact": None}}

    def _createArtifact(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.artifacts.append(dict(variables["input"]))
        artifact = {"id": f"a{len(self.artifacts)}", "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _createArtifactManifest(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"createArtifactManifest": {"artifactManifest": self._manifest(variables["artifactID"])}}

    def _updateArtifactManifest(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(variables["artifactManifestID"])}}

    def _manifest(self, artifact: str) -> dict[str, Any]:
        place = {"id": "f", "uploadUrl": f"{self.url}/manifest/{artifact}", "uploadHeaders": []}
        return {"id": artifact, "file": place}

    def _createArtifactFiles(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        edges: list[dict[str, Any]] = [
            {
                "node": {
                    "storagePath": "x",
                    "uploadUrl": f"{self.url}/artifact/{item['artifactID']}/{item['name']}",
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": item["artifactID"]},
                }
            }
            for item in variables["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commitArtifact(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": "d"}}}

    def _projectInternalId(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = variables["projectName"]
        known = any(run.fields.get("project") == name for run in self.runs.values())
        return {"project": {"id": "p", "internalId": f"internal-{name}"} if known else None}

    def _getProjects(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        names = {str(run.fields["project"]) for run in self.runs.values() if run.fields.get("project")}
        told: dict[str, Any] = {
            "__typename": "Project",
            "entityName": variables["entity"],
            "createdAt": "2026-01-01T00:00:00",
        }
        nodes = [told | {"id": name, "name": name, "isBenchmark": False, "user": None} for name in sorted(names)]
        edges: list[dict[str, Any]] = [{"node": node} for node in nodes]
        page = {"__typename": "PageInfo", "hasNextPage": False, "endCursor": None}
        return {"models": {"pageInfo": page, "edges": edges}}

    def _upsertView(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.views.append(dict(variables))
        view = {
            "id": variables.get("id") or "VmlldzoxMjM0",
            "type": variables["type"],
            "name": variables["name"],
            "displayName": variables["displayName"],
            "description": variables["description"],
            "project": {"id": "p", "name": variables["projectName"], "entityName": variables["entityName"]},
            "spec": variables["spec"],
            "updatedAt": "2026-01-01T00:00:00",
        }
        return {"upsertView": {"view": view, "inserted": True}}

    def take_stream(self, run_id: str, body: Mapping[str, Any]) -> None:
        """Takes in lines of a run's history, system metrics and summary, and its end."""
        run = self.run(run_id)
        for name, chunk in cast("dict[str, dict[str, Any]]", body.get("files") or {}).items():
            lines = [json.loads(line) for line in chunk["content"]] if name.endswith((".jsonl", ".json")) else []
            if name == "wandb-history.jsonl":
                run.history |= {chunk["offset"] + place: line for place, line in enumerate(lines)}
            elif name == "wandb-events.jsonl":
                run.events |= {chunk["offset"] + place: line for place, line in enumerate(lines)}
            elif name == "wandb-summary.json" and lines:
                run.summary = lines[-1]
        if body.get("complete"):
            run.exit_code = body.get("exitcode")


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: WandbServer

    def log_message(self, format: str, *args: object) -> None:
        """Keeps quiet."""

    def do_GET(self) -> None:
        self._serve(b"")

    def do_PUT(self) -> None:
        self._serve(self._body())

    def do_POST(self) -> None:
        self._serve(self._body())

    def _serve(self, body: bytes) -> None:
        state = self.state
        if state.mode == "hangs":
            state.requests.append(self.path)
            state.closing.wait()
            self.close_connection = True
            return
        if state.mode != "ok":
            state.requests.append(self.path)
            self._answer({"errors": [{"message": f"the server of the tests {state.mode}"}]}, STATUS[state.mode])
            return
        with state.lock:
            self._answer(self._handle(body), 200)

    def _handle(self, body: bytes) -> object:
        if self.path == "/kept":
            return self.state.kept()
        scheme, _, told = self.headers.get("authorization", "").partition(" ")
        if scheme == "Basic":
            self.state.credentials.add(base64.b64decode(told).decode())
        if self.path.startswith("/graphql"):
            document = json.loads(body)
            return self.state.graphql(document["query"], document.get("variables") or {})
        self.state.requests.append(self.path)
        if stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self.state.take_stream(stream[1], json.loads(body))
            return {"exitcode": None, "limits": {}}
        if upload := re.fullmatch(r"/upload/([^/]+)/(.+)", self.path):
            self.state.run(upload[1]).files[upload[2]] = body
        if part := re.fullmatch(r"/artifact/a(\d+)/(.+)", self.path):
            self.state.artifacts[int(part[1]) - 1].setdefault("files", []).append(part[2])
        return {}

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            body = b""
            while (size := int(self.rfile.readline().strip() or b"0", 16)) > 0:
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
        return gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body

    def _answer(self, content: object, status: int) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def wandb_server(mode: Mode = "ok", port: int = 0) -> Iterator[WandbServer]:
    """Serves on a port of the loopback, a free one where 0, until the block ends; then the port is closed ("dead")."""
    state = WandbServer(mode=mode)
    server = _QuietServer(("127.0.0.1", port), type("Handler", (_Handler,), {"state": state}))
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":  # on a machine of its own, until it is killed
    with wandb_server(port=int(sys.argv[1])):
        threading.Event().wait()
