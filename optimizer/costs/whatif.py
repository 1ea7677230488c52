"""How many machines, of which type: the question, its answer, and the same for other constants.

Symbols say what an iteration takes; `integer_plan.py` plans with them. Here its points are brought
together as a person who plans a cluster reads them. `flips.py` says how far constants may move.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import NamedTuple

from scalops.algebra.errors import ConfigError, PlanError
from scalops.optimizer.costs.catalog import Catalog, MachineType, symbols_on
from scalops.optimizer.costs.integer_plan import (
    ClosedForm,
    ClusterPlan,
    Objective,
    Point,
    by_cost,
    by_time,
    check_limits,
    plan,
)
from scalops.optimizer.costs.symbols import Symbols
from scalops.optimizer.costs.tree_search import levels

SYMBOLS = tuple(f.name for f in fields(Symbols))
SWEPT = (*SYMBOLS, "deadline", "budget")
_SHOWN = 12  # machine counts of a table
# The least and the most that is asked about, of what is not 0 or infinite.
BOUNDS = {
    "records": (1e-6, 1e18), "map": (1e-15, 1e12), "load": (1e-15, 1e12), "cache": (1e-6, 1e18),
    "aggregate": (1e-15, 1e12), "broadcast": (1e-15, 1e12), "level": (1e-15, 1e12),
    "iterations": (1.0, 1e12), "price": (1e-15, 1e12), "deadline": (1e-15, 1e30),
    "budget": (1e-15, 1e30),
}  # fmt: skip
_MAY_BE_NOUGHT = ("map", "load", "aggregate", "broadcast", "level", "price")
_BESIDE = {"cache": ", or 'all'", "deadline": ", or none", "budget": ", or none"}


@dataclass(frozen=True)
class Question:
    """Which of these machine counts is best, as of `integer_plan.plan`.

    `symbols` hold for `reference`; with a `catalog` they are scaled to its types. By default the
    reference is the catalog's own. `deadline`: seconds of all iterations. `budget`: money for all
    of them, or machine-seconds without prices.

    Raises: ConfigError for what makes no sense, and for what is beyond `BOUNDS`.
    """

    symbols: Symbols
    machines: tuple[int, ...]
    objective: Objective = "time"
    deadline: float | None = None
    budget: float | None = None
    catalog: Catalog | None = None
    reference: MachineType | None = None

    def __post_init__(self) -> None:
        check_limits(self.objective, self.deadline, self.budget)
        for name in SYMBOLS:
            check_bounds(name, getattr(self.symbols, name))
        check_bounds("deadline", self.deadline)
        check_bounds("budget", self.budget)
        if self.catalog is not None and self.symbols.price is not None:
            raise ConfigError(
                "price is given beside a catalog, which has prices of its own",
                hint="leave one of them out",
            )

    @property
    def minimised(self) -> Objective:
        """What the choice makes least: with a deadline alone cost, with a budget alone time."""
        if (self.deadline is None) == (self.budget is None):
            return self.objective
        return "cost" if self.budget is None else "time"

    def by_type(self) -> dict[str | None, Symbols]:
        """The symbols on each type of machine; of the name None without a catalog."""
        if self.catalog is None:
            return {None: self.symbols}
        own = self.reference or self.catalog[self.catalog.reference]
        return {t.name: symbols_on(self.symbols, own, t) for t in self.catalog}

    def plan(self) -> ClusterPlan:
        """All machine counts and the best. Raises PlanError where none is within the limits."""
        by_type = self.by_type()
        symbols: Symbols | Mapping[str, Symbols] = (
            self.symbols
            if self.catalog is None
            else {str(name): own for name, own in by_type.items()}
        )
        return plan(
            symbols, self.machines, self.objective, self.deadline, self.budget, self.catalog
        )

    def cost_of(self, point: Point) -> float:
        """What the choice makes least, of a point."""
        return point.total_seconds if self.minimised == "time" else point.cost


def check_bounds(name: str, value: float | None) -> None:
    """Raise ConfigError for a value that is too small or too large to be asked about."""
    if value is None or value == 0 or (name == "cache" and math.isinf(value)):
        return
    least, most = BOUNDS[name]
    if not least <= value <= most:
        nought = "0, or " if name in _MAY_BE_NOUGHT else ""
        raise ConfigError(
            f"{name} is {value:g}; expected {nought}a number from {least:g} to"
            f" {most:g}{_BESIDE.get(name, '')}"
        )


def without_trifles(symbols: Symbols) -> Symbols:
    """Measured symbols, 0 in place of times that are less than may be asked about."""
    small = (n for n in _MAY_BE_NOUGHT if 0 < (getattr(symbols, n) or 0.0) < BOUNDS[n][0])
    return replace(symbols, **dict.fromkeys(small, 0.0))


class Alternative(NamedTuple):
    """Another way for partial results to meet; `seconds` of it. A ring is not built."""

    kind: str
    fan_ins: tuple[int, ...]
    seconds: float
    is_built: bool


@dataclass(frozen=True)
class Answer:
    """All points, and of them the choice: None where none is within deadline and budget.

    Then `reason` says so, `hint` what can be kept, and `nearest` is the point that comes nearest.
    `fastest` and `cheapest` are those of all points.
    """

    question: Question
    points: tuple[Point, ...]
    choice: Point | None
    runner_up: Point | None
    fastest: Point
    cheapest: Point
    closed: tuple[ClosedForm, ...]
    nearest: Point
    reason: str = ""
    hint: str = ""

    @property
    def best_by_type(self) -> tuple[Point, ...]:
        """The best point of each type that is within the limits, or that comes nearest."""
        found = []
        for name in self.question.by_type():
            own = [p for p in self.points if p.machine_type == name]
            found.append(_nearest(self.question, own))
        return tuple(found)

    @property
    def at_bound(self) -> bool:
        """Whether the choice is the largest of several machine counts: more might be better."""
        counts = self.question.machines
        return len(counts) > 1 and self.nearest.machines == max(counts)

    def allows(self, point: Point) -> bool:
        """Whether a point is within deadline and budget."""
        own = self.question
        return within(point.total_seconds, own.deadline) and within(point.cost, own.budget)

    def of_type(self, name: str | None) -> list[Point]:
        """The points of a type, by their machines."""
        return [p for p in self.points if p.machine_type == name]


class SweptPoint(NamedTuple):
    """What is best where one constant has another value; `choice` None where nothing is allowed."""

    value: float
    choice: Point | None
    fastest: Point
    cheapest: Point


def answer(question: Question) -> Answer:
    """The best machine count, or why there is none."""
    try:
        made, reason, hint = question.plan(), "", ""
    except PlanError as error:
        objective = question.minimised
        free = replace(question, objective=objective, deadline=None, budget=None)
        made, reason, hint = free.plan(), error.found, error.hint or ""
    choice = None if reason else made.choice
    return Answer(
        question,
        made.points,
        choice,
        None if reason else made.runner_up,
        made.fastest,
        made.cheapest,
        made.closed,
        choice or _nearest(question, made.points),
        reason,
        hint,
    )


def _nearest(question: Question, points: Iterable[Point]) -> Point:
    """The best within the limits; else the cheapest in time; else the fastest."""
    key = by_time if question.minimised == "time" else by_cost
    own = list(points)
    in_time = [p for p in own if within(p.total_seconds, question.deadline)]
    allowed = [p for p in in_time if within(p.cost, question.budget)]
    if allowed:
        return min(allowed, key=key)
    return min(in_time, key=by_cost) if in_time else min(own, key=by_time)


def within(value: float, limit: float | None) -> bool:
    """Whether a value is within a limit, if there is one."""
    return limit is None or value <= limit


def sweep(question: Question, name: str, values: Iterable[float]) -> tuple[SweptPoint, ...]:
    """The answers where a symbol, the deadline or the budget has these values.

    Raises: ConfigError for a name or a value that makes no sense.
    """
    return tuple(_swept(changed(question, name, value), value) for value in values)


def changed(question: Question, name: str, value: float) -> Question:
    """The question with another value of a symbol, the deadline or the budget."""
    if name in SYMBOLS:
        if name == "price" and question.catalog is not None:
            raise ConfigError("price has no one value to change: the catalog has several")
        return replace(question, symbols=replace(question.symbols, **{name: value}))
    if name == "deadline":
        return replace(question, deadline=value)
    if name == "budget":
        return replace(question, budget=value)
    raise ConfigError(f"{name!r} is no symbol; expected one of {list(SWEPT)}")


def _swept(question: Question, value: float) -> SweptPoint:
    found = answer(question)
    return SweptPoint(value, found.choice, found.fastest, found.cheapest)


def shown_machines(found: Answer, most: int = _SHOWN) -> tuple[int, ...]:
    """A dozen machine counts that tell most: of the choice's type the marked ones, and others
    between the first and the last, as even as may be on a logarithmic scale."""
    name = found.nearest.machine_type
    counts = sorted({p.machines for p in found.of_type(name)})
    wanted = {counts[0], counts[-1], *(p.machines for p in marked(found))}
    kink = kink_of(found.question.by_type()[name])
    if counts[0] <= kink <= counts[-1]:
        wanted.add(next(n for n in counts if n >= kink))
    if len(counts) <= most:
        return tuple(counts)
    while len(wanted) < most:
        known = sorted(wanted)
        gaps = sorted(pairwise(known), key=lambda g: g[0] / g[1])
        between = (_middle(counts, low, high) for low, high in gaps)
        new = next((n for n in between if n is not None), None)
        if new is None:
            break
        wanted.add(new)
    return tuple(sorted(wanted))


def marked(found: Answer) -> list[Point]:
    """The choice, the fastest and the cheapest, of the choice's type."""
    points = (found.nearest, found.fastest, found.cheapest)
    return [p for p in points if p.machine_type == found.nearest.machine_type]


