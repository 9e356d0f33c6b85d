"""What `daybreak init` creates in Snowflake; snowflake_tables.py says what each object is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from include.run import Column
from include.snowflake.session import Field, Session
from include.stores import SetUp
from include.stores.snowflake_tables import (
    SET_UP,
    Names,
    quoted,
    require_fit,
    require_one_case,
    snowflake_type,
)

CREATE = "use a role that may create it, or let one run what `daybreak init --dry-run` prints"
GRANT = "create the role or correct predictions.readers, and run `daybreak init` again"


@dataclass(frozen=True)
class Statement:
    """One statement of the set-up; a server may lack what an `optional` one does.

    `adds` is the column that it adds to a table of rows that was created without it. `do` is the
    advice where the server refuses it.
    """

    sql: str
    optional: bool = False
    adds: str | None = None
    do: str = CREATE


def set_up(
    session: Session, names: Names, columns: Sequence[Column], readers: Sequence[str], *, run: bool
) -> SetUp:
    """Create the tables, or give existing ones the columns that they lack; again, it is a no-op.

    `readers` are roles that may select from the view. Without `run`, only the statements are told.
    """
    statements = statements_of(names, columns, readers)
    left_out: list[str] = []
    there: set[str] = set()
    for statement in statements if run else ():
        if statement.adds is not None:
            there = there or {field.name for field in stored_columns(session, names)}
        if statement.optional:
            if not session.run_if_supported(statement.sql, do=statement.do):
                left_out.append(statement.sql)
        elif statement.adds is None or statement.adds not in there:
            session.run(statement.sql, do=statement.do)
    if run:
        require_fit(names, stored_columns(session, names), columns)
    return SetUp(
        statements=tuple(statement.sql for statement in statements), left_out=tuple(left_out)
    )


def stored_columns(session: Session, names: Names) -> list[Field]:
    """The columns of the table of rows; PermanentError, with what to do, where there is none."""
    return session.describe(
        f"SELECT * FROM {names.rows}",  # noqa: S608
        do=SET_UP,
    )


def statements_of(
    names: Names, columns: Sequence[Column], readers: Sequence[str]
) -> list[Statement]:
    """What creates the tables, or gives existing ones the columns that they lack.

    Running them again changes nothing. `readers` are roles that may select from the view.
    """
    own = {
        column.name.upper(): f"{quoted(column.name)} {snowflake_type(column)}" for column in columns
    }
    require_one_case(columns)
    return [
        Statement(f"CREATE TABLE IF NOT EXISTS {names.lock} (N NUMBER(38, 0) NOT NULL)"),
        Statement(
            f"INSERT INTO {names.lock} (N) SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM {names.lock})"  # noqa: S608
        ),
        Statement(
            f"CREATE TABLE IF NOT EXISTS {names.pointer} "
            "(AS_OF DATE NOT NULL, VERSION VARCHAR NOT NULL, N NUMBER(38, 0) NOT NULL)"
        ),
        Statement(
            f"CREATE TABLE IF NOT EXISTS {names.history} "
            "(N NUMBER(38, 0) NOT NULL, KIND VARCHAR NOT NULL, AS_OF DATE NOT NULL, "
            "VERSION VARCHAR NOT NULL, WRITTEN_AT TIMESTAMP_NTZ(6) NOT NULL, PARTS VARCHAR, "
            "RECORD VARCHAR NOT NULL)"
        ),
        Statement(
            f"CREATE TABLE IF NOT EXISTS {names.rows} "
            f"({', '.join(own.values())}, AS_OF DATE NOT NULL, VERSION VARCHAR NOT NULL)"
        ),
        *(
            Statement(f"ALTER TABLE {names.rows} ADD COLUMN IF NOT EXISTS {definition}", adds=name)
            for name, definition in own.items()
        ),
        Statement(f"ALTER TABLE {names.rows} CLUSTER BY (AS_OF)", optional=True),
        Statement(f"CREATE STAGE IF NOT EXISTS {names.stage}"),
        Statement(
            f"CREATE OR REPLACE VIEW {names.current} COPY GRANTS AS "  # noqa: S608
            f"SELECT R.* FROM {names.rows} R JOIN {names.pointer} P "
            "ON P.AS_OF = R.AS_OF AND P.VERSION = R.VERSION"
        ),
        *(
            Statement(
                f"GRANT SELECT ON VIEW {names.current} TO ROLE {role}", optional=True, do=GRANT
            )
            for role in readers
        ),
    ]
