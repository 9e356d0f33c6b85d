"""Groups of parts: what one pod scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from include.part_ranges import written
from include.run import Part


def grouped(parts: Sequence[Part], pods: int) -> list[list[Part]]:
    """`parts` in at most `pods` groups of neighbours, of about as many rows each; none is empty."""
    rest, groups = sorted(parts, key=lambda part: part.index), list[list[Part]]()
    for left in range(min(pods, len(rest)), 0, -1):
        fair = sum(part.rows for part in rest) / left
        group = [rest.pop(0)]
        # At least a part is left for each of the others.
        while len(rest) > left - 1 and (
            left == 1 or sum(part.rows for part in group) + rest[0].rows / 2 <= fair
        ):
            group.append(rest.pop(0))
        groups.append(group)
    return groups


@dataclass
class Group:
    """Parts without a receipt, and the pod that scores them.

    `lost` counts pods that were ended from outside; `little_memory` is set once one was killed for
    memory.
    """

    parts: dict[int, Part]
    pod: str | None = None
    lost: int = 0
    little_memory: bool = False

    @property
    def text(self) -> str:
        return written(self.parts)
