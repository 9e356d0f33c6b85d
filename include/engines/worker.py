"""What scores parts in one process: the loaded model and the rows that the gate set aside."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from include.models.pinned import local_model
from include.receipts import record_failure
from include.run import Part, Receipt
from include.scorers import Output, Scorer, open_scorer
from include.scorers.batches import InBatches
from include.scoring import ScoringJob, quarantined_rows, score_part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Worker:
    """A loaded model and the quarantined rows: what scores parts, once per process.

    Every engine's workers are this one. What stops it is raised, and recorded beside the receipts
    for whoever waits elsewhere (`include.receipts.failures`). `batch_rows` is how many rows the
    model is given at a time, 0 for a whole part.
    """

    def __init__(self, job: ScoringJob, batch_rows: int = 0) -> None:
        self.job = job
        try:
            columns = tuple(column.name for column in job.model.inputs)
            self.scorer: Scorer = open_scorer(
                local_model(job.model),
                job.model.flavor,
                columns,
                cast(Output, job.output),
                job.device,
            )
            if batch_rows:
                self.scorer = InBatches(self.scorer, batch_rows)
            self.quarantined: dict[int, NDArray[np.int64]] = quarantined_rows(job)
        except Exception as error:
            record_failure(job, None, error)
            raise

    def score(self, part: Part) -> Receipt:
        try:
            return score_part(self.job, part, self.scorer, self.quarantined)
        except Exception as error:
            record_failure(self.job, part.index, error)
            raise
