"""What a snapshot must hold before anything is scored, beside its suite: the contract.

Every function here gives checks. None of them raises for bad data: a person who mends a snapshot
wants to see everything that is wrong with it at once.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from include.config import Freshness, Gate, PipelineConfig
from include.errors import PermanentError
from include.keys import key_text
from include.partition import Partition
from include.run import Check, Column, GateResult, ModelInput

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

_INT16 = {"int8", "int16", "uint8", "uint16"}
_INT32 = _INT16 | {"int32"}
_INT53 = _INT32 | {"uint32"}  # what a double holds exactly

# MLflow's type: the Arrow types of which every value fits, and the SQL type to cast to.
_FITTING: dict[str, tuple[set[str], str]] = {
    "double": ({"double", "float", "halffloat"} | _INT53, "DOUBLE"),
    "float": ({"float", "halffloat"} | _INT16, "REAL"),
    "long": (_INT53 | {"int64"}, "BIGINT"),
    "integer": (_INT32, "INTEGER"),
    "string": ({"string", "large_string", "string_view"}, "VARCHAR"),
    "boolean": ({"bool"}, "BOOLEAN"),
    "datetime": ({"timestamp", "date32"}, "TIMESTAMP"),
    "binary": ({"binary", "large_binary", "binary_view", "fixed_size_binary"}, "BLOB"),
}
_WITHOUT_NULLS = ("long", "integer", "boolean")


class GateFailed(PermanentError):
    """The snapshot was refused; its checks are in the gate's result and in the report."""

    @classmethod
    def by(cls, result: GateResult) -> GateFailed:
        failed = [one for one in result.checks if not one.passed and one.severity == "critical"]
        said = "; ".join(f"{one.name}: {one.message}" for one in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        return cls(
            f"the gate failed and nothing was scored: {said}{more}",
            where=result.quarantine_uri or "",
            do="mend the data, or the rule in pipeline.yaml or suite.yaml, and run it again",
        )


def row_count_check(rows: int, gate: Gate) -> Check:
    enough = gate.min_rows <= rows and (gate.max_rows is None or rows <= gate.max_rows)
    if gate.max_rows is None:
        bounds = f"at least {gate.min_rows:,} needed"
    else:
        bounds = f"{gate.min_rows:,} to {gate.max_rows:,} needed"
    return _contract("rows", enough, f"{rows:,} rows, {bounds}")


def column_checks(
    config: PipelineConfig, inputs: Sequence[ModelInput], columns: Sequence[Column]
) -> list[Check]:
    """One check of the pipeline's own columns, and one of the model's inputs or one a bad input."""
    types = {column.name: column.type for column in columns}
    own = [*config.key, *config.predictions.pass_through]
    missing = [name for name in own if name not in types]
    message = f"the snapshot has no {', '.join(missing)}: select them in features.sql"
    checks = [
        _contract(
            "key and pass-through columns",
            not missing,
            message if missing else f"all there: {', '.join(own)}",
        )
    ]
    bad = [
        _contract(f"model input {one.name}", False, problem, column=one.name)
        for one in inputs
        if (problem := _misfit(one, types.get(one.name)))
    ]
    fine = f"all {len(inputs)} columns are there, with types that fit"
    return checks + (bad or [_contract("model inputs", True, fine)])


def _misfit(needed: ModelInput, found: str | None) -> str | None:
    """Why a column of Arrow's type `found` cannot be this input."""
    if found is None:
        return f"the snapshot has no column {needed.name}: select it in features.sql"
    if needed.type not in _FITTING:
        return f"the model wants the type {needed.type}, which no column of a table has"
    fitting, sql = _FITTING[needed.type]
    if _bare(found) in fitting:
        return None
    return (
        f"the snapshot has {found}, the model needs {needed.type}: "
        f"cast it in features.sql, CAST({needed.name} AS {sql})"
    )


def _bare(name: str) -> str:
    """Arrow's name of a type without its parameters; a dictionary of texts counts as text."""
    values = re.match(r"dictionary<values=(\w*string)\b", name)
    return values[1] if values else name.split("[")[0]


def key_check(key: Sequence[str], columns: Sequence[Column], violation: str | None) -> Check:
    """`violation` is what KeyOrder found over all the parts."""
    names = {column.name for column in columns}
    if not names.issuperset(key):
        return _contract("key", False, "not every key column is there")
    named = ", ".join(key)
    return _contract("key", violation is None, violation or f"{named}: unique and without nulls")


def null_checks(
    inputs: Sequence[ModelInput],
    table: pa.Table,
    set_aside: npt.NDArray[np.int64],
    key: Sequence[str],
) -> list[Check]:
    """A failed check for each input that must not hold nulls and does.

    MLflow refuses nulls in required integers and booleans, which have no value for them.
    `set_aside` are the positions of the quarantined rows: these are not scored.
    """
    import numpy as np
    import pyarrow.compute as pc

    checks: list[Check] = []
    for name in inputs_without_nulls(inputs):
        if name not in table.column_names or not table[name].null_count:
            continue
        null = np.flatnonzero(pc.is_null(table[name]).to_numpy())
        null = np.setdiff1d(null, set_aside, assume_unique=True)
        if not len(null):
            continue
        kind = next(one.type for one in inputs if one.name == name)
        scored = table.num_rows - len(set_aside)
        message = (
            f"null in {len(null):,} of {scored:,} rows, which the model's type {kind} cannot be: "
            "give them a value in features.sql, or set them aside by "
            "expect_column_values_to_not_be_null with severity: warning"
        )
        examples = tuple(key_text(table, int(row), key) for row in null[:5])
        check = _contract(f"nulls in model input {name}", False, message, column=name)
        share = len(null) / scored
        checks.append(
            check.model_copy(update={"failing": len(null), "share": share, "examples": examples})
        )
    return checks


def inputs_without_nulls(inputs: Sequence[ModelInput]) -> list[str]:
    return [one.name for one in inputs if one.required and one.type in _WITHOUT_NULLS]


def freshness_check(
    freshness: Freshness, values: pa.ChunkedArray | None, partition: Partition, zone: str
) -> Check:
    """Whether the newest value is young enough at the partition's end, and not after it.

    A date counts from its local midnight and belongs to the partition when it lies before
    `partition.end`; a timestamp without a zone is local time. A timestamp of exactly the end still
    belongs: it is how a nightly export dates its rows.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    def check(passed: bool, message: str) -> Check:
        name = f"freshness of {freshness.column}"
        return _contract(name, passed, message, column=freshness.column)

    if values is None:
        return check(False, f"the snapshot has no column {freshness.column}")
    if not (pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)):
        return check(
            False,
            f"the type {values.type} is no date or timestamp: cast it in features.sql, "
            f"CAST({freshness.column} AS TIMESTAMP)",
        )
    end = partition.ends_at(zone)
    newest = pc.max(values)
    if not newest.is_valid:
        return check(False, "every value is null")
    if pa.types.is_timestamp(values.type) and values.type.unit == "ns":  # Python has no nanoseconds
        newest = newest.cast(pa.timestamp("us", tz=values.type.tz), safe=False)
    try:
        moment = newest.as_py()
    except (OverflowError, ValueError):  # infinity, and years that Python does not count
        return check(False, f"the newest value ({newest.value}) is no time of this age")
    if not isinstance(moment, dt.datetime):
        after = moment >= partition.end
        moment = dt.datetime.combine(moment, dt.time(), tzinfo=ZoneInfo(zone))
    else:
        moment = moment.replace(tzinfo=ZoneInfo(zone)) if moment.tzinfo is None else moment
        after = moment.astimezone(dt.UTC) > end.astimezone(dt.UTC)
    shown = f"the newest value is {newest.as_py()}"
    if after:
        return check(
            False,
            f"{shown}, after the partition's end ({end:%Y-%m-%d %H:%M} {zone}): the query looks "
            "into the future of its partition; bound it by $as_of in features.sql",
        )
    hours = (end.astimezone(dt.UTC) - moment.astimezone(dt.UTC)) / dt.timedelta(hours=1)
    return check(
        hours <= freshness.max_age_hours,
        f"{shown}, {hours:.1f} hours before the partition's end; "
        f"at most {freshness.max_age_hours:g} allowed",
    )


def quarantine_check(count: int, rows: int, gate: Gate) -> Check:
    """Whether the share of rows set aside is small enough, and any row is left."""
    share = count / rows if rows else 0.0
    allowed = f"at most {gate.max_quarantined_share:.2%} may be"
    message = f"{count:,} of {rows:,} rows ({share:.2%}) are set aside, {allowed}"
    if count and count == rows:
        message = f"all {rows:,} rows are set aside: nothing is left to score"
    passed = share <= gate.max_quarantined_share and (count < rows or not count)
    check = _contract("quarantine", passed, message)
    return check.model_copy(update={"failing": count, "share": share})


def _contract(name: str, passed: bool, message: str, column: str | None = None) -> Check:
    return Check(name=name, passed=passed, severity="critical", message=message, column=column)
