"""`daybreak expire`: what retention deletes, shown, and deleted unless it is a dry run."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from include.retention import Deletion
from tasks.upkeep import Upkept, upkeep_of

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 40  # lines; --json has all of them


def expire_command(name: str, dry_run: bool, out: Console | None) -> dict[str, Any]:
    """Expire a pipeline; what `--json` prints. The deletions are printed to `out`, if any."""
    result, deletions = upkeep_of(name, dt.datetime.now(dt.UTC), dry_run=dry_run)
    if out is not None:
        _print(out, result, deletions)
    return {
        "schema_version": 1,
        **result.model_dump(mode="json"),
        "deletions": [
            each.model_dump(mode="json", exclude={"uris"}, exclude_none=True) for each in deletions
        ],
    }


def _print(out: Console, result: Upkept, deletions: list[Deletion]) -> None:
    from rich import box
    from rich.filesize import decimal
    from rich.table import Table

    if deletions:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for heading in ("what", "name", "files", "size", "why"):
            right = heading in ("files", "size")
            table.add_column(heading, justify="right" if right else "left", overflow="fold")
        for each in deletions[:SHOWN]:
            name = f"{each.as_of} {each.name}" if each.as_of else each.name
            size = decimal(each.bytes)
            table.add_row(each.kind, name, str(each.files), size, each.reason)
        out.print(table)
    if len(deletions) > SHOWN:
        out.print(f"and {len(deletions) - SHOWN:,} more", highlight=False)
    for said in result.unreadable:
        out.print(
            f"what it may be needed for stays: {said}",
            style="yellow",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    verb = "would be deleted" if result.dry_run else "deleted"
    out.print(
        f"{result.pipeline}: {result.files:,} files, {decimal(result.bytes)} {verb}",
        highlight=False,
    )
