"""What a reader of predictions and a trainer of models import from Daybreak."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from daybreak.training import log_training_reference

__version__ = "0.1.0"
__all__ = ["__version__", "log_training_reference", "read"]


def read(pipeline: str, as_of: dt.date | str, version: str | None = None) -> pa.Table:
    """The predictions of one partition: what is published now, or one committed version of it.

    `as_of` is any day of the partition: a date, a datetime, of which the date counts, or text such
    as "2013-10-01". Every row carries its key, the score, and the model, the run and the version
    that it comes from.
    Raises BadConfig for an unknown pipeline or a text that is no date, and PermanentError where
    the partition has no such version.
    """
    from daybreak.versions import table_of
    from include.errors import BadConfig

    try:
        day = dt.date.fromisoformat(as_of) if isinstance(as_of, str) else as_of
        if isinstance(day, dt.datetime):
            day = day.date()
    except ValueError:
        raise BadConfig(
            f"as_of is {as_of!r}, no date", do="write it as '2013-10-01'", pipeline=pipeline
        ) from None
    table = table_of(pipeline)
    return table.store.read(table.as_of(day), version)


def __getattr__(name: str) -> Any:
    # Training code imports mlflow and pandas; a reader of predictions needs neither.
    if name == "log_training_reference":
        from daybreak.training import log_training_reference

        return log_training_reference
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
