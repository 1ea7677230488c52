"""Squared distances from vectors that all records share are products of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.distance_bounds import TOLERANCE, at_risk
from scalops.algebra.functions.distances import EXPANDED
from scalops.algebra.tree import Node, find, substitute, transform
from scalops.optimizer.decisions import deciding_columns, passes_on, roots
from scalops.optimizer.lineage import Starts, from_source
from scalops.optimizer.quadratics import Quadratic, decided, quadratic
from scalops.optimizer.sampled_arrays import sampled_arrays
from scalops.optimizer.samples import Values

# Version 1 of numeric constants: records that are looked at, and the share of them (of distances,
# where no nearest is asked for) from which on the direct form is chosen for all.
SAMPLED, SHARE = 64, 0.5

DIGITS = "direct: digits at risk"
DECIDES = "direct: it decides"
EXACT = "direct: exact numbers"
ONE = "direct"


def contract_distances(node: Node) -> Node | None:
    """Σ_j a_kj (x_j - c_kj)² -> squared_distances(x, c), argmin over k of it -> nearest(x, c).

    x is a vector of each record, c and a are the same for all; the difference, the square, the
    weight and the sum may be written in any way (`optimizer/quadratics.py`). The functions are
    computed over blocks as |x|² - 2 X Cᵀ + |c|², one product of matrices, or directly, a few
    records at a time: never is there an array of records × vectors × features.

    A numeric decision, shown as `form`. "expanded" cancels where distances are small beside
    |x|² and |c|². With a bound of its error (`algebra/distance_bounds.py`), what is not covered is
    computed again in the direct form: so `nearest` is exactly the direct form's, and distances
    have a relative error of at most `TOLERANCE`. Without gain is the expansion, and the form

    - "direct: digits at risk", where that would be most of what a sample of the source has, for
      the c that the plan knows, or for c such as the records;
    - "direct: it decides", where distances reach a comparison, a position other than the nearest,
      a key or a function of the user's own: there last digits choose, and no bound is carried on;
    - "direct: exact numbers", for integers, and for types other than float32 and float64;
    - "direct", for one vector c, where x - c is no larger than x.
    """
    if not isinstance(node, op.Job):
        return None
    plan = _Plan(node)
    made = transform(node, plan.rewritten)
    return None if made == node else made


class _Plan:
    """What is known of a whole plan: which columns decide, and how its loops start."""

    def __init__(self, job: op.Job) -> None:
        self._job = job
        self._deciding: frozenset[str] | None = None
        loops = find((job,), op.Loop)
        self._tables: Starts = {(n.token, name): t for n in loops for name, t in n.tables}
        self._starts = {(n.token, name): e for n in loops for name, e in n.start}
        self._bindings = {(n.token, name): e for n in loops for name, e in n.bindings}

    def rewritten(self, node: Node) -> Node:
        """The operator with its own records' expressions contracted."""
        found = roots(node)
        nearest: dict[ex.Expression, Quadratic] = {}
        distances: dict[ex.Expression, Quadratic] = {}
        deciding: set[ex.Expression] = set()
        for i, (root, decides) in enumerate(found):
            _look(root, decides or self._decides(node, i), nearest, distances, deciding)
        if not nearest and not distances:
            return node
        assert isinstance(node, op.Operator)
        mapping: dict[Node, Node] = {}
        for e, q in nearest.items():
            mapping[e] = q.nearest(self._form(node, q, nearest=True))
        for e, q in distances.items():
            form = self._form(node, q, nearest=False)
            mapping[e] = q.distances(DECIDES if form == EXPANDED and e in deciding else form)
        # Into what the operator holds, but into no other operator.
        return substitute(node, mapping, lambda n: n is node or not isinstance(n, op.Operator))

    def _decides(self, node: Node, number: int) -> bool:
        """Whether an output of a projection decides further on."""
        if isinstance(node, op.Project):
            names = [name for name, _ in node.outputs]
        elif isinstance(node, op.Expand):
            names = [name for record in node.records for name, _ in record]
        else:
            return False
        if self._deciding is None:
            self._deciding = deciding_columns(self._job)
        return names[number] in self._deciding

    def _form(self, node: op.Operator, q: Quadratic, nearest: bool) -> str:
        kinds = [q.x.type, q.c.type]
        weighed = q.weighed()
        if weighed is not None:
            kinds.append(weighed[0].type)
        dtype = np.result_type(*(k.numpy for k in kinds))
        apart = np.result_type(*(k.numpy for k in kinds[:2]))
        if dtype.name not in TOLERANCE or apart != dtype:
            return EXACT
        if not q.several:
            return ONE
        return DIGITS if self._at_risk(node, q, nearest) else EXPANDED

    def _at_risk(self, node: op.Operator, q: Quadratic, nearest: bool) -> bool:
        """Whether a sample of the source would be computed in the direct form for the most part.

        For the c and weights that the plan tells; where a loop changes them, also for vectors
        such as the records, so that one bad start decides nothing.
        """
        x = self._sampled(node, q.x)
        if x is None or not len(x):
            return False
        weighed = q.weighed()
        c = self._value(q.c)
        a = None if weighed is None else self._value(weighed[0])
        weight = "times" if weighed is None else weighed[1]
        shares = []
        known = weighed is None or a is not None
        if c is not None and known and len(np.unique(c, axis=0)) == len(c):
            shares.append(at_risk(x, c, a, weight, nearest))
        if not shares or _varies(q):
            like = np.unique(x, axis=0)
            step = max(1, len(like) // q.c.type.shape[0])
            like = like[::step][: q.c.type.shape[0]]
            shares.append(at_risk(x, like, None, "times", nearest))
        return min(shares) > SHARE

    def _sampled(self, node: op.Operator, x: ex.Expression) -> Values | None:
        """x of some records of the source; None where nothing is known of it."""
        (source, *more) = node.inputs
        found = None if more else from_source(source, [x], self._tables)
        return None if found is None else sampled_arrays(found[0], found[1][0], SAMPLED)

    def _value(self, e: ex.Expression) -> Values | None:
        """The value of an expression that all records share, at the start of its loops."""
        done: dict[ex.Expression, Any] = {}
        stack = [e]
        while stack:
            node = stack[-1]
            below: tuple[ex.Expression, ...] = ()
            match node:
                case ex.State(loop=loop, name=name):
                    below = (self._starts[loop, name],) if (loop, name) in self._starts else ()
                case ex.Bound(loop=loop, name=name):
                    below = (self._bindings[loop, name],) if (loop, name) in self._bindings else ()
                case ex.Call(arguments=arguments):
                    below = arguments
                case ex.Constant():
                    pass
                case _:
                    return None
            waiting = [b for b in below if b not in done]
            if waiting:
                stack.extend(waiting)
                continue
            stack.pop()
            match node:
                case ex.Constant(value=value):
                    done[node] = value
                case ex.Call(function=function, parameters=parameters):
                    try:
                        with np.errstate(all="ignore"):
                            given = [done[b] for b in below]
                            done[node] = function.evaluate(*given, **dict(parameters))
                    except Exception:  # it belongs to the run, with its line
                        return None
                case _ if below:
                    done[node] = done[below[0]]
                case _:
                    return None
        return np.asarray(done[e])


def _varies(q: Quadratic) -> bool:
    shared = [q.c, *(a for a, _ in q.weights)]
    return any(isinstance(e, (ex.State, ex.Bound, ex.Iteration)) for e in ex.within(shared))


def _look(
    root: ex.Expression,
    decides: bool,
    nearest: dict[ex.Expression, Quadratic],
    distances: dict[ex.Expression, Quadratic],
    deciding: set[ex.Expression],
) -> None:
    """Collect what lies below a root, and which distances decide."""
    seen: set[tuple[ex.Expression, bool]] = set()
    stack = [(root, decides)]
    while stack:
        e, its = stack.pop()
        if (e, its) in seen:
            continue
        seen.add((e, its))
        least = decided(e)
        if least is not None:
            nearest[e] = least
            continue
        found = quadratic(e)
        if found is not None:
            distances[e] = found
            if its:
                deciding.add(e)
            continue
        for i, child in enumerate(e.children):
            if isinstance(child, ex.Expression):
                stack.append((child, its or not passes_on(e, i)))
