"""Versions that wait for a person: the question that the audit asks, and the answers to it.

Beside the receipts of a version lie `held.json`, the question as it stands, and `answer-0001.json`,
`answer-0002.json`, …, one for each question that was answered. An answer is created only where
there is none, so that of two people who answer at once one decides, and is the one on record.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo

from include import storage
from include.errors import PermanentError
from include.run import Check, Run, Value
from include.score_shift import Shift
from include.stored import load
from include.stores import Decision
from include.workspace import Workspace

Verdict = Literal["approved", "rejected", "expired"]
State = Literal["waiting", "approved", "rejected", "expired", "none"]

NOBODY = "the time limit"
_QUESTION = re.compile(r"/([^/]+)/(held|answer-\d+)\.json$")


class Rejected(PermanentError):
    """A person, or the time limit, decided that this version is not published."""


class Answered(PermanentError):
    """Somebody else has answered, and otherwise."""


class Held(Value):
    """A version that waits for a person: what the audit found, who asks, and until when.

    `question` counts the questions about this version, from 1. `run` asked it last. `replaces` is
    what readers had of the date: a version that takes its place meanwhile ends the question.
    `again` says why an answer from before counts no more; empty where there was none. `overruling`
    is a question of somebody who takes such an answer back: no run waits for what comes of it.
    """

    pipeline: str
    as_of: dt.date
    version: str
    question: int = 1
    run: Run
    held_at: dt.datetime
    until: dt.datetime
    replaces: str | None
    shift: Shift
    message: str
    checks: tuple[Check, ...]
    again: str = ""
    overruling: bool = False

    def until_local(self) -> str:
        return f"{self.until.astimezone(ZoneInfo(self.run.timezone)):%Y-%m-%d %H:%M} " + (
            self.run.timezone
        )

    @property
    def in_airflow(self) -> bool:
        """Whether a task of Airflow waits for the answer, and does the rest itself."""
        return self.run.invocation.orchestrator == "airflow" and not self.overruling

    def how_to_answer(self) -> str:
        """What a person types, or opens."""
        given = f"{self.pipeline} --date {self.as_of} --version {self.version}"
        where = ", in Airflow (required actions of the run) or here" if self.in_airflow else ""
        return (
            f"look at the report, then answer by {self.until_local()}{where}"
            + f": daybreak approve {given}, or daybreak reject {given}; without an answer it "
            "counts as rejected"
        )


class Answer(Value):
    """What was decided, by whom, when and why; `expired` is the time limit's answer.

    `replaces` is what readers had of the date when it was asked, which an approval is to replace.
    """

    verdict: Verdict
    by: str
    at: dt.datetime
    reason: str = ""
    replaces: str | None = None

    @property
    def decision(self) -> Decision:
        return Decision(by=self.by, at=self.at, reason=self.reason)

    def __str__(self) -> str:
        if self.verdict == "expired":
            return f"rejected by {NOBODY}: nobody answered until {self.at:%Y-%m-%d %H:%M:%S %Z}"
        return f"{self.verdict} {self.decision}"


@dataclass(frozen=True)
class Standing:
    """All that is known of the approval of one version; `held` is None where none was needed."""

    as_of: dt.date
    version: str
    held: Held | None
    answers: tuple[Answer, ...]

    def state(self, now: dt.datetime) -> State:
        """Where it stands: a question that nobody answered in time counts as `expired`."""
        if self.held is not None and self.held.question > len(self.answers):
            return "waiting" if now < self.held.until else "expired"
        return self.answers[-1].verdict if self.answers else "none"

    def answer(self, now: dt.datetime) -> Answer | None:
        """The answer that stands; the time limit's own where it is not written down yet."""
        if self.held is None or self.held.question <= len(self.answers):
            return self.answers[-1] if self.answers else None
        return expired(self.held) if now >= self.held.until else None

    @property
    def last(self) -> Answer | None:
        """The last answer on record, also where it is asked again since."""
        return self.answers[-1] if self.answers else None

    @property
    def rejection(self) -> Answer | None:
        """The last answer that a person gave, where that is no, whoever was asked since."""
        given = [answer for answer in self.answers if answer.verdict != "expired"]
        return given[-1] if given and given[-1].verdict == "rejected" else None

    def approval_to_replace(self, current: str | None, now: dt.datetime) -> Answer | None:
        """The approval that stands, where it was given while readers had what they have now."""
        if self.state(now) != "approved" or self.last is None or self.last.replaces != current:
            return None
        return self.last

    def why_again(self, current: str | None) -> str:
        """Why the approval on record is none of publishing it now; empty without such a one."""
        if self.last is None or self.last.verdict != "approved" or self.last.replaces == current:
            return ""
        return (
            f"it was {self.last}, to replace {self.last.replaces or 'nothing'}; readers have "
            f"{current or 'nothing'} now"
        )


