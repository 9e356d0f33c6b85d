"""Trained models go to the MLflow registry: logged with their evaluation, then given the alias."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from include.errors import BadConfig
from include.settings import settings, silence_telemetry

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow import MlflowClient
    from numpy.typing import NDArray

    from demo.evaluation import Evaluation
    from include.pipeline import Pipeline

EXPERIMENT = "daybreak-demo"

# The tag of a version that names the code and the data that it was trained with. A version without
# it is somebody else's.
TRAINED_FROM = "daybreak.trained_from"

_SIGNATURE_TYPES = {
    "int32": "integer",
    "int64": "long",
    "double": "double",
    "string": "string",
    "bool": "boolean",
}


@dataclass(frozen=True)
class Trained:
    """A model and what is known of it.

    `features` are held-out rows with the columns and types of the model's signature, and `scores`
    what the model gives them: the reference that drift is measured from. `flavor` is MLflow's.
    """

    flavor: str
    model: Any
    features: pa.Table
    scores: NDArray[Any]
    evaluation: Evaluation
    params: Mapping[str, object]
    requirements: tuple[str, ...]
    log_options: Mapping[str, object] = field(default_factory=dict)


class Registry:
    """The registry of the settings, for training code."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def production(self, pipeline: Pipeline) -> tuple[str, str | None] | None:
        """The version behind the pipeline's alias and its TRAINED_FROM tag; None without one."""
        from mlflow.exceptions import MlflowException

        model = pipeline.config.model
        try:
            version = self._client.get_model_version_by_alias(model.name, model.alias)
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise
        return str(version.version), version.tags.get(TRAINED_FROM)

    def register(self, pipeline: Pipeline, trained: Trained, trained_from: str) -> str:
        """Log the model, register it, and move the alias to it; the new version's number."""
        import mlflow

        from daybreak.training import log_training_reference

        model, client = pipeline.config.model, self._client
        if client.get_experiment_by_name(EXPERIMENT) is None:
            client.create_experiment(EXPERIMENT, artifact_location=_artifacts())
        mlflow.set_experiment(EXPERIMENT)
        with mlflow.start_run(run_name=model.name):
            mlflow.log_params(dict(trained.params))
            mlflow.log_metrics(trained.evaluation.metrics())
            mlflow.log_table(
                {
                    name: [getattr(entry, name) for entry in trained.evaluation.bins]
                    for name in ("rows", "mean_score", "observed")
                },
                "reliability.json",
            )
            log_training_reference(
                trained.features, trained.scores, pipeline.config.predictions.score_column
            )
            flavor: Any = getattr(mlflow, trained.flavor)
            logged = flavor.log_model(
                trained.model,
                name=model.name,
                signature=signature(trained.features.schema),
                # Given, MLflow does not start a process that loads the model to find them.
                pip_requirements=pinned(trained.requirements),
                **trained.log_options,
            )
        # By the client: mlflow.register_model prints.
        if not client.search_registered_models(f"name = '{model.name}'"):
            client.create_registered_model(model.name, description=pipeline.config.description)
        version = client.create_model_version(
            model.name,
            source=logged.model_uri,
            run_id=logged.run_id,
            model_id=logged.model_id,
            tags={TRAINED_FROM: trained_from},
        ).version
        client.set_registered_model_alias(model.name, model.alias, version)
        return str(version)


@contextmanager
def open_registry() -> Iterator[Registry]:
    """MLflow pointed at the registry of the settings, and quiet; as it was before, afterwards."""
    silence_telemetry()
    import mlflow
    from mlflow.environment_variables import MLFLOW_TRACKING_URI

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    uri = settings().registry
    settings().home.mkdir(parents=True, exist_ok=True)
    before = MLFLOW_TRACKING_URI.get()
    mlflow.set_tracking_uri(uri)
    try:
        yield Registry(mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri))
    finally:
        # Setting it to nothing also takes the variable out of the environment.
        mlflow.set_tracking_uri(None)
        if before is not None:
            MLFLOW_TRACKING_URI.set(before)


def signature(schema: pa.Schema) -> Any:
    """The model's signature: exactly the columns and types that features.sql gives."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    types = {entry.name: str(entry.type) for entry in schema}
    unknown = [f"{name} ({kind})" for name, kind in types.items() if kind not in _SIGNATURE_TYPES]
    if unknown:
        raise BadConfig(
            f"MLflow's signatures have no type for {', '.join(unknown)}",
            where="features.sql",
            do="cast them to BIGINT, DOUBLE or VARCHAR",
        )
    return ModelSignature(
        inputs=Schema([ColSpec(_SIGNATURE_TYPES[kind], name) for name, kind in types.items()])
    )


def pinned(packages: tuple[str, ...]) -> list[str]:
    """The packages as requirements, at the versions that are installed here."""
    from importlib.metadata import version

    return [f"{package}=={version(package)}" for package in packages]


def _artifacts() -> str | None:
    """Beside the database for a local one; a tracking server knows its own place."""
    if not settings().registry.startswith("sqlite"):
        return None
    return (settings().home / "mlartifacts").as_uri()
