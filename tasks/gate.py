"""gate: hold the snapshot against the contract and the suite before anything is scored."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from pydantic import ValidationError

from include import storage
from include.gates.contract import (
    GateFailed,
    column_checks,
    freshness_check,
    inputs_without_nulls,
    key_check,
    null_checks,
    quarantine_check,
    row_count_check,
)
from include.gates.quarantine import quarantined
from include.gates.suite import load_suite
from include.gates.validation import columns_read, validate
from include.keys import KeyOrder
from include.pipeline import planned_pipeline
from include.quarantine import write_quarantine
from include.run import GateResult, Run, Snapshot, SnapshotManifest
from include.snapshots import load_manifest, read_part
from include.workspace import Workspace
from tasks.step import step_of

if TYPE_CHECKING:
    import pyarrow as pa


def gate(run: Run, snapshot: Snapshot) -> GateResult:
    """The checks of a snapshot, its failing rows in quarantine; raises GateFailed.

    The result is stored and on the record before GateFailed is raised. A snapshot that passed is
    not judged twice against the same rules.
    """
    with step_of(run, "gate") as recorder:
        uri = Workspace(run.workspace, run.pipeline).gate(
            run.partition.as_of, snapshot.digest, _rules_digest(run)
        )
        result = _passed_before(uri)
        if result is None:
            result = _judged(run, snapshot, uri)
            storage.write(f"{uri}.json", result.model_dump_json(indent=2).encode())
        recorder.result = result
        if not result.passed:
            raise GateFailed.by(result)
        return result


def _rules_digest(run: Run) -> str:
    """Over all that a snapshot is judged by: the configuration, the model's inputs and the zone."""
    inputs = [one.model_dump() for one in run.model.inputs]
    content = json.dumps([run.config_digest, inputs, run.timezone], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _passed_before(uri: str) -> GateResult | None:
    try:
        result = GateResult.model_validate_json(storage.read(f"{uri}.json"))
    except (FileNotFoundError, ValidationError):  # none, or one of another release: judge again
        return None
    if not result.passed:
        return None
    if result.quarantine_uri is not None and not storage.exists(result.quarantine_uri):
        return None
    return result.model_copy(update={"reused": True})


def _judged(run: Run, snapshot: Snapshot, uri: str) -> GateResult:
    pipeline, manifest = planned_pipeline(run), load_manifest(snapshot)
    config, rules, inputs = pipeline.config, pipeline.config.gate, run.model.inputs
    suite = load_suite(pipeline.suite)
    names = [column.name for column in manifest.columns]
    key = [name for name in config.key if name in names]

    wanted = {*key, *columns_read(suite, names), *inputs_without_nulls(inputs)}
    if rules.freshness is not None:
        wanted.add(rules.freshness.column)
    table, violation = _read(manifest, [name for name in names if name in wanted], key)

    checks = [
        row_count_check(manifest.rows, rules),
        *column_checks(config, inputs, manifest.columns),
        key_check(config.key, manifest.columns, violation),
    ]
    if not manifest.rows:  # nothing else has an answer, and expectations pass without rows
        return GateResult(
            passed=False, rows=0, quarantined=0, quarantine_uri=None, checks=tuple(checks)
        )
    if rules.freshness is not None:
        column = rules.freshness.column
        values = table[column] if column in names else None
        checks.append(freshness_check(rules.freshness, values, run.partition, run.timezone))
    outcomes = validate(suite, table, names, key)
    set_aside, positions = quarantined(outcomes, table, [part.rows for part in manifest.parts], key)
    checks += null_checks(inputs, table, positions, key)
    checks += [one.check for one in outcomes]
    checks.append(quarantine_check(set_aside.num_rows, manifest.rows, rules))

    quarantine_uri = f"{uri}.parquet" if set_aside.num_rows else None
    if quarantine_uri is not None:
        write_quarantine(quarantine_uri, set_aside)
    return GateResult(
        passed=all(one.passed or one.severity != "critical" for one in checks),
        rows=manifest.rows,
        quarantined=set_aside.num_rows,
        quarantine_uri=quarantine_uri,
        checks=tuple(checks),
    )


def _read(
    manifest: SnapshotManifest, columns: list[str], key: list[str]
) -> tuple[pa.Table, str | None]:
    """The columns of all the parts, read once, and what is wrong with the key."""
    import pyarrow as pa

    order = KeyOrder(key)
    tables, violation = [], None
    for part in manifest.parts:
        table = read_part(part, columns)
        if key:
            violation = order.first_violation(table)
        tables.append(table)
    return (pa.concat_tables(tables) if tables else pa.table({})), violation
