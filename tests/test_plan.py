"""plan fixes what a run is; what it fixed does not move under the run."""

from __future__ import annotations

import datetime as dt

import pytest

from include import storage
from include.errors import BadConfig, CorruptData, PermanentError
from include.pipeline import planned_pipeline
from include.run import Invocation, Request, Run, StepRecord
from include.workspace import Workspace
from tasks.plan import plan
from tests.world import World


def _record(world: World, run_id: str) -> StepRecord:
    uri = Workspace(world.workspace, world.name).step(run_id, "plan")
    return StepRecord.model_validate_json(storage.read(uri))


def test_a_run_names_the_partition_the_exact_model_and_the_configuration(tiny: World) -> None:
    run = plan(tiny.request())
    assert (run.pipeline, str(run.partition)) == ("tiny", tiny.day.isoformat())
    assert (run.model.version, run.model.alias) == ("1", "production")
    assert run.config_digest == tiny.pipeline().digest
    written = storage.read(
        storage.join(Workspace(tiny.workspace, "tiny").run(run.run_id), "run.json")
    )
    assert Run.model_validate_json(written) == run


def test_what_was_planned_stays_though_the_alias_and_the_folder_change(tiny: World) -> None:
    run = plan(tiny.request(run="a"))
    planned = planned_pipeline(run)
    tiny.register_model(seed=2)
    tiny.configure({"key": ["account_id"]})
    assert planned_pipeline(run) == planned
    later = plan(tiny.request(run="b"))
    assert (run.model.version, later.model.version) == ("1", "2")
    assert later.config_digest != run.config_digest


def test_changes_that_do_not_shape_rows_keep_the_configurations_digest(tiny: World) -> None:
    before = tiny.pipeline().digest
    tiny.configure({"owner": "somebody else", "tags": ["new"], "engine": {"workers": 2}})
    tiny.configure({"drift": {"trailing": 7}, "schedule": {"cron": "0 4 * * *"}})
    assert tiny.pipeline().digest == before
    tiny.configure({"predictions": {"pass_through": []}})
    assert tiny.pipeline().digest != before


@pytest.mark.parametrize(
    ("at", "partition"),
    [
        # 02:30 in Berlin on 2 February is 01:30 UTC; just after local midnight it is still the
        # first in UTC. The lag of this pipeline is one day.
        ("2026-02-02T01:30:00+00:00", "2026-02-01"),
        ("2026-02-01T23:30:00+00:00", "2026-02-01"),
        ("2026-02-01T22:30:00+00:00", "2026-01-31"),
    ],
)
def test_a_scheduled_run_is_for_the_local_day_before(tiny: World, at: str, partition: str) -> None:
    request = Request(
        pipeline="tiny",
        invocation=Invocation(orchestrator="airflow", id="scheduled__1"),
        at=dt.datetime.fromisoformat(at),
    )
    run = plan(request)
    assert (str(run.partition), run.run_id) == (partition, "airflow-scheduled__1")


def test_a_date_in_the_future_is_refused_and_the_newest_one_is_named(tiny: World) -> None:
    future = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=3)
    with pytest.raises(PermanentError, match=f"tiny {future}: .* lies in the future: the newest"):
        plan(tiny.request(future))
    record = _record(tiny, "cli-test")
    assert record.outcome == "failed"
    assert record.error is not None
    assert record.error["do"] == "pass an earlier date"


def test_an_unknown_pipeline_is_answered_with_the_nearest(tiny: World) -> None:
    request = tiny.request().model_copy(update={"pipeline": "tinny"})
    with pytest.raises(BadConfig, match="no pipeline 'tinny'.*Did you mean 'tiny'"):
        plan(request)


def test_a_model_version_goes_before_the_alias(tiny: World) -> None:
    tiny.register_model(seed=2)
    assert plan(tiny.request(model_version="1")).model.version == "1"
    with pytest.raises(PermanentError, match="99"):
        plan(tiny.request(model_version="99"))


def test_a_configuration_that_was_changed_in_the_workspace_is_not_trusted(tiny: World) -> None:
    run = plan(tiny.request())
    changed = planned_pipeline(run).model_copy(update={"sql": "SELECT 1"})
    storage.write(run.pipeline_uri, changed.model_dump_json().encode())
    with pytest.raises(CorruptData, match="not the configuration that the run was planned with"):
        planned_pipeline(run)
