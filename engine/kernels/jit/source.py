"""The text of one loop that folds a block: tile by tile, each tile's values in the nearest cache.

The records of a tile lie side by side (lanes), so that every step over them is vectorised; a
vector's elements lie one after the other, each with its lanes. A vector column is read where it
lies: once for products with it, and again, from the cache, for sums of its multiples. Elementwise
steps over the same lanes share a loop. A sum has an accumulator for each lane and is added up over
lanes at the end of the block, in pairs, so that its order is that of the text and not the
compiler's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.folds import Fold
from scalops.engine.kernels.jit import accumulators, products, vectors
from scalops.engine.kernels.jit.elementwise import (
    FLOATS,
    HEAVY,
    NARROW,
    TYPES,
    Refused,
    converted,
    formula,
    is_elementwise,
)
from scalops.engine.kernels.jit.text import ROOMS, Inputs, Lines, Place

# Version 1 of numeric constants: they decide the order of additions.
TILE_BYTES = 32_768  # of a tile's columns and values
LEAST_TILE, MOST_TILE = 16, 256
MOST_STEPS = 400  # beyond, compiling takes too long
MOST_ELEMENTS = 4096  # of a vector
_HEAVY_IN_A_LOOP, _STEPS_IN_A_LOOP = 2, 48
_LOADS_IN_A_LOOP = 4  # of more, the compiler does not prove that they are apart


@dataclass(frozen=True)
class Written:
    """A function's text, what it is given, and its results: type and number of elements."""

    text: str
    inputs: Inputs
    results: tuple[tuple[str, int], ...]


def written(folds: Sequence[Fold], arguments: Sequence[ex.Expression]) -> Written:
    """The loop that folds a block; `arguments` are those of the folds, in order, over columns.

    Raises Refused, with the first step that has no compiled form.
    """
    return Writer(folds, arguments).function()


