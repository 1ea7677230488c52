"""Sentences of the language's contract that no other test is named after."""

from __future__ import annotations

import builtins
import datetime
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from tests.language.witness import listed

CALLS: list[Any] = []


def noted(r: Any) -> Any:
    """An opaque function that tells which records it was called with."""
    from tests.language import test_contract_sentences

    test_contract_sentences.CALLS.append(r.a)
    return r.a if r.a >= 0 else 0.0


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    """A session whose opaque functions run in this process, where they can be watched."""
    CALLS.clear()
    with so.session(threads=2, processes=0):
        yield


@pytest.fixture
def table() -> so.Table:
    """Three records."""
    return so.table({"a": [1.0, 2.0, 3.0], "s": ["p", "q", None]})


# 1. Everything is lazy, collect() runs.


class Model(so.Environment):
    """A loop's state."""

    w: np.ndarray
    loss: float


def test_collect_gives_arrow_tables_numpy_values_and_environments(table: so.Table) -> None:
    assert isinstance(table.collect(), pa.Table)
    total = table.sum("a").collect()
    assert isinstance(total, np.float64)
    mean = table.mean(lambda r: np.stack([r.a, r.a])).collect()
    assert isinstance(mean, np.ndarray)
    both = table.sum(lambda r: {"p": r.a, "q": r.a * 2}).collect()
    assert both == {"p": 6.0, "q": 12.0}
    start = Model(w=np.zeros(2), loss=0.0)
    env = so.loop(start, range(2))(lambda e: Model(w=e.w + 1, loss=e.loss)).collect()
    assert isinstance(env, Model)
    assert env.w.tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("ask", "hint"),
    [
        (lambda v: v + (1.0 if v > 1 else 0.0), r"np\.where.*loop condition"),
        (lambda v: v + float(v), "NumPy's function"),
        (lambda v: v + int(v), "NumPy's function"),
        (lambda v: v + np.asarray(so.lit(np.ones(1)) * v)[0], "the Value itself"),
    ],
)
def test_conversions_in_a_body_or_condition_are_refused(ask: Any, hint: str) -> None:
    with pytest.raises(so.TraceError, match=rf"the loop body asks for .*{hint}"):
        so.loop(1.0, range(2))(ask)
    with pytest.raises(so.TraceError, match=r"the loop condition asks for "):
        so.loop(1.0, lambda v: ask(v) > 1)(lambda v: v)


def test_tracing_calls_an_opaque_function_on_at_most_16_records_of_the_heads() -> None:
    table = so.table({"a": np.arange(100_000.0)})
    made = table.map(noted)
    records = [a for a in CALLS if not isinstance(a, so.Value)]
    assert 0 < len(records) <= 16
    assert max(records) < 16
    before = len(CALLS)
    made.explain()
    repr(made)
    made.sum().explain("all")
    assert len(CALLS) == before


def test_the_type_of_an_opaque_function_is_found_with_the_loops_start(table: so.Table) -> None:
    def body(env: Any) -> Any:
        def scaled(r: Any) -> Any:
            from tests.language import test_contract_sentences

            test_contract_sentences.CALLS.append(env.loss)
            return r.a * env.loss if r.a > 0 else 0.0

        env.loss = env.loss + table.map(scaled).sum()
        return env

    so.loop(Model(w=np.zeros(2), loss=7.0), range(2))(body)
    assert {loss for loss in CALLS if not isinstance(loss, so.Value)} == {7.0}


def test_no_record_to_find_a_type_from_asks_for_returns(table: so.Table) -> None:
    with pytest.raises(so.TraceError, match=r"no record was found.*so\.udf\(f, returns=\.\.\.\)"):
        table.filter(lambda r: r.a > 9).map(noted)


@pytest.mark.parametrize(("method", "package"), [("to_pandas", "pandas"), ("to_polars", "polars")])
def test_other_libraries_tables(
    method: str, package: str, table: so.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package)
    assert list(getattr(table, method)()["a"]) == [1.0, 2.0, 3.0]
    imported = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named {name!r}")
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, package)
    with pytest.raises(ImportError, match=package):
        getattr(table, method)()


def test_a_table_speaks_arrows_stream(table: so.Table) -> None:
    assert pa.table(table).equals(table.collect())
    assert listed(so.from_arrow(table), "a") == [1.0, 2.0, 3.0]


# 4. Row functions.


@pytest.mark.parametrize(
    "ask",
    [
        lambda r: 1.0 if r.a > 1 else 0.0,
        lambda r: 0.0 if not r.a > 1 else 1.0,
        lambda r: 1.0 if r.a > 1 and r.a < 9 else 0.0,
        lambda r: float(r.a),
        lambda r: int(r.a),
        lambda r: [5.0, 6.0, 7.0, 8.0][int(r.a)],
        lambda r: str(r.a) != "",
        lambda r: f"{r.a:.1f}",
        lambda r: {1.0: 2.0}.get(r.a, 3.0),
        lambda r: r.a in (1.0, 2.0),
        lambda r: bool(r.a),
        lambda r: len(r.s or ""),
        lambda r: max(r.a, 2.0),
    ],
)
def test_what_no_symbol_has_makes_a_function_opaque_with_the_same_results(
    ask: Any, table: so.Table, caplog: pytest.LogCaptureFixture
) -> None:
    records: list[dict[str, Any]] = [
        {"a": 1.0, "s": "p"},
        {"a": 2.0, "s": "q"},
        {"a": 3.0, "s": None},
    ]

    class Plain:
        def __init__(self, record: dict[str, Any]) -> None:
            self.__dict__.update(record)

    with caplog.at_level(logging.WARNING, "scalops"):
        made = table.map(ask)
    assert any("runs record by record: it" in m for m in caplog.messages)
    assert listed(made) == [ask(Plain(r)) for r in records]
    text = made.explain()
    assert "opaque" in text
    assert "test_contract_sentences.py:" in text
    with so.session(opaque="error"), pytest.raises(so.TraceError, match="functions are refused"):
        table.map(ask)


