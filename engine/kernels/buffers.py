"""Where the steps of a kernel put what they make: buffers that are used again, and their layout.

A small last axis lies *by columns*: the k scores of each record as k columns next to each other,
those of several models (one vector, seen as rows) likewise. Their maximum, sum and softmax are then
vectorised over records, where NumPy reduces short rows one at a time (ten scores of 2,048 records:
3 us instead of 70). Arrays that mix both layouts are slower than either, so a layout begins where
scores are made and ends where an array of the other one comes in. A numeric decision, made from the
types alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.tree import Node
from scalops.engine.blocks import Array

SMALL_BYTES = 1 << 14  # smaller results: NumPy's own small-block allocator is as fast
MOST_COLUMNS = 64
# Columns a power of two of bytes apart share their places in the cache: more than a few of them,
# read side by side, drive each other out. A line between them keeps them apart.
_UNPADDED_COLUMNS, _PADDING_BYTES = 16, 64
_MAKES_SCORES = ("matmul", "one_hot", "squared_distances", "weighted_squared_distances")
_KEEPS_LAYOUT = ("softmax", "where", "cast")


@dataclass(frozen=True)
class Buffer:
    """Room for the results of some steps: kind[rows, *shape]."""

    kind: ArrayType
    rows: int
    by_columns: bool

    @property
    def bytes(self) -> int:
        return self.kind.bytes * self.rows

    def make(self, rows: int) -> Array:
        """An array for at least this many records."""
        rows, kind = max(rows, self.rows), self.kind
        if not self.by_columns:
            return np.empty((rows, *kind.shape), kind.numpy)
        count = kind.size
        padding = _PADDING_BYTES // kind.numpy.itemsize if count > _UNPADDED_COLUMNS else 0
        columns = np.empty((count, rows + padding), kind.numpy)[:, :rows].T
        return columns.reshape(rows, *kind.shape)


@dataclass
class Step:
    """One function of a kernel: which registers it reads and which one it sets."""

    node: ex.Expression
    arguments: tuple[int, ...]
    target: int
    apply: Callable[..., Any]
    buffer: int | None = None
    flags: tuple[bool, ...] = ()  # which arguments are batched


def into(step: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a step that can write into `out=`."""
    step.takes_out = True  # type: ignore[attr-defined]
    return step


def takes_out(step: Callable[..., Any]) -> bool:
    """Whether the step can write into `out=`."""
    return isinstance(step, np.ufunc) or getattr(step, "takes_out", False)


def assign_buffers(
    steps: Sequence[Step],
    roots: Sequence[int],
    register: Mapping[Node, int],
    rows: int,
    transient: bool,
) -> list[Buffer]:
    """Give steps that can write into a buffer one; free it after its last reader.

    What a step without one makes may be a view of its inputs, so reading that reads them too.
    Without `transient` the roots are handed out, and lie by rows as tables do.
    """
    last, seen_through = _readers(steps, register)
    pinned: set[int] = set()
    for root in roots:
        for shown in seen_through.get(root, ()):
            last[shown] = len(steps)
            if not transient:
                pinned.add(shown)
    columns = _by_columns(steps) if transient else frozenset()
    buffers: list[Buffer] = []
    free: dict[tuple[ArrayType, bool], list[int]] = {}
    held: dict[int, int] = {}

    def release(until: int) -> None:
        for done in [r for r in held if last.get(r, until) <= until]:
            number = held.pop(done)
            made = buffers[number]
            free.setdefault((made.kind, made.by_columns), []).append(number)

    for i, step in enumerate(steps):
        # Only an elementwise step may write where it reads.
        release(i if isinstance(step.node, ex.Call) and step.node.function.elementwise else i - 1)
        kind = step.node.any_type
        if (
            not takes_out(step.apply)
            or step.target in pinned
            or not isinstance(kind, ArrayType)
            or kind.bytes * rows < SMALL_BYTES
        ):
            continue
        kind, by_columns = kind.strong(), step.target in columns
        available = free.get((kind, by_columns))
        if available:
            step.buffer = available.pop()
        else:
            step.buffer = len(buffers)
            buffers.append(Buffer(kind, rows, by_columns))
        held[step.target] = step.buffer
    return buffers


def _readers(
    steps: Sequence[Step], register: Mapping[Node, int]
) -> tuple[dict[int, int], dict[int, frozenset[int]]]:
    """The last reader of each register, and the registers whose memory each may show."""
    last: dict[int, int] = {}
    seen_through: dict[int, frozenset[int]] = {}
    for i, step in enumerate(steps):
        reads = step.arguments
        if isinstance(step.node, ex.Opaque):
            reads = tuple(register[c] for c in step.node.children if c in register)
        shown = frozenset[int]().union(*(seen_through.get(r, frozenset((r,))) for r in reads))
        for read in shown:
            last[read] = i
        own = frozenset((step.target,))
        seen_through[step.target] = own if takes_out(step.apply) else own | shown
    return last, seen_through


def _by_columns(steps: Sequence[Step]) -> frozenset[int]:
    """The registers that lie by columns."""
    found: set[int] = set()
    seen_as_rows = {s.arguments[0] for s in steps if _shows_rows(s)}
    for step in steps:
        node = step.node
        if _shows_rows(step) and found.issuperset(step.arguments):
            found.add(step.target)  # a view, which lies as what it shows
        if not isinstance(node, ex.Call) or not takes_out(step.apply):
            continue
        shape = node.any_type.shape if isinstance(node.any_type, ArrayType) else ()
        few = len(shape) in (1, 2) and 2 <= shape[-1] <= MOST_COLUMNS
        if not (few or step.target in seen_as_rows):
            continue
        whole = [
            register
            for register, batched, a in zip(step.arguments, step.flags, node.arguments, strict=True)
            if batched and a.type.shape == shape
        ]
        name = node.function.name
        passes_on = node.function.elementwise or name in _KEEPS_LAYOUT
        makes = name in _MAKES_SCORES and len(shape) == 1
        if makes or (passes_on and whole and found.issuperset(whole)):
            found.add(step.target)
    return frozenset(found)


def _shows_rows(step: Step) -> bool:
    """Whether it takes a long vector as several short rows: scores of several models."""
    node = step.node
    if not isinstance(node, ex.Call) or node.function.name != "reshape":
        return False
    ranks = len(node.arguments[0].type.shape), len(node.type.shape)
    return ranks == (1, 2) and 2 <= node.type.shape[-1] <= MOST_COLUMNS
