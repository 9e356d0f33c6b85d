"""The Airflow, and the browser, that the tests of this folder share."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.airflow_processes import require_nothing_left
from tests.e2e.airflow.deployment import Deployment, deployed
from tests.e2e.airflow.pages import Browser, browsing, chromium
from tests.world import World, copy_world

# Of the days whose scores moved, which the audit holds.
HELD_DAYS = (dt.date(2026, 2, 2), dt.date(2026, 2, 3))


@pytest.fixture(scope="package")
def running(built_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The Airflow; every test adds the pipelines that it is about."""
    base = tmp_path_factory.mktemp("airflow")
    world = copy_world(built_world, base / "world")
    world.configure({"schedule": {"cron": None, "deadline": None}})
    for day in HELD_DAYS:
        world.execute(f"UPDATE accounts SET visits = 0 WHERE event_date = '{day}'")
    with deployed(world, base / "home") as deployment:
        yield deployment
    require_nothing_left(base / "home")


@pytest.fixture
def airflow(running: Deployment, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """The Airflow; this process reads the same table."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DAYBREAK_AIRFLOW_TOKEN", raising=False)
    for name, value in running.env.items():
        monkeypatch.setenv(name, value)
    return running


@pytest.fixture(scope="package")
def screenshots(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pages that the tests saw are kept: --screenshots FOLDER."""
    named = request.config.getoption("--screenshots")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="package")
def person(running: Deployment, screenshots: Path) -> Iterator[Browser]:
    """A person in front of Airflow's pages, who has logged in."""
    program = chromium()
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in CHROMIUM")
    with browsing(program, running, screenshots) as found:
        yield found


@pytest.fixture
def browser(person: Browser) -> Iterator[Browser]:
    yield person
    person.rest()
