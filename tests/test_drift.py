"""Drift finds what moved, is quiet about chance, and is honest about what it cannot know."""

from __future__ import annotations

import datetime as dt
import io
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daybreak.training import log_training_reference
from include import storage
from include.config import Drift
from include.drift.evidently_report import evidently_page
from include.drift.numbers import DriftNumbers
from include.drift.profiles import Profile, Tally, profile
from include.drift.verdicts import compare, overall
from include.errors import CorruptData, PermanentError
from include.run import ColumnDrift, DriftResult, GateResult, Run, Scored, Snapshot
from include.scoring import load_job, receipts
from include.snapshots import load_manifest, read_part
from include.workspace import Workspace
from tasks.drift import drift
from tasks.extract import extract
from tasks.gate import gate
from tasks.plan import plan
from tasks.publish import publish
from tasks.report import report
from tasks.score import score
from tests.world import World, tracked

Inputs = tuple[Run, Snapshot, GateResult, Scored]


# Numbers: two profiles against each other.


def _compared(reference: pa.Table, current: pa.Table, **config: object) -> dict[str, ColumnDrift]:
    before = profile(reference)
    tally = Tally(before)
    tally.add(current)
    found = compare(tally.profile(), before, "training", Drift.model_validate(config))
    return {column.column: column for column in found}


@pytest.mark.parametrize("rows", [1, 7, 40, 300, 5_000])
def test_samples_of_one_distribution_are_stable_whatever_their_size(rows: int) -> None:
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng([seed, rows])
        reference, current = (
            pa.table(
                {
                    "number": rng.lognormal(size=n),
                    "count": rng.poisson(2, n),
                    "letter": rng.choice(list("abcdefghijklmnopqrstuvwxyz"), n),
                    "sparse": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)),
                }
            )
            for n in (20_000, rows)
        )
        alarms += sum(each.verdict != "stable" for each in _compared(reference, current).values())
    assert alarms <= 2, f"{alarms} false alarms in 160 columns"


def test_a_shift_is_an_alert_and_a_small_one_is_stable() -> None:
    rng = np.random.default_rng(0)
    reference = pa.table({"x": rng.normal(size=20_000), "y": rng.normal(size=20_000)})
    current = pa.table({"x": rng.normal(1, 1, 20_000), "y": rng.normal(0.02, 1, 20_000)})
    found = _compared(reference, current)
    assert (found["x"].verdict, found["y"].verdict) == ("alert", "stable")
    assert found["x"].wasserstein == pytest.approx(1.0, abs=0.03)
    assert found["x"].ks == pytest.approx(0.383, abs=0.02)
    assert found["y"].psi > found["y"].noise_psi or found["y"].psi < 0.01


def test_values_that_go_missing_are_drift() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=10_000)
    holes = pa.array(values, mask=rng.random(10_000) < 0.3)
    found = _compared(pa.table({"x": values}), pa.table({"x": holes}))["x"]
    assert found.verdict == "alert"
    assert found.reference_missing_share == 0.0
    assert found.missing_share == pytest.approx(0.3, abs=0.02)


def test_a_category_that_was_never_seen_is_drift_once_it_is_frequent() -> None:
    reference = pa.table({"c": ["a", "b"] * 5_000})
    rare = pa.table({"c": ["a", "b"] * 4_995 + ["new"] * 10})
    frequent = pa.table({"c": ["a", "b"] * 4_000 + ["new"] * 2_000})
    assert _compared(reference, rare)["c"].verdict == "stable"
    assert _compared(reference, frequent)["c"].verdict == "alert"


