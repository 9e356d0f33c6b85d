"""What is in storage of a scoring job's parts: a receipt of each that is finished, and of each
that could not be, why.

<workspace>/<pipeline>/scores/as_of=…/<version>/
    job.json
    part-00003.json             the receipt, written last: the part is finished
    quarantine-00003.parquet    the rows of the part on which the model failed, where there are any
    failure-00003.json          why the part could not be scored; gone once it is
    failure-worker.json         why no part could be: the model would not load, for one
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pydantic import ValidationError

from include import errors, storage
from include.errors import DaybreakError, PartFailed, PermanentError, TransientError
from include.run import Receipt, Value

if TYPE_CHECKING:
    from include.scoring import ScoringJob

# Receipts are small files: their reads wait for the storage, not for the processor.
_READERS = 16


class Failure(Value):
    """Why a part could not be scored, or with `part` None, why a worker could score none.

    `key` is the first row to blame, as `account_id=17, channel=web`, where one is known. `error`
    is the name of the error's class, and `worker` who met it: machine and process.
    """

    part: int | None
    key: str | None
    error: str
    message: str
    where: str
    do: str
    worker: str
    permanent: bool

    def as_error(self) -> DaybreakError:
        """The error that the worker met, to be raised where the worker's own does not arrive."""
        said = {"do": self.do, "where": self.where}
        if self.part is not None and self.error == PartFailed.__name__:
            return PartFailed(self.message, part=self.part, key=self.key, **said)
        found = self.message
        if self.part is not None and f"part {self.part}" not in found:
            found = f"part {self.part}: {found}"
        kind = getattr(errors, self.error, PermanentError if self.permanent else TransientError)
        error: DaybreakError = kind(found, **said)
        return error


def receipts(job: ScoringJob, besides: Collection[int] = ()) -> list[Receipt]:
    """The finished parts, in order: those whose file is where the receipt says, of its size, and
    of the version that was published, where one was.

    Receipts of the parts `besides` are left out unread, for who asks again and again.
    """
    known = {_name(job.receipt_uri(index)) for index in besides}
    sizes = {_name(entry.uri): entry.size for entry in storage.entries(job.parts_uri)}
    read = [_receipt(text) for text in _contents(job, "part-", known)]
    finished = [
        receipt
        for receipt in read
        if receipt is not None
        and receipt.uri == job.part_uri(receipt.part, receipt.digest)
        and sizes.get(_name(receipt.uri)) == receipt.bytes
        and job.published.get(receipt.part, receipt.digest) == receipt.digest
    ]
    return sorted(finished, key=lambda receipt: receipt.part)


def _receipt(content: bytes) -> Receipt | None:
    """None where it is no receipt: the part is scored again, as one without any is."""
    try:
        return Receipt.model_validate_json(content)
    except ValidationError:
        return None


def failures(job: ScoringJob) -> list[Failure]:
    """Why parts could not be scored, those that a retry cannot help first, then by part."""
    found = [Failure.model_validate_json(text) for text in _contents(job, "failure-")]
    return sorted(found, key=lambda each: (not each.permanent, each.part is None, each.part or 0))


def record_failure(job: ScoringJob, part: int | None, error: Exception) -> None:
    """Leave word of what stopped this worker, for whoever waits for it elsewhere."""
    ours = error if isinstance(error, DaybreakError) else None
    failure = Failure(
        part=part,
        key=getattr(error, "key", None),
        error=type(error).__name__,
        message=ours.found if ours else f"{type(error).__name__}: {error}",
        where=ours.where if ours else "",
        do=ours.do if ours else "",
        worker=f"{socket.gethostname()}, process {os.getpid()}",
        permanent=not isinstance(error, TransientError),
    )
    storage.write(job.failure_uri(part), failure.model_dump_json(indent=2).encode())


def forget_failures(job: ScoringJob, parts: Iterable[int]) -> None:
    """Delete the failure records of parts that are about to be scored again, and the workers'."""
    again = {job.failure_uri(part) for part in (None, *parts)}
    there = {entry.uri for entry in storage.entries(job.receipts_uri)}
    storage.delete(sorted(again & there))


def _contents(job: ScoringJob, prefix: str, known: Collection[str] = ()) -> list[bytes]:
    """The JSON records whose names begin with `prefix`; one deleted since it was listed is not."""
    names = {_name(entry.uri): entry.uri for entry in storage.entries(job.receipts_uri)}
    found = [
        uri
        for name, uri in names.items()
        if name.startswith(prefix) and name.endswith(".json") and name not in known
    ]
    with ThreadPoolExecutor(_READERS) as readers:
        return [content for content in readers.map(_content, found) if content is not None]


def _content(uri: str) -> bytes | None:
    try:
        return storage.read(uri)
    except FileNotFoundError:
        return None


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]
