"""airflow_settings.yaml, which Astro reads, in the forms that Airflow's own commands import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from include.connections import connections_in


def pools_of(settings_file: Path) -> dict[str, dict[str, Any]]:
    """The pools by name, as `airflow pools import` reads them."""
    return {
        pool["pool_name"]: {
            "slots": pool["pool_slot"],
            "description": pool.get("pool_description") or "",
            "include_deferred": False,
        }
        for pool in _pools(settings_file)
        if pool.get("pool_name")
    }


def connections_of(settings_file: Path) -> dict[str, dict[str, Any]]:
    """The connections by id, as `airflow connections import` reads them."""
    found = {}
    for each in connections_in(settings_file):
        values = {
            "conn_type": each.kind,
            "host": each.host,
            "login": each.login,
            "password": each.password,
            "schema": each.schema,
            "port": each.port,
            "extra": each.extra,
        }
        found[each.id] = {name: value for name, value in values.items() if value}
    return found


def _pools(settings_file: Path) -> list[dict[str, Any]]:
    if not settings_file.is_file():
        return []
    content = yaml.safe_load(settings_file.read_text("utf-8")) or {}
    return (content.get("airflow") or {}).get("pools") or []
