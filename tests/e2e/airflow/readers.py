"""What readers of a prediction table have after a run: looked at in the table, not in Airflow."""

from __future__ import annotations

import datetime as dt

from daybreak.versions import table_of
from include.stores import VersionManifest


def require_one_whole_version(name: str, as_of: dt.date) -> VersionManifest:
    """Readers of a date have exactly one version, whole, with every row accounted for."""
    store = table_of(name).store
    current = [version for version in store.versions(as_of) if version.current]
    assert len(current) == 1, f"{name} {as_of}: {[version.version for version in current]}"
    assert store.current_versions()[as_of] == current[0].version
    manifest = store.manifest(as_of, current[0].version)
    assert manifest is not None
    assert manifest.rows_in == manifest.rows + manifest.quarantined + manifest.failed
    read = store.read(as_of)
    assert read.num_rows == manifest.rows == sum(part.scored for part in manifest.parts)
    keys = list(zip(*(read[column].to_pylist() for column in manifest.key), strict=True))
    assert len(set(keys)) == len(keys)
    assert set(read["run_id"].to_pylist()) == {manifest.run_id}
    assert set(read["model_version"].to_pylist()) == {manifest.model_version}
    return manifest
