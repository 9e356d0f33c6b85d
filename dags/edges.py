"""The edges of a DAG's graph: those that say something, so that the order can be seen.

A task depends on each task whose value it takes. Most of these edges only repeat what a longer way
says, and Airflow draws them all.
"""

from __future__ import annotations

from airflow.sdk import DAG, TriggerRule

# A success of such a task says that what is before it succeeded.
_CONCLUSIVE = (TriggerRule.ALL_SUCCESS, TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
# Such a task loses nothing by an edge less, if another way says the same. The rules that run a task
# whatever became of those before it do: for them each edge counts.
_REDUCIBLE = (TriggerRule.ALL_SUCCESS, TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)


def drop_implied_edges(dag: DAG) -> None:
    """Take out each edge that a longer way through the graph implies."""
    implied = [
        (before, task.task_id)
        for task in dag.tasks
        if task.trigger_rule in _REDUCIBLE
        for before in task.upstream_task_ids
        if any(_follows(dag, other, before) for other in task.upstream_task_ids)
    ]
    for before, after in implied:
        dag.task_dict[after].upstream_task_ids.discard(before)
        dag.task_dict[before].downstream_task_ids.discard(after)


def _follows(dag: DAG, task_id: str, before: str) -> bool:
    """Whether a success of the task says that the one `before` it succeeded."""
    task = dag.task_dict[task_id]
    return task.trigger_rule in _CONCLUSIVE and any(
        each == before or _follows(dag, each, before) for each in task.upstream_task_ids
    )
