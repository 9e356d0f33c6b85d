"""What `daybreak check` shows a person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from daybreak.check import Checked


def print_checked(console: Console, checked: Sequence[Checked], offline: bool) -> None:
    """A tree: each pipeline, and below it what was found."""
    from rich.text import Text

    utf8 = console.encoding.lower().startswith("utf")
    good, bad, doubt = ("✓", "✗", "!") if utf8 else ("ok", "!!", "?")
    for one in checked:
        mark = Text(good, "green") if one.ok else Text(bad, "bold red")
        console.print(Text.assemble(mark, " ", (one.name, "bold"), f"  {_described(one)}"))
        for problem in one.problems:
            error = problem.error
            style = "yellow" if problem.warning else "red"
            sign = doubt if problem.warning else bad
            console.print(_hanging("  ", Text(sign, style), Text(error.found)))
            if error.where:
                console.print(Text(f"      {_short(error.where)}", "cyan"), soft_wrap=True)
            if error.do:
                console.print(_hanging("    ", Text("→" if utf8 else ">", "dim"), Text(error.do)))
    errors = sum(not problem.warning for one in checked for problem in one.problems)
    warnings = sum(len(one.problems) for one in checked) - errors
    said = [_plural(len(checked), "pipeline"), _plural(errors, "error")]
    if warnings:
        said.append(_plural(warnings, "warning"))
    console.print()
    console.print(Text(", ".join(said), "bold red" if errors else "bold green"))
    if offline:
        console.print("Not checked with --offline: the registry's models and the connections.")


def _described(one: Checked) -> str:
    if not one.ok:
        return ""
    columns = "columns known to the warehouse only"
    if one.columns is not None:
        columns = _plural(len(one.columns), "column")
    parts = [columns, _plural(one.expectations, "expectation")]
    return ", ".join([*parts, one.model] if one.model else parts)


def _hanging(indent: str, mark: Any, text: Any) -> Any:
    from rich.padding import Padding
    from rich.table import Table

    line = Table.grid(padding=(0, 1))
    line.add_column(no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(mark, text)
    return Padding(line, (0, 0, 0, len(indent)))


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _short(where: str) -> str:
    """A place as `file:line`, which editors open, below the working directory where it can be."""
    return where.removeprefix(f"{Path.cwd()}/")
