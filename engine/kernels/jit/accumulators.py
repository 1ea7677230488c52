"""Folds inside a compiled loop: an accumulator for each lane, or for each element of a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra.folds import Fold
from scalops.engine.kernels.jit.elementwise import FLOATS, TYPES, Refused, converted
from scalops.engine.kernels.jit.products import MOST_OUTPUTS, by_tile
from scalops.engine.kernels.jit.text import ROOMS, Lines, Place, zero
from scalops.engine.kernels.jit.vectors import GREATEST, LEAST, SUM, narrow

if TYPE_CHECKING:
    from scalops.engine.kernels.jit.source import Writer

COUNTS = ("count", "is_empty")
_SCALED = ("sum_scaled", "add_scaled", "mean_scaled")
_OUTER = ("sum_outer", "add_outer", "mean_outer")
# Fold -> what two partials become.
_OPERATIONS = {
    "sum": SUM, "add": SUM, "mean": SUM, "minimum": LEAST, "maximum": GREATEST,
    "any": "a | b", "all": "a & b", "logical_or": "a | b", "logical_and": "a & b",
    "bitwise_or": "a | b", "bitwise_and": "a & b",
}  # fmt: skip
_FOLDS_IN_A_LOOP, _ROWS_AT_ONCE, _OUTPUTS_AT_ONCE = 8, 4, 2
_TRUTHS = ("any", "all", "logical_or", "logical_and")
Result = tuple[str, int]  # type and number of elements


def check(fold: Fold) -> None:
    """Raise Refused for a fold without a form here."""
    known = fold.kind in _OPERATIONS or fold.kind in (*COUNTS, *_SCALED, *_OUTER)
    if not known or type(fold) is not Fold:
        raise Refused(f"{fold.word}()")
    if fold.kind in ("count", "is_empty"):
        return
    kinds = [a.type for a in fold.arguments]
    if not all(k.is_plain and k.name in TYPES for k in kinds) or fold.type.name not in TYPES:
        raise Refused(f"{fold.word}() of {' and '.join(str(k) for k in kinds)}")
    if fold.kind in ("minimum", "maximum") and fold.type.name == "bool":
        raise Refused(f"{fold.word}() of bool")


def folded(
    writer: Writer,
    fold: Fold,
    arguments: Sequence[ex.Expression],
    result: str,
    first: Lines,
    lanes: LaneFolds,
) -> Result:
    """Add a fold's lines to the writer's tile, and what comes before all tiles to `first`.

    `result` is the parameter for what the block gives, zeros at first. What is folded by lane
    is left to `lanes`.
    """
    kind = fold.type.name
    if fold.kind in COUNTS:
        return "int64", 1
    if fold.kind in _SCALED:
        return _scaled(writer, fold, arguments, result)
    if fold.kind in _OUTER:
        return _outer(writer, fold, arguments, result)
    (argument,) = arguments
    if len(argument.type.shape) > 1:
        raise Refused(f"{fold.word}() of {argument.type}")
    operation, start = narrow(_OPERATIONS[fold.kind], kind), _start(fold, kind)
    if isinstance(argument, ex.Column) and argument.type.shape:
        _by_element(writer, fold, argument, operation, start, result, first)
    else:
        lanes.add(fold, argument, operation, start, result)
    return kind, fold.type.size


def _start(fold: Fold, kind: str) -> str:
    """What changes no partial."""
    if fold.kind in ("sum", "add", "mean"):
        return f"np.{kind}(0)"
    if fold.kind in ("minimum", "maximum"):
        low = fold.kind == "maximum"
        if kind in FLOATS:
            return f"np.{kind}({'-' if low else ''}np.inf)"
        limits = np.iinfo(kind)
        return f"np.{kind}({limits.min if low else limits.max})"
    if fold.kind in ("all", "logical_and"):
        return "True"
    if fold.kind in ("any", "logical_or"):
        return "False"
    ones = "True" if kind == "bool" else f"np.{kind}(-1)"
    zeros = "False" if kind == "bool" else f"np.{kind}(0)"
    return ones if fold.kind == "bitwise_and" else zeros


def _taken(text: str, given: str, fold: Fold) -> str:
    """A value in the type in which it is folded."""
    return converted(text, given, "bool" if fold.kind in _TRUTHS else fold.type.name)


@dataclass(frozen=True)
class _LaneFold:
    room: Place
    lanes: Place
    value: str
    size: int
    result: str


class LaneFolds:
    """Folds of what has been computed: an accumulator for each lane, folds of one kind together."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._groups: dict[tuple[str, str, str], list[_LaneFold]] = {}

    def add(
        self, fold: Fold, argument: ex.Expression, operation: str, start: str, result: str
    ) -> None:
        """A fold of an expression over lanes."""
        kind, size, writer = fold.type.name, argument.type.size, self._writer
        lanes = writer.lanes(argument)
        index = f"c * {writer.tile} + i" if size > 1 else "i"
        value = _taken(lanes.at(index), lanes.kind, fold)
        made = _LaneFold(Place(kind, 0), lanes, value, size, result)
        self._groups.setdefault((kind, operation, start), []).append(made)

    def write(self, first: Lines, last: Lines) -> None:
        """Their lines: before all tiles, in the tile, and after all tiles."""
        body, tile = self._writer.body, self._writer.tile
        for (kind, operation, start), several in self._groups.items():
            rooms = [self._writer.accumulators(kind, f.size) for f in several]
            total = sum(f.size for f in several)
            whole = rooms[0]
            with first.block(f"for i in range({total * tile})"):
                first.add(f"{whole.at('i')} = {start}")
            numbers = [(f, r) for f, r in zip(several, rooms, strict=True) if f.size == 1]
            for at in range(0, len(numbers), _FOLDS_IN_A_LOOP):
                with body.block("for i in range(q)"):
                    for fold, room in numbers[at : at + _FOLDS_IN_A_LOOP]:
                        _step(body, room.at("i"), fold.value, operation)
                body.settle()
            for fold, room in zip(several, rooms, strict=True):
                if fold.size > 1:
                    with (
                        body.block(f"for c in range({fold.size})"),
                        body.block("for i in range(q)"),
                    ):
                        _step(body, room.at(f"c * {tile} + i"), fold.value, operation)
                    body.settle()
            with last.block(f"for c in range({total})"):
                last.add(f"h = {tile // 2}")
                with last.block("while h"):
                    with last.block("for i in range(h)"):
                        index = f"c * {tile} + i"
                        _step(last, whole.at(index), whole.at(f"{index} + h"), operation)
                    last.add("h //= 2")
            for fold, room in zip(several, rooms, strict=True):
                if fold.size == 1:
                    last.add(f"{fold.result}[0] = {room.at('0')}")
                    continue
                with last.block(f"for c in range({fold.size})"):
                    last.add(f"{fold.result}[c] = {room.at(f'c * {tile}')}")
                last.settle()


