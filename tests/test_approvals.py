"""A version that the audit holds: approved, rejected, too late, and by two people at once."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import daybreak
from daybreak.cli import app
from daybreak.run import Outcome, new_request, run_steps
from include import approvals, storage
from include.approvals import Answer, Answered, Rejected, standing_of
from include.audit import AuditFailed
from include.errors import PermanentError, TransientError
from include.pipeline import load_pipeline
from include.reports.model import RunReport
from include.reports.records import read_records, step_record
from include.run import Invocation, Run, Value
from include.stores import Seen, Store, open_store
from include.workspace import Workspace
from tasks.approval import approve, reject, settle
from tasks.upkeep import upkeep
from tests.world import FIRST_DAY, NAME, ROWS, World, copy_world

NOW = dt.datetime.now(dt.UTC)
LATER = NOW + dt.timedelta(days=2)
FIRST = FIRST_DAY + dt.timedelta(days=1)


class Quiet:
    def started(self, step: str) -> None: ...

    def retrying(self, step: str, error: TransientError, attempt: int, seconds: float) -> None: ...

    def finished(self, step: str, seconds: float, result: Value) -> None: ...

    def failed(self, step: str, seconds: float, error: Exception) -> None: ...


def run(day: dt.date) -> Outcome:
    return run_steps(new_request(NAME, NOW, day), Quiet())


def store_of(world: World) -> Store:
    workspace = Workspace(world.workspace, NAME)
    return open_store(load_pipeline(world.folder).config.predictions, workspace.predictions())


def report_of(outcome: Outcome) -> RunReport:
    assert outcome.report is not None
    return RunReport.model_validate_json(storage.read(outcome.report.json_uri))


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


class Held:
    """A date of which a version waits for a person; readers have nothing of it."""

    def __init__(self, world: World, day: dt.date, outcome: Outcome) -> None:
        self.world, self.day, self.outcome = world, day, outcome
        self.version = str(report_of(outcome).lineage.version)
        self.store = store_of(world)
        self.workspace = Workspace(world.workspace, NAME)

    @property
    def current(self) -> str | None:
        found = self.store.current(self.day)
        return found.version if found else None

    def state(self, now: dt.datetime = NOW) -> str:
        return standing_of(self.workspace, self.day, self.version).state(now)

    def question(self) -> approvals.Held:
        held = standing_of(self.workspace, self.day, self.version).held
        assert held is not None
        return held

    def report(self) -> RunReport:
        return report_of(self.outcome)


@pytest.fixture(scope="module")
def waiting(
    built_world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Iterator[Held]]:
    """One date after another that waits for a person, each made once: a run takes seconds."""
    world = copy_world(built_world, tmp_path_factory.mktemp("held") / "world")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in world.env.items():
            patch.setenv(name, value)
        world.configure({"drift": {"trailing": 0}})
        assert run(FIRST).report.state == "published"  # type: ignore[union-attr]
        world.execute(f"UPDATE accounts SET visits = 0 WHERE event_date > '{FIRST}'")
        days = [FIRST + dt.timedelta(days=n) for n in range(1, 20)]
        # Before any of them is answered: a later one would be compared with it.
        outcomes = [(day, run(day)) for day in days]
        assert {outcome.report.state for _, outcome in outcomes if outcome.report} == {"held"}
        # The last date first: what is published of it is no reference for one before.
        yield (Held(world, day, outcome) for day, outcome in reversed(outcomes))


@pytest.fixture
def held(waiting: Iterator[Held]) -> Held:
    return next(waiting)


def test_a_held_version_is_seen_everywhere_with_how_to_answer(held: Held) -> None:
    assert held.state() == "waiting"
    found = standing_of(held.workspace, held.day, held.version).held
    assert found is not None and found.replaces is None
    assert found.until - found.held_at == dt.timedelta(hours=12)
    content = held.report()
    assert content.held is not None and content.held.version == held.version
    assert [check.name for check in content.held.audit if not check.passed] == ["score_shift"]
    assert content.problem is not None
    answer = f"daybreak approve {NAME} --date {held.day} --version {held.version}"
    assert answer in content.problem.do
    listed = json.loads(command("versions", NAME, "--date", str(held.day), "--json").stdout)
    assert [(each["version"], each["state"]) for each in listed["held"]] == [(held.version, "held")]
    assert "held" in command("versions", NAME, "--date", str(held.day)).stdout
    status = command("status", NAME, "--offline", "--json", "--from", str(held.day), "--to",
                     str(held.day))  # fmt: skip
    (state,) = json.loads(status.stdout)["partitions"]
    assert state["state"] == "held" and "waits for a person until" in state["reasons"][0]


def test_an_approved_version_is_published_with_who_decided_it_and_the_run_is_finished(
    held: Held,
) -> None:
    done = command("approve", NAME, "--date", str(held.day), "--by", "ann", "--reason", "a strike",
                   "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert (printed["outcome"], printed["version"]) == ("published", held.version)
    assert held.current == held.version
    assert daybreak.read(NAME, held.day).num_rows == ROWS
    version = held.store.versions(held.day)[-1]
    assert version.approval is not None
    assert (version.approval.by, version.approval.reason) == ("ann", "a strike")
    content = held.report()
    assert (content.state, content.drift is not None) == ("published", True)
    assert content.publish is not None and "approved by ann" in str(content.publish.note)
    assert content.held is not None and "approved by ann" in str(content.held.answer)
    listed = command("versions", NAME, "--date", str(held.day), "--json")
    last = json.loads(listed.stdout)["versions"][-1]
    assert (last["state"], last["approval"]["by"]) == ("current", "ann")
    # A repeat changes nothing, whoever types it, and a repeat of the run holds nothing.
    again = command("approve", NAME, "--date", str(held.day), "--by", "bob", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["answer"]["by"] == "ann"
    assert run(held.day).report.state == "unchanged"  # type: ignore[union-attr]
    refused = command("reject", NAME, "--date", str(held.day))
    assert refused.exit_code == 1 and "is published" in refused.stderr


def test_a_rejected_version_stays_out_whatever_is_repeated(held: Held) -> None:
    done = command("reject", NAME, "--date", str(held.day), "--by", "ann", "--reason", "no visits")
    assert done.exit_code == 0, done.output
    assert "rejected by ann" in done.stdout
    assert held.current is None
    content = held.report()
    assert content.state == "failed"
    assert content.problem is not None and "rejected by ann" in content.problem.found
    again = run(held.day)
    assert again.failed_step == "publish" and isinstance(again.error, Rejected)
    assert held.current is None
    late = command("approve", NAME, "--date", str(held.day), "--by", "bob")
    assert late.exit_code == 1
    assert "rejected by ann" in late.stderr and "--overrule" in late.stderr
    assert command("reject", NAME, "--date", str(held.day), "--by", "bob").exit_code == 0
    listed = json.loads(command("versions", NAME, "--date", str(held.day), "--json").stdout)
    assert [each["state"] for each in listed["held"]] == ["rejected"]
    # The person may have been wrong: another decision, on record as well.
    over = command("approve", NAME, "--date", str(held.day), "--by", "cid", "--overrule", "--json")
    assert over.exit_code == 0, over.output
    assert held.current == held.version
    answers = standing_of(held.workspace, held.day, held.version).answers
    assert [(each.verdict, each.by) for each in answers] == [
        ("rejected", "ann"),
        ("approved", "cid"),
    ]


def test_a_rejection_outlives_the_files_of_what_was_rejected(tiny: World) -> None:
    tiny.configure({"drift": {"trailing": 0}})
    assert run(FIRST).report.state == "published"  # type: ignore[union-attr]
    tiny.execute(f"UPDATE accounts SET visits = 0 WHERE event_date > '{FIRST}'")
    day = FIRST + dt.timedelta(days=1)
    held = Held(tiny, day, run(day))
    reject(NAME, day, None, "ann", "no visits", NOW)
    for days in (3, 30, 500):  # the records of the run are gone in the end, too
        upkeep(NAME, NOW + dt.timedelta(days=days))
    assert list(storage.entries(held.store.parts_uri(day, held.version))) == []
    left = {entry.uri.rpartition("/")[2] for entry in
            storage.entries(held.workspace.scores(day, held.version))}  # fmt: skip
    assert left == {"held.json", "answer-0001.json"}
    assert upkeep(NAME, NOW + dt.timedelta(days=500)).counts == {}
    listed = json.loads(command("versions", NAME, "--date", str(day), "--json").stdout)
    assert [(each["version"], each["state"]) for each in listed["held"]] == [
        (held.version, "rejected")
    ]
    assert "rejected by ann" in listed["held"][0]["note"] and listed["deleted"] == []
    gone = command("approve", NAME, "--date", str(day), "--overrule")
    assert gone.exit_code == 1 and "is not stored any more" in gone.stderr
    # Neither is it asked again nor, since readers got used to such scores, published unasked.
    tiny.configure({"predictions": {"audit": {"max_score_psi": 100.0}}})
    again = run(day)
    assert again.failed_step == "publish" and isinstance(again.error, Rejected), again.error
    assert "rejected by ann" in str(again.error) and "no visits" in str(again.error)
    assert (held.current, held.state()) == (None, "rejected")
    over = command("approve", NAME, "--date", str(day), "--by", "cid", "--overrule")
    assert over.exit_code == 0, over.output
    assert held.current == held.version


def test_a_rejected_version_is_compared_with_what_readers_have_by_now_before_it_is_published(
    held: Held,
) -> None:
    in_airflow(held)
    assert command("reject", NAME, "--date", str(held.day), "--by", "ann").exit_code == 0
    visits = f"(SELECT max(visits) FROM accounts WHERE event_date = '{FIRST}') * random()"
    held.world.execute(f"UPDATE accounts SET visits = {visits} WHERE event_date = '{held.day}'")
    held.world.configure({"predictions": {"audit": {"max_score_psi": 100.0}}})
    other = run(held.day)
    held.world.configure({"predictions": {"audit": {"max_score_psi": 0.5}}})
    assert other.report is not None and other.report.state == "published", other.error
    replaces = held.current
    answer = ("approve", NAME, "--date", str(held.day), "--version", held.version, "--by", "cid")
    asked = command(*answer, "--overrule")
    assert asked.exit_code == 3, asked.output
    assert f"from version {replaces} of {held.day}" in asked.stderr
    assert "rejected by ann" in asked.stderr and f"they have {replaces} now" in asked.stderr
    assert "daybreak approve" in asked.stderr
    question = held.question()
    assert (question.question, question.replaces) == (2, replaces)
    assert held.state() == "waiting" and held.current == replaces
    # Nothing but an answer publishes it: no repeat of the command, and no run that makes it again.
    assert command(*answer, "--overrule").exit_code == 3
    held.world.execute(f"UPDATE accounts SET visits = 0 WHERE event_date = '{held.day}'")
    held.world.configure({"predictions": {"audit": {"max_score_psi": 100.0}}})
    again = run(held.day)
    held.world.configure({"predictions": {"audit": {"max_score_psi": 0.5}}})
    assert isinstance(again.error, Rejected) and "rejected by ann" in str(again.error)
    assert report_of(held.outcome).state == "held"
    assert (held.state(), held.current) == ("waiting", replaces)
    # Who has seen the figures answers once more, and that is all it takes: no run waits for it.
    done = command(*answer)
    assert done.exit_code == 0, done.output
    assert "  report  " in done.stdout and "Airflow" not in done.stdout
    assert held.current == held.version
    assert held.store.versions(held.day)[-1].approval is not None


def test_without_an_answer_in_time_it_counts_as_rejected_and_the_next_run_asks_anew(
    held: Held,
) -> None:
    assert held.state(LATER) == "expired"
    with pytest.raises(Rejected, match="nobody answered until"):
        approve(NAME, held.day, None, "ann", "", LATER)
    assert held.current is None
    first = standing_of(held.workspace, held.day, held.version).held
    assert first is not None
    # A run of two days later, as the clock of the test has it.
    asked = first.model_copy(update={"held_at": LATER, "until": LATER + dt.timedelta(hours=12)})
    again = approvals.ask(held.workspace, asked)
    assert (again.question, held.state(LATER)) == (2, "waiting")
    assert approve(NAME, held.day, None, "ann", "", LATER).outcome == "published"
    verdicts = [
        each.verdict for each in standing_of(held.workspace, held.day, held.version).answers
    ]
    assert verdicts == ["expired", "approved"]


def test_a_repeat_of_the_run_does_not_prolong_the_time_to_answer(held: Held) -> None:
    before = standing_of(held.workspace, held.day, held.version).held
    assert run(held.day).report.state == "held"  # type: ignore[union-attr]
    after = standing_of(held.workspace, held.day, held.version).held
    assert before is not None and after is not None
    assert (after.until, after.question) == (before.until, before.question)
    assert after.run.planned_at > before.run.planned_at


def test_a_version_that_readers_have_moved_past_is_not_published(held: Held) -> None:
    held.world.execute(f"UPDATE accounts SET visits = 1 WHERE event_date = '{held.day}'")
    held.world.configure({"predictions": {"audit": {"max_score_psi": 100.0}}})
    assert run(held.day).report.state == "published"  # type: ignore[union-attr]
    held.world.configure({"predictions": {"audit": {"max_score_psi": 0.5}}})
    newer = held.current
    done = command("approve", NAME, "--date", str(held.day))
    assert done.exit_code == 1
    assert "not the next one any more" in done.stderr
    assert held.current == newer != held.version


def test_a_version_whose_files_changed_meanwhile_is_not_published(held: Held) -> None:
    files = storage.entries(held.store.parts_uri(held.day, held.version))
    (part,) = (entry.uri for entry in files if "/part-00001-" in entry.uri)
    storage.write(part, storage.read(part)[:-1] + b"x")
    with pytest.raises(AuditFailed, match="part 1 is not the file that was scored"):
        approve(NAME, held.day, None, "ann", "", NOW)
    assert (held.current, held.state()) == (None, "waiting")


@pytest.mark.parametrize("verdicts", [("approved", "approved"), ("approved", "rejected")])
def test_of_two_people_who_answer_at_once_one_decides(
    held: Held, verdicts: tuple[str, str]
) -> None:
    together, errors = threading.Barrier(2), list[Exception]()

    def answer(verdict: Any, by: str) -> None:
        together.wait()
        try:
            if verdict == "approved":
                approve(NAME, held.day, None, by, "", NOW)
            else:
                reject(NAME, held.day, None, by, "", NOW)
        except PermanentError as error:
            errors.append(error)

    people = [
        threading.Thread(target=answer, args=(verdict, by))
        for verdict, by in zip(verdicts, ("ann", "bob"), strict=True)
    ]
    for person in people:
        person.start()
    for person in people:
        person.join()
    (decided,) = standing_of(held.workspace, held.day, held.version).answers
    published = decided.verdict == "approved"
    assert held.current == (held.version if published else None)
    assert len(errors) == (0 if verdicts[0] == verdicts[1] else 1)
    if errors:
        assert isinstance(errors[0], Answered | Rejected) or "is published" in str(errors[0])
    committed = [each for each in held.store.versions(held.day) if each.version == held.version]
    assert len(committed) == (1 if published else 0)
    if published:
        assert committed[0].approval is not None and committed[0].approval.by == decided.by


def test_two_answers_to_one_question_are_one_on_record(held: Held) -> None:
    found = held.question()
    yes = Answer(verdict="approved", by="ann", at=NOW)
    no = Answer(verdict="rejected", by="bob", at=NOW)
    assert approvals.answer(held.workspace, found, yes) == yes
    assert approvals.answer(held.workspace, found, yes.model_copy(update={"by": "cid"})) == yes
    with pytest.raises(Answered, match="approved by ann"):
        approvals.answer(held.workspace, found, no)


def test_an_approval_that_was_killed_before_its_commit_is_finished_by_the_next(
    held: Held,
) -> None:
    found = held.question()
    approvals.answer(held.workspace, found, Answer(verdict="approved", by="ann", at=NOW))
    assert held.current is None
    # Whichever comes next: the same command, or the run.
    assert run(held.day).report.state == "published"  # type: ignore[union-attr]
    version = held.store.versions(held.day)[-1]
    assert (version.version, version.approval and version.approval.by) == (held.version, "ann")


def test_an_orchestrator_that_waits_takes_what_is_on_record_first(held: Held) -> None:
    found = held.question()
    no = Answer(verdict="rejected", by="ann", at=NOW, reason="on the command line")
    approvals.answer(held.workspace, found, no)
    yes = Answer(verdict="approved", by="bob", at=NOW)
    with pytest.raises(Rejected, match="rejected by ann"):
        settle(found.run, held.version, yes, NOW)
    assert held.current is None


def test_an_orchestrator_whose_time_is_up_puts_that_on_record(held: Held) -> None:
    found = held.question()
    with pytest.raises(TransientError, match="still waits"):
        settle(found.run, held.version, None, NOW)
    with pytest.raises(Rejected, match="nobody answered until"):
        settle(found.run, held.version, None, LATER)
    (answer,) = standing_of(held.workspace, held.day, held.version).answers
    assert answer.verdict == "expired"


def in_airflow(held: Held, **changes: Any) -> Run:
    """Let the question be one of a run in Airflow, and further `changes` of it; that run."""
    found = held.question()
    waits = Invocation(orchestrator="airflow", id="manual__1")
    asked = found.run.model_copy(update={"invocation": waits})
    uri = approvals.held_uri(held.workspace, held.day, held.version)
    found = found.model_copy(update={"run": asked, **changes})
    storage.write(uri, found.model_dump_json().encode())
    return asked


def test_an_answer_in_airflow_is_one_to_the_question_that_was_read_there(held: Held) -> None:
    asked = in_airflow(held)
    given = Answer(verdict="approved", by="ann", at=NOW)
    with pytest.raises(PermanentError, match="to replace vbefore; readers have nothing since"):
        settle(asked, held.version, given, NOW, Seen(version="vbefore"))
    assert (held.state(), held.current) == ("waiting", None)
    # Another run may have made the version meanwhile, and ask the same: each has its own record.
    other = asked.model_copy(update={"run_id": "another"})
    in_airflow(held, run=other)
    assert read_records(held.workspace, asked.run_id).published is None
    settle(asked, held.version, given, NOW, Seen(version=None))
    assert held.current == held.version
    for run_id in (asked.run_id, "another"):
        published = step_record(held.workspace, run_id, "publish")
        assert published is not None and published.outcome == "success"


def test_a_run_that_waits_goes_on_where_another_one_published_the_version_unasked(
    held: Held,
) -> None:
    asked = in_airflow(held)
    held.world.configure({"predictions": {"audit": {"max_score_psi": 100.0}}})
    other = run(held.day)
    held.world.configure({"predictions": {"audit": {"max_score_psi": 0.5}}})
    assert other.report is not None and other.report.state == "published", other.error
    assert held.current == held.version
    assert settle(asked, held.version, None, NOW).outcome == "unchanged"
    assert read_records(held.workspace, asked.run_id).published is not None


def test_a_rejection_that_was_killed_before_it_was_told_is_told_by_the_next(held: Held) -> None:
    no = Answer(verdict="rejected", by="ann", at=NOW)
    approvals.answer(held.workspace, held.question(), no)
    assert held.report().state == "held"
    done = command("reject", NAME, "--date", str(held.day), "--by", "bob", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["answer"]["by"] == "ann"
    assert held.report().state == "failed"


def test_a_run_in_airflow_that_waits_is_left_to_report_itself(held: Held) -> None:
    asked = in_airflow(held)
    decided = approve(NAME, held.day, None, "ann", "", NOW)
    assert (decided.outcome, decided.report) == ("published", None)
    assert settle(asked, held.version, None, NOW).version == held.version


def test_what_never_was_held_cannot_be_answered(tiny: World) -> None:
    for arguments in (("approve",), ("reject",), ("approve", "--version", "v000000000000")):
        verb, *rest = arguments
        done = command(verb, NAME, "--date", str(tiny.day), *rest)
        assert done.exit_code == 1
        assert "held" in done.stderr or "waits for a person" in done.stderr
    assert command("approve", "tinny", "--date", str(tiny.day)).exit_code == 2


def test_publish_is_the_step_that_is_on_record_after_the_answer(held: Held) -> None:
    reject(NAME, held.day, None, "ann", "", NOW)
    steps = {line.step: line for line in held.report().steps}
    assert (steps["publish"].outcome, steps["publish"].note) == ("failed", "Rejected")
