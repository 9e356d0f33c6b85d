"""What users do with versions: list, compare, roll back, and ask why a prediction is what it is."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import daybreak
from daybreak.cli import app
from daybreak.rollback import plan_model_rollback, plan_rollback
from daybreak.run import new_request, run_steps
from daybreak.versions import table_of
from include import approvals, storage
from include.config import Retention
from include.errors import CorruptData
from include.retention import expire
from include.settings import PROJECT
from include.stores import Decision
from include.workspace import Workspace
from tests.staged_versions import rows_of, write_version
from tests.world import World, copy_world

DAY = World.day
ONLY_TWO = DAY + dt.timedelta(days=1)  # published by model version 2 alone
ONLY_ONE = DAY - dt.timedelta(days=1)  # by version 1 alone


class Quiet:
    """A watcher of a run that says nothing."""

    def started(self, *_: Any) -> None: ...
    def retrying(self, *_: Any) -> None: ...
    def finished(self, *_: Any) -> None: ...
    def failed(self, *_: Any) -> None: ...


def run(day: dt.date) -> Any:
    return run_steps(new_request("tiny", dt.datetime.now(dt.UTC), day), Quiet())


def publish(day: dt.date) -> str:
    outcome = run(day)
    assert outcome.error is None, outcome.error
    return current(day)


def current(day: dt.date) -> str:
    (version,) = set(daybreak.read("tiny", day)["version"].to_pylist())
    return str(version)


def invoke(*arguments: str, columns: int = 160) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns)})


def as_json(*arguments: str, code: int = 0) -> dict[str, Any]:
    result = invoke(*arguments, "--json")
    assert result.exit_code == code, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def shell(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "daybreak", *arguments],
        cwd=PROJECT,
        env={**os.environ, **env, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def history(built_world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Model version 1 made ONLY_ONE and DAY, version 2 then DAY and ONLY_TWO; not to be changed."""
    world = copy_world(built_world, tmp_path_factory.mktemp("history") / "world")
    world.configure({"predictions": {"audit": {"max_score_psi": 50.0}}})
    # One row of each day is set aside, so that positions in snapshot and table differ.
    (world.folder / "suite.yaml").write_text(
        "expectations:\n"
        "  - type: expect_column_values_to_be_between\n"
        "    kwargs: {column: account_id, min_value: 1001}\n"
        "    severity: warning\n"
    )
    with pytest.MonkeyPatch.context() as env:
        for name, value in world.env.items():
            env.setenv(name, value)
        publish(ONLY_ONE)
        publish(DAY)
        world.register_model(seed=2)
        publish(DAY)
        publish(ONLY_TWO)
    return world


