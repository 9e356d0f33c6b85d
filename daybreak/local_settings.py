"""airflow_settings.yaml, which Astro reads, in the forms that Airflow's own commands import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_OF_A_CONNECTION = ("conn_type", "host", "login", "password", "schema", "port", "extra")


def pools_of(settings_file: Path) -> dict[str, dict[str, Any]]:
    """The pools by name, as `airflow pools import` reads them."""
    return {
        pool["pool_name"]: {
            "slots": pool["pool_slot"],
            "description": pool.get("pool_description") or "",
            "include_deferred": False,
        }
        for pool in _entries(settings_file, "pools")
        if pool.get("pool_name")
    }


def connections_of(settings_file: Path) -> dict[str, dict[str, Any]]:
    """The connections by id, as `airflow connections import` reads them."""
    found = {}
    for entry in _entries(settings_file, "connections"):
        if entry.get("conn_id"):
            # In the file every key but the type begins with conn_, as the type itself does.
            values = {
                name: entry.get(f"conn_{name.removeprefix('conn_')}") for name in _OF_A_CONNECTION
            }
            found[str(entry["conn_id"])] = {k: v for k, v in values.items() if v not in (None, "")}
    return found


def _entries(settings_file: Path, kind: str) -> list[dict[str, Any]]:
    if not settings_file.is_file():
        return []
    content = yaml.safe_load(settings_file.read_text("utf-8")) or {}
    return (content.get("airflow") or {}).get(kind) or []
