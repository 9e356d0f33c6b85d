"""A query as its author wrote it: one statement, in the words of the warehouse's own SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.errors import PermanentError

if TYPE_CHECKING:
    from sqlglot.tokens import Token


def tokens_of(sql: str, dialect: str, where: str) -> tuple[list[Token], int]:
    """The tokens of a query and the position in `sql` where its one statement ends.

    Raises PermanentError, with `where`, for what cannot be read and for more than one statement.
    """
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        tokens = sqlglot.tokenize(sql, read=dialect)
    except SqlglotError as error:
        raise PermanentError(
            f"the query cannot be read: {str(error).splitlines()[0]}",
            where=where,
            do="close every string in it",
        ) from None
    kinds = [token.token_type.name for token in tokens]
    while kinds and kinds[-1] == "SEMICOLON":
        kinds.pop()
    if "SEMICOLON" in kinds:
        raise PermanentError(
            "the query holds more than one statement", where=where, do="keep one SELECT"
        )
    return tokens, tokens[len(kinds) - 1].end + 1 if kinds else 0
