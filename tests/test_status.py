"""What is said of each partition: published, stale and why, held, failed, missing."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from daybreak.backfill import plan_backfill
from daybreak.cli import app
from daybreak.run import Outcome, new_request, run_steps
from daybreak.status import SHOWN, Status, print_status, status_of
from include.errors import BadConfig, TransientError
from include.models.registry import RegisteredModel
from include.partition import Grain, Partition, partitions_between
from include.partition_states import PartitionState, State, partition_states, to_run
from include.past_runs import past_runs, usual
from include.pipeline import load_pipeline
from include.run import Value
from include.stores import Decision, open_store
from include.workspace import Workspace
from tests.world import ROWS, World, copy_world

NOW = dt.datetime(2026, 2, 9, 12, tzinfo=dt.UTC)  # the newest partition is of the 8th
DAYS = {
    "published": dt.date(2026, 2, 1),
    "rerun in vain": dt.date(2026, 2, 2),
    "failed": dt.date(2026, 2, 3),
    "not planned": dt.date(2026, 2, 4),
    "held": dt.date(2026, 2, 5),
    "missing": dt.date(2026, 2, 6),
}


class Quiet:
    def started(self, step: str) -> None: ...

    def retrying(self, step: str, error: TransientError, attempt: int, seconds: float) -> None: ...

    def finished(self, step: str, seconds: float, result: Value) -> None: ...

    def failed(self, step: str, seconds: float, error: Exception) -> None: ...


def run(day: dt.date, model_version: str | None = None) -> Outcome:
    return run_steps(new_request("tiny", NOW, day, model_version), Quiet())


def keep(world: World, day: dt.date, rows: int) -> None:
    """Leave so many rows of a day in the warehouse."""
    world.execute(
        f"DELETE FROM accounts WHERE event_date = '{day}' AND rowid NOT IN "
        f"(SELECT rowid FROM accounts WHERE event_date = '{day}' LIMIT {rows})"
    )


@pytest.fixture(scope="module")
def known(built_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with a partition of each kind, made by real runs; not to be changed."""
    world = copy_world(built_world, tmp_path_factory.mktemp("known") / "world")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in world.env.items():
            patch.setenv(name, value)
        keep(world, DAYS["failed"], 20)
        assert run(DAYS["published"]).error is None
        assert run(DAYS["rerun in vain"]).error is None
        keep(world, DAYS["rerun in vain"], 30)
        assert run(DAYS["rerun in vain"]).failed_step == "gate"
        assert run(DAYS["failed"]).failed_step == "gate"
        assert run(DAYS["not planned"], model_version="9").failed_step == "plan"
        world.execute(f"UPDATE accounts SET visits = 0 WHERE event_date = '{DAYS['held']}'")
        held = run(DAYS["held"])
        assert held.report is not None and held.report.state == "held"
    yield world


@pytest.fixture
def here(known: World, monkeypatch: pytest.MonkeyPatch) -> World:
    for name, value in known.env.items():
        monkeypatch.setenv(name, value)
    return known


def states(world: World, model: str = "1", folder: Path | None = None) -> dict[str, PartitionState]:
    """The state of each of DAYS where the alias is at `model` and the pipeline is `folder`."""
    pipeline = load_pipeline(folder or world.folder)
    workspace = Workspace(world.workspace, "tiny")
    store = open_store(pipeline.config.predictions, workspace.predictions())
    runs = past_runs(workspace, pipeline.config)
    now = RegisteredModel(world.model, model, "production", "", None)
    partitions = [Partition.containing(day, "day") for day in DAYS.values()]
    found = partition_states(pipeline, workspace, store, partitions, runs, now)
    return dict(zip(DAYS, found, strict=True))


