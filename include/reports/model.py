"""What report.json holds: one run, its outcome, and the numbers behind it. Stable for machines."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field

from include.drift.charts import Chart
from include.drift.verdicts import Reference
from include.notify import Notification
from include.run import Check, ColumnDrift, DriftVerdict, Invocation, Value
from include.stores import Version

State = Literal["published", "unchanged", "held", "failed"]


class Problem(Value):
    """Why a step failed: what was found, where, and what to do."""

    step: str
    error: str
    found: str
    where: str = ""
    do: str = ""


class StepLine(Value):
    """One step of the run. `not run` has no record: it never began, or its process was killed.

    `earlier` is a record that an earlier attempt of the run left, before a step in front failed.
    `offset_seconds` is from the start of the run's first step; `note` says what came of it.
    """

    step: str
    outcome: Literal["success", "failed", "not run", "earlier"]
    started_at: dt.datetime | None = None
    offset_seconds: float = 0.0
    seconds: float = 0.0
    note: str = ""


class Counts(Value):
    """Rows by what became of them; None where the run did not get so far.

    `quarantined` counts the rows that the gate set aside and those on which the model failed, which
    `failed` counts alone. `reconciles` says whether every row that was extracted is scored or
    quarantined.
    """

    rows_in: int | None = None
    scored: int | None = None
    quarantined: int | None = None
    published: int | None = None
    reconciles: bool | None = None
    failed: int = 0


class Reason(Value):
    """Why rows were set aside, and how many."""

    reason: str
    rows: int


class GateSection(Value):
    """What the gate found: the failed checks first, then the others, by severity and name."""

    passed: bool
    reused: bool
    rows: int
    quarantined: int
    checks: tuple[Check, ...]
    reasons: tuple[Reason, ...] = ()
    reasons_left_out: int = 0


class PublishSection(Value):
    """What readers see; `audit` is what the version was held against before."""

    outcome: Literal["published", "unchanged"]
    version: str
    table: str
    table_version: int
    rows: int
    replaced: str | None
    audit: tuple[Check, ...]
    note: str | None = None


class HeldSection(Value):
    """A version that waits for a person, or waited: what the audit found, and the answer if any."""

    version: str
    held_at: dt.datetime
    until: dt.datetime
    how: str
    audit: tuple[Check, ...]
    answer: str | None = None


class DriftSection(Value):
    """The drift step's verdict and all its numbers: the furthest first, the ignored last.

    `limits` are the PSIs at which a column warns and alerts, of columns that have their own.
    """

    verdict: DriftVerdict
    message: str
    notes: tuple[str, ...] = ()
    warn_psi: float
    alert_psi: float
    limits: dict[str, tuple[float, float]] = Field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    training: Reference | None = None
    trailing: Reference | None = None
    columns: tuple[ColumnDrift, ...] = ()
    charts: tuple[Chart, ...] = ()


class Lineage(Value):
    """What the predictions were made from; None where the run did not get so far."""

    model_name: str | None = None
    model_version: str | None = None
    model_alias: str | None = None
    model_flavor: str | None = None
    model_digest: str | None = None
    mlflow_run_id: str | None = None
    config_digest: str | None = None
    config_uri: str | None = None
    source: str | None = None
    query_digest: str | None = None
    extracted_at: dt.datetime | None = None
    snapshot_digest: str | None = None
    snapshot_uri: str | None = None
    quarantine_uri: str | None = None
    version: str | None = None


class Readers(Value):
    """What readers see: the current version of the run's date, else of the latest date before."""

    as_of: dt.date
    version: str
    rows: int
    committed_at: dt.datetime

    @classmethod
    def of(cls, version: Version) -> Readers:
        return cls(
            as_of=version.as_of,
            version=version.version,
            rows=version.rows,
            committed_at=version.committed_at,
        )


class RunReport(Value):
    """One run. Fields are added, never renamed, within a `schema_version`.

    `problem` is the error that decided the state, `others` are those of steps that did not;
    `readers` is None where nothing was published yet, or the table could not be asked;
    `notes` say what the report could not show. Sections are None where the run did not get so far.
    """

    schema_version: Literal[1] = 1
    state: State
    verdict: str
    pipeline: str
    description: str = ""
    owner: str = ""
    partition: str = ""
    timezone: str = "UTC"
    deadline: str | None = None
    run_id: str
    invocation: Invocation | None = None
    planned_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    generated_at: dt.datetime
    problem: Problem | None = None
    others: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    counts: Counts = Counts()
    steps: tuple[StepLine, ...] = ()
    gate: GateSection | None = None
    publish: PublishSection | None = None
    held: HeldSection | None = None
    scores: Chart | None = None
    drift: DriftSection | None = None
    lineage: Lineage = Lineage()
    links: dict[str, str] = Field(default_factory=dict)
    readers: Readers | None = None
    notifications: tuple[Notification, ...] = ()

    @property
    def seconds(self) -> float:
        """From the first step's start to the last one's end."""
        return max((line.offset_seconds + line.seconds for line in self.steps), default=0.0)