def _middle(counts: Sequence[int], low: int, high: int) -> int | None:
    """The round count nearest to the middle of two, on a logarithmic scale."""
    inner = [n for n in counts if low < n < high]
    if not inner:
        return None
    wanted = math.sqrt(low * high)
    round_ones = [n for n in inner if _is_round(n) and abs(math.log(n / wanted)) < 0.15]
    return min(round_ones or inner, key=lambda n: abs(math.log(n / wanted)))


def _is_round(count: int) -> bool:
    """Whether one digit, or two of which the second is 5, and zeros."""
    text = str(count).rstrip("0")
    return len(text) <= 1 or (len(text) == 2 and text[1] == "5")


def kink_of(s: Symbols) -> float:
    """N₀ = R/M: from so many machines on all records are cached."""
    return s.records / s.cache


def alternatives(question: Question, point: Point) -> tuple[Alternative, ...]:
    """What an iteration's aggregation takes on so many machines, by other ways.

    A level of fan-in f takes A·f + L. The ring: each machine owns 1/N of the elements, hears those
    of N − 1 others and sends its sums on: 2 steps, A·(N − 1)/N + A + 2·L, if all of A is bytes.
    """
    s, n = question.by_type()[point.machine_type], point.machines
    ways = {"tree": point.fan_ins, "binary tree": (2,), "flat": (max(n, 2),)}
    made = [Alternative(kind, f, _tree_seconds(s, f, n), True) for kind, f in ways.items()]
    ring = 0.0 if n == 1 else s.aggregate * (n - 1) / n + s.aggregate + 2 * s.level
    return (*made, Alternative("ring", (), ring, False))


def _tree_seconds(s: Symbols, fan_ins: Sequence[int], machines: int) -> float:
    total, size = 0.0, 1
    for fan_in in levels(fan_ins, machines):
        total += s.level + s.aggregate * -(-min(machines, size * fan_in) // size)
        size *= fan_in
    return total
