"""Credentials of the storage that only Airflow knows reach every process of Airflow's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from include import approvals, object_stores, storage
from include.approvals import Answer
from include.settings import PROJECT
from include.workspace import Workspace, run_id_of
from tasks.report import report
from tests.faults.s3_server import BUCKET, running
from tests.test_alarm import held
from tests.test_report import Night

ID, RUN = "predictions_s3", "manual__1"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What each process found; the storage lets in only who has the connection's keys."""
    home = tmp_path_factory.mktemp("connections")
    with running(guarded=True) as server, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "AIRFLOW_CONN_"))]:
            patch.delenv(name)
        patch.setattr(object_stores, "_given", {})
        patch.setattr(object_stores, "_found", {})
        storage._store.cache_clear()
        root = f"s3://{BUCKET}/{uuid.uuid4().hex}"
        patch.setenv("DAYBREAK_WORKSPACE", root)
        patch.setenv("DAYBREAK_STORAGE_CONNECTION", ID)
        children = dict(os.environ)  # without the keys
        extra = json.dumps({"region_name": "us-east-1", "endpoint_url": server.url})
        fields = {"conn_type": "aws", "login": server.key, "password": server.secret}
        patch.setenv(f"AIRFLOW_CONN_{ID.upper()}", json.dumps(fields | {"extra": extra}))
        night = Night(home, run_id_of("airflow", RUN))
        night.workspace = Workspace(root, "customer_churn")
        question = held(night)
        report("customer_churn", night.run_id)
        yes = Answer(verdict="approved", by="ann", at=question.held_at)
        approvals.answer(night.workspace, question, yes)
        plan = {
            "home": str(home / "airflow"),
            "connection": ID,
            "fields": fields | {"extra": extra},
            "workspace": root,
            "pipeline": "customer_churn",
            "airflow_run_id": RUN,
            "as_of": question.as_of.isoformat(),
            "version": question.version,
            "ti_id": str(uuid.uuid4()),
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.airflow_roles"],
            input=json.dumps(plan), env=children, cwd=PROJECT, capture_output=True, text=True,
        )  # fmt: skip
        storage._store.cache_clear()
    assert done.returncode == 0, done.stderr[-4000:]
    yield json.loads(done.stdout.splitlines()[-1])


def test_the_report_is_shown_with_a_connection_of_airflows_own(found: dict[str, Any]) -> None:
    assert found["page"] == "held"


def test_an_answer_is_taken_up_with_a_connection_of_airflows_own(found: dict[str, Any]) -> None:
    assert found["resumed"]["answer"]["by"] == "ann"
    assert found["resumed"]["answer"]["verdict"] == "approved"


def test_a_question_outlives_a_connection_that_is_missing_for_a_while(
    found: dict[str, Any],
) -> None:
    assert found["trigger"]["event"] == {"on_record": "approved"}
    (complaint,) = found["trigger"]["complaints"]
    assert f"there is no connection '{ID}'" in complaint


def test_a_question_whose_record_cannot_be_read_ends_with_its_time_limit(
    found: dict[str, Any],
) -> None:
    """The task goes on then, and fails with the error that says what to do."""
    assert found["too_late"]["event"] == {"on_record": "unknown"}
    assert len(found["too_late"]["complaints"]) == 1
