"""The rows of one version: through Delta while it is current, by its manifest afterwards."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from include import storage
from include.stores import VersionManifest, delta_log
from include.stores.delta_schema import delta_types, schema_of
from include.stores.part_files import CHANGED, GONE, damaged, intact

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

_PART = re.compile(r"as_of=([^/]+)/version=([^/]+)/part-(\d+)[^/]*\.parquet")


def read_current(table: DeltaTable, as_of: dt.date, columns: list[str]) -> pa.Table:
    """The files that Delta names now, so that a table which someone compacted is read right.

    No digest is looked at. Raises CorruptData where a file is gone or cannot be read as Parquet.
    """
    import pyarrow as pa
    from pyarrow.dataset import FileSystemDataset

    data = table.to_pyarrow_dataset(file_pruning_predicate=[("as_of", "=", str(as_of))])
    files = sorted(data.get_fragments(), key=lambda fragment: fragment.path)
    try:
        return FileSystemDataset(files, data.schema, data.format, data.filesystem).to_table(columns)
    except (pa.ArrowInvalid, OSError) as error:
        found = _fault(table.table_uri, [file.path for file in files], error)
        raise found from error


def _fault(root: str, paths: Iterable[str], error: Exception) -> Exception:
    """What is wrong with the first file that is not whole; else the storage's own fault."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in paths:
        uri, match = storage.join(root, path), _PART.fullmatch(path)
        part = f"part {int(match[3])} of version {match[2]} of {match[1]}" if match else "a file"
        try:
            with pq.ParquetFile(pa.BufferReader(storage.read(uri))) as file:
                file.read()
        except FileNotFoundError:
            return damaged(part, GONE, uri)
        except (pa.ArrowInvalid, OSError):
            return damaged(part, CHANGED, uri)
    return delta_log.translated(error, root)


def read_parts(manifest: VersionManifest, columns: list[str]) -> pa.Table:
    """The files that the manifest names; raises CorruptData where one is gone or another."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = delta_types(manifest.columns)
    schema = pa.schema(schema_of({name: types[name] for name in columns}).to_arrow())
    constants = {"as_of": manifest.as_of, "version": manifest.version}
    own = [name for name in columns if name not in constants]
    tables = []
    for part in sorted(manifest.parts, key=lambda part: part.part):
        with pq.ParquetFile(pa.BufferReader(intact(manifest, part))) as file:
            rows, count = file.read(columns=own), file.metadata.num_rows
        arrays = [
            pa.repeat(pa.scalar(constants[name], field.type), count)
            if (name := field.name) in constants
            else rows[name].cast(field.type)
            for field in schema
        ]
        tables.append(pa.table(arrays, schema=schema))
    return pa.concat_tables(tables) if tables else schema.empty_table()