def test_array_of_columns_means_stack(table: so.Table) -> None:
    made = table.map(lambda r: np.array([r.a, 2 * r.a])).collect()["value"].to_pylist()
    assert made == [[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]


def test_an_opaque_function_gets_pythons_own_values() -> None:
    moment = datetime.datetime(2024, 5, 1, 12, 30)
    table = so.table({
        "f": [1.5], "i": [2], "b": [True], "s": ["Text"], "t": [moment], "x": np.ones((1, 3)),
        "n": pa.array([None], pa.float64()),
    })  # fmt: skip
    kinds = table.map(so.udf(
        lambda r: ",".join(type(r[name]).__name__ for name in ("f", "i", "b", "t", "x", "n"))
        + f",{isinstance(r.s, str)},{r.s.str.lower()},{r.x.flags.writeable}",
        returns=so.string,
    ))  # fmt: skip
    assert listed(kinds) == ["float,int,bool,datetime,ndarray,NoneType,True,text,False"]


def test_an_int_widens_and_none_makes_a_column_nullable() -> None:
    table = so.table({"k": np.arange(40)})
    made = table.map(so.udf(lambda r: 0.5 if r.k == 0 else int(r.k)))
    assert listed(made)[:3] == [0.5, 1.0, 2.0]
    late = table.map(so.udf(lambda r: None if r.k == 39 else float(r.k)))
    assert listed(late)[38:] == [38.0, None]


def test_udf_is_a_decorator_too(table: so.Table) -> None:
    @so.udf
    def plain(r: Any) -> Any:
        return r.a + 1

    @so.udf(returns=so.float64)  # type: ignore[untyped-decorator]
    def declared(r: Any) -> Any:
        return r.a + 2

    assert listed(table.map(plain)) == [2.0, 3.0, 4.0]
    assert listed(table.map(declared)) == [3.0, 4.0, 5.0]


# 6. Sessions.


def test_without_a_session_a_plan_runs_in_this_process() -> None:
    code = (
        "import os, scalops as so\n"
        "t = so.table({'a': [1.0]})\n"
        "print(so.config()['threads'], so.config().source('threads'))\n"
        "print(t.map(so.udf(lambda r: os.getpid(), returns=so.int64)).collect() is not None)\n"
        "print(t.sum('a').collect(), so.config() is not None)\n"
    )
    environment = {n: v for n, v in os.environ.items() if not n.startswith("SCALOPS_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, timeout=60, env=environment,
    )  # fmt: skip
    assert done.stdout == "0 default\nTrue\n1.0 True\n"


# 7. Programs and the command line.


def test_functions_of_a_programs_modules_travel_to_workers_by_value(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(
        "LIMIT = 2.0\n\n"
        "def smaller(x):\n    return x if x < LIMIT else LIMIT\n\n"
        "def clip(r):\n    return smaller(r.a)\n"
    )
    (tmp_path / "program.py").write_text(
        "import scalops as so\n"
        "import steps\n\n"
        "@so.program\n"
        "def main():\n"
        "    t = so.table({'a': [1.0, 2.0, 3.0]})\n"
        "    return t.map(steps.clip).sum()\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "scalops", "run", "../program.py"],
        capture_output=True, text=True, check=False, timeout=60, cwd=elsewhere,
        env={**os.environ, "SCALOPS_PROCESSES": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "5.0\n"), done.stderr
    assert "steps.py:4" in done.stderr  # the warning, with the line that asks


# 8. Errors.


def test_an_error_of_a_worker_keeps_type_and_traceback(table: so.Table) -> None:
    def fails(r: Any) -> Any:
        raise LookupError(f"not {r.a}")

    with so.session(processes=1), pytest.raises(so.UserFunctionError, match="not 1") as caught:
        table.map(so.udf(fails, returns=so.float64)).collect()
    cause = caught.value.__cause__
    assert isinstance(cause, LookupError)
    assert str(cause) == "not 1.0"
    assert caught.value.location is not None
    assert caught.value.location.file == __file__
    notes = [*getattr(cause, "__notes__", []), *getattr(caught.value, "__notes__", [])]
    assert f'File "{__file__}", line {caught.value.location.line}, in fails' in "".join(notes)


def test_an_error_names_operator_iteration_and_partition() -> None:
    table = so.table({"a": np.arange(100.0)})
    failing = so.udf(lambda r: 1 / (r.a - 99), returns=so.float64)
    with pytest.raises(so.UserFunctionError, match=r"in partition \d+.*iteration 0|iteration 0"):
        so.loop(0.0, range(3))(
            lambda v: v + table.map(so.udf(lambda r: 1 / (r.a - 99 - v), returns=so.float64)).sum()
        ).collect()
    with pytest.raises(so.UserFunctionError, match=r"in partition \d+"):
        table.map(failing).sum().collect()
