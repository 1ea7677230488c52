"""What decides about records: where a small error of a number may change more than a small one.

A comparison, a position, a key, a filter: there the last digits choose. Sums, products and smooth
functions pass errors on as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.folds import Fold
from scalops.algebra.segment_folds import Segment
from scalops.algebra.tree import Node, walk

# Functions through which a small relative error of an argument stays a small one of the result.
_SMOOTH = frozenset(
    {
        "add", "subtract", "multiply", "divide", "negative", "positive", "square", "sqrt", "power",
        "reciprocal", "absolute", "fabs", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p",
        "logaddexp", "logaddexp2", "tanh", "sigmoid", "arctan", "cbrt", "hypot", "maximum",
        "minimum", "softmax", "logsumexp", "sum", "prod", "mean", "max", "min", "cumsum", "cumprod",
        "matmul", "outer", "norm", "index", "reshape", "transpose", "broadcast_to", "stack",
        "concatenate", "einsum", "squared_distances", "weighted_squared_distances", "assemble",
        "diag", "trace", "nansum", "nanmean",
    }
)  # fmt: skip
_SMOOTH_ARGUMENTS = {"take": (0,), "where": (1, 2), "coalesce": (0, 1), "only_if": (1,)}
_SMOOTH_FOLDS = ("sum", "add", "mean", "var", "std", "minimum", "maximum", "first", "last", "count")

Root = tuple[ex.Expression, bool]  # an expression of an operator, and whether it decides


def passes_on(e: ex.Expression, argument: int) -> bool:
    """Whether a small error of an argument stays a small one of the expression."""
    if isinstance(e, ex.Call):
        name = e.function.name
        if name == "cast":
            return e.type.is_plain and e.type.numpy.kind == "f"
        return name in _SMOOTH or argument in _SMOOTH_ARGUMENTS.get(name, ())
    return isinstance(e, ex.Item)


def roots(node: Node) -> list[Root]:
    """The expressions over records that an operator holds."""
    match node:
        case op.Project(outputs=outputs):
            return [(e, False) for _, e in outputs]
        case op.Expand(records=records):
            return [(e, False) for record in records for _, e in record]
        case op.Aggregate(folds=folds):
            return [root for f in folds for root in _arguments(f)]
        case rel.GroupAggregate(keys=keys, folds=folds):
            return [(e, True) for _, e in keys] + [root for f in folds for root in _arguments(f)]
        case op.Filter() | op.Sort() | rel.Join():
            own = [c for c in node.children if isinstance(c, ex.Expression)]
            return [(e, True) for e in own]
    return []


def _arguments(fold: Fold) -> list[Root]:
    if isinstance(fold, Segment):
        return [(a, i == 0) for i, a in enumerate(fold.arguments)]
    smooth = fold.kind.partition("_")[0] in _SMOOTH_FOLDS and fold.kind not in ("first_record",)
    return [(a, not smooth) for a in fold.arguments]


def visit(root: ex.Expression, decides: bool, stop: Callable[[ex.Expression, bool], bool]) -> None:
    """Call `stop(e, whether e decides)` on what lies below the root, until it says so."""
    seen: set[tuple[ex.Expression, bool]] = set()
    stack = [(root, decides)]
    while stack:
        e, deciding = stack.pop()
        if (e, deciding) in seen or stop(e, deciding):
            continue
        seen.add((e, deciding))
        for i, child in enumerate(e.children):
            if isinstance(child, ex.Expression):
                stack.append((child, deciding or not passes_on(e, i)))


def deciding_columns(job: op.Job) -> frozenset[str]:
    """Names of columns that decide somewhere in a plan, or of which others are made that do.

    By name alone, whichever table they belong to: a name too many only costs time.
    """
    found: set[str] = set()
    made_of: dict[str, set[str]] = {}

    def read(e: ex.Expression, deciding: bool, all_of: set[str]) -> None:
        def stop(node: ex.Expression, decides: bool) -> bool:
            if isinstance(node, ex.Column):
                (found if decides else all_of).add(node.name)
            return False

        visit(e, deciding, stop)

    for node in walk(job):
        if not isinstance(node, op.Operator):
            continue
        for name, e in _named(node):
            read(e, False, made_of.setdefault(name, set()))
        if isinstance(node, (op.Project, op.Expand)):
            continue
        for e, deciding in roots(node):
            read(e, deciding, set())
        if isinstance(node, rel.Join):
            for name, _, column in node.outputs:
                made_of.setdefault(name, set()).add(column)
        elif isinstance(node, op.Distinct):
            found.update(node.columns or node.source.schema.names)
        elif isinstance(node, op.Cache | op.Scan | op.Limit | op.Update | op.Loop | op.Job):
            continue
        elif not roots(node) and not isinstance(node, (op.Slice, op.Repartition, op.Union)):
            # Whatever else reads records, users' functions among it, may decide by any column.
            found.update(n for s in node.inputs for n in s.schema.names)
    stack = list(found)
    while stack:
        for name in made_of.get(stack.pop(), ()):
            if name not in found:
                found.add(name)
                stack.append(name)
    return frozenset(found)


def _named(node: op.Operator) -> Iterator[tuple[str, ex.Expression]]:
    match node:
        case op.Project(outputs=outputs):
            yield from outputs
        case op.Expand(records=records):
            for record in records:
                yield from record
        case rel.GroupAggregate(folds=folds):
            for fold in folds:
                for argument in fold.arguments:
                    yield fold.name, argument
