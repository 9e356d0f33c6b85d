"""Where parts are scored: one Protocol, one module per engine, all running scoring.score_part."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from include.engine_config import EngineConfig
    from include.run import Part, Receipt
    from include.scoring import ScoringJob

MEMBERS = ("local", "spark", "kubernetes")


class Engine(Protocol):
    """Scores parts in any order; every engine writes the same bytes."""

    def score(self, job: ScoringJob, parts: Sequence[Part]) -> Iterator[Receipt]:
        """A receipt per part, as each is finished; the receipt is in storage by then.

        Raises what the first failing part raised, once no worker is running any more. What was
        finished by then stays finished.
        """


def open_engine(config: EngineConfig) -> Engine:
    module = importlib.import_module(f"include.engines.{config.kind}")
    engine: Engine = module.engine(config)
    return engine
