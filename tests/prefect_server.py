"""A real Prefect server on loopback, with a work pool and, where wanted, workers; ended whole.

Its home and its database are a folder of the caller's, so that nothing of this machine's own
Prefect is read or written.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from flows.deployments import POOL
from include.settings import PROJECT

# `prefect server start` without uvloop, which uvicorn takes where it is installed: on a busy
# machine uvloop 0.23 was seen to sleep on when a thread had ended its work, until a signal woke it.
SERVER = """\
import sys
sys.modules["uvloop"] = None
from prefect.cli import app
sys.argv[0] = "prefect"
app()
"""

START_SECONDS = 300.0  # on a busy machine; an idle one needs eight
LOCKED_SECONDS = 60.0


class LocalPrefect:
    """Listens within a `with` block; `env` is what a client of it needs beside `overrides`."""

    def __init__(self, home: Path, overrides: dict[str, str]) -> None:
        self.home = home
        home.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/api"
        own = {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
        }
        kept = {name: os.environ[name] for name in os.environ if not name.startswith("PREFECT_")}
        self.env = kept | own | overrides
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *arguments: str, **extra: str) -> subprocess.Popen[bytes]:
        """A process of Prefect's, in a group of its own; its log is in the home."""
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    *(("-c", SERVER) if name == "server" else ("-m", "prefect")),
                    *arguments,
                ],
                cwd=self.home,
                env=self.env | extra,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def worker(self, name: str = "worker", **extra: str) -> subprocess.Popen[bytes]:
        return self.start(
            name, "worker", "start", "--pool", POOL, "--type", "process", "--name", name, **extra
        )

    def prefect(self, *arguments: str) -> str:
        """A command of Prefect's; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            cwd=PROJECT,
            env=self.env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """A call of the REST API, without the client that is tested.

        Repeated while the server's SQLite is locked by another request, which it answers with 503
        and has then done nothing.
        """
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(
            f"{self.url}/{path}", data, {"Content-Type": "application/json"}, method=method
        )
        until = time.monotonic() + LOCKED_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > until:
                    raise
                time.sleep(0.5)

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text("utf-8", "replace")[-6000:]

    def stop(self, process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> None:
        """End a process and what it started."""
        for each in (number, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, each)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
                return

    def __enter__(self) -> LocalPrefect:
        server = self.start(
            "server", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)
        )
        try:
            until = time.monotonic() + START_SECONDS
            while True:
                try:
                    self.call("GET", "health")
                    break
                except (OSError, urllib.error.URLError):
                    assert server.poll() is None, self.log("server")
                    assert time.monotonic() < until, self.log("server")
                    time.sleep(0.5)
            self.call("POST", "work_pools/", {"name": POOL, "type": "process"})
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        for process in reversed(self._processes):
            self.stop(process)
