"""Nothing grows with the iterations, nothing is decoded for nobody, nothing is left changed."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import scalops as so
from scalops.algebra.tree import Node
from scalops.engine.blas import single_threaded
from scalops.engine.threads import ThreadPool
from scalops.session import run_loop
from scalops.value import Value
from tests.engine.plans import bits, pool, run
from tests.quick import quick


class Census:
    """Counts what is alive after iteration 10 and the last one."""

    def __init__(self, iterations: int) -> None:
        self.moments = 10, iterations - 1
        self.counts: list[dict[str, int]] = []

    def iteration(
        self, loop: str | None, number: int, scalars: dict[str, float], seconds: float
    ) -> None:
        """A listener's verb."""
        if number not in self.moments:
            return
        gc.collect()
        alive = gc.get_objects()
        self.counts.append(
            {
                "nodes": sum(issubclass(type(o), Node) for o in alive),
                "values": sum(type(o) is Value for o in alive),
                "objects": len(alive),
                "threads": threading.active_count(),
                "bytes": tracemalloc.get_traced_memory()[0],
            }
        )


def loops(kind: str, iterations: int) -> Any:
    """A loop of many iterations over 1,000 records."""
    rng = np.random.default_rng(0)
    t = so.table({"x": rng.normal(size=(1_000, 4)), "y": rng.normal(size=1_000)})
    if kind == "nested":

        @so.loop({"w": np.zeros(4), "s": 0.0}, range(iterations))
        def outer(env: Any) -> Any:
            @so.loop({"v": 1.0}, range(1))
            def inner(own: Any) -> Any:
                return {"v": own["v"] + env["s"] / 2}

            return {"w": env["w"] / 2, "s": env["s"] / 3 + inner["v"] / 9}

        return outer

    @so.loop({"w": np.zeros(4), "loss": np.inf, "n": 0}, lambda env: env["n"] < iterations)
    def model(env: Any) -> Any:
        def error(r: Any) -> Any:
            return r.x @ env["w"] - r.y

        gradient = t.sum(lambda r: error(r) * r.x)
        loss = t.mean(lambda r: error(r) ** 2)
        return {"w": env["w"] - gradient / 1_000, "loss": loss, "n": env["n"] + 1}

    return model


@pytest.mark.parametrize("iterations", quick([2_000, 10_000], 1))
@pytest.mark.parametrize(("kind", "scalars"), [("flat", 2), ("nested", 1)])
def test_nothing_grows_with_the_iterations(kind: str, scalars: int, iterations: int) -> None:
    census = Census(iterations)
    tracemalloc.start()
    try:
        result = run_loop(loops(kind, iterations), census)
    finally:
        tracemalloc.stop()
    assert result.iterations == iterations
    early, late = census.counts
    assert late["nodes"] <= early["nodes"]
    assert late["values"] <= early["values"]
    assert late["threads"] <= early["threads"]
    assert late["objects"] - early["objects"] < 50
    # 8 bytes a scalar and for the seconds; a growing array keeps an eighth in reserve.
    history = 8 * (scalars + 1) * iterations
    assert late["bytes"] - early["bytes"] < history * 9 / 8 + 20_000
    assert result.history.num_rows == iterations


def test_a_second_run_leaves_nothing_behind() -> None:
    x = np.random.default_rng(0).normal(size=(20_000, 16))

    def once() -> None:
        t = so.table({"x": x})
        run([t.mean(lambda r: np.exp(r.x)), t.repartition(3).map(lambda r: r.x * 2).sum()], 2)

    once()
    counts = []
    for _ in range(3):
        once()
        gc.collect()
        nodes = sum(issubclass(type(o), Node) for o in gc.get_objects())
        counts.append((nodes, threading.active_count()))
    assert counts[0] == counts[1] == counts[2]


# What nobody reads is not decoded.


def parquet_with_a_broken_column(path: Path) -> None:
    """`bad`'s pages are overwritten; footer and the other columns are whole."""
    rows = 5_000
    table = pa.table({"a": np.arange(rows), "bad": np.arange(rows) / 7, "c": np.arange(rows) * 2.0})
    pq.write_table(table, path, row_group_size=1_000, use_dictionary=False)
    data = bytearray(path.read_bytes())
    metadata = pq.read_metadata(path)
    for group in range(metadata.num_row_groups):
        chunk = metadata.row_group(group).column(1)
        assert chunk.path_in_schema == "bad"
        start = chunk.data_page_offset
        data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)


def test_a_column_that_nothing_reads_is_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet_with_a_broken_column(path)
    t = so.read_parquet(path)
    wide = t.filter(lambda r: r.a > 9).with_columns(d=lambda r: r.c + r.a, e=lambda r: r.bad)

    @so.loop({"s": 0.0}, range(3))
    def model(env: Any) -> Any:
        return {"s": env["s"] / 2 + wide.sum(lambda r: r.d * r.c)}

    run([t.sum("c"), t.count(), model, wide.select("a", "d"), t.repartition(3).max("a")], 2)
    with pytest.raises(so.DataError):
        run([t.sum("bad")])


# What a run leaves as it was.


