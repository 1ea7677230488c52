"""What joins and columns of records refuse: named errors with the user's line."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

import scalops as so

A = so.table({"id": [1, 2], "name": ["a", "b"], "v": [0.5, 1.5]})
B = so.table({"id": [2, 3], "name": ["x", "y"], "key": [2, 3]})
ODD = so.table(
    {
        "id": [1, 2],
        "l": [[1], [1, 2]],
        "vec": np.ones((2, 3)),
        "sp": sparse.csr_matrix(np.eye(2)),
        "u": np.array([1, 2], np.uint64),
        "b": [True, False],
        "t": np.array(["2024-01-01"] * 2, "M8[us]"),
        "ms": np.array(["2024-01-01"] * 2, "M8[ms]"),
    }
)
PAIRS = so.join(A.by("id"), B.by("key"))


class Frame:
    """Something of pandas, as far as its module tells."""

    __module__ = "pandas.core.frame"


JOINS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "a left key that is not there": (
        lambda: A.join(B, left_on="nam", right_on="key"),
        ("join's left_on reads 'nam'; the table has ['id', 'name', 'v']", "did you mean 'name'?"),
    ),
    "a key that the right table has not": (
        lambda: A.join(B, on="v"),
        ("join's on reads 'v'; the table has ['id', 'name', 'key']",),
    ),
    "on with left_on": (
        lambda: A.join(B, on="id", left_on="id"),
        ("join has both on= and left_on=", "keys of the same name"),
    ),
    "left_on alone": (
        lambda: A.join(B, left_on="id"),
        ("join has left_on= alone", 'give on="k"'),
    ),
    "no key": (lambda: A.join(B), ("join has no key", 'how="cross"')),
    "an empty list": (lambda: A.join(B, on=[]), ("join's on is an empty list",)),
    "a number as a key": (
        lambda: A.join(B, on=3),  # type: ignore[arg-type]
        ("join's on is 3; expected a column's name, a function of a record",),
    ),
    "unequal numbers of keys": (
        lambda: A.join(B, left_on=["id", "name"], right_on="id"),
        ("join has 2 keys on the left (id, name) and 1 on the right (id)", "as many on each side"),
    ),
    "an unknown how": (
        lambda: A.join(B, on="id", how="iner"),
        (
            "join's how is 'iner'; expected one of inner, left, right, full, semi, anti, cross",
            "did you mean 'inner'?",
        ),
    ),
    "another word for how": (
        lambda: A.join(B, on="id", how="outer"),
        ("join's how is 'outer'", "did you mean 'full'?"),
    ),
    "how that is no string": (
        lambda: A.join(B, on="id", how=None),  # type: ignore[arg-type]
        ("join's how is None",),
    ),
    "a cross join with keys": (
        lambda: A.join(B, on="id", how="cross"),
        ("a cross join has no keys, and on= is given", "leave it out"),
    ),
    "an Arrow table": (
        lambda: A.join(pa.table({"id": [1]}), on="id"),
        ("join takes a Table, not a pyarrow Table", "so.from_arrow(other)"),
    ),
    "a frame of pandas": (
        lambda: A.join(Frame(), on="id"),  # type: ignore[arg-type]
        ("join takes a Table, not a pandas Frame", "so.from_arrow(other)"),
    ),
    "a dict": (
        lambda: A.join({"id": [1]}, on="id"),  # type: ignore[arg-type]
        ("join takes a Table, not a dict", "so.table(other)"),
    ),
    "a branch": (
        lambda: A.join(B.by("id")),  # type: ignore[arg-type]
        ("join takes a Table, not a Branch", "so.join(a.by(...), b.by(...))"),
    ),
    "a suffix that is no string": (
        lambda: A.join(B, on="id", suffix=1),  # type: ignore[arg-type]
        ("join's suffix is 1; expected a string",),
    ),
    "a name that is taken by the suffix": (
        lambda: A.join(A.rename({"v": "name_right"}), on="id"),
        ("join would give the column 'name_right' twice", "another suffix than '_right'"),
    ),
    "a name that is taken twice on the left": (
        lambda: A.rename({"v": "name_right"}).join(B, on="id"),
        ("join would give the column 'name_right' twice",),
    ),
    "no suffix where one is needed": (
        lambda: A.join(B, on="id", suffix=""),
        ("join would give the column 'name' twice", "another suffix than ''"),
    ),
    "a string and an integer": (
        lambda: A.join(B, left_on="name", right_on="id"),
        (
            "'name' of the left table is string and 'id' of the right table is int64, which are not"
            " compared",
            'so.cast(r.id, "string")',
        ),
    ),
    "an integer and a float": (
        lambda: A.join(B, left_on="v", right_on="id"),
        ("'v' of the left table is float64 and 'id' of the right table is int64", "so.cast(r."),
    ),
    "an integer that would overflow": (
        lambda: ODD.join(A, left_on="u", right_on="id"),
        ("'u' of the left table is uint64 and 'id' of the right table is int64", "so.cast(r."),
    ),
    "a bool and an integer": (
        lambda: ODD.join(A, left_on="b", right_on="id"),
        ("'b' of the left table is bool and 'id' of the right table is int64", "so.cast(r."),
    ),
    "times in other units": (
        lambda: ODD.join(ODD, left_on="t", right_on="ms"),
        ("is timestamp[us] and 'ms' of the right table is timestamp[ms]", "so.cast(r."),
    ),
    "a list": (
        lambda: ODD.join(ODD, on="l"),
        ("the key 'l' of a join is list[int64]; expected one number, string, bool or time",),
    ),
    "a vector": (lambda: ODD.join(ODD, on="vec"), ("the key 'vec' of a join is float64[3]",)),
    "a sparse vector": (lambda: ODD.join(ODD, on="sp"), ("the key 'sp' of a join is sparse[2]",)),
    "a function that gives an array": (
        lambda: ODD.join(ODD, left_on=lambda r: r.vec * 2, right_on="id"),
        ("the key that a function gives is float64[3]",),
    ),
    "a function that reads what is not there": (
        lambda: A.join(B, left_on=lambda r: r.nope, right_on="id"),
        ("a record has no column 'nope'",),
    ),
    "a bare table's other name": (
        lambda: A.map("id").join(B, on="id"),
        ("join's on reads 'id'; the table has ['value']",),
    ),
    # so.join
    "one branch": (
        lambda: so.join(A.by("id")),
        ("so.join takes 2 to 8 branches; it got 1",),
    ),
    "no branch": (lambda: so.join(), ("so.join takes 2 to 8 branches; it got 0",)),
    "a list of branches": (
        lambda: so.join([A.by("id"), B.by("id")]),  # type: ignore[arg-type]
        ("it got 1", "pass them one by one: so.join(*branches)"),
    ),
    "nine branches": (
        lambda: so.join(*[A.by("id")] * 9),
        ("so.join takes 2 to 8 branches; it got 9", "joined before"),
    ),
    "a table without its keys": (
        lambda: so.join(A.by("id"), B),  # type: ignore[arg-type]
        ("branch 1 of so.join is a Table, without its keys", 'so.join(a.by("k"), b.by("k"))'),
    ),
    "a branch that is none": (
        lambda: so.join(A.by("id"), 3),  # type: ignore[arg-type]
        ("branch 1 of so.join is a int",),
    ),
    "branches of unequal keys": (
        lambda: so.join(A.by("id"), B.by("id", "name")),
        ("branch 0 has the keys ['id'] and branch 1 ['id', 'name']", "as many keys"),
    ),
    "branches of other types": (
        lambda: so.join(A.by("id"), B.by("id"), B.by("name")),
        ("the key 'id' of branch 0 is int64 and the key 'name' of branch 2 is string",),
    ),
    "a branch by a list": (
        lambda: so.join(ODD.by("l"), ODD.by("l")),
        ("the key 'l' of branch 0 is list[int64]",),
    ),
    "records of other fields": (
        lambda: PAIRS.join(PAIRS, left_on="_0", right_on="_1"),
        ("join's keys hold records of different fields", "as keys"),
    ),
    "by nothing": (lambda: A.by(), ("by needs a key; the table has ['id', 'name', 'v']",)),
    "by a column that is not there": (
        lambda: A.by("idd"),
        ("by reads 'idd'", "did you mean 'id'?"),
    ),
    "by a list": (lambda: A.by(["id"]), ("by's key is ['id']", "one by one")),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", JOINS)
def test_a_join_that_makes_no_sense_is_a_schema_error(name: str) -> None:
    program, says = JOINS[name]
    with pytest.raises(so.SchemaError) as caught:
        program()
    message = str(caught.value)
    assert all(words in message for words in says), message
    assert "(test_join_errors.py:" in message
    assert A.join(B, left_on="id", right_on="key").count().collect() == 1  # still usable


RECORDS: dict[str, tuple[Callable[[], Any], type[so.ScalopsError], str]] = {
    "a field that is not there": (
        lambda: PAIRS.map(lambda p: p[0].nam),
        so.SchemaError,
        "a record has no column 'nam'; its columns are ['id', 'name', 'v']",
    ),
    "a position that is not there": (
        lambda: PAIRS.map(lambda p: p[2]),
        so.SchemaError,
        "a record of 2 columns has no position 2",
    ),
    "a sum of records": (
        lambda: PAIRS.map(lambda p: p[0] + p[1]),
        so.UserFunctionError,
        "unsupported operand type(s) for +",
    ),
    "a sort by records": (lambda: PAIRS.sort("_0"), so.TraceError, "expected one value"),
    "a filter by records": (lambda: PAIRS.filter("_0"), so.TraceError, "expected true or false"),
    "explode": (
        lambda: PAIRS.explode("_0"),
        so.SchemaError,
        "explode needs one value for each record; '_0' holds records of ['id', 'name', 'v']",
    ),
    "assemble": (
        lambda: PAIRS.assemble(x=["_0"]),
        so.SchemaError,
        "assemble needs one value for each record",
    ),
    "a column that is not there": (
        lambda: PAIRS.select("_2"),
        so.SchemaError,
        "select reads '_2'; the table has ['_0', '_1']",
    ),
    "a name that is there": (
        lambda: PAIRS.rename({"_0": "_1"}),
        so.SchemaError,
        "rename would give the columns ['_1'] twice",
    ),
    "a column twice": (
        lambda: PAIRS.select("_0", "_0"),
        so.SchemaError,
        "select would give the columns ['_0'] twice",
    ),
    "a row index over it": (
        lambda: PAIRS.with_row_index("_0"),
        so.SchemaError,
        "with_row_index would add the column '_0'",
    ),
    "a record without fields": (
        lambda: A.map(lambda r: {"a": {}, "b": r.id}),
        so.SchemaError,
        "'a' is a record without fields",
    ),
    "a name with the separator": (
        lambda: A.map(lambda r: {"a․b": r.id}),
        so.SchemaError,
        "stands between a column that holds records and their fields",
    ),
    "such a name in memory": (
        lambda: so.table({"a․b": [1]}),
        so.SchemaError,
        "stands between a column that holds records and their fields",
    ),
    "such a name in Arrow": (
        lambda: so.from_arrow(pa.table({"a․b": [1]})),
        so.SchemaError,
        "stands between a column that holds records and their fields",
    ),
    "structs without fields": (
        lambda: so.from_arrow(pa.table({"a": pa.array([{}], pa.struct([]))})),
        so.SchemaError,
        "is of structs without fields",
    ),
    "a union with other fields": (
        lambda: PAIRS.union(PAIRS.drop("_1")),
        so.SchemaError,
        "union goes by column names",
    ),
    "a reduce that changes fields": (
        lambda: A.map(lambda r: {"a": {"x": r.id}}).reduce(lambda p, q: {"a": {"y": p.a.x}}),
        so.TraceError,
        "reduce's function returns the columns",
    ),
    "a reduce by a well-known function": (
        lambda: A.map(lambda r: {"a": r.id, "b": r.name}).reduce(operator.mul),
        so.TraceError,
        "string",
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_what_records_cannot_do_is_named(name: str) -> None:
    program, error, says = RECORDS[name]
    with pytest.raises(error) as caught:
        program()
    assert says in str(caught.value)
    assert "(test_join_errors.py:" in str(caught.value)


def test_a_table_whose_column_holds_records_has_no_values() -> None:
    with pytest.raises(TypeError, match=r'use select\("_0"\)'):
        _ = PAIRS._0
    with pytest.raises(AttributeError):
        _ = PAIRS._nothing


def test_errors_in_opaque_functions_show_nested_records() -> None:
    with pytest.raises(so.UserFunctionError, match=r"'_1': \{'id': 2, 'name': 'x', 'key': 2\}"):
        PAIRS.map(so.udf(lambda p: 1 // (p[1].id - 2), returns=so.int64)).collect()


def test_a_branch_is_no_table() -> None:
    branch = A.by("id")
    assert repr(branch) == "Branch(by id, of (id: int64, name: string, v: float64))"
    assert not hasattr(branch, "count")
    with pytest.raises(so.PlanError, match=r"a branch has no 'map'.*so.join\(a.by"):
        branch.map(lambda r: r.id)
    with pytest.raises(so.PlanError, match="it got a Branch"):
        so.collect(branch)
