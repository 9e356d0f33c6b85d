"""What retention deletes, what it never deletes, and that a kill in the middle harms nothing."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from include import storage
from include.approvals import Held, held_uri
from include.config import Predictions, Retention
from include.errors import PermanentError
from include.partition import Partition
from include.retention import Deletion, expire, plan_expiry
from include.run import Column, Invocation, ModelVersion, Part, Run, SnapshotManifest
from include.score_shift import Shift
from include.stores import Decision, Store, VersionManifest, open_store
from include.workspace import SHORT, Workspace
from tests import processes
from tests.staged_versions import DAY, rows_of, stage, write_version

NAME = "shop"
RULES = Retention(versions=2, rollback_days=30, snapshot_days=365, crashed_hours=48, run_days=400)


def now(days: float = 0) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(days=days)


class Shop:
    """A pipeline's workspace with all that the steps leave of a version, without the steps."""

    def __init__(self, root: Path) -> None:
        self.folder = root
        self.workspace = Workspace(root.as_uri(), NAME)
        self.store: Store = open_store(Predictions(), self.workspace.predictions())

    def put(self, uri: str, content: str = "{}") -> str:
        storage.write(uri, content.encode())
        return uri

    def snapshot(self, as_of: dt.date, label: str) -> SnapshotManifest:
        """A snapshot of one part; the same label is the same snapshot."""
        digest = hashlib.sha256(f"{as_of} {label}".encode()).hexdigest()
        place = self.workspace.snapshots(as_of)
        part = self.put(storage.join(place, f"files-{label}", "part-00000.parquet"), label)
        manifest = SnapshotManifest(
            pipeline=NAME,
            partition=Partition.containing(as_of, "day"),
            digest=digest,
            rows=20,
            columns=(Column(name="id", type="int64"),),
            parts=(Part(index=0, uri=part, rows=20, bytes=1, digest="0" * 64),),
            query_digest="q" * 64,
            source="duckdb",
            extracted_at=now(),
        )
        self.put(storage.join(place, f"{digest[:SHORT]}.json"), manifest.model_dump_json())
        return manifest

    def scored(self, version: str, as_of: dt.date = DAY, model: str = "m") -> VersionManifest:
        """A version as it stands before it is staged."""
        source = self.snapshot(as_of, f"of-{version}")
        digest = hashlib.sha256(model.encode()).hexdigest()
        self.put(storage.join(self.workspace.model(digest), "model", "model.lgb"))
        self.put(storage.join(self.workspace.model(digest), "pinned.json"))
        gate = self.workspace.gate(as_of, source.digest, "c" * 64)
        self.put(f"{gate}.json")
        self.put(storage.join(self.workspace.scores(as_of, version), "job.json"))
        self.put(storage.join(self.workspace.drift(as_of, version), "profile-1.json"))
        run = self.workspace.run(f"run-of-{as_of}-{version}")
        self.put(storage.join(run, "report.json"))
        manifest = write_version(
            self.store, version, rows_of(20, label=f"run-of-{version}"), as_of=as_of, parts=2
        )
        place = self.workspace.snapshots(as_of)
        return manifest.model_copy(
            update={
                "snapshot_uri": storage.join(place, f"{source.digest[:SHORT]}.json"),
                "snapshot_digest": source.digest,
                "quarantine_uri": self.put(f"{gate}.parquet"),
                "model_digest": digest,
                "run_id": f"run-of-{as_of}-{version}",
                "scored_at": now(),
            }
        )

    def publish(self, version: str, as_of: dt.date = DAY, model: str = "m") -> VersionManifest:
        manifest = self.scored(version, as_of, model)
        stage(self.store, manifest)
        self.store.commit(manifest, now())
        return manifest

    def plan(self, at: dt.datetime, rules: Retention = RULES) -> dict[str, list[str]]:
        """The names of what would go, by kind."""
        return by_kind(plan_expiry(self.workspace, self.store, rules, at))

    def expire(self, at: dt.datetime, rules: Retention = RULES) -> dict[str, list[str]]:
        return by_kind(expire(self.workspace, self.store, rules, at))

    def files(self) -> set[str]:
        return {
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if path.is_file()
        }

    def needed_by(self, manifest: VersionManifest) -> list[str]:
        """Every file that a kept version names or needs."""
        place = self.workspace.snapshots(manifest.as_of)
        label = f"files-of-{manifest.version}"
        assert manifest.quarantine_uri is not None
        return [
            *(part.uri for part in manifest.parts),
            manifest.snapshot_uri,
            storage.join(place, label, "part-00000.parquet"),
            manifest.quarantine_uri,
            storage.join(self.workspace.model(manifest.model_digest), "model", "model.lgb"),
            storage.join(self.workspace.scores(manifest.as_of, manifest.version), "job.json"),
        ]

    def assert_whole(self, as_of: dt.date = DAY) -> None:
        """Every stored version of a date has all that it names and can be read."""
        for version in self.store.versions(as_of):
            manifest = self.store.manifest(as_of, version.version)
            assert manifest is not None
            assert self.store.read(as_of, version.version).num_rows == 20
            missing = [uri for uri in self.needed_by(manifest) if not storage.exists(uri)]
            assert missing == []


