"""A run that a person starts: through the form, or through the REST API."""

from __future__ import annotations

import datetime as dt
import json
from itertools import pairwise

import pytest
from playwright.sync_api import expect

from include.errors import PermanentError
from tests.e2e.airflow.deployment import DagRun, Deployment
from tests.e2e.airflow.pages import Browser
from tests.e2e.airflow.readers import require_one_whole_version
from tests.world import MODEL, ROWS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

CHURN, FOLLOWER = "customer_churn", "follower"
DAY = dt.date(2026, 2, 5)
TASKS = ("plan", "extract", "gate", "score", "publish", "announce", "drift", "report", "verdict")
APPROVAL = ("approval.ask", "approval.publish_approved")

# Rows of old accounts are set aside, so that what is counted has two parts.
YOUNG = """\
expectations:
  - type: expect_column_values_to_be_between
    kwargs: {column: tenure_days, min_value: 0, max_value: 1980}
    severity: warning
"""


@pytest.fixture(scope="module")
def churn(running: Deployment) -> str:
    """A pipeline whose runs only people start, and one that waits for its table."""
    today = dt.date.today()
    next_tick = today + dt.timedelta(days=40)
    running.add(
        CHURN,
        {
            "description": "Which customers are likely to leave in the next 30 days",
            "owner": "growth",
            "tags": ["customers"],
            "schedule": {
                "cron": f"30 2 {next_tick.day} {next_tick.month} *",
                "deadline": "08:00",
                "start_date": today - dt.timedelta(days=30),
            },
        },
        suite=YOUNG,
    )
    waits = {"assets": [f"daybreak/{CHURN}"], "cron": "0 5 1 1 *", "deadline": None}
    running.add(FOLLOWER, {"schedule": waits, "model": {"name": "no-such-model"}})
    return CHURN


@pytest.fixture(scope="module")
def published(running: Deployment, churn: str) -> DagRun:
    """The first run, asked for through the REST API, once it has ended."""
    run = running.trigger(churn, partition_date=str(DAY))
    run.ended()
    return run


def test_a_run_through_the_api_publishes_one_whole_version(
    airflow: Deployment, published: DagRun
) -> None:
    assert published.ended() == "success", published.states
    assert published.states == dict.fromkeys(TASKS, "success") | dict.fromkeys(APPROVAL, "skipped")
    manifest = require_one_whole_version(CHURN, DAY)
    assert (manifest.rows_in, published.report["state"]) == (ROWS, "published")
    assert manifest.quarantined > 0


def test_what_a_person_types_into_the_form_is_what_the_run_does(
    airflow: Deployment, published: DagRun, browser: Browser
) -> None:
    form = browser.open_form(CHURN)
    form.locator("[name=element_partition_date]").fill(DAY.isoformat())
    form.locator("[name=element_model_version]").fill("1")
    browser.shoot("form", height=1320, of=form)
    run = browser.trigger(form)
    assert run.ended() == "success", run.states
    assert browser.colour(run) == "green"
    asked = json.loads((run.records / "request.json").read_text("utf-8"))
    assert (asked["partition_date"], asked["model_version"]) == (str(DAY), "1")
    # The same rows and the same model: readers have it, and nobody is told of it again.
    assert (run.report["state"], run.states["announce"]) == ("unchanged", "skipped")
    assert require_one_whole_version(CHURN, DAY).version == run.report["publish"]["version"]


def test_the_form_says_what_each_field_is_for(
    airflow: Deployment, churn: str, browser: Browser
) -> None:
    said = browser.open_form(churn).inner_text()
    for label in ("Partition date", "Model version", "Model alias", "Engine", "Rescore", "Dry run"):
        assert label in said
    for explained in (
        "in Europe/Berlin",
        MODEL,
        "As the pipeline says (local)",
        "All: in any case",
    ):
        assert explained in said
    assert "null" not in said


def test_others_are_told_of_a_new_version_once(airflow: Deployment, published: DagRun) -> None:
    again = airflow.trigger(CHURN, partition_date=str(DAY), rescore="missing")
    assert again.ended() == "success"
    assert {state for task, state in again.states.items() if task != "plan"} == {"skipped"}
    events = airflow.call("GET", f"assets/events?source_dag_id={CHURN}")["asset_events"]
    assert [event["source_run_id"] for event in events] == [published.id]
    extra, manifest = events[0]["extra"], require_one_whole_version(CHURN, DAY)
    assert (extra["as_of"], extra["version"]) == (str(DAY), manifest.version)
    assert (extra["outcome"], extra["rows"]) == ("published", manifest.rows)
    assert extra["model"] == MODEL


