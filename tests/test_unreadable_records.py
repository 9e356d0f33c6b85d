"""Records of runs that a dead disk cut short, or that are of another release."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path

from typer.testing import CliRunner

from daybreak.cli import app
from daybreak.run import new_request, run_steps
from include import storage
from include.config import Predictions
from include.errors import CorruptData
from include.retention import expire, plan_expiry
from include.run import StepRecord
from include.stores import open_store
from include.workspace import Workspace
from tests.staged_versions import DAY
from tests.test_retention import RULES, Shop, age, by_kind, now, waiting
from tests.test_versions import Quiet
from tests.world import World

OTHER_DAY = DAY + dt.timedelta(days=1)
CUT = b'{"run_id": "air'


def test_upkeep_names_the_record_goes_on_with_the_rest_and_keeps_what_the_run_may_need(
    tmp_path: Path,
) -> None:
    shop, at = Shop(tmp_path), now(31)
    for as_of in (DAY, OTHER_DAY):
        for number in range(4):
            shop.publish(f"v{number}", as_of, model=f"m{as_of}{number}")
    run = waiting("v9", at).run  # of DAY
    folder = shop.workspace.run("cli-under-way")
    lies = [storage.join(folder, "run.json"), shop.workspace.step("cli-under-way", "extract"),
            shop.workspace.step("cli-under-way", "plan")]  # fmt: skip
    planned = StepRecord(
        step="plan",
        outcome="success",
        started_at=at,
        seconds=1.0,
        result=run.model_dump(mode="json"),
    )

    def left(*contents: bytes | None) -> tuple[set[str], dict[str, list[str]], dict[str, int]]:
        """What is named, which versions would go, and how many of each other kind."""
        for uri, content in zip(lies, contents, strict=True):
            storage.delete([uri])
            if content is not None:
                storage.write(uri, content)
                late = at.timestamp() - 3600
                os.utime(str(storage.local_path(uri)), (late, late))
        named: list[CorruptData] = []
        plan = plan_expiry(shop.workspace, shop.store, RULES, at, named.append)
        versions: dict[str, list[str]] = {}
        for each in plan:
            if each.as_of is not None:
                versions.setdefault(str(each.as_of), []).append(each.name)
        kinds = {kind: len(names) for kind, names in by_kind(plan).items() if kind != "version"}
        return {error.where for error in named}, versions, kinds

    whole, record = run.model_dump_json().encode(), planned.model_dump_json().encode()
    both = {str(DAY): ["v0", "v1"], str(OTHER_DAY): ["v0", "v1"]}
    of_both = {"scores": 4, "drift": 4, "snapshot": 4, "gate": 4, "model": 4}
    of_one = dict.fromkeys(of_both, 2)
    assert left(whole, None, record) == (set(), both, of_both)
    # Its date is known, and its model: the other date loses what it would have lost.
    one = {str(OTHER_DAY): ["v0", "v1"]}
    assert left(whole, CUT, record) == ({lies[1]}, one, of_one)
    # Its date alone.
    but_models = {kind: 2 for kind in of_one if kind != "model"}
    assert left(CUT, None, record) == ({lies[0]}, one, but_models)
    # Nothing of it.
    assert left(CUT, None, None) == ({lies[0]}, {}, {})
    assert left(CUT, None, CUT)[1:] == ({}, {})
    # What it says is done: the file is deleted, and everything goes that may.
    assert left(None, None, None) == (set(), both, of_both)
    expire(shop.workspace, shop.store, RULES, at)
    shop.assert_whole()


def test_planned_configurations_stay_while_a_record_that_may_name_them_cannot_be_read(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path)
    shop.publish("v1")
    config = shop.put(shop.workspace.config("c" * 64))
    damaged = shop.put(storage.join(shop.workspace.run("cli-old"), "run.json"), "{")
    age(tmp_path, days=20)
    named: list[CorruptData] = []
    assert plan_expiry(shop.workspace, shop.store, RULES, now(), named.append) == []
    assert {error.where for error in named} == {damaged}
    storage.delete([damaged])
    assert shop.expire(now()) == {"config": [config.rpartition("/")[2]]}


def test_commands_name_the_record_that_they_cannot_read_and_upkeep_goes_on(tiny: World) -> None:
    outcome = run_steps(new_request("tiny", dt.datetime.now(dt.UTC), tiny.day), Quiet())
    assert outcome.report is not None and outcome.report.state == "published"
    workspace, run_id = Workspace(tiny.workspace, "tiny"), outcome.report.run_id
    planned = storage.join(workspace.run(run_id), "run.json")
    extracted, score = workspace.step(run_id, "extract"), workspace.step(run_id, "score")
    of_another_release = json.loads(storage.read(extracted))
    of_another_release["result"] = {"rows_total": 300}
    status = ("status", "tiny", "--offline", "--from", str(tiny.day), "--to", str(tiny.day))
    for uri, content, command in (
        (planned, CUT, status),
        (storage.join(workspace.run(run_id), "request.json"), b"", status),
        (score, CUT, status),
        (extracted, json.dumps(of_another_release).encode(), status),
        (outcome.report.json_uri, CUT, ("report", "tiny", "--date", str(tiny.day))),
    ):
        before = storage.read(uri)
        storage.write(uri, content)
        done = CliRunner().invoke(app, list(command))
        assert done.exit_code == 1 and isinstance(done.exception, SystemExit), uri
        said = " ".join(done.stderr.split())
        assert uri.rpartition("/")[2] in said and "restore it from a backup" in said.lower(), said
        if uri != outcome.report.json_uri:
            kept = CliRunner().invoke(app, ["expire", "tiny", "--json"])
            assert kept.exit_code == 0, kept.output
            (named,) = json.loads(kept.stdout)["unreadable"]
            assert uri in named and "tiny" in named
            shown = CliRunner().invoke(app, ["expire", "tiny"], env={"COLUMNS": "100"})
            assert uri in shown.stdout and "what it may be needed for stays" in shown.stdout
        storage.write(uri, before)
    assert CliRunner().invoke(app, list(status)).exit_code == 0
    store = open_store(Predictions(), workspace.predictions())
    assert [one.version for one in store.versions(tiny.day)] != []
    assert CliRunner().invoke(app, ["expire", "tiny"]).exit_code == 0
