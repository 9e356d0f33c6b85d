"""What training code leaves for the pipelines that will use its model."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from include.drift.profiles import TRAINING_PROFILE, TRAINING_SAMPLE, training_profile, with_scores
from include.drift.version_rows import even_positions

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import ArrayLike

SAMPLE_ROWS = 5_000


def log_training_reference(
    features: pa.Table | pd.DataFrame, scores: ArrayLike, score_column: str = "score"
) -> None:
    """Log the drift reference of a model to the active MLflow run, beside the model itself.

    `features` are held-out rows from the time of training, with the columns of the model's
    signature, and `scores` what the model gives them, shape (rows,), in the form that the pipeline
    publishes (P(second class) for `output: probability`). `score_column` is the pipeline's.

    Logs `daybreak/training_profile.json` (histograms) and `daybreak/training_sample.parquet` (at
    most 5,000 evenly spaced rows, for Evidently's page). Raises ValueError where there are no
    rows, or not one score per row.
    """
    import mlflow
    import numpy as np
    import pyarrow.parquet as pq

    table, values = _table(features), np.asarray(scores, dtype=np.float64)
    if table.num_rows == 0 or values.shape != (table.num_rows,):
        raise ValueError(
            f"the training reference has {table.num_rows} rows and scores of shape {values.shape}: "
            "pass at least one row, and one score for each"
        )
    profile = training_profile(table, values, score_column)
    mlflow.log_text(profile.model_dump_json(), f"daybreak/{TRAINING_PROFILE}")
    rows = with_scores(table, values, score_column)
    buffer = io.BytesIO()
    pq.write_table(rows.take(even_positions(rows.num_rows, SAMPLE_ROWS)), buffer)
    _log_bytes(buffer.getvalue(), TRAINING_SAMPLE)


def _log_bytes(content: bytes, name: str) -> None:
    import tempfile
    from pathlib import Path

    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, name)
        file.write_bytes(content)
        mlflow.log_artifact(str(file), "daybreak")


def _table(features: Any) -> pa.Table:
    """A pandas frame as an Arrow table, without its index; a table as it is."""
    import pyarrow as pa

    if isinstance(features, pa.Table):
        return features
    return pa.Table.from_pandas(features, preserve_index=False)
