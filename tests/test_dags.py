"""One DAG per pipeline folder: what Airflow finds in dags/scoring.py, without running it."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daybreak.run import run_steps
from include.errors import BadConfig
from include.stores import open_store
from include.workspace import Workspace
from tests.test_notify import Silent
from tests.world import FEATURES_SQL, PIPELINE_YAML, ROWS, SUITE_YAML, World, copy_world

PROJECT = Path(__file__).resolve().parent.parent
UPKEEP = "daybreak_upkeep"
STEPS = ["plan", "extract", "gate", "score", "publish", "drift", "report"]
APPROVAL = ["approval.ask", "approval.publish_approved"]


def write_pipeline(folder: Path, yaml: str = PIPELINE_YAML) -> None:
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(yaml, "utf-8")
    (folder / "features.sql").write_text(FEATURES_SQL, "utf-8")
    (folder / "suite.yaml").write_text(SUITE_YAML, "utf-8")


def parse(tmp: Path, pipelines: Path, *arguments: str) -> dict[str, Any]:
    environment = os.environ | {
        "AIRFLOW_HOME": str(tmp / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "DAYBREAK_PIPELINES": str(pipelines),
        "DAYBREAK_HOME": str(tmp / "home"),
        "PYTHONPATH": str(PROJECT),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.parse_dags", *arguments],
        env=environment,
        cwd=tmp,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dags") / "pipelines"
    write_pipeline(root / "churn", PIPELINE_YAML + "owner: growth\ntags: [nightly, churn]\n")
    write_pipeline(root / "unscheduled", PIPELINE_YAML.replace('  cron: "30 2 * * *"\n', ""))
    # The names of tasks and modules that the DAG file itself uses.
    for name in ("score", "plan", "settings", "task"):
        write_pipeline(root / name)
    local = "engine:\n  kind: local\n  workers: 1\n"
    assert local in PIPELINE_YAML
    pods = "engine: {kind: kubernetes, image: 'x:1', retries: 1, deferrable: false}\n"
    write_pipeline(root / "on_pods", PIPELINE_YAML.replace(local, pods))
    spark = "engine: {kind: spark, master: 'spark://spark.example.org:7077'}\n"
    write_pipeline(root / "on_spark", PIPELINE_YAML.replace(local, spark))
    write_pipeline(root / "misspelt", PIPELINE_YAML.replace("min_rows", "min_row"))
    write_pipeline(root / "bad_cron", PIPELINE_YAML.replace("30 2", "99 2"))
    write_pipeline(root / "not a name")
    (root / "empty").mkdir()
    (root / "_draft").mkdir()
    return root


@pytest.fixture(scope="module")
def found(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return parse(tmp_path_factory.mktemp("parse"), folders)


@pytest.fixture(scope="module")
def churn(found: dict[str, Any]) -> dict[str, Any]:
    dag: dict[str, Any] = found["dags"]["churn"]
    return dag


def test_every_folder_is_one_dag_and_nothing_else_is(found: dict[str, Any]) -> None:
    healthy = {"churn", "on_pods", "on_spark", "unscheduled", "score", "plan", "settings", "task"}
    broken = {f"{name}__config_error" for name in ("misspelt", "bad_cron", "not_a_name", "empty")}
    assert set(found["dags"]) == healthy | broken | {UPKEEP}
    assert found["errors"] == {}
    files = {dag_id: dag["file"] for dag_id, dag in found["dags"].items()}
    assert files.pop(UPKEEP) == "upkeep.py"
    assert set(files.values()) == {"scoring.py"}


def test_a_pipeline_on_a_spark_cluster_has_its_application_as_a_task(found: dict[str, Any]) -> None:
    tasks = found["dags"]["on_spark"]["tasks"]
    assert tasks["spark.prepare"]["upstream"] == ["gate"]
    assert tasks["spark.application"]["upstream"] == ["spark.prepare"]
    assert tasks["score"]["upstream"] == ["spark.application", "spark.prepare"]
    assert tasks["score"]["trigger_rule"] == "all_done_min_one_success"


def test_a_pipeline_on_kubernetes_shows_its_pods_before_the_score(found: dict[str, Any]) -> None:
    tasks = found["dags"]["on_pods"]["tasks"]
    assert tasks["pods.prepare"]["upstream"] == ["gate"]
    assert tasks["pods.pod"]["upstream"] == ["pods.prepare"]
    assert tasks["pods.pod"]["retries"] == 1
    # Nothing but these: whatever becomes of a pod, and only where there was something to score.
    assert tasks["score"]["upstream"] == ["pods.pod", "pods.prepare"]
    assert tasks["score"]["trigger_rule"] == "all_done_min_one_success"
    plain = found["dags"]["churn"]["tasks"]
    assert {*tasks} - {*plain} == {"pods.prepare", "pods.pod"}
    assert tasks["publish"]["upstream"] == plain["publish"]["upstream"] == ["score"]


def test_parsing_loads_none_of_the_heavy_libraries(found: dict[str, Any]) -> None:
    heavy = {
        *("pandas", "pyarrow", "mlflow", "great_expectations", "evidently", "pyspark"),
        *("sklearn", "lightgbm", "scipy", "duckdb", "deltalake", "obstore", "prefect"),
    }
    assert heavy & set(found["modules"]) == set()
    assert {"airflow", "include", "pydantic"} <= set(found["modules"])


def test_a_broken_folder_shows_its_error_and_is_not_scheduled(found: dict[str, Any]) -> None:
    dag = found["dags"]["misspelt__config_error"]
    for said in ("'gate.min_row'", "min_rows", "pipeline.yaml:"):
        assert said in dag["doc_md"]
        assert said in dag["description"]
    assert dag["tags"] == ["config_error"]
    assert dag["cron"] is None
    assert list(dag["tasks"]) == ["config_error"]


def test_a_cron_that_airflow_refuses_is_a_config_error_too(found: dict[str, Any]) -> None:
    dag = found["dags"]["bad_cron__config_error"]
    assert "schedule.cron" in dag["doc_md"]
    assert "99 2 * * *" in dag["doc_md"]


def test_the_schedule_is_the_pipelines_in_its_own_zone(churn: dict[str, Any]) -> None:
    assert churn["timetable"] == "CronTriggerTimetable"
    assert churn["cron"] == "30 2 * * *"
    assert churn["timezone"] == "Europe/Berlin"
    assert churn["start_date"] == "2026-01-01T00:00:00+01:00"
    assert churn["catchup"] is False
    assert churn["max_active_runs"] == 1


def test_a_pipeline_without_a_cron_waits_to_be_triggered(found: dict[str, Any]) -> None:
    assert found["dags"]["unscheduled"]["cron"] is None


def test_owner_tags_and_documentation_come_from_the_folder(churn: dict[str, Any]) -> None:
    assert {"nightly", "churn"} < set(churn["tags"])
    assert {task["owner"] for task in churn["tasks"].values()} == {"growth"}
    for said in (
        "Churn of a few hundred accounts",
        "`30 2 * * *` in Europe/Berlin, due by 08:00",
        "`account_id`, `channel`",
        "`models:/tiny-churn@production`",
        "at least 100 rows",
        "`updated_at` at most 36 h old",
        "growth",
    ):
        assert said in churn["doc_md"]


def test_any_change_of_a_folder_changes_the_tag_of_its_config(
    found: dict[str, Any], folders: Path, tmp_path: Path
) -> None:
    def tag(dag: dict[str, Any]) -> str:
        (digest,) = [tag for tag in dag["tags"] if tag.startswith("config:")]
        assert len(digest) == len("config:") + 8
        return str(digest)

    # A drift threshold shapes no rows, and the DAG still shows that it changed.
    write_pipeline(tmp_path / "pipelines" / "churn", PIPELINE_YAML + "  warn_psi: 0.2\n")
    changed = parse(tmp_path, tmp_path / "pipelines")["dags"]["churn"]
    assert tag(changed) != tag(found["dags"]["churn"])


def test_the_steps_run_one_after_another(churn: dict[str, Any]) -> None:
    assert {*churn["tasks"]} == {*STEPS, *APPROVAL, "announce", "verdict"}
    for before, after in pairwise(STEPS):
        assert after in churn["tasks"][before]["downstream"]


def test_the_report_and_the_verdict_run_whatever_failed(churn: dict[str, Any]) -> None:
    rules = {name: task["trigger_rule"] for name, task in churn["tasks"].items()}
    assert {name for name, rule in rules.items() if rule == "all_done"} == {"report", "verdict"}
    # The report takes nothing from another task: with a value of plan's it could not run without.
    assert churn["tasks"]["report"]["upstream"] == ["drift"]


def test_a_run_is_as_its_verdict_is_and_as_the_news_of_it_are(churn: dict[str, Any]) -> None:
    leaves = [name for name, task in churn["tasks"].items() if not task["downstream"]]
    assert sorted(leaves) == ["announce", "verdict"]


def test_steps_are_retried_with_growing_delays_and_cannot_hang(churn: dict[str, Any]) -> None:
    for name in STEPS:
        task = churn["tasks"][name]
        assert task["retries"] == 3
        assert task["retry_delay"] == 30
        assert task["backoff"] == 2
        assert task["timeout"] > 0
    assert churn["tasks"]["verdict"]["retries"] == 0


def test_params_are_typed_and_blank_by_default(churn: dict[str, Any]) -> None:
    params = churn["params"]
    blank = ["partition_date", "model_version", "model_alias", "engine"]
    assert list(params) == [*blank, "rescore", "dry_run"]
    for name in blank:
        assert params[name]["default"] is None
        assert set(params[name]["type"]) == {"null", "string"}
    assert params["partition_date"]["format"] == "date"
    assert (params["rescore"]["default"], params["dry_run"]["default"]) == ("all", False)
    assert params["rescore"]["enum"] == ["missing", "stale", "all"]
    assert all(len(each["description"]) > 40 and each["title"] for each in params.values())


def test_the_form_offers_only_engines_that_the_pipeline_can_score_on(
    churn: dict[str, Any],
) -> None:
    # Pods need an image, which nothing but the pipeline's own section names.
    offered = churn["params"]["engine"]["enum"]
    assert offered[:2] == [None, "local"] and "kubernetes" not in offered


def test_a_held_version_is_asked_about_only_where_publish_was_skipped(
    churn: dict[str, Any],
) -> None:
    ask, approved = (churn["tasks"][name] for name in APPROVAL)
    assert (ask["trigger_rule"], ask["upstream"]) == ("all_skipped", ["publish"])
    assert "approval.ask" in approved["upstream"]
    for after in ("announce", "drift"):
        assert churn["tasks"][after]["trigger_rule"] == "none_failed_min_one_success"
        assert {"publish", "approval.publish_approved"} <= set(churn["tasks"][after]["upstream"])


def test_runs_link_to_their_model_their_table_version_and_their_report(
    churn: dict[str, Any],
) -> None:
    links = {name: task["links"] for name, task in churn["tasks"].items() if task["links"]}
    assert links == {
        "plan": ["Model version"],
        "publish": ["Table version"],
        "approval.publish_approved": ["Table version"],
        "report": ["Report"],
    }


def test_a_step_may_take_as_long_as_the_pipeline_says(folders: Path, tmp_path: Path) -> None:
    slow = PIPELINE_YAML.replace("schedule:\n", "schedule:\n  step_minutes: {score: 600}\n")
    write_pipeline(tmp_path / "pipelines" / "slow", slow)
    tasks = parse(tmp_path, tmp_path / "pipelines")["dags"]["slow"]["tasks"]
    assert (tasks["score"]["timeout"], tasks["extract"]["timeout"]) == (36_000, 7_200)


def test_upkeep_is_one_daily_dag_with_a_task_for_each_pipeline(found: dict[str, Any]) -> None:
    dag = found["dags"][UPKEEP]
    assert (dag["cron"], dag["timezone"]) == ("0 12 * * *", "UTC")
    assert (dag["catchup"], dag["max_active_runs"]) == (False, 1)
    assert list(dag["tasks"]) == ["pipelines", "upkeep"]
    assert dag["tasks"]["upkeep"]["upstream"] == ["pipelines"]
    assert dag["tasks"]["upkeep"]["retries"] == 3
    assert dag["tasks"]["upkeep"]["timeout"] > 0


@pytest.fixture(scope="module")
def ran(built_world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of runs of the DAGs that are no pipeline's, by Airflow's own task runner."""
    base = tmp_path_factory.mktemp("ran")
    world = copy_world(built_world, base / "world")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.env.items():
            patch.setenv(name, value)
        world.configure({"retention": {"versions": 1, "rollback_days": 0}})
        world.configure({"predictions": {"audit": {"max_score_psi": 1000.0}}})
        second = world.register_model(seed=7)
        for model in ("1", second):  # the second supersedes the first, which may go
            request = world.request(run=f"of {model}", model_version=model)
            made = run_steps(request, Silent())
            assert made.report is not None and made.report.state == "published"
    for path in (world.home / "workspace").rglob("*"):  # what is young may be a run's that goes on
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3 * 86_400))
    write_pipeline(world.pipelines / "broken", PIPELINE_YAML.replace("min_rows", "min_row"))
    (base / "none").mkdir()
    upkeep = str(PROJECT / "dags" / "upkeep.py")
    runs = [
        ("steps", "steps", str(PROJECT / "tests" / "steps_dag.py"), world.env),
        ("upkeep", UPKEEP, upkeep, world.env),
        ("none", UPKEEP, upkeep, {**world.env, "DAYBREAK_PIPELINES": str(base / "none")}),
    ]
    plan = {
        "home": str(base / "airflow"),
        "runs": [
            {"name": name, "dag": dag, "file": file, "env": env, "conf": {}, "connections": {}}
            for name, dag, file, env in runs
        ],
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.run_dags"],
        input=json.dumps(plan), cwd=PROJECT, capture_output=True, text=True,
    )  # fmt: skip
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-4000:]
    outcomes: dict[str, Any] = json.loads((base / "airflow" / "runs.json").read_text("utf-8"))
    return outcomes | {"log": log, "world": world}


