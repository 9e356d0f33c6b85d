"""What is wrong with a pipeline.yaml, in the words of its author: file, line, nearest valid key."""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from include.config import PipelineConfig
from include.errors import BadConfig
from include.yaml_lines import Lines


def validated(
    values: Any, lines: Lines, file: Path
) -> tuple[PipelineConfig | None, list[BadConfig]]:
    if not isinstance(values, dict):
        raise BadConfig(
            "pipeline.yaml holds no mapping", where=f"{file}:1", do="start with `description: …`"
        )
    try:
        return PipelineConfig.model_validate(values), []
    except ValidationError as error:
        problems = sorted(_problem(detail, lines, file) for detail in error.errors())
    return None, [
        BadConfig(found, where=f"{file}:{line}", do=remedy) for line, found, remedy in problems
    ]


def _problem(detail: Any, lines: Lines, file: Path) -> tuple[int, str, str]:
    """Line, what is wrong, and what to do, of one pydantic error."""
    path = tuple(detail["loc"])
    known = path
    while known not in lines:
        known = known[:-1]
    dotted = ".".join(map(str, path))
    if detail["type"] == "extra_forbidden":
        valid = _keys_at(path[:-1])
        return lines[known], f"unknown key {dotted!r}", nearest(str(path[-1]), valid, "keys")
    if detail["type"] == "missing":
        if isinstance(path[-1], int):
            listed = ".".join(map(str, path[:-1]))
            return lines[known], f"{listed} is too short", f"write {path[-1] + 1} values"
        return lines[known], f"the key {dotted!r} is missing", f"add {dotted}"
    if not path:  # a rule between keys: its message names them
        return lines[known], detail["msg"].removeprefix("Value error, "), "rename or remove one"
    given = detail["input"]
    if detail["type"] == "model_type":
        wanted, message = f"{dotted} is a block of keys", _shown(given)
        remedy = f"write its keys below it ({', '.join(_keys_at(path))}) or leave it out"
        return lines[known], f"{wanted}, not {message}", remedy
    if detail["type"] == "tuple_type":
        return lines[known], f"{dotted} is a list, not {_shown(given)}", f"write {dotted}: [ … ]"
    message = detail["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    # A rule between the keys of a block names them itself.
    whole = isinstance(given, dict) or _shown(given) in message
    said = f": {message}" if whole else f": {message}, not {_shown(given)}"
    return lines[known], dotted + said, f"correct {dotted}"


def _shown(given: Any) -> str:
    """A value as its author may have written it, in few characters."""
    if given is None:
        return "empty"
    if isinstance(given, dict):
        return "a block of keys"
    text = repr(given.isoformat() if isinstance(given, dt.date) else given)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _keys_at(path: tuple[str | int, ...]) -> list[str]:
    """The valid keys of the section at `path` of the schema."""
    section: type[BaseModel] = PipelineConfig
    for name in path:
        annotation = section.model_fields[str(name)].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(section.model_fields)


def nearest(name: str, valid: Iterable[str], what: str) -> str:
    valid = list(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    listed = ", ".join(valid) or "none"
    return (
        f"did you mean {close[0]!r}? Valid {what}: {listed}" if close else f"valid {what}: {listed}"
    )
