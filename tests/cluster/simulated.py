"""Plans on a simulated cluster, and what befalls its workers meanwhile."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalops.engine.blas import single_threaded
from scalops.engine.cluster.coordinator import JobSettings
from scalops.engine.cluster.going_back import run_again
from scalops.engine.cluster.job_shares import JobShares
from scalops.engine.cluster.session_workers import SessionWorkers
from scalops.engine.driver import Driver, Listener
from scalops.engine.kept_tables import OWNER
from scalops.engine.loop_runner import LoopControl
from scalops.engine.memory import MemoryBudget
from scalops.engine.neutral import Neutral
from scalops.engine.outcome import LoopOutcome, StateRows
from scalops.engine.physical_plan import PhysicalPlan
from scalops.planning import plan as planned
from tests.cluster.simulation import Faults, SimulatedHub
from tests.engine.plans import bits, job_of, table_bits

Trouble = Callable[[SimulatedHub], None]  # called after each step


def exactly(results: Any) -> Any:
    """Every bit of results; of tables in a loop's state wherever their blocks end."""
    made = []
    for result in results:
        if isinstance(result, LoopOutcome):
            rows = {n: v for n, v in result.state.items() if isinstance(v, StateRows)}
            others = {n: v for n, v in result.state.items() if n not in rows}
            made.append(
                [
                    {n: table_bits(v.blocks) for n, v in rows.items()},
                    bits([others, result.iterations, result.converged]),
                ]
            )
        else:
            made.append(bits(result))
    return made


@dataclass
class Blows:
    """Kills, pauses and losses of workers at steps that follow from a seed.

    `at`: the steps; `all_at`: those at which every worker is killed; `kinds` of blows to choose
    from.
    """

    seed: int
    at: Sequence[int] = ()
    all_at: Sequence[int] = ()
    kinds: Sequence[str] = ("kill",)
    dealt: list[tuple[int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._at, self._all_at = sorted(self.at), sorted(self.all_at)

    def __call__(self, hub: SimulatedHub) -> None:
        if self._all_at and hub.steps >= self._all_at[0] and hub.names():
            self._all_at.pop(0)
            for name in hub.names():
                hub.kill(name)
            self.dealt.append((hub.steps, "all"))
        while self._at and hub.steps >= self._at[0] and hub.names():
            self._at.pop(0)
            names, kind = hub.names(), str(self._random.choice(list(self.kinds)))
            name = names[int(self._random.integers(len(names)))]
            if kind == "stop":
                hub.stop_for(name, float(self._random.uniform(0.1, 5.0)))
            elif kind == "forsake":
                hub.forsake(name)
            else:
                hub.kill(name)
            self.dealt.append((hub.steps, kind))


class Simulation:
    """A session's workers on a simulated cluster: plans run on it one after the other."""

    def __init__(
        self,
        size: int,
        fan_in: int = 4,
        seed: int = 0,
        faults: Faults = Faults(),  # noqa: B008 (it is frozen)
        trouble: Trouble | None = None,
        share_memory: bool = True,
        at_driver: frozenset[int] = frozenset(),
        **more: Any,
    ) -> None:
        """`more` is of SimulatedHub. Without `share_memory` tables are sent when asked for."""
        self.size, self.fan_in, self.at_driver = size, fan_in, at_driver
        self.hub = SimulatedHub(seed, faults, threads=not share_memory, **more)
        self.hub.on_step = trouble
        self.workers = SessionWorkers(self.hub, share_memory, lambda: self.hub.now)

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, *_: object) -> None:
        self.workers.close()

    def run(
        self,
        plan: PhysicalPlan,
        control: LoopControl | None = None,
        listener: Listener | None = None,
    ) -> list[Any]:
        """What the plan gives."""

        def once(own: LoopControl | None) -> list[Any]:
            settings = JobSettings(Neutral(self.size, (self.fan_in,), self.at_driver))
            backend = self.workers.backend(settings)
            return Driver(plan, backend, listener, None, own).run()

        with single_threaded():
            return run_again(once, control)

    def settle(self) -> None:
        """Let what is on its way arrive, and nothing befall anybody any more."""
        self.hub.on_step, self.hub.faults = None, Faults()
        coordinator = self.workers._coordinator
        assert coordinator is not None
        until = self.hub.now + 10
        while self.hub.now < until:
            coordinator._pump(until - self.hub.now)


def plan_of(*things: Any) -> PhysicalPlan:
    """The physical plan of tables, values and loops together."""
    return planned(job_of(*things))


class Budgets:
    """Of all ranks that are begun while this is open."""

    def __init__(self) -> None:
        self._found: list[tuple[JobShares, MemoryBudget]] = []
        self._made = JobShares._made

    def __enter__(self) -> Budgets:
        def noted(shares: JobShares, *given: Any) -> Any:
            hosted = self._made(shares, *given)
            self._found.append((shares, hosted.budget))
            return hosted

        JobShares._made = noted  # type: ignore[assignment,method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        JobShares._made = self._made  # type: ignore[method-assign]

    def held(self, hub: SimulatedHub) -> int:
        """Bytes that living workers hold, but for what they keep for later jobs."""
        living = [machine._shares for machine in hub.machines()]
        budgets = [budget for shares, budget in self._found if shares in living]
        for budget in budgets:
            budget.release(OWNER)
        return sum(budget.held for budget in budgets)


@contextmanager
def simulated_sessions(make: Callable[[], SimulatedHub]) -> Iterator[None]:
    """Sessions with workers have simulated ones meanwhile, on a hub that `make` gives."""
    session = vars(importlib.import_module("scalops.session"))  # so.session hides it
    before = session["open_workers"]

    def opened(options: Any) -> SessionWorkers:
        hub = make()
        return SessionWorkers(hub, share_memory=True, now=lambda: hub.now)

    session["open_workers"] = opened
    try:
        yield
    finally:
        session["open_workers"] = before


def blows_at(seed: int, kills: str) -> Blows | None:
    """Kills at steps that follow from a seed: "none", "two" one by one, "all" workers at once."""
    rng = np.random.default_rng(seed)
    steps = [int(s) for s in np.exp(rng.uniform(np.log(20), np.log(900), 2))]
    match kills:
        case "two":
            return Blows(seed, at=steps)
        case "all":
            return Blows(seed, all_at=steps[:1])
    return None
