"""approval: a person publishes a version that the audit held, or refuses it."""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass
from typing import Literal

from include import approvals
from include.approvals import Answer, Held, Rejected, Standing, standing_of, standings
from include.audit import Audited, HeldForApproval, audit, require
from include.errors import DaybreakError, PermanentError, TransientError
from include.partition import Partition
from include.pipeline import load_named, planned_pipeline
from include.reports.records import read_records
from include.run import Published, Report, Run, Value
from include.settings import settings, silence_telemetry
from include.snapshots import manifest_at
from include.stores import Overtaken, Seen, Store, Version, VersionManifest, open_store
from include.workspace import Workspace
from tasks.drift import drift
from tasks.publish import asked, followed, noted, require_not_rolled_back
from tasks.report import report
from tasks.step import step_of

log = logging.getLogger("daybreak")


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


@dataclass(frozen=True)
class _Case:
    """A held version with what is known of it at the moment of the answer."""

    workspace: Workspace
    store: Store
    standing: Standing
    held: Held
    current: Version | None
    now: dt.datetime

    @property
    def published(self) -> bool:
        return self.current is not None and self.current.version == self.held.version

    @property
    def seen(self) -> Seen:
        return Seen.of(self.current)

    @property
    def on_record(self) -> Answer | None:
        """The answer that stands, the time limit's included; None while the question is open."""
        return self.standing.answer(self.now)


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
) -> Decided:
    """Publish a held version of the partition of `day`, with who decided it, when and why.

    Without `version`, the one that waits. It is looked at again first: readers must still have
    what they had when it was held, and its files must be those that were scored. `overrule` also
    takes one that was rejected, or that nobody answered in time; where readers have another version
    since, it is compared with that one and asked again, which raises HeldForApproval. Publishing it
    twice, or while somebody else does, is publishing it once. With `finish`, the steps after
    publish are run too, unless the run that asked waits and does that. Raises PermanentError where
    it cannot be published.
    """
    silence_telemetry()
    case = _case(pipeline, day, version, now, "approve")
    held, answered = case.held, case.on_record
    try:
        if not case.published:
            if answered is not None and answered.verdict != "approved":
                if not overrule:
                    raise approvals.rejected(case.standing, answered)
                if case.seen.version != held.replaces:
                    raise _asked_again(case, answered)
            _require_publishable(case)
            if answered is not None and answered.verdict != "approved":
                fresh = {"held_at": now, "until": now + dt.timedelta(hours=1)}
                held = approvals.ask(case.workspace, held.model_copy(update=fresh))
                answered = None
        given = Answer(verdict="approved", by=by, at=now, reason=reason)
        if answered is None:
            given = approvals.answer(case.workspace, held, given)
        elif answered.verdict == "approved":
            given = answered
        published = _commit(case, given)
    except DaybreakError as error:
        raise error.located(pipeline, str(held.as_of)) from None
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
    case = _case(pipeline, day, version, now, "reject")
    held, answered = case.held, case.on_record
    if case.published:
        raise PermanentError(
            f"version {held.version} is published: it cannot be rejected any more",
            do=f"daybreak rollback {pipeline} --date {held.as_of}",
            pipeline=pipeline,
            partition=str(held.as_of),
        )
    given = Answer(verdict="rejected", by=by, at=now, reason=reason)
    report_made = None
    if answered is None or answered.verdict == "approved":
        try:
            given = approvals.answer(case.workspace, held, given)
        except DaybreakError as error:
            raise error.located(pipeline, str(held.as_of)) from None
        _record_rejection(case.standing, held, given)
        report_made = None if _goes_on(case) else report(held.pipeline, held.run.run_id)
    return Decided(
        pipeline=pipeline,
        as_of=held.as_of,
        version=held.version,
        outcome="rejected" if answered is None else "unchanged",
        answer=answered or given,
        published=None,
        run_id=held.run.run_id,
        report=report_made,
    )


def settle(run: Run, version: str, given: Answer | None, now: dt.datetime) -> Published:
    """The end of a question that an orchestrator asked: what was published, or Rejected is raised.

    `given` is what the orchestrator was answered, None where it found an answer on record or the
    time limit passed. What is on record goes first: somebody may have answered on the command line
    meanwhile, which then did the rest too.
    """
    workspace, as_of = Workspace(run.workspace, run.pipeline), run.partition.as_of
    standing = standing_of(workspace, as_of, version)
    answered = standing.answer(now) or given
    if answered is None:
        # Also where this machine's clock is behind the one that saw the time limit pass.
        raise TransientError(
            f"version {version} still waits for a person",
            do=standing.held.how_to_answer() if standing.held else "",
        ).located(run.pipeline, str(as_of))
    if answered.verdict == "approved":
        by, reason, at = answered.by, answered.reason, answered.at
        decided = approve(run.pipeline, as_of, version, by, reason, at, finish=False)
        assert decided.published is not None
        return decided.published
    held = standing.held
    if held is not None and held.question > len(standing.answers):
        answered = approvals.answer(workspace, held, answered)
    raise _record_rejection(standing, held, answered, run)


