"""What a run may have otherwise than its pipeline says: the model's version or alias, the engine.

None of it makes another version by itself: an engine shapes no row, and of a model only what it is
counts, not how it was found.
"""

from __future__ import annotations

import importlib.util

from pydantic import TypeAdapter, ValidationError

from include.config import PipelineConfig
from include.engine_config import EngineConfig
from include.engines import MEMBERS
from include.errors import BadConfig
from include.pipeline import CONFIG, Pipeline
from include.run import Request

_ANY_ENGINE: TypeAdapter[EngineConfig] = TypeAdapter(EngineConfig)


def overridden(pipeline: Pipeline, request: Request) -> Pipeline:
    """The pipeline as this run has it; raises BadConfig for what the pipeline cannot do."""
    config = pipeline.config
    if request.model_version is not None and request.model_alias is not None:
        raise BadConfig(
            f"the run asks for model version {request.model_version!r} and for the alias "
            f"{request.model_alias!r}, which may be another version",
            do="pass one of the two",
        )
    update: dict[str, object] = {}
    if request.model_alias is not None:
        update["model"] = config.model.model_copy(update={"alias": request.model_alias})
    if request.engine is not None:
        airflow = request.invocation.orchestrator == "airflow"
        update["engine"] = _engine(pipeline, request.engine, in_airflow=airflow)
    if not update:
        return pipeline
    return pipeline.model_copy(update={"config": config.model_copy(update=update)})


def engines_in_airflow(pipeline: Pipeline) -> tuple[str, ...]:
    """The kinds of engine that a run of the pipeline's DAG may ask for."""
    possible = []
    for kind in MEMBERS:
        try:
            _engine(pipeline, kind, in_airflow=True)
        except BadConfig:
            continue
        possible.append(kind)
    return tuple(possible)


def _engine(pipeline: Pipeline, kind: str, *, in_airflow: bool) -> EngineConfig:
    """The pipeline's own section where it is of this kind, else this kind's defaults."""
    config, where = pipeline.config, f"{pipeline.name}/{CONFIG}"
    if kind not in MEMBERS:
        raise BadConfig(f"there is no engine {kind!r}", do=f"pass one of {', '.join(MEMBERS)}")
    if config.engine.kind == kind:
        return config.engine
    if in_airflow and _has_its_own_tasks(config):
        raise BadConfig(
            f"the DAG of this pipeline is made for the engine {config.engine.kind!r}: its tasks "
            f"cannot score on {kind!r}",
            where=where,
            do="leave the engine out, or run it with daybreak run --engine",
        )
    if importlib.util.find_spec(f"include.engines.{kind}") is None:
        raise BadConfig(f"the engine {kind!r} is not installed", do="leave the engine out")
    try:
        engine: EngineConfig = _ANY_ENGINE.validate_python({"kind": kind})
    except ValidationError as error:
        needed = ", ".join(".".join(map(str, each["loc"][1:])) for each in error.errors())
        raise BadConfig(
            f"the pipeline cannot run on the engine {kind!r}: its section `engine:` is of the "
            f"kind {config.engine.kind!r}, and {kind} needs {needed}",
            where=where,
            do=f"leave the engine out, or write `engine: {{kind: {kind}, …}}` there",
        ) from error
    return engine


def _has_its_own_tasks(config: PipelineConfig) -> bool:
    """Whether the engine is a part of the DAG's graph: pods, or an application of its own."""
    launched = getattr(config.engine, "launched_by", "task")
    return config.engine.kind == "kubernetes" or launched != "task"
