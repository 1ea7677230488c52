"""Products with vectors: of a block's vector column row by row, of computed ones lane by lane."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from scalops.algebra import expressions as ex
from scalops.engine.kernels.jit.elementwise import FLOATS, Refused
from scalops.engine.kernels.jit.text import ROOMS, Lines, Place, zero

if TYPE_CHECKING:
    from scalops.engine.kernels.jit.source import Writer

MOST_OUTPUTS = 32  # of more, BLAS's product of matrices is the better one
_ROWS_AT_ONCE, _OUTPUTS_AT_ONCE = 2, 5


def _require_same(call: ex.Call) -> None:
    kinds = {a.type.name for a in call.arguments}
    if len(kinds) != 1 or not kinds <= {*FLOATS}:
        raise Refused(f"a product of {' and '.join(str(a.type) for a in call.arguments)}")


def _matmul(writer: Writer, call: ex.Call) -> Place:
    _require_same(call)
    left, right = call.arguments
    match writer.varies(left), writer.varies(right), len(left.type.shape), len(right.type.shape):
        case True, True, 1, 1:
            return of_two(writer, left, right)
        case True, False, 1, 1:
            return _by_vector(writer, left, right)
        case False, True, 1, 1:
            return _by_vector(writer, right, left)
        case True, False, 1, 2:
            return _by_matrix(writer, left, right, True)
        case False, True, 2, 1:
            return _by_matrix(writer, right, left, False)
    raise Refused(f"a product of {left.type} and {right.type}")


def of_two(writer: Writer, left: ex.Expression, right: ex.Expression) -> Place:
    kind, size = left.type.name, left.type.size
    place, body = writer.room(kind), writer.body
    if isinstance(left, ex.Column) and isinstance(right, ex.Column):
        x, y = writer.column(left), writer.column(right)
        with body.block("for i in range(q)"):
            body.add(f"a = {zero(kind)}")
            with body.block(f"for j in range({size})"):
                body.add(f"a = multiply_add(a, {x}[t + i, j], {y}[t + i, j])")
            body.add(f"{place.at('i')} = a")
        return place
    x_lanes, y_lanes = writer.lanes(left), writer.lanes(right)
    _over_lanes(writer, place, size, x_lanes, lambda c: y_lanes.at(f"{c} * {writer.tile} + i"))
    return place


def _over_lanes(
    writer: Writer, place: Place, size: int, lanes: Place, other: Callable[[str], str], by: str = ""
) -> None:
    """place = Σ over c of lanes[c] · other(c), for each record."""
    body, tile = writer.body, writer.tile
    target = place.at(f"{by}i")
    with body.block(f"for i in range({tile})"):
        body.add(f"{target} = 0.0")
    with body.block(f"for c in range({size})"), body.block(f"for i in range({tile})"):
        product = f"{lanes.at(f'c * {tile} + i')}, {other('c')}"
        body.add(f"{target} = multiply_add({target}, {product})")


def _by_vector(writer: Writer, x: ex.Expression, w: ex.Expression) -> Place:
    kind, size, array = x.type.name, x.type.size, writer.array(w)
    place, body = writer.room(kind), writer.body
    if not isinstance(x, ex.Column):
        _over_lanes(writer, place, size, writer.lanes(x), lambda c: f"{array}[{c}]")
        return place
    column = writer.column(x)
    with body.block("for i in range(q)"):
        body.add(f"a = {zero(kind)}")
        with body.block(f"for j in range({size})"):
            body.add(f"a = multiply_add(a, {column}[t + i, j], {array}[j])")
        body.add(f"{place.at('i')} = a")
    return place


def _by_matrix(writer: Writer, x: ex.Expression, m: ex.Expression, transposed: bool) -> Place:
    """The products with the rows of a matrix: 2 records and 5 rows at a time share what is read."""
    kind, size = x.type.name, x.type.size
    count = m.type.shape[1 if transposed else 0]
    if count > MOST_OUTPUTS:
        raise Refused(f"a product with {count} vectors, better done as one of matrices")
    array, tile, body = writer.array(m, transposed), writer.tile, writer.body
    place = writer.room(kind, count)
    if not isinstance(x, ex.Column):
        lanes = writer.lanes(x)
        with body.block(f"for d in range({count})"):
            _over_lanes(writer, place, size, lanes, lambda c: f"{array}[d, {c}]", f"d * {tile} + ")
        return place
    column = writer.column(x)

    def records(many: int) -> None:
        if many == 1:
            with body.block(f"for c in range({count})"):
                several(1, 1)
            return
        whole = count - count % _OUTPUTS_AT_ONCE
        if whole:
            with body.block(f"for c in range(0, {whole}, {_OUTPUTS_AT_ONCE})"):
                several(many, _OUTPUTS_AT_ONCE)
        if count > whole:
            body.add(f"c = {whole}")
            several(many, count - whole)

    def several(many: int, outputs: int) -> None:
        pairs = [(r, o) for r in range(many) for o in range(outputs)]
        body.add(*(f"a{r}_{o} = {zero(kind)}" for r, o in pairs))
        with body.block(f"for j in range({size})"):
            body.add(*(f"x{r} = {column}[t + i + {r}, j]" for r in range(many)))
            body.add(*(f"w{o} = {array}[c + {o}, j]" for o in range(outputs)))
            body.add(*(f"a{r}_{o} = multiply_add(a{r}_{o}, x{r}, w{o})" for r, o in pairs))
        body.add(f"p = {place.offset} + c * {tile} + i")
        body.add(*(f"{ROOMS[kind]}[p + {o * tile + r}] = a{r}_{o}" for r, o in pairs))

    by_tile(body, records, _ROWS_AT_ONCE)
    return place


def by_tile(body: Lines, records: Callable[[int], None], at_once: int) -> None:
    """A tile's records, some at a time and the rest one by one; `i` is the first of them."""
    body.add("i = 0")
    with body.block(f"while i + {at_once} <= q"):
        records(at_once)
        body.add(f"i += {at_once}")
    with body.block("while i < q"):
        records(1)
        body.add("i += 1")


STEPS: dict[str, Callable[[Writer, ex.Call], Place]] = {"matmul": _matmul}
