"""A version that the audit held, as an answer finds it: what is asked, and may it be published."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

from include import approvals
from include.approvals import Answer, Held, Standing, standing_of, standings
from include.audit import Audited, HeldForApproval, audit, require
from include.errors import PermanentError
from include.partition import Partition
from include.pipeline import load_named, planned_pipeline
from include.score_shift import Reference
from include.settings import settings
from include.snapshots import manifest_at
from include.stores import Seen, Store, Version, VersionManifest, open_store
from include.workspace import Workspace
from tasks.publish import asked, followed


@dataclass(frozen=True)
class HeldVersion:
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
    def had(self) -> str | None:
        """What readers had when the answer on record was given, or else when it was asked.

        The question may be asked anew, of other readers, in the moment in which somebody answers.
        """
        return self.on_record.replaces if self.on_record is not None else self.held.replaces

    @property
    def on_record(self) -> Answer | None:
        """The answer that stands, the time limit's included; None while the question is open."""
        return self.standing.answer(self.now)


def held_version(
    pipeline: str, day: dt.date, version: str | None, now: dt.datetime, verb: str
) -> HeldVersion:
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
    return HeldVersion(workspace, store, standing, standing.held, store.current(as_of), now)


def to_publish(case: HeldVersion, overrule: bool) -> HeldVersion:
    """The question that an approval answers, or has answered, once the version was looked at again.

    One that was refused is asked anew where `overrule` says so, and then counts as planned now,
    after whatever readers have. Raises HeldForApproval where it was compared anew for that, or has
    to be once more.
    """
    held, answered, moved = case.held, case.on_record, case.seen.version != case.had
    anew = replace(case, held=_asked_now(held, case.now))
    if answered is None and held.overruling and case.standing.last is not None:
        if moved:
            raise _compared_anew(anew, case.standing.last)
        if overrule and held.again:
            # This command has asked it, and may have been killed before anybody read that.
            raise HeldForApproval(held.message, do=held.how_to_answer())
    refused = answered if answered is not None and answered.verdict != "approved" else None
    if answered is None and not held.overruling:
        refused = case.standing.rejection  # of a run that asked while somebody said no
    if refused is None:
        _require_publishable(case)
        return case
    if not overrule:
        raise approvals.rejected(case.standing, refused, held.pipeline)
    if moved:
        raise _compared_anew(anew, refused)
    _require_publishable(anew)
    question = approvals.ask(case.workspace, anew.held)
    standing = standing_of(case.workspace, held.as_of, held.version)
    return replace(anew, held=question, standing=standing)


def _asked_now(held: Held, now: dt.datetime) -> Held:
    """The question of somebody who takes an answer back; it waits for an hour."""
    fresh = {
        "run": held.run.model_copy(update={"planned_at": now}),
        "held_at": now,
        "until": now + dt.timedelta(hours=1),
        "again": "",
        "overruling": True,
    }
    return held.model_copy(update=fresh)


def _require_publishable(case: HeldVersion) -> None:
    """Raise unless the version is still what would be published, and its files what was scored."""
    if case.seen.version != case.had:
        raise not_the_next(case.held, case.had, case.seen.version)
    manifest = manifest_of(case)
    require(_audited(case, manifest), manifest)


def _compared_anew(case: HeldVersion, given: Answer) -> HeldForApproval:
    """Compare a version that was refused with what readers have now, and ask a person about that.

    A run would not: the answer on record refuses it.
    """
    held, manifest = case.held, manifest_of(case)
    audited = _audited(case, manifest, followed(case.store, held.as_of, case.current))
    found = f"version {held.version}: {audited.shift}"
    try:
        require(audited, manifest)
    except HeldForApproval as error:
        found = error.found
    if audited.shift is None:
        raise PermanentError(
            f"version {held.version} cannot be compared with version {case.seen.version}, which "
            "readers have: one of them has no finite score",
            do="look at both with daybreak diff, and publish another version of the date first",
        )
    again = (
        f"it was {given}, when readers had {given.replaces or 'nothing'}; they have "
        f"{case.seen.version or 'nothing'} now"
    )
    config = planned_pipeline(held.run).config
    return asked(
        held.run, config, manifest, audited, case.seen, found, again, case.now, overruling=True
    )


def _audited(
    case: HeldVersion, manifest: VersionManifest, reference: Reference | None = None
) -> Audited:
    """The audit of the version as it lies there; raises where another one came first for good."""
    case.store.require_not_superseded(manifest, case.held.run.planned_at)
    config, source = planned_pipeline(case.held.run).config, manifest_at(manifest.snapshot_uri)
    return audit(manifest, source, config.predictions.audit, config.model.output, reference)


def not_the_next(held: Held, had: str | None, has: str | None) -> PermanentError:
    return PermanentError(
        f"version {held.version} was held while readers had {had or 'nothing'} of "
        f"{held.as_of}, and they have {has or 'nothing'} now: it is not the next one any more",
        do="run the partition again, which compares it with what readers have now",
    )


def manifest_of(case: HeldVersion) -> VersionManifest:
    manifest = case.store.manifest(case.held.as_of, case.held.version)
    if manifest is None:
        again = "run the partition again, which makes it anew"
        if case.standing.rejection is not None:
            again += " and leaves it rejected; then give this command once more"
        raise PermanentError(f"version {case.held.version} is not stored any more", do=again)
    return manifest
