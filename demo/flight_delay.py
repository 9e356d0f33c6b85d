"""Trains flight_delay: the probability that a flight arrives 15 or more minutes late."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from demo.evaluation import evaluate
from demo.registration import Trained

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from include.pipeline import Pipeline
    from include.warehouses import Warehouse

PIPELINE = "flight_delay"
LATE_MINUTES = 15

# [start, end): September is held out whole, and nothing was tuned on it (rounds and regularisation
# were chosen on July and August with a model of January to June).
TRAINING = (dt.date(2013, 1, 1), dt.date(2013, 9, 1))
VALIDATION = (dt.date(2013, 9, 1), dt.date(2013, 10, 1))

ROUNDS = 150
PARAMS: dict[str, Any] = {
    "objective": "binary",
    "learning_rate": 0.06,
    "num_leaves": 15,
    "min_data_in_leaf": 1_000,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "cat_smooth": 50.0,
    "seed": 2013,
    # The same trees on every machine. One thread: two wait for each other in a spin lock, which on
    # two busy cores cost 30 CPU seconds instead of 7.
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
REQUIREMENTS = ("lightgbm", "numpy", "pandas")

# Not features: what the pipeline publishes beside the score, and what judges freshness.
NOT_FEATURES = ("scheduled_at", "flight", "tailnum", "weather_observed_at", "arr_delay")


def train(pipeline: Pipeline, warehouse: Warehouse) -> Trained:
    """Train on January to August and judge on September.

    A flight that never arrived is neither late nor on time: it is no row of training or of the
    evaluation. It is scored all the same, so it counts in the drift reference.
    """
    import lightgbm
    import numpy as np

    labelled = read(pipeline, warehouse, *TRAINING)
    labelled = labelled.filter(labelled["arr_delay"].is_valid())
    training = features_of(labelled)
    frame = frame_of(training)
    booster = lightgbm.train(
        PARAMS, lightgbm.Dataset(frame, label=late(labelled)), num_boost_round=ROUNDS
    )

    held_out = read(pipeline, warehouse, *VALIDATION)
    features = features_of(held_out)
    scores = np.asarray(booster.predict(frame_of(features, like=frame)))
    arrived = held_out["arr_delay"].is_valid().to_numpy()
    return Trained(
        flavor="lightgbm",
        model=booster,
        features=features,
        scores=scores,
        evaluation=evaluate(late(held_out)[arrived], scores[arrived]),
        params={
            **PARAMS,
            "rounds": ROUNDS,
            "training_rows": training.num_rows,
            "training_start": TRAINING[0],
            "training_end": TRAINING[1],
        },
        requirements=REQUIREMENTS,
    )


def read(pipeline: Pipeline, warehouse: Warehouse, start: dt.date, end: dt.date) -> pa.Table:
    """The rows of features.sql for the days [start, end), with `arr_delay`, in minutes or null.

    The pipeline's own query, for many partitions at once: what is trained on is what is served.
    """
    key = ", ".join(pipeline.config.key)
    # The query stands in the text as it is; the names are the configuration's, checked on reading.
    query = f"""
        SELECT features.*, flights.arr_delay
        FROM ({pipeline.sql}) AS features JOIN flights USING ({key})
    """  # noqa: S608
    params = {"as_of": end - dt.timedelta(days=1), "partition_start": start, "partition_end": end}
    return warehouse.read(query, params, pipeline.config.key).read_all()


def features_of(rows: pa.Table) -> pa.Table:
    return rows.drop_columns(list(NOT_FEATURES))


def late(rows: pa.Table) -> Any:
    """1 for an arrival LATE_MINUTES late or later, 0 otherwise, shape (rows,)."""
    import pyarrow.compute as pc

    is_late = pc.greater_equal(rows["arr_delay"], LATE_MINUTES)
    return pc.fill_null(is_late, False).to_numpy().astype("int8")


def frame_of(features: pa.Table, like: pd.DataFrame | None = None) -> pd.DataFrame:
    """Features as LightGBM takes them: texts as categories, those of `like` where it is given."""
    import pandas as pd
    import pyarrow as pa

    frame: pd.DataFrame = features.to_pandas()
    for column in features.schema:
        if pa.types.is_string(column.type):
            values = frame[column.name]
            known = sorted(values.unique()) if like is None else like[column.name].cat.categories
            frame[column.name] = pd.Categorical(values, categories=known)
    return frame
