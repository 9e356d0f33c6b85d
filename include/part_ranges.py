"""Parts as people and command lines write them: `0-3,7`."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PIECE = re.compile(r"\s*(\d+)(?:-(\d+))?\s*")


def written(indexes: Iterable[int]) -> str:
    """[0, 1, 2, 3, 7] as `0-3,7`; no parts as the empty text."""
    pieces: list[list[int]] = []
    for index in sorted(set(indexes)):
        if pieces and index == pieces[-1][1] + 1:
            pieces[-1][1] = index
        else:
            pieces.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in pieces)


def indexes(text: str) -> list[int]:
    """`0-3,7` as [0, 1, 2, 3, 7], ascending and none twice; ValueError for anything else."""
    found: set[int] = set()
    for piece in text.split(",") if text.strip() else ():
        match = _PIECE.fullmatch(piece)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"{piece!r} is no part and no range of parts")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(found)
