"""Airflow reads this from its plugins folder: with DAYBREAK_BACKFILL_POOL, backfills get that pool.

An error here would stop every process of Airflow, so a project that cannot be imported changes
nothing here.
"""

from __future__ import annotations

import logging

try:
    from include.settings import settings

    _pool = settings().backfill_pool
except ImportError:
    logging.getLogger("daybreak").warning("the project is not on PYTHONPATH: no pool for backfills")
    _pool = None

__all__: list[str] = []

if _pool:
    from dags.pools import task_instance_mutation_hook

    __all__ += ["task_instance_mutation_hook"]
