"""Tables in the environment of a loop: what they may become, and what is left of them."""

from __future__ import annotations

import logging
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so


class Pages(so.Environment):
    pages: so.Table
    n: int


def pages() -> so.Table:
    return so.table(
        {"id": np.arange(6), "rank": np.arange(6.0), "s": [*list("abc"), None, "d", "a"]}
    )


def grow(steps: int) -> Any:
    """Each iteration appends the records again, with greater ids."""

    @so.loop(Pages(pages=pages(), n=0), range(steps))
    def grown(env: Any) -> Any:
        more = pages().with_columns(id=lambda r: r.id + 6 * (env.n + 1))
        env.pages = env.pages.union(more)
        env.n = env.n + 1
        return env

    return grown


def test_rows_grow() -> None:
    env = grow(4).collect()
    assert env.pages["id"].to_pylist() == list(range(30))
    assert env.pages["s"].to_pylist() == ["a", "b", "c", None, "d", "a"] * 5
    assert env.n == 4


def test_rows_shrink_until_the_condition_finds_none() -> None:
    @so.loop(Pages(pages=pages(), n=0), lambda env: ~env.pages.is_empty())
    def shrunk(env: Any) -> Any:
        env.pages = env.pages.filter(lambda r: r.rank >= 1).with_columns(rank=lambda r: r.rank - 1)
        env.n += 1
        return env

    result = shrunk.run()
    assert (result.iterations, result.converged, result.env.n) == (6, True, 6)
    assert result.env.pages.num_rows == 0
    assert result.env.pages.schema.names == ["id", "rank", "s"]


def test_condition_folds_several_tables() -> None:
    start = {"a": pages(), "b": pages().limit(2)}
    made = so.loop(start, lambda env: env["a"].sum("rank") > env["b"].sum("rank") + 1)(
        lambda env: {"a": env["a"], "b": env["b"].with_columns(rank=lambda r: 3 * r.rank)}
    )
    result = made.run()
    assert result.env["b"]["rank"].to_pylist() == [0.0, 27.0]
    assert result.iterations == 3
    assert result.env["a"].num_rows == 6


@pytest.mark.parametrize(("steps", "first"), [(0, 6), (3, 2), (4, 6)])
def test_two_tables_change_places(steps: int, first: int) -> None:
    start = {"a": pages(), "b": pages().limit(2)}
    env = so.loop(start, range(steps))(lambda e: {"a": e["b"], "b": e["a"]}).collect()
    assert (env["a"].num_rows, env["b"].num_rows) == (first, 8 - first)


def test_three_tables_change_places_and_one_is_changed() -> None:
    start = {c: so.table({"v": [float(i)]}) for i, c in enumerate("abc")}
    env = so.loop(start, range(4))(
        lambda e: {"a": e["c"], "b": e["a"].map(lambda r: {"v": r.v + 10}), "c": e["b"]}
    ).collect()
    a, b, c = 0.0, 1.0, 2.0
    for _ in range(4):
        a, b, c = c, a + 10, b
    assert [env[n]["v"].to_pylist() for n in "abc"] == [[a], [b], [c]]


def test_both_tables_are_those_of_before() -> None:
    # The second reads the old first one, whatever the order in which they are assigned.
    @so.loop({"a": so.table({"v": [1]}), "b": so.table({"v": [1]})}, range(5))
    def fibonacci(env: Any) -> Any:
        a, b = env["a"], env["b"]
        total = a.sum("v") + b.sum("v")
        return {"a": b, "b": b.map(lambda r: {"v": total})}

    env = fibonacci.collect()
    assert (env["a"]["v"].to_pylist(), env["b"]["v"].to_pylist()) == ([8], [13])


def test_a_table_shares_its_start_with_another() -> None:
    t = pages()
    env = so.loop((t, t), range(2))(lambda e: (e[0], e[1].limit(1))).collect()
    assert (env[0].num_rows, env[1].num_rows) == (6, 1)


def vars_of(env: Any) -> Any:
    return (env.pages, env.n) if isinstance(env, Pages) else (env.t, env.x)


Pair = namedtuple("Pair", ["t", "x"])


