"""XGBoost: a booster, or a classifier or regressor of its scikit-learn interface.

Features go to the booster as one matrix, made straight from Arrow: the numbers that XGBoost itself
makes of a pandas frame, so the scores have the same bits. A column that was a pandas category in
training becomes the category's position in the list that the model keeps (XGBoost 3.1 or later). A
category that training did not see is missing; XGBoost 3.2, given a frame, takes it for another one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.errors import PermanentError
from include.models.mlmodel import MLmodel
from include.scorers import Output
from include.scorers.device import Device, choose, fallen_back
from include.scorers.matrix import feature_matrix

if TYPE_CHECKING:
    import pyarrow as pa
    import xgboost

_PROBABILITY = ("binary:logistic", "reg:logistic")


class XGBoostScorer:
    def __init__(
        self,
        booster: xgboost.Booster,
        columns: tuple[str, ...],
        categories: dict[str, list[Any]],
        trees: tuple[int, int],
        device: str,
        releases_gil: bool,
    ) -> None:
        self.booster = booster
        self.columns = columns
        self.categories = categories
        self.trees = trees
        self.device = device
        self.releases_gil = releases_gil

    def score(self, batch: pa.RecordBatch) -> pa.Array:
        import numpy as np
        import pyarrow as pa
        import xgboost

        if batch.num_rows == 0:
            return pa.array([], pa.float64())
        matrix = xgboost.DMatrix(
            feature_matrix(batch, self.columns, self.categories),
            feature_names=self.booster.feature_names,
            feature_types=self.booster.feature_types,
            enable_categorical=True,
            nthread=1,
        )
        scores = self.booster.predict(matrix, iteration_range=self.trees)
        return pa.array(np.asarray(scores, dtype=np.float64))


def load(
    folder: Path, columns: tuple[str, ...], output: Output, device: Device = "auto"
) -> XGBoostScorer:
    """See `open_scorer`."""
    import xgboost

    description = MLmodel(folder)
    flavor = description.flavors["xgboost"]
    booster = xgboost.Booster(model_file=str(folder / flavor["data"]))
    config = json.loads(booster.save_config())["learner"]
    objective = str(config["objective"]["name"])
    _require(output, objective, int(config["learner_model_param"]["num_class"]), str(folder))
    names = _ordered(booster, columns, str(folder))
    categories = _categories(booster, names, str(folder))
    booster.set_param({"nthread": 1})
    chosen = choose(device, "xgboost", bool(xgboost.build_info().get("USE_CUDA")))
    if chosen.gpu:
        try:
            booster.set_param({"device": "cuda"})
        except xgboost.core.XGBoostError as error:
            chosen = fallen_back("xgboost", error)
    if not chosen.gpu:
        booster.set_param({"device": "cpu"})
    # The scikit-learn interface stops at the best tree where training was stopped early; a plain
    # booster does not.
    plain = flavor.get("model_class", "xgboost.core.Booster") == "xgboost.core.Booster"
    best = None if plain else booster.attr("best_iteration")
    trees = (0, int(best) + 1) if best is not None else (0, 0)
    # Only of trees does the library say that threads may share a booster.
    releases_gil = config["gradient_booster"]["name"] == "gbtree"
    return XGBoostScorer(booster, names, categories, trees, chosen.name, releases_gil)


def _require(output: Output, objective: str, classes: int, where: str) -> None:
    if output == "probability" and objective not in _PROBABILITY:
        raise PermanentError(
            f"the model's objective is {objective}: it gives no probability of a second class",
            where=where,
            do="write `output: value` for a regressor, or train with binary:logistic",
        )
    if output == "value" and (objective.startswith(("binary:", "multi:")) or classes > 1):
        raise PermanentError(
            f"the model's objective is {objective}: it is a classifier",
            where=where,
            do="write `output: probability` for a binary one",
        )


def _ordered(booster: xgboost.Booster, columns: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The signature's columns in the order of the booster's features."""
    trained = booster.feature_names
    if trained is None and booster.num_features() == len(columns):
        return columns
    if trained is not None and set(trained) <= set(columns):
        return tuple(trained)
    names = ", ".join(trained) if trained else f"{booster.num_features()} columns without names"
    raise PermanentError(
        f"the model was trained on {names}, and its signature has {', '.join(columns)}",
        where=where,
        do="log it with a signature made of its training features",
    )


def _categories(
    booster: xgboost.Booster, names: tuple[str, ...], where: str
) -> dict[str, list[Any]]:
    """The categories of each column that was a pandas category, in the order of training."""
    kinds = booster.feature_types or []
    categorical = [name for name, kind in zip(names, kinds, strict=False) if kind == "c"]
    if not categorical:
        return {}
    kept: dict[str, Any] = {}
    if hasattr(booster, "get_categories"):  # XGBoost 3.1
        stored = booster.get_categories(export_to_arrow=True)
        by_position = stored.to_arrow() if not stored.empty() else []
        kept = {
            name: values.to_pylist()
            for name, (_, values) in zip(names, by_position, strict=False)
            if values is not None
        }
    lacking = [name for name in categorical if name not in kept]
    if lacking:
        raise PermanentError(
            f"the model does not keep the categories of {', '.join(lacking)}",
            where=where,
            do="train it with xgboost 3.1 or later, on a DataFrame of the dtype category",
        )
    return {name: kept[name] for name in categorical}
