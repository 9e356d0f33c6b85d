"""A Snowflake to test against: fakesnow over HTTP, installed and run beside the suite.

It has an environment of its own, below .pytest_cache and named by its requirements, that is made
once and used again. Where the package index cannot be reached and it was never made, the tests that
ask for it are skipped, with that reason.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.fakesnow_account import CONNECTION, Account

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements-fakesnow.txt"
# What uv says where there is no network, or no way to the index.
UNREACHABLE = ("error sending request", "dns error", "Failed to fetch", "onnection refused")


@pytest.fixture(scope="session")
def fakesnow_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    python = _environment()
    with (
        (tmp_path_factory.mktemp("fakesnow") / "log.txt").open("wb") as log,
        subprocess.Popen(
            [str(python), str(HERE / "fakesnow_app.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            pytest.fail(f"the emulator did not start: {Path(log.name).read_text()}")
        _wait_until_it_answers(int(line))
        yield int(line)
        process.kill()


@pytest.fixture
def snowflake(fakesnow_port: int, monkeypatch: pytest.MonkeyPatch) -> Account:
    """An empty account; the connection `snowflake_test` of this process leads to it."""
    account = Account(fakesnow_port, f"db_{uuid.uuid4().hex[:12]}")
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONNECTION.upper()}", account.json())
    return account


def _wait_until_it_answers(port: int) -> None:
    # Connecting waits in the socket's queue until the server takes it.
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60).close()
    except urllib.error.HTTPError as answer:
        answer.close()


def _environment() -> Path:
    """The Python of the emulator's environment, made where it is missing."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = HERE.parent / ".pytest_cache" / f"fakesnow-{digest}"
    home.parent.mkdir(exist_ok=True)
    python, done = home / "bin" / "python", home / "installed"
    with FileLock(f"{home}.lock"):
        if done.exists():
            return python
        uv, own = [sys.executable, "-m", "uv"], str(python)
        for command in (
            [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)],
            [*uv, "pip", "install", "--quiet", "--python", own, "-r", str(REQUIREMENTS)],
        ):
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            if ran.returncode and any(sign in ran.stderr for sign in UNREACHABLE):
                pytest.skip(f"fakesnow cannot be installed: no package index ({ran.stderr[-300:]})")
            assert ran.returncode == 0, ran.stderr
        done.touch()
    return python
