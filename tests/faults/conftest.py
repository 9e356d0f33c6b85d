"""What the fault suite shares: its marker and one nursery a worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.commands import Nursery

pytest.register_assert_rewrite(
    "tests.faults.places", "tests.faults.scenes", "tests.faults.watching"
)

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.faults)
            if "DAYBREAK_LONG_TESTS" in os.environ:
                item.add_marker(pytest.mark.timeout(2 * 3600))


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()