def by_kind(deletions: list[Deletion]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in deletions:
        found.setdefault(each.kind, []).append(each.name)
    return {kind: sorted(names) for kind, names in found.items()}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "a folder with spaces")


def test_a_fresh_workspace_has_nothing_to_expire(shop: Shop) -> None:
    assert shop.plan(now()) == {}
    assert shop.expire(now()) == {}


def test_versions_stay_while_they_can_be_rolled_back_to_and_as_the_newest_of_their_date(
    shop: Shop,
) -> None:
    for number in range(4):
        shop.publish(f"v{number}")
    assert shop.plan(now(29)) == {}
    gone = shop.expire(now(31))
    assert gone["version"] == ["v0", "v1"]
    assert [one.version for one in shop.store.versions(DAY)] == ["v2", "v3"]
    shop.assert_whole()
    assert shop.expire(now(31)) == {}


def test_with_a_version_go_its_scores_drift_snapshot_and_gate_but_not_its_run(shop: Shop) -> None:
    for number in range(3):
        shop.publish(f"v{number}", model=f"m{number}")
    before = shop.files()
    gone = shop.expire(now(31))
    assert {kind: len(names) for kind, names in gone.items()} == {
        "version": 1,
        "scores": 1,
        "drift": 1,
        "snapshot": 1,
        "gate": 1,
        "model": 1,
    }
    deleted = {path for path in before - shop.files() if "_delta_log" not in path}
    assert len(deleted) == 2 + 1 + 1 + 1 + 2 + 2 + 2  # parts, manifest, job, profile, and so on
    assert f"{NAME}/runs/run-of-{DAY}-v0/report.json" in shop.files()
    shop.assert_whole()


def test_the_current_version_stays_however_old_it_is(shop: Shop) -> None:
    v1 = shop.publish("v1")
    assert "version" not in shop.expire(now(3000), Retention(versions=1, rollback_days=0))
    assert shop.store.read(DAY).num_rows == 20
    assert shop.store.manifest(DAY, "v1") == v1


def test_a_version_that_was_rolled_back_to_stays_and_the_one_left_counts_from_then(
    shop: Shop,
) -> None:
    for number in range(4):
        shop.publish(f"v{number}")
    decision = Decision(by="anna", at=now(), reason="")
    shop.store.rollback(DAY, "v0", decision, replacing="v3")
    assert shop.plan(now(29)) == {}
    assert shop.expire(now(31))["version"] == ["v1", "v2"]
    assert [one.version for one in shop.store.versions(DAY)] == ["v3", "v0"]
    shop.assert_whole()


