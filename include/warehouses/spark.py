"""A lake as a warehouse: features.sql as Spark SQL over Parquet and Delta paths or catalog tables.

The Airflow connection's host (and port) is the master: `local[*]`, `spark://host:7077`, `k8s://…`,
`sc://host:15002`. Its extra may hold

    conf       Spark's own settings, such as a catalog's
    tables     names for what lies at a path: {"visits": "s3a://lake/visits", "accounts":
               {"path": "s3a://lake/accounts", "format": "delta"}}
    packaging  python and archives, as in pipeline.yaml's engine
    parts      who writes the snapshot's parts: `executors`, or the `driver`

Executors sort the rows and write them as the snapshot's parts, all at once, where they reach the
workspace: on this machine, and in an object store. Elsewhere, or where the connection says so, the
rows arrive at the driver partition by partition, which holds two of them at most.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from include import object_stores
from include.connections import Connection
from include.engine_config import SparkEngine, SparkGpu, SparkPackaging, SparkValue
from include.errors import BadConfig, DaybreakError, PermanentError
from include.section import Section
from include.spark.parts import Written, write_parts
from include.spark.rendering import is_local, rendered
from include.spark.session import spark_fault, spark_session, use_python
from include.spark.shipping import ship_code
from include.storage import local_path
from include.warehouses.statement import tokens_of

if TYPE_CHECKING:
    import datetime as dt

    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

_WHERE = "features.sql"

# SQLSTATE classes of what a query does wrong: data that do not fit, and syntax or names.
_PERMANENT_STATES = re.compile(r"SQLSTATE: (22|42|0A|XXKD|KD)\w*|\bPARSE_SYNTAX_ERROR\b")


Parts = Literal["executors", "driver"]


def _as_table(given: Any) -> Any:
    return {"path": given} if isinstance(given, str) else given


class Table(Section):
    """What lies at a path; `format` is how it is read."""

    path: Annotated[str, Field(min_length=1)]
    format: Literal["parquet", "delta"] = "parquet"


class Source(Section):
    """The extra of a Spark connection."""

    conf: dict[str, SparkValue] = Field(default_factory=dict)
    tables: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")],
        Annotated[Table, BeforeValidator(_as_table)],
    ] = Field(default_factory=dict)
    packaging: SparkPackaging = SparkPackaging()
    parts: Parts | None = None


class SparkWarehouse:
    """Reads with one session, whose tables are views of its own."""

    def __init__(self, connection: Connection, gpu: SparkGpu | None = None) -> None:
        master, source = master_of(connection), source_of(connection)
        place = f"connection {connection.id}"
        settings = rendered(
            master, source.conf, gpu, archives=source.packaging.archives, query=True
        )
        self._master, self._parts = master, source.parts
        self._stack = ExitStack()
        self._spark: SparkSession = self._stack.enter_context(
            spark_session(master, settings, f"daybreak extract {connection.id}", place)
        )
        try:
            use_python(self._spark, master, source.packaging.python)
            for name, table in source.tables.items():
                _opened(self._spark, table, place).createOrReplaceTempView(name)
        except BaseException as error:
            self._stack.close()
            if isinstance(error, Exception):
                raise _translated(error, place) from None
            raise

    def read(
        self, sql: str, params: Mapping[str, dt.date], order_by: Sequence[str]
    ) -> pa.RecordBatchReader:
        import pyarrow as pa

        query = self.prepare(sql, params, order_by)
        return pa.RecordBatchReader.from_batches(
            query.schema, _batches(query.ordered, query.schema)
        )

    def reaches(self, uri: str) -> bool:
        return executors_reach(self._master, uri, self._parts)

    def prepare(
        self, sql: str, params: Mapping[str, dt.date], order_by: Sequence[str]
    ) -> SparkQuery:
        text = bound(sql, params)
        try:
            frame = self._sql(text, params)
            _require_columns(frame.columns, order_by)
            schema = arrow_schema(frame.schema)
        except Exception as error:  # noqa: BLE001 - Spark has kinds of its own for each client
            raise _translated(error) from None
        ordered = frame.orderBy(*(f"`{name}`" for name in order_by))
        return SparkQuery(self._spark, self._master, ordered, schema, tuple(order_by))

    def _sql(self, text: str, params: Mapping[str, dt.date]) -> DataFrame:
        try:
            return self._spark.sql(text, args=dict(params))
        except Exception as error:
            if "PARSE_SYNTAX_ERROR" in str(error):
                self._spark.sql(text)  # raises as well, and with the line, which values hide
            raise

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> SparkWarehouse:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class SparkQuery:
    """See `Query`; `ordered` are its rows in the order of the key."""

    spark: SparkSession
    master: str
    ordered: DataFrame
    schema: pa.Schema
    key: tuple[str, ...]

    def write(self, files: str, part_rows: int) -> Written:
        try:
            ship_code(self.spark, self.master)
            return write_parts(self.spark, self.ordered, self.schema, self.key, part_rows, files)
        except Exception as error:  # noqa: BLE001
            raise _translated(error) from None


def connect(connection: Connection, gpu: SparkGpu | None = None) -> SparkWarehouse:
    return SparkWarehouse(connection, gpu)


def executors_reach(master: str, uri: str, parts: Parts | None) -> bool:
    """Whether executors of `master` may write below `uri`; what the connection says goes first.

    The machines of a cluster see no folder of this one, but where it is on a disk that they share.
    """
    if parts is not None:
        return parts == "executors"
    return is_local(master) or local_path(uri) is None


def master_of(connection: Connection) -> str:
    """The master that a connection names; BadConfig for none."""
    host = connection.host
    if not ("://" in host or is_local(host)):
        host = f"spark://{host}"
    master = f"{host}:{connection.port}" if connection.port else host
    try:
        return SparkEngine(kind="spark", master=master).master
    except ValidationError:
        raise BadConfig(
            f"the connection {connection.id!r} names the Spark master {master!r}",
            do="write its host as local[*], spark://HOST:PORT, k8s://URL or sc://HOST:PORT",
        ) from None


def source_of(connection: Connection) -> Source:
    """The extra of a connection; BadConfig, with the key, for one that is not as above."""
    known = {name: value for name, value in connection.extra.items() if name in Source.model_fields}
    try:
        return Source.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise BadConfig(
            f"the connection {connection.id!r} has a wrong {key} in its extra: {first['msg']}",
            do="see docs/engines.md for what a Spark connection holds",
        ) from None


def bound(sql: str, params: Mapping[str, dt.date]) -> str:
    """The query with Spark's `:name` in the place of each `$name`; text and comments stay.

    Raises PermanentError for a name that is not in `params` and for more than one statement.
    """
    tokens, end = tokens_of(sql, "spark", _WHERE)
    signs = [
        (sign.start, name.text)
        for sign, name in itertools.pairwise(tokens)
        if sign.token_type.name == "PARAMETER" and sign.end + 1 == name.start
    ]
    unknown = sorted({name for _, name in signs if name not in params})
    if unknown:
        raise _refused(
            f"the query asks for ${', $'.join(unknown)}", f"use only ${', $'.join(params)}"
        )
    text = list(sql[:end])
    for start, _ in signs:
        text[start] = ":"
    return "".join(text)


def arrow_schema(schema: StructType) -> pa.Schema:
    """The Arrow types of a query's columns: plain ones, times in UTC, all nullable.

    Whether Spark knows a column to have no nulls depends on the plan, and may not change the bytes
    of a snapshot.
    """
    import pyarrow as pa
    from pyspark.sql import types as spark

    plain: dict[type[spark.DataType], pa.DataType] = {
        spark.BooleanType: pa.bool_(),
        spark.ByteType: pa.int8(),
        spark.ShortType: pa.int16(),
        spark.IntegerType: pa.int32(),
        spark.LongType: pa.int64(),
        spark.FloatType: pa.float32(),
        spark.DoubleType: pa.float64(),
        spark.StringType: pa.string(),
        spark.VarcharType: pa.string(),
        spark.CharType: pa.string(),
        spark.BinaryType: pa.binary(),
        spark.DateType: pa.date32(),
        spark.TimestampType: pa.timestamp("us", tz="UTC"),
        spark.TimestampNTZType: pa.timestamp("us"),
    }
    fields = []
    for field in schema.fields:
        kind: Any = field.dataType
        if isinstance(kind, spark.DecimalType):
            found: pa.DataType | None = pa.decimal128(kind.precision, kind.scale)
        else:
            found = plain.get(type(kind))
        if found is None:
            raise _refused(
                f"the column {field.name} is a {kind.simpleString()}",
                f"cast {field.name} to a plain type in the query",
            )
        fields.append(pa.field(field.name, found))
    return pa.schema(fields)


def _batches(frame: DataFrame, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows in their order: each row that crosses the JVM is a whole Arrow batch, as bytes."""
    import pyarrow as pa

    def pack(batches: Iterable[Any]) -> Iterator[Any]:
        # Pickled by value: executors need pyarrow for it, and nothing of ours.
        import pyarrow as pa

        for batch in batches:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            yield pa.RecordBatch.from_pydict({"batch": [sink.getvalue().to_pybytes()]})

    try:
        packed = frame.mapInArrow(pack, "batch binary")
        for row in packed.toLocalIterator(prefetchPartitions=True):
            table = pa.ipc.open_stream(row[0]).read_all()
            # Without what Spark adds: whether a column may be null, and its own metadata.
            yield from pa.Table.from_arrays(
                [column.cast(f.type) for column, f in zip(table.columns, schema, strict=True)],
                schema=schema,
            ).to_batches()
    except Exception as error:  # noqa: BLE001
        raise _translated(error) from None


