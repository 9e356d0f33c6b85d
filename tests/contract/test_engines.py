"""What every engine promises: the same bytes, a receipt per part, and a clean stop at a failure."""

from __future__ import annotations

import datetime as dt
import hashlib
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
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
from include.engine_config import LocalEngine
from include.engines import MEMBERS, Engine, open_engine
from include.engines.local import Local, available_cores
from include.engines.spark import Spark
from include.errors import CorruptData, PartFailed, PermanentError, TransientError
from include.models.mlmodel import MLmodel
from include.models.pinned import folder_digest, store_model
from include.partition import Partition
from include.quarantine import read_quarantine, write_quarantine
from include.receipts import failures, receipts
from include.run import Column, ModelVersion, Part, Receipt, SnapshotManifest
from include.scoring import ScoringJob, load_job
from include.settings import PROJECT
from tests.spark_cluster import (
    connect_server,
    kept_session,
    on_cluster,
    on_this_machine,
    spark_cluster,
)

PARTS, PART_ROWS = 9, 40
FEATURES = ("visits", "balance")
COLUMNS = {"id": "int64", "visits": "double", "balance": "double"}
POISON = 1e9
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


def _work(
    root: Path,
    model: Path,
    flavor: str,
    poison: Mapping[int, tuple[int, ...]] | None = None,
    max_failed: int = 0,
) -> Work:
    """A job over PARTS parts; `poison` are rows, by part, that the poisonous model fails on."""
    digest = folder_digest(model)
    pinned = (root / "pinned").as_uri()
    store_model(model, {}, pinned, digest=digest, name="m", version="1")
    parts = []
    for index in range(PARTS):
        rows = _features(index)
        rows[list((poison or {}).get(index, ())), 1] = POISON
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
        snapshot_uri=_manifest(root, parts),
        max_failed=max_failed,
    )
    storage.write(job.uri, job.model_dump_json().encode())
    return Work(load_job(job.uri), parts)


def _manifest(root: Path, parts: list[Part]) -> str:
    manifest = SnapshotManifest(
        pipeline="p",
        partition=Partition.containing(dt.date(2026, 1, 1), "day"),
        digest="s" * 64,
        rows=sum(part.rows for part in parts),
        columns=tuple(Column(name=n, type=t) for n, t in COLUMNS.items()),
        parts=tuple(parts),
        query_digest="q" * 64,
        source="test",
        extracted_at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    )
    uri = (root / "snapshot.json").as_uri()
    storage.write(uri, manifest.model_dump_json().encode())
    return uri