def test_features_of_kept_versions_go_after_snapshot_days_and_the_rows_stay(shop: Shop) -> None:
    v1 = shop.publish("v1")
    rules = RULES.model_copy(update={"snapshot_days": 10})
    assert shop.plan(now(9), rules) == {}
    gone = shop.expire(now(11), rules)
    assert gone.keys() == {"snapshot", "gate"}
    assert not storage.exists(v1.snapshot_uri)
    assert v1.quarantine_uri is not None and not storage.exists(v1.quarantine_uri)
    assert shop.store.read(DAY).num_rows == 20


def test_leftovers_of_crashed_runs_go_after_the_grace_time_and_not_before(shop: Shop) -> None:
    shop.publish("v1")
    shop.scored("vscored")
    shop.store.stage(shop.scored("vstaged"))
    place = shop.workspace.snapshots(DAY)
    shop.put(storage.join(place, "killed-extract", "part-00000.parquet"))
    shop.put(storage.join(shop.workspace.scores(DAY, "vjob"), "job.json"))
    shop.put(storage.join(shop.workspace.model("e" * 64), "model", "half.bin"))
    assert shop.plan(now(47 / 24)) == {}
    gone = shop.expire(now(49 / 24))
    assert gone["version"] == ["vscored", "vstaged"]
    assert gone["snapshot"] == [f"as_of={DAY}/killed-extract"]
    assert [name.rpartition("/")[2] for name in gone["scores"]] == ["vjob", "vscored", "vstaged"]
    # Whole snapshots and models that nobody needs stay as long as a version could come back.
    assert len(shop.expire(now(31))["snapshot"]) == 2
    shop.assert_whole()
    assert shop.plan(now(31)) == {}


def test_a_version_that_is_held_for_a_person_stays_with_all_that_it_needs(shop: Shop) -> None:
    shop.publish("v1")
    held = shop.scored("vheld")
    shop.store.stage(held)
    shop.put(held_uri(shop.workspace, DAY, "vheld"), waiting("vheld", now(301)).model_dump_json())
    shop.expire(now(300))
    assert shop.store.manifest(DAY, "vheld") == held
    assert all(storage.exists(uri) for uri in shop.needed_by(held))
    # Nobody answered: it waits no longer.
    assert shop.expire(now(302))["version"] == ["vheld"]


def waiting(version: str, until: dt.datetime) -> Held:
    """The question about a held version, open until then."""
    model = ModelVersion(
        name="m",
        version="1",
        alias=None,
        flavor="lightgbm",
        digest="m" * 64,
        uri="file:///m",
        mlflow_run_id=None,
        inputs=(),
    )
    run = Run(
        run_id=f"run-of-{DAY}-{version}",
        pipeline=NAME,
        partition=Partition.containing(DAY, "day"),
        timezone="UTC",
        workspace="file:///w",
        pipeline_uri="file:///w/c.json",
        config_digest="c" * 64,
        model=model,
        planned_at=now(),
        invocation=Invocation(orchestrator="cli", id="1"),
    )
    shift = Shift(
        psi=0.9,
        noise_psi=0.1,
        limit=0.5,
        mean=0.4,
        reference_mean=0.2,
        against_as_of=DAY,
        against_version="v1",
    )
    return Held(
        pipeline=NAME,
        as_of=DAY,
        version=version,
        run=run,
        held_at=now(),
        until=until,
        replaces="v1",
        shift=shift,
        message="the scores moved",
        checks=(),
    )


def test_old_run_folders_go_unless_they_made_a_kept_version(shop: Shop) -> None:
    shop.publish("v1")
    shop.put(storage.join(shop.workspace.run("cli-failed"), "report.json"))
    shop.put(storage.join(shop.workspace.run("cli-failed"), "steps", "plan.json"))
    assert "run" not in shop.plan(now(399))
    assert shop.expire(now(401), RULES.model_copy(update={"snapshot_days": 999})) == {
        "run": ["cli-failed"]
    }


