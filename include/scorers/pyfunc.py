"""Any other flavour, through mlflow.pyfunc: slower to start, and held to the model's signature."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.errors import PermanentError
from include.models.mlmodel import MLmodel
from include.run import ModelInput
from include.scorers import Output
from include.scorers.model_frames import model_frame
from include.scorers.outputs import one_score_a_row
from include.settings import silence_telemetry

if TYPE_CHECKING:
    import pyarrow as pa

_CLASS_TYPES = ("long", "integer", "string", "boolean")

_REMEDY = (
    "log the model so that predict gives probabilities: a PythonModel whose predict returns "
    "predict_proba(…)[:, 1]"
)


class PyfuncScorer:
    releases_gil = False
    device = "cpu"

    def __init__(self, model: Any, inputs: tuple[ModelInput, ...], output: Output) -> None:
        self.columns = tuple(column.name for column in inputs)
        self.inputs = inputs
        self.model = model
        self.output = output

    def score(self, batch: pa.RecordBatch) -> pa.Array:
        import numpy as np
        import pyarrow as pa

        if batch.num_rows == 0:
            return pa.array([], pa.float64())
        result = np.asarray(self.model.predict(model_frame(batch, self.inputs)))
        scores = one_score_a_row(result, batch.num_rows, self.output, _REMEDY)
        return pa.array(np.ascontiguousarray(scores, dtype=np.float64))


def load(folder: Path, columns: tuple[str, ...], output: Output) -> PyfuncScorer:
    """See `open_scorer`. Refuses a model whose output signature says classes."""
    description = MLmodel(folder)
    text = (description.content.get("signature") or {}).get("outputs")
    outputs = json.loads(text) if text else []
    given = [column["type"] for column in outputs]
    if output == "probability" and len(given) == 1 and given[0] in _CLASS_TYPES:
        raise PermanentError(
            f"the model's signature says that it gives {given[0]}: classes, not probabilities",
            where=str(folder),
            do=_REMEDY,
        )
    silence_telemetry()
    # Python would write __pycache__ into the pinned folder for code that the model was logged
    # with, and so change its digest.
    sys.dont_write_bytecode = True
    import mlflow.pyfunc

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    try:
        model = mlflow.pyfunc.load_model(str(folder))
    except (ImportError, AttributeError) as error:
        raise PermanentError(
            f"the model needs code that this environment does not have: {error}",
            where=str(folder),
            do="install the packages of the model's requirements.txt",
        ) from error
    by_name = {column.name: column for column in description.inputs()}
    return PyfuncScorer(model, tuple(by_name[name] for name in columns), output)
