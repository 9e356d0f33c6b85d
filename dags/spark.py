"""The step `score` on Spark as Airflow sees it: prepare → the application → score.

The application is a task of its own: spark-submit's on this worker, or a SparkApplication of the
cluster's Spark operator. Its colour decides nothing: `score` goes by the receipts in storage and
does what is still missing, unless a failure would come again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from airflow.providers.apache.spark.hooks.spark_submit import SparkSubmitHook
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.cncf.kubernetes.operators.spark_kubernetes import SparkKubernetesOperator
from airflow.sdk import BaseOperator, Context, TaskGroup
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from dags.airflow_run import connection_of
from dags.apart import leave, score, unfinished
from dags.step import step
from include.connections import use_connections_of
from include.engine_config import SparkEngine
from include.receipts import failures
from include.run import GateResult, Run, Snapshot, Value
from include.scoring import load_job
from include.settings import PROJECT, inherited_environment
from include.spark.application import spark_application
from include.spark.rendering import rendered
from include.spark.session import require_java
from include.spark.shipping import code_zip
from tasks.spark import Application


@step(minutes=15, task_id="prepare")
def prepare(run: Any, snapshot: Any, gated: Any) -> Value:
    """Beside its value it leaves what `score` needs."""
    from tasks.spark import application

    found = application(
        Run.model_validate(run),
        Snapshot.model_validate(snapshot),
        GateResult.model_validate(gated),
    )
    leave(run=run, snapshot=snapshot, gated=gated, application=found.model_dump(mode="json"))
    return found


def score_on_spark(engine: SparkEngine, run: Any, snapshot: Any, gated: Any) -> Any:
    """What stands in the DAG for the task `score`; its value is the value of that task."""
    with TaskGroup("spark", tooltip="One Spark application for the parts without a receipt"):
        prepared = prepare(run, snapshot, gated)
        started: BaseOperator
        if engine.operator is not None:
            started = OperatorApplication(
                task_id="application",
                prepared=prepared["application"],
                namespace=engine.operator.namespace,
                kubernetes_conn_id=engine.operator.connection,
                template_spec={"spark": {}},  # made when it runs
            )
        else:
            started = SubmittedApplication(
                task_id="application",
                prepared=prepared["application"],
                application=str(PROJECT / "tasks" / "__main__.py"),
            )
    scored = score(prepared["run"], prepared["snapshot"], prepared["gated"])
    started >> scored
    return scored


class SubmittedApplication(SparkSubmitOperator):
    """spark-submit of `python -m tasks`, with the code as a zip; the master is the pipeline's."""

    template_fields = (*SparkSubmitOperator.template_fields, "prepared")

    def __init__(self, *, prepared: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.prepared = prepared

    def execute(self, context: Context) -> None:
        use_connections_of(connection_of)
        work = Application.model_validate(self.prepared)
        if work.engine is None or not _missing(work):
            self.log.info("Every part has a receipt: no application is started.")
            return
        engine = work.engine
        require_java()
        self.conf = submit_settings(engine)
        self.name = work.name
        self.application_args = work.arguments
        self.py_files = str(code_zip())
        self._hook = _Submit(
            engine.master,
            conf=self.conf,
            py_files=self.py_files,
            name=self.name,
            application_args=self.application_args,
        )
        home = {"SPARK_HOME": str(spark_home())}
        try:
            self._hook.submit(self.application, env=inherited_environment() | home)
        except AirflowException as error:
            _judge(work, error, self.log)


def submit_settings(engine: SparkEngine) -> dict[str, str]:
    """The settings on spark-submit's command line: the driver's Python is this one."""
    settings = rendered(engine.master, engine.conf, engine.gpu, archives=engine.packaging.archives)
    settings.setdefault("spark.pyspark.driver.python", sys.executable)
    if engine.packaging.python is not None:
        settings.setdefault("spark.pyspark.python", engine.packaging.python)
    return settings


def spark_home() -> Path:
    """The Spark that SPARK_HOME names, or else pyspark's own."""
    given = inherited_environment().get("SPARK_HOME")
    if given:
        return Path(given)
    import pyspark

    return Path(pyspark.__file__).parent


class _Submit(SparkSubmitHook):
    """The hook with the pipeline's master in the place of a connection's, and our spark-submit."""

    def __init__(self, master: str, **arguments: Any) -> None:
        self.master = master
        super().__init__(**arguments)

    def _resolve_connection(self) -> dict[str, Any]:
        return {
            "master": self.master,
            "queue": None,
            "deploy_mode": "client",
            "spark_binary": str(spark_home() / "bin" / "spark-submit"),
            "namespace": self._conf.get("spark.kubernetes.namespace"),
            "principal": None,
            "keytab": None,
        }


class OperatorApplication(SparkKubernetesOperator):
    """A SparkApplication of `python -m tasks` in the image that the pipeline names."""

    template_fields = (*SparkKubernetesOperator.template_fields, "prepared")

    def __init__(self, *, prepared: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.prepared = prepared

    def execute(self, context: Context) -> Any:
        use_connections_of(connection_of)
        work = Application.model_validate(self.prepared)
        if work.engine is None or work.engine.operator is None or not _missing(work):
            self.log.info("Every part has a receipt: no application is started.")
            return None
        body = spark_application(work.engine, work.engine.operator, work.arguments)
        self.template_spec = {"spark": body}
        try:
            return super().execute(context)
        except AirflowException as error:
            return _judge(work, error, self.log)


def _missing(work: Application) -> set[int]:
    """The parts that have no receipt at this moment."""
    return {part.index for part in unfinished(load_job(work.job))} if work.job else set()


def _judge(work: Application, error: AirflowException, log: Any) -> None:
    """What an application's failure means: nothing where every part has its receipt; red at once
    where its own record says that a retry cannot help; else the retry's.
    """
    missing = _missing(work)
    if not missing:
        log.warning("The application failed, and every part has a receipt: %s", error)
        return
    for failure in failures(load_job(work.job)):
        if failure.permanent and (failure.part is None or failure.part in missing):
            raise AirflowFailException(str(failure.as_error())) from None
    raise error
