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


@pytest.fixture(params=["in this process", "in workers"])
def runner(request: pytest.FixtureRequest) -> ProcessRunner | None:
    """Two ways of calling functions; both pass all tests that use this."""
    if request.param == "in this process":
        return None
    found: ProcessRunner = request.getfixturevalue("two_workers")
    return found
