"""A pipeline folder: pipeline.yaml, features.sql and suite.yaml, read and checked."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from include import storage
from include.config import PipelineConfig
from include.config_errors import nearest, validated
from include.errors import BadConfig, CorruptData
from include.run import Run
from include.yaml_lines import parse_yaml

CONFIG, QUERY, SUITE = "pipeline.yaml", "features.sql", "suite.yaml"

# A pipeline's name is the id of its DAG and a folder of the workspace.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,199}")

# The parts of pipeline.yaml that shape the rows of a version. The others (owner, schedule, engine,
# drift, …) may change without making a new version of the same date.
_SHAPING = ("partition", "key", "model", "gate", "predictions")


class Pipeline(BaseModel):
    """One pipeline folder as it stood when it was read; `suite` is suite.yaml, parsed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    config: PipelineConfig
    sql: str
    suite: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 over everything here that shapes the published rows."""
        content = json.dumps([self._shaping(), self.sql, self.suite], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def differs_from(self, other: Pipeline) -> list[str]:
        """What of all that shapes the rows is another here: keys of pipeline.yaml, and files."""
        mine, theirs = self._shaping(), other._shaping()
        keys = [name for name in mine if mine[name] != theirs[name]]
        files = [(QUERY, self.sql == other.sql), (SUITE, self.suite == other.suite)]
        return keys + [name for name, same in files if not same]

    def _shaping(self) -> dict[str, Any]:
        config = self.config.model_dump(mode="json")
        shaping = {name: config[name] for name in _SHAPING}
        shaping["model"] = {key: shaping["model"][key] for key in ("name", "output")}
        shaping["predictions"] = {
            key: shaping["predictions"][key] for key in ("score_column", "pass_through")
        }
        return shaping


def pipeline_folders(root: Path) -> list[Path]:
    """The pipeline folders under `root`, by name; hidden and private (`_…`) folders are none."""
    if not root.is_dir():
        raise BadConfig(
            f"there is no folder {root}", do="set DAYBREAK_PIPELINES to the folder of pipelines"
        )
    return sorted(
        path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))
    )


def load_named(root: Path, name: str) -> Pipeline:
    """The pipeline `name` under `root`; an unknown name is answered with the nearest one."""
    names = [folder.name for folder in pipeline_folders(root)]
    if name not in names:
        raise BadConfig(
            f"there is no pipeline {name!r} in {root}", do=nearest(name, names, "pipelines")
        )
    return load_pipeline(root / name)


def load_pipeline(folder: Path) -> Pipeline:
    """Read and validate a pipeline folder; raises BadConfig with the file and the line."""
    pipeline, problems = read_pipeline(folder)
    if pipeline is None:
        raise _together(problems)
    return pipeline


def read_pipeline(folder: Path) -> tuple[Pipeline | None, list[BadConfig]]:
    """The pipeline of a folder, or None and everything that is wrong with it, file by file.

    Every problem at once: a user who mends one line at a time runs the check once a line.
    """
    name, problems = folder.name, list[BadConfig]()
    texts: dict[str, str] = {}
    if not NAME.fullmatch(name):
        problems.append(
            BadConfig(
                f"{name!r} cannot name a pipeline",
                where=str(folder),
                do="call the folder by letters, digits, '_', '-' and '.', a letter first",
            )
        )
    for file in (CONFIG, QUERY, SUITE):
        try:
            texts[file] = _text(folder / file)
        except BadConfig as error:
            problems.append(error)
    config, suite = None, None
    if CONFIG in texts:
        try:
            values, lines = parse_yaml(texts[CONFIG], folder / CONFIG)
            config, found = validated(values, lines, folder / CONFIG)
            problems += found
        except BadConfig as error:
            problems.append(error)
    if QUERY in texts and not texts[QUERY].strip():
        problems.append(
            BadConfig("features.sql is empty", where=f"{folder / QUERY}:1", do="write one SELECT")
        )
    if SUITE in texts:
        try:
            suite = _suite(texts[SUITE], folder / SUITE)
        except BadConfig as error:
            problems.append(error)
    if problems or config is None or suite is None:
        for problem in problems:
            problem.located(name)
        return None, problems
    return Pipeline(name=name, config=config, sql=texts[QUERY], suite=suite), []


def _together(problems: list[BadConfig]) -> BadConfig:
    """One error that says all of them."""
    first, *others = problems
    if not others:
        return first
    said = "; ".join(
        f"{problem.found} ({Path(problem.where).name})" + (f", {problem.do}" if problem.do else "")
        for problem in problems
    )
    return BadConfig(
        f"{len(problems)} problems: {said}",
        where=str(Path(first.where).parent),
        do="mend them all",
        pipeline=first.pipeline,
    )


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except FileNotFoundError:
        raise BadConfig(
            f"{file.name} is missing",
            where=str(file),
            do=f"write it: a pipeline folder holds {CONFIG}, {QUERY} and {SUITE}",
        ) from None
    except UnicodeDecodeError as error:
        raise BadConfig(
            f"{file.name} is not UTF-8 text: {error.reason} at byte {error.start}",
            where=str(file),
            do="save it as UTF-8",
        ) from None
    except OSError as error:
        raise BadConfig(
            f"{file.name} cannot be read: {error.strerror}",
            where=str(file),
            do="make it a file that this user may read",
        ) from None


def _suite(text: str, file: Path) -> dict[str, Any]:
    """suite.yaml as JSON values, as which it is frozen with the run: a date becomes its text."""
    values, lines = parse_yaml(text, file)
    if not isinstance(values, dict):
        raise BadConfig(
            "suite.yaml holds no mapping",
            where=f"{file}:1",
            do="write `expectations:` and a list below it",
        )

    def plain(value: Any, path: tuple[str | int, ...]) -> Any:
        if isinstance(value, dict):
            return {key: plain(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, dt.date):  # a datetime is a date too
            return value.isoformat()
        if isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
            raise BadConfig(
                f"{'.'.join(map(str, path))} is {value!r}, which JSON cannot hold",
                where=f"{file}:{lines[path]}",
                do="leave an infinite bound out" if isinstance(value, float) else "write text",
            )
        return value

    suite: dict[str, Any] = plain(values, ())
    return suite


def planned_pipeline(run: Run) -> Pipeline:
    """The pipeline folder as it stood when `run` was planned, its digest verified."""
    try:
        pipeline = Pipeline.model_validate_json(storage.read(run.pipeline_uri))
    except FileNotFoundError:
        raise CorruptData(
            f"the planned configuration {run.pipeline_uri} is gone", do="plan the run again"
        ) from None
    if pipeline.digest != run.config_digest:
        raise CorruptData(
            f"{run.pipeline_uri} is not the configuration that the run was planned with",
            do="plan the run again",
        )
    return pipeline