@pytest.fixture
def there(history: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The history where it lies, for looking at only."""
    for name, value in history.env.items():
        monkeypatch.setenv(name, value)
    return history


@pytest.fixture
def versions(there: World) -> list[str]:
    """The two versions of DAY, the older one first."""
    return [one["version"] for one in listed(DAY)]


def listed(day: dt.date) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = as_json("versions", "tiny", "--date", str(day))["versions"]
    return found


@pytest.fixture
def changing(there: World) -> Any:
    """The history as above, put back afterwards: a workspace names itself by absolute URIs."""
    workspace = Path(there.workspace.removeprefix("file://"))
    kept = workspace.with_name("kept")
    shutil.copytree(workspace, kept)
    yield there
    shutil.rmtree(workspace)
    kept.rename(workspace)


# versions


def test_versions_say_who_made_them_of_what_and_what_became_of_them(there: World) -> None:
    one, two = listed(DAY)
    assert (one["state"], two["state"]) == ("superseded", "current")
    assert (one["model_version"], two["model_version"]) == ("1", "2")
    assert one["superseded_at"] == two["committed_at"]
    lineage = two["lineage"]
    assert lineage["model_name"] == "tiny-churn"
    assert (lineage["rows_in"], lineage["quarantined"]) == (300, 2)
    for digest in ("model_digest", "snapshot_digest", "config_digest"):
        assert re.fullmatch("[0-9a-f]{64}", lineage[digest])
    assert {"python", "pyarrow", "lightgbm"} <= set(lineage["environment"])
    text = invoke("versions", "tiny", "--date", str(DAY)).stdout
    for said in ("superseded", "current", lineage["model_digest"][:8], "298"):
        assert said in text


# diff


def test_diff_says_what_changed_between_two_versions(there: World, versions: list[str]) -> None:
    old, new = versions
    found = as_json("diff", "tiny", old, new, "--date", str(DAY))
    before = {row["account_id"]: row for row in daybreak.read("tiny", DAY, old).to_pylist()}
    assert (found["before"]["rows"], found["after"]["rows"], found["common"]) == (298, 298, 298)
    assert (found["added"], found["removed"]) == (0, 0)
    assert found["columns_changed"] == {"region": 0}
    one, two = (daybreak.read("tiny", DAY, version) for version in versions)
    moves = [
        abs(a - b)
        for a, b in zip(
            one["churn_probability"].to_pylist(), two["churn_probability"].to_pylist(), strict=True
        )
    ]
    assert found["scores_changed"] == found["changed"] == sum(move > 0 for move in moves)
    assert found["move_max"] == max(moves)
    assert found["move_mean"] == pytest.approx(sum(moves) / len(moves))
    assert found["move_quantiles"]["0.5"] == pytest.approx(sorted(moves)[149], abs=0.01)
    assert found["psi"] >= 0
    furthest = found["largest"][0]
    assert abs(furthest["after"] - furthest["before"]) == max(moves)
    assert furthest["account_id"] in before
    text = invoke("diff", "tiny", old, "--date", str(DAY)).stdout  # with the current one
    for said in (old, new, "PSI", "0 added, 0 removed", "moved furthest"):
        assert said in text


def test_a_version_does_not_differ_from_itself(there: World, versions: list[str]) -> None:
    found = as_json("diff", "tiny", versions[0], versions[0], "--date", str(DAY))
    assert (found["changed"], found["psi"], found["move_max"]) == (0, 0.0, 0.0)
    assert found["largest"] == []


def test_an_unknown_version_is_answered_with_those_there_are(
    there: World, versions: list[str]
) -> None:
    result = invoke("diff", "tiny", "v0", "--date", str(DAY))
    assert result.exit_code == 1
    assert "no stored version v0" in result.stderr
    assert versions[0] in result.stderr


# why


def test_why_replays_a_prediction_bit_for_bit(there: World, versions: list[str]) -> None:
    for version in (None, versions[0]):
        rows = daybreak.read("tiny", DAY, version).to_pylist()
        for row in (rows[0], rows[150], rows[-1]):
            named = [
                "--key",
                f"account_id={row['account_id']}",
                "--key",
                f"channel={row['channel']}",
            ]
            found = as_json(
                "why", "tiny", "--date", str(DAY), *named,
                *(["--version", version] if version else []),
            )  # fmt: skip
            assert found["equal"] is True
            assert found["published_score"] == row["churn_probability"]
            assert found["replayed_score"] == row["churn_probability"]
            assert found["version"] == row["version"]
            assert found["model_version"] == row["model_version"]
            assert found["run_id"] == row["run_id"]
            assert set(found["features"]) == {"balance", "visits", "tenure_days", "region"}
            assert found["differs"] == {}
            ((tenure, region),) = there.execute(
                "SELECT tenure_days, region FROM accounts WHERE "
                f"account_id = {row['account_id']} AND channel = '{row['channel']}' "
                f"AND event_date = '{DAY}'"
            )
            assert (found["features"]["tenure_days"], found["features"]["region"]) == (
                tenure,
                region,
            )


def test_why_says_it_to_people_too(there: World) -> None:
    done = shell(
        "why", "tiny", "--date", str(DAY), "--key", "account_id=1007", "--key", "channel=web",
        env=there.env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for said in ("the same, bit for bit", "tenure_days", "tiny-churn version 2", "lightgbm"):
        assert said in done.stdout


def test_why_tells_that_a_row_was_set_aside(there: World) -> None:
    result = invoke(
        "why", "tiny", "--date", str(DAY), "--key", "account_id=1000", "--key", "channel=web"
    )
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert "has no row (account_id=1000, channel='web'): the gate set it aside" in said
    assert "account_id" in said.split("set it aside")[1]


@pytest.mark.parametrize(
    ("pairs", "said", "code"),
    [
        (("account_id=1",), "is named by account_id, channel", 1),
        (("account_id=x", "channel=web"), "'x' is no value of account_id", 1),
        (("account_id=999", "channel=web"), "has no row (account_id=999, channel='web')", 1),
        (("account_id",), "is no name=value", 2),
        (("account_id=1", "account_id=2"), "stands twice", 2),
    ],
)
def test_why_says_what_is_wrong_with_a_key(
    there: World, pairs: tuple[str, ...], said: str, code: int
) -> None:
    keys = [word for pair in pairs for word in ("--key", pair)]
    result = invoke("why", "tiny", "--date", str(DAY), *keys)
    assert result.exit_code == code
    assert said in " ".join(result.stderr.split())


def test_why_says_when_the_environment_is_another_and_when_it_was_not_recorded(
    changing: World, versions: list[str]
) -> None:
    table = Workspace(changing.workspace, "tiny").predictions()
    uri = f"{table}/_daybreak/versions/as_of={DAY}/{versions[1]}.json"
    manifest = json.loads(storage.read(uri))
    key = ("--key", "account_id=1007", "--key", "channel=web")
    manifest["environment"]["lightgbm"] = "0.0.1"
    storage.write(uri, json.dumps(manifest).encode())
    found = as_json("why", "tiny", "--date", str(DAY), *key)
    assert found["differs"]["lightgbm"][0] == "0.0.1" and found["equal"]
    assert "lightgbm 0.0.1 →" in invoke("why", "tiny", "--date", str(DAY), *key).stdout
    del manifest["environment"]  # as releases before wrote it
    storage.write(uri, json.dumps(manifest).encode())
    text = invoke("why", "tiny", "--date", str(DAY), *key).stdout
    assert "was not recorded" in text and "bit for bit" in text


def test_why_says_that_retention_deleted_the_features(changing: World, versions: list[str]) -> None:
    store, workspace = table_of("tiny").store, Workspace(changing.workspace, "tiny")
    rules = Retention(snapshot_days=1)
    gone = expire(workspace, store, rules, dt.datetime.now(dt.UTC) + dt.timedelta(days=3))
    assert {each.kind for each in gone} == {"snapshot", "gate"}
    result = invoke(
        "why", "tiny", "--date", str(DAY), "--key", "account_id=1007", "--key", "channel=web"
    )
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert f"the features that version {versions[1]} of {DAY} was scored from are deleted" in said
    assert "retention keeps them for snapshot_days" in said and "were scored at 20" in said


@pytest.mark.parametrize("fault", ["gone", "one bit", "shorter"])
def test_damaged_parts_are_named_by_whoever_reads_them(
    changing: World, versions: list[str], fault: str
) -> None:
    """By a read of an older version, by diff and by why: no wrong rows, and no library's error."""
    folder = Path(changing.workspace.removeprefix("file://")) / f"tiny/predictions/as_of={DAY}"
    part = sorted((folder / f"version={versions[0]}").iterdir())[1]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    if fault == "gone":
        part.unlink()
    else:
        part.write_bytes(content if fault == "one bit" else content[:-9])
    found = f"part 1 of version {versions[0]} of {DAY} is " + (
        "gone" if fault == "gone" else "not the file that was scored"
    )
    with pytest.raises(CorruptData, match=rf"{found} \(file://.*part-00001.*partition again"):
        daybreak.read("tiny", DAY, versions[0])
    for command in (
        ("diff", "tiny", *versions, "--date", str(DAY)),
        ("diff", "tiny", *reversed(versions), "--date", str(DAY)),
        ("why", "tiny", "--date", str(DAY), "--version", versions[0],
         "--key", "account_id=1299", "--key", "channel=web"),
    ):  # fmt: skip
        result = invoke(*command)
        assert result.exit_code == 1
        assert found in " ".join(result.stderr.split())


def test_a_damaged_record_is_named_by_whoever_reads_it(
    changing: World, versions: list[str]
) -> None:
    workspace = Workspace(changing.workspace, "tiny")
    listing, upkeep = ("versions", "tiny", "--date", str(DAY)), ("expire", "tiny")
    for uri, what, command in (
        (
            f"{workspace.predictions()}/_daybreak/expired/as_of={DAY}/v0.json",
            "the record of a deletion",
            listing,
        ),
        (approvals.held_uri(workspace, DAY, versions[0]), "the question about a held", upkeep),
        (approvals.answer_uri(workspace, DAY, versions[0], 1), "the answer about a held", listing),
    ):
        storage.write(uri, b'{"as_of": ')
        result = invoke(*command)
        assert result.exit_code == 1
        said = " ".join(result.stderr.split())
        assert what in said and uri.rpartition("/")[2] in said, said
        storage.delete([uri])


def test_a_moment_is_read_as_its_date(there: World) -> None:
    moment = dt.datetime.combine(DAY, dt.time(5))
    assert daybreak.read("tiny", moment).equals(daybreak.read("tiny", DAY))


def test_why_refuses_a_model_that_was_changed(changing: World) -> None:
    (marker,) = [
        path
        for path in Path(changing.workspace.removeprefix("file://")).glob("tiny/models/*/model/*")
        if path.name == "model.lgb" and _is_of(path, "2")
    ]
    marker.write_bytes(marker.read_bytes().replace(b"leaf_value=", b"leaf_value=1", 1))
    result = invoke(
        "why", "tiny", "--date", str(DAY), "--key", "account_id=1007", "--key", "channel=web"
    )
    assert result.exit_code == 1
    assert "was changed after it was pinned" in " ".join(result.stderr.split())


def _is_of(path: Path, version: str) -> bool:
    marker = json.loads((path.parent.parent / "pinned.json").read_text())
    return bool(marker["version"] == version)


# rollback


def test_a_dry_run_shows_the_plan_and_changes_nothing(there: World, versions: list[str]) -> None:
    done = shell("rollback", "tiny", "--date", str(DAY), "--dry-run", env=there.env)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"{versions[1]} +2 +{versions[0]} +1 +planned", done.stdout)
    assert "Nothing was changed" in done.stdout
    assert current(DAY) == versions[1]