def test_each_partition_is_in_the_state_that_its_runs_left_it_in(here):
    found = states(here)
    assert {name: found[name].state for name in DAYS} == {
        "published": "published",
        "rerun in vain": "stale",
        "failed": "failed",
        "not planned": "failed",
        "held": "held",
        "missing": "missing",
    }
    published = found["published"]
    assert (published.rows, published.model_version, published.reasons) == (ROWS, "1", ())
    assert published.version is not None and published.published_run == published.last_run


def test_a_failed_partition_says_the_step_and_what_it_found(here):
    found = states(here)
    assert "the last run failed at gate:" in found["failed"].reasons[0]
    assert "20" in found["failed"].reasons[0]
    assert "the last run failed at plan:" in found["not planned"].reasons[0]
    assert "no version '9'" in found["not planned"].reasons[0]
    assert found["missing"].reasons == ("it was never run",)


def test_a_held_partition_names_the_version_that_waits_and_readers_have_nothing(here):
    held = states(here)["held"]
    assert held.version is None and held.reasons[0].startswith("v") and "PSI" in held.reasons[0]


def test_rows_that_a_later_run_found_changed_make_a_version_stale(here):
    found = states(here)["rerun in vain"]
    assert found.version is not None and found.rows == ROWS
    assert len(found.reasons) == 1 and "found 30 rows that differ" in found.reasons[0]
    assert "failed at gate" in found.note


def test_a_newer_model_makes_every_published_version_stale(here):
    found = states(here, model="2")
    assert found["published"].state == "stale"
    assert found["published"].reasons == ("other model: made by version 1, production is 2 now",)
    assert found["missing"].state == "missing" and found["held"].state == "held"


