"""Every backend keeps the contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scalops.engine.cluster.coordinator import JobSettings
from scalops.engine.embedded import EmbeddedBackend
from scalops.engine.memory import MemoryBudget
from tests.cluster.lockstep import LockstepBackend
from tests.cluster.simulated import Simulation
from tests.engine.contract import BackendContract, Factory, Host
from tests.engine.plans import pool


def embedded(threads: int) -> Factory:
    """The embedded backend on so many threads."""

    def make(memory: int | None = None) -> Host:
        budget = MemoryBudget(memory)
        return Host(EmbeddedBackend(pool(threads), budget), lambda: budget.held)

    return make


def lockstep(size: int) -> Factory:
    """So many ranks in this thread; the memory is that of each."""

    def make(memory: int | None = None) -> Host:
        backend = LockstepBackend(size, memory=memory)
        return Host(backend, lambda: sum(b.held for b in backend.budgets), spills=True)

    return make


def simulated(size: int) -> Factory:
    """A cluster of so many ranks, over a simulated network."""

    def make(memory: int | None = None) -> Host:
        settings = {"memory": memory}
        simulation = Simulation(size, 2, settings=settings)
        workers = simulation.workers
        backend = workers.backend(size, lambda count: JobSettings(count, 2))

        def held() -> int:
            simulation.settle()
            hosted = [h for m in simulation.hub.machines() for h in m._shares._ranks.values()]
            return sum(h.budget.held for h in hosted)

        return Host(backend, held, spills=True)

    return make


FACTORIES: dict[str, Factory] = {
    **{f"embedded-{n}": embedded(n) for n in (1, 2, 4)},
    **{f"lockstep-{n}": lockstep(n) for n in (2, 3)},
    **{f"simulated-{n}": simulated(n) for n in (2, 3, 5)},
}


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
