"""Types are NumPy's: of every elementwise function, over dtypes, shapes and Python numbers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalops.algebra.dtypes import ArrayType, TupleType, Type, name_of, type_of
from scalops.algebra.functions import FUNCTIONS, function, ufunc_function
from tests.quick import repeated

DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
)  # fmt: skip
ELEMENTWISE = [f for f in FUNCTIONS.values() if f.elementwise]

shapes = st.sampled_from([(), (), (3,), (1,), (2, 3), (2, 1)])
arrays = st.builds(lambda name, shape: np.ones(shape, name)[()], st.sampled_from(DTYPES), shapes)
numbers = st.sampled_from([True, 1, 2, 1.0, 0.5])
values = st.one_of(arrays, arrays, numbers)


def known(value: Any) -> ArrayType:
    kind = type_of(value)
    assert kind is not None
    return kind


def inferred(infer: Any, *given: Any, **parameters: Any) -> Type | None:
    """The type, or None where the rule refuses."""
    try:
        kind: Type = infer(*map(known, given), **parameters)
    except (TypeError, ValueError, IndexError):
        return None
    return kind


def evaluated(evaluate: Any, *given: Any, **parameters: Any) -> Any:
    """NumPy's result, or None where NumPy refuses or gives what no table holds."""
    try:
        with np.errstate(all="ignore"):
            made = evaluate(*given, **parameters)
    except (TypeError, ValueError, IndexError):
        return None
    return made if name_of(np.asarray(made).dtype) is not None else None


def agree(kind: Type | None, made: Any) -> bool:
    if kind is None or made is None:
        return kind is None and made is None
    assert isinstance(kind, ArrayType)
    return (kind.name, kind.shape) == (np.asarray(made).dtype.name, np.shape(made))


@repeated(3)
@given(st.tuples(values, values))
@settings(max_examples=40)
def test_every_elementwise_function_has_numpys_type_and_shape(
    run: int, given: tuple[Any, Any]
) -> None:
    for entry in ELEMENTWISE:
        assert entry.ufunc is not None
        own = given[: entry.ufunc.nin]
        made = evaluated(entry.evaluate, *own)
        assert agree(inferred(entry.infer, *own), made), (entry, own, made)


@repeated(3)
@given(st.tuples(values, values, values))
@settings(max_examples=34)
def test_where_has_numpys_type_and_shape(run: int, given: tuple[Any, Any, Any]) -> None:
    entry = function("where")
    assert agree(inferred(entry.infer, *given), evaluated(entry.evaluate, *given))


@given(arrays, st.sampled_from(DTYPES))
def test_cast_has_the_type_it_names(value: Any, dtype: str) -> None:
    entry = function("cast")
    kind = inferred(entry.infer, value, dtype=dtype)
    assert agree(kind, evaluated(entry.evaluate, value, dtype=dtype))


@repeated(3)
@given(
    st.sampled_from(["matmul", "outer", "solve", "inv", "det", "norm", "sum", "mean", "prod", "max",
                     "any", "argmin", "var", "cumsum", "sort", "diag", "trace", "assemble"]),
    st.sampled_from(DTYPES),
    st.sampled_from(["float64", "float32", "int8"]),
    st.sampled_from([(), (2,), (2, 2), (2, 3), (3,), (3, 2, 2)]),
    st.sampled_from([(2,), (2, 2), (3,), (2, 2, 3)]),
)  # fmt: skip
@settings(max_examples=84)
def test_functions_of_arrays_have_numpys_type_and_shape(
    run: int, name: str, left: str, right: str, shape: tuple[int, ...], other: tuple[int, ...]
) -> None:
    entry = function(name)
    a, b = np.zeros(shape, left)[()], np.zeros(other, right)
    if name in ("solve", "inv"):
        if a.ndim != 2 or a.shape[-1] != a.shape[-2]:
            return
        a = (a + np.eye(a.shape[-1], dtype=a.dtype)).astype(a.dtype)
    if left == "float16" and name in ("inv", "det", "norm"):
        return  # NumPy's linear algebra has none
    if name == "solve" and not {left, right} <= {"float32", "float64"}:
        return
    given = (a, b) if name in ("matmul", "outer", "solve") else (a,)
    kind, made = inferred(entry.infer, *given), evaluated(entry.evaluate, *given)
    if kind is not None:
        assert agree(kind, made), (name, kind, made)


def test_functions_of_several_results_have_a_tuple_of_types() -> None:
    modf = ufunc_function(np.modf)
    assert modf.infer(ArrayType("float32", (2,))) == TupleType((ArrayType("float32", (2,)),) * 2)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, ArrayType("bool")),
        (1, ArrayType("int64", weak=True)),
        (1.0, ArrayType("float64", weak=True)),
        (np.float64(1.0), ArrayType("float64")),
        (np.int8(1), ArrayType("int8")),
        ("text", ArrayType("string")),
        (np.datetime64("2020-01-01", "us"), ArrayType("timestamp[us]")),
        (np.zeros((2, 3), np.float32), ArrayType("float32", (2, 3))),
        (1j, None),
        (object(), None),
    ],
)
def test_types_of_values(value: object, kind: ArrayType | None) -> None:
    assert type_of(value) == kind


def test_python_numbers_take_their_partners_width() -> None:
    add = function("add")
    assert add.infer(ArrayType("float32"), known(1.5)) == ArrayType("float32")
    assert add.infer(ArrayType("int8"), known(1)) == ArrayType("int8")
    assert add.infer(ArrayType("int8"), known(1.5)) == ArrayType("float64")
    assert add.infer(known(1), known(2)) == ArrayType("int64", weak=True)


@pytest.mark.parametrize("name", ["add", "less", "equal", "exp", "bitwise_and"])
def test_strings_are_only_compared(name: str) -> None:
    entry = function(name)
    assert entry.ufunc is not None
    given = ["a", "b"][: entry.ufunc.nin]
    kind = inferred(entry.infer, *given)
    assert kind == (ArrayType("bool") if name in ("less", "equal") else None)


def test_a_type_prints_as_name_and_shape() -> None:
    assert str(ArrayType("float64", (3, 4))) == "float64[3,4]"
    assert str(ArrayType("int8")) == "int8"
    assert str(TupleType((ArrayType("int8"), ArrayType("bool")))) == "(int8, bool)"