def test_a_new_version_starts_what_waits_for_it_and_the_cron_stands_in(
    airflow: Deployment, published: DagRun
) -> None:
    def kinds() -> set[str]:
        return {run.shown["run_type"] for run in airflow.runs(FOLLOWER)}

    airflow.until(lambda: kinds() >= {"asset_triggered", "scheduled"}, "both kinds of run")
    assert len(airflow.runs(FOLLOWER, "asset_triggered")) == 1


def test_a_date_in_the_future_is_a_red_run_with_one_clear_line(
    airflow: Deployment, churn: str, browser: Browser
) -> None:
    before = len(list(airflow.inbox.messages))
    form = browser.open_form(churn)
    form.locator("[name=element_partition_date]").fill("2999-01-01")
    run = browser.trigger(form)
    assert run.ended() == "failed"
    assert browser.colour(run) == "red"
    assert (run.states["plan"], run.tasks["plan"]["try_number"]) == ("failed", 1)
    found = run.report["problem"]["found"]
    assert "2999-01-01 lies in the future" in found and "\n" not in found
    assert airflow.inbox.messages[before:], "people were told of the failure"


@pytest.mark.parametrize("conf", [{"partition_date": "yesterday"}, {"rescore": "some"}])
def test_a_value_of_the_wrong_kind_makes_no_run(
    airflow: Deployment, churn: str, conf: dict[str, str]
) -> None:
    before = len(airflow.runs(churn))
    with pytest.raises(PermanentError, match=f"answered 400 .*{next(iter(conf.values()))}"):
        airflow.trigger(churn, **conf)
    assert len(airflow.runs(churn)) == before


def test_every_link_of_a_run_opens_what_it_names(
    airflow: Deployment, published: DagRun, browser: Browser
) -> None:
    links = {name: url for name, url in published.links.items() if url}
    assert set(links) == {"plan/Model version", "publish/Table version", "report/Report"}
    version = require_one_whole_version(CHURN, DAY).version
    for name in ("report/Report", "publish/Table version"):
        answer = airflow.fetch(links[name], token=airflow.token)
        assert answer.status == 200
        assert version in answer.body.decode() and 'id="lineage"' in answer.body.decode()
    assert airflow.fetch(links["plan/Model version"]).status == 200
    browser.page.goto(links["plan/Model version"])
    browser.page.get_by_text("Version 1", exact=True).first.wait_for()
    assert MODEL in browser.page.inner_text("body")


def test_a_report_opens_in_airflow_for_who_may_see_the_run(
    airflow: Deployment, published: DagRun, browser: Browser
) -> None:
    report = browser.report(published)
    assert report.get_by_text("every row accounted for").is_visible()
    browser.shoot("report", width=1280, height=860)
    page = f"/daybreak/{CHURN}/{published.id}/report.html"
    assert airflow.fetch(page).status == 401
    assert airflow.fetch(page, token="not.a.token").status in (401, 403)
    answer = airflow.fetch(page, token=airflow.token)
    assert "sandbox" in answer.headers["content-security-policy"]
    assert b"Daybreak run report" in answer.body
    assert airflow.fetch(page, cookie=f"_token={airflow.token}").status == 200
    for other in (
        f"/daybreak/{CHURN}/{published.id}/run.json",
        f"/daybreak/{CHURN}/no-such-run/report.html",
        f"/daybreak/..%2F{CHURN}/{published.id}/report.html",
        f"/daybreak/%2E%2E/{published.id}/report.html",
    ):
        assert airflow.fetch(other, token=airflow.token).status == 404
    plugins = airflow.call("GET", "plugins")["plugins"]
    views = [view["name"] for plugin in plugins for view in plugin["external_views"]]
    assert "Report" in views


def test_the_graph_shows_the_steps_in_their_order(
    airflow: Deployment, published: DagRun, browser: Browser
) -> None:
    graph = browser.open_graph(published)
    for task in ("plan", "extract", "gate", "score", "publish", "approval", "drift", "verdict"):
        expect(graph.get_by_text(task, exact=True).first).to_be_visible()
    browser.shoot("graph", height=560)
    # Each step has an edge from the one before it alone, or nobody would see their order.
    edges = {
        task["task_id"]: sorted(task["downstream_task_ids"])
        for task in airflow.call("GET", f"dags/{CHURN}/tasks")["tasks"]
    }
    for before, after in pairwise(("plan", "extract", "gate", "score", "publish")):
        assert edges[before] == [after]
    assert edges["publish"] == ["announce", "approval.ask", "drift"]
