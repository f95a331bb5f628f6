"""A server of datasets and models that speaks as much of the Hugging Face Hub's protocol as its client needs."""

import json
import re
import socket
import struct
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_API = re.compile(
    r"/api/(datasets|models)/([^/]+/[^/]+)(?:/(revision|tree|paths-info|preupload|commit)/([^/]+)(?:/(.*))?)?"
)
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_STORED_FILE = re.compile(r"/stored/([^/]+)/([^/]+/[^/]+)/([^/]+)/(.+)")
_LFS_BATCH = re.compile(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")
_LARGE = re.compile(r"(?:.*/)?c\..*|.*\.(?:npy|safetensors)")  # files that the client sends apart from a commit


@dataclass
class Cut:
    """A connection that breaks off inside a file: after so many bytes of each answer, so many times."""

    after_bytes: int
    times: int
    abruptly: bool = False  # by a reset rather than an early end


@dataclass
class HubServer:
    """Datasets and models by name, each with its files at every commit, and what goes wrong with them.

    A model's name here begins with "models/".
    """

    url: str
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    revisions: dict[str, dict[str, str]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)  # datasets that need TOKEN
    private: set[str] = field(default_factory=set)  # datasets that exist for TOKEN only
    cuts: dict[str, Cut] = field(default_factory=dict)  # by file
    stalled: set[str] = field(default_factory=set)  # files of which the second half does not come
    signature: str = ""  # of the URLs of files in a store of another host; "": the Hub sends them itself
    refuse_all: int = 0  # the status of every answer, if not 0
    owners: set[str] = field(default_factory=lambda: {"org"})  # in whose names TOKEN may write
    received: dict[str, bytes] = field(default_factory=dict)  # large files by their SHA-256
    uploads_left: int = sys.maxsize  # of large files, after which connections break off
    uploads_stall: int = 0  # after so many large files the next one is not answered; 0: all are
    requests: list[str] = field(default_factory=list)  # "GET /path bytes=0-9"
    tokens_sent_away: int = 0  # to the store

    def put(self, dataset: str, files: Mapping[str, bytes], revision: str = "main") -> str:
        """Make a commit of these files, to which the revision then points; return it."""
        content = repr(sorted(files.items())).encode()
        commit = sha1(dataset.encode() + content).hexdigest()
        self.commits.setdefault(dataset, {})[commit] = dict(files)
        self.revisions.setdefault(dataset, {})[revision] = commit
        return commit

    def files(self, dataset: str) -> dict[str, bytes]:
        """The files at the head of the main branch."""
        return self.commits[dataset][self.revisions[dataset]["main"]]

    def fetched(self, file: str) -> list[str]:
        """The requests so far for the bytes of a file."""
        return [request for request in self.requests if request.startswith("GET ") and f"/{file} " in request]


TOKEN = "hf_of_a_test"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # A revision is one part of the path, which may hold a slash.
        quoted = urlsplit(self.path).path
        if self.hub.refuse_all:
            self._refuse(self.hub.refuse_all, "")
        elif found := _API.fullmatch(quoted):
            kind, name, what, revision, below = (part and unquote(part) for part in found.groups())
            self._answer_api(
                f"models/{name}" if kind == "models" else name, what, revision or "main", below or "", body
            )
        elif path == "/api/repos/create":
            self._make_repository(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer_json({"errors": [], "warnings": []})
        elif found := _LFS_BATCH.fullmatch(quoted):
            self._answer_batch(json.loads(body)["objects"])
        elif path.startswith("/upload/"):
            self._take_upload(path.removeprefix("/upload/"), body)
        elif found := _FILE.fullmatch(quoted):
            is_dataset, name, *rest = found.groups()
            self._answer_file(name if is_dataset else f"models/{name}", *map(unquote, rest))
        elif found := _STORED_FILE.fullmatch(quoted):
            self._answer_stored(*map(unquote, found.groups()))
        else:
            self._refuse(404, "")

    do_HEAD = do_GET
    do_POST = do_GET
    do_PUT = do_GET

    @property
    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _commit(self, dataset: str, revision: str) -> str | None:
        """The commit of a revision; None once the request is refused."""
        if dataset not in self.hub.commits or (dataset in self.hub.private and not self._has_token):
            return self._refuse(401, "RepoNotFound")
        commit = self.hub.revisions[dataset].get(revision, revision)
        return commit if commit in self.hub.commits[dataset] else self._refuse(404, "RevisionNotFound")

    def _answer_api(self, dataset: str, what: str | None, revision: str, below: str, body: bytes) -> None:
        if not (commit := self._commit(dataset, revision)):
            return
        files = self.hub.commits[dataset][commit]
        if what in ("preupload", "commit") and not self._may_write(dataset.removeprefix("models/")):
            return
        if what == "tree":
            inside = [name for name in files if name.startswith(f"{below}/" if below else "")]
            if below and not inside:
                self._refuse(404, "EntryNotFound", commit)
                return
            self._answer_json(
                [_entry(files, name) for name in _listed(inside, below, "recursive=true" in self.path.lower())]
            )
        elif what == "paths-info":
            paths = json.loads(body)["paths"]
            self._answer_json([_entry(files, name) for name in paths if name in files])
        elif what == "preupload":
            self._answer_json({"files": [_upload_mode(files, each["path"]) for each in json.loads(body)["files"]]})
        elif what == "commit":
            made = self.hub.put(dataset, self._changed(files, body), revision)
            self._answer_json({"commitUrl": f"{self.hub.url}/{dataset}/commit/{made}", "commitOid": made})
        else:
            siblings = [{"rfilename": name} for name in files]
            name = dataset.removeprefix("models/")
            self._answer_json({"id": name, "sha": commit, "siblings": siblings, "tags": []})

    def _may_write(self, name: str) -> bool:
        """Whether the token may write in the owner's name; otherwise the request is refused."""
        if self._has_token and name.partition("/")[0] in self.hub.owners:
            return True
        self._refuse(403 if self._has_token else 401, "")
        return False

    def _make_repository(self, wish: dict[str, str]) -> None:
        name = f"{wish['organization']}/{wish['name']}"
        if self._may_write(name):
            self.hub.put(f"models/{name}" if wish.get("type", "model") == "model" else name, {".gitattributes": b""})
            self._answer_json({"url": f"{self.hub.url}/{name}"})

    def _answer_batch(self, objects: list[dict[str, Any]]) -> None:
        """Tell where to send large files, unless they are there."""
        for each in objects:
            if each["oid"] not in self.hub.received:
                each["actions"] = {"upload": {"href": f"{self.hub.url}/upload/{each['oid']}"}}
        self._answer_json({"objects": objects})

    def _take_upload(self, oid: str, data: bytes) -> None:
        if self.hub.uploads_stall and len(self.hub.received) >= self.hub.uploads_stall:
            while self.hub.uploads_stall:
                time.sleep(0.01)
            self._break_off(abruptly=True)
        elif self.hub.uploads_left:
            self.hub.uploads_left -= 1
            self.hub.received[oid] = data
            self._answer_json({})
        else:
            self._break_off(abruptly=True)

    def _changed(self, files: Mapping[str, bytes], body: bytes) -> dict[str, bytes]:
        """The files after a commit, which is a line of JSON for each change."""
        changed = dict(files)
        for line in map(json.loads, body.splitlines()):
            change = line["value"]
            if line["key"] == "file":
                changed[change["path"]] = b64decode(change["content"])
            elif line["key"] == "lfsFile":
                changed[change["path"]] = self.hub.received[change["oid"]]
            elif line["key"] == "deletedFile":
                del changed[change["path"]]
        return changed

    def _answer_file(self, dataset: str, revision: str, name: str) -> None:
        if not (commit := self._commit(dataset, revision)):
            return
        if dataset in self.hub.gated and not self._has_token:
            self._refuse(403, "GatedRepo")
        elif (data := self.hub.commits[dataset][commit].get(name)) is None:
            self._refuse(404, "EntryNotFound", commit)
        elif self.hub.signature:
            port = urlsplit(self.hub.url).port
            self.send_response(302)
            self.send_header(
                "Location", f"http://localhost:{port}/stored/{self.hub.signature}/{dataset}/{commit}/{name}"
            )
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("X-Linked-ETag", f'"{sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send(data, commit, name)

    def _answer_stored(self, signature: str, dataset: str, commit: str, name: str) -> None:
        self.hub.tokens_sent_away += "Authorization" in self.headers
        if signature != self.hub.signature:
            self._refuse(403, "")
        else:
            self._send(self.hub.commits[dataset][commit][name], commit, name)

    def _send(self, data: bytes, commit: str, name: str) -> None:
        start, stop = 0, len(data)
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start = int(found[1])
            stop = min(len(data), int(found[2]) + 1) if found[2] else len(data)
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", f'"{sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.hub.stalled and not found:
            self.wfile.write(data[: len(data) // 2])
            while name in self.hub.stalled:
                time.sleep(0.01)
            self.close_connection = True
            return
        cut = self.hub.cuts.get(name)
        if cut and cut.times:
            cut.times -= 1
            self.wfile.write(data[start : min(stop, start + cut.after_bytes)])
            self._break_off(cut.abruptly)
        else:
            self.wfile.write(data[start:stop])

    def _break_off(self, abruptly: bool) -> None:
        self.wfile.flush()
        if abruptly:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _answer_json(self, answer: object) -> None:
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, code: str, commit: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()


def _listed(names: list[str], below: str, recursive: bool) -> list[str]:
    """The files and folders of a listing, folders ending in a slash."""
    start = len(below) + 1 if below else 0
    found: dict[str, None] = {}
    for name in names:
        parts = name[start:].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            found[name[:start] + "/".join(parts[:depth]) + "/"] = None
        if recursive or len(parts) == 1:
            found[name] = None
    return list(found)


def _entry(files: Mapping[str, bytes], name: str) -> dict[str, object]:
    if name.endswith("/"):
        return {"type": "directory", "path": name[:-1], "oid": sha1(name.encode()).hexdigest(), "size": 0}
    data = files[name]
    entry = {"type": "file", "path": name, "oid": _git_hash(data), "size": len(data)}
    if _LARGE.fullmatch(name):
        entry["lfs"] = {"size": len(data), "oid": sha256(data).hexdigest(), "pointerSize": 100}
    return entry


def _upload_mode(files: Mapping[str, bytes], name: str) -> dict[str, object]:
    """How the client is to send a file, and what it is called if it is there already."""
    is_large = bool(_LARGE.fullmatch(name))
    there = files.get(name)
    oid = there if there is None else sha256(there).hexdigest() if is_large else _git_hash(there)
    return {"path": name, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False, "oid": oid}


def _git_hash(data: bytes) -> str:
    return sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serve_hub() -> Iterator[HubServer]:
    """Serve datasets on this machine until the context ends."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.hub = HubServer(f"http://127.0.0.1:{server.server_port}")
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield handler.hub
        server.shutdown()
