"""Running aggregates: columns that sum up an ordered table's records as far as each one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from scalops.algebra import operators as op
from scalops.algebra.errors import Location, PlanError, TraceError, user_location
from scalops.algebra.expressions import Column, Expression
from scalops.algebra.relations import Cumulate, Join, Running, StateTable
from scalops.algebra.tree import Node, walk
from scalops.rows import RowFunction

if TYPE_CHECKING:
    from scalops.table import RowLike, Table

_FIRST = (
    'give it a column of its own, with_columns(total=so.cumsum("v")), and compute with that one'
    " in the next step"
)


class RunningAggregate:
    """What `so.cumsum` and its like give: a new column for `with_columns` or `select`.

    It is no dataclass, which a row function could return as a record.
    """

    __slots__ = ("arguments", "kind", "location", "over", "reverse")

    def __init__(
        self,
        kind: str,
        arguments: tuple[RowLike, ...],
        over: tuple[RowLike, ...],
        reverse: bool,
        location: Location | None = None,
    ) -> None:
        self.kind, self.arguments, self.over = kind, arguments, over
        self.reverse, self.location = reverse, location

    def __repr__(self) -> str:
        return f"so.{self.kind}(...)"

    def _as_value(self) -> NoReturn:
        raise _no_value(self)

    def _refused(self, *_: Any, **__: Any) -> NoReturn:
        raise _no_value(self)

    _misused = _refused
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refused
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _refused
    __pow__ = __rpow__ = __matmul__ = __rmatmul__ = __neg__ = __pos__ = __abs__ = _refused
    __lt__ = __le__ = __gt__ = __ge__ = __and__ = __rand__ = __or__ = __ror__ = _refused
    __invert__ = __bool__ = __int__ = __float__ = __index__ = __len__ = _refused
    __iter__ = __getitem__ = __contains__ = __array__ = __array_ufunc__ = _refused
    __array_function__ = collect = _refused
    __eq__ = __ne__ = _refused
    __hash__ = None  # type: ignore[assignment]


def _no_value(made: RunningAggregate) -> TraceError:
    return TraceError(
        f"so.{made.kind} is a new column of with_columns or select; it was used as a value",
        location=user_location() or made.location,
        hint=_FIRST,
    )


def cumsum(column: RowLike, over: Any = None, reverse: bool = False) -> RunningAggregate:
    """The sum of the records up to each one, in table order.

    `column` is a column's name or a function of a record; `over`, likewise, or a list of them,
    starts again for each of its values; `reverse` runs from the last record to the first. Where
    the column is null the result is null, and the record is passed over. Small integers and
    bools add up to 64-bit integers, as in np.cumsum.
    """
    return _running("cumsum", (column,), over, reverse)


def cummin(column: RowLike, over: Any = None, reverse: bool = False) -> RunningAggregate:
    """The least of the records up to each one; NaN once there was one. See `cumsum`."""
    return _running("cummin", (column,), over, reverse)


def cummax(column: RowLike, over: Any = None, reverse: bool = False) -> RunningAggregate:
    """The greatest of the records up to each one; NaN once there was one. See `cumsum`."""
    return _running("cummax", (column,), over, reverse)


def cumprod(column: RowLike, over: Any = None, reverse: bool = False) -> RunningAggregate:
    """The product of the records up to each one. See `cumsum`."""
    return _running("cumprod", (column,), over, reverse)


def cumsumprod(a: RowLike, b: RowLike, over: Any = None, reverse: bool = False) -> RunningAggregate:
    """z = a + b z', with z' of the record before it, 0 before the first. See `cumsum`.

    With a = 0.1 v and b = 0.9 it is exponential smoothing.
    """
    return _running("cumsumprod", (a, b), over, reverse)


def _running(kind: str, arguments: tuple[Any, ...], over: Any, reverse: Any) -> RunningAggregate:
    for given in arguments:
        if not (isinstance(given, str) or callable(given)):
            raise TraceError(
                f"so.{kind} got a {type(given).__name__}; expected a column's name or a function"
                " of a record",
                location=user_location(),
                hint=f'write so.{kind}("v") or so.{kind}(lambda r: ...)',
            )
    keys = () if over is None else tuple(over) if isinstance(over, (list, tuple)) else (over,)
    if over is not None and not (keys and all(isinstance(k, str) or callable(k) for k in keys)):
        raise TraceError(
            f"so.{kind}(over=...) got {over!r}; expected a column's name, a list of names or a"
            " function of a record",
            location=user_location(),
        )
    if not isinstance(reverse, bool):
        raise TraceError(
            f"so.{kind}(reverse=...) is true or false; it got {reverse!r}", location=user_location()
        )
    return RunningAggregate(kind, arguments, keys, reverse, user_location())


def with_running(
    table: Table, label: str, kept: Sequence[op.Named], new: Mapping[str, Any]
) -> Table:
    """`kept` columns and `new` ones, some of which are running aggregates; in that order.

    The plain columns and the arguments first, then the running ones, then all in their order.
    """
    from scalops.table import Table

    plain = {n: v for n, v in new.items() if not isinstance(v, RunningAggregate)}
    wanted = {n: v for n, v in new.items() if isinstance(v, RunningAggregate)}
    for made in wanted.values():
        require_order(table.plan, made)
    arguments = _Arguments(table, label, dict(kept))
    columns = [arguments.running(name, made) for name, made in wanted.items()]
    below: op.Operator = table.plan
    origins: tuple[Any, ...] = ()
    outputs: list[op.Named] = list(kept)
    if plain:
        computed = table._project(label, kept, plain).plan
        assert isinstance(computed, op.Project)
        outputs, origins = list(computed.outputs), computed.origin
    location = user_location()
    below = op.Project(
        table.plan,
        (*outputs, *((n, e) for e, n in arguments.made.items())),
        label=label,
        origin=(*origins, *arguments.origins),
        location=location,
    )
    cumulated = Cumulate(below, tuple(columns), label=label, location=location)
    names = [*(n for n, _ in kept), *new]
    chosen = tuple((n, Column(n, cumulated.schema[n])) for n in names)
    return Table(op.Project(cumulated, chosen, label=label, location=location))


class _Arguments:
    """Columns for what running aggregates read: the table's own where they are kept, else new."""

    def __init__(self, table: Table, label: str, kept: Mapping[str, Expression]) -> None:
        self._table, self._label, self._kept = table, label, kept
        self.made: dict[Expression, str] = {}
        self.origins: list[RowFunction] = []

    def running(self, name: str, made: RunningAggregate) -> Running:
        """The running aggregate over columns."""
        what = f"{self._label}({name}=so.{made.kind})"
        return Running(
            name,
            made.kind,
            tuple(self._column(a, what, name) for a in made.arguments),
            tuple(self._column(k, f"{what} over", f"{name} over") for k in made.over),
            made.reverse,
            location=made.location,
        )

    def _column(self, given: RowLike, what: str, name: str) -> Column:
        if isinstance(given, str):
            expression: Expression = self._table._column(given, what)
        else:
            traced = self._table._trace(given, what)
            if traced.names is not None:
                raise TraceError(
                    f"{what} got the columns {list(traced.names)}; expected one value",
                    location=traced.location,
                )
            expression = traced.outputs[0]
            self.origins.append(traced)
        if isinstance(expression, Column) and self._kept.get(expression.name) == expression:
            return expression
        if expression not in self.made:
            taken, number, own = {*self.made.values(), *self._kept}, 1, f"@{name}"
            while own in taken:
                number += 1
                own = f"@{name}{number}"
            self.made[expression] = own
        return Column(self.made[expression], expression.type.strong())


