"""The files that the Astro CLI reads hold what it reads, and name only what exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from email.utils import parseaddr
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parent.parent

# The keys of a Deployment file that the Astro CLI decodes (cloud/deployment/inspect of astro-cli);
# it ignores any other in silence, so that a misspelt one would do nothing.
SECTIONS = {"environment_variables", "configuration", "worker_queues", "alert_emails"}
CONFIGURATION = {
    "name",
    "description",
    "runtime_version",
    "dag_deploy_enabled",
    "ci_cd_enforcement",
    "scheduler_size",
    "is_high_availability",
    "is_development_mode",
    "executor",
    "workspace_name",
    "deployment_type",
    "cloud_provider",
    "region",
    "default_task_pod_cpu",
    "default_task_pod_memory",
    "resource_quota_cpu",
    "resource_quota_memory",
    "workload_identity",
}
QUEUE = {"name", "max_worker_count", "min_worker_count", "worker_concurrency", "worker_type"}
CONNECTION = {
    "conn_id",
    "conn_type",
    "conn_host",
    "conn_schema",
    "conn_login",
    "conn_password",
    "conn_port",
    "conn_uri",
    "conn_extra",
}
POOL = {"pool_name", "pool_slot", "pool_description"}


def content(file: str) -> Any:
    return yaml.safe_load((PROJECT / file).read_text("utf-8"))


def lines(file: str) -> list[str]:
    return [line for line in (PROJECT / file).read_text("utf-8").splitlines() if line]


@pytest.fixture(scope="module")
def deployment() -> dict[str, Any]:
    return dict(content("astro.yaml")["deployment"])


def test_the_deployment_file_has_only_keys_that_the_cli_reads(deployment: dict[str, Any]) -> None:
    assert set(deployment) == SECTIONS
    assert set(deployment["configuration"]) <= CONFIGURATION
    assert all(set(queue) <= QUEUE for queue in deployment["worker_queues"])
    assert all(
        set(variable) == {"key", "value", "is_secret"}
        for variable in deployment["environment_variables"]
    )


def test_the_deployment_file_passes_the_checks_of_the_cli(deployment: dict[str, Any]) -> None:
    configuration = deployment["configuration"]
    assert configuration["name"]
    assert configuration["executor"] in {"ASTRO", "CELERY", "KUBERNETES"}
    assert configuration["deployment_type"] in {"STANDARD", "DEDICATED"}
    assert configuration["scheduler_size"] in {"SMALL", "MEDIUM", "LARGE", "EXTRA_LARGE"}
    queues = {queue["name"]: queue for queue in deployment["worker_queues"]}
    assert queues["default"]["worker_type"]
    assert all(parseaddr(address)[1] == address for address in deployment["alert_emails"])
    assert all(variable["value"] for variable in deployment["environment_variables"])


def test_the_deployment_sets_only_variables_that_are_read(deployment: dict[str, Any]) -> None:
    read = set(re.findall(r"\bDAYBREAK_[A-Z_]+", (PROJECT / "include/settings.py").read_text()))
    named = {variable["key"] for variable in deployment["environment_variables"]}
    assert {key for key in named if key.startswith("DAYBREAK_")} <= read
    # Workers of a Deployment share no disk: these two have no default that works there.
    assert named >= {"DAYBREAK_WORKSPACE", "DAYBREAK_REGISTRY"}


def test_the_deployment_sets_values_that_the_settings_accept(
    deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from include.settings import settings

    for variable in deployment["environment_variables"]:
        monkeypatch.setenv(variable["key"], variable["value"])
    found = settings()
    assert found.workspace.startswith("s3://")
    assert found.registry.startswith("https://")


def test_the_deployment_holds_no_secret(deployment: dict[str, Any]) -> None:
    assert not any(variable["is_secret"] for variable in deployment["environment_variables"])


def test_the_image_and_the_deployment_are_of_one_runtime(deployment: dict[str, Any]) -> None:
    (image,) = [line.split()[1] for line in lines("Dockerfile") if line.startswith("FROM ")]
    repository, _, tag = image.partition(":")
    assert repository == "astrocrpublic.azurecr.io/runtime"
    match = re.fullmatch(r"(\d+\.\d+-\d+)-python-(\d+\.\d+)-base", tag)
    assert match
    assert match[1] == deployment["configuration"]["runtime_version"]
    locked = next(line for line in lines("requirements.txt") if line.startswith("apache-airflow=="))
    assert locked.startswith(f"apache-airflow=={match[1].partition('-')[0]}.")


def test_the_image_keeps_its_own_airflow_and_takes_all_else_from_the_lock() -> None:
    (pattern,) = re.findall(
        r"grep .* '(.*)' requirements\.txt", (PROJECT / "Dockerfile").read_text()
    )
    locked = {line.partition("==")[0] for line in lines("requirements.txt") if "==" in line}
    left_out = {
        line.partition("==")[0] for line in lines("requirements.txt") if re.match(pattern, line)
    }
    assert left_out == {"apache-airflow", "apache-airflow-core", "apache-airflow-task-sdk"}
    assert locked > left_out


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    ignored = lines(".dockerignore")
    copied = [
        source
        for line in lines("Dockerfile")
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
        if not source.startswith("--")
    ]
    assert copied
    for source in copied:
        assert (PROJECT / source).exists(), f"Dockerfile copies {source}, which does not exist"
        assert not any(fnmatch(source, pattern) for pattern in ignored)


@pytest.mark.parametrize("folder", ["dags", "include", "tasks"])
def test_the_image_holds_every_folder_that_a_run_needs(folder: str) -> None:
    assert (PROJECT / folder).is_dir()
    assert not any(fnmatch(folder, pattern) for pattern in lines(".dockerignore"))


def test_secrets_and_local_data_stay_out_of_the_image() -> None:
    assert {".env", ".daybreak", ".git", "airflow_settings.yaml"} <= set(lines(".dockerignore"))


def test_packages_are_names_of_debian_packages() -> None:
    packages = lines("packages.txt")
    assert packages
    # Debian policy 5.6.1.
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) for name in packages)


def test_packages_are_known_to_debian() -> None:
    apt_cache = shutil.which("apt-cache")
    if apt_cache is None:
        pytest.skip("this machine has no apt-cache to ask")
    packages = lines("packages.txt")
    known = subprocess.run(
        [apt_cache, "show", "--no-all-versions", *packages], capture_output=True, text=True
    )
    if not known.stdout:
        pytest.skip("apt's package lists are not there: apt-get update")
    shown = set(re.findall(r"^Package: (\S+)$", known.stdout, re.MULTILINE))
    assert shown == set(packages)


def test_local_settings_have_only_keys_that_the_cli_reads() -> None:
    airflow = content("airflow_settings.yaml")["airflow"]
    assert set(airflow) == {"connections", "pools", "variables"}
    assert all(set(connection) <= CONNECTION for connection in airflow["connections"])
    assert all(set(pool) == POOL for pool in airflow["pools"])


def test_every_connection_that_a_pipeline_names_has_a_local_one() -> None:
    connections = content("airflow_settings.yaml")["airflow"]["connections"]
    known = {connection["conn_id"] for connection in connections}
    for file in sorted((PROJECT / "include" / "pipelines").glob("*/pipeline.yaml")):
        warehouse = yaml.safe_load(file.read_text("utf-8"))["warehouse"]
        assert warehouse["connection"] in known, file


def test_no_local_setting_holds_a_password() -> None:
    connections = content("airflow_settings.yaml")["airflow"]["connections"]
    assert not any(connection.get("conn_password") for connection in connections)


def test_the_project_has_a_name() -> None:
    assert content(".astro/config.yaml") == {"project": {"name": "daybreak"}}
