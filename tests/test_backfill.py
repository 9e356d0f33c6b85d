"""A backfill: exactly the wanted partitions, one failure stops no other, and nothing is doubled."""

from __future__ import annotations

import datetime as dt
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import daybreak
from daybreak.airflow_api import AirflowApi, DagRun
from daybreak.backfill import (
    Backfill,
    Only,
    PartitionResult,
    Results,
    code_of_results,
    estimate,
    partitions_of,
    plan_backfill,
)
from daybreak.backfill_airflow import result_of, run_airflow
from daybreak.backfill_local import run_local
from daybreak.backfill_prefect import PrefectPlan, plan_prefect, run_of, run_prefect
from daybreak.backfill_prefect import result_of as result_of_flow_run
from daybreak.backfill_ticks import AirflowPlan, partition_of, plan_airflow, window
from daybreak.backfill_waits import QUIET_SECONDS
from daybreak.cli import app
from daybreak.prefect_api import FlowRun, PrefectApi
from daybreak.versions import table_of
from include.config import PipelineConfig
from include.errors import BadConfig, PermanentError, TransientError
from include.partition import Grain, Partition, partitions_between
from include.past_runs import Usual
from include.settings import PROJECT, AirflowServer, PrefectServer
from tests.world import ROWS, World, copy_world

NOW = dt.datetime(2026, 2, 9, 12, tzinfo=dt.UTC)  # the newest partition is of the 8th
FIRST, LAST = dt.date(2026, 2, 1), dt.date(2026, 2, 4)
BROKEN = dt.date(2026, 2, 2)


class Told:
    """A board that writes down what it is told, and may act on it."""

    def __init__(self, act: Any = None) -> None:
        self.doing: list[tuple[dt.date, str]] = []
        self.results: list[PartitionResult] = []
        self.messages: list[str] = []
        self.act = act

    def running(self, as_of: dt.date, doing: str) -> None:
        self.doing.append((as_of, doing))
        if self.act is not None:
            self.act(as_of, doing)

    def said(self, message: str) -> None:
        self.messages.append(message)

    def finished(self, result: PartitionResult) -> None:
        self.results.append(result)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100"})


def shell(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "daybreak", *arguments],
        cwd=PROJECT,
        env={**os.environ, "COLUMNS": "80", **world.env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def range_of(first: dt.date = FIRST, last: dt.date = LAST) -> tuple[str, ...]:
    return ("--from", str(first), "--to", str(last))


# What is planned


def test_a_dry_run_lists_each_partition_and_why_and_runs_nothing(tiny):
    result = invoke("backfill", "tiny", *range_of(), "--dry-run", "-n", "2")
    assert result.exit_code == 0, result.output
    for day in partitions_between(FIRST, LAST, "day"):
        assert re.search(rf"^ {day} +missing +run +it was never run", result.stdout, re.MULTILINE)
    said = " ".join(result.stdout.split())
    assert "4 of 4 partitions to run, 2 at a time. There is no whole run" in said
    assert not (tiny.home / "workspace").exists() or not list((tiny.home / "workspace").rglob("*"))


def test_an_estimate_counts_rounds_and_says_what_it_is_made_from(tiny):
    backfill = plan_backfill("tiny", FIRST, LAST, "missing", NOW)
    assert estimate(backfill, 1) is None
    known = Backfill(
        backfill.pipeline, backfill.workspace, "missing", backfill.planned, Usual(3, 1000, 90.0)
    )
    one, three = estimate(known, 1), estimate(known, 3)
    assert one is not None and (one.runs, one.rows, one.minutes) == (3, 4000, 6.0)
    assert three is not None and three.minutes == 3.0


def test_a_partition_that_cannot_be_scored_yet_is_refused_in_one_line(tiny):
    result = invoke("backfill", "tiny", "--from", "2026-02-01", "--to", "2126-01-01", "--dry-run")
    assert result.exit_code == 2
    assert "in the future: the newest partition that can be scored now is" in " ".join(
        result.stderr.split()
    )


def test_days_of_a_month_are_one_partition(tiny):
    tiny.configure({"partition": {"grain": "month"}})
    found = partitions_of(tiny.pipeline(), dt.date(2025, 11, 30), dt.date(2026, 1, 1), NOW)
    assert [str(each) for each in found] == ["2025-11-30", "2025-12-31", "2026-01-31"]
    with pytest.raises(BadConfig, match="2026-02-28 lies in the future"):
        partitions_of(tiny.pipeline(), dt.date(2026, 1, 1), dt.date(2026, 2, 1), NOW)


def test_a_range_that_ends_before_it_begins_is_refused_also_within_a_month(tiny):
    tiny.configure({"partition": {"grain": "month"}})
    with pytest.raises(BadConfig, match="Swap --from and --to"):
        partitions_of(tiny.pipeline(), dt.date(2026, 1, 9), dt.date(2026, 1, 8), NOW)


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["published", "unchanged"], 0),
        (["published", "held"], 3),
        (["held", "failed"], 1),
        (["published", "not run"], 1),
        ([], 0),
    ],
)
def test_the_exit_code_is_that_of_the_worst_partition(states, code):
    results = [PartitionResult(as_of=FIRST, state=state) for state in states]
    assert code_of_results(results) == code


