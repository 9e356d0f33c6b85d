"""fakesnow as a process of its own, run by the Python of its own environment.

    python fakesnow_app.py        prints its port, and ends when its standard input does

Three things are here as in Snowflake, which fakesnow by itself does otherwise: a statement that
meets another writer's change fails with the error of a lock that could not be had (not HTTP 500); a
null in a column of timestamps arrives as one (not as 1970); and a transaction whose client died can
be ended, with `POST /abort?database=…`, as SYSTEM$ABORT_TRANSACTION does it.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import threading
from typing import Any
from weakref import WeakKeyDictionary

import duckdb
import pyarrow as pa
import uvicorn
from fakesnow.cursor import FakeSnowflakeCursor
from snowflake.connector.errors import ProgrammingError
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

server = importlib.import_module("fakesnow.server")  # the package has a function of that name
arrow = importlib.import_module("fakesnow.arrow")
_timestamps = arrow.timestamp_to_sf_struct
_execute = FakeSnowflakeCursor.execute
_describe = FakeSnowflakeCursor._describe_last_sql


class Session:
    """What the emulator does not know of a connection: does it run a statement, was it ended."""

    def __init__(self) -> None:
        self.busy = threading.RLock()
        self.ended = False


_sessions: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


def session_of(connection: Any) -> Session:
    return _sessions.setdefault(connection, Session())


def execute(self: FakeSnowflakeCursor, *args: Any, **kwargs: Any) -> FakeSnowflakeCursor:
    session = session_of(self._conn)
    try:
        # A client that was killed has left its last statement here, maybe not yet begun.
        with session.busy:
            if session.ended:
                raise ProgrammingError(msg="The session is gone", errno=390111, sqlstate="08001")
            return _execute(self, *args, **kwargs)
    except duckdb.TransactionException as error:
        raise ProgrammingError(
            msg=f"Your statement was aborted: another one has locked the table ({error})",
            errno=625,
            sqlstate="57014",
        ) from error


def describe(self: FakeSnowflakeCursor) -> list[Any]:
    with session_of(self._conn).busy:
        found: list[Any] = _describe(self)
        return found


def timestamps(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    structs = _timestamps(values)
    nulls = values.is_null()
    if isinstance(nulls, pa.ChunkedArray):
        nulls = nulls.combine_chunks()
    fields = [structs.type.field(position) for position in range(structs.type.num_fields)]
    return pa.StructArray.from_arrays(structs.flatten(), fields=fields, mask=nulls)


def abort(request: Request) -> JSONResponse:
    """Roll back the open transactions of a database's sessions, and end those sessions."""
    database, ended = request.query_params["database"].upper(), 0
    for token, connection in list(server.sessions.items()):
        if connection.database == database:
            session = session_of(connection)
            with session.busy:
                try:
                    connection._duck_conn.rollback()
                except duckdb.TransactionException:
                    continue  # it has none
                session.ended = True
            server.sessions.pop(token, None)
            ended += 1
    return JSONResponse({"ended": ended})


def main() -> None:
    FakeSnowflakeCursor.execute = execute
    FakeSnowflakeCursor._describe_last_sql = describe
    arrow.timestamp_to_sf_struct = timestamps
    server.app.router.routes.append(Route("/abort", abort, methods=["POST"]))
    # With the protocol named, asyncio sends every answer at once; else each would wait 40 ms.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    print(listening.getsockname()[1], flush=True)

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    config = uvicorn.Config(server.app, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
