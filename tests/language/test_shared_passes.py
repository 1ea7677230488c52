"""so.collect(*loops): loops over one table run in lock-step and share their passes."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.table import Table
from tests.engine.plans import bits, run
from tests.engine.sources import WIDTH, WatchedSource
from tests.language.witness import line

RNG = np.random.default_rng(7)
X, Y = RNG.normal(size=(6_000, 40)), RNG.normal(size=6_000)


@pytest.fixture
def table() -> so.Table:
    """6,000 records in several partitions."""
    return so.table({"x": X, "y": Y})


def ridge(table: so.Table, eta: float, condition: Any = range(5), **options: Any) -> Any:
    """Gradient descent with a step of its own."""

    @so.loop({"w": np.zeros(40), "loss": np.inf}, condition, **options)
    def model(env: Any) -> Any:
        gradient = table.map(lambda r: (r.x @ env["w"] - r.y) * r.x).mean()
        loss = table.map(lambda r: (r.x @ env["w"] - r.y) ** 2).mean()
        return {"w": env["w"] - eta * gradient, "loss": loss}

    return model


def together(*loops: Any) -> bool:
    """Whether the physical plan runs them in lock-step."""
    from scalops.explain import explain

    return "together: in lock-step" in explain(loops, stage="physical")


def same_as_alone(*loops: Any) -> None:
    """Each loop's outcome has the bits that it has when it runs alone."""
    alone = [bits(run([loop])) for loop in loops]
    for threads, memory in ((1, None), (2, None), (2, 300_000), (1, 1_000)):
        found = run(list(loops), threads, memory)
        assert [bits([f]) for f in found] == alone
    inline = run(list(loops), 2, inline=True)
    assert [bits([f]) for f in inline] == alone


def test_loops_of_pythons_for_share(table: so.Table) -> None:
    loops = [ridge(table, eta) for eta in (0.01, 0.1, 0.5)]
    assert together(*loops)
    same_as_alone(*loops)
    for eta, env in zip((0.01, 0.1, 0.5), so.collect(*loops), strict=True):
        w = np.zeros(40)
        for _ in range(5):
            w = w - eta * ((X @ w - Y)[:, None] * X).mean(0)
        np.testing.assert_allclose(env["w"], w, rtol=1e-9)


def test_a_loop_that_has_finished_drops_out(table: so.Table) -> None:
    short, long = ridge(table, 0.1, range(2)), ridge(table, 0.1, range(9))
    none = ridge(table, 0.1, range(0))
    least = ((X @ np.linalg.lstsq(X, Y)[0] - Y) ** 2).mean()
    turned = ridge(table, 0.5, lambda env: env["loss"] > 1.01 * least, max_iterations=50)
    same_as_alone(short, long, none, turned)
    outcomes = run([short, long, none, turned])
    assert [o.iterations for o in outcomes[:3]] == [2, 9, 0]
    assert all(o.converged for o in outcomes)
    assert [len(o.history["loss"]) for o in outcomes] == [o.iterations for o in outcomes]


def test_different_bodies_over_one_table_share(table: so.Table) -> None:
    def reduced(s: Any) -> Any:
        return s + table.map(lambda r: np.tanh(r.x * s)).reduce(lambda a, b: a + b)

    def large(s: Any) -> Any:  # so large a partial that it has fewer leaves
        return s / 2 + table.map(lambda r: np.outer(r.x, r.x + s[0])).sum()

    def counted(s: Any) -> Any:
        return s + table.filter(lambda r: r.y > s * 1e-4).count()

    loops = [
        so.loop(np.zeros(40), range(3))(reduced),
        so.loop(np.zeros((40, 40)), range(3))(large),
        so.loop(0.0, range(4))(counted),
        ridge(table, 0.1),
    ]
    assert together(*loops)
    same_as_alone(*loops)


def test_loops_of_two_passes_and_loops_inside_share(table: so.Table) -> None:
    def two(s: Any) -> Any:
        low = table.map(lambda r: r.y - s).min()
        return s / 2 + table.filter(lambda r: r.y > low).map(lambda r: r.y * s).mean()

    def nested(s: Any) -> Any:
        return so.loop(s, range(2))(lambda z: z / 3 + table.map(lambda r: np.cos(r.y * z)).mean())

    loops = [
        so.loop(0.5, range(4))(two),
        so.loop(0.25, range(3))(nested),
        so.loop(0.0, lambda s: table.filter(lambda r: r.y > s).count() > 900)(lambda s: s + 0.2),
    ]
    assert together(*loops)
    same_as_alone(*loops)


