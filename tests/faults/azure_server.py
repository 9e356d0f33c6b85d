"""An Azure Blob Storage to test against: Azurite, Microsoft's emulator, on loopback.

It comes from npm, as tests/azurite/package-lock.json pins it (with an old library for telemetry,
which is off: the new one is twice as large as all the rest), into a folder below .pytest_cache that
is made once and used again. Where there is no Node.js, or the registry cannot be reached and
the folder was never made, the tests that ask for it are skipped, with that reason.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from filelock import FileLock

HERE = Path(__file__).parents[1]
PINNED = [HERE / "azurite" / name for name in ("package.json", "package-lock.json")]
# What npm says where there is no network, or no way to the registry.
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")

CONTAINER, ACCOUNT = "daybreak", "acme"
STARTED = "successfully listens on http://127.0.0.1:"


class AzureServer:
    """A running server; `env` is what a process needs to use it."""

    root = f"abfs://{CONTAINER}"

    def __init__(self, port: int, key: str) -> None:
        self.url, self.key = f"http://127.0.0.1:{port}/{ACCOUNT}", key
        self.env = {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": key,
            "AZURE_STORAGE_ENDPOINT": self.url,
            "AZURE_ALLOW_HTTP": "true",
        }

    def connection(self, *, key: str = "") -> dict[str, Any]:
        """An Airflow connection of the account."""
        return {
            "conn_type": "wasb", "host": self.url, "login": ACCOUNT, "password": key or self.key,
        }  # fmt: skip

    def sas(self) -> str:
        """A shared access signature that allows everything: the query of a URL.

        https://learn.microsoft.com/rest/api/storageservices/create-account-sas
        """
        may, services, kinds, until, version = "rwdlacup", "b", "sco", "2099-01-01", "2021-08-06"
        signed = [ACCOUNT, may, services, kinds, "", until, "", "", version, "", ""]
        key = base64.b64decode(self.key)
        digest = hmac.digest(key, "\n".join(signed).encode(), hashlib.sha256)
        return urlencode(
            {"sv": version, "ss": services, "srt": kinds, "sp": may, "se": until}
            | {"sig": base64.b64encode(digest).decode()}
        )

    def make_container(self) -> None:
        url = f"{self.url}/{CONTAINER}?restype=container&{self.sas()}"
        urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=60).close()


@contextmanager
def running(folder: Path) -> Iterator[AzureServer]:
    """A server of its own, with an account and a key of its own; its log is in the folder."""
    script = _installed() / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    key, log = base64.b64encode(os.urandom(64)).decode(), folder / "azurite.log"
    with log.open("wb") as output, subprocess.Popen(
        ["node", str(script), "--blobPort", "0", "--inMemoryPersistence", "--disableTelemetry"],
        cwd=folder, stdout=output, stderr=output,
        env=os.environ | {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"},
    ) as process:  # fmt: skip
        try:
            server = AzureServer(_port(process, log), key)
            server.make_container()
            yield server
        finally:
            process.kill()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    until = time.monotonic() + 300
    while not (said := re.search(f"{re.escape(STARTED)}([0-9]+)", log.read_text())):
        if process.poll() is not None or time.monotonic() > until:
            pytest.fail(f"Azurite did not start: {log.read_text()}")
        time.sleep(0.1)
    return int(said[1])


def _installed() -> Path:
    """The folder that holds Azurite, made where it is missing."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Azurite needs Node.js and npm, and they are not on this machine")
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(node[1:].partition(".")[0]) < 20:
        pytest.skip(f"Azurite needs Node.js 20 or newer, and this machine has {node.strip()}")
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in PINNED)).hexdigest()[:12]
    home = HERE.parent / ".pytest_cache" / f"azurite-{digest}"
    home.mkdir(parents=True, exist_ok=True)
    done = home / "installed"
    with FileLock(f"{home}.lock"):
        if done.exists():
            return home
        for file in PINNED:
            shutil.copy(file, home)
        ran = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
            cwd=home, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if ran.returncode and any(sign in ran.stderr for sign in UNREACHABLE):
            pytest.skip(f"Azurite cannot be installed: no npm registry ({ran.stderr[-300:]})")
        assert ran.returncode == 0, ran.stderr
        done.touch()
    return home
