"""gate, the step: its result and quarantine are stored, and what passed is not judged twice."""

from __future__ import annotations

import datetime as dt
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include import storage
from include.config import PipelineConfig
from include.errors import BadConfig, CorruptData
from include.gates.contract import GateFailed
from include.partition import Partition
from include.pipeline import Pipeline
from include.run import GateResult, Invocation, ModelInput, ModelVersion, Run, Snapshot
from include.snapshots import load_manifest, write_snapshot
from include.workspace import Workspace
from tasks.extract import extract
from tasks.gate import gate
from tasks.plan import plan
from tests.world import World

DAY = dt.date(2013, 1, 15)
BETWEEN = "expect_column_values_to_be_between"


@dataclass(frozen=True)
class Night:
    """A run and its snapshot, made for the gate alone."""

    run: Run
    snapshot: Snapshot

    def gate(self) -> GateResult:
        return gate(self.run, self.snapshot)

    def failed(self) -> tuple[GateFailed, GateResult]:
        """The error, and the result that the record holds although it was raised."""
        with pytest.raises(GateFailed) as raised:
            self.gate()
        uri = Workspace(self.run.workspace, self.run.pipeline).step(self.run.run_id, "gate")
        record = json.loads(storage.read(uri))
        assert record["outcome"] == "failed"
        return raised.value, GateResult.model_validate(record["result"])


def night(
    path: Path,
    table: pa.Table,
    *expectations: dict[str, Any],
    rules: dict[str, Any] | None = None,
    inputs: tuple[ModelInput, ...] = (),
    part_rows: int = 3,
    zone: str = "UTC",
) -> Night:
    """A planned run whose snapshot is `table`, in parts of `part_rows`."""
    config = PipelineConfig.model_validate(
        {
            "description": "test",
            "warehouse": {"kind": "duckdb", "connection": "none"},
            "key": ["id", "channel"],
            "model": {"name": "m", "output": "value"},
            "gate": rules or {},
        }
    )
    pipeline = Pipeline(
        name="flights", config=config, sql="SELECT", suite={"expectations": list(expectations)}
    )
    workspace = Workspace(path.as_uri(), "flights")
    model = ModelVersion(
        name="m",
        version="1",
        alias=None,
        flavor="sklearn",
        digest="0" * 64,
        uri=workspace.model("0" * 64),
        mlflow_run_id=None,
        inputs=inputs,
    )
    run = Run(
        run_id="cli-test",
        pipeline="flights",
        partition=Partition.containing(DAY, "day"),
        timezone=zone,
        workspace=path.as_uri(),
        pipeline_uri=workspace.config(pipeline.digest),
        config_digest=pipeline.digest,
        model=model,
        planned_at=dt.datetime(2013, 1, 16, tzinfo=dt.UTC),
        invocation=Invocation(orchestrator="cli", id="test"),
    )
    storage.write(run.pipeline_uri, pipeline.model_dump_json().encode())
    snapshot = write_snapshot(
        run, table.to_reader(), part_rows, query="SELECT", source="test", inspect=lambda _: None
    )
    return Night(run, snapshot)


def flights(**columns: Any) -> pa.Table:
    count = len(next(iter(columns.values())))
    key = {
        "id": pa.array(range(count), pa.int32()),
        "channel": pa.array(["web"] * count).dictionary_encode(),
    }
    return pa.table({**key, **columns})


def entry(kind: str, severity: str = "critical", **kwargs: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "severity": severity}


POSITIVE = entry(BETWEEN, "warning", column="distance", min_value=1)
DISTANCES = flights(distance=[5, -3, 9, None, -1, 7, 8])


def test_a_good_snapshot_passes_and_every_check_is_in_the_result(tmp_path: Path) -> None:
    inputs = (ModelInput(name="distance", type="long", required=False),)
    result = night(tmp_path, flights(distance=[5, 3]), POSITIVE, inputs=inputs).gate()
    assert (result.passed, result.reused, result.rows) == (True, False, 2)
    assert (result.quarantined, result.quarantine_uri) == (0, None)
    assert [check.name for check in result.checks] == [
        "rows",
        "key and pass-through columns",
        "model inputs",
        "key",
        f"distance: {BETWEEN}(min_value=1)",
        "quarantine",
    ]
    assert all(check.passed for check in result.checks)


