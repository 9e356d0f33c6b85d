"""An object store at which a commit comes too late: a proxy that lets a rival commit before it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


class Proxy(ThreadingHTTPServer):
    """Hands every request on; `before` is called once, when the next commit of Delta arrives."""

    daemon_threads = True

    def __init__(self, env: Mapping[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.before: Callable[[], object] | None = None
        self.answers: list[int] = []  # to the commits, in the order in which they were answered
        (self.store,) = set(re.findall(r"127\.0\.0\.1:\d+", " ".join(env.values())))
        here = f"127.0.0.1:{self.server_port}"
        self.env = {name: value.replace(self.store, here) for name, value in env.items()}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        is_commit = self.command == "PUT" and "_delta_log" in unquote(self.path)
        if is_commit and (rival := self.server.before):
            self.server.before = None
            rival()
        asked = HTTPConnection(self.server.store, timeout=300)
        asked.request(self.command, self.path, body, dict(self.headers))
        answer = asked.getresponse()
        content = answer.read()
        if is_commit:
            self.server.answers.append(answer.status)
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        size = answer.headers["Content-Length"] if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(size or 0))
        self.end_headers()
        self.wfile.write(content)
        asked.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

    def log_message(self, *_: Any) -> None:
        """Nothing: the tests read `answers`."""


@contextmanager
def proxy(env: Mapping[str, str]) -> Iterator[Proxy]:
    """A proxy before the store that a process with this environment reaches."""
    with Proxy(env) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
