"""Whatever becomes of frames and workers: the same bits or the named error, and no hang."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.engine import blocks
from scalops.engine.blas import single_threaded
from scalops.engine.cluster.settings import ChannelSettings
from scalops.engine.driver import Driver
from scalops.engine.physical_plan import PhysicalPlan
from tests.cluster.simulated import Blows, Budgets, Simulation, exactly, plan_of
from tests.cluster.simulation import ACKNOWLEDGEMENT, CONTINUATION, Faults, SimulatedHub
from tests.engine.plans import Backend

ROWS = 360
# Whatever passes between a driver and its workers while jobs run.
MESSAGES = (
    "Begin", "Members", "Command", "Cancel", "Finish", "Partitions", "Heartbeat", "Replied",
    "Sent", "Failed", "Finished", "Wanted", "Data", "Streamed", "StreamEnd", "Credit",
    ACKNOWLEDGEMENT, CONTINUATION,
)  # fmt: skip
SMALL_FRAMES = ChannelSettings(frame_bytes=1024, window_bytes=8 << 10)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of at most 32 records, each a partition."""
    monkeypatch.setattr(blocks, "MIN_BLOCK_ROWS", 32)
    monkeypatch.setattr(blocks, "MAX_BLOCK_ROWS", 32)
    monkeypatch.setattr(blocks, "MIN_PARTITION_BYTES", 1)


def records() -> so.Table:
    """Vectors and keys."""
    rng = np.random.default_rng(5)
    return so.table(
        {"x": rng.normal(size=(ROWS, 3)), "k": rng.integers(0, 20, ROWS), "n": np.arange(ROWS)}
    )


def arrays() -> list[Any]:
    """A loop over arrays."""
    t = records()

    @so.loop(np.zeros(3), range(3))
    def model(w: Any) -> Any:
        return w - 0.1 * t.map(lambda r: np.tanh(r.x @ w) * r.x + r.x).mean()

    return [model]


def tables() -> list[Any]:
    """A loop over a table."""
    edges = records().select("k", j=lambda r: (r.n * 7) % 20)
    nodes = so.table({"k": np.arange(20), "v": np.linspace(0, 1, 20)})

    @so.loop({"t": nodes}, range(3))
    def model(env: Any) -> Any:
        sent = edges.join(env["t"], on="k").group_by("j").agg(v=so.sum("v"))
        return {"t": sent.select(k="j", v=lambda r: np.tanh(r.v))}

    return [model]


def relations() -> list[Any]:
    """Exchanges, and tables that go to the driver."""
    t = records().select("k", "n")
    return [
        t.sort("k"),
        t.repartition(5).filter(lambda r: r.n > 300),
        t.group_by("k").agg(s=so.sum("n")),
        t.filter(lambda r: r.n % 50 == 7).limit(3),
    ]


def failing() -> list[Any]:
    """A function that raises for records of several partitions."""

    def checked(r: Any) -> int:
        number = int(r.n)
        if number % 130 == 129:
            raise ValueError(f"record {number}")
        return number

    return [records().map(checked).sum()]


JOBS = (arrays, tables, relations, failing)


@cache
def job(number: int) -> tuple[PhysicalPlan, Any]:
    """A plan, and what the embedded backend makes of it."""
    plan = plan_of(*JOBS[number]())
    return plan, outcome(lambda: Driver(plan, Backend(1, None, False)).run())


def outcome(run: Any) -> Any:
    """Every bit of results, or the error as it is told."""
    try:
        with single_threaded():
            return exactly(run())
    except so.ScalopsError as error:
        return type(error).__name__, str(error)


def check(simulation: Simulation, number: int, *, may_be_lost: bool = False) -> None:
    """Fail unless a plan gives what it has to, and so does the next; nothing is left of either."""
    with Budgets() as budgets, simulation:
        for own in (number, number + 1):
            plan, expected = job(own % len(JOBS))
            found = outcome(lambda plan=plan: simulation.run(plan))
            is_lost = may_be_lost and own == number and found[0] == "WorkerLost"
            if found != expected and not is_lost:
                pytest.fail(f"job {own}: {str(found)[:300]}, not {str(expected)[:300]}", False)
            if own == number:
                simulation.hub.on_step = None
        simulation.settle()
        assert budgets.held(simulation.hub) == 0


def one_kind(kind: str, seed: int, faults: Faults) -> SimulatedHub:
    """The hub of a cluster on which all frames that begin one kind of message suffer."""
    simulation = Simulation(3, 2, seed, faults, share_memory=False, channel=SMALL_FRAMES)
    simulation.hub.TICK_SECONDS = 0.01
    check(simulation, seed % len(JOBS))
    return simulation.hub


@pytest.mark.parametrize("kind", MESSAGES)
def test_faults_of_one_kind_of_message(kind: str) -> None:
    relations_then_failing = 2
    faults = Faults(lost=0.25, doubled=0.25, late=0.25, damaged=0.25, only=kind)
    hub = one_kind(kind, relations_then_failing, faults)
    assert hub.hit.keys() == {kind}


@pytest.mark.long
@pytest.mark.parametrize("kind", MESSAGES)
def test_each_fault_of_each_kind_of_message(kind: str) -> None:
    for fault in ("lost", "doubled", "late", "damaged"):
        for seed in range(20):
            one_kind(kind, seed, Faults(**{fault: 0.5}, only=kind))


def random_simulation(seed: int) -> Simulation:
    """A cluster of which much is chance: faults, crashes, pauses, workers that are given up."""
    rng = np.random.default_rng(seed)
    kind = (None, *MESSAGES)[int(rng.integers(len(MESSAGES) + 1))]
    most = 0.08 if kind is None else 0.4
    lost, doubled, late, damaged = (float(v) for v in rng.uniform(0, most, 4))
    steps = [int(s) for s in np.exp(rng.uniform(np.log(5), np.log(500), 3))]
    blows = Blows(
        seed,
        at=steps[: int(rng.integers(0, 3))],
        all_at=steps[2:] if rng.random() < 0.2 else (),
        kinds=("kill", "stop", "forsake"),
    )
    return Simulation(
        int(rng.integers(1, 6)),
        int(rng.integers(2, 5)),
        seed,
        Faults(lost, doubled, late, damaged, only=kind),
        blows,
        share_memory=bool(rng.random() < 0.6),
        channel=SMALL_FRAMES if rng.random() < 0.3 else None,
        most_workers=int(rng.choice([2, 1000])),
    )


PARTS, SEEDS = 4, 16  # a seed takes 0.1 s


@pytest.mark.parametrize("part", range(PARTS))
def test_random_faults(part: int) -> None:
    for seed in range(part, SEEDS, PARTS):
        check_seed(seed)


@pytest.mark.long
@pytest.mark.parametrize("part", range(20))
def test_more_random_faults(part: int) -> None:
    for seed in range(SEEDS + part, SEEDS + 10_000, 20):
        check_seed(seed)


def check_seed(seed: int) -> None:
    """Fail with the seed."""
    try:
        simulation = random_simulation(seed)
        trouble = simulation.hub.on_step
        is_hard = isinstance(trouble, Blows) and bool(trouble.all_at)
        check(simulation, seed % len(JOBS), may_be_lost=is_hard)
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
