"""One function is one entry: what it is called, what it returns, what it means for one record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType, TupleType, Type, name_of

Infer = Callable[..., Type]
Evaluate = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Function:
    """A pure function of arrays.

    `infer(*types, **parameters)` gives the result's type and raises TypeError or ValueError
    with a reason where the arguments do not fit. `evaluate(*arrays, **parameters)` is the
    meaning for one record, in NumPy. `flops` is the cost per element of the result
    (`flops_of` where that is not enough). `form` is an operator for printing ("+"), else the
    call form is used. `ufunc` marks an elementwise function. `can_fail` marks one that may
    raise on well-typed input, so that its errors carry the user's line.
    """

    name: str
    infer: Infer
    evaluate: Evaluate
    ufunc: np.ufunc | None = None
    flops: float = 1.0
    flops_of: Callable[..., float] | None = None
    form: str | None = None
    can_fail: bool = False

    @property
    def elementwise(self) -> bool:
        return self.ufunc is not None

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> Any:
        # By name: both sides have the same table. A ufunc used by nobody yet is added there.
        return (function, (self.name,)) if self.ufunc is None else (ufunc_function, (self.ufunc,))


FUNCTIONS: dict[str, Function] = {}


def register(entry: Function) -> Function:
    """Add an entry to the table; a name stands for one function only."""
    if entry.name in FUNCTIONS:
        raise ValueError(f"function {entry.name!r} is already in the table")
    FUNCTIONS[entry.name] = entry
    return entry


def function(name: str) -> Function:
    """The entry of that name."""
    return FUNCTIONS[name]


def _strings_as_objects(ufunc: np.ufunc, types: tuple[ArrayType, ...]) -> np.dtype[Any] | None:
    """Comparisons are the only elementwise functions of strings."""
    if not any(t.is_string for t in types):
        return None
    comparisons = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
    if ufunc.__name__ in comparisons and all(t.is_string for t in types):
        return np.dtype(bool)
    listed = " and ".join(str(t) for t in types)
    raise TypeError(f"{ufunc.__name__} has no meaning for {listed}")


def ufunc_type(ufunc: np.ufunc, *types: Type) -> Type:
    """NumPy's promotion (NEP 50: weak Python numbers) and broadcasting."""
    arrays = tuple(t for t in types if isinstance(t, ArrayType))
    if len(arrays) != len(types):
        raise TypeError(f"{ufunc.__name__} takes arrays, not a tuple of values")
    try:
        shape = np.broadcast_shapes(*(t.shape for t in arrays))
    except ValueError:
        listed = " and ".join(str(t) for t in arrays)
        raise ValueError(f"{ufunc.__name__} cannot combine the shapes of {listed}") from None
    if (strings := _strings_as_objects(ufunc, arrays)) is not None:
        return ArrayType(str(strings), shape)
    weak = all(t.weak for t in arrays)
    given = [t.python if t.weak and not weak else t.numpy for t in arrays]
    try:
        resolved = ufunc.resolve_dtypes((*given, *[None] * ufunc.nout))
    except TypeError:
        listed = " and ".join(str(t) for t in arrays)
        raise TypeError(f"{ufunc.__name__} has no meaning for {listed}") from None
    results = []
    for dtype in resolved[ufunc.nin :]:
        name = name_of(dtype)
        if name is None:
            raise TypeError(f"{ufunc.__name__} would give {dtype}, which tables cannot hold")
        results.append(ArrayType(name, shape, weak=weak and dtype.kind in "iuf"))
    return results[0] if len(results) == 1 else TupleType(tuple(results))


def ufunc_function(ufunc: np.ufunc) -> Function:
    """The entry of any NumPy or SciPy universal function, added when first used."""
    known = _BY_UFUNC.get(ufunc)
    if known is not None:
        return known
    if ufunc.signature is not None:
        raise TypeError(f"{ufunc.__name__} is a generalised ufunc ({ufunc.signature})")
    name = ufunc.__name__
    while name in FUNCTIONS:  # another library's ufunc of the same name
        name += "_"
    return register_ufunc(name, ufunc, flops=20.0)


def register_ufunc(
    name: str, ufunc: np.ufunc, flops: float = 1.0, form: str | None = None
) -> Function:
    """Add an elementwise function."""
    entry = Function(
        name, lambda *types: ufunc_type(ufunc, *types), ufunc, ufunc, flops=flops, form=form
    )
    _BY_UFUNC[ufunc] = register(entry)
    return entry


_BY_UFUNC: dict[np.ufunc, Function] = {}


def example(kind: ArrayType) -> Any:
    """An array of that type and shape which takes no memory; for asking NumPy for its rules."""
    if kind.weak and not kind.shape:
        return kind.python(1)
    return np.broadcast_to(np.ones((), kind.numpy), kind.shape)


def infer_by_example(name: str, evaluate: Evaluate) -> Infer:
    """The type rule of a function whose result's shape NumPy itself tells best."""

    def infer(*types: ArrayType, **parameters: Any) -> ArrayType:
        for t in types:
            if t.is_string:
                raise TypeError(f"{name} has no meaning for {t}")
        result = np.asarray(evaluate(*map(example, types), **parameters))
        dtype = name_of(result.dtype)
        if dtype is None:
            raise TypeError(f"{name} would give {result.dtype}")
        return ArrayType(dtype, result.shape)

    return infer