def test_constant_empty_and_infinite_columns_have_a_verdict_and_finite_numbers() -> None:
    n = 1_000
    nothing = pa.array([None] * n, pa.float64())
    reference = {
        "constant": np.ones(n),
        "moved": np.ones(n),
        "gone": np.arange(n) / n,
        "came": nothing,
        "never": nothing,
        "infinite": np.where(np.arange(n) % 2, np.inf, -np.inf),
        "huge": np.where(np.arange(n) % 2, 1e308, -1e308),
        "flag": np.arange(n) % 2 == 0,
        "none": pa.nulls(n),
        "day": pa.array([dt.date(2026, 1, 1)] * n),
    }
    current = reference | {
        "moved": np.full(n, 2.0),
        "gone": nothing,
        "came": np.ones(n),
        "day": pa.array([dt.date(2026, 1, 2)] * n),
    }
    found = _compared(pa.table(reference), pa.table(current))
    assert set(found) == set(reference)
    moved = {name for name, column in found.items() if column.verdict == "alert"}
    assert moved == {"moved", "gone", "came", "day"}
    for column in found.values():
        numbers = (column.psi, column.noise_psi, column.js, column.ks, column.wasserstein)
        assert all(number is None or math.isfinite(number) for number in numbers)
    assert found["came"].ks is None
    assert found["constant"].wasserstein is None


def test_ignored_columns_are_measured_and_do_not_count() -> None:
    found = tuple(_compared(pa.table({"x": [1.0] * 99}), pa.table({"x": [2.0] * 99})).values())
    assert found[0].verdict == "alert"
    assert overall(found, ignored=("x",)) == "unknown"
    assert overall(found, ignored=()) == "alert"


def test_a_column_with_limits_of_its_own_is_judged_by_them_and_the_others_are_not() -> None:
    values = np.random.default_rng(3).normal(size=(2, 2_000))
    reference = pa.table({"x": values[0], "y": values[0]})
    current = pa.table({"x": values[1] + 0.6, "y": values[1] + 0.6})
    assert {each.verdict for each in _compared(reference, current).values()} == {"alert"}
    index = _compared(reference, current)["x"].psi
    found = _compared(reference, current, columns={"x": {"alert_psi": index + 0.1}})
    assert (found["x"].verdict, found["y"].verdict) == ("warn", "alert")
    limits = {"warn_psi": index + 0.1, "alert_psi": index + 0.2}
    assert _compared(reference, current, columns={"x": limits})["x"].verdict == "stable"


def test_a_side_without_rows_is_not_compared() -> None:
    rows = pa.table({"x": [1.0, 2.0]})
    assert _compared(rows, rows.slice(0, 0)) == {}
    assert overall((), ()) == "unknown"


# The step: real runs of the small world.


def _inputs(world: World, date: dt.date | None = None, *, run: str = "test") -> Inputs:
    planned = plan(world.request(date, run=run))
    snapshot = extract(planned)
    gated = gate(planned, snapshot)
    return planned, snapshot, gated, score(planned, snapshot, gated)


def _published(world: World, date: dt.date, *, with_drift: bool = True) -> Inputs:
    inputs = _inputs(world, date, run=f"night-{date}")
    publish(*inputs)
    if with_drift:
        drift(*inputs)
    return inputs


def _days(world: World, before: int) -> list[dt.date]:
    return [world.day - dt.timedelta(days=back) for back in range(before, 0, -1)]


def _numbers(result: DriftResult) -> DriftNumbers:
    return DriftNumbers.model_validate_json(storage.read(result.uri))


def test_every_row_of_the_version_is_counted_and_no_quarantined_one(tiny: World) -> None:
    tiny.execute(
        f"UPDATE accounts SET tenure_days = -5 WHERE event_date = DATE '{tiny.day}' "
        "AND account_id IN (1003, 1117) AND channel = 'web'"
    )
    inputs = _inputs(tiny)
    run, snapshot, gated, scored = inputs
    assert gated.quarantined == 2
    numbers = _numbers(drift(*inputs))
    assert numbers.rows == scored.scored == snapshot.rows - 2
    folder = Workspace(run.workspace, run.pipeline).drift(run.partition.as_of, scored.version)
    stored = next(e.uri for e in storage.entries(folder) if "/profile-" in e.uri)
    found = Profile.model_validate_json(storage.read(stored))
    column = found.column("tenure_days")
    rows = pa.concat_tables(read_part(part) for part in load_manifest(snapshot).parts)
    assert column is not None
    assert column.rows == scored.scored
    assert column.low is not None  # type: ignore[union-attr]
    assert column.low >= 0 > min(rows["tenure_days"].to_pylist())  # type: ignore[union-attr]


