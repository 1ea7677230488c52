"""The same bits on any number of ranks, along any tree, and whoever is killed meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.engine import blocks
from scalops.engine.blas import single_threaded
from scalops.engine.cluster import rank_machine
from scalops.engine.collective import Ranks
from scalops.engine.driver import Driver
from scalops.engine.physical_plan import PhysicalPlan
from scalops.planning import plan as planned
from tests.cluster.simulated import Simulation, blows_at, exactly, plan_of, simulated_sessions
from tests.cluster.simulation import SimulatedHub
from tests.engine.plans import Backend
from tests.language.loop_parts import sources as loop_sources
from tests.language.queries import Generator, sources
from tests.language.table_loops import program as table_loop
from tests.optimizer.random_programs import random_program
from tests.programs.conftest import invoke
from tests.programs.test_shared_programs import FEW, PROGRAMS, bits, load
from tests.programs.test_shared_programs import program as program
from tests.quick import quick

__all__ = ["invoke"]

SIZES, FAN_INS, KILLS = (1, 2, 3, 5, 8), (2, 3, 4, 16), ("none", "two", "all")
WAYS = tuple(itertools.product(SIZES, FAN_INS, KILLS))
ROWS = 1_500
FEW_WAYS = 12  # for all programs of a kind
Way = tuple[int, int, str]
Made = Callable[[], list[Any]]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Blocks of at most 64 records, each a partition."""
    monkeypatch.setattr(blocks, "MAX_BLOCK_ROWS", 64)
    monkeypatch.setattr(blocks, "MIN_PARTITION_BYTES", 1)
    return monkeypatch


# Programs.


def records(rows: int = ROWS) -> so.Table:
    """Vectors, labels, keys."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(rows, 3))
    return so.table(
        {
            "x": x,
            "y": np.where(x @ [1.0, -2.0, 0.5] > 0, 1.0, -1.0),
            "k": rng.integers(0, 40, rows),
            "g": rng.exponential(size=rows) ** 4,
        }
    )


def gradient_descent() -> list[Any]:
    """Logistic regression."""
    t = records()

    @so.loop({"w": np.zeros(3), "loss": np.inf}, range(4))
    def model(env: Any) -> Any:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env["w"])

        gradient = t.map(lambda r: -r.y * r.x / (1 + np.exp(margin(r)))).reduce(lambda a, b: a + b)
        loss = t.map(lambda r: np.log1p(np.exp(-margin(r)))).mean()
        return {"w": env["w"] - 0.5 * gradient / t.count(), "loss": loss}

    return [model]


def clusters() -> list[Any]:
    """k-means."""
    t = records()

    @so.loop({"c": np.arange(6.0).reshape(2, 3)}, range(3))
    def model(env: Any) -> Any:
        near = t.with_columns(j=lambda r: np.argmin(((r.x - env["c"]) ** 2).sum(axis=1)))
        means = near.group_by("j").agg(m=so.mean("x"))
        return {"c": means.to_array("m", index="j", size=2, fill=env["c"])}

    return [model]


def ranks_of_pages() -> list[Any]:
    """Tables in the loop's state: joined, grouped, adopted."""
    rng = np.random.default_rng(3)
    edges = so.table({"k": rng.integers(0, 60, 900), "j": rng.integers(0, 60, 900)})
    nodes = so.table({"k": np.arange(60), "r": np.full(60, 1 / 60)})

    @so.loop({"r": nodes, "d": 1.0}, lambda e: e["d"] < 1e-3, max_iterations=4)
    def model(env: Any) -> Any:
        sent = edges.join(env["r"], on="k").group_by("j").agg(s=so.sum("r")).rename({"j": "k"})
        new = (
            env["r"]
            .join(sent, on="k", how="left")
            .select("k", r=lambda r: 0.1 + np.tanh(so.coalesce(r.s, 0.0)))
        )
        return {"r": new, "d": new.max("r") - new.min("r")}

    return [model]


def relations() -> list[Any]:
    """Joins, groups, sorts, exchanges, first records, running sums."""
    t = records()
    names = so.table({"k": np.arange(30), "name": [f"n{i % 7}" for i in range(30)]})
    joined = t.select("k", "g").join(names, on="k", how="left")
    return [
        joined.group_by("name").agg(n=so.count(), s=so.sum("g")),
        t.select("k", "g").sort("k", "g"),
        t.filter(lambda r: r.g > 2).select("g").limit(40),
        t.select("k", "g").repartition(7).sum("g"),
        t.select("k").distinct(),
        t.select("k", "g").with_columns(c=so.cumsum("g", over="k")),
        t.group_by("k").map(lambda key, rows: {"k": key, "m": rows.max("g") - rows.min("g")}),
    ]


