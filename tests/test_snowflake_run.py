"""Whole runs that read from Snowflake and publish to it, and what users do with the versions."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

import daybreak
from daybreak.cli import app
from include.errors import PermanentError
from tasks.upkeep import upkeep_of
from tests.fakesnow_account import CONNECTION, Account
from tests.world import ROWS, World

pytest_plugins = ("tests.fakesnow_server",)

PREDICTIONS = {"kind": "snowflake", "connection": CONNECTION, "table": "scores.tiny"}
WHO = ["run_id", "scored_at"]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100"})


def as_json(*arguments: str, code: int = 0) -> dict[str, Any]:
    result = invoke(*arguments, "--json")
    assert result.exit_code == code, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def load(world: World, account: Account) -> None:
    """The warehouse's days that the tests run for, as a table with unquoted names."""
    days = (world.day - dt.timedelta(days=1), world.day)
    session = account.session()
    with duckdb.connect(str(world.warehouse), read_only=True) as connection:
        rows = connection.sql(
            "SELECT * FROM accounts WHERE event_date IN ($1, $2)", params=list(days)
        ).to_arrow_table()
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    session.run(
        "CREATE TABLE accounts (account_id NUMBER(38, 0), channel VARCHAR, event_date DATE, "
        "updated_at TIMESTAMP_NTZ(6), region VARCHAR, balance FLOAT, visits FLOAT, "
        "tenure_days NUMBER(38, 0), churned BOOLEAN)"
    )
    session.run("CREATE STAGE loading")
    session.put(sink.getvalue().to_pybytes(), "@loading/", "accounts.parquet")
    session.run(
        "COPY INTO accounts FROM @loading/ FILE_FORMAT = (TYPE = PARQUET) "
        "MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE"
    )


def test_a_night_read_from_and_published_to_snowflake_is_what_it_is_in_duckdb_and_delta(
    tiny: World, snowflake: Account
) -> None:
    before, day = tiny.day - dt.timedelta(days=1), str(tiny.day)
    first = as_json("run", tiny.name, "--date", day)
    in_delta = daybreak.read(tiny.name, tiny.day)

    load(tiny, snowflake)
    tiny.configure(
        {"warehouse": {"kind": "snowflake", "connection": CONNECTION}, "predictions": PREDICTIONS}
    )
    assert "The tables of tiny are there" in invoke("init", tiny.name).output
    assert as_json("run", tiny.name, "--date", str(before))["state"] == "published"
    made = as_json("run", tiny.name, "--date", day)
    # The same version: its snapshot has the same rows and types, byte for byte.
    assert (made["state"], made["version"]) == ("published", first["version"])
    rows = daybreak.read(tiny.name, tiny.day)
    assert rows.num_rows == ROWS
    assert rows.drop(WHO).equals(in_delta.drop(WHO))
    again = as_json("run", tiny.name, "--date", day)
    assert (again["state"], again["version"]) == ("unchanged", first["version"])

    counted = snowflake.session().run(
        "SELECT as_of, COUNT(*) FROM scores.tiny_current GROUP BY as_of ORDER BY as_of"
    )
    assert counted == [(before, ROWS), (tiny.day, ROWS)]
    (listed,) = as_json("versions", tiny.name, "--date", day)["versions"]
    assert (listed["version"], listed["state"]) == (first["version"], "current")
    calendar = as_json("status", tiny.name, "--from", str(before), "--to", day)
    assert [one["state"] for one in calendar["partitions"]] == ["published", "published"]


def changed_score(snowflake: Account, key: dict[str, Any], by: str) -> float:
    """The score of a row, which is another from then on, as somebody with the right changes it."""
    values = (key["account_id"], key["channel"], key["version"])
    where = "WHERE account_id = ? AND channel = ? AND version = ?"
    session = snowflake.session()
    ((before,),) = session.run(f"SELECT churn_probability FROM scores.tiny_rows {where}", values)
    session.changed(
        f"UPDATE scores.tiny_rows SET churn_probability = churn_probability {by} {where}", values
    )
    return float(before)


