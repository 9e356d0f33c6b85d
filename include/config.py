"""The schema of pipeline.yaml: what a pipeline may say, and what it means when it is silent."""

from __future__ import annotations

import datetime as dt
from functools import cache
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator, model_validator

from include.engine_config import EngineConfig, LocalEngine
from include.partition import Grain
from include.section import Section

Share = Annotated[float, Field(ge=0, le=1)]
Step = Literal["plan", "extract", "gate", "score", "publish", "drift", "report"]
# What may happen to a run that a person wants to know of.
Event = Literal["failure", "held", "drift", "deadline", "published"]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
# A name in Snowflake that needs no quotes, with its schema and its database or without them.
TableName = Annotated[
    str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]*\.){0,2}[A-Za-z_][A-Za-z0-9_]*$")
]

# Columns that every prediction row carries, in this order after the key, the pass-through columns
# and the score; a pipeline's own columns may not take their names.
LINEAGE_COLUMNS = ("model_name", "model_version", "model_digest", "run_id", "scored_at")
PARTITION_COLUMNS = ("as_of", "version")


@cache  # It walks the whole time zone database, for longer than all else of a folder takes.
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


class Schedule(Section):
    """When the run starts and by when it must be done; cron and deadline are in `timezone`.

    `assets` are names or URIs of Airflow assets: a run starts once all of them were updated, and
    at the ticks of `cron` too. `step_minutes` is how long an attempt of a step may take in Airflow.
    """

    cron: str | None = None
    assets: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    timezone: str = "UTC"
    start_date: dt.date = dt.date(2020, 1, 1)
    deadline: dt.time | None = None
    step_minutes: dict[Step, Annotated[int, Field(ge=1, le=10_080, strict=True)]] = Field(
        default_factory=dict
    )

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        if name not in _zones():
            raise ValueError(f"{name!r} is no IANA time zone such as Europe/Berlin or UTC")
        return name

    @field_validator("deadline", "start_date", mode="before")
    @classmethod
    def _written_out(cls, value: object) -> object:
        # pydantic would take a number for seconds since midnight, or since 1970.
        if isinstance(value, int | float):
            raise ValueError("write a time as '08:00' and a date as 2020-01-31")
        return value

    @field_validator("deadline")
    @classmethod
    def _in_the_zone(cls, deadline: dt.time | None) -> dt.time | None:
        if deadline is not None and deadline.tzinfo is not None:
            raise ValueError("a deadline is in `timezone` and has no offset of its own")
        return deadline

    @model_validator(mode="after")
    def _something_to_be_late(self) -> Schedule:
        if self.assets and self.deadline is not None and self.cron is None:
            raise ValueError(
                "a deadline beside assets needs a cron: where the assets never come there is no "
                "run that could be late"
            )
        return self

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)


class PartitionRule(Section):
    """A run is for the partition of its local date, less `lag` partitions."""

    grain: Grain = "day"
    lag: Annotated[int, Field(ge=0, strict=True)] = 0


class Warehouse(Section):
    """Where features.sql runs; `connection` names an Airflow connection (see connections.py)."""

    kind: Literal["duckdb", "snowflake", "spark"]
    connection: str


class Model(Section):
    """A registered MLflow model.

    `device: auto` scores on a GPU where one is there and the model's library can use it, `cpu`
    never does. `output` is what the score column holds: `probability` is P(second class) of a
    binary classifier, `value` is the prediction of a regressor as it is.
    """

    name: str
    alias: str = "production"
    output: Literal["probability", "value"]
    device: Literal["auto", "cpu"] = "auto"


class SnapshotRule(Section):
    """Rows of one part: the unit of parallelism, retry and resume, and of memory."""

    part_rows: Annotated[int, Field(ge=1, strict=True)] = 100_000


class Freshness(Section):
    """The newest value of `column` lies at most `max_age_hours` before the partition's end."""

    column: Identifier
    max_age_hours: Annotated[float, Field(gt=0)]


class Gate(Section):
    """What the snapshot must hold before anything is scored, beside suite.yaml."""

    min_rows: Annotated[int, Field(ge=1, strict=True)] = 1
    max_rows: Annotated[int, Field(ge=1, strict=True)] | None = None
    max_quarantined_share: Share = 0.0
    freshness: Freshness | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Gate:
        if self.max_rows is not None and self.max_rows < self.min_rows:
            raise ValueError(f"max_rows ({self.max_rows}) is below min_rows ({self.min_rows})")
        return self


class Audit(Section):
    """What a version must hold before readers see it.

    A PSI of its scores against the version that it follows above `max_score_psi` holds it for a
    person, for `approval_hours`; without an answer by then it counts as rejected. Scores lie in
    `score_range`; without one, a probability lies in [0, 1].
    """

    score_range: tuple[float, float] | None = None
    max_score_psi: Annotated[float, Field(gt=0)] = 0.5
    # Less than a day: a nightly run that still waits would keep the next one from starting.
    approval_hours: Annotated[float, Field(gt=0, le=8784)] = 12

    @field_validator("score_range")
    @classmethod
    def _ordered(cls, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"score_range {list(bounds)} is not [low, high]")
        return bounds


