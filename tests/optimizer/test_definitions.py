"""What is read twice is computed once, whatever lies between its readers, in one pass."""

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.definitions import over_source
from scalops.algebra.errors import SchemaError
from scalops.algebra.functions import function
from scalops.algebra.tree import find, walk
from scalops.engine import physical_plan as pp
from scalops.optimizer.definitions import as_definitions
from scalops.planning import optimize, plan
from tests.engine.test_agreement import assert_agree
from tests.optimizer.plans import assert_same_answer, job_of
from tests.optimizer.random_programs import random_table
from tests.quick import repeated

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(50, 4)), RNG.normal(size=50)
T = so.table({"x": X, "y": Y})
A = RNG.normal(size=(4, 4)) / 4
WAYS = [(1, None), (2, None), (2, 200)]


def unrolled(steps: int, x: Any, a: Any) -> Any:
    """Each step reads the one before it twice, and all read `a @ x`."""
    base = a @ x
    v = np.tanh(base)
    for _ in range(steps):
        v = np.tanh(v * base + (v @ a))
    return v


def model(steps: int, table: so.Table = T) -> Any:
    @so.loop(A, range(3))
    def weights(a: Any) -> Any:
        coded = table.map(lambda r: {"x": r.x, "v": unrolled(steps, r.x, a)})
        targets = coded.map(lambda r: np.outer(r.v, r.x)).mean()
        grams = coded.map(lambda r: np.outer(r.v, r.v)).mean()
        return 0.5 * a + targets - grams

    return weights


def by_numpy(steps: int) -> Any:
    a = A
    for _ in range(3):
        v = np.array([unrolled(steps, row, a) for row in X])
        a = 0.5 * a + v.T @ X / len(X) - v.T @ v / len(X)
    return a


def fused(job: op.Job) -> op.MapReduceUpdate:
    (body,) = find((optimize(job)[0],), op.MapReduceUpdate)
    return body


def calls_in(definitions: Any, name: str) -> int:
    roots = [e for _, e in definitions]
    return sum(isinstance(e, ex.Call) and e.function.name == name for e in ex.within(roots))


def test_each_step_of_an_unrolled_function_is_a_definition_over_those_before_it() -> None:
    body = fused(job_of(model(8)))
    assert isinstance(body.source, op.Cache)
    assert [n for n, _ in body.map][:3] == ["s1", "s2", "s3"]
    assert [sorted(ex.columns_read([e])) for _, e in body.map][:4] == [
        ["x"], ["s1"], ["s1", "s2"], ["s1", "s3"],
    ]  # fmt: skip
    # One product with the record, one with each step.
    assert calls_in(body.map, "matmul") == 9
    assert calls_in(body.map, "tanh") == 9


def test_the_definitions_are_one_kernel_over_the_cached_table() -> None:
    stages = plan(job_of(model(8))).stages
    ((source, sink),) = ((s.source, s.sink) for s in stages if isinstance(s.sink, pp.TreeAggregate))
    assert isinstance(source, pp.StoredTable)
    assert len(sink.map) == 10


def test_a_fold_outside_loops_and_a_table_are_one_kernel_each() -> None:
    coded = T.map(lambda r: unrolled(3, r.x, A))
    made = plan(job_of(coded.sum(), coded))
    scans = [s.source for s in made.stages if isinstance(s.sink, pp.TreeAggregate)]
    assert [type(t) for t in scans] == [pp.TableScan]
    (table,) = (s.source for s in made.stages if isinstance(s.sink, pp.Gather))
    assert isinstance(table, pp.Compute)
    assert isinstance(table.source, pp.TableScan)
    assert [n for n, _ in table.map] == ["s1", "s2", "s3", "s4"]
    assert "· map  s1 = " in str(coded.explain("physical", costs=False))
    expected = np.array([unrolled(3, row, A) for row in X])
    np.testing.assert_allclose(coded.collect()["value"].to_pylist(), expected, rtol=1e-12)
    np.testing.assert_allclose(coded.sum().collect(), expected.sum(axis=0), rtol=1e-12)


