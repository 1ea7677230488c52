"""One function is one entry: what it is called, what it returns, what it means for one record."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType, TupleType, Type, name_of
from scalops.algebra.sparse_rules import elementwise_type, needs_dense

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
    raise on well-typed input, so that its errors carry the user's line. `sparse` is the type
    rule where an argument is a sparse vector; without one the function has none.
    """

    name: str
    infer: Infer
    evaluate: Evaluate
    ufunc: np.ufunc | None = None
    flops: float = 1.0
    flops_of: Callable[..., float] | None = None
    form: str | None = None
    can_fail: bool = False
    sparse: Infer | None = None

    def result_type(self, *types: Type, **parameters: Any) -> Type:
        """The result's type; TypeError or ValueError where the arguments do not fit."""
        if not any(isinstance(t, ArrayType) and t.is_sparse for t in types):
            return self.infer(*types, **parameters)
        if self.sparse is None or not all(isinstance(t, ArrayType) for t in types):
            raise needs_dense(self.name, *types)
        return self.sparse(*types, **parameters)

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


_COMPARISONS = {
    "equal": operator.eq, "not_equal": operator.ne, "less": operator.lt,
    "less_equal": operator.le, "greater": operator.gt, "greater_equal": operator.ge,
}  # fmt: skip


def _compares_strings(ufunc: np.ufunc, types: tuple[ArrayType, ...]) -> bool:
    """Comparisons are the only universal functions of strings; lists have none."""
    if not any(t.is_arrow for t in types):
        return False
    listed = " and ".join(str(t) for t in types)
    if any(t.is_list for t in types):
        raise TypeError(f"{ufunc.__name__} has no meaning for {listed}; explode makes a list rows")
    if ufunc.__name__ not in _COMPARISONS or not all(t.is_string for t in types):
        raise TypeError(f"{ufunc.__name__} has no meaning for {listed}")
    if any(t.shape for t in types):
        raise TypeError(f"{ufunc.__name__} compares with one string at a time, not {listed}")
    return True


def _of_strings(ufunc: np.ufunc) -> Evaluate:
    """A comparison that is Python's for strings: NumPy's own ignores zeros at their ends."""
    compare = _COMPARISONS[ufunc.__name__]

    def evaluate(left: Any, right: Any) -> Any:
        if isinstance(left, str) and isinstance(right, str):
            return np.bool_(compare(str(left), str(right)))
        return ufunc(left, right)

    return evaluate


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
    if _compares_strings(ufunc, arrays):
        return ArrayType("bool")
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
    evaluate = _of_strings(ufunc) if ufunc.__name__ in _COMPARISONS else ufunc
    entry = Function(
        name, lambda *types: ufunc_type(ufunc, *types), evaluate, ufunc, flops=flops, form=form,
        sparse=lambda *types: elementwise_type(ufunc, types),
    )  # fmt: skip
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
            if t.is_arrow:
                raise TypeError(f"{name} has no meaning for {t}")
        result = np.asarray(evaluate(*map(example, types), **parameters))
        dtype = name_of(result.dtype)
        if dtype is None:
            raise TypeError(f"{name} would give {result.dtype}")
        return ArrayType(dtype, result.shape)

    return infer
