"""Estimates and costs, with where each number comes from.

A constant that was not measured is `assumed` and printed as such. Numeric decisions use the
assumed constants only, so that a plan does not depend on the machine it is made on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import ArrayType

Provenance = Literal["exact", "estimated", "assumed", "measured"]


@dataclass(frozen=True)
class Constant:
    """A rate of a machine."""

    name: str
    value: float
    unit: str
    provenance: Provenance


FLOPS = Constant("flops", 1.5e9, "elementwise flops/s per thread", "assumed")
READ = Constant("read", 1.0e10, "bytes/s from memory per thread", "assumed")
THREAD_START = Constant("thread_start", 6.0e-5, "s to wake a thread and wait for it", "assumed")
# Version 1. What every worker may be sent and hash for itself rather than exchange both sides.
BROADCAST_BYTES = Constant("broadcast", 16e6, "bytes of a join's side sent whole", "assumed")
# Version 1. When records of a loop are worth being brought to distinct ones before it.
ITERATIONS = Constant("iterations", 10.0, "of a loop that does not say how many", "assumed")
GROUP = Constant("group", 1.0e-8, "s to tell the group of a record by one more key", "assumed")
SAME_RECORDS = Constant("same_records", 8.0, "records for each distinct one, at least", "assumed")
COLLAPSED_BYTES = Constant("collapsed_bytes", 64e6, "bytes of distinct records, at most", "assumed")
COLLAPSED_ROWS = Constant("collapsed_rows", 2e4, "records of a table, at least", "assumed")
SPARSE_ITEMS = 85.0  # stored elements of a sparse vector, assumed


@dataclass(frozen=True)
class Estimate:
    """How many records and bytes, and how that is known."""

    rows: float
    bytes: float
    provenance: Provenance


@dataclass(frozen=True)
class Cost:
    """Seconds of one thread for one record."""

    seconds: float

    def __lt__(self, other: Cost) -> bool:
        return self.seconds < other.seconds

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds)


def flops(*roots: ex.Expression) -> float:
    """Flops per record of the expressions, shared parts counted once."""
    total = 0.0
    for node in ex.within(roots):
        if isinstance(node, ex.Opaque):
            total += 1500.0  # a Python call is about a microsecond
        elif isinstance(node, ex.Call):
            total += own_flops(node)
    return total


def own_flops(node: ex.Call) -> float:
    """Flops per record of one call, without those of its arguments."""
    kinds = [a.any_type for a in node.arguments]
    if any(isinstance(k, ArrayType) and k.is_sparse for k in kinds):
        return _sparse_flops(node)
    if node.function.flops_of is not None:
        return node.function.flops_of(*kinds, **dict(node.parameters))
    size = node.any_type.size if isinstance(node.any_type, ArrayType) else 1
    return node.function.flops * max(1, size)


def _sparse_flops(node: ex.Call) -> float:
    """What is stored counts, and every element of a dense result."""
    kind = node.type
    if node.function.name == "matmul":
        return 2.0 * SPARSE_ITEMS * kind.size
    return node.function.flops * (kind.size if kind.shape and not kind.is_sparse else SPARSE_ITEMS)


def compute_cost(*roots: ex.Expression) -> Cost:
    """Cost of computing the expressions for one record."""
    return Cost(flops(*roots) / FLOPS.value)


def read_cost(bytes_per_row: float) -> Cost:
    """Cost of reading that many bytes of one record from memory."""
    return Cost(bytes_per_row / READ.value)
