"""The environment is read in one module, with defaults that work on a fresh checkout."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from include.errors import BadConfig
from include.settings import PROJECT, connection_variable, settings

CODE = ("include", "tasks", "daybreak", "flows", "demo")


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("DAYBREAK_", "MLFLOW_", "AIRFLOW_CONN_")):
            monkeypatch.delenv(name)


def test_a_bare_environment_keeps_everything_below_the_project():
    found = settings()
    assert found.home == PROJECT / ".daybreak"
    assert found.workspace == (PROJECT / ".daybreak" / "workspace").as_uri()
    assert found.registry == f"sqlite:///{PROJECT}/.daybreak/mlflow.db"
    assert found.pipelines == PROJECT / "include" / "pipelines"
    assert found.cache == PROJECT / ".daybreak" / "cache"
    assert found.connections_file == PROJECT / "airflow_settings.yaml"


def test_one_variable_moves_all_that_daybreak_makes(monkeypatch, tmp_path):
    monkeypatch.setenv("DAYBREAK_HOME", str(tmp_path / "my home"))
    found = settings()
    assert found.workspace == (tmp_path / "my home" / "workspace").as_uri()
    assert str(tmp_path / "my home") in found.registry and found.cache.parent == found.home


def test_each_variable_moves_its_own_part(monkeypatch):
    monkeypatch.setenv("DAYBREAK_WORKSPACE", "s3://bucket/daybreak/")
    monkeypatch.setenv("DAYBREAK_REGISTRY", "http://mlflow:5000")
    monkeypatch.setenv("DAYBREAK_PIPELINES", "/pipelines")
    monkeypatch.setenv("DAYBREAK_CACHE", "/cache")
    monkeypatch.setenv("DAYBREAK_CONNECTIONS_FILE", "/c.yaml")
    found = settings()
    assert found.workspace == "s3://bucket/daybreak"
    assert found.registry == "http://mlflow:5000"
    assert (found.pipelines, found.cache) == (Path("/pipelines"), Path("/cache"))
    assert found.connections_file == Path("/c.yaml")


def test_where_airflow_is_comes_from_the_environment_and_its_secrets_are_shown_nowhere(monkeypatch):
    assert settings().airflow.url == "http://127.0.0.1:8080"
    assert settings().airflow.user is None
    monkeypatch.setenv("DAYBREAK_AIRFLOW_URL", "https://airflow.example.com/x/")
    monkeypatch.setenv("DAYBREAK_AIRFLOW_USER", "ann")
    monkeypatch.setenv("DAYBREAK_AIRFLOW_PASSWORD", "h4sh-hush")
    monkeypatch.setenv("DAYBREAK_AIRFLOW_TOKEN", "t0ken-hush")
    found = settings()
    assert found.airflow.url == "https://airflow.example.com/x"
    assert (found.airflow.user, found.airflow.password) == ("ann", "h4sh-hush")
    assert found.airflow.token == "t0ken-hush"
    assert "hush" not in repr(found)


def test_mlflows_own_variable_names_the_registry_unless_ours_does(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://theirs")
    assert settings().registry == "http://theirs"
    monkeypatch.setenv("DAYBREAK_REGISTRY", "http://ours")
    assert settings().registry == "http://ours"


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch):
    for name in ("DAYBREAK_HOME", "DAYBREAK_WORKSPACE", "DAYBREAK_REGISTRY", "DAYBREAK_PIPELINES"):
        monkeypatch.setenv(name, "")
    assert settings().home == PROJECT / ".daybreak"
    monkeypatch.setenv("AIRFLOW_CONN_X", "")
    assert connection_variable("x") is None


def test_a_relative_workspace_does_not_move_with_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAYBREAK_WORKSPACE", "work space")
    assert settings().workspace == (tmp_path / "work space").as_uri()


def test_a_workspace_of_an_unknown_kind_is_refused(monkeypatch):
    monkeypatch.setenv("DAYBREAK_WORKSPACE", "ftp://host/x")
    with pytest.raises(BadConfig, match=r"unknown scheme 'ftp'.*Use a path, file://, s3://"):
        settings()


def test_telemetry_is_off_unless_the_user_turned_it_on():
    program = (
        "from include.settings import silence_telemetry; silence_telemetry(); import os;"
        "print(os.environ['DO_NOT_TRACK'], os.environ['GX_ANALYTICS_ENABLED'])"
    )
    environment = {**os.environ, "GX_ANALYTICS_ENABLED": "true"}
    environment.pop("DO_NOT_TRACK", None)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1", "true"]


def test_no_other_module_of_the_product_reads_the_environment():
    readers = []
    for folder in CODE:
        for file in (PROJECT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
                if name in ("os.environ", "os.getenv", "os.environb") and file.parts[-2:] != (
                    "include",
                    "settings.py",
                ):
                    readers.append(f"{file.relative_to(PROJECT)}:{node.lineno}")
    assert readers == []
