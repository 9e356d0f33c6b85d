"""The rows of one version: through Delta while it is current, by its manifest afterwards."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from include import storage
from include.errors import PermanentError
from include.stores import VersionManifest
from include.stores.delta_schema import delta_types, schema_of

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable


def read_current(table: DeltaTable, as_of: dt.date, columns: list[str]) -> pa.Table:
    """The files that Delta names now, so that a table which someone compacted is read right."""
    from pyarrow.dataset import FileSystemDataset

    data = table.to_pyarrow_dataset(file_pruning_predicate=[("as_of", "=", str(as_of))])
    files = sorted(data.get_fragments(), key=lambda fragment: fragment.path)
    return FileSystemDataset(files, data.schema, data.format, data.filesystem).to_table(columns)


def read_parts(manifest: VersionManifest, columns: list[str]) -> pa.Table:
    """The files that the manifest names; raises PermanentError where one is gone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = delta_types(manifest.columns)
    schema = pa.schema(schema_of({name: types[name] for name in columns}).to_arrow())
    constants = {"as_of": manifest.as_of, "version": manifest.version}
    own = [name for name in columns if name not in constants]
    tables = []
    for part in sorted(manifest.parts, key=lambda part: part.part):
        try:
            content = storage.read(part.uri)
        except FileNotFoundError:
            raise PermanentError(
                f"part {part.part} of version {manifest.version} of {manifest.as_of} is gone",
                where=part.uri,
                do="choose a version that is still kept, or run the partition again",
            ) from None
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            rows, count = file.read(columns=own), file.metadata.num_rows
        arrays = [
            pa.repeat(pa.scalar(constants[name], field.type), count)
            if (name := field.name) in constants
            else rows[name].cast(field.type)
            for field in schema
        ]
        tables.append(pa.table(arrays, schema=schema))
    return pa.concat_tables(tables) if tables else schema.empty_table()
