"""A reader that polls while commands are killed, and holds every read against what may be seen."""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from collections import Counter
from types import TracebackType

import pyarrow as pa

from include.errors import PermanentError, TransientError
from include.stores import Store, VersionManifest
from include.stores.delta import Table
from include.stores.delta_files import verify
from tests.staged_versions import rows_of

# Who scored a version and when stays that of the first run that did, whoever finished it.
WHO = ("run_id", "scored_at")


def digest(rows: pa.Table) -> str:
    """SHA-256 of all rows in their order, in every column but WHO, bit for bit."""
    rows = rows.drop_columns([name for name in WHO if name in rows.column_names])
    rows = rows.combine_chunks().replace_schema_metadata()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def digest_of_staged(version: str, as_of: dt.date, count: int) -> str:
    """What every read of a version must give that staged_versions.py made of so many rows."""
    rows = rows_of(count)
    rows = rows.append_column("as_of", pa.repeat(pa.scalar(as_of, pa.date32()), count))
    return digest(rows.append_column("version", pa.repeat(version, count)))


def shown(store: Store, as_of: dt.date) -> str | None:
    """What one read of a date shows, as its digest; None where there is nothing yet.

    Asserts that it is one whole version: one version, run and time, the rows of its manifest, and
    with Delta the parts, whose digests are those of the manifest.
    """
    try:
        rows = store.read(as_of)
    except PermanentError as error:
        assert "no committed version" in str(error), error
        return None
    (version,) = set(rows["version"].to_pylist())
    (run_id,) = set(rows["run_id"].to_pylist())
    (scored_at,) = set(rows["scored_at"].to_pylist())
    manifest = store.manifest(as_of, version)
    if manifest is not None:  # a reader of old may be overtaken by an upkeep that deletes it
        assert_of(manifest, rows.num_rows, run_id, scored_at)
        if isinstance(store, Table):
            verify(manifest)
    return digest(rows)


def assert_of(manifest: VersionManifest, rows: int, run_id: str, scored_at: dt.datetime) -> None:
    assert (manifest.rows, manifest.run_id, manifest.scored_at) == (rows, run_id, scored_at)


class Watch:
    """Reads dates again and again, in a thread, from `with` to its end.

    `allowed` are the digests that may be seen of each date, None for nothing yet. Between two reads
    it waits for `pause` seconds.
    """

    def __init__(
        self, store: Store, allowed: dict[dt.date, set[str | None]], pause: float = 0.05
    ) -> None:
        self.store, self.allowed, self.pause = store, allowed, pause
        self.seen: Counter[tuple[dt.date, str | None]] = Counter()
        self.faults: list[str] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self.over.is_set():
            for as_of, allowed in self.allowed.items():
                try:
                    found = shown(self.store, as_of)
                except TransientError:
                    continue  # a server that is too busy to answer shows nothing wrong
                except BaseException as error:  # noqa: BLE001 - the test reports it
                    self.faults.append(f"{as_of}: {type(error).__name__}: {error}")
                    continue
                self.seen[as_of, found] += 1
                if found not in allowed:
                    self.faults.append(f"{as_of}: rows that nobody published: {found}")
            self.over.wait(self.pause)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()
        self.thread.join()
        assert not self.faults, self.faults[:5]
