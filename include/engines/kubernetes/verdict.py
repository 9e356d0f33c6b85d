"""The error that a pod's end comes to, for parts that are still without a receipt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from include.engines.kubernetes.fate import Fate
from include.engines.kubernetes.pod import BATCH_ROWS, option_of
from include.errors import DaybreakError, OutOfMemory, PermanentError, TransientError
from include.part_ranges import written
from include.receipts import failures
from include.run import Part

if TYPE_CHECKING:
    from kubernetes.client import V1Pod

    from include.scoring import ScoringJob


def error_of(
    fate: Fate, job: ScoringJob, missing: Sequence[Part], pod: V1Pod | None, where: str
) -> DaybreakError:
    """A PermanentError where another pod would end in the same way, OutOfMemory where one with
    smaller batches may not, and a TransientError where any other may not.

    What the worker itself left word of goes before what the cluster says.
    """
    parts = written(part.index for part in missing)
    if fate.state == "refused":
        return PermanentError(
            f"a pod for the parts {parts} cannot start: {fate.words}",
            where=where,
            do="correct the engine section, or make room in the cluster",
        )
    if fate.state == "memory":
        return _memory(missing, pod, parts, where)
    record = _record(job, missing)
    if record is not None and (fate.state == "failed" or isinstance(record, PermanentError)):
        return record
    if fate.state == "failed":
        return PermanentError(
            f"the pod of the parts {parts} failed before part {missing[0].index} was finished: "
            f"{fate.words}",
            where=where,
            do="see its log",
        )
    return record or TransientError(
        f"the pod of the parts {parts} was lost: "
        + (fate.words or "it ended without a receipt of each"),
        where=where,
        do="see why the cluster ended it",
    )


def _memory(
    missing: Sequence[Part], pod: V1Pod | None, parts: str, where: str
) -> PermanentError | OutOfMemory:
    container = pod.spec.containers[0] if pod is not None else None
    limits = (container.resources.limits or {}) if container is not None else {}
    batch_rows = option_of(container.args, BATCH_ROWS) if container is not None else ""
    rows = max(part.rows for part in missing)
    found = f"the pod of the parts {parts} was killed for memory at its limit of "
    found += f"{limits.get('memory', 'the node')}, with parts of up to {rows:,} rows"
    do = "raise engine.resources.limits.memory, or lower snapshot.part_rows"
    if not batch_rows:
        return OutOfMemory(found, where=where, do=do)
    return PermanentError(
        f"{found}, and again with one worker and batches of {int(batch_rows):,} rows",
        where=where,
        do=do,
    )


def _record(job: ScoringJob, missing: Sequence[Part]) -> DaybreakError | None:
    """What the workers left word of, about these parts or about all."""
    wanted = {None, *(part.index for part in missing)}
    return next((each.as_error() for each in failures(job) if each.part in wanted), None)
