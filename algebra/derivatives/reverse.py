"""Reverse mode: from the gradient by an expression to those by what it is made of.

Each expression is visited once, after all that read it, with the sum of what they gave. A fold
of a table is one step among others: `algebra/derivatives/folds.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from scalops.algebra.derivatives import (  # noqa: F401 - they register their rules
    arrangements,
    arrays,
    elementwise,
    linear,
    special,
)
from scalops.algebra.derivatives.rules import REFUSED, Site, is_flat, rule_of
from scalops.algebra.derivatives.terms import (
    Term,
    minds_nulls,
    only_if_known,
    share,
    sharing,
    written_at,
    zero_if_null,
)
from scalops.algebra.dtypes import ArrayType, TupleType
from scalops.algebra.errors import PlanError
from scalops.algebra.expressions import (
    Call,
    Constant,
    DriverCall,
    Expression,
    Item,
    LoopOutput,
    Opaque,
    Subquery,
    columns_read,
)
from scalops.algebra.tree import Node, walk

if TYPE_CHECKING:
    from scalops.algebra.derivatives.folds import FoldedTable, Origins

Pairs = Sequence[tuple[Expression, Term]]


def pull_back(
    roots: Pairs,
    variables: Sequence[Expression],
    through: bool = False,
    origins: Origins | None = None,
    nulls: bool = False,
) -> dict[Expression, Term]:
    """The gradients by the variables, given those by the roots; none where nothing flows.

    A variable is a leaf, or an expression that is found by its structure and stands for a value
    of its own: what it is made of is not looked at, unless another variable lies in it and the
    gradient goes `through`. `origins` tells what a table's operators came from (see `folds`).
    With `nulls` columns may hold some: of several ways to an expression one may be null, which the
    loss did not choose, and adds nothing then.
    """
    return _Reverse(tuple(variables), through, origins, nulls).run(roots)


class _Reverse:
    def __init__(
        self,
        variables: tuple[Expression, ...],
        through: bool,
        origins: Origins | None,
        nulls: bool = False,
    ) -> None:
        self._nulls = nulls
        self._variables = dict.fromkeys(variables)  # in their order: sums are written in it
        self._through, self._origins = through, origins
        # What a variable is made of is looked at only where the gradient goes through it.
        self._depends: dict[Node, bool] = {} if through else dict.fromkeys(variables, True)
        self._tables: dict[Expression, FoldedTable] = {}
        self._gradients: dict[Expression, list[Term]] = {}
        self._of_items: dict[Expression, dict[int, list[Term]]] = {}

    def run(self, roots: Pairs) -> dict[Expression, Term]:
        for e, _ in roots:
            self._mark(e)
        order = self._order([e for e, _ in roots])
        for e, g in roots:
            self._add(e, g)
        for node in reversed(order):
            if node in self._variables and not self._through:
                continue
            with written_at(node.location):
                self._visit(node)
        return {v: self._sum(self._gradients[v]) for v in self._variables if v in self._gradients}

    # What depends on a variable.

    def _mark(self, root: Expression) -> None:
        for node in walk(root, enter=lambda n: n not in self._depends):
            below = any(self._depends[c] for c in node.children)
            self._depends[node] = below or node in self._variables

    def depends(self, node: Node) -> bool:
        """Whether a variable is read anywhere below."""
        if node not in self._depends:
            assert isinstance(node, Expression)
            self._mark(node)
        return self._depends[node]

    def flows(self, e: Expression) -> bool:
        """Whether a gradient by it leads to a variable: it varies, and it is a float."""
        return self.depends(e) and _is_float(e)

    # The order.

    def _order(self, roots: Sequence[Expression]) -> list[Expression]:
        """Expressions that a gradient may reach, each after those that it is made of."""
        done: dict[Expression, None] = {}
        stack = [(e, False) for e in roots if self.flows(e)]
        while stack:
            node, entered = stack.pop()
            if node in done:
                continue
            if entered:
                done[node] = None
                continue
            stack.append((node, True))
            stack.extend((c, False) for c in self._parts(node) if self.flows(c))
        return list(done)

    def _parts(self, node: Expression) -> Sequence[Expression]:
        """What a gradient goes to from here."""
        if node in self._variables and not self._through:
            return ()
        if isinstance(node, Subquery):
            return self._table(node).parts
        if isinstance(node, Item):
            return (node.source,)
        if isinstance(node, Call) and not is_flat(node.function):
            return node.arguments
        return ()

    def _table(self, node: Subquery) -> FoldedTable:
        from scalops.algebra.derivatives.folds import FoldedTable  # which reads this module

        if node not in self._tables:
            self._tables[node] = FoldedTable(
                node, self.depends, frozenset(self._variables), self._origins
            )
        return self._tables[node]

    # The gradients.

    def _add(self, e: Expression, g: Term) -> None:
        self._gradients.setdefault(e, []).append(g)

    def _sum(self, terms: Sequence[Term]) -> Term:
        if self._nulls and len(terms) > 1:
            terms = [zero_if_null(t) for t in terms]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def _visit(self, node: Expression) -> None:
        if isinstance(node, Call) and isinstance(node.any_type, TupleType):
            of_items = self._of_items.get(node)
            if of_items:
                count = len(node.any_type.items)
                self._call(
                    node, [self._sum(of_items[i]) if i in of_items else None for i in range(count)]
                )
            return
        found = self._gradients.get(node)
        if not found:
            return
        g = self._sum(found)
        self._gradients[node] = [g]
        if not self._parts(node):
            _require_derivative(node, node in self._variables)
            return
        match node:
            case Item(source=source, index=index):
                _require_derivative(source, False)
                self._of_items.setdefault(source, {}).setdefault(index, []).append(g)
            case Subquery():
                for part, more in self._table(node).gradients(g):
                    self._add(part, more)
            case Call():
                if len({a for a in node.arguments if self.flows(a)}) > 1:
                    share(g)
                self._call(node, [g])

    def _call(self, node: Call, gradients: list[Term | None]) -> None:
        rule = rule_of(node.function)
        if rule is None:
            raise no_derivative(node)
        for part, g in rule(Site(node, gradients, self.flows)):
            if self.flows(part):
                self._add(part, g)


def _is_float(e: Expression) -> bool:
    kind = e.any_type
    if isinstance(kind, TupleType):
        return any(t.is_numeric and t.numpy.kind == "f" for t in kind.items)
    return isinstance(kind, ArrayType) and kind.is_numeric and kind.numpy.kind == "f"


def no_derivative(node: Call) -> PlanError:
    """The error of a function that is differentiated and has no derivative here."""
    name = node.function.name
    return PlanError(
        f"so.grad has no derivative of {name}",
        location=node.location,
        hint=REFUSED.get(
            name, "write it with functions that have one; docs/gradients.md lists them"
        ),
    )


def _require_derivative(node: Expression, is_variable: bool) -> None:
    """Raise PlanError where a gradient ends that should go on."""
    if is_variable:
        return
    if isinstance(node, Opaque | DriverCall):
        what = "called by so.call" if isinstance(node, DriverCall) else "that runs as it is"
        raise PlanError(
            f"so.grad cannot look into {node.function.name}, a function {what}",
            location=node.location or node.function.location,
            hint="write it with NumPy's functions, so that it can be traced",
        )
    if isinstance(node, LoopOutput):
        raise PlanError(
            f"so.grad does not differentiate through a loop: the loss reads its {node.name!r}",
            location=node.location or node.loop.location,
            hint="differentiate what one iteration computes, inside the loop's body",
        )


def gradient(
    loss: Expression, variables: Sequence[Expression], origins: Origins | None = None
) -> Mapping[Expression, Term]:
    """The gradients of a number by variables; one that it does not depend on is not there."""
    nulls = bool(columns_read([loss])) and minds_nulls(loss)
    seed = Term(Constant(1.0))
    with sharing():
        found = pull_back([(loss, seed)], variables, through=True, origins=origins, nulls=nulls)
    return {v: only_if_known(loss, g) for v, g in found.items()} if nulls else found
