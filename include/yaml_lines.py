"""YAML whose every key knows its line, so that a mistake can be pointed at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from include.errors import BadConfig

Lines = dict[tuple[str | int, ...], int]

_TEXT = "tag:yaml.org,2002:str"
# Booleans in YAML 1.1 and text in YAML 1.2; `on` is a key of pipeline.yaml.
_TEXT_TOO = ("on", "off", "yes", "no")


def parse_yaml(text: str, file: Path) -> tuple[Any, Lines]:
    """The values of a YAML text and the line, from 1, of each key path.

    Keys are text and stand once. 10:30 and the key `on` are text as in YAML 1.2, not the number
    630 and the boolean of YAML 1.1.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        node = yaml.compose(text, Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        if mark is not None:
            line = mark.line + 1
        else:  # the reader's errors count characters: one that YAML does not allow
            line = text.count("\n", 0, getattr(error, "position", None) or 0) + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise BadConfig(
            f"this is no YAML: {problem}", where=f"{file}:{line}", do="mend the syntax"
        ) from None
    constructor = yaml.constructor.SafeConstructor()
    lines: Lines = {}

    def value(node: yaml.Node, path: tuple[str | int, ...], within: tuple[yaml.Node, ...]) -> Any:
        line = node.start_mark.line + 1
        lines.setdefault(path, line)
        if node in within:
            raise BadConfig(
                "an alias stands within what it names", where=f"{file}:{line}", do="remove it"
            )
        if isinstance(node, yaml.MappingNode):
            mapping: dict[str, Any] = {}
            for key_node, value_node in node.value:
                line = key_node.start_mark.line + 1
                key = key_node.value
                if key_node.tag != _TEXT and key not in _TEXT_TOO:
                    raise BadConfig(
                        f"YAML does not read the key {key!r} as text"
                        if isinstance(key_node, yaml.ScalarNode)
                        else "a key is a list or a mapping",
                        where=f"{file}:{line}",
                        do="write the keys of the block out: there is no merging here"
                        if key == "<<"
                        else "put it in quotes",
                    )
                if key in mapping:
                    raise BadConfig(
                        f"the key {key!r} stands twice", where=f"{file}:{line}", do="remove one"
                    )
                lines[(*path, key)] = line
                mapping[key] = value(value_node, (*path, key), (*within, node))
            return mapping
        if isinstance(node, yaml.SequenceNode):
            return [
                value(item, (*path, index), (*within, node))
                for index, item in enumerate(node.value)
            ]
        if ":" in node.value and node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
            return node.value
        try:
            return constructor.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise BadConfig(
                f"this value cannot be read: {getattr(error, 'problem', None) or error}",
                where=f"{file}:{line}",
                do="correct it, or put it in quotes",
            ) from None

    return (value(node, (), ()) if node is not None else None), lines
