"""pods: what an orchestrator needs that starts the pods of the step `score` itself.

Airflow does, one mapped task a pod: people see them in its grid, with their logs. Whatever becomes
of the pods, `score` goes by the receipts that they left.
"""

from __future__ import annotations

from typing import Any

from include.engine_config import KubernetesEngine
from include.errors import DaybreakError
from include.part_ranges import written
from include.pipeline import planned_pipeline
from include.receipts import forget_failures
from include.run import GateResult, Run, Snapshot, Value
from tasks.score import opened
from tasks.step import step_of


class Pods(Value):
    """A pod as JSON without the arguments of its command, and those of each pod."""

    template: dict[str, Any]
    arguments: tuple[tuple[str, ...], ...]


def pods(run: Run, snapshot: Snapshot, gate: GateResult) -> Pods:
    """The pods for the parts that have no receipt yet.

    Where none is missing there is one for no parts, which whoever starts pods leaves out: a mapped
    task without instances would be skipped, and with it what comes after.

    Failures of an earlier attempt are forgotten. What goes wrong is recorded as a failure of
    `score`, whose first half this is.
    """
    try:
        return _pods(run, snapshot, gate)
    except DaybreakError as error:
        with step_of(run, "score"):
            raise error


def _pods(run: Run, snapshot: Snapshot, gate: GateResult) -> Pods:
    from include.engines.kubernetes.groups import grouped
    from include.engines.kubernetes.pod import arguments, manifest, name_base, pod_of

    config = planned_pipeline(run).config
    if not isinstance(config.engine, KubernetesEngine):
        return Pods(template={}, arguments=((),))  # This run was asked to use another engine.
    job, parts, finished = opened(run, config, snapshot, gate)
    rest = [part for part in parts.parts if part.index not in finished]
    forget_failures(job, [part.index for part in rest])
    groups = [written(part.index for part in group) for group in grouped(rest, config.engine.pods)]
    template = pod_of(
        config.engine, job, (), name=name_base(job), namespace=config.engine.namespace
    )
    return Pods(
        template=manifest(template),
        arguments=tuple(tuple(arguments(config.engine, job.uri, text)) for text in groups or [""]),
    )
