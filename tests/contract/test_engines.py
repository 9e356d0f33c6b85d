"""What every engine promises: the same bytes, a receipt per part, and a clean stop at a failure."""

from __future__ import annotations

import datetime as dt
import hashlib
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from include import storage
from include.config import Engine as EngineConfig
from include.engines import MEMBERS, Engine, open_engine
from include.engines.local import Local, available_cores
from include.errors import CorruptData, PermanentError, TransientError
from include.models.mlmodel import MLmodel
from include.models.pinned import folder_digest, store_model
from include.run import ModelVersion, Part, Receipt
from include.scoring import ScoringJob, load_job, receipts
from include.settings import PROJECT

PARTS, PART_ROWS = 9, 40
FEATURES = ("visits", "balance")
SIGNATURE = ModelSignature(
    Schema([ColSpec("double", name) for name in FEATURES]), Schema([ColSpec("double")])
)


def _features(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(PART_ROWS, 2))


def _save_booster(folder: Path) -> None:
    import lightgbm
    import mlflow.lightgbm

    rows = np.random.default_rng(1).normal(size=(400, 2))
    data = lightgbm.Dataset(rows, rows.sum(axis=1) > 0, feature_name=list(FEATURES))
    booster = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 5)
    mlflow.lightgbm.save_model(booster, folder, signature=SIGNATURE, pip_requirements=[])


def _save_classifier(folder: Path, model: Any = None) -> None:
    import mlflow.sklearn
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(1).normal(size=(400, 2))
    model = model or LogisticRegression()
    model.fit(pd.DataFrame(rows, columns=list(FEATURES)), rows.sum(axis=1) > 0)
    mlflow.sklearn.save_model(
        model,
        folder,
        signature=SIGNATURE,
        serialization_format="cloudpickle",
        pip_requirements=[],
    )


@dataclass(frozen=True)
class Work:
    """A job in storage and the parts to score."""

    job: ScoringJob
    parts: list[Part]

    def files(self) -> dict[str, bytes]:
        """The scored files, by name."""
        found = storage.entries(self.job.parts_uri)
        return {entry.uri.rpartition("/")[2]: storage.read(entry.uri) for entry in found}


def _work(root: Path, model: Path, flavor: str) -> Work:
    digest = folder_digest(model)
    pinned = (root / "pinned").as_uri()
    store_model(model, {}, pinned, digest=digest, name="m", version="1")
    parts = []
    for index in range(PARTS):
        rows = _features(index)
        table = pa.table(
            {
                "id": pa.array(np.arange(PART_ROWS) + index * PART_ROWS),
                "visits": pa.array(rows[:, 0]),
                "balance": pa.array(rows[:, 1]),
            }
        )
        file = root / f"part-{index:05d}.parquet"
        pq.write_table(table, file)
        content = file.read_bytes()
        parts.append(
            Part(
                index=index,
                uri=file.as_uri(),
                rows=PART_ROWS,
                bytes=len(content),
                digest=hashlib.sha256(content).hexdigest(),
            )
        )
    job = ScoringJob(
        pipeline="p",
        as_of=dt.date(2026, 1, 1),
        version="v1",
        run_id="r",
        scored_at=dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC),
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
    return Work(load_job(job.uri), parts)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    _save_booster(folder / "lightgbm")
    _save_classifier(folder / "sklearn")
    return {"lightgbm": folder / "lightgbm", "sklearn": folder / "sklearn"}


@pytest.fixture
def work(tmp_path: Path, models: dict[str, Path]) -> Callable[[str], Work]:
    def make(flavor: str) -> Work:
        root = tmp_path / f"work-{len(list(tmp_path.iterdir()))}"
        root.mkdir()
        return _work(root, models[flavor], flavor)

    return make


# spawn_seconds=0: processes however small the work.
ENGINES: dict[str, tuple[Engine, str]] = {
    "local, one after another": (Local(workers=1), "lightgbm"),
    "local, threads": (Local(workers=3), "lightgbm"),
    "local, processes": (Local(workers=2, spawn_seconds=0), "sklearn"),
}


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> tuple[Engine, str]:
    return ENGINES[request.param]


def _nobody_works() -> bool:
    threads = [t.name for t in threading.enumerate() if t.name.startswith("score")]
    return not threads and not multiprocessing.active_children()


def test_every_engine_is_under_this_contract() -> None:
    assert {name.split(",")[0] for name in ENGINES} == set(MEMBERS)
    assert isinstance(open_engine(EngineConfig(workers=2)), Local)


def test_every_part_gets_a_receipt_that_is_stored_when_it_is_given(
    engine: tuple[Engine, str], work: Callable[[str], Work]
) -> None:
    chosen, flavor = engine
    there = work(flavor)
    given: list[Receipt] = []
    for receipt in chosen.score(there.job, there.parts):
        assert receipt in receipts(there.job)
        given.append(receipt)
    assert sorted(receipt.part for receipt in given) == list(range(PARTS))
    assert {(r.rows_in, r.scored, r.quarantined) for r in given} == {(PART_ROWS, PART_ROWS, 0)}
    assert _nobody_works()


