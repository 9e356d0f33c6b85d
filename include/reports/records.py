"""What a run left in its folder, read back; whatever is missing is None, never an error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import ValidationError

from include import storage
from include.errors import CorruptData
from include.run import (
    DriftResult,
    GateResult,
    Published,
    Request,
    Run,
    Scored,
    Snapshot,
    StepRecord,
    Value,
)
from include.scoring import version_id
from include.stored import load
from include.workspace import Workspace

STEPS = ("plan", "extract", "gate", "score", "publish", "drift")
# The error of publish's record where a person has to look first; include/audit.py has the class,
# and numpy with it.
HELD = "HeldForApproval"
PLANNED = "the record of a planned run"
# Publish and drift both stand on score, and neither on the other.
_BEFORE = {step: STEPS[:index] for index, step in enumerate(STEPS)} | {"drift": STEPS[:4]}

Result = TypeVar("Result", bound=Value)


@dataclass(frozen=True)
class RunRecords:
    """The records of one run.

    A step that stands behind a failed one has at most a record of an earlier attempt: it is among
    `records`, and its result counts for nothing. `folder` is where all of it lies.
    """

    request: Request | None
    run: Run | None
    records: dict[str, StepRecord] = field(default_factory=dict)
    folder: str = ""

    def failed(self, step: str) -> bool:
        record = self.records.get(step)
        return record is not None and record.outcome == "failed"

    @property
    def held(self) -> bool:
        """Whether the audit held the version, so that a person has to answer."""
        error = self.records["publish"].error if self.failed("publish") else None
        return error is not None and error.get("error") == HELD

    def outdated(self, step: str) -> bool:
        """Whether the step's record is of an attempt before the one that failed in front of it."""
        return step in self.records and any(self.failed(before) for before in _BEFORE[step])

    def result(self, step: str, kind: type[Result]) -> Result | None:
        """What the step returned, or had stored before it failed.

        Raises CorruptData where that is no such value.
        """
        record = self.records.get(step)
        if record is None or record.result is None or self.outdated(step):
            return None
        try:
            return kind.model_validate(record.result)
        except ValidationError as error:
            raise CorruptData(
                f"the record of the step {step} holds another result than the step's: "
                f"{error.errors()[0]['msg']}",
                where=storage.join(self.folder, "steps", f"{step}.json"),
                do="restore it from a backup, or delete it and run the partition again",
            ) from None

    @property
    def snapshot(self) -> Snapshot | None:
        return self.result("extract", Snapshot)

    @property
    def gate(self) -> GateResult | None:
        return self.result("gate", GateResult)

    @property
    def scored(self) -> Scored | None:
        return self._of_this_attempt(self.result("score", Scored))

    @property
    def published(self) -> Published | None:
        """None where publish failed, or left its last record for other inputs than the planned."""
        if self.failed("publish"):
            return None
        return self._of_this_attempt(self.result("publish", Published))

    @property
    def drift(self) -> DriftResult | None:
        return None if self.failed("drift") else self.result("drift", DriftResult)

    def _of_this_attempt(self, value: _Versioned | None) -> _Versioned | None:
        """The value, where its version is made of what this run planned and extracted.

        A run that is repeated may plan another model; a step that is then killed before it writes
        its record has left the one of the attempt before.
        """
        if value is None or self.run is None or self.snapshot is None:
            return value
        version = version_id(self.snapshot.digest, self.run.model.digest, self.run.config_digest)
        return value if value.version == version else None


_Versioned = TypeVar("_Versioned", Scored, Published)


def read_records(workspace: Workspace, run_id: str) -> RunRecords:
    """Everything in the run's folder that the report is made from.

    Raises CorruptData, which names the file, where one of them holds other bytes.
    """
    folder = workspace.run(run_id)
    records = {step: step_record(workspace, run_id, step) for step in STEPS}
    request = storage.join(folder, "request.json")
    return RunRecords(
        request=_read(request, Request, "the record of what was asked for"),
        run=_read(storage.join(folder, "run.json"), Run, PLANNED),
        records={step: record for step, record in records.items() if record is not None},
        folder=folder,
    )


def step_record(workspace: Workspace, run_id: str, step: str) -> StepRecord | None:
    """The record of one step of a run; None where the step has left none."""
    return _read(workspace.step(run_id, step), StepRecord, f"the record of the step {step}")


def _read(uri: str, kind: type[Result], what: str) -> Result | None:
    try:
        return load(kind, uri, what)
    except FileNotFoundError:
        return None
