"""Attacks by the operators of tables and the functions of values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import scalops as so
from tests.language.attacks.table import T, ends_in

# Operators of tables.


@ends_in(so.SchemaError, r"sort reads 'z'; the table has \['a', 'k', 'x', 's', 'n', 'b'\]")
def a_sort_by_an_unknown_column(_: Path) -> Any:
    return T.sort("z")


@ends_in(so.SchemaError, r"sort needs a key; the table has \['a', 'k', 'x', 's', 'n', 'b'\]")
def a_sort_by_nothing(_: Path) -> Any:
    return T.sort()


@ends_in(so.SchemaError, r"sort needs one value for each record.*float64\[4\]")
def a_sort_by_vectors(_: Path) -> Any:
    return T.sort("x")


@ends_in(so.SchemaError, r"sort has 1 key and descending=\[True, False\]")
def a_sort_in_two_directions_for_one_key(_: Path) -> Any:
    return T.sort("a", descending=[True, False])


@ends_in(so.SchemaError, r"slice needs an int of at least 0, not -1")
def a_slice_from_before_the_start(_: Path) -> Any:
    return T.slice(-1, 2)


@ends_in(so.SchemaError, r"slice needs an int of at least 0, not 1\.5")
def a_slice_by_a_float(_: Path) -> Any:
    return T.slice(0, 1.5)


@ends_in(so.SchemaError, r"limit needs an integer, not a value of type float64\[4\]")
def a_limit_by_a_vector(_: Path) -> Any:
    return T.limit(T.sum("x"))


@ends_in(so.DataError, r"limit got length -6; expected 0 or more")
def a_limit_by_a_value_below_zero(_: Path) -> Any:
    return T.limit(T.count() - 9).collect()


@ends_in(so.SchemaError, r"union goes by column names, and the second has no \['a'\]")
def a_union_of_two_schemas(_: Path) -> Any:
    return T.select("a").union(T.select("k"))


@ends_in(so.SchemaError, r"the column 'a' is float64 in the first table and string in the second")
def a_union_of_two_types(_: Path) -> Any:
    return T.select("a").union(T.select(a="s"))


@ends_in(so.SchemaError, r"union takes a Table, not a list")
def a_union_with_no_table(_: Path) -> Any:
    return T.union([1, 2])  # type: ignore[arg-type]


@ends_in(so.SchemaError, r"distinct reads 'z'; the table has \['a', 'k', 'x', 's', 'n', 'b'\]")
def a_distinct_by_an_unknown_column(_: Path) -> Any:
    return T.distinct("z")


@ends_in(so.SchemaError, r"explode needs a column of lists or vectors; 'a' is float64")
def an_explode_of_a_number(_: Path) -> Any:
    return T.explode("a")


@ends_in(so.SchemaError, r"explode reads 'z'; the table has \['a', 'k', 'x', 's', 'n', 'b'\]")
def an_explode_of_an_unknown_column(_: Path) -> Any:
    return T.explode("z")


@ends_in(so.SchemaError, r"explode would add the column 'k'.*another name")
def an_explode_whose_index_is_taken(_: Path) -> Any:
    return T.explode("x", index="k")


@ends_in(so.SchemaError, r"with_row_index would add the column 'a'")
def a_row_index_whose_name_is_taken(_: Path) -> Any:
    return T.with_row_index("a")


@ends_in(so.SchemaError, r"sample needs a fraction from 0 to 1, not 1\.5")
def a_sample_of_more_than_all(_: Path) -> Any:
    return T.sample(1.5, 0)


@ends_in(so.SchemaError, r"the seed of sample is 'seed'; expected an int")
def a_sample_by_a_word(_: Path) -> Any:
    return T.sample(0.5, "seed")


@ends_in(so.SchemaError, r"random_split needs a list of shares .*not \[\]")
def a_split_into_nothing(_: Path) -> Any:
    return T.random_split([], 0)


@ends_in(so.SchemaError, r"random_split needs a list of shares .*not \[0\.5, -0\.5\]")
def a_split_below_zero(_: Path) -> Any:
    return T.random_split([0.5, -0.5], 0)


@ends_in(so.SchemaError, r"shuffle needs an integer, not a value of type float64\[4\]")
def a_shuffle_by_a_vector(_: Path) -> Any:
    return T.shuffle(T.sum("x")).collect()


@ends_in(so.TraceError, r"flat_map returns one float64; expected a list of records")
def a_flat_map_to_a_number(_: Path) -> Any:
    return T.flat_map(lambda r: r.a)


@ends_in(so.TraceError, r"gives strings and other values, which is no column")
def a_flat_map_to_many_types(_: Path) -> Any:
    return T.flat_map(so.udf(lambda r: [1, "one"])).collect()


@ends_in(so.SchemaError, r"map_batches declares its columns as None")
def a_map_of_batches_without_a_schema(_: Path) -> Any:
    return T.map_batches(lambda batch: batch, None)


@ends_in(so.UserFunctionError, r"gives the columns \['q'\]; expected \['a'\]")
def a_map_of_batches_that_gives_other_columns(_: Path) -> Any:
    return T.select("a").map_batches(lambda b: b.rename_columns(["q"]), {"a": so.float64}).collect()


@ends_in(so.UserFunctionError, r"RuntimeError: no table today")
def a_map_of_batches_that_fails(_: Path) -> Any:
    def f(batch: Any) -> Any:
        raise RuntimeError("no table today")

    return T.select("a").map_batches(f, {"a": so.float64}).collect()


# Functions of values.


@ends_in(so.TraceError, r"index 7 is out of bounds")
def a_put_outside(_: Path) -> Any:
    return so.put(T.sum("x"), 7, 1.0)


@ends_in(so.DataError, r"put found no such place: index 9 is out of bounds")
def a_put_outside_while_running(_: Path) -> Any:
    return so.put(T.sum("x"), T.max("k") * 3, 1.0).collect()


@ends_in(so.TraceError, r"put cannot place float64\[3\]")
def a_put_of_another_shape(_: Path) -> Any:
    return so.put(T.sum("x"), 0, np.ones(3)).collect()


@ends_in(so.TraceError, r"one_hot needs its length n as a Python int; it got Value\(int64\)")
def a_shape_by_a_value(_: Path) -> Any:
    return so.one_hot(1, T.count())


@ends_in(so.TraceError, r"one_hot needs its length n as a Python int; it got -3")
def a_one_hot_of_no_length(_: Path) -> Any:
    return so.one_hot(0, -3)


@ends_in(so.TraceError, r"shape mismatch.*\(4,\).*\(3,\)")
def a_choice_between_shapes(_: Path) -> Any:
    return so.where(T.count() > 1, T.sum("x"), np.ones(3))


@ends_in(so.TraceError, r"so\.where chooses between a Table and a float")
def a_choice_between_a_table_and_a_number(_: Path) -> Any:
    return so.where(T.count() > 1, T, 1.0)


@ends_in(so.SchemaError, r"so\.where goes by column names, and the second has no \['k'")
def a_choice_between_two_schemas(_: Path) -> Any:
    return so.where(T.count() > 1, T, T.select("a"))


@ends_in(so.SchemaError, r"so\.where needs one true or false.*not a bool\[4\]")
def a_choice_by_a_vector_between_tables(_: Path) -> Any:
    return so.where(T.sum("x") > 1, T, T)


@ends_in(so.TraceError, r"coalesce cannot choose between float64 and string")
def a_coalesce_of_two_types(_: Path) -> Any:
    return T.map(lambda r: so.coalesce(r.n, r.s))


@ends_in(so.TraceError, r"hash needs at least one bucket")
def a_hash_into_no_buckets(_: Path) -> Any:
    return T.map(lambda r: so.hash(r.s, 0))


@ends_in(so.TraceError, r"random integers from 3 to below 3: there are none")
def random_integers_between_nothing(_: Path) -> Any:
    return T.map(lambda r: so.random.integers(0, r.k, low=3, high=3))


@ends_in(so.TraceError, r"shape=\(-1,\); sizes that make shapes are Python ints")
def random_numbers_of_no_shape(_: Path) -> Any:
    return T.map(lambda r: so.random.normal(0, r.k, shape=(-1,)))


@ends_in(so.UserFunctionError, r"gives float64\[2\]; expected float64\[4\], as like= says")
def a_call_that_gives_another_shape(_: Path) -> Any:
    return so.call(lambda x: x[:2], T.sum("x"), like=np.zeros(4)).collect()


@ends_in(so.UserFunctionError, r"raised LinAlgError")
def a_call_that_fails(_: Path) -> Any:
    def solve(x: Any) -> Any:
        return np.linalg.cholesky(-np.outer(x, x))

    return so.call(solve, T.sum("x"), like=np.zeros((4, 4))).collect()


@ends_in(so.TraceError, r"so\.call needs a function; it got a int")
def a_call_of_no_function(_: Path) -> Any:
    return so.call(3, T.sum("x"), like=0.0)  # type: ignore[arg-type]


@ends_in(so.TraceError, r"`\.str` is of strings; this is float64")
def a_string_function_of_a_number(_: Path) -> Any:
    return T.map(lambda r: r.a.str.lower())


@ends_in(so.TraceError, r"contains got '\('.*missing \)")
def a_pattern_that_is_none(_: Path) -> Any:
    return T.map(lambda r: r.s.str.contains("(", regex=True)).collect()


@ends_in(so.TraceError, r"`.str` has no method 'shout'.*it has lower, upper")
def a_string_function_that_is_not_there(_: Path) -> Any:
    return T.map(lambda r: r.s.str.shout())


# Loops with the options of a run.


def counting() -> Any:
    """A loop over a number."""
    return so.loop({"v": 0.0}, range(5))(lambda e: {"v": e["v"] + T.sum("a")})


@ends_in(so.LoopError, r"the stop of so\.range is float64; expected an int")
def a_range_by_a_float(_: Path) -> Any:
    return so.loop(0.0, so.range(2.5))(lambda v: v)


@ends_in(so.LoopError, r"the stop of so\.range is float64\[4\]")
def a_range_by_a_vector(_: Path) -> Any:
    return so.loop(0.0, so.range(T.sum("x")))(lambda v: v)


@ends_in(so.LoopError, r"the step of so\.range is 0")
def a_range_that_never_moves(_: Path) -> Any:
    return so.loop(0.0, so.range(0, T.count(), 0))(lambda v: v).collect()


@ends_in(so.LoopError, r"on_iteration is 'print'; expected a function")
def a_callback_that_is_no_function(_: Path) -> Any:
    return counting().run(on_iteration="print")


@ends_in(so.LoopError, r"every is 0; expected an int of at least 1")
def a_checkpoint_every_none(folder: Path) -> Any:
    return counting().run(checkpoint=folder, every=0)


@ends_in(so.LoopError, r"every= is given without checkpoint=")
def an_every_without_a_checkpoint(_: Path) -> Any:
    return counting().run(every=2)


@ends_in(so.DataError, r"no checkpoint can be written to .*taken")
def a_checkpoint_into_a_file(folder: Path) -> Any:
    (folder / "taken").write_text("")
    return counting().run(checkpoint=folder / "taken")


@ends_in(so.DataError, r"nowhere holds no checkpoint .*run\(checkpoint=folder\)")
def a_resume_from_nowhere(folder: Path) -> Any:
    return counting().run(resume=folder / "nowhere")


@ends_in(so.DataError, r"no checkpoint is whole: .* are damaged")
def a_resume_from_a_torn_file(folder: Path) -> Any:
    counting().run(checkpoint=folder)
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return counting().run(resume=folder)


@ends_in(so.PlanError, r"written by another plan: what differs is the body")
def a_resume_of_another_program(folder: Path) -> Any:
    counting().run(checkpoint=folder)
    other = so.loop({"v": 0.0}, range(5))(lambda e: {"v": e["v"] + T.sum("k") * 2})
    return other.run(resume=folder)
