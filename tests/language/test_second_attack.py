"""Hostile and unlucky users, second round: each of these once went wrong."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_quantiles_of_integers_lie_between_them_however_far_apart(dtype: str) -> None:
    limits = np.iinfo(dtype)
    pair = np.array([limits.min, limits.max], dtype)
    table = so.table({"k": pair, "x": np.stack([pair, pair[::-1]])})
    expected = np.quantile(pair.astype(np.float64), [0.25, 0.5, 1])
    bare = table.quantile([0.25, 0.5, 1], "k")
    both = table.quantile(0.5, lambda r: {"k": r.k, "y": r.k * 0.5})
    found = so.collect(bare, table.quantile([0.25, 0.5, 1], "x"), both)
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[1], np.stack([expected, expected], axis=1))
    assert found[2]["k"] == expected[1]
    assert bare.dtype.name == "float64"


@pytest.mark.parametrize("processes", [0, 1])
def test_opaque_functions_return_integers_without_a_sign(processes: int) -> None:
    numbers = [1, None, 2**64 - 1]
    table = so.from_arrow(pa.table({"u": pa.array(numbers, pa.uint64())}))
    kind = table.schema.types["u"]
    with so.session(processes=processes):
        assert (
            table.map(so.udf(lambda r: r.u, returns=kind)).collect()["value"].to_pylist() == numbers
        )
        batches = table.map_batches(lambda batch: batch, table.schema)
        assert batches.filter(lambda r: r.u > 1).collect()["u"].to_pylist() == [2**64 - 1]
        with pytest.raises(so.UserFunctionError, match="gives the int -1; expected uint64"):
            table.map(so.udf(lambda r: -1, returns=kind)).collect()


class _Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class _Unstoppable(BaseException):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize("kind", [_Unspeakable, _Unstoppable])
def test_an_exception_without_a_text_comes_out_of_a_worker(kind: type[BaseException]) -> None:
    def fails(r: Any) -> float:
        raise kind

    table = so.table({"a": [1.0, 2.0]})
    with so.session(processes=1), pytest.raises(so.UserFunctionError, match="cannot be shown"):
        table.map(so.udf(fails, returns=so.float64)).collect()


def test_the_fork_of_a_worker_answers_nothing() -> None:
    def forks(r: Any) -> float:
        if r.a == 0 and os.fork() == 0:
            return -1.0
        return float(r.a)

    table = so.table({"a": np.arange(3000.0)}).repartition(2)
    with so.session(processes=2):
        found = table.map(so.udf(forks, returns=so.float64)).collect()
    assert found["value"].to_pylist() == list(range(3000))


def test_what_a_function_writes_into_the_workers_pipe_is_an_error() -> None:
    def writes(r: Any) -> float:
        for file in range(3, 12):
            with suppress(OSError):
                os.write(file, b"garbage!" * 100)
        return float(r.a)

    table = so.table({"a": np.arange(10.0)})
    with so.session(processes=1):
        with pytest.raises(so.ExecutionError, match="makes no sense"):
            table.map(so.udf(writes, returns=so.float64)).collect()
        assert table.map(so.udf(lambda r: r.a, returns=so.float64)).sum().collect() == 45


def _counting() -> Any:
    return so.loop({"w": np.zeros(3)}, range(4))(lambda env: {"w": env["w"] + 1.0})


@pytest.mark.parametrize("folder", ["", "a\0b", "\ud800"])
def test_a_text_that_names_no_folder_is_refused_for_checkpoints(folder: str) -> None:
    for given in ({"checkpoint": folder}, {"resume": folder}):
        with pytest.raises(so.LoopError, match="expected a folder"):
            _counting().run(**given)


def test_a_name_that_is_too_long_is_refused_for_checkpoints(tmp_path: Path) -> None:
    for given in ({"checkpoint": tmp_path / ("x" * 300)}, {"resume": tmp_path / ("x" * 300)}):
        with pytest.raises(so.DataError, match="too long"):
            _counting().run(**given)


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def full(file: int) -> None:
        if os.fstat(file).st_size > 0 and any(tmp_path.glob("checkpoint-*2.scalops")):
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(so.DataError, match="No space left"):
        _counting().run(checkpoint=tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_a_pipe_among_checkpoints_is_passed_over(tmp_path: Path) -> None:
    _counting().run(checkpoint=tmp_path, every=2)
    last = sorted(tmp_path.iterdir())[-1]
    last.unlink()
    os.mkfifo(last)
    assert _counting().run(resume=tmp_path).env["w"].tolist() == [4.0, 4.0, 4.0]


def test_threads_may_enter_one_session() -> None:
    table = so.table({"a": np.arange(10.0)})
    session, together = so.session(threads=1), threading.Barrier(4)
    results: list[Any] = []

    def use() -> None:
        try:
            with session:
                together.wait()
                results.append(float(table.sum("a").collect()))
                together.wait()
        except BaseException as error:
            results.append(error)

    users = [threading.Thread(target=use) for _ in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert results == [45.0] * 4


def test_generators_may_leave_their_sessions_in_any_order() -> None:
    def counting(threads: int) -> Generator[int, None, None]:
        with so.session(threads=threads):
            yield so.config()["threads"]

    before = so.config()["threads"]
    first, second = counting(3), counting(5)
    assert (next(first), next(second)) == (3, 5)
    first.close()
    assert so.config()["threads"] == 5
    second.close()
    assert so.config()["threads"] == before


def test_a_process_forked_while_another_thread_collects_can_collect() -> None:
    table, inside, go_on = so.table({"a": np.arange(10.0)}), threading.Event(), threading.Event()

    def waits(iteration: int, env: Any) -> None:
        inside.set()
        go_on.wait(20)

    with so.session(processes=0) as session:

        def runs() -> None:
            with session:
                _counting().run(on_iteration=waits)

        busy = threading.Thread(target=runs)
        busy.start()
        assert inside.wait(20)
        process = os.fork()
        if process == 0:
            signal.alarm(10)  # ends a child that waits for a lock
            os._exit(0 if table.sum("a").collect() == 45 else 1)
        assert os.waitpid(process, 0)[1] == 0
        go_on.set()
        busy.join()


def test_a_plan_that_is_too_deep_is_a_plan_error() -> None:
    one = so.table({"v": np.arange(3.0)})
    table = one
    for _ in range(1000):
        table = table.union(one)
    with pytest.raises(so.PlanError, match="the plan is too deep") as caught:
        table.count().collect()
    assert caught.value.location is not None
    assert one.count().collect() == 3


@pytest.mark.parametrize("name", ["a\0b.csv", "\ud800.csv"])
def test_a_path_that_can_be_none_is_a_plan_error(name: str) -> None:
    table = so.table({"v": np.arange(3.0)})
    for act in (table.write_csv, so.read_csv):
        with pytest.raises(so.PlanError, match="can be no path") as caught:
            act(name)
        assert caught.value.location is not None
