"""Poison rows, stopped runs and workers elsewhere, from the model to the report."""

from __future__ import annotations

import html
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from include import storage
from include.errors import PartFailed, PermanentError
from include.receipts import failures, receipts
from include.run import Run
from include.scoring import ScoringJob, load_job, open_job
from include.settings import PROJECT
from include.snapshots import load_manifest, read_part
from include.workspace import Workspace
from tasks.drift import drift
from tasks.extract import extract
from tasks.gate import gate
from tasks.plan import plan
from tasks.publish import publish
from tasks.report import report
from tasks.score import _job, score
from tests.inbox import Inbox
from tests.world import FEATURES, MODEL, ROWS, World, tracked

# A test may wait for a child that shares two cores with seven others.
PATIENCE_SECONDS = 600.0


class Churn:
    """A classifier of a colleague: raises for the balances `poison`, and waits where it is told."""

    classes_ = np.array([0, 1])
    feature_names_in_ = np.array([*FEATURES])
    _estimator_type = "classifier"

    def __init__(self, poison: tuple[float, ...] = (), began: str = "", go_on: str = "") -> None:
        self.poison, self.began, self.go_on = poison, began, go_on

    def fit(self, X: Any, y: Any) -> Churn:
        return self

    def predict_proba(self, X: Any) -> Any:
        if self.began:
            with Path(self.began).open("a") as file:
                file.write(f"{os.getpid()}\n")
            while not Path(self.go_on).exists():
                time.sleep(0.05)
        bad = X["balance"].isin(self.poison)
        if bad.any():
            raise ValueError(f"a balance of {X['balance'][bad].iloc[0]:.6f} is not in my table")
        share = 1 / (1 + np.exp(-X["balance"].fillna(0).to_numpy() / 5000))
        return np.column_stack([1 - share, share])


def register(world: World, model: Churn, alias: str = "production") -> None:
    """Make it the next version of the world's model, with the alias."""
    import cloudpickle
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    import tests.test_poison_run as here

    cloudpickle.register_pickle_by_value(here)
    types = {"tenure_days": "long", "region": "string"}
    columns = [ColSpec(types.get(name, "double"), name, required=False) for name in FEATURES]
    with tracked(world.registry):
        mlflow.set_experiment("tiny")
        with mlflow.start_run():
            info = mlflow.sklearn.log_model(
                model,
                name="model",
                signature=ModelSignature(Schema(columns), Schema([ColSpec("double")])),
                registered_model_name=MODEL,
                serialization_format="cloudpickle",
                pip_requirements=[],
            )
        version = str(info.registered_model_version)
        mlflow.MlflowClient().set_registered_model_alias(MODEL, alias, version)


def _balances(world: World, run: Run) -> list[pa.Table]:
    manifest = load_manifest(extract(run))
    return [read_part(part, ["account_id", "channel", "balance"]) for part in manifest.parts]


def _poisoned(world: World, parts: list[int]) -> list[dict[str, Any]]:
    """Register a model that raises on a row of each of these parts; the keys of the rows."""
    tables = _balances(world, plan(world.request(run="look")))
    chosen: list[dict[str, Any]] = []
    for part in parts:
        taken = {row["balance"] for row in chosen}
        rows = tables[part].slice(5).to_pylist()
        chosen.append(
            next(row for row in rows if (row["balance"] or 0) > 1 and row["balance"] not in taken)
        )
    register(world, Churn(tuple(row["balance"] for row in chosen)))
    return chosen


def test_poison_rows_are_quarantined_counted_and_explained_to_the_end(tiny: World) -> None:
    bad = _poisoned(tiny, [0, 2, 2])
    run = plan(tiny.request())
    snapshot = extract(run)
    passed = gate(run, snapshot)
    scored = score(run, snapshot, passed)
    assert (scored.failed, scored.rows_in) == (3, ROWS)
    assert scored.scored == ROWS - 3 - passed.quarantined
    published = publish(run, snapshot, passed, scored)
    assert published.rows == scored.scored
    drift(run, snapshot, passed, scored)
    written = report("tiny", run.run_id)
    content = json.loads(storage.read(written.json_uri))
    assert content["state"] == "published"
    counts = content["counts"]
    assert (counts["quarantined"], counts["failed"], counts["reconciles"]) == (
        3 + passed.quarantined,
        3,
        True,
    )
    reasons = [reason["reason"] for reason in content["gate"]["reasons"]]
    assert sum("is not in my table" in reason for reason in reasons) == 3
    page = storage.read(written.html).decode()
    assert "3 because the model failed on them" in page
    assert "is not in my table" in page
    # The same again redoes nothing and says the same.
    again = score(run, snapshot, passed)
    assert (again.failed, again.reused_parts) == (3, again.parts)
    _versions_and_why_say_so(tiny, bad[0])


