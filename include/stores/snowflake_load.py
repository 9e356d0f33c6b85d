"""Getting a version's Parquet parts into <table>_ROWS: verified, uploaded, loaded by name."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from include.errors import CorruptData
from include.run import Receipt
from include.snowflake.session import Session
from include.stores import VersionManifest
from include.stores.part_files import intact
from include.stores.snowflake_tables import Names, quoted, snowflake_type


def verified_parts(manifest: VersionManifest) -> Iterator[tuple[Receipt, bytes]]:
    """Each part with its bytes, one in memory; CorruptData where it is gone or another file."""
    for receipt in sorted(manifest.parts, key=lambda receipt: receipt.part):
        yield receipt, intact(manifest, receipt)


def verify(manifest: VersionManifest) -> None:
    """Read every part of a version; CorruptData where one is gone or not what was scored."""
    try:
        for _ in verified_parts(manifest):
            continue
    except CorruptData as error:
        raise CorruptData(
            f"version {manifest.version} of {manifest.as_of} is not whole: {error.found}",
            where=error.where,
            do="nothing was changed; choose another version, or run the partition again",
        ) from error


def upload(session: Session, names: Names, manifest: VersionManifest) -> str:
    """Verify and upload every part that has rows; the path below the stage, new each time.

    A load leaves out a file that it knows, by its path: a second attempt needs another one.
    """
    path = f"{manifest.as_of}/{manifest.version}/{uuid.uuid4().hex}"
    for receipt, content in verified_parts(manifest):
        if receipt.scored:
            name = f"part-{receipt.part:05d}.parquet"
            session.put(_plain(content), f"@{names.stage}/{path}/", name)
    return path


def _plain(content: bytes) -> bytes:
    """The same rows in Parquet's first encodings: Snowflake's loader documents no others.

    This is how the connector's own write_pandas encodes what it loads.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(content)) as file:
        rows = file.read(use_threads=False)
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="snappy", data_page_version="1.0")
    return bytes(sink.getvalue().to_pybytes())


def load(session: Session, names: Names, manifest: VersionManifest, path: str) -> int:
    """Load the uploaded parts, which are then gone from the stage; the rows that were loaded.

    Rows of the version that were there before are replaced. The caller's transaction makes all of
    it one move.
    """
    columns = manifest.columns
    targets = [quoted(column.name) for column in columns] + ["AS_OF", "VERSION"]
    # Names and types come from configuration and Arrow; a version is "v" and hexadecimal digits.
    version = manifest.version.replace("'", "''")
    sources = [f'$1:"{column.name}"::{snowflake_type(column)}' for column in columns]
    sources += [f"'{manifest.as_of}'::DATE", f"'{version}'"]
    delete_rows(session, names, manifest.as_of, manifest.version)
    if not any(receipt.scored for receipt in manifest.parts):
        return 0
    loaded = session.run(
        f"COPY INTO {names.rows} ({', '.join(targets)}) "  # noqa: S608
        f"FROM (SELECT {', '.join(sources)} FROM @{names.stage}/{path}/) "
        "FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE BINARY_AS_TEXT = FALSE) "
        "ON_ERROR = ABORT_STATEMENT PURGE = TRUE",
        long=True,
    )
    # One row a file: its name, its status, the rows that it has, the rows that were loaded.
    return sum(int(row[3]) for row in loaded if len(row) > 3)


def count_rows(session: Session, names: Names, as_of: dt.date, version: str) -> int:
    ((count,),) = session.run(
        f"SELECT COUNT(*) FROM {names.rows} WHERE AS_OF = ? AND VERSION = ?",  # noqa: S608
        (as_of, version),
    )
    return int(count)


def delete_rows(session: Session, names: Names, as_of: dt.date, version: str) -> int:
    return session.changed(
        f"DELETE FROM {names.rows} WHERE AS_OF = ? AND VERSION = ?",  # noqa: S608
        (as_of, version),
        long=True,
    )


def sweep(session: Session, names: Names, before: dt.datetime) -> int:
    """Remove uploads from the stage whose newest file is older than `before`; how many."""
    newest: dict[str, dt.datetime] = {}
    for name, _, _, modified, *_ in session.run(f"LIST @{names.stage}"):
        folder = name.partition("/")[2].rpartition("/")[0]
        at = parsedate_to_datetime(modified)
        newest[folder] = max(at, newest.get(folder, at))
    old = [folder for folder, at in newest.items() if at < before]
    return sum(session.run_if_supported(f"REMOVE @{names.stage}/{folder}/") for folder in old)
