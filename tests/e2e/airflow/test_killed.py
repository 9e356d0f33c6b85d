"""A scheduler that dies in the middle of a run, alone and with all that it had started."""

from __future__ import annotations

import datetime as dt

import pytest
from sqlalchemy import create_engine, text

from tests.e2e.airflow.deployment import Deployment
from tests.e2e.airflow.pages import Browser, chromium
from tests.e2e.airflow.readers import require_one_whole_version
from tests.world import ROWS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

ORPHANED = "orphaned"
DAY = dt.date(2026, 1, 25)


def test_a_run_whose_scheduler_is_killed_twice_ends_green_with_one_whole_version(
    airflow: Deployment, request: pytest.FixtureRequest
) -> None:
    airflow.add(ORPHANED, {"schedule": {"cron": None, "deadline": None}})
    run = airflow.trigger(ORPHANED, partition_date=str(DAY))
    run.wait_for("extract", "running")
    airflow.restart_scheduler(with_its_tasks=False)
    run.wait_for("score", "running")
    airflow.restart_scheduler(with_its_tasks=True)
    assert run.ended() == "success", run.states
    assert run.tasks["score"]["try_number"] > 1
    assert run.report["state"] == "published"
    assert require_one_whole_version(ORPHANED, DAY).rows_in == ROWS
    assert set(airflow.airflow.health().values()) == {"healthy"}
    if chromium() is not None:
        browser: Browser = request.getfixturevalue("browser")
        assert browser.colour(run) == "green"


def test_a_lock_that_a_dead_scheduler_left_is_taken_from_it(airflow: Deployment) -> None:
    database = create_engine(airflow.airflow.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    try:
        with database.connect() as connection:
            # A killed scheduler's workers hold its connection, in the middle of a transaction.
            shown = connection.execute(text("SHOW idle_in_transaction_session_timeout"))
            limit = shown.scalar_one()
    finally:
        database.dispose()
    assert limit == "2min"
