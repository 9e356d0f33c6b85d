"""Pinned models: folders in the workspace, named by their digest and verified before they load.

<workspace>/<pipeline>/models/<digest>/
    model/…                  the MLflow model folder, MLmodel and all
    training_profile.json    where the training run logged one
    pinned.json              written last: without it, the folder is not trusted
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from include import storage
from include.errors import CorruptData
from include.local_files import is_unfinished
from include.run import ModelVersion, Value
from include.settings import settings
from include.stored import load

# MLflow writes this file into a folder that it downloads or loads; it is no part of the model.
_NOT_THE_MODEL = "registered_model_meta"

_MARKER = "pinned.json"


class _Pinned(Value):
    """The marker of a whole pinned folder; `files` are paths in its `model/`."""

    digest: str
    name: str
    version: str
    files: tuple[str, ...]


def folder_digest(folder: Path) -> str:
    """SHA-256 over each file's relative path, size and bytes, in the order of the paths."""
    digest = hashlib.sha256()
    for name in _files(folder):
        content = (folder / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def store_model(
    folder: Path,
    references: Mapping[str, bytes],
    uri: str,
    *,
    digest: str,
    name: str,
    version: str,
) -> None:
    """Copy a model folder to `uri` and the training references (name: content) beside it.

    What is there already stays as it is.
    """
    # A reference that was logged after the model was first used counts from now on.
    for file, content in references.items():
        storage.create(storage.join(uri, file), content)
    if _marker(uri) is not None:
        return
    files = tuple(_files(folder))
    for file in files:
        storage.write(storage.join(uri, "model", file), (folder / file).read_bytes())
    marker = _Pinned(digest=digest, name=name, version=version, files=files)
    storage.write(storage.join(uri, _MARKER), marker.model_dump_json(indent=2).encode())


def local_model(model: ModelVersion) -> Path:
    """The model folder on this machine, its digest verified; CorruptData where it is another.

    A folder on this machine's disk is used in place, any other is fetched to the cache. Loading a
    model runs code that the folder names, so nothing is loaded from it before this.
    """
    marker = _marker(model.uri)
    if marker is None or marker.digest != model.digest:
        state = "is not there or not whole" if marker is None else "holds another model"
        raise CorruptData(
            f"the pinned copy of {model.name} version {model.version} {state}: {model.uri}",
            do="plan the run again",
        )
    path = storage.local_path(storage.join(model.uri, "model"))
    if path is None:
        return _fetched(model, marker)
    if folder_digest(path) != model.digest:
        raise _changed(model)
    return path


def _fetched(model: ModelVersion, marker: _Pinned) -> Path:
    """A copy of a model that lies in an object store; made once a machine."""
    target = settings().cache / "models" / model.digest
    if target.is_dir():
        if folder_digest(target) == model.digest:
            return target
        shutil.rmtree(target)
    partial = target.with_name(f".{model.digest[:16]}-{uuid.uuid4().hex}")
    try:
        for file in marker.files:
            if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
                raise _changed(model)
            (partial / file).parent.mkdir(parents=True, exist_ok=True)
            try:
                content = storage.read(storage.join(model.uri, "model", file))
            except FileNotFoundError:
                raise _changed(model) from None
            (partial / file).write_bytes(content)
        if folder_digest(partial) != model.digest:
            raise _changed(model)
        try:
            partial.rename(target)
        except OSError:
            # Another process was faster: its copy has the same digest.
            if not target.is_dir():
                raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(partial)
    return target


def _changed(model: ModelVersion) -> CorruptData:
    return CorruptData(
        f"the pinned copy of {model.name} version {model.version} was changed after it was pinned: "
        f"{model.uri}",
        do="delete its folder and plan the run again",
    )


def _marker(uri: str) -> _Pinned | None:
    try:
        return load(_Pinned, storage.join(uri, _MARKER), "the marker of a pinned model")
    except FileNotFoundError:
        return None


def _files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in paths)
    return sorted(
        name
        for name in names
        # A plan that was killed while it copied the model leaves half a file beside the whole one.
        if PurePosixPath(name).name != _NOT_THE_MODEL and not is_unfinished(name)
    )