def test_a_changed_configuration_makes_a_version_stale_and_says_which_part(here, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(here.folder, folder)
    (folder / "features.sql").write_text((folder / "features.sql").read_text() + "-- more\n")
    text = (folder / "pipeline.yaml").read_text()
    (folder / "pipeline.yaml").write_text(text.replace("min_rows: 100", "min_rows: 90"))
    found = states(here, folder=folder)["published"]
    assert found.reasons == ("other configuration: gate, features.sql",)


def test_a_change_that_shapes_no_row_leaves_versions_as_they_are(here, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(here.folder, folder)
    text = (folder / "pipeline.yaml").read_text()
    (folder / "pipeline.yaml").write_text(text + "owner: others\n")
    assert states(here, folder=folder)["published"].state == "published"


def test_a_published_partition_is_stale_no_longer_once_it_was_run_again(tiny):
    assert run(tiny.day).error is None
    version = tiny.register_model(seed=7)
    (before,) = status_of("tiny", tiny.day, tiny.day, NOW, offline=False).states
    assert before.state == "stale" and f"production is {version} now" in before.reasons[0]
    tiny.configure({"predictions": {"audit": {"max_score_psi": 5.0}}})
    assert run(tiny.day).error is None
    (after,) = status_of("tiny", tiny.day, tiny.day, NOW, offline=False).states
    assert (after.state, after.model_version) == ("published", version)


def test_a_date_that_a_person_rolled_back_is_not_called_stale_and_left_by_only_stale(tiny):
    tiny.configure({"predictions": {"audit": {"max_score_psi": 5.0}}})
    assert run(tiny.day).error is None
    better = tiny.register_model(seed=7)
    assert run(tiny.day).error is None
    day = str(tiny.day)
    said = invoke("rollback", "tiny", "--date", day, "--by", "anna", "--reason", "too many")
    assert said.exit_code == 0, said.output
    (found,) = status_of("tiny", tiny.day, tiny.day, NOW, offline=False).states
    assert (found.state, found.model_version) == ("rolled back", "1")
    by, model = found.reasons
    assert by.startswith("rolled back by anna at ") and by.endswith(": too many")
    assert model == f"other model: made by version 1, production is {better} now"
    calendar = invoke("status", "tiny", "--from", day, "--to", day).stdout
    assert "◀ 1 rolled back" in calendar and "by anna at" in " ".join(calendar.split())
    chosen = {
        only: len(plan_backfill("tiny", tiny.day, tiny.day, only, NOW).partitions)
        for only in ("missing", "stale", "all")
    }
    assert chosen == {"missing": 0, "stale": 0, "all": 1}
    # With the alias pointed back, a run makes what readers have.
    pinned = RegisteredModel(tiny.model, "1", "production", "", None)
    assert states_of(tiny, pinned) == ["published"]


def states_of(world: World, model: RegisteredModel) -> list[str]:
    pipeline, workspace = world.pipeline(), Workspace(world.workspace, "tiny")
    store = open_store(pipeline.config.predictions, workspace.predictions())
    runs = past_runs(workspace, pipeline.config)
    partitions = [Partition.containing(world.day, "day")]
    found = partition_states(pipeline, workspace, store, partitions, runs, model)
    return [each.state for each in found]


def test_a_run_without_an_end_is_said_to_have_none(tiny):
    outcome = run(tiny.day)
    folder = Path(tiny.workspace.removeprefix("file://")) / "tiny"
    shutil.rmtree(folder / "predictions")
    for name in ("report", "publish", "drift"):
        (folder / "runs" / outcome.run_id / "steps" / f"{name}.json").unlink()
    (found,) = status_of("tiny", tiny.day, tiny.day, NOW, offline=True).states
    assert found.state == "missing"
    assert found.reasons == (
        f"run {outcome.run_id} has no end: it still runs, or its process was killed",
    )


def test_estimates_are_medians_of_runs_that_did_all_of_the_work(here):
    pipeline, workspace = here.pipeline(), Workspace(here.workspace, "tiny")
    runs = [each for of in past_runs(workspace, pipeline.config).values() for each in of]
    assert len(runs) == 6
    found = usual(workspace, runs)
    assert found is not None and (found.runs, found.rows) == (2, ROWS)
    assert found.seconds > 0
    assert usual(workspace, [each for each in runs if each.partition.as_of == DAYS["held"]]) is None


# The command


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80"})


def test_status_is_a_calendar_a_legend_and_the_reasons(here):
    result = invoke("status", "tiny", "--from", "2026-02-01", "--to", "2026-02-08")
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert any(line.split() == ["2026-02-02", "◪", "✗", "✗", "?", "·", "·", "·"] for line in lines)
    assert "  ■ 1 published  ◪ 1 stale  ? 1 held  ✗ 2 failed  · 3 missing" in lines
    said = " ".join(result.stdout.split())
    assert "2026-02-06 … 2026-02-08 missing — it was never run" in said
    assert "known only by extracting" in said
    assert max(map(len, lines)) <= 80


def test_status_as_json_has_every_partition_and_its_reasons(here):
    result = invoke("status", "tiny", "--from", "2026-02-01", "--to", "2026-02-06", "--json")
    printed = json.loads(result.stdout)
    assert printed["model"] == {"name": "tiny-churn", "version": "1"}
    assert [each["partition"] for each in printed["partitions"]] == [str(d) for d in DAYS.values()]
    assert printed["states"]["failed"] == 2
    assert set(printed["partitions"][0]) >= {"state", "reasons", "version", "rows", "last_run"}


def test_without_the_registry_the_rest_is_known_and_what_is_not_is_said(here, monkeypatch):
    monkeypatch.setenv("DAYBREAK_REGISTRY", "sqlite:////nowhere/mlflow.db")
    result = invoke("status", "tiny", "--from", "2026-02-01", "--to", "2026-02-02")
    assert result.exit_code == 0
    assert "stale by its model is not known" in " ".join(result.stdout.split())
    offline = invoke("status", "tiny", "--offline")
    assert offline.exit_code == 0 and "not known" not in offline.stdout


def test_the_warehouse_is_not_needed(here, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_TINY_WAREHOUSE", "duckdb://%2Fnowhere.duckdb")
    assert invoke("status", "tiny", "--offline").exit_code == 0


def test_status_changes_nothing_in_the_workspace(here):
    root = Path(here.workspace.removeprefix("file://"))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert invoke("status", "tiny", "--offline").exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_without_days_a_screen_up_to_the_newest_partition_is_shown(here):
    found = status_of("tiny", None, None, NOW, offline=True)
    assert found.states[0].partition.as_of == dt.date(2026, 1, 1)  # the schedule's first day
    assert found.states[-1].partition.as_of == dt.date(2026, 2, 8)


def test_a_pipeline_of_the_past_shows_its_last_partitions_and_says_so(here):
    later = dt.datetime(2027, 2, 9, 12, tzinfo=dt.UTC)
    found = status_of("tiny", None, None, later, offline=True)
    assert found.states[-1].partition.as_of == DAYS["held"]
    assert any("newest that can be scored is 2027-02-08" in note for note in found.notes)
    assert len(found.states) <= SHOWN["day"]


def test_days_that_lie_in_the_future_or_are_swapped_are_refused_in_one_line(here):
    with pytest.raises(BadConfig, match="2026-02-09 lies in the future: the newest .* 2026-02-08"):
        status_of("tiny", dt.date(2026, 2, 8), dt.date(2026, 2, 9), NOW, offline=True)
    with pytest.raises(BadConfig, match="ends .2026-02-01. before it begins"):
        status_of("tiny", dt.date(2026, 2, 8), dt.date(2026, 2, 1), NOW, offline=True)


def test_no_range_of_dates_undoes_a_rollback_not_even_where_a_version_is_held() -> None:
    decision = Decision(by="ann", at=NOW, reason="delays doubled")
    (day,) = partitions_between(DAYS["held"], DAYS["held"], "day")
    for state in ("rolled back", "held", "stale"):
        found = PartitionState(
            partition=day, state=state, reasons=("a reason",), version="v1", decision=decision
        )
        runs, why = to_run(found, "stale")
        assert not runs and "has version v1" in why, state
        assert to_run(found, "all")[0]
    free = PartitionState(partition=day, state="held", reasons=("a reason",), version="v1")
    assert to_run(free, "stale")[0]


@pytest.mark.parametrize(
    ("grain", "first", "last", "row"),
    [
        ("day", dt.date(2025, 1, 1), dt.date(2025, 12, 31), "2024-12-30"),
        ("week", dt.date(2024, 1, 1), dt.date(2026, 6, 30), "2024"),
        ("month", dt.date(2020, 1, 1), dt.date(2026, 6, 30), "2020"),
    ],
)
def test_a_calendar_of_any_grain_fits_in_80_columns(here, grain: Grain, first, last, row):
    kinds: list[State] = ["published", "stale", "rolled back", "held", "failed", "missing"]
    partitions = partitions_between(first, last, grain)
    found = tuple(
        PartitionState(partition=each, state=kinds[index % 6], reasons=("a reason that is long",))
        for index, each in enumerate(partitions)
    )
    pipeline = here.pipeline()
    rule = pipeline.config.partition.model_copy(update={"grain": grain})
    config = pipeline.config.model_copy(update={"partition": rule})
    status = Status(pipeline.model_copy(update={"config": config}), found, None, ())
    console = Console(width=80, file=StringIO(), force_terminal=False)
    print_status(console, status)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(len(line) for line in shown.splitlines()) <= 80
    calendar = [line for line in shown.splitlines() if re.match(r"  \d[\d-]+  ", line)]
    assert calendar[0].split()[0] == row
    assert sum(line.count(mark) for line in calendar for mark in "■◪◀?✗·") == len(partitions)


def test_a_partition_that_was_published_is_left_by_only_missing(here):
    chosen = {
        only: [str(each) for each in plan_backfill(
            "tiny", DAYS["published"], DAYS["missing"], only, NOW
        ).partitions]
        for only in ("missing", "stale", "all")
    }  # fmt: skip
    days = [str(day) for day in DAYS.values()]
    assert chosen == {"missing": days[2:], "stale": days[1:], "all": days}
