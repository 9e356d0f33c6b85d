"""What a staged version must hold before readers see it: looked at part by part, on its files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from include.config import Audit as Rules
from include.errors import PermanentError
from include.keys import KeyOrder
from include.run import Check, Receipt, SnapshotManifest
from include.score_shift import Reference, Shift, ShiftCounter
from include.stores import VersionManifest
from include.stores.part_files import examine

if TYPE_CHECKING:
    import pyarrow as pa


class AuditFailed(PermanentError):
    """The staged files are not a version that may be published."""


class HeldForApproval(PermanentError):
    """The version is sound, and its scores moved so far that a person has to look first."""


class Audited(NamedTuple):
    """All the checks, and the shift from the version that this one follows, if it follows one.

    `damaged` are the parts whose file is not the one that was scored.
    """

    checks: tuple[Check, ...]
    shift: Shift | None
    damaged: tuple[int, ...] = ()


@dataclass
class _Findings:
    """What was seen so far; `rows` counts those whose columns could be looked at."""

    rows: int = 0
    missing: int = 0
    outside: int = 0
    damage: list[str] = field(default_factory=list)
    damaged: set[int] = field(default_factory=set)
    foreign: list[str] = field(default_factory=list)
    keys: str | None = None


def audit(
    manifest: VersionManifest,
    snapshot: SnapshotManifest,
    rules: Rules,
    output: str,
    reference: Reference | None = None,
) -> Audited:
    """Hold a staged version against its receipts, its snapshot and the version that it follows.

    Every byte and every row is read; memory is that of one part. `output` is the pipeline's:
    a probability lies in [0, 1] unless `rules.score_range` says otherwise.
    """
    bounds = rules.score_range or ((0.0, 1.0) if output == "probability" else None)
    counter = ShiftCounter(reference) if reference is not None else None
    order, found = KeyOrder(manifest.key), _Findings()
    for rows in _intact_parts(manifest, found):
        found.rows += rows.num_rows
        found.keys = order.first_violation(rows)
        found.foreign += _foreign_lineage(rows, manifest)
        scores = rows[manifest.score_column].to_numpy()
        finite = scores[np.isfinite(scores)]
        found.missing += len(scores) - len(finite)
        if bounds is not None:
            found.outside += int(((finite < bounds[0]) | (finite > bounds[1])).sum())
        if counter is not None:
            counter.add(finite)
    shift = counter.shift(rules.max_score_psi) if counter is not None else None
    damaged = tuple(sorted(found.damaged))
    return Audited(_checks(manifest, snapshot, found, bounds, shift), shift, damaged)


def require(audited: Audited, manifest: VersionManifest) -> None:
    """Raise AuditFailed for any other failing check, and HeldForApproval for the shift alone."""
    failing = [
        check for check in audited.checks if not check.passed and check.name != "score_shift"
    ]
    if failing:
        what = "delete the scores of this version and run the partition again, and where the model "
        what += "gives such scores, use another version of it"
        if audited.damaged:
            what = "run the partition again, which scores those parts anew"
        raise AuditFailed(
            f"version {manifest.version} may not be published: "
            + "; ".join(check.message for check in failing),
            where=manifest.parts[0].uri.rpartition("/")[0] if manifest.parts else "",
            do=f"nothing was published; {what}",
        )
    if audited.shift is not None and audited.shift.too_large:
        raise HeldForApproval(
            f"version {manifest.version} is held: {audited.shift}",
            do=f"look at the report, then approve or reject it: daybreak approve "
            f"{manifest.pipeline} --date {manifest.as_of} --version {manifest.version}",
        )


def _checks(
    manifest: VersionManifest,
    snapshot: SnapshotManifest,
    found: _Findings,
    bounds: tuple[float, float] | None,
    shift: Shift | None,
) -> tuple[Check, ...]:
    wrong_counts = _wrong_counts(manifest, snapshot)
    checks = [
        _check("parts", f"{len(manifest.parts)} parts are those of their receipts", found.damage),
        _check(
            "rows",
            f"{manifest.rows_in} rows in = {manifest.rows} scored + {manifest.set_aside} set aside",
            wrong_counts,
        ),
        _check(
            "keys",
            f"{', '.join(manifest.key)}: unique and complete",
            [found.keys] if found.keys else [],
        ),
        _check("lineage", "every row names this run and this model", found.foreign),
        _row_check("scores", "null, NaN or infinite", found.missing, found.rows, manifest),
    ]
    if bounds is not None:
        what = f"outside [{bounds[0]:g}, {bounds[1]:g}]"
        checks.append(_row_check("score_range", what, found.outside, found.rows, manifest))
    checks.append(
        Check(
            name="score_shift",
            passed=shift is None or not shift.too_large,
            severity="critical",
            message=str(shift) if shift is not None else "no earlier version to compare with",
            column=manifest.score_column,
        )
    )
    return tuple(checks)


def _check(name: str, good: str, problems: Sequence[str]) -> Check:
    shown = "; ".join(list(dict.fromkeys(problems))[:3])
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return Check(name=name, passed=not problems, severity="critical", message=shown + more or good)


def _row_check(name: str, what: str, failing: int, rows: int, manifest: VersionManifest) -> Check:
    return Check(
        name=name,
        passed=failing == 0,
        severity="critical",
        message=f"{failing} of {rows} values of {manifest.score_column} are {what}",
        column=manifest.score_column,
        failing=failing,
        share=failing / rows if rows else 0.0,
    )


def _intact_parts(manifest: VersionManifest, found: _Findings) -> Iterator[pa.Table]:
    """The parts in order; one that is not what its receipt says goes to `damage` instead."""
    damage = found.damage
    import pyarrow as pa
    import pyarrow.parquet as pq

    expected = [(column.name, column.type) for column in manifest.columns]
    for receipt in sorted(manifest.parts, key=lambda receipt: receipt.part):
        content, fault = examine(receipt)
        if fault is not None:
            damage.append(f"part {receipt.part} {fault} ({receipt.uri})")
            found.damaged.add(receipt.part)
            continue
        try:
            with pq.ParquetFile(io.BytesIO(content)) as file:
                rows = file.read()
        except pa.ArrowInvalid as error:
            damage.append(f"part {receipt.part} is no Parquet file ({receipt.uri}): {error}")
            continue
        columns = [(name.name, str(name.type)) for name in rows.schema]
        if rows.num_rows != receipt.scored:
            damage.append(
                f"part {receipt.part} has {rows.num_rows} rows, its receipt {receipt.scored}"
            )
        if columns != expected:
            damage.append(f"part {receipt.part} has the columns {columns}, not {expected}")
            continue
        yield rows


def _foreign_lineage(rows: pa.Table, manifest: VersionManifest) -> list[str]:
    """The lineage columns that hold anything but the version's own model and run."""
    import pyarrow.compute as pc

    own: dict[str, Any] = {
        "model_name": manifest.model_name,
        "model_version": manifest.model_version,
        "model_digest": manifest.model_digest,
        "run_id": manifest.run_id,
        "scored_at": manifest.scored_at,
    }
    problems = []
    for name, value in own.items():
        other = pc.index(pc.fill_null(pc.equal(rows[name], value), False), False).as_py()
        if other >= 0:
            problems.append(f"{name} is {rows[name][other].as_py()!r} in a row, not {value!r}")
    return problems


