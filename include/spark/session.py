"""A Spark session for the time of one step: classic or Connect, ours to stop or somebody else's."""

from __future__ import annotations

import importlib.util
import logging
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.errors import BadConfig, DaybreakError, PermanentError, TransientError
from include.settings import inherited_environment, spark_submitted
from include.spark.rendering import is_connect, is_local, tolerant

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger("daybreak")

# How long the JVM may take to end once nothing needs it.
JVM_GRACE_SECONDS = 10.0

_TABLES = "spark.sql.warehouse.dir"

# pyspark writes each refused query here, with the JVM's whole stack; our errors have its reason.
logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
logging.getLogger("DataFrameQueryContextLogger").setLevel(logging.CRITICAL)


@contextmanager
def spark_session(
    master: str, conf: Mapping[str, str], name: str, where: str = "engine.master"
) -> Iterator[SparkSession]:
    """A session on `master` with the settings `conf` (see rendering.py).

    One that this process already has on the same master is used and left open; under spark-submit
    the master and the settings are those of its command line. Any other is stopped at the end, and
    its JVM with it. Raises BadConfig where Java or a package is missing, TransientError where the
    master does not answer; `where` is where the master is written.
    """
    # Where Spark makes a folder for tables of its own, of which we have none; its default is the
    # folder in which this process happens to be.
    with tempfile.TemporaryDirectory(prefix="daybreak-spark-") as scratch:
        if is_connect(master):
            spark, ours = _connect(master, conf, where), True
        else:
            own = {_TABLES: Path(scratch).as_uri()} | dict(conf)
            spark, ours = _classic(tolerant(master), own, name, where)
        try:
            yield spark
        finally:
            if ours:
                _stop(spark, classic=not is_connect(master))


def use_python(spark: SparkSession, master: str, python: str | None) -> None:
    """Choose the executors' interpreter: `python`, or this one where they are on this machine."""
    if is_connect(master):
        return
    context: Any = spark.sparkContext
    if python is not None:
        context.pythonExec = python
    elif is_local(master):
        context.pythonExec = sys.executable


def require_java(where: str = "engine.master") -> None:
    """Raise BadConfig, with how to install it, unless there is a Java to start Spark with."""
    home = inherited_environment().get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if found is None:
        at = f"JAVA_HOME is {home}, which has no bin/java" if home else "there is no java on PATH"
        raise BadConfig(
            f"Spark needs Java 17 or newer and {at}",
            where=where,
            do="install it (apt-get install openjdk-17-jre-headless, or any JDK 17 to 25), or set "
            "JAVA_HOME",
        )


def spark_fault(error: BaseException, what: str) -> DaybreakError:
    """What Spark raised, in a line and without its stack traces, as one of our two kinds."""
    if isinstance(error, DaybreakError):
        return error
    text = str(error)
    missing = re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", text)
    if missing:
        return PermanentError(
            f"the executors' Python has no package {missing[1]}",
            where="engine.packaging",
            do="install requirements.txt in their image, or name a packed environment in "
            "engine.packaging.archives and its interpreter in engine.packaging.python",
        )
    if "PYTHON_VERSION_MISMATCH" in text or "Cannot run program" in text:
        return PermanentError(
            f"the executors' Python is not the driver's: {_reason(text)}",
            where="engine.packaging",
            do="set engine.packaging.python to an interpreter of the driver's minor version",
        )
    return TransientError(
        f"Spark gave up {what}: {_reason(text)}",
        do="see the executors' logs; what is finished stays, and a retry does the rest. Lost "
        "executors mostly lacked memory: lower snapshot.part_rows or raise spark.executor.memory",
    )


def _reason(text: str) -> str:
    """The line of a Spark exception that says why; the rest is where in Spark's code."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("at ", "Traceback", "File ", "Driver "))]
    told = [line for line in kept if "Job aborted" in line or "ExecutorLost" in line] or kept
    return told[0][:400] if told else "it gave no reason"


def _classic(
    master: str, conf: Mapping[str, str], name: str, where: str
) -> tuple[SparkSession, bool]:
    _require_packages(("pyspark", "py4j"), where)
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    running: Any = SparkContext._active_spark_context
    if running is not None:
        if running.master != master and not spark_submitted():
            raise PermanentError(
                f"this process has a Spark session on {running.master} already, and {master} is "
                "wanted",
                where=where,
                do="stop that session first: a process has one",
            )
        return SparkSession.builder.getOrCreate(), False
    builder = SparkSession.builder.appName(name)
    if spark_submitted():
        builder = builder.config(_TABLES, conf[_TABLES])
    else:
        require_java(where)
        builder = builder.master(master)
        for key, value in conf.items():
            builder = builder.config(key, value)
    try:
        return builder.getOrCreate(), True
    except Exception as error:
        _stop_jvm()
        raise TransientError(
            f"Spark did not start on {master}: {_reason(str(error))}",
            where=where,
            do="see that the master is up and can be reached from here, and Spark's lines above",
        ) from error


def _connect(master: str, conf: Mapping[str, str], where: str) -> SparkSession:
    # pyspark.sql.connect ends some processes without a word where one of these is missing.
    _require_packages(("pyspark", "grpc", "grpc_status", "zstandard"), where)
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.remote(master)
    for key, value in conf.items():
        builder = builder.config(key, value)
    try:
        spark = builder.create()
        spark.version  # noqa: B018 - the first call to the server
    except Exception as error:
        raise TransientError(
            f"the Spark Connect server {master.split(';')[0]} did not answer: "
            f"{_reason(str(error))}",
            where=where,
            do="see that the server is up and can be reached from here",
        ) from error
    return spark


def _require_packages(names: tuple[str, ...], where: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise BadConfig(
            f"Spark needs the Python packages {', '.join(missing)}, which are not installed",
            where=where,
            do="install the locked requirements: make install",
        )


def _stop(spark: SparkSession, *, classic: bool) -> None:
    try:
        spark.stop()
    finally:
        if classic and not spark_submitted():
            _stop_jvm()


def _stop_jvm() -> None:
    """End the JVM that pyspark started; it would keep its memory for as long as this process."""
    from pyspark import SparkContext

    gateway: Any = SparkContext._gateway
    if gateway is None:
        return
    SparkContext._gateway = SparkContext._jvm = None
    process: subprocess.Popen[bytes] | None = getattr(gateway, "proc", None)
    gateway.shutdown()
    if process is None:
        return
    if process.stdin is not None:
        process.stdin.close()  # It ends once its standard input does.
    try:
        process.wait(JVM_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        log.warning("Spark's JVM did not end by itself: it is killed")
        process.kill()
        process.wait()
