"""What turns feature batches into scores: one Protocol, one module per model flavour.

A scorer loads a pinned model folder natively, without importing mlflow: that import costs more
than scoring a million rows. A flavour without a member here is loaded through mlflow.pyfunc.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from include.errors import PermanentError

if TYPE_CHECKING:
    import pyarrow as pa

    from include.scorers.device import Device

# `pyfunc` is the fallback; the others are tried first, by the model's own flavours.
MEMBERS = ("lightgbm", "sklearn", "xgboost", "onnx", "torch", "pyfunc")

# What MLflow calls a flavour, where it is not the member's name.
_FLAVORS = {"pytorch": "torch"}

# Members that compute on a GPU where one is there, and what must be installed for each: the module,
# the package, and where it is not among the requirements, what makes pip install it.
_GPU_MEMBERS = ("xgboost", "onnx", "torch")
_LIBRARIES = {
    "lightgbm": ("lightgbm", "lightgbm"),
    "sklearn": ("sklearn", "scikit-learn"),
    "xgboost": ("xgboost", "daybreak[xgboost]"),
    "onnx": ("onnxruntime", "daybreak[onnx]"),
    "torch": ("torch", "daybreak[torch]"),
}

Output = Literal["probability", "value"]


class Scorer(Protocol):
    """Scores batches; one instance per process, safe to call from several threads.

    `columns` are the features that it reads, in the model's order. `releases_gil` says whether
    threads score at the same time; otherwise the local engine gives each worker a process.
    `device` is where it computes: `cpu`, `cuda:0`, or `cpu (…)` with the reason in place of a GPU.
    """

    columns: tuple[str, ...]
    releases_gil: bool
    device: str

    def score(self, batch: pa.RecordBatch) -> pa.Array:
        """One float64 per row, shape (batch.num_rows,), no nulls; NaN where the model gives it.

        `batch` holds at least `columns`, of the types of the model's signature. A probability is
        that of the second class.
        """


def open_scorer(
    folder: Path,
    flavor: str,
    columns: tuple[str, ...],
    output: Output,
    device: Device = "auto",
) -> Scorer:
    """Load the model in `folder` (an MLflow model folder) for its `flavor`.

    Raises PermanentError where the model cannot give `output`: a probability of a regressor or of
    more than two classes; and where its library is not installed.
    """
    lacking = missing_library(flavor)
    if lacking is not None:
        raise PermanentError(
            f"the model is of the flavour {flavor}, and its library is not installed here",
            where=str(folder),
            do=f"pip install {lacking!r}",
        )
    member = member_of(flavor)
    module = importlib.import_module(f"include.scorers.{member}")
    chosen = {"device": device} if member in _GPU_MEMBERS else {}
    scorer: Scorer = module.load(folder, columns, output, **chosen)
    return scorer


def member_of(flavor: str) -> str:
    """The member that loads a flavour of MLflow's."""
    name = _FLAVORS.get(flavor, flavor)
    return name if name in MEMBERS else "pyfunc"


def missing_library(flavor: str) -> str | None:
    """What to install to score a model of this flavour here; None where nothing is missing."""
    module, package = _LIBRARIES.get(member_of(flavor), ("mlflow", "mlflow"))
    try:
        there = importlib.util.find_spec(module) is not None
    except ValueError:  # something took its place, or forbade it
        there = False
    return None if there else package
