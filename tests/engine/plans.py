"""What tests of the engine share: small physical plans, runs of jobs, results as bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.algebra.tree import find
from scalops.engine import physical_plan as pp
from scalops.engine.blas import single_threaded
from scalops.engine.blocks import Block
from scalops.engine.columns import SparseColumn
from scalops.engine.driver import Driver, Listener, Replan
from scalops.engine.embedded import EmbeddedBackend
from scalops.engine.memory import MemoryBudget
from scalops.engine.neutral import Change
from scalops.engine.outcome import SECONDS, LoopOutcome
from scalops.engine.storage import MemorySource, ReadableSource
from scalops.engine.threads import ThreadPool
from scalops.planning import plan as planned

_pools: dict[int, ThreadPool] = {}


def pool(threads: int) -> ThreadPool:
    """A pool of so many threads, shared by all tests."""
    if threads not in _pools:
        _pools[threads] = ThreadPool(threads)
    return _pools[threads]


# Physical plans by hand.


def scan(source: ReadableSource, *columns: str) -> pp.TableScan:
    """A scan of these columns, or of all."""
    return pp.TableScan(source, columns or source.schema.names)


def column(source: ReadableSource, name: str, record: int = 0) -> ex.Column:
    """A column of the source as an expression."""
    return ex.Column(name, source.schema[name], record)


def calc(name: str, *arguments: ex.Expression | float) -> ex.Call:
    """A function of the table, numbers being constants."""
    given = [a if isinstance(a, ex.Expression) else ex.constant(a) for a in arguments]
    return ex.call(function(name), *given)


def physical(
    *stages: tuple[pp.PhysicalTable, pp.Sink], slots: Iterable[ArrayType] = ()
) -> pp.PhysicalPlan:
    """A plan of these stages and no program: tests call the backend themselves."""
    made = tuple(pp.Stage(i, table, sink) for i, (table, sink) in enumerate(stages))
    named = tuple((f"slot {i}", kind) for i, kind in enumerate(slots))
    return pp.PhysicalPlan(made, (), named, (), (), "")


def folded(*folds: Fold) -> pp.TreeAggregate:
    """A sink whose results nothing but the test reads."""
    return pp.TreeAggregate(folds, tuple(range(len(folds))))


def wide_source(rows: int, width: int = 512, seed: int = 0, **more: Any) -> MemorySource:
    """Few records in many partitions: `x` is a wide vector, `k` counts, `w` is a weight."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "x": rng.normal(size=(rows, width)),
        "k": np.arange(rows),
        "w": rng.normal(size=rows),
    }
    return MemorySource.of_arrays(columns | more)


def column_of(blocks: Iterable[Block], name: str) -> list[Any]:
    """A column's values, None for null."""
    found: list[Any] = []
    for block in blocks:
        values = block.columns[name]
        items = values.to_pylist() if isinstance(values, pa.Array) else list(values)
        if name in block.valid:
            items = [v if ok else None for v, ok in zip(items, block.valid[name], strict=True)]
        found.extend(items)
    return found


# Jobs of the language.


def job_of(*things: Any) -> op.Job:
    """The plan that collects tables, values and loops together."""
    return op.Job(tuple(t.plan if hasattr(t, "plan") else t.expression for t in things))


class Backend(EmbeddedBackend):
    """The embedded backend; with `inline`, every stage runs on the calling thread."""

    def __init__(self, threads: int, memory: int | MemoryBudget | None, inline: bool) -> None:
        self.budget = memory if isinstance(memory, MemoryBudget) else MemoryBudget(memory)
        super().__init__(pool(threads), self.budget)
        self.changes: list[Change] = []
        self._always_inline = inline

    def start(self, plan: pp.PhysicalPlan) -> None:
        super().start(plan)
        if self._always_inline:
            super().change(Change(frozenset(s.number for s in plan.stages)))

    def change(self, change: Change) -> None:
        self.changes.append(change)
        super().change(change)


def run(
    things: Sequence[Any],
    threads: int = 1,
    memory: int | MemoryBudget | None = None,
    inline: bool = False,
    replan: Replan | None = None,
    listener: Listener | None = None,
) -> list[Any]:
    """What the engine makes of tables, values and loops: optimized, lowered, embedded."""
    backend = Backend(threads, memory, inline)
    with single_threaded():
        return Driver(planned(job_of(*things)), backend, listener, replan).run()


def bits(results: Any) -> Any:
    """Results as something that is equal only where every bit is."""
    if isinstance(results, LoopOutcome):
        numbers = {n: h for n, h in results.history.items() if n != SECONDS}
        return bits([results.state, results.iterations, results.converged, numbers])
    if isinstance(results, Mapping):
        return {name: bits(value) for name, value in results.items()}
    if isinstance(results, Block):
        return results.rows, bits(results.columns), bits(results.valid)
    if isinstance(results, pa.Array):
        return results.to_pylist()
    if isinstance(results, SparseColumn):
        return results.dimension, bits([results.indptr, results.indices, results.values])
    if isinstance(results, (list, tuple)):
        return [bits(r) for r in results]
    if isinstance(results, (np.ndarray, np.generic)):
        return str(results.dtype), np.shape(results), np.asarray(results).tobytes()
    return results


def table_bits(blocks: Sequence[Block]) -> Any:
    """The bits of a table's records, wherever its blocks end."""
    rows = sum(b.rows for b in blocks)
    kept = [b for b in blocks if b.rows]
    found: dict[str, Any] = {}
    for name in kept[0].columns if kept else ():
        masks = [b.valid.get(name, np.ones(b.rows, bool)) for b in kept]
        values = [b.columns[name] for b in kept]
        if isinstance(values[0], np.ndarray):
            found[name] = bits([np.concatenate(values), np.concatenate(masks)])
        else:
            found[name] = column_of(kept, name)
    return rows, found


def sinks(plan: pp.PhysicalPlan, kind: type[pp.Sink]) -> list[pp.Sink]:
    """The sinks of one class in a plan."""
    return [s.sink for s in plan.stages if isinstance(s.sink, kind)]


def expressions(plan: pp.PhysicalPlan, kind: type[ex.Expression]) -> list[ex.Expression]:
    """The expressions of one class in a plan's stages."""
    return find(plan.stages, kind)
