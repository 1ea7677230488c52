"""Folds of several loops as one: k environments side by side, one product of matrices.

The plan says which stages have one form (`IterateTogether.stacks`); here those that are asked for
in one pass become one stage over stacked values (`algebra/batching.py`). Which are asked for
together changes as loops finish, so the stage is compiled anew when it does, and a loop that is
left alone runs its own. A numeric decision: it follows from the program and its data.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from scalops.algebra.batching import LEAST_STACKED, StackedFolds, folds_over_source, stack_folds
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.expressions import Column, Expression, Slot, columns_read, within
from scalops.algebra.tree import find
from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Block, block_rows
from scalops.engine.passes import Leaf, Reduction
from scalops.engine.pipelines.base import Runtime

# Version 1 of two numeric constants. With 32 members what BLAS does to arrange a block is little;
# with more, what is made for each record leaves the cache. Records are taken so many at a time
# that it stays there.
MOST_STACKED = 32
STACKED_BYTES = 512 * 1024
_MOST_COMPILED = 4  # of one stack: sets of loops come back where inner loops differ in length


class NullsFound(Exception):
    """Records have nulls, which a function would choose by loop: a stack is to be taken apart.

    `number` is that of its reduction.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class StackedReduction(Reduction):
    """The reductions of several stages as one, over the pipeline of the first."""

    def __init__(
        self,
        stages: Sequence[pp.Stage],
        members: Sequence[Reduction],
        made: StackedFolds,
        runtime: Runtime,
    ) -> None:
        self._members, self._parts = tuple(members), made.parts
        sink = pp.TreeAggregate(made.folds, tuple(range(len(made.folds))))
        stage = pp.Stage(stages[0].number, stages[0].source, sink, location=stages[0].location)
        pipeline = members[0].pipeline
        arguments = [a for f in made.folds for a in f.arguments]
        self._rows = _power_below(STACKED_BYTES // _widest(arguments))
        super().__init__(
            stage, pipeline, runtime, rows=min(self._rows, block_rows(pipeline.schema))
        )
        self._minds = columns_read(arguments) if made.minds_nulls else frozenset()
        self.stages = tuple(s.number for s in stages)

    def pieces(self, block: Block) -> Iterator[Block]:
        """The block, cut so that what is made of it for all loops stays in cache."""
        if not self._minds.isdisjoint(block.valid):
            raise NullsFound(self.number)
        for start in range(0, block.rows, self._rows):
            whole = start == 0 and block.rows <= self._rows
            piece = block if whole else block.slice(start, min(start + self._rows, block.rows))
            yield from super().pieces(piece)

    def forget(self) -> None:
        """Give the buffers back."""
        self._runtime.forget(self._kernel)

    def finish(self, combined: Leaf) -> None:
        """Hand the folds' values to the loops."""
        super().finish(combined)
        for i, member in enumerate(self._members):
            values = zip(self.results, self._parts, strict=True)
            member.results = tuple(part.of(value, i) for value, part in values)


def _widest(arguments: Sequence[Expression]) -> int:
    """Bytes of the largest value that is computed for each record."""
    computed = [e for e in within(arguments) if not isinstance(e, Column) and columns_read([e])]
    return max((e.type.bytes for e in computed if isinstance(e.any_type, ArrayType)), default=1)


def _power_below(rows: int) -> int:
    """The largest power of two within so many, at least 64."""
    return 1 << (max(64, rows).bit_length() - 1)


def stacks_of(plan: pp.PhysicalPlan) -> tuple[tuple[int, ...], ...]:
    """The stages that a plan lets be folded as one."""
    together = find(plan.program, pp.IterateTogether)
    return tuple(own for node in together for own in node.stacks)


class Stacks:
    """The stacks of a plan: which reductions fold the stages that are asked for."""

    def __init__(
        self,
        stacks: Iterable[Sequence[int]],
        stages: Sequence[pp.Stage],
        reductions: Mapping[int, Reduction],
        runtime: Runtime,
    ) -> None:
        self._reductions = reductions
        known = {s.number: s for s in stages}
        found = [_Stack([known[s] for s in own], reductions, runtime) for own in stacks]
        self._of = {s: stack for stack in found for s in stack.stages}

    def unit(self, stages: tuple[int, ...]) -> Reduction:
        """What folds a stage, or several that are to be folded as one."""
        if len(stages) == 1:
            return self._reductions[stages[0]]
        made = self._of[stages[0]].reduction(stages)
        assert made is not None
        return made

    def units(self, stages: Sequence[int]) -> list[Reduction]:
        """A reduction for each stage, or one for several, in the order of their first."""
        if len(stages) < 2 or not self._of:
            return [self._reductions[s] for s in stages]
        asked: dict[_Stack, list[int]] = {}
        for stage in stages:
            if stage in self._of:
                asked.setdefault(self._of[stage], []).append(stage)
        made = {u.stages[0]: u for stack, own in asked.items() for u in stack.units(own)}
        return [
            made[s] if s in self._of else self._reductions[s]
            for s in stages
            if s not in self._of or s in made
        ]

    def take_apart(self, number: int) -> None:
        """From now on each stage of the reduction of this number is folded by itself."""
        self._of[number].apart = True

    def forget(self) -> None:
        """Let all that may be one be so again, as for somebody who has found no nulls yet."""
        for stack in self._of.values():
            stack.apart = stack.never


class _Stack:
    """Stages of one form, and what was compiled for some of them together."""

    def __init__(
        self, stages: Sequence[pp.Stage], reductions: Mapping[int, Reduction], runtime: Runtime
    ) -> None:
        self.stages = {s.number: s for s in stages}
        self.never = not all(type(s.sink) is pp.TreeAggregate for s in stages)
        self.apart = self.never
        self._reductions, self._runtime = reductions, runtime
        self._compiled: dict[tuple[int, ...], StackedReduction | None] = {}
        # Slots in the order in which they stand in each stage's steps, and those of its folds.
        self._steps = {s.number: [n.number for n in find((s.source,), Slot)] for s in stages}
        self._read = {s.number: s.reads for s in stages}

    def units(self, asked: Sequence[int]) -> list[Reduction]:
        """Reductions for the stages asked for, in chunks of near-equal numbers."""
        slots = self._runtime.slots
        made: list[Reduction] = []
        alike: dict[Hashable, list[int]] = {}
        for stage in asked:
            if self.apart or any(slots[n] is None for n in self._read[stage]):
                made.append(self._reductions[stage])
            else:
                key = tuple(_token(slots[n]) for n in self._steps[stage])
                alike.setdefault(key, []).append(stage)
        for own in alike.values():
            chunks = -(-len(own) // MOST_STACKED)
            ends = [i * len(own) // chunks for i in range(chunks + 1)]
            for start, stop in pairwise(ends):
                made += self._together(tuple(own[start:stop]))
        return made

    def _together(self, chunk: tuple[int, ...]) -> list[Reduction]:
        stacked = self.reduction(chunk) if len(chunk) >= LEAST_STACKED else None
        return [self._reductions[s] for s in chunk] if stacked is None else [stacked]

    def reduction(self, chunk: tuple[int, ...]) -> StackedReduction | None:
        """Compiled when first asked for; those used last are kept."""
        if chunk in self._compiled:
            self._compiled[chunk] = made = self._compiled.pop(chunk)
            return made
        while len(self._compiled) >= _MOST_COMPILED * -(-len(self.stages) // MOST_STACKED):
            left = self._compiled.pop(next(iter(self._compiled)))
            if left is not None:
                left.forget()
        stages = [self.stages[s] for s in chunk]
        sinks = [s.sink for s in stages]
        folds = stack_folds(
            [folds_over_source(s.map, s.folds) for s in sinks if isinstance(s, pp.TreeAggregate)]
        )
        made = None
        if folds is not None and folds.products:
            members = [self._reductions[s] for s in chunk]
            made = StackedReduction(stages, members, folds, self._runtime)
        self._compiled[chunk] = made
        return made


def _token(value: Any) -> Hashable:
    """Equal for values that are the same to the last bit."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, (bool, int, float, str)):
        return type(value), repr(value)
    return id(value)