def _versions_and_why_say_so(tiny: World, key: dict[str, Any]) -> None:
    day = str(tiny.day)
    listed = _daybreak("versions", "tiny", "--date", day, "--json")
    assert listed.returncode == 0, listed.stderr
    assert json.loads(listed.stdout)["versions"][0]["lineage"]["failed"] == 3
    why = _daybreak(
        "why", "tiny", "--date", day,
        "--key", f"account_id={key['account_id']}", "--key", f"channel={key['channel']}",
    )  # fmt: skip
    assert why.returncode == 1
    assert "the model failed: ValueError: a balance of" in " ".join(why.stderr.split())


def test_more_poison_than_the_share_allows_stops_the_run_with_keys_and_reasons(
    tiny: World,
) -> None:
    tiny.configure({"gate": {"max_quarantined_share": 2 / ROWS}})
    key = _poisoned(tiny, [0, 1, 2])[0]
    run = plan(tiny.request())
    snapshot = extract(run)
    with pytest.raises(PermanentError) as caught:
        score(run, snapshot, gate(run, snapshot))
    said = str(caught.value)
    assert f"account_id={key['account_id']}, channel={key['channel']}" in said
    assert "part 0" in said
    assert "is not in my table" in said
    assert "max_quarantined_share" in said
    # The report has the message too: it is where a person looks first.
    content = json.loads(storage.read(report("tiny", run.run_id).json_uri))
    assert content["state"] == "failed"
    assert content["problem"]["found"] == caught.value.found


def test_what_failed_in_a_part_reaches_airflows_log_the_report_and_whoever_is_told(
    tiny: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.configure({"gate": {"max_quarantined_share": 0}})
    key = _poisoned(tiny, [1])[0]
    with Inbox() as inbox:
        monkeypatch.setenv("DAYBREAK_NOTIFY", inbox.url)
        done = subprocess.run(
            [sys.executable, "-m", "dags.local", "tiny", "--date", str(tiny.day)],
            cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    runs = Workspace(tiny.workspace, "tiny").runs()
    found = [entry.uri for entry in storage.entries(runs) if "/steps/" not in entry.uri]
    pages = {uri.rpartition("/")[2]: uri for uri in found}
    (told,) = inbox.messages
    for place, text in {
        "Airflow's log": done.stdout + done.stderr,
        "the report's page": html.unescape(storage.read(pages["report.html"]).decode()),
        "the report": json.loads(storage.read(pages["report.json"]))["problem"]["found"],
        "the message": told["message"],
    }.items():
        said = " ".join(text.split())
        for words in (
            "part 1",
            f"account_id={key['account_id']}, channel={key['channel']}",
            f"a balance of {key['balance']:.6f} is not in my table",
        ):
            assert words in said, (place, said[-3000:])


def test_an_error_with_a_part_and_a_key_survives_pickling() -> None:
    error = PartFailed("it failed", part=3, key="id=1", do="mend it", where="file:///x")
    again = pickle.loads(pickle.dumps(error.located("p", "2026-01-01")))
    assert (again.part, again.key, str(again)) == (3, "id=1", str(error))


def _planned_job(world: World) -> tuple[ScoringJob, Any, Any, Run]:
    run = plan(world.request())
    snapshot = extract(run)
    passed = gate(run, snapshot)
    from include.pipeline import planned_pipeline

    config = planned_pipeline(run).config
    job = open_job(_job(run, config, snapshot, load_manifest(snapshot), passed))
    return job, snapshot, passed, run


def _tasks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tasks", "score", *arguments],
        cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip


def _daybreak(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "daybreak", *arguments],
        cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
        env={**os.environ, "COLUMNS": "400"},
    )  # fmt: skip


def test_a_worker_needs_the_jobs_uri_alone_and_the_step_takes_what_it_finished(
    tiny: World,
) -> None:
    job, snapshot, passed, run = _planned_job(tiny)
    done = _tasks(job.uri, "--parts", "0-1")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.get("state") for line in lines] == ["started", None, None, "done"]
    assert {line["part"] for line in lines[1:3]} == {0, 1}
    assert lines[-2]["parts_done"] == lines[-2]["parts"] == 2
    assert lines[-2]["rows_per_second"] > 0
    assert [receipt.part for receipt in receipts(job)] == [0, 1]
    again = _tasks(job.uri, "--parts", "0,1")
    assert [json.loads(line)["state"] for line in again.stdout.splitlines()] == ["started", "done"]
    scored = score(run, snapshot, passed)
    assert (scored.parts, scored.reused_parts) == (3, 2)
    assert load_job(scored.uri) == job