def test_a_partition_whose_drift_failed_after_it_was_published_is_no_success():
    assert code_of_results([PartitionResult(as_of=FIRST, state="published", error="drift: …")]) == 1


# On this machine


@pytest.fixture(scope="module")
def filled(built_world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Any]:
    """A world of which four days were backfilled, two at a time; one has too few rows."""
    world = copy_world(built_world, tmp_path_factory.mktemp("filled") / "world")
    world.execute(f"DELETE FROM accounts WHERE event_date = '{BROKEN}' AND account_id > 1001")
    return world, shell(world, "backfill", "tiny", *range_of(), "--parallel", "2", "--json")


@pytest.fixture
def there(filled: tuple[World, Any], monkeypatch: pytest.MonkeyPatch) -> World:
    for name, value in filled[0].env.items():
        monkeypatch.setenv(name, value)
    return filled[0]


def test_a_partition_that_fails_does_not_stop_the_others(filled, there):
    done = filled[1]
    assert done.returncode == 1, done.stderr
    printed = json.loads(done.stdout)
    assert printed["exit_code"] == 1 and printed["states"] == {"published": 3, "failed": 1}
    for each in printed["partitions"]:
        assert each["run_id"] and Path(each["report"].removeprefix("file://")).exists()
        if each["as_of"] == str(BROKEN):
            assert (each["state"], each["rows"]) == ("failed", None)
            assert "rows" in each["error"]
        else:
            assert (each["state"], each["rows"], each["error"]) == ("published", ROWS, None)
            assert re.fullmatch(r"v[0-9a-f]{12}", each["version"])
            assert daybreak.read("tiny", each["as_of"]).num_rows == ROWS


def test_off_a_terminal_each_partition_is_one_plain_line(filled):
    err = filled[1].stderr
    assert "4 of 4 partitions to run, 2 at a time" in err
    assert "\x1b" not in err and not re.search("[⠀-⣿]", err)
    lines = re.findall(r"^  (\d)/4  2026-02-0\d  (published|failed) +[\d.]+ s  .+$", err, re.M)
    assert [number for number, _ in lines] == ["1", "2", "3", "4"]


def test_a_second_backfill_runs_what_is_left(there):
    planned = invoke("backfill", "tiny", *range_of(), "--dry-run", "--json")
    printed = json.loads(planned.stdout)
    assert [each["runs"] for each in printed["partitions"]] == [False, True, False, False]
    assert "the last run failed at gate" in printed["partitions"][1]["why"]
    assert printed["estimate"]["from_runs"] == 3 and printed["estimate"]["rows"] == ROWS


def test_where_all_is_published_there_is_nothing_to_run(there):
    result = invoke("backfill", "tiny", *range_of(FIRST, FIRST))
    assert result.exit_code == 0 and "Nothing to run in 1 partition." in result.stderr


def test_a_process_that_is_killed_fails_its_partition_and_no_other(tiny):
    def kill(as_of: dt.date, doing: str) -> None:
        if as_of == FIRST and doing == "gate":
            (child,) = multiprocessing.active_children()
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)

    told, results = Told(kill), Results()
    backfill = plan_backfill("tiny", FIRST, BROKEN, "missing", NOW)
    run_local(backfill, 1, told, results)
    killed, other = results.found
    assert (killed.as_of, killed.state) == (FIRST, "failed")
    assert "SIGKILL" in (killed.error or "") and "--parallel" in (killed.error or "")
    assert (other.as_of, other.state, other.rows) == (BROKEN, "published", ROWS)
    assert multiprocessing.active_children() == []
    (again,) = plan_backfill("tiny", FIRST, FIRST, "missing", NOW).planned
    assert again.runs and "has no end" in again.why


