"""How the partial results of all reductions of a plan meet: one tree, or at the driver.

A neutral decision: the order of additions is that of the leaves, whoever adds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from scalops.algebra.figures import bytes_text, seconds_text
from scalops.algebra.tree import find
from scalops.engine import physical_plan as pp
from scalops.optimizer.costs.trees import Links, Reduction, common_tree

# Fan-ins of all levels that are tried beside the best of each reduction.
EVEN = (2, 4, 8, 16)
# What the driver may have to hold at once of partial results of one reduction, in bytes.
MOST_AT_DRIVER = 256e6


@dataclass(frozen=True)
class Reduced:
    """A reduction of a plan: a stage whose partial results are of so many bytes each.

    `passes`: how often it is run. `only_workers`: why the driver does not add them up, if so.
    """

    stage: int
    partial_bytes: float
    passes: float = 1.0
    only_workers: str = ""


@dataclass(frozen=True)
class Ways:
    """Seconds of one reduction by each way; `flat` is at the driver, a `ring` is not built."""

    tree: float
    flat: float
    ring: float


@dataclass(frozen=True)
class Meeting:
    """A tree of `fan_ins` for `workers`, but for the stages `at_driver`.

    `seconds` of all passes; `ways` by stage, with this tree. `next_best`: the tree that comes
    second, and its seconds.
    """

    workers: int
    fan_ins: tuple[int, ...]
    at_driver: frozenset[int]
    seconds: float
    ways: Mapping[int, Ways]
    links: Links
    told: bool = False
    next_best: tuple[tuple[int, ...], float] | None = None
    only_workers: Mapping[int, str] = field(default_factory=dict)


def meeting(
    workers: int, reductions: Sequence[Reduced], links: Links, told: int | None = None
) -> Meeting:
    """The tree of least seconds over all reductions; of equal ones the first in order.

    `told` is a fan-in that is not chosen but given: then nothing is added up at the driver.
    """
    if told is not None:
        return _along(workers, (told,), reductions, links, told=True)
    alone = _along(workers, (max(2, workers),), reductions, links)
    others = [r for r in reductions if r.stage not in alone.at_driver]
    trees = dict.fromkeys(
        [
            *(_common(workers, some, links) for some in (others, reductions) if some),
            *((f,) for f in EVEN if f < workers),
            alone.fan_ins,
        ]
    )
    made = [_along(workers, t, reductions, links) for t in trees if t]
    made.sort(key=lambda m: m.seconds)
    slower = [m for m in made[1:] if m.seconds > made[0].seconds]
    second = (slower[0].fan_ins, slower[0].seconds) if slower else None
    return replace(made[0], next_best=second)


def _common(workers: int, reductions: Sequence[Reduced], links: Links) -> tuple[int, ...]:
    """The tree in which they take least together."""
    return common_tree(workers, [(r.partial_bytes, r.passes) for r in reductions], links).fan_ins


def _along(
    workers: int,
    fan_ins: tuple[int, ...],
    reductions: Sequence[Reduced],
    links: Links,
    told: bool = False,
) -> Meeting:
    """All reductions with one tree, each by it or at the driver, whichever is sooner done."""
    ways: dict[int, Ways] = {}
    flat: set[int] = set()
    seconds = 0.0
    for one in reductions:
        made = Reduction(workers, one.partial_bytes, links)
        own = ways[one.stage] = Ways(made.tree(fan_ins), made.flat(), made.ring())
        fits = workers * one.partial_bytes <= MOST_AT_DRIVER
        if fits and not told and not one.only_workers and own.flat < own.tree:
            flat.add(one.stage)
        seconds += one.passes * (own.flat if one.stage in flat else own.tree)
    only = {r.stage: r.only_workers for r in reductions if r.only_workers}
    return Meeting(workers, fan_ins, frozenset(flat), seconds, ways, links, told, only_workers=only)


def seconds_along(
    workers: int,
    fan_ins: tuple[int, ...],
    at_driver: frozenset[int],
    reductions: Iterable[Reduced],
    links: Links,
) -> float:
    """Seconds of all passes with this tree, and these stages at the driver."""
    total = 0.0
    for one in reductions:
        made = Reduction(workers, one.partial_bytes, links)
        own = made.flat() if one.stage in at_driver else made.tree(fan_ins)
        total += one.passes * own
    return total


def reductions_of(
    plan: pp.PhysicalPlan,
    passes: Mapping[int, float] | None = None,
    measured: Mapping[int, float] | None = None,
) -> list[Reduced]:
    """The stages of a plan that fold; bytes of a partial result as `measured`, else by its type."""
    together = bool(find(plan.program, pp.IterateTogether))
    found = []
    for stage in plan.stages:
        sink = stage.sink
        if not isinstance(sink, pp.TreeAggregate):
            continue
        size = (measured or {}).get(stage.number, sum(f.type.bytes for f in sink.folds))
        why = _only_workers(stage, sink, together)
        found.append(Reduced(stage.number, size, (passes or {}).get(stage.number, 1.0), why))
    return found


def _only_workers(stage: pp.Stage, sink: pp.TreeAggregate, together: bool) -> str:
    """Why the driver does not add up a stage's partial results; nothing where it may."""
    if stage.calls_functions:
        return "users' functions add up at the workers"
    if together:
        return "several loops may fold in one pass"
    if type(sink) is not pp.TreeAggregate:
        return "the fold is compiled"
    return ""


def said(made: Meeting, one: Reduced) -> str:
    """How the partial results of one reduction meet, and why, for readers."""
    way = _way(made, one.stage)
    if made.told:
        return f"{way}: the session's fan_in"
    many = f"{made.workers} workers" if made.workers > 1 else "one worker"
    shown = f"{way}: partials of {bytes_text(one.partial_bytes)} from {many}"
    if made.workers == 1:
        return shown
    ways = made.ways[one.stage]
    tree = "at rank 0" if made.fan_ins[0] >= made.workers else "by this tree"
    times = f"{seconds_text(ways.flat)} at the driver, {seconds_text(ways.tree)} {tree}"
    return f"{shown}: {times} ({made.links.provenance} links)"


def _way(made: Meeting, stage: int) -> str:
    """Where partial results go; and why not to the driver, where that was sooner done."""
    if stage in made.at_driver:
        return "flat, at the driver"
    how = "flat, at rank 0" if made.fan_ins[0] >= made.workers > 1 else "along the tree"
    ways = made.ways[stage]
    why = made.only_workers.get(stage) if ways.flat < ways.tree and not made.told else None
    return how if why is None else f"{how}, since {why}"
