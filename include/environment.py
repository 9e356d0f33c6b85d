"""The versions of what turns features into scores, as a version's lineage records them."""

from __future__ import annotations

import platform
from importlib import metadata

# The distributions of each model flavour's library; any other flavour is loaded through mlflow.
_LIBRARIES = {
    "lightgbm": ("lightgbm",),
    "sklearn": ("scikit-learn",),
    "xgboost": ("xgboost", "xgboost-cpu"),
    "onnx": ("onnxruntime", "onnxruntime-gpu"),
    "pytorch": ("torch",),
    "torch": ("torch",),
    "spark": ("pyspark",),
}


def environment_for(flavor: str) -> dict[str, str]:
    """Python, the machine and the libraries that score a model of this flavour, by their names.

    Read from the packages' metadata: nothing is imported. A package that is not installed is left
    out.
    """
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("pyarrow", "numpy", *_LIBRARIES.get(flavor, ("mlflow",))):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def differences(recorded: dict[str, str], now: dict[str, str]) -> dict[str, tuple[str, str]]:
    """What differs, as (recorded, now); a package that one side lacks is ''."""
    names = dict.fromkeys((*recorded, *now))
    pairs = {name: (recorded.get(name, ""), now.get(name, "")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