def test_what_a_nightly_run_published_meanwhile_is_replaced_only_where_all_is_asked_for(tiny):
    def current() -> str:
        return next(each.version for each in table_of("tiny").store.versions(FIRST) if each.current)

    def run(only: Only, backfill: Backfill) -> PartitionResult:
        results = Results()
        run_local(backfill, 1, Told(), results)
        assert code_of_results(results.found) == 0, results.found
        (result,) = results.found
        return result

    planned = plan_backfill("tiny", FIRST, FIRST, "missing", NOW)
    assert planned.partitions
    other = tiny.register_model(seed=2, alias=None)
    nightly = invoke("run", "tiny", "--date", str(FIRST), "--model-version", other, "--json")
    assert nightly.exit_code == 0, nightly.stderr
    published = json.loads(nightly.stdout)["version"]

    left = run("missing", planned)
    assert (left.state, left.version, left.rows) == ("unchanged", published, ROWS)
    assert f"nothing to do for {FIRST} with rescore: missing" in (left.note or "")
    assert current() == published
    anew = run("all", plan_backfill("tiny", FIRST, FIRST, "all", NOW))
    assert anew.state == "published" and anew.version == current() != published


def test_ctrl_c_stops_what_runs_and_says_what_was_not_run(tiny):
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "daybreak", "backfill", "tiny", *range_of(), "--json"],
        cwd=PROJECT,
        env={**os.environ, **tiny.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    steps = tiny.home / "workspace" / "tiny" / "runs"
    until = time.monotonic() + 120
    while not list(steps.glob("*/steps/plan.json")) and time.monotonic() < until:
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    printed = json.loads(out)
    assert [each["state"] for each in printed["partitions"]] == ["not run"] * 4
    assert "Traceback" not in err
    assert children
    until = time.monotonic() + 20  # multiprocessing's own helper ends after its parent
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < until, "a process outlived the command"
        time.sleep(0.1)


# Which runs of a schedule are wanted

CONFIG = {
    "description": "x",
    "warehouse": {"kind": "duckdb", "connection": "x"},
    "key": ["id"],
    "model": {"name": "m", "output": "value"},
}
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Pacific/Apia", "Asia/Kathmandu")


def config_of(grain: Grain, lag: int, zone: str, cron: str | None = "30 2 * * *") -> PipelineConfig:
    schedule = {"cron": cron, "timezone": zone}
    rule = {"grain": grain, "lag": lag}
    return PipelineConfig.model_validate({**CONFIG, "schedule": schedule, "partition": rule})


@given(
    grain=st.sampled_from(["day", "week", "month"]),
    lag=st.integers(0, 4),
    zone=st.sampled_from(ZONES),
    day=st.dates(dt.date(2015, 1, 1), dt.date(2030, 1, 1)),
)
def test_a_run_is_for_a_partition_exactly_when_its_tick_lies_in_the_window(grain, lag, zone, day):
    config = config_of(grain, lag, zone)
    partition = Partition.containing(day, grain)
    first, last = window(config, partition)
    moment = dt.timedelta(microseconds=1)
    assert partition_of(config, first) == partition == partition_of(config, last)
    assert partition_of(config, first - moment) == partition.back(1)
    assert partition_of(config, last + moment) == partition.ahead(1)


# Airflow's REST API, from the side of its answers


class Server:
    """A real HTTP server on loopback that gives prepared answers and keeps what it was asked.

    `answers` are given in turn, and then those of `places`: the first whose pattern is found in
    the method and path. Once a path is asked for that ends in one of `after`, places change. A
    status of 0 gives the bytes as they are, and hangs up.
    """

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.places: dict[str, tuple[int, Any]] = {}
        self.after: dict[str, dict[str, tuple[int, Any]]] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.bodies: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.asked.append((self.command, self.path, self.headers["Authorization"]))
                outer.bodies.append(json.loads(sent or b"null"))
                status, body = outer.answer(f"{self.command} {self.path}")
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                if not status:
                    self.wfile.write(content)
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *arguments: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, asked: str) -> tuple[int, Any]:
        if self.answers:
            return self.answers.pop(0)
        found = [answer for place, answer in self.places.items() if re.search(place, asked)]
        for end, places in self.after.items():
            if asked.endswith(end):
                self.places |= places
        return found[0] if found else (404, {"detail": f"nothing is prepared for {asked}"})

    def api(self, token: str | None = None) -> AirflowApi:
        server = AirflowServer(self.url, "ann", "pass-w0rd", token)
        return AirflowApi(server, pause=lambda seconds: None)

    def prefect(self) -> PrefectApi:
        return PrefectApi(PrefectServer(self.url, None, None), pause=lambda seconds: None)

    def sent_to(self, place: str) -> list[Any]:
        """The bodies that were sent to this method and path."""
        pairs = zip(self.asked, self.bodies, strict=True)
        return [body for (method, path, _), body in pairs if f"{method} {path}" == place]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, daemon=True)
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()