def test_opaque_functions_share(table: so.Table) -> None:
    def slow(r: Any) -> float:
        return float(r.y) if r.y > 0 else 1.0

    few = table.limit(300)
    loops = [
        so.loop(0.0, range(3))(lambda s, by=by: s * by + few.map(lambda r: slow(r) * s + by).sum())
        for by in (0.5, 0.25)
    ]
    same_as_alone(*loops)


# Passes.


def watched(partitions: int = 6, blocks: int = 3) -> tuple[so.Table, WatchedSource]:
    """A table that counts what is read of it."""
    source: Any = WatchedSource(partitions, blocks)
    return Table(op.Scan(source)), source


def steps(table: so.Table, by: float, count: int) -> Any:
    """A loop of one pass over the watched table."""
    return so.loop(np.zeros(WIDTH), range(count))(
        lambda w: w * by + table.map(lambda r: np.sin(r.x + w)).mean()
    )


def test_one_pass_serves_all_loops_that_are_active() -> None:
    table, source = watched()
    run([steps(table, 0.5, 7)], memory=1)  # nothing fits: each pass reads the source
    alone = source.reads[0]
    table, source = watched()
    loops = [steps(table, 0.1 * k, n) for k, n in enumerate((7, 5, 5, 1))]
    found = run(loops, memory=1)
    assert source.reads == dict.fromkeys(range(6), alone)
    assert alone == 7 * 3 + 1  # three blocks each time, and one when nothing could be cached
    for loop, outcome in zip(loops, found, strict=True):
        assert bits([outcome]) == bits(run([loop]))


def test_a_block_is_dropped_when_all_have_read_it() -> None:
    table, source = watched(partitions=4, blocks=12)
    run([steps(table, 0.1 * k, 2) for k in range(5)], memory=1)
    assert source.most <= 4


def test_threads_read_each_block_once() -> None:
    table, source = watched(partitions=16, blocks=2)
    run([steps(table, 0.1 * k, 3) for k in range(3)], threads=2, memory=100_000)
    assert set(source.reads.values()) == {3 * 2 + 1}  # and a block that found no room


def test_values_and_tables_of_the_job_keep_their_place(table: so.Table) -> None:
    first = ridge(table, 0.1, range(3))
    offset = table.mean("y")
    second = so.loop(offset, range(4))(lambda s: s / 2 + table.map(lambda r: r.y * s).mean())
    after = so.loop(first["loss"], range(2))(lambda s: s + table.map(lambda r: r.y * s).mean())
    wanted = {
        "n": table.count(),
        "loops": [first, second, after],
        "later": first["loss"] + second,
        "rows": table.filter(lambda r: r.y > second).count(),
    }
    assert together(first, second)
    found = so.collect(wanted)
    with so.session():
        one = first.collect()
        two = second.collect()
        three = after.collect()
        assert found["n"] == 6_000
        assert found["loops"][0]["w"].tobytes() == one["w"].tobytes()
        assert found["loops"][1:] == [two, three]
        assert found["later"] == one["loss"] + two
        assert found["rows"] == (two < Y).sum()


def test_loop_that_needs_anothers_result_runs_after_it(table: so.Table) -> None:
    first = so.loop(1.0, range(3))(lambda s: s / 2 + table.map(lambda r: r.y * s).mean())
    second = so.loop(first, range(3))(lambda s: s / 2 + table.map(lambda r: r.y * s).mean())
    third = so.loop(2.0, range(3))(lambda s: s / 2 + table.map(lambda r: r.y * s + first).mean())
    fourth = so.loop(3.0, range(3))(lambda s: s / 2 + table.map(lambda r: r.y * s).mean())
    assert not together(first, second)
    same_as_alone(first, second, third, fourth)
    assert together(first, second, third, fourth)


