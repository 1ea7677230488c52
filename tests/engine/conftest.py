"""What several files of the engine's tests share."""

from collections.abc import Iterator

import pytest

from scalops.engine.processes.runner import ProcessRunner


@pytest.fixture(scope="module")
def two_workers() -> Iterator[ProcessRunner]:
    """Worker processes for all tests of a file."""
    made = ProcessRunner(2)
    yield made
    made.stop()
