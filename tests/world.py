"""A small real world for tests: a DuckDB warehouse, an MLflow registry, a pipeline folder `tiny`.

`build_world(path)` makes one (seconds), `copy_world(world, path)` makes a private one of it (a few
milliseconds): its own warehouse, registry database, pipeline folder and empty workspace. Both work
outside pytest; `World.env` is what a subprocess needs to find the parts.

The warehouse has one table `accounts`: DAYS days from FIRST_DAY, ROWS rows a day, keyed by
(account_id, channel) within a day. The model is a LightGBM booster with a categorical column,
trained on the first TRAINING_DAYS days, registered as `tiny-churn` with the alias `production`.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from include.pipeline import Pipeline, load_pipeline
from include.run import Invocation, Request, Rescore
from include.settings import silence_telemetry

if TYPE_CHECKING:
    import lightgbm
    import pandas as pd

FIRST_DAY = dt.date(2026, 1, 1)
DAYS = 40
ACCOUNTS = 150
CHANNELS = ("store", "web")
ROWS = ACCOUNTS * len(CHANNELS)
TRAINING_DAYS = 20
REGIONS = ("east", "north", "south", "west")

NAME = "tiny"
MODEL = "tiny-churn"
CONNECTION = "tiny_warehouse"
FEATURES = ("balance", "visits", "tenure_days", "region")

PIPELINE_YAML = """\
description: Churn of a few hundred accounts, for tests
schedule:
  cron: "30 2 * * *"
  timezone: Europe/Berlin
  start_date: 2026-01-01
  deadline: "08:00"
partition:
  grain: day
  lag: 1
warehouse:
  kind: duckdb
  connection: tiny_warehouse
key: [account_id, channel]
model:
  name: tiny-churn
  alias: production
  output: probability
snapshot:
  part_rows: 100
gate:
  min_rows: 100
  max_quarantined_share: 0.05
  freshness:
    column: updated_at
    max_age_hours: 36
engine:
  kind: local
  workers: 1
predictions:
  score_column: churn_probability
  pass_through: [region]
drift:
  trailing: 3
  evidently_rows: 0
"""

FEATURES_SQL = """\
SELECT account_id, channel, region, balance, visits, tenure_days, updated_at
FROM accounts
WHERE event_date = $as_of
"""

SUITE_YAML = """\
expectations:
  - type: expect_column_values_to_be_between
    kwargs: {column: tenure_days, min_value: 0, max_value: 10000}
    severity: warning
"""

# Rows of day d: a hash of (account, channel, day, salt) gives uniforms, so that the data are the
# same everywhere and any day can be made on its own.
_ACCOUNTS_SQL = """\
CREATE TABLE accounts AS
WITH base AS (
    SELECT a.id AS account_id, c.name AS channel, d.day AS event_date,
           hash(a.id, c.name, d.day, 1) / 18446744073709551616.0 AS u1,
           hash(a.id, c.name, d.day, 2) / 18446744073709551616.0 AS u2,
           hash(a.id, c.name, d.day, 3) / 18446744073709551616.0 AS u3,
           hash(a.id, c.name, d.day, 4) / 18446744073709551616.0 AS u4,
           hash(a.id, 5) / 18446744073709551616.0 AS per_account,
           hash(a.id, 6) / 18446744073709551616.0 AS first_tenure
    FROM range(1000, 1000 + $accounts) AS a(id)
    CROSS JOIN (SELECT unnest($channels) AS name) AS c
    CROSS JOIN (SELECT $first_day + CAST(i AS INTEGER) AS day FROM range($days) AS r(i)) AS d
)
SELECT account_id, channel, event_date,
       CAST(event_date AS TIMESTAMP) + to_seconds(CAST(floor(u4 * 86399) AS BIGINT))
           AS updated_at,
       CASE WHEN per_account < 0.04 THEN NULL
            ELSE $regions[1 + CAST(floor(per_account * 3.9999) AS INTEGER)] END AS region,
       CASE WHEN u2 < 0.06 THEN NULL ELSE round(-1000 * ln(1 - u1), 2) END AS balance,
       CASE WHEN u3 < 0.03 THEN NULL ELSE floor(u3 * 30) END AS visits,
       CAST(floor(first_tenure * 2000) AS BIGINT) + date_diff('day', $first_day, event_date)
           AS tenure_days,
       u4 < 1 / (1 + exp(-(1.2 - coalesce(u3, 0.5) * 3 - coalesce(u1, 0.5)
           + CASE WHEN per_account > 0.75 THEN 1.5 ELSE 0 END))) AS churned