def test_a_worker_that_fails_leaves_word_until_the_part_is_scored(tiny: World) -> None:
    job, snapshot, _, _ = _planned_job(tiny)
    part = load_manifest(snapshot).parts[1]
    path = storage.local_path(part.uri)
    assert path is not None
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    done = _tasks(job.uri, "--parts", "0-2")
    assert done.returncode == 1
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["state"], last["retry"], last["error"]) == ("failed", False, "CorruptData")
    [failure] = failures(job)
    assert (failure.part, failure.error, failure.permanent) == (1, "CorruptData", True)
    assert "part 1 of the snapshot is not the file" in str(failure.as_error())
    path.write_bytes(content)
    assert _tasks(job.uri).returncode == 0
    assert failures(job) == []
    assert len(receipts(job)) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--parts", "7"), 1, "no part 7"),
        (("--parts", "3-1"), 2, "no range of parts"),
        (("--parts", "x"), 2, "no part"),
    ],
)
def test_parts_that_are_none_are_refused(
    tiny: World, arguments: tuple[str, ...], code: int, said: str
) -> None:
    job, *_ = _planned_job(tiny)
    done = _tasks(job.uri, *arguments)
    assert done.returncode == code
    assert said in done.stdout + done.stderr


def test_a_job_that_is_gone_is_said_in_one_line(tiny: World) -> None:
    done = _tasks(Workspace(tiny.workspace, "tiny").at("nowhere", "job.json"))
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"] == "CorruptData"


def _wait_for(path: Path) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.05)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _has_left_word(workspace: Workspace) -> None:
    """The step that the run was in says in its record that it was stopped."""
    written = [entry.uri for entry in storage.entries(workspace.runs())]
    [record] = [uri for uri in written if uri.endswith("/steps/score.json")]
    content = json.loads(storage.read(record))
    assert content["outcome"] == "failed"
    assert "the step was stopped" in content["error"]["found"]
    run_id = record.removeprefix(workspace.runs()).split("/")[1]
    assert json.loads(storage.read(report("tiny", run_id).json_uri))["state"] == "failed"


@pytest.mark.parametrize("command", ["tasks", "daybreak"])
def test_sigterm_ends_a_command_at_once_and_the_same_command_goes_on(
    tiny: World, tmp_path: Path, command: str
) -> None:
    began, go_on = tmp_path / "began", tmp_path / "go on"
    register(tiny, Churn(began=str(began), go_on=str(go_on)))
    if command == "tasks":
        job, *_ = _planned_job(tiny)
        line = ["tasks", "score", job.uri, "--workers", "1"]
    else:
        line = ["daybreak", "run", "tiny", "--date", str(tiny.day)]
    process = subprocess.Popen(
        [sys.executable, "-m", *line],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    _wait_for(began)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    # The model would have waited for ever: the part was dropped, not finished.
    assert process.returncode == 75
    assert "topped by SIGTERM" in said
    assert all(_gone(int(pid)) for pid in began.read_text().split())
    if command == "daybreak":
        _has_left_word(Workspace(tiny.workspace, "tiny"))
    go_on.touch()
    done = subprocess.run(
        [sys.executable, "-m", *line], cwd=PROJECT, capture_output=True, text=True,
        timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
