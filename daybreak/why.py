"""`daybreak why`: one published prediction, replayed, and all that it was made from."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from daybreak.versions import table_of
from include.errors import BadConfig
from include.replay import Replay, replay
from include.settings import settings, silence_telemetry
from include.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def parse_key(pairs: list[str]) -> dict[str, str]:
    """`["account_id=17", "channel=web"]` as a mapping; BadConfig for anything else."""
    key: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise BadConfig(f"--key {pair!r} is no name=value", do="write --key account_id=17")
        if name in key:
            raise BadConfig(f"--key {name} stands twice", do="name each column of the key once")
        key[name] = value
    return key


def why_command(
    name: str, day: dt.date, pairs: list[str], version: str | None, out: Console | None
) -> tuple[dict[str, Any], int]:
    """Replay a prediction; what `--json` prints, and the exit code: 0 where it is equal, else 1."""
    silence_telemetry()
    key = parse_key(pairs)
    table = table_of(name)
    workspace = Workspace(settings().workspace, name)
    found = replay(table.store, workspace, table.as_of(day), key, version)
    code = 0 if found.equal else 1
    if out is not None:
        _print(out, found)
    return {"schema_version": 1, "exit_code": code, **found.model_dump(mode="json")}, code


def _print(out: Console, found: Replay) -> None:
    out.print(_lineage(found))
    out.print(_features(found))
    if found.equal:
        out.print("Scored again: [bold green]the same[/], bit for bit.", highlight=False)
    else:
        names = [name for name, value in found.published.items() if found.replayed[name] != value]
        out.print(
            f"Scored again: [bold red]not the same[/] in {', '.join(names) or 'the last bits'}.",
            highlight=False,
        )
    if found.differs:
        said = ", ".join(
            f"{name} {a or 'none'} → {b or 'none'}" for name, (a, b) in found.differs.items()
        )
        out.print(
            f"This environment is not the one that scored it: {said}",
            soft_wrap=True,
            highlight=False,
        )
    elif not found.environment:
        out.print("The environment that scored it was not recorded.", highlight=False)


def _lineage(found: Replay) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(box=box.ROUNDED, show_header=False, padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    key = ", ".join(f"{name}={value}" for name, value in found.key.items())
    table.add_row("row", f"{found.pipeline} {found.as_of}, {key}")
    table.add_row("version", f"{found.version}, part {found.part}, row {found.row}")
    table.add_row(f"{found.score_column}", f"{found.published_score!r}")
    table.add_row("scored again", f"{found.replayed_score!r}")
    table.add_row(
        "model", f"{found.model_name} version {found.model_version} ({found.model_digest[:16]})"
    )
    table.add_row("snapshot", f"{found.snapshot_digest[:16]}")
    table.add_row("configuration", found.config_digest[:16])
    table.add_row("run", f"{found.run_id}, scored {found.scored_at:%Y-%m-%d %H:%M:%S %Z}")
    if found.environment:
        libraries = ", ".join(f"{name} {value}" for name, value in found.environment.items())
        table.add_row("scored with", libraries)
    return table


def _features(found: Replay) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("feature", no_wrap=True)
    table.add_column("value", overflow="fold")
    for name, value in found.features.items():
        table.add_row(name, "null" if value is None else str(value))
    return table
