"""The MLflow registry: an alias becomes one version, and that version a pinned folder (pinned.py).

`plan` asks the registry once; no later step asks it again. Beside the pyfunc scorer this is the one
module that imports mlflow: the import alone costs seconds.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from include import storage
from include.config import Model
from include.errors import BadConfig, PermanentError, TransientError
from include.imports import large_import
from include.models.mlmodel import MLmodel
from include.models.pinned import folder_digest, store_model
from include.run import ModelInput, ModelVersion
from include.settings import settings, silence_telemetry
from include.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("daybreak")

T = TypeVar("T")

_LOGGED_UNDER = "daybreak"  # the folder of a run's artifacts that training code logs to

# Faults of a server or a database that may pass; any other error code of MLflow's is final.
_PASSING = {
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "RESOURCE_CONFLICT",
    "ABORTED",
    "CANCELLED",
}


@dataclass(frozen=True)
class RegisteredModel:
    """One version in the registry; `alias` says how it was found, None where it was named.

    `source` is the URI of its artifacts, `mlflow_run_id` the training run where there is one.
    """

    name: str
    version: str
    alias: str | None
    source: str
    mlflow_run_id: str | None


def find_model(name: str, alias: str, version: str | None = None) -> RegisteredModel:
    """The version behind `alias`, or `version` itself where one is given.

    Where nothing has the alias, the version in MLflow's old stage `Production` stands in for the
    alias `production`, labelled as such. Raises BadConfig, with what there is, for an unknown
    model, alias or version, and TransientError where the registry does not answer.
    """
    with _registry() as client:
        return _find(client, name, alias, version)


def model_inputs(name: str, alias: str) -> tuple[RegisteredModel, tuple[ModelInput, ...], str]:
    """The version behind `alias`, the columns of its signature and its flavour; nothing is loaded.

    Raises what `find_model` does, and PermanentError where the model has no signature by columns.
    """
    with _registry() as client, tempfile.TemporaryDirectory(prefix="daybreak-model-") as scratch:
        found = _find(client, name, alias, None)
        file = _download(found, Path(scratch) / "model", "MLmodel")
        with _named(found):
            description = MLmodel(file.parent)
            return found, description.inputs(), description.native_flavor()


def registered_models() -> list[str]:
    """The names of the registry's models, at most a thousand; raises what `find_model` does."""
    with _registry() as client:
        return sorted(found.name for found in client.search_registered_models(max_results=1000))


def pin_model(model: Model, workspace: Workspace, version: str | None = None) -> ModelVersion:
    """Resolve a pipeline's model once and copy it into the workspace, unless it is there already.

    Raises what `find_model` does, and PermanentError where the model has no signature by columns.
    """
    with _registry() as client, tempfile.TemporaryDirectory(prefix="daybreak-model-") as scratch:
        found = _find(client, model.name, model.alias, version)
        folder = _download(found, Path(scratch) / "model")
        references = _references(client, found, Path(scratch))
        with _named(found):
            description = MLmodel(folder)
            inputs, flavor = description.inputs(), description.native_flavor()
        digest = folder_digest(folder)
        uri = workspace.model(digest)
        store_model(folder, references, uri, digest=digest, name=found.name, version=found.version)
    return ModelVersion(
        name=found.name,
        version=found.version,
        alias=found.alias,
        flavor=flavor,
        digest=digest,
        uri=uri,
        mlflow_run_id=found.mlflow_run_id,
        inputs=inputs,
    )


@contextlib.contextmanager
def _named(found: RegisteredModel) -> Iterator[None]:
    """Errors with the registry's names: the scratch folder means nothing to who reads them."""
    try:
        yield
    except PermanentError as error:
        error.where = f"{found.name} version {found.version}, {found.source}"
        raise


@contextlib.contextmanager
def _registry() -> Iterator[MlflowClient]:
    """A client of the registry; MLflow's and the database's faults leave as one of our kinds."""
    uri = settings().registry
    _require_database(uri)
    silence_telemetry()
    with large_import("mlflow"):
        import sqlalchemy.exc
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

    # One line a run is ours; a database that is opened for the first time prints dozens.
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except MlflowException as error:
        found = f"the model registry {_shown(uri)} answered: {_summary(error)}"
        if "out-of-date database schema" in str(error):
            raise PermanentError(found, do=f"run `mlflow db upgrade {_shown(uri)}`") from error
        if error.error_code in _PASSING:
            raise TransientError(found, do="see that the registry is up") from error
        raise PermanentError(found, do="correct what it names") from error
    except (sqlalchemy.exc.OperationalError, ConnectionError, TimeoutError) as error:
        raise TransientError(
            f"the model registry {_shown(uri)} cannot be reached: {_summary(error)}",
            do="see that the registry is up",
        ) from error


