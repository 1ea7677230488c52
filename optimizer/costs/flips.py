"""How far each constant may move before another number of machines should be chosen.

The whole-number optimum moves by one machine at the smallest change, which nobody needs to know. So
a decision *flips* where it has to be given up: where it takes more than 5 % more than the best, or
is no longer within the deadline or the budget. What is sought is the nearest such value of one
constant x, the others being as they are, below and above its own value.

It is found exactly. The seconds of a machine count are piecewise linear in each constant: load has
its kink where the records are just cached, R = M·N, and the best tree is the least of a few lines
A·Σk + L·d (`tree_levels.py`). Between these values the present choice and its rivals are straight
lines in x, and so are the limits; where one line first crosses another is solved for, for all
machine counts at once. So no flip lies between the points of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scalops.optimizer.costs.symbols import Symbols
from scalops.optimizer.costs.tree_levels import least_sums
from scalops.optimizer.costs.tree_search import Floats
from scalops.optimizer.costs.whatif import SYMBOLS, Answer

TOLERANCE = 0.05  # of what is made least: a choice that is that near the best is kept
SPAN = 1000.0  # the factors that are looked at: 1/SPAN to SPAN
_ROWS = 4096  # machine counts at once: memory
_ROUNDING = 1e-12  # of a limit: what a point takes that is just within it
# Of a constant: where the best beyond a flip is looked up; the first place counts at which rounding
# does not hide that the choice is given up.
_BEYOND = tuple(10.0**digits for digits in range(-9, -2))
_UNIT = Symbols(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)

Why = Literal["dearer", "deadline", "budget", "possible"]


@dataclass(frozen=True)
class Change:
    """Where a decision flips: the constant's value, by which factor it has moved, and to what.

    `factor` None where the constant is 0 or infinite now. `machines` is the best number just beyond
    (None where no number is within the limits), of `machine_type`. `why`: the choice is dearer than
    the best by more than `TOLERANCE`; misses the deadline or the budget; or there was no choice,
    and now one is possible.
    """

    value: float
    factor: float | None
    machines: int | None
    machine_type: str | None
    why: Why


@dataclass(frozen=True)
class Flip:
    """The nearest flips of a constant of this value; None where there is none within `SPAN`."""

    symbol: str
    value: float
    below: Change | None
    above: Change | None


def flips(found: Answer) -> tuple[Flip, ...]:
    """The flips of all constants; none of a price that is not known.

    With a catalog, price is that of the chosen type alone.
    """
    rows = _Rows(found)
    return tuple(_flip(rows, name) for name in SYMBOLS if rows.value(name) is not None)


def _flip(rows: _Rows, name: str) -> Flip:
    value = rows.value(name)
    assert value is not None
    start = rows.start(name)
    least = 1.0 if name == "iterations" else start / SPAN
    most = start * SPAN if start > 0 else SPAN * rows.reference(name)
    below = _nearest(rows, name, start, least) if start > least else None
    above = _nearest(rows, name, start, most) if math.isfinite(value) else None
    return Flip(name, value, below, above)


def _nearest(rows: _Rows, name: str, start: float, end: float) -> Change | None:
    """The nearest flip between two values of a constant."""
    first = min(rows.first(name, start, end))
    if not math.isfinite(first):
        return None
    own = rows.value(name)
    assert own is not None
    flipped = start + (1.0 if end > start else -1.0) * first
    factor = flipped / own if 0 < own < math.inf else None
    step = math.copysign(max(flipped, start), end - start)
    found = (rows.best(name, flipped + part * step) for part in _BEYOND)
    given_up = next((one for one in found if rows.is_given_up(*one)), None)
    return None if given_up is None else Change(flipped, factor, *given_up)


class _Rows:
    """All machine counts of all types, as rows; the present choice is one of them, or none."""

    def __init__(self, found: Answer) -> None:
        question = found.question
        self._question, self._choice, self._near = question, found.choice, found.nearest
        types = list(question.by_type().items())
        counts = np.unique(np.array(question.machines, np.int64))
        self._names = [name for name, _ in types for _ in counts]
        self._machines = np.tile(counts, len(types))
        self._values = {
            symbol: np.repeat([_of(own, symbol) for _, own in types], len(counts))
            for symbol in SYMBOLS
        }
        self._scales = {
            symbol: np.repeat([_of(own, symbol) for own in self._units()], len(counts))
            for symbol in SYMBOLS
        }
        self._sums = least_sums(int(counts[-1]))
        self._steps = np.array([(n - 1).bit_length() for n in self._machines.tolist()], float)
        near = found.nearest
        self._own = next(
            i
            for i, n in enumerate(self._machines.tolist())
            if (n, self._names[i]) == (near.machines, near.machine_type)
        )

    def _units(self) -> Iterator[Symbols]:
        """What symbols of 1 on the reference are on each type."""
        question = self._question
        if question.catalog is None:
            yield _UNIT
            return
        unit = replace(question, symbols=replace(_UNIT, price=None))
        for name, own in unit.by_type().items():
            # Of a catalog's prices one is moved: that of the choice.
            yield replace(own, price=1.0 if name == self._near.machine_type else 0.0)

    def value(self, name: str) -> float | None:
        """A constant now; None for a price that is not known."""
        if name != "price":
            return float(getattr(self._question.symbols, name))
        own = self._question.by_type()[self._near.machine_type].price
        return own

    def start(self, name: str) -> float:
        """The value that a search starts from: an infinite cache is one that holds all records."""
        value = self.value(name)
        assert value is not None
        if math.isfinite(value):
            return value
        return self._question.symbols.records / float(self._scales[name].min())

    def reference(self, name: str) -> float:
        """Of a constant that is 0, the value with which it takes as long as an iteration does."""
        seconds = self._near.seconds or 1.0
        if name == "map" or name == "load":
            return seconds * self._near.machines / self._question.symbols.records
        return seconds if name != "price" else 1.0

    # Where lines cross.

    def first(self, name: str, start: float, end: float) -> Iterator[float]:
        """By some rows each: how far from `start` the first flip is; infinite for none."""
        for low in range(0, len(self._machines), _ROWS):
            yield self._first(name, start, end, np.arange(len(self._machines))[low : low + _ROWS])

    def _first(self, name: str, start: float, end: float, rows: NDArray[np.int64]) -> float:
        at = self._breaks(name, rows, start, end)
        own, rivals = np.full((1, 1), self._own), rows[:, None]
        conditions = self._limits(name, at, rivals)
        if self._choice is None:
            return _earliest(at, conditions)
        mine = self._objective(name, at, own)
        conditions.append(mine - (1 + TOLERANCE) * self._objective(name, at, rivals))
        missed = [_earliest(at, [-kept]) for kept in self._limits(name, at, own)]
        return min([_earliest(at, conditions), *missed])

    def _breaks(self, name: str, rows: NDArray[np.int64], start: float, end: float) -> Floats:
        """Values between which all lines are straight, from `start` on, float64[rows, values]."""
        own = np.broadcast_to(self._own, len(rows))
        found = [np.full(len(rows), start), np.full(len(rows), end)]
        for row in (rows, own):
            found += self._bends(name, row)
        low, high = min(start, end), max(start, end)
        values = np.clip(np.nan_to_num(np.stack(found, 1), nan=start), low, high)
        values.sort(axis=1)
        ordered: Floats = values if end > start else values[:, ::-1]
        return ordered

    def _bends(self, name: str, rows: NDArray[np.int64]) -> list[Floats]:
        """Where the lines of these rows bend."""
        machines, scale = self._machines[rows], self._scales[name][rows]
        symbols = self._question.symbols
        if name == "records":
            return [machines * self._values["cache"][rows]]
        if name == "cache":
            return [symbols.records / machines / scale]
        if name not in ("aggregate", "level"):
            return []
        sums = self._sums[1:, machines]
        found = []
        for few, many in combinations(range(len(sums)), 2):
            saved, levels = sums[few] - sums[many], float(many - few)
            with np.errstate(divide="ignore", invalid="ignore"):
                if name == "aggregate":
                    found.append(symbols.level * levels / saved / scale)
                else:
                    found.append(self._values["aggregate"][rows] * saved / levels)
        return found

    def _limits(self, name: str, at: Floats, rows: NDArray[np.int64]) -> list[Floats]:
        """By how much deadline and budget are kept, in parts of them; above 0 where they are."""
        question, found = self._question, []
        if question.deadline is not None:
            found.append(1 + _ROUNDING - self._total(name, at, rows) / question.deadline)
        if question.budget is not None:
            found.append(1 + _ROUNDING - self._cost(name, at, rows) / question.budget)
        return found

    def _objective(self, name: str, at: Floats, rows: NDArray[np.int64]) -> Floats:
        is_time = self._question.minimised == "time"
        return self._total(name, at, rows) if is_time else self._cost(name, at, rows)

    def _changed(self, name: str, at: Floats, rows: NDArray[np.int64], symbol: str) -> Floats:
        """A symbol of these rows, where the one of this name has the values `at`."""
        values: Floats = self._values[symbol][rows]
        if symbol != name:
            return values
        scales = self._scales[symbol][rows]
        # A price of another type than the choice's stays.
        return np.where(scales > 0, at * scales, values)

    def _total(self, name: str, at: Floats, rows: NDArray[np.int64]) -> Floats:
        """Seconds of all iterations, as of `integer_plan`, float64[rows, values]."""
        r, p, d, m, a, b, level, k, _ = (self._changed(name, at, rows, s) for s in SYMBOLS)
        machines = self._machines[rows]
        spilled = np.maximum(0.0, r / machines - m)
        sums = self._sums[1:]
        tree = a * sums[0, machines] + level * 1.0
        for levels in range(2, len(sums) + 1):
            tree = np.minimum(tree, a * sums[levels - 1, machines] + level * levels)
        tree = np.where(machines == 1, 0.0, tree)
        total: Floats = k * (r / machines * p + spilled * d + tree + b * self._steps[rows])
        total = total + np.zeros(at.shape)  # a price changes none of it
        # One iteration is a steady one; of more of them, however few more, the first loads all.
        if self._question.symbols.iterations > 1 or name == "iterations":
            total = total + (r / machines - spilled) * d
        return total

    def _cost(self, name: str, at: Floats, rows: NDArray[np.int64]) -> Floats:
        made: Floats = self._machines[rows] * self._total(name, at, rows)
        if self.value("price") is None:
            return made
        return made * self._changed(name, at, rows, "price") / 3600

    def is_given_up(self, machines: int | None, machine_type: str | None, why: Why) -> bool:
        """Whether this best is another than the present choice, or misses a limit."""
        if self._choice is None:
            return machines is not None
        own = self._choice.machines, self._choice.machine_type
        return why != "dearer" or (machines, machine_type) != own

    def best(self, name: str, value: float) -> tuple[int | None, str | None, Why]:
        """The best with this value of a constant, and why the choice is given up there."""
        at, rows = np.full((1, 1), value), np.arange(len(self._machines))[:, None]
        kept = [limit >= 0 for limit in self._limits(name, at, rows)]
        allowed = np.all(kept, axis=0) if kept else np.ones(rows.shape, bool)
        why: Why = "possible" if self._choice is None else "dearer"
        names: list[Why] = ["deadline"] if self._question.deadline is not None else []
        names += ["budget"] if self._question.budget is not None else []
        if self._choice is not None:
            why = next((w for w, k in zip(names, kept, strict=True) if not k[self._own, 0]), why)
        if not allowed.any():
            return None, None, why
        objective = np.where(allowed, self._objective(name, at, rows), np.inf)
        row = int(np.argmin(objective))
        return int(self._machines[row]), self._names[row], why


def _of(symbols: Symbols, name: str) -> float:
    value = getattr(symbols, name)
    return 0.0 if value is None else float(value)


def _earliest(at: Floats, conditions: list[Floats]) -> float:
    """How far from the first column all conditions, straight between columns, are first above 0.

    `at`: float64[rows, values], conditions as that or as one row of it. Infinite where they never
    are; a single point does not count.
    """
    if not conditions:
        return 0.0
    pieces = at[:, 1:] - at[:, :-1]
    low, high = np.zeros(pieces.shape), np.ones(pieces.shape)
    for condition in conditions:
        a, b = condition[:, :-1], condition[:, 1:]
        with np.errstate(divide="ignore", invalid="ignore"):
            crossed = a / (a - b)
        enters, leaves = (a <= 0) & (b > 0), (a > 0) & (b <= 0)
        low = np.maximum(low, np.where(enters, crossed, np.where((a <= 0) & (b <= 0), 2.0, 0.0)))
        high = np.minimum(high, np.where(leaves, crossed, 1.0))
    is_found = (low < high) & (pieces != 0)
    where: Floats = np.abs(at[:, :-1] + low * pieces - at[:, :1])
    return float(where[is_found].min(initial=math.inf))
