"""What groups refuse: each a named error with the user's line, and the session works after it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import scalops as so

T = so.table({"k": [1, 2, 1], "v": [1.0, 2.0, 3.0], "s": ["a", "b", "a"]})
G = T.group_by("k")
NUMBERS = iter(range(9))
OTHER = so.table({"x": [1.0]})


def of_truth(key: Any, rows: so.Table) -> Any:
    if rows.count() > 1:
        return rows.sum("v")
    return rows.max("v")


def of_loop(key: Any, rows: so.Table) -> Any:
    return so.loop(0.0, range(3))(lambda w: w + rows.sum("v"))


CASES: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("no key", lambda: T.group_by(), so.SchemaError, "needs a key"),
    ("unknown key", lambda: T.group_by("q"), so.SchemaError, r"reads 'q'; the table has"),
    ("a list of keys", lambda: T.group_by(["k", "s"]), so.SchemaError, "one by one"),  # type: ignore[arg-type]
    ("a number as key", lambda: T.group_by(3), so.SchemaError, "expected a column's name"),  # type: ignore[arg-type]
    ("a key twice", lambda: T.group_by("k", "k"), so.SchemaError, r"\['k'\] twice"),
    (
        "two nameless functions",
        lambda: T.group_by(lambda r: r.k, lambda r: r.v),
        so.SchemaError,
        r"\['key'\] twice.*name the functions",
    ),
    ("a constant as key", lambda: T.group_by(a=3), so.SchemaError, r"group_by\(a=...\) is a int"),  # type: ignore[arg-type]
    ("a key of two records", lambda: T.group_by(lambda a, b: a), so.TraceError, "parameters"),
    ("empty agg", lambda: G.agg(), so.SchemaError, "needs an aggregate"),
    ("agg of a value", lambda: G.agg(x=T.sum("v")), so.SchemaError, "is a Value"),
    ("agg of a name", lambda: G.agg(x="v"), so.SchemaError, "is 'v'; expected an aggregate"),  # type: ignore[arg-type]
    ("agg of a function", lambda: G.agg(x=lambda r: r.v), so.SchemaError, "is the function"),  # type: ignore[arg-type]
    ("a name of a key", lambda: G.agg(k=so.count()), so.SchemaError, "the name of a key"),
    ("a word of a key", lambda: G.sum("k"), so.SchemaError, "which is a key.*agg"),
    ("sum of strings", lambda: G.agg(x=so.sum("s")), so.TraceError, "sum: it has no meaning"),
    ("sum of nothing", lambda: G.agg(x=so.sum()), so.SchemaError, "needs a column"),
    ("unknown column", lambda: G.agg(x=so.sum("w")), so.SchemaError, "reads 'w'"),
    ("unknown column in f", lambda: G.agg(x=so.sum(lambda r: r.w)), so.SchemaError, "'w'"),
    (
        "argmax by two",
        lambda: G.agg(x=so.argmax(lambda r: (r.v, r.k))),
        so.SchemaError,
        "one value",
    ),
    ("quantile of 2", lambda: so.quantile(2, "v"), so.SchemaError, "from 0 to 1"),
    ("ddof of a string", lambda: so.var("v", ddof="a"), so.SchemaError, "ddof"),  # type: ignore[arg-type]
    ("first without a column", lambda: G.first(), so.SchemaError, r"agg\(record=so.first"),
    ("sum of an array", lambda: so.sum(np.ones(3)), so.TraceError, r"np.sum\(v\)"),  # type: ignore[arg-type]
    ("max of a Value", lambda: so.max(T.sum("v")), so.TraceError, "np.maximum"),
    ("arithmetic", lambda: so.sum("v") / so.count(), so.TraceError, "describes an aggregate"),
    ("its truth", lambda: bool(so.count()), so.TraceError, "describes an aggregate"),
    ("its collect", lambda: so.count().collect(), so.TraceError, "it belongs in agg"),
    ("in select", lambda: T.select(x=so.sum("v")), so.TraceError, "it belongs in agg"),
    ("in a row function", lambda: T.map(lambda r: so.sum("v")), so.TraceError, "is no value"),
    ("collect of groups", lambda: G.collect(), so.PlanError, "groups are no table"),
    ("filter of groups", lambda: G.filter(lambda r: r.v), so.PlanError, "filter its table"),
    ("a word mistyped", lambda: G.means("v"), so.PlanError, "did you mean 'mean'"),
    ("map of no function", lambda: G.map("v"), so.TraceError, "needs a function of the key"),  # type: ignore[arg-type]
    ("one parameter", lambda: G.map(lambda rows: rows.count()), so.TraceError, "it takes 2"),
    ("truth", lambda: G.map(of_truth), so.TraceError, "asks for a truth value.*apply"),
    (
        "a float",
        lambda: G.map(lambda k, r: math.sqrt(r.sum("v"))),
        so.TraceError,
        "asks for a float",
    ),
    ("running", lambda: G.map(lambda k, r: r.sum("v").collect()), so.TraceError, "its value"),
    ("rows run", lambda: G.map(lambda k, r: r.collect()), so.TraceError, "records of a table"),
    ("a loop", lambda: G.map(of_loop), so.PlanError, "a loop inside a group's function.*so.call"),
    ("a Table", lambda: G.map(lambda k, r: {"r": r}), so.PlanError, "returns a Table as 'r'"),
    ("nothing", lambda: G.map(lambda k, r: None), so.TraceError, "returns nothing"),
    ("an object", lambda: G.map(lambda k, r: object()), so.TraceError, "returns a object"),
    ("its own error", lambda: G.map(lambda k, r: 1 / 0), so.TraceError, "ZeroDivisionError"),
    (
        "another call, another answer",
        lambda: G.map(lambda k, r: r.sum("v") + next(NUMBERS)),
        so.TraceError,
        "another expression when called again",
    ),
    (
        "another table",
        lambda: G.map(lambda k, r: OTHER.filter(lambda q: q.x > k).count()),
        so.PlanError,
        "a table that is not the group's",
    ),
    (
        "a join",
        lambda: G.map(lambda k, r: r.map_batches(lambda t: t, T.schema).count()),
        so.PlanError,
        "map_batches of a group's rows",
    ),
    (
        "an opaque function of the key",
        lambda: G.map(lambda k, r: r.map(so.udf(lambda q: q.v * k, returns=so.float64)).sum()),
        so.PlanError,
        "with_columns",
    ),
    (
        "a call that closes over the group",
        lambda: G.map(lambda k, r: so.call(lambda t: float(k), r, like=0.0)),
        so.PlanError,
        "pass them as arguments",
    ),
    (
        "rows outside of a group",
        lambda: so.call(lambda t: 0.0, T, like=0.0),
        so.PlanError,
        "takes Values.*groups.map",
    ),
    (
        "another's rows",
        lambda: G.map(lambda k, r: so.call(len, T, like=0)),
        so.PlanError,
        "a Table",
    ),
    ("apply of no function", lambda: G.apply(3, T.schema), so.TraceError, "apply needs"),  # type: ignore[arg-type]
    ("apply without types", lambda: G.apply(lambda t: t, {}), so.SchemaError, "declares"),
]


@pytest.mark.parametrize(
    ("made", "kind", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_it_is_refused(made: Callable[[], Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        made()
    assert isinstance(caught.value, so.ScalopsError)
    assert "test_group_errors.py" in str(caught.value)
    assert T.sum("v").collect() == 6.0


def test_groups_are_no_records() -> None:
    for use in (list, len, bool, np.asarray):
        with pytest.raises(TypeError, match="groups are no table"):
            use(G)
    assert not hasattr(G, "to_pandas")


def test_a_table_says_how_groups_are_written() -> None:
    with pytest.raises(AttributeError, match="group_by"):
        T.groupby("k")
    with pytest.raises(AttributeError, match="group_by"):
        T.agg(x=1)


def test_an_error_in_a_handed_function_names_the_group() -> None:
    def f(rows: Any) -> float:
        return float(1.0 / (rows.num_rows - 1))

    with pytest.raises(so.UserFunctionError, match="2") as caught:
        G.map(lambda key, rows: so.call(f, rows, like=0.0)).collect()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_row_functions_in_a_map_are_compared_with_plain_calls() -> None:
    table = so.table([{"k": 1, "v": 1.0}, {"k": 1, "v": None}])
    made = table.group_by("k").map(
        lambda key, rows: rows.map(lambda r: 5.0 if r.v is None else r.v).sum()
    )
    with pytest.raises(so.TraceError, match="when called plainly and"):
        made.collect()
    taken = T.group_by("k").map(lambda k, r: r.map(lambda q: q.v).reduce(lambda a, b: a - b))
    with pytest.raises(so.TraceError, match="needs an associative function"):
        taken.collect()