def test_a_rollback_and_what_the_next_runs_make_of_it(changing: World, versions: list[str]) -> None:
    old, bad = versions
    done = shell(
        "rollback", "tiny", "--date", str(DAY), "--by", "anna", "--reason", "too many churners",
        env=changing.env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "rolled back" in done.stdout and "still use what the model's alias" in done.stdout
    assert current(DAY) == old
    states = {one["version"]: one for one in listed(DAY)}
    assert (states[bad]["state"], states[old]["state"]) == ("rolled back", "current")
    assert states[old]["decision"]["by"] == "anna"
    assert "by anna at" in " ".join(invoke("versions", "tiny", "--date", str(DAY)).stdout.split())

    # The same inputs again do not bring the bad version back, and the run says why.
    again = shell("run", "tiny", "--date", str(DAY), "--json", env=changing.env)
    assert again.returncode == 1
    said = " ".join(again.stderr.split())
    assert re.search(rf"version {bad} was rolled back by anna at \S+ \S+ UTC: too many", said), said
    assert json.loads(again.stdout)["state"] == "failed"
    assert current(DAY) == old

    # Another model does take its place, and the run says that this ends the rollback.
    changing.register_model(seed=3)
    better = shell("run", "tiny", "--date", str(DAY), env=changing.env)
    assert better.returncode == 0, better.stderr
    said = " ".join(better.stderr.split())
    assert f"ends the rollback to version {old} by anna" in said
    report = invoke("report", "tiny", "--date", str(DAY)).stdout.strip()
    html = (
        (PROJECT / report).read_text()
        if not Path(report).is_absolute()
        else Path(report).read_text()
    )
    assert "ends the rollback" in html


def test_a_rollback_can_be_taken_back(changing: World, versions: list[str]) -> None:
    for to in (versions[0], versions[1]):
        found = as_json("rollback", "tiny", "--date", str(DAY), "--to", to, "--reason", "r")
        assert found["partitions"][0]["state"] == "published"
        assert current(DAY) == to
    found = as_json("rollback", "tiny", "--date", str(DAY), "--to", versions[1])
    assert found["partitions"][0]["state"] == "unchanged"


def test_rolling_back_again_goes_further_back_and_not_forth(
    changing: World, versions: list[str]
) -> None:
    as_json("rollback", "tiny", "--date", str(DAY))
    found = as_json("rollback", "tiny", "--date", str(DAY), code=1)
    assert found["partitions"][0]["state"] == "no other version"
    assert current(DAY) == versions[0]


def test_a_rollback_goes_to_what_readers_had_before_whatever_was_begun_first(tiny: World) -> None:
    """A version that was begun, crashed and was finished after another one is the newer of both."""
    table = table_of("tiny")
    begun = dt.datetime(2026, 3, 2, 4, tzinfo=dt.UTC)

    def publish_one(version: str, minutes: int) -> None:
        rows = rows_of(6, label=version)
        manifest = write_version(table.store, version, rows, as_of=DAY)
        manifest = manifest.model_copy(
            update={"scored_at": begun + dt.timedelta(minutes=minutes), "model_version": version}
        )
        table.store.stage(manifest)
        table.store.commit(manifest, dt.datetime.now(dt.UTC))

    def target() -> str | None:
        (move,) = plan_rollback(table, DAY, None)
        return move.target.version if move.target else None

    publish_one("vquick", 60)
    publish_one("vcrashed", 0)
    assert target() == "vquick"
    publish_one("vlast", 90)
    assert target() == "vcrashed"
    (move,) = plan_model_rollback(table, None, None, "vlast")
    assert move.target is not None and move.target.version == "vcrashed"
    # What was current again by a person's decision is what a later run took the place of.
    decision = Decision(by="anna", at=dt.datetime.now(dt.UTC), reason="")
    table.store.rollback(DAY, "vquick", decision, replacing="vlast")
    publish_one("vnew", 120)
    assert target() == "vquick"
    publish_one("vslow", -10)
    publish_one("vworst", 130)
    for expected in ("vslow", "vnew", "vquick"):
        assert target() == expected
        (move,) = plan_rollback(table, DAY, None)
        table.store.rollback(DAY, expected, decision, replacing=move.current.version)
    assert target() is None


def test_all_partitions_of_a_model_version_go_back_and_those_that_cannot_are_named(
    changing: World, versions: list[str]
) -> None:
    before = current(ONLY_TWO)
    command = ("rollback", "tiny", "--model-version", "2", "--since", str(ONLY_ONE))
    plan = as_json(*command, "--dry-run", code=1)
    assert [(one["as_of"], one["state"]) for one in plan["partitions"]] == [
        (str(DAY), "planned"),
        (str(ONLY_TWO), "no other version"),
    ]
    done = shell(*command, env=changing.env)
    assert done.returncode == 1
    assert re.search(rf"{DAY} .*rolled back", done.stdout)
    assert re.search(rf"{ONLY_TWO} .*no other version", done.stdout)
    assert (current(DAY), current(ONLY_TWO)) == (versions[0], before)
    within = as_json("rollback", "tiny", "--model-version", "2", "--until", str(DAY))
    assert within["partitions"] == []


@pytest.mark.parametrize(("first", "last"), [("--from", "--to"), ("--since", "--until")])
def test_the_days_of_a_models_rollback_are_given_from_the_first_to_the_last(
    there: World, first: str, last: str
) -> None:
    def planned(*days: str) -> list[str]:
        command = ("rollback", "tiny", *days, "--model-version", "2", "--dry-run", "--json")
        return [one["as_of"] for one in json.loads(invoke(*command).stdout)["partitions"]]

    assert planned(first, str(ONLY_ONE), last, str(DAY)) == [str(DAY)]
    assert planned(first, str(ONLY_TWO), last, str(ONLY_TWO)) == [str(ONLY_TWO)]
    assert planned(last, str(ONLY_ONE)) == []
    assert planned(first, str(DAY)) == [str(DAY), str(ONLY_TWO)]


def test_a_rollback_to_damaged_files_fails_and_readers_keep_what_they_have(
    changing: World, versions: list[str]
) -> None:
    part = next(
        Path(changing.workspace.removeprefix("file://")).glob(
            f"tiny/predictions/as_of={DAY}/version={versions[0]}/part-00001-*.parquet"
        )
    )
    part.write_bytes(part.read_bytes()[:-1])
    result = invoke("rollback", "tiny", "--date", str(DAY))
    assert result.exit_code == 1
    assert "is not whole: part 1" in " ".join(result.stdout.split())
    assert current(DAY) == versions[1]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--date", "2026-02-05", "--model-version", "2"),
        ("--model-version", "2", "--to", "v1"),
        ("--date", "2026-02-05", "--since", "2026-02-01"),
        ("--date", "2026-02-05", "--from", "2026-02-01"),
        ("--model-version", "2", "--to", "2026-02-05", "--until", "2026-02-05"),
    ],
)
def test_options_that_do_not_go_together_are_bad_usage(
    there: World, arguments: tuple[str, ...]
) -> None:
    assert invoke("rollback", "tiny", *arguments).exit_code == 2


