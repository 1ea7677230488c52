"""Tables of a loop's state in the engine: the interpreter agrees, nothing grows, few blocks."""

from __future__ import annotations

import gc
import math
import tracemalloc
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Block
from scalops.engine.checkpoint_tables import decode_rows, encode_rows
from scalops.engine.memory import MemoryBudget
from scalops.engine.outcome import LoopOutcome, StateRows
from scalops.engine.pipelines.base import StoredPipeline
from scalops.engine.storage.arrow import block_to_batch
from scalops.engine.witness.interpreter import Interpreter
from scalops.planning import plan as planned
from tests.engine.plans import bits, run
from tests.quick import quick

WAYS = [(1, None), (2, None), (2, 400_000)]


# The interpreter agrees.


def listed(rows: Any) -> list[dict[str, Any]]:
    """Records as plain Python, from the engine or from the interpreter."""
    if isinstance(rows, StateRows):
        batches = [block_to_batch(b, rows.schema) for b in rows.blocks if b.rows]
        rows = [row for batch in batches for row in batch.to_pylist()]
    return [{n: plain(v) for n, v in row.items()} for row in rows]


def plain(value: Any) -> Any:
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim):
        return [plain(v) for v in value]
    value = value.item() if hasattr(value, "item") else value
    return round(value, 9) if isinstance(value, float) else value


def environment(loop: op.Loop, state: Any) -> dict[str, Any]:
    tables = dict(loop.tables)
    return {
        n: listed(state[n]) if n in tables else plain(np.asarray(state[n]))
        for n in (*loop.state_types, *tables)
    }


def assert_agree(loop: Any) -> None:
    """Optimized and run on threads, a loop gives what its plan means."""
    expected = environment(loop.plan, Interpreter().run_loop(loop.plan))
    first = None
    for threads, memory in WAYS:
        (outcome,) = run((loop,), threads, memory)
        assert isinstance(outcome, LoopOutcome)
        assert environment(loop.plan, outcome.state) == expected
        now = bits(
            {n: v.blocks if isinstance(v, StateRows) else v for n, v in outcome.state.items()}
        )
        assert first in (None, now)
        first = now


def source(random: Random, rows: int) -> so.Table:
    values = np.array([random.uniform(-2, 2) for _ in range(rows)], np.float64)
    names = pa.array([random.choice(["a", "b", None, "c"]) for _ in range(rows)], pa.string())
    ids = np.array([random.randrange(5) for _ in range(rows)], np.int64)
    vectors = np.stack([values, ids], axis=1) if rows else np.zeros((0, 2))
    return so.table({"k": ids, "v": values, "s": names, "x": vectors})


STEPS: list[Any] = [
    lambda t, o, n: t.filter(lambda r: r.v > -1.5),
    lambda t, o, n: t.with_columns(v=lambda r: np.tanh(r.v + n * 0.25), k=lambda r: r.k + 1),
    lambda t, o, n: t.union(o).limit(40),
    lambda t, o, n: t.distinct(),
    lambda t, o, n: t.sort("v", descending=True),
    lambda t, o, n: t.slice(1, 30),
    lambda t, o, n: t.with_columns(x=lambda r: r.x + o.sum("x") * 0.01),
    lambda t, o, n: o,
    lambda t, o, n: so.where(t.count() > 12, t.limit(9), t.union(t)),
    lambda t, o, n: t.repartition(3),
    lambda t, o, n: t.filter(lambda r: r.k > n),
    lambda t, o, n: t.join(o.select("k").distinct(), on="k", how="semi"),
    lambda t, o, n: (
        t.join(o.select("k", w="v"), on="k", how="left")
        .select("k", "s", "x", v=lambda r: r.v + so.coalesce(r.w, 0.5))
        .limit(30)
    ),
    lambda t, o, n: t.group_by("k").agg(v=so.sum("v"), s=so.first("s"), x=so.last("x")),
    lambda t, o, n: t.join(o, on=["k", "s"], how="anti"),
    lambda t, o, n: t.sort("v").with_columns(v=so.cumsum(lambda r: r.v * 0.5)),
]


