"""What starts a pipeline's runs in Airflow, when they are due, and what they tell other DAGs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daybreak.run import run_steps
from include import storage
from include.config import Schedule
from include.new_versions import is_new, news_of
from include.pipeline import load_pipeline
from include.run import Published, Run
from include.workspace import Workspace
from tests.test_dags import PROJECT, parse, write_pipeline
from tests.test_notify import Silent
from tests.world import PIPELINE_YAML, World

CRON = '  cron: "30 2 * * *"\n'
DEADLINE = '  deadline: "08:00"\n'
ASSETS = '  assets: [daybreak/orders, "s3://lake/customers"]\n'


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("schedules") / "pipelines"
    write_pipeline(root / "churn")
    write_pipeline(root / "waits", PIPELINE_YAML.replace(CRON, ASSETS).replace(DEADLINE, ""))
    write_pipeline(root / "either", PIPELINE_YAML.replace(CRON, CRON + ASSETS))
    write_pipeline(root / "never_late", PIPELINE_YAML.replace(CRON, ASSETS))
    write_pipeline(root / "bad_cron", PIPELINE_YAML.replace("30 2", "99 2").replace(CRON, ASSETS))
    bad = PIPELINE_YAML.replace("30 2", "99 2").replace(DEADLINE, DEADLINE + ASSETS)
    (root / "bad_cron" / "pipeline.yaml").write_text(bad, "utf-8")
    return root


@pytest.fixture(scope="module")
def dags(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = parse(tmp_path_factory.mktemp("parsed"), folders)["dags"]
    return found


def test_a_deadline_is_the_wall_clocks_in_the_zone(dags: dict[str, Any]) -> None:
    (deadline,) = dags["churn"]["deadline"]
    assert deadline == {
        "reference_type": "08:00 Europe/Berlin",
        "time": "08:00:00",
        "zone": "Europe/Berlin",
        "interval": 0,
        "callback": "AsyncCallback",  # in the triggerer: most executors take none
        "path": "dags.deadline.missed",
    }


def test_a_pipeline_without_a_deadline_has_no_alarm(dags: dict[str, Any]) -> None:
    assert dags["waits"]["deadline"] == []


def test_a_pipeline_may_wait_for_assets_alone(dags: dict[str, Any]) -> None:
    assert dags["waits"]["timetable"] == "AssetTriggeredTimetable"
    assert dags["waits"]["assets"] == ["daybreak/orders", "s3://lake/customers"]
    assert "when updated: `daybreak/orders`, `s3://lake/customers`" in dags["waits"]["doc_md"]


def test_a_cron_stands_in_for_assets_that_do_not_come(dags: dict[str, Any]) -> None:
    dag = dags["either"]
    assert dag["timetable"] == "AssetOrTimeSchedule"
    assert (dag["cron"], dag["timezone"]) == ("30 2 * * *", "Europe/Berlin")
    assert dag["assets"] == ["daybreak/orders", "s3://lake/customers"]
    assert len(dag["deadline"]) == 1


def test_a_deadline_beside_assets_needs_a_run_that_can_be_late(dags: dict[str, Any]) -> None:
    shown = dags["never_late__config_error"]["doc_md"]
    assert "schedule: a deadline beside assets needs a cron" in shown
    assert "pipeline.yaml:2" in shown


def test_a_cron_that_airflow_refuses_is_an_error_beside_assets_too(dags: dict[str, Any]) -> None:
    assert "99 2 * * *" in dags["bad_cron__config_error"]["doc_md"]


def test_the_table_is_read_by_drift_and_its_versions_are_told_by_announce(
    dags: dict[str, Any],
) -> None:
    tasks = dags["churn"]["tasks"]
    assert tasks["drift"]["inlets"] == ["daybreak/churn"]
    assert tasks["announce"]["outlets"] == ["daybreak/churn"]
    assert tasks["announce"]["upstream"] == ["approval.publish_approved", "publish"]
    others = [task for name, task in tasks.items() if name not in ("announce", "drift")]
    assert not any(task["inlets"] or task["outlets"] for task in others)


def test_only_scheduled_runs_are_due_and_nothing_stops_a_run(folders: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.run_deadlines", str(tmp_path / "airflow"), "churn"],
        env=os.environ
        | {
            "DAYBREAK_PIPELINES": str(folders),
            "DAYBREAK_HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(PROJECT),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    # 08:00 in Berlin, after the night that moved its clocks.
    assert found.pop("scheduled") == "2026-03-29T06:00:00+00:00"
    assert {"manual", "backfill", "asset_triggered", "a broken reference"} < set(found)
    assert set(found.values()) == {None}


def test_on_is_a_key_and_its_events_are_checked(tmp_path: Path) -> None:
    write_pipeline(tmp_path / "some", PIPELINE_YAML + "notify: {on: [held, published]}\n")
    assert load_pipeline(tmp_path / "some").config.notify.on == ("held", "published")
    write_pipeline(tmp_path / "none", PIPELINE_YAML + "notify:\n  on: []\n")
    assert load_pipeline(tmp_path / "none").config.notify.on == ()
    write_pipeline(tmp_path / "other", PIPELINE_YAML + "notify:\n  on: [drifted]\n")
    with pytest.raises(Exception, match=r"notify\.on\.0.*drift.*deadline"):
        load_pipeline(tmp_path / "other")


def test_a_deadline_alone_is_shown_and_waits_for_a_cron() -> None:
    assert Schedule.model_validate({"deadline": "08:00"}).assets == ()


def test_consumers_are_told_of_a_version_once(tiny: World) -> None:
    def published(run_id: str) -> tuple[Run, Published]:
        report = run_steps(tiny.request(run=run_id), Silent()).report
        assert report is not None
        folder = Workspace(tiny.workspace, tiny.name).run(report.run_id)
        record = json.loads(storage.read(storage.join(folder, "steps", "publish.json")))
        run = Run.model_validate_json(storage.read(storage.join(folder, "run.json")))
        return run, Published.model_validate(record["result"])

    first, made = published("first")
    assert made.outcome == "published" and is_new(first, made)
    news = news_of(first, made)
    assert (news["as_of"], news["rows"]) == (str(tiny.day), 300)
    assert (news["version"], news["outcome"]) == (made.version, "published")
    # The attempt that moved the table was killed; its repeat, of the same plan, finds it moved.
    assert is_new(first, made.model_copy(update={"outcome": "unchanged"}))
    again, unchanged = published("again")
    assert unchanged.outcome == "unchanged" and not is_new(again, unchanged)