def test_failing_rows_lie_in_the_quarantine_file_by_part_and_position(tmp_path: Path) -> None:
    result = night(tmp_path, DISTANCES, POSITIVE, rules={"max_quarantined_share": 0.3}).gate()
    assert (result.passed, result.rows, result.quarantined) == (True, 7, 2)
    uri = str(result.quarantine_uri)
    file = pq.ParquetFile(pa.BufferReader(storage.read(uri)))
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    reason = f"distance: {BETWEEN}(min_value=1), found "
    assert file.read().to_pylist() == [
        {"part": 0, "row": 1, "id": 1, "channel": "web", "reason": f"{reason}-3"},
        {"part": 1, "row": 1, "id": 4, "channel": "web", "reason": f"{reason}-1"},
    ]
    types = {"part": pa.int32(), "row": pa.int64(), "id": pa.int32(), "reason": pa.string()}
    assert {name: file.schema_arrow.field(name).type for name in types} == types


def test_the_same_snapshot_is_judged_once_and_the_second_time_says_so(tmp_path: Path) -> None:
    one = night(tmp_path, DISTANCES, POSITIVE, rules={"max_quarantined_share": 0.3})
    first = one.gate()
    for part in load_manifest(one.snapshot).parts:
        storage.delete([part.uri])  # a stored result needs no data
    again = one.gate()
    assert again == first.model_copy(update={"reused": True})


def test_reusing_a_result_does_not_import_great_expectations(tmp_path: Path) -> None:
    import subprocess

    one = night(tmp_path, DISTANCES, POSITIVE, rules={"max_quarantined_share": 0.3})
    one.gate()
    code = (
        "import sys; from include.run import Run, Snapshot; from tasks.gate import gate; "
        "assert gate(Run.model_validate_json(sys.argv[1]), "
        "Snapshot.model_validate_json(sys.argv[2])).reused; "
        "assert not {'great_expectations', 'pandas', 'pyarrow'} & sys.modules.keys()"
    )
    subprocess.run(
        [sys.executable, "-c", code, one.run.model_dump_json(), one.snapshot.model_dump_json()],
        check=True,
    )


def test_a_stored_result_whose_quarantine_is_gone_is_made_again(tmp_path: Path) -> None:
    one = night(tmp_path, DISTANCES, POSITIVE, rules={"max_quarantined_share": 0.3})
    first = one.gate()
    content = storage.read(str(first.quarantine_uri))
    storage.delete([str(first.quarantine_uri)])
    assert one.gate() == first
    assert storage.read(str(first.quarantine_uri)) == content


def test_another_model_or_zone_is_judged_anew(tmp_path: Path) -> None:
    one = night(tmp_path, flights(distance=[5, 3]))
    assert not one.gate().reused
    assert one.gate().reused
    other = one.run.model.model_copy(update={"inputs": (ModelInput(name="x", type="double"),)})
    error, _ = Night(one.run.model_copy(update={"model": other}), one.snapshot).failed()
    assert "the snapshot has no column x" in error.found
    elsewhere = one.run.model_copy(update={"timezone": "Asia/Tokyo"})
    assert not gate(elsewhere, one.snapshot).reused


def test_too_large_a_share_in_quarantine_fails_and_the_rows_can_be_looked_at(
    tmp_path: Path,
) -> None:
    one = night(tmp_path, DISTANCES, POSITIVE, rules={"max_quarantined_share": 0.2})
    error, result = one.failed()
    assert "2 of 7 rows (28.57%) are set aside, at most 20.00% may be" in error.found
    assert error.where == result.quarantine_uri
    assert storage.exists(str(result.quarantine_uri))
    assert (error.pipeline, error.partition) == ("flights", "2013-01-15")
    assert (result.passed, result.quarantined) == (False, 2)
    assert one.failed()[1] == result


def test_a_critical_failure_stops_the_run_and_sets_nothing_aside(tmp_path: Path) -> None:
    one = night(tmp_path, DISTANCES, {**POSITIVE, "severity": "critical"})
    error, result = one.failed()
    assert "2 of 6 rows fail" in error.found
    assert (result.quarantined, result.quarantine_uri) == (0, None)


def test_failed_warnings_about_the_table_and_info_do_not_stop_the_run(tmp_path: Path) -> None:
    one = night(
        tmp_path,
        DISTANCES,
        entry("expect_column_max_to_be_between", "warning", column="distance", max_value=1),
        {**POSITIVE, "severity": "info"},
    )
    result = one.gate()
    assert result.passed
    assert result.quarantined == 0
    assert [check.passed for check in result.checks if check.name.startswith("distance")] == [
        False,
        False,
    ]


def test_a_missing_column_is_critical_even_as_info(tmp_path: Path) -> None:
    error, _ = night(
        tmp_path, DISTANCES, entry(BETWEEN, "info", column="speed", max_value=9)
    ).failed()
    assert "the snapshot has no column 'speed'" in error.found