def test_features_and_the_score_are_compared_with_training_and_with_the_days_before(
    tiny: World,
) -> None:
    for day in _days(tiny, 3):
        _published(tiny, day)
    result = drift(*_inputs(tiny))
    numbers = _numbers(result)
    assert numbers.training is not None
    assert numbers.trailing is not None
    assert [date for date, _ in numbers.trailing.versions] == _days(tiny, 3)
    assert numbers.trailing.rows == 900
    pairs = {(column.column, column.reference) for column in numbers.columns}
    names = {"balance", "visits", "tenure_days", "region", "churn_probability"}
    assert pairs == {(name, which) for name in names for which in ("training", "trailing")}
    assert result.columns == 5
    assert {chart.column for chart in numbers.charts} == names
    assert all(abs(sum(chart.current) - 1) < 1e-3 for chart in numbers.charts)


def test_the_date_itself_and_later_dates_are_no_reference(tiny: World) -> None:
    day = tiny.day
    _published(tiny, day - dt.timedelta(days=1))
    _published(tiny, day)
    _published(tiny, day + dt.timedelta(days=1))
    numbers = _numbers(drift(*_inputs(tiny, run="again")))
    assert numbers.trailing is not None
    assert [date for date, _ in numbers.trailing.versions] == [day - dt.timedelta(days=1)]


def test_only_the_partitions_in_the_window_are_a_reference(tiny: World) -> None:
    for back in (9, 3):
        _published(tiny, tiny.day - dt.timedelta(days=back))
    numbers = _numbers(drift(*_inputs(tiny)))
    assert numbers.trailing is not None
    assert [date for date, _ in numbers.trailing.versions] == [tiny.day - dt.timedelta(days=3)]


def test_a_column_that_moved_is_an_alert_with_its_name(tiny: World) -> None:
    tiny.execute(f"UPDATE accounts SET balance = balance * 5 WHERE event_date = DATE '{tiny.day}'")
    result = drift(*_inputs(tiny))
    assert result.verdict == "alert"
    assert "balance" in result.drifted
    assert "balance" in result.message


def test_a_column_that_is_ignored_is_not_in_the_verdict(tiny: World) -> None:
    tiny.configure({"drift": {"ignore": ["balance", "tenure_days", "churn_probability"]}})
    tiny.execute(f"UPDATE accounts SET balance = balance * 5 WHERE event_date = DATE '{tiny.day}'")
    result = drift(*_inputs(tiny))
    assert "balance" not in result.drifted
    assert result.verdict in ("stable", "warn")
    assert "2 watched columns" in result.message
    assert "(3 ignored)" in result.message
    assert any(column.column == "balance" for column in _numbers(result).columns)


def test_repeating_the_step_reuses_the_result(tiny: World) -> None:
    inputs = _inputs(tiny)
    first = drift(*inputs)
    again = drift(*inputs)
    assert (first.reused, again.reused) == (False, True)
    assert again == first.model_copy(update={"reused": True})


def test_a_new_trailing_day_is_a_new_result(tiny: World) -> None:
    inputs = _inputs(tiny)
    first = drift(*inputs)
    _published(tiny, tiny.day - dt.timedelta(days=2))
    second = drift(*inputs)
    assert not second.reused
    assert second.uri != first.uri


def test_nothing_to_compare_with_is_unknown_and_says_what_to_do(tiny: World) -> None:
    inputs = _inputs(tiny)
    storage.delete([storage.join(inputs[0].model.uri, "training_profile.json")])
    result = drift(*inputs)
    assert result.verdict == "unknown"
    assert "log_training_reference" in result.message
    assert _numbers(result).columns == ()


