"""features.sql, read without running it: one SELECT, known placeholders, the columns it gives."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.config_errors import nearest
from include.errors import BadConfig

if TYPE_CHECKING:
    from sqlglot.tokens import Token

PLACEHOLDERS = ("as_of", "partition_start", "partition_end")

_TEMPLATES = re.compile(r"\{\{|\{%")  # Jinja, as dbt and Airflow's own templates use it
_FORMATS = re.compile(r"%\(\w+\)s|\$?\{[A-Za-z_]\w*\}")  # the drivers' %(x)s and Python's {x}
_QUOTED_PLACEHOLDER = re.compile(rf"\$({'|'.join(PLACEHOLDERS)})\b")


@dataclass(frozen=True)
class Query:
    """What can be known of a query; `columns` is None where only the warehouse can tell them."""

    columns: tuple[str, ...] | None
    placeholders: frozenset[str]
    problems: tuple[BadConfig, ...]


def inspect_query(sql: str, dialect: str, file: str) -> Query:
    """Everything that is wrong with a pipeline's query, each with `file` and its line.

    `dialect` is the kind of the warehouse. Names are resolved through subqueries and common table
    expressions; a `*` over a table of the warehouse leaves the columns unknown.
    """
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    def problem(found: str, line: int, do: str) -> BadConfig:
        return BadConfig(found, where=f"{file}:{line}", do=do)

    try:
        tokens = sqlglot.tokenize(sql, read=dialect)
    except SqlglotError:
        tokens = []
    formatted = [problem(*wrong) for wrong in _formatted(sql, tokens)]
    named = list(_placeholders(sql, tokens))
    if not formatted:
        formatted = [
            problem(
                f"the query asks for ${name}", line, nearest(name, PLACEHOLDERS, "placeholders")
            )
            for name, line in dict(reversed(named)).items()
            if name not in PLACEHOLDERS
        ]
    used = frozenset(name for name, _ in named)
    if formatted:  # what a template leaves behind is no SQL yet
        return Query(None, used, tuple(formatted))

    try:
        statements: list[Any] = [tree for tree in sqlglot.parse(sql, read=dialect) if tree]
        refused = None
    except SqlglotError as error:
        statements, refused = [], error
    syntax = _syntax_error(sql, dialect, refused)
    if syntax is not None:
        found, line = syntax
        return Query(None, used, (problem(found, line, "correct the query"),))
    if refused is not None:  # the warehouse understands more of its dialect than the parser here
        return Query(None, used, ())
    if len(statements) != 1:
        found = f"features.sql holds {len(statements)} statements"
        return Query(None, used, (problem(found, 1, "write exactly one SELECT"),))
    tree = statements[0]
    if not isinstance(tree, exp.Query):
        found = f"features.sql holds a statement of the kind {tree.key.upper()}, no SELECT"
        return Query(None, used, (problem(found, 1, "write exactly one SELECT"),))
    writing = next(tree.find_all(exp.DML, exp.DDL, exp.Into), None)
    if writing is not None and not isinstance(writing, exp.Query):
        found = f"the query writes to the warehouse: it holds {writing.key.upper()}"
        return Query(None, used, (problem(found, 1, "write exactly one SELECT"),))
    if dialect == "snowflake":  # include/warehouses/snowflake.py says why
        for identifier in tree.find_all(exp.Identifier):
            if not identifier.quoted:
                identifier.set("this", identifier.this.lower())
    columns = _columns(tree, {})
    return Query(columns, used, tuple(problem(*wrong) for wrong in _twice(columns)))


def _formatted(sql: str, tokens: Sequence[Token]) -> Iterator[tuple[str, int, str]]:
    """Placeholders of other tools, and ours where they are only text."""
    bind = "write $as_of, $partition_start or $partition_end, which the driver binds"
    code = _without_comments(sql, tokens)
    for match in _TEMPLATES.finditer(code):
        line = _line(sql, match.start())
        yield f"{match.group()} starts a template; nothing renders it", line, bind
    if _TEMPLATES.search(code):
        return
    outside = code
    for token in tokens:
        if token.token_type.name.endswith("STRING"):
            text = sql[token.start : token.end + 1]
            inside = _QUOTED_PLACEHOLDER.search(text)
            if inside:
                yield (
                    f"{inside.group()} within quotes is text, not a placeholder",
                    _line(sql, token.start + inside.start()),
                    f"write {inside.group()} without quotes: it is a date already",
                )
            outside = outside[: token.start] + " " * len(text) + outside[token.end + 1 :]
    for match in _FORMATS.finditer(outside):
        yield f"nothing fills in {match.group()}", _line(sql, match.start()), bind
    for token in tokens:
        if token.token_type.name == "PLACEHOLDER":
            yield f"nothing is bound to {token.text!r}", _line(sql, token.start), bind


def _without_comments(sql: str, tokens: Sequence[Token]) -> str:
    """The text with its comments blanked, every character at its place."""
    if not tokens:
        return sql
    kept = [" "] * len(sql)
    for token in tokens:
        kept[token.start : token.end + 1] = sql[token.start : token.end + 1]
    return "".join(kept)


def _placeholders(sql: str, tokens: Sequence[Token]) -> Iterator[tuple[str, int]]:
    """The name and the line of each `$name`."""
    for sign, name in itertools.pairwise(tokens):
        if sign.token_type.name == "PARAMETER" and sql[sign.start] == "$":
            yield name.text, _line(sql, sign.start)


def _syntax_error(sql: str, dialect: str, refused: Exception | None) -> tuple[str, int] | None:
    """What a parser does not understand, and its line; the warehouse's own parser where it can."""
    if dialect == "duckdb":
        import duckdb

        try:
            duckdb.extract_statements(sql)
        except duckdb.Error as error:
            text = str(error)
            line = re.search(r"^LINE (\d+):", text, re.MULTILINE)
            return f"DuckDB refuses the query: {text.splitlines()[0]}", int(line[1]) if line else 1
        return None
    if refused is None:
        return None
    details = getattr(refused, "errors", None) or [{}]
    what = details[0].get("description") or str(refused).splitlines()[0]
    near = details[0].get("highlight")
    return what + (f" at {near!r}" if near else ""), details[0].get("line") or 1


