"""fakesnow as a process of its own, run by the Python of its own environment.

    python fakesnow_app.py        prints its port, and ends when its standard input does

Two things are as in Snowflake that are not in fakesnow: a statement that meets another writer's
change fails with the error of a lock that could not be had, where fakesnow answers HTTP 500; and a
transaction whose client died can be ended, which `POST /abort?database=…` does here and Snowflake
itself after some hours, or SYSTEM$ABORT_TRANSACTION.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import threading
from typing import Any

import duckdb
import uvicorn
from fakesnow.cursor import FakeSnowflakeCursor
from snowflake.connector.errors import ProgrammingError
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

server = importlib.import_module("fakesnow.server")  # the package has a function of that name
_execute = FakeSnowflakeCursor.execute


def execute(self: FakeSnowflakeCursor, *args: Any, **kwargs: Any) -> FakeSnowflakeCursor:
    try:
        return _execute(self, *args, **kwargs)
    except duckdb.TransactionException as error:
        raise ProgrammingError(
            msg=f"Your statement was aborted: another one has locked the table ({error})",
            errno=625,
            sqlstate="57014",
        ) from error


def abort(request: Request) -> JSONResponse:
    """Roll back the open transactions of a database's sessions, and end those sessions."""
    database, ended = request.query_params["database"].upper(), 0
    for token, connection in list(server.sessions.items()):
        if connection.database == database:
            try:
                connection._duck_conn.rollback()
            except duckdb.TransactionException:
                continue  # it has none
            server.sessions.pop(token, None)
            ended += 1
    return JSONResponse({"ended": ended})


def main() -> None:
    FakeSnowflakeCursor.execute = execute
    server.app.router.routes.append(Route("/abort", abort, methods=["POST"]))
    listening = socket.socket()
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
