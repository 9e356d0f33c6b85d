"""What lies in a pipeline's workspace beside the table, in groups that live and go together."""

from __future__ import annotations

import datetime as dt
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from urllib.parse import unquote

from pydantic import ValidationError

from include import storage
from include.errors import CorruptData
from include.reports.records import PLANNED, RunRecords, read_records, step_record
from include.run import Run, SnapshotManifest
from include.scoring import version_id
from include.storage import Entry
from include.stored import load
from include.workspace import Workspace

READERS = 16

Version = tuple[dt.date, str]
Unreadable = Callable[[CorruptData], None]


@dataclass(frozen=True)
class Group:
    """Files in the order in which they are to be deleted: first what names the others.

    `uri` is how other values refer to it: a snapshot's manifest, a gate's result without its
    suffix, a folder otherwise. `named` is false for files that nothing can refer to.
    """

    name: str
    uri: str
    files: tuple[Entry, ...]
    version: Version | None = None
    named: bool = True

    @property
    def modified_at(self) -> dt.datetime:
        return max(entry.modified_at for entry in self.files)

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.files)

    def has(self, name: str) -> bool:
        return any(entry.uri.endswith(f"/{name}") for entry in self.files)

    def without(self, uris: Collection[str]) -> Group:
        return replace(self, files=tuple(each for each in self.files if each.uri not in uris))


@dataclass(frozen=True)
class Lying:
    snapshots: list[Group]
    gates: list[Group]
    scores: list[Group]
    drift: list[Group]
    models: list[Group]
    runs: list[Group]
    configs: list[Group]


@dataclass(frozen=True)
class InUse:
    """What runs of late work with: versions, and the URIs of snapshots, quarantines and models.

    Of a run whose records cannot be read it may be anything of its date in `dates`, and, with
    `every_date` or `every_model`, of any date and any model.
    """

    versions: frozenset[Version]
    uris: frozenset[str]
    dates: frozenset[dt.date] = frozenset()
    every_date: bool = False
    every_model: bool = False

    def version(self, version: Version | None) -> bool:
        """Whether a run may work with the version."""
        if self.every_date or version in self.versions:
            return True
        return version is not None and version[0] in self.dates

    def date_of(self, group: Group) -> bool:
        """Whether an unreadable run may work with the snapshot or the gate's result."""
        named = group.name.partition("/")[0].removeprefix("as_of=")
        return self.every_date or named in {day.isoformat() for day in self.dates}


def lying(workspace: Workspace) -> Lying:
    """One listing of each folder, and every snapshot's manifest."""
    return Lying(
        snapshots=_snapshots(workspace),
        gates=_gates(workspace),
        scores=_of_versions(workspace, "scores"),
        drift=_of_versions(workspace, "drift"),
        models=_folders(workspace.at("models"), first="pinned.json"),
        runs=_folders(workspace.runs()),
        configs=_single_files(workspace.at("configs")),
    )


def in_use(
    workspace: Workspace, runs: Iterable[Group], since: dt.datetime, unreadable: Unreadable
) -> InUse:
    """What the runs that wrote anything after `since` planned, extracted and scored.

    `unreadable` is told of a record that cannot be read.
    """
    found = InUse(frozenset(), frozenset())
    for group in runs:
        if group.modified_at < since:
            continue
        try:
            found = _with(found, read_records(workspace, group.name))
        except CorruptData as error:
            unreadable(error)
            found = _with_unreadable(found, workspace, group.name)
    return found


def _with(found: InUse, records: RunRecords) -> InUse:
    run, snapshot, gate = records.run, records.snapshot, records.gate
    versions, uris = set[Version](), set[str]()
    if run is not None:
        uris.add(run.model.uri)
    if snapshot is not None:
        uris.add(snapshot.uri)
    if gate is not None and gate.quarantine_uri is not None:
        uris.add(gate.quarantine_uri)
    if run is not None and snapshot is not None:
        version = version_id(snapshot.digest, run.model.digest, run.config_digest)
        versions.add((run.partition.as_of, version))
    return replace(found, versions=found.versions | versions, uris=found.uris | uris)