DAG = {"is_stale": False, "is_paused": False}
ACTIVE = {"id": 7, "completed_at": None, "is_paused": True}


def test_a_token_that_has_run_out_is_renewed_once(server):
    server.answers = [(201, {"access_token": "a"}), (200, DAG), (401, {"detail": "expired"})]
    server.answers += [(201, {"access_token": "b"}), (200, DAG)]
    api = server.api()
    assert api.dag("tiny") == DAG and api.dag("tiny") == DAG
    assert [token for _, _, token in server.asked] == [
        None,
        "Bearer a",
        "Bearer a",
        None,
        "Bearer b",
    ]


def test_a_token_of_the_users_own_is_used_as_it_is(server):
    server.answers = [(200, DAG), (401, {"detail": "no"})]
    api = server.api(token="t0ken")
    assert api.dag("tiny") == DAG
    with pytest.raises(PermanentError, match="Give the token the right to run backfills"):
        api.dag("tiny")
    assert {token for _, _, token in server.asked} == {"Bearer t0ken"}


def test_what_is_safe_to_do_twice_is_tried_again_and_the_start_of_a_backfill_is_not(server):
    api, again = server.api(token="t"), (503, {"detail": "restarting"})
    server.answers = [again, (200, DAG)]
    assert api.dag("tiny") == DAG
    server.answers = [again, (200, {"backfills": [{"logical_date": NOW.isoformat()}]})]
    assert api.ticks("tiny", NOW, NOW, {}) == [NOW]
    server.answers = [again, (409, {"detail": "Backfill is already completed."})]
    api.end_backfill(7)
    assert len(server.asked) == 6
    server.answers = [again]
    with pytest.raises(TransientError, match="503 to POST /api/v2/backfills: restarting"):
        api.start_backfill("tiny", NOW, NOW, {}, 1)
    assert len(server.asked) == 7


@pytest.mark.parametrize(
    "broken",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n{",
        b"HTTP/1.0 503 Gone\r\nContent-Length: 99\r\n\r\n{",
        b"this is no HTTP\r\n\r\n",
        b"",
    ],
)
def test_an_answer_that_breaks_off_is_no_answer_and_asked_for_again(server, broken):
    server.answers = [(0, broken), (200, DAG)]
    assert server.api(token="t").dag("tiny") == DAG
    found = {"id": "d", "paused": False, "work_pool_name": None, "work_queue_name": None}
    server.answers = [(0, broken), (200, found)]
    assert server.prefect().deployment("backfill", "tiny") is not None
    server.answers = [(0, broken)]
    with pytest.raises(TransientError, match="Airflow (answers at|answered 503)"):
        server.api(token="t").start_backfill("tiny", NOW, NOW, {}, 1)
    assert not server.answers


def test_an_airflow_that_is_not_there_is_one_clear_message():
    api = AirflowApi(AirflowServer("http://127.0.0.1:9", "a", "b", None), pause=lambda s: None)
    with pytest.raises(
        TransientError, match="no Airflow answers at http://127.0.0.1:9.*AIRFLOW_URL"
    ):
        api.dag("tiny")


def test_missing_credentials_are_asked_for_by_the_names_of_their_settings(tiny, monkeypatch):
    for name in ("USER", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"DAYBREAK_AIRFLOW_{name}", raising=False)
    result = invoke("backfill", "tiny", *range_of(), "--via", "airflow")
    assert result.exit_code == 1
    assert "DAYBREAK_AIRFLOW_USER and DAYBREAK_AIRFLOW_PASSWORD" in " ".join(result.stderr.split())


