"""A real HTTP server between the connector and the emulator: it notes, and can fail, requests."""

from __future__ import annotations

import gzip
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What stands in the place of an answer: a status and JSON, or None for a connection that is cut.
Answer = tuple[int, dict[str, Any]] | None
SESSION_GONE = (
    200,
    {
        "success": False,
        "code": "390114",
        "message": "Authentication token has expired.",
        "data": {},
    },
)


class Passed(Exception):
    """Raised by a fault that lets the request through."""


def passing(sql: str) -> Answer:
    raise Passed


@dataclass
class Proxy:
    """`fault` is asked about each statement; `logins` and `statements` are what came, in order."""

    emulator: int
    port: int = 0
    fault: Callable[[str], Answer] = passing
    logins: list[dict[str, Any]] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def answer(
        self, method: str, path: str, headers: dict[str, str], content: bytes
    ) -> tuple[int, bytes] | None:
        self.headers.append(headers)
        body = gzip.decompress(content) if headers.get("content-encoding") == "gzip" else content
        if path.startswith("/session/v1/login-request"):
            self.logins.append(json.loads(body)["data"])
        if path.startswith("/queries/v1/query-request"):
            sql = json.loads(body)["sqlText"]
            self.statements.append(sql)
            try:
                failed = self.fault(sql)
                return failed and (failed[0], json.dumps(failed[1]).encode())
            except Passed:
                pass
        upstream = http.client.HTTPConnection("127.0.0.1", self.emulator, timeout=120)
        try:
            upstream.request(method, path, content, headers)
            answer = upstream.getresponse()
            return answer.status, answer.read()
        finally:
            upstream.close()


@contextmanager
def proxied(emulator: int) -> Iterator[Proxy]:
    proxy = Proxy(emulator)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = proxy.answer(self.command, self.path, headers, content)
            if answer is None:
                self.close_connection = True
                return
            status, sent = answer
            head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n"
            # In one piece: two would wait for each other's acknowledgement, 40 ms a request.
            self.wfile.write(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)

        do_POST = do_PUT = do_GET = _pass_on  # files are uploaded to the same server

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
