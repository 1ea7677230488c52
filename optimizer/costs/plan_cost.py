"""What a plan takes in a setting: seconds of operators, stages, iterations, and memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from scalops.optimizer.cardinality import least_known
from scalops.optimizer.cost import Provenance
from scalops.optimizer.costs.amounts import Amounts
from scalops.optimizer.costs.machine import Machine
from scalops.optimizer.costs.memory import held, index_limit, worker_bytes
from scalops.optimizer.costs.plan_work import LoopWork, PlanWork, StageWork
from scalops.optimizer.costs.setting import Setting
from scalops.optimizer.costs.stage_cost import Again, Costing, stage_cost
from scalops.optimizer.costs.thread_times import amount_seconds
from scalops.optimizer.costs.times import OperatorCost, StageCost, Times
from scalops.optimizer.costs.trees import broadcast_seconds

if TYPE_CHECKING:
    from scalops.optimizer.costs.program_rates import ProgramRates

__all__ = [
    "LoopCost",
    "OperatorCost",
    "PlanCost",
    "StageCost",
    "Times",
    "plan_cost",
]


@dataclass(frozen=True)
class LoopCost:
    """The first and a later iteration of a loop, loops in it included, and all of them.

    `known` says whether the number of `iterations` is, else it is assumed. Loops in lock-step
    share passes: each has its own part of them.
    """

    index: int
    first: Times
    steady: Times
    iterations: float
    known: bool

    @property
    def total(self) -> float:
        """Seconds of all iterations."""
        return self.first.total + max(0.0, self.iterations - 1) * self.steady.total


@dataclass(frozen=True)
class PlanCost:
    """A plan in a setting: stages by number, loops by index, what is run `once`, and the sum.

    `memory`: bytes held by each worker (or this process) at most. `cached`: of each cached table,
    by number, the share that is held, and `missing` the bytes of each worker that are not.
    `spilled`: of tables that stages leave, by stage, the bytes of each worker that are in files for
    want of room. `total_seconds` are those of everything, all iterations included.
    """

    stages: Mapping[int, StageCost]
    loops: Mapping[int, LoopCost]
    once: Times
    total_seconds: float
    memory: float
    cached: Mapping[int, float]
    provenance: Provenance
    missing: Mapping[int, float] = field(default_factory=dict)
    spilled: Mapping[int, float] = field(default_factory=dict)


def plan_cost(
    work: PlanWork, machine: Machine, setting: Setting, program: ProgramRates | None = None
) -> PlanCost:
    """What the work takes on a machine of these rates; `program` has measured this very one.

    Starting workers, where none run, is not counted.
    """
    room = held(work, setting)
    indexes = {
        s.makes: (s.index_bytes, index_limit(s, setting))
        for s in work.stages.values()
        if s.makes is not None and s.index_bytes
    }
    spilled = {
        makes: size
        for stage, size in room.spilled.items()
        if (makes := work.stages[stage].makes) is not None
    }
    again: dict[int, Again] = {}
    stages: dict[int, StageCost] = {}
    costing = Costing(machine, setting, program, indexes, again, spilled)
    for number, stage in sorted(work.stages.items()):
        stages[number] = stage_cost(stage, costing)
        if stage.makes is not None and stage.is_cache and room.missing[stage.makes]:
            missing = room.missing[stage.makes]
            stages[number], again[stage.makes] = _missing(stage, stages[number], missing, costing)
    loops: dict[int, LoopCost] = {}
    for loop in _inner_first(work):
        loops[loop.index] = _loop(loop, stages, loops, costing)
    once = _added(stages[n].first for n in work.once) + _update(
        work.evaluations, work.evaluation, machine
    )
    return PlanCost(
        stages,
        loops,
        once,
        once.total + sum(loops[i].total for i in work.outer),
        room.memory,
        room.cached,
        least_known(s.provenance for s in stages.values()),
        room.missing,
        room.spilled,
    )


def _missing(
    stage: StageWork, cost: StageCost, size: float, costing: Costing
) -> tuple[StageCost, Again]:
    """What a cached table of which `size` bytes are not held takes when it is first made, and what
    these take whenever they are read.

    What is made again is not made when the table first is: that ends where memory does. Where each
    thread reads every second partition of a group of rows it decodes those between, too. A cache
    file is written then, and read as an Arrow IPC file is: the same copies, by the same rate.
    """
    setting, machine = costing.setting, costing.machine
    assert stage.makes is not None
    share = size / worker_bytes(stage, setting)
    if stage.makes not in setting.neutral.filed:
        beside = cost.steady.total - max(cost.disk, cost.computing) + cost.computing
        begun = replace(cost, first=cost.first.times(1 - share))
        skipped = min(costing.threads(stage), stage.in_group)
        return begun, Again(share, share * cost.disk, share * beside * skipped)
    on_disk = size * costing.on_one_disk
    written = cost.first + Times(load=on_disk / machine["disk_write"])
    decoded = size / machine["ipc"] / costing.threads(stage)
    known = least_known((cost.provenance, machine.known("disk_write", "disk_read", "ipc")))
    made = replace(cost, first=written, provenance=known)
    return made, Again(share, on_disk / machine["disk_read"], decoded)


def _inner_first(work: PlanWork) -> list[LoopWork]:
    """The loops, each after those that are in it."""
    by_index = {loop.index: loop for loop in work.loops}
    found: dict[int, LoopWork] = {}
    stack = [(index, False) for index in reversed(sorted(by_index))]
    while stack:
        index, entered = stack.pop()
        if entered:
            found[index] = by_index[index]
        elif index not in found:
            stack.append((index, True))
            stack.extend((i, False) for i in by_index[index].inner)
    return list(found.values())


def _loop(
    loop: LoopWork,
    stages: Mapping[int, StageCost],
    loops: Mapping[int, LoopCost],
    costing: Costing,
) -> LoopCost:
    """One iteration: its stages, the loops in it, values down to the workers, the driver's part."""
    setting = costing.setting
    update = _update(loop.evaluations, loop.evaluation, costing.machine)
    sent = _broadcast(loop.environment_bytes, setting.workers, setting.neutral.fan_ins, costing)
    beside = update + Times(broadcast=sent)
    passes = 1 / max(1, len(loop.together))
    first = _added(_shared(stages[n].first, passes) for n in loop.stages)
    steady = _added(_shared(stages[n].steady, passes) for n in loop.stages)
    for index in loop.inner:
        inner = loops[index]
        first += inner.first + inner.steady.times(max(0.0, inner.iterations - 1))
        steady += inner.steady.times(inner.iterations)
    return LoopCost(loop.index, beside + first, beside + steady, loop.iterations, loop.known)


def _shared(times: Times, part: float) -> Times:
    """Of loops in lock-step each waits for its part of the common passes."""
    return replace(times, wait=part * times.wait)


def _broadcast(size: float, workers: int, fan_ins: Sequence[int], costing: Costing) -> float:
    """What values add to the command that they travel with."""
    if not workers or not size:
        return 0.0
    links = costing.links
    whole = broadcast_seconds(workers, size, links, fan_ins)
    return max(0.0, whole - broadcast_seconds(workers, 0.0, links, fan_ins))


def _update(evaluations: float, evaluation: Amounts, machine: Machine) -> Times:
    """Calls and arithmetic of the driver's expressions."""
    return Times(update=evaluations * machine["call"] + amount_seconds(evaluation, machine))


def _added(several: Iterable[Times]) -> Times:
    return sum(several, Times())
