"""How good the probabilities of a binary classifier are on rows that it has never seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.table import Table


@dataclass(frozen=True)
class Bin:
    """Rows of similar scores: their number, mean score, and share of the positive class."""

    rows: int
    mean_score: float
    observed: float


@dataclass(frozen=True)
class Evaluation:
    """`auc` in [0, 1], `log_loss` in nats, `calibration_error` in probability.

    `base_log_loss` is what always answering the rows' own positive share would have.
    """

    rows: int
    observed: float
    mean_score: float
    auc: float
    log_loss: float
    base_log_loss: float
    calibration_error: float
    bins: tuple[Bin, ...]

    def metrics(self) -> dict[str, float]:
        names = ("auc", "log_loss", "base_log_loss", "calibration_error", "mean_score", "observed")
        return {f"validation_{name}": float(getattr(self, name)) for name in names}


def evaluate(labels: NDArray[Any], scores: NDArray[Any], bins: int = 10) -> Evaluation:
    """Judge `scores`, P(label = 1), against `labels` of 0 and 1; both of shape (rows,).

    The calibration error is the mean distance between score and observed share over bins of equal
    mass, weighted by their rows.
    Source: Nixon et al., Measuring Calibration in Deep Learning (CVPR Workshops 2019), ACE.
    """
    import numpy as np
    from sklearn.metrics import log_loss, roc_auc_score

    order = np.argsort(scores, kind="stable")
    groups = [part for part in np.array_split(order, bins) if len(part)]
    reliability = tuple(
        Bin(len(part), float(scores[part].mean()), float(labels[part].mean())) for part in groups
    )
    distances = [entry.rows * abs(entry.mean_score - entry.observed) for entry in reliability]
    observed = float(labels.mean())
    return Evaluation(
        rows=len(labels),
        observed=observed,
        mean_score=float(scores.mean()),
        auc=float(roc_auc_score(labels, scores)),
        log_loss=float(log_loss(labels, scores)),
        base_log_loss=float(log_loss(labels, np.full(len(labels), observed))),
        calibration_error=float(sum(distances) / len(labels)),
        bins=reliability,
    )


def reliability_table(title: str, evaluation: Evaluation) -> Table:
    """The bins as a table for people, with the whole in its title and caption."""
    from rich.table import Table

    table = Table(
        title=f"{title}: AUC {evaluation.auc:.3f}, log loss {evaluation.log_loss:.3f} "
        f"(always the mean: {evaluation.base_log_loss:.3f})",
        caption=f"{evaluation.rows:,} rows; scores {evaluation.mean_score:.1%} on average, "
        f"observed {evaluation.observed:.1%}; calibration error {evaluation.calibration_error:.3f}",
        title_justify="left",
        caption_justify="left",
    )
    for heading in ("tenth", "rows", "mean score", "observed"):
        table.add_column(heading, justify="right")
    for number, entry in enumerate(evaluation.bins, start=1):
        table.add_row(
            str(number), f"{entry.rows:,}", f"{entry.mean_score:.3f}", f"{entry.observed:.3f}"
        )
    return table
