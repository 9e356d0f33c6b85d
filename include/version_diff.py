"""What changed from one version of a date to another: rows by their key, scores, other columns."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from include.config import LINEAGE_COLUMNS
from include.errors import PermanentError
from include.run import Value
from include.score_shift import Reference, ShiftCounter
from include.stores import VersionManifest
from include.stores.part_files import intact

if TYPE_CHECKING:
    import pyarrow as pa

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MOVE_QUANTILES = (0.5, 0.9, 0.99)
LARGEST = 5

# What the join may hold in memory before it goes to disk: 5 million rows stay below it.
MEMORY = "1GB"


class Side(Value):
    """One version's scores; `quantiles` by their level. None where it has no row."""

    version: str
    model_version: str
    rows: int
    mean: float | None
    quantiles: dict[str, float]


class VersionDiff(Value):
    """`after` against `before`, by key.

    `changed` are the rows of both whose score or another column differs; `scores_changed` and
    `columns_changed` count them apart. `move_quantiles` and `move_max` are of |after - before|
    over all rows of both. `psi` is of the scores, in nats; `noise_psi` is what chance gives.
    """

    before: Side
    after: Side
    added: int
    removed: int
    common: int
    changed: int
    scores_changed: int
    columns_changed: dict[str, int]
    columns_added: tuple[str, ...]
    columns_removed: tuple[str, ...]
    move_mean: float | None
    move_max: float | None
    move_quantiles: dict[str, float]
    psi: float | None
    noise_psi: float | None
    largest: tuple[dict[str, Any], ...]


def diff_versions(before: VersionManifest, after: VersionManifest) -> VersionDiff:
    """Compare two versions of one table, part by part; the join by key is DuckDB's.

    Raises PermanentError where their keys are other columns, and CorruptData where a part is gone
    or not what was scored.
    """
    import duckdb

    if before.key != after.key:
        raise PermanentError(
            f"the key of {before.version} is {', '.join(before.key)}, that of {after.version} "
            f"{', '.join(after.key)}: no row of one is a row of the other",
            do="compare versions of one key",
        )
    old, new = _carried(before), _carried(after)
    shared = [name for name in old if name in new]
    with (
        tempfile.TemporaryDirectory(prefix="daybreak-diff-") as disk,
        duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": disk}) as connection,
    ):
        for name, manifest in (("before", before), ("after", after)):
            _fill(connection, name, manifest, shared)
        counts = _joined(connection, before.key, shared)
        largest = _largest(connection, before.key)
        sides = {
            name: _side(connection, name, manifest)
            for name, manifest in (("before", before), ("after", after))
        }
        shift = _shift(connection, before)
    moves = [counts[f"move_{index}"] for index in range(len(MOVE_QUANTILES))]
    return VersionDiff(
        before=sides["before"],
        after=sides["after"],
        added=counts["added"],
        removed=counts["removed"],
        common=counts["common"],
        changed=counts["changed"],
        scores_changed=counts["scores"],
        columns_changed={name: counts[f"column_{i}"] for i, name in enumerate(shared)},
        columns_added=tuple(name for name in new if name not in old),
        columns_removed=tuple(name for name in old if name not in new),
        move_mean=counts["move_mean"],
        move_max=counts["move_max"],
        move_quantiles={
            f"{level:g}": value
            for level, value in zip(MOVE_QUANTILES, moves, strict=True)
            if value is not None
        },
        psi=shift.psi if shift else None,
        noise_psi=shift.noise_psi if shift else None,
        largest=largest,
    )


def _carried(manifest: VersionManifest) -> list[str]:
    """The pass-through columns."""
    own = {*manifest.key, manifest.score_column, *LINEAGE_COLUMNS}
    return [column.name for column in manifest.columns if column.name not in own]


