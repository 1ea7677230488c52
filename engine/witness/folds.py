"""The meaning of folds, one record at a time, in plain Python and NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import DataError, ScalopsError
from scalops.algebra.folds import FOLDS, Fold, OpaqueAggregate, Transition, terms
from scalops.algebra.segment_folds import Segment
from scalops.algebra.sparse import SparseVector
from scalops.engine.opaque.aggregate_results import typed_part
from scalops.engine.opaque.calls import bind, describe, python_value, user_error
from scalops.engine.opaque.records import nested_record
from scalops.engine.opaque.text import with_methods
from scalops.engine.table_errors import wrong_index

if TYPE_CHECKING:
    from scalops.engine.witness.interpreter import Interpreter

Row = dict[str, Any]


def fold_records(
    interpreter: Interpreter, folds: Iterable[Fold], rows: Iterable[Row], *, in_group: bool = False
) -> Row:
    """The folds' values over the records; null for one that has none over those of a group."""
    running = {f: _Running(interpreter, f) for f in dict.fromkeys(f.computation for f in folds)}
    evaluator = interpreter.evaluator([a for f in running for a in f.arguments])
    for row in rows:
        values = evaluator((row,))
        for fold, own in running.items():
            count = len(fold.arguments)
            own.step(values[:count])
            values = values[count:]
    return {f.name: running[f.computation].finish(f, in_group) for f in folds}


class _Running:
    """One computation under way."""

    def __init__(self, interpreter: Interpreter, fold: Fold) -> None:
        self._interpreter, self._fold = interpreter, fold
        self._state: Any = None
        self._next: Callable[[list[Any]], Any]
        if isinstance(fold, Transition):
            self._state = [interpreter.value(z) for z in fold.zero]
            self._next = self._transition(interpreter.evaluator(fold.step))
        elif isinstance(fold, OpaqueAggregate):
            self._functions = [
                bind(f, [python_value(interpreter.value(s)) for s in slots])
                for f, slots in zip(fold.functions, fold.slots, strict=True)
            ]
            self._state = self._called(2)
            self._next = self._opaque
        elif isinstance(fold, Segment):
            self._next = lambda values: [*(self._state or []), values]
        elif fold.kind == "reduce":
            self._next = self._reduce(interpreter.evaluator(fold.combine))
        else:
            self._next = lambda values: _step(fold, self._state, values)

    def step(self, values: list[Any]) -> None:
        """One more record."""
        self._state = self._next(values)

    def _transition(self, evaluate: Callable[..., list[Any]]) -> Callable[[list[Any]], Any]:
        fields, kinds = self._fold.fields, [c.type.strong() for c in self._fold.combine]

        def step(values: list[Any]) -> list[Any]:
            state = dict(zip(fields, self._state, strict=True))
            made = evaluate((state, {str(i): v for i, v in enumerate(values)}))
            old_new = zip(self._state, made, kinds, strict=True)
            return [old if new is None else as_numpy(new, k) for old, new, k in old_new]

        return step

    def _reduce(self, combine: Callable[..., list[Any]]) -> Callable[[list[Any]], Any]:
        fields = self._fold.fields

        def step(values: list[Any]) -> Any:
            if any(v is None for v in values):
                return self._state
            if self._state is None:
                return values
            left = dict(zip(fields, self._state, strict=True))
            return combine((left, dict(zip(fields, values, strict=True))))

        return step

    def _opaque(self, values: list[Any]) -> Any:
        fold = self._fold
        assert isinstance(fold, OpaqueAggregate)
        given = [python_value(v) for v in values]
        if fold.names is None:
            return self._called(0, self._state, given[0])
        record = nested_record(dict(zip(fold.names, given, strict=True)))
        return self._called(0, self._state, record)

    def _called(self, number: int, *arguments: Any) -> Any:
        fold = self._fold
        assert isinstance(fold, OpaqueAggregate)
        try:
            return self._functions[number](*arguments)
        except ScalopsError:
            raise
        except Exception as error:
            shown = [describe(a) for a in arguments[-1:]]
            raise user_error(fold.functions[number], error, shown, "it was called with") from error

    def finish(self, fold: Fold, in_group: bool = False) -> Any:
        """The value of a fold of this computation."""
        state = self._state
        if isinstance(fold, Transition):
            return as_numpy(state[fold.output], fold.type)
        if isinstance(fold, OpaqueAggregate):
            whole = state if fold.finalize is None else self._called(3, state)
            return typed_part(fold, whole)
        if isinstance(fold, Segment):
            from scalops.engine.witness.segment_folds import segmented

            state = segmented(fold, state or [], sampling=self._interpreter.sampling)
            return self._nothing(fold) if state is None else as_numpy(state, fold.type)
        if fold.kind in _KEEPING:
            return _KEEPING[fold.kind](fold, state or [], sampling=self._interpreter.sampling)
        if state is None:
            return None if in_group and fold.empty is None else self._nothing(fold)
        return as_numpy(_result(fold, state), fold.type)

    def _nothing(self, fold: Fold) -> Any:
        if fold.empty is None and not self._interpreter.sampling:
            raise DataError(f"{fold.word} over no records has no value", location=fold.location)
        if fold.kind == "count":
            return 0
        if fold.type.is_arrow:
            return fold.empty
        if fold.type.is_sparse:
            return SparseVector((), (), fold.type.size)
        return as_numpy(np.full(fold.type.shape, fold.empty or 0), fold.type)