@pytest.mark.parametrize("steps", [0, 8, 100])  # more levels than a phase has passes
def test_an_unrolled_function_gives_what_numpy_gives(steps: int) -> None:
    for threads in (1, 2):
        with so.session(threads=threads):
            np.testing.assert_allclose(model(steps).collect(), by_numpy(steps), rtol=1e-9)


def test_the_bits_are_the_same_for_any_threads_and_memory() -> None:
    wide = so.table({"x": np.repeat(RNG.normal(size=(4000, 4)), 10, axis=0)})
    found = set()
    for options in ({"threads": 1}, {"threads": 2}, {"threads": 2, "memory": "200KB"}):
        with so.session(**options):
            found.add(np.asarray(model(4, wide).collect()).tobytes())
    assert len(found) == 1


def test_loops_in_lock_step_have_the_bits_they_have_alone() -> None:
    alone = [model(2).collect(), model(5).collect()]
    together = so.collect(model(2), model(5))
    assert [np.asarray(v).tobytes() for v in alone] == [np.asarray(v).tobytes() for v in together]


def test_definitions_are_not_merged_across_a_filter_nor_a_cache() -> None:
    @so.loop(1.0, range(2))
    def scaled(w: Any) -> Any:
        kept = T.map(lambda r: {"m": np.exp(r.y), "y": r.y}).cache()
        some = kept.filter(lambda r: np.tanh(r.m * w) > 0.5)
        return some.sum(lambda r: np.tanh(r.m * w) * np.cos(np.tanh(r.m * w))) / 99

    job = job_of(scaled)
    body = fused(job)
    assert isinstance(body.source, op.Filter)
    assert calls_in(body.map, "tanh") == 1
    assert calls_in(body.map, "exp") == 0
    assert find((body.source,), op.Cache)
    assert_same_answer(job, optimize(job)[0])


def test_an_opaque_function_is_called_once_for_each_record(tmp_path: Path) -> None:
    log = str(tmp_path / "calls")

    def slow(r: Any) -> float:
        with open(log, "a") as file:
            file.write(f"{float(r.y)}\n")
        return float(r.y) * 2

    marked = T.map(so.udf(slow, returns=so.float64))
    total = marked.sum(lambda v: np.exp(v) * np.tanh(np.exp(v) * v) + v)
    (stage,) = plan(job_of(total)).stages
    assert isinstance(stage.source, pp.TableScan)
    assert stage.calls_functions
    v = Y * 2
    for processes in (0, 2):
        Path(log).write_text("")
        with so.session(processes=processes):
            found = total.collect()
        np.testing.assert_allclose(found, (np.exp(v) * np.tanh(np.exp(v) * v) + v).sum())
        calls = Counter(map(float, Path(log).read_text().split()))
        # Traced functions are checked on the first eight records beforehand.
        assert calls - Counter(Y[:8].tolist()) in (Counter(Y.tolist()), Counter(Y[8:].tolist()))


def test_two_opaque_functions_one_over_the_other_agree_in_processes() -> None:
    first = T.map(so.udf(lambda r: r.y * 2, returns=so.float64))
    shared = first.map(lambda v: {"v": v, "e": np.exp(np.tanh(v) * v)})
    second = shared.map(so.udf(lambda r: r.e + r.v, returns=so.float64))
    total = second.sum(lambda v: np.tanh(v) * v)
    v = Y * 2
    u = np.exp(np.tanh(v) * v) + v
    for processes in (0, 2):
        with so.session(processes=processes):
            np.testing.assert_allclose(total.collect(), (np.tanh(u) * u).sum(), rtol=1e-12)


# The pieces.


