"""A DAG of steps that fail, each in its own way, run by tests/test_dags.py.

Each attempt leaves a file beside the one that the environment names.
"""

from __future__ import annotations

import datetime as dt
import time

from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException

from dags.step import step
from include.errors import PermanentError, TransientError
from include.settings import settings


def first_attempt(name: str) -> bool:
    try:
        (settings().home / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@step(minutes=0.02)
def score() -> None:
    """Hangs in its first attempt."""
    if first_attempt("score"):
        time.sleep(600)


@step(minutes=5)
def unexpected() -> None:
    if first_attempt("unexpected"):
        raise ZeroDivisionError("nobody thought of this")


@step(minutes=5)
def permanent() -> None:
    if first_attempt("permanent"):
        raise PermanentError("the key stands twice", do="look at the source")


@step(minutes=5)
def transient() -> None:
    if first_attempt("transient"):
        raise TransientError("the warehouse is locked")


@step(minutes=5)
def of_airflow() -> None:
    if first_attempt("of_airflow"):
        raise AirflowException("the server does not answer")


with DAG(
    dag_id="steps",
    schedule=None,
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    default_args={"retries": 3},
):
    for each in (score, unexpected, permanent, transient, of_airflow):
        each()
