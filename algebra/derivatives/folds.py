"""Derivatives of folds: the gradient of a sum over records is the sum of the records' gradients.

The gradient by u of the fold of f(record, u) is again a fold of the same table, so that both are
one pass. What u is, the record does not decide: the largest parts of f that read no column. The
chain rule goes on from there, once and not for each record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from scalops.algebra import operators as op
from scalops.algebra.derivatives.tables import Origins, Rows, no_nulls, rows_of, varying
from scalops.algebra.derivatives.terms import Term, fn, full, minds_nulls, number_of, only_if_known
from scalops.algebra.errors import PlanError
from scalops.algebra.expressions import (
    Call,
    Column,
    Constant,
    Expression,
    Opaque,
    Subquery,
    columns,
    columns_read,
    in_record,
    within,
)
from scalops.algebra.folds import Fold, OpaqueAggregate, Transition
from scalops.algebra.schema import HIDDEN
from scalops.algebra.tree import Node, walk

__all__ = ["FoldedTable", "Origins"]

# The fold of the gradients is of the same kind.
_LINEAR = ("sum", "add", "mean", "first", "last", "first_record", "last_record")
_CHOSEN = {"minimum": "argmin", "maximum": "argmax"}
_FLAT = ("any", "all", "logical_and", "logical_or", "bitwise_and", "bitwise_or", "count",
         "is_empty", "n_unique")  # fmt: skip
_INSTEAD = {
    "multiply": "fold the logarithms: np.exp(table.sum(lambda r: np.log(...)))",
    "quantile": "differentiate a sum or a mean; a quantile's is that of a few records",
    "reduce": "reduce by a + b, or fold by sum, mean, min or max",
    "aggregate": "write it with sum, mean, min or max",
    "collect_list": "differentiate a sum or a mean of the records",
}
_VALUE, _BY = "value", HIDDEN + "by"


@dataclass(frozen=True)
class _Part:
    """The records of one table among those that are folded, with f over its columns."""

    rows: Rows
    arguments: tuple[Expression, ...]

    @property
    def argument(self) -> Expression:
        return self.arguments[-1]


class FoldedTable:
    """A fold, as a step of reverse mode: from its gradient to those by what it reads."""

    def __init__(
        self,
        node: Subquery,
        depends: Callable[[Node], bool],
        variables: frozenset[Expression],
        origins: Origins | None,
    ) -> None:
        self._node, self._variables, self._origins = node, variables, origins
        self._fold = next(f for f in node.source.folds if f.name == node.name)
        self._depends = depends
        self._parts: list[_Part] = []
        self._uniform: dict[Expression, None] = {}
        read = self._differentiated()
        if read:
            self._open(read)

    @property
    def parts(self) -> tuple[Expression, ...]:
        """What the records read and does not depend on them, and may be differentiated by."""
        return tuple(self._uniform)

    def _differentiated(self) -> tuple[Expression, ...]:
        """The fold's arguments that its result depends on smoothly; PlanError for what has none."""
        fold = self._fold
        if fold.kind in _FLAT or not fold.type.is_numeric or fold.type.numpy.kind != "f":
            return ()
        arguments = fold.arguments
        if fold.kind in ("argmin", "argmax"):
            arguments = (fold.arguments[0], fold.arguments[1 + fold.output])
        elif fold.kind in ("first_record", "last_record"):
            arguments = (fold.arguments[fold.output],)
        loose = varying(self._node.source.source, self._depends)
        last = arguments[-1:]
        if not any(self._depends(a) or columns_read([a]) & loose for a in last):
            return ()
        known = (*_LINEAR, *_CHOSEN, "var", "std", "argmin", "argmax", "to_array")
        whole = isinstance(fold, Transition | OpaqueAggregate) or fold.combine
        if whole or fold.kind not in known:
            raise self._refused(fold.word, _INSTEAD.get(fold.kind))
        if fold.kind in _CHOSEN and fold.type.shape:
            raise self._refused(
                f"{fold.word} of arrays", "take the elements one by one: each has its own record"
            )
        return arguments

    def _refused(self, word: str, hint: str | None) -> PlanError:
        return PlanError(
            f"so.grad does not differentiate the fold {word}",
            location=self._node.location or self._node.source.location,
            hint=hint or "write it with sum, mean, min or max",
        )

    def _open(self, arguments: tuple[Expression, ...]) -> None:
        """The arguments over the tables below the maps that read a variable."""
        for rows in rows_of(self._node.source.source, arguments, self._depends, self._origins):
            part = _Part(rows, tuple(rows.over(a) for a in arguments))
            self._parts.append(part)
            for e in _uniform_parts(part.argument, self._depends, self._variables):
                self._uniform[e] = None

    # The gradients.

    def gradients(self, g: Term) -> Iterator[tuple[Expression, Term]]:
        """By each part, given that by the fold's result.

        g is taken out of the sum where it is one number: it may depend on the sum.
        """
        fold = self._fold
        outside = None if self._node.type.shape else g
        inside = full(g, self._node.type) if outside is None else Term(Constant(1.0))
        if fold.kind in ("var", "std"):
            # Σ 2 (a - mean) da / (n - ddof); of the root, over twice the root.
            ddof = dict(fold.parameters)["ddof"]
            scale = 2.0 / (self._other("count") - ddof)
            if fold.kind == "std":
                scale = scale / (2.0 * Term(self._node))
            mean = self._other("mean")
            found = self._folded("sum", lambda p: (Term(p.argument) - mean) * inside * scale)
        elif fold.kind == "to_array":  # each record has the gradient of its own place
            found = self._folded("sum", lambda p: fn("take", inside, p.arguments[0], axis=0))
        else:  # of an extreme that of the first record where it is
            found = self._folded(_CHOSEN.get(fold.kind, fold.kind), lambda p: inside)
        yield from ((v, made if outside is None else outside * made) for v, made in found)

    def _other(self, kind: str) -> Term:
        """Another fold of the same argument."""
        other = replace(self._fold, name=kind, kind=kind, parameters=())
        source, location = self._node.source.source, self._node.location
        return Term(Subquery(op.Aggregate(source, (other,), location=location), kind))

    def _folded(
        self, kind: str, seed: Callable[[_Part], Term]
    ) -> Iterator[tuple[Expression, Term]]:
        """The fold of the records' gradients by each part; none where no record has any."""
        from scalops.algebra.derivatives.reverse import pull_back  # which reads this module

        found = [
            pull_back(
                [(p.argument, seed(p))],
                self.parts,
                nulls=_has_nulls(p) and minds_nulls(p.argument),
            )
            for p in self._parts
        ]
        for variable in self.parts:
            if any(variable in f for f in found):
                yield variable, self._fold_of([f.get(variable) for f in found], kind, variable)

    def _fold_of(self, found: list[Term | None], kind: str, variable: Expression) -> Term:
        by = kind in ("argmin", "argmax")
        match found:
            case [Term(e=Call(arguments=(Call() as outer,)) as e)] if not by:
                # Parts that were taken from an array: folded as rows of a matrix.
                if (e.function.name, outer.function.name) == ("reshape", "outer"):
                    return self._fold_of([Term(outer)], kind, variable).reshape(*e.type.shape)
        shape = max((v.shape for v in found if v is not None), key=len)
        values = [_whole(v, shape, variable) for v in found]
        scale: Term | None = None
        if len(values) == 1 and not columns([values[0].e]) and number_of(values[0].e) != 1:
            # The same for all records: they are counted, in the fold's way.
            scale, values = values[0], [Term(Constant(1.0))]
        if len({v.type.strong() for v in values}) > 1:
            values = [v.cast("float64") for v in values]
        pairs = list(zip(self._parts, values, strict=True))
        if kind == "mean" and any(v.type.is_sparse and self._may_miss(p, v.e) for p, v in pairs):
            # Means of dense vectors count those that are 0; of sparse ones the sum needs none.
            return self._fold_of(found, "sum", variable) / self._other("count")
        tables = [self._projected(p, v, kind) for p, v in pairs]
        location = self._node.location
        table = tables[0] if len(tables) == 1 else op.Union(tuple(tables), location=location)
        names = (_BY, _VALUE) if by else (_VALUE,)
        arguments = tuple(Column(n, table.schema[n]) for n in names)
        name = self._fold.name if kind == self._fold.kind else kind
        fold = Fold(name, kind, arguments, location=location)
        made = Term(Subquery(op.Aggregate(table, (fold,), location=location), name))
        return made if scale is None else scale * made

    def _projected(self, part: _Part, value: Term, kind: str) -> op.Operator:
        if self._may_miss(part, value.e):
            value = only_if_known(part.argument, value, kind in ("sum", "add"))
        by = kind in ("argmin", "argmax")
        outputs: tuple[op.Named, ...] = ((_VALUE, value.e),)
        if by:
            outputs = ((_BY, part.arguments[0]), *outputs)
        return op.Project(
            part.rows.source,
            outputs,
            bare=not by,
            label="grad",
            origin=part.rows.origin,
            location=self._node.location,
        )

    def _may_miss(self, part: _Part, value: Expression) -> bool:
        """Whether the fold may skip a null argument whose gradient is no null, or the reverse."""
        if not _has_nulls(part):
            return False
        same = columns_read([value]) == columns_read([part.argument])
        return not same or minds_nulls(part.argument, value)


def _has_nulls(part: _Part) -> bool:
    return not no_nulls(part.rows.source) or _makes_nulls(part.argument)


def _makes_nulls(e: Expression) -> bool:
    return any(
        isinstance(n, Opaque)
        or (isinstance(n, Call) and n.function.name in ("only_if", "list_item"))
        for n in within([e])
    )


def _whole(value: Term | None, shape: tuple[int, ...], variable: Expression) -> Term:
    if value is None:
        value = Term(Constant(0.0))
    return value if value.shape == shape else full(value, variable.type)


def _uniform_parts(
    root: Expression, depends: Callable[[Node], bool], variables: frozenset[Expression]
) -> list[Expression]:
    """The largest parts that depend on a variable and read no column, and the variables."""
    reads: dict[Node, bool] = {}
    for node in walk(root, enter=in_record):
        inner = any(reads.get(c, False) for c in node.children)
        reads[node] = inner or isinstance(node, Column)
    found: dict[Expression, None] = {}
    stack: list[Expression] = [root]
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node in seen or not depends(node):
            continue
        seen.add(node)
        if node in variables or not reads[node]:
            found[node] = None
        else:
            stack.extend(c for c in node.children if isinstance(c, Expression))
    return list(found)
