"""What a model gave, as one score a row: for models that may give anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include.errors import PermanentError
from include.scorers import Output

if TYPE_CHECKING:
    import numpy as np

# So many scores that are all exactly 0 or 1 are classes in float's clothes.
_ENOUGH_TO_TELL = 100


def one_score_a_row(
    result: np.ndarray[Any, Any], rows: int, output: Output, remedy: str
) -> np.ndarray[Any, Any]:
    """The scores in `result`, shape (rows,), (rows, 1) or for a probability (rows, 2).

    Raises PermanentError, with the `remedy` for a model that gives no probabilities, where it is
    none of these, and where what should be probabilities is not.
    """
    if result.ndim == 2 and result.shape[1] == 1:
        result = result[:, 0]
    if output == "probability":
        if result.dtype.kind != "f":
            raise PermanentError(
                f"the model gives classes ({result.dtype}), not probabilities", do=remedy
            )
        if result.ndim == 2 and result.shape[1] == 2:
            result = result[:, 1]
    if result.shape != (rows,) or result.dtype.kind not in "fiu":
        raise PermanentError(
            f"the model gives {result.dtype} of shape {result.shape} for {rows} rows, not one "
            "number a row",
            do="register a model with one numeric output",
        )
    if output == "probability":
        if bool(((result < 0) | (result > 1)).any()):
            raise PermanentError(
                f"the model gives values between {result.min()} and {result.max()}, no "
                "probabilities",
                do=remedy + ", or write `output: value` for a regressor",
            )
        if rows >= _ENOUGH_TO_TELL and bool(((result == 0) | (result == 1)).all()):
            raise PermanentError(
                f"each of {rows} scores is exactly 0 or 1: the model gives classes, not "
                "probabilities",
                do=remedy,
            )
    return result