def test_an_address_that_is_no_airflow_is_said(server):
    server.answers = [(200, b"<html>hello</html>")]
    with pytest.raises(PermanentError, match="something that is not JSON.*AIRFLOW_URL"):
        server.api().dag("tiny")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([(404, {"detail": "not found"})], "this Airflow has no DAG of the pipeline"),
        ([(200, {**DAG, "is_stale": True})], "this Airflow has no DAG of the pipeline"),
        ([(200, {**DAG, "is_paused": True})], "the DAG is paused.*airflow dags unpause tiny"),
        (
            [(200, DAG), (200, {"backfills": [ACTIVE]})],
            r"a backfill of the DAG under way \(id 7, paused\)",
        ),
    ],
)  # fmt: skip
def test_what_airflow_cannot_run_is_refused_before_anything_starts(tiny, server, answers, said):
    server.answers = answers
    backfill = plan_backfill("tiny", FIRST, LAST, "missing", NOW)
    with pytest.raises(PermanentError, match=said):
        plan_airflow(backfill, server.api(token="t"), NOW)
    assert all(method == "GET" for method, _, _ in server.asked)


def tick(day: dt.date) -> dt.datetime:
    """The run of a day of `tiny`: at 02:30 of the next, in Berlin."""
    return dt.datetime.combine(day + dt.timedelta(days=1), dt.time(1, 30), dt.UTC)


def ready(days: list[dt.date], runs: list[dict[str, Any]] | None = None) -> list[tuple[int, Any]]:
    """The answers to the checks: a DAG, no backfill, these runs, and a dry run of these days."""
    listed = runs or []
    dates = [{"logical_date": tick(day).isoformat()} for day in days]
    return [
        (200, DAG),
        (200, {"backfills": []}),
        (200, {"dag_runs": listed, "total_entries": len(listed)}),
        (200, {"backfills": dates}),
    ]


def test_a_gap_cuts_the_range_in_two(there, server):
    days = [each.as_of for each in partitions_between(dt.date(2026, 1, 30), LAST, "day")]
    server.answers = ready(days)
    backfill = plan_backfill("tiny", days[0], LAST, "missing", NOW)
    plan = plan_airflow(backfill, server.api(token="t"), NOW)
    found = [[str(plan.partitions[tick]) for tick in each.ticks] for each in plan.ranges]
    assert found == [["2026-01-30", "2026-01-31"], [str(BROKEN)]]


def test_a_partition_without_a_run_in_the_schedule_is_left_and_says_so(tiny, server):
    server.answers = ready([FIRST, LAST])
    early = dt.datetime(2026, 2, 5, 0, 10, tzinfo=dt.UTC)  # 01:10: the run of the 4th is to come
    backfill = plan_backfill("tiny", FIRST, LAST, "missing", early)
    server.answers[-1] = (200, {"backfills": [{"logical_date": tick(FIRST).isoformat()}]})
    left = plan_airflow(backfill, server.api(token="t"), early).backfill
    why = {str(each.partition): each.why for each in left.planned if not each.runs}
    assert [str(each) for each in left.partitions] == [str(FIRST)]
    assert why["2026-02-04"] == "the schedule has its run later"
    assert "(30 2 * * *) has no run for it: use --via local" in why["2026-02-03"]


def test_a_run_that_is_under_way_is_not_started_a_second_time(tiny, server):
    running = {
        "dag_run_id": "scheduled__x", "state": "running", "run_type": "scheduled",
        "logical_date": tick(BROKEN).isoformat(), "start_date": None, "end_date": None,
    }  # fmt: skip
    server.answers = ready([FIRST], [running])
    backfill = plan_backfill("tiny", FIRST, BROKEN, "missing", NOW)
    with pytest.raises(PermanentError, match=r"under way of 2026-02-02 \(scheduled__x, running\)"):
        plan_airflow(backfill, server.api(token="t"), NOW)


def test_days_before_the_start_date_are_refused_as_airflow_would_leave_them_queued(tiny, server):
    tiny.configure({"schedule": {"start_date": "2026-02-03"}})
    server.answers = ready([FIRST, BROKEN, dt.date(2026, 2, 3)])
    backfill = plan_backfill("tiny", FIRST, dt.date(2026, 2, 3), "missing", NOW)
    with pytest.raises(PermanentError, match="2026-02-01 lies before schedule.start_date"):
        plan_airflow(backfill, server.api(token="t"), NOW)


