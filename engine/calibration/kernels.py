"""What the engine's kernels do in a second, on one thread.

Elementwise steps are timed on a full and on a small block: what both spend on each step beside its
elements is the time of a call.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import cloudpickle
import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra.captured import Captured
from scalops.algebra.dtypes import FLOAT64, INT64, ArrayType
from scalops.algebra.folds import Fold, Transition
from scalops.algebra.functions import function
from scalops.algebra.schema import Schema
from scalops.algebra.segment_folds import Segment
from scalops.engine.blocks import MAX_BLOCK_ROWS, Block, block_rows
from scalops.engine.calibration.measurement import (
    Effort,
    Measured,
    Outcome,
    Probe,
    Unmeasured,
    rate,
    rate_of_difference,
    seconds_of,
    summary,
)
from scalops.engine.columns import Array
from scalops.engine.kernels.folds import FoldKernel
from scalops.engine.kernels.grouping import group_rows
from scalops.engine.kernels.kernel import Kernel
from scalops.engine.kernels.keys import sort_order
from scalops.engine.kernels.matching import KeyIndex
from scalops.engine.opaque.arguments import Argument, Column
from scalops.engine.opaque.batches import call_over
from scalops.engine.opaque.calls import bind
from scalops.engine.threads import ThreadPool

_SMALL = 64  # records of a small block
_CONTENDED = 4_096  # records of a block that two threads work on side by side
_WIDTH = 64  # elements of a vector
_KEYS = 100  # of a small key
_RECORDS = 1 << 20  # that are grouped, joined and sorted
_PARTIAL_BYTES = 1 << 20
_STATE = ("count", "mean", "squares")  # of an aggregate


def call_of(name: str, *arguments: ex.Expression) -> ex.Call:
    """A function of the table of functions."""
    return ex.call(function(name), *arguments)


def numbers(names: str) -> tuple[ex.Column, ...]:
    """Columns of float64."""
    return tuple(ex.Column(name, FLOAT64) for name in names)


def block(rows: int, **types: ArrayType) -> Block:
    """Records of random numbers between 1 and 2."""
    rng = np.random.default_rng(0)
    columns = {n: rng.uniform(1, 2, (rows, *kind.shape)) for n, kind in types.items()}
    return Block(rows, columns)


class Runs:
    """A kernel over one block, again and again."""

    def __init__(self, roots: Sequence[ex.Expression], given: Block) -> None:
        self._kernel = Kernel(roots, given.rows, transient=True)
        self._frame, self._block = self._kernel.frame(), given
        self._kernel.prepare(self._frame, (), 1)

    def __call__(self) -> None:
        self._kernel.run(self._frame, self._block)


def elementwise() -> tuple[list[ex.Expression], int]:
    """Elementwise steps, as in an update or a loss, and how many there are."""
    a, b, c = numbers("abc")
    first = call_of("add", call_of("multiply", a, b), c)
    second = call_of("subtract", call_of("multiply", first, a), b)
    return [call_of("maximum", second, c), call_of("multiply", second, second)], 6


def _steps(effort: Effort) -> Iterator[Outcome]:
    roots, steps = elementwise()
    types = dict.fromkeys("abc", FLOAT64)
    rows = effort.size(block_rows(Schema(tuple(types.items()))), 2 * _SMALL)
    small = seconds_of(Runs(roots, block(_SMALL, **types)), effort)
    large = seconds_of(Runs(roots, block(rows, **types)), effort)
    element = rate_of_difference("element", "flops/s", steps * (rows - _SMALL), small, large)
    yield element
    beside = steps * _SMALL / element.value if isinstance(element, Measured) else 0.0
    yield summary("call", "s", [(s - beside) / steps for s in small])


def _transcendental(effort: Effort) -> Iterator[Outcome]:
    a, b = numbers("ab")
    roots = [call_of("exp", a), call_of("log", b), call_of("tanh", a), call_of("log1p", b)]
    types = dict.fromkeys("ab", FLOAT64)
    rows = effort.size(block_rows(Schema(tuple(types.items()))), 2 * _SMALL)
    small = seconds_of(Runs(roots, block(_SMALL, **types)), effort)
    large = seconds_of(Runs(roots, block(rows, **types)), effort)
    work = len(roots) * (rows - _SMALL)
    yield rate_of_difference("transcendental", "calls/s", work, small, large)


def _products(effort: Effort) -> Iterator[Outcome]:
    kind = ArrayType("float64", (_WIDTH,))
    rows = effort.size(block_rows(Schema((("x", kind),))))
    records, x = block(rows, x=kind), ex.Column("x", kind)
    rng = np.random.default_rng(1)
    for name, shape in (("product", (_WIDTH, _WIDTH)), ("product_vector", (_WIDTH,))):
        other = ex.constant(rng.normal(size=shape))
        samples = seconds_of(Runs([call_of("matmul", x, other)], records), effort)
        yield rate(name, "flops/s", 2.0 * rows * _WIDTH * np.prod(shape[1:]), samples)


def _segment(effort: Effort) -> Iterator[Outcome]:
    key, value = ex.Column("k", INT64), ex.Column("x", FLOAT64)
    kernel = FoldKernel(Segment("s", "segment_sum", (key, value), size=_KEYS, key="k"))
    rows = effort.size(1 << 16)
    keys = np.random.default_rng(0).integers(0, _KEYS, rows)
    vectors = [(keys, None), (np.ones(rows), None)]
    yield rate(
        "segment",
        "records/s",
        rows,
        seconds_of(lambda: kernel.extend(None, vectors, rows, None), effort),
    )


def _keys(count: int, seed: int) -> Array:
    """Keys from a range so wide that they have to be hashed, each about four times."""
    rng = np.random.default_rng(seed)
    return rng.choice(_distinct(count), count)


def _distinct(count: int) -> Array:
    return np.random.default_rng(0).integers(0, 1 << 62, max(1, count // 4))


def _group(effort: Effort) -> Iterator[Outcome]:
    rows = effort.size(_RECORDS)
    keys = _keys(rows, 1)
    samples = seconds_of(lambda: group_rows([(keys, None)], [INT64], rows), effort)
    yield rate("group", "records/s", rows, samples)


def _join(effort: Effort) -> Iterator[Outcome]:
    rows = effort.size(_RECORDS)
    held, searched = _distinct(4 * rows), _keys(4 * rows, 1)[:rows]
    samples = seconds_of(lambda: KeyIndex([(held, None)], rows), effort)
    yield rate("build", "records/s", rows, samples)
    index = KeyIndex([(held, None)], rows)
    samples = seconds_of(lambda: index.lookup([(searched, None)], rows), effort)
    yield rate("probe", "records/s", rows, samples)


def _sort(effort: Effort) -> Iterator[Outcome]:
    rows = effort.size(_RECORDS)
    values = np.random.default_rng(0).normal(size=rows)
    samples = seconds_of(lambda: sort_order([((values, None), False)], rows), effort)
    yield rate("sort", "records/s", rows, samples)


def _record(effort: Effort) -> Iterator[Outcome]:
    """A running mean and variance: Welford (1962), Technometrics 4(3), equations of p. 419."""
    x = ex.Column("0", FLOAT64, 1)
    count, mean, squares = (ex.Column(name, FLOAT64, 0) for name in _STATE)
    more = call_of("add", count, ex.constant(1.0))
    off = call_of("subtract", x, mean)
    new = call_of("add", mean, call_of("divide", off, more))
    added = call_of("add", squares, call_of("multiply", off, call_of("subtract", x, new)))
    fold = Transition(
        "mean",
        "transition",
        (ex.Column("x", FLOAT64),),
        combine=tuple(
            call_of("add", ex.Column(n, FLOAT64, 0), ex.Column(n, FLOAT64, 1)) for n in _STATE
        ),
        fields=_STATE,
        zero=(ex.constant(np.float64(0)),) * len(_STATE),
        step=(more, new, added),
    )
    kernel = FoldKernel(fold)
    kernel.bind((), 1)
    rows = effort.size(1 << 13)
    vectors = [(np.ones(rows), None)]
    samples = seconds_of(lambda: kernel.extend(None, vectors, rows, None), effort)
    yield summary("record", "s", [s / rows for s in samples])


def _of_a_record(record: Any) -> Any:
    """What stands for a user's function that cannot be traced."""
    return record.a if record.a > record.b else record.b


