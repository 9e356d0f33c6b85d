"""drift: has the world moved away from what the model was trained on, or from last month?"""

from __future__ import annotations

import hashlib
import io
import json
import logging

from include import storage
from include.drift.numbers import drift_numbers, drifted_columns
from include.drift.profiles import Profile
from include.drift.references import (
    Trailing,
    reference_sample,
    sample_at,
    stored_profile,
    template_for,
    trailing_reference,
    trailing_versions,
    training_profile_of,
)
from include.drift.version_rows import VersionRows
from include.pipeline import Pipeline, planned_pipeline
from include.run import (
    DriftResult,
    GateResult,
    Run,
    Scored,
    Snapshot,
    SnapshotManifest,
)
from include.scoring import load_job, receipts
from include.snapshots import load_manifest
from include.stores import open_store
from include.workspace import SHORT, Workspace
from tasks.step import step_of

log = logging.getLogger("daybreak")


def drift(run: Run, snapshot: Snapshot, gate: GateResult, scored: Scored) -> DriftResult:
    """Compare the version's features and scores, over all rows, with training and the past.

    The verdict never blocks a publish. Evidently's page is made from a sample; should it fail, the
    verdict stands and its message says so. Raises CorruptData where the version's rows are gone.
    """
    with step_of(run, "drift") as recorder:
        result = _drift(run, planned_pipeline(run), load_manifest(snapshot), gate, scored)
        recorder.result = result
    return result


def _drift(
    run: Run, pipeline: Pipeline, snapshot: SnapshotManifest, gate: GateResult, scored: Scored
) -> DriftResult:
    config, workspace = pipeline.config.drift, Workspace(run.workspace, run.pipeline)
    store = open_store(pipeline.config.predictions, workspace.predictions())
    rows = _rows(run, pipeline, snapshot, gate, scored)
    training = training_profile_of(run.model.uri)
    versions = trailing_versions(store, run.partition, config.trailing)
    template = template_for(rows, training, workspace, versions)
    current = stored_profile(workspace, rows, template, config.evidently_rows)
    trailing = trailing_reference(store, workspace, versions, template, rows, config.evidently_rows)
    key = _key(pipeline, scored, template, training, trailing)
    folder = workspace.drift(rows.as_of, rows.version)
    result_uri = storage.join(folder, f"result-{key}.json")
    earlier = _earlier(result_uri)
    if earlier is not None:
        return earlier.model_copy(update={"reused": True})
    numbers = drift_numbers(run, pipeline, current, training, trailing, scored.version)
    uri = storage.join(folder, f"numbers-{key}.json")
    storage.write(uri, numbers.model_dump_json().encode())
    page_uri, page_note, failed = _evidently(run, pipeline, workspace, rows, trailing)
    result = DriftResult(
        verdict=numbers.verdict,
        message=" ".join(filter(None, (numbers.message, *numbers.notes, page_note))),
        uri=uri,
        columns=len({column.column for column in numbers.columns}),
        drifted=drifted_columns(numbers.columns, numbers.ignored),
        evidently_uri=page_uri,
    )
    # A result whose page failed is not kept: the next attempt tries the page again.
    if not failed:
        storage.write(result_uri, result.model_dump_json(indent=2).encode())
    return result


def _rows(
    run: Run, pipeline: Pipeline, snapshot: SnapshotManifest, gate: GateResult, scored: Scored
) -> VersionRows:
    as_of, config = run.partition.as_of, pipeline.config
    key = set(config.key)
    columns = [column.name for column in snapshot.columns if column.name not in key]
    return VersionRows(
        as_of=as_of,
        version=scored.version,
        snapshot=snapshot,
        quarantine_uri=gate.quarantine_uri,
        receipts=tuple(receipts(load_job(scored.uri))),
        features=tuple(each.name for each in run.model.inputs) or tuple(columns),
        stored_score_column=config.predictions.score_column,
        score_column=config.predictions.score_column,
    )


def _key(
    pipeline: Pipeline,
    scored: Scored,
    template: Profile,
    training: Profile | None,
    trailing: Trailing,
) -> str:
    """What the result depends on, as a name: the same inputs are the same result."""
    parts = [
        scored.version,
        template.bins_digest,
        training.digest if training else None,
        [[str(date), version] for date, version in trailing.versions],
        trailing.left_out,
        pipeline.config.drift.model_dump(mode="json"),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:SHORT]


def _earlier(uri: str) -> DriftResult | None:
    try:
        found = DriftResult.model_validate_json(storage.read(uri))
    except FileNotFoundError:
        return None
    files = [found.uri, *([found.evidently_uri] if found.evidently_uri else [])]
    return found if all(storage.exists(file) for file in files) else None


def _evidently(
    run: Run, pipeline: Pipeline, workspace: Workspace, rows: VersionRows, trailing: Trailing
) -> tuple[str | None, str, bool]:
    """Evidently's page: its URI, what to say about it, and whether making it failed."""
    config = pipeline.config.drift
    if not config.evidently_rows or not rows.rows:
        return None, "", False
    try:
        import pyarrow.parquet as pq

        from include.drift.evidently_report import evidently_page

        reference = reference_sample(trailing, run.model.uri, config.evidently_rows)
        if reference is None:
            return None, "No Evidently page: there are no reference rows yet.", False
        content = storage.read(sample_at(workspace, rows.as_of, rows.version))
        current = pq.read_table(io.BytesIO(content))
        # Half of the page's seconds and bytes go with the columns that count for no verdict.
        watched = [name for name in current.column_names if name not in config.ignore]
        page = evidently_page(current.select(watched), reference)
        uri = storage.join(workspace.run(run.run_id), "evidently.html")
        storage.write(uri, page.encode())
    except Exception as error:
        # The verdict does not depend on a page to look at: it stands, and says what is missing.
        log.warning("%s %s: Evidently's page failed", run.pipeline, run.partition, exc_info=True)
        return None, f"Evidently's page failed: {type(error).__name__}: {error}.", True
    return uri, "", False
