"""What the Spark parts say to Spark, and what they refuse; nothing here starts a JVM."""

from __future__ import annotations

import datetime as dt
import json
import math
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from include.connections import Connection
from include.engine_config import EngineConfig, SparkEngine, SparkGpu
from include.errors import BadConfig, PermanentError, TransientError
from include.settings import PROJECT
from include.spark.application import spark_application
from include.spark.parts import Staged, cut
from include.spark.rendering import rendered, task_share, tolerant
from include.spark.session import require_java, spark_fault
from include.spark.shipping import code_zip
from include.warehouses.spark import bound, executors_reach, master_of, source_of

CLUSTER = "spark://spark.example.org:7077"
K8S = "k8s://https://api.example.org:6443"


def engine(**section: Any) -> SparkEngine:
    found = TypeAdapter(EngineConfig).validate_python({"kind": "spark"} | section)
    assert isinstance(found, SparkEngine)
    return found


@pytest.mark.parametrize(
    "master",
    ["local", "local[4]", "local[*]", "local[2,4]", CLUSTER, "spark://a:7077,b:7077", K8S,
     "sc://host:15002", "sc://host:15002/;token=x"],
)  # fmt: skip
def test_every_master_of_the_documentation_is_taken(master: str) -> None:
    assert engine(master=master).master == master


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"master": "yarn"}, "'yarn' is no master: write local"),
        ({"master": "spark://host"}, "is no master"),
        ({"master": "local[0x2]"}, "is no master"),
        ({"conf": {"executor.memory": "2g"}}, "executor.memory is no setting of Spark's"),
        ({"conf": {"spark.master": "local"}}, "written as engine.master"),
        ({"conf": {"spark.submit.deployMode": "cluster"}}, "the driver stays with Daybreak"),
        ({"gpu": {}}, "schedules no GPUs on a local master"),
        ({"master": "sc://h:1", "gpu": {}}, "was started with its GPUs"),
        ({"master": "sc://h:1", "packaging": {"python": "p"}}, "its own Python"),
        ({"master": "sc://h:1", "launch": "submit"}, "cannot reach a Spark Connect server"),
        ({"master": CLUSTER, "gpu": {"rapids": True, "amount_per_executor": 2}}, "one GPU per"),
        ({"master": CLUSTER, "gpu": {"rapids_jar": "x.jar"}}, "nothing without rapids"),
        ({"master": CLUSTER, "launch": "operator"}, "go together"),
        ({"master": CLUSTER, "launch": "operator", "operator": {"image": "i"}}, "in Kubernetes"),
        ({"partitions_per_core": 0}, "greater than or equal to 1"),
        ({"cores": 3}, "Extra inputs"),
    ],
)
def test_a_section_that_cannot_work_says_what_to_write(
    section: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        engine(**section)


def test_numbers_and_booleans_of_yaml_are_written_as_spark_reads_them() -> None:
    conf = {"spark.executor.cores": 2, "spark.speculation": True, "spark.memory.fraction": 0.5}
    assert engine(conf=conf).conf == {
        "spark.executor.cores": "2",
        "spark.speculation": "true",
        "spark.memory.fraction": "0.5",
    }


def test_gpus_become_resources_of_executors_and_shares_of_tasks() -> None:
    config = engine(master=K8S, gpu={"amount_per_executor": 1, "tasks_per_gpu": 3, "rapids": True})
    settings = rendered(config.master, config.conf, config.gpu)
    gpu = {name: value for name, value in settings.items() if ".gpu" in name.lower()}
    assert gpu == {
        "spark.executor.resource.gpu.amount": "1",
        "spark.executor.resource.gpu.discoveryScript": "/opt/spark/examples/src/main/scripts/"
        "getGpusResources.sh",
        "spark.executor.resource.gpu.vendor": "nvidia.com",
        "spark.task.resource.gpu.amount": "0.333333",
    }
    assert settings["spark.python.worker.reuse"] == "true"
    # Where parts are scored RAPIDS would take the memory that the model needs.
    assert not [name for name in settings if "rapids" in name or name == "spark.plugins"]


def test_rapids_runs_the_feature_query_and_limits_the_python_workers_beside_it() -> None:
    gpu = SparkGpu(tasks_per_gpu=2, rapids=True, rapids_jar="s3a://jars/rapids-4-spark.jar")
    settings = rendered(CLUSTER, {}, gpu, query=True)
    chosen = ("spark.plugins", "spark.jars")
    assert {n: v for n, v in settings.items() if "rapids" in n or n in chosen} == {
        "spark.plugins": "com.nvidia.spark.SQLPlugin",
        "spark.jars": "s3a://jars/rapids-4-spark.jar",
        "spark.rapids.sql.concurrentGpuTasks": "2",
        "spark.rapids.sql.python.gpu.enabled": "false",
        "spark.rapids.python.concurrentPythonWorkers": "2",
    }
    assert settings["spark.task.resource.gpu.amount"] == "0.5"
    assert "spark.plugins" not in rendered(CLUSTER, {}, SparkGpu(tasks_per_gpu=2), query=True)


def test_a_process_that_saw_one_of_several_gpus_is_not_used_for_another() -> None:
    settings = rendered(CLUSTER, {}, SparkGpu(amount_per_executor=2))
    assert settings["spark.python.worker.reuse"] == "false"


@given(st.integers(1, 1000))
def test_spark_gives_a_gpu_as_many_tasks_as_asked(tasks: int) -> None:
    assert math.floor(1 / float(task_share(tasks))) == tasks


def test_what_the_pipeline_writes_goes_before_what_daybreak_sets() -> None:
    conf = {"spark.task.resource.gpu.amount": "0.1", "spark.log.level": "INFO"}
    settings = rendered(CLUSTER, conf, SparkGpu())
    assert conf.items() <= settings.items()


def test_a_local_master_tries_a_task_again_as_a_cluster_does() -> None:
    masters = ("local", "local[2]", "local[*]", "local[2,7]", CLUSTER)
    assert [tolerant(master) for master in masters] == [
        "local[1,4]",
        "local[2,4]",
        "local[*,4]",
        "local[2,7]",
        CLUSTER,
    ]


def test_airflow_submits_to_clusters_and_drives_the_rest_itself() -> None:
    masters = ("local[*]", "sc://h:1", CLUSTER, K8S)
    found = [engine(master=master).launched_by for master in masters]
    assert found == ["task", "task", "submit", "submit"]
    assert engine(master=CLUSTER, launch="task").launched_by == "task"


def test_the_spark_operator_gets_the_same_driver_with_its_resources() -> None:
    config = engine(
        master=K8S,
        launch="operator",
        operator={"image": "registry/daybreak-spark:1", "executors": 4, "memory": "8g"},
        gpu={"tasks_per_gpu": 2},
        packaging={"python": "/opt/venv/bin/python"},
    )
    assert config.operator is not None
    made = spark_application(config, config.operator, ["score", "s3://b/job.json"])
    spec = made["spec"]
    assert (made["apiVersion"], made["kind"]) == (
        "sparkoperator.k8s.io/v1beta2",
        "SparkApplication",
    )
    assert spec["mainApplicationFile"] == "local:///opt/daybreak/tasks/__main__.py"
    assert spec["arguments"] == ["score", "s3://b/job.json"]
    assert spec["restartPolicy"] == {"type": "Never"}
    assert spec["executor"] == {
        "instances": 4,
        "cores": 2,
        "memory": "8g",
        "gpu": {"name": "nvidia.com/gpu", "quantity": 1},
    }
    assert spec["sparkConf"]["spark.task.resource.gpu.amount"] == "0.5"
    assert spec["sparkConf"]["spark.pyspark.python"] == "/opt/venv/bin/python"
    json.dumps(made)


def test_executors_get_the_code_as_a_zip_that_imports_alone(tmp_path: Path) -> None:
    file = code_zip()
    with zipfile.ZipFile(file) as archive:
        assert "include/engines/spark_task.py" in archive.namelist()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "import include.engines.spark_task as task, tasks.__main__; print(task.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{file}/include/")


