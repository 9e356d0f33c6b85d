"""Estimators that were pickled into an MLflow model folder, loaded without mlflow."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

from include.errors import PermanentError


def load_estimator(folder: Path, flavor: dict[str, Any]) -> Any:
    """The estimator of one flavor's section of MLmodel, saved as skops, pickle or cloudpickle.

    Unpickling runs code: the folder's digest was verified before, by models/pinned.py. The
    estimator works in one thread (`n_jobs` of all its parts is 1): parts are the unit of
    parallelism, and a forest that adds up its trees in the order of its threads gives other last
    bits every time.
    """
    file = folder / (flavor.get("pickled_model") or flavor["data"])
    add_code(folder, flavor)
    saved_as = flavor.get("serialization_format", "cloudpickle")
    try:
        estimator = _read(file, saved_as, flavor.get("skops_trusted_types"))
    except (ImportError, AttributeError) as error:
        raise PermanentError(
            f"the model needs code that this environment does not have: {error}",
            where=str(file),
            do="install the packages of the model's requirements.txt",
        ) from error
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError) as error:
        raise PermanentError(
            f"the model cannot be loaded here: {error}",
            where=str(file),
            do="install the package versions of the model's requirements.txt",
        ) from error
    return _single_threaded(estimator)


def _read(file: Path, saved_as: str, trusted: list[str] | None) -> Any:
    if saved_as == "skops":
        import skops.io
        from skops.io.exceptions import UntrustedTypesFoundException

        try:
            return skops.io.load(file, trusted=trusted)
        except UntrustedTypesFoundException as error:
            raise PermanentError(
                f"the model has types that it does not declare as trusted: {error}",
                where=str(file),
                do="log it again with skops_trusted_types=[…], naming them",
            ) from error
    if saved_as == "pickle":
        with file.open("rb") as stream:
            return pickle.load(stream)  # noqa: S301 - the registry's model, its digest verified
    if saved_as == "cloudpickle":
        import cloudpickle

        with file.open("rb") as stream:
            return cloudpickle.load(stream)
    raise PermanentError(
        f"the model is saved as {saved_as!r}", where=str(file), do="log it as skops or cloudpickle"
    )


def add_code(folder: Path, flavor: dict[str, Any]) -> None:
    """Let the model import the code that it was logged with (`code_paths`)."""
    if flavor.get("code"):
        # Python would write __pycache__ into the pinned folder, and so change its digest.
        sys.dont_write_bytecode = True
        path = str(folder / flavor["code"])
        if path not in sys.path:
            sys.path.insert(0, path)


def _single_threaded(estimator: Any) -> Any:
    if hasattr(estimator, "get_params"):
        names = [name for name in estimator.get_params() if name.split("__")[-1] == "n_jobs"]
        estimator.set_params(**dict.fromkeys(names, 1))
    return estimator