def _opaque(effort: Effort) -> Iterator[Outcome]:
    captured = Captured(cloudpickle.dumps(_of_a_record), "a user's function")
    called = bind(captured, ())
    rows = effort.size(MAX_BLOCK_ROWS)  # so many that each sample has its share of collections
    rng = np.random.default_rng(0)
    columns = tuple(Column(rng.normal(size=rows), None) for _ in "ab")
    arguments = [Argument(("a", "b"), columns)]
    samples = seconds_of(
        lambda: call_over(captured, called, arguments, rows, None, [FLOAT64]), effort
    )
    yield summary("opaque", "s", [s / rows for s in samples])


def _add(effort: Effort) -> Iterator[Outcome]:
    size = effort.size(_PARTIAL_BYTES // 8)
    kernel = FoldKernel(Fold("s", "sum", (ex.Column("x", ArrayType("float64", (size,))),)))
    rows = np.ones((1, size))
    left, right = (kernel.block([(rows, None)], 1) for _ in range(2))
    samples = seconds_of(lambda: kernel.merge(left, right), effort)
    yield rate("add", "bytes/s", 8 * size, samples)


def _lock(effort: Effort) -> Iterator[Outcome]:
    """Two threads, each with as much to do as one alone: what they take longer than that one."""
    if len(os.sched_getaffinity(0)) < 2:
        yield Unmeasured("lock", "this process may use one core only")
        return
    roots, steps = elementwise()
    given = block(_CONTENDED, **dict.fromkeys("abc", FLOAT64))
    runs = [Runs(roots, given) for _ in range(2)]
    count = max(2, effort.size(400))

    def task(worker: int, index: int) -> None:
        for _ in range(count):
            runs[index]()

    pool = ThreadPool(2)
    try:
        both = seconds_of(partial(pool.run, task, 2), effort)
    finally:
        pool.close()
    alone = float(np.median(seconds_of(partial(task, 0, 0), effort)))
    yield summary("lock", "s", [(s - alone) / (count * steps) for s in both])


PROBES = (
    Probe("kernels", ("element", "call"), _steps),
    Probe("kernels", ("transcendental",), _transcendental),
    Probe("kernels", ("product", "product_vector"), _products),
    Probe("kernels", ("segment",), _segment),
    Probe("kernels", ("group",), _group),
    Probe("kernels", ("build", "probe"), _join),
    Probe("kernels", ("sort",), _sort),
    Probe("kernels", ("record",), _record),
    Probe("kernels", ("opaque",), _opaque),
    Probe("kernels", ("add",), _add),
    Probe("overheads", ("lock",), _lock),
)
