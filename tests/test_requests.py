"""What a person may ask of one run otherwise than the pipeline says, and what comes of it."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from daybreak.cli import app
from include.errors import BadConfig
from include.overrides import engines_in_airflow, overridden
from include.pipeline import planned_pipeline
from include.run import Invocation, Request
from tasks.plan import plan
from tasks.preview import preview
from tests.world import NAME, World


def asked(world: World, **fields: Any) -> Request:
    return world.request().model_copy(update=fields)


def command(world: World, *arguments: str) -> Result:
    given = ["run", NAME, "--date", str(world.day), *arguments]
    return CliRunner().invoke(app, given, env={"COLUMNS": "200"})


def test_an_alias_is_asked_for_instead_of_the_pipelines_own(tiny: World) -> None:
    other = tiny.register_model(seed=7, alias="challenger")
    assert plan(asked(tiny, model_alias="challenger")).model.version == other
    assert plan(tiny.request()).model.version == "1"


def test_an_alias_that_nothing_has_and_two_models_at_once_fail_before_any_work(
    tiny: World,
) -> None:
    with pytest.raises(BadConfig, match="champion"):
        plan(asked(tiny, model_alias="champion"))
    with pytest.raises(BadConfig, match="may be another version"):
        plan(asked(tiny, model_alias="production", model_version="1"))


def test_an_engine_is_asked_for_and_makes_no_other_version(tiny: World) -> None:
    there, here = plan(asked(tiny, engine="spark")), plan(tiny.request(run="other"))
    assert planned_pipeline(there).config.engine.kind == "spark"
    assert planned_pipeline(here).config.engine.kind == "local"
    assert there.config_digest == here.config_digest


@pytest.mark.parametrize(
    ("engine", "said"),
    [("mainframe", "pass one of local, spark, kubernetes"), ("kubernetes", "kubernetes needs")],
)
def test_an_engine_that_the_pipeline_cannot_use_fails_before_any_work(
    tiny: World, engine: str, said: str
) -> None:
    with pytest.raises(BadConfig) as caught:
        plan(asked(tiny, engine=engine))
    assert said in str(caught.value).replace("Pass", "pass")
    assert "\n" not in str(caught.value)


def test_a_dag_that_starts_pods_scores_on_pods_only(tiny: World) -> None:
    tiny.configure({"engine": {"kind": "kubernetes", "image": "daybreak:1"}})
    content = (tiny.folder / "pipeline.yaml").read_text("utf-8").replace("  workers: 1\n", "")
    (tiny.folder / "pipeline.yaml").write_text(content, "utf-8")
    pipeline = tiny.pipeline()
    assert engines_in_airflow(pipeline) == ("kubernetes",)
    request = asked(
        tiny, engine="local", invocation=Invocation(orchestrator="airflow", id="manual__1")
    )
    with pytest.raises(BadConfig, match="its tasks cannot score on 'local'"):
        overridden(pipeline, request)
    assert overridden(pipeline, asked(tiny, engine="local")).config.engine.kind == "local"


def test_a_dry_run_says_what_would_be_done_and_why_and_does_nothing(tiny: World) -> None:
    before = sorted(tiny.home.rglob("*"))
    said = command(tiny, "--dry-run")
    assert said.exit_code == 0, said.output
    assert (
        f"{NAME}: would score {tiny.day} with model version 1 on the local engine: "
        "it was never run." in said.stdout
    )
    printed = json.loads(command(tiny, "--dry-run", "--json").stdout)
    assert (printed["state"], printed["preview"]["runs"]) == ("not run", True)
    assert sorted(tiny.home.rglob("*")) == before
    wrong = command(tiny, "--dry-run", "--model-version", "9")
    assert wrong.exit_code == 2 and "no version '9'" in wrong.stderr


def test_a_partition_is_run_where_it_is_missing_or_stale_and_else_left(tiny: World) -> None:
    assert command(tiny, "--rescore", "missing").exit_code == 0
    for rescore in ("missing", "stale"):
        again = command(tiny, "--rescore", rescore, "--json")
        assert again.exit_code == 0, again.output
        found = json.loads(again.stdout)
        assert (found["state"], found["preview"]["runs"]) == ("not run", False)
        assert "has version v" in found["preview"]["why"]
    newer = tiny.register_model(seed=7)
    assert not preview(asked(tiny, rescore="missing")).runs
    stale = preview(asked(tiny, rescore="stale"))
    assert stale.runs and f"production is {newer} now" in stale.why
    assert not stale.ends_here
    explicit = preview(asked(tiny, rescore="stale", model_version="1"))
    assert not explicit.runs


def test_a_dry_run_of_a_future_date_is_refused(tiny: World) -> None:
    with pytest.raises(Exception, match="lies in the future"):
        preview(asked(tiny, partition_date=dt.date(2999, 1, 1), dry_run=True))
