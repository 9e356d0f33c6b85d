"""approval: a person publishes a version that the audit held, or refuses it."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Literal, TypeVar

from include import approvals
from include.approvals import Answer, Held, Rejected, Standing, standing_of
from include.audit import Audited, HeldForApproval
from include.errors import DaybreakError, PermanentError, TransientError
from include.pipeline import planned_pipeline
from include.reports.records import read_records
from include.run import Published, Report, Run, Value
from include.settings import silence_telemetry
from include.stores import Overtaken, Seen, open_store
from include.workspace import Workspace
from tasks.drift import drift
from tasks.held_version import HeldVersion, held_version, manifest_of, not_the_next, to_publish
from tasks.publish import noted
from tasks.report import report
from tasks.step import step_of

log = logging.getLogger("daybreak")

Failure = TypeVar("Failure", HeldForApproval, Rejected)


class Decided(Value):
    """What became of an answer; `answer` is the one on record, which may be an earlier one.

    `unchanged` is a version that was published already, or a rejection that was on record.
    `published` is None where the version was rejected. `report` is None where the run that asked
    waits in Airflow: it goes on by itself, and reports at its own end.
    """

    pipeline: str
    as_of: dt.date
    version: str
    outcome: Literal["published", "rejected", "unchanged"]
    answer: Answer
    published: Published | None
    run_id: str
    report: Report | None = None


def approve(
    pipeline: str,
    day: dt.date,
    version: str | None,
    by: str,
    reason: str,
    now: dt.datetime,
    *,
    overrule: bool = False,
    finish: bool = True,
    shown: Seen | None = None,
) -> Decided:
    """Publish a held version of the partition of `day`, with who decided it, when and why.

    Without `version`, the one that waits. It is looked at again first: readers must still have
    what they had when it was held, and its files must be those that were scored. `overrule` also
    takes one that was rejected, or that nobody answered in time; where readers have another version
    since, it is compared with that one and asked again, which raises HeldForApproval. Publishing it
    twice, or while somebody else does, is publishing it once. With `finish`, the steps after
    publish are run too, unless the run that asked waits and does that. `shown` is what the question
    said that readers had, where somebody answers to that. Raises PermanentError where it cannot be
    published.
    """
    silence_telemetry()
    case = held_version(pipeline, day, version, now, "approve")
    try:
        given = Answer(verdict="approved", by=by, at=now, reason=reason)
        _require_shown(case.standing, case.held, given, shown)
        if not case.published:
            case = to_publish(case, overrule)
        held, answered = case.held, case.on_record
        if answered is None:
            given = approvals.answer(case.workspace, held, given)
        elif case.published or answered.verdict == "approved":
            given = answered
        else:
            raise approvals.rejected(case.standing, answered, pipeline)
        published = _commit(case, given)
    except HeldForApproval as error:
        _recorded(error, case.held.run)
        report(pipeline, case.held.run.run_id)
        raise error.located(pipeline, str(case.held.as_of)) from None
    except DaybreakError as error:
        raise error.located(pipeline, str(case.held.as_of)) from None
    return Decided(
        pipeline=pipeline,
        as_of=held.as_of,
        version=held.version,
        outcome="unchanged" if case.published else "published",
        answer=given,
        published=published,
        run_id=held.run.run_id,
        report=_finished(held.run) if finish and not _goes_on(case) else None,
    )


def reject(
    pipeline: str, day: dt.date, version: str | None, by: str, reason: str, now: dt.datetime
) -> Decided:
    """Refuse a held version of the partition of `day`: a repeat of its run stays refused.

    Without `version`, the one that waits. Raises PermanentError where it is published already, or
    where somebody approved it.
    """
    silence_telemetry()
    case = held_version(pipeline, day, version, now, "reject")
    held, answered = case.held, case.on_record
    if case.published:
        raise PermanentError(
            f"version {held.version} is published: it cannot be rejected any more",
            do=f"daybreak rollback {pipeline} --date {held.as_of}",
            pipeline=pipeline,
            partition=str(held.as_of),
        )
    given, report_made = answered, None
    if given is None or given.verdict == "approved":
        given = Answer(verdict="rejected", by=by, at=now, reason=reason)
        try:
            given = approvals.answer(case.workspace, held, given)
        except DaybreakError as error:
            raise error.located(pipeline, str(held.as_of)) from None
    # Also where somebody answered, and was killed before it was told.
    if answered is None or read_records(case.workspace, held.run.run_id).held:
        _recorded(approvals.rejected(case.standing, given, pipeline), held.run)
        report_made = None if _goes_on(case) else report(held.pipeline, held.run.run_id)
    return Decided(
        pipeline=pipeline,
        as_of=held.as_of,
        version=held.version,
        outcome="rejected" if answered is None else "unchanged",
        answer=given,
        published=None,
        run_id=held.run.run_id,
        report=report_made,
    )


def settle(
    run: Run, version: str, given: Answer | None, now: dt.datetime, shown: Seen | None = None
) -> Published:
    """The end of a question that an orchestrator asked: what was published, or Rejected is raised.

    `given` is what the orchestrator was answered, None where it found an answer on record or the
    time limit passed. What is on record goes first: somebody may have answered on the command line
    meanwhile, which then did the rest too. `shown` is what the question said that readers had:
    PermanentError is raised where it is asked of other readers by now.
    """
    workspace, as_of = Workspace(run.workspace, run.pipeline), run.partition.as_of
    standing = standing_of(workspace, as_of, version)
    answered, held = standing.answer(now), standing.held
    if held is None:
        return _no_more_asked(run, version)
    if answered is None and given is not None:
        _require_shown(standing, held, given, shown)
        answered = given
    if answered is None:
        # Also where this machine's clock is behind the one that saw the time limit pass.
        raise TransientError(
            f"version {version} still waits for a person",
            do=held.how_to_answer(),
        ).located(run.pipeline, str(as_of))
    if answered.verdict == "approved":
        by, reason, at = answered.by, answered.reason, answered.at
        decided = approve(run.pipeline, as_of, version, by, reason, at, finish=False, shown=shown)
        assert decided.published is not None
        if decided.run_id != run.run_id:
            # Another run has asked the same question since, and has the record.
            with step_of(run, "publish") as recorder:
                recorder.result = decided.published
            if not held.in_airflow:
                _finished(held.run)
        return decided.published
    if held.question > len(standing.answers):
        answered = approvals.answer(workspace, held, answered)
    raise _recorded(approvals.rejected(standing, answered, run.pipeline), run)


def _commit(case: HeldVersion, given: Answer) -> Published:
    """Move the table, and record it as the publish step of the run that asked."""
    held = case.held
    before = read_records(case.workspace, held.run.run_id).published
    if case.published and before is not None and before.version == held.version:
        return before
    with step_of(held.run, "publish") as recorder:
        try:
            published = case.store.commit(
                manifest_of(case), held.run.planned_at, given.decision, seen=case.seen
            )
        except Overtaken:
            has = Seen.of(case.store.current(held.as_of)).version
            raise not_the_next(held, case.seen.version, has) from None
        audited = Audited(held.checks, held.shift)
        recorder.result = result = noted(held.run, published, given.decision, audited)
    return result


def _no_more_asked(run: Run, version: str) -> Published:
    """What became of a question that somebody took back: another run published the version."""
    store = open_store(
        planned_pipeline(run).config.predictions,
        Workspace(run.workspace, run.pipeline).predictions(),
    )
    with step_of(run, "publish") as recorder:
        current = store.current(run.partition.as_of)
        manifest = store.manifest(run.partition.as_of, version)
        if current is None or current.version != version or manifest is None:
            raise PermanentError(
                f"nobody is asked about version {version} any more, and readers have "
                f"{current.version if current is not None else 'nothing'}",
                do="clear the task publish, which looks again",
            )
        recorder.result = published = store.commit(manifest, run.planned_at)
    return published


def _require_shown(standing: Standing, held: Held, given: Answer, shown: Seen | None) -> None:
    """Raise where an answer to an open question was given when that was about other readers."""
    still_open = held.question > len(standing.answers)
    if shown is not None and still_open and shown.version != held.replaces:
        raise PermanentError(
            f"version {held.version} was {given}, to replace {shown.version or 'nothing'}; readers "
            f"have {held.replaces or 'nothing'} since, and the question is about that",
            do=held.how_to_answer(),
        ).located(held.pipeline, str(held.as_of))


def _recorded(error: Failure, run: Run) -> Failure:
    """The error, recorded as the publish step of the run that asked."""
    try:
        with step_of(run, "publish"):
            raise error
    except type(error) as raised:
        return raised


def _goes_on(case: HeldVersion) -> bool:
    """Whether the run that asked still waits in its orchestrator, and does the rest itself."""
    return case.standing.state(case.now) == "waiting" and case.held.in_airflow


def _finished(run: Run) -> Report:
    """The steps after publish, for a run that ended when its version was held."""
    records = read_records(Workspace(run.workspace, run.pipeline), run.run_id)
    snapshot, gate, scored = records.snapshot, records.gate, records.scored
    if records.drift is None and snapshot is not None and gate is not None and scored is not None:
        try:
            drift(run, snapshot, gate, scored)
        except DaybreakError as error:
            # Published all the same; the report says that drift was not measured, and why.
            log.warning("%s", error)
    return report(run.pipeline, run.run_id)
