"""Commands as processes, from the side of the tests: started, killed, waited for."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from include.settings import PROJECT

PATIENCE_SECONDS = 300


@dataclass
class Command:
    """A process of the nursery. `status` is its exit code, or less its signal."""

    id: str
    out: Path
    status: int | None = None
    cpu_seconds: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> int:
        assert self.ended.wait(PATIENCE_SECONDS), f"it never ended\n{self.said()}"
        assert self.status is not None
        return self.status

    def stdout(self) -> str:
        path = self.out.with_suffix(".out")
        return path.read_text() if path.exists() else ""

    def said(self) -> str:
        path = self.out.with_suffix(".err")
        return (path.read_text() if path.exists() else "") + self.stdout()


class Nursery:
    """See nursery.py: a process that has imported everything, and forks for each command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.commands: dict[str, Command] = {}
        self.ready = threading.Event()
        self.log = (folder / "nursery.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
        )  # fmt: skip
        self.reader = threading.Thread(target=self._listen, daemon=True)
        self.reader.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if said.get("ready"):
                self.ready.set()
            elif "status" in said:
                command = self.commands[said["id"]]
                command.status, command.cpu_seconds = said["status"], said["cpu"]
                command.ended.set()

    def start(self, env: Mapping[str, str], *argv: str, **how: Any) -> Command:
        """Start `daybreak argv…` in an environment; `how` as nursery.py says."""
        if not self.ready.wait(PATIENCE_SECONDS):
            raise AssertionError((self.folder / "nursery.log").read_text())
        name = uuid.uuid4().hex[:12]
        command = self.commands[name] = Command(name, self.folder / name)
        plan = {"id": name, "argv": argv, "env": dict(env), "out": str(command.out), **how}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(plan, default=str) + "\n")
        self.process.stdin.flush()
        return command

    def run(self, env: Mapping[str, str], *argv: str, **how: Any) -> Command:
        """Run a command to its end."""
        command = self.start(env, *argv, **how)
        command.wait()
        return command

    def call(self, env: Mapping[str, str], function: Any, **arguments: Any) -> Command:
        """Start a function of the tests as a process."""
        where = f"{function.__module__}:{function.__qualname__}"
        return self.start(env, function.__qualname__, call=where, arguments=arguments)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(PATIENCE_SECONDS)
        self.log.close()