def test_a_projection_that_replaces_a_name_stays_below() -> None:
    x, y = (ex.Column(n, T.plan.schema[n]) for n in ("x", "y"))
    double = ex.call(function("multiply"), y, ex.constant(2.0))
    added = op.Project(T.plan, (("x", x), ("y", y), ("s", double)))
    replaced = op.Project(added, (("y", double), ("s", ex.Column("s", double.type))))
    again = op.Project(added, (("y", y), ("s", double)))
    hidden = op.Project(op.Project(T.plan, (("y", y),)), (("y", y), ("x", double)))
    assert as_definitions(added) == (T.plan, (("s", double),))
    assert as_definitions(replaced) == (replaced, ())
    assert as_definitions(again) == (again, ())
    assert as_definitions(hidden) == (hidden.source, (("x", double),))


def test_a_sorted_table_moves_only_what_is_read_above_it() -> None:
    wide = so.table({"x": X, "y": Y, "z": Y})
    total = wide.sort("y").sum(lambda r: np.exp(r.x[0]) * np.tanh(np.exp(r.x[0])))
    stages = plan(job_of(total)).stages
    assert {s.sink.kept for s in stages if isinstance(s.sink, pp.SortRows)} == {("x",)}


def test_a_definition_reads_only_those_before_it() -> None:
    y = ex.Column("y", T.plan.schema["y"])
    s = ex.Column("s", y.type)
    with pytest.raises(SchemaError, match=r"reads \['s'\]"):
        op.MapReduceUpdate(T.plan, (("t", s), ("s", y)), (), ())
    assert op.MapReduceUpdate(T.plan, (("s", y), ("t", s)), (), ()).mapped.names[-2:] == ("s", "t")


def test_a_weak_definition_has_a_columns_width() -> None:
    g = ex.Column("g", so.float32)
    one = ex.constant(1.0)
    (found,) = over_source(
        [("w", one)], [ex.call(function("add"), g, ex.Column("w", one.type.strong()))]
    )
    assert found.type == so.float64


def test_definitions_grow_a_graph_not_a_tree() -> None:
    y = ex.Column("y", so.float64)
    definitions: list[op.Named] = [("s0", y)]
    for i in range(200):
        last = ex.Column(f"s{i}", so.float64)
        definitions.append((f"s{i + 1}", ex.call(function("multiply"), last, last)))
    (root,) = over_source(definitions, [ex.Column("s200", so.float64)])
    assert len(list(walk(root))) == 201


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_random_graphs_mean_the_same_and_run_the_same(run: int, random: Random) -> None:
    table = random_table(random, special=False)
    steps = [(random.randrange(6), random.random(), random.random()) for _ in range(12)]
    loops = random.randrange(2)
    kept = table.filter(lambda r: r.k > 0) if random.randrange(2) else table

    def graph(r: Any, w: Any) -> Any:
        made = [r.f, r.g, r.k, r.x @ np.ones(3), np.where(r.b, 1, 2), w]
        for kind, i, j in steps:
            a, b = made[int(i * len(made))], made[int(j * len(made))]
            made.append(
                (np.tanh(a), np.sin(a) * b, a + np.tanh(b), a - b, np.cos(a * b), so.where(
                    a > b, np.tanh(a), np.tanh(b)
                ))[kind]
            )  # fmt: skip
        return made

    def sums(w: Any) -> Any:
        made = kept.map(lambda r: {"a": graph(r, w)[-1], "b": graph(r, w)[-2], "x": r.x})
        return np.tanh(made.sum("a") + np.sum(made.sum(lambda r: r.b * r.x)))

    if loops:
        thing: Any = so.loop(0.5, range(2), allow_nonfinite=True)(sums)
        things: tuple[Any, ...] = (thing,)
    else:
        rows = table.map(lambda r: {"a": graph(r, 0.5)[-1], "b": graph(r, 0.5)[-3]})
        things = (so.lit(0.0) + sums(0.5), rows)
    assert_same_answer(job_of(*things), optimize(job_of(*things))[0])
    assert_agree(things, [random.choice(WAYS)])
