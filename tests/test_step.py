"""Every step leaves a record, however it ends, and one structured line in the log."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from include import storage
from include.errors import PermanentError
from include.run import Snapshot, StepRecord
from include.workspace import Workspace, run_id_of
from tasks.step import recorded

SNAPSHOT = Snapshot(uri="file:///s", digest="d", rows=12, parts=1)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path.as_uri(), "tiny")


def _record(workspace: Workspace) -> StepRecord:
    return StepRecord.model_validate_json(storage.read(workspace.step("cli-1", "extract")))


def test_a_step_that_succeeds_records_its_result_and_logs_its_counts(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO, "daybreak"),
        recorded("extract", workspace, "cli-1", "2024-05-01") as recorder,
    ):
        recorder.result = SNAPSHOT
    record = _record(workspace)
    assert (record.outcome, record.result) == ("success", SNAPSHOT.model_dump(mode="json"))
    (line,) = [json.loads(entry.message) for entry in caplog.records]
    assert line["pipeline"] == "tiny"
    assert (line["step"], line["partition"], line["rows"]) == ("extract", "2024-05-01", 12)


def test_our_own_error_is_recorded_with_its_place_and_what_to_do(workspace: Workspace) -> None:
    with (
        pytest.raises(PermanentError, match="^tiny 2024-05-01: no rows"),
        recorded("extract", workspace, "cli-1", "2024-05-01"),
    ):
        raise PermanentError("no rows", do="load the day", where="tiny/features.sql")
    record = _record(workspace)
    assert record.outcome == "failed"
    assert record.error == {
        "error": "PermanentError",
        "found": "no rows",
        "do": "load the day",
        "where": "tiny/features.sql",
        "pipeline": "tiny",
        "partition": "2024-05-01",
    }


def test_any_other_error_is_recorded_too_and_leaves_as_it_came(workspace: Workspace) -> None:
    with pytest.raises(ZeroDivisionError), recorded("extract", workspace, "cli-1"):
        1 / 0  # noqa: B018
    record = _record(workspace)
    assert record.error is not None
    assert record.error["error"] == "ZeroDivisionError"


def test_a_failed_step_keeps_the_result_that_explains_the_failure(workspace: Workspace) -> None:
    with pytest.raises(PermanentError), recorded("extract", workspace, "cli-1") as recorder:
        recorder.result = SNAPSHOT
        raise PermanentError("not good enough")
    assert _record(workspace).result == SNAPSHOT.model_dump(mode="json")


@pytest.mark.parametrize(
    ("own_id", "run_id"),
    [
        ("scheduled__2026-02-02T01:30:00+00:00", "airflow-scheduled__2026-02-02T01_30_00_00_00"),
        ("../../etc/passwd", "airflow-.._.._etc_passwd"),
        ("a b/c", "airflow-a_b_c"),
    ],
)
def test_a_run_id_is_one_safe_name_in_a_path(own_id: str, run_id: str) -> None:
    assert run_id_of("airflow", own_id) == run_id
    assert "/" not in run_id