def _case(pipeline: str, day: dt.date, version: str | None, now: dt.datetime, verb: str) -> _Case:
    """The version that is meant; raises PermanentError where that is none, or not one alone."""
    where = settings()
    config = load_named(where.pipelines, pipeline).config
    workspace = Workspace(where.workspace, pipeline)
    store = open_store(config.predictions, workspace.predictions())
    as_of = Partition.containing(day, config.partition.grain).as_of
    known = [each for each in standings(workspace, as_of) if each.held is not None]
    waiting = [each for each in known if each.state(now) == "waiting"]
    see = f"see daybreak versions {pipeline} --date {as_of}"
    error = None
    if version is not None:
        known = [each for each in known if each.version == version]
        if not known:
            error = PermanentError(f"no version {version} of {as_of} is held for a person", do=see)
    elif len(waiting) > 1:
        names = ", ".join(each.version for each in waiting)
        error = PermanentError(
            f"{len(waiting)} versions of {as_of} wait for a person: {names}",
            do=f"name the one to {verb} with --version",
        )
    elif not known:
        error = PermanentError(f"no version of {as_of} waits for a person", do=see)
    if error is not None:
        raise error.located(pipeline)
    # Where none waits, the last one that did: what follows says who answered it.
    standing = (waiting or known)[-1]
    assert standing.held is not None
    return _Case(workspace, store, standing, standing.held, store.current(as_of), now)


def _require_publishable(case: _Case) -> None:
    """Raise unless the version is still what would be published, and its files what was scored."""
    held, has = case.held, case.seen.version
    # The question may be asked anew, of other readers, in the moment in which somebody answers it.
    given = case.on_record
    approved = given is not None and given.verdict == "approved"
    had = given.replaces if given is not None and approved else held.replaces
    if has != had:
        raise _not_the_next(held, had, has)
    manifest = _manifest(case)
    require_not_rolled_back(case.store, manifest)
    config = planned_pipeline(held.run).config
    source = manifest_at(manifest.snapshot_uri)
    require(audit(manifest, source, config.predictions.audit, config.model.output), manifest)


def _not_the_next(held: Held, had: str | None, has: str | None) -> PermanentError:
    return PermanentError(
        f"version {held.version} was held while readers had {had or 'nothing'} of "
        f"{held.as_of}, and they have {has or 'nothing'} now: it is not the next one any more",
        do="run the partition again, which compares it with what readers have now",
    )


def _asked_again(case: _Case, given: Answer) -> HeldForApproval:
    """Compare a version that was refused with what readers have now, and ask a person about that.

    A run would not: it is refused by the answer on record. Asked anew, the version counts as
    planned now, after the one that it is compared with.
    """
    held, manifest = case.held, _manifest(case)
    require_not_rolled_back(case.store, manifest)
    config = planned_pipeline(held.run).config
    audited = audit(
        manifest,
        manifest_at(manifest.snapshot_uri),
        config.predictions.audit,
        config.model.output,
        followed(case.store, held.as_of, case.current),
    )
    try:
        require(audited, manifest)
    except HeldForApproval as error:
        found = error.found
    else:
        found = f"version {held.version}: {audited.shift}"
    again = (
        f"it was {given}, when readers had {held.replaces or 'nothing'}; they have "
        f"{case.seen.version or 'nothing'} now"
    )
    run = held.run.model_copy(update={"planned_at": case.now})
    return asked(run, config, manifest, audited, case.seen, found, again, case.now)


def _manifest(case: _Case) -> VersionManifest:
    manifest = case.store.manifest(case.held.as_of, case.held.version)
    if manifest is None:
        again = "run the partition again, which makes it anew"
        if case.standing.rejection is not None:
            again += " and leaves it rejected; then give this command once more"
        raise PermanentError(f"version {case.held.version} is not stored any more", do=again)
    return manifest


def _commit(case: _Case, given: Answer) -> Published:
    """Move the table, and record it as the publish step of the run that asked."""
    held = case.held
    before = read_records(case.workspace, held.run.run_id).published
    if case.published and before is not None and before.version == held.version:
        return before
    with step_of(held.run, "publish") as recorder:
        try:
            published = case.store.commit(
                _manifest(case), held.run.planned_at, given.decision, seen=case.seen
            )
        except Overtaken:
            has = Seen.of(case.store.current(held.as_of)).version
            raise _not_the_next(held, case.seen.version, has) from None
        audited = Audited(held.checks, held.shift)
        recorder.result = result = noted(held.run, published, given.decision, audited)
    return result


def _record_rejection(
    standing: Standing, held: Held | None, given: Answer, run: Run | None = None
) -> Rejected:
    """The error, recorded as the publish step of the run that asked."""
    asked = run or (held.run if held is not None else None)
    error = approvals.rejected(standing, given)
    if asked is None:
        return error
    try:
        with step_of(asked, "publish"):
            raise error
    except Rejected as raised:
        return raised


def _goes_on(case: _Case) -> bool:
    """Whether the run that asked still waits in its orchestrator, and does the rest itself."""
    open_still = case.standing.state(case.now) == "waiting"
    return open_still and case.held.run.invocation.orchestrator == "airflow"


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