def _fill(connection: Any, table: str, manifest: VersionManifest, shared: list[str]) -> None:
    """Key, score and shared columns, under names that no column of a user can clash with.

    Part by part, and not as a stream that DuckDB pulls: it would dress up the error of a part.
    """
    names = {
        **{name: f"key_{i}" for i, name in enumerate(manifest.key)},
        manifest.score_column: "score",
        **{name: f"column_{i}" for i, name in enumerate(shared)},
    }
    for number, rows in enumerate(_tables(manifest, list(names))):
        connection.register("part", rows.rename_columns(list(names.values())))
        # The name is this module's own: nothing of a user is in the text.
        into = f'INSERT INTO "{table}"' if number else f'CREATE TEMP TABLE "{table}" AS'
        connection.execute(f"{into} FROM part")
        connection.unregister("part")


def _tables(manifest: VersionManifest, columns: list[str]) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in sorted(manifest.parts, key=lambda part: part.part):
        with pq.ParquetFile(pa.BufferReader(intact(manifest, part))) as file:
            yield file.read(columns=columns).select(columns)


def _joined(connection: Any, key: tuple[str, ...], shared: list[str]) -> dict[str, Any]:
    on = " AND ".join(f"b.key_{i} = a.key_{i}" for i in range(len(key)))
    both = "b.key_0 IS NOT NULL AND a.key_0 IS NOT NULL"
    differ = [f"b.column_{i} IS DISTINCT FROM a.column_{i}" for i in range(len(shared))]
    moved = "b.score IS DISTINCT FROM a.score"
    selected = {
        "added": "count(*) FILTER (b.key_0 IS NULL)",
        "removed": "count(*) FILTER (a.key_0 IS NULL)",
        "common": f"count(*) FILTER ({both})",
        "changed": f"count(*) FILTER ({both} AND ({' OR '.join([moved, *differ])}))",
        "scores": f"count(*) FILTER ({both} AND {moved})",
        **{f"column_{i}": f"count(*) FILTER ({both} AND {test})" for i, test in enumerate(differ)},
        "move_mean": "avg(abs(a.score - b.score))",
        "move_max": "max(abs(a.score - b.score))",
        **{
            f"move_{i}": f"quantile_cont(abs(a.score - b.score), {level})"
            for i, level in enumerate(MOVE_QUANTILES)
        },
    }
    # Every name is this module's own: nothing of a user is in the text.
    query = (
        f"SELECT {', '.join(f'{what} AS {name}' for name, what in selected.items())} "  # noqa: S608
        f'FROM "before" AS b FULL JOIN "after" AS a ON {on}'
    )
    return dict(zip(selected, connection.execute(query).fetchone(), strict=True))


def _largest(connection: Any, key: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    """The rows that moved furthest."""
    on = " AND ".join(f"b.key_{i} = a.key_{i}" for i in range(len(key)))
    keys = ", ".join(f"b.key_{i}" for i in range(len(key)))
    query = (
        f'SELECT {keys}, b.score, a.score FROM "before" AS b JOIN "after" AS a ON {on} '  # noqa: S608
        f"WHERE a.score <> b.score ORDER BY abs(a.score - b.score) DESC, {keys} LIMIT {LARGEST}"
    )
    return tuple(
        {
            **{name: _plain(value) for name, value in zip(key, row, strict=False)},
            "before": row[-2],
            "after": row[-1],
        }
        for row in connection.execute(query).fetchall()
    )


def _side(connection: Any, name: str, manifest: VersionManifest) -> Side:
    levels = ", ".join(f"quantile_cont(score, {level})" for level in QUANTILES)
    rows, mean, *quantiles = connection.execute(
        f'SELECT count(*), avg(score), {levels} FROM "{name}"'  # noqa: S608 - its own names
    ).fetchone()
    return Side(
        version=manifest.version,
        model_version=manifest.model_version,
        rows=rows,
        mean=mean,
        quantiles={
            f"{level:g}": value
            for level, value in zip(QUANTILES, quantiles, strict=True)
            if value is not None
        },
    )


def _shift(connection: Any, before: VersionManifest) -> Any:
    """The shift of the scores, as the audit measures it."""
    scores = {
        name: connection.execute(f'SELECT score FROM "{name}"').fetchnumpy()["score"]  # noqa: S608
        for name in ("before", "after")
    }
    reference = Reference(as_of=before.as_of, version=before.version, scores=scores["before"])
    counter = ShiftCounter(reference)
    counter.add(scores["after"])
    return counter.shift(limit=float("inf"))


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else str(value)
