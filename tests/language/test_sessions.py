"""Running: nestings of results, what a session keeps, and its options."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from tests.language.witness import assert_same, line, listed

CALLS: list[float] = []


def noted(r: Any) -> Any:
    """An opaque function that tells how often it ran."""
    from tests.language import test_sessions

    test_sessions.CALLS.append(r.a)
    return r.a


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    """A session of the test's own."""
    CALLS.clear()
    with so.session(threads=2):
        yield


@pytest.fixture
def table() -> so.Table:
    """Three records."""
    return so.table({"a": [1.0, 2.0, 3.0]})


# collect


class Both(NamedTuple):
    """A NamedTuple of results."""

    total: Any
    rows: Any


def test_nestings_give_the_same_nesting(table: so.Table) -> None:
    total, model = table.sum("a"), so.loop({"w": 1.0}, range(2))(lambda e: {"w": e["w"] * 2})
    made = so.collect({
        "v": total, "t": (table, [total, {"m": model}]), "both": Both(total, table), "none": [],
        "s": table.sum(lambda r: (r.a, r.a)), "n": table.sum(lambda r: {"p": r.a}),
    })  # fmt: skip
    assert made["v"] == 6.0
    assert isinstance(made["t"], tuple)
    assert isinstance(made["t"][0], pa.Table)
    assert made["t"][1] == [6.0, {"m": {"w": 4.0}}]
    assert isinstance(made["both"], Both)
    assert made["both"].total == 6.0
    assert made["none"] == []
    assert made["s"] == (6.0, 6.0)
    assert made["n"] == {"p": 6.0}
    assert so.collect(total, total) == (6.0, 6.0)
    assert so.collect([total]) == [6.0]
    assert so.collect() == ()


def test_several_results_share_one_pass(table: so.Table) -> None:
    marked = table.map(so.udf(noted, returns=so.float64))
    assert so.collect(marked.sum(), marked.max(), marked.count()) == (6.0, 3.0, 3)
    assert len(CALLS) == 3


# What a session keeps.


def test_a_values_result_is_kept_until_it_is_forgotten(table: so.Table) -> None:
    total = table.map(so.udf(noted, returns=so.float64)).sum()
    assert [total.collect(), total.collect(), (total + 1).collect()] == [6.0, 6.0, 7.0]
    assert listed(table.map(so.udf(lambda r: r.a / total, returns=so.float64)))[0] == 1 / 6
    assert len(CALLS) == 3
    total.forget()
    assert total.collect() == 6.0
    assert len(CALLS) == 6


def test_a_loops_result_is_kept_until_it_is_forgotten(table: so.Table) -> None:
    marked = table.map(so.udf(noted, returns=so.float64))
    model = so.loop({"w": 0.0}, range(2))(lambda e: {"w": e["w"] + marked.sum()})
    assert model.collect() == {"w": 12.0}
    before = len(CALLS)
    assert model.run().env == {"w": 12.0}
    assert (model.w + model.iterations).collect() == 14.0
    w = model["w"]
    weighted = so.udf(lambda r: r.a * w, returns=so.float64)
    assert listed(table.map(weighted)) == [12.0, 24.0, 36.0]
    assert len(CALLS) == before
    model.forget()
    assert model.w.collect() == 12.0
    assert len(CALLS) > before


def test_a_bare_loop_is_kept_as_well(table: so.Table) -> None:
    marked = table.map(so.udf(noted, returns=so.float64))
    bare = so.loop(0.0, range(1))(lambda v: v + marked.sum())
    assert [bare.collect(), (bare + 1).collect(), bare.run().env] == [6.0, 7.0, 6.0]
    assert len(CALLS) == 3
    bare.forget()
    assert bare.collect() == 6.0
    assert len(CALLS) == 6


def test_each_session_keeps_its_own(table: so.Table) -> None:
    total = table.map(so.udf(noted, returns=so.float64)).sum()
    total.collect()
    with so.session():
        total.collect()
    assert len(CALLS) == 6
    total.collect()
    assert len(CALLS) == 6


def test_a_table_is_not_kept(table: so.Table) -> None:
    marked = table.map(so.udf(noted, returns=so.float64))
    assert listed(marked) == listed(marked)
    assert len(CALLS) == 6


def test_an_error_leaves_the_session_as_it_was(table: so.Table) -> None:
    total = table.sum("a")
    total.collect()
    for _ in range(2):
        with pytest.raises(so.UserFunctionError):
            table.map(so.udf(lambda r: 1 / 0, returns=so.float64)).collect()
    assert total.collect() == 6.0
    assert table.sum("a").collect() == 6.0


# Implicit collection.


