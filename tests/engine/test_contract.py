"""Every backend keeps the contract."""

from collections.abc import Iterator

import pytest

from scalops.engine.embedded import EmbeddedBackend
from scalops.engine.memory import MemoryBudget
from tests.engine.contract import BackendContract, Factory, Host
from tests.engine.plans import pool


def embedded(threads: int) -> Factory:
    """The embedded backend on so many threads."""

    def make(memory: int | None = None) -> Host:
        budget = MemoryBudget(memory)
        return Host(EmbeddedBackend(pool(threads), budget), lambda: budget.held)

    return make


FACTORIES = {f"embedded-{n}": embedded(n) for n in (1, 2, 4)}


@pytest.fixture(params=FACTORIES)
def factory(request: pytest.FixtureRequest) -> Factory:
    """Makes one kind of backend."""
    return FACTORIES[request.param]


@pytest.fixture
def host(factory: Factory) -> Iterator[Host]:
    """A backend without a limit, stopped after the test."""
    made = factory(None)
    yield made
    made.backend.stop()
    assert made.held() == 0


class TestBackends(BackendContract):
    """The contract over all factories."""