@pytest.fixture(scope="module")
def poisonous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that raises on a batch with a row whose balance is POISON."""
    from sklearn.linear_model import LogisticRegression

    poison = POISON

    class Picky(LogisticRegression):  # type: ignore[misc]
        def predict_proba(self, X: Any) -> Any:
            if (X["balance"] == poison).any():
                raise ValueError("no customer has so much")
            return super().predict_proba(X)

    folder = tmp_path_factory.mktemp("poisonous") / "model"
    _save_classifier(folder, Picky())
    return folder


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


# Parts are scored in this very process: there is no other that could be killed.
IN_PROCESS = ("local, one after another", "local, threads")

# A JVM costs seconds of processor each: the smaller one is for the long tests.
LOCAL_SPARK, SPARK_CLUSTER = "spark, local[2]", "spark, one master and two workers"
CONNECT = "spark, Spark Connect"
LONG = "DAYBREAK_LONG_TESTS" in os.environ
SPARK = (LOCAL_SPARK, SPARK_CLUSTER, CONNECT) if LONG else (SPARK_CLUSTER,)


@pytest.fixture(scope="module", params=[*ENGINES, *SPARK])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, str]]:
    """One engine at a time; those on Spark share a session, which takes seconds to start."""
    with ExitStack() as stack:
        if request.param in ENGINES:
            yield ENGINES[request.param]
            return
        if request.param == CONNECT:
            folder = tmp_path_factory.mktemp("connect")
            yield Spark(stack.enter_context(connect_server(folder))), "lightgbm"
            return
        config = on_this_machine()
        if request.param == SPARK_CLUSTER:
            folder = tmp_path_factory.mktemp("cluster")
            config = on_cluster(stack.enter_context(spark_cluster(folder)))
        stack.enter_context(kept_session(config))
        yield Spark(config), "lightgbm"


def _nobody_works() -> bool:
    threads = [t.name for t in threading.enumerate() if t.name.startswith("score")]
    return not threads and not multiprocessing.active_children()


def test_every_engine_is_under_this_contract() -> None:
    assert {name.split(",")[0] for name in (*ENGINES, *SPARK)} <= set(MEMBERS)
    assert isinstance(open_engine(LocalEngine(workers=2)), Local)


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


def test_what_one_engine_began_another_finishes_with_the_same_bytes(
    engine: tuple[Engine, str], work: Callable[[str], Work]
) -> None:
    chosen, flavor = engine
    alone, begun_here, begun_there = work(flavor), work(flavor), work(flavor)
    list(Local(workers=1).score(alone.job, alone.parts))
    list(chosen.score(begun_here.job, begun_here.parts[:4]))
    list(Local(workers=1).score(begun_here.job, begun_here.parts[4:]))
    list(Local(workers=1).score(begun_there.job, begun_there.parts[:4]))
    list(chosen.score(begun_there.job, begun_there.parts[4:]))
    assert begun_here.files() == alone.files()
    assert begun_there.files() == alone.files()


def test_a_poison_row_costs_itself_and_no_other(
    engine: tuple[Engine, str], tmp_path: Path, poisonous: Path
) -> None:
    chosen, _ = engine
    clean, there = (tmp_path / "clean", tmp_path / "there")
    for folder in (clean, there):
        folder.mkdir()
    spared = _work(clean, poisonous, "sklearn")
    mixed = _work(there, poisonous, "sklearn", poison={4: (7,)}, max_failed=1)
    # The gate set the same row aside: what its part looks like without it.
    without = pa.table(
        {
            "part": pa.array([4], pa.int32()),
            "row": pa.array([7], pa.int64()),
            "id": pa.array([4 * PART_ROWS + 7]),
            "reason": ["by hand"],
        }
    )
    write_quarantine((clean / "aside.parquet").as_uri(), without)
    job = spared.job.model_copy(update={"quarantine_uri": (clean / "aside.parquet").as_uri()})
    list(Local(workers=1).score(job, spared.parts))
    given = {receipt.part: receipt for receipt in chosen.score(mixed.job, mixed.parts)}
    assert mixed.files() == spared.files()
    poisoned = given.pop(4)
    assert (poisoned.scored, poisoned.quarantined, poisoned.failed) == (PART_ROWS - 1, 0, 1)
    assert poisoned.failed_uri is not None
    [row] = read_quarantine(poisoned.failed_uri).to_pylist()
    assert row == {
        "part": 4,
        "row": 7,
        "id": 4 * PART_ROWS + 7,
        "reason": "the model failed: ValueError: no customer has so much",
    }
    assert {receipt.failed for receipt in given.values()} == {0}


def test_more_poison_than_allowed_names_the_part_the_first_key_and_the_reason(
    engine: tuple[Engine, str], tmp_path: Path, poisonous: Path
) -> None:
    chosen, _ = engine
    there = _work(tmp_path, poisonous, "sklearn", poison={4: (7, 30)}, max_failed=1)
    with pytest.raises(PartFailed) as caught:
        list(chosen.score(there.job, there.parts))
    said = str(caught.value)
    assert f"part 4, first on id={4 * PART_ROWS + 7}: ValueError: no customer has so much" in said
    assert "max_quarantined_share allows 1 to be left out" in said
    assert caught.value.key == f"id={4 * PART_ROWS + 7}"
    # Whoever looks from elsewhere reads the same.
    [failure] = failures(there.job)
    assert (failure.part, failure.key, failure.permanent) == (4, caught.value.key, True)
    assert str(failure.as_error()) == said
    assert 4 not in {receipt.part for receipt in receipts(there.job)}


@pytest.mark.parametrize(
    "engine", [name for name in (*ENGINES, *SPARK) if name not in IN_PROCESS], indirect=True
)
def test_a_killed_worker_costs_its_unfinished_part_and_no_other(
    engine: tuple[Engine, str], tmp_path: Path
) -> None:
    from sklearn.linear_model import LogisticRegression

    marker, parent = tmp_path / "killed", os.getpid()

    class Doomed(LogisticRegression):  # type: ignore[misc]
        def predict_proba(self, X: Any) -> Any:
            if os.getpid() != parent and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), 9)
            return super().predict_proba(X)

    _save_classifier(tmp_path / "m", Doomed())
    there = _work(tmp_path, tmp_path / "m", "sklearn")
    given = [receipt.part for receipt in engine[0].score(there.job, there.parts)]
    assert marker.exists()
    assert sorted(given) == list(range(PARTS))
    assert len(there.files()) == PARTS
    assert _nobody_works()


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
    with pytest.raises(TransientError, match="worker process was ended by SIGKILL at part"):
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
    with pytest.raises(PermanentError, match="part 5, first on id=200: ValueError: I do not like"):
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