FROM base
ORDER BY event_date, account_id, channel
"""


@dataclass(frozen=True)
class World:
    """Where a small world lies; `day` has a full partition with trailing days before it."""

    home: Path
    pipelines: Path
    workspace: str
    registry: str
    warehouse: Path
    artifacts: Path
    name: str = NAME
    model: str = MODEL
    day: dt.date = FIRST_DAY + dt.timedelta(days=DAYS - 5)

    @classmethod
    def at(cls, path: Path, artifacts: Path | None = None) -> World:
        """The world below `path`; its models' artifacts may lie in another's folder."""
        return cls(
            home=path / "home",
            pipelines=path / "pipelines",
            workspace=(path / "home" / "workspace").as_uri(),
            registry=f"sqlite:///{path / 'mlflow.db'}",
            warehouse=path / "warehouse.duckdb",
            artifacts=artifacts or path / "artifacts",
        )

    @property
    def env(self) -> dict[str, str]:
        return {
            "DAYBREAK_HOME": str(self.home),
            "DAYBREAK_WORKSPACE": self.workspace,
            "DAYBREAK_REGISTRY": self.registry,
            "DAYBREAK_PIPELINES": str(self.pipelines),
            "DAYBREAK_CACHE": str(self.home / "cache"),
            "DAYBREAK_NOTIFY": "",
            f"AIRFLOW_CONN_{CONNECTION.upper()}": "duckdb://"
            + str(self.warehouse).replace("/", "%2F"),
        }

    @property
    def folder(self) -> Path:
        """The pipeline folder, private to this world: edit it freely."""
        return self.pipelines / self.name

    def pipeline(self) -> Pipeline:
        return load_pipeline(self.folder)

    def request(
        self,
        date: dt.date | None = None,
        *,
        run: str = "test",
        model_version: str | None = None,
        rescore: Rescore = "all",
    ) -> Request:
        """A request as `daybreak run` makes it; two requests of one `run` are the same run."""
        return Request(
            pipeline=self.name,
            invocation=Invocation(orchestrator="cli", id=run),
            partition_date=date or self.day,
            model_version=model_version,
            rescore=rescore,
        )

    def configure(self, changes: dict[str, Any]) -> None:
        """Merge `changes` into pipeline.yaml: `world.configure({"gate": {"min_rows": 1}})`."""
        file = self.folder / "pipeline.yaml"
        content = yaml.safe_load(file.read_text("utf-8"))
        _merge(content, changes)
        file.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement on the warehouse, to change its data or to look at them."""
        import duckdb

        with duckdb.connect(str(self.warehouse)) as connection:
            rows: list[tuple[Any, ...]] = connection.execute(sql).fetchall()
        return rows

    def register_model(self, seed: int, alias: str | None = "production") -> str:
        """Train and register one more version, and move `alias` to it; its version."""
        booster, features = _trained(self.warehouse, seed)
        with tracked(self.registry):
            return log_booster(booster, features, alias)


def build_world(path: Path) -> World:
    """Make a world below `path`, with version 1 of the model registered as `production`."""
    import duckdb

    world = World.at(path)
    for folder in (world.home, world.folder, world.artifacts):
        folder.mkdir(parents=True)
    with duckdb.connect(str(world.warehouse)) as connection:
        connection.execute(
            _ACCOUNTS_SQL,
            {
                "accounts": ACCOUNTS,
                "channels": list(CHANNELS),
                "regions": list(REGIONS),
                "first_day": FIRST_DAY,
                "days": DAYS,
            },
        )
    (world.folder / "pipeline.yaml").write_text(PIPELINE_YAML, "utf-8")
    (world.folder / "features.sql").write_text(FEATURES_SQL, "utf-8")
    (world.folder / "suite.yaml").write_text(SUITE_YAML, "utf-8")
    with tracked(world.registry):
        import mlflow

        mlflow.create_experiment("tiny", artifact_location=world.artifacts.as_uri())
    world.register_model(seed=1)
    return world


def copy_world(world: World, path: Path) -> World:
    """A private world like `world` and with an empty workspace.

    The registry's database is copied and its artifacts are shared: it names them absolutely, and
    nothing changes an artifact once it is logged.
    """
    copy = World.at(path, world.artifacts)
    copy.home.mkdir(parents=True)
    shutil.copytree(world.pipelines, copy.pipelines)
    shutil.copyfile(world.warehouse, copy.warehouse)
    shutil.copyfile(_database(world.registry), _database(copy.registry))
    return copy


@contextmanager
def tracked(registry: str) -> Iterator[None]:
    """MLflow's fluent functions on `registry`, and the process left as it was afterwards."""
    silence_telemetry()
    import mlflow

    # set_tracking_uri writes the variable too, and settings.py reads it.
    before = os.environ.get("MLFLOW_TRACKING_URI")
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(registry)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def log_booster(booster: lightgbm.Booster, features: pd.DataFrame, alias: str | None) -> str:
    """Log and register a booster with its signature and training profile, as training code does."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    from daybreak.training import log_training_reference

    types = {"tenure_days": "long", "region": "string"}
    columns = [ColSpec(types.get(name, "double"), name, required=False) for name in FEATURES]
    signature = ModelSignature(Schema(columns), Schema([ColSpec("double")]))
    mlflow.set_experiment("tiny")
    with mlflow.start_run():
        info = mlflow.lightgbm.log_model(
            booster,
            name="model",
            signature=signature,
            registered_model_name=MODEL,
            pip_requirements=["lightgbm"],
        )
        # The reference has the warehouse's columns: strings, not categories.
        log_training_reference(
            features.astype({"region": object}), booster.predict(features), "churn_probability"
        )
    version = str(info.registered_model_version)
    if alias is not None:
        mlflow.MlflowClient().set_registered_model_alias(MODEL, alias, version)
    return version


def _trained(warehouse: Path, seed: int) -> tuple[lightgbm.Booster, pd.DataFrame]:
    """A booster on the first days, and its features; `region` is a pandas category."""
    import duckdb
    import lightgbm

    last = FIRST_DAY + dt.timedelta(days=TRAINING_DAYS - 1)
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        frame = connection.execute(
            f"SELECT {', '.join(FEATURES)}, churned FROM accounts WHERE event_date <= $last "
            "ORDER BY event_date, account_id, channel",
            {"last": last},
        ).df()
    features = frame[list(FEATURES)].astype({"region": "category"})
    booster = lightgbm.train(
        {
            "objective": "binary",
            "num_leaves": 15,
            "min_data_in_leaf": 20,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "seed": seed,
            "num_threads": 1,
            "deterministic": True,
            "verbosity": -1,
        },
        lightgbm.Dataset(features, frame["churned"].astype(float)),
        num_boost_round=20,
    )
    return booster, features


def _database(registry: str) -> Path:
    return Path(registry.removeprefix("sqlite:///"))


def _merge(into: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
