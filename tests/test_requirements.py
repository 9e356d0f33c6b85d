"""Promises about what is installed beside each other, and what the folders may hold."""

from __future__ import annotations

import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("dags", "flows", "tasks", "include", "daybreak", "plugins")
# Each with a version that installs well and then fails, or hides another library's files.
BOUNDED = {
    "pandas": "3.0.0",
    "prefect": "3.9.0",
    "apache-airflow-providers-apache-spark": "6.0.0",
}


def lines(name: str) -> list[str]:
    return [line for line in (PROJECT / name).read_text().splitlines() if line[:1].isalpha()]


def wanted() -> dict[str, Requirement]:
    requirements = (Requirement(line.partition("#")[0]) for line in lines("requirements.in"))
    return {requirement.name: requirement for requirement in requirements}


def locked() -> dict[str, Requirement]:
    requirements = (Requirement(line.partition(" #")[0]) for line in lines("requirements.txt"))
    return {requirement.name: requirement for requirement in requirements}


@pytest.mark.parametrize(("library", "broken"), BOUNDED.items())
def test_a_version_that_is_known_to_break_the_rest_cannot_get_into_the_lock(
    library: str, broken: str
) -> None:
    assert broken not in wanted()[library].specifier
    (pin,) = locked()[library].specifier
    assert pin.operator == "==" and pin.version in wanted()[library].specifier


@pytest.mark.parametrize("folder", ["dags", "flows", "plugins"])
def test_no_module_hides_a_package_from_what_is_loaded_by_its_file(folder: str) -> None:
    """Prefect and Airflow put these folders first on the path: flows/tasks.py would hide tasks/."""
    own = {
        each.stem for each in (PROJECT / folder).iterdir() if each.is_dir() or each.suffix == ".py"
    }
    libraries = {*PACKAGES, *packages_distributions(), *sys.stdlib_module_names}
    assert not own & libraries
