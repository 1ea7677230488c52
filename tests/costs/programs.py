"""Small programs that together have every table and sink of a physical plan."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

import scalops as so
from scalops.engine.physical_compiled import with_compiled
from scalops.engine.physical_plan import PhysicalPlan, TreeAggregate
from scalops.optimizer.costs.plan_work import PlanWork, plan_work
from scalops.planning import plan
from tests.engine.plans import job_of

ROWS = 40_000
K = np.arange(ROWS) % 100
T = so.table({"k": K, "v": np.linspace(0, 1, ROWS), "x": np.ones((ROWS, 4))})
KEYS = so.table({"key": np.arange(100), "w": np.arange(100.0)})
LISTS = so.table({"l": pa.array([[1, 2], [3]] * 50), "n": np.arange(100)})


def logistic() -> Any:
    """A cached table, folded in a loop."""
    kept = T.filter(lambda r: r.v >= 0).select("v", x=lambda r: np.log1p(r.x))

    @so.loop({"w": np.zeros(4)}, range(7))
    def model(env: Any) -> Any:
        grad = kept.map(lambda r: r.x * (r.v - 1 / (1 + np.exp(-(r.x @ env["w"]))))).sum()
        return {"w": env["w"] + grad / ROWS}

    return model


def sliding() -> Any:
    """A gate and a range whose bounds are values."""

    @so.loop(0.0, lambda s: s < 100.0, max_iterations=50)
    def total(s: Any) -> Any:
        part = T.filter(lambda r: r.v > 0.5).filter(lambda r: s >= 0)
        return s + part.sum("v") + T.slice(10, 20).sum("v") + 1

    return total


def pages() -> Any:
    """A table as state, joined and grouped by keys that stay."""

    @so.loop(KEYS.select("key", rank=1.0), range(20))
    def ranked(t: Any) -> Any:
        sent = t.join(T.select("k", "v"), left_on="key", right_on="k")
        given = sent.group_by("key").agg(given=so.sum("rank"))
        some = given.filter(lambda r: r.key % 2 == 0)
        both = KEYS.join(some, on="key", how="left")
        return both.select("key", rank=lambda r: 0.1 + 0.5 * so.coalesce(r.given, 0.0))

    return ranked


def shrinking() -> Any:
    """A side that stays, met by a table that changes."""

    @so.loop({"n": 0.0}, range(3))
    def met(env: Any, i: Any) -> Any:
        few = KEYS.filter(lambda r: r.key < 90 - i)
        joined = T.select("k", "v").join(few, left_on="k", right_on="key")
        return {"n": env["n"] + joined.sum("v")}

    return met


def largest(rows: pa.Table) -> pa.Table:
    """The last record of a group."""
    return rows.slice(rows.num_rows - 1).select(["k", "v"])


def doubled(rows: pa.Table) -> pa.Table:
    """All records twice."""
    return pa.concat_tables([rows, rows])


PROGRAMS: dict[str, Callable[[], Any]] = {
    "logistic": logistic,
    "sliding": sliding,
    "pages": pages,
    "shrinking": shrinking,
    "limit": lambda: T.limit(7),
    "numbered": lambda: T.with_row_index().slice(5, 100),
    "both": lambda: T.select("v").union(T.select("v")),
    "lists": lambda: LISTS.explode("l"),
    "several": lambda: T.select("v").flat_map(lambda r: [r.v, r.v + 1]),
    "batches": lambda: T.select("k", "v").map_batches(doubled, {"k": so.int64, "v": so.float64}),
    "cut": lambda: T.select("v").repartition(3),
    "sorted": lambda: T.select("k", "v").sort("v", descending=True),
    "distinct": lambda: T.select("k").distinct(),
    "joined": lambda: T.join(KEYS, left_on="k", right_on="key"),
    "full": lambda: T.filter(lambda r: r.v > 0.5).join(
        KEYS, left_on="k", right_on="key", how="full"
    ),
    "groups": lambda: T.group_by("k").agg(s=so.sum("v"), m=so.mean("v")),
    "applied": lambda: T.group_by("k").apply(largest, {"k": so.int64, "v": so.float64}),
    "running": lambda: T.select("k", "v").with_columns(c=so.cumsum("v")),
}


@cache
def physical(name: str) -> PhysicalPlan:
    """The plan of one of the programs; "compiled" is that of logistic with compiled folds."""
    if name != "compiled":
        return plan(job_of(PROGRAMS[name]()), jit=False)
    made = physical("logistic")
    folds = [s.number for s in made.stages if isinstance(s.sink, TreeAggregate)]
    return with_compiled(made, {}, *folds)


NAMES = (*PROGRAMS, "compiled")


@cache
def work_of(name: str) -> PlanWork:
    """What one of the programs does."""
    return plan_work(physical(name))
