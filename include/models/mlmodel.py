"""The file MLmodel of an MLflow model folder: its flavors and its signature, without mlflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from include.errors import PermanentError
from include.run import ModelInput

PYFUNC = "python_function"


class MLmodel:
    """What MLmodel says. Raises PermanentError where the folder holds no MLflow model."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "MLmodel"
        if not self.file.is_file():
            raise PermanentError(
                "this folder is no MLflow model: it has no file MLmodel",
                where=str(folder),
                do="log the model with mlflow.<flavor>.log_model",
            )
        content = yaml.safe_load(self.file.read_text("utf-8"))
        self.content: dict[str, Any] = content if isinstance(content, dict) else {}
        self.flavors: dict[str, dict[str, Any]] = self.content.get("flavors") or {}
        if not self.flavors:
            raise PermanentError(
                "the MLmodel names no flavor",
                where=str(self.file),
                do="log the model with mlflow.<flavor>.log_model",
            )

    def native_flavor(self) -> str:
        """The model's own library; `python_function` where it has nothing else."""
        return next((name for name in self.flavors if name != PYFUNC), PYFUNC)

    def inputs(self) -> tuple[ModelInput, ...]:
        """The signature's columns; PermanentError where it has none that are flat and named."""
        text = (self.content.get("signature") or {}).get("inputs")
        columns = json.loads(text) if text else []
        remedy = (
            "log it with a signature: mlflow.<flavor>.log_model(model, name='model', "
            "signature=infer_signature(features, predictions)) where features is a DataFrame"
        )
        if not columns:
            raise PermanentError(
                "the model was logged without a signature", where=str(self.file), do=remedy
            )
        if any("name" not in column for column in columns):
            raise PermanentError(
                "the model's signature names no columns: its input is a tensor",
                where=str(self.file),
                do=remedy,
            )
        nested = [c["name"] for c in columns if c["type"] in ("array", "object", "map")]
        if nested:
            raise PermanentError(
                f"the model's signature has nested columns: {', '.join(nested)}",
                where=str(self.file),
                do="train the model on flat columns",
            )
        return tuple(
            ModelInput(name=c["name"], type=c["type"], required=c.get("required", True))
            for c in columns
        )
