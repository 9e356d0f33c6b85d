"""LightGBM: a booster, or a classifier or regressor of its scikit-learn interface.

Features go to the booster as one float64 matrix, made straight from Arrow: the numbers that
LightGBM itself makes of a pandas frame, so the scores have the same bits. A column that was a
pandas category in training becomes the category's position in the list that the model keeps;
missing values and categories that training did not see become NaN, as they do in LightGBM.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.errors import PermanentError
from include.models.mlmodel import MLmodel
from include.scorers import Output
from include.scorers.estimators import load_estimator
from include.scorers.matrix import feature_matrix

if TYPE_CHECKING:
    import lightgbm
    import pyarrow as pa

# Objectives whose prediction is a probability.
_PROBABILITY = ("binary", "cross_entropy")
_CLASSES = ("binary", "multiclass", "multiclassova")


class LightGBMScorer:
    releases_gil = True
    device = "cpu"

    def __init__(
        self,
        booster: lightgbm.Booster,
        columns: tuple[str, ...],
        categories: dict[str, list[Any]],
    ) -> None:
        self.booster = booster
        self.columns = columns
        self.categories = categories

    def score(self, batch: pa.RecordBatch) -> pa.Array:
        import pyarrow as pa

        if batch.num_rows == 0:
            return pa.array([], pa.float64())
        matrix = feature_matrix(batch, self.columns, self.categories)
        # One thread a call: parts run side by side, and LightGBM would start one per core in each.
        return pa.array(self.booster.predict(matrix, num_threads=1), pa.float64())


def load(folder: Path, columns: tuple[str, ...], output: Output) -> LightGBMScorer:
    """See `open_scorer`."""
    import lightgbm

    description = MLmodel(folder)
    flavor = description.flavors["lightgbm"]
    if flavor.get("model_class", "lightgbm.basic.Booster") == "lightgbm.basic.Booster":
        booster = lightgbm.Booster(model_file=str(folder / flavor["data"]))
    else:
        booster = load_estimator(folder, flavor).booster_
    # The text of the first tree holds the header and the parameters, and little else.
    text = booster.model_to_string(num_iteration=1)
    _require(output, text, str(folder))
    names = _ordered(booster.feature_name(), columns, str(folder))
    strings = {column.name for column in description.inputs() if column.type == "string"}
    return LightGBMScorer(booster, names, _categories(booster, text, names, strings, str(folder)))


def _require(output: Output, text: str, where: str) -> None:
    found = re.search(r"^objective=(\S+)", text, re.MULTILINE)
    objective = found[1] if found else "a custom one"
    if output == "probability" and objective not in _PROBABILITY:
        raise PermanentError(
            f"the model's objective is {objective}: it gives no probability of a second class",
            where=where,
            do="write `output: value` for a regressor, or train a binary classifier",
        )
    if output == "value" and (objective in _CLASSES or _classes(text) > 1):
        raise PermanentError(
            f"the model's objective is {objective}: it is a classifier",
            where=where,
            do="write `output: probability` for a binary one",
        )


def _classes(text: str) -> int:
    found = re.search(r"^num_class=(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 1


def _ordered(trained: list[str], columns: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The signature's columns in the order of the booster's features.

    LightGBM replaces spaces in names by underscores, and calls the columns of an array Column_0, …
    """
    by_name = {re.sub(r"\s", "_", name): name for name in columns}
    if len(by_name) == len(columns) and set(trained) <= set(by_name):
        return tuple(by_name[name] for name in trained)
    if trained == [f"Column_{position}" for position in range(len(columns))]:
        return columns
    raise PermanentError(
        f"the model was trained on {', '.join(trained)}, and its signature has "
        f"{', '.join(columns)}",
        where=where,
        do="log it with a signature made of its training features",
    )


def _categories(
    booster: lightgbm.Booster, text: str, names: tuple[str, ...], strings: set[str], where: str
) -> dict[str, list[Any]]:
    """The categories of each column that was a pandas category, by column.

    The model keeps the lists in the order of the columns, and not whose they are: they are the
    string columns, and where these are too few, those that the parameters name as categorical.
    """
    lists = booster.pandas_categorical or []
    text_columns = [name for name in names if name in strings]
    found = re.search(r"^\[categorical_feature: ([\d,]+)\]", text, re.MULTILINE)
    marked = {names[int(position)] for position in found[1].split(",")} if found else set()
    for candidates in (text_columns, [n for n in names if n in strings or n in marked]):
        if len(candidates) == len(lists):
            return dict(zip(candidates, lists, strict=True))
    raise PermanentError(
        f"the model keeps the categories of {len(lists)} columns, and its string columns are "
        f"{', '.join(text_columns) or 'none'}",
        where=where,
        do="train it on a DataFrame whose string columns have the dtype category",
    )
