"""Attacks by data: arrays and records that are no table, and data that are not as told."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import scalops as so
from tests.language.attacks.table import A, T, ends_in

# Sources in memory.


@ends_in(so.SchemaError, r"column 'a' is an array of objects that holds")
def an_array_of_objects_in_a_table(_: Path) -> Any:
    return so.table({"a": np.array([object(), 1], dtype=object)})


@ends_in(so.SchemaError, r"column 'a'")
def lists_of_numbers_and_words(_: Path) -> Any:
    return so.table({"a": [[1.0], ["x"]]})


@ends_in(so.SchemaError, r"column 'a' is a single int64 value, not one value per record")
def a_number_for_a_column(_: Path) -> Any:
    return so.table({"a": 3})


@ends_in(so.SchemaError, r"column 'a' is a single object value, not one value per record")
def a_generator_for_a_column(_: Path) -> Any:
    return so.table({"a": (n for n in range(3))}).collect()


@ends_in(
    so.SchemaError, r"the table: column 'a' has the Arrow type decimal128\(2, 1\), which is not"
)
def decimals(_: Path) -> Any:
    return so.table({"a": [Decimal("1.5")]})


@ends_in(so.SchemaError, r"the table: column 'a' has the Arrow type binary, which is not supported")
def bytes_in_a_column(_: Path) -> Any:
    return so.table({"a": [b"raw"]})


@ends_in(
    so.SchemaError, r"column 'a' holds values without a common type: int \(Python int too large"
)
def an_int_too_large(_: Path) -> Any:
    return so.table({"a": [10**30]})


@ends_in(
    so.SchemaError, r"column 'a' holds values without a common type: datetime, str \(object of"
)
def a_date_before_all_dates(_: Path) -> Any:
    return so.table({"a": [datetime.datetime(1, 1, 1), "today"]})


@ends_in(
    so.SchemaError, r"column 'a' has the NumPy type \[\('p', '<f8'\)\], which no column may have"
)
def a_structured_array(_: Path) -> Any:
    return so.table({"a": np.zeros(2, dtype=[("p", "f8")])})


@ends_in(so.SchemaError, r"at least one column")
def a_table_without_columns(_: Path) -> Any:
    return so.table({})


@ends_in(so.SchemaError, r"column names are strings, found \('a', 'b'\)")
def a_table_with_a_name_that_is_no_string(_: Path) -> Any:
    return so.table({("a", "b"): A})  # type: ignore[dict-item]


@ends_in(so.SchemaError, r"memory has two columns 'a'")
def a_name_twice_from_arrow(_: Path) -> Any:
    data = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    return so.from_arrow(data)


@ends_in(so.SchemaError, r"memory: column 'a' has the Arrow type map<string, int64>, which is not")
def a_map_from_arrow(_: Path) -> Any:
    return so.from_arrow(pa.table({"a": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))}))


@ends_in(so.SchemaError, r"memory: column 'a' has the Arrow type null, which is not supported yet")
def a_column_without_a_type(_: Path) -> Any:
    return so.from_arrow(pa.table({"a": pa.nulls(3)}))


@ends_in(so.DataError, r"column 'a' holds a null; fixed-shape arrays refuse nulls")
def a_null_inside_a_vector(_: Path) -> Any:
    vectors = pa.array([[1.0, None]], pa.list_(pa.float64(), 2))
    return so.from_arrow(pa.table({"a": vectors})).map(lambda r: r.a.sum()).collect()


@ends_in(so.DataError, r"the Arrow stream of a Liar cannot be read: ValueError")
def something_that_lies_about_its_stream(_: Path) -> Any:
    class Liar:
        def __arrow_c_stream__(self, schema: Any = None) -> Any:
            return "no capsule"

    return so.from_arrow(Liar())


@ends_in(
    so.DataError, r"the Arrow stream of a Broken cannot be read: RuntimeError: the wire is cut"
)
def a_stream_that_fails(_: Path) -> Any:
    class Broken:
        def __arrow_c_stream__(self, schema: Any = None) -> Any:
            raise RuntimeError("the wire is cut")

    return so.from_arrow(Broken())


@ends_in(so.SchemaError, r"record 1 is a NoneType, not a dict of columns")
def a_record_of_another_kind(_: Path) -> Any:
    return so.table([{"a": 1}, None])  # type: ignore[list-item]


@ends_in(so.SchemaError, r"column 'a' holds values without a common type: int, str \(Could not")
def records_of_many_types(_: Path) -> Any:
    return so.table([{"a": 1}, {"a": "one"}])


@ends_in(so.DataError, r"column 'a' of memory changed after the table was made")
def an_array_changed_between_two_runs(_: Path) -> Any:
    array = np.arange(10.0)
    table = so.table({"a": array})
    table.sum("a").collect()
    array[3] = np.nan
    return table.max("a").collect()


# Null, nothing, and what no number can hold.


@ends_in(so.DataError, r"assemble found a null; a vector holds none")
def a_null_in_a_vector(_: Path) -> Any:
    return T.assemble(v=["a", "n"]).map(lambda r: r.v.sum()).collect()


@ends_in(so.DataError, r"stack found a null; a vector holds none")
def a_null_where_arrays_are_stacked(_: Path) -> Any:
    return T.map(lambda r: np.stack([r.a, r.n]) @ np.ones(2)).collect()


@ends_in(so.DataError, r"max over no records")
def the_greatest_of_nothing(_: Path) -> Any:
    return T.limit(0).max("a").collect()


@ends_in(so.DataError, r"min over no records")
def the_least_of_nulls(_: Path) -> Any:
    return so.table({"n": pa.array([None, None], pa.float64())}).min("n").collect()


@ends_in(so.DataError, r"max over no records")
def a_reduce_of_nothing(_: Path) -> Any:
    return T.filter(lambda r: r.a > 9).map(lambda r: r.x).reduce(np.maximum).collect()


@ends_in(so.UserFunctionError, r"ZeroDivisionError.*'k': 1")
def a_division_by_zero_in_plain_python(_: Path) -> Any:
    return T.map(so.udf(lambda r: 1 / (r.k - 1), returns=so.float64)).collect()


@ends_in(
    so.TraceError,
    r"reduce needs an associative function, f\(f\(a, b\), c\) = f\(a, f\(b, c\)\); this",
)
def a_reduce_that_is_a_mean(_: Path) -> Any:
    return T.map(lambda r: r.a).reduce(lambda a, b: (a + b) / 2).collect()


@ends_in(so.TraceError, r"the function of reduce returns nothing")
def a_reduce_that_returns_nothing(_: Path) -> Any:
    return T.map(lambda r: r.a).reduce(lambda a, b: None)


@ends_in(so.TraceError, r"reduce needs a function of a record; it got a str")
def a_reduce_by_no_function(_: Path) -> Any:
    return T.map(lambda r: r.a).reduce("sum")  # type: ignore[arg-type]


@ends_in(so.TraceError, r"mean: it has no meaning for string")
def a_mean_of_strings(_: Path) -> Any:
    return T.mean("s")


@ends_in(so.TraceError, r"sum needs a function of a record; it got a int")
def a_fold_by_a_number(_: Path) -> Any:
    return T.sum(3)  # type: ignore[arg-type]


@ends_in(so.SchemaError, r"repartition needs an int of at least 1, not 'two'")
def a_repartition_by_a_word(_: Path) -> Any:
    return T.repartition("two")  # type: ignore[arg-type]


@ends_in(so.TraceError, r"add has no meaning for float64 and string")
def a_string_added_to_a_number(_: Path) -> Any:
    return T.map(lambda r: r.a + r.s)


@ends_in(so.SchemaError, r"filter needs true or false for each record; its function gives string")
def a_filter_by_a_string(_: Path) -> Any:
    return T.filter(lambda r: r.s)


@ends_in(so.TraceError, r"lit is a complex; expected a number, an array or a Value")
def a_constant_of_complex_numbers(_: Path) -> Any:
    return so.lit(1j)


@ends_in(so.TraceError, r"lit is a object; expected a number, an array or a Value")
def a_constant_of_an_object(_: Path) -> Any:
    return so.lit(object())


@ends_in(so.TraceError, r"cast to 'list'; expected one of bool, int8, int16")
def a_cast_to_a_list(_: Path) -> Any:
    return so.cast(T.sum("a"), "list")


@ends_in(so.PlanError, r"collect takes tables, values, loops.* it got a object")
def a_collect_of_something_else(_: Path) -> Any:
    return so.collect({"a": [T.sum("a"), object()]})


@ends_in(so.PlanError, r"nesting that holds itself")
def a_nesting_that_holds_itself(_: Path) -> Any:
    nesting: list[Any] = [T.sum("a")]
    nesting.append(nesting)
    return so.collect(nesting)


@ends_in(so.SchemaError, r"repartition needs at most 65536 partitions, not 1000000000")
def a_billion_partitions(_: Path) -> Any:
    return T.repartition(10**9)


@ends_in(so.SchemaError, r"assemble needs a list of columns for 'q'")
def an_assembly_of_a_number(_: Path) -> Any:
    return T.assemble(q=3)  # type: ignore[arg-type]