def random_loop(seed: int) -> Any:
    random = Random(seed)
    start = {
        "a": source(random, random.choice([0, 1, 7, 20])),
        "b": source(random, random.choice([3, 12])),
        "n": 0,
        "total": 0.0,
    }
    chosen = {f: [random.choice(STEPS) for _ in range(random.randrange(1, 4))] for f in "ab"}
    swapped = random.random() < 0.3
    condition: Any = range(random.randrange(1, 6))
    if random.random() < 0.4:
        condition = lambda e: (e["n"] < 4) & ~e["a"].is_empty()  # noqa: E731

    def body(env: Any) -> Any:
        a, b = env["a"], env["b"]
        made = {}
        for name, own, other in (("a", a, b), ("b", b, a)):
            table = own
            for step in chosen[name]:
                table = step(table, other, env["n"])
            made[name] = table
        if swapped:
            made["a"], made["b"] = made["b"], made["a"]
        total = env["total"] * 0.5 + made["a"].sum("v") + b.count()
        return made | {"n": env["n"] + 1, "total": total}

    return so.loop(start, condition, max_iterations=5, warn=False)(body)


@pytest.mark.parametrize("part", quick(range(4), 1))
def test_random_loops_over_tables_mean_what_the_interpreter_says(part: int) -> None:
    for seed in range(part * 15, part * 15 + 15):
        assert_agree(random_loop(seed))


def test_nested_loops_mean_what_the_interpreter_says() -> None:
    t = source(Random(1), 15)

    def outer(env: Any, i: Any) -> Any:
        inner = so.loop({"t": env["t"], "m": t.limit(3)}, so.range(i))(
            lambda e: {
                "t": e["t"].union(e["m"]).filter(lambda r: r.k != i),
                "m": e["m"].with_columns(k=lambda r: r.k + 1),
            }
        )
        return {"t": inner.t, "n": env["n"] + inner.m.sum("k")}

    assert_agree(so.loop({"t": t, "n": 0}, range(4))(outer))


def test_bits_do_not_depend_on_threads_over_many_blocks() -> None:
    rng = np.random.default_rng(5)
    t = so.table({"k": np.arange(200_000), "v": rng.normal(size=200_000)})
    loop = so.loop({"t": t, "s": 0.0}, range(3))(
        lambda e: {
            "t": e["t"].filter(lambda r: r.k % 5 != 0).with_columns(v=lambda r: np.sin(r.v) + 1),
            "s": e["s"] / 3 + e["t"].sum(lambda r: np.exp(r.v)),
        }
    )
    found = [run((loop,), threads)[0].state["s"].tobytes() for threads in (1, 2, 2)]
    assert len(set(found)) == 1


# Nothing grows.


class Census:
    """What is alive and what is held after some iterations."""

    def __init__(self, budget: MemoryBudget, at: tuple[int, ...]) -> None:
        self.budget, self.at = budget, at
        self.held: list[int] = []
        self.bytes: list[int] = []
        self.blocks: list[int] = []

    def iteration(self, loop: Any, number: int, scalars: Any, seconds: float) -> None:
        if number in self.at:
            gc.collect()
            self.held.append(self.budget.held)
            self.bytes.append(tracemalloc.get_traced_memory()[0])
            self.blocks.append(sum(type(o) is Block for o in gc.get_objects()))


def churn(kind: str, iterations: int) -> Any:
    t = so.table({"k": np.arange(300), "v": np.ones(300), "s": ["x" * 20] * 300})
    bodies: dict[str, Any] = {
        "map": lambda e: e["t"].with_columns(v=lambda r: r.v * 0.5),
        "filter and union": lambda e: e["t"].filter(lambda r: r.k % 3 != 0).union(t).limit(300),
        "sort": lambda e: e["t"].sort("k", descending=True),
        "prefix of more": lambda e: e["t"].union(e["t"]).limit(300),
        "distinct": lambda e: e["t"].union(t).distinct(),
        "join and group": lambda e: (
            e["t"]
            .join(t.select(j="k", w="v"), left_on="k", right_on="j")
            .group_by("k")
            .agg(v=so.sum(lambda r: r.v * r.w), s=so.first("s"))
        ),
        "keys that change": lambda e: (
            e["t"]
            .with_columns(k=lambda r: (r.k + 1) % 300)
            .join(t.select("k", w="v"), on="k")
            .select("k", "v", "s")
        ),
    }
    return so.loop({"t": t, "n": 0}, range(iterations))(
        lambda e: {"t": bodies[kind](e), "n": e["n"] + e["t"].count()}
    )


