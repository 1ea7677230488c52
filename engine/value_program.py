"""Driver values: expressions over slots, compiled once, without a block axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import ExecutionError, ScalopsError
from scalops.algebra.tree import Node
from scalops.engine.kernels.nulls import minds_nulls, of_none
from scalops.engine.opaque.driver_calls import DriverFunction

LARGE_BYTES = 1 << 16  # arrays that are not held, or made, without need


def typed(value: Any, kind: ArrayType) -> Any:
    """A driver value in its type: weak numbers as Python's, the rest as NumPy's."""
    if value is None or kind.is_arrow or kind.is_object:
        return value
    if kind.weak:
        return (
            value
            if isinstance(value, (bool, int, float)) and not isinstance(value, np.generic)
            else kind.python(value)
        )
    if getattr(value, "dtype", None) == kind.numpy:
        return value
    return np.asarray(value).astype(kind.numpy)[()]


class ValueProgram:
    """Expressions over slots, compiled to steps in order."""

    def __init__(self, roots: Sequence[ex.Expression]) -> None:
        self._registers: list[Any] = []
        self._reads: list[tuple[int, int]] = []
        self._steps: list[tuple[Callable[..., Any], tuple[int, ...], int, ex.Expression]] = []
        index: dict[Node, int] = {}
        stack: list[tuple[Node, bool]] = [(r, False) for r in reversed(roots)]
        while stack:
            node, entered = stack.pop()
            if node in index or not isinstance(node, ex.Expression):
                continue
            if not entered:
                stack.append((node, True))
                stack.extend((c, False) for c in reversed(node.children))
                continue
            register = index[node] = len(self._registers)
            self._registers.append(None)
            self._add(node, register, index)
        self._roots = [index[r] for r in roots]
        self._nullable = any(minds_nulls(node) for *_, node in self._steps) or any(
            isinstance(node, ex.Held) and node.value is None for node in index
        )
        self._reuse()
        made = [r for r, _ in self._reads] + [target for _, _, target, _ in self._steps]
        kinds = {r: node.any_type for node, r in index.items() if isinstance(node, ex.Expression)}
        self._large = [r for r in made if _is_large(kinds[r])]

    def _reuse(self) -> None:
        """Let universal functions write where an operand lies that nobody else reads."""
        readers: dict[int, int] = dict.fromkeys(self._roots, 2)
        for _, arguments, _, _ in self._steps:
            for a in {*arguments}:
                readers[a] = readers.get(a, 0) + 1
        fresh: dict[int, Any] = {}
        for i, (apply, arguments, target, node) in enumerate(self._steps):
            if not isinstance(apply, np.ufunc) or not _is_large(node.any_type):
                continue
            kind = fresh[target] = node.type
            own = [p for p, a in enumerate(arguments) if readers[a] == 1 and fresh.get(a) == kind]
            if own:
                self._steps[i] = _into(apply, own[0], kind), arguments, target, node

    def _add(self, node: ex.Expression, register: int, index: dict[Node, int]) -> None:
        match node:
            case ex.Constant(value=value) | ex.Held(value=value):
                self._registers[register] = value
            case ex.Slot(number=number):
                self._reads.append((register, number))
            case ex.Item(source=source, index=i):
                self._steps.append((_item(i), (index[source],), register, node))
            case ex.Call(function=function, arguments=arguments):
                parameters = dict(node.parameters)
                apply = function.evaluate
                if parameters:
                    apply = _with_parameters(apply, parameters)
                self._steps.append((apply, tuple(index[a] for a in arguments), register, node))
            case ex.DriverCall(arguments=arguments, slots=slots):
                given = tuple(index[a] for a in (*arguments, *slots))
                self._steps.append((DriverFunction(node), given, register, node))
            case _:
                raise TypeError(f"{type(node).__name__} is no driver value")

    def run(self, slots: Sequence[Any]) -> list[Any]:
        """The roots' values."""
        registers = self._registers
        nullable = self._nullable
        for register, slot in self._reads:
            registers[register] = slots[slot]
            nullable = nullable or slots[slot] is None
        for apply, arguments, target, node in self._steps:
            given = [registers[a] for a in arguments]
            if nullable and not isinstance(node, ex.DriverCall) and any(g is None for g in given):
                registers[target] = of_none(node, given) if isinstance(node, ex.Call) else None
                continue
            try:
                registers[target] = apply(*given)
            except ScalopsError as error:
                error.location = error.location or node.location
                raise
            except Exception as error:
                raise _failed(node, error) from error
        results = [registers[r] for r in self._roots]
        for register in self._large:
            registers[register] = None
        return results


def _failed(node: ex.Expression, error: Exception) -> ExecutionError:
    name = node.function.name if isinstance(node, ex.Call) else "a step"
    hint = None
    if isinstance(error, np.linalg.LinAlgError):
        hint = "the matrix has no such solution; a small multiple of the identity may help"
    return ExecutionError(f"{name} failed: {error}", location=node.location, hint=hint)


def _is_large(kind: Any) -> bool:
    return isinstance(kind, ArrayType) and not kind.is_sparse and kind.bytes >= LARGE_BYTES


def _into(ufunc: np.ufunc, position: int, kind: ArrayType) -> Callable[..., Any]:
    """The function with its result in place of the argument at this position."""

    def apply(*arguments: Any) -> Any:
        own = arguments[position]
        lies = isinstance(own, np.ndarray) and own.shape == kind.shape and own.flags.writeable
        if not lies or own.dtype != kind.numpy or np.result_type(*arguments) != kind.numpy:
            return ufunc(*arguments)
        return ufunc(*arguments, out=own)

    return apply


def _item(index: int) -> Callable[[Any], Any]:
    return lambda several: several[index]


def _with_parameters(function: Callable[..., Any], given: dict[str, Any]) -> Callable[..., Any]:
    return lambda *arguments: function(*arguments, **given)