def _step(lines: Lines, target: str, value: str, operation: str) -> None:
    if operation == SUM:
        lines.add(f"{target} += {value}")
    else:
        lines.add(f"a = {target}", f"b = {value}", f"{target} = {operation}")


def _by_element(
    writer: Writer,
    fold: Fold,
    argument: ex.Column,
    operation: str,
    start: str,
    result: str,
    first: Lines,
) -> None:
    """Rows of a column as they lie, one after the other."""
    size, column, body = argument.type.size, writer.column(argument), writer.body
    with first.block(f"for j in range({size})"):
        first.add(f"{result}[j] = {start}")
    value = _taken(f"{column}[t + i, j]", argument.type.name, fold)
    with body.block("for i in range(q)"), body.block(f"for j in range({size})"):
        body.add(f"a = {result}[j]", f"b = {value}", f"{result}[j] = {operation}")


def _require_floats(fold: Fold, arguments: Sequence[ex.Expression]) -> None:
    if {a.type.name for a in arguments} != {fold.type.name} or fold.type.name not in FLOATS:
        raise Refused(f"a sum of products of {' and '.join(str(a.type) for a in arguments)}")


def _scaled(writer: Writer, fold: Fold, arguments: Sequence[ex.Expression], result: str) -> Result:
    """Σ s·x: multiples of the rows of a column, four at a time, or products over lanes."""
    _require_floats(fold, arguments)
    weight, x = arguments
    if weight.type.shape or len(x.type.shape) != 1 or not writer.varies(x):
        raise Refused(f"a sum of products of {weight.type} and {x.type}")
    scale = writer.lanes(weight)
    if isinstance(x, ex.Column):
        column, body = writer.column(x), writer.body

        def records(many: int) -> None:
            body.add(*(f"s{r} = {scale.at(f'i + {r}')}" for r in range(many)))
            with body.block(f"for j in range({x.type.size})"):
                body.add(f"{result}[j] = {_added(f'{result}[j]', column, many)}")

        by_tile(body, records, _ROWS_AT_ONCE)
    else:
        lanes = writer.lanes(x)
        index = f"c * {writer.tile} + i"
        with writer.body.block(f"for c in range({x.type.size})"):
            _dot(writer, f"{result}[c]", lanes.at(index), scale.at("i"), fold.type.name)
    return fold.type.name, x.type.size


