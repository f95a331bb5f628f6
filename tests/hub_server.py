"""A server of datasets that speaks as much of the Hugging Face Hub's protocol as its client needs."""

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

_API = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
_FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_STORED_FILE = re.compile(r"/stored/([^/]+)/([^/]+/[^/]+)/([^/]+)/(.+)")


@dataclass
class Cut:
    """A connection that breaks off inside a file: after so many bytes of each answer, so many times."""

    after_bytes: int
    times: int
    abruptly: bool = False  # by a reset rather than an early end


@dataclass
class HubServer:
    """Datasets by name, each with its files at every commit, and what goes wrong with them."""

    url: str
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    revisions: dict[str, dict[str, str]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)  # datasets that need TOKEN
    private: set[str] = field(default_factory=set)  # datasets that exist for TOKEN only
    cuts: dict[str, Cut] = field(default_factory=dict)  # by file
    stalled: set[str] = field(default_factory=set)  # files of which the second half does not come
    signature: str = ""  # of the URLs of files in a store of another host; "": the Hub sends them itself
    refuse_all: int = 0  # the status of every answer, if not 0
    requests: list[str] = field(default_factory=list)  # "GET /path bytes=0-9"
    tokens_sent_away: int = 0  # to the store

    def put(self, dataset: str, files: Mapping[str, bytes], revision: str = "main") -> str:
        """Make a commit of these files, to which the revision then points; return it."""
        content = repr(sorted(files.items())).encode()
        commit = sha1(dataset.encode() + content).hexdigest()
        self.commits.setdefault(dataset, {})[commit] = dict(files)
        self.revisions.setdefault(dataset, {})[revision] = commit
        return commit

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
            dataset, what, revision, below = (part and unquote(part) for part in found.groups())
            self._answer_api(dataset, what, revision or "main", below or "", body)
        elif found := _FILE.fullmatch(quoted):
            self._answer_file(*map(unquote, found.groups()))
        elif found := _STORED_FILE.fullmatch(quoted):
            self._answer_stored(*map(unquote, found.groups()))
        else:
            self._refuse(404, "")

    do_HEAD = do_GET
    do_POST = do_GET

    def _commit(self, dataset: str, revision: str) -> str | None:
        """The commit of a revision; None once the request is refused."""
        has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if dataset not in self.hub.commits or (dataset in self.hub.private and not has_token):
            return self._refuse(401, "RepoNotFound")
        commit = self.hub.revisions[dataset].get(revision, revision)
        return commit if commit in self.hub.commits[dataset] else self._refuse(404, "RevisionNotFound")

    def _answer_api(self, dataset: str, what: str | None, revision: str, below: str, body: bytes) -> None:
        if not (commit := self._commit(dataset, revision)):
            return
        files = self.hub.commits[dataset][commit]
        if what == "tree":
            inside = [name for name in files if name.startswith(f"{below}/" if below else "")]
            self._answer_json(
                [_entry(files, name) for name in _listed(inside, below, "recursive=true" in self.path.lower())]
            )
        elif what == "paths-info":
            paths = json.loads(body)["paths"]
            self._answer_json([_entry(files, name) for name in paths if name in files])
        else:
            siblings = [{"rfilename": name} for name in files]
            self._answer_json({"id": dataset, "sha": commit, "siblings": siblings, "tags": []})

    def _answer_file(self, dataset: str, revision: str, name: str) -> None:
        if not (commit := self._commit(dataset, revision)):
            return
        if dataset in self.hub.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
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
    return {"type": "file", "path": name, "oid": sha1(files[name]).hexdigest(), "size": len(files[name])}


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