def test_without_a_training_profile_the_days_before_are_the_reference(tiny: World) -> None:
    for day in [*_days(tiny, 2), tiny.day]:
        inputs = _inputs(tiny, day, run=f"night-{day}")
        storage.delete([storage.join(inputs[0].model.uri, "training_profile.json")])
        publish(*inputs)
        result = drift(*inputs)
    numbers = _numbers(result)
    assert result.verdict != "unknown"
    assert numbers.training is None
    assert numbers.trailing is not None
    assert len(numbers.trailing.versions) == 2
    assert {column.reference for column in numbers.columns} == {"trailing"}


def test_after_a_new_model_the_days_before_are_counted_again_in_its_bins(tiny: World) -> None:
    for day in _days(tiny, 2):
        _published(tiny, day)
    tiny.execute("UPDATE accounts SET balance = balance + 1 WHERE event_date <= DATE '2026-01-20'")
    tiny.register_model(seed=2)
    result = drift(*_inputs(tiny))
    numbers = _numbers(result)
    assert numbers.trailing is not None
    assert len(numbers.trailing.versions) == 2
    assert "model version 1" in result.message


def test_a_day_whose_rows_are_gone_is_left_out_and_counted(tiny: World) -> None:
    _, gone, _, _ = _published(tiny, tiny.day - dt.timedelta(days=2), with_drift=False)
    _published(tiny, tiny.day - dt.timedelta(days=1), with_drift=False)
    storage.delete([part.uri for part in load_manifest(gone).parts])
    result = drift(*_inputs(tiny))
    numbers = _numbers(result)
    assert numbers.trailing is not None
    assert [date for date, _ in numbers.trailing.versions] == [tiny.day - dt.timedelta(days=1)]
    assert "not in the trailing reference: 1" in result.message


def test_a_training_profile_that_is_none_fails_with_its_place(tiny: World) -> None:
    inputs = _inputs(tiny)
    uri = storage.join(inputs[0].model.uri, "training_profile.json")
    storage.write(uri, b'{"rows": "many"}')
    with pytest.raises(PermanentError, match="training profile is none") as raised:
        drift(*inputs)
    assert raised.value.where == uri


def test_a_scored_part_that_changed_fails_instead_of_being_counted(tiny: World) -> None:
    inputs = _inputs(tiny)
    part = receipts(load_job(inputs[3].uri))[0].uri
    content = storage.read(part)
    storage.write(part, content[:-20] + bytes(20))
    with pytest.raises(CorruptData, match="scored part 0"):
        drift(*inputs)


# Evidently's page.


def test_evidentlys_page_is_made_of_the_days_before(tiny: World) -> None:
    tiny.configure({"drift": {"evidently_rows": 200}})
    _published(tiny, tiny.day - dt.timedelta(days=1))
    inputs = _inputs(tiny)
    result = drift(*inputs)
    assert result.evidently_uri is not None
    page = storage.read(result.evidently_uri).decode()
    assert "churn_probability" in page
    run = inputs[0]
    sample = storage.join(
        Workspace(run.workspace, run.pipeline).drift(run.partition.as_of, inputs[3].version),
        "sample.parquet",
    )
    assert pq.read_table(io.BytesIO(storage.read(sample))).num_rows == 200
    assert drift(*inputs).evidently_uri == result.evidently_uri
    # A page that someone deleted is made again.
    storage.delete([result.evidently_uri])
    assert storage.exists(drift(*inputs).evidently_uri or "")


def test_evidentlys_page_shows_the_columns_that_are_watched(tiny: World) -> None:
    tiny.configure({"drift": {"evidently_rows": 200, "ignore": ["tenure_days"]}})
    result = drift(*_inputs(tiny))
    assert result.evidently_uri is not None
    page = storage.read(result.evidently_uri).decode()
    assert "balance" in page and "tenure_days" not in page


def test_without_reference_rows_there_is_no_page_and_the_message_says_so(tiny: World) -> None:
    tiny.configure({"drift": {"evidently_rows": 200}})
    inputs = _inputs(tiny)
    storage.delete([storage.join(inputs[0].model.uri, "training_sample.parquet")])
    result = drift(*inputs)
    assert result.evidently_uri is None
    assert "no reference rows" in result.message