class Predictions(Section):
    """The versioned table: Delta files, in the workspace unless `uri` says, or Snowflake's tables.

    In Snowflake, `table` is what their names begin with, and `readers` are roles that may select
    from its view.
    """

    kind: Literal["delta", "snowflake"] = "delta"
    uri: str | None = None
    connection: str | None = None
    table: TableName | None = None
    readers: tuple[Identifier, ...] = ()
    score_column: Identifier = "score"
    pass_through: tuple[Identifier, ...] = ()
    audit: Audit = Audit()

    @model_validator(mode="after")
    def _of_its_kind(self) -> Predictions:
        here, there = {"uri"}, {"connection", "table", "readers"}
        if self.kind == "snowflake":
            here, there = there, here
            missing = [name for name in ("connection", "table") if not getattr(self, name)]
            if missing:
                raise ValueError(f"predictions of the kind snowflake need {' and '.join(missing)}")
        foreign = sorted(name for name in there if getattr(self, name))
        if foreign:
            raise ValueError(
                f"{', '.join(foreign)} means nothing for predictions of the kind {self.kind}, "
                f"which has {', '.join(sorted(here))}"
            )
        return self


class DriftLimits(Section):
    """The limits of one column; what is left out is the pipeline's."""

    warn_psi: Annotated[float, Field(gt=0)] | None = None
    alert_psi: Annotated[float, Field(gt=0)] | None = None


class Drift(Section):
    """Columns are compared with the training reference and with the `trailing` partitions before.

    A column's population stability index above `warn_psi` or `alert_psi` gives its verdict, once
    it is also beyond what samples of that size show by chance; `columns` has the limits of those
    that have their own. `ignore` names columns that move by design, such as the weekday of a daily
    partition.
    """

    trailing: Annotated[int, Field(ge=0, strict=True)] = 28
    warn_psi: Annotated[float, Field(gt=0)] = 0.1
    alert_psi: Annotated[float, Field(gt=0)] = 0.25
    columns: dict[str, DriftLimits] = Field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    evidently_rows: Annotated[int, Field(ge=0, strict=True)] = 5_000

    @model_validator(mode="after")
    def _ordered(self) -> Drift:
        if self.alert_psi < self.warn_psi:
            raise ValueError(f"alert_psi ({self.alert_psi}) is below warn_psi ({self.warn_psi})")
        for column in self.columns:
            warn, alert = self.limits_of(column)
            if alert < warn:
                raise ValueError(f"alert_psi ({alert}) of {column} is below its warn_psi ({warn})")
        both = sorted(set(self.columns).intersection(self.ignore))
        if both:
            raise ValueError(f"{both} have limits and are ignored")
        return self

    def limits_of(self, column: str) -> tuple[float, float]:
        """The PSI above which a column warns, and above which it alerts."""
        own = self.columns.get(column, DriftLimits())
        return (
            self.warn_psi if own.warn_psi is None else own.warn_psi,
            self.alert_psi if own.alert_psi is None else own.alert_psi,
        )


class Retention(Section):
    """What the daily upkeep leaves. A current version is never deleted.

    A version that was superseded less than `rollback_days` ago stays, and so do the newest
    `versions` of each partition. `snapshot_days` is how long the features of a kept version stay,
    which `daybreak why` needs; `run_days` how long the records and the report of a run do.
    `crashed_hours` is the grace for what a run left unfinished: a run may take as long.
    """

    versions: Annotated[int, Field(ge=1, strict=True)] = 3
    rollback_days: Annotated[int, Field(ge=0, strict=True)] = 30
    snapshot_days: Annotated[int, Field(ge=1, strict=True)] = 365
    crashed_hours: Annotated[int, Field(ge=1, strict=True)] = 48
    run_days: Annotated[int, Field(ge=1, strict=True)] = 365


class Notify(Section):
    """Of what people are told, through the services that DAYBREAK_NOTIFY names."""

    on: tuple[Event, ...] = ("failure", "held", "drift", "deadline")


class PipelineConfig(Section):
    """One pipeline.yaml. Unknown keys fail."""

    description: Annotated[str, Field(min_length=1)]
    owner: str = "daybreak"
    tags: tuple[str, ...] = ()
    schedule: Schedule = Schedule()
    partition: PartitionRule = PartitionRule()
    warehouse: Warehouse
    key: Annotated[tuple[Identifier, ...], Field(min_length=1)]
    model: Model
    snapshot: SnapshotRule = SnapshotRule()
    gate: Gate = Gate()
    engine: EngineConfig = LocalEngine()
    predictions: Predictions = Predictions()
    drift: Drift = Drift()
    notify: Notify = Notify()
    retention: Retention = Retention()

    @model_validator(mode="after")
    def _no_column_twice(self) -> PipelineConfig:
        named = [*self.key, *self.predictions.pass_through, self.predictions.score_column]
        reserved = {*LINEAGE_COLUMNS, *PARTITION_COLUMNS} & set(named)
        if reserved:
            raise ValueError(f"{sorted(reserved)} are columns that Daybreak adds itself")
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(f"{twice} stand more than once in key, pass_through and score_column")
        return self
