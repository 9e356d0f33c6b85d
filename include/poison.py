"""Poison rows: those on which a model raises, or for which it gives no finite number.

Such a row costs itself, not its part. A part goes to the model whole; where that raises, halves of
it are tried until the rows to blame stand alone, and the rest goes to the model together once
more. So the scores of the good rows have the bits that they would have had without the bad ones,
also of models that round a row by how many rows stand beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from include.errors import DaybreakError, PartFailed, PermanentError
from include.quarantine import read_quarantine
from include.run import Part, Receipt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from include.scorers import Scorer
    from include.scoring import ScoringJob

# So many rows that fail without one call that succeeds ask whether any row of the part succeeds;
# so many others, spread evenly, answer it.
_SUSPICIOUS, _PROBES = 16, 16

# A model whose every answer makes other rows bad is asked no more often than this.
_ROUNDS = 5

_REASON_LENGTH, _SHOWN = 200, 3
_FAILED = "the model failed: "


def scores_without_poison(
    job: ScoringJob, part: Part, rows: pa.Table, scorer: Scorer
) -> tuple[pa.Array, dict[int, str]]:
    """A score for each row on which the model does not fail, and the reasons of the others.

    `rows` are those of `part` that the gate let through; reasons are by position in `rows`. Raises
    PartFailed where the model fails on more than `job.max_failed` rows, on all that were tried, or
    on none of them alone.
    """
    import numpy as np

    search = _Search(job, part, rows, scorer)
    good = np.arange(rows.num_rows)
    for _ in range(_ROUNDS):
        try:
            scores = search.call(good)
        except DaybreakError as error:  # about the columns or the model, not about a row
            error.where = error.where or f"part {part.index}"
            raise
        except MemoryError as error:
            raise PermanentError(
                f"memory does not suffice to score the {len(good):,} rows of part {part.index} "
                "together",
                where=part.uri,
                do="lower snapshot.part_rows, or engine.workers",
            ) from error
        except Exception as error:
            search.first_error = error
            before = len(search.reasons)
            search.bisect(good, known_bad=True)
            if len(search.reasons) == before and search.settled:
                raise _together(part, len(good), error) from error
        else:
            values = scores.to_numpy(zero_copy_only=False)
            bad = np.flatnonzero(~np.isfinite(values))
            if not len(bad):
                return scores, search.reasons
            search.not_finite(good[bad], values[bad])
        search.settled = True
        good = np.setdiff1d(good, np.fromiter(search.reasons, np.int64, len(search.reasons)))
    raise PartFailed(
        f"the model fails on other rows of part {part.index} each time that the rows on which it "
        "failed are left out",
        part=part.index,
        where=part.uri,
        do="mend the model: the score of a row must not rest on the rows beside it",
    )


def require_few_failed(job: ScoringJob, finished: Iterable[Receipt]) -> None:
    """PermanentError where the model failed on more rows, over all parts, than are allowed."""
    poisoned = sorted((r for r in finished if r.failed), key=lambda receipt: receipt.part)
    failed = sum(receipt.failed for receipt in poisoned)
    if failed <= job.max_failed:
        return
    shown: list[str] = []
    for receipt in poisoned[:_SHOWN]:
        assert receipt.failed_uri is not None
        rows = read_quarantine(receipt.failed_uri).slice(0, _SHOWN - len(shown)).to_pylist()
        shown += [f"part {receipt.part}, {row_key(job.key, row)}: {row['reason']}" for row in rows]
        if len(shown) == _SHOWN:
            break
    raise PermanentError(
        f"the model fails on {failed:,} rows of {len(poisoned)} parts, and {_allowance(job)}; the "
        f"first: {'; '.join(shown)}",
        where=poisoned[0].failed_uri or "",
        do=_REMEDY,
    )


_REMEDY = (
    "have suite.yaml set such rows aside, mend the model, or raise gate.max_quarantined_share if "
    "so many may be left out"
)


def row_key(key: Sequence[str], row: dict[str, Any]) -> str:
    """`account_id=17, channel=web`."""
    return ", ".join(f"{name}={row[name]}" for name in key)


@dataclass
class _Search:
    """Calls the model on some of a part's rows and collects those on which it fails."""

    job: ScoringJob
    part: Part
    rows: pa.Table
    scorer: Scorer
    reasons: dict[int, str] = field(default_factory=dict)
    settled: bool = False
    any_passed: bool = False
    probed: bool = False
    first_error: Exception | None = None

    def call(self, positions: NDArray[np.int64]) -> pa.Array:
        """The model's scores of these rows, together."""
        import pyarrow as pa

        features = self.rows.select(list(self.scorer.columns))
        if len(positions) != self.rows.num_rows:
            first, last = (int(positions[0]), int(positions[-1])) if len(positions) else (0, -1)
            if last - first + 1 == len(positions):
                features = features.slice(first, len(positions))
            else:
                features = features.take(pa.array(positions))
        batches = features.combine_chunks().to_batches()
        scores = [self.scorer.score(batch) for batch in batches]
        given = pa.chunked_array(scores, pa.float64()).combine_chunks()
        if len(given) != len(positions):
            raise PermanentError(
                f"the model gives {len(given):,} scores for {len(positions):,} rows",
                do="register a model that gives one number a row",
            )
        self.any_passed = True
        return given

    def bisect(self, positions: NDArray[np.int64], known_bad: bool = False) -> None:
        """Find the rows on which the model raises; `known_bad` says that these hold one.

        One bad row among n costs at most 2 log2(n) + 1 calls, on 3n rows in all.
        """
        if not known_bad or len(positions) == 1:
            error = self._error(positions)
            if error is None:
                return
            if len(positions) == 1:
                self._blame(int(positions[0]), error)
                return
        half = len(positions) // 2
        before = len(self.reasons)
        self.bisect(positions[:half])
        # Where the first half is clean, the second is to blame: only its halves need be asked.
        self.bisect(positions[half:], known_bad=len(self.reasons) == before)

    def not_finite(self, positions: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Take note of rows for which the model gave NaN or an infinity."""
        first = row_key(self.job.key, self._row(int(positions[0])))
        given = f"the model gives {values[0]} for {first}"
        for position, value in zip(positions, values, strict=True):
            self.reasons[int(position)] = f"the model gives {value}"
        if len(self.reasons) > self.job.max_failed:
            raise self._failed(
                f"{given}, and no finite score for {len(positions):,} of the "
                f"{self.rows.num_rows:,} rows of part {self.part.index}; {_allowance(self.job)}",
                int(positions[0]),
            )

    def _error(self, positions: NDArray[np.int64]) -> Exception | None:
        try:
            self.call(positions)
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            return error
        return None

    def _blame(self, position: int, error: Exception) -> None:
        self.reasons[position] = _FAILED + described(error)
        if len(self.reasons) > self.job.max_failed:
            first = min(self.reasons)
            count = len(self.reasons)
            on = f"on {count:,} rows or more of" if count > 1 else "on a row of"
            raise self._failed(
                f"the model failed {on} part {self.part.index}, first on "
                f"{row_key(self.job.key, self._row(first))}: "
                f"{self.reasons[first].removeprefix(_FAILED)}; "
                f"{_allowance(self.job)}",
                first,
            ) from error
        if len(self.reasons) >= _SUSPICIOUS and not self.any_passed and not self.probed:
            self._probe(error)

    def _probe(self, error: Exception) -> None:
        """Stop where the model fails on every row: that is no poison, but types or columns."""
        import numpy as np

        self.probed = True
        spread = np.unique(np.linspace(0, self.rows.num_rows - 1, _PROBES).astype(np.int64))
        if all(self._error(spread[at : at + 1]) is not None for at in range(len(spread))):
            first = min(self.reasons)
            raise self._failed(
                f"the model failed on every row of part {self.part.index} that was tried, first "
                f"on {row_key(self.job.key, self._row(first))}: "
                f"{self.reasons[first].removeprefix(_FAILED)}",
                first,
                do="see that the features have the types that the model was trained on",
            ) from error

    def _failed(self, found: str, position: int, do: str = _REMEDY) -> PartFailed:
        key = row_key(self.job.key, self._row(position))
        return PartFailed(found, part=self.part.index, key=key, where=self.part.uri, do=do)

    def _row(self, position: int) -> dict[str, Any]:
        row: dict[str, Any] = self.rows.select(list(self.job.key)).slice(position, 1).to_pylist()[0]
        return row


def described(error: BaseException) -> str:
    """The kind of an error and what it says, on one line and not longer than a reason may be."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).replace("; ", ", ")
    return text if len(text) <= _REASON_LENGTH else f"{text[: _REASON_LENGTH - 1]}…"


def _allowance(job: ScoringJob) -> str:
    if not job.max_failed:
        return "gate.max_quarantined_share allows none to be left out beside those of the gate"
    return (
        f"gate.max_quarantined_share allows {job.max_failed:,} to be left out beside those of the "
        "gate"
    )


def _together(part: Part, rows: int, error: Exception) -> PartFailed:
    return PartFailed(
        f"the model failed on the {rows:,} rows of part {part.index} together, and on none of them "
        f"alone: {described(error)}",
        part=part.index,
        where=part.uri,
        do="lower snapshot.part_rows if it is for their number, else mend the model",
    )
