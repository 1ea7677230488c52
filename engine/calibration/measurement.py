"""What a measurement gives, and how calls are timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np


@dataclass(frozen=True)
class Effort:
    """How long and on how much is measured.

    `repetitions`: samples of each quantity; of what takes longer than `seconds` as many as take
    together as long, but at least `least`. `seconds`: that one sample takes at least. `scale`: of
    the sizes of arrays, tables and files, 1 for those that the rates are meant for.
    """

    repetitions: int = 9
    least: int = 5
    seconds: float = 0.02
    scale: float = 1.0

    def size(self, full: int, least: int = 64) -> int:
        """A size of `full` at scale 1, at least `least`."""
        return max(least, round(full * self.scale))


@dataclass(frozen=True)
class Measured:
    """A rate or a time: the median of what was measured.

    `spread`: half of the distance between the quartiles, by the median. `samples`: how many
    there were.
    """

    name: str
    value: float
    unit: str
    spread: float
    samples: int


@dataclass(frozen=True)
class Unmeasured:
    """A rate that could not be measured here, and why."""

    name: str
    reason: str


Outcome = Measured | Unmeasured


@dataclass(frozen=True)
class Probe:
    """One short run: the rates that it gives, and what gives them.

    `kind` is how a user asks for it, together with others. `measure` gives an outcome of each
    of the `rates`; what it raises is the reason for all of them.
    """

    kind: str
    rates: tuple[str, ...]
    measure: Callable[[Effort], Iterable[Outcome]]


def seconds_of(call: Callable[[], object], effort: Effort) -> list[float]:
    """Seconds of a call, once for each repetition, in which it is called as often as need be.

    The first two calls do not count: they find memory and caches as no later one does.
    """
    call()
    once = max(timed(call), 1e-9)
    count = math.ceil(effort.seconds / once)
    affordable = round(effort.repetitions * effort.seconds / once)
    samples = min(effort.repetitions, max(effort.least, affordable))

    def together() -> None:
        for _ in range(count):
            call()

    return [timed(together) / count for _ in range(samples)]


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    begin = perf_counter()
    call()
    return perf_counter() - begin


def summary(name: str, unit: str, samples: Sequence[float]) -> Outcome:
    """The median of samples, with their spread.

    What two times differ by can come out as nothing, or less, where the machine is busy with
    something else: that is no measurement, nor is a spread of more than the value itself.
    """
    found = np.asarray(samples, float)
    if not len(found) or not np.all(np.isfinite(found)):
        return Unmeasured(name, "the samples make no sense")
    first, value, third = (float(q) for q in np.quantile(found, (0.25, 0.5, 0.75)))
    spread = (third - first) / 2
    if value <= 0 or spread > value:
        return Unmeasured(name, "it is lost in the noise of a busy machine")
    return Measured(name, value, unit, spread / value, len(found))


def rate(name: str, unit: str, work: float, seconds: Sequence[float]) -> Outcome:
    """Work by second, of samples that took `seconds`."""
    return summary(name, unit, [work / s if s > 0 else math.inf for s in seconds])


def rate_of_difference(
    name: str, unit: str, work: float, small: Sequence[float], large: Sequence[float]
) -> Outcome:
    """Work by second, where samples of `large` have so much more to do than those of `small`.

    What both spend beside it drops out.
    """
    beside = float(np.median(small))
    seconds = summary(name, "s", [s - beside for s in large])
    if isinstance(seconds, Unmeasured):
        return seconds
    return Measured(name, work / seconds.value, unit, seconds.spread, seconds.samples)
