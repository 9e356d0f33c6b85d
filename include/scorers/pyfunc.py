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
from include.settings import silence_telemetry

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_CLASS_TYPES = ("long", "integer", "string", "boolean")

# So many scores that are all exactly 0 or 1 are classes in float's clothes.
_ENOUGH_TO_TELL = 100

_REMEDY = (
    "log the model so that predict gives probabilities: a PythonModel whose predict returns "
    "predict_proba(…)[:, 1]"
)


class PyfuncScorer:
    releases_gil = False

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
        scores = self._column(result, batch.num_rows)
        return pa.array(np.ascontiguousarray(scores, dtype=np.float64))

    def _column(self, result: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
        """The one score per row in what the model gave."""
        if result.ndim == 2 and result.shape[1] == 1:
            result = result[:, 0]
        if self.output == "probability":
            if result.dtype.kind != "f":
                raise PermanentError(
                    f"the model gives classes ({result.dtype}), not probabilities", do=_REMEDY
                )
            if result.ndim == 2 and result.shape[1] == 2:
                result = result[:, 1]
        if result.shape != (rows,) or result.dtype.kind not in "fiu":
            raise PermanentError(
                f"the model gives {result.dtype} of shape {result.shape} for {rows} rows, not one "
                "number a row",
                do="register a model with one numeric output",
            )
        if self.output == "probability":
            if bool(((result < 0) | (result > 1)).any()):
                raise PermanentError(
                    f"the model gives values between {result.min()} and {result.max()}, no "
                    "probabilities",
                    do=_REMEDY + ", or write `output: value` for a regressor",
                )
            if rows >= _ENOUGH_TO_TELL and bool(((result == 0) | (result == 1)).all()):
                raise PermanentError(
                    f"each of {rows} scores is exactly 0 or 1: the model gives classes, not "
                    "probabilities",
                    do=_REMEDY,
                )
        return result


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