def _require_database(uri: str) -> None:
    """MLflow would make an empty database at a mistyped path, and then know no model."""
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise BadConfig(
            f"there is no model registry at {uri}",
            do="set DAYBREAK_REGISTRY to the tracking URI that your training code logs to",
        )


def _find(client: MlflowClient, name: str, alias: str, version: str | None) -> RegisteredModel:
    model = _answer(lambda: client.get_registered_model(name))
    if model is None:
        raise BadConfig(
            f"the registry {_shown(settings().registry)} has no model {name!r}; it has "
            + _listed(model.name for model in client.search_registered_models(max_results=50)),
            do="correct model.name, or register the model",
        )
    found_by: str | None = None
    if version is None:
        version, found_by = _behind(model, alias)
    if version is None:
        raise BadConfig(
            f"no version of the model {name!r} has the alias {alias!r}; it has versions "
            f"{_listed(_versions(client, name))} and aliases {_listed(model.aliases)}",
            do=f"set the alias: MlflowClient().set_registered_model_alias({name!r}, {alias!r}, …)",
        )
    entry = _answer(lambda: client.get_model_version(name, version)) if version.isdigit() else None
    if entry is None:
        raise BadConfig(
            f"the model {name!r} has no version {version!r}; it has "
            + _listed(_versions(client, name)),
            do="ask for one of these, or for none to follow the alias",
        )
    if entry.status != "READY":
        raise PermanentError(
            f"version {version} of the model {name!r} is {entry.status}, not READY",
            do="register it again, or move the alias to a version that is ready",
        )
    return RegisteredModel(
        name=name,
        version=str(entry.version),
        alias=found_by,
        source=client.get_model_version_download_uri(name, str(entry.version)),
        mlflow_run_id=entry.run_id or None,
    )


def _answer(call: Callable[[], T]) -> T | None:
    """The answer, or None where the registry has no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return call()
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}:
            return None
        raise


def _behind(model: Any, alias: str) -> tuple[str | None, str | None]:
    """The version that has the alias, and what to call the way that it was found."""
    if alias in model.aliases:
        return str(model.aliases[alias]), alias
    if alias == "production":
        for entry in model.latest_versions:
            if entry.current_stage == "Production":
                log.warning(
                    "%s has no alias 'production'; version %s is in the old stage 'Production'",
                    model.name,
                    entry.version,
                )
                return str(entry.version), "stage Production"
    return None, None


def _versions(client: MlflowClient, name: str) -> list[str]:
    quote = '"' if "'" in name else "'"
    found = client.search_model_versions(f"name={quote}{name}{quote}", max_results=50)
    return sorted((str(entry.version) for entry in found), key=int)


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) or "none"


def _download(found: RegisteredModel, target: Path, file: str = "") -> Path:
    """The model's folder, or one file of it, below `target`."""
    # Not `models:/name/version`: for that form MLflow asks the registry of the process's global
    # setting, whatever registry_uri says.
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    uri = settings().registry
    model = f"{found.name} version {found.version}"
    source = storage.local_path(found.source)
    if source is not None and not source.is_dir():
        raise PermanentError(
            f"the registry says that the files of {model} are in {source}, where there are none",
            do="register the model again, or give this machine that folder",
        )
    try:
        downloaded = download_artifacts(
            artifact_uri=storage.join(found.source, file) if file else found.source,
            dst_path=str(target),
            tracking_uri=uri,
            registry_uri=uri,
        )
    except (MlflowException, OSError) as error:
        raise TransientError(
            f"the files of {model} could not be fetched from {found.source}: {_summary(error)}",
            do="see that they are there, and that this process may read them",
        ) from error
    return Path(downloaded)


def _references(client: MlflowClient, found: RegisteredModel, scratch: Path) -> dict[str, bytes]:
    """What the training run logged under `daybreak/` for drift, by file name."""
    from include.drift.profiles import TRAINING_PROFILE, TRAINING_SAMPLE

    run_id = found.mlflow_run_id
    if run_id is None or _answer(lambda: client.get_run(run_id)) is None:
        return {}
    references = {}
    for file in client.list_artifacts(run_id, _LOGGED_UNDER):
        name = file.path.removeprefix(f"{_LOGGED_UNDER}/")
        if name in (TRAINING_PROFILE, TRAINING_SAMPLE):
            path = client.download_artifacts(run_id, file.path, str(scratch))
            references[name] = Path(path).read_bytes()
    return references


def _summary(error: BaseException) -> str:
    """The error's text on one line; MLflow puts what matters on the second."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300].rstrip(".")


def _shown(uri: str) -> str:
    """A registry's URI without the password that it may hold."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