def _wrong_counts(manifest: VersionManifest, snapshot: SnapshotManifest) -> list[str]:
    """Where rows in = scored + quarantined + failed does not hold, by part and over all of them."""
    problems = []
    if snapshot.digest != manifest.snapshot_digest:
        problems.append(
            f"the version was scored from snapshot {manifest.snapshot_digest[:12]}, "
            f"not {snapshot.digest[:12]}"
        )
    receipts: dict[int, Receipt] = {receipt.part: receipt for receipt in manifest.parts}
    parts = {part.index: part for part in snapshot.parts}
    if len(receipts) != len(manifest.parts) or receipts.keys() != parts.keys():
        problems.append(
            f"the snapshot has {len(parts)} parts, the version receipts for "
            f"{sorted(receipt.part for receipt in manifest.parts)}"
        )
    for index in sorted(receipts.keys() & parts.keys()):
        receipt, rows = receipts[index], parts[index].rows
        set_aside = receipt.quarantined + receipt.failed
        if not rows == receipt.rows_in == receipt.scored + set_aside:
            problems.append(
                f"part {index}: {rows} rows in the snapshot, {receipt.rows_in} read, "
                f"{receipt.scored} scored, {set_aside} set aside"
            )
    totals = {
        "rows_in": (manifest.rows_in, snapshot.rows),
        "rows": (manifest.rows, sum(receipt.scored for receipt in manifest.parts)),
        "quarantined": (
            manifest.quarantined,
            sum(receipt.quarantined for receipt in manifest.parts),
        ),
        "failed": (manifest.failed, sum(receipt.failed for receipt in manifest.parts)),
    }
    problems += [
        f"{name} is {claimed} and its parts add up to {counted}"
        for name, (claimed, counted) in totals.items()
        if claimed != counted
    ]
    if manifest.rows == 0:
        problems.append("not one row was scored")
    return problems