def _step(fold: Fold, state: Any, values: list[Any]) -> Any:
    """The state after one more record; nulls are skipped."""
    kind = fold.kind
    if kind == "count":
        skipped = bool(values) and values[0] is None
        return (state or 0) + (0 if skipped else 1)
    if kind == "is_empty":
        return False
    if kind in ("first_record", "last_record"):
        return values if state is None or kind == "last_record" else state
    if kind in ("argmin", "argmax"):
        return state if values[0] is None else [*(state or []), values]
    if kind == "to_array":
        return [*(state or []), values]
    if any(v is None for v in values):
        return state
    if kind == "collect_list" or kind in _OVER_ALL:
        return [*(state or []), values[0]]
    with np.errstate(all="ignore"):
        value = _contribution(fold, values)
        if kind.startswith("mean"):
            return (value, 1) if state is None else (state[0] + value, state[1] + 1)
        return value if state is None else _COMBINE[kind](state, value)


def _contribution(fold: Fold, values: list[Any]) -> Any:
    values = [np.asarray(v) if isinstance(v, SparseVector) else v for v in values]
    match fold.kind:
        case "sum_scaled" | "add_scaled" | "mean_scaled":
            return np.multiply(values[0], values[1])
        case "sum_outer" | "add_outer" | "mean_outer":
            return np.multiply.outer(values[0], values[1])
        case "sum_gram" | "add_gram" | "mean_gram":
            return values[0] * np.multiply.outer(values[1], values[1])
        case "sum_squares" | "add_squares" | "mean_squares":
            return values[0][:, None] * np.square(values[1] - values[2])
        case "sum_terms" | "add_terms" | "mean_terms":
            made = [_TERM[form](*values[own]) for form, own in terms(fold)]
            return reduce(np.add, made)
        case "sum" | "mean" | "any" | "all":
            return np.asarray(values[0]).astype(fold.type.numpy)[()]
        case _:
            return values[0]


_TERM: dict[str, Callable[..., Any]] = {
    "scaled": np.multiply,
    "outer": np.multiply.outer,
    "gram": lambda s, x: s * np.multiply.outer(x, x),
    "same": np.asarray,
}


def _result(fold: Fold, state: Any) -> Any:
    match fold.kind:
        case "mean" | "mean_scaled" | "mean_outer" | "mean_gram" | "mean_terms" | "mean_squares":
            return state[0] / state[1]
        case "reduce" | "first_record" | "last_record":
            return state[fold.output]
        case "argmin" | "argmax":
            by = [values[0] for values in state]
            if isinstance(by[0], str):
                at = by.index(min(by) if fold.kind == "argmin" else max(by))
            else:
                at = int(getattr(np, fold.kind)(np.array(by)))
            return state[at][1 + fold.output]
        case kind if kind in _OVER_ALL:
            return _OVER_ALL[kind](state, **dict(fold.parameters))
        case _:
            return state


