"""Object stores with an obstacle: a wire that can be cut, and a server that denies requests."""

import http.server
import socket
import threading
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from types import TracebackType
from urllib.parse import urlsplit

_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
_NOT_THERE = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"


class Wire:
    """Passes the requests to its URL on to a server at another, until it is cut."""

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self._target = target.hostname, target.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "Wire":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.cut()

    def cut(self) -> None:
        """Close all connections and accept no more."""
        for end in (self._listener, *self._ends):
            with suppress(OSError):  # closed already
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):  # cut
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._ends += [near, far]
                for here, there in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=(here, there), daemon=True).start()


def _pass_on(here: socket.socket, there: socket.socket) -> None:
    with suppress(OSError):  # cut
        while data := here.recv(2**16):
            there.sendall(data)
        there.shutdown(socket.SHUT_WR)


@contextmanager
def refusing_server(verbs: Set[str]) -> Iterator[str]:
    """Yield the URL of an S3 server of empty buckets that denies requests of some verbs."""

    class Refusing(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # clients wait for a reply before they send the rest

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            denied = self.command in verbs
            body = _DENIED if denied else _NOT_THERE
            self.send_response(403 if denied else 404)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
