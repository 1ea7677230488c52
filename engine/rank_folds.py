"""Passes by several ranks: each folds the tasks whose partitions are its own, a tree combines them.

A task whose partitions have several homes is folded by one rank after the other: its leaves are a
fold in table order, so what the first one has is led on by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol

from scalops.engine.collective import (
    Piece,
    Program,
    Ranks,
    Receive,
    Send,
    Span,
    Spans,
    combine,
    gather_all,
)
from scalops.engine.columns import Array
from scalops.engine.stacked import NullsFound
from scalops.engine.threads import Task
from scalops.engine.value_codec import decode_value, encode_value

Run = Callable[[Task, int], None]
Leaves = list[list[Any]]  # for each reduction, those of a task


class TreePass(Protocol):
    """What is folded task by task, and combined along trees: see `passes.Pass`."""

    @property
    def tasks(self) -> int: ...

    @property
    def leaves(self) -> Sequence[int]: ...

    @property
    def units(self) -> Sequence[tuple[int, ...]]: ...

    def begin(self, may_wait: bool = True) -> None: ...

    def positions(self, index: int) -> tuple[int, int]: ...

    def home(self, position: int) -> int: ...

    def opened(self) -> Leaves: ...

    def part(self, worker: int, index: int, first: int, last: int, made: Leaves) -> Leaves: ...

    def sealed(self, made: Leaves) -> Leaves: ...

    def task(self, worker: int, index: int) -> Leaves: ...

    def merge(self, reduction: int, a: Any, b: Any) -> Any: ...

    def sweep(self, run: Run, task: Task, count: int) -> None: ...


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

    def __init__(
        self,
        made: TreePass,
        ranks: Ranks,
        encode: Callable[[Any, list[Array]], Any] = encode_value,
        decode: Callable[[Any, Sequence[Array]], Any] = decode_value,
    ) -> None:
        """`encode` and `decode` are for a leaf, and for a task's leaves in their lists."""
        self.made, self._ranks = made, ranks
        self._encode, self._decode = encode, decode
        self._whole: list[int] = []
        self._parts: list[_Part] = []
        self._failures: list[Exception] = []  # of tasks and parts; those before may still fail
        self._is_divided = False
        self._is_stacked = any(len(unit) > 1 for unit in made.units)
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

    def folded(self, run: Run) -> Program[list[Any] | None]:
        """What each reduction gives, at the root (rank 0); None elsewhere. Raises as `spans`."""
        own = yield from self.spans(run)
        return (yield from combine(self._ranks, own, self._encode, self._decode))

    def spans(self, run: Run) -> Program[Spans]:
        """What this rank has of each reduction.

        Raises: NullsFound at all ranks where one of them finds what a stack must not have; of
        several errors that of the earliest partition.
        """
        made, done = self.made, dict[int, Leaves]()
        made.begin(may_wait=not self._is_divided)
        nulls: list[int] = []  # the numbers of stacks
        failures = self._failures = []
        # What others wait for comes first.
        yield from self._led_on([p for p in self._parts if p.before is None], done, nulls)
        self._fold_whole(run, done, nulls)
        yield from self._led_on([p for p in self._parts if p.before is not None], done, nulls)
        if failures:
            self._failures = []  # with all that their tracebacks hold
            raise min(failures, key=_partition)
        if self._is_stacked:
            told = yield from gather_all(self._ranks, Piece(nulls, []))
            found = [number for piece in told for number in piece.header]
            if found:
                raise NullsFound(min(found))
        spans = Spans(made.leaves, made.merge)
        for index, trees in done.items():
            for tree, leaves in enumerate(trees):
                first = index * len(leaves)
                for i, leaf in enumerate(leaves):
                    spans.add(Span(tree, 0, first + i), leaf)
        return spans

    def _fold_whole(self, run: Run, done: dict[int, Leaves], nulls: list[int]) -> None:
        """Fold the tasks that are this rank's alone."""
        whole = self._whole

        def task(worker: int, index: int) -> None:
            done[whole[index]] = self.made.task(worker, whole[index])

        try:
            self.made.sweep(run, task, len(whole))
        except NullsFound as found:
            nulls.append(found.number)
        except Exception as error:
            self._failures.append(error)

    def _led_on(
        self, parts: Sequence[_Part], done: dict[int, Leaves], nulls: list[int]
    ) -> Program[None]:
        """Fold parts of tasks; the leaves come from the part before and go to the next.

        None goes on where nulls were found, or an error: then nobody needs them.
        """
        for part in parts:
            leaves: Leaves | None = self.made.opened()
            if part.before is not None:
                piece = yield Receive(part.before)
                header = piece.header
                leaves = None if header is None else self._decode(header, piece.buffers)
            if leaves is not None:
                leaves = self._folded_part(part, leaves, nulls)
            if part.after is not None:
                buffers: list[Array] = []
                header = None if leaves is None else self._encode(leaves, buffers)
                yield Send(part.after, Piece(header, buffers))
            elif leaves is not None:
                done[part.task] = self.made.sealed(leaves)

    def _folded_part(self, part: _Part, leaves: Leaves, nulls: list[int]) -> Leaves | None:
        try:
            return self.made.part(0, part.task, part.first, part.last, leaves)
        except NullsFound as found:
            nulls.append(found.number)
        except Exception as error:
            self._failures.append(error)
        return None


def _partition(error: Exception) -> int:
    """At which an error was raised; of a StageFailure that which it tells of."""
    found: int = getattr(getattr(error, "error", error), "partition", -1)
    return found
