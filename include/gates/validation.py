"""A suite held against the rows of a snapshot: Great Expectations on pandas, judged strictly."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.gates.frames import frame_of, set_problem, with_timestamps
from include.gates.gx import import_great_expectations
from include.gates.suite import Expected, Suite, instance
from include.keys import key_text, value_text
from include.run import Check

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

EXAMPLES = 5

# All failing rows by their position in the frame, and none of their values: Great Expectations
# cuts the values off after 200, and the snapshot has them anyway.
_RESULT_FORMAT = {
    "result_format": "COMPLETE",
    "exclude_unexpected_values": True,
    "return_unexpected_index_query": False,
    "partial_unexpected_count": 0,
}


@dataclass(frozen=True)
class Outcome:
    """What one expectation found; `failing` are positions of rows, ascending.

    They are given when it judges rows and failed as a whole: rows that its `mostly` tolerates are
    counted in the check and not listed here.
    """

    expected: Expected
    check: Check
    failing: npt.NDArray[np.int64] | None = None


def columns_read(suite: Suite, columns: Sequence[str]) -> list[str]:
    """The columns of a snapshot whose values the suite looks at."""
    return [name for name in columns if any(name in _mentioned(one, columns) for one in suite)]


def validate(
    suite: Suite, table: pa.Table, columns: Sequence[str], key: Sequence[str]
) -> list[Outcome]:
    """The outcome of every expectation, in the suite's order.

    `table` holds the rows, with `columns_read(suite, columns)` and the key; `columns` are all that
    the snapshot has. What an expectation cannot answer (a missing column, an exception, a result
    without content) is a critical failure whatever its severity says.
    """
    if not suite:
        return []
    groups: dict[tuple[str, ...], list[int]] = {}
    outcomes: dict[int, Outcome] = {}
    for position, expected in enumerate(suite):
        problem = _unanswerable(expected, table, columns)
        if problem is not None:
            outcomes[position] = _critical(expected, problem)
            continue
        needed = tuple(_mentioned(expected, columns))
        # What looks at the table has a frame with every column, filled or not.
        groups.setdefault(("", *needed) if expected.about_table else needed, []).append(position)

    # One small frame a group of columns: each expectation copies its whole frame several times.
    for needed, positions in groups.items():
        about_table = needed[:1] == ("",)
        filled = needed[1:] if about_table else needed
        frame = frame_of(table, filled, columns if about_table else filled)
        with _batch(frame) as batch:
            for position in positions:
                outcomes[position] = _evaluated(suite[position], batch, table, key)
    return [outcomes[position] for position in range(len(suite))]


def _mentioned(expected: Expected, columns: Sequence[str]) -> list[str]:
    """The columns that it is about, and those that its row_condition may name."""
    condition = str(expected.kwargs.get("row_condition") or "")
    return [name for name in columns if name in expected.columns or name in condition]


def _unanswerable(expected: Expected, table: pa.Table, columns: Sequence[str]) -> str | None:
    """Why it cannot be evaluated, as far as that is known before trying."""
    missing = [name for name in expected.columns if name not in columns]
    if missing:
        return f"the snapshot has no column {' and no column '.join(map(repr, missing))}"
    needed = _mentioned(expected, columns)
    if len({name.lower() for name in needed}) < len(needed):
        return f"its columns differ in case only ({', '.join(needed)}), which it cannot tell apart"
    for name in expected.columns:
        problem = set_problem(table[name].type, expected.kwargs.get("value_set"))
        if problem is not None:
            return problem
    return None


@contextmanager
def _batch(frame: Any) -> Iterator[Any]:
    """The frame as a batch of its own context, which is gone with it: contexts keep every batch."""
    import_great_expectations()
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    log = logging.getLogger("great_expectations")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what it would log is in the results
    try:
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        asset = context.data_sources.add_pandas("snapshot").add_dataframe_asset("rows")
        definition = asset.add_batch_definition_whole_dataframe("all")
        yield definition.get_batch({"dataframe": frame})
    finally:
        log.setLevel(level)


def _evaluated(expected: Expected, batch: Any, table: pa.Table, key: Sequence[str]) -> Outcome:
    import numpy as np

    types = {name: table[name].type for name in expected.columns}
    try:
        found = batch.validate(
            instance(expected, with_timestamps(expected.kwargs, types)),
            result_format=_RESULT_FORMAT,
        )
    except Exception as error:  # noqa: BLE001 - whatever it raises means that it has no answer
        return _critical(expected, f"it raised {type(error).__name__}: {_last_line(str(error))}")
    raised = _raised(found.exception_info)
    if raised is not None:
        return _critical(expected, f"it raised: {raised}")
    result = found.result
    if not result and expected.type != "expect_column_to_exist":
        return _critical(expected, "it gave no result")
    if not expected.by_row or "unexpected_count" not in result:
        message = f"observed {_observed(result)}" if result else ""
        return Outcome(expected, _check(expected, bool(found.success), message))

    failing, positions = int(result["unexpected_count"]), result.get("unexpected_index_list")
    if positions is None or len(positions) != failing:
        return _critical(expected, f"it counts {failing} failing rows and does not list them")
    looked_at = int(result["element_count"]) - int(result.get("missing_count") or 0)
    rows = np.sort(np.asarray(positions, dtype=np.int64))
    mostly = expected.kwargs.get("mostly", 1)
    message = f"{failing:,} of {looked_at:,} rows fail"
    if found.success:
        allowed = f"{message}, which mostly={mostly} allows"
        message = allowed if failing else f"all of {looked_at:,} rows pass"
        if not looked_at:
            message = "it holds of nothing: no row has a value to look at"
    elif mostly != 1:
        message += f", more than mostly={mostly} allows"
    check = _check(expected, bool(found.success), message).model_copy(
        update={
            "failing": failing,
            "share": failing / looked_at if looked_at else 0.0,
            "quarantines": not found.success and expected.severity == "warning",
            "examples": tuple(
                _example(table, int(row), expected.columns, key) for row in rows[:EXAMPLES]
            ),
        }
    )
    return Outcome(expected, check, None if found.success else rows)


def _check(expected: Expected, passed: bool, message: str) -> Check:
    said = message or ("it holds" if passed else "it does not hold")
    return Check(
        name=expected.label,
        passed=passed,
        severity=expected.severity,
        message=f"{said} ({expected.note})" if expected.note else said,
        column=expected.columns[0] if len(expected.columns) == 1 else None,
    )


def _critical(expected: Expected, why: str) -> Outcome:
    check = _check(expected, False, f"it could not be evaluated: {why}")
    return Outcome(expected, check.model_copy(update={"severity": "critical"}))


def _raised(info: dict[str, Any]) -> str | None:
    """The message of what was raised, if anything: one record, or one for each failed metric."""
    if info.get("raised_exception") is False:
        return None
    records = [info] if "raised_exception" in info else list(info.values())
    said = [_last_line(str(one.get("exception_message"))) for one in records]
    return "; ".join(dict.fromkeys(said)) or "an unknown error"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def _observed(result: dict[str, Any]) -> str:
    value = result.get("observed_value")
    if value is None and "unexpected_count" in result:
        return f"{result['unexpected_count']} unexpected values"
    text = "nothing: there are no values" if value is None else str(_plain(value))
    return text if len(text) <= 200 else f"{text[:197]}…"


def _plain(value: Any) -> Any:
    """The value without numpy's types, whose repr is for programmers."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, numbers.Real) and not isinstance(value, bool | int):
        whole = value.item() if hasattr(value, "item") else value
        return float(f"{whole:.6g}") if isinstance(whole, float) else whole
    return value.item() if type(value).__module__ == "numpy" else value


def _example(table: pa.Table, row: int, columns: Sequence[str], key: Sequence[str]) -> str:
    found = [(name, value_text(table[name][row].as_py())) for name in columns]
    said = found[0][1] if len(found) == 1 else ", ".join(f"{name}={text}" for name, text in found)
    return f"{key_text(table, row, key)}: {said}"
