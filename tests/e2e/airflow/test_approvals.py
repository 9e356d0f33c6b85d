"""A version that the audit holds: a person answers on Airflow's page, or in a shell."""

from __future__ import annotations

import datetime as dt
import json

import pytest

import daybreak
from tests.e2e.airflow.conftest import HELD_DAYS
from tests.e2e.airflow.deployment import Deployment
from tests.e2e.airflow.pages import Browser
from tests.e2e.airflow.readers import require_one_whole_version
from tests.world import ROWS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

VALUE = "customer_value"
REJECTED, APPROVED = HELD_DAYS
BEFORE, IN_A_SHELL = REJECTED - dt.timedelta(days=1), APPROVED + dt.timedelta(days=1)
ASK = "approval.ask"


@pytest.fixture(scope="module")
def value(running: Deployment) -> str:
    """A pipeline with a published day, after which the scores moved, of one day meanwhile."""
    running.add(VALUE, {"schedule": {"cron": None, "deadline": None}, "drift": {"trailing": 0}})
    running.world.execute(
        f"UPDATE accounts SET visits = whole.visits FROM accounts whole WHERE whole.account_id = "
        f"accounts.account_id AND whole.event_date = '{BEFORE}' AND accounts.event_date = "
        f"'{APPROVED}'"
    )
    for day in (BEFORE, APPROVED):
        done = running.shell("run", VALUE, "--date", str(day), "--json")
        assert done.exit_code == 0, done.stderr
    running.world.execute(f"UPDATE accounts SET visits = 0 WHERE event_date = '{APPROVED}'")
    return VALUE


def test_a_version_that_a_person_rejects_on_its_page_is_not_published(
    airflow: Deployment, value: str, browser: Browser
) -> None:
    run = airflow.trigger(value, partition_date=str(REJECTED))
    run.wait_for(ASK, "deferred")
    asked = airflow.call("GET", f"{run.path}/taskInstances/{ASK}/-1/hitlDetails")
    assert asked["subject"] == f"Publish the predictions of {value} for {REJECTED}?"
    for said in ("PSI", "score_shift", f"{ROWS:,} in", "daybreak approve", "/report.html"):
        assert said in asked["body"]
    assert asked["options"] == ["Approve", "Reject"]
    # People were told before anybody answered, and of how to.
    message = airflow.inbox.wait(120, title="held, waits for a person")
    assert message is not None
    assert f"daybreak approve {value} --date {REJECTED}" in message["message"]
    assert run.report["state"] == "held"
    browser.question(run)
    browser.shoot("approval", width=1280, height=1000)
    browser.answer("Reject", "the source lost its visits")
    assert run.ended() == "failed"
    assert browser.colour(run) == "red"
    states = run.states
    assert (states["publish"], states[ASK]) == ("skipped", "success")
    assert states["approval.publish_approved"] == "failed"
    assert (states["drift"], states["announce"]) == ("upstream_failed", "upstream_failed")
    content = run.report
    assert content["state"] == "failed"
    assert "rejected by admin" in content["problem"]["found"]
    assert "the source lost its visits" in content["problem"]["found"]
    status = airflow.shell("status", value, "--offline", "--json", "--from", str(REJECTED))
    (state, *_) = json.loads(status.stdout)["partitions"]
    assert (state["state"], "rejected by" in state["reasons"][0]) == ("failed", True)


def test_a_version_that_a_person_approves_through_the_api_is_published_and_the_run_green(
    airflow: Deployment, value: str
) -> None:
    run = airflow.trigger(value, partition_date=str(APPROVED))
    run.wait_for(ASK, "deferred")
    airflow.call(
        "PATCH",
        f"{run.path}/taskInstances/{ASK}/-1/hitlDetails",
        {
            "chosen_options": ["Approve"],
            "params_input": {"reason": "a strike: nobody visits"},
        },
    )
    assert run.ended() == "success", run.states
    states = run.states
    assert states.pop("publish") == "skipped"
    assert set(states.values()) == {"success"}
    assert require_one_whole_version(value, APPROVED).rows == ROWS
    assert daybreak.read(value, APPROVED).num_rows == ROWS
    content = run.report
    assert content["state"] == "published"
    assert "approved by admin" in content["publish"]["note"]
    assert content["drift"] is not None
    versions = airflow.shell("versions", value, "--date", str(APPROVED), "--json")
    (replaced, version) = json.loads(versions.stdout)["versions"]
    assert content["publish"]["replaced"] == replaced["version"]
    assert version["approval"]["reason"] == "a strike: nobody visits"
    events = airflow.call("GET", f"assets/events?source_dag_id={value}")["asset_events"]
    assert [event["source_run_id"] for event in events] == [run.id]


def test_an_answer_in_a_shell_is_noticed_by_the_task_that_waits(
    airflow: Deployment, value: str
) -> None:
    run = airflow.trigger(value, partition_date=str(IN_A_SHELL))
    run.wait_for(ASK, "deferred")
    done = airflow.shell(
        *("approve", value, "--date", str(IN_A_SHELL), "--by", "ann", "--reason", "over again"),
        "--json",
    )
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["outcome"] == "published"
    assert run.ended() == "success", run.states
    assert run.states["approval.publish_approved"] == "success"
    assert "approved by ann" in run.report["publish"]["note"]
    detail = airflow.call("GET", f"{run.path}/taskInstances/{ASK}/-1/hitlDetails")
    assert detail["response_received"] and detail["chosen_options"] == ["Approve"]
    again = airflow.shell("approve", value, "--date", str(IN_A_SHELL), "--by", "bob", "--json")
    assert again.exit_code == 0, again.stderr
    printed = json.loads(again.stdout)
    assert (printed["outcome"], printed["answer"]["by"]) == ("unchanged", "ann")
    require_one_whole_version(value, IN_A_SHELL)
