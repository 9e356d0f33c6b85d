"""The registry is asked once; what it gave is pinned, whole and verified."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from include import storage
from include.config import Model
from include.errors import BadConfig, CorruptData, PermanentError, TransientError
from include.models.pinned import folder_digest, local_model
from include.models.registry import find_model, pin_model
from include.run import ModelInput, ModelVersion
from include.scorers import open_scorer
from include.settings import PROJECT
from include.workspace import Workspace
from tests.world import FEATURES, MODEL, World, tracked

CHURN = Model(name=MODEL, output="probability")


@pytest.fixture
def workspace(tiny: World) -> Workspace:
    return Workspace(tiny.workspace, tiny.name)


def _folder(model: ModelVersion) -> Path:
    path = storage.local_path(model.uri)
    assert path is not None
    return path


def test_an_alias_is_pinned_to_the_version_that_it_names_today(
    tiny: World, workspace: Workspace
) -> None:
    first = pin_model(CHURN, workspace)
    assert (first.name, first.version, first.alias) == (MODEL, "1", "production")
    assert tiny.register_model(seed=2) == "2"
    second = pin_model(CHURN, workspace)
    assert second.version == "2"
    assert second.digest != first.digest
    # The older run still has its own model.
    assert folder_digest(local_model(first)) == first.digest


def test_a_version_that_is_asked_for_goes_before_the_alias(
    tiny: World, workspace: Workspace
) -> None:
    tiny.register_model(seed=2)
    found = pin_model(CHURN, workspace, version="1")
    assert (found.version, found.alias) == ("1", None)


def test_the_signature_and_the_flavor_are_read_without_loading_the_model(
    workspace: Workspace,
) -> None:
    model = pin_model(CHURN, workspace)
    assert model.flavor == "lightgbm"
    assert tuple(column.name for column in model.inputs) == FEATURES
    assert model.inputs[3] == ModelInput(name="region", type="string", required=False)


def test_the_training_reference_lies_beside_the_pinned_model(workspace: Workspace) -> None:
    model = pin_model(CHURN, workspace)
    profile = json.loads(storage.read(storage.join(model.uri, "training_profile.json")))
    assert profile["score_column"] == "churn_probability"
    assert storage.exists(storage.join(model.uri, "training_sample.parquet"))


def test_pinning_again_is_the_same_model_and_writes_nothing(workspace: Workspace) -> None:
    first = pin_model(CHURN, workspace)
    before = {path: path.stat().st_mtime_ns for path in _folder(first).rglob("*")}
    assert pin_model(CHURN, workspace) == first
    assert {path: path.stat().st_mtime_ns for path in _folder(first).rglob("*")} == before


def test_a_pinned_model_scores_without_the_registry(tiny: World, workspace: Workspace) -> None:
    model = pin_model(CHURN, workspace)
    Path(tiny.registry.removeprefix("sqlite:///")).unlink()
    scorer = open_scorer(local_model(model), model.flavor, FEATURES, "probability")
    row = {"balance": 10.0, "visits": None, "tenure_days": 5, "region": "east"}
    (batch,) = (
        pa.Table.from_pylist([row])
        .cast(
            pa.schema(
                [
                    ("balance", pa.float64()),
                    ("visits", pa.float64()),
                    ("tenure_days", pa.int64()),
                    ("region", pa.string()),
                ]
            )
        )
        .to_batches()
    )
    assert 0 < scorer.score(batch)[0].as_py() < 1


def test_a_copy_that_was_cut_short_is_not_trusted_and_made_again(workspace: Workspace) -> None:
    model = pin_model(CHURN, workspace)
    # As a process leaves it that dies before the marker, which is written last.
    (_folder(model) / "pinned.json").unlink()
    (_folder(model) / "model" / "model.lgb").write_bytes(b"half a mod")
    with pytest.raises(CorruptData, match="not there or not whole"):
        local_model(model)
    assert pin_model(CHURN, workspace) == model
    assert folder_digest(local_model(model)) == model.digest


@pytest.mark.parametrize("change", ["a byte", "a file more", "a file less"])
def test_a_pinned_model_that_was_changed_is_not_loaded(workspace: Workspace, change: str) -> None:
    model = pin_model(CHURN, workspace)
    folder = _folder(model) / "model"
    if change == "a byte":
        content = bytearray((folder / "model.lgb").read_bytes())
        content[-5] ^= 1
        (folder / "model.lgb").write_bytes(content)
    elif change == "a file more":
        (folder / "sitecustomize.py").write_text("print('hello')")
    else:
        (folder / "conda.yaml").unlink()
    with pytest.raises(CorruptData, match="was changed"):
        local_model(model)


def test_what_mlflow_writes_into_a_folder_that_it_loads_is_no_change(workspace: Workspace) -> None:
    import mlflow.pyfunc

    model = pin_model(CHURN, workspace)
    mlflow.pyfunc.load_model(str(local_model(model)))
    (_folder(model) / "model" / "registered_model_meta").write_text("model_name: x\n")
    assert local_model(model).is_dir()


def test_the_digest_is_the_same_wherever_the_folder_lies(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "data").mkdir(parents=True)
        for file in ("b.txt", "a.txt", "data/c.bin") if name == "one" else ("data/c.bin",):
            (tmp_path / name / file).write_bytes(file.encode())
    (tmp_path / "two" / "a.txt").write_bytes(b"a.txt")
    (tmp_path / "two" / "b.txt").write_bytes(b"b.txt")
    assert folder_digest(tmp_path / "one") == folder_digest(tmp_path / "two")
    (tmp_path / "two" / "b.txt").rename(tmp_path / "two" / "d.txt")
    assert folder_digest(tmp_path / "one") != folder_digest(tmp_path / "two")


def test_an_unknown_model_is_answered_with_those_that_there_are(tiny: World) -> None:
    with pytest.raises(BadConfig, match=r"no model 'tiny-chrun'; it has tiny-churn"):
        find_model("tiny-chrun", "production")


def test_an_unknown_alias_is_answered_with_the_aliases_and_versions(tiny: World) -> None:
    tiny.register_model(seed=2, alias="candidate")
    with pytest.raises(BadConfig, match=r"versions 1, 2 and aliases candidate, production") as it:
        find_model(MODEL, "champion")
    assert "set_registered_model_alias" in str(it.value)


@pytest.mark.parametrize("version", ["9", "latest", "1 OR 1"])
def test_an_unknown_version_is_answered_with_those_that_there_are(
    tiny: World, version: str
) -> None:
    with pytest.raises(BadConfig, match=f"no version '{version}'; it has 1"):
        find_model(MODEL, "production", version)


def test_the_old_stage_production_stands_in_for_the_alias_and_is_labelled_so(
    tiny: World, caplog: pytest.LogCaptureFixture
) -> None:
    with tracked(tiny.registry):
        import mlflow

        client = mlflow.MlflowClient()
        client.delete_registered_model_alias(MODEL, "production")
        client.transition_model_version_stage(MODEL, "1", "Production")
    found = find_model(MODEL, "production")
    assert (found.version, found.alias) == ("1", "stage Production")
    assert "old stage" in caplog.text
    with pytest.raises(BadConfig, match="alias 'champion'"):
        find_model(MODEL, "champion")


def test_a_mistyped_registry_is_not_created_empty(
    tiny: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "mflow.db"
    monkeypatch.setenv("DAYBREAK_REGISTRY", f"sqlite:///{missing}")
    with pytest.raises(BadConfig, match="DAYBREAK_REGISTRY"):
        find_model(MODEL, "production")
    assert not missing.exists()


def test_a_registry_that_does_not_answer_may_be_tried_again(
    tiny: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv("DAYBREAK_REGISTRY", f"http://user:secret@127.0.0.1:{port}")
        with pytest.raises(TransientError) as caught:
            find_model(MODEL, "production")
    assert "secret" not in str(caught.value).split(" answered: ")[0]


def test_a_locked_registry_may_be_tried_again(tiny: World) -> None:
    database = sqlite3.connect(tiny.registry.removeprefix("sqlite:///"), isolation_level=None)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(TransientError, match="locked"):
            find_model(MODEL, "production")
    finally:
        database.close()


def test_models_whose_files_are_gone_are_named(tiny: World, workspace: Workspace) -> None:
    with sqlite3.connect(tiny.registry.removeprefix("sqlite:///")) as database:
        database.execute("UPDATE model_versions SET storage_location = 'file:///nowhere/m'")
    with pytest.raises(PermanentError, match="/nowhere/m"):
        pin_model(CHURN, workspace)


def _register(tiny: World, signature: Any) -> None:
    import lightgbm
    import numpy as np

    rows = np.random.default_rng(0).random((80, 2))
    data = lightgbm.Dataset(rows, rows[:, 0] > 0.5)
    booster = lightgbm.train({"objective": "binary", "verbosity": -1}, data, 2)
    with tracked(tiny.registry):
        import mlflow

        mlflow.set_experiment("tiny")
        mlflow.lightgbm.log_model(
            booster,
            name="model",
            signature=signature,
            registered_model_name="odd",
            pip_requirements=[],
        )


def test_a_model_without_a_signature_says_how_to_log_one(tiny: World, workspace: Workspace) -> None:
    _register(tiny, None)
    odd = Model(name="odd", output="probability")
    with pytest.raises(PermanentError, match=r"odd version 1.*infer_signature"):
        pin_model(odd, workspace, version="1")


def test_a_model_of_unnamed_columns_says_how_to_name_them(
    tiny: World, workspace: Workspace
) -> None:
    import numpy as np
    from mlflow.models import infer_signature

    _register(tiny, infer_signature(np.zeros((3, 2))))
    odd = Model(name="odd", output="probability")
    with pytest.raises(PermanentError, match="names no columns"):
        pin_model(odd, workspace, version="1")


def test_planning_prints_nothing_of_mlflows(tiny: World) -> None:
    code = (
        "from include.config import Model; from include.models.registry import pin_model\n"
        "from include.workspace import Workspace\n"
        f"workspace = Workspace({tiny.workspace!r}, 'tiny')\n"
        f"pin_model(Model(name={MODEL!r}, output='probability'), workspace)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | tiny.env,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout + done.stderr == ""


def test_nothing_heavy_is_imported_to_know_the_registry() -> None:
    code = (
        "import sys, include.models.registry, include.models.pinned\n"
        "heavy = {'mlflow', 'pandas', 'pyarrow', 'numpy', 'sqlalchemy', 'obstore'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
