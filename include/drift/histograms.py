"""The histogram of one column: its bins, its counts, and how values fall into them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from include.run import Value

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

QUANTILES = 128  # bins of a continuous column: KS from them is within 1/128 of that of the rows
_TAILS = (0.0001, 0.001, 0.999, 0.9999)  # long tails would be one bin each, and weigh on distances
DISTINCT = 48  # a column with at most so many values gets a bin for each
CATEGORIES = 40
CATEGORY_CHARACTERS = 100


class NumberColumn(Value):
    """Histogram of a numeric column; `time` holds seconds since 1970 (UTC).

    `edges` ascend; bin i of `counts`, shape (edges + 1,), holds edges[i - 1] < x <= edges[i], and
    the first and the last bin are open. `missing` counts nulls and NaN, `infinite` the infinite
    values, which also stand in the open bins. `low`, `high`, `mean` and `squares` (the sum of
    squared deviations from the mean) are of the finite values; None where there are none, and
    `squares` also where it is beyond what a float holds.
    """

    kind: Literal["number", "time"]
    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    missing: int = 0
    infinite: int = 0
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    squares: float | None = None

    @property
    def bins(self) -> tuple[object, ...]:
        return (self.kind, self.edges)

    @property
    def values(self) -> int:
        return sum(self.counts)

    @property
    def rows(self) -> int:
        return self.values + self.missing

    @property
    def finite(self) -> int:
        return self.values - self.infinite

    @property
    def limits(self) -> tuple[float, float] | None:
        """The smallest and the largest finite value; None where there are none."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def std(self) -> float | None:
        return None if self.squares is None else math.sqrt(self.squares / self.finite)


class CategoryColumn(Value):
    """Counts of a column's categories, as text; the last of `counts` is all other categories."""

    kind: Literal["category"] = "category"
    name: str
    categories: tuple[str, ...]
    counts: tuple[int, ...]
    missing: int = 0

    @property
    def bins(self) -> tuple[object, ...]:
        return (self.kind, self.categories)

    @property
    def rows(self) -> int:
        return sum(self.counts) + self.missing


ColumnProfile = Annotated[NumberColumn | CategoryColumn, Field(discriminator="kind")]


def kind_of(type_: pa.DataType) -> Literal["number", "time", "category"] | None:
    """How a column of this Arrow type is profiled; None where it is not."""
    import pyarrow.types as types

    if types.is_dictionary(type_):
        return "category" if kind_of(type_.value_type) else None
    if types.is_boolean(type_) or types.is_string(type_) or types.is_large_string(type_):
        return "category"
    if types.is_null(type_) or types.is_string_view(type_):
        return "category"
    if types.is_integer(type_) or types.is_floating(type_) or types.is_decimal(type_):
        return "number"
    if types.is_timestamp(type_) or types.is_date(type_):
        return "time"
    return None


def column_of(name: str, values: pa.ChunkedArray) -> NumberColumn | CategoryColumn | None:
    """An empty histogram with bins that fit these values; None for a type that has none.

    A continuous column gets bins of equal mass. A value that holds much of the mass gets a bin
    for itself, with an edge just below it and one at it: so a column of few values, and the atoms
    of a mixed one, are held exactly.
    """
    kind = kind_of(values.type)
    if kind is None:
        return None
    if kind == "category":
        categories = _categories(_as_text(values))
        counts = (0,) * (len(categories) + 1)
        return CategoryColumn(name=name, categories=categories, counts=counts)
    edges = _edges(_as_numbers(values))
    return NumberColumn(kind=kind, name=name, edges=edges, counts=(0,) * (len(edges) + 1))


def counted(
    column: NumberColumn | CategoryColumn, values: pa.ChunkedArray
) -> NumberColumn | CategoryColumn | None:
    """These values in the bins of `column`; None where they do not fit its kind.

    Numbers fit categories, as text, and flags fit numbers, as 0 and 1.
    """
    import pyarrow.types as types

    kind = kind_of(values.type)
    if isinstance(column, CategoryColumn):
        return _count_text(column, values) if kind is not None else None
    if kind == column.kind or types.is_boolean(values.type) or types.is_null(values.type):
        return _count_numbers(column, _as_numbers(values))
    return None


def empty(column: NumberColumn | CategoryColumn) -> NumberColumn | CategoryColumn:
    """The same bins, nothing in them."""
    counts = (0,) * len(column.counts)
    if isinstance(column, CategoryColumn):
        return CategoryColumn(name=column.name, categories=column.categories, counts=counts)
    return NumberColumn(kind=column.kind, name=column.name, edges=column.edges, counts=counts)


