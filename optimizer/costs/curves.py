"""Times that were measured at several sizes, and what they say of other sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles


@dataclass(frozen=True)
class Measured:
    """Seconds, and their spread: half of the distance between the quartiles, by the median."""

    seconds: float
    spread: float = 0.0

    @property
    def absolute(self) -> float:
        """The spread in seconds."""
        return self.seconds * self.spread


def measured(times: Sequence[float]) -> Measured:
    """The median of some times.

    >>> measured([2.0, 1.0, 3.0])
    Measured(seconds=2.0, spread=0.25)
    """
    middle = median(times)
    if len(times) < 2 or middle <= 0:
        return Measured(max(0.0, middle))
    low, _, high = quantiles(times, method="inclusive")
    return Measured(middle, (high - low) / 2 / middle)


def total(parts: Iterable[Measured]) -> Measured:
    """The sum of times that vary together, as those of one machine do.

    >>> total([Measured(1.0, 0.5), Measured(3.0, 0.1)])
    Measured(seconds=4.0, spread=0.2)
    """
    found = list(parts)
    seconds = sum(p.seconds for p in found)
    spread = sum(p.absolute for p in found)
    return Measured(seconds, spread / seconds if seconds > 0 else 0.0)


@dataclass(frozen=True)
class Curve:
    """Seconds over rows: straight lines through the sizes that were measured.

    Beyond the largest size goes the line from what takes no rows, as the two smallest sizes have it
    (0 at least), through the largest one: a line through the two largest sizes would go where the
    noise of the last one leads it. Below the smallest size the first line goes on, no lower than in
    proportion: nothing takes less than no time beside its rows. Of one size alone, seconds are
    taken as proportional. The points ascend in rows, and in seconds do not descend (`curve`).
    """

    points: tuple[tuple[float, Measured], ...]

    def at(self, rows: float) -> Measured:
        """Seconds for so many rows."""
        known, last = self.points[-1]
        if len(self.points) == 1 or rows > known:
            times = rows / known if known > 0 else 1.0
            seconds = self._fixed.seconds + times * (last.seconds - self._fixed.seconds)
            off = math.hypot(times * last.absolute, (times - 1) * self._fixed.absolute)
            return Measured(seconds, off / seconds if seconds > 0 else 0.0)
        (x1, low), (x2, high) = self._around(rows)
        part = (rows - x1) / (x2 - x1)
        seconds = low.seconds + part * (high.seconds - low.seconds)
        if rows < x1 and seconds < low.seconds * rows / x1:
            return Measured(low.seconds * rows / x1, low.spread)
        off = math.hypot((1 - part) * low.absolute, part * high.absolute)
        return Measured(seconds, off / seconds if seconds > 0 else 0.0)

    def slope(self, rows: float) -> Measured:
        """Seconds that a row more takes there."""
        known, last = self.points[-1]
        if len(self.points) == 1 or rows > known:
            more = last.seconds - self._fixed.seconds
            off = math.hypot(last.absolute, self._fixed.absolute)
            each = more / known if known > 0 else 0.0
            return Measured(each, off / more if more > 0 else 0.0)
        (x1, low), (x2, high) = self._around(rows)
        rise = (high.seconds - low.seconds) / (x2 - x1)
        off = math.hypot(low.absolute, high.absolute) / (x2 - x1)
        return Measured(rise, off / rise if rise > 0 else 0.0)

    @property
    def _fixed(self) -> Measured:
        """Seconds without any rows, by the two smallest sizes."""
        if len(self.points) == 1:
            return Measured(0.0)
        (x1, low), (x2, high) = self.points[:2]
        part = x1 / (x2 - x1)
        seconds = max(0.0, low.seconds - part * (high.seconds - low.seconds))
        off = math.hypot((1 + part) * low.absolute, part * high.absolute)
        return Measured(seconds, off / seconds if seconds > 0 else 0.0)

    def _around(self, rows: float) -> tuple[tuple[float, Measured], tuple[float, Measured]]:
        points = self.points
        last = next((i for i in range(1, len(points)) if rows <= points[i][0]), len(points) - 1)
        return points[last - 1], points[last]


def curve(times: Iterable[tuple[float, Measured]]) -> Curve | None:
    """A curve through what was measured at several numbers of rows; None for nothing.

    Equal sizes are one point, their median. A size never takes longer than a larger one: what else
    runs on a machine makes times longer, never shorter.
    """
    by_rows: dict[float, list[Measured]] = {}
    for rows, found in times:
        by_rows.setdefault(rows, []).append(found)
    points: list[tuple[float, Measured]] = []
    for rows in sorted(by_rows, reverse=True):
        own = _middle(by_rows[rows])
        least = points[-1][1] if points else own
        points.append((rows, own if own.seconds <= least.seconds else least))
    return Curve(tuple(reversed(points))) if points else None


def _middle(found: Sequence[Measured]) -> Measured:
    return Measured(median(m.seconds for m in found), max(m.spread for m in found))
