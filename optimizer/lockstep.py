"""Which loops of a job run in lock-step, so that they share their passes."""

from __future__ import annotations

from collections.abc import Sequence

from scalops.algebra.expressions import Slot
from scalops.algebra.tree import find
from scalops.engine import physical_plan as pp
from scalops.optimizer.stack_loops import stacks

Program = Sequence[pp.Instruction]


def in_lockstep(program: Program, stages: Sequence[pp.Stage]) -> tuple[pp.Instruction, ...]:
    """[.. A .. B ..] -> [.. IterateTogether(A, B) ..] where A and B fold the same table.

    Sound because neither reads what the other leaves: what B needs is moved before A, and what
    needs A stays behind both. Their own order of additions is untouched, and with it every bit,
    unless their folds are made as one: see `stack_loops.py`.
    """
    made: list[pp.Instruction] = []
    rest = list(program)
    while any(isinstance(i, pp.Iterate) for i in rest):
        first = next(n for n, i in enumerate(rest) if isinstance(i, pp.Iterate))
        made.extend(rest[:first])
        before, together, rest = _group(rest[first:], stages)
        if len(together) > 1:
            made.extend(before)
            made.append(pp.IterateTogether(tuple(together), stacks(together, stages)))
        else:
            made.extend(together)
            rest = [*before, *rest]
    return (*made, *rest)


def _group(
    program: Program, stages: Sequence[pp.Stage]
) -> tuple[list[pp.Instruction], list[pp.Iterate], list[pp.Instruction]]:
    """What can go before the first loop, the loops to run with it, and what comes after."""
    together: list[pp.Iterate] = []
    before: list[pp.Instruction] = []
    after: list[pp.Instruction] = []
    late: set[int] = set()  # what the loops, and what comes after them, will leave
    folded: set[pp.PhysicalTable] = set()
    for instruction in program:
        reads, writes = _reads(instruction, stages), _writes(instruction, stages)
        if reads & late:
            after.append(instruction)
        elif isinstance(instruction, pp.Iterate):
            bases = _folded(instruction, stages)
            if together and not bases & folded:
                after.append(instruction)
            else:
                together.append(instruction)
                folded |= bases
        else:
            before.append(instruction)
            continue
        late |= writes
    if len(together) == 1:
        return [], together, [i for i in program if i is not together[0]]
    return before, together, after


def _own_stages(instruction: pp.Instruction, stages: Sequence[pp.Stage]) -> list[pp.Stage]:
    return [stages[i.stage] for i in find((instruction,), pp.RunStage)]


def _reads(instruction: pp.Instruction, stages: Sequence[pp.Stage]) -> set[int]:
    """Slots, and numbers of tables and counts, that it reads or makes for itself."""
    own = _own_stages(instruction, stages)
    slots: set[int] = {_slot(s.number) for s in find((instruction, *own), Slot)}
    for iterate in find((instruction,), pp.Iterate):
        slots |= {_slot(s) for s in iterate.start}
        slots |= {n for t in iterate.tables for n in (t.start, t.next)}
    tables = find(own, pp.PhysicalTable)  # sinks read some too
    numbers = (getattr(t, "number", None) for t in tables)
    beside = {n for s in own for n in s.sink.other_tables}
    return slots | beside | {n for n in numbers if isinstance(n, int)}


def _writes(instruction: pp.Instruction, stages: Sequence[pp.Stage]) -> set[int]:
    """Slots, and numbers of tables and counts, that are there afterwards."""
    written: set[int] = set()
    for stage in _own_stages(instruction, stages):
        number = getattr(stage.sink, "number", None)
        if isinstance(number, int):
            written.add(number)
        written |= {_slot(s) for s in getattr(stage.sink, "slots", ())}
    for evaluate in find((instruction,), pp.Evaluate):
        written |= {_slot(s) for s, _ in evaluate.assignments}
    for iterate in find((instruction,), pp.Iterate):
        written |= {_slot(s) for s in (*iterate.state, *iterate.done)}
        written |= {t.state for t in iterate.tables}
    return written


def _slot(number: int) -> int:
    return -1 - number  # beside the numbers of tables


def _folded(iterate: pp.Iterate, stages: Sequence[pp.Stage]) -> set[pp.PhysicalTable]:
    """The tables on which the folds of a loop rest."""
    own = _own_stages(iterate, stages)
    return {pp.base(s.source) for s in own if isinstance(s.sink, pp.TreeAggregate)}