@pytest.mark.parametrize("kind", ["tuple", "named", "dict", "class"])
def test_structures_hold_tables(kind: str) -> None:
    t = pages()
    start: Any = {
        "tuple": (t, 0), "named": Pair(t, 0), "dict": {"t": t, "x": 0}, "class": Pages(pages=t, n=0)
    }[kind]  # fmt: skip

    def body(env: Any) -> Any:
        if kind == "class":
            env.pages, env.n = env.pages.limit(4), env.n + env.pages.count()
            return env
        if kind == "dict":
            return {"t": env["t"].limit(4), "x": env["x"] + env["t"].count()}
        made = (env[0].limit(4), env[1] + env[0].count())
        return Pair(*made) if kind == "named" else made

    made = so.loop(start, range(2))(body)
    env = made.collect()
    table, number = (
        tuple(env.values()) if kind == "dict" else env if kind == "tuple" else vars_of(env)
    )
    assert type(env) is (dict if kind == "dict" else type(start))
    assert isinstance(table, pa.Table)
    assert (table.num_rows, number) == (4, 10)


def test_a_bare_table_is_a_loop_and_a_table() -> None:
    made = so.loop(pages(), range(2))(lambda t: t.union(t).distinct().filter(lambda r: r.id > 0))
    assert isinstance(made, so.Table)
    assert made.collect()["id"].to_pylist() == [1, 2, 3, 4, 5]
    assert made.run().env.equals(made.collect())
    assert made.limit(2).sum("id").collect() == 3
    assert made.iterations.collect() == 2
    assert made.select("id").collect()["id"].to_pylist() == [1, 2, 3, 4, 5]
    assert repr(made).startswith("Table(")


def test_bare_values_stay_bare() -> None:
    start = so.table({"x": [1, 2, 3]}).map(lambda r: r.x)
    made = so.loop(start, range(3))(lambda t: t.map(lambda v: 2 * v))
    assert made.collect().to_pydict() == {"value": [8, 16, 24]}
    assert made.map(lambda v: v + 1).sum().collect() == 51


def test_columns_are_put_in_order_and_cast_where_numpy_allows() -> None:
    start = so.table({"k": np.arange(3, dtype=np.int32), "v": np.ones(3, np.float32)})
    made = so.loop({"t": start}, range(2))(
        lambda e: {"t": e["t"].select(v=lambda r: np.float64(0.5) * r.v, k=lambda r: r.k + 1)}
    )
    found = made.collect()["t"]
    assert found.schema.names == ["k", "v"]
    assert found.schema.types == [pa.int32(), pa.float32()]
    assert found.to_pydict() == {"k": [2, 3, 4], "v": [0.25] * 3}


def test_vectors_and_lists_are_columns_of_the_state() -> None:
    lists = pa.array([[1, 2], [], None], pa.list_(pa.int64()))
    start = so.from_arrow(pa.table({"l": lists, "n": [1, 2, 3]})).with_columns(
        x=lambda r: np.ones(3) * r.n
    )
    made = so.loop({"t": start}, range(2))(
        lambda e: {"t": e["t"].with_columns(x=lambda r: 2 * r.x).filter(lambda r: r.n != 2)}
    )
    found = made.collect()["t"]
    assert found["l"].to_pylist() == [[1, 2], None]
    assert found["x"].to_pylist() == [[4.0] * 3, [12.0] * 3]


def test_later_plans_read_a_loops_table() -> None:
    made = grow(2)
    assert made.pages.sum("id").collect() == sum(range(18))
    assert made["pages"].filter(lambda r: r.id > 15).collect()["id"].to_pylist() == [16, 17]
    other = so.loop(0, lambda x: x < made.pages.count())(lambda x: x + 5)
    assert other.collect() == 20
    follow = so.loop({"t": made.pages}, range(1))(lambda e: {"t": e["t"].limit(1)})
    assert follow.collect()["t"].num_rows == 1


def test_a_job_gives_a_loop_and_what_reads_its_table() -> None:
    made = grow(2)
    env, total, few = so.collect(made, made.pages.sum("id"), made.pages.limit(2).select("id"))
    assert env.pages.num_rows == 18
    assert total == 153
    assert few["id"].to_pylist() == [0, 1]