MANY = {
    "map": 1_000,
    "join and group": 1_000,
    "filter and union": 300,
    "sort": 300,
    "prefix of more": 300,
    "distinct": 300,
    "keys that change": 300,
}


@pytest.mark.parametrize(
    ("kind", "iterations"), quick([*((kind, 150) for kind in MANY), *MANY.items()], len(MANY))
)
def test_many_iterations_hold_no_more_than_a_hundred(kind: str, iterations: int) -> None:
    budget = MemoryBudget(None)
    census = Census(budget, (100, iterations - 1))
    tracemalloc.start()
    try:
        run((churn(kind, iterations),), 1, budget, listener=census)
    finally:
        tracemalloc.stop()
    assert census.held[1] <= census.held[0]
    assert census.blocks[1] <= census.blocks[0]
    assert census.bytes[1] < census.bytes[0] + 200_000  # typed history and caches of Python's own
    assert budget.held == 0


def test_a_small_table_does_not_hold_the_large_one_it_came_from() -> None:
    t = so.table({"k": np.arange(200_000)}).map(lambda r: {"k": r.k + 1})
    (outcome,) = run((so.loop({"t": t}, range(1))(lambda e: {"t": e["t"].limit(5)}),))
    (block,) = outcome.state["t"].blocks
    root = block.columns["k"]
    while root.base is not None:
        root = root.base
    assert root.nbytes < 10_000


# What costs nothing.


def test_numbers_of_records_that_are_known_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    blocks = StoredPipeline.blocks

    def spied(self: StoredPipeline, partition: int, worker: int) -> Any:
        read.append(partition)
        return blocks(self, partition, worker)

    t = so.table({"k": np.arange(1_000)})
    loop = so.loop({"t": t, "n": 0}, lambda e: ~e["t"].is_empty() & (e["n"] < 5_000))(
        lambda e: {"t": e["t"], "n": e["n"] + e["t"].count()}
    )
    monkeypatch.setattr(StoredPipeline, "blocks", spied)
    backend = run((loop.iterations,))
    assert backend == [5]
    assert read == []


def test_a_table_that_goes_on_as_it_is_runs_no_stage() -> None:
    t = so.table({"k": np.arange(10)})
    loop = so.loop({"a": t, "b": t.limit(2)}, range(3))(lambda e: {"a": e["b"], "b": e["a"]})
    (iterate,) = planned(op.Job((loop.plan,))).loops
    assert iterate.body == ()


def test_a_table_that_others_read_too_is_made_once() -> None:
    t = so.table({"k": np.arange(10), "v": np.ones(10)})

    def body(env: Any) -> Any:
        made = env["t"].sort("v").with_columns(v=lambda r: r.v + 1).distinct()
        return {"t": made, "few": made.limit(2), "s": made.sum("v")}

    loop = so.loop({"t": t, "few": t, "s": 0.0}, range(2))(body)
    stages = planned(op.Job((loop.plan,))).stages
    assert sum(isinstance(s.sink, pp.SortRows) for s in stages) == 1
    assert sum(isinstance(s.sink, pp.DistinctRows) for s in stages) == 1


# Checkpoints.


def test_records_are_the_same_bits_from_a_checkpoint() -> None:
    t = so.table(
        {
            "f": np.array([0.0, -0.0, np.nan, np.inf, 5e-324]),
            "i": [1, None, 3, None, 5],
            "b": [True, None, False, True, True],
            "s": ["é", None, "", "x\n", "y"],
            "x": np.arange(20.0).reshape(5, 2, 2),
            "l": [[1.5], [], None, [2.0, 3.0], [4.0]],
            "t": np.array(["2020-01-01", "NaT", "2021-05-05", "1969-01-01", "NaT"], "M8[us]"),
        }
    )
    (outcome,) = run((so.loop({"t": t}, range(1))(lambda e: e),))
    state = outcome.state["t"]
    content = encode_rows(state)
    again = decode_rows(content, state.schema)
    assert encode_rows(again) == content
    (a,), (b,) = state.blocks, again.blocks
    assert a.columns["f"].tobytes() == b.columns["f"].tobytes()
    assert [math.copysign(1, v) for v in b.columns["f"][:2]] == [1, -1]
