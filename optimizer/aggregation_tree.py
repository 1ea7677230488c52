"""How workers' partial results meet: along a tree of ranks, or all at once at the driver.

A neutral decision: the order of additions is that of the leaves, whoever adds them. All reductions
of a plan share one tree. The constants are assumed; no link has been measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scalops.algebra.explain import bytes_text
from scalops.algebra.tree import find
from scalops.engine import physical_plan as pp
from scalops.optimizer.cost import Constant

HOP = Constant("hop", 1.0e-4, "s until a message is heard of", "assumed")
MESSAGE = Constant("message", 3.0e-5, "s that each message takes of who hears it", "assumed")
LINK = Constant("link", 1.0e9, "bytes/s between two workers, one message at a time", "assumed")
ADD = Constant("add", 3.0e9, "bytes/s of partial results added to others", "assumed")
# Those that a plan chooses from, beside the flat tree: as many as there are workers.
FAN_INS = (2, 4, 8, 16)
# Few and small partial results are added up by the driver: that spares a hop.
MOST_AT_DRIVER, MOST_BYTES_AT_DRIVER = 4, 1 << 16


@dataclass(frozen=True)
class AggregationTree:
    """How a reduction's partial results meet.

    On each level of the tree a rank adds those of at most `fan_in - 1` others to its own; what the
    root has goes to the driver. Where it is `flat` all ranks send theirs to the driver.
    """

    fan_in: int
    flat: bool
    reason: str


def tree_levels(workers: int, fan_in: int) -> int:
    """Levels of a tree over so many ranks: hops until the last partial is at its root."""
    levels, reach = 0, 1
    while reach < workers:
        levels, reach = levels + 1, reach * fan_in
    return levels


def tree_seconds(workers: int, partial_bytes: float, fan_in: int) -> float:
    """Seconds until the driver has what the tree's root sends; links work side by side."""
    seconds, reach = HOP.value + _taken(partial_bytes), 1
    while reach < workers:
        others = min(fan_in, -(-workers // reach)) - 1
        seconds += HOP.value + others * _taken(partial_bytes)
        reach *= fan_in
    return seconds


def _taken(partial_bytes: float) -> float:
    """Seconds in which who receives a partial result can do nothing else."""
    return MESSAGE.value + partial_bytes / LINK.value + partial_bytes / ADD.value


def common_fan_in(workers: int, partial_bytes: Iterable[float], fan_in: int | None = None) -> int:
    """One fan-in for all reductions of a plan: as asked, else the one of the least seconds.

    The seconds of all reductions count alike; of equal ones the smaller fan-in is taken.
    """
    if fan_in is not None:
        return fan_in
    sizes = tuple(partial_bytes) or (0.0,)
    choices = {*FAN_INS, max(2, workers)}
    return min(choices, key=lambda f: (sum(tree_seconds(workers, s, f) for s in sizes), f))


def aggregation_tree(
    workers: int, partial_bytes: float, fan_in: int | None = None, common: int | None = None
) -> AggregationTree:
    """How the partial results of `workers` ranks, each of so many bytes, meet.

    `fan_in` is what the session was told, which no estimate overrides; `common` what the plan's
    reductions share, else that of this one alone.
    """
    if fan_in is not None:
        return AggregationTree(fan_in, False, "the session's fan_in")
    own = common_fan_in(workers, (partial_bytes,)) if common is None else common
    flat = workers <= MOST_AT_DRIVER and partial_bytes <= MOST_BYTES_AT_DRIVER
    return AggregationTree(own, flat, _compared(workers, partial_bytes, own))


def at_driver(plan: pp.PhysicalPlan, workers: int, fan_in: int | None = None) -> frozenset[int]:
    """The stages that fold whose partial results the driver adds up."""
    others, found = at_workers(plan), []
    for stage in plan.stages:
        if isinstance(stage.sink, pp.TreeAggregate) and stage.number not in others:
            size = sum(f.type.bytes for f in stage.sink.folds)
            if aggregation_tree(workers, size, fan_in).flat:
                found.append(stage.number)
    return frozenset(found)


def at_workers(plan: pp.PhysicalPlan) -> dict[int, str]:
    """The stages that fold whose partial results only workers add up, each with the reason."""
    together = bool(find(plan.program, pp.IterateTogether))
    found = {}
    for stage in plan.stages:
        if not isinstance(stage.sink, pp.TreeAggregate):
            continue
        if stage.calls_functions:
            found[stage.number] = "users' functions add up at the workers"
        elif together:
            found[stage.number] = "several loops may fold in one pass"
        elif type(stage.sink) is not pp.TreeAggregate:
            found[stage.number] = "the fold is compiled"
    return found


def _compared(workers: int, partial_bytes: float, own: int) -> str:
    """The seconds of the tree, and of what stands against it."""
    many = f"{workers} workers" if workers > 1 else "one worker"
    shown = f"partials of {bytes_text(partial_bytes)} from {many}"
    deep = [f for f in FAN_INS if f < workers]
    if not deep:
        return shown
    best = min(deep, key=lambda f: tree_seconds(workers, partial_bytes, f))
    tree = tree_seconds(workers, partial_bytes, best if own >= workers else own)
    flat = tree_seconds(workers, partial_bytes, workers)
    times = f"{_milliseconds(flat)} flat, {_milliseconds(tree)} by a tree"
    return f"{shown}: {times}, with assumed links"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
