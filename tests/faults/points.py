"""Named moments of a command, at which it can be killed; nothing of this is in the product.

`install` puts a small wrapper around the functions through which every step, every write, every
deletion, every Delta transaction and every statement for Snowflake goes, in this process only. Each
passes two points, "before" and "after" it. A written object has a third one between them: "torn",
when half of it is on the disk under the name that it has until it is whole (<name>#1, then rename
or link; deltalake 1.6 does the same, seen with strace).

A point's name is stable from run to run: "score: after put scores/as_of=…/*/part-00001.json". What
comes again under the same name is counted: "… (2)".
"""

from __future__ import annotations

import datetime as dt
import importlib
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

STEPS = ("plan", "extract", "gate", "score", "publish", "drift", "report")

# Names that change from run to run: runs, folders of an extract, digests of what a run refers to,
# the claims of parts.
_CHANGING = re.compile(
    r"(?<=/)(cli-[0-9TZ]+-[0-9a-f]{4}|v?[0-9a-f]{12,16}(?:-[0-9a-f]{16})?)(?=[/.]|$)"
    r"|(?<=/part-\d{5}-)[0-9a-f]{8}(?=\.parquet)"
)

_TABLE = re.compile(r"\b(?:FROM|INTO|UPDATE) ([\w.]+)")

Meet = Callable[[str], None]


class Points:
    """The points of one process: written to `trace` as they pass, and deadly at `kill_at`.

    At `act_at` something else happens, and the process lives on.
    """

    def __init__(
        self,
        step: str,
        root: str,
        kill_at: str | None,
        trace: Path | None,
        act_at: str | None = None,
        act: Callable[[], None] = lambda: None,
    ) -> None:
        self.step = step
        self.root = urlsplit(root).path.lstrip("/")
        self.kill_at = kill_at
        self.trace = trace
        self.act_at, self.act = act_at, act
        self.seen: Counter[str] = Counter()
        self.lock = threading.Lock()

    def meet(self, what: str) -> None:
        """Pass a point, or die at it."""
        with self.lock:
            name = f"{self.step}: {what}"
            self.seen[name] += 1
            if self.seen[name] > 1:
                name = f"{name} ({self.seen[name]})"
            if self.trace is not None:
                with self.trace.open("a") as lines:
                    lines.write(f"{name}\n")
            if name == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        if name == self.act_at:
            self.act()

    def short(self, key: str) -> str:
        return _CHANGING.sub("*", f"/{key.removeprefix(self.root).lstrip('/')}").lstrip("/")

    def around(self, module: Any, function: str, label: Callable[..., str]) -> None:
        """Points before and after each call of `module.function`."""
        real = getattr(module, function)

        def passing(*args: Any, **options: Any) -> Any:
            what = label(*args, **options)
            self.meet(f"before {what}")
            result = real(*args, **options)
            self.meet(f"after {what}")
            return result

        setattr(module, function, passing)

    def within_steps(self) -> None:
        for name in STEPS:
            module = importlib.import_module(f"tasks.{name}")
            real = getattr(module, name)

            def stepping(*args: Any, _name: str = name, _real: Any = real) -> Any:
                self.step = _name
                self.meet("begin")
                result = _real(*args)
                self.meet("end")
                return result

            setattr(module, name, stepping)

    def within_puts(self) -> None:
        from include import storage

        real = storage._put

        def putting(uri: str, data: bytes, *, replace: bool) -> bool:
            key = key_of(uri)
            name = self.short(key)
            self.meet(f"before put {name}")
            self.torn(key, name, data)
            result = real(uri, data, replace=replace)
            self.meet(f"after put {name}")
            return result

        storage._put = putting

    def torn(self, key: str, name: str, data: bytes) -> None:
        """What a kill inside of a put leaves on a disk: half an object under its first name."""
        if f"{self.step}: torn put {name}" == self.kill_at and Path(f"/{self.root}").is_dir():
            half = Path(f"/{key}#1")
            half.parent.mkdir(parents=True, exist_ok=True)
            half.write_bytes(data[: len(data) // 2])
        self.meet(f"torn put {name}")


def install(
    step: str,
    root: str,
    kill_at: str | None = None,
    trace: str | None = None,
    act_at: str | None = None,
    act: Callable[[], None] = lambda: None,
) -> Points:
    """Put the points into this process. `root` is the workspace; names are relative to it."""
    import obstore
    from deltalake import DeltaTable
    from snowflake.connector.cursor import SnowflakeCursor

    import include.storage
    import include.stores.delta as delta
    import tasks.publish
    from include.stores import delta_log

    points = Points(step, root, kill_at, Path(trace) if trace else None, act_at, act)
    points.within_steps()
    points.within_puts()
    points.around(obstore, "delete", lambda _, key: f"delete {points.short(key)}")
    points.around(delta_log, "_force", lambda *_: "Delta's force")
    for name in ("create", "enable_features", "swap", "barrier", "checkpoint", "tidy"):
        points.around(delta_log, name, lambda *_, _name=name: f"Delta's {_name}")
    for name in ("create_checkpoint", "cleanup_metadata"):
        points.around(DeltaTable, name, lambda *_, _name=name: f"Delta's {_name}")
    points.around(SnowflakeCursor, "execute", lambda _, sql, *args, **options: statement(sql))
    points.around(tasks.publish, "audit", lambda *_: "audit")
    points.around(delta, "add_actions", lambda *_: "reading the parts' footers")
    points.around(delta, "verify", lambda *_: "verifying the files")
    real = include.storage.read

    def reading(uri: str) -> bytes:
        if uri.endswith(".parquet"):
            points.meet(f"before read {points.short(key_of(uri))}")
        return real(uri)

    include.storage.read = reading
    return points


def key_of(uri: str) -> str:
    """The object's key, without its bucket; a file's path without its first slash."""
    return unquote(urlsplit(uri).path).lstrip("/")


def statement(sql: str) -> str:
    """What a statement does to which table: "INSERT SCORES.TINY_HISTORY"."""
    table = _TABLE.search(sql)
    return f"{sql.split()[0]} {table[1] if table else ''}".strip()


def shift_clock(seconds: float) -> None:
    """Let this process live `seconds` later (or earlier), as far as datetime tells it."""

    class Shifted(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return super().now(tz) + dt.timedelta(seconds=seconds)

    dt.datetime = Shifted  # type: ignore[misc]