def test_without_java_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(BadConfig, match=r"no java on PATH.*apt-get install openjdk-17-jre"):
        require_java()
    monkeypatch.setenv("JAVA_HOME", "/opt/none")
    with pytest.raises(BadConfig, match=r"JAVA_HOME is /opt/none, which has no bin/java"):
        require_java()


def test_every_place_that_installs_java_or_says_how_names_the_same_package() -> None:
    for file in ("Makefile", "packages.txt", "README.md", "docs/engines.md"):
        assert "openjdk-17-jre-headless" in (PROJECT / file).read_text("utf-8"), file


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("x\nModuleNotFoundError: No module named 'lightgbm'", PermanentError, "no package light"),
        ("[PYTHON_VERSION_MISMATCH] Python in worker", PermanentError, "not the driver's"),
        ('Cannot run program "/x/python": error=2', PermanentError, "not the driver's"),
        (
            "An error\nJob aborted due to stage failure: ExecutorLostFailure (x)\n\tat a.b",
            TransientError,
            r"gave up scoring: Job aborted due to stage failure: ExecutorLostFailure \(x\)",
        ),
    ],
)
def test_what_spark_raises_is_told_in_a_line(text: str, kind: type, message: str) -> None:
    found = spark_fault(RuntimeError(text), "scoring")
    assert type(found) is kind
    with pytest.raises(kind, match=message):
        raise found
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    ("host", "port", "master"),
    [
        ("local[*]", None, "local[*]"),
        ("host", 7077, "spark://host:7077"),
        ("spark://host", 7077, "spark://host:7077"),
        ("sc://host:15002", None, "sc://host:15002"),
    ],
)
def test_a_spark_connection_names_the_master(host: str, port: int | None, master: str) -> None:
    assert master_of(Connection(id="lake", kind="spark", host=host, port=port)) == master


