"""extract gives the partition's rows, whole and sorted, or one clear error and no snapshot."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

from include import storage
from include.errors import PermanentError, TransientError
from include.snapshots import load_manifest, read_part
from include.workspace import Workspace
from tasks.extract import extract
from tasks.plan import plan
from tests.world import ROWS, World


def _query(world: World, sql: str) -> None:
    (world.folder / "features.sql").write_text(sql, "utf-8")


def _files(world: World) -> list[str]:
    place = Workspace(world.workspace, world.name).snapshots(world.day)
    return [entry.uri for entry in storage.entries(place)]


def test_a_snapshot_holds_every_row_of_the_partition_in_the_order_of_its_key(tiny: World) -> None:
    snapshot = extract(plan(tiny.request()))
    manifest = load_manifest(snapshot)
    rows = pa.concat_tables(read_part(part) for part in manifest.parts)
    assert (snapshot.rows, rows.num_rows, snapshot.parts) == (ROWS, ROWS, 3)
    keys = list(zip(rows["account_id"].to_pylist(), rows["channel"].to_pylist(), strict=True))
    assert keys == sorted(set(keys))
    assert {value.date() for value in rows["updated_at"].to_pylist()} == {tiny.day}


def test_the_same_data_give_the_same_snapshot_and_changed_data_another(tiny: World) -> None:
    run = plan(tiny.request())
    first = extract(run)
    again = extract(run)
    assert (again.digest, again.reused) == (first.digest, True)
    tiny.execute(f"UPDATE accounts SET visits = visits + 1 WHERE event_date = '{tiny.day}'")
    changed = extract(run)
    assert changed.digest != first.digest
    assert load_manifest(first).rows == ROWS


def test_a_retry_in_the_same_process_opens_the_warehouse_again(tiny: World) -> None:
    run = plan(tiny.request())
    blocked = tiny.home / "workspace" / tiny.name / "snapshots"
    blocked.write_text("in the way")
    with pytest.raises(TransientError) as failed:
        extract(run)
    blocked.unlink()
    # Airflow and pytest keep the error, and with it the frames of the attempt that failed.
    assert failed.tb is not None
    assert extract(run).rows == ROWS


def test_a_day_that_the_warehouse_does_not_hold_is_an_error_and_no_snapshot(tiny: World) -> None:
    day = tiny.day - dt.timedelta(days=400)
    with pytest.raises(PermanentError, match=rf"tiny {day}: the query gave no rows for {day}"):
        extract(plan(tiny.request(day)))


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "SELECT account_id, channel, balance, visits, tenure_days FROM accounts "
            "WHERE event_date = $as_of",
            r"tiny .*: the query does not select region \(of predictions.pass_through\), "
            r"updated_at \(of gate.freshness\) \(tiny/features.sql\). Add them",
        ),
        (
            "SELECT * FROM (SELECT * FROM accounts UNION ALL SELECT * FROM accounts "
            "WHERE account_id = 1077 AND channel = 'web') WHERE event_date = $as_of",
            r"account_id=1077, channel='web'.*tiny/features.sql",
        ),
        (
            "SELECT * REPLACE (nullif(channel, 'web') AS channel) FROM accounts "
            "WHERE event_date = $as_of",
            "null.*tiny/features.sql",
        ),
        (
            "SELECT *, 1 AS region FROM accounts WHERE event_date = $as_of",
            "selects region more than once",
        ),
        ("SELECT account_id FROM accounts", r"does not select \['channel'\], of the key"),
    ],
)
def test_a_query_that_breaks_the_contract_leaves_no_snapshot(
    tiny: World, sql: str, message: str
) -> None:
    _query(tiny, sql)
    with pytest.raises(PermanentError, match=message):
        extract(plan(tiny.request()))
    assert _files(tiny) == []


def test_a_key_that_stands_twice_is_found_across_the_border_of_two_parts(tiny: World) -> None:
    tiny.configure({"snapshot": {"part_rows": 1}})
    _query(
        tiny,
        "SELECT * FROM accounts WHERE event_date = $as_of "
        "UNION ALL SELECT * FROM accounts WHERE event_date = $as_of AND account_id = 1003",
    )
    with pytest.raises(PermanentError, match="account_id=1003"):
        extract(plan(tiny.request()))
    assert _files(tiny) == []