def _with_unreadable(found: InUse, workspace: Workspace, run_id: str) -> InUse:
    """With all that the run may work with, as far as its other records narrow it down."""
    try:
        run = load(Run, storage.join(workspace.run(run_id), "run.json"), PLANNED)
    except (CorruptData, FileNotFoundError):
        pass
    else:
        uris = found.uris | {run.model.uri}
        return replace(found, dates=found.dates | {run.partition.as_of}, uris=uris)
    # The record of the step may be of an attempt with another model, but not of another date.
    try:
        planned = step_record(workspace, run_id, "plan")
        run = Run.model_validate(planned.result if planned is not None else None)
    except (CorruptData, ValidationError):
        return replace(found, every_date=True, every_model=True)
    return replace(found, dates=found.dates | {run.partition.as_of}, every_model=True)


def _snapshots(workspace: Workspace) -> list[Group]:
    root = workspace.at("snapshots")
    entries = {entry.uri: entry for entry in storage.entries(root)}
    manifests = [uri for uri in entries if uri.endswith(".json")]
    with ThreadPoolExecutor(READERS) as readers:
        read = list(readers.map(_manifest, manifests))
    groups = []
    for uri, manifest in zip(manifests, read, strict=True):
        if manifest is None:
            continue
        entry = entries.pop(uri)
        parts = [entries.pop(part.uri) for part in manifest.parts if part.uri in entries]
        groups.append(Group(_name(root, uri), uri, (entry, *parts)))
    # Their folder is that of one extract, which either settles or leaves nothing that names them.
    unnamed = _grouped(entries.values(), lambda entry: entry.uri.rpartition("/")[0])
    return groups + [
        Group(_name(root, uri), uri, tuple(files), named=False) for uri, files in unnamed.items()
    ]


def _manifest(uri: str) -> SnapshotManifest | None:
    try:
        return SnapshotManifest.model_validate_json(storage.read(uri))
    except FileNotFoundError:  # deleted since it was listed
        return None
    except ValidationError as error:
        raise CorruptData(
            f"this is no manifest of a snapshot: {error.errors()[0]['msg']}",
            where=uri,
            do="restore it from a backup, or delete it and run the partition again",
        ) from None


def _gates(workspace: Workspace) -> list[Group]:
    root = workspace.at("gates")
    stems = _grouped(
        storage.entries(root), lambda entry: re.sub(r"\.(json|parquet)$", "", entry.uri)
    )
    # The result, .json, names the quarantine, .parquet.
    return [
        Group(_name(root, stem), stem, tuple(sorted(files, key=lambda entry: entry.uri)))
        for stem, files in stems.items()
    ]


def _of_versions(workspace: Workspace, folder: str) -> list[Group]:
    root, groups = workspace.at(folder), []
    for name, files in _grouped(
        storage.entries(root), lambda entry: "/".join(_name(root, entry.uri).split("/")[:2])
    ).items():
        found = re.fullmatch(r"as_of=(\d{4}-\d\d-\d\d)/([^/]+)", name)
        if found is not None:
            version = (dt.date.fromisoformat(found[1]), found[2])
            groups.append(Group(name, storage.join(root, name), tuple(files), version))
    return groups


def _folders(root: str, first: str = "") -> list[Group]:
    groups = []
    for name, files in _grouped(
        storage.entries(root), lambda entry: _name(root, entry.uri).split("/")[0]
    ).items():
        ordered = sorted(files, key=lambda entry: not entry.uri.endswith(f"/{first}"))
        groups.append(Group(name, storage.join(root, name), tuple(ordered)))
    return groups


def _single_files(root: str) -> list[Group]:
    return [Group(_name(root, entry.uri), entry.uri, (entry,)) for entry in storage.entries(root)]


def _grouped(entries: Iterable[Entry], key: Callable[[Entry], str]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return groups


def _name(root: str, uri: str) -> str:
    return unquote(uri.removeprefix(f"{root}/"))
