"""How a backfill looks: the plan, a live line or a line a partition, and the table at the end."""

from __future__ import annotations

import datetime as dt
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from daybreak.backfill import Backfill, PartitionResult, estimate
from daybreak.progress import counted

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {
    "published": "green",
    "unchanged": "green",
    "stale": "cyan",
    "rolled back": "yellow",
    "held": "yellow",
    "failed": "red",
    "missing": "magenta",
    "not run": "dim",
}


class Lines(AbstractContextManager["Lines"]):
    """One line a partition, when it ends: for logs and pipes."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total, self.done = console, total, 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def running(self, as_of: dt.date, doing: str) -> None:
        return None

    def said(self, message: str) -> None:
        self.console.print(Text(message, style="dim"), soft_wrap=True)

    def finished(self, result: PartitionResult) -> None:
        self.done += 1
        line = Text.assemble(
            f"  {self.done:>{len(str(self.total))}}/{self.total}  {result.as_of}  ",
            (f"{result.state:<9}", STYLES[result.state]),
            f"  {_seconds(result):>8}  ",
            result.error or result.note or _made(result),
        )
        self.console.print(line, soft_wrap=True)


class LiveLines(Lines):
    """The same, above a bar and what runs now."""

    def __init__(self, console: Console, total: int) -> None:
        super().__init__(console, total)
        self._now: dict[dt.date, str] = {}
        self._bar = Progress(
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[now]}", markup=False),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total, now="starting")

    def __enter__(self) -> LiveLines:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def running(self, as_of: dt.date, doing: str) -> None:
        self._now[as_of] = doing
        self._show()

    def finished(self, result: PartitionResult) -> None:
        self._now.pop(result.as_of, None)
        super().finished(result)
        self._bar.update(self._task, completed=self.done)
        self._show()

    def _show(self) -> None:
        shown = [f"{as_of} {doing}" for as_of, doing in sorted(self._now.items())]
        more = f", and {len(shown) - 2} more" if len(shown) > 2 else ""
        self._bar.update(self._task, now=", ".join(shown[:2]) + more)


def board_on(console: Console, total: int) -> Lines:
    """The live board where there is a terminal to redraw, else lines."""
    live = console.is_terminal and not console.is_dumb_terminal
    return LiveLines(console, total) if live else Lines(console, total)


def print_plan(console: Console, backfill: Backfill, parallel: int) -> None:
    """Each partition with what would happen and why, and what it takes."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("partition", "state", ""):
        table.add_column(name, no_wrap=True)
    table.add_column("why", overflow="fold")
    for each in backfill.planned:
        state = each.state.state
        table.add_row(
            str(each.partition),
            Text(state, style=STYLES[state]),
            Text("run" if each.runs else "leave", style="bold" if each.runs else "dim"),
            Text(each.why),
        )
    console.print(table)
    console.print(sum_up(backfill, parallel), soft_wrap=True, highlight=False, markup=False)
    for note in backfill.notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)


def sum_up(backfill: Backfill, parallel: int) -> str:
    """How many partitions run, and what that is in rows and minutes."""
    count, all_of_them = len(backfill.partitions), counted(len(backfill.planned), "partition")
    expected = estimate(backfill, parallel)
    said = f"{count} of {all_of_them} to run, {parallel} at a time"
    if not count:
        said = f"Nothing to run in {all_of_them}."
    elif expected is None:
        said += ". There is no whole run of this pipeline to estimate rows and minutes from."
    else:
        said += (
            f": about {expected.rows:,} rows and {expected.minutes:g} minutes of steps, by the "
            f"median of {counted(expected.runs, 'past run')}."
        )
    if backfill.left_out:
        said += f" {counted(len(backfill.left_out), 'wanted partition')} cannot be run this way."
    return said


def results_table(results: list[PartitionResult]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("partition", "state", "version"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", "drift", "seconds"):
        table.add_column(name, no_wrap=True, justify="left" if name == "drift" else "right")
    table.add_column("why", overflow="fold")
    for each in results:
        table.add_row(
            str(each.as_of),
            Text(each.state, style=STYLES[each.state]),
            each.version or "",
            f"{each.rows:,}" if each.rows is not None else "",
            each.drift or "",
            f"{each.seconds:.1f}" if each.seconds is not None else "",
            Text(each.error or each.note or ""),
        )
    return table


def _made(result: PartitionResult) -> str:
    rows = counted(result.rows, "row") if result.rows is not None else ""
    return ", ".join(filter(None, (result.version, rows)))


def _seconds(result: PartitionResult) -> str:
    return f"{result.seconds:.1f} s" if result.seconds is not None else ""