def test_every_engine_writes_the_same_bytes(
    engine: tuple[Engine, str], work: Callable[[str], Work]
) -> None:
    chosen, flavor = engine
    there, alone = work(flavor), work(flavor)
    list(chosen.score(there.job, there.parts))
    list(Local(workers=1).score(alone.job, alone.parts[::-1]))
    assert len(there.files()) == PARTS
    assert there.files() == alone.files()


def test_no_parts_need_no_model(engine: tuple[Engine, str], work: Callable[[str], Work]) -> None:
    chosen, flavor = engine
    there = work(flavor)
    broken = there.job.model_copy(update={"model": there.job.model.model_copy(update={"uri": "x"})})
    assert list(chosen.score(broken, [])) == []


def test_a_failure_is_raised_as_it_was_and_what_was_finished_stays(
    engine: tuple[Engine, str], work: Callable[[str], Work]
) -> None:
    chosen, flavor = engine
    there = work(flavor)
    broken = storage.local_path(there.parts[3].uri)
    assert broken is not None
    broken.write_bytes(broken.read_bytes()[:-1])
    given = []
    with pytest.raises(CorruptData, match="part 3 of the snapshot is not the file") as caught:
        for receipt in chosen.score(there.job, there.parts):
            given.append(receipt)
    assert caught.value.do
    assert _nobody_works()
    assert 3 not in {receipt.part for receipt in receipts(there.job)}
    assert {r.part for r in given} <= {r.part for r in receipts(there.job)}


def test_after_a_failure_no_new_part_is_begun(work: Callable[[str], Work]) -> None:
    there = work("lightgbm")
    for part in there.parts:
        path = storage.local_path(part.uri)
        assert path is not None
        path.unlink()
    with pytest.raises(CorruptData):
        list(Local(workers=2).score(there.job, there.parts))
    assert there.files() == {}


def test_who_stops_listening_stops_the_work(
    engine: tuple[Engine, str], work: Callable[[str], Work]
) -> None:
    chosen, flavor = engine
    there = work(flavor)
    given = chosen.score(there.job, there.parts)
    next(given)
    given.close()  # type: ignore[attr-defined]
    assert _nobody_works()
    assert receipts(there.job)


def test_a_changed_model_scores_nothing(
    engine: tuple[Engine, str], work: Callable[[str], Work]
) -> None:
    chosen, flavor = engine
    there = work(flavor)
    path = storage.local_path(there.job.model.uri)
    assert path is not None
    (path / "model" / "MLmodel").write_text("flavors: {}")
    with pytest.raises(CorruptData, match="was changed"):
        list(chosen.score(there.job, there.parts))
    assert there.files() == {}


def test_small_work_starts_no_processes(work: Callable[[str], Work]) -> None:
    there = work("sklearn")
    given = Local(workers=2).score(there.job, there.parts)
    for _ in given:
        assert not multiprocessing.active_children()
    assert len(there.files()) == PARTS


def test_a_worker_that_the_system_kills_may_be_tried_again(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    class Greedy(LogisticRegression):  # type: ignore[misc]
        def predict_proba(self, X: Any) -> Any:
            if multiprocessing.parent_process() is not None:
                os.kill(os.getpid(), 9)
            return super().predict_proba(X)

    _save_classifier(tmp_path / "m", Greedy())
    there = _work(tmp_path, tmp_path / "m", "sklearn")
    with pytest.raises(TransientError, match="worker process ended"):
        list(Local(workers=2, spawn_seconds=0).score(there.job, there.parts))
    assert _nobody_works()


def test_an_error_of_the_library_names_the_part_also_from_a_process(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    class Picky(LogisticRegression):  # type: ignore[misc]
        def predict_proba(self, X: Any) -> Any:
            if abs(X["visits"].iloc[0] - picked) < 1e-12:
                raise ValueError("I do not like these rows")
            return super().predict_proba(X)

    picked = float(_features(5)[0, 0])
    _save_classifier(tmp_path / "m", Picky())
    there = _work(tmp_path, tmp_path / "m", "sklearn")
    with pytest.raises(PermanentError, match="failed on part 5: ValueError: I do not like"):
        list(Local(workers=2, spawn_seconds=0).score(there.job, there.parts))


def test_libraries_get_one_thread_in_every_worker(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    class Counting(LogisticRegression):  # type: ignore[misc]
        def predict_proba(self, X: Any) -> Any:
            from threadpoolctl import threadpool_info

            most = max(pool["num_threads"] for pool in threadpool_info())
            return np.full((len(X), 2), 0.5 if most == 1 else 0.9)

    _save_classifier(tmp_path / "m", Counting())
    there = _work(tmp_path, tmp_path / "m", "sklearn")
    list(Local(workers=2, spawn_seconds=0).score(there.job, there.parts))
    scores = [
        pq.read_table(pa.BufferReader(content))["score"].to_pylist()
        for content in there.files().values()
    ]
    assert {score for part in scores for score in part} == {0.5}


def test_zero_workers_are_the_cores_that_this_process_may_use() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from include.engines.local import available_cores; print(available_cores())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"