def added(
    a: NumberColumn | CategoryColumn, b: NumberColumn | CategoryColumn
) -> NumberColumn | CategoryColumn:
    """The column over the rows of both. Moments as in Chan, Golub and LeVeque (1983)."""
    if a.bins != b.bins:
        raise ValueError(f"profiles of {a.name!r} have different bins and cannot be added")
    counts = tuple(x + y for x, y in zip(a.counts, b.counts, strict=True))
    missing = a.missing + b.missing
    if isinstance(a, CategoryColumn) or isinstance(b, CategoryColumn):
        return a.model_copy(update={"counts": counts, "missing": missing})
    update: dict[str, object] = {
        "counts": counts,
        "missing": missing,
        "infinite": a.infinite + b.infinite,
    }
    if a.mean is None or b.mean is None:
        full = b if a.mean is None else a
        update |= {"low": full.low, "high": full.high}
        update |= {"mean": full.mean, "squares": full.squares}
    else:
        n, m, apart = a.finite, b.finite, b.mean - a.mean
        update["mean"] = a.mean * (n / (n + m)) + b.mean * (m / (n + m))
        within = None if a.squares is None or b.squares is None else a.squares + b.squares
        between = apart * apart * (n * (m / (n + m)))
        update["squares"] = None if within is None else _held(within + between)
        update["low"] = min(_known(a.low), _known(b.low))
        update["high"] = max(_known(a.high), _known(b.high))
    return a.model_copy(update=update)


def _known(value: float | None) -> float:
    assert value is not None  # a column with a mean has its range too
    return value


def _held(number: float) -> float | None:
    """The number, or None where it is beyond what a float, and JSON, can hold."""
    return number if math.isfinite(number) else None


def _count_numbers(column: NumberColumn, values: NDArray[np.float64]) -> NumberColumn:
    present = values[~np.isnan(values)]
    positions = np.searchsorted(np.asarray(column.edges), present, side="left")
    counts = np.bincount(positions, minlength=len(column.edges) + 1)
    finite = present[np.isfinite(present)]
    update: dict[str, object] = {
        "counts": tuple(counts.tolist()),
        "missing": len(values) - len(present),
        "infinite": len(present) - len(finite),
    }
    if len(finite):
        # Values near the largest float overflow in sums, which is no reason to fail or to warn.
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(finite.mean())
            if not math.isfinite(mean):
                mean = float((finite / len(finite)).sum())
            update |= {"mean": mean, "squares": _held(float(np.square(finite - mean).sum()))}
        update |= {"low": float(finite.min()), "high": float(finite.max())}
    return column.model_copy(update=update)


def _count_text(column: CategoryColumn, values: pa.ChunkedArray) -> CategoryColumn:
    import pyarrow as pa
    import pyarrow.compute as pc

    text = _as_text(values)
    known = pa.array(column.categories, pa.string())
    found = pc.index_in(text, value_set=known, skip_nulls=True)
    positions = found.drop_null().to_numpy()
    missing = int(text.null_count)
    counts = np.bincount(positions, minlength=len(known) + 1)
    counts[len(known)] = len(text) - missing - len(positions)
    return column.model_copy(update={"counts": tuple(counts.tolist()), "missing": missing})


def _as_numbers(values: pa.ChunkedArray) -> NDArray[np.float64]:
    """Float64, shape (rows,), NaN where null; times as seconds since 1970."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as types

    if types.is_timestamp(values.type) or types.is_date(values.type):
        micros = pc.cast(pc.cast(values, pa.timestamp("us"), safe=False), pa.int64())
        values = pc.divide(pc.cast(micros, pa.float64(), safe=False), 1e6)
    numbers: NDArray[np.float64] = pc.cast(values, pa.float64(), safe=False).to_numpy()
    return numbers


def _as_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as types

    if types.is_dictionary(values.type):
        values = pc.cast(values, values.type.value_type)
    return pc.cast(values, pa.string())


def _categories(text: pa.ChunkedArray) -> tuple[str, ...]:
    """The most frequent categories, ties by name; very long texts are left to the others."""
    import pyarrow.compute as pc

    counted = pc.value_counts(text.drop_null())
    pairs = zip(
        counted.field("counts").to_pylist(), counted.field("values").to_pylist(), strict=True
    )
    frequent = sorted((-count, name) for count, name in pairs if len(name) <= CATEGORY_CHARACTERS)
    return tuple(name for _, name in frequent[:CATEGORIES])


def _edges(values: NDArray[np.float64]) -> tuple[float, ...]:
    finite = values[np.isfinite(values)] + 0.0  # -0.0 and 0.0 are one value
    distinct = _few_distinct(finite)
    if distinct is not None:
        return _unique(edge for value in distinct for edge in _around(value))
    levels = np.union1d(np.linspace(0, 1, QUANTILES + 1), _TAILS)
    quantiles = np.quantile(finite, levels, method="inverted_cdf")
    values_, repeats = np.unique(quantiles, return_counts=True)
    edges: list[float] = []
    for value, repeat in zip(values_.tolist(), repeats.tolist(), strict=True):
        if repeat > 1:
            edges.extend(_around(value))
        else:
            # Where exactly an edge lies does not matter here: fewer digits make a smaller file.
            edges.append(float(f"{value:.7g}"))
    return _unique(edges)


def _few_distinct(finite: NDArray[np.float64]) -> list[float] | None:
    """The distinct values where they are at most DISTINCT."""
    # Most continuous columns show it in their first rows, without sorting them all.
    if len(np.unique(finite[: 4 * DISTINCT])) > DISTINCT:
        return None
    distinct = np.unique(finite)
    return distinct.tolist() if len(distinct) <= DISTINCT else None


def _around(value: float) -> tuple[float, float]:
    return math.nextafter(value, -math.inf), value


def _unique(edges: Iterable[float]) -> tuple[float, ...]:
    return tuple(sorted({edge for edge in edges if math.isfinite(edge)}))
