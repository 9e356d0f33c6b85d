"""`python -m demo.prepare`: both models trained, judged, registered, and only as far as needed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from demo import customer_churn, flight_delay, registration
from demo.evaluation import evaluate
from demo.prepare import prepare
from include.drift.profiles import Profile
from include.errors import BadConfig
from include.models.pinned import local_model
from include.models.registry import pin_model
from include.scorers import open_scorer
from include.storage import join, read
from include.workspace import Workspace
from tests.demo_world import Home, opened, pipeline

pytest_plugins = ("tests.demo_fixtures",)

# On one worker: another would only wait for the models to be trained.


@pytest.fixture
def home(prepared: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The prepared home, for tests that leave it as it is; the environment points to it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in prepared.env.items():
        monkeypatch.setenv(name, value)
    return prepared


@pytest.fixture
def private(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of the prepared home, for tests that change it."""
    copy = Home(tmp_path / "home")
    shutil.copytree(home.path, copy.path)
    for name, value in copy.env.items():
        monkeypatch.setenv(name, value)
    return copy


def test_the_command_makes_everything_and_shows_how_good_the_models_are(prepared: Home) -> None:
    assert prepared.complained.read_text() == ""
    for said in ("437,346 rows", "flight_delay: AUC 0.7", "customer_churn: AUC 0.8", "Ready in"):
        assert said in prepared.said.read_text()
    assert prepared.warehouse.is_file()


def test_a_second_call_imports_no_training_library_and_changes_nothing(home: Home) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.path.rglob("*") if path.is_file()}
    code = (
        "import sys; from demo.prepare import main; code = main(); "
        "print(sorted({'mlflow', 'lightgbm', 'sklearn', 'pandas'} & set(sys.modules))); "
        "raise SystemExit(code)"
    )
    done = home.run("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")
    assert "registered already" in done.stdout
    after = {path: path.stat().st_mtime_ns for path in home.path.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    ("name", "auc", "calibration_error"),
    [("flight_delay", (0.71, 0.80), 0.05), ("customer_churn", (0.79, 0.88), 0.04)],
)
def test_the_registered_model_scores_held_out_rows_as_well_as_was_said(
    home: Home, name: str, auc: tuple[float, float], calibration_error: float
) -> None:
    """By the production path: pinned from the registry, loaded by its scorer, fed from Arrow."""
    one = pipeline(name)
    workspace = Workspace((home.path / "workspace").as_uri(), name)
    model = pin_model(one.config.model, workspace)
    scorer = open_scorer(
        local_model(model),
        model.flavor,
        tuple(column.name for column in model.inputs),
        one.config.model.output,
    )
    held_out, labels, counted = held_out_rows(home, name)
    (batch,) = held_out.combine_chunks().to_batches()
    scores = np.asarray(scorer.score(batch))
    found = evaluate(labels[counted], scores[counted])
    assert auc[0] < found.auc < auc[1]
    assert found.log_loss < found.base_log_loss - 0.03
    assert found.calibration_error < calibration_error

    types = {"int64": "long", "double": "double", "string": "string"}
    assert [(column.name, column.type) for column in model.inputs] == [
        (entry.name, types[str(entry.type)])
        for entry in held_out.schema
        if entry.name in set(scorer.columns)
    ]
    reference = Profile.model_validate_json(read(join(model.uri, "training_profile.json")))
    assert reference.rows == held_out.num_rows
    assert reference.score_column == one.config.predictions.score_column
    assert {column.name for column in reference.columns} == {
        *scorer.columns,
        one.config.predictions.score_column,
    }


def held_out_rows(home: Home, name: str) -> tuple[Any, Any, Any]:
    """Rows, labels, and which rows have one."""
    one = pipeline(name)
    with opened(home.warehouse) as source:
        if name == "flight_delay":
            table = flight_delay.read(one, source, *flight_delay.VALIDATION)
            return table, flight_delay.late(table), table["arr_delay"].is_valid().to_numpy()
        table = customer_churn.read(one, source, customer_churn.VALIDATION)
        return table, customer_churn.labels_of(table), np.full(table.num_rows, True)


def test_training_twice_gives_the_same_flight_model(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight_delay, "ROUNDS", 10)
    monkeypatch.setattr(flight_delay, "TRAINING", flight_delay.VALIDATION)
    with opened(home.warehouse) as source:
        first, second = (flight_delay.train(pipeline("flight_delay"), source) for _ in range(2))
    assert first.model.model_to_string() == second.model.model_to_string()
    assert (first.scores == second.scores).all()


def test_training_twice_gives_the_same_churn_model(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(customer_churn.PARAMS, "max_iter", 10)
    monkeypatch.setattr(customer_churn, "TRAINING", customer_churn.TRAINING[:1])
    with opened(home.warehouse) as source:
        first, second = (customer_churn.train(pipeline("customer_churn"), source) for _ in "12")
    assert (first.scores == second.scores).all()


def test_an_older_model_of_ours_is_replaced_and_somebody_elses_is_left_alone(
    private: Home,
) -> None:
    with registration.open_registry() as registry:
        client = registry._client
        client.delete_model_version_tag("flight_delay", "1", registration.TRAINED_FROM)
        client.set_model_version_tag("customer_churn", "1", registration.TRAINED_FROM, "older")
    console = Console(record=True, quiet=True)
    prepare(console)
    with registration.open_registry() as registry:
        flight = registry.production(pipeline("flight_delay"))
        churn = registry.production(pipeline("customer_churn"))
    assert flight == ("1", None)
    assert churn is not None
    assert churn[0] == "2"
    assert churn[1] not in (None, "older")


def test_a_file_that_the_demo_has_not_made_is_never_replaced(private: Home) -> None:
    private.warehouse.write_text("a warehouse of somebody else")
    with pytest.raises(BadConfig, match="has not made, so it is not replaced"):
        prepare(Console(quiet=True))
    assert private.warehouse.read_text() == "a warehouse of somebody else"


def test_registering_leaves_mlflows_settings_as_they_were(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example")
    with registration.open_registry():
        assert os.environ["MLFLOW_TRACKING_URI"] == home.env["DAYBREAK_REGISTRY"]
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://tracking.example"


def test_scores_that_are_as_often_right_as_they_say_have_no_calibration_error() -> None:
    labels = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    scores = np.array([0.25] * 4 + [0.75] * 4)
    honest = evaluate(labels, scores, bins=2)
    assert honest.calibration_error == 0
    assert [(entry.rows, entry.observed) for entry in honest.bins] == [(4, 0.25), (4, 0.75)]
    assert evaluate(labels, scores + 0.1, bins=2).calibration_error == pytest.approx(0.1)
    assert evaluate(labels, 1 - scores, bins=2).auc == pytest.approx(1 - honest.auc)
    assert honest.base_log_loss == pytest.approx(np.log(2))
