"""`daybreak diff`: what changed from one version of a partition to another."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from daybreak.versions import table_of
from include.errors import PermanentError
from include.stores import Store, VersionManifest
from include.version_diff import Side, VersionDiff, diff_versions

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def diff_command(
    name: str, day: dt.date, before: str, after: str | None, out: Console | None
) -> dict[str, Any]:
    """Compare two stored versions; what `--json` prints. Without `after`, it is the current one."""
    table = table_of(name)
    as_of = table.as_of(day)
    if after is None:
        current = table.store.current(as_of)
        after = current.version if current is not None else ""
    old, new = (_manifest(table.store, name, as_of, version) for version in (before, after))
    found = diff_versions(old, new)
    if out is not None:
        out.print(_sides(found))
        out.print(_changes(found))
        if found.largest:
            out.print(_largest(found))
    return {"schema_version": 1, "pipeline": name, "as_of": str(as_of), **found.model_dump()}


def _manifest(store: Store, name: str, as_of: dt.date, version: str) -> VersionManifest:
    manifest = store.manifest(as_of, version)
    if manifest is None:
        raise PermanentError(
            f"{as_of} has no stored version {version}".rstrip(),
            do=f"choose one of {[one.version for one in store.versions(as_of)]}",
            pipeline=name,
        )
    return manifest


def _sides(found: VersionDiff) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("")
    for side in (found.before, found.after):
        table.add_column(side.version, justify="right", no_wrap=True)

    def row(label: str, value: Any) -> None:
        table.add_row(label, value(found.before), value(found.after))

    def level(name: str) -> Any:
        return lambda side: _number(side.quantiles.get(name))

    row("model version", lambda side: side.model_version)
    row("rows", lambda side: f"{side.rows:,}")
    row("mean score", lambda side: _number(_mean(side)))
    for name in found.before.quantiles:
        row(f"{float(name):.0%} below", level(name))
    return table


def _changes(found: VersionDiff) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    table.add_row(
        "rows",
        f"{found.added:,} added, {found.removed:,} removed, "
        f"{found.changed:,} of {found.common:,} changed",
    )
    moves = ", ".join(
        f"{float(name):.0%} by at most {_number(value)}"
        for name, value in found.move_quantiles.items()
    )
    table.add_row(
        "scores",
        f"{found.scores_changed:,} changed"
        + (f"; {moves}; at most {_number(found.move_max)}" if moves else ""),
    )
    if found.psi is not None:
        table.add_row("PSI", f"{found.psi:.4f} (chance gives up to {found.noise_psi:.4f})")
    changed = {name: count for name, count in found.columns_changed.items() if count}
    for name, count in changed.items():
        table.add_row("column", f"{name}: {count:,} rows changed")
    for said, names in (("new", found.columns_added), ("no longer there", found.columns_removed)):
        if names:
            table.add_row("columns", f"{', '.join(names)} {said}")
    return table


def _largest(found: VersionDiff) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
        title="moved furthest",
        title_justify="left",
    )
    for name in found.largest[0]:
        table.add_column(name, justify="right" if name in ("before", "after") else "left")
    for row in found.largest:
        table.add_row(*(_number(v) if isinstance(v, float) else str(v) for v in row.values()))
    return table


def _mean(side: Side) -> float | None:
    return side.mean


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
