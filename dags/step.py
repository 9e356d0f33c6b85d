"""A task of ours in Airflow: values in and out as JSON, errors as Airflow's two kinds."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable
from typing import Any, get_args

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout
from pydantic import BaseModel

from dags.airflow_run import connection_of
from include.config import Step
from include.connections import use_connections_of
from include.errors import PermanentError, TransientError


def step(minutes: float, **task_args: Any) -> Callable[[Callable[..., BaseModel | None]], Any]:
    """A task that runs a step for at most `minutes` and returns its value as JSON.

    A TransientError is retried, and so is what Airflow itself raises, such as for a server that
    does not answer. Anything else fails the task at once: a repeat would meet it again. So does a
    step whose minutes are over: it hangs, or needs more of them.
    """

    def decorate(function: Callable[..., BaseModel | None]) -> Any:
        @functools.wraps(function)
        def body(*args: Any) -> Any:
            use_connections_of(connection_of)
            try:
                value = function(*args)
            except PermanentError as error:
                raise AirflowFailException(str(error)) from None
            except AirflowTaskTimeout:
                raise AirflowFailException(_took_too_long(minutes)) from None
            except Exception as error:
                if isinstance(error, TransientError) or of_airflow(error):
                    raise
                raise AirflowFailException(f"{type(error).__name__}: {error}") from error
            return None if value is None else value.model_dump(mode="json")

        return task(execution_timeout=dt.timedelta(minutes=minutes), **task_args)(body)

    return decorate


def _took_too_long(minutes: float) -> str:
    own = get_current_context()["ti"].task
    limit = own.execution_timeout  # the pipeline's own where it has one
    minutes = limit.total_seconds() / 60 if limit is not None else minutes
    more = ""
    if own.task_id in get_args(Step):
        more = (
            f" If it needs longer, raise the pipeline's schedule.step_minutes.{own.task_id} first."
        )
    return (
        f"{own.task_id} was not done in {minutes:g} minutes and was stopped. What it finished "
        f"stays: clear the task to go on.{more}"
    )


def of_airflow(error: Exception) -> bool:
    return any(kind.__module__.partition(".")[0] == "airflow" for kind in type(error).__mro__)
