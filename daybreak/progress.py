"""How a run looks while it runs: a live board on a terminal, one line a step anywhere else."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from daybreak.run import STEPS
from include.errors import DaybreakError, TransientError
from include.pace import Pace
from include.run import DriftResult, GateResult, Published, Report, Run, Scored, Snapshot, Value

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


class Progress(AbstractContextManager["Progress"]):
    """One line a step, when it ends: for logs, pipes and `--verbose`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        utf8 = console.encoding.lower().startswith("utf")
        self.marks = {"done": "✓" if utf8 else "ok", "failed": "✗" if utf8 else "!!"}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def started(self, step: str) -> None:
        return None

    def retrying(self, step: str, error: TransientError, attempt: int, seconds: float) -> None:
        self.console.print(
            Text(f"  … {step}: {error} Retry {attempt} in {seconds:g} s.", style="yellow"),
            soft_wrap=True,
        )

    def finished(self, step: str, seconds: float, result: Value) -> None:
        self._line("done", step, seconds, told(result))

    def failed(self, step: str, seconds: float, error: Exception) -> None:
        self._line("failed", step, seconds, "failed")

    def _line(self, state: str, step: str, seconds: float, text: str) -> None:
        mark, style = self.marks[state], "green" if state == "done" else "bold red"
        line = Text.assemble(
            "  ", (mark, style), f" {step:<8}", (f"{seconds:6.1f} s", "dim"), f"  {text}"
        )
        self.console.print(line, soft_wrap=True)


class LiveProgress(Progress):
    """All the steps at once, the running one with a spinner and its seconds."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._rows: dict[str, RenderableType] = {}
        self._running: tuple[str, float, RenderableType] | None = None
        self._over = False
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(
            console=console, get_renderable=self._board, refresh_per_second=10, transient=False
        )

    def __enter__(self) -> LiveProgress:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over, self._running = True, None
        self._live.stop()

    def started(self, step: str) -> None:
        self._running = (step, time.monotonic(), "")

    def retrying(self, step: str, error: TransientError, attempt: int, seconds: float) -> None:
        super().retrying(step, error, attempt, seconds)
        if self._running:
            self._running = (step, self._running[1], f"retry {attempt} in {seconds:g} s")

    def progressed(self, pace: Pace) -> None:
        if self._running:
            self._running = (self._running[0], self._running[1], _bar(pace))

    def _line(self, state: str, step: str, seconds: float, text: str) -> None:
        mark, style = self.marks[state], "green" if state == "done" else "bold red"
        self._rows[step] = _row(Text(mark, style=style), step, f"{seconds:.1f} s", text)
        self._running = None

    def _board(self) -> RenderableType:
        board = Table.grid(padding=0)
        for step in STEPS:
            if step in self._rows:
                board.add_row(self._rows[step])
            elif self._running and self._running[0] == step:
                _, since, text = self._running
                seconds = f"{time.monotonic() - since:.1f} s"
                board.add_row(_row(self._spinner, step, seconds, text))
            elif not self._over:  # what never ran is no part of what stays on the screen
                board.add_row(_row(Text(" "), step, "", "", style="dim"))
        return board


def _bar(pace: Pace) -> Table:
    """How far the parts are, how fast, and when the last one is expected."""
    words = f"{pace.parts_done:,} of {counted(pace.parts, 'part')}"
    if pace.seconds_left is not None:
        words += f", {pace.rows_per_second:,.0f} rows/s, {pace.seconds_left:,.0f} s left"
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(max(pace.rows, 1), pace.rows_done, width=20), Text(words))
    return bar


def _row(
    mark: RenderableType, step: str, seconds: str, text: RenderableType, style: str = ""
) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_column(width=2, justify="right")
    row.add_column(width=7, style=style)
    row.add_column(width=8, justify="right", style="dim")
    row.add_column()
    row.add_row(mark, step, seconds, Text(text) if isinstance(text, str) else text)
    return row


def progress_on(console: Console, plain: bool = False) -> Progress:
    """The live board where there is a terminal to redraw, else lines."""
    live = console.is_terminal and not console.is_dumb_terminal and not plain
    return LiveProgress(console) if live else Progress(console)


def told(result: Value) -> str:
    """What came of a step, in a few words and counts."""
    if isinstance(result, Run):
        model = result.model
        alias = f" ({model.alias})" if model.alias else ""
        return f"{result.partition}, model {model.name} version {model.version}{alias}"
    if isinstance(result, Snapshot):
        same = ", the same as before" if result.reused else ""
        return f"{counted(result.rows, 'row')} in {counted(result.parts, 'part')}{same}"
    if isinstance(result, GateResult):
        failed = sum(not check.passed for check in result.checks)
        outcome = "only warned" if result.passed and failed else "failed"
        checks = f"{counted(len(result.checks), 'check')}, {failed or 'none'} {outcome}"
        same = ", judged before" if result.reused else ""
        return f"{checks}; {counted(result.quarantined, 'row')} quarantined{same}"
    if isinstance(result, Scored):
        same = ", all of it scored before" if result.reused_parts == result.parts else ""
        some = f", {counted(result.reused_parts, 'part')} scored before"
        poison = f"; the model failed on {counted(result.failed, 'row')}" if result.failed else ""
        before = same or (some if result.reused_parts else "")
        return f"{counted(result.scored, 'row')}{before}{poison}"
    if isinstance(result, Published):
        replaced = f", replaces {result.replaced}" if result.replaced else ""
        note = f"; {result.note}" if result.note else ""
        return f"{result.outcome}: version {result.version}{replaced}{note}"
    if isinstance(result, DriftResult):
        return f"{result.verdict}: {result.message}"
    if isinstance(result, Report):
        return f"written; the run is {result.state}"
    return ""


def counted(number: int, noun: str) -> str:
    """1,000 rows, 1 part, no rows."""
    return f"{number:,} {noun}" if number == 1 else f"{f'{number:,}' if number else 'no'} {noun}s"


def sentence(error: BaseException) -> str:
    """An error as one message: ours say all that is needed, of others the kind is named."""
    if isinstance(error, DaybreakError):
        return str(error)
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
