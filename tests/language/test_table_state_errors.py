"""Tables in the environment of a loop: what is refused, when, and with which words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so

HERE = Path(__file__).name


class Pages(so.Environment):
    pages: so.Table
    n: int


def pages() -> so.Table:
    return so.table({"id": np.arange(4), "rank": np.arange(4.0), "s": list("abcd")})


def next_line() -> int:
    import sys

    return sys._getframe(1).f_lineno + 1


def drift(body: Any, start: Any = None) -> so.LoopError:
    """What a body that returns another table is told, before anything runs."""
    with pytest.raises(so.LoopError) as found:
        so.loop({"pages": pages() if start is None else start}, range(2))(body)
    return found.value


def test_missing_column_names_field_columns_and_line() -> None:
    line = next_line()
    error = drift(lambda e: {"pages": e["pages"].drop("rank")})
    assert "'pages' lacks ['rank']" in str(error)
    assert "it starts with the columns ['id', 'rank', 's']" in str(error)
    assert f"{HERE}:{line}" in str(error)


def test_added_column() -> None:
    line = next_line()
    error = drift(lambda e: {"pages": e["pages"].with_columns(new=1)})
    assert "'pages' adds ['new']" in str(error)
    assert f"{HERE}:{line}" in str(error)


def test_renamed_column() -> None:
    error = drift(lambda e: {"pages": e["pages"].rename({"rank": "score"})})
    assert "lacks ['rank'] and adds ['score']" in str(error)


def test_float_for_an_integer_names_both_types() -> None:
    line = next_line()
    error = drift(lambda e: {"pages": e["pages"].with_columns(id=lambda r: r.id / 2)})
    assert "float64 for the column 'id' of 'pages', which starts as int64" in str(error)
    assert f"{HERE}:{line}" in str(error)


def test_number_for_a_string() -> None:
    error = drift(lambda e: {"pages": e["pages"].with_columns(s=lambda r: r.rank)})
    assert "float64 for the column 's' of 'pages', which starts as string" in str(error)


def test_another_shape() -> None:
    start = so.table({"x": np.zeros((3, 2))})
    error = drift(lambda e: {"pages": e["pages"].map(lambda r: {"x": np.ones(3)})}, start)
    assert "float64[3] for the column 'x' of 'pages', which starts as float64[2]" in str(error)


def test_table_where_an_array_was() -> None:
    with pytest.raises(
        so.LoopError, match=r"returns a Table for 'v', which starts as float64\[2\]"
    ):
        so.loop({"v": np.zeros(2)}, range(2))(lambda e: {"v": pages()})


@pytest.mark.parametrize(
    ("made", "found"),
    [(1.5, "float64"), (None, "a NoneType"), (np.zeros(3), r"float64\[3\]"), ([1], r"int64\[1\]")],
)
def test_no_table_where_a_table_was(made: Any, found: str) -> None:
    expected = rf"returns {found} for 'pages', which starts as a Table \(id: int64"
    with pytest.raises(so.LoopError, match=expected):
        so.loop({"pages": pages()}, range(2))(lambda e: {"pages": made})


def test_arrow_table_where_a_table_was() -> None:
    error = drift(lambda e: {"pages": pa.table({"id": [1]})})
    assert "returns records in memory for 'pages', which starts as a Table" in str(error)
    assert "so.from_arrow(...)" in str(error)


def test_bare_values_for_named_columns() -> None:
    error = drift(lambda e: {"pages": e["pages"].map(lambda r: r.rank)})
    assert "adds ['value']" in str(error)


@pytest.mark.parametrize("start", [1.0, np.zeros(3), [1, 2], pa.table({"id": [1]})])
def test_start_that_is_no_table_for_a_table_annotation(start: Any) -> None:
    with pytest.raises(so.LoopError, match=r"'pages' is annotated so.Table and starts as"):
        so.loop(Pages(pages=start, n=0), range(2))(lambda e: e)


def test_start_that_is_a_table_for_a_number_annotation() -> None:
    with pytest.raises(so.LoopError, match=r"'n' is annotated int and starts as a Table") as found:
        so.loop(Pages(pages=pages(), n=pages()), range(2))(lambda e: e)
    assert "`n: so.Table`" in str(found.value)


def test_body_that_is_not_the_same_twice() -> None:
    numbers = iter(range(100))

    def body(env: Any) -> Any:
        number = next(numbers)
        return {"pages": env["pages"].filter(lambda r: r.id > number)}

    with pytest.raises(so.TraceError, match="another table for 'pages' when called again"):
        so.loop({"pages": pages()}, range(2))(body)


@pytest.mark.parametrize(
    "how",
    [
        lambda t: t.collect(),
        lambda t: len(t),
        lambda t: list(t),
        lambda t: int(t.count()),
        lambda t: t.to_pandas(),
    ],
)
def test_nothing_runs_while_the_body_is_traced(how: Any) -> None:
    def body(env: Any) -> Any:
        table = env["pages"]
        how(table)
        return env

    with pytest.raises((so.TraceError, TypeError)):
        so.loop({"pages": pages()}, range(2))(body)


def test_state_table_outside_its_loop() -> None:
    kept: list[Any] = []

    def body(env: Any) -> Any:
        kept.append(env["pages"])
        return env

    so.loop({"pages": pages()}, range(2))(body)
    with pytest.raises(so.PlanError, match="outside its loop"):
        kept[0].count().collect()


def test_condition_that_gives_a_table() -> None:
    with pytest.raises(so.LoopError, match="expected true or false"):
        so.loop({"pages": pages()}, lambda e: e["pages"])(lambda e: e)


def nonfinite(body: Any, start: so.Table, **options: Any) -> str:
    with pytest.raises(so.LoopError) as found:
        so.loop({"t": start, "n": 0}, range(5), **options)(body).collect()
    return str(found.value)


def test_nan_names_column_field_and_iteration() -> None:
    start = so.table({"k": [1, 2], "v": [3.0, 4.0]})
    text = nonfinite(
        lambda e: {"t": e["t"].with_columns(v=lambda r: np.sqrt(r.v - 2)), "n": e["n"] + 1}, start
    )
    assert re.search(r"the column 'v' of the field 't' has become NaN .*in iteration 1", text)


def test_nan_in_one_element_of_a_vector() -> None:
    start = so.table({"x": np.ones((300, 4))})
    text = nonfinite(
        lambda e: {
            "t": e["t"].map(lambda r: {"x": r.x - np.where(r.x < -1.0, np.nan, 1.0)}),
            "n": e["n"],
        },
        start,
    )
    assert re.search(r"'x' of the field 't' has become NaN .*in iteration 3", text)


def test_infinity_where_there_was_none() -> None:
    start = so.table({"v": [1.0, 1e200]})
    text = nonfinite(lambda e: {"t": e["t"].map(lambda r: {"v": r.v * r.v}), "n": e["n"]}, start)
    assert re.search(r"'v' of the field 't' has become infinite .*in iteration 0", text)


def test_nan_in_a_bare_state() -> None:
    with pytest.raises(so.LoopError, match="column 'v' of the state has become NaN"):
        so.loop(so.table({"v": [0.0]}), range(1))(lambda t: t.map(lambda r: {"v": r.v / r.v})).run()


def test_nan_of_an_inner_loop_names_both_iterations() -> None:
    def outer(env: Any) -> Any:
        inner = so.loop({"t": env["t"]}, range(3), name="steps")(
            lambda i: {"t": i["t"].map(lambda r: {"v": np.sqrt(r.v - 1)})}
        )
        return {"t": inner.t, "n": env["n"]}

    text = nonfinite(outer, so.table({"v": [3.0]}))
    assert "in iteration 2 of the inner loop 'steps', iteration 0" in text


def test_session_is_usable_after_an_error() -> None:
    start = so.table({"v": [1.0]})
    nonfinite(lambda e: {"t": e["t"].map(lambda r: {"v": r.v / 0}), "n": e["n"]}, start)
    assert start.count().collect() == 1


def test_checkpoint_of_other_columns_is_refused(tmp_path: Path) -> None:
    def made(start: so.Table) -> Any:
        return so.loop({"t": start}, range(2))(lambda e: {"t": e["t"].limit(3)})

    made(pages()).run(checkpoint=tmp_path)
    with pytest.raises(so.PlanError, match="the environment"):
        made(pages().drop("s")).run(resume=tmp_path)


def test_damaged_table_in_a_checkpoint_is_found(tmp_path: Path) -> None:
    made = so.loop({"t": pages()}, range(3))(lambda e: {"t": e["t"].limit(3)})
    made.run(checkpoint=tmp_path)
    for file in tmp_path.glob("*.scalops"):
        content = bytearray(file.read_bytes())
        content[-200] ^= 1
        file.write_bytes(content)
    with pytest.raises(so.DataError, match="no checkpoint is whole"):
        made.run(resume=tmp_path)