def _opened(spark: SparkSession, table: Table, place: str) -> DataFrame:
    if table.format == "parquet":
        return spark.read.parquet(table.path)
    if "io.delta" in (spark.conf.get("spark.sql.extensions", "") or ""):
        return spark.read.format("delta").load(table.path)
    return _delta_files(spark, table, place)


def _delta_files(spark: SparkSession, table: Table, place: str) -> DataFrame:
    """A Delta table without Delta's jar: the files that its log names, at its newest version."""
    import json

    from deltalake import DeltaTable
    from pyspark.sql.types import StructType

    delta = DeltaTable(table.path, storage_options=object_stores.options(table.path))
    needs = delta.protocol().min_reader_version
    if needs > 1:
        raise BadConfig(
            f"the Delta table {table.path} needs a reader of version {needs}, for deletion vectors "
            "or renamed columns, and this Spark has no Delta",
            where=place,
            do="add io.delta:delta-spark_2.13 to spark.jars.packages in the connection's conf, and "
            "io.delta.sql.DeltaSparkSessionExtension to spark.sql.extensions",
        )
    schema = StructType.fromJson(json.loads(delta.schema().to_json()))
    files = delta.file_uris()
    if not files:
        return spark.createDataFrame([], schema)
    return spark.read.schema(schema).option("basePath", table.path).parquet(*files)


def _require_columns(columns: Sequence[str], key: Sequence[str]) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise _refused(
            f"the query selects {', '.join(twice)} more than once", "give each column its own name"
        )
    absent = [name for name in key if name not in columns]
    if absent:
        raise _refused(
            f"the query does not select {absent}, of the key",
            f"add {absent} to its SELECT list, which has {list(columns)}",
        )


def _translated(error: Exception, place: str = _WHERE) -> DaybreakError:
    """What Spark says of a query that cannot run; anything else may pass."""
    if isinstance(error, DaybreakError):
        return error
    text = str(error)
    said = re.search(r"\[[A-Z][A-Z0-9_.]+\] .*", text)
    if said and _PERMANENT_STATES.search(text):
        line = re.search(r"line (\d+)", text)
        at = f", line {line[1]}" if line and "line" not in said[0] else ""
        return PermanentError(
            f"Spark refused the query: {said[0][:400]}{at}",
            where=place,
            do="correct the query, or load what it reads into the lake",
        )
    return spark_fault(error, "reading the features")


def _refused(found: str, do: str) -> PermanentError:
    return PermanentError(found, where=_WHERE, do=do)
