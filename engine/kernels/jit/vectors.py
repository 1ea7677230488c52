"""Steps that make a vector of numbers, or a number of a vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scalops.algebra import expressions as ex
from scalops.engine.kernels.jit import products
from scalops.engine.kernels.jit.elementwise import FLOATS, Refused, converted
from scalops.engine.kernels.jit.text import ROOMS, Place

if TYPE_CHECKING:
    from scalops.engine.kernels.jit.source import Writer

_LEAST = {"float64": "-np.inf", "float32": "np.float32(-np.inf)"}


def _vector(call: ex.Call, number: int = 0) -> ex.Expression:
    """An argument that is a vector of each record."""
    a = call.arguments[number]
    if len(a.type.shape) != 1:
        raise Refused(f"{call.function.name} of {a.type}")
    return a


def _along_it(call: ex.Call, whole: bool) -> ex.Expression:
    """The vector of which a function takes all elements; `whole`: to give one number."""
    given = dict(call.parameters)
    a = _vector(call)
    axis = given.get("axis", None if whole else -1)
    if axis not in (None, 0, -1, (0,)) or given.get("keepdims"):
        raise Refused(f"{call.function.name} along an axis")
    return a


def _folded(operation: str) -> Callable[[Writer, ex.Call], Place]:
    def step(writer: Writer, call: ex.Call) -> Place:
        a = _along_it(call, whole=True)
        kind = call.type.name
        if a.type.name != kind or kind == "bool":
            raise Refused(f"{call.function.name} of {a.type}")
        lanes, place = writer.lanes(a), writer.room(kind)
        _over_elements(writer, lanes, place, a.type.size, kind, operation)
        return place

    return step


def _over_elements(
    writer: Writer, lanes: Place, place: Place, size: int, kind: str, operation: str
) -> None:
    body, tile = writer.body, writer.tile
    with body.block(f"for i in range({tile})"):
        body.add(f"{place.at('i')} = {lanes.at('i')}")
    with body.block(f"for c in range(1, {size})"), body.block(f"for i in range({tile})"):
        body.add(f"a = {place.at('i')}", f"b = {lanes.at(f'c * {tile} + i')}")
        body.add(f"{place.at('i')} = {narrow(operation, kind)}")


def narrow(operation: str, kind: str) -> str:
    """An operation on two numbers a and b of a type, in that type; sums wrap around."""
    if operation == SUM and kind == "int64":
        return "wrapped_add(a, b)"
    return f"np.int32({operation})" if kind == "int32" else operation


SUM = "a + b"
# NaN among the two is the result.
LEAST = "a if (a <= b) | (a != a) else b"
GREATEST = "a if (a >= b) | (a != a) else b"


def _norm(writer: Writer, call: ex.Call) -> Place:
    given = dict(call.parameters)
    a = _along_it(call, whole=True)
    if given.get("ord") is not None or a.type.name not in FLOATS:
        raise Refused("a norm other than the Euclidean one of floats")
    place = products.of_two(writer, a, a)
    with writer.body.block(f"for i in range({writer.tile})"):
        writer.body.add(f"{place.at('i')} = sqrt({place.at('i')})")
    return place


def _exp(text: str, kind: str) -> str:
    return f"exp({text})" if kind == "float64" else f"np.float32(exp(np.float64({text})))"


def _log(text: str, kind: str) -> str:
    return f"log({text})" if kind == "float64" else f"np.float32(log(np.float64({text})))"


def _exponentials(writer: Writer, a: ex.Expression) -> tuple[Place, Place, Place]:
    """For each record the greatest element, exp(x - greatest) of each, and their sum."""
    if a in writer.exponentials:
        return writer.exponentials[a]
    body, tile, size, kind = writer.body, writer.tile, a.type.size, a.type.name
    lanes = writer.lanes(a)
    greatest, total, made = writer.room(kind), writer.room(kind), writer.room(kind, size)
    _over_elements(writer, lanes, greatest, size, kind, GREATEST)
    with body.block(f"for i in range({tile})"):
        body.add(f"{total.at('i')} = 0.0")
    index = f"c * {tile} + i"
    with body.block(f"for c in range({size})"), body.block(f"for i in range({tile})"):
        body.add(f"a = {lanes.at(index)} - {greatest.at('i')}", f"a = {_exp('a', kind)}")
        body.add(f"{made.at(index)} = a", f"{total.at('i')} += a")
    writer.exponentials[a] = greatest, made, total
    return greatest, made, total


def _softmax(writer: Writer, call: ex.Call) -> Place:
    a = _floats_along(call, whole=False)
    kind, size = a.type.name, a.type.size
    _, exponentials, total = _exponentials(writer, a)
    place, body, index = writer.room(kind, size), writer.body, f"c * {writer.tile} + i"
    with body.block(f"for c in range({size})"), body.block(f"for i in range({writer.tile})"):
        body.add(f"{place.at(index)} = {exponentials.at(index)} / {total.at('i')}")
    return place


def _logsumexp(writer: Writer, call: ex.Call) -> Place:
    """The greatest itself where it is no finite number: so are the others, or they are less."""
    a = _floats_along(call, whole=True)
    greatest, _, total = _exponentials(writer, a)
    place, body = writer.room(a.type.name), writer.body
    with body.block(f"for i in range({writer.tile})"):
        body.add(f"a = {greatest.at('i')}", f"b = {_log(total.at('i'), a.type.name)} + a")
        body.add(f"{place.at('i')} = b if abs(a) < np.inf else a")
    return place


def _floats_along(call: ex.Call, whole: bool) -> ex.Expression:
    a = _along_it(call, whole)
    if a.type.name not in FLOATS:
        raise Refused(f"{call.function.name} of {a.type}")
    return a


def _index(writer: Writer, call: ex.Call) -> Place:
    """x[3]: the lanes of one element, or a strided read of a column."""
    (source,) = call.arguments
    key: Any = dict(call.parameters)["key"]
    if len(key) != 1 or not isinstance(key[0], int) or len(source.type.shape) != 1:
        raise Refused("indexing by anything but one number")
    at, kind = key[0] % source.type.size, source.type.name
    if not isinstance(source, ex.Column):
        return Place(kind, writer.lanes(source).offset + at * writer.tile)
    place, column = writer.room(kind), writer.column(source)
    with writer.body.block("for i in range(q)"):
        writer.body.add(f"{place.at('i')} = {column}[t + i, {at}]")
    return place


def _take(writer: Writer, call: ex.Call) -> Place:
    """An element by number, from the end for negative ones; `bad` where there is none."""
    source, index = call.arguments
    if dict(call.parameters).get("axis", 0) not in (0, -1) or len(source.type.shape) != 1:
        raise Refused(f"take of {source.type}")
    _require_index(index, "take")
    size, kind, body = source.type.size, source.type.name, writer.body
    wanted = writer.lanes(index)
    if not writer.varies(source):
        array, element = writer.array(source), "{0}[k]"
    elif isinstance(source, ex.Column):
        array, element = writer.column(source), "{0}[t + i, k]"
    else:
        lanes = writer.lanes(source)
        array, element = ROOMS[kind], f"{{0}}[{lanes.offset} + k * {writer.tile} + i]"
    place = writer.room(kind)
    with body.block("for i in range(q)"):
        body.add(f"k = np.int64({wanted.at('i')})", f"k = k + {size} if k < 0 else k")
        with body.block(f"if (k < 0) | (k >= {size})"):
            body.add("bad = 1", "k = 0")
        body.add(f"{place.at('i')} = {element.format(array)}")
    return place


def _one_hot(writer: Writer, call: ex.Call) -> Place:
    (index,) = call.arguments
    _require_index(index, "one_hot")
    size, body, tile = call.type.size, writer.body, writer.tile
    wanted, place = writer.lanes(index), writer.room("float64", size)
    with body.block("for i in range(q)"):
        body.add(f"bad |= ({wanted.at('i')} < 0) | ({wanted.at('i')} >= {size})")
    with body.block(f"for c in range({size})"), body.block(f"for i in range({tile})"):
        body.add(f"{place.at(f'c * {tile} + i')} = 1.0 if {wanted.at('i')} == c else 0.0")
    return place


def _require_index(index: ex.Expression, word: str) -> None:
    if index.type.shape or index.type.name not in ("int64", "int32"):
        raise Refused(f"{word} by {index.type}")


def _stack(writer: Writer, call: ex.Call) -> Place:
    """Numbers as the elements of a vector."""
    kind = call.type.name
    if any(a.type.shape for a in call.arguments) or dict(call.parameters).get("axis", 0) != 0:
        raise Refused(f"{call.function.name} of vectors")
    parts = [writer.lanes(a) for a in call.arguments]
    place = writer.room(kind, len(parts))
    with writer.body.block(f"for i in range({writer.tile})"):
        for c, part in enumerate(parts):
            text = converted(part.at("i"), part.kind, kind)
            writer.body.add(f"{place.at(f'{c * writer.tile} + i')} = {text}")
    return place


STEPS: dict[str, Callable[[Writer, ex.Call], Place]] = {
    "sum": _folded(SUM),
    "max": _folded(GREATEST),
    "min": _folded(LEAST),
    "norm": _norm,
    "softmax": _softmax,
    "logsumexp": _logsumexp,
    "index": _index,
    "take": _take,
    "one_hot": _one_hot,
    "stack": _stack,
    "assemble": _stack,
}
