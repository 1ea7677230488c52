"""What a loss costs, by what the loop's state is; errors are those of the earliest partition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.engine import blocks
from scalops.engine.checkpoint import CheckpointFolder
from scalops.engine.loop_runner import LoopControl
from scalops.engine.progress import Place
from tests.cluster.simulated import Budgets, Simulation, Trouble, exactly, plan_of
from tests.cluster.simulation import SimulatedHub
from tests.engine.plans import run

ITERATIONS, ROWS, BLOCK = 6, 640, 32


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 32 records, each a partition."""
    monkeypatch.setattr(blocks, "MIN_BLOCK_ROWS", BLOCK)
    monkeypatch.setattr(blocks, "MAX_BLOCK_ROWS", BLOCK)
    monkeypatch.setattr(blocks, "MIN_PARTITION_BYTES", 1)


def records() -> so.Table:
    """Vectors, keys, and the record's number."""
    rng = np.random.default_rng(5)
    return so.table(
        {"x": rng.normal(size=(ROWS, 3)), "k": rng.integers(0, 20, ROWS), "n": np.arange(ROWS)}
    )


def over_arrays(width: int = 3) -> Any:
    """A loop whose state is an array."""
    t = records().select("n", x=lambda r: np.tanh(r.x[0]) * np.ones(width))

    @so.loop(np.zeros(width), range(ITERATIONS))
    def model(w: Any) -> Any:
        return w - 0.1 * t.map(lambda r: np.tanh(r.x + w)).mean()

    return model


def over_tables() -> Any:
    """A loop whose state is a table, and a number."""
    edges = records().select("k", j=lambda r: (r.n * 7) % 20)
    nodes = so.table({"k": np.arange(20), "v": np.linspace(0, 1, 20)})

    @so.loop({"t": nodes, "s": 0.0}, range(ITERATIONS))
    def model(env: Any) -> Any:
        sent = edges.join(env["t"], on="k").group_by("j").agg(v=so.sum("v"))
        new = sent.select(k="j", v=lambda r: np.tanh(r.v))
        return {"t": new, "s": env["s"] + new.sum("v")}

    return model


class Heard:
    """Iterations that were run, and those that the user heard of."""

    def __init__(self) -> None:
        self.run: list[int] = []
        self.told: list[int] = []
        self.deaths = 0  # of workers, meanwhile

    def iteration(self, loop: Any, number: int, scalars: Any, seconds: float) -> None:
        """As of a Listener."""
        self.run.append(number)

    def __call__(self, number: int, fields: Any) -> None:
        """As of on_iteration."""
        self.told.append(number)


Blow = Callable[[SimulatedHub], None]


def one(hub: SimulatedHub) -> None:
    """A worker is killed, if there is one."""
    if names := hub.names():
        hub.kill(names[hub.steps % len(names)])


def two(hub: SimulatedHub) -> None:
    """Two workers are killed."""
    one(hub)
    one(hub)


def every(hub: SimulatedHub) -> None:
    """All workers are killed."""
    for name in hub.names():
        hub.kill(name)


def after(heard: Heard, iterations: int, steps: int, blow: Blow) -> Trouble:
    """Trouble once, so many steps after so many iterations have been run."""
    left = [steps]

    def trouble(hub: SimulatedHub) -> None:
        if len(heard.run) >= iterations and left:
            left[0] -= 1
            if left[0] < 0:
                left.clear()
                blow(hub)

    return trouble


def run_through(
    loop: Any, iterations: int, steps: int, blow: Blow, folder: CheckpointFolder | None = None
) -> Heard:
    """Run a loop with a blow on the way; fail unless it gives its bits."""
    heard, plan = Heard(), plan_of(loop)
    trouble = after(heard, iterations, steps, blow)
    with Simulation(3, 2, seed=steps, trouble=trouble) as simulation:
        found = simulation.run(plan, LoopControl(heard, folder, 2), heard)
        heard.deaths = simulation.hub.deaths
    assert exactly(found) == exactly(run([loop]))
    assert heard.told == list(range(ITERATIONS))
    return heard


@pytest.mark.parametrize("blow", [one, two, every])
def test_arrays_a_finished_iteration_is_never_run_again(blow: Blow) -> None:
    loop = over_arrays()
    for iterations in range(ITERATIONS):
        heard = run_through(loop, iterations, iterations % 4, blow)
        assert heard.run == list(range(ITERATIONS))
        assert heard.deaths > 0


@pytest.mark.parametrize("blow", [one, two])
def test_tables_are_had_from_those_who_survive(blow: Blow) -> None:
    loop = over_tables()
    deaths = 0
    for steps in range(0, 36, 9):
        heard = run_through(loop, 1 + steps % 3, steps, blow)
        assert heard.run == list(range(ITERATIONS))
        deaths += heard.deaths
    assert deaths > 2


def test_tables_all_lost_the_loop_begins_again() -> None:
    for steps in range(0, 30, 10):
        heard = run_through(over_tables(), 3, steps, every)
        before = heard.run[:-ITERATIONS]
        assert before in ([0, 1, 2], [0, 1, 2, 3])
        assert heard.run == [*before, *range(ITERATIONS)]


def test_tables_all_lost_the_loop_goes_back_to_its_checkpoint(tmp_path: Path) -> None:
    for iterations in (3, 4, 5):
        folder = CheckpointFolder(tmp_path / str(iterations))
        heard = run_through(over_tables(), iterations, 0, every, folder)
        # Of every second iteration there is one; a loss before the last was saved leads back to
        # the one before.
        resumed = (iterations - 1) // 2 * 2
        assert heard.run == [*range(iterations), *range(resumed, ITERATIONS)]


