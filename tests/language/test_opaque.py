"""Opaque functions as a user writes them: where they run, what they get and what they may give."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.engine.witness.interpreter import Interpreter

T = so.table({"k": np.arange(40), "s": np.array([f"{i % 3}" for i in range(40)], object)})


def run(folder: Path, program: str, **variables: str) -> str:
    """What a program prints, in a fresh interpreter without SCALOPS_PROCESSES."""
    path = folder / "program.py"
    path.write_text(textwrap.dedent(program), encoding="utf-8")
    kept = {k: v for k, v in os.environ.items() if k != "SCALOPS_PROCESSES"}
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True, text=True, timeout=60, check=False, env=kept | variables,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_by_default_opaque_functions_run_in_worker_processes(tmp_path: Path) -> None:
    program = """
        import os
        import numpy as np, psutil, scalops as so
        import beside

        def where(r):
            return {"pid": os.getpid(), "v": beside.twice(r.k) if r.k else 0}

        t = so.table({"k": np.arange(1000)})
        plain = t.map(lambda r: 2 * r.k).sum().collect()
        assert not psutil.Process().children()  # none is started that is not needed
        found = t.map(so.udf(where, returns={"pid": so.int64, "v": so.int64})).collect()
        assert found["v"].to_pylist() == [2 * k for k in range(1000)]
        pids = set(found["pid"].to_pylist())
        again = set(t.map(so.udf(where)).collect()["pid"].to_pylist())
        print(os.getpid() in pids, len(pids) == len(os.sched_getaffinity(0)), again == pids)
    """
    (tmp_path / "beside.py").write_text("def twice(v):\n    return 2 * v\n")
    assert run(tmp_path, program).split() == ["False", "True", "True"]
    here = program.replace("print(", "print(len(pids), ")
    assert run(tmp_path, here, SCALOPS_PROCESSES="0").split()[:2] == ["1", "True"]


def test_task_timeout_ends_a_function() -> None:
    def endless(r: Any) -> Any:
        while r.k == 3:
            pass
        return float(r.k)

    with so.session(processes=1, task_timeout=2):
        table = T.map(so.udf(endless, returns=so.float64))
        with pytest.raises(
            so.UserFunctionError, match=r"endless\(\) was ended after 2 s, over records 0 to 39"
        ) as caught:
            table.collect()
        assert "task_timeout" in str(caught.value)
        assert caught.value.location is not None
        assert caught.value.location.file == __file__
        assert T.map(so.udf(lambda r: 1, returns=so.int64)).sum().collect() == 40


@pytest.mark.parametrize("processes", [0, 2])
def test_udf_of_batches(processes: int) -> None:
    x = np.random.default_rng(0).normal(size=(500, 3))
    t = so.table({"x": x, "s": np.array(list("abcde") * 100, object)})

    def score(r: Any) -> Any:
        return {"norm": np.sqrt((r.x**2).sum(axis=1)), "is_a": r.s == "a", "x": -r.x}

    scored = so.udf(batch=True)(score)
    with so.session(processes=processes):
        found = t.map(scored).collect()
        declared = so.udf(lambda r: r.x[:, 0], returns=so.float64, batch=True)
        first = t.map(declared).sum().collect()
        kept = t.filter(so.udf(lambda r: r.x[:, 0] > 0, batch=True)).count().collect()
    np.testing.assert_allclose(found["norm"], np.linalg.norm(x, axis=1))
    assert found["is_a"].to_pylist() == [i % 5 == 0 for i in range(500)]
    assert np.array_equal(np.array(found["x"].to_pylist()), -x)
    np.testing.assert_allclose(first, x[:, 0].sum())
    assert kept == int((x[:, 0] > 0).sum())


def test_nulls_in_batches_are_masked() -> None:
    t = so.table([{"v": 1.0}, {"v": None}, {"v": 3.0}, {"v": None}, {"v": 5.0}])
    twice = so.udf(lambda r: r.v * 2, batch=True)
    assert t.map(twice).collect()["value"].to_pylist() == [2.0, None, 6.0, None, 10.0]


def test_batches_agree_with_the_record_by_record_witness() -> None:
    halves = T.map(so.udf(lambda r: r.k / 2, batch=True))
    found = [row["value"] for row in Interpreter().records(halves.plan)]
    assert found == halves.collect()["value"].to_pylist()


def test_a_reduce_takes_no_batches() -> None:
    with pytest.raises(so.TraceError, match="two records at a time"):
        T.map(lambda r: r.k).reduce(so.udf(lambda a, b: a, batch=True))


@pytest.mark.parametrize("processes", [0, 2])
def test_lists_as_results(processes: int) -> None:
    with so.session(processes=processes):
        made = T.map(
            so.udf(
                lambda r: (
                    list(range(r.k % 3)),
                    [r.s] * (r.k % 2),
                    None if r.k % 4 else [0.5, r.k],
                ),
                returns=(so.list_(so.int64), so.list_(so.string), so.list_(so.float64)),
            )
        )
        found = made.collect()
        lengths = made.map(so.udf(lambda p: len(p[0]) + len(p[1]), returns=so.int64)).collect()
    assert found["_0"].to_pylist() == [list(range(k % 3)) for k in range(40)]
    assert found["_1"].to_pylist() == [[f"{k % 3}"] * (k % 2) for k in range(40)]
    assert found["_2"].to_pylist() == [None if k % 4 else [0.5, float(k)] for k in range(40)]
    assert lengths["value"].to_pylist() == [k % 3 + k % 2 for k in range(40)]


def test_list_types_are_found_by_running() -> None:
    table = T.map(so.udf(lambda r: {"n": [r.k] * (r.k % 3), "deep": [[r.s], []], "v": [r.k, 1]}))
    assert str(table.schema["n"]) == "list[int64]"
    assert str(table.schema["deep"]) == "list[list[string]]"
    assert str(table.schema["v"]) == "int64[2]"  # as a traced list is an array
    with pytest.raises(so.TraceError, match="lists without items"):
        T.map(so.udf(lambda r: []))
    with pytest.raises(so.TraceError, match=r"so.list_ needs the type of the items"):
        so.list_("integer")


@pytest.mark.parametrize("processes", [0, 2])
def test_a_none_makes_the_column_nullable_and_an_int_widens(processes: int) -> None:
    with so.session(processes=processes):
        found = T.map(
            so.udf(lambda r: None if r.k == 39 else r.k + (0.5 if r.k < 20 else 0))
        ).collect()
    assert found["value"].to_pylist() == [k + 0.5 if k < 20 else float(k) for k in range(39)] + [
        None
    ]


def test_records_are_kept_between_iterations_and_values_are_not() -> None:
    t = so.table({"v": np.arange(1000.0)})

    @so.loop({"w": 1.0}, range(5))
    def model(env: Any) -> Any:
        def step(r: Any) -> Any:
            return r.v if r.v < env["w"] else 0.0

        return {"w": t.map(so.udf(step, returns=so.float64)).sum() + 2}

    w = 1.0
    for _ in range(5):
        w = sum(v for v in range(1000) if v < w) + 2
    for processes in (0, 1, 2):
        with so.session(processes=processes):
            assert model.collect()["w"] == w
            model.forget() if hasattr(model, "forget") else None


def test_a_table_changed_between_runs_is_read_again() -> None:
    v = np.arange(100.0)
    seen = so.udf(lambda r: r.v + 1, returns=so.float64)
    with so.session(processes=1):
        first = so.table({"v": v.copy()}).map(seen).sum().collect()
        second = so.table({"v": v + 1}).map(seen).sum().collect()
    assert second == first + 100


def test_printing_and_memory_of_a_function_do_no_harm(capfd: pytest.CaptureFixture[str]) -> None:
    def loud(r: Any) -> Any:
        print("out", r.k)
        os.write(1, b"raw")
        sys.stderr.write("err")
        return r.k

    with so.session(processes=1):
        found = T.map(so.udf(loud, returns=so.int64)).collect()
    assert found["value"].to_pylist() == list(range(40))
    assert capfd.readouterr().out == ""