def test_what_a_recent_run_works_with_stays(shop: Shop, built_world: Any, tiny: Any) -> None:
    """A run under way that found its snapshot, its parts and its model there from before."""
    from tasks.extract import extract
    from tasks.gate import gate
    from tasks.plan import plan
    from tasks.score import score

    run = plan(tiny.request())
    snapshot = extract(run)
    score(run, snapshot, gate(run, snapshot))
    workspace = Workspace(tiny.workspace, tiny.name)
    store = open_store(Predictions(), workspace.predictions())
    folder = Path(tiny.workspace.removeprefix("file://")) / tiny.name
    old = time.time() - 90 * 86400
    for path in folder.rglob("*"):
        if path.is_file() and "runs" not in path.parts:
            os.utime(path, (old, old))
    assert plan_expiry(workspace, store, RULES, now()) == []
    for path in (folder / "runs").rglob("*.json"):
        os.utime(path, (old, old))
    gone = by_kind(plan_expiry(workspace, store, RULES, now()))
    assert gone.keys() == {"version", "scores", "snapshot", "gate", "model"}


def test_a_planned_configuration_goes_with_the_last_record_that_names_it(tiny: Any) -> None:
    """Those of runs that are kept stay, and so do young ones."""
    from tasks.plan import plan

    workspace = Workspace(tiny.workspace, tiny.name)
    store = open_store(Predictions(), workspace.predictions())
    folder = Path(tiny.workspace.removeprefix("file://")) / tiny.name
    runs = []
    for psi in (0.11, 0.12, 0.13):
        tiny.configure({"drift": {"warn_psi": psi}})
        runs.append(plan(tiny.request(run=f"warns at {psi}")))
    young, lost, old = (run.pipeline_uri.rpartition("/")[2] for run in runs)
    assert by_kind(plan_expiry(workspace, store, RULES, now(1))) == {}
    shutil.rmtree(folder / "runs" / runs[1].run_id)
    age(folder / "configs", days=3)
    age(folder / "runs" / runs[2].run_id, days=500)
    assert by_kind(expire(workspace, store, RULES, now())) == {
        "run": [runs[2].run_id],
        "config": sorted([lost, old]),
    }
    assert [path.name for path in (folder / "configs").iterdir()] == [young]
    # A run that is planned with an old one again has it, whatever upkeep is doing.
    age(folder / "configs", days=3)
    shutil.rmtree(folder / "runs")
    tiny.configure({"drift": {"warn_psi": 0.11}})
    assert plan(tiny.request(run="again")).pipeline_uri.endswith(young)
    assert by_kind(expire(workspace, store, RULES, now())) == {}


def age(folder: Path, days: int) -> None:
    then = time.time() - days * 86400
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


# Killed in the middle


