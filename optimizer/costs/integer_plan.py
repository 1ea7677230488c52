"""How many machines, of which type, with which tree: the integer form of the cost model.

Where the closed form has real numbers this has what can be run: whole machines, the best of all
trees, the busiest worker's share, a first pass that loads everything, K iterations, money. The
search is exhaustive over machine counts and types, and exact over trees (`tree_search.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np

from scalops.algebra.errors import ConfigError, PlanError
from scalops.optimizer.costs import closed_form
from scalops.optimizer.costs.catalog import Catalog, links_on, symbols_on
from scalops.optimizer.costs.closed_form import Parts, Regime
from scalops.optimizer.costs.cluster_trees import ClusterTrees, Partials, Way
from scalops.optimizer.costs.symbols import Symbols
from scalops.optimizer.costs.tree_search import Floats, Integers
from scalops.optimizer.costs.trees import Kind, busiest_share

Objective = Literal["time", "cost"]
MOST_MACHINES = 100_000
_GAIN = 1 - 1e-9  # what a narrower tree has to win, of the total
_ROUNDING = 1e-12  # of all records: what is left over by division alone is cached


class Point(NamedTuple):
    """What a number of machines of a type takes, with the best tree for them.

    `seconds` of a steady iteration, of which `parts` tell; `first_seconds` of the first one, which
    loads all records; `total_seconds` of all; `machine_seconds` of all machines together; `money`
    None without a price. `closed_seconds` is what the closed form says of a steady iteration.
    """

    machines: int
    machine_type: str | None
    kind: Kind
    fan_ins: tuple[int, ...]
    seconds: float
    first_seconds: float
    total_seconds: float
    machine_seconds: float
    money: float | None
    parts: Parts
    regime: Regime
    closed_seconds: float

    @property
    def dominant(self) -> str:
        """What most of a steady iteration is spent on."""
        return self.parts.dominant

    @property
    def gap(self) -> float:
        """By which part of it a steady iteration takes longer than the closed form says."""
        return self.seconds / self.closed_seconds - 1 if self.closed_seconds else math.inf

    @property
    def cost(self) -> float:
        """Money, or machine-seconds where there is no price."""
        return self.machine_seconds if self.money is None else self.money


class ClosedForm(NamedTuple):
    """What the closed form says of a type: real machine counts, and a steady iteration there."""

    machine_type: str | None
    fastest: float
    seconds: float
    cheapest: float
    machine_seconds: float


@dataclass(frozen=True)
class ClusterPlan:
    """Every machine count of every type, and the one that the objective asks for.

    `choice` is the best of those within `deadline` (seconds) and `budget` (money, or
    machine-seconds without prices); `runner_up` the next one, None where there is none. `fastest`
    and `cheapest` are those of all `points`. `closed`: one entry a type.
    """

    objective: Objective
    deadline: float | None
    budget: float | None
    iterations: float
    points: tuple[Point, ...]
    choice: Point
    runner_up: Point | None
    fastest: Point
    cheapest: Point
    closed: tuple[ClosedForm, ...]

    def allows(self, point: Point) -> bool:
        """Whether a point is within deadline and budget."""
        return _within(point.total_seconds, self.deadline) and _within(point.cost, self.budget)


def plan(
    symbols: Symbols | Mapping[str, Symbols],
    machines: Iterable[int],
    objective: Objective = "time",
    deadline: float | None = None,
    budget: float | None = None,
    catalog: Catalog | None = None,
    *,
    partials: Partials | None = None,
    buffers: float = 0.0,
    partitions: int | None = None,
    first_load: bool | None = None,
) -> ClusterPlan:
    """The best of these machine counts.

    `symbols` hold for every machine; with a `catalog` for its reference, and are scaled to the
    other types (`symbols_on`); by name of a type they are taken as they are. `objective` is the
    time of all iterations or what they cost; with a `deadline` (seconds) alone the cheapest within
    it is chosen, with a `budget` (of money, or machine-seconds without prices) alone the fastest.

    `partials`: links and bytes that tell what trees take; without them a level of fan-in f takes
    A·f + L. `buffers`: records whose memory one partial result takes; a worker has room for as
    many partial results as its tree's widest fan-in. `partitions` of the table: the busiest
    worker's share counts; without them all shares are even. `first_load`: whether the first
    iteration loads all records; by default if there are several iterations (K > 1).

    Raises: ConfigError for arguments that make no sense; PlanError where no machine count is within
    deadline and budget, with the nearest that is.
    """
    counts = _counts(machines)
    check_limits(objective, deadline, budget)
    _check(buffers, partitions)
    points: list[Point] = []
    closed: list[ClosedForm] = []
    for name, own, links in _by_type(symbols, partials, catalog):
        loads = own.iterations > 1 if first_load is None else first_load
        sweep = _Sweep(name, own, counts, links, buffers, partitions, loads)
        points += sweep.points()
        closed.append(_closed_form(name, own))
    _require_prices(points)
    return _chosen(points, closed, objective, deadline, budget, own.iterations)


class _Sweep:
    """All machine counts of one type."""

    def __init__(
        self,
        name: str | None,
        symbols: Symbols,
        counts: Integers,
        partials: Partials | None,
        buffers: float,
        partitions: int | None,
        first_load: bool,
    ) -> None:
        self._name, self._symbols, self._counts = name, symbols, counts
        self._buffers, self._first_load = buffers, first_load
        leaves = None if partials is None else partials.leaves
        share = np.array([busiest_share(int(n), partitions) for n in counts])
        # A leaf is led on from worker to worker: no more of them than leaves map at once.
        self._chain: Floats = (
            np.ones(len(counts)) if leaves is None else np.maximum(1.0, 1 / (leaves * share))
        )
        self._records: Floats = share * symbols.records
        self._map: Floats = self._records * symbols.map * self._chain
        self._trees = ClusterTrees(counts, symbols, partials, partitions)

    def points(self) -> list[Point]:
        """One for each machine count, with the best of all ways."""
        best = self._trees.unlimited
        ways, chosen = list(best), np.zeros(len(self._counts), np.int64)
        least = self._total(ways[0])
        for number, way in enumerate(ways[1:], 1):
            self._improve(least, chosen, way, number)
        widest = max(int(way.widest.max()) for way in ways)
        for fan_in in range(2, widest if self._is_buffered else 2):
            # A wider tree leaves less room, and none is faster than the unlimited one.
            if not np.any(self._total(ways[0], fan_in) < least * _GAIN):
                break
            ways.append(self._trees.limited(fan_in))
            self._improve(least, chosen, ways[-1], len(ways) - 1)
        return self._made(ways, chosen)

    @property
    def _is_buffered(self) -> bool:
        return self._buffers > 0 and self._symbols.load > 0 and math.isfinite(self._symbols.cache)

    def _improve(self, least: Floats, chosen: Integers, way: Way, number: int) -> None:
        made = self._total(way)
        np.copyto(chosen, number, where=made < least * _GAIN)
        np.copyto(least, made, where=made < least * _GAIN)

    def _spilled(self, widest: Integers | int) -> Floats:
        """Records of the busiest worker that it has no room for."""
        room = np.maximum(0.0, self._symbols.cache - self._buffers * widest)
        found: Floats = np.maximum(0.0, self._records - room)
        return found

    def _load(self, widest: Integers | int) -> Floats:
        """Seconds to load them, in each iteration."""
        found: Floats = self._spilled(widest) * self._symbols.load * self._chain
        return found

    def _first(self) -> Floats:
        found: Floats = self._records * self._symbols.load * self._chain
        return found

    def _total(self, way: Way, widest: int | None = None) -> Floats:
        """Seconds of all iterations; with room for fan-ins of `widest`, else for the way's own."""
        load = self._load(way.widest if widest is None else widest)
        steady: Floats = self._map + load + way.aggregate + way.broadcast
        total = self._symbols.iterations * steady
        return total + (self._first() - load) if self._first_load else total

    def _made(self, ways: list[Way], chosen: Integers) -> list[Point]:
        pick = chosen, np.arange(len(chosen))
        spilled = np.array([self._spilled(w.widest) for w in ways])[pick]
        columns = {
            "total": np.array([self._total(w) for w in ways])[pick],
            "map": self._map,
            "load": spilled * self._symbols.load * self._chain,
            "aggregate": np.array([w.aggregate for w in ways])[pick],
            "broadcast": np.array([w.broadcast for w in ways])[pick],
            "first": self._first(),
            "spilled": spilled,
            "closed": _closed_seconds(self._symbols, self._counts),
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        places = zip(self._counts.tolist(), chosen.tolist(), strict=True)
        return [self._point(n, ways[way], *row) for (n, way), row in zip(places, rows, strict=True)]

    def _point(
        self,
        machines: int,
        way: Way,
        total: float,
        mapped: float,
        load: float,
        aggregate: float,
        broadcast: float,
        first_load: float,
        spilled: float,
        closed: float,
    ) -> Point:
        price, seconds = self._symbols.price, mapped + load + aggregate + broadcast
        return Point(
            machines,
            self._name,
            way.kind,
            way.fan_ins(machines),
            seconds,
            seconds - load + first_load if self._first_load else seconds,
            total,
            machines * total,
            None if price is None else price * machines * total / 3600,
            Parts(mapped, load, aggregate, broadcast),
            "spilling" if spilled > _ROUNDING * self._symbols.records else "cached",
            closed,
        )


def _closed_seconds(s: Symbols, counts: Integers) -> Floats:
    """`closed_form.seconds` of each count."""
    spilled = np.maximum(0.0, s.records - s.cache * counts)
    divided = (s.records * s.map + spilled * s.load) / counts
    found: Floats = divided + closed_form.growth(s) * np.log(counts)
    return found


def _closed_form(name: str | None, s: Symbols) -> ClosedForm:
    fastest, cheapest = closed_form.fastest(s), closed_form.cheapest(s)
    shortest = closed_form.seconds(s, fastest) if math.isfinite(fastest) else 0.0
    return ClosedForm(name, fastest, shortest, cheapest, closed_form.machine_seconds(s, cheapest))


def _by_type(
    symbols: Symbols | Mapping[str, Symbols], partials: Partials | None, catalog: Catalog | None
) -> list[tuple[str | None, Symbols, Partials | None]]:
    """Name, symbols and links of each type."""
    if isinstance(symbols, Symbols):
        if catalog is None:
            return [(None, symbols, partials)]
        reference = catalog[catalog.reference]
        return [
            (t.name, symbols_on(symbols, reference, t), _partials_on(partials, catalog, t.name))
            for t in catalog
        ]
    names = [t.name for t in catalog] if catalog else list(symbols)
    if not names or set(names) != set(symbols):
        raise ConfigError(f"symbols are of {sorted(symbols)}; expected one each of {sorted(names)}")
    return [(n, symbols[n], _partials_on(partials, catalog, n)) for n in names]


def _partials_on(partials: Partials | None, catalog: Catalog | None, name: str) -> Partials | None:
    if partials is None or catalog is None:
        return partials
    return partials.on(links_on(partials.links, catalog[catalog.reference], catalog[name]))


def _counts(machines: Iterable[int]) -> Integers:
    expected = f"expected ints from 1 to {MOST_MACHINES}"
    given = list(islice(machines, MOST_MACHINES + 1))
    if len(given) > MOST_MACHINES:
        raise ConfigError(f"machines are more than {MOST_MACHINES} numbers; {expected}")
    for one in given:
        if isinstance(one, bool) or not isinstance(one, (int, np.integer)):
            raise ConfigError(f"machines has {one!r}; {expected}")
    found = sorted(set(given))
    if not found or found[0] < 1 or found[-1] > MOST_MACHINES:
        shown = f"from {found[0]} to {found[-1]}" if found else "none"
        raise ConfigError(f"machines are {shown}; {expected}")
    return np.array(found, np.int64)


def check_limits(objective: str, deadline: float | None, budget: float | None) -> None:
    """Raise ConfigError unless there are such an objective and such limits."""
    if objective not in ("time", "cost"):
        raise ConfigError(f"objective is {objective!r}; expected 'time' or 'cost'")
    for name, value in (("deadline", deadline), ("budget", budget)):
        if value is not None and not value > 0:
            raise ConfigError(f"{name} is {value:g}; expected a number, more than 0")


def _check(buffers: float, partitions: int | None) -> None:
    if not (math.isfinite(buffers) and buffers >= 0):
        raise ConfigError(f"buffers is {buffers}; expected a number of records, at least 0")
    if partitions is not None and partitions < 1:
        raise ConfigError(f"partitions is {partitions}; expected an int of at least 1")


def _require_prices(points: list[Point]) -> None:
    """Money and machine-seconds cannot be compared."""
    without = sorted({str(p.machine_type) for p in points if p.money is None})
    if without and any(p.money is not None for p in points):
        raise ConfigError(
            f"machines {without} have no price, others have one",
            hint="give all types a price, or none",
        )


def _within(value: float, limit: float | None) -> bool:
    return limit is None or value <= limit


def _chosen(
    points: list[Point],
    closed: list[ClosedForm],
    objective: Objective,
    deadline: float | None,
    budget: float | None,
    iterations: float,
) -> ClusterPlan:
    in_time = [p for p in points if _within(p.total_seconds, deadline)]
    allowed = [p for p in in_time if _within(p.cost, budget)]
    if not allowed:
        _refuse(points, in_time, deadline, budget)
    if (deadline is None) != (budget is None):
        objective = "cost" if budget is None else "time"
    key = by_time if objective == "time" else by_cost
    choice = min(allowed, key=key)
    others = [p for p in allowed if p is not choice]
    return ClusterPlan(
        objective,
        deadline,
        budget,
        iterations,
        tuple(points),
        choice,
        min(others, key=key) if others else None,
        min(points, key=by_time),
        min(points, key=by_cost),
        tuple(closed),
    )


def by_time(point: Point) -> tuple[float, float, int]:
    """The key of the fastest point: of equally fast ones the cheaper, then the smaller."""
    return _rounded(point.total_seconds), _rounded(point.cost), point.machines


def by_cost(point: Point) -> tuple[float, float, int]:
    """The key of the cheapest point: of equally cheap ones the faster, then the smaller."""
    return _rounded(point.cost), _rounded(point.total_seconds), point.machines


def _rounded(value: float) -> float:
    """Without what differs by rounding alone: R·P machine-seconds are as many on any machines."""
    return float(f"{value:.12g}")


def _refuse(
    points: list[Point], in_time: list[Point], deadline: float | None, budget: float | None
) -> None:
    """Raise PlanError: neither can be kept alone, or both cannot together."""
    fastest, cheapest = min(points, key=by_time), min(points, key=by_cost)
    unit = "machine-seconds" if fastest.money is None else "money"
    if not in_time:
        found = (
            f"no cluster is done within the deadline of {deadline:g} s; the fastest,"
            f" {_shown(fastest)}, takes {fastest.total_seconds:.4g} s"
        )
        within = [p for p in points if _within(p.cost, budget)]
        if within:
            least_time = min(p.total_seconds for p in within)
            kept = "" if budget is None else f" within the budget of {budget:g}"
            hint = f"the least deadline that can be kept{kept} is {_above(least_time)} s"
        else:
            found += (
                f"; and none keeps the budget of {budget:g} ({unit}): the cheapest,"
                f" {_shown(cheapest)}, takes {cheapest.cost:.4g}"
            )
            hint = (
                f"with a budget of {_above(cheapest.cost)} the least deadline is"
                f" {_above(_fastest_within(points, cheapest.cost))} s; with a deadline of"
                f" {_above(fastest.total_seconds)} s the least budget is {_above(fastest.cost)}"
            )
        raise PlanError(found, hint=hint)
    least = min(in_time, key=by_cost)
    kept = "" if deadline is None else f" within the deadline of {deadline:g} s"
    hint = f"the least budget that can be kept is {_above(least.cost)}"
    if least is not cheapest and _within(cheapest.cost, budget):
        hint += f", or the least deadline {_above(_fastest_within(points, budget))} s"
    raise PlanError(
        f"no cluster keeps the budget of {budget:g} ({unit}); the cheapest{kept},"
        f" {_shown(least)}, takes {least.cost:.4g}",
        hint=hint,
    )


def _fastest_within(points: list[Point], budget: float | None) -> float:
    """The least seconds that such a budget allows."""
    return min(p.total_seconds for p in points if _within(p.cost, budget))


def _shown(point: Point) -> str:
    many = "1 machine" if point.machines == 1 else f"{point.machines} machines"
    return many if point.machine_type is None else f"{many} of {point.machine_type!r}"


def _above(value: float) -> str:
    """With four digits, rounded up: what is shown can be asked for."""
    if value <= 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 3 - math.floor(math.log10(value))
    rounded = math.ceil(value * 10.0**digits * (1 - 1e-12)) / 10.0**digits
    return f"{rounded:.{max(0, digits)}f}"