class Writer:
    def __init__(self, folds: Sequence[Fold], arguments: Sequence[ex.Expression]) -> None:
        self._folds = folds
        self._arguments: list[Sequence[ex.Expression]] = []
        start = 0
        for fold in folds:
            stop = start + len(fold.arguments)
            self._arguments.append(arguments[start:stop])
            start = stop
        for fold in folds:
            accumulators.check(fold)
        # What is folded; a count looks at no values.
        self._roots = [
            a
            for f, own in zip(folds, self._arguments, strict=True)
            for a in (() if f.kind in accumulators.COUNTS else own)
        ]
        self.inputs = Inputs()
        self._varies: dict[ex.Expression, bool] = {}
        self._order: list[ex.Expression] = []
        for root in self._roots:
            self._visit(root)
        if len(self._order) > MOST_STEPS:
            raise Refused(f"{len(self._order)} steps, which is more than {MOST_STEPS}")
        self.tile = self._tile()
        self._loads, self.body = Lines(2), Lines(2)
        self._loading: list[str] = []
        self._sizes = dict.fromkeys(TYPES, 0)
        self._partials = dict.fromkeys(TYPES, 0)
        self._places: dict[ex.Expression, Place] = {}
        # Of a vector: its greatest element, exp(x - greatest), their sum.
        self.exponentials: dict[ex.Expression, tuple[Place, Place, Place]] = {}
        self._constant = Lines(1)
        self._numbers: dict[ex.Expression, str] = {}
        self._arrays: dict[tuple[ex.Expression, bool], str] = {}
        self._columns: dict[str, str] = {}
        self._names = 0

    # What there is.

    def _visit(self, root: ex.Expression) -> None:
        stack: list[tuple[ex.Expression, bool]] = [(root, False)]
        while stack:
            node, entered = stack.pop()
            if node in self._varies:
                continue
            if not entered:
                stack.append((node, True))
                children = [c for c in node.children if isinstance(c, ex.Expression)]
                stack.extend((c, False) for c in reversed(children))
                continue
            below = [self._varies[c] for c in node.children if isinstance(c, ex.Expression)]
            varies = self._varies[node] = any(below) or isinstance(node, (ex.Column, ex.Opaque))
            if varies:
                self._check(node)
                self._order.append(node)

    def _check(self, node: ex.Expression) -> None:
        if isinstance(node, ex.Opaque):
            raise Refused(f"{node.function.name}, which runs as it is")
        if not isinstance(node, (ex.Column, ex.Call)):
            raise Refused("one result of several")
        kind = node.any_type
        what = node.name if isinstance(node, ex.Column) else node.function.name
        if isinstance(node, ex.Column) and node.type.name in NARROW and not node.type.shape:
            return
        if not isinstance(kind, ArrayType) or not kind.is_plain or kind.name not in TYPES:
            raise Refused(f"{what}, a {kind}")
        if len(kind.shape) > 1 or kind.size > MOST_ELEMENTS or kind.size == 0:
            raise Refused(f"{what}, a {kind}")

    def varies(self, e: ex.Expression) -> bool:
        """Whether the value differs from record to record."""
        return self._varies[e]

    def _tile(self) -> int:
        """The greatest power of two of records whose values fit."""
        width = sum(n.type.bytes for n in self._order)
        fitting = max(1, TILE_BYTES // max(1, width))
        return min(MOST_TILE, max(LEAST_TILE, 1 << (fitting.bit_length() - 1)))

    # Names.

    def name(self, letter: str) -> str:
        """A name of its own."""
        self._names += 1
        return f"{letter}{self._names}"

    def room(self, kind: str, elements: int = 1) -> Place:
        """Room for a tile's values."""
        place = Place(kind, self._sizes[kind])
        self._sizes[kind] += elements * self.tile
        return place

    def accumulators(self, kind: str, elements: int) -> Place:
        """Room for partials, in arrays of their own."""
        place = Place(kind, self._partials[kind], True)
        self._partials[kind] += elements * self.tile
        return place

    def column(self, node: ex.Column) -> str:
        """The parameter that holds a block's column."""
        name = node.name if node.record == 0 else f"{node.name}'{node.record}"
        if name not in self._columns:
            self._columns[name] = f"c{len(self.inputs.columns)}"
            self.inputs.columns.append((name, node.type))
        return self._columns[name]

    def array(self, e: ex.Expression, transposed: bool = False) -> str:
        """The parameter that holds a vector or matrix which is the same for all records."""
        if not e.type.is_plain or e.type.name not in TYPES:
            raise Refused(f"a value of the type {e.type}")
        key = e, transposed
        if key not in self._arrays:
            self._arrays[key] = f"v{len(self.inputs.arrays)}"
            self.inputs.arrays.append(key)
        return self._arrays[key]

    def number(self, e: ex.Expression) -> str:
        """The local name of a number which is the same for all records."""
        kind = e.type
        if kind.shape or not kind.is_plain or kind.name not in TYPES:
            raise Refused(f"a value of the type {kind}")
        if e not in self._numbers:
            at = len(self.inputs.numbers)
            self.inputs.numbers.append(e)
            given = f"uf[{at}]" if kind.name in FLOATS else f"ui[{at}]"
            wide = "float64" if kind.name in FLOATS else "int64"
            self._numbers[e] = f"u{at}"
            self._constant.add(f"u{at} = {converted(given, wide, kind.name)}")
        return self._numbers[e]

    def lanes(self, e: ex.Expression) -> Place:
        """Where a tile's values of an expression lie."""
        if e in self._places:
            return self._places[e]
        if not self._varies[e]:
            return self._filled(e)
        assert isinstance(e, ex.Column)  # all else has been computed
        column, size = self.column(e), e.type.size
        kind = "int64" if e.type.name in NARROW else e.type.name
        place = self._places[e] = self.room(kind, size)
        if not e.type.shape:
            self._loading.append(f"{place.at('i')} = {column}[t + i]")
            return place
        with (
            self.body.block(f"for c in range({size})"),
            self.body.block("for i in range(q)"),
        ):
            self.body.add(f"{place.at(f'c * {self.tile} + i')} = {column}[t + i, c]")
        return place

    def _filled(self, e: ex.Expression) -> Place:
        """A value that is the same for all records, once for each lane."""
        place = self._places[e] = self.room(e.type.name, e.type.size)
        if e.type.shape:
            if len(e.type.shape) > 1:
                raise Refused(f"a value of the type {e.type}")
            array = self.array(e)
            with (
                self._constant.block(f"for c in range({e.type.size})"),
                self._constant.block(f"for i in range({self.tile})"),
            ):
                self._constant.add(f"{place.at(f'c * {self.tile} + i')} = {array}[c]")
        else:
            name = self.number(e)
            with self._constant.block(f"for i in range({self.tile})"):
                self._constant.add(f"{place.at('i')} = {name}")
        return place

    # Steps.

    def function(self) -> Written:
        """Its text, and what it is given."""
        for group in self._groups():
            if len(group) == 1 and not is_elementwise(group[0]):
                self._places[group[0]] = self._step(group[0])
            else:
                self._fused(group)
            self.body.settle()
        results = []
        first, last, lanes = Lines(1), Lines(1), accumulators.LaneFolds(self)
        for i, (fold, own) in enumerate(zip(self._folds, self._arguments, strict=True)):
            results.append(accumulators.folded(self, fold, own, f"r{i}", first, lanes))
            self.body.settle()
        lanes.write(first, last)
        return Written(self._text(first, last, len(results)), self.inputs, tuple(results))

    def _step(self, call: ex.Call) -> Place:
        step = products.STEPS.get(call.function.name) or vectors.STEPS.get(call.function.name)
        if step is None:
            raise Refused(call.function.name)
        return step(self, call)

    def _groups(self) -> list[list[ex.Call]]:
        """Steps in an order in which elementwise ones over the same lanes stand together."""
        waiting = [n for n in self._order if isinstance(n, ex.Call)]
        done: set[ex.Expression] = {n for n in self._order if not isinstance(n, ex.Call)}
        groups: list[list[ex.Call]] = []
        shape: tuple[int, ...] | None = None
        heavy = 0
        while waiting:
            ready = [
                n for n in waiting if all(a in done or not self._varies[a] for a in n.arguments)
            ]
            same = [n for n in ready if is_elementwise(n) and n.type.shape == shape]
            full = heavy >= _HEAVY_IN_A_LOOP or (groups and len(groups[-1]) >= _STEPS_IN_A_LOOP)
            if same and not full:
                chosen = same[0]
                groups[-1].append(chosen)
            else:
                # Products and the like first: what waits for them may then share a loop.
                alone = [n for n in ready if not is_elementwise(n)]
                chosen = (same or alone or ready)[0]
                groups.append([chosen])
                shape, heavy = (chosen.type.shape if is_elementwise(chosen) else None), 0
            heavy += chosen.function.name in HEAVY
            done.add(chosen)
            waiting.remove(chosen)
        return groups

    def _fused(self, group: Sequence[ex.Call]) -> None:
        """One loop of elementwise steps."""
        shape = group[0].type.shape
        inside = set(group)
        outside = {a for n in self._order if n not in inside for a in n.children} | set(self._roots)
        before = {a for n in group for a in n.arguments if self._varies[a] and a not in inside}
        for a in sorted(before, key=self._order.index):
            if a.type.shape not in ((), shape):
                raise Refused(f"{group[0].function.name} of {a.type}")
            self.lanes(a)
        index = f"c * {self.tile} + i" if shape else "i"
        loop, element = Lines(0), Lines(0)
        local: dict[ex.Expression, str] = {}
        for node in group:
            names = [self._argument(a, shape, index, local, loop, element) for a in node.arguments]
            local[node] = self.name("t")
            loop.add(f"{local[node]} = {formula(node, names)}")
            if node in outside:
                place = self._places[node] = self.room(node.type.name, node.type.size)
                loop.add(f"{place.at(index)} = {local[node]}")
        if not shape:
            with self.body.block(f"for i in range({self.tile})"):
                self.body.add(*loop.lines)
            return
        with self.body.block(f"for c in range({shape[0]})"):
            self.body.add(*element.lines)
            with self.body.block(f"for i in range({self.tile})"):
                self.body.add(*loop.lines)

    def _argument(
        self,
        a: ex.Expression,
        shape: tuple[int, ...],
        index: str,
        local: dict[ex.Expression, str],
        loop: Lines,
        element: Lines,
    ) -> str:
        """The name of an argument in a loop over lanes (of element c, for vectors)."""
        if a in local:
            return local[a]
        if self._varies[a]:
            local[a] = self.name("t")
            loop.add(f"{local[a]} = {self._places[a].at(index if a.type.shape else 'i')}")
        elif not a.type.shape:
            local[a] = self.number(a)
        else:
            if a.type.shape != shape:
                raise Refused(f"a value of the type {a.type} beside {shape[0]} elements")
            local[a] = self.name("t")
            element.add(f"{local[a]} = {self.array(a)}[c]")
        return local[a]

    # The whole.

    def _text(self, first: Lines, last: Lines, results: int) -> str:
        """The function: 0 where all went well, 1 for an index without a place."""
        given = [
            *(f"c{i}" for i in range(len(self.inputs.columns))),
            *(f"v{i}" for i in range(len(self.inputs.arrays))),
            *(f"r{i}" for i in range(results)),
        ]
        lines = Lines()
        with lines.block(f"def fold({', '.join(['rows', 'uf', 'ui', *given])})"):
            lines.add("bad = 0")
            for sizes, letter in ((self._sizes, ""), (self._partials, "a")):
                for kind, size in sizes.items():
                    if size:
                        dtype = "bool_" if kind == "bool" else kind
                        lines.add(f"{letter}{ROOMS[kind]} = np.zeros({size}, np.{dtype})")
            lines.lines += [*self._constant.lines, *first.lines]
            with lines.block(f"for t in range(0, rows, {self.tile})"):
                lines.add(f"q = min({self.tile}, rows - t)")
            for at in range(0, len(self._loading), _LOADS_IN_A_LOOP):
                with self._loads.block("for i in range(q)"):
                    self._loads.add(*self._loading[at : at + _LOADS_IN_A_LOOP])
                self._loads.settle()
            lines.lines += [*self._loads.lines, *self.body.lines, *last.lines]
            lines.add("return bad")
        return "\n".join(lines.lines) + "\n"