def _key(value: Any) -> Any:
    """Something that is equal for equal values: NaN is itself, 0.0 is -0.0."""
    if isinstance(value, np.ndarray):
        return tuple(map(_key, value))
    if isinstance(value, list):
        return tuple(map(_key, value))
    if isinstance(value, SparseVector):
        stored = zip(value.indices.tolist(), value.values.tolist(), strict=True)
        return tuple((i, _key(v)) for i, v in stored if v != 0)
    if isinstance(value, (float, np.floating)) and np.isnan(value):
        return "NaN"
    return value


def _variance(values: list[Any], ddof: float) -> Any:
    with np.errstate(all="ignore"):
        wide = np.array(values).astype(np.float64)
        around = np.square(wide - wide.mean(axis=0)).sum(axis=0)
        return np.divide(around, max(len(values) - ddof, 0))


_OVER_ALL: dict[str, Callable[..., Any]] = {
    "first": lambda values: values[0],
    "last": lambda values: values[-1],
    "var": _variance,
    "std": lambda values, ddof: np.sqrt(_variance(values, ddof)),
    "n_unique": lambda values: len(set(map(_key, values))),
    "quantile": lambda values, q: (
        np.quantile(
            np.array(values) * np.ones((), np.uint8 if isinstance(values[0], np.bool_) else None),
            q,
            0,
        )
        if isinstance(values[0], np.bool_)
        else np.quantile(np.array(values), q, axis=0)
    ),
}

_COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "sum": np.add, "add": np.add, "multiply": np.multiply,
    "sum_scaled": np.add, "add_scaled": np.add, "sum_outer": np.add, "add_outer": np.add,
    "sum_squares": np.add, "add_squares": np.add,
    "sum_gram": np.add, "add_gram": np.add, "sum_terms": np.add, "add_terms": np.add,
    "minimum": lambda a, b: min(a, b) if isinstance(a, str) else np.minimum(a, b),
    "maximum": lambda a, b: max(a, b) if isinstance(a, str) else np.maximum(a, b),
    "any": np.logical_or, "all": np.logical_and, "logical_or": np.logical_or,
    "logical_and": np.logical_and, "bitwise_or": np.bitwise_or, "bitwise_and": np.bitwise_and,
}  # fmt: skip


def _list(fold: Fold, state: list[Any], *, sampling: bool) -> list[Any]:
    """The values as a list's items are."""
    made: list[Any] = with_methods([_item(v) for v in state])
    return made


def _item(value: Any) -> Any:
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return python_value(value)
    if isinstance(value, np.ndarray):
        return value.reshape(-1).tolist()  # Arrow's fixed-size lists are flat
    return value.item() if isinstance(value, np.generic) else value


def _array(fold: Fold, state: list[Any], *, sampling: bool) -> Any:
    """The values by index, or which of them there are; a sample's wrong ones are passed over."""
    kind, size = fold.arguments[1].type, dict(fold.parameters)["size"]
    made = np.zeros((size, *kind.shape), kind.numpy)
    there = np.zeros(size, bool)
    for index, value in state:
        what: Any = None
        if index is None:
            what = "null"
        elif not 0 <= index < size:
            what = "outside"
        elif value is None:
            what = "value"
        elif there[index]:
            what = "twice"
        if what is not None:
            if sampling:
                continue
            raise wrong_index(fold, index, what)
        made[index], there[index] = value, True
    return made if fold.output == 0 else there


_KEEPING: dict[str, Callable[..., Any]] = {"collect_list": _list, "to_array": _array}
_OTHERS = {
    "collect_list",
    "to_array",
    "count",
    "is_empty",
    "mean",
    "mean_scaled",
    "mean_outer",
    "mean_gram",
    "mean_terms",
    "mean_squares",
    "first_record",
    "last_record",
}
assert set(_COMBINE) | set(_OVER_ALL) | _OTHERS | {"argmin", "argmax"} == set(FOLDS)


def as_numpy(value: Any, kind: ArrayType) -> Any:
    """A value in its declared type: a NumPy scalar, an array, a string; None is null."""
    if value is None or kind.is_arrow or kind.weak:
        return value
    if kind.is_sparse:
        return value
    array = np.asarray(value)
    if array.dtype != kind.numpy:
        array = array.astype(kind.numpy)
    return array[()]
