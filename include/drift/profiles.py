"""Profiles: a histogram per column, counted over all rows, small enough to keep for every version.

The bins of a column come from a reference (the training data, at best) and stay as they are, so
that two profiles with the same bins can be compared and added up without their rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from include.drift.histograms import (
    CategoryColumn,
    ColumnProfile,
    NumberColumn,
    added,
    column_of,
    counted,
    empty,
)
from include.run import Value

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

TRAINING_PROFILE = "training_profile.json"
TRAINING_SAMPLE = "training_sample.parquet"


class Profile(Value):
    """The columns of one set of rows. JSON; about 4 kB a column at most.

    `left_out` names columns of a type that has no histogram (binary, lists, structs).
    """

    schema_version: Literal[1] = 1
    rows: int
    score_column: str | None = None
    columns: tuple[ColumnProfile, ...]
    left_out: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the whole profile."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def bins_digest(self) -> str:
        """SHA-256 of the bins alone: profiles that agree in it can be added up and compared."""
        bins = sorted((column.name, *column.bins) for column in self.columns)
        return hashlib.sha256(repr(bins).encode()).hexdigest()

    def column(self, name: str) -> NumberColumn | CategoryColumn | None:
        return next((column for column in self.columns if column.name == name), None)


def profile(rows: pa.Table, score_column: str | None = None) -> Profile:
    """The profile of `rows`, with bins of their own."""
    tally = Tally(bins_of(rows), score_column)
    tally.add(rows)
    return tally.profile()


def training_profile(features: pa.Table, scores: NDArray[Any], score_column: str) -> Profile:
    """The reference that training leaves: of the features and of the model's own scores on them.

    `features` are the rows that the model was trained on, or better held-out rows of that time;
    `scores` has shape (features.num_rows,). Scores of training rows themselves are as optimistic
    as the model is overfitted.
    """
    return profile(with_scores(features, scores, score_column), score_column)


def with_scores(features: pa.Table, scores: Any, score_column: str) -> pa.Table:
    """`features` with the scores, Arrow or NumPy, last, in the place of any column of that name."""
    import pyarrow as pa

    if score_column in features.column_names:
        features = features.drop_columns([score_column])
    if not isinstance(scores, pa.Array | pa.ChunkedArray):
        scores = pa.array(scores)
    return features.append_column(score_column, scores.cast(pa.float64()))


def bins_of(rows: pa.Table) -> Profile:
    """Empty columns with bins that fit these rows: the template that a Tally counts into."""
    columns = {name: column_of(name, rows[name]) for name in rows.column_names}
    return Profile(
        rows=0,
        columns=tuple(column for column in columns.values() if column is not None),
        left_out=tuple(name for name, column in columns.items() if column is None),
    )


class Tally:
    """Counts rows, part by part, into the bins of a template (see `bins_of`).

    A column of the template that the rows lack, or have in another kind, is left out.
    """

    def __init__(self, template: Profile, score_column: str | None = None) -> None:
        self._columns = {column.name: empty(column) for column in template.columns}
        self._left_out = set(template.left_out)
        self._score_column = score_column or template.score_column
        self._rows = 0

    def add(self, rows: pa.Table) -> None:
        self._rows += rows.num_rows
        for name, column in list(self._columns.items()):
            more = counted(column, rows[name]) if name in rows.column_names else None
            if more is None:
                self._left_out.add(name)
                del self._columns[name]
            else:
                self._columns[name] = added(column, more)

    def profile(self) -> Profile:
        return Profile(
            rows=self._rows,
            score_column=self._score_column,
            columns=tuple(self._columns.values()),
            left_out=tuple(sorted(self._left_out)),
        )


def merged(profiles: Sequence[Profile]) -> Profile:
    """The profile of all their rows together; their bins must agree. Not for an empty sequence."""
    first = profiles[0]
    columns = {column.name: column for column in first.columns}
    for other in profiles[1:]:
        theirs = {column.name: column for column in other.columns}
        columns = {
            name: added(column, theirs[name]) for name, column in columns.items() if name in theirs
        }
    return Profile(
        rows=sum(each.rows for each in profiles),
        score_column=first.score_column,
        columns=tuple(columns.values()),
        left_out=tuple(sorted({name for each in profiles for name in each.left_out})),
    )