def test_a_finished_loops_table_is_kept_until_it_is_forgotten() -> None:
    with so.session() as session:
        made = grow(2)
        made.collect()
        calls: list[int] = []
        again = so.collect(made.pages.count(), listen=_Listener(calls))
        assert (again, calls) == (18, [])
        made.forget()
        assert so.collect(made.pages.count(), listen=_Listener(calls)) == 18
        assert calls == [0, 1]
        assert session is not None


class _Listener:
    def __init__(self, calls: list[int]) -> None:
        self.calls = calls

    def iteration(self, loop: Any, number: int, scalars: Any, seconds: float) -> None:
        self.calls.append(number)


def test_nested_loops_restart_from_their_tables() -> None:
    t = so.table({"v": [1.0, 2.0]})

    def outer(env: Any) -> Any:
        inner = so.loop({"t": t, "n": 0}, range(2))(
            lambda i: {"t": i["t"].with_columns(v=lambda r: r.v + env["k"]), "n": i["n"] + 1}
        )
        return {"t": inner["t"], "k": env["k"] + inner.n}

    env = so.loop({"t": t, "k": 0}, range(3))(outer).collect()
    assert env["k"] == 6
    assert env["t"]["v"].to_pylist() == [9.0, 10.0]


def test_nested_loops_start_from_the_outer_state() -> None:
    def outer(env: Any) -> Any:
        inner = so.loop(env.pages, lambda t: t.count() > 2)(lambda t: t.limit(t.count() - 1))
        env.pages = inner.union(pages().limit(3))
        env.n += inner.iterations
        return env

    env = so.loop(Pages(pages=pages(), n=0), range(3))(outer).collect()
    assert env.pages["id"].to_pylist() == [0, 1, 0, 1, 2]
    assert env.n == 4 + 3 + 3


def test_two_loops_run_together() -> None:
    t = pages().cache()
    loops = [
        so.loop({"t": t, "s": 0.0}, range(n))(
            lambda e, k=k: {
                "t": e["t"].with_columns(rank=lambda r: r.rank * k),
                "s": e["s"] + e["t"].sum("rank") + t.sum("rank"),
            }
        )
        for n, k in ((3, 2), (5, 3))
    ]
    alone = [so.collect(loop, threads=1) for loop in loops]
    for loop in loops:
        loop.forget()
    together = so.collect(*loops)
    for (n, k), a, b in zip(((3, 2), (5, 3)), alone, together, strict=True):
        assert a["t"].equals(b["t"])
        assert a["s"] == b["s"] == sum(15.0 * k**i + 15 for i in range(n))


def test_callback_gets_arrow_tables_and_history_scalars_alone() -> None:
    seen: list[Any] = []

    def look(i: int, env: Any) -> bool:
        seen.append((i, type(env.pages), env.pages.num_rows, int(env.n)))
        return i < 1

    result = grow(4).run(on_iteration=look)
    assert seen == [(0, pa.Table, 12, 1), (1, pa.Table, 18, 2)]
    assert result.history.column_names == ["iteration", "n", "seconds"]
    assert result.env.pages.num_rows == 18
    assert not result.converged


def test_a_callback_may_use_the_loops_table() -> None:
    found: list[int] = []
    grow(2).run(on_iteration=lambda i, e: found.append(so.from_arrow(e.pages).count().collect()))
    assert found == [12, 18]


def test_where_chooses_between_environments_with_tables() -> None:
    def body(env: Any) -> Any:
        less = Pages(pages=env.pages.limit(2), n=env.n + 10)
        more = Pages(pages=env.pages.union(env.pages), n=env.n + 1)
        return so.where(env.pages.count() > 10, less, more)

    env = so.loop(Pages(pages=pages(), n=0), range(4))(body).collect()
    assert (env.pages.num_rows, env.n) == (8, 13)


def test_sampling_and_opaque_functions_see_the_start() -> None:
    def label(r: Any) -> str:
        return "few" if r.rank < 3 else "many"

    with so.session(processes=0):
        env = so.loop(Pages(pages=pages(), n=0), range(2))(_labelled(label)).collect()
    assert env.pages["s"].to_pylist() == ["few"] * 2 + ["many"] * 4


def _labelled(label: Any) -> Any:
    def body(env: Any) -> Any:
        env.pages = env.pages.with_columns(s=label, rank=lambda r: r.rank + 1)
        return env

    return body