def test_upkeep_tidies_each_pipeline_whatever_is_wrong_with_another(ran: dict[str, Any]) -> None:
    tasks, world = ran["upkeep"]["tasks"], ran["world"]
    assert ran["upkeep"]["state"] == "failed", "the broken folder is not passed over in silence"
    states = {name: task["state"] for name, task in tasks.items()}
    assert states == {"pipelines": "success", "upkeep[0]": "failed", "upkeep[1]": "success"}
    assert tasks["upkeep[0]"]["tries"] == 1
    workspace = Workspace(world.workspace, world.name)
    store = open_store(world.pipeline().config.predictions, workspace.predictions())
    (kept,) = store.versions(world.day)
    assert kept.current and store.read(world.day).num_rows == ROWS


def test_upkeep_of_no_pipeline_at_all_is_red(ran: dict[str, Any]) -> None:
    assert ran["none"]["state"] == "failed"
    assert ran["none"]["tasks"]["pipelines"] == {"state": "failed", "tries": 1}
    assert "holds no pipeline" in ran["log"]


def test_what_may_pass_is_tried_again_and_nothing_else_is(ran: dict[str, Any]) -> None:
    again, at_once = {"state": "success", "tries": 2}, {"state": "failed", "tries": 1}
    assert ran["steps"]["tasks"] == {
        "transient": again,
        "of_airflow": again,
        "permanent": at_once,
        "unexpected": at_once,
        "score": at_once,
    }
    assert "ZeroDivisionError: nobody thought of this" in ran["log"]