def test_a_schedule_that_changed_since_the_plan_starts_nothing(tiny, server):
    plan = one_day(server)
    server.answers = [(200, {"backfills": []})]
    with pytest.raises(PermanentError, match="have changed since this backfill was planned"):
        run_airflow(plan, server.api(token="t"), 1, Told(), Results(), lambda seconds: None)
    assert [path for method, path, _ in server.asked if method == "POST"] == [
        "/api/v2/backfills/dry_run"
    ] * 2


# A backfill of Airflow's, from its start to its end


def one_day(server: Server, only: Only = "missing") -> AirflowPlan:
    """The plan of the first day, for which the schedule has a run."""
    server.answers = ready([FIRST])
    backfill = plan_backfill("tiny", FIRST, FIRST, only, NOW)
    return plan_airflow(backfill, server.api(token="t"), NOW)


def run_on(day: dt.date, state: str) -> dict[str, Any]:
    return {
        "dag_run_id": f"backfill__{day}", "state": state, "run_type": "backfill",
        "logical_date": tick(day).isoformat(), "start_date": None, "end_date": None,
    }  # fmt: skip


def at_work(server: Server, days: list[dt.date], state: str) -> None:
    """The backfill 7 of these days, whose runs are in this state."""
    runs = [run_on(day, state) for day in days]
    dates = [{"logical_date": tick(day).isoformat()} for day in days]
    active = {**ACTIVE, "is_paused": False}
    server.places = {
        "POST .*/backfills/dry_run": (200, {"backfills": dates}),
        "POST .*/backfills$": (200, active),
        "GET .*/backfills/7$": (200, active),
        "PUT .*/backfills/7/cancel$": (200, active),
        r"GET .*/dagRuns\?": (200, {"dag_runs": runs, "total_entries": len(runs)}),
        "GET .*/dags/tiny$": (200, DAG),
        "GET .*/monitor/health": (200, {"scheduler": {"status": "healthy"}}),
        r"GET .*/taskInstances\?": (200, {"task_instances": []}),
    }


def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """`daybreak` in this process asks this server."""
    monkeypatch.setenv("DAYBREAK_AIRFLOW_URL", server.url)
    monkeypatch.setenv("DAYBREAK_AIRFLOW_TOKEN", "t")


def test_wanted_dates_without_a_run_in_airflow_are_results_and_no_success(
    tiny, server, monkeypatch
):
    client(server, monkeypatch)
    why = "the schedule (30 2 * * *) has no run for it: use --via local"
    server.answers = ready([])
    result = invoke("backfill", "tiny", *range_of(), "--via", "airflow", "--json")
    assert result.exit_code == 1
    printed = json.loads(result.stdout)
    assert printed["exit_code"] == 1 and printed["states"] == {"not run": 4}
    assert [each["as_of"] for each in printed["partitions"]] == [
        str(each) for each in partitions_between(FIRST, LAST, "day")
    ]
    assert {each["error"] for each in printed["partitions"]} == {why}
    assert "4 wanted partitions cannot be run this way" in " ".join(result.stderr.split())
    server.answers = ready([])
    shown = invoke("backfill", "tiny", *range_of(), "--via", "airflow")
    assert shown.exit_code == 1
    assert len(re.findall(r"2026-02-0\d +not run", shown.stdout)) == 4
    assert "has no run for it" in " ".join(shown.stdout.split())


@pytest.mark.parametrize("only", ["missing", "stale", "all"])
def test_every_run_looks_again_when_it_begins_and_one_that_exists_runs_again(tiny, server, only):
    plan = one_day(server, only)
    at_work(server, [FIRST], "success")
    run_airflow(plan, server.api(token="t"), 3, Told(), Results(), lambda seconds: None)
    (started,) = server.sent_to("POST /api/v2/backfills")
    assert started["dag_run_conf"] == {"rescore": only}
    assert started["reprocess_behavior"] == "completed"
    assert (started["from_date"], started["to_date"]) == (tick(FIRST).isoformat(),) * 2
    assert started["max_active_runs"] == 3
    for dry_run in server.sent_to("POST /api/v2/backfills/dry_run"):
        assert dry_run["dag_run_conf"] == {"rescore": only}


