"""flows/prefect.yaml and what a run shows in Prefect, without a server."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest
import yaml

from flows import deployments
from flows.artifacts import key_of
from flows.deployments import prefect_yaml
from include.deadlines import next_deadline
from include.settings import PROJECT
from tests.world import PIPELINE_YAML

PIPELINES = PROJECT / "include" / "pipelines"


def folder(root: Path, name: str, **schedule: str | None) -> None:
    content = yaml.safe_load(PIPELINE_YAML)
    content["schedule"] |= schedule
    content["schedule"] = {key: value for key, value in content["schedule"].items() if value}
    (root / name).mkdir(parents=True)
    (root / name / "pipeline.yaml").write_text(yaml.safe_dump(content), "utf-8")
    (root / name / "features.sql").write_text("SELECT 1 AS account_id", "utf-8")
    (root / name / "suite.yaml").write_text("expectations: []\n", "utf-8")


def entries(root: Path) -> dict[str, dict[str, object]]:
    found = yaml.safe_load(prefect_yaml(root))["deployments"]
    return {f"{each['entrypoint'].rpartition('.')[2]}/{each['name']}": each for each in found}


def test_prefect_yaml_is_what_the_pipeline_folders_say() -> None:
    written = (PROJECT / "flows" / "prefect.yaml").read_text("utf-8")
    assert written == prefect_yaml(PIPELINES), "write it again: python -m flows.deployments"


def test_every_pipeline_folder_has_its_deployments(tmp_path: Path) -> None:
    folder(tmp_path, "nightly")
    folder(tmp_path, "by-hand", cron=None, deadline=None)
    folder(tmp_path, "whenever", deadline=None)
    found = entries(tmp_path)
    assert set(found) == {
        "scoring/nightly",
        "backfill/nightly",
        "deadline/nightly",
        "scoring/by-hand",
        "backfill/by-hand",
        "scoring/whenever",
        "backfill/whenever",
    }
    assert found["scoring/by-hand"]["schedules"] == []
    assert found["scoring/nightly"]["schedules"] == [
        {"slug": "cron", "cron": "30 2 * * *", "timezone": "Europe/Berlin", "active": True}
    ]


def test_the_scheduled_run_never_waits_behind_a_backfill(tmp_path: Path) -> None:
    folder(tmp_path, "nightly")
    found = entries(tmp_path)
    queues = {flow: each["work_pool"]["work_queue_name"] for flow, each in found.items()}  # type: ignore[index]
    assert len(set(queues.values())) == len(queues)
    assert found["scoring/nightly"]["concurrency_limit"] == {
        "limit": 1,
        "collision_strategy": "ENQUEUE",
    }
    assert "concurrency_limit" not in found["backfill/nightly"]


@pytest.mark.parametrize(
    ("cron", "deadline", "seconds"),
    [
        ("0 5 * * *", "08:00", 3 * 3600),
        ("0 22 * * *", "08:00", 9 * 3600),  # of the next morning, in the night of spring
        ("0 */6 * * *", "08:00", 2 * 3600),  # the run of 06:00
        ("0 8 * * *", "08:00", 10),
        ("0 4 1 * *", "08:00", 4 * 3600),
    ],
)
def test_the_automation_never_comes_after_the_deadline(
    tmp_path: Path, cron: str, deadline: str, seconds: int
) -> None:
    folder(tmp_path, "nightly", cron=cron, deadline=deadline)
    (trigger,) = entries(tmp_path)["deadline/nightly"]["triggers"]  # type: ignore[misc]
    assert trigger["within"] == seconds


def test_a_run_in_the_night_of_a_clock_change_is_due_on_the_wall_clock() -> None:
    start = dt.datetime(2026, 3, 28, 21, 0, tzinfo=dt.UTC)  # 22:00 in Berlin
    due = next_deadline(start, dt.time(8), "Europe/Berlin")
    assert due == dt.datetime(2026, 3, 29, 6, 0, tzinfo=dt.UTC)  # 08:00, nine hours after


def test_a_changed_folder_is_found_and_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder(tmp_path / "pipelines", "nightly")
    monkeypatch.setenv("DAYBREAK_PIPELINES", str(tmp_path / "pipelines"))
    file = tmp_path / "prefect.yaml"
    given = ["--file", str(file)]
    assert deployments.main([*given, "--check"]) == 1
    assert deployments.main(given) == 0
    assert deployments.main([*given, "--check"]) == 0
    folder(tmp_path / "pipelines", "another")
    assert deployments.main([*given, "--check"]) == 1
    (tmp_path / "pipelines" / "another" / "pipeline.yaml").write_text("no: such\n", "utf-8")
    assert deployments.main(given) == 2
    assert "another" in capsys.readouterr().err


def test_every_pipeline_has_artifact_keys_of_its_own_that_prefect_allows() -> None:
    names = ["flight_delay", "flight-delay", "Flight_delay", "flight.delay", "flight_delay2"]
    keys = [key_of(name) for name in names]
    assert keys[0] == "flight-delay"
    assert len(set(keys)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]+", key) for key in keys)
