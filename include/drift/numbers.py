"""Everything that the drift step finds out about a version, in numbers and in a few sentences."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from include.drift.charts import CHART_BINS, SCORE_BINS, Chart, Which, chart
from include.drift.profiles import Profile
from include.drift.references import Trailing
from include.drift.verdicts import Reference, compare, overall
from include.pipeline import Pipeline
from include.run import ColumnDrift, DriftVerdict, Run, Value


class DriftNumbers(Value):
    """Everything that the drift step found out about a version."""

    schema_version: Literal[1] = 1
    pipeline: str
    as_of: dt.date
    version: str
    verdict: DriftVerdict
    message: str
    notes: tuple[str, ...]
    rows: int
    score_column: str
    ignored: tuple[str, ...]
    training: Reference | None
    trailing: Reference | None
    columns: tuple[ColumnDrift, ...]
    charts: tuple[Chart, ...]


def drift_numbers(
    run: Run,
    pipeline: Pipeline,
    current: Profile,
    training: Profile | None,
    trailing: Trailing,
    version: str,
) -> DriftNumbers:
    """Compare a version's profile with its references and put the outcome into words."""
    config, score = pipeline.config.drift, pipeline.config.predictions.score_column
    references: dict[Which, Profile | None] = {
        "training": training,
        "trailing": trailing.profile,
    }
    present = {which: profile for which, profile in references.items() if profile is not None}
    columns = tuple(
        column
        for which, profile in present.items()
        for column in compare(current, profile, which, config)
    )
    return DriftNumbers(
        pipeline=run.pipeline,
        as_of=run.partition.as_of,
        version=version,
        verdict=overall(columns, config.ignore),
        message=_message(columns, config.ignore),
        notes=tuple(_notes(run, pipeline, current, training, trailing)),
        rows=current.rows,
        score_column=score,
        ignored=config.ignore,
        training=Reference(rows=training.rows) if training else None,
        trailing=trailing.reference,
        columns=columns,
        charts=tuple(
            chart(column, present, SCORE_BINS if column.name == score else CHART_BINS)
            for column in current.columns
        ),
    )


def drifted_columns(columns: tuple[ColumnDrift, ...], ignored: tuple[str, ...]) -> tuple[str, ...]:
    """The columns beyond a threshold that count, the furthest first."""
    moved = [
        column
        for column in sorted(columns, key=lambda column: -column.psi)
        if column.verdict in ("warn", "alert") and column.column not in ignored
    ]
    return tuple(dict.fromkeys(column.column for column in moved))


def _message(columns: tuple[ColumnDrift, ...], ignored: tuple[str, ...]) -> str:
    """The outcome for the watched columns: those that were compared and are not ignored."""
    if not columns:
        return "Nothing to compare with."
    compared = {column.column for column in columns}
    watched = len(compared.difference(ignored))
    left = f" ({len(compared) - watched} ignored)" if watched < len(compared) else ""
    if not watched:
        return f"No column is watched{left}."
    noun = "column" if watched == 1 else "columns"
    drifted = drifted_columns(columns, ignored)
    if not drifted:
        return f"None of the {watched} watched {noun} moved{left}."
    worst = max(
        (column for column in columns if column.column == drifted[0]), key=lambda each: each.psi
    )
    return (
        f"{len(drifted)} of the {watched} watched {noun} moved{left}, most of all {worst.column}: "
        f"PSI {worst.psi:.2f} against {worst.reference} ({worst.verdict})."
    )


def _notes(
    run: Run, pipeline: Pipeline, current: Profile, training: Profile | None, trailing: Trailing
) -> list[str]:
    """What a reader must know to trust the numbers, a sentence each."""
    notes = []
    if training is None:
        notes.append(
            f"Model {run.model.name} version {run.model.version} has no training profile: log one "
            "with daybreak.training.log_training_reference."
        )
    else:
        lacking = [each.name for each in current.columns if training.column(each.name) is None]
        if lacking:
            notes.append(f"The training profile lacks {', '.join(lacking)}.")
    if trailing.profile is None and pipeline.config.drift.trailing:
        notes.append("No earlier partition is published and usable as a trailing reference.")
    if trailing.left_out:
        notes.append(
            f"Earlier partitions that are not in the trailing reference: {trailing.left_out}, with "
            "no rows, or with a profile in other bins and the rows gone."
        )
    others = [model for model in trailing.models if model != run.model.version]
    if others:
        notes.append(
            f"Trailing scores are of model version {', '.join(others)} too: that change of model "
            "is part of the scores' distance."
        )
    if current.left_out:
        notes.append(f"Not compared, for want of a histogram: {', '.join(current.left_out)}.")
    known = {column.name for column in current.columns}.union(current.left_out)
    strange = sorted(set(pipeline.config.drift.columns).difference(known))
    if strange:
        notes.append(f"drift.columns names what is not compared: {', '.join(strange)}.")
    if not current.rows:
        notes.append("The version has no rows.")
    return notes
