"""What is wrong with a pipeline.yaml, in the words of its author: file, line, nearest valid key."""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

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
    path, section = _within_schema(tuple(detail["loc"]))
    known = path
    while known not in lines:
        known = known[:-1]
    dotted = ".".join(map(str, path))
    if detail["type"] == "extra_forbidden":
        return lines[known], f"unknown key {dotted!r}", nearest(str(path[-1]), section, "keys")
    if detail["type"] == "missing":
        if isinstance(path[-1], int):
            listed = ".".join(map(str, path[:-1]))
            return lines[known], f"{listed} is too short", f"write {path[-1] + 1} values"
        return lines[known], f"the key {dotted!r} is missing", f"add {dotted}"
    if not path:  # a rule between keys: its message names them
        return lines[known], detail["msg"].removeprefix("Value error, "), "rename or remove one"
    given = detail["input"]
    if detail["type"].startswith("union_tag"):
        kind, kinds = given["kind"], detail.get("ctx", {}).get("expected_tags", "")
        found = f"there is no {dotted} of the kind {_shown(kind)}"
        line = lines.get((*path, "kind"), lines[known])
        return line, found, nearest(str(kind), kinds.replace("'", "").split(", "), "kinds")
    if detail["type"] == "model_type":
        wanted, message = f"{dotted} is a block of keys", _shown(given)
        remedy = f"write its keys below it ({', '.join(section)}) or leave it out"
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


def _within_schema(loc: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], list[str]]:
    """The author's path of pydantic's `loc`, and the valid keys of the innermost section on it.

    Where a section has kinds, pydantic's path names the kind, which is no key in the file.
    """
    path: list[str | int] = []
    section: type[BaseModel] = PipelineConfig
    annotation: Any = PipelineConfig
    for name in loc:
        options = _options(annotation)
        if name in options:
            annotation = options[str(name)]
        else:
            path.append(name)
            inner = next((o for o in options.values() if _is_section(o)), None)
            if inner is not None:
                field = inner.model_fields.get(str(name))
                annotation = field.annotation if field is not None else None
            else:  # an item of a list or of a mapping: the last argument is its type
                held = [get_args(option) for option in options.values() if get_args(option)]
                arguments = [each for each in held[0] if each is not Ellipsis] if held else [None]
                annotation = arguments[-1]
        section = next((o for o in _options(annotation).values() if _is_section(o)), section)
    return tuple(path), list(section.model_fields)


def _options(annotation: Any) -> dict[str, Any]:
    """What a value of this type may be, without None: by its tag where it has one."""
    if get_origin(annotation) is Annotated:
        inner, *rest = get_args(annotation)
        tags = [str(each.tag) for each in rest if isinstance(each, Tag)]
        return {tags[0]: inner} if tags else _options(inner)
    if get_origin(annotation) in (Union, UnionType):
        found: dict[str, Any] = {}
        for each in get_args(annotation):
            if each is not type(None):
                found |= _options(each)
        return found
    return {f"<{annotation}>": annotation}


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def nearest(name: str, valid: Iterable[str], what: str) -> str:
    valid = list(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    listed = ", ".join(valid) or "none"
    return (
        f"did you mean {close[0]!r}? Valid {what}: {listed}" if close else f"valid {what}: {listed}"
    )
