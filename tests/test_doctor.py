"""`daybreak doctor`: a person learns what an environment lacks, and how to get it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from daybreak.cli import app
from tests.world import World


def doctor(*options: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *options], env={"COLUMNS": "100"})


def found(*options: str) -> dict[tuple[str, str], dict[str, str]]:
    value = json.loads(doctor("--json", *options).stdout)
    assert value["schema_version"] == 1
    return {(each["group"], each["name"]): each for each in value["findings"]}


@pytest.fixture(autouse=True)
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of this process's environment that are not the test's own."""
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    monkeypatch.setenv("DAYBREAK_AIRFLOW_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("DAYBREAK_NOTIFY", raising=False)


def test_an_environment_that_lacks_nothing_exits_with_0_and_says_so(tiny: World):
    result = doctor()
    assert result.exit_code == 0, result.output
    assert "Nothing that your pipelines need is missing" in result.stdout


def test_every_finding_that_is_not_fine_says_what_to_do(tiny: World):
    # xgboost and Kubernetes are not needed here, and a person may still want them.
    for each in found().values():
        assert bool(each["do"]) == (each["state"] != "ok"), each


def test_it_leaves_nothing_in_the_workspace(tiny: World):
    before = sorted(path for path in tiny.home.rglob("*") if path.is_file())
    assert doctor().exit_code == 0
    assert sorted(path for path in tiny.home.rglob("*") if path.is_file()) == before


def test_a_missing_connection_is_named_with_the_pipelines_that_need_it(
    tiny: World, monkeypatch: pytest.MonkeyPatch
):
    config = tiny.folder / "pipeline.yaml"
    text = config.read_text("utf-8")
    name = tiny.pipeline().config.warehouse.connection
    config.write_text(text.replace(f"connection: {name}", "connection: nowhere"), "utf-8")
    assert doctor().exit_code == 1
    missing = found()["connections", "nowhere"]
    assert missing["state"] == "missing" and "for tiny" in missing["found"]
    assert "AIRFLOW_CONN_NOWHERE" in missing["do"]


def test_a_folder_that_is_wrong_is_named(tiny: World):
    (tiny.folder / "pipeline.yaml").write_text("descriptoin: oops\n", "utf-8")
    assert doctor().exit_code == 1
    assert "daybreak check tiny" in found()["pipelines", "tiny"]["do"]


def test_a_registry_that_is_not_there_is_missing_unless_nobody_may_ask(
    tiny: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DAYBREAK_REGISTRY", f"sqlite:///{tiny.home}/nothing.db")
    assert found()["settings", "DAYBREAK_REGISTRY"]["state"] == "missing"
    assert found("--offline")["settings", "DAYBREAK_REGISTRY"]["found"] == "not asked"


def test_java_is_needed_by_pipelines_on_spark_alone(tiny: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    java = found("--offline")["engines", "Java"]
    assert java["state"] == "unused" and "openjdk-17" in java["do"]
    config = tiny.folder / "pipeline.yaml"
    content = yaml.safe_load(config.read_text("utf-8"))
    content["engine"] = {"kind": "spark", "master": "local[2]"}
    config.write_text(yaml.safe_dump(content), "utf-8")
    assert found("--offline")["engines", "Java"]["state"] == "missing"
    assert doctor("--offline").exit_code == 1


def test_a_java_that_is_too_old_for_spark_is_not_taken(
    tiny: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert "11.0.2" in found("--offline")["engines", "Java"]["found"]
    assert found("--offline")["engines", "Java"]["state"] == "unused"


def test_secrets_of_services_and_connections_are_not_shown(
    tiny: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DAYBREAK_NOTIFY", "json://user:sesame-open@127.0.0.1:9/")
    monkeypatch.setenv(
        f"AIRFLOW_CONN_{tiny.pipeline().config.warehouse.connection.upper()}",
        '{"conn_type": "duckdb", "host": "x.duckdb", "password": "sesame-open"}',
    )
    result = doctor()
    assert "1 service" in result.stdout and "sesame-open" not in result.output


def test_a_service_that_apprise_does_not_know_is_missing_and_none_of_its_url_is_shown(
    tiny: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DAYBREAK_NOTIFY", "json://127.0.0.1:9/ nonsense://sesame-open@somewhere")
    told = found("--offline")["settings", "DAYBREAK_NOTIFY"]
    assert told["state"] == "missing"
    assert "entry 2 of DAYBREAK_NOTIFY (nonsense)" in told["found"]
    assert "sesame" not in doctor("--offline").output


def test_without_a_permission_to_write_bytecode_imports_are_slow_and_it_says_so(
    tiny: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    assert "PYTHONDONTWRITEBYTECODE" in found("--offline")["machine", "bytecode"]["found"]


def test_the_shell_completes_a_pipelines_name(tiny: World, monkeypatch: pytest.MonkeyPatch):
    from daybreak.cli.options import pipeline_names

    assert pipeline_names("ti") == ["tiny"] and pipeline_names("x") == []
    shown = CliRunner().invoke(
        app, [], env={"_DAYBREAK_COMPLETE": "complete_bash", "COMP_WORDS": "daybreak run ti",
                      "COMP_CWORD": "2"}, prog_name="daybreak",
    )  # fmt: skip
    assert "tiny" in shown.stdout


@pytest.mark.parametrize(
    ("name", "value"),
    [("DAYBREAK_PIPELINES", "/nowhere"), ("DAYBREAK_STORAGE_CONNECTION", "s3://a/b=x")],
)
def test_completion_is_silent_where_the_environment_is_wrong(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    from daybreak.cli.options import pipeline_names

    monkeypatch.setenv(name, value)
    assert pipeline_names("ti") == []
    shown = CliRunner().invoke(
        app, [], env={"_DAYBREAK_COMPLETE": "complete_bash", "COMP_WORDS": "daybreak run ti",
                      "COMP_CWORD": "2"}, prog_name="daybreak",
    )  # fmt: skip
    assert "Traceback" not in shown.output and not isinstance(shown.exception, Exception)
