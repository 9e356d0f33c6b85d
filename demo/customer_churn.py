"""Trains customer_churn: the probability that a customer buys nothing in the next 90 days."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from demo.evaluation import evaluate
from demo.registration import Trained
from include.partition import Partition

if TYPE_CHECKING:
    import pyarrow as pa

    from include.pipeline import Pipeline
    from include.warehouses import Warehouse

PIPELINE = "customer_churn"
WINDOW_DAYS = 90

# Month-ends. The last label of training is known on 29 December 1997, before the month-end whose
# customers are held out; that one's own labels are known on 31 March 1998.
TRAINING = (
    dt.date(1997, 6, 30),
    dt.date(1997, 7, 31),
    dt.date(1997, 8, 31),
    dt.date(1997, 9, 30),
)
VALIDATION = dt.date(1997, 12, 31)

PARAMS: dict[str, Any] = {
    "learning_rate": 0.06,
    "max_iter": 100,
    "max_leaf_nodes": 15,
    "min_samples_leaf": 200,
    "l2_regularization": 5.0,
    "early_stopping": False,
    "random_state": 1997,
}
REQUIREMENTS = ("scikit-learn", "skops", "numpy", "pandas")

# skops trusts every type of the pipeline but this one, whose node indices it cannot check: a forged
# file could read memory that is not its own. These nodes are our own, and the registry's digest
# guards them from here on.
TRUSTED = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]

NOT_FEATURES = ("customer_id", "last_purchase_at", "churned")


def train(pipeline: Pipeline, warehouse: Warehouse) -> Trained:
    """Train on four month-ends and judge on a later one."""
    import pyarrow as pa
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import Pipeline as Estimator
    from threadpoolctl import threadpool_limits

    training = pa.concat_tables([read(pipeline, warehouse, day) for day in TRAINING])
    held_out = read(pipeline, warehouse, VALIDATION)
    columns = training.drop_columns(list(NOT_FEATURES)).column_names
    estimator = Estimator(
        [
            # By name: a query that lists its columns in another order still gives the same scores.
            ("features", ColumnTransformer([("numbers", "passthrough", columns)])),
            ("trees", HistGradientBoostingClassifier(**PARAMS)),
        ]
    )
    # One thread, as for flight_delay: on busy cores, several spend their time waiting.
    with threadpool_limits(1):
        estimator.fit(training.select(columns).to_pandas(), labels_of(training))

    features = held_out.select(columns)
    scores = estimator.predict_proba(features.to_pandas())[:, 1]
    return Trained(
        flavor="sklearn",
        model=estimator,
        features=features,
        scores=scores,
        evaluation=evaluate(labels_of(held_out), scores),
        params={
            **PARAMS,
            "training_rows": training.num_rows,
            "training_month_ends": ", ".join(map(str, TRAINING)),
        },
        requirements=REQUIREMENTS,
        log_options={"pyfunc_predict_fn": "predict_proba", "skops_trusted_types": TRUSTED},
    )


def read(pipeline: Pipeline, warehouse: Warehouse, month_end: dt.date) -> pa.Table:
    """The rows of features.sql as of `month_end`, with `churned`: bought nothing in the window."""
    # The query stands in the text as it is; nothing else is formatted into it.
    query = f"""
        SELECT
            features.*,
            features.customer_id NOT IN (
                SELECT customer_id FROM purchases
                WHERE purchased_on > $as_of
                AND purchased_on <= $as_of + INTERVAL {WINDOW_DAYS} DAYS
            ) AS churned
        FROM ({pipeline.sql}) AS features
    """  # noqa: S608
    partition = Partition.containing(month_end, "month")
    params = {
        "as_of": partition.as_of,
        "partition_start": partition.start,
        "partition_end": partition.end,
    }
    return warehouse.read(query, params, pipeline.config.key).read_all()


def labels_of(rows: pa.Table) -> Any:
    """1 for a customer who bought nothing in the window, 0 otherwise, shape (rows,)."""
    return rows["churned"].to_numpy().astype("int8")
