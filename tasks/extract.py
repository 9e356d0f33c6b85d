"""extract: the partition's rows out of the warehouse, into an immutable snapshot."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from include.config import PipelineConfig
from include.engine_config import SparkEngine, SparkGpu
from include.errors import PermanentError
from include.keys import KeyOrder
from include.partition import Partition
from include.pipeline import Pipeline, planned_pipeline
from include.run import Part, Run, Snapshot
from include.snapshots import place_snapshot, write_snapshot
from include.warehouses import PartsWarehouse, open_warehouse
from tasks.step import step_of

if TYPE_CHECKING:
    import pyarrow as pa


def extract(run: Run) -> Snapshot:
    """Run features.sql for the run's partition and store its rows, in the order of the key.

    Raises PermanentError for a query that fails, columns that are missing, a key that is null or
    stands twice, and no rows at all; TransientError where the warehouse is locked or away.
    """
    with step_of(run, "extract") as recorder:
        pipeline = planned_pipeline(run)
        config = pipeline.config
        order = KeyOrder(config.key)

        def inspect(table: pa.Table) -> None:
            _require_good_keys(run, config.key, order.first_violation(table))

        asked = (pipeline.sql, parameters(run.partition), config.key)
        said = {
            "query": pipeline.sql,
            "source": f"{config.warehouse.kind}:{config.warehouse.connection}",
        }
        with open_warehouse(config.warehouse, _gpu(config)) as warehouse:
            if isinstance(warehouse, PartsWarehouse) and warehouse.reaches(run.workspace):
                query = warehouse.prepare(*asked)
                _require_columns(run, pipeline, query.schema.names)

                def write(files: str) -> list[Part]:
                    parts, violation = query.write(files, config.snapshot.part_rows)
                    _require_good_keys(run, config.key, violation)
                    return parts

                snapshot = place_snapshot(run, query.schema, write, **said)
            else:
                # The reader is closed too: one that an error's traceback keeps alive holds the
                # file, and DuckDB then never opens it again in this process, as for a retry.
                with warehouse.read(*asked) as reader:
                    _require_columns(run, pipeline, reader.schema.names)
                    snapshot = write_snapshot(
                        run, reader, config.snapshot.part_rows, inspect=inspect, **said
                    )
        recorder.result = snapshot
    return snapshot


def _require_good_keys(run: Run, key: tuple[str, ...], violation: str | None) -> None:
    if violation is not None:
        raise PermanentError(
            violation,
            where=f"{run.pipeline}/features.sql",
            do=f"make {', '.join(key)} unique and not null in the query, or correct `key` in "
            "pipeline.yaml",
        )


def _gpu(config: PipelineConfig) -> SparkGpu | None:
    """The GPUs of the pipeline's Spark, for features.sql where `rapids` says so."""
    gpu = config.engine.gpu if isinstance(config.engine, SparkEngine) else None
    return gpu if gpu is not None and gpu.rapids else None


def parameters(partition: Partition) -> dict[str, dt.date]:
    """What features.sql may bind: $as_of, $partition_start and the exclusive $partition_end."""
    return {
        "as_of": partition.as_of,
        "partition_start": partition.start,
        "partition_end": partition.end,
    }


def _require_columns(run: Run, pipeline: Pipeline, names: list[str]) -> None:
    """Every column that a later step reads is there, or all that are missing are named."""
    config = pipeline.config
    needed = {
        "the key": config.key,
        "predictions.pass_through": config.predictions.pass_through,
        "the model's inputs": tuple(column.name for column in run.model.inputs if column.required),
        "gate.freshness": (config.gate.freshness.column,) if config.gate.freshness else (),
    }
    missing = [
        f"{name} (of {use})"
        for use, columns in needed.items()
        for name in columns
        if name not in names
    ]
    if missing:
        raise PermanentError(
            f"the query does not select {', '.join(missing)}",
            where=f"{run.pipeline}/features.sql",
            do=f"add them to its SELECT list, which has {', '.join(names)}",
        )
