"""The rates of a machine: measured by calibration, else assumed, and printed as such.

Neutral decisions rest on them, numeric ones never do (those read versioned constants of
`optimizer/cost.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from scalops.optimizer.cost import Provenance


@dataclass(frozen=True)
class Rate:
    """A rate or a time of a machine.

    `spread` is half of the distance between the quartiles of what was measured, divided by their
    median, so that 0.05 is 5 %; None where nothing was measured. `about` says what it is, in one
    line of a table; docs/calibration.md says it in full. A measurement is `stale` where it is old,
    or where other versions of libraries were there then.
    """

    name: str
    value: float
    unit: str
    about: str
    provenance: Provenance = "assumed"
    spread: float | None = None
    stale: bool = False


ASSUMED = (
    # Memory and disk.
    Rate("read", 1.0e10, "bytes/s", "read from memory, one thread"),
    Rate("read_all", 2.0e10, "bytes/s", "the same, all threads together"),
    Rate("read_cached", 4.0e10, "bytes/s", "read from cache, one thread"),
    Rate("gather", 5.0e8, "elements/s", "at random from 8 MB, one thread"),
    Rate("disk_read", 1.0e9, "bytes/s", "read from disk, not from memory"),
    Rate("disk_write", 5.0e8, "bytes/s", "written to disk, synchronized"),
    # Kernels, one thread, blocks in the processor's cache.
    Rate("element", 3.0e9, "flops/s", "elementwise steps"),
    Rate("transcendental", 2.0e8, "calls/s", "exp, log and the like"),
    Rate("product", 1.0e10, "flops/s", "products of matrices"),
    Rate("product_vector", 5.0e9, "flops/s", "of a matrix and a vector"),
    Rate("segment", 2.0e8, "records/s", "summed by a small key"),
    Rate("group", 2.0e7, "records/s", "grouped by any key"),
    Rate("build", 2.0e7, "records/s", "entered into a join's index"),
    Rate("probe", 4.0e7, "records/s", "looked up in a join's index"),
    Rate("sort", 1.0e7, "records/s", "brought into order"),
    Rate("parquet", 5.0e8, "bytes/s", "Parquet decoded, as in memory"),
    Rate("ipc", 2.0e9, "bytes/s", "Arrow IPC decoded, as in memory"),
    Rate("csv", 1.0e8, "bytes/s", "text of CSV and the like decoded"),
    # Overheads.
    Rate("call", 1.0e-6, "s", "Python around a call of NumPy"),
    Rate("lock", 5.0e-6, "s", "such a call's extra, two threads"),
    Rate("record", 1.0e-6, "s", "a record of a traced aggregate"),
    Rate("opaque", 2.0e-6, "s", "a call of a user's function"),
    Rate("stage", 3.0e-5, "s", "a stage, beside its blocks"),
    Rate("thread_start", 6.0e-5, "s", "a thread woken and waited for"),
    Rate("process_start", 0.5, "s", "until a process for folds is up"),
    Rate("process_pass", 2.0e-4, "s", "to ask such a process and hear"),
    Rate("share", 1.5e9, "bytes/s", "copied to new shared memory"),
    # Workers and links.
    Rate("worker_start", 1.0, "s", "until a worker of here is ready"),
    Rate("command", 3.0e-4, "s", "a command to all, their answers"),
    Rate("hop", 1.0e-4, "s", "a message on to another worker"),
    Rate("message", 3.0e-5, "s", "of it, of the hearer's processor"),
    Rate("link", 1.0e9, "bytes/s", "from one worker to another"),
    Rate("add", 3.0e9, "bytes/s", "partial results added to others"),
)


@dataclass(frozen=True)
class Machine:
    """The rates of one machine, its cores (usable ones) and memory (bytes)."""

    cores: int
    memory: int
    rates: Mapping[str, Rate] = field(default_factory=lambda: _by_name(()))
    measured_at: float | None = None  # seconds since the epoch

    def __getitem__(self, name: str) -> float:
        return self.rates[name].value

    def known(self, *names: str) -> Provenance:
        """The least certain provenance of these rates."""
        return (
            "assumed" if any(self.rates[n].provenance != "measured" for n in names) else "measured"
        )

    def without(self, *names: str) -> Machine:
        """The same, these rates assumed: what was measured of them does not hold elsewhere."""
        kept = [r for r in self.rates.values() if r.name not in names]
        return replace(self, rates=_by_name(kept))

    @classmethod
    def of(
        cls, cores: int, memory: int, measured: Iterable[Rate] = (), at: float | None = None
    ) -> Machine:
        """A machine with what was measured; the other rates are assumed."""
        return cls(cores, memory, _by_name(measured), at)


def _by_name(measured: Iterable[Rate]) -> Mapping[str, Rate]:
    found = {r.name: r for r in ASSUMED}
    found.update({r.name: r for r in measured if r.name in found})
    return MappingProxyType(found)