def test_an_empty_snapshot_fails_whatever_the_suite_holds(tmp_path: Path) -> None:
    one = night(tmp_path, flights(distance=[5]), POSITIVE)
    manifest = load_manifest(one.snapshot).model_copy(update={"rows": 0, "parts": ()})
    storage.write(one.snapshot.uri, manifest.model_dump_json().encode())
    error, result = one.failed()
    assert "0 rows, at least 1 needed" in error.found
    assert result.rows == 0


def test_everything_that_is_wrong_is_found_at_once(tmp_path: Path) -> None:
    table = flights(distance=[5, -3], at=[DAY, DAY + dt.timedelta(days=1)])
    table = table.set_column(0, "id", pa.array([1, 1]))
    one = night(
        tmp_path,
        table,
        {**POSITIVE, "severity": "critical"},
        rules={"min_rows": 3, "freshness": {"column": "at", "max_age_hours": 24}},
        inputs=(ModelInput(name="speed", type="double"),),
    )
    error, result = one.failed()
    assert error.found.endswith("; and 2 more")
    failed = {check.name: check.message for check in result.checks if not check.passed}
    assert list(failed) == [
        "rows",
        "model input speed",
        "key",
        "freshness of at",
        f"distance: {BETWEEN}(min_value=1)",
    ]
    assert failed["key"] == "the key (id=1, channel='web') stands twice"


def test_a_duplicate_across_parts_is_found(tmp_path: Path) -> None:
    table = flights(distance=[1, 2, 3, 4]).set_column(0, "id", pa.array([1, 2, 3, 3]))
    error, _ = night(tmp_path, table).failed()
    assert "the key (id=3, channel='web') stands twice" in error.found


def test_nulls_fail_a_required_integer_unless_their_rows_are_set_aside(tmp_path: Path) -> None:
    inputs = (ModelInput(name="distance", type="long"),)
    error, result = night(tmp_path / "a", DISTANCES, inputs=inputs).failed()
    assert "null in 1 of 7 rows" in error.found
    [check] = [check for check in result.checks if not check.passed]
    assert check.examples == ("(id=3, channel='web')",)

    not_null = entry("expect_column_values_to_not_be_null", "warning", column="distance")
    rules = {"max_quarantined_share": 0.2}
    result = night(tmp_path / "b", DISTANCES, not_null, rules=rules, inputs=inputs).gate()
    assert (result.passed, result.quarantined) == (True, 1)


def test_a_changed_part_is_not_judged(tmp_path: Path) -> None:
    one = night(tmp_path, DISTANCES, POSITIVE)
    storage.write(load_manifest(one.snapshot).parts[1].uri, b"other bytes")
    with pytest.raises(CorruptData, match="part 1 of the snapshot"):
        one.gate()


def test_a_suite_that_cannot_be_read_fails_as_configuration(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="Did you mean 'expect_column_to_exist'"):
        night(tmp_path, DISTANCES, entry("expect_column_to_exit", column="distance")).gate()


@pytest.mark.parametrize("part_rows", [1, 2, 100])
def test_where_parts_begin_does_not_change_the_judgement(tmp_path: Path, part_rows: int) -> None:
    rules = {"max_quarantined_share": 0.3}
    one = night(tmp_path, DISTANCES, POSITIVE, rules=rules, part_rows=part_rows)
    uri = str(one.gate().quarantine_uri)
    rows = pq.read_table(pa.BufferReader(storage.read(uri))).to_pylist()
    assert [(row["part"] * part_rows + row["row"], row["id"]) for row in rows] == [(1, 1), (4, 4)]


def test_a_planned_and_extracted_partition_passes_its_gate(tiny: World) -> None:
    run = plan(tiny.request())
    snapshot = extract(run)
    result = gate(run, snapshot)
    assert (result.passed, result.rows, result.quarantined) == (True, snapshot.rows, 0)
    assert gate(plan(tiny.request(run="again")), snapshot).reused


def test_bad_rows_in_the_warehouse_are_set_aside_up_to_the_limit(tiny: World) -> None:
    broken = f"UPDATE accounts SET tenure_days = -1 WHERE event_date = '{tiny.day}'"
    tiny.execute(f"{broken} AND account_id < 1005")
    run = plan(tiny.request())
    result = gate(run, extract(run))
    assert (result.passed, result.quarantined) == (True, 10)
    tiny.execute(broken)
    with pytest.raises(GateFailed, match="nothing is left to score"):
        gate(run, extract(run))