def test_a_step_whose_minutes_are_over_fails_at_once_and_says_how_to_get_more(
    ran: dict[str, Any],
) -> None:
    assert "score was not done in 0.02 minutes and was stopped." in ran["log"]
    assert "raise the pipeline's schedule.step_minutes.score first" in ran["log"]


def test_a_bad_setting_stops_no_process_of_airflow(tmp_path: Path) -> None:
    environment = os.environ | {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "PYTHONPATH": str(PROJECT),
        "DAYBREAK_STORAGE_CONNECTION": "s3://a/b=x",
    }
    program = (
        "import airflow.settings as s; s.initialize(); import airflow_local_settings; print(1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "DAYBREAK_STORAGE_CONNECTION has 's3://a/b'" in done.stdout + done.stderr


def test_a_worker_of_upkeep_parses_no_pipeline(folders: Path, tmp_path: Path) -> None:
    assert list(parse(tmp_path, folders, UPKEEP)["dags"]) == [UPKEEP]


def test_a_worker_parses_only_the_dag_of_its_task(folders: Path, tmp_path: Path) -> None:
    assert list(parse(tmp_path, folders, "churn")["dags"]) == ["churn"]


def test_a_worker_finds_the_dag_of_a_broken_folder(folders: Path, tmp_path: Path) -> None:
    wanted = "not_a_name__config_error"
    assert list(parse(tmp_path, folders, wanted)["dags"]) == [wanted]


@pytest.fixture(scope="module")
def airflow_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The module dags.airflow_run, with Airflow's home out of the user's own."""
    if "airflow" not in sys.modules:
        os.environ["AIRFLOW_HOME"] = str(tmp_path_factory.mktemp("airflow"))
    from dags import airflow_run

    return airflow_run


TICK = dt.datetime(2026, 3, 29, 0, 30, tzinfo=dt.UTC)  # 01:30 in Berlin, before its DST change
LATER = TICK + dt.timedelta(hours=5)


def context(
    conf: dict[str, Any] | None = None,
    run_type: str = "scheduled",
    logical_date: dt.datetime | None = TICK,
) -> dict[str, Any]:
    """What a task's context holds of a run, with the params that Airflow makes from `conf`."""
    params = {"partition_date": None, "model_version": None} | (conf or {})
    run = SimpleNamespace(
        conf=conf,
        run_type=run_type,
        run_id="scheduled__2026-03-29T00:30:00+00:00",
        logical_date=logical_date,
        run_after=LATER,
    )
    url = "http://airflow/dags/churn/runs/scheduled__1/tasks/plan?try_number=1"
    return {"dag_run": run, "params": params, "ti": SimpleNamespace(log_url=url)}


KNOWN = ("partition_date", "model_version")


def test_a_scheduled_run_is_for_its_logical_date(airflow_run: Any) -> None:
    request = airflow_run.request_of("churn", context(), KNOWN)
    assert request.at == TICK
    assert request.partition_date is None
    assert request.model_version is None


def test_a_run_without_a_logical_date_is_for_the_time_that_it_may_start(airflow_run: Any) -> None:
    run = context(run_type="manual", logical_date=None)
    assert airflow_run.request_of("churn", run, KNOWN).at == LATER


def test_a_person_may_name_the_date_and_the_model(airflow_run: Any) -> None:
    run = context({"partition_date": "2026-01-31", "model_version": "3"}, "manual")
    request = airflow_run.request_of("churn", run, KNOWN)
    assert request.partition_date == dt.date(2026, 1, 31)
    assert request.model_version == "3"


def test_params_left_blank_in_the_form_are_not_set(airflow_run: Any) -> None:
    run = context({"partition_date": None, "model_version": ""}, "manual")
    request = airflow_run.request_of("churn", run, KNOWN)
    assert request.partition_date is None
    assert request.model_version is None


def test_a_misspelt_parameter_is_refused_by_name(airflow_run: Any) -> None:
    run = context({"partition_dat": "2026-01-31"}, "manual")
    with pytest.raises(BadConfig) as caught:
        airflow_run.request_of("churn", run, KNOWN)
    assert str(caught.value) == (
        "churn: unknown parameter 'partition_dat'. Did you mean 'partition_date'? Valid "
        "parameters: partition_date, model_version."
    )


def test_one_date_for_a_whole_backfill_is_refused(airflow_run: Any) -> None:
    run = context({"partition_date": "2026-01-31"}, "backfill")
    with pytest.raises(BadConfig, match="in a backfill"):
        airflow_run.request_of("churn", run, KNOWN)
    blank = context({"partition_date": None}, "backfill")
    assert airflow_run.request_of("churn", blank, KNOWN).at == TICK


def test_a_request_names_its_run_and_the_page_of_it(airflow_run: Any) -> None:
    request = airflow_run.request_of("churn", context(), KNOWN)
    assert request.invocation.orchestrator == "airflow"
    assert request.invocation.id == "scheduled__2026-03-29T00:30:00+00:00"
    assert request.invocation.url == "http://airflow/dags/churn/runs/scheduled__1"


def test_plan_and_report_agree_on_the_run_without_speaking(airflow_run: Any) -> None:
    from include.workspace import run_id_of

    invocation = airflow_run.request_of("churn", context(), KNOWN).invocation
    planned = run_id_of(invocation.orchestrator, invocation.id)
    assert airflow_run.own_run_id(context()) == planned
    assert "/" not in planned and ":" not in planned
