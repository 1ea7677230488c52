"""The rates of a machine: measured by calibration, else assumed, and printed as such.

Neutral decisions rest on them, numeric ones never do (those read versioned constants of
`optimizer/cost.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from scalops.optimizer.cost import Provenance


@dataclass(frozen=True)
class Rate:
    """A rate or a time of a machine.

    `spread` is half of the distance between the quartiles of what was measured, divided by their
    median, so that 0.05 is 5 %; None where nothing was measured. `about` says what it is. A
    measurement is `stale` where it is old, or where other versions of libraries were there then.
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
    Rate("read", 1.0e10, "bytes/s", "read from memory, by one thread"),
    Rate("read_all", 2.0e10, "bytes/s", "read from memory, by all threads together"),
    Rate("read_cached", 4.0e10, "bytes/s", "read from the processor's cache, by one thread"),
    Rate("gather", 5.0e8, "elements/s", "read at random from 8 MB, by one thread"),
    Rate("disk_read", 1.0e9, "bytes/s", "read from files that are not in memory"),
    Rate("disk_write", 5.0e8, "bytes/s", "written to files and synchronized"),
    # Kernels, one thread, blocks in the processor's cache.
    Rate("element", 3.0e9, "flops/s", "elementwise steps"),
    Rate("transcendental", 2.0e8, "calls/s", "exp, log and the like"),
    Rate("product", 1.0e10, "flops/s", "products of matrices"),
    Rate("product_vector", 5.0e9, "flops/s", "products of a matrix and a vector"),
    Rate("segment", 2.0e8, "records/s", "summed by a small key"),
    Rate("group", 2.0e7, "records/s", "grouped by any key"),
    Rate("build", 2.0e7, "records/s", "entered into the index of a join"),
    Rate("probe", 4.0e7, "records/s", "looked up in the index of a join"),
    Rate("sort", 1.0e7, "records/s", "brought into order"),
    Rate("parquet", 5.0e8, "bytes/s", "decoded from Parquet, as they are in memory"),
    Rate("ipc", 2.0e9, "bytes/s", "decoded from Arrow IPC, as they are in memory"),
    Rate("csv", 1.0e8, "bytes/s", "of text decoded from CSV and the like"),
    # Overheads.
    Rate("call", 1.0e-6, "s", "Python around a call of NumPy on a block"),
    Rate("lock", 5.0e-6, "s", "what such a call costs two threads more"),
    Rate("record", 1.0e-6, "s", "Python for a record of a traced aggregate"),
    Rate("opaque", 2.0e-6, "s", "a call of a user's function, with its record"),
    Rate("stage", 3.0e-5, "s", "a stage in this process beside its blocks"),
    Rate("thread_start", 6.0e-5, "s", "to wake a thread and wait for it"),
    Rate("process_start", 0.5, "s", "until a process for folds is ready"),
    Rate("process_pass", 2.0e-4, "s", "to ask a process and to hear of it"),
    Rate("share", 1.5e9, "bytes/s", "copied to new shared memory"),
    # Workers and links.
    Rate("worker_start", 1.0, "s", "until a worker of this machine is ready"),
    Rate("command", 3.0e-4, "s", "a command to all workers and their answers, beside what it does"),
    Rate("hop", 1.0e-4, "s", "until a message between two workers is heard of"),
    Rate("message", 3.0e-5, "s", "that a message takes of who hears it"),
    Rate("link", 1.0e9, "bytes/s", "between two workers, one message at a time"),
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