def _columns(tree: Any, named: dict[str, tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """The output names of a query; `named` are the common table expressions in its reach."""
    from sqlglot import exp

    reach = dict(named)
    clause = tree.args.get("with_")
    for cte in clause.expressions if clause else ():
        given = tuple(column.name for column in cte.args["alias"].args.get("columns") or ())
        reach[cte.alias.lower()] = given or _columns(cte.this, reach)
    if isinstance(tree, exp.SetOperation):
        return _columns(tree.left, reach)
    if isinstance(tree, exp.Subquery):
        return _columns(tree.this, reach)
    if not isinstance(tree, exp.Select):
        return None
    names: list[str] = []
    for item in tree.expressions:
        if isinstance(item, exp.Star) or (isinstance(item, exp.Column) and item.is_star):
            star = item if isinstance(item, exp.Star) else item.this
            if any(star.args.values()):  # EXCLUDE, REPLACE, …
                return None
            table = item.table if isinstance(item, exp.Column) else None
            expanded = _all_columns(tree, table, reach)
            if expanded is None:
                return None
            names += expanded
        elif isinstance(item, exp.Alias | exp.Column):
            names.append(item.alias_or_name)
        elif item.find(exp.Columns):
            return None
        else:  # the warehouse makes up a name, by which nothing can ask for it
            names.append(item.sql().lower())
    return tuple(names)


def _all_columns(
    select: Any, table: str | None, reach: dict[str, tuple[str, ...] | None]
) -> list[str] | None:
    """What `*` or `table.*` stands for, where every source is a query in the same text."""
    from sqlglot import exp

    joins = select.args.get("joins") or []
    if table is None and any(j.args.get("using") or j.args.get("method") for j in joins):
        return None  # USING and NATURAL merge columns
    first = select.args.get("from_")
    names: list[str] = []
    for source in [first.this if first else None, *(join.this for join in joins)]:
        if source is None:
            return None
        if table is not None and source.alias_or_name.lower() != table.lower():
            continue
        alias = source.args.get("alias")
        columns: tuple[str, ...] | None = None
        if isinstance(source, exp.Subquery):
            columns = _columns(source.this, reach)
        elif isinstance(source, exp.Table) and not source.db:
            columns = reach.get(source.name.lower())
        if columns is None or (alias is not None and alias.args.get("columns")):
            return None
        names += columns
    return names or None


def _twice(columns: tuple[str, ...] | None) -> Iterator[tuple[str, int, str]]:
    lowered = [name.lower() for name in columns or ()]
    for name in dict.fromkeys(name for name in lowered if lowered.count(name) > 1):
        yield f"the query selects {name!r} more than once", 1, "give each column its own name"


def _line(sql: str, offset: int) -> int:
    return sql.count("\n", 0, offset) + 1
