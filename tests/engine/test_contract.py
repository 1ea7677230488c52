"""Every backend keeps the contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scalops.engine.cluster.coordinator import JobSettings
from scalops.engine.cluster.local_hub import LocalHub, LocalSettings
from scalops.engine.cluster.session_workers import SessionWorkers
from scalops.engine.embedded import EmbeddedBackend
from scalops.engine.memory import MemoryBudget
from scalops.engine.neutral import Neutral
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
        return Host(backend, lambda: sum(b.held for b in backend.budgets))

    return make


def simulated(size: int) -> Factory:
    """A cluster of so many ranks, over a simulated network."""

    def make(memory: int | None = None) -> Host:
        settings = {"memory": memory}
        simulation = Simulation(size, 2, settings=settings)
        workers = simulation.workers
        backend = workers.backend(JobSettings(Neutral(size, (2,))))

        def held() -> int:
            simulation.settle()
            hosted = [h for m in simulation.hub.machines() for h in m._shares._ranks.values()]
            return sum(h.budget.held for h in hosted)

        return Host(backend, held)

    return make


FACTORIES: dict[str, Factory] = {
    **{f"embedded-{n}": embedded(n) for n in (1, 2, 4)},
    **{f"lockstep-{n}": lockstep(n) for n in (2, 3)},
    **{f"simulated-{n}": simulated(n) for n in (2, 3, 5)},
}


QUICK = ("embedded-1", "embedded-4", "lockstep-3", "simulated-3")  # for each run
LONG = [pytest.param(name, marks=pytest.mark.long) for name in FACTORIES if name not in QUICK]


@pytest.fixture(params=[*QUICK, *LONG])
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


# Worker processes: what they hold is seen in the simulation.


@pytest.fixture(scope="module")
def two_workers() -> Iterator[SessionWorkers]:
    """Worker processes for all tests of this module."""
    hub = LocalHub(2, LocalSettings(worker={"threads": 1}))
    made = SessionWorkers(hub, share_memory=True)
    yield made
    made.close()


COUNT_MEMORY = (
    "test_loaded_table_is_kept_until_it_is_released",
    "test_table_that_does_not_fit_is_streamed",
    "test_exchange_without_room_says_who_needs_what",
    "test_stop_gives_everything_back",
    "test_an_adopted_table_takes_the_place_and_the_memory_of_the_one_before",
)


class OnProcesses(BackendContract):
    """The contract over two worker processes, without the cases that limit or count memory."""

    @pytest.fixture
    def factory(self, two_workers: SessionWorkers, request: pytest.FixtureRequest) -> Factory:
        """Makes backends over the same two processes."""
        if request.node.originalname in COUNT_MEMORY:
            pytest.skip("what ranks hold is counted on the simulated cluster")

        def make(memory: int | None = None) -> Host:
            assert memory is None
            backend = two_workers.backend(JobSettings(Neutral(2, (2,))))
            return Host(backend, lambda: 0)

        return make


@pytest.mark.long
class TestProcesses(OnProcesses):
    """All of it."""


class TestMainCasesOnProcesses:
    """A case for each verb."""

    factory = OnProcesses.factory
    test_fold = BackendContract.test_fold_gives_the_sum
    test_bind = BackendContract.test_bound_values_are_read_until_they_are_bound_again
    test_tree = BackendContract.test_partials_are_combined_in_the_canonical_tree
    test_load = BackendContract.test_stages_over_a_kept_table_share_a_pass
    test_gather = BackendContract.test_gathered_partitions_are_the_table_in_order
    test_count = BackendContract.test_prefix_takes_the_first_records_in_order
    test_exchange = BackendContract.test_hash_exchange_spreads_many_keys
    test_adopt = BackendContract.test_tables_are_adopted_all_at_once_and_fetched_as_often_as_wanted
    test_error = BackendContract.test_error_of_a_stage_is_raised_with_its_partition
    test_failure = BackendContract.test_failure_in_a_shared_pass_says_whose_it_is
