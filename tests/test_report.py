"""The report says what happened and what to do, however far the run came, and trusts no data."""

from __future__ import annotations

import datetime as dt
import io
import json
import re
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include import storage
from include.config import PipelineConfig
from include.drift.numbers import drift_numbers, drifted_columns
from include.drift.profiles import Tally, training_profile
from include.drift.references import Trailing
from include.errors import PermanentError
from include.partition import Partition
from include.pipeline import Pipeline
from include.run import (
    Check,
    Column,
    DriftResult,
    GateResult,
    Invocation,
    ModelInput,
    ModelVersion,
    Published,
    Report,
    Run,
    Scored,
    Snapshot,
    SnapshotManifest,
    Value,
)
from include.scoring import version_id
from include.workspace import Workspace
from tasks.report import report, require_published
from tasks.step import step_of

DAY = Partition.containing(dt.date(2026, 3, 8), "day")
MODEL_DIGEST, SNAPSHOT_DIGEST = "5f3a" * 16, "91bc" * 16
HOSTILE = "<script>alert(1)</script>"
ROWS, QUARANTINED = 12_034, 36
FEATURES = ("tenure_days", "monthly_spend", "visits_28d", "region", "is_member", "signed_up_at")


class Night:
    """A run's folder as real steps leave it, one step at a time."""

    def __init__(self, root: Path, run_id: str = "airflow-scheduled__2026-03-08") -> None:
        self.workspace = Workspace(root.as_uri(), "customer_churn")
        self.run_id = run_id
        self.pipeline = Pipeline(
            name="customer_churn",
            config=PipelineConfig.model_validate(CONFIG),
            sql="SELECT 1",
            suite={"expectations": []},
        )
        self.version = version_id(SNAPSHOT_DIGEST, MODEL_DIGEST, self.pipeline.digest)

    @property
    def run(self) -> Run:
        digest = self.pipeline.digest
        return Run(
            run_id=self.run_id,
            pipeline="customer_churn",
            partition=DAY,
            timezone="Europe/Berlin",
            workspace=self.workspace.root,
            pipeline_uri=self.workspace.config(digest),
            config_digest=digest,
            model=ModelVersion(
                name="churn",
                version="7",
                alias="production",
                flavor="lightgbm",
                digest=MODEL_DIGEST,
                uri=self.workspace.model(MODEL_DIGEST),
                mlflow_run_id="c0ffee" * 5,
                inputs=tuple(ModelInput(name=name, type="double") for name in FEATURES),
            ),
            planned_at=dt.datetime(2026, 3, 8, 4, 30, tzinfo=dt.UTC),
            invocation=Invocation(
                orchestrator="airflow",
                id="scheduled__2026-03-08",
                url="https://airflow.example/dags/customer_churn/runs/1",
            ),
        )

    def step(self, step: str, value: Value | None, error: Exception | None = None) -> None:
        """Run a step's body as tasks/step.py does; it ends with `error` where there is one."""
        expected = (type(error),) if error else ()
        with suppress(*expected), step_of(self.run, step) as recorder:
            recorder.result = value
            if error:
                raise error

    def plan(self) -> None:
        storage.write(self.run.pipeline_uri, self.pipeline.model_dump_json().encode())
        uri = storage.join(self.workspace.run(self.run_id), "run.json")
        storage.write(uri, self.run.model_dump_json().encode())
        self.step("plan", self.run)

    def extract(self) -> Snapshot:
        manifest = SnapshotManifest(
            pipeline="customer_churn",
            partition=DAY,
            digest=SNAPSHOT_DIGEST,
            rows=ROWS,
            columns=tuple(Column(name=name, type="double") for name in FEATURES),
            parts=(),
            query_digest="77aa" * 16,
            source="duckdb warehouse analytics",
            extracted_at=dt.datetime(2026, 3, 8, 4, 31, tzinfo=dt.UTC),
        )
        uri = storage.join(self.workspace.snapshots(DAY.as_of), "manifest.json")
        storage.write(uri, manifest.model_dump_json().encode())
        snapshot = Snapshot(uri=uri, digest=SNAPSHOT_DIGEST, rows=ROWS, parts=3)
        self.step("extract", snapshot)
        return snapshot

    def gate(self, error: Exception | None = None) -> GateResult:
        uri = storage.join(self.workspace.root, "quarantine.parquet")
        reasons = [f"region is {HOSTILE}"] * 20 + ["monthly_spend < 0; region is null"] * 16
        table = pa.table(
            {
                "part": pa.array([0] * QUARANTINED, pa.int32()),
                "row": pa.array(range(QUARANTINED), pa.int64()),
                "reason": reasons,
            }
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        storage.write(uri, buffer.getvalue())
        result = GateResult(
            passed=error is None,
            rows=ROWS,
            quarantined=QUARANTINED,
            quarantine_uri=uri,
            checks=(
                Check(
                    name="row_count",
                    passed=True,
                    severity="critical",
                    message="12,034 rows, between 10,000 and 20,000",
                ),
                Check(
                    name="key",
                    passed=error is None,
                    severity="critical",
                    message="customer_id is unique"
                    if error is None
                    else "customer_id stands twice",
                    column="customer_id",
                    failing=0 if error is None else 2,
                    share=0.0 if error is None else 2 / ROWS,
                    examples=() if error is None else ("10071", HOSTILE),
                ),
                Check(
                    name="expect_column_values_to_be_in_set",
                    passed=False,
                    severity="warning",
                    message="20 values are not in the set",
                    column="region",
                    failing=20,
                    share=20 / ROWS,
                    quarantines=True,
                    examples=(HOSTILE, "nowhere"),
                ),
            ),
        )
        self.step("gate", result, error)
        return result

    def score(self) -> Scored:
        scored = Scored(
            version=self.version,
            uri=storage.join(self.workspace.scores(DAY.as_of, self.version), "job.json"),
            rows_in=ROWS,
            scored=ROWS - QUARANTINED,
            quarantined=QUARANTINED,
            parts=3,
            reused_parts=1,
        )
        self.step("score", scored)
        return scored

    def publish(self, error: Exception | None = None, outcome: str = "published") -> None:
        published = Published.model_validate(
            {
                "outcome": outcome,
                "version": self.version,
                "table": self.workspace.predictions(),
                "table_version": 41,
                "rows": ROWS - QUARANTINED,
                "replaced": None,
                "checks": (
                    Check(
                        name="scores_in_range",
                        passed=True,
                        severity="critical",
                        message="every score lies in [0, 1]",
                    ),
                ),
            }
        )
        self.step("publish", None if error else published, error)

    def drift(self, error: Exception | None = None) -> None:
        """Numbers as the drift step computes them, from made-up rows."""
        rng = np.random.default_rng(7)
        past, now = _customers(rng, 40_000, 0.0), _customers(rng, 6_000, 0.5)
        training = training_profile(past, rng.beta(2, 7, past.num_rows), "churn_probability")
        tallies = [Tally(training), Tally(training)]
        for tally, rows, shape in zip(tallies, (now, past.slice(9_000)), (2.6, 2.1), strict=True):
            scores = pa.array(rng.beta(shape, 6.5, rows.num_rows))
            tally.add(rows.append_column("churn_probability", scores))
        current, before = (tally.profile() for tally in tallies)
        days = [DAY.as_of - dt.timedelta(days=back) for back in range(28, 0, -1)]
        trailing = Trailing(before, tuple((day, "v0123456789ab") for day in days), models=("7",))
        numbers = drift_numbers(self.run, self.pipeline, current, training, trailing, self.version)
        folder = self.workspace.drift(DAY.as_of, self.version)
        uri = storage.join(folder, "numbers.json")
        storage.write(uri, numbers.model_dump_json().encode())
        page = storage.join(self.workspace.run(self.run_id), "evidently.html")
        result = DriftResult(
            verdict=numbers.verdict,
            message=numbers.message,
            uri=uri,
            columns=7,
            drifted=drifted_columns(numbers.columns, numbers.ignored),
            evidently_uri=page,
        )
        self.step("drift", None if error else result, error)

    def up_to_publish(self) -> None:
        self.plan()
        self.extract()
        self.gate()
        self.score()
        self.publish()

    def report(self) -> Report:
        return report("customer_churn", self.run_id)

    def page(self) -> str:
        return storage.read(self.report().html).decode()

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(storage.read(self.report().json_uri))
        return found


CONFIG = {
    "description": "Which customers are about to leave, every night",
    "owner": "growth-analytics",
    "schedule": {"cron": "30 4 * * *", "timezone": "Europe/Berlin", "deadline": "08:00"},
    "warehouse": {"kind": "duckdb", "connection": "warehouse"},
    "key": ["customer_id"],
    "model": {"name": "churn", "output": "probability"},
    "predictions": {"score_column": "churn_probability"},
    "drift": {"ignore": ["signed_up_at"]},
}


def _customers(rng: np.random.Generator, rows: int, moved: float) -> pa.Table:
    """Made-up customers; `moved` shifts what they spend, and from where they are."""
    regions = ["north", "south", "east", "west", HOSTILE]
    weights = np.array([0.4, 0.3 - moved / 5, 0.2, 0.1, moved / 5])
    spend = rng.lognormal(3.2 + moved, 0.6, rows)
    signed_up = rng.integers(1_600_000_000, 1_770_000_000, rows) + int(moved * 3e7)
    return pa.table(
        {
            "tenure_days": rng.integers(1, 2_400, rows),
            "monthly_spend": np.where(rng.random(rows) < 0.03, np.nan, spend),
            "visits_28d": rng.poisson(3 + moved / 4, rows),
            "region": rng.choice(regions, rows, p=weights / weights.sum()),
            "is_member": rng.random(rows) < 0.4,
            "signed_up_at": pa.array(signed_up, pa.timestamp("s", "UTC")),
        }
    )


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Night:
    monkeypatch.setenv("DAYBREAK_WORKSPACE", str(tmp_path))
    return Night(tmp_path)


class _Seen(HTMLParser):
    """Elements, attributes and text of a page, as a browser takes them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.values: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_published_run_says_what_readers_see_and_its_counts_reconcile(night: Night) -> None:
    night.up_to_publish()
    night.drift()
    assert night.report().state == "published"
    content = night.json()
    assert content["schema_version"] == 1
    assert content["verdict"] == (
        f"12,034 rows in = 11,998 scored + 36 quarantined; readers see version {night.version}."
    )
    assert content["counts"] == {
        "rows_in": 12_034,
        "scored": 11_998,
        "quarantined": 36,
        "published": 11_998,
        "reconciles": True,
        "failed": 0,
    }
    seen = _Seen(night.page())
    for words in ("Published", str(content["verdict"]), night.version, MODEL_DIGEST, "growth"):
        assert words in seen.text
    require_published(night.report())


def test_a_run_that_changed_nothing_says_that_readers_had_it_already(night: Night) -> None:
    night.up_to_publish()
    night.publish(outcome="unchanged")
    assert night.report().state == "unchanged"
    assert "readers had already" in str(night.json()["verdict"])
    require_published(night.report())


def test_the_report_is_written_when_plan_failed(night: Night) -> None:
    night.step("plan", None, PermanentError("there is no pipeline 'x'", do="did you mean 'y'?"))
    found = night.report()
    assert found.state == "failed"
    content = night.json()
    assert content["problem"]["step"] == "plan"
    assert content["verdict"] == "The run failed at plan; nothing changed for readers."
    page = _Seen(night.page()).text
    assert "there is no pipeline 'x'" in page
    assert "did you mean 'y'?" in page


def test_the_report_is_written_when_there_is_no_record_at_all(night: Night) -> None:
    assert night.report().state == "failed"
    assert "left no record" in _Seen(night.page()).text


@pytest.mark.parametrize("failing", ["extract", "gate", "score", "publish"])
def test_the_first_failed_step_is_the_verdict_and_its_error_stands_first(
    night: Night, failing: str
) -> None:
    error = PermanentError("the disk is full", where="/data", do="make room")
    night.plan()
    for step in ("extract", "gate", "score", "publish"):
        if step == failing:
            night.step(step, None, error)
            break
        getattr(night, step)()
    assert night.report().state == "failed"
    page = _Seen(night.page()).text
    assert f"The run failed at {failing}; readers have no predictions for this date." in page
    assert page.index("the disk is full") < page.index("Steps")
    assert "/data" in page
    assert "make room" in page
    with pytest.raises(PermanentError, match="published nothing"):
        require_published(night.report())


def test_a_gate_that_failed_shows_its_checks_and_examples(night: Night) -> None:
    night.plan()
    night.extract()
    night.gate(PermanentError("customer_id stands twice", do="correct features.sql"))
    content = night.json()
    gate = content["gate"]
    assert gate["checks"][0]["name"] == "key"
    assert {"reason": "monthly_spend < 0", "rows": 16} in gate["reasons"]
    assert "10071" in _Seen(night.page()).text


def test_a_version_that_waits_for_a_person_is_held_not_failed(night: Night) -> None:
    from include.audit import HeldForApproval

    night.plan()
    night.extract()
    night.gate()
    night.score()
    night.publish(HeldForApproval("scores moved: PSI 0.81", do="look at the drift report"))
    assert night.report().state == "held"
    assert "waits for a person" in str(night.json()["verdict"])
    with pytest.raises(PermanentError, match="held"):
        require_published(night.report())


def test_a_drift_step_that_failed_is_shown_and_does_not_unpublish_the_table(night: Night) -> None:
    night.up_to_publish()
    night.drift(PermanentError("the training profile is none", do="log it again"))
    assert night.report().state == "published"
    content = night.json()
    assert content["problem"] is None
    assert [problem["step"] for problem in content["others"]] == ["drift"]
    assert "the training profile is none" in _Seen(night.page()).text


def test_records_of_an_earlier_attempt_do_not_hide_that_this_one_failed(night: Night) -> None:
    night.up_to_publish()
    night.gate(PermanentError("customer_id stands twice"))
    assert night.report().state == "failed"
    steps = {step["step"]: step["outcome"] for step in night.json()["steps"]}
    assert steps == {
        "plan": "success",
        "extract": "success",
        "gate": "failed",
        "score": "earlier",
        "publish": "earlier",
        "drift": "not run",
    }


def test_a_publish_record_of_other_inputs_is_not_taken_for_this_attempt(night: Night) -> None:
    night.up_to_publish()
    other = Snapshot(uri="file:///gone.json", digest="00" * 32, rows=ROWS, parts=3)
    night.step("extract", other)
    assert night.report().state == "failed"
    assert "publish left no record of this attempt" in str(night.json()["problem"])


def test_what_the_report_cannot_read_is_named_and_costs_nothing_else(night: Night) -> None:
    night.up_to_publish()
    night.drift()
    gone = [storage.join(night.workspace.root, "quarantine.parquet")]
    gone += [storage.join(night.workspace.drift(DAY.as_of, night.version), "numbers.json")]
    storage.delete(gone)
    assert night.report().state == "published"
    notes = " ".join(night.json()["notes"])
    assert "The quarantined rows could not be read" in notes
    assert "The drift numbers could not be read" in notes
    assert "could not be read" in _Seen(night.page()).text


def test_text_from_the_data_is_text_on_the_page(night: Night) -> None:
    night.plan()
    night.extract()
    night.gate(PermanentError(HOSTILE, do=f'"{HOSTILE}', where=f"'{HOSTILE}"))
    night.score()
    night.drift()
    for page in (night.page(), _of_published(night)):
        seen = _Seen(page)
        assert "script" not in seen.tags
        assert not [name for name, _ in seen.values if name.startswith("on")]
        assert HOSTILE in seen.text


def _of_published(night: Night) -> str:
    night.gate()
    night.publish()
    return night.page()


def test_a_killed_publish_is_what_failed_even_where_drift_failed_too(night: Night) -> None:
    night.plan()
    night.extract()
    night.gate()
    night.score()
    night.drift(PermanentError("the training profile is none"))
    assert night.report().state == "failed"
    content = night.json()
    assert content["problem"]["step"] == "publish"
    assert [problem["step"] for problem in content["others"]] == ["drift"]


def test_a_table_that_cannot_be_read_is_not_called_empty(night: Night) -> None:
    night.plan()
    night.extract()
    night.step("gate", None, PermanentError("customer_id stands twice"))
    log = storage.join(night.workspace.predictions(), "_delta_log", "00000000000000000000.json")
    storage.write(log, b"no log")
    verdict = night.json()["verdict"]
    assert verdict == "The run failed at gate; what readers see could not be read."


def test_a_link_that_would_run_a_script_is_no_link(night: Night) -> None:
    night.up_to_publish()
    uri = storage.join(night.workspace.run(night.run_id), "run.json")
    run = json.loads(storage.read(uri))
    run["invocation"]["url"] = "javascript:alert(1)"
    storage.write(uri, json.dumps(run).encode())
    links = [value for name, value in _Seen(night.page()).values if name in ("href", "src")]
    assert not [link for link in links if link.startswith("javascript")]


def test_the_page_fetches_nothing(night: Night) -> None:
    night.up_to_publish()
    night.drift()
    page = night.page()
    seen = _Seen(page)
    assert not {"script", "img", "iframe", "object", "embed", "base"} & set(seen.tags)
    assert "@import" not in page
    assert not re.findall(r"url\(", page)
    assert {value for name, value in seen.values if name == "src"} == set()
    links = {value for name, value in seen.values if name == "href"}
    assert links == {
        "data:,",
        "report.json",
        "evidently.html",
        "https://airflow.example/dags/customer_churn/runs/1",
    }


def test_every_chart_says_in_words_what_it_shows(night: Night) -> None:
    night.up_to_publish()
    night.drift()
    seen = _Seen(night.page())
    labels = [value for name, value in seen.values if name == "aria-label"]
    assert seen.tags.count("svg") == 8 == len(labels)
    assert any("churn_probability" in label and "training" in label for label in labels)


def test_the_report_can_be_written_again_and_says_the_same(night: Night) -> None:
    night.up_to_publish()
    night.drift()
    first, second = night.json(), night.json()
    assert first | {"generated_at": ""} == second | {"generated_at": ""}


def test_the_page_is_less_than_100_kilobytes(night: Night) -> None:
    night.up_to_publish()
    night.drift()
    assert len(night.page().encode()) < 100_000