def affine() -> list[Any]:
    """A reduce that does not commute, and folds of many kinds."""
    t = records()
    pairs = t.map(lambda r: {"a": 1 + np.sin(r.g) / 3, "b": r.x})
    total = pairs.reduce(lambda f, g: {"a": f.a * g.a, "b": f.b * g.a + g.b})
    return [total["a"], total["b"], t.mean("x"), t.var("g"), t.max(lambda r: np.exp(r.x))]


def python_functions() -> list[Any]:
    """Functions that cannot be traced."""

    def length(r: Any) -> int:
        return len(str(int(r.k)))

    return [records().map(length).sum()]


WRITTEN: dict[str, Made] = {
    f.__name__: f
    for f in (gradient_descent, clusters, ranks_of_pages, relations, affine, python_functions)
}


def queries(seed: int) -> PhysicalPlan:
    """Random queries, a few in one job."""
    tables = sources(seed)
    scope = {f"t{i}": so.from_arrow(t) for i, t in enumerate(tables)} | {"so": so, "np": np}
    made = Generator(seed, tables)
    return plan_of(*[eval(made.query(depth).program, scope) for depth in (1, 2, 3)])


def table_loops(seed: int) -> PhysicalPlan:
    """A random loop over tables."""
    scope: dict[str, Any] = {"so": so, "np": np, "__name__": "loops", **loop_sources(seed)}
    exec(table_loop(seed), scope)
    return planned(op.Job((scope["loop"].plan,)))


def programs(seed: int) -> PhysicalPlan:
    """A random program of loops and folds."""
    return plan_of(*random_program(Random(seed)))


GENERATED = {f.__name__: f for f in (queries, table_loops, programs)}


# Ways.


def answer(plan: PhysicalPlan, run: Callable[[PhysicalPlan], list[Any]]) -> Any:
    """Every bit of the results, or the error."""
    try:
        return exactly(run(plan))
    except so.ScalopsError as error:
        return type(error), str(error)


def require_same(found: Any, expected: Any, *about: Any) -> None:
    """Fail unless the bits are the same; there are too many of them to be compared by pytest."""
    if found != expected:
        pytest.fail(f"{about}: {str(found)[:300]} is not {str(expected)[:300]}", False)


def embedded(plan: PhysicalPlan) -> Any:
    """The answer of the embedded backend."""

    def run(plan: PhysicalPlan) -> list[Any]:
        with single_threaded():
            return Driver(plan, Backend(1, None, False)).run()

    return answer(plan, run)


def on_ranks(plan: PhysicalPlan, way: Way, seed: int) -> Any:
    """The answer of a simulated cluster."""
    size, fan_in, kills = way
    with Simulation(size, fan_in, seed, trouble=blows_at(seed, kills)) as workers:
        return answer(plan, workers.run)


def partition_joins(patch: pytest.MonkeyPatch, seed: int) -> None:
    """Of some seeds the held sides of joins are shared out, however small they are."""
    if seed % 3 == 0:
        patch.setattr(
            rank_machine, "Ranks", lambda own, size, fan_ins: Ranks(own, size, fan_ins, -1)
        )


def dealt_out(count: int, ways: int, first: int = 0) -> list[tuple[int, Way]]:
    """Ways for so many programs, from the `first` on: each once before one comes again."""
    order = list(WAYS)
    Random(6).shuffle(order)
    return [(i % count, order[(first + i) % len(order)]) for i in range(ways)]


@pytest.mark.parametrize("name", WRITTEN)
def test_programs(name: str, small_blocks: pytest.MonkeyPatch) -> None:
    plan, number = plan_of(*WRITTEN[name]()), list(WRITTEN).index(name)
    expected = embedded(plan)
    ways = [way for program, way in dealt_out(len(WRITTEN), FEW_WAYS) if program == number]
    for seed, way in enumerate(ways):
        with small_blocks.context() as patch:
            partition_joins(patch, seed)
            require_same(on_ranks(plan, way, seed), expected, way, seed)


@pytest.mark.parametrize("name", GENERATED)
def test_generated_programs(name: str, small_blocks: pytest.MonkeyPatch) -> None:
    first = FEW_WAYS * (1 + list(GENERATED).index(name))
    for seed, (_, way) in enumerate(dealt_out(1, 4, first)):
        compare_generated(name, seed, [way], small_blocks)