def test_versions_in_snowflake_are_compared_explained_rolled_back_and_expired(
    tiny: World, snowflake: Account
) -> None:
    day = str(tiny.day)
    tiny.configure({"predictions": {**PREDICTIONS, "audit": {"max_score_psi": 50.0}}})
    tiny.configure({"retention": {"versions": 1, "rollback_days": 0}})
    assert invoke("init", tiny.name).exit_code == 0
    v1 = as_json("run", tiny.name, "--date", day)["version"]
    tiny.register_model(seed=2)
    v2 = as_json("run", tiny.name, "--date", day)["version"]
    changed = as_json("diff", tiny.name, v1, v2, "--date", day)
    assert (changed["added"], changed["removed"]) == (0, 0) and changed["changed"] > 0

    key = daybreak.read(tiny.name, tiny.day).slice(5, 1).to_pylist()[0]
    pairs = [f"--key={name}={key[name]}" for name in ("account_id", "channel")]
    for version in (v1, v2):
        found = as_json("why", tiny.name, "--date", day, *pairs, "--version", version)
        assert found["equal"] is True
    # What readers see counts, and not the parts that were loaded.
    score = changed_score(snowflake, key, "+ 0.125")
    other = as_json("why", tiny.name, "--date", day, *pairs, code=1)
    assert (other["equal"], other["published_score"]) == (False, score + 0.125)
    assert other["replayed_score"] == score
    changed_score(snowflake, key, "- 0.125")

    as_json("rollback", tiny.name, "--date", day, "--reason", "scores doubled")
    states = {one["version"]: one["state"] for one in as_json(*_versions(day))["versions"]}
    assert states == {v1: "current", v2: "rolled back"}
    refused = invoke("run", tiny.name, "--date", day)
    assert refused.exit_code == 1
    assert f"version {v2} was rolled back by" in " ".join(refused.output.split())
    as_json("rollback", tiny.name, "--date", day, "--to", v2)

    assert as_json("expire", tiny.name)["files"] == 0  # what is this young may be at work
    _, gone = upkeep_of(tiny.name, dt.datetime.now(dt.UTC) + dt.timedelta(days=9))
    assert [one.name for one in gone if one.kind == "version"] == [v1]
    left = as_json(*_versions(day))
    assert [one["version"] for one in left["versions"]] == [v2]
    assert [one["version"] for one in left["deleted"]] == [v1]
    held = snowflake.session().run("SELECT DISTINCT version FROM scores.tiny_rows")
    assert held == [(v2,)]


def _versions(day: str) -> tuple[str, ...]:
    return ("versions", "tiny", "--date", day)


def test_the_set_up_can_be_shown_repeated_and_delta_needs_none(
    tiny: World, snowflake: Account
) -> None:
    assert "needs no set-up" in invoke("init", tiny.name).output
    assert as_json("init", tiny.name)["statements"] == []
    tiny.configure({"predictions": {**PREDICTIONS, "readers": ["analyst"]}})
    printed = invoke("init", tiny.name, "--dry-run")
    assert printed.exit_code == 0, printed.output
    lines = printed.stdout.splitlines()
    assert all(line.endswith(";") for line in lines)
    assert any(line.startswith("CREATE TABLE IF NOT EXISTS SCORES.TINY_ROWS") for line in lines)
    assert '"REGION" VARCHAR' in printed.stdout and '"ACCOUNT_ID" NUMBER(19, 0)' in printed.stdout
    with pytest.raises(PermanentError, match="(?i)not exist.*daybreak init"):
        daybreak.read(tiny.name, tiny.day)

    grant = "GRANT SELECT ON VIEW SCORES.TINY_CURRENT TO ROLE analyst"
    for _ in range(2):
        done = as_json("init", tiny.name)
        assert [f"{statement};" for statement in done["statements"]] == lines
        assert (done["table"], done["dry_run"]) == ("scores.tiny", False)
        # The emulator has no roles, and the command says so.
        assert done["left_out"] == [grant]
    assert grant in invoke("init", tiny.name).output
    assert snowflake.session().run("SELECT COUNT(*) FROM scores.tiny_lock") == [(1,)]


def test_a_run_before_the_set_up_says_what_to_do(tiny: World, snowflake: Account) -> None:
    tiny.configure({"predictions": PREDICTIONS})
    done = invoke("run", tiny.name, "--date", str(tiny.day))
    assert done.exit_code == 1
    assert "daybreak init" in done.output


def test_checking_a_pipeline_looks_at_both_connections(
    tiny: World, snowflake: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.configure(
        {
            "warehouse": {"kind": "snowflake", "connection": CONNECTION},
            "predictions": PREDICTIONS,
        }
    )
    (tiny.folder / "features.sql").write_text(
        "SELECT ACCOUNT_ID, CHANNEL, REGION, BALANCE, VISITS, TENURE_DAYS, UPDATED_AT\n"
        "FROM ACCOUNTS WHERE EVENT_DATE = $as_of\n"
    )
    assert invoke("check", tiny.name).exit_code == 0, invoke("check", tiny.name).output
    monkeypatch.setenv(
        f"AIRFLOW_CONN_{CONNECTION.upper()}", '{"conn_type": "snowflake", "login": "robot"}'
    )
    output = " ".join(invoke("check", tiny.name).output.split())
    assert output.count("names no account") == 2


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ({"kind": "snowflake", "table": "t"}, "need connection"),
        ({"kind": "snowflake", "connection": "c"}, "need table"),
        ({**PREDICTIONS, "uri": "s3://b/t"}, "uri means nothing for predictions of the kind snow"),
        ({"table": "t"}, "table means nothing for predictions of the kind delta"),
        ({**PREDICTIONS, "table": "a b; DROP TABLE x"}, "predictions.table"),
    ],
)
def test_a_table_that_is_not_told_rightly_is_refused(
    tiny: World, predictions: dict[str, str], message: str
) -> None:
    tiny.configure({"predictions": predictions})
    checked = invoke("check", tiny.name, "--offline")
    assert checked.exit_code == 2
    assert message in " ".join(checked.output.split())
