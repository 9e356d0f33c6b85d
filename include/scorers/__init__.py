"""What turns feature batches into scores: one Protocol, one module per model flavour.

A scorer loads a pinned model folder natively, without importing mlflow: that import costs more
than scoring a million rows. A flavour without a member here is loaded through mlflow.pyfunc.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

# `pyfunc` is the fallback; the others are tried first, by the model's own flavours.
MEMBERS = ("lightgbm", "sklearn", "pyfunc")

Output = Literal["probability", "value"]


class Scorer(Protocol):
    """Scores batches; one instance per process, safe to call from several threads.

    `columns` are the features that it reads, in the model's order. `releases_gil` says whether
    threads score at the same time; otherwise the local engine gives each worker a process.
    """

    columns: tuple[str, ...]
    releases_gil: bool

    def score(self, batch: pa.RecordBatch) -> pa.Array:
        """One float64 per row, shape (batch.num_rows,), no nulls; NaN where the model gives it.

        `batch` holds at least `columns`, of the types of the model's signature. A probability is
        that of the second class.
        """


def open_scorer(folder: Path, flavor: str, columns: tuple[str, ...], output: Output) -> Scorer:
    """Load the model in `folder` (an MLflow model folder) for its `flavor`.

    Raises PermanentError where the model cannot give `output`: a probability of a regressor or of
    more than two classes.
    """
    member = flavor if flavor in MEMBERS else "pyfunc"
    module = importlib.import_module(f"include.scorers.{member}")
    scorer: Scorer = module.load(folder, columns, output)
    return scorer
