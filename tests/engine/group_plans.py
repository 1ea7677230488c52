"""What tests of functions of groups share: plans from nodes, runs in this process and in others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

import scalops as so
from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import FLOAT64, INT64, OBJECT, STRING, ArrayType
from scalops.algebra.relations import GroupApply, RowsArgument
from scalops.algebra.schema import Schema
from scalops.capture import capture
from scalops.engine.blas import single_threaded
from scalops.engine.driver import Driver
from scalops.engine.embedded import EmbeddedBackend
from scalops.engine.memory import MemoryBudget
from scalops.engine.processes.runner import ProcessRunner
from scalops.engine.witness.interpreter import Interpreter
from scalops.planning import plan as planned
from scalops.table import Table
from tests.engine.plans import column_of, job_of, pool

TEXT = ArrayType(STRING)
ROWS = RowsArgument("rows", OBJECT, 0)


def columns(table: Table, *names: str) -> tuple[ex.Expression, ...]:
    """Columns of a table as keys."""
    return tuple(ex.Column(n, table.plan.schema[n]) for n in names)


def applied(
    f: Callable[..., Any],
    groups: Table,
    *sources: Table,
    on: Sequence[str] = ("k",),
    arguments: Sequence[ex.Expression] = (ROWS,),
    gives: dict[str, ArrayType] | ArrayType,
    table: bool = False,
) -> Table:
    """`f` applied to each record of `groups`; where it gives one record, the keys stand before."""
    captured, slots = capture(f)
    bare = isinstance(gives, ArrayType)
    declared = Schema((("value", gives),) if isinstance(gives, ArrayType) else (*gives.items(),))
    node = GroupApply(
        groups.plan,
        tuple(s.plan for s in sources),
        columns(groups, *on),
        tuple(columns(s, *on) for s in sources),
        captured,
        tuple(arguments),
        slots,
        Schema(declared.fields, bare),
        single=not table,
        kept=() if table else tuple(on),
    )
    return Table(node)


def run(thing: Any, runner: ProcessRunner | None = None, threads: int = 1) -> Any:
    """The result, the functions being called in the runner's processes if there is one."""
    backend = EmbeddedBackend(pool(threads), MemoryBudget(None), runner)
    with single_threaded():
        (found,) = Driver(planned(job_of(thing)), backend).run()
    return found


def rows(table: Table, runner: ProcessRunner | None = None, threads: int = 1) -> list[Any]:
    """The records as tuples, which the interpreter must give as well."""
    blocks = run(table, runner, threads)
    names = table.plan.schema.names
    found = list(zip(*(map(plain, column_of(blocks, n)) for n in names), strict=True))
    meant = Interpreter().records(table.plan)
    assert found == [tuple(plain(row[n]) for n in names) for row in meant]
    return found


def plain(value: Any) -> Any:
    """A value that `==` compares."""
    if isinstance(value, np.ndarray) and value.ndim:
        return value.tolist()
    return value.item() if isinstance(value, (np.generic, np.ndarray)) else value


def sums(table: pa.Table) -> tuple[int, float]:
    v = table.column("v").to_numpy()
    return len(v), float(v.sum())


COUNT_AND_SUM = {"_0": INT64, "_1": FLOAT64}


def small() -> Table:
    return so.table({"k": np.array([3, 1, 3, 2, 1, 3]), "v": np.arange(6.0)})


def keys_of(table: Table, *names: str) -> Table:
    return table.select(*(names or ("k",))).distinct()
