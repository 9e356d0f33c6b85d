"""Parts by URI on Spark, beside rows through Spark's mapInArrow and the local engine.

    python -m bench.spark --rows 1000000 --rounds 3

Each way scores the same parts with the same LightGBM model and writes the same columns, in a
process of its own; the ways take turns, and medians are printed. `start` is what passes until the
first part could be scored (imports, the JVM, the model), `score` is the rest; `CPU` is of the whole
process with its JVM and its Python workers.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from include import storage
from include.run import ModelVersion, Part
from include.scoring import ScoringJob

WAYS = ("local", "spark: parts by URI", "spark: rows through mapInArrow")
FEATURES = [f"f{number}" for number in range(25)]
PART_ROWS = 50_000
MASTER = "local[2]"


def prepare(root: Path, rows: int) -> None:
    """A model, the parts and the job below `root`."""
    import lightgbm
    import mlflow.lightgbm
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    from include.models.mlmodel import MLmodel
    from include.models.pinned import folder_digest, store_model

    random = np.random.default_rng(0)
    sample = random.normal(size=(20_000, len(FEATURES)))
    target = sample[:, 0] + sample[:, 1] * sample[:, 2] > 0
    data = lightgbm.Dataset(sample, target.astype(float), feature_name=FEATURES)
    settings = {"objective": "binary", "num_leaves": 31, "verbosity": -1}
    booster = lightgbm.train(settings, data, 100)
    signature = ModelSignature(
        Schema([ColSpec("double", name) for name in FEATURES]), Schema([ColSpec("double")])
    )
    mlflow.lightgbm.save_model(booster, root / "m", signature=signature, pip_requirements=[])
    digest = folder_digest(root / "m")
    pinned = (root / "pinned").as_uri()
    store_model(root / "m", {}, pinned, digest=digest, name="m", version="1")
    parts = []
    for index, first in enumerate(range(0, rows, PART_ROWS)):
        count = min(PART_ROWS, rows - first)
        columns: dict[str, Any] = {"id": pa.array(np.arange(first, first + count))}
        columns |= {name: pa.array(random.normal(size=count)) for name in FEATURES}
        file = root / f"part-{index:05d}.parquet"
        pq.write_table(pa.table(columns), file, compression="zstd")
        content = file.read_bytes()
        sha = hashlib.sha256(content).hexdigest()
        size = len(content)
        parts.append(Part(index=index, uri=file.as_uri(), rows=count, bytes=size, digest=sha))
    model = ModelVersion(
        name="m",
        version="1",
        alias=None,
        flavor="lightgbm",
        digest=digest,
        uri=pinned,
        mlflow_run_id=None,
        inputs=MLmodel(root / "m").inputs(),
    )
    job = ScoringJob(
        pipeline="bench",
        as_of=dt.date(2026, 1, 1),
        version="v1",
        run_id="r",
        scored_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        model=model,
        output="probability",
        key=("id",),
        pass_through=(),
        score_column="score",
        quarantine_uri=None,
        parts_uri="",
        receipts_uri="",
    )
    (root / "job.json").write_text(job.model_dump_json())
    (root / "parts.json").write_text(json.dumps([part.model_dump() for part in parts]))


def measure(way: str, root: Path, out: Path) -> dict[str, float]:
    """One way, once, in this process."""
    began = time.perf_counter()
    job = ScoringJob.model_validate_json((root / "job.json").read_text()).model_copy(
        update={
            "parts_uri": (out / "scored").as_uri(),
            "receipts_uri": (out / "receipts").as_uri(),
        }
    )
    parts = [Part.model_validate(part) for part in json.loads((root / "parts.json").read_text())]
    run = {WAYS[0]: _local, WAYS[1]: _by_uri, WAYS[2]: _through_arrow}[way]
    started, rows = run(job, parts, out)
    ended = time.perf_counter()
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "start": started - began,
        "score": ended - started,
        "cpu": sum(each.ru_utime + each.ru_stime for each in usage),
        "rows": rows,
    }


def _local(job: ScoringJob, parts: list[Part], out: Path) -> tuple[float, int]:
    from include.engines.local import Local

    list(Local(workers=1).score(job, parts[:1]))  # loads the model
    started = time.perf_counter()
    return started, sum(receipt.scored for receipt in Local(workers=2).score(job, parts))


def _session() -> Any:
    from include.spark.rendering import rendered
    from include.spark.session import spark_session

    return spark_session(MASTER, rendered(MASTER, {}), "bench")


def _by_uri(job: ScoringJob, parts: list[Part], out: Path) -> tuple[float, int]:
    from include.engine_config import SparkEngine
    from include.engines.spark import Spark

    with _session():
        engine = Spark(SparkEngine(kind="spark", master=MASTER))
        list(engine.score(job, parts[:2]))  # starts the Python workers, which load the model
        started = time.perf_counter()
        return started, sum(receipt.scored for receipt in engine.score(job, parts))


def _through_arrow(job: ScoringJob, parts: list[Part], out: Path) -> tuple[float, int]:
    """What one writes without Daybreak, with the same scorer: read, mapInArrow, write."""
    from include.spark.session import use_python

    inputs = tuple(column.name for column in job.model.inputs)
    folder = storage.local_path(storage.join(job.model.uri, "model"))
    cache: dict[str, Any] = {}

    def score(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa

        from include.scorers import open_scorer

        if "scorer" not in cache:
            cache["scorer"] = open_scorer(folder, "lightgbm", inputs, "probability")
        for batch in batches:
            values = cache["scorer"].score(batch.select(list(inputs)))
            names = ("model_name", "model_version", "model_digest", "run_id")
            texts = (job.model.name, job.model.version, job.model.digest, job.run_id)
            columns = {"id": batch["id"], "score": values}
            columns |= {n: pa.repeat(t, batch.num_rows) for n, t in zip(names, texts, strict=True)}
            yield pa.RecordBatch.from_pydict(columns)

    schema = (
        "id long, score double, model_name string, model_version string, model_digest string, "
        "run_id string"
    )
    with _session() as spark:
        use_python(spark, MASTER, None)

        def scored(some: list[Part], to: str) -> None:
            read = spark.read.parquet(*(part.uri for part in some))
            read.mapInArrow(score, schema).write.option("compression", "zstd").parquet(to)

        scored(parts[:2], str(out / "warm"))
        started = time.perf_counter()
        scored(parts, str(out / "all"))
        return started, sum(part.rows for part in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.way:
            print(json.dumps(measure(given.way, given.root, Path(folder))))
            return
        root = Path(folder)
        prepare(root, given.rows)
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(given.rounds):
            for way in WAYS:
                command = [sys.executable, "-m", "bench.spark", "--way", way, "--root", str(root)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
                print(way, found[way][-1], file=sys.stderr, flush=True)
        print(f"{given.rows:,} rows, medians of {given.rounds}")
        for way, runs in found.items():
            median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            print(
                f"{way:32} start {median['start']:6.1f} s  score {median['score']:6.1f} s  "
                f"{median['rows'] / median['score']:10,.0f} rows/s  CPU {median['cpu']:6.1f} s"
            )


if __name__ == "__main__":
    main()
