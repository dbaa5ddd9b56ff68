"""A Hub for tests: a real HTTP server that speaks what huggingface_hub asks, with repositories, commits, LFS objects.

Weights are LFS objects, and `resolve` redirects to them, as on the Hub itself.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

NO_HUB = "http://127.0.0.1:9"  # nobody listens there
TOKEN = "hf_of_the_owner"


@dataclass
class Repository:
    """Commits, each with its whole files, and the names that lead to them."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        sha = hashlib.sha1(repr(sorted(files.items())).encode() + str(len(self.commits)).encode()).hexdigest()
        self.commits[sha] = files
        self.refs[ref] = sha
        return sha

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.refs["main"]]


@dataclass
class Hub:
    """What the server has, and what it was asked."""

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refused_uploads: int = 0  # of the next ones, so many

    def put(self, name: str, folder: Path, **options: Any) -> Repository:
        """A repository with the files of a folder in its first commit."""
        repository = self.repositories[name] = Repository(**options)
        repository.commit({p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
        return repository


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def handle_any(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        body = self.body()
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in ("", TOKEN):
            self.answer(401, {"error": "x"}, X_Error_Message="Invalid credentials in Authorization header")
            return
        for pattern, method in ROUTES.items():
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                getattr(self, method)(token, body, *match.groups())
                return
        self.refuse(404, "NotFound")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def found(self, token: str, name: str, revision: str) -> tuple[Repository, str] | None:
        """The repository and the commit, or a refusal."""
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and token != TOKEN):
            self.refuse(404 if token else 401, "RepoNotFound")
            return None
        sha = repository.refs.get(revision, revision)
        if sha not in repository.commits:
            self.refuse(404, "RevisionNotFound")
            return None
        return repository, sha

    def info(self, token: str, body: bytes, name: str, revision: str | None) -> None:
        if found := self.found(token, name, revision or "main"):
            repository, sha = found
            siblings = [{"rfilename": file} for file in repository.commits[sha]]
            self.answer(200, {"id": name, "modelId": name, "sha": sha, "private": repository.private,
                              "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})  # fmt: skip

    def tree(self, token: str, body: bytes, name: str, revision: str) -> None:
        if found := self.found(token, name, revision):
            repository, sha = found
            self.answer(200, [self.entry(file, data) for file, data in repository.commits[sha].items()])

    def no_tree(self, *_) -> None:
        self.refuse(404, "EntryNotFound")  # repositories of tests have no folders that anybody asks for

    def entry(self, file: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": file, "size": len(data), "oid": blob_id(data)}
        if file.endswith(".safetensors"):
            self.hub.objects[oid := hashlib.sha256(data).hexdigest()] = data
            entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 100}
        return entry

    def resolve(self, token: str, body: bytes, name: str, revision: str, file: str) -> None:
        found = self.found(token, name, revision)
        if not found:
            return
        repository, sha = found
        if repository.gated and token != TOKEN:
            self.refuse(403, "GatedRepo")
        elif file not in repository.commits[sha]:
            self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        else:
            data = repository.commits[sha][file]
            entry = self.entry(file, data)
            if "lfs" in entry:
                etag, size = f'"{entry["lfs"]["oid"]}"', str(len(data))
                # Another host, as on the Hub: what is asked of this one alone is not asked of that.
                place = f"{self.hub.endpoint.replace('127.0.0.1', 'localhost')}/cdn/{entry['lfs']['oid']}"
                self.answer(302, b"", Location=place, X_Repo_Commit=sha, X_Linked_Etag=etag, X_Linked_Size=size)
            else:
                length = str(len(data))
                self.answer(200, data, ETag=f'"{entry["oid"]}"', X_Repo_Commit=sha, Content_Length=length)

    def cdn(self, token: str, body: bytes, oid: str) -> None:
        data = self.hub.objects[oid]
        self.answer(200, data, ETag=f'"{oid}"', Content_Length=str(len(data)))

    def create(self, token: str, body: bytes) -> None:
        if not token:
            self.refuse(401, "Unauthorized")
            return
        asked = json.loads(body)
        organization = asked.get("organization")
        if organization != "acme":
            said = f"no rights to create a model in {organization}"
            self.answer(403, {"error": said}, X_Error_Message=said)
            return
        name = f"{organization}/{asked['name']}"
        if name in self.hub.repositories:
            self.answer(409, {"error": "exists", "url": f"{self.hub.endpoint}/{name}"})
            return
        # 0.x says it in the one way, later versions in the other.
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.repositories[name] = Repository(private)
        self.hub.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self.answer(200, {"url": f"{self.hub.endpoint}/{name}", "name": name, "id": name})

    def validate_yaml(self, token: str, body: bytes) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, token: str, body: bytes, name: str, revision: str) -> None:
        if self.found(token, name, revision):
            modes = [
                {"path": file["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
                for file in json.loads(body)["files"]
            ]  # fmt: skip
            self.answer(200, {"files": modes})

    def lfs_batch(self, token: str, body: bytes, name: str) -> None:
        objects: list[dict[str, Any]] = []
        for wanted in json.loads(body)["objects"]:
            entry: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                entry["actions"] = {"upload": {"href": f"{self.hub.endpoint}/lfs/{wanted['oid']}", "header": {}}}
            objects.append(entry)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, token: str, body: bytes, oid: str) -> None:
        if self.hub.refused_uploads:
            self.hub.refused_uploads -= 1
            self.answer(413, {"error": "storage quota exceeded"}, X_Error_Message="storage quota exceeded")
            return
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self.answer(200)

    def commit(self, token: str, body: bytes, name: str, revision: str) -> None:
        repository = self.hub.repositories[name]
        files = dict(repository.files)
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files, revision)
        self.answer(200, {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{sha}", "commitOid": sha})


ROUTES = {
    r"GET /api/models/([^/]+/[^/]+)(?:/revision/(.+))?": "info",
    r"GET /api/models/([^/]+/[^/]+)/tree/([^/]+)/?": "tree",
    r"GET /api/models/([^/]+/[^/]+)/tree/([^/]+)/(.+)": "no_tree",
    r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/([^/]+|refs/pr/\d+)/(.+)": "resolve",
    r"(?:GET|HEAD) /cdn/(.+)": "cdn",
    r"POST /api/repos/create": "create",
    r"POST /api/validate-yaml": "validate_yaml",
    r"POST /api/models/([^/]+/[^/]+)/preupload/(.+)": "preupload",
    r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch": "lfs_batch",
    r"PUT /lfs/(.+)": "lfs_put",
    r"POST /api/models/([^/]+/[^/]+)/commit/(.+)": "commit",
}


def blob_id(data: bytes) -> str:
    """git's name for a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A Hub that answers until the end of the `with`."""
    hub = Hub()
    handler = type("OwnHandler", (Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()


def environment(endpoint: str, home: Path, token: str = "") -> dict[str, str]:
    """What a process finds whose Hub is at `endpoint`; huggingface_hub keeps its cache in `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    return kept | own | {"HF_TOKEN": token}


def parsit(hub: str, folder: Path, *words: object, token: str = "") -> subprocess.CompletedProcess[str]:
    """A verb as a process of its own in `folder`, with the cache that lies there."""
    command = [sys.executable, "-m", "parsit.cli", *map(str, words)]
    found = environment(hub, folder / "home", token)
    return subprocess.run(command, cwd=folder, env=found, capture_output=True, text=True)
