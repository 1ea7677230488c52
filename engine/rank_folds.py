"""Passes by several ranks: each folds the tasks whose partitions are its own, a tree combines them.

A task whose partitions have several homes is folded by one rank after the other: its leaves are a
fold in table order, so what the first one has is led on by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from scalops.engine.collective import Piece, Program, Ranks, Receive, Send, Span, Spans, combine
from scalops.engine.columns import Array
from scalops.engine.passes import Leaf, Pass
from scalops.engine.threads import Task
from scalops.engine.value_codec import decode_value, encode_value

Run = Callable[[Task, int], None]
Leaves = list[list[Leaf]]  # for each reduction, those of a task


class _Part(NamedTuple):
    """Consecutive partitions of a task with one home."""

    task: int
    number: int  # among the task's parts
    first: int
    last: int
    before: int | None  # the ranks of the parts before and after
    after: int | None


class RankPass:
    """One rank's share of a pass: which tasks, and parts of tasks, are its own."""

    def __init__(self, made: Pass, ranks: Ranks) -> None:
        self.made, self._ranks = made, ranks
        self._whole: list[int] = []
        self._parts: list[_Part] = []
        self._is_divided = False
        for task in range(made.tasks):
            self._share_out(task)
        self._parts.sort(key=lambda p: (p.number, p.task))

    def _share_out(self, task: int) -> None:
        """Note what of a task is the own rank's; of no partitions it is the root's."""
        positions = range(*self.made.positions(task))
        runs = [(rank, list(run)) for rank, run in groupby(positions, self.made.home)]
        if len(runs) < 2:
            if (runs[0][0] if runs else 0) == self._ranks.own:
                self._whole.append(task)
            return
        self._is_divided = True
        for i, (rank, own) in enumerate(runs):
            if rank == self._ranks.own:
                before = runs[i - 1][0] if i else None
                after = runs[i + 1][0] if i + 1 < len(runs) else None
                self._parts.append(_Part(task, i, own[0], own[-1] + 1, before, after))

    def folded(self, run: Run) -> Program[list[Leaf] | None]:
        """What each reduction gives, at the root (rank 0); None elsewhere."""
        made, done = self.made, dict[int, Leaves]()
        made.begin(may_wait=not self._is_divided)
        # What others wait for comes first.
        yield from self._led_on([p for p in self._parts if p.before is None], done)
        whole = self._whole

        def task(worker: int, index: int) -> None:
            done[whole[index]] = made.task(worker, whole[index])

        run(task, len(whole))
        yield from self._led_on([p for p in self._parts if p.before is not None], done)
        spans = Spans(made.leaves, made.merge)
        own: dict[Span, Any] = {}
        for index, trees in done.items():
            for tree, leaves in enumerate(trees):
                first = index * len(leaves)
                own.update({Span(tree, 0, first + i): leaf for i, leaf in enumerate(leaves)})
        return (yield from combine(self._ranks, own, spans, encode_value, decode_value))

    def _led_on(self, parts: Sequence[_Part], done: dict[int, Leaves]) -> Program[None]:
        """Fold parts of tasks; the leaves come from the part before and go to the next."""
        for part in parts:
            leaves = self.made.opened()
            if part.before is not None:
                piece = yield Receive(part.before)
                leaves = decode_value(piece.header, piece.buffers)
            leaves = self.made.part(0, part.task, part.first, part.last, leaves)
            if part.after is None:
                done[part.task] = self.made.sealed(leaves)
                continue
            buffers: list[Array] = []
            header = encode_value(leaves, buffers)
            yield Send(part.after, Piece(header, buffers))
