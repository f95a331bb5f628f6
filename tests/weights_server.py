"""A server that publishes small files under the names of pretrained networks; as a program, processes that want them.

The program reads requests from stdin, a line each: a name, how many processes want it, and torch's home. Each process
prints its id when it begins, and then the path of the file or the error's sentence.
"""

import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tcae_cli.errors import WeightsError
from tcae_cli.features import published
from tcae_cli.features.published import PublishedFile
from tcae_cli.features.weights import weights_path


@dataclass
class Cut:
    """A connection that breaks off inside a file: after so many bytes of each answer, so many times."""

    after_bytes: int
    times: int = 1
    abruptly: bool = False  # by a reset rather than an early end
    stalls: bool = False  # and the end does not come


@dataclass
class WeightsServer:
    """Files by name, and what goes wrong with them."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, Cut] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)  # of the next answers for a file; 200: as ever
    ignores_ranges: bool = False
    pause_s: float = 0.0  # before each answer
    requests: list[str] = field(default_factory=list)  # "FILE" or "FILE bytes=9-"

    def publish(self, name: str, content: bytes, **row: object) -> None:
        """Serve the file of a network, and give its row in the table this URL, size and SHA-256, or those of `row`."""
        before = published.FILES[name]
        self.files[before.file] = content
        known = {"size_bytes": len(content), "sha256": sha256(content).hexdigest(), **row}
        published.FILES[name] = replace(before, url=f"{self.url}/{before.file}", repository=None, **known)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    weights: WeightsServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.strip("/")
        wanted = self.headers.get("Range", "")
        self.weights.requests.append(f"{name} {wanted}".strip())
        time.sleep(self.weights.pause_s)
        statuses = self.weights.statuses.get(name)
        if statuses and (status := statuses.pop(0)) != 200:
            return self.send_error(status)
        if name not in self.weights.files:
            return self.send_error(404)
        content = self.weights.files[name]
        start = int(wanted[len("bytes=") : -1]) if wanted and not self.weights.ignores_ranges else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = self.weights.cuts.get(name)
        if not cut or not cut.times:
            self.wfile.write(content[start:])
            return None
        cut.times -= 1
        self.wfile.write(content[start : start + cut.after_bytes])
        if cut.stalls:
            time.sleep(60)
        if cut.abruptly:
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        pass  # a client that was killed


@contextmanager
def serve_weights() -> Iterator[WeightsServer]:
    """Run a server on a free port of this machine until the context ends; the table of files then is what it was."""
    handler = type("Handler", (_Handler,), {})
    with _Server(("127.0.0.1", 0), handler) as server:
        handler.weights = WeightsServer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        before = dict(published.FILES)
        try:
            yield handler.weights
        finally:
            published.FILES.update(before)
            server.shutdown()
            thread.join()


def _want(name: str) -> None:
    try:
        _print(os.getpid())
        _print(weights_path(name, None, instead="do without"))
    except WeightsError as error:
        _print(error)


def _print(line: object) -> None:
    os.write(1, f"{line}\n".encode())  # in one piece, as others print too


if __name__ == "__main__":
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        os.environ["TORCH_HOME"] = request["torch_home"]
        published.FILES[request["name"]] = PublishedFile(**request["file"])
        for _ in range(request["count"]):
            if os.fork() == 0:
                _want(request["name"])
                os._exit(0)
