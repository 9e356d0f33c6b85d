"""`make airflow`: what its processes see, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from daybreak.local_airflow import BACKFILL_POOL, LocalAirflow
from daybreak.local_settings import connections_of, pools_of
from include.errors import PermanentError
from include.settings import PROJECT, settings
from tests.airflow_processes import processes_of, require_nothing_left

SAY = """
import json, sys
found = load(sys.argv[1])
print(json.dumps({name: [
    c.conn_type, c.host, c.login, c.password, c.schema, c.port, c.extra_dejson
] for name, c in found.items()}))
"""

long_proof = pytest.mark.skipif(
    not os.environ.get("DAYBREAK_LONG_TESTS"), reason="one of the long proofs: make test-all"
)


def test_its_processes_see_one_configuration_and_nothing_of_another_airflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "SequentialExecutor")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    url = "postgresql+psycopg2://somebody@db.example.org/airflow"
    home = tmp_path / "home"
    home.mkdir()
    airflow = LocalAirflow(home, 4321)
    seen = airflow._environment(url)
    assert seen["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert seen["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == url
    # Uncompiled, each task would pay ten seconds and more of imports.
    assert "PYTHONDONTWRITEBYTECODE" not in seen
    # Tasks report to this server, links lead to it, and every part signs with the same secret.
    assert seen["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:4321/execution/"
    assert seen["AIRFLOW__API__BASE_URL"] == "http://127.0.0.1:4321"
    assert seen["AIRFLOW__API_AUTH__JWT_SECRET"]
    again = LocalAirflow(home, 4321)._environment(url)
    assert again == seen, "a restart keeps the secrets, and with them sessions and stored values"
    assert (home / "secrets.json").stat().st_mode & 0o077 == 0
    assert (home / "passwords.json").stat().st_mode & 0o077 == 0
    assert seen["DAYBREAK_BACKFILL_POOL"] == BACKFILL_POOL


def test_the_pool_of_backfills_is_the_one_that_astro_makes_too() -> None:
    assert BACKFILL_POOL in pools_of(settings().connections_file)


def test_connections_of_the_file_are_those_that_airflow_imports(tmp_path: Path) -> None:
    file = tmp_path / "airflow_settings.yaml"
    file.write_text(
        "airflow: {connections: [{conn_id: shop, conn_type: snowflake, conn_host: , "
        "conn_login: me, conn_password: sesame, conn_schema: night, conn_port: 443, "
        "conn_extra: {account: xy, warehouse: wh}}, {conn_id: , conn_type: }]}"
    )
    imported = tmp_path / "connections.json"
    imported.write_text(json.dumps(connections_of(file)))
    reader = f"from airflow.secrets.local_filesystem import load_connections_dict as load; {SAY}"
    done = subprocess.run(
        [sys.executable, "-c", reader, str(imported)],
        env=os.environ | {"AIRFLOW_HOME": str(tmp_path / "airflow")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "shop": [
            "snowflake",
            None,
            "me",
            "sesame",
            "night",
            443,
            {"account": "xy", "warehouse": "wh"},
        ]
    }
    assert connections_of(tmp_path / "none.yaml") == {}


def test_a_port_that_is_taken_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "daybreak.local_airflow"),
                *("--port", str(port), "--home", str(tmp_path / "home")),
            ],
            cwd=PROJECT,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert f"port {port} is taken by another process" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home" / "postgres").exists()


def test_secrets_that_a_kill_left_empty_are_made_anew(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").touch()
    assert LocalAirflow(tmp_path).password
    (tmp_path / "secrets.json").write_text('{"jwt": ')
    with pytest.raises(PermanentError, match="no JSON") as broken:
        assert LocalAirflow(tmp_path).password
    assert "Delete the file" in str(broken.value)


def test_the_url_of_a_database_needs_not_stand_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql+psycopg2://somebody:sesame@127.0.0.1:9/airflow"
    monkeypatch.setenv("DAYBREAK_AIRFLOW_DATABASE", url)
    assert settings().local_airflow_database == url
    assert "sesame" not in repr(settings())


def test_packages_are_installed_with_their_bytecode() -> None:
    installs = [
        line for line in (PROJECT / "Makefile").read_text("utf-8").splitlines() if " -r " in line
    ]
    ours = [line for line in installs if "uv" in line.lower()]
    assert ours and all("--compile-bytecode" in line for line in ours)


@pytest.mark.e2e
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "end",
    [
        "SIGINT",
        pytest.param("SIGTERM", marks=long_proof),
        pytest.param("SIGHUP", marks=long_proof),
    ],
)
def test_the_address_comes_once_all_is_healthy_and_its_end_is_that_of_every_child(
    tmp_path: Path, end: str
) -> None:
    home = tmp_path / "home"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = subprocess.Popen(
        [sys.executable, "-m", "daybreak.local_airflow", "--port", str(port), "--home", str(home)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []
    healthy = threading.Event()

    def listen() -> None:
        assert started.stdout is not None
        for line in started.stdout:
            said.append(line)
            if "Airflow is healthy" in line:
                healthy.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        assert healthy.wait(600), said
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/monitor/health") as answer:
            parts = json.load(answer)
        assert {part["status"] for part in parts.values()} == {"healthy"}
        assert re.search(rf"http://127\.0\.0\.1:{port} +login admin, password \S+", "".join(said))
        assert len(processes_of(home)) > 5
        started.send_signal(signal.Signals[end])
        assert started.wait(120) == 0, said
    finally:
        started.kill()
    require_nothing_left(home)
