"""What the engines share whose parts are scored in tasks of their own, before the task `score`.

    prepare → pods or a Spark application → score

`score` runs whatever became of the tasks before it: it goes by the receipts in storage, does what
is still missing, and raises a failure that would come again.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import TriggerRule, get_current_context

from dags.step import step
from include.receipts import receipts
from include.run import GateResult, Part, Run, Snapshot, Value
from include.scoring import ScoringJob
from include.snapshots import manifest_at


def leave(**values: Any) -> None:
    """Leave values beside a task's own, by name: those of `prepare` are all that `score` takes, so
    nothing but that task decides whether it runs.
    """
    for name, value in values.items():
        get_current_context()["ti"].xcom_push(name, value)


# Also after tasks that failed, as long as there is something to go by; skipped with all before it.
@step(minutes=240, task_id="score", trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
def score(run: Any, snapshot: Any, gated: Any) -> Value:
    from tasks.score import score

    # Who clears this task alone wants what failed to be tried again.
    first = get_current_context()["ti"].try_number == 1
    return score(
        Run.model_validate(run),
        Snapshot.model_validate(snapshot),
        GateResult.model_validate(gated),
        tried=first,
    )


def unfinished(job: ScoringJob) -> list[Part]:
    """The parts that have no receipt at this moment."""
    rows = {receipt.part: receipt.rows_in for receipt in receipts(job)}
    parts = manifest_at(job.snapshot_uri).parts
    return [part for part in parts if rows.get(part.index) != part.rows]