def compare_generated(name: str, seed: int, ways: list[Way], patch: pytest.MonkeyPatch) -> None:
    """Fail unless a generated program has one answer."""
    with patch.context() as own:
        own.setattr(blocks, "MIN_BLOCK_ROWS", 2)
        own.setattr(blocks, "MAX_BLOCK_ROWS", 2)
        plan = GENERATED[name](seed)
        expected = embedded(plan)
        partition_joins(own, seed)
        for way in ways:
            require_same(on_ranks(plan, way, seed), expected, name, seed, way)


def run_shared(path: Path, way: Way | None, seed: int) -> Any:
    """The bits of a shared program."""
    module, few = load(path), FEW.get(path.stem, {})
    if way is None:
        with so.session(threads=1, workers=0):
            return bits(so.collect(module.main(**few)))
    size, fan_in, kills = way

    def hub() -> SimulatedHub:
        made = SimulatedHub(seed)
        made.on_step = blows_at(seed, kills)
        return made

    with simulated_sessions(hub), so.session(threads=1, workers=size, fan_in=fan_in):
        return bits(so.collect(module.main(**few)))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the programs leave files open
def test_shared_programs(program: Path) -> None:
    number, expected = list(PROGRAMS).index(program.stem), run_shared(program, None, 0)
    for i, way in [w for w in dealt_out(len(PROGRAMS), 12) if w[0] == number]:
        require_same(run_shared(program, way, i), expected, way)


# All of them.


@pytest.mark.long
@pytest.mark.parametrize("name", WRITTEN)
def test_programs_in_all_ways(name: str, small_blocks: pytest.MonkeyPatch) -> None:
    plan = plan_of(*WRITTEN[name]())
    expected = embedded(plan)
    for seed, way in enumerate(WAYS * 5):
        with small_blocks.context() as patch:
            partition_joins(patch, seed)
            require_same(on_ranks(plan, way, seed), expected, way, seed)


@pytest.mark.long
@pytest.mark.parametrize("name", GENERATED)
def test_generated_programs_in_all_ways(name: str, small_blocks: pytest.MonkeyPatch) -> None:
    for seed in range(200):
        compare_generated(name, seed, list(WAYS)[seed % 4 :: 4], small_blocks)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_shared_programs_in_all_ways(program: Path) -> None:
    expected = run_shared(program, None, 0)
    for seed, way in enumerate(WAYS):
        require_same(run_shared(program, way, seed), expected, way, seed)


# Partitions.


def compare_partitions(count: int, rows: int, skew: str, way: Way) -> None:
    """Fail unless exchanges to so many partitions, folds and groups over them have one answer."""
    rng = np.random.default_rng(count + rows)
    keys = {
        "even": rng.integers(0, max(1, rows // 3), rows),
        "one key": np.zeros(rows, int),
        "skewed": (rng.exponential(size=rows) ** 4).astype(int),
    }[skew]
    t = so.table({"k": keys, "v": rng.normal(size=rows)})
    spread = t.repartition(count)
    plan = plan_of(
        spread.sum("v"),
        spread.map(lambda r: {"k": r.k, "w": np.sin(r.v)}),
        t.group_by("k").agg(s=so.sum("v")).repartition(count),
        t.filter(lambda r: r.k < 2).repartition(max(1, count // 2)).mean("v"),
    )
    require_same(on_ranks(plan, way, count), embedded(plan), count, rows, skew, way)


COUNTS = (1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 64, 100, 255, 256, 257)


SKEWS = ("even", "one key", "skewed")


@pytest.mark.parametrize("first", quick((0, 1), 1))
def test_any_number_of_partitions(first: int, small_blocks: pytest.MonkeyPatch) -> None:
    small_blocks.setattr(blocks, "MIN_BLOCK_ROWS", 1)
    small_blocks.setattr(blocks, "MAX_BLOCK_ROWS", 4)
    for i in range(first, len(COUNTS), 2):
        count = COUNTS[i]
        rows = (0, 1, 2, 40, 257)[i % 5]
        way = SIZES[i % 5], FAN_INS[i % 4], KILLS[i // 3 % 3]
        compare_partitions(count, rows, SKEWS[i % 3], way)


@pytest.mark.long
def test_every_number_of_partitions(small_blocks: pytest.MonkeyPatch) -> None:
    small_blocks.setattr(blocks, "MIN_BLOCK_ROWS", 1)
    small_blocks.setattr(blocks, "MAX_BLOCK_ROWS", 4)
    for count, rows in itertools.product(range(1, 258), (0, 1, 2, 300)):
        seed = count + rows
        compare_partitions(count, rows, SKEWS[seed % 3], WAYS[seed % len(WAYS)])