def _added(total: str, column: str, many: int) -> str:
    for r in range(many):
        total = f"multiply_add({total}, s{r}, {column}[t + i + {r}, j])"
    return total


def _dot(writer: Writer, target: str, left: str, right: str, kind: str) -> None:
    body = writer.body
    body.add(f"a = {zero(kind)}")
    with body.block("for i in range(q)"):
        body.add(f"a = multiply_add(a, {left}, {right})")
    body.add(f"{target} += a")


def _outer(writer: Writer, fold: Fold, arguments: Sequence[ex.Expression], result: str) -> Result:
    """Σ outer(u, x): for two elements of u at a time, multiples of the rows of x."""
    _require_floats(fold, arguments)
    u, x = arguments
    if len(u.type.shape) != 1 or len(x.type.shape) != 1:
        raise Refused(f"a sum of products of {u.type} and {x.type}")
    if u.type.size > MOST_OUTPUTS:
        raise Refused(f"Σ outer of {u.type.size} elements, better done as a product of matrices")
    count, size, body, tile = u.type.size, x.type.size, writer.body, writer.tile
    lanes = writer.lanes(u)
    if isinstance(x, ex.Column):
        column = writer.column(x)

        def records(many: int) -> None:
            whole = count - count % _OUTPUTS_AT_ONCE
            if whole:
                with body.block(f"for c in range(0, {whole}, {_OUTPUTS_AT_ONCE})"):
                    several(many, _OUTPUTS_AT_ONCE)
            if count > whole:
                body.add(f"c = {whole}")
                several(many, count - whole)

        def several(many: int, outputs: int) -> None:
            body.add(f"k = {lanes.offset} + c * {tile} + i", f"p = c * {size}")
            for o in range(outputs):
                room = ROOMS[lanes.kind]
                body.add(*(f"s{o}{r} = {room}[k + {o * tile + r}]" for r in range(many)))
            with body.block(f"for j in range({size})"):
                body.add(*(f"x{r} = {column}[t + i + {r}, j]" for r in range(many)))
                for o in range(outputs):
                    total = element = f"{result}[p + {o * size} + j]"
                    for r in range(many):
                        total = f"multiply_add({total}, s{o}{r}, x{r})"
                    body.add(f"{element} = {total}")

        by_tile(body, records, _ROWS_AT_ONCE)
    else:
        other = writer.lanes(x)
        with body.block(f"for c in range({count})"), body.block(f"for d in range({size})"):
            left, right = lanes.at(f"c * {tile} + i"), other.at(f"d * {tile} + i")
            _dot(writer, f"{result}[c * {size} + d]", left, right, fold.type.name)
    return fold.type.name, count * size
