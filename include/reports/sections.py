"""The sections of a run's report, each from the records that it needs."""

from __future__ import annotations

import datetime as dt
from collections import Counter

from include.approvals import Standing
from include.config import Drift
from include.drift.numbers import DriftNumbers
from include.quarantine import quarantine_files, read_quarantine
from include.receipts import receipts
from include.reports.model import (
    Counts,
    DriftSection,
    GateSection,
    HeldSection,
    Lineage,
    PublishSection,
    Reason,
    StepLine,
)
from include.reports.records import STEPS, RunRecords
from include.run import DriftResult, GateResult, Published, Scored, SnapshotManifest, StepRecord
from include.scoring import load_job

REASONS = 20
_SEVERITY = {"critical": 0, "warning": 1, "info": 2}


def step_lines(records: RunRecords) -> tuple[StepLine, ...]:
    """Every step of a run in order, those without a record too."""
    start = min((record.started_at for record in records.records.values()), default=None)
    lines = []
    for step in STEPS:
        record = records.records.get(step)
        if record is None or start is None:
            lines.append(StepLine(step=step, outcome="not run"))
            continue
        earlier = records.outdated(step)
        lines.append(
            StepLine(
                step=step,
                outcome="earlier" if earlier else record.outcome,
                started_at=record.started_at,
                offset_seconds=max(0.0, (record.started_at - start).total_seconds()),
                seconds=record.seconds,
                note="of an earlier attempt" if earlier else _note(record),
            )
        )
    return tuple(lines)


def _note(record: StepRecord) -> str:
    """What came of a step, in a few words."""
    if record.outcome == "failed":
        return (record.error or {}).get("error", "")
    result = record.result or {}
    if record.step == "plan":
        model = result.get("model")
        return f"model version {model['version']}" if isinstance(model, dict) else ""
    if record.step == "publish":
        return str(result.get("outcome", ""))
    words = []
    if record.step == "drift":
        words.append(str(result.get("verdict", "")))
    if isinstance(result.get("parts"), int):
        words.append(f"{result['parts']:,} part{'' if result['parts'] == 1 else 's'}")
    if result.get("reused_parts"):
        words.append(f"{result['reused_parts']:,} of them reused")
    if result.get("reused"):
        words.append("reused")
    return ", ".join(words)


def counts_of(records: RunRecords) -> Counts:
    """The rows of a run by what became of them."""
    snapshot, gate = records.snapshot, records.gate
    scored, published = records.scored, records.published
    reconciles = None
    if scored is not None and gate is not None and snapshot is not None:
        reconciles = (
            snapshot.rows == scored.rows_in == scored.scored + scored.quarantined + scored.failed
            and scored.quarantined == gate.quarantined
            and (published is None or published.rows == scored.scored)
        )
    quarantined = gate.quarantined if gate else None
    if scored is not None:
        quarantined = scored.quarantined + scored.failed
    return Counts(
        rows_in=snapshot.rows if snapshot else None,
        scored=scored.scored if scored else None,
        quarantined=quarantined,
        published=published.rows if published else None,
        reconciles=reconciles,
        failed=scored.failed if scored else 0,
    )


def gate_section(gate: GateResult, reasons: list[Reason]) -> GateSection:
    """The failed checks first, then by severity and name."""
    checks = sorted(gate.checks, key=lambda c: (c.passed, _SEVERITY[c.severity], c.name))
    return GateSection(
        passed=gate.passed,
        reused=gate.reused,
        rows=gate.rows,
        quarantined=gate.quarantined,
        checks=tuple(checks),
        reasons=tuple(reasons[:REASONS]),
        reasons_left_out=max(0, len(reasons) - REASONS),
    )


def reasons_of(gate: GateResult, scored: Scored | None = None) -> list[Reason]:
    """Each reason of the quarantined rows and its count, the most frequent first.

    Those on which the model failed are among them. A row may have several, so that the counts may
    be more than the rows.
    """
    import pyarrow.compute as pc

    parts = receipts(load_job(scored.uri)) if scored is not None and scored.failed else []
    found: Counter[str] = Counter()
    for uri in quarantine_files(gate.quarantine_uri, parts):
        table = read_quarantine(uri, ["reason"])
        for each in pc.value_counts(table["reason"]).to_pylist():
            for reason in str(each["values"]).split("; "):
                found[reason] += each["counts"]
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [Reason(reason=reason, rows=rows) for reason, rows in ordered]


def held_section(standing: Standing, now: dt.datetime) -> HeldSection | None:
    """What the run's version was held for; None where it never was."""
    held, answer = standing.held, standing.answer(now)
    if held is None:
        return None
    return HeldSection(
        version=held.version,
        held_at=held.held_at,
        until=held.until,
        how=held.how_to_answer(),
        audit=held.checks,
        answer=str(answer) if answer is not None else None,
    )


def publish_section(published: Published) -> PublishSection:
    return PublishSection(**published.model_dump(exclude={"checks"}), audit=published.checks)


def drift_section(
    drift: DriftResult, numbers: DriftNumbers | None, config: Drift | None
) -> DriftSection:
    """The verdict; with the numbers behind it, where they could be read."""
    rules = config or Drift()
    columns = numbers.columns if numbers else ()
    return DriftSection(
        verdict=drift.verdict,
        message=drift.message,
        warn_psi=rules.warn_psi,
        alert_psi=rules.alert_psi,
        limits={column: rules.limits_of(column) for column in rules.columns},
        ignored=rules.ignore,
        notes=numbers.notes if numbers else (),
        training=numbers.training if numbers else None,
        trailing=numbers.trailing if numbers else None,
        columns=tuple(sorted(columns, key=lambda each: (each.column in rules.ignore, -each.psi))),
        charts=numbers.charts if numbers else (),
    )


def lineage_of(records: RunRecords, manifest: SnapshotManifest | None) -> Lineage:
    """What the predictions of a run were made from, as far as it came."""
    run, snapshot, gate = records.run, records.snapshot, records.gate
    version = records.published or records.scored
    return Lineage(
        model_name=run.model.name if run else None,
        model_version=run.model.version if run else None,
        model_alias=run.model.alias if run else None,
        model_flavor=run.model.flavor if run else None,
        model_digest=run.model.digest if run else None,
        mlflow_run_id=run.model.mlflow_run_id if run else None,
        config_digest=run.config_digest if run else None,
        config_uri=run.pipeline_uri if run else None,
        source=manifest.source if manifest else None,
        query_digest=manifest.query_digest if manifest else None,
        extracted_at=manifest.extracted_at if manifest else None,
        snapshot_digest=snapshot.digest if snapshot else None,
        snapshot_uri=snapshot.uri if snapshot else None,
        quarantine_uri=gate.quarantine_uri if gate else None,
        version=version.version if version else None,
    )