def test_a_run_in_airflow_that_found_nothing_to_do_leaves_readers_with_what_they_have(
    there, server
):
    says = f"nothing to do for {FIRST} with rescore: missing: has version v0123"
    run = DagRun("backfill__x", "success", tick(FIRST), None, None)
    plan = one_day(server, "all")
    server.answers = [(200, {"value": {"ends_here": True, "says": says}})]
    result = result_of(plan, server.api(token="t"), FIRST, run)
    (current,) = table_of("tiny").store.versions(FIRST)
    assert (result.state, result.version, result.rows) == ("unchanged", current.version, ROWS)
    assert (result.note, result.error) == (says, None) and code_of_results([result]) == 0
    assert "/taskInstances/plan/xcomEntries/return_value" in server.asked[-1][1]
    # One whose report lies in a workspace elsewhere went on after its plan.
    server.answers = [(200, {"value": {"run_id": "airflow-backfill__x"}})]
    assert result_of(plan, server.api(token="t"), FIRST, run).state == "published"


def test_what_was_done_before_airflow_refused_is_shown_with_the_rest_and_why(
    there, server, monkeypatch
):
    client(server, monkeypatch)
    days = [each.as_of for each in partitions_between(dt.date(2026, 1, 30), LAST, "day")]
    at_work(server, days[:2], "success")
    server.answers = ready(days)
    refused = (403, {"detail": "Forbidden"})  # what comes before the second range
    server.after["/backfills/7/cancel"] = {"POST .*/backfills/dry_run": refused}
    result = invoke("backfill", "tiny", *range_of(days[0], LAST), "--via", "airflow", "--json")
    assert result.exit_code == 1, result.output
    printed = json.loads(result.stdout)
    assert printed["states"] == {"published": 2, "not run": 1}
    assert "403" in printed["error"]["found"]
    assert printed["partitions"][-1]["as_of"] == str(BROKEN)
    assert printed["partitions"][-1]["error"].startswith("not started: Airflow answered 403")
    assert "Error: Airflow answered 403" in " ".join(result.stderr.split())


def test_a_run_that_goes_on_in_airflow_after_an_error_is_not_called_unstarted(tiny, server):
    plan, results, told = one_day(server), Results(), Told()
    at_work(server, [FIRST], "running")
    server.places[r"GET .*/dagRuns\?"] = (502, {"detail": "bad gateway"})
    with pytest.raises(TransientError, match="502"):
        run_airflow(plan, server.api(token="t"), 1, told, results, lambda seconds: None)
    (result,) = results.complete(plan.backfill)
    assert result.state == "not run"
    assert result.error == "its run goes on in Airflow, in the backfill 7"
    assert "Airflow goes on with its backfill 7" in told.messages[-1]


def test_a_server_that_is_away_when_all_is_done_makes_nothing_red(tiny, server):
    plan, results, told = one_day(server), Results(), Told()
    at_work(server, [FIRST], "success")
    server.places["PUT .*/backfills/7/cancel$"] = (503, {"detail": "restarting"})
    run_airflow(plan, server.api(token="t"), 1, told, results, lambda seconds: None)
    assert code_of_results(results.complete(plan.backfill)) == 0
    assert "is left for Airflow to close" in told.messages[-1]


def test_a_pool_that_is_missing_is_refused_before_anything_starts(tiny, server):
    backfill = plan_backfill("tiny", FIRST, FIRST, "missing", NOW)
    server.answers = [*ready([FIRST])[:2], (404, {"detail": "no such pool"})]
    with pytest.raises(PermanentError, match="Airflow has no pool spare.*airflow pools set spare"):
        plan_airflow(backfill, server.api(token="t"), NOW, "spare")
    server.answers = ready([FIRST])
    server.answers.insert(2, (403, {"detail": "Forbidden"}))
    plan = plan_airflow(backfill, server.api(token="t"), NOW, "spare")
    assert plan.ranges and "may not read pools" in plan.backfill.notes[-1]


def task(task_id: str, state: str | None, pool: str = "default_pool") -> dict[str, Any]:
    return {"task_id": task_id, "state": state, "pool": pool}


def tasks_of(*listed: dict[str, Any]) -> tuple[int, Any]:
    return (200, {"task_instances": list(listed)})