def test_a_page_that_fails_is_named_and_the_verdict_stands(tiny: World) -> None:
    tiny.configure({"drift": {"evidently_rows": 200}})
    inputs = _inputs(tiny)
    before = drift(*inputs)
    storage.write(storage.join(inputs[0].model.uri, "training_sample.parquet"), b"no parquet")
    folder = before.uri.rpartition("/")[0]
    storage.delete([e.uri for e in storage.entries(folder) if "/result-" in e.uri])
    result = drift(*inputs)
    assert result.verdict == before.verdict != "unknown"
    assert result.evidently_uri is None
    assert "Evidently's page failed: ArrowInvalid" in result.message
    record = json.loads(storage.read(_step_uri(inputs[0])))
    assert "Evidently's page failed" in record["result"]["message"]


def _step_uri(run: Run) -> str:
    return Workspace(run.workspace, run.pipeline).step(run.run_id, "drift")


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # of a constant column
def test_text_from_the_data_cannot_leave_evidentlys_script() -> None:
    rng = np.random.default_rng(0)
    hostile = "</script><script>alert(1)</script>"
    rows = pa.table(
        {
            "x": rng.normal(size=60),
            hostile: rng.normal(size=60),
            "c": ["a", hostile, None] * 20,
            "nothing": pa.array([None] * 60, pa.float64()),
            "infinite": [math.inf] * 60,
            "constant": [1.0] * 60,
            "when": pa.array(range(60), pa.timestamp("s")),
        }
    )
    page = evidently_page(rows, rows.slice(10))
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "</script><script>" not in page.replace("\n", "")


def test_samples_with_nothing_in_common_are_refused() -> None:
    with pytest.raises(ValueError, match="no column"):
        evidently_page(pa.table({"a": [1.0]}), pa.table({"b": [1.0]}))


# What training leaves.


def test_training_code_logs_a_profile_and_a_sample_to_its_run(tiny: World, tmp_path: Path) -> None:
    import mlflow
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=6_000), "c": ["a", "b", None] * 2_000})
    with tracked(tiny.registry):
        mlflow.set_experiment("tiny")
        with mlflow.start_run() as active:
            log_training_reference(frame, rng.random(6_000), "risk")
        folder = mlflow.artifacts.download_artifacts(
            run_id=active.info.run_id, artifact_path="daybreak", dst_path=str(tmp_path)
        )
    found = Profile.model_validate_json(Path(folder, "training_profile.json").read_bytes())
    assert (found.rows, found.score_column) == (6_000, "risk")
    sample = pq.read_table(Path(folder, "training_sample.parquet"))
    assert sample.num_rows == 5_000
    assert sample.column_names == ["x", "c", "risk"]


def test_a_training_reference_needs_one_score_per_row() -> None:
    with pytest.raises(ValueError, match="one score for each"):
        log_training_reference(pa.table({"x": [1.0, 2.0]}), [0.5])


# The whole run.


def test_the_report_of_a_whole_run_shows_its_drift(tiny: World) -> None:
    limits = {"balance": {"warn_psi": 0.37}, "balanse": {"warn_psi": 0.2}}
    tiny.configure({"drift": {"columns": limits, "alert_psi": 0.55}})
    _published(tiny, tiny.day - dt.timedelta(days=1))
    inputs = _inputs(tiny)
    published = publish(*inputs)
    result = drift(*inputs)
    found = report(tiny.name, inputs[0].run_id)
    assert found.state == "published"
    content = json.loads(storage.read(found.json_uri))
    assert content["verdict"].endswith(f"readers see version {published.version}.")
    assert content["counts"]["reconciles"] is True
    assert content["drift"]["verdict"] == result.verdict
    assert content["notes"] == []
    assert content["scores"]["column"] == "churn_probability"
    page = storage.read(found.html).decode()
    assert result.message in page.replace("&#39;", "'")
    assert "warns at 0.37, alerts at 0.55" in page
    assert "drift.columns names what is not compared: balanse." in result.message
