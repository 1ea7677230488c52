"""Attacks by row functions: what they ask of a symbol, return, capture and change."""

from __future__ import annotations

import itertools
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import scalops as so
from tests.language.attacks.table import T, ends_in

SEEN: list[Any] = []
COUNTER = itertools.count()


class Unfriendly:
    """An object whose every question fails."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"do not ask for {name}")

    def __reduce__(self) -> Any:
        raise RuntimeError("cannot be pickled")


# What changes from call to call runs record by record; here that is refused.


def strict() -> Any:
    """A session in which what cannot be traced is an error."""
    return so.session(opaque="error")


@ends_in(so.TraceError, r"another expression when called again \(random numbers.*refused")
def random_numbers(_: Path) -> Any:
    with strict():
        return T.map(lambda r: r.a + random.random())


@ends_in(so.TraceError, r"another expression when called again \(random numbers.*refused")
def numpys_generator(_: Path) -> Any:
    rng = np.random.default_rng(0)
    with strict():
        return T.map(lambda r: r.a + rng.normal())


@ends_in(so.TraceError, r"another expression when called again \(random numbers, a clock.*refused")
def a_clock(_: Path) -> Any:
    with strict():
        return T.filter(lambda r: r.a > time.perf_counter_ns())


@ends_in(so.TraceError, r"another expression when called again .*a counter\).*refused")
def a_counter(_: Path) -> Any:
    with strict():
        return T.map(lambda r: r.k + next(COUNTER))


@ends_in(so.TraceError, r"another expression when called again .*refused")
def a_growing_list(_: Path) -> Any:
    def f(r: Any) -> Any:
        SEEN.append(1)
        return r.k + len(SEEN)

    with strict():
        return T.map(f)


@ends_in(so.TraceError, r"asks for a truth value, and opaque functions are refused")
def an_except_that_hides_the_question(_: Path) -> Any:
    def f(r: Any) -> Any:
        try:
            return 1.0 if r.a > 1 else 0.0
        except BaseException:
            return 2.0

    with strict():
        return T.map(f)


@ends_in(so.TraceError, r"asks for a string, and opaque functions are refused")
def a_text_that_shows_the_record(_: Path) -> Any:
    with strict():
        return T.map(lambda r: f"record {r.k}")


@ends_in(so.TraceError, r"unhashable type: 'Value', and opaque functions are refused")
def a_dictionary_of_columns(_: Path) -> Any:
    with strict():
        return T.map(lambda r: {1: 2.0}.get(r.k, 0.0))


@ends_in(so.TraceError, r"the lambda asks for a truth value, and opaque functions are refused")
def a_membership(_: Path) -> Any:
    with strict():
        return T.map(lambda r: r.k in (1, 2))


@ends_in(so.TraceError, r"the lambda asks for an index, and opaque functions are refused")
def a_python_list_by_a_column(_: Path) -> Any:
    with strict():
        return T.map(lambda r: [1.0, 2.0, 3.0, 4.0][r.k])


@ends_in(so.TraceError, r"gives .* when called plainly and .* when traced")
def a_test_of_the_type(_: Path) -> Any:
    return T.map(lambda r: r.a if type(r.a) is so.Value else -r.a).collect()


@ends_in(so.TraceError, r"gives .* when called plainly and .* when traced")
def an_attribute_that_only_a_symbol_has(_: Path) -> Any:
    return T.map(lambda r: r.a * (2 if hasattr(r.a, "expression") else 1)).collect()


@ends_in(so.TraceError, r"the lambda gives 0\.0 when called plainly and None when traced")
def an_identity_with_none(_: Path) -> Any:
    return T.map(lambda r: 0.0 if r.n is None else r.n).collect()


@ends_in(so.ExecutionError, r"the machine has not the memory: .*TiB")
def a_record_of_a_trillion_numbers(_: Path) -> Any:
    return T.map(lambda r: np.broadcast_to(r.a, (10**6, 10**6))).collect()


@ends_in(so.UserFunctionError, r"MemoryError: .*TiB")
def a_constant_of_a_trillion_numbers(_: Path) -> Any:
    return T.map(lambda r: np.outer(np.ones(10**6), np.ones(10**6)) * r.a)


# What is returned.


@ends_in(so.TraceError, r"the function of map returns a generator as 'value'")
def a_generator(_: Path) -> Any:
    def f(r: Any) -> Any:
        yield r.a

    return T.map(f).collect()


@ends_in(so.TraceError, r"returns a function")
def a_lambda_as_the_result(_: Path) -> Any:
    return T.map(lambda r: lambda: r.a)


@ends_in(so.TraceError, r"the function of map returns a set as 'value'")
def a_set_as_the_result(_: Path) -> Any:
    return T.map(lambda r: {1, 2})


@ends_in(so.TraceError, r"the function of map returns a Table as 'value'")
def a_table_as_the_result(_: Path) -> Any:
    return T.map(lambda r: T)


@ends_in(so.TraceError, r"the function of map returns a NoneType as 'b'")
def nothing_in_a_column(_: Path) -> Any:
    return T.map(lambda r: {"a": r.a, "b": None})


@ends_in(so.TraceError, r"the function of map returns no columns")
def an_empty_dict(_: Path) -> Any:
    return T.map(lambda r: {})


@ends_in(so.TraceError, r"the function of map returns no columns")
def an_empty_tuple(_: Path) -> Any:
    return T.map(lambda r: ())


@ends_in(so.TraceError, r"the function of map returns a list as 'value'")
def a_ragged_list(_: Path) -> Any:
    return T.map(lambda r: [[1.0], [1.0, 2.0]])


@ends_in(so.TraceError, r"the function of map returns a ndarray as 'value'")
def an_array_of_objects(_: Path) -> Any:
    return T.map(lambda r: np.array([object(), 1], dtype=object))


@ends_in(so.TraceError, r"the lambda gives a complex, which is no column")
def a_complex_number(_: Path) -> Any:
    return T.map(lambda r: r.a * 1j)


@ends_in(so.TraceError, r"the function of map returns a type as 'value'")
def a_class_as_the_result(_: Path) -> Any:
    return T.map(lambda r: int)


@ends_in(so.SchemaError, r"a record has no column 'nope'; its columns are \['_0', '_1'\]")
def the_record_twice(_: Path) -> Any:
    return T.map(lambda r: (r, r)).map(lambda p: p.nope)


@ends_in(so.TraceError, r"the function of map returns a module as 'value'")
def a_module_as_the_result(_: Path) -> Any:
    return T.map(lambda r: np)


@ends_in(so.TraceError, r"returns an array of strings as 'value'; a column holds one string")
def an_array_of_words(_: Path) -> Any:
    return T.map(lambda r: ["a", "b"])


@ends_in(so.TraceError, r"the number 1e\+30 does not fit int64.*write it as a float")
def a_number_too_large(_: Path) -> Any:
    return T.map(lambda r: r.k + 10**30)


@ends_in(so.TraceError, r"the number 9223372036854775808 does not fit int64")
def a_constant_one_too_large(_: Path) -> Any:
    return so.lit(2**63)


# What is asked of a record and of a symbol.


@ends_in(so.SchemaError, r"a record cannot be changed: r\.a = .*return the new columns")
def assignment_to_a_column(_: Path) -> Any:
    def f(r: Any) -> Any:
        r.a = r.a + 1
        return r

    return T.map(f)


@ends_in(so.SchemaError, r"a record cannot be changed")
def deletion_of_a_column(_: Path) -> Any:
    def f(r: Any) -> Any:
        del r.a
        return r

    return T.map(f)


@ends_in(so.TraceError, r"a Value is immutable: v\[i\] = x has no effect on a plan")
def assignment_to_a_slice(_: Path) -> Any:
    def f(r: Any) -> Any:
        v = r.x
        v[1:3] = 0.0
        return v

    return T.map(f)


@ends_in(so.TraceError, r"add cannot write a Value into an array \(out=, or \+= on an array\)")
def an_out_argument(_: Path) -> Any:
    out = np.zeros(4)

    return T.map(lambda r: np.add(r.x, 1.0, out=out))


@ends_in(so.TraceError, r"add cannot write a Value into an array \(out=, or \+= on an array\)")
def an_array_added_to_in_place(_: Path) -> Any:
    def f(r: Any) -> Any:
        v = np.zeros(4)
        v += r.x
        return v

    return T.map(f).collect()


@ends_in(so.TraceError, r"cast to 'banana'; expected one of bool, int8, int16")
def astype_to_nonsense(_: Path) -> Any:
    return T.map(lambda r: r.x.astype("banana"))


@ends_in(so.TraceError, r"cast has no meaning for float64\[4\] to string")
def astype_to_an_object(_: Path) -> Any:
    return T.map(lambda r: r.x.astype(object))


@ends_in(so.TraceError, r"cannot reshape array of size 4 into shape \(3,3\)")
def a_shape_that_does_not_fit(_: Path) -> Any:
    return T.map(lambda r: r.x.reshape(3, 3))


@ends_in(so.TraceError, r"axis -3 is out of bounds for an array of 1 axes")
def an_axis_that_is_not_there(_: Path) -> Any:
    return T.map(lambda r: np.max(r.x, axis=-3))


@ends_in(so.TraceError, r"axes don't match array")
def axes_that_are_none(_: Path) -> Any:
    return T.map(lambda r: r.x.transpose(0, 1))


@ends_in(so.TraceError, r"axis is a str; expected an int, a tuple of ints or None")
def an_axis_by_a_word(_: Path) -> Any:
    return T.map(lambda r: r.x.sum(axis="rows"))


@ends_in(so.TraceError, r"reshape of float64\[4\].*sizes that make shapes are Python ints")
def a_shape_of_nothing(_: Path) -> Any:
    return T.map(lambda r: r.x.reshape(None))


@ends_in(so.TraceError, r"axes are Python ints")
def axes_by_a_word(_: Path) -> Any:
    return T.map(lambda r: r.x.transpose("xy"))


@ends_in(so.TraceError, r"matmul needs vectors or matrices, not float64 and float64")
def a_product_of_scalars(_: Path) -> Any:
    return T.map(lambda r: r.a @ r.a)


@ends_in(so.TraceError, r"matmul cannot multiply float64\[3,3\] by float64\[4\]: 3 is not 4")
def a_product_that_does_not_fit(_: Path) -> Any:
    return T.map(lambda r: np.ones((3, 3)) @ r.x)


@ends_in(so.TraceError, r"too many indices for array: array is 1-dimensional, but 2 were indexed;")
def too_many_indices(_: Path) -> Any:
    return T.map(lambda r: r.x[0, 0])


@ends_in(so.UserFunctionError, r"IndexError: only integers, slices.*the record is")
def an_index_that_is_a_string(_: Path) -> Any:
    return T.map(lambda r: r.x["first"])


@ends_in(so.UserFunctionError, r"IndexError: only integers, slices.*the record is")
def an_index_that_is_a_float(_: Path) -> Any:
    return T.map(lambda r: r.x[1.5])


@ends_in(so.SchemaError, r"a record has no column 'aa'")
def a_column_that_is_not_there(_: Path) -> Any:
    return T.map(lambda r: getattr(r, "aa"))  # noqa: B009


@ends_in(so.SchemaError, r"a record has no column 'p'")
def a_column_by_a_symbol(_: Path) -> Any:
    return T.map(lambda r: r[r.s])


@ends_in(so.UserFunctionError, r"AttributeError: .*has no attribute 'shiny'; the record is")
def a_method_that_is_not_there(_: Path) -> Any:
    return T.map(lambda r: r.x.shiny())


@ends_in(so.TraceError, r"asks for np\.rfft, and opaque functions are refused")
def a_numpy_function_that_is_not_there(_: Path) -> Any:
    with strict():
        return T.map(lambda r: np.fft.rfft(r.x).real)


@ends_in(so.UserFunctionError, r"TypeError: sum\(\) got an unexpected keyword argument 'axes'")
def a_keyword_that_is_not_there(_: Path) -> Any:
    return T.map(lambda r: np.sum(r.x, axes=0))  # type: ignore[call-overload]


@ends_in(so.UserFunctionError, r"the lambda raised TypeError: Cannot interpret '2' as a data type")
def a_method_with_too_many_arguments(_: Path) -> Any:
    return T.map(lambda r: r.x.sum(1, 2, 3, 4, 5))


@ends_in(so.TraceError, r"map's function has the parameters \(\); it takes one, the record")
def a_function_of_nothing(_: Path) -> Any:
    return T.map(lambda: 1)


@ends_in(
    so.TraceError, r"map's function has the parameters \(r, \*, scale\); it takes one, the record"
)
def a_function_with_a_keyword_that_must_be_given(_: Path) -> Any:
    return T.map(lambda r, *, scale: r.a * scale)


@ends_in(so.TraceError, r"the function of map returns a Pair as 'value'")
def a_class_for_a_function(_: Path) -> Any:
    class Pair:
        def __init__(self, r: Any) -> None:
            self.r = r

    return T.map(Pair)


@ends_in(so.PlanError, r"reads the record of another row function")
def numbers_kept_from_another_row(_: Path) -> Any:
    kept: list[Any] = []

    def f(r: Any) -> Any:
        kept.append(r.a)
        return r.a - kept[0]

    return T.map(f).collect()


@ends_in(so.UserFunctionError, r"f\(\) raised RecursionError: maximum recursion depth exceeded")
def a_function_that_calls_itself(_: Path) -> Any:
    def f(r: Any) -> Any:
        return f(r) + 1

    return T.map(f).collect()


@ends_in(so.TraceError, r"do not ask for weight, and cannot be captured: its variable 'other'")
def an_object_that_refuses_all_questions(_: Path) -> Any:
    other = Unfriendly()
    return T.map(lambda r: r.a + other.weight)


@ends_in(
    so.UserFunctionError, r"the lambda raised ZeroDivisionError: integer division or modulo by zero"
)
def an_exception_of_its_own(_: Path) -> Any:
    return T.map(lambda r: r.a * (1 // 0))


@ends_in(so.UserFunctionError, r"f\(\) raised AssertionError: too small")
def an_assertion(_: Path) -> Any:
    def f(r: Any) -> Any:
        assert r.a > 1, "too small"
        return r.a

    return T.map(f).collect()


@ends_in(so.UserFunctionError, r"the lambda raised SystemExit: 3")
def an_exit(_: Path) -> Any:
    return T.map(so.udf(lambda r: sys.exit(3), returns=so.float64)).collect()


@ends_in(so.UserFunctionError, r"the lambda raised StopIteration:")
def an_iterator_that_ends(_: Path) -> Any:
    few = iter([1.0])
    return T.map(so.udf(lambda r: next(iter([])), returns=so.float64)).collect() or few


@ends_in(so.UserFunctionError, r"TypeError: Object of type Record is not JSON serializable")
def a_record_as_json(_: Path) -> Any:
    return T.map(lambda r: json.dumps(r)).collect()
