"""A real HTTP server on the loopback that behaves as told, request by request."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PAIR = {"verb_question": "What is being done at the sink?", "noun_question": "What is it that shines there?"}
SENTENCE = "The person does something at the sink."


def completion(text: str) -> bytes:
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}).encode()


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the server's `behave`."""

    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.seen)
            self.server.seen.append((time.monotonic(), self.path, dict(self.headers), body))
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
        try:
            self.server.behave(self, number, body)
        except OSError:
            pass  # the client has gone
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def answer(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def good(self, body: dict[str, Any]) -> None:
        """A sentence to the first step, two questions to the second."""
        asked = "verb_question" in body["messages"][0]["content"]
        self.answer(completion(json.dumps(PAIR) if asked else SENTENCE))

    def stall(self) -> None:
        """Nothing, until the test is over."""
        self.server.over.wait(30)

    def trickle(self) -> None:
        """A header a little at a time, for ever."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not self.server.over.wait(0.05):
            self.wfile.write(b"X-Slow: 1\r\n")

    def drop(self) -> None:
        """Half an answer, then the connection is reset."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args: object) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    """Counts what it sees."""

    daemon_threads = True

    def __init__(self, behave: Callable[[Handler, int, dict[str, Any]], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave = behave
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.seen: list[tuple[float, str, dict[str, str], dict[str, Any]]] = []
        self.busy = self.most_busy = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that end early are what the tests are about."""


@contextmanager
def endpoint(
    behave: Callable[[Handler, int, dict[str, Any]], None], tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """A running server."""
    server = Server(behave)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