def expire_and_die(root: str, at: dt.datetime, operations: int) -> None:
    """Expire, and die by SIGKILL just before the so many-th object is written or deleted."""
    import obstore

    shop, left = Shop(Path(root)), operations

    def dying(real: Any) -> Any:
        def operation(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return operation

    storage._put, obstore.delete = dying(storage._put), dying(obstore.delete)
    shop.expire(at)


# Of the four versions of a round: the records of their deletion, their manifests and their parts,
# their jobs, profiles, snapshots, gates and models.
MOMENTS = (1, 3, 5, 6, 7, 13, 20, 22, 27, 31, 38, 46)


def test_a_killed_expiry_harms_no_kept_version_and_its_repeat_finishes(shop: Shop) -> None:
    unfinished = 0
    for round_, moment in enumerate(MOMENTS):
        as_of = DAY + dt.timedelta(days=round_)
        for number in range(6):
            shop.publish(f"v{number}", as_of, model=f"m{round_}-{number}")
        worker = processes.Process(target=expire_and_die, args=(str(shop.folder), now(31), moment))
        worker.start()
        worker.join(120)
        assert worker.exitcode == -signal.SIGKILL, moment
        unfinished += bool(shop.plan(now(31)))
        shown = shop.store.current(as_of)
        assert shown is not None and shown.version == "v5"
        assert shop.store.read(as_of).num_rows == 20
        for version in ("v4", "v5"):
            manifest = shop.store.manifest(as_of, version)
            assert manifest is not None
            assert shop.store.read(as_of, version).num_rows == 20
            assert all(storage.exists(uri) for uri in shop.needed_by(manifest))
        shop.expire(now(31))
        assert shop.plan(now(31)) == {}
        assert [one.version for one in shop.store.versions(as_of)] == ["v4", "v5"]
        shop.assert_whole(as_of)
        named = ("versions", "commits", "expired", "_delta_log", "runs")
        left = [path for path in shop.files() if not any(part in named for part in path.split("/"))]
        # Two versions of each date: parts, job, profile, snapshot, gate and model, and no more.
        assert len(left) == (round_ + 1) * 2 * (2 + 1 + 1 + 2 + 2 + 2)
    assert unfinished == len(MOMENTS)


# Any history

VERSIONS = st.sampled_from([f"v{number}" for number in range(5)])
DATES = st.sampled_from([DAY, DAY + dt.timedelta(days=1)])


class History(RuleBasedStateMachine):
    """Publishing, rolling back and expiring in any order, held against the plainest model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = tempfile.TemporaryDirectory()
        self.shop = Shop(Path(self.disk.name))
        self.current: dict[dt.date, str] = {}
        self.withdrawn: set[tuple[dt.date, str]] = set()

    def teardown(self) -> None:
        self.disk.cleanup()

    @rule(version=VERSIONS, as_of=DATES)
    def publish(self, version: str, as_of: dt.date) -> None:
        if self.current.get(as_of) == version:
            return
        if (as_of, version) in self.withdrawn:
            with pytest.raises(PermanentError, match="was rolled back by"):
                self.shop.publish(version, as_of)
            return
        self.shop.publish(version, as_of)
        self.current[as_of] = version

    @precondition(lambda self: self.current)
    @rule(version=VERSIONS, as_of=DATES)
    def rollback(self, version: str, as_of: dt.date) -> None:
        before = self.current.get(as_of)
        stored = {one.version for one in self.shop.store.versions(as_of)}
        decision = Decision(by="anna", at=now(), reason="")
        if before is None or version not in stored:
            with pytest.raises(PermanentError):
                self.shop.store.rollback(as_of, version, decision, replacing=before or "")
            return
        moved = self.shop.store.rollback(as_of, version, decision, replacing=before)
        assert moved.outcome == ("unchanged" if version == before else "published")
        if version != before:
            self.withdrawn.add((as_of, before))
            self.withdrawn.discard((as_of, version))
            self.current[as_of] = version

    @rule(version=VERSIONS, as_of=DATES)
    def crash_before_the_commit(self, version: str, as_of: dt.date) -> None:
        if version not in {one.version for one in self.shop.store.versions(as_of)}:
            stage(self.shop.store, self.shop.scored(version, as_of))

    @rule(days=st.sampled_from([0.0, 3.0, 40.0]), keep=st.integers(1, 3))
    def expire(self, days: float, keep: int) -> None:
        rules = Retention(versions=keep, rollback_days=30, crashed_hours=48)
        before = {
            as_of: [one.version for one in self.shop.store.versions(as_of)]
            for as_of in self.current
        }
        self.shop.expire(now(days), rules)
        for as_of, stored in before.items():
            after = [one.version for one in self.shop.store.versions(as_of)]
            # The current version is the last of them, and the newest stay.
            expected = stored if days < 30 else stored[-keep:]
            assert after == expected
        assert self.shop.plan(now(days), rules) == {}

    @invariant()
    def every_date_has_one_current_version_and_all_that_is_kept_is_whole(self) -> None:
        assert self.shop.store.current_versions() == self.current
        for as_of, version in self.current.items():
            listed = self.shop.store.versions(as_of)
            assert [one.version for one in listed if one.current] == [version]
            assert set(self.shop.store.read(as_of)["version"].to_pylist()) == {version}
            rolled = {one.version for one in listed if one.rolled_back}
            assert rolled <= {name for date, name in self.withdrawn if date == as_of}
            self.shop.assert_whole(as_of)


TestAnyHistory = History.TestCase
TestAnyHistory.settings = settings(
    max_examples=12,
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
