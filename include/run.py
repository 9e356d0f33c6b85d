"""The values that travel between steps: small, frozen, JSON. Data stays in the workspace."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import BaseModel, ConfigDict

from include.partition import Partition


class Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Invocation(Value):
    """Who started a run: `airflow`, `prefect` or `cli`, its own id of the run, and its page."""

    orchestrator: Literal["airflow", "prefect", "cli"]
    id: str
    url: str | None = None


# Which partitions a run or a backfill works on: those without a version, those whose version a
# run would make anew too, or any.
Rescore = Literal["missing", "stale", "all"]


class Request(Value):
    """What a person or a scheduler asks for, before anything is resolved.

    `at` is the logical date, or the time after which the run may start; `partition_date` is any
    day of the partition and goes before it. `model_version`, or the version behind `model_alias`,
    takes the place of the version behind the pipeline's alias, and `engine` (local, spark,
    kubernetes) that of its engine. With `rescore` other than `all`, or `dry_run`, a run asks
    tasks/preview.py first, and ends there where nothing is to be done.
    """

    pipeline: str
    invocation: Invocation
    partition_date: dt.date | None = None
    at: dt.datetime | None = None
    model_version: str | None = None
    model_alias: str | None = None
    engine: str | None = None
    rescore: Rescore = "all"
    dry_run: bool = False

    @property
    def asks_first(self) -> bool:
        """Whether the run may end before any work."""
        return self.dry_run or self.rescore != "all"


class ModelInput(Value):
    """One column of the model's signature; `type` is MLflow's name: double, long, string, …"""

    name: str
    type: str
    required: bool = True


class ModelVersion(Value):
    """A registered model, pinned: `uri` is its folder in the workspace, named by its digest.

    `digest` is the SHA-256 over the folder's sorted paths and bytes (see models/pinned.py).
    `flavor` is what loads it natively: lightgbm, sklearn, …; `alias` is how it was found.
    """

    name: str
    version: str
    alias: str | None
    flavor: str
    digest: str
    uri: str
    mlflow_run_id: str | None
    inputs: tuple[ModelInput, ...]


class Run(Value):
    """What a run is: fixed by `plan`, trusted by every later step, resolved by none again.

    `pipeline_uri` is the pipeline folder as it stood, and `config_digest` its digest. `rescore` is
    the request's: what the run leaves alone, also where others publish it while it is under way.
    """

    run_id: str
    pipeline: str
    partition: Partition
    timezone: str
    workspace: str
    pipeline_uri: str
    config_digest: str
    model: ModelVersion
    planned_at: dt.datetime
    invocation: Invocation
    rescore: Rescore = "all"


class Part(Value):
    """One Parquet file of a snapshot; `digest` is the SHA-256 of its bytes."""

    index: int
    uri: str
    rows: int
    bytes: int
    digest: str


class Column(Value):
    """A column of a snapshot; `type` is Arrow's name of it."""

    name: str
    type: str


class Snapshot(Value):
    """An immutable dated extract; `uri` is its manifest, which lists the parts."""

    uri: str
    digest: str
    rows: int
    parts: int
    reused: bool = False


class SnapshotManifest(Value):
    """All of a snapshot. `digest` is over the parts' digests, in order, and the schema."""

    pipeline: str
    partition: Partition
    digest: str
    rows: int
    columns: tuple[Column, ...]
    parts: tuple[Part, ...]
    query_digest: str
    source: str
    extracted_at: dt.datetime


Severity = Literal["critical", "warning", "info"]


class Check(Value):
    """One thing that the gate looked at.

    `failing` counts rows and `share` is their share of the rows looked at, both None for a check
    that is not about rows. `quarantines` says that its failing rows were set aside.
    """

    name: str
    passed: bool
    severity: Severity
    message: str
    column: str | None = None
    failing: int | None = None
    share: float | None = None
    quarantines: bool = False
    examples: tuple[str, ...] = ()


class GateResult(Value):
    """What the gate found; `quarantine_uri` is a Parquet file, None where no row was set aside."""

    passed: bool
    rows: int
    quarantined: int
    quarantine_uri: str | None
    checks: tuple[Check, ...]
    reused: bool = False


class Receipt(Value):
    """Proof that one part was scored. rows_in = scored + quarantined + failed.

    `quarantined` rows were set aside by the gate, and on `failed` rows the model failed:
    `failed_uri` is the file with their reasons, of the same columns as the gate's. `digest` is the
    SHA-256 of the Parquet file's bytes; `seconds` and `device` say how it went.
    """

    part: int
    uri: str
    rows_in: int
    scored: int
    quarantined: int
    bytes: int
    digest: str
    seconds: float
    device: str = "cpu"
    failed: int = 0
    failed_uri: str | None = None


class Scored(Value):
    """Every part of a version scored; `uri` is the job, beside which the receipts lie.

    rows_in = scored + quarantined + failed, as in the receipts.
    """

    version: str
    uri: str
    rows_in: int
    scored: int
    quarantined: int
    parts: int
    reused_parts: int = 0
    failed: int = 0


class Published(Value):
    """What readers now see of the partition.

    `outcome` is `published` when this run moved the pointer, `unchanged` when the same version was
    current already. `table_version` is the table's own counter. `note` is what a person should know
    of the move, such as the rollback that it ended.
    """

    outcome: Literal["published", "unchanged"]
    version: str
    table: str
    table_version: int
    rows: int
    replaced: str | None
    checks: tuple[Check, ...] = ()
    note: str | None = None


DriftVerdict = Literal["stable", "warn", "alert", "unknown"]


class ColumnDrift(Value):
    """Distances of one column from one reference; PSI and JS in nats, KS in [0, 1].

    `noise_psi` is the PSI that samples of these sizes exceed by chance once in a thousand.
    `wasserstein` is in units of the reference's standard deviation; it and `ks` are None for
    categories.
    """

    column: str
    reference: Literal["training", "trailing"]
    psi: float
    noise_psi: float
    js: float
    ks: float | None
    wasserstein: float | None
    missing_share: float
    reference_missing_share: float
    verdict: DriftVerdict


class DriftResult(Value):
    """The worst verdict over the columns that are not ignored; `uri` holds all the numbers."""

    verdict: DriftVerdict
    message: str
    uri: str
    columns: int
    drifted: tuple[str, ...]
    evidently_uri: str | None
    reused: bool = False


class StepRecord(Value):
    """How one step of one run went; `result` is the value that it returned."""

    step: str
    outcome: Literal["success", "failed"]
    started_at: dt.datetime
    seconds: float
    result: dict[str, object] | None = None
    error: dict[str, str] | None = None


class Report(Value):
    """Where the run's report lies and what it concludes.

    `state` is `published` or `unchanged` where readers have the version that this run computed,
    `held` where it waits for a person, `failed` otherwise.
    """

    run_id: str
    state: Literal["published", "unchanged", "held", "failed"]
    html: str
    json_uri: str