# docs/versions.md


def test_the_snippets_for_readers_in_the_documentation_run(
    there: World, versions: list[str]
) -> None:
    text = (PROJECT / "docs" / "versions.md").read_text("utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(snippets) == 6
    table = Workspace(there.workspace, "tiny").predictions().removeprefix("file://")
    older: list[set[str]] = []
    for snippet in snippets:
        for of_the_demo, here in {
            ".daybreak/workspace/flight_delay/predictions": table,
            "flight_delay": "tiny",
            "2013-10-01": str(DAY),
            "delay_minutes": "churn_probability",
            "v622da41d16d8": versions[0],
        }.items():
            snippet = snippet.replace(of_the_demo, here)
        seen: dict[str, Any] = {}
        exec(compile(snippet, "docs/versions.md", "exec"), seen)
        assert len(seen["rows"]) == 298
        if "version=" in snippet:
            older.append(set(seen["rows"]["version"]))
        if "spark" in seen:
            seen["spark"].stop()
    assert older == [{versions[0]}]


# expire


def age(world: World, days: int) -> None:
    """Let every file of the workspace be as old as if nothing had happened for days."""
    then = time.time() - days * 86400
    for path in Path(world.workspace.removeprefix("file://")).rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def test_expire_deletes_what_retention_does_not_keep_and_says_what(
    changing: World, versions: list[str]
) -> None:
    old, new = versions
    config = changing.folder / "pipeline.yaml"
    before = config.read_text()
    changing.configure({"retention": {"versions": 1, "rollback_days": 0, "crashed_hours": 1}})
    try:
        assert as_json("expire", "tiny", "--dry-run")["deletions"] == []
        age(changing, 3)
        plan = as_json("expire", "tiny", "--dry-run")
        assert [each["name"] for each in plan["deletions"] if each["kind"] == "version"] == [old]
        assert [one["version"] for one in listed(DAY)] == [old, new]
        done = shell("expire", "tiny", env=changing.env)
        assert done.returncode == 0, done.stderr
        assert old in done.stdout and "superseded more than 0 days ago" in done.stdout
        assert [one["version"] for one in listed(DAY)] == [new]
        deleted = as_json("versions", "tiny", "--date", str(DAY))["deleted"]
        assert [(one["version"], one["lineage"]["model_version"]) for one in deleted] == [
            (old, "1")
        ]
        for command in (("rollback", "--to", old), ("why", "--key", "a=1", "--version", old)):
            result = invoke(command[0], "tiny", "--date", str(DAY), *command[1:])
            assert result.exit_code == 1
        key = ("--key", "account_id=1007", "--key", "channel=web")
        assert as_json("why", "tiny", "--date", str(DAY), *key)["equal"] is True
        assert as_json("expire", "tiny")["deletions"] == []
        # The same model, rows and configuration make the deleted version again.
        changing.configure({"model": {"alias": "production"}})
        outcome = run_steps(
            new_request("tiny", dt.datetime.now(dt.UTC), DAY, model_version="1"), Quiet()
        )
        assert outcome.error is None
        assert current(DAY) == old
    finally:
        config.write_text(before)