def require_order(plan: op.Operator, made: RunningAggregate) -> None:
    """PlanError where the records' order is none that the user has chosen."""
    culprit, _ = _order_of(plan)
    if culprit is not None:
        raise _without_order(f"so.{made.kind}", culprit, made.location)


def require_ordered_states(loop: op.Loop) -> None:
    """PlanError where a running aggregate in a loop's body follows a state without an order.

    The order of the records of a state is that in which the loop starts and its body leaves them.
    """
    assert isinstance(loop.body, op.Update)
    tables = {n: (t, dict(loop.body.tables)[n]) for n, t in loop.tables}
    for node in walk(loop.body) if tables else ():
        if not isinstance(node, Cumulate):
            continue
        for state in _order_of(node)[1]:
            for table in tables[state.name] if state.loop == loop.token else ():
                culprit, _ = _order_of(table)
                if culprit is not None:
                    own = node.columns[0]
                    place = own.location or node.location
                    raise _without_order(f"so.{own.kind}", culprit, place)


def _without_order(word: str, culprit: op.Operator, location: Location | None) -> PlanError:
    what = "repartition" if isinstance(culprit, op.Repartition) else culprit.label
    where = "" if culprit.location is None else f" ({culprit.location})"
    return PlanError(
        f"{word} follows the order of the records, which {what}{where} leaves without a meaning",
        location=location,
        hint='give them an order first: sort("time")',
    )


def _order_of(plan: op.Operator) -> tuple[op.Operator | None, list[StateTable]]:
    """What takes the records' order its meaning, if anything does, and the states it rests on."""
    states: list[StateTable] = []
    waiting: list[op.Operator] = [plan]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, op.Repartition) or node.label in ("shuffle", "cogroup"):
            return node, states
        match node:
            case StateTable():
                states.append(node)
            case op.Sort():
                continue
            case Join(left=left, right=right, kind=kind):
                waiting += [right] if kind == "right" else [left]
                waiting += [right] if kind == "full" else []
            case _:
                waiting += node.inputs
    return None, states