def test_a_spark_connection_that_cannot_be_used_says_why() -> None:
    with pytest.raises(BadConfig, match="'lake' names the Spark master 'spark://host'"):
        master_of(Connection(id="lake", kind="spark", host="host"))
    extra = {"tables": {"visits": {"path": "s3a://b/v", "format": "csv"}}}
    with pytest.raises(BadConfig, match=r"wrong tables\.visits\.format"):
        source_of(Connection(id="lake", kind="spark", host="local", extra=extra))
    extra = {"tables": {"visits": "s3a://b/v"}}
    assert source_of(Connection(id="l", kind="spark", extra=extra)).tables["visits"].path


def test_values_take_the_place_of_names_and_text_stays_text() -> None:
    params = {"as_of": dt.date(2024, 5, 1)}
    query = "SELECT '$as_of' AS word, $as_of AS day -- $as_of; here\nFROM parquet.`s3a://b/$x`;"
    assert bound(query, params) == (
        "SELECT '$as_of' AS word, :as_of AS day -- $as_of; here\nFROM parquet.`s3a://b/$x`"
    )
    with pytest.raises(PermanentError, match=r"asks for \$tomorrow"):
        bound("SELECT $tomorrow", params)


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 50))
def test_parts_are_cut_at_the_same_rows_however_they_lie_in_partitions(
    sizes: list[int], part_rows: int
) -> None:
    staged = [Staged(n, 0, f"file:///{n}", rows) for n, rows in enumerate(sizes)]
    parts = [part.of for part in cut(staged, part_rows)]
    rows = [[(s.uri, s.offset + row) for s in part for row in range(s.rows)] for part in parts]
    stream = [(file.uri, row) for file in staged for row in range(file.rows)]
    assert [row for part in rows for row in part] == stream
    assert all(len(part) == part_rows for part in rows[:-1])
    assert not rows or 0 < len(rows[-1]) <= part_rows


def test_executors_write_the_parts_where_they_reach_the_workspace() -> None:
    assert executors_reach("local[*]", "file:///here", None)
    assert executors_reach(CLUSTER, "s3://bucket/workspace", None)
    assert not executors_reach(CLUSTER, "file:///here", None)
    assert executors_reach(CLUSTER, "file:///shared", "executors")
    assert not executors_reach(CLUSTER, "s3://bucket/workspace", "driver")
