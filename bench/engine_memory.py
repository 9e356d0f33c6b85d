"""How much memory the local engine takes: it is bound by the part, not by the number of parts.

    python bench/engine_memory.py [--parts 4 16] [--part-rows 50000 100000 200000] [--workers 1 2]

Makes a snapshot of 28 features (25 numbers, 3 strings) for each size, and a small LightGBM model
(threads) and scikit-learn pipeline (processes); then scores it in a process of its own. `peak` is
the largest resident set of that process, with those of its worker processes where it has some, and
`a worker` what a thread adds to that of the process with its model loaded. MB are 2**20 bytes.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

NUMBERS = [f"number_{index}" for index in range(25)]
WORDS = [f"word_{index}" for index in range(3)]
VALUES = ["red", "green", "blue", "white"]


def features(rows: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {name: rng.normal(size=rows) for name in NUMBERS}
    return found | {name: rng.choice(VALUES, rows) for name in WORDS}


def save_models(folder: Path) -> None:
    import lightgbm
    import mlflow.lightgbm
    import mlflow.sklearn
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    frame = pd.DataFrame(features(5000, 1))
    target = frame["number_0"] > 0
    columns = [ColSpec("double", n) for n in NUMBERS] + [ColSpec("string", n) for n in WORDS]
    signature = ModelSignature(Schema(columns), Schema([ColSpec("double")]))
    data = lightgbm.Dataset(frame.astype(dict.fromkeys(WORDS, "category")), target)
    booster = lightgbm.train({"objective": "binary", "verbosity": -1}, data, 20)
    mlflow.lightgbm.save_model(
        booster, folder / "lightgbm", signature=signature, pip_requirements=[]
    )
    encoder = make_column_transformer((OrdinalEncoder(), WORDS), remainder="passthrough")
    pipeline = make_pipeline(encoder, HistGradientBoostingClassifier(max_iter=20))
    mlflow.sklearn.save_model(
        pipeline.fit(frame, target),
        folder / "sklearn",
        signature=signature,
        serialization_format="cloudpickle",
        pip_requirements=[],
    )


def save_job(root: Path, model: Path, flavor: str, parts: int, rows: int) -> str:
    """A job over `parts` parts of `rows` rows; its URI, with the parts as JSON beside it."""
    from include import storage
    from include.models.mlmodel import MLmodel
    from include.models.pinned import folder_digest, store_model
    from include.run import ModelVersion, Part
    from include.scoring import ScoringJob

    root.mkdir(parents=True)
    digest, pinned = folder_digest(model), (root / "pinned").as_uri()
    store_model(model, {}, pinned, digest=digest, name="m", version="1")
    made = []
    for index in range(parts):
        file = root / f"part-{index:05d}.parquet"
        key = np.arange(rows) + index * rows
        pq.write_table(pa.table({"id": key} | features(rows, index)), file, compression="zstd")
        content = file.read_bytes()
        made.append(
            Part(
                index=index,
                uri=file.as_uri(),
                rows=rows,
                bytes=len(content),
                digest=hashlib.sha256(content).hexdigest(),
            )
        )
    job = ScoringJob(
        pipeline="bench",
        as_of=dt.date(2026, 1, 1),
        version="v1",
        run_id="r",
        scored_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        model=ModelVersion(
            name="m",
            version="1",
            alias=None,
            flavor=flavor,
            digest=digest,
            uri=pinned,
            mlflow_run_id=None,
            inputs=MLmodel(model).inputs(),
        ),
        output="probability",
        key=("id",),
        pass_through=(),
        score_column="score",
        quarantine_uri=None,
        parts_uri=(root / "scored").as_uri(),
        receipts_uri=(root / "receipts").as_uri(),
    )
    storage.write(job.uri, job.model_dump_json().encode())
    listed = json.dumps([part.model_dump(mode="json") for part in made])
    (root / "parts.json").write_text(listed, "utf-8")
    return job.uri


def score(job_uri: str, root: Path, workers: int) -> None:
    """In a process of its own: score, and print the peaks as JSON."""
    from include.engines.local import Local
    from include.engines.worker import Worker
    from include.run import Part
    from include.scoring import load_job

    job = load_job(job_uri)
    parts = [Part.model_validate(part) for part in json.loads((root / "parts.json").read_text())]
    Worker(job)
    before, rows, processes = peak_mb(), 0, dict[int, float]()
    for receipt in Local(workers, spawn_seconds=0).score(job, parts):
        rows += receipt.scored
        for child in multiprocessing.active_children():
            processes[child.pid or 0] = max(processes.get(child.pid or 0, 0), peak_mb(child.pid))
    assert rows == sum(part.rows for part in parts)
    found = {"before": before, "own": peak_mb(), "processes": list(processes.values())}
    print(json.dumps(found))


def peak_mb(pid: int | None = None) -> float:
    """The largest resident set of a process so far; 0 where it is gone."""
    try:
        text = Path(f"/proc/{pid or 'self'}/status").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+)", text)
    return int(found[1]) / 1024 if found else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--part-rows", type=int, nargs="+", default=[50_000, 100_000, 200_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--score", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.score:
        score(options.score[0], Path(options.score[1]), int(options.score[2]))
        return
    print("| model | part rows | parts | workers | peak, MB | a worker, MB | MB per 100,000 rows |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="daybreak-bench-") as scratch:
        save_models(Path(scratch))
        for flavor in ("lightgbm", "sklearn"):
            for rows in options.part_rows:
                for parts in options.parts:
                    for workers in options.workers:
                        _row(Path(scratch), flavor, rows, parts, workers)


def _row(scratch: Path, flavor: str, rows: int, parts: int, workers: int) -> None:
    root = scratch / f"{flavor}-{rows}-{parts}-{workers}"
    uri = save_job(root, scratch / flavor, flavor, parts, rows)
    line = [sys.executable, __file__, "--score", uri, str(root), str(workers)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    processes = found["processes"]
    peak = found["own"] + sum(processes)
    worker = (found["own"] - found["before"]) / (1 if processes else workers)
    print(
        f"| {flavor} | {rows:,} | {parts} | {workers} | {peak:.0f} | {worker:.0f} | "
        f"{worker * 100_000 / rows:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