def blas_threads() -> list[int]:
    """Threads of each BLAS that is loaded."""
    return [i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"]


@contextmanager
def unchanged() -> Iterator[list[int]]:
    """BLAS threads and NumPy's error state are the same afterwards; gives the former."""
    with threadpool_limits(limits=2, user_api="blas"), np.errstate(over="raise", divide="print"):
        before, state = blas_threads(), np.geterr()
        yield before
        assert blas_threads() == before
        assert np.geterr() == state


def seen(r: Any) -> float:
    """An opaque function that tells how many threads BLAS has."""
    return float(max(blas_threads()))


def test_blas_has_one_thread_while_a_plan_runs() -> None:
    t = so.table({"k": np.arange(3)})
    with unchanged():
        assert t.map(so.udf(seen, returns=so.float64)).collect()["value"].to_pylist() == [1.0] * 3


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("threads", [1, 2])
def test_state_is_restored_after_an_error(error: type[BaseException], threads: int) -> None:
    t = so.table({"k": np.arange(200_000)})

    def fail(r: Any) -> float:
        if r.k == 150_000:
            raise error("here")
        return 1.0

    # Only an interrupt is the user's wish to end: a function's own exit is its failure.
    expected = error if error is KeyboardInterrupt else so.UserFunctionError
    with unchanged(), so.session(threads=threads), pytest.raises(expected, match="here"):
        t.filter(lambda r: r.k > 149_990).map(so.udf(fail, returns=so.float64)).sum().collect()


def test_blas_stays_limited_until_the_last_of_several_runs_ends() -> None:
    with unchanged() as before:
        first, second = single_threaded(), single_threaded()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert set(blas_threads()) == {1}
        second.__exit__(None, None, None)
        assert blas_threads() == before


def test_no_warning_is_printed_for_odd_numbers() -> None:
    x = np.array([0.0, -1.0, 1e308, np.nan, np.inf] * 40_000)
    t = so.table({"x": x, "i": np.arange(len(x))})

    @so.loop({"s": 1.0}, range(2), allow_nonfinite=True)
    def model(env: Any) -> Any:
        return {"s": t.sum(lambda r: np.log(r.x) / (r.x * 1e10) + r.i / (r.i - r.i)) * env["s"]}

    with warnings.catch_warnings(record=True) as caught, unchanged():
        warnings.simplefilter("always")
        for threads in (1, 4):
            run([model, t.map(lambda r: np.sqrt(r.x) * np.exp(r.x)), t.mean("x")], threads)
    assert [str(w.message) for w in caught] == []


def test_import_changes_no_environment_variable(tmp_path: Path) -> None:
    before = dict(os.environ)
    run([so.table({"x": np.ones(3)}).sum()])
    assert dict(os.environ) == before


# Threads.


def test_first_error_of_a_pool_is_raised_and_the_rest_not_begun() -> None:
    begun = []

    def task(worker: int, index: int) -> None:
        begun.append(index)
        if index >= 3:
            raise ValueError(index)

    for threads in (1, 2, 4):
        begun.clear()
        with pytest.raises(ValueError, match=r"^\d+$"):
            pool(threads).run(task, 1_000)
        assert len(begun) < 500


def test_each_index_is_done_once_by_any_number_of_threads() -> None:
    for count in (0, 1, 2, 3, 17, 1_000):
        for threads in (1, 2, 3, 8):
            done: list[int] = []
            workers: set[int] = set()

            def task(worker: int, index: int, done: Any = done, workers: Any = workers) -> None:
                done.append(index)
                workers.add(worker)

            pool(threads).run(task, count)
            assert sorted(done) == list(range(count))
            assert workers <= set(range(threads))
            done.clear()
            pool(threads).run(task, count, inline=True)
            assert done == list(range(count))


def test_an_interrupt_waits_for_the_helpers() -> None:
    own = ThreadPool(2)
    helping, interrupted, returned = threading.Event(), threading.Event(), threading.Event()
    early: list[bool] = []
    main = threading.get_ident()

    def waits_for_helpers() -> bool:
        frame, names = sys._current_frames().get(main), set()
        while frame is not None:
            names.add(frame.f_code.co_name)
            frame = frame.f_back
        return "acquire" in names and "work" not in names

    def interrupt(*_: Any) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    def task(worker: int, index: int) -> None:
        if worker == 0:
            helping.wait()
            return
        helping.set()
        while not waits_for_helpers():
            os.sched_yield()
        signal.pthread_kill(main, signal.SIGINT)  # while the caller waits for this helper
        interrupted.wait()
        early.append(returned.wait(0.05))  # long enough for a caller that does not wait

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            own.run(task, 2)
        returned.set()
    finally:
        signal.signal(signal.SIGINT, before)
    assert early == [False]
    own.close()
    assert not [t for t in threading.enumerate() if t in own._threads]


def test_a_helper_that_has_not_begun_is_not_waited_for() -> None:
    own = ThreadPool(2)
    stuck, leave = threading.Event(), threading.Event()

    def hold(worker: int, index: int) -> None:
        if worker:
            stuck.set()
            leave.wait()
        else:
            stuck.wait()

    holding = threading.Thread(target=own.run, args=(hold, 2))
    holding.start()
    stuck.wait()  # the one helper is busy
    done: list[int] = []
    own.run(lambda worker, index: done.append(index), 10)
    assert done == list(range(10))
    leave.set()
    holding.join()
    own.close()


def test_a_closed_pool_leaves_no_thread() -> None:
    before = threading.active_count()
    own = ThreadPool(4)
    own.run(lambda worker, index: None, 100)
    own.close()
    assert threading.active_count() == before


def test_two_runs_at_a_time_do_not_disturb_each_other() -> None:
    x = np.random.default_rng(0).normal(size=(60_000, 8))
    t = so.table({"x": x})
    expected = bits(run([t.sum(lambda r: np.exp(r.x) * r.x[0])], 2))
    found: list[Any] = []

    def work() -> None:
        for _ in range(5):
            found.append(bits(run([t.sum(lambda r: np.exp(r.x) * r.x[0])], 2)))

    several: list[Callable[[], None]] = [work] * 3
    threads = [threading.Thread(target=w) for w in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 15
