"""Ill-formed programs: each ends in its error, which alone tells what, where and what to do."""

from __future__ import annotations

import math
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import scalops as so

A = np.array([1.0, 2.0, 3.0])
T = so.table({
    "price": A, "k": [1, 2, 3], "x": np.ones((3, 4)), "m": np.ones((3, 2, 2)),
    "s": ["p", "q", None], "n": pa.array([1.0, None, 3.0]), "b": [True, False, True],
})  # fmt: skip
BARE = T.map(lambda r: r.price)


class Model(so.Environment):
    """A loop's state."""

    w: Any
    loss: float


START = Model(w=np.zeros(4), loss=0.0)


@dataclass
class Bad:
    """A program, the error it ends in, and what that says: pieces of its text, in order."""

    name: str
    program: Callable[[], Any]
    error: type[Exception]
    says: tuple[str, ...]
    place: Any = field(default=None)  # the function whose line is named, where it is another


CASES: list[Bad] = []


def ends_in(error: type[Exception], *says: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """The decorated program raises the error, which says these pieces."""

    def note(program: Callable[[], Any]) -> Callable[[], Any]:
        CASES.append(Bad(program.__name__, program, error, says))
        return program

    return note


def step(r: Any) -> Any:
    """Fails on the seventh record."""
    if r.k == 7:
        raise KeyError("no such key")
    return r.k


# Columns.


@ends_in(so.SchemaError, "select reads 'prize'", "['price', 'k'", "did you mean 'price'")
def select_of_an_unknown_column() -> Any:
    return T.select("prize")


@ends_in(so.SchemaError, "no column 'prize'", "['price', 'k'", "did you mean 'price'")
def map_of_an_unknown_column() -> Any:
    return T.map(lambda r: r.prize * 2)


@ends_in(so.SchemaError, "no column 'prize'", "['price', 'k'", "did you mean 'price'")
def filter_by_an_unknown_column() -> Any:
    return T.filter(lambda r: r["prize"] > 2)


@ends_in(so.SchemaError, "no column 'z'", "['price', 'k'")
def unknown_column_inside_an_opaque_function() -> Any:
    return T.map(lambda r: r.z if r.k > 1 else 0)


@ends_in(so.SchemaError, "record of 7 columns has no position 9")
def position_past_the_end() -> Any:
    return T.map(lambda r: r[9])


@ends_in(so.SchemaError, "sum reads 'z'", "the table has ['price'")
def sum_of_an_unknown_column() -> Any:
    return T.sum("z")


@ends_in(so.SchemaError, "sum() needs a column or a function", "['price'")
def sum_of_a_table_of_many_columns() -> Any:
    return T.sum()


@ends_in(so.SchemaError, "drop reads 'z'")
def drop_of_an_unknown_column() -> Any:
    return T.drop("price", "z")


@ends_in(so.SchemaError, "rename reads 'z'")
def rename_of_an_unknown_column() -> Any:
    return T.rename({"z": "y"})


@ends_in(so.SchemaError, "would give the columns ['k'] twice")
def rename_to_a_name_that_is_taken() -> Any:
    return T.rename({"price": "k"})


@ends_in(so.SchemaError, "rename takes a dict of names", 'rename({"old": "new"})')
def rename_of_a_string() -> Any:
    return T.rename("price")  # type: ignore[arg-type]


@ends_in(so.SchemaError, "would give the columns ['k'] twice")
def select_of_a_column_twice() -> Any:
    return T.select("k", k=lambda r: r.price)


@ends_in(so.SchemaError, "select reads ['price', 'k']", "select(*names)")
def select_of_a_list() -> Any:
    return T.select(["price", "k"])  # type: ignore[arg-type]


@ends_in(so.SchemaError, "select would leave no column")
def select_of_nothing() -> Any:
    return T.select()


@ends_in(so.SchemaError, "assemble reads 'z'")
def assemble_of_an_unknown_column() -> Any:
    return T.assemble(v=["price", "z"])


@ends_in(so.SchemaError, "assemble needs a list of columns for 'v'")
def assemble_of_one_name() -> Any:
    return T.assemble(v="price")


@ends_in(so.TraceError, "assemble needs numbers, not string")
def assemble_of_strings() -> Any:
    return T.assemble(v=["price", "s"])


@ends_in(so.DataError, "assemble found a null", "filter the nulls out")
def assemble_of_nulls() -> Any:
    return T.assemble(v=["price", "n"]).collect()


@ends_in(so.DataError, "stack found a null; a vector holds none", "np.where")
def stack_of_nulls() -> Any:
    return T.map(lambda r: np.array([r.price, r.n])).collect()


# Row functions.


@ends_in(so.SchemaError, "filter needs true or false", "gives float64", "compare with something")
def filter_by_a_number() -> Any:
    return T.filter(lambda r: r.price)


@ends_in(so.SchemaError, "filter needs true or false", "gives bool[4]", ".all()")
def filter_by_a_vector() -> Any:
    return T.filter(lambda r: r.x > 0)


@ends_in(so.TraceError, "filter's function returns the columns ['_0', '_1']")
def filter_by_a_tuple() -> Any:
    return T.filter(lambda r: (r.b, r.b))


@ends_in(so.TraceError, "the function of map returns nothing", "return a value")
def map_by_a_function_without_return() -> Any:
    def forgetful(r: Any) -> Any:
        r.price * 2

    return T.map(forgetful)


@ends_in(so.TraceError, "returns a object", "expected a number, a string, an array")
def map_to_an_object() -> Any:
    return T.map(lambda r: object())


@ends_in(so.SchemaError, "'p' is a record without fields")
def map_to_a_record_without_fields() -> Any:
    return T.map(lambda r: {"k": r.k, "p": {}})


@ends_in(so.TraceError, "map needs a function of a record; it got a int")
def map_by_a_number() -> Any:
    return T.map(3)  # type: ignore[arg-type]


@ends_in(so.TraceError, "with_columns(z=...) returns the columns ['_0', '_1']", "one value")
def with_columns_by_a_tuple() -> Any:
    return T.with_columns(z=lambda r: (r.k, r.k))


@ends_in(so.TraceError, "select(z=...) is a object", "expected a number")
def select_of_an_object() -> Any:
    return T.select(z=object.__new__(object))


@ends_in(so.TraceError, "matmul cannot multiply float64[4] by float64[3]: 4 is not 3")
def matmul_of_shapes_that_do_not_fit() -> Any:
    return T.map(lambda r: r.x @ np.ones(3))


@ends_in(so.TraceError, "add cannot combine the shapes of float64[4] and float64[2,2]")
def sum_of_shapes_that_do_not_broadcast() -> Any:
    return T.map(lambda r: r.x + r.m)


@ends_in(so.TraceError, "add has no meaning for string and int64")
def sum_of_a_string_and_a_number() -> Any:
    return T.map(lambda r: r.s + 1)


@ends_in(so.TraceError, "index 7 is out of bounds", "float64[4]")
def index_out_of_bounds() -> Any:
    return T.map(lambda r: r.x[7])


@ends_in(so.TraceError, "axis 2 is out of bounds for an array of 1 axes")
def axis_out_of_bounds() -> Any:
    return T.map(lambda r: np.sum(r.x, axis=2))


@ends_in(so.TraceError, "cast to 'complex128'", "float64")
def cast_to_an_unknown_type() -> Any:
    return T.map(lambda r: so.cast(r.price, "complex128"))


@ends_in(so.DataError, "cast cannot read 'p' as float64")
def cast_of_a_string() -> Any:
    return T.map(lambda r: so.cast(r.s, "float64")).collect()


@ends_in(so.TraceError, "a Value is immutable", "v = so.put(v, 0, x)")
def assignment_into_a_value() -> Any:
    def f(r: Any) -> Any:
        r.x[0] = 1.0
        return r.x

    return T.map(f)


@ends_in(so.UserFunctionError, "raised KeyError: 'no such key'", "the record is {'k': 7}")
def function_that_raises_on_the_seventh_record() -> Any:
    return so.table({"k": np.arange(1, 100)}).map(step)


@ends_in(so.UserFunctionError, "raised KeyError: 'no such key'", "the record is {'k': 7}")
def function_that_raises_while_running() -> Any:
    return so.table({"k": np.arange(1, 100)}).map(so.udf(step, returns=so.int64)).collect()


@ends_in(so.UserFunctionError, "gives the str 'three'; expected int64", "'k': 3", "returns=")
def function_that_changes_its_type() -> Any:
    table = so.table({"k": np.arange(100)[::-1].copy()})
    return table.map(so.udf(lambda r: "three" if r.k == 3 else r.k)).collect()


@ends_in(so.TraceError, "gives a dict, which is no column", "return scalars, strings, arrays")
def opaque_function_that_gives_lists_of_dicts() -> Any:
    return T.map(so.udf(lambda r: {"p": [{"q": r.k}]}))


@ends_in(so.TraceError, "gives arrays of the shapes [(1,), (2,), (3,)]", "arrays of one shape")
def opaque_function_that_gives_arrays_of_many_shapes() -> Any:
    return T.map(so.udf(lambda r: np.ones(r.k)))


@ends_in(so.TraceError, "gives None for every sampled record", "so.udf(f, returns=...)")
def opaque_function_that_gives_none() -> Any:
    return T.map(so.udf(lambda r: None))


@ends_in(so.TraceError, "no record was found", "so.udf(f, returns=...)")
def opaque_function_over_no_records() -> Any:
    return T.limit(0).map(lambda r: r.k if r.k > 2 else 0)


@ends_in(so.TraceError, "returns= holds complex", "so.float64")
def udf_of_a_python_type() -> Any:
    return T.map(so.udf(lambda r: r.k, returns=complex))


@ends_in(so.TraceError, "cannot be captured: its variable 'lock' (lock)", "inside the function")
def function_over_what_cannot_be_pickled() -> Any:
    lock = threading.Lock()
    return T.map(lambda r: r.k if r.k > 2 and lock.locked() else 0)


@ends_in(so.TraceError, "it reads a Table, which has no records before the plan runs")
def opaque_function_over_a_table() -> Any:
    other = T
    return T.map(so.udf(lambda r: other.count()))


@ends_in(
    so.PlanError, "reads the record of another row function", "fold the other table to a Value"
)
def a_record_inside_another_tables_function() -> Any:
    other = T
    return T.map(lambda r: other.map(lambda q: q.k + r.k).sum())


@ends_in(so.PlanError, "a record's symbol is used outside its row function")
def a_record_outside_its_function() -> Any:
    kept: list[Any] = []
    T.map(lambda r: kept.append(r.k) or r.k)  # type: ignore[func-returns-value]
    return (kept[0] + 1).collect()


@ends_in(
    so.TraceError, "gives np.float64(2.0) when called plainly and np.float64(1.0)", "isinstance"
)
def function_whose_trace_differs() -> Any:
    return T.map(lambda r: r.price * 2 if isinstance(r.price, float) else r.price).collect()


@ends_in(so.TraceError, "map's function has the parameters (a, b)", "one, the record")
def map_by_a_function_of_two() -> Any:
    return T.map(lambda a, b: a)


@ends_in(so.TraceError, "select(z=...)'s function has the parameters (a, b)", "one, the record")
def select_by_a_function_of_two() -> Any:
    return T.select(z=lambda a, b: a)


@ends_in(so.TraceError, "map's function has the parameters (a, b)")
def udf_of_two() -> Any:
    return T.map(so.udf(lambda a, b: a, returns=so.float64))


@ends_in(so.TraceError, "the function of map uses a Table as a value", 'fold it first: t.sum("x")')
def table_as_a_value() -> Any:
    return T.map(lambda r: r.price + T)


@ends_in(so.TraceError, "the function of map uses a Table as a value", "fold it first")
def table_on_the_left() -> Any:
    return T.map(lambda r: T * r.price)


@ends_in(so.TraceError, "the function of filter uses a Table as a value", "fold it first")
def table_compared_with_a_value() -> Any:
    return T.filter(lambda r: r.price == T)


@ends_in(so.TraceError, "the function of map uses a Table as a value", "fold it first")
def table_in_a_numpy_function() -> Any:
    return T.map(lambda r: np.sqrt(T))


@ends_in(so.TraceError, "an argument of np.add is a Table", "fold it first")
def table_in_a_numpy_function_of_two() -> Any:
    return T.map(lambda r: np.add(r.price, T))


@ends_in(so.SchemaError, "select reads 'hello'", "so.lit('hello') is the constant string")
def select_of_a_string_constant() -> Any:
    return T.select(c="hello")


@ends_in(so.SchemaError, "with_columns reads 'prize'", "did you mean 'price'", "so.lit('prize')")
def with_columns_of_a_string_constant() -> Any:
    return T.with_columns(c="prize")


@ends_in(so.SchemaError, "filter reads 'k > 2'", "write filter(lambda r: ...)")
def filter_by_a_text() -> Any:
    return T.filter("k > 2")


@ends_in(so.SchemaError, "drop reads ['k']", "pass names one by one: drop(*names)")
def drop_of_a_list() -> Any:
    return T.drop(["k"])  # type: ignore[arg-type]


@ends_in(so.SchemaError, "select reads 'the lambda'", "name it: select(name=lambda r: ...)")
def select_of_a_function() -> Any:
    return T.select(lambda r: r.k)  # type: ignore[arg-type]


# Reduces and folds.


@ends_in(
    so.UserFunctionError, "unsupported operand", "map to one column first, or combine by field"
)
def reduce_that_adds_records() -> Any:
    return T.select("price", "k").reduce(lambda a, b: a + b)


@ends_in(so.TraceError, "reduce's function has the parameters (a)", "two, both records")
def reduce_by_a_function_of_one() -> Any:
    return T.reduce(lambda a: a)


@ends_in(so.TraceError, "reduce's function returns one bare value", "['price', 'k']")
def reduce_of_records_to_one_value() -> Any:
    return T.select("price", "k").reduce(lambda a, b: a.price + b.price)


@ends_in(so.TraceError, "reduce's function turns 'value' from float64 into float64[2]", "shape")
def reduce_that_changes_the_shape() -> Any:
    return BARE.reduce(lambda a, b: np.stack([a, b]))


@ends_in(
    so.TraceError,
    "reduce needs an associative function",
    "gives -4.0 and 2.0 for the records {'value': 1.0}",
    "map first",
)
def reduce_by_a_difference() -> Any:
    return BARE.reduce(lambda a, b: a - b).collect()


@ends_in(so.TraceError, "reduce needs an associative function", "2.25 and 1.75")
def reduce_by_an_opaque_mean() -> Any:
    return BARE.reduce(lambda a, b: (float(a) + b) / 2).collect()


@ends_in(so.DataError, "min over no records has no value", "check the filters before it")
def min_over_no_records() -> Any:
    return T.filter(lambda r: r.k > 9).min("k").collect()


@ends_in(so.DataError, "reduce over no records has no value", "use sum() or count()")
def reduce_over_no_records() -> Any:
    return BARE.filter(lambda v: v > 9).reduce(lambda a, b: a + b).collect()


@ends_in(so.TraceError, "sum: it has no meaning for string")
def sum_of_strings() -> Any:
    return T.sum("s")


@ends_in(so.SchemaError, "limit needs an int of at least 0, not -1")
def limit_below_zero() -> Any:
    return T.limit(-1)


@ends_in(so.SchemaError, "limit needs an int of at least 0, not 2.5")
def limit_by_a_float() -> Any:
    return T.limit(2.5)


@ends_in(so.SchemaError, "repartition needs an int of at least 1, not 0")
def repartition_to_none() -> Any:
    return T.repartition(0)


@ends_in(so.ExecutionError, "inv failed: Singular matrix", "the identity may help")
def inverse_of_a_singular_matrix() -> Any:
    inverse: Any = np.linalg.inv(T.sum("m"))
    return inverse.collect()


@ends_in(so.ExecutionError, "index 9 is out of bounds")
def value_as_an_index_out_of_bounds() -> Any:
    return T.sum("x")[T.max("k") * 3].collect()


# Sources.


@ends_in(so.SchemaError, "columns of unequal length: 'a' has 3, 'b' has 2")
def columns_of_unequal_length() -> Any:
    return so.table({"a": A, "b": [1, 2]})


@ends_in(so.SchemaError, "so.table takes a dict of arrays or a list of records, not a int")
def table_of_a_number() -> Any:
    return so.table(3)  # type: ignore[arg-type]


@ends_in(so.SchemaError, "record 1 is a list, not a dict")
def table_of_lists() -> Any:
    return so.table([{"a": 1}, [2]])  # type: ignore[list-item]


@ends_in(so.SchemaError, "no records, so no column has a type")
def table_of_no_records() -> Any:
    return so.table([])


@ends_in(so.SchemaError, "column 'a' has the NumPy type complex128", "datetime64")
def table_of_complex_numbers() -> Any:
    return so.table({"a": np.array([1j])})


@ends_in(so.SchemaError, "column 'a' holds values without a common type: int, str")
def table_of_mixed_values() -> Any:
    return so.table({"a": [1, "b"]})


@ends_in(so.DataError, "column 'a'", "changed after the table was made", "pass a copy")
def array_changed_after_the_table_was_made() -> Any:
    array = A.copy()
    table = so.table({"a": array})
    array[0] = 100.0
    return table.sum("a").collect()


@ends_in(so.SchemaError, "takes an object with __arrow_c_stream__, not a dict")
def from_arrow_of_a_dict() -> Any:
    return so.from_arrow({"a": [1]})


@ends_in(so.SchemaError, "not a LazyFrame", "collect() it first")
def from_arrow_of_a_lazy_frame() -> Any:
    return so.from_arrow(pl.LazyFrame({"a": [1]}))


@ends_in(
    so.TraceError,
    "equal has no meaning for timestamp[s] and string",
    'write np.datetime64("2024-01-17")',
)
def time_compared_with_a_string() -> Any:
    days = so.table({"day": np.array(["2024-01-17"], "M8[s]")})
    return days.filter(lambda r: r.day == "2024-01-17")


@ends_in(so.SchemaError, "column 'a'", "struct<")
def from_arrow_of_lists_of_structs() -> Any:
    return so.from_arrow(pa.table({"a": [[{"p": 1}]]}))


# Loops.


@ends_in(so.LoopError, "the body returns float64[5] for 'w', which starts as float64[4]", "shape")
def body_that_changes_a_shape() -> Any:
    return so.loop(START, range(2))(lambda e: Model(w=np.ones(5), loss=e.loss))


@ends_in(so.LoopError, "the body returns float64 for 'value', which starts as int64", "start it")
def body_that_changes_a_type() -> Any:
    return so.loop(0, range(2))(lambda v: v + 0.5)


@ends_in(so.LoopError, "the body returns dict ['v']", "starts with dict ['v', 'w']")
def body_that_loses_a_field() -> Any:
    return so.loop({"v": 1.0, "w": 1.0}, range(2))(lambda e: {"v": e["v"]})


@ends_in(so.LoopError, "the body returns nothing", "end it with `return env`")
def body_without_return() -> Any:
    def body(env: Any) -> None:
        env.loss = env.loss + 1

    return so.loop(START, range(2))(body)


@ends_in(so.LoopError, "the body returns tuple ['_0', '_1']", "starts with Model ['w', 'loss']")
def body_that_returns_another_structure() -> Any:
    return so.loop(START, range(2))(lambda e: (e.w, e.loss))


@ends_in(so.LoopError, "the body returns a Table for 'loss', which starts as float64")
def body_that_returns_a_table() -> Any:
    return so.loop({"loss": 0.0}, range(2))(lambda e: {"loss": T.map(lambda r: r.k)})


@ends_in(so.LoopError, "Model has no field 'lose'", "['w', 'loss']", "annotate it")
def body_that_misspells_a_field() -> Any:
    def body(env: Any) -> Any:
        env.lose = 1.0
        return env

    return so.loop(START, range(2))(body)


@ends_in(so.LoopError, "Model lacks ['loss']", "['w', 'loss']")
def environment_without_a_field() -> Any:
    return Model(w=np.zeros(4))


@ends_in(so.LoopError, "the field 'w' starts as a object", "expected a number")
def loop_from_an_object() -> Any:
    return so.loop({"w": object()}, range(2))(lambda e: e)


@ends_in(so.LoopError, "a loop's condition is a function or a range, not a bool", "lambda env")
def condition_that_is_no_function() -> Any:
    return so.loop(0.0, True)(lambda v: v)


@ends_in(so.LoopError, "the loop condition gives float64; expected true or false")
def condition_that_is_a_number() -> Any:
    return so.loop(0.0, lambda v: v)(lambda v: v)


@ends_in(so.LoopError, "a loop's body is a function, not a float")
def body_that_is_no_function() -> Any:
    return so.loop(0.0, range(2))(1.0)  # type: ignore[arg-type]


@ends_in(so.LoopError, "max_iterations is -1; expected an int of at least 0")
def max_iterations_below_zero() -> Any:
    return so.loop(0.0, range(2), max_iterations=-1)


@ends_in(
    so.TraceError, "the loop body asks for a truth value", "use & | ~ on booleans, np.where(...)"
)
def branch_on_a_symbol_in_a_body() -> Any:
    def body(v: Any) -> Any:
        if v > 1:
            return v / 2
        return v + 1

    return so.loop(0.0, range(2))(body)


@ends_in(so.TraceError, "the loop body asks for a float", "(np.sqrt, not math.sqrt)")
def float_of_a_value_hidden_by_an_except() -> Any:
    def body(v: Any) -> Any:
        try:
            return float(v)
        except Exception:
            return v

    return so.loop(0.0, range(2))(body)


@ends_in(so.TraceError, "the loop condition asks for a truth value", "the loop condition")
def branch_in_a_condition() -> Any:
    return so.loop(0.0, lambda v: v < 3 and v > -1)(lambda v: v + 1)


@ends_in(so.TraceError, "the loop body asks for a NumPy array", "use the Value itself")
def asarray_in_a_body() -> Any:
    return so.loop(np.zeros(3), range(2))(lambda v: v + np.asarray(T.sum("x"))[:3])


@ends_in(so.TraceError, "the loop body asks for its value", "use the Value itself")
def collect_in_a_body() -> Any:
    return so.loop(0.0, range(2))(lambda v: v + T.sum("k").collect())


@ends_in(so.TraceError, "asks for the records of a table", "collect() runs nothing here", "fold")
def collect_of_a_table_in_a_body() -> Any:
    return so.loop(0.0, range(2))(lambda v: v + T.collect().num_rows)


@ends_in(so.TraceError, "asks for its value", "collect() runs nothing here", "its parts")
def collect_of_a_structure_in_a_body() -> Any:
    sums = T.sum(lambda r: (r.k, r.price))
    return so.loop(0.0, range(2))(lambda v: v + sums.collect()[0])


@ends_in(so.TraceError, "the loop body asks for the result of a loop", "use the Loop's fields")
def run_in_a_body() -> Any:
    return so.loop(0.0, range(2))(lambda v: so.loop(v, range(2))(lambda z: z + 1).run().env)


@ends_in(so.TraceError, "the loop body asks for a string", "run().history")
def print_in_a_body() -> Any:
    return so.loop(0.0, range(2))(lambda v: print(v) or v)


@ends_in(so.TraceError, "the loop body asks for a float", "np.sqrt, not math.sqrt")
def math_in_a_body() -> Any:
    return so.loop(1.0, range(2))(lambda v: math.sqrt(v))


@ends_in(so.TraceError, "the loop body asks for an index", "so.lit(array)[i]")
def array_indexed_in_a_body() -> Any:
    return so.loop(0.0, range(2))(lambda v, i: v + A[i])


@ends_in(so.TraceError, "the loop condition asks for an index", "so.lit(array)[i]")
def list_indexed_in_a_condition() -> Any:
    return so.loop(0, lambda i: [3, 2][i] > 2)(lambda i: i + 1)


@ends_in(so.TraceError, "the loop body indexes an array by a Value", "so.lit(array)[i]")
def take_in_a_body() -> Any:
    return so.loop(0.0, range(2))(lambda v, i: v + np.take(A, i))


@ends_in(so.LoopError, "the loop body has the parameters (v, i, j)", "one, the environment, or two")
def body_of_three() -> Any:
    return so.loop(0.0, range(2))(lambda v, i, j: v)


@ends_in(so.LoopError, "the loop condition has the parameters ()", "expected one, the environment")
def condition_of_none() -> Any:
    return so.loop(0.0, lambda: True)(lambda v: v)


@ends_in(so.TraceError, "the loop body uses a Table as a value", "fold it first")
def table_as_a_value_in_a_body() -> Any:
    return so.loop(0.0, range(2))(lambda v: v + T)


@ends_in(so.TraceError, "np.unique", "write it with other NumPy functions")
def unknown_function_in_a_body() -> Any:
    return so.loop(np.zeros(3), range(2))(lambda v: v + np.unique(v))


@ends_in(so.TraceError, "random numbers, a clock, a counter", "compute it before the loop")
def randomness_in_a_body() -> Any:
    return so.loop(0.0, range(2))(lambda v: v + np.random.random())


@ends_in(so.LoopError, "the environment has no field 'z'", "['w', 'loss']")
def unknown_field_of_a_loop() -> Any:
    return so.loop(START, range(2))(lambda e: e)["z"]


@ends_in(so.LoopError, "the state", "infinite", "a smaller step may help")
def state_that_becomes_infinite() -> Any:
    return so.loop(1e300, range(9))(lambda v: v * v).collect()


@ends_in(so.PlanError, "a loop inside a row function", "write the loop outside", "so.udf")
def loop_inside_a_row_function() -> Any:
    return T.map(lambda r: so.loop(0.0, range(2))(lambda v: v + r.price))


@ends_in(so.PlanError, "a symbol of a loop's environment is used outside its loop", "model.w")
def state_outside_its_loop() -> Any:
    kept: list[Any] = []
    so.loop(0.0, range(2))(lambda v: kept.append(v) or v)  # type: ignore[func-returns-value]
    return kept[0].collect()


# Sessions, and what is not built.


@ends_in(so.ConfigError, "a session has no option ['thread']", "['threads'")
def unknown_option() -> Any:
    return so.session(thread=4)


@ends_in(so.ConfigError, "threads is 'many'; expected an int of at least 0")
def threads_by_a_word() -> Any:
    return so.session(threads="many")


@ends_in(so.ConfigError, "memory is '4 bananas'", "'4GB'")
def memory_in_bananas() -> Any:
    return so.session(memory="4 bananas")


@ends_in(so.ConfigError, "opaque is 'maybe'; expected 'run' or 'error'")
def opaque_neither_run_nor_error() -> Any:
    return so.session(opaque="maybe")


@ends_in(so.ConfigError, "explain's stage is 'final'; expected one of traced, logical")
def explain_of_an_unknown_stage() -> Any:
    return T.explain(stage="final")


@ends_in(so.PlanError, "collect takes tables, values, loops", "it got a int")
def collect_of_a_number() -> Any:
    return so.collect(T, 3)


@ends_in(so.PlanError, "collect takes tables", "it got a function")
def collect_of_a_function() -> Any:
    return so.collect([T.sum("k"), step])


@ends_in(so.PlanError, "collect takes tables", "it got a Model")
def collect_of_an_environment() -> Any:
    return so.collect(START)


@ends_in(so.ConfigError, "explain's stage is 'optimized'", "analyze=True measures the physical")
def analyze_of_another_stage() -> Any:
    return T.sum("k").explain(stage="optimized", analyze=True)


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One session in which every program fails and a good one runs after each."""
    with so.session(threads=2):
        yield


def lines_of(function: Any) -> range:
    """The lines of a function of this file, those inside it included."""
    code = function.__code__
    lines = {n for _, _, n in code.co_lines() if n is not None}
    for inner in code.co_consts:
        if hasattr(inner, "co_lines"):
            lines |= {n for _, _, n in inner.co_lines() if n is not None}
    return range(min(lines), max(lines) + 1)


@pytest.mark.parametrize("bad", CASES, ids=lambda b: b.name)
def test_a_bad_program_ends_in_its_error(bad: Bad) -> None:
    with pytest.raises(bad.error) as caught:
        bad.program()
    error = caught.value
    assert type(error) is bad.error or isinstance(error, so.ScalopsError)
    message = str(error)
    rest = message
    for piece in bad.says:
        assert piece in rest, message
        rest = rest.partition(piece)[2]
    assert isinstance(error, so.ScalopsError)
    assert error.location is not None, message
    assert error.location.file == __file__
    own = [lines_of(bad.program), *([lines_of(step)] if "step()" in message else [])]
    assert any(error.location.line in lines for lines in own), message
    assert f"(test_bad_input.py:{error.location.line})" in message
    # The session goes on.
    assert T.map(lambda r: r.price * 2).sum().collect() == 12.0


def test_enough_cases() -> None:
    assert len(CASES) >= 45


# Files.


@pytest.mark.parametrize("read", [so.read_csv, so.read_parquet])
@pytest.mark.parametrize("name", ["missing.file", "*.nothing", "no/folder"])
def test_a_missing_file_is_named(read: Callable[..., so.Table], name: str, tmp_path: Path) -> None:
    with pytest.raises(so.ScalopsError) as caught:
        read(tmp_path / name)
    assert isinstance(caught.value, so.DataError)
    assert name.rpartition("/")[2] in str(caught.value)
    assert caught.value.location is not None
    assert caught.value.location.file == __file__


@pytest.mark.parametrize("cut", [0, 3, 40])
def test_a_broken_parquet_file_is_named(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.parquet"
    pq.write_table(pa.table({"a": np.arange(1000.0)}), path)
    path.write_bytes(path.read_bytes()[:-cut] if cut else b"this is no parquet file")
    with pytest.raises(so.DataError, match=r"cut\.parquet") as caught:
        so.read_parquet(path)
    assert caught.value.location is not None
    assert caught.value.location.file == __file__


def test_a_column_that_a_file_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")
    programs: list[Callable[[], Any]] = [
        lambda: so.read_csv(path, columns=["z"]),
        lambda: so.read_csv(path).select("z"),
    ]
    for wrong in programs:
        with pytest.raises(
            so.SchemaError, match=r"'z'.*\['a', 'b'\]|\['a', 'b'\].*'z'|'z'"
        ) as caught:
            wrong()
        assert caught.value.location is not None
        assert caught.value.location.file == __file__


def test_a_bad_field_of_a_csv_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "late.csv"
    path.write_text("a,b\n" + "1,2\n" * 50_000 + "1,oops\n")
    with pytest.raises(so.DataError, match=r"late\.csv:50002: column 'b' holds 'oops'") as caught:
        so.read_csv(path, column_types={"b": so.int64}).sum("b").collect()
    assert caught.value.location is not None
    assert caught.value.location.file == __file__


# What else the user sees.


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (lambda: T[0], "limit(n) for the first records, or collect()"),
        (lambda: T[:2], "t[a:b]: a Table is lazy and holds no records; use slice(start, length)"),
        (lambda: T[["k"]], "select(*names)"),
        (lambda: T[lambda r: r.k > 1], "filter(lambda r: ...)"),
        (lambda: T.head(2), "a Table has no 'head'; use limit(n)"),
        (lambda: T.show(), "use limit(n).collect(), or explain()"),
        (lambda: T.groupby("k"), "use group_by(*keys)"),
        (lambda: T.agg(), 'use group_by("k").agg(...)'),
        (lambda: T.persist(), "use cache(), and forget()"),
        (lambda: T.shape, "use count() and columns"),
        (lambda: T.to_numpy(), "use collect()"),
        (
            lambda: np.asarray(T),
            "np.asarray(t): a Table is lazy and holds no records; use collect()",
        ),
        (lambda: np.sum(T), "a fold such as sum()"),
        (lambda: T + 1, "map(lambda r: ...), or a fold"),
        (lambda: A * T, "map(lambda r: ...)"),
        (lambda: T == 1, "map(lambda r: ...), or a fold"),
    ],
)
def test_a_table_says_what_is_done_instead(asked: Callable[[], Any], says: str) -> None:
    with pytest.raises((AttributeError, TypeError)) as caught:
        asked()
    assert says in str(caught.value)
    assert T == T
    assert T != BARE


def test_the_error_of_numpy_is_the_cause() -> None:
    for body in (lambda v, i: v + A[i], lambda v, i: v + np.take(A, i)):
        with pytest.raises(so.TraceError) as caught:
            so.loop(0.0, range(2))(body)
        assert isinstance(caught.value.__cause__, (IndexError, TypeError))


def test_a_function_of_two_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(so.TraceError):
        T.map(lambda first, second: first)
    assert not caplog.messages


def test_a_result_names_the_environment() -> None:
    by_name = so.loop({"w": 0.0}, range(2))(lambda e: e).run()
    with pytest.raises(AttributeError, match=r'its field env: result\.env\["w"\]'):
        by_name.w
    by_class = so.loop(START, range(2))(lambda e: e).run()
    with pytest.raises(AttributeError, match=r"its field env: result\.env\.w"):
        by_class.w
    with pytest.raises(AttributeError, match=r"no attribute 'z'$"):
        by_class.z


def test_what_a_message_recommends_works() -> None:
    v = so.lit(A)
    assert so.put(v, 0, 9.0).collect().tolist() == [9.0, 2.0, 3.0]
    assert so.loop(0.0, range(2))(lambda s, i: s + so.lit(A)[i]).collect() == 3.0
    filled = T.map(lambda r: np.where(r.n == r.n, r.n, 0.0))
    assert filled.collect()["value"].to_pylist() == [1.0, 0.0, 3.0]


def test_a_users_exception_is_the_cause_with_its_own_traceback() -> None:
    table = so.table({"k": np.arange(1, 100)})
    programs: list[Callable[[], Any]] = [
        lambda: table.map(step).collect(),
        lambda: table.map(so.udf(step, returns=so.int64)).collect(),
        lambda: table.filter(so.udf(lambda r: step(r) > 0, returns=so.bool_)).count().collect(),
    ]
    for program in programs:
        with pytest.raises(so.UserFunctionError) as caught:
            program()
        cause = caught.value.__cause__
        assert isinstance(cause, KeyError)
        frames = traceback.extract_tb(cause.__traceback__)
        assert {f.filename for f in frames} == {__file__}
        assert frames[-1].name == "step"
        text = "".join(traceback.format_exception(caught.value))
        assert 'raise KeyError("no such key")' in text
        assert "the direct cause" in text


def test_errors_survive_pickling() -> None:
    import pickle

    with pytest.raises(so.SchemaError) as caught:
        T.select("z")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (so.SchemaError, str(caught.value))


def test_all_errors_have_one_base() -> None:
    kinds = [
        so.SchemaError, so.TraceError, so.PlanError, so.LoopError, so.OptimizerError,
        so.ExecutionError, so.UserFunctionError, so.WorkerLost, so.DataError, so.SecurityError,
        so.ConfigError,
    ]  # fmt: skip
    assert all(issubclass(k, so.ScalopsError) for k in kinds)
    assert all(issubclass(k, so.ExecutionError) for k in kinds[6:9])


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'tabel'"):
        so.tabel
