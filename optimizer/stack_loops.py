"""Which folds of loops in lock-step are stacked: made as one product of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scalops.algebra.batching import LEAST_STACKED, folds_over_source, stack_folds
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.expressions import Call, Column, Constant, Expression, Item, Opaque, Slot
from scalops.algebra.folds import Fold
from scalops.algebra.tree import Node, find, substitute, walk
from scalops.engine import physical_plan as pp


def stacks(loops: Sequence[pp.Iterate], stages: Sequence[pp.Stage]) -> tuple[tuple[int, ...], ...]:
    """Stages of several loops that are to be folded as one, whenever their loops ask for them.

    Σ s_1·x, .., Σ s_k·x  ->  S.T @ X, with S = f(X @ W.T), where each loop has f(X @ w_i)

    The stages fold one table through the same steps, and differ only in what is the same for
    every record. Only where several products with vectors become one with a matrix is there
    anything to gain: others stay as they are, with the bits that they have alone. Results agree to
    rounding. Refuses fewer than `LEAST_STACKED`; what `stack_folds` has no rule for; tables whose
    steps differ by more than the values of slots, which the engine compares whenever they run.
    """
    groups: dict[tuple[bytes, ...], list[int]] = {}
    owners: dict[int, int] = {}
    for loop in loops:
        for instruction in find((loop,), pp.RunStage):
            stage = stages[instruction.stage]
            if type(stage.sink) is pp.TreeAggregate:
                owners[stage.number] = loop.index
                own = groups.setdefault(_form(stage, stage.sink), [])
                if stage.number not in own:
                    own.append(stage.number)
    return tuple(
        tuple(own)
        for own in groups.values()
        if len({owners[s] for s in own}) >= LEAST_STACKED and _worth_it([stages[s] for s in own])
    )


def _worth_it(stages: Sequence[pp.Stage]) -> bool:
    made = stack_folds([_folds(s) for s in stages])
    return made is not None and made.products > 0


def _folds(stage: pp.Stage) -> tuple[Fold, ...]:
    assert isinstance(stage.sink, pp.TreeAggregate)
    return folds_over_source(stage.sink.map, stage.sink.folds)


def _form(stage: pp.Stage, sink: pp.TreeAggregate) -> tuple[bytes, ...]:
    """What stages have in common that may be stacked: all but the values of slots and numbers."""
    # By which slots are the same one, so that the engine can compare values slot by slot.
    numbered: dict[Node, Node] = {
        slot: replace(slot, name="", number=i) for i, slot in enumerate(find((stage.source,), Slot))
    }
    table = substitute(stage.source, numbered)
    folds = [_bare(f) for f in folds_over_source(sink.map, sink.folds)]
    return (table.digest, *(f.digest for f in folds))


def _bare(fold: Fold) -> Node:
    """The fold with a blank for each value that is the same for every record."""
    blanks: dict[Node, Node] = {}
    per_record: set[Node] = set()
    for node in walk(*fold.arguments, enter=lambda n: isinstance(n, Expression)):
        if isinstance(node, (Column, Opaque)) or not per_record.isdisjoint(node.children):
            per_record.add(node)
        elif isinstance(node, (Call, Item, Constant, Slot)):
            kind = node.any_type
            if isinstance(kind, ArrayType) and kind.is_plain and kind.is_numeric:
                blanks[node] = Slot("", kind, 0)
    return substitute(replace(fold, name=""), blanks, lambda n: isinstance(n, (Fold, Expression)))
