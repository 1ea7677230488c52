"""Programs in odd shapes, each of which several ranks must end as this process does.

A case is a function of a folder that gives results, or raises what a user would see.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import scalops as so
from scalops.algebra.errors import OutOfMemoryError

Case = Callable[[Path], Any]
CASES: dict[str, Case] = {}

_rng = np.random.default_rng(5)
XY = so.table(
    {"x": _rng.normal(size=(100, 3)), "y": _rng.normal(size=100), "k": _rng.integers(0, 7, 100)}
)
NAMES = so.table(
    {"s": ["a", None, "b", "ä" * 30, "", None, "a"] * 5, "k": [0, 1, 2, 3, 4, 5, 6] * 5}
)
ONE = so.table({"k": [3], "v": [1.5]})
NONE = so.empty({"k": so.int64, "v": so.float64})


def case(function: Case) -> Case:
    """Note a case by its name."""
    CASES[function.__name__] = function
    return function


def _gradient(w: Any) -> Any:
    return XY.map(lambda r: (r.x @ w - r.y) * r.x).mean()


def _fitted(strength: float, times: int = 5) -> Any:
    return so.loop(np.zeros(3), range(times))(lambda w: w - 0.1 * (_gradient(w) + strength * w))


# Few records, and many things at once.


@case
def folds_over_no_record_and_one(_: Path) -> Any:
    return so.collect(
        [
            [t.count(), t.sum("v"), t.mean("v"), t.var("v"), t.n_unique("k"), t.quantile(0.5, "v")]
            for t in (NONE, ONE, ONE.filter(lambda r: r.v > 9))
        ]
    )


@case
def tables_of_no_record_and_one(_: Path) -> Any:
    return so.collect(
        [
            [
                t.sort("k"),
                t.distinct(),
                t.shuffle(1),
                t.with_row_index(),
                t.slice(1, 2),
                t.union(t),
                t.group_by("k").agg(s=so.sum("v")),
                t.join(t, on="k", how="full"),
                t.with_columns(c=so.cumsum("v"), d=so.cumsum("v", over="k", reverse=True)),
            ]
            for t in (NONE, ONE, ONE.filter(lambda r: r.v > 9))
        ]
    )


@case
def least_of_nothing(_: Path) -> Any:
    return NONE.min("v").collect()


@case
def many_things_in_one_job(_: Path) -> Any:
    groups = XY.group_by("k").agg(n=so.count(), l=so.collect_list("y"), q=so.quantile(0.3, "y"))
    return so.collect(
        {
            "sorted": [XY.sort("y"), NAMES.sort("s", "k", descending=[True, False])],
            "groups": [groups, NAMES.group_by("s").agg(l=so.collect_list("k"))],
            "joined": NAMES.join(XY.group_by("k").count(), on="k", how="left"),
            "running": XY.select(c=so.cumsum("y", over="k"), d=so.cummax("y", reverse=True)),
            "beside": so.cogroup(XY.by("k"), NAMES.by("k").inner()).map(
                lambda key, a, b: {"k": key, "n": a.count(), "m": b.count()}
            ),
            "loop": so.loop(0.0, range(3))(lambda s: s + XY.sum("y")),
            "chosen": [XY.shuffle(3).limit(7), XY.random_split([0.3, 0.7], 5)[0]],
            "exploded": XY.explode("x", index="j").group_by("j").sum("x"),
        }
    )


@case
def values_decide(_: Path) -> Any:
    n = XY.count()
    return so.collect(
        so.where(n > 3, XY.limit(2), XY),
        so.loop(0, so.range(n // 20))(lambda s: s + 1),
        XY.filter(lambda r: r.y > XY.mean("y")).count(),
        XY.slice(n - 3, n),
    )


@case
def records_in_columns(_: Path) -> Any:
    pairs = so.join(XY.select("k", "y").by("k"), NAMES.by("k")).filter(lambda p: p[0].y > 1)
    return so.collect(pairs, pairs.distinct("_1"), pairs.argmax(lambda p: p._0.y, "_1"))


@case
def strings_with_nulls(_: Path) -> Any:
    upper = NAMES.map(lambda r: {"w": r.s.str.upper(), "k": r.k})
    return so.collect(
        upper.group_by("w").agg(n=so.count(), m=so.max("w")),
        [NAMES.min("s"), NAMES.n_unique("s"), NAMES.first("s"), NAMES.argmax("k", "s")],
        NAMES.join(NAMES.distinct("s"), on="s", how="full"),
    )


# Loops.


@case
def loops_in_loops(_: Path) -> Any:
    return so.loop(np.zeros(3), range(3))(
        lambda w, i: so.loop(w, so.range(i + 1))(lambda z: z - 0.1 * _gradient(z))
    ).collect()


@case
def a_state_of_tables_in_loops_in_loops(_: Path) -> Any:
    def body(env: Any, i: Any) -> Any:
        inner = so.loop({"u": env["t"], "c": 0.0}, range(2))(
            lambda e: {
                "u": e["u"].with_columns(y=lambda r: r.y + e["c"]),
                "c": e["c"] + e["u"].mean("y"),
            }
        )
        summed = inner.u.group_by("k").agg(y=so.sum("y"))
        return {"t": summed.union(inner.u.limit(i + 1)), "n": env["n"] + inner.c}

    found = so.loop({"t": XY.select("k", "y"), "n": 0.0}, range(3))(body).run()
    return found.env["t"], found.env["n"]


@case
def a_graph(_: Path) -> Any:
    edges = so.table({"a": np.arange(100) % 17, "b": np.arange(100) * 7 % 19})
    start = so.table({"v": np.arange(20), "d": np.where(np.arange(20) == 0, 0, 99)})

    def body(env: Any) -> Any:
        reached = edges.join(env["d"], left_on="a", right_on="v").map(
            lambda r: {"v": r.b, "d": r.d + 1}
        )
        nearer = reached.union(env["d"]).group_by("v").agg(d=so.min("d"))
        return {"d": nearer, "m": nearer.sum("d")}

    found = so.loop({"d": start, "m": 0}, range(6))(body).run()
    return found.env["d"], found.history.drop_columns(["seconds"])


@case
def a_state_of_strings(_: Path) -> Any:
    found = so.loop({"t": NAMES, "n": 0}, range(3))(
        lambda e: {
            "t": e["t"]
            .with_columns(s=lambda r: so.where(r.k > 3, "q", r.s))
            .filter(lambda r: r.k < 6),
            "n": e["n"] + e["t"].n_unique("s"),
        }
    ).run()
    return found.env["t"], found.env["n"]


@case
def stacked_loops_beside_others(_: Path) -> Any:
    stack = [_fitted(s, n) for s, n in ((0.01, 1), (0.1, 5), (1.0, 3), (10.0, 0), (2.0, 7))]
    return so.collect(stack, XY.sort("y").limit(3), XY.map(lambda r: r.x @ stack[1]).sum())


@case
def stacked_loops_over_nulls(_: Path) -> Any:
    table = so.table({"x": np.ones((40, 2)), "y": [1.0, None, 2.0, 3.0] * 10})

    def fitted(strength: float) -> Any:
        return so.loop(np.zeros(2), range(3))(
            lambda w: w - 0.1 * (table.map(lambda r: (r.x @ w - r.y) * r.x).mean() + strength * w)
        )

    return so.collect([fitted(s) for s in (0.01, 0.1, 1.0, 10.0)])


@case
def loops_that_do_not_converge(_: Path) -> Any:
    def slow(times: int) -> Any:
        more = XY.filter(lambda r: r.y < 9).count() > 0
        return so.loop(1.0, lambda s: more & (s < 99), max_iterations=times, name=f"l{times}")(
            lambda s: s + XY.mean("y")
        )

    return so.collect(slow(2), slow(3))


@case
def a_state_that_overflows(_: Path) -> Any:
    return so.loop(1.0, range(3))(
        lambda s: so.loop(s, range(5), name="inner")(
            lambda z: z * XY.map(lambda r: r.y * r.y * 1e80).sum()
        )
    ).collect()


@case
def a_column_that_overflows_in_its_last_record(_: Path) -> Any:
    last = np.zeros(100)
    last[99] = 1.0
    return so.loop({"t": so.table({"y": last}), "n": 0}, range(9))(
        lambda e: {"t": e["t"].map(lambda r: {"y": r.y * 1e90}), "n": e["n"] + 1}
    ).collect()


@case
def a_state_that_may_be_nan(_: Path) -> Any:
    found = so.loop({"t": XY.select("y"), "n": 1.0}, range(4), allow_nonfinite=True)(
        lambda e: {
            "t": e["t"].map(lambda r: {"y": np.log(r.y + 0.5)}),
            "n": e["n"] * e["t"].sum("y"),
        }
    ).run()
    return found.env["t"], found.history.drop_columns(["seconds"])


@case
def a_run_that_is_stopped_and_resumed(folder: Path) -> Any:
    def loop() -> Any:
        return so.loop({"t": XY.select("k", "y"), "w": np.zeros(3)}, range(7))(
            lambda e: {
                "t": e["t"].with_columns(y=lambda r: r.y * 0.9 + e["w"][0]),
                "w": e["w"] - 0.1 * _gradient(e["w"]),
            }
        )

    heard: list[Any] = []

    def hear(number: int, env: Any) -> bool:
        heard.append((number, env["w"].tolist(), XY.sum("y").collect()))
        return number < 3

    kept = str(folder / "kept")
    runs = [loop().run(checkpoint=kept, every=2, on_iteration=hear), loop().run(resume=kept)]
    tables = [run.env["t"] for run in runs]
    return heard, tables, [(r.iterations, r.history.drop_columns(["seconds"])) for r in runs]


@case
def a_callback_that_raises(_: Path) -> Any:
    def hear(number: int, env: Any) -> None:
        if number == 2:
            raise KeyError("mine")

    return so.loop(0.0, range(9))(lambda s: s + XY.sum("y")).run(on_iteration=hear)


# Users' functions, and errors.


@case
def a_function_over_the_state(_: Path) -> Any:
    def weighed(record: Any, w: Any) -> float:
        return float(np.sum(np.asarray(record.x) * w)) if record.k != 3 else 0.0

    return so.loop(np.ones(3), range(4))(
        lambda w: (
            w * 0.5 + 0.001 * XY.map(so.udf(lambda r: weighed(r, w), returns=so.float64)).sum()
        )
    ).collect()


@case
def a_function_that_fails_in_a_join(_: Path) -> Any:
    right = so.table({"k": np.arange(7), "z": np.arange(7.0)})

    def scaled(record: Any, w: Any) -> dict[str, Any]:
        if w >= 2 and record.z == 5.0:
            raise ValueError("five")
        return {"k": record.k, "z": float(record.z * w)}

    def body(w: Any) -> Any:
        own = so.udf(lambda r: scaled(r, w), returns={"k": so.int64, "z": so.float64})
        return w + 1 + 0 * XY.join(right.map(own), on="k").sum("z")

    return so.loop(0.0, range(5))(body).collect()


@case
def a_function_that_fails_in_a_group(_: Path) -> Any:
    def size(rows: Any, w: float) -> float:
        if w >= 2 and rows["k"][0].as_py() == 5:
            raise ValueError("five")
        return float(rows.num_rows)

    def body(w: Any) -> Any:
        sizes = XY.group_by("k").map(lambda key, rows: so.call(size, rows, w, like=0.0))
        return w + 1 + 0 * sizes.sum()

    return so.loop(0.0, range(5))(body).collect()


@case
def a_function_that_fails_in_several_partitions(_: Path) -> Any:
    def small(record: Any) -> float:
        if record.y > 1.0:
            raise ValueError(f"too big in group {record.k}")
        return float(record.y)

    return XY.map(so.udf(small, returns=so.float64)).collect()


@case
def an_aggregate_in_order(_: Path) -> Any:
    class Descent(so.Aggregate):
        def __init__(self, w: Any) -> None:
            self.w = w

        def initialize(self) -> Any:
            return {"w": self.w, "n": 0.0}

        def transition(self, s: Any, r: Any) -> Any:
            return {"w": s["w"] - 0.01 * (s["w"] @ r.x - r.y) * r.x, "n": s["n"] + 1}

        def merge(self, a: Any, b: Any) -> Any:
            n = np.maximum(a["n"] + b["n"], 1)
            return {"w": (a["w"] * a["n"] + b["w"] * b["n"]) / n, "n": a["n"] + b["n"]}

        def finalize(self, s: Any) -> Any:
            return s["w"]

    return so.loop(np.zeros(3), range(3))(lambda w: XY.aggregate(Descent(w))).collect()


@case
def an_index_twice(_: Path) -> Any:
    table = so.table({"at": [0, 1, 2, 3, 0], "v": np.arange(5.0)})
    return table.to_array("v", index="at", size=5).collect()


@case
def an_index_outside(_: Path) -> Any:
    return so.loop(np.zeros(5), range(3))(
        lambda w: w + XY.map(lambda r: so.one_hot(r.k, 5) * w[0]).sum()
    ).collect()


# Files and kept tables.


@case
def sparse_vectors(folder: Path) -> Any:
    with (folder / "s.svm").open("w") as file:
        for i in range(60):
            file.write(f"{(-1) ** i} {i % 7 + 1}:{i / 10} {i % 11 + 9}:2 {25 + i % 3}:-1\n")
    table = so.read_libsvm(str(folder / "s.svm"))
    descent = so.loop(np.zeros(27), range(3))(
        lambda w: w - 0.01 * table.map(lambda r: (r.x @ w - r.y) * r.x).sum()
    )
    return so.collect(
        table.sum("x"), descent, table.sort("y").limit(3), table.explode("x", index="j").sum("x")
    )


@case
def bad_records(folder: Path) -> Any:
    bad = {7: "x", 90: "y"}
    lines = [f"{i},{bad.get(i, i % 5)}" for i in range(100)]
    (folder / "b.csv").write_text("\n".join(["id,n", *lines]) + "\n")
    found = []
    for how in ("skip", "null"):
        table = so.read_csv(str(folder / "b.csv"), column_types={"n": "int64"}, on_error=how)
        found.append([table.sum("n").collect(), table.group_by("n").count().collect()])
    return found


@case
def a_bad_record_of_many_bytes(folder: Path) -> Any:
    (folder / "long.csv").write_text("id,n\n1,2\n1," + "z" * 5_000_000 + "\n1,2\n")
    table = so.read_csv(str(folder / "long.csv"), column_types={"n": "int64"}, on_error="skip")
    return table.sum("n").collect()


@case
def many_row_groups(folder: Path) -> Any:
    words = [None if i % 5 == 0 else str(i % 9) for i in range(500)]
    path = folder / "p.parquet"
    pq.write_table(pa.table({"a": np.arange(500), "s": words}), path, row_group_size=37)
    table = so.read_parquet(str(path))
    table.filter(lambda r: r.a > 250).sort("s").write_ipc(str(folder / "w.ipc"))
    return so.collect(
        table.group_by("s").agg(n=so.count(), m=so.max("a")),
        table.slice(250, 3),
        table.with_row_index().filter(lambda r: r.index % 99 == 0),
        so.read_ipc(str(folder / "w.ipc")),
    )


@case
def kept_and_forgotten(_: Path) -> Any:
    kept = XY.filter(lambda r: r.y > 0).cache()
    found = [kept.count().collect(), kept.sort("y").limit(2).collect()]
    found.append(so.loop(0.0, range(3))(lambda s: s + kept.sum("y")).collect())
    kept.forget()
    counted = kept.group_by("k").count().cache()
    found += [counted.collect(), kept.join(counted, on="k").sum("count").collect()]
    return found


@case
def a_run_of_little_memory(_: Path) -> Any:
    """A group is one table for its function: a step may have no room for it."""
    table = so.table({"a": np.zeros(2000, np.int64), "b": np.arange(2000.0)})
    given = table.group_by("a").apply(lambda rows: rows.select(["b"]), {"b": so.float64})
    try:
        so.collect(given, memory="1KB")
    except OutOfMemoryError:
        return "refused", so.collect(table.sum("b"), memory="1GB")
    return "run"
