"""Airflow reads this from its plugins folder: with DAYBREAK_BACKFILL_POOL, backfills get that pool.

An error here would stop every process of Airflow, so a project that cannot be imported, or whose
settings are wrong, changes nothing here. Its own DAGs say what is wrong with the settings.
"""

from __future__ import annotations

import logging

_log = logging.getLogger("daybreak")
_pool = None

try:
    from include.errors import DaybreakError
    from include.settings import settings
except ImportError:
    _log.warning("the project is not on PYTHONPATH: no pool for backfills")
else:
    try:
        _pool = settings().backfill_pool
    except DaybreakError as error:
        _log.error("%s Until then backfills get no pool of their own.", error)

__all__: list[str] = []

if _pool:
    from dags.pools import task_instance_mutation_hook

    __all__ += ["task_instance_mutation_hook"]