def test_large_values_of_lost_ranks_reach_the_others() -> None:
    # Values of more than 64 KB go down the tree of ranks, commands beside them do not.
    loop = over_arrays(10_000)
    for steps in range(0, 40, 13):
        run_through(loop, 2, steps, one)


def test_tables_and_large_values_together() -> None:
    nodes = so.table({"k": np.arange(200), "v": np.linspace(0, 1, 200)})

    @so.loop({"t": nodes, "w": np.zeros(10_000)}, range(ITERATIONS))
    def model(env: Any) -> Any:
        shift = env["t"].map(lambda r: np.tanh(r.v + env["w"])).mean()
        new = env["t"].with_columns(v=lambda r: np.tanh(r.v + env["w"][3]))
        return {"t": new, "w": env["w"] + shift}

    for steps in range(0, 48, 13):
        heard = run_through(model, 1 + steps % 3, steps, one)
        assert heard.run == list(range(ITERATIONS))


# Errors.


def failing_at(log: Path, *numbers: int) -> so.Table:
    """A table whose function notes its calls, and raises for these records."""

    def checked(r: Any) -> dict[str, int]:
        number = int(r.n)
        with log.open("a") as file:
            file.write(f"{number}\n")
        if number in numbers:
            raise ValueError(f"record {number}")
        return {"n": number}

    return records().map(checked)


@pytest.mark.parametrize(
    ("size", "numbers"),
    [(2, (639,)), (3, (300, 639)), (5, (40, 500)), (8, (350, 351, 352)), (4, (60, 330))],
)
def test_the_error_is_that_of_the_earliest_partition(
    size: int, numbers: tuple[int, ...], tmp_path: Path
) -> None:
    log = tmp_path / "calls"
    bad = failing_at(log, *numbers)
    for thing in (bad.sum("n"), bad, bad.sort("n")):
        plan = plan_of(thing)
        log.write_text("")  # it has been tried before
        with Simulation(size, 2, seed=size) as simulation, Budgets() as budgets:
            with pytest.raises(so.UserFunctionError, match=f"record {min(numbers)};") as caught:
                simulation.run(plan)
            assert f"in partition {min(numbers) // BLOCK}" in str(caught.value)
            assert isinstance(caught.value.__cause__, ValueError)
            calls = log.read_text().split()
            assert len(calls) == len(set(calls))  # none is called again
            simulation.settle()
            assert budgets.held(simulation.hub) == 0
            assert exactly(simulation.run(plan_of(records().sum("n")))) == exactly(
                run([records().sum("n")])
            )


def test_of_tables_one_after_the_other_the_first_counts(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    both = failing_at(log, 600).union(failing_at(log, 60)).sum("n")
    for size in (2, 3, 5):
        error = pytest.raises(so.UserFunctionError, match="record 600;")
        with Simulation(size, seed=size) as simulation, error:
            simulation.run(plan_of(both))


def test_an_error_is_the_same_whoever_is_killed_meanwhile(tmp_path: Path) -> None:
    plan = plan_of(failing_at(tmp_path / "calls", 200, 500).sum("n"))
    for step in range(20, 140, 17):

        def trouble(hub: SimulatedHub, step: int = step) -> None:
            if hub.steps == step and hub.names():
                one(hub)

        error = pytest.raises(so.UserFunctionError, match="record 200;")
        with Simulation(4, 2, seed=step, trouble=trouble) as simulation, error:
            simulation.run(plan)


def folded() -> Any:
    """One fold."""
    return records().sum("n")


def exchanged() -> Any:
    """An exchange that goes out together with the fold behind it."""
    return records().repartition(4).sum("n")


@pytest.mark.parametrize(
    ("made", "at_driver", "stages"),
    [
        (over_arrays, (), "stage 0"),
        (folded, (), "stage 0"),
        (folded, (0,), "stage 0"),
        (exchanged, (), "stages 0 and 1"),
        (exchanged, (1,), "stages 0 and 1"),
    ],
    ids=["load", "fold", "partials", "steps", "steps-partials"],
)
def test_a_partition_that_ends_three_workers_is_named(
    made: Callable[[], Any], at_driver: tuple[int, ...], stages: str
) -> None:
    """Whoever reads partition 7 is killed by it."""
    deaths: list[str] = []

    def trouble(hub: SimulatedHub) -> None:
        for name, machine in zip(hub.names(), hub.machines(), strict=True):
            if any(r.op and r.ranks.own == 1 for r in machine._ranks.values()):
                deaths.append(name)
                hub.kill(name, places=[Place(7)])

    names = rf"^3 worker processes ended.*in partition 7, {stages};"
    with Simulation(3, seed=1, trouble=trouble, at_driver=frozenset(at_driver)) as simulation:
        with pytest.raises(so.WorkerLost, match=names):
            simulation.run(plan_of(made()))
        assert len(deaths) == 3
        simulation.hub.on_step = None
        assert exactly(simulation.run(plan_of(made()))) == exactly(run([made()]))


def test_deaths_at_different_places_are_nobodys_fault() -> None:
    deaths: list[str] = []

    def trouble(hub: SimulatedHub) -> None:
        for name, machine in zip(hub.names(), hub.machines(), strict=True):
            if len(deaths) < 9 and any(r.op and r.ranks.own == 1 for r in machine._ranks.values()):
                deaths.append(name)
                hub.kill(name, places=[Place(len(deaths))])

    with Simulation(3, seed=1, trouble=trouble) as simulation:
        assert exactly(simulation.run(plan_of(over_arrays()))) == exactly(run([over_arrays()]))
    assert len(deaths) == 9
