"""The step `score` on Kubernetes as Airflow sees it: prepare → a mapped pod for each group → score.

A pod's colour decides nothing: `score` goes by the receipts in storage, takes over what still runs,
and starts again only what is missing, unless a failure would come again.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import Context, TaskGroup
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes.client import V1Pod
from pydantic import BaseModel, RootModel

from dags.airflow_run import connection_of
from dags.apart import leave, score, unfinished
from dags.step import step
from include.connections import find_connection, use_connections_of
from include.engine_config import KubernetesEngine
from include.engines.kubernetes.cluster import (
    DEFAULT_CONNECTION,
    Cluster,
    access_by,
    kubeconfig_content,
    refused_as_permanent,
)
from include.engines.kubernetes.fate import Fate, fate_of
from include.engines.kubernetes.pod import CONTAINER, PARTS, option_of, with_little_memory
from include.engines.kubernetes.verdict import error_of
from include.errors import OutOfMemory, PermanentError
from include.part_ranges import indexes
from include.receipts import failures, record_failure
from include.run import GateResult, Part, Run, Snapshot
from include.scoring import ScoringJob, load_job

# How long the log of a pod that still runs is behind in Airflow.
LOG_SECONDS = 30


class Arguments(RootModel[tuple[tuple[str, ...], ...]]):
    """Those of each pod: Airflow maps over nothing but a task's whole value."""


@step(minutes=15, task_id="prepare")
def prepare(run: Any, snapshot: Any, gated: Any) -> BaseModel:
    """Beside its value it leaves the pod, and what `score` needs."""
    from tasks.pods import pods

    found = pods(
        Run.model_validate(run),
        Snapshot.model_validate(snapshot),
        GateResult.model_validate(gated),
    )
    leave(run=run, snapshot=snapshot, gated=gated, pod=found.template)
    return Arguments(found.arguments)


def score_on_pods(engine: KubernetesEngine, run: Any, snapshot: Any, gated: Any) -> Any:
    """What stands in the DAG for the task `score`; its value is the value of that task."""
    with TaskGroup("pods", tooltip="One pod for each group of parts that has no receipt yet"):
        prepared = prepare(run, snapshot, gated)
        pods = ScoringPod.partial(
            task_id="pod",
            pod_template_dict=prepared["pod"],
            kubernetes_conn_id=engine.connection or DEFAULT_CONNECTION,
            namespace=engine.namespace,
            base_container_name=CONTAINER,
            deferrable=engine.deferrable,
            schedule_timeout_seconds=engine.schedule_seconds,
            startup_timeout_seconds=engine.startup_seconds,
            termination_grace_period=engine.grace_seconds,
            logging_interval=LOG_SECONDS,
            log_events_on_failure=True,
            log_pod_spec_on_failure=False,
            # The operator's own default would go before the template's.
            termination_message_policy="FallbackToLogsOnError",
            on_finish_action="delete_pod",
            do_xcom_push=False,
            # A pod that hangs, or whose node does, ends here at the latest.
            execution_timeout=dt.timedelta(
                seconds=engine.schedule_seconds
                + engine.startup_seconds
                + engine.active_deadline_seconds
                + 300
            ),
            # At least one: a worker of Airflow that dies takes no pod with it, and its next try
            # finds the pod again. And one for a pod that was killed for memory.
            retries=max(1, engine.retries),
            retry_delay=dt.timedelta(seconds=10),
            map_index_template="parts {{ task.arguments[3:4] | first | default('none', true) }}",
        ).expand(arguments=prepared)
    scored = score(prepared["run"], prepared["snapshot"], prepared["gated"])
    pods >> scored
    return scored


class ScoringPod(KubernetesPodOperator):
    """A pod that scores a group of parts; nothing is started for parts that have receipts.

    A failure that would come again fails the task at once, with the words of the pod's own failure
    record, or of the cluster's events. Any other is retried.
    """

    def execute(self, context: Context) -> Any:
        use_connections_of(connection_of)
        job, missing = self._work()
        if job is None or not missing:
            self.log.info("Every part has a receipt: no pod is started.")
            return None
        wanted = {part.index for part in missing}
        if any(
            each.part in wanted and each.error == OutOfMemory.__name__ for each in failures(job)
        ):
            self.log.info("The last pod was killed for memory: this one takes smaller batches.")
            rows = max(part.rows for part in missing)
            self.arguments = with_little_memory(self.arguments, rows)
        return super().execute(context)

    def get_or_create_pod(self, pod_request_obj: V1Pod, context: Context) -> V1Pod:
        try:
            with refused_as_permanent(pod_request_obj.metadata.namespace):
                return super().get_or_create_pod(pod_request_obj, context)
        except PermanentError as error:
            raise self._failed(error) from None

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> Any:
        use_connections_of(connection_of)
        return super().trigger_reentry(context, event)

    def cleanup(
        self,
        pod: V1Pod,
        remote_pod: V1Pod,
        xcom_result: dict[Any, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        fate = self._fate(remote_pod) if remote_pod else Fate("live")
        try:
            super().cleanup(pod, remote_pod, xcom_result, context)
        except AirflowException as error:
            job, missing = self._work()
            if job is None or not missing:
                self.log.warning("The pod failed, and every one of its parts has a receipt.")
                return
            metadata = remote_pod.metadata
            found = error_of(
                fate, job, missing, remote_pod, f"pod {metadata.namespace}/{metadata.name}"
            )
            if isinstance(found, PermanentError):
                raise self._failed(found) from None
            if isinstance(found, OutOfMemory):
                record_failure(job, missing[0].index, found)
            raise AirflowException(str(found)) from error

    def convert_config_file_to_dict(self) -> None:
        """One way to the cluster: a connection that names one goes before KUBECONFIG.

        The operator would hand both to the triggerer, which takes only one. And it opens KUBECONFIG
        as one file, where it may name several.
        """
        connection = find_connection(self.kubernetes_conn_id)
        named = connection is not None and access_by(connection).named
        self._config_dict = None if named else kubeconfig_content()

    def _work(self) -> tuple[ScoringJob | None, list[Part]]:
        """The job of this pod and those of its parts that have no receipt yet."""
        if not self.arguments:
            return None, []
        job = load_job(self.arguments[1])
        wanted = set(indexes(option_of(self.arguments, PARTS)))
        return job, [part for part in unfinished(job) if part.index in wanted] if wanted else []

    def _fate(self, pod: V1Pod) -> Fate:
        fate = fate_of(
            pod,
            dt.datetime.now(dt.UTC),
            schedule_seconds=self.schedule_timeout_seconds,
            startup_seconds=self.startup_timeout_seconds,
        )
        if fate.state == "refused":
            # Before the pod is deleted, as its events are asked for by its name.
            said = Cluster(self.client, pod.metadata.namespace).warnings(pod.metadata.name)
            return Fate("refused", f"{fate.words}. Events: {said}" if said else fate.words)
        return fate

    def _failed(self, error: PermanentError) -> AirflowFailException:
        """Left word of beside the receipts too, so that `score` does not try the same again."""
        job, missing = self._work()
        if job is not None and missing:
            known = {each.part for each in failures(job) if each.permanent}
            if not known & {None, *(part.index for part in missing)}:
                record_failure(job, missing[0].index, error)
        return AirflowFailException(str(error))