def expired(held: Held) -> Answer:
    return Answer(verdict="expired", by=NOBODY, at=held.until, replaces=held.replaces)


def is_of_question(uri: str) -> bool:
    """Whether it is a file of a question to a person, or of an answer."""
    return _QUESTION.search(uri) is not None


def held_uri(workspace: Workspace, as_of: dt.date, version: str) -> str:
    return storage.join(workspace.scores(as_of, version), "held.json")


def answer_uri(workspace: Workspace, as_of: dt.date, version: str, question: int) -> str:
    return storage.join(workspace.scores(as_of, version), f"answer-{question:04d}.json")


def standing_of(workspace: Workspace, as_of: dt.date, version: str) -> Standing:
    """What is known of one version's approval."""
    answers: list[Answer] = []
    try:
        # Answers are numbered without a gap: reading up to the first that is missing needs no
        # listing of a folder with a receipt for each part.
        while True:
            uri = answer_uri(workspace, as_of, version, len(answers) + 1)
            answers.append(load(Answer, uri, "the answer about a held version"))
    except FileNotFoundError:
        pass
    try:
        held = load(Held, held_uri(workspace, as_of, version), "the question about a held version")
    except FileNotFoundError:
        held = None
    return Standing(as_of, version, held, tuple(answers))


def standings(workspace: Workspace, as_of: dt.date) -> list[Standing]:
    """Of every version of a date that was ever held, the one that was asked last at the end."""
    found = {
        match[1]
        for entry in storage.entries(workspace.scored(as_of))
        if (match := _QUESTION.search(entry.uri))
    }
    known = [standing_of(workspace, as_of, version) for version in sorted(found)]
    oldest = dt.datetime.min.replace(tzinfo=dt.UTC)
    return sorted(known, key=lambda each: each.held.held_at if each.held else oldest)


def ask(workspace: Workspace, held: Held) -> Held:
    """Write the question down; what stands.

    A question that waits for its answer already keeps its time limit, so that a retry does not
    prolong it, unless readers have another version since: then it is another question.
    """
    before = standing_of(workspace, held.as_of, held.version)
    state = before.state(held.held_at)
    if before.held is not None and state == "waiting" and before.held.replaces == held.replaces:
        kept = {"question": before.held.question}
        held = held.model_copy(
            update=kept | {"held_at": before.held.held_at, "until": before.held.until}
        )
    elif before.held is not None and state == "expired":
        answer(workspace, before.held, expired(before.held))
        held = held.model_copy(update={"question": before.held.question + 1})
    else:
        held = held.model_copy(update={"question": len(before.answers) + 1})
    uri = held_uri(workspace, held.as_of, held.version)
    storage.write(uri, held.model_dump_json(indent=2).encode())
    return held


def answer(workspace: Workspace, held: Held, given: Answer) -> Answer:
    """Record the answer to a question; the one that stands.

    It is another one than `given` where somebody gave the same answer before; Answered is raised
    where somebody answered otherwise. On record is also what the version was to replace.
    """
    given = given.model_copy(update={"replaces": held.replaces})
    uri = answer_uri(workspace, held.as_of, held.version, held.question)
    if storage.create(uri, given.model_dump_json(indent=2).encode()):
        return given
    first = load(Answer, uri, "the answer about a held version")
    if (first.verdict == "approved") != (given.verdict == "approved"):
        raise Answered(
            f"version {held.version} was {first} while this was decided: nothing was changed",
            do=f"look at the versions again: daybreak versions {held.pipeline} --date {held.as_of}",
            pipeline=held.pipeline,
        )
    return first


def forget(workspace: Workspace, as_of: dt.date, version: str) -> None:
    """Take the question back, where the version is published without an answer."""
    storage.delete([held_uri(workspace, as_of, version)])


def require_not_rejected(standing: Standing, pipeline: str) -> None:
    """Raise Rejected where a person said no: a repeat of the run does not ask again."""
    if (last := standing.rejection) is not None:
        raise rejected(standing, last, pipeline)


def rejected(standing: Standing, given: Answer, pipeline: str) -> Rejected:
    """The error of a version that is not to be published."""
    given_names = f"{pipeline} --date {standing.as_of} --version {standing.version}"
    do = "point the model's alias to a better version or mend the features, and run it again"
    if given.verdict == "expired" and standing.rejection is None:
        do = "run the partition again, which asks anew"
    return Rejected(
        f"version {standing.version} was {given}; readers keep what they had",
        do=f"{do}; if the version is right after all: daybreak approve {given_names} --overrule",
    )
