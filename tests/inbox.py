"""A real HTTP server on loopback that keeps the JSON it is sent, as a chat's webhook would."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


class Inbox:
    """Listens within a `with` block. `status` is what it answers; `messages` are Apprise's JSON."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.messages: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self._arrived = threading.Condition()
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                with inbox._arrived:
                    inbox.messages.append(json.loads(content))
                    inbox.paths.append(self.path)
                    inbox._arrived.notify_all()
                self.send_response(inbox.status)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """What DAYBREAK_NOTIFY says to send here."""
        return f"json://127.0.0.1:{self.port}/hook"

    def wait(self, seconds: float, title: str = "") -> dict[str, Any] | None:
        """The first message with `title` in its title; None where none came in time."""

        def found() -> dict[str, Any] | None:
            return next((each for each in self.messages if title in each["title"]), None)

        with self._arrived:
            return self._arrived.wait_for(found, seconds)

    def __enter__(self) -> Inbox:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
