"""All measurements, in order, and what comes of them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Sequence

import numpy as np

from scalops.algebra.errors import ConfigError, ScalopsError, text_of
from scalops.engine.blas import single_threaded
from scalops.engine.calibration import disk, kernels, links, memory, overheads, readers
from scalops.engine.calibration.measurement import Effort, Outcome, Probe, Unmeasured

PROBES: tuple[Probe, ...] = (
    *memory.PROBES,
    *disk.PROBES,
    *kernels.PROBES,
    *readers.PROBES,
    *overheads.PROBES,
    *links.PROBES,
)
KINDS = tuple(dict.fromkeys(p.kind for p in PROBES))
Watch = Callable[[int, int, Probe], None]


def chosen(only: Collection[str] = ()) -> list[Probe]:
    """The probes of these kinds and rates; without any, all.

    Raises: ConfigError for a name that is neither.
    """
    known = {*KINDS, *(name for p in PROBES for name in p.rates)}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ConfigError(
            f"there is nothing to measure that is called {unknown[0]!r}",
            hint=f"kinds of rates: {', '.join(KINDS)}; or the name of a rate",
        )
    if not only:
        return list(PROBES)
    return [p for p in PROBES if p.kind in only or not set(p.rates).isdisjoint(only)]


def measure(
    probes: Sequence[Probe],
    effort: Effort | None = None,
    watch: Watch = lambda number, count, probe: None,
) -> list[Outcome]:
    """An outcome of every rate of the probes, on one BLAS thread as in any run.

    `watch` is told of each probe before it runs, with its number from 0 and how many there are.
    """
    effort = effort or Effort()
    found: list[Outcome] = []
    with single_threaded(), np.errstate(all="ignore"):
        for number, probe in enumerate(probes):
            watch(number, len(probes), probe)
            gc.collect()  # what earlier probes have left is not this one's to clean up
            found += _outcomes(probe, effort)
    return found


def _outcomes(probe: Probe, effort: Effort) -> list[Outcome]:
    """A probe's; of rates that it did not come to, why."""
    found: list[Outcome] = []
    try:
        for outcome in probe.measure(effort):
            found.append(outcome)
    except (ScalopsError, OSError, EOFError, MemoryError) as error:
        reason = f"{type(error).__name__}: {text_of(error)}"
        done = {outcome.name for outcome in found}
        found += [Unmeasured(name, reason) for name in probe.rates if name not in done]
    return found