def test_loops_over_different_tables_stay_apart(table: so.Table) -> None:
    other = so.table({"y": Y[:2_000]})
    loops = [
        so.loop(1.0, range(3))(lambda s, t=t: s / 2 + t.map(lambda r: r.y * s).mean())
        for t in (table, other)
    ]
    assert not together(*loops)
    same_as_alone(*loops)
    assert not together(so.loop(1.0, range(2))(lambda s: s), so.loop(2.0, range(2))(lambda s: s))


def test_explain_says_which_loops_share_what(table: so.Table) -> None:
    from scalops.explain import explain

    text = explain([ridge(table, 0.1), ridge(table, 0.2)], stage="physical")
    assert "Iterate loops 1 and 2 together: in lock-step, one pass for all" in text
    assert "StoredTable t1 (cached), by loops 1, 2" in " ".join(text.split())
    assert text.count("CacheTable t1") == 1
    assert "Iterate loop 1: " in text
    assert "Iterate loop 2: " in text
    three = explain([ridge(table, eta) for eta in (0.1, 0.2, 0.3)], stage="physical")
    assert "Iterate loops 1, 2 and 3 together" in three


# Errors, warnings, results kept.


def test_error_names_the_loop_at_fault_and_its_iteration(table: so.Table) -> None:
    good = ridge(table, 0.1, range(9))
    at = line() + 3

    def shrinking(s: Any) -> Any:
        return s + table.filter(lambda r: r.y > s).map(lambda r: r.y).min() * 0 + 2.0

    bad = so.loop(0.0, range(9))(shrinking)
    with pytest.raises(so.DataError) as caught:
        so.collect(good, bad)
    with pytest.raises(so.DataError) as alone:
        bad.collect()
    assert str(caught.value) == str(alone.value)
    assert f"test_shared_passes.py:{at - 1}" in str(caught.value) or f":{at})" in str(caught.value)
    assert "in iteration 2" in str(caught.value)
    assert so.collect(good)["w"].shape == (40,)


def test_users_exception_keeps_its_cause(table: so.Table) -> None:
    def fail(r: Any, s: float) -> float:
        return 1 / (s - 1) if r.y else 0.0

    few = table.limit(50)
    loops = [
        so.loop(0.0, range(4))(lambda s, by=by: s + by + few.map(lambda r: fail(r, s)).sum() * 0)
        for by in (3.0, 1.0)
    ]
    with pytest.raises(so.UserFunctionError, match=r"iteration 1$") as caught:
        so.collect(*loops)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_loss_of_finiteness_names_its_loop(table: so.Table) -> None:
    fine, wild = ridge(table, 0.1, range(200)), ridge(table, 1e6, range(200))
    with pytest.raises(so.LoopError, match=r"has become (NaN|infinite)") as caught:
        so.collect(fine, wild)
    with pytest.raises(so.LoopError) as alone:
        wild.collect()
    assert str(caught.value) == str(alone.value)


def test_each_loop_warns_for_itself(table: so.Table, caplog: pytest.LogCaptureFixture) -> None:
    loops = [
        ridge(table, 0.1, lambda env: env["loss"] > 0, max_iterations=n, warn=n < 4)
        for n in (2, 3, 4)
    ]
    with caplog.at_level(logging.WARNING, "scalops"):
        so.collect(*loops)
    assert [m[:52] for m in caplog.messages] == [
        "the loop 'model' stopped after max_iterations=2 with",
        "the loop 'model' stopped after max_iterations=3 with",
    ]


def test_results_are_kept_loop_by_loop(table: so.Table) -> None:
    with so.session():
        loops = [ridge(table, eta) for eta in (0.1, 0.2)]
        both = so.collect(*loops)
        for loop, env in zip(loops, both, strict=True):
            result = loop.run()
            np.testing.assert_array_equal(result.env["w"], env["w"])
            assert result.history.num_rows == 5
            assert set(result.profile) == {"load", "map", "update", "total"}
            assert 0 < result.profile["map"] <= result.profile["total"]


def test_progress_is_told_of_every_loop(table: so.Table) -> None:
    heard: list[tuple[Any, int]] = []

    class Listener:
        def iteration(self, loop: Any, number: int, scalars: Any, seconds: float) -> None:
            heard.append((loop, number))

    run([ridge(table, 0.1, range(2)), ridge(table, 0.2, range(3))], listener=Listener())
    assert sorted(n for _, n in heard) == [0, 0, 1, 1, 2]
