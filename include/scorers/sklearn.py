"""scikit-learn: estimators and pipelines, saved as skops, pickle or cloudpickle.

Scores are what `predict_proba` or `predict` gives for the same rows in a pandas frame. Estimators
that rest on BLAS (linear models, kernels) may round a row's last bit by how many rows they are
given at once; a part is always scored whole, so a part's scores are always the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.errors import PermanentError
from include.models.mlmodel import MLmodel
from include.run import ModelInput
from include.scorers import Output
from include.scorers.estimators import load_estimator
from include.scorers.model_frames import model_frame

if TYPE_CHECKING:
    import pyarrow as pa


class SklearnScorer:
    # Encoders and imputers are Python; only the predictors' inner loops run without the lock.
    releases_gil = False
    device = "cpu"

    def __init__(self, estimator: Any, inputs: tuple[ModelInput, ...], output: Output) -> None:
        self.columns = tuple(column.name for column in inputs)
        self.inputs = inputs
        self.estimator = estimator
        self.output = output

    def score(self, batch: pa.RecordBatch) -> pa.Array:
        import numpy as np
        import pyarrow as pa

        if batch.num_rows == 0:
            return pa.array([], pa.float64())
        frame = model_frame(batch, self.inputs)
        if self.output == "probability":
            scores = self.estimator.predict_proba(frame)[:, 1]
        else:
            scores = np.asarray(self.estimator.predict(frame))
            if scores.size != batch.num_rows:
                raise PermanentError(
                    f"the model gives {scores.size // batch.num_rows} values a row, not one",
                    do="register a model with one target",
                )
        return pa.array(np.ascontiguousarray(scores.reshape(-1), dtype=np.float64))


def load(folder: Path, columns: tuple[str, ...], output: Output) -> SklearnScorer:
    """See `open_scorer`."""
    description = MLmodel(folder)
    estimator = load_estimator(folder, description.flavors["sklearn"])
    _require(estimator, output, str(folder))
    by_name = {column.name: column for column in description.inputs()}
    trained = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    if trained and not set(trained) <= set(columns):
        raise PermanentError(
            f"the model was trained on {', '.join(trained)}, and its signature has "
            f"{', '.join(columns)}",
            where=str(folder),
            do="log it with a signature made of its training features",
        )
    return SklearnScorer(estimator, tuple(by_name[name] for name in trained or columns), output)


def _require(estimator: Any, output: Output, where: str) -> None:
    from sklearn.base import is_classifier

    kind = type(estimator).__name__
    if output == "value":
        if is_classifier(estimator):
            raise PermanentError(
                f"the model ({kind}) is a classifier: its predictions are classes",
                where=where,
                do="write `output: probability`",
            )
        return
    if not hasattr(estimator, "predict_proba"):
        raise PermanentError(
            f"the model ({kind}) has no predict_proba: it gives no probability",
            where=where,
            do="write `output: value` for a regressor, or calibrate the classifier "
            "(sklearn.calibration.CalibratedClassifierCV)",
        )
    classes = list(estimator.classes_)
    if len(classes) != 2:
        raise PermanentError(
            f"the model ({kind}) has {len(classes)} classes, and a probability needs two",
            where=where,
            do="train a binary classifier",
        )
