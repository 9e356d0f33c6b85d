"""The two kinds of failure: those that a retry cannot help, and those that it can."""

from __future__ import annotations

from typing import Any


class DaybreakError(Exception):
    """What was found, where, and what to do about it.

    `found` is a full sentence without the final stop; `do` is the next action, in the imperative.
    `where` names a file, with its line where there is one. `pipeline` and `partition` may be left
    out where they are not known: the step that was running fills them in (see `located`).
    """

    def __init__(
        self, found: str, *, do: str = "", where: str = "", pipeline: str = "", partition: str = ""
    ) -> None:
        super().__init__(found)
        self.found = found
        self.do = do
        self.where = where
        self.pipeline = pipeline
        self.partition = partition

    def located(self, pipeline: str = "", partition: str = "") -> DaybreakError:
        """The same error, with the pipeline and the partition where it had none."""
        self.pipeline = self.pipeline or pipeline
        self.partition = self.partition or partition
        return self

    def fields(self) -> dict[str, str]:
        return {
            "error": type(self).__name__,
            "found": self.found,
            "do": self.do,
            "where": self.where,
            "pipeline": self.pipeline,
            "partition": self.partition,
        }

    def __str__(self) -> str:
        subject = " ".join(filter(None, (self.pipeline, self.partition)))
        text = f"{subject}: {self.found}" if subject else self.found
        if self.where:
            text += f" ({self.where})"
        return f"{text}. {self.do[0].upper()}{self.do[1:]}." if self.do else f"{text}."

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive the default pickling of exceptions, and errors
        # cross process pools, Spark and Airflow's supervisor.
        return _rebuild, (
            type(self),
            self.found,
            self.do,
            self.where,
            self.pipeline,
            self.partition,
        )


def _rebuild(
    kind: type[DaybreakError], found: str, do: str, where: str, pipeline: str, partition: str
) -> DaybreakError:
    return kind(found, do=do, where=where, pipeline=pipeline, partition=partition)


class PermanentError(DaybreakError):
    """A retry cannot help: fail now."""


class TransientError(DaybreakError):
    """A retry may help: a lock, a network fault, a service that restarts."""


class BadConfig(PermanentError):
    """A pipeline folder, a setting or a parameter is wrong."""


class CorruptData(PermanentError):
    """Bytes in storage are not the bytes that were written: a digest does not match."""


class OutOfMemory(TransientError):
    """A worker was killed for memory: the next one may manage, with fewer rows at a time."""


class PartFailed(PermanentError):
    """The model fails on a part. `key` names the first row to blame, where one is known."""

    def __init__(
        self,
        found: str,
        *,
        part: int | None = None,
        key: str | None = None,
        do: str = "",
        where: str = "",
        pipeline: str = "",
        partition: str = "",
    ) -> None:
        super().__init__(found, do=do, where=where, pipeline=pipeline, partition=partition)
        self.part, self.key = part, key

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__(), {"part": self.part, "key": self.key})