def test_nan_that_was_there_passes() -> None:
    start = so.table({"v": [np.nan, 1.0, -np.inf], "k": [1, 2, 3]})
    env = so.loop({"t": start}, range(2))(
        lambda e: {"t": e["t"].sort("k", descending=True).with_columns(k=lambda r: r.k + 1)}
    ).collect()
    np.testing.assert_array_equal(env["t"]["v"].to_numpy(), [-np.inf, 1.0, np.nan])


def test_nan_of_another_table_passes() -> None:
    other = so.table({"x": [1.0, 0.0]}).map(lambda r: {"v": r.x / r.x})  # computed outside
    env = so.loop({"t": other.limit(1)}, range(2))(lambda e: {"t": e["t"].union(other)}).collect()
    assert env["t"].num_rows == 5


def test_infinity_that_was_there_may_be_computed_with() -> None:
    start = so.table({"v": [np.inf, 1.0]})
    made = so.loop({"t": start}, range(3))(lambda e: {"t": e["t"].map(lambda r: {"v": r.v / 2})})
    assert made.collect()["t"]["v"].to_pylist() == [np.inf, 0.125]


def test_nan_under_a_null_passes() -> None:
    start = so.table({"v": [1.0, None, 4.0]})
    made = so.loop({"t": start}, range(1))(
        lambda e: {"t": e["t"].map(lambda r: {"v": so.coalesce(np.log(r.v), 0.0)})}
    )
    assert made.collect()["t"]["v"].to_pylist() == [0.0, 0.0, np.log(4.0)]


def test_allow_nonfinite_lets_pass() -> None:
    made = so.loop({"t": so.table({"v": [0.0]})}, range(1), allow_nonfinite=True)(
        lambda e: {"t": e["t"].map(lambda r: {"v": r.v / 0})}
    )
    assert np.isnan(made.collect()["t"]["v"].to_pylist()[0])


def test_checkpoint_and_resume_give_the_same_tables(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    source = so.table(
        {"k": np.arange(5_000), "x": rng.normal(size=(5_000, 3)), "s": ["é", None] * 2_500}
    )

    def made() -> Any:
        @so.loop({"t": source, "total": 0.0}, range(6))
        def walk(env: Any, i: Any) -> Any:
            t = env["t"].filter(lambda r: r.k % 7 != i).with_columns(x=lambda r: np.sin(r.x) * 1.1)
            return {"t": t.union(t.limit(40)), "total": env["total"] + t.sum(lambda r: r.x @ r.x)}

        return walk

    def stop(i: int, env: Any) -> bool:
        return i < 2

    whole = made().run().env
    with so.session():
        made().run(checkpoint=tmp_path, on_iteration=stop)
    with so.session():
        resumed = made().run(resume=tmp_path)
    assert resumed.iterations == 6
    assert resumed.env["total"].tobytes() == whole["total"].tobytes()
    assert resumed.env["t"].equals(whole["t"])
    assert resumed.history.num_rows == 6


def test_no_record_at_all() -> None:
    start = so.empty({"k": so.int64, "s": so.string, "x": so.vector(2), "l": so.list_(so.int64)})
    made = so.loop({"t": start, "n": 0}, range(3))(
        lambda e: {"t": e["t"].union(e["t"]).sort("k").distinct(), "n": e["n"] + e["t"].count()}
    )
    env = made.collect()
    assert (env["t"].num_rows, env["n"]) == (0, 0)
    assert env["t"].schema.names == ["k", "s", "x", "l"]


def test_explain_shows_where_tables_start_and_what_they_become() -> None:
    text = grow(2).explain()
    assert "pages: table (id: int64, rank: float64, s: string) starts as below" in text
    assert "pages = the table below" in text
    assert "StateTable env.pages" in text
    assert "HoldState" in grow(2).explain("physical")
    assert "LoopTable loop1.pages" in grow(2).pages.explain("logical")


def test_environments_with_tables_are_compared() -> None:
    a, b, c = grow(1).collect(), grow(1).collect(), grow(2).collect()
    assert a == b
    assert a != c


def test_a_loop_that_does_not_converge_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "scalops"):
        made = so.loop(pages(), lambda t: ~t.is_empty(), max_iterations=2)(lambda t: t)
        assert not made.run().converged
    assert "max_iterations=2" in caplog.text
