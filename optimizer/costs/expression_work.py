"""What expressions take of one record: flops by the kind of kernel, and calls of NumPy a block."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.functions.distances import EXPANDED
from scalops.algebra.tree import Node, walk
from scalops.optimizer.cost import SPARSE_ITEMS, own_flops
from scalops.optimizer.costs.amounts import NOTHING, Amounts, added

_HEAVY = 20.0  # flops of exp, log and the like in the table of functions
# Functions that NumPy computes one number at a time, where those like them take several at once:
# so many times as long, measured once with AVX-512, rounded down.
_SLOWER = {"sin": 8.0, "cos": 8.0, "float_power": 8.0, "sigmoid": 4.0}
_SLOWER_STEPS = {"remainder": 16.0, "floor_divide": 16.0}
_FUNCTION: Amounts = {"opaque": 1.0}  # a call of the user's function, for a record
_OF_A_DISTANCE = 3.0  # passes over the distances: norms, the bound of the error, the least
_DISTANCES = ("squared_distances", "weighted_squared_distances", "nearest", "weighted_nearest")


@dataclass(frozen=True)
class RecordWork:
    """`amounts` for each record and `calls` of NumPy for each block.

    `uniform` is what is computed once a run, from values of the driver alone, in `uniform_calls`.
    """

    amounts: Amounts = field(default_factory=dict)
    calls: int = 0
    uniform: Amounts = field(default_factory=dict)
    uniform_calls: int = 0

    def __add__(self, other: RecordWork) -> RecordWork:
        return RecordWork(
            added(self.amounts, other.amounts),
            self.calls + other.calls,
            added(self.uniform, other.uniform),
            self.uniform_calls + other.uniform_calls,
        )


def record_work(roots: Iterable[ex.Expression]) -> RecordWork:
    """What computing the expressions takes, parts that they share counted once."""
    of_records: set[Node] = set()
    by_record: list[Amounts] = []
    uniform: list[Amounts] = []
    for node in walk(*roots, enter=lambda n: isinstance(n, ex.Expression)):
        if isinstance(node, (ex.Column, ex.Opaque)) or of_records.intersection(node.children):
            of_records.add(node)
        if isinstance(node, (ex.Call, ex.Opaque, ex.DriverCall)):
            own = call_work(node, of_records) if isinstance(node, ex.Call) else _FUNCTION
            (by_record if node in of_records else uniform).append(own)
    return RecordWork(added(*by_record), len(by_record), added(*uniform), len(uniform))


def call_work(node: ex.Call, of_records: Iterable[Node] = ()) -> Amounts:
    """What one call takes for one record, without what its arguments do.

    `of_records` are the nodes that differ from record to record: a vector of each times one
    matrix for all is a product of matrices, of two vectors of each it is elementwise.
    """
    name = node.function.name
    kinds = [a.any_type for a in node.arguments]
    arrays = [k for k in kinds if isinstance(k, ArrayType)]
    if any(k.is_sparse for k in arrays):
        return _sparse(node)
    own = own_flops(node)
    if name == "matmul":
        return {_product(arrays, [a in of_records for a in node.arguments]): own}
    if name in _DISTANCES and dict(node.parameters).get("form", EXPANDED) == EXPANDED:
        kind = node.arguments[1].type
        many = kind.shape[0] if len(kind.shape) > 1 else 1
        return {"product": own, "element": _OF_A_DISTANCE * many + kind.shape[-1]}
    if name in ("softmax", "logsumexp"):
        return {"transcendental": float(arrays[0].size), "element": 5.0 * arrays[0].size}
    size = _size(node)
    if name == "take":
        return {"gather": size}
    if node.function.elementwise and node.function.flops == _HEAVY and not _is_square(node):
        return {"transcendental": size * _SLOWER.get(name, 1.0)}
    if name == "power":
        return {"element": size}
    own *= _SLOWER_STEPS.get(name, 1.0)
    return {"element": own} if own else NOTHING


def _size(node: ex.Expression) -> float:
    kind = node.any_type
    return float(max(1, kind.size)) if isinstance(kind, ArrayType) else 1.0


def _product(kinds: list[ArrayType], by_record: list[bool]) -> str:
    """Which kernel a product takes: over a block of n records, X @ W or X @ w, or n small ones."""
    matrices = [len(k.shape) > 1 for k in kinds]
    shared = any(m for m, own in zip(matrices, by_record, strict=True) if not own)
    return "product" if all(matrices) or (shared and any(by_record)) else "product_vector"


def _sparse(node: ex.Call) -> Amounts:
    """What is stored counts, at random places of what is dense; every element of a dense result."""
    kind = node.type
    if node.function.name == "matmul":
        return {"gather": SPARSE_ITEMS * max(1, kind.size)}
    size = kind.size if kind.shape and not kind.is_sparse else SPARSE_ITEMS
    return {"element": node.function.flops * size}


def _is_square(node: ex.Call) -> bool:
    """Whether it is a power that NumPy multiplies or takes a root for."""
    if node.function.name != "power":
        return False
    exponent = node.arguments[1]
    return isinstance(exponent, ex.Constant) and exponent.value in (-1, 0, 0.5, 1, 2)
