"""Evidently's interactive page on a sample of rows, for looking around; it decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include.drift.histograms import kind_of
from include.imports import large_import
from include.settings import silence_telemetry

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# Fixed measures and thresholds: Evidently's own choice of test changes with the number of rows.
_MEASURES: dict[str, Any] = {
    "num_method": "wasserstein",
    "num_threshold": 0.1,
    "cat_method": "jensenshannon",
    "cat_threshold": 0.1,
}


def evidently_page(current: pa.Table, reference: pa.Table) -> str:
    """The HTML of Evidently's data drift report; works offline, about 4.5 MB.

    Columns that either side lacks, or has no value of, are left out, for Evidently raises on them;
    so are types without a histogram. Raises ValueError where no column is left.
    """
    silence_telemetry()
    numbers, categories = _columns(current, reference)
    if not numbers and not categories:
        raise ValueError("the samples have no column with values in common")
    with large_import("evidently"):
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

    names = {name: _harmless(name) for name in (*numbers, *categories)}
    definition = DataDefinition(
        numerical_columns=[names[name] for name in numbers],
        categorical_columns=[names[name] for name in categories],
    )
    datasets = [
        Dataset.from_pandas(_frame(rows, numbers, categories, names), data_definition=definition)
        for rows in (current, reference)
    ]
    snapshot = Report([DataDriftPreset(**_MEASURES)], include_tests=False).run(*datasets)
    page: str = snapshot.get_html_str(as_iframe=False)
    return page


def _columns(current: pa.Table, reference: pa.Table) -> tuple[list[str], list[str]]:
    """The numeric and the categorical columns that both sides have values of."""
    import pyarrow.compute as pc

    def has_values(rows: pa.Table, name: str, kind: str) -> bool:
        values = rows[name].drop_null()
        if kind == "category":
            return len(values) > 0
        return bool(pc.any(pc.is_finite(_numeric(values))).as_py())

    numbers: list[str] = []
    categories: list[str] = []
    for name in current.column_names:
        if name not in reference.column_names:
            continue
        kinds = {kind_of(rows.schema.field(name).type) for rows in (current, reference)}
        kind = kinds.pop() if len(kinds) == 1 else None
        if kind and has_values(current, name, kind) and has_values(reference, name, kind):
            (categories if kind == "category" else numbers).append(name)
    return numbers, categories


def _frame(
    rows: pa.Table, numbers: list[str], categories: list[str], names: dict[str, str]
) -> pd.DataFrame:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    columns: dict[str, Any] = {}
    for name in numbers:
        values = _numeric(rows[name]).to_numpy()
        columns[names[name]] = np.where(np.isfinite(values), values, np.nan)
    for name in categories:
        text = pc.cast(rows[name], pa.string()).to_pylist()
        columns[names[name]] = [None if value is None else _harmless(value) for value in text]
    return pd.DataFrame(columns)


def _numeric(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """As float64; times as seconds since 1970."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as types

    if types.is_timestamp(values.type) or types.is_date(values.type):
        values = pc.cast(pc.cast(values, pa.timestamp("s"), safe=False), pa.int64())
    return pc.cast(values, pa.float64(), safe=False)


def _harmless(text: str) -> str:
    """Text that cannot leave the script element which Evidently writes it into unescaped."""
    return text.replace("<", "‹").replace(">", "›")