def test_conversions_collect_and_log_the_users_line(
    table: so.Table, caplog: pytest.LogCaptureFixture
) -> None:
    total, mean = table.sum("a"), table.mean(lambda r: np.stack([r.a, r.a]))
    with caplog.at_level(logging.INFO, "scalops"):
        first = line()
        assert float(total) == 6.0
        assert int(total) == 6
        assert bool(total > 5)
        assert_same(np.asarray(mean), np.array([2.0, 2.0]))
        assert [10, 20, 30, 40][table.count()] == 40
        assert f"{total:.1f}" == "6.0"
        assert 2.0 in mean
        assert complex(total) == 6
        assert (3 if total == 6.0 else 4) == 3
    said = [
        "a float", "an int", "a truth value", "a NumPy array", "an index",
        "a formatted number", "membership (in)", "a complex number", "a truth value",
    ]  # fmt: skip
    assert caplog.messages == [
        f"{what} collects a Value (test_sessions.py:{first + i + 1})" for i, what in enumerate(said)
    ]


def test_repr_str_shape_and_len_collect_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fails(r: Any) -> Any:
        raise ValueError(r)

    table = so.table({"a": [1.0]}).map(so.udf(fails, returns=so.vector(2)))
    total = table.sum()
    with caplog.at_level(logging.INFO, "scalops"):
        assert str(total) == repr(total) == f"{total}" == "Value(float64[2])"
        assert (total.shape, total.ndim, total.size, len(total)) == ((2,), 1, 2, 2)
        assert total.dtype == np.float64
        assert [v.shape for v in total] == [(), ()]
        assert total.sum().explain()
    assert caplog.messages == []


def test_implicit_collection_can_be_an_error(table: so.Table) -> None:
    with so.session(implicit_collect=False):
        total = table.sum("a")
        for ask in (float, int, bool, np.asarray, lambda v: 1.0 in v, lambda v: f"{v:.1f}"):
            with pytest.raises(so.ConfigError, match="implicit_collect is off") as caught:
                ask(total)
            at = line() - 1
            assert caught.value.location is not None
            assert caught.value.location.line in (at, at - 2)
            assert "call collect()" in str(caught.value)
        assert total.collect() == 6.0


# Options.


def test_options_come_from_the_call_then_the_environment(
    table: so.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALOPS_IMPLICIT_COLLECT", "0")
    monkeypatch.setenv("SCALOPS_OPAQUE", "error")
    with so.session():
        with pytest.raises(so.ConfigError):
            float(table.sum("a"))
        with pytest.raises(so.TraceError, match="refused"):
            table.filter(lambda r: r.a > 1 and r.a < 3)
    with so.session(implicit_collect=True, opaque="run"):
        assert float(table.filter(lambda r: r.a > 1 and r.a < 3).sum("a")) == 2.0


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    a = np.random.default_rng(0).normal(size=200_000)
    table = so.table({"a": a})
    with so.session(threads=1):
        alone = so.collect(table.sum("a"), table.mean(lambda r: np.exp(r.a)))
    with so.session(threads=threads, memory="1GB"):
        assert so.collect(table.sum("a"), table.mean(lambda r: np.exp(r.a))) == alone


def test_sessions_nest_and_end(table: so.Table) -> None:
    with so.session(implicit_collect=False):
        with so.session(implicit_collect=True):
            assert float(table.sum("a")) == 6.0
        with pytest.raises(so.ConfigError):
            float(table.sum("a"))
    assert float(table.sum("a")) == 6.0


def test_plans_run_from_several_threads(table: so.Table) -> None:
    found: list[Any] = []

    def work(n: int) -> None:
        with so.session(threads=2):
            found.append(table.map(lambda r: r.a * n).sum().collect() / n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [6.0] * 4


def test_a_function_of_a_running_plan_cannot_collect(table: so.Table) -> None:
    total = table.sum("a")
    made = table.map(
        so.udf(lambda r: float(so.table({"b": [1.0]}).sum("b")) + r.a, returns=so.float64)
    )
    with pytest.raises(so.PlanError, match="while a plan runs"):
        made.collect()
    assert total.collect() == 6.0


# Programs.


def test_a_program_is_called_as_its_function(table: so.Table) -> None:
    @so.program
    def main(n: int = 2) -> Any:
        """What it gives."""
        return {"total": table.sum("a") * n}

    assert so.collect(main(3)) == {"total": 18.0}
    assert (main.__name__, main.__doc__) == ("main", "What it gives.")  # type: ignore[attr-defined]


def test_functions_of_a_script_run_as_they_are(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import scalops as so\n"
        "table = so.table({'a': [1.0, 2.0, 3.0]})\n"
        "limit = 2.0\n"
        "def clipped(r):\n"
        "    return r.a if r.a < limit else limit\n"
        "print(table.map(clipped).sum().collect())\n"
    )
    made = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=60
    )
    assert made.stdout == "5.0\n"
    assert "clipped() runs record by record: it asks for a truth value (script.py:5)" in made.stderr