@pytest.mark.parametrize(
    ("state", "changed", "said"),
    [
        (
            "queued",
            {"GET .*/dags/tiny$": (200, {**DAG, "is_paused": True})},
            ["the DAG tiny is paused, so its runs wait: airflow dags unpause tiny"],
        ),
        (
            "queued",
            {"GET .*/monitor/health": (200, {"scheduler": {"status": "unhealthy"}})},
            ["Airflow's scheduler is unhealthy, so nothing starts: see its log, or start it"],
        ),
        (
            "running",
            {r"GET .*/taskInstances\?": tasks_of(task("plan", "scheduled", "spare"))},
            [
                "Airflow has no pool spare, and starts no task of it: "
                "airflow pools set spare 4 backfills"
            ],
        ),
        (
            "running",
            {
                r"GET .*/taskInstances\?": tasks_of(task("score", "queued", "spare")),
                "GET .*/pools/spare": (200, {"slots": 4, "open_slots": 0}),
            },
            ["the 4 slots of the pool spare are taken"],
        ),
        (
            "running",
            {r"GET .*/taskInstances\?": tasks_of(task("approval.ask", "deferred"))},
            [
                "2026-02-01 waits for a person: daybreak approve tiny --date 2026-02-01 "
                "--reason …, or daybreak reject"
            ],
        ),
        ("running", {r"GET .*/taskInstances\?": tasks_of(task("score", "running"))}, []),
        (
            "queued",
            {},
            [
                "Airflow does not start 2026-02-01: its limits of runs or tasks are reached, or "
                "its workers are taken"
            ],
        ),
    ],
)  # fmt: skip
def test_a_backfill_that_waits_says_once_why(tiny, server, state, changed, said):
    plan, told, results = one_day(server), Told(), Results()
    at_work(server, [FIRST], state)
    server.places |= changed
    now = 0.0

    def pause(seconds: float) -> None:
        nonlocal now
        now += QUIET_SECONDS / 4
        if now > QUIET_SECONDS * 4:
            server.places[r"GET .*/dagRuns\?"] = ended
        assert now < QUIET_SECONDS * 9, "the end of the run was never seen"

    ended = (200, {"dag_runs": [run_on(FIRST, "success")], "total_entries": 1})
    run_airflow(plan, server.api(token="t"), 1, told, results, pause, lambda: now)
    assert [each.state for each in results.found] == ["published"]
    assert told.messages == ["Airflow's backfill 7: 2026-02-01", *said]


# Prefect's REST API, from the side of its answers


DEPLOYMENT = {"id": "d", "paused": False, "work_pool_name": None, "work_queue_name": None}
FLOW_RUN = {
    "id": "f", "name": "tiny 2026-02-01", "state": None, "start_time": None, "end_time": None,
    "expected_start_time": None,
}  # fmt: skip


def prefect_plan(server: Server, only: Only) -> PrefectPlan:
    server.answers = [(200, DEPLOYMENT), (404, {"detail": "no deployment scoring/tiny"})]
    return plan_prefect(plan_backfill("tiny", FIRST, FIRST, only, NOW), server.prefect(), NOW)


def test_a_run_of_prefect_looks_again_when_it_begins_and_is_shared_by_its_like_only(there, server):
    plans = {only: prefect_plan(server, only) for only in ("stale", "all")}
    for only, plan in plans.items():
        server.answers = [(200, []), (200, []), (200, FLOW_RUN)]
        run_of(plan, server.prefect(), Partition.containing(FIRST, "day"))
        asked = server.bodies[-1]
        assert asked["parameters"] == {
            "pipeline": "tiny", "partition_date": str(FIRST), "rescore": only,
        }  # fmt: skip
        assert plan.makes in asked["idempotency_key"] and f"makes:{plan.makes}" in asked["tags"]
    assert plans["stale"].makes != plans["all"].makes


def test_a_run_of_prefect_that_found_nothing_to_do_leaves_readers_with_what_they_have(
    there, server
):
    says = f"nothing to do for {FIRST} with rescore: stale: has version v0123"
    run = FlowRun("f", "x", "COMPLETED", "Completed", says, None, None, None)
    result = result_of_flow_run(prefect_plan(server, "stale"), FIRST, run)
    (current,) = table_of("tiny").store.versions(FIRST)
    assert (result.state, result.version, result.note) == ("unchanged", current.version, says)
    assert code_of_results([result]) == 0


def test_a_run_that_goes_on_in_prefect_after_an_error_is_not_called_unstarted(there, server):
    plan, results, told = prefect_plan(server, "all"), Results(), Told()
    server.answers = [(200, []), (200, []), (200, FLOW_RUN), (403, {"detail": "no"})]
    with pytest.raises(PermanentError, match="403"):
        run_prefect(plan, server.prefect(), 1, told, results, lambda seconds: None)
    (result,) = results.complete(plan.backfill)
    assert (result.state, result.error) == ("not run", "its run goes on in Prefect")
    assert "Prefect goes on with 2026-02-01" in told.messages[-1]
