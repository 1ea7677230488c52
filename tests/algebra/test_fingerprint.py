"""Fingerprints: equal in another process, different where the result may be."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra.fingerprint import fingerprint

PROGRAM = """
import sys
import numpy as np
import scalops as so
from scalops.algebra.fingerprint import fingerprint

for _ in range(int(sys.argv[1])):  # loops and tables made before shift all numbers
    so.loop(0.0, range(2))(lambda w: w + so.table({"a": np.ones(1)}).sum("a"))

xy = so.table({"x": np.arange(12.0).reshape(4, 3), "y": np.arange(4.0), "t": ["a", "b", None, "d"]})

@so.loop({"w": np.zeros(3), "loss": np.inf}, lambda env: env["loss"] > 0.1)
def outer(env):
    @so.loop(env["w"], range(3))
    def inner(w, i):
        return w - 0.1 / (1 + i) * xy.filter(lambda r: r.t != "a").sum(lambda r: (r.x @ w) * r.x)
    return {"w": inner, "loss": xy.mean(lambda r: (r.x @ inner - r.y) ** 2)}

print(fingerprint(outer.plan), fingerprint(xy.map(lambda r: r.x @ outer["w"]).plan))
"""


def test_two_processes_agree() -> None:
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, earlier],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for earlier, seed in (("0", "1"), ("3", "2"))
    ]
    first, second = (run.communicate(timeout=60)[0] for run in runs)
    assert first == second
    assert len(set(first.split())) == 2
    assert all(len(f) == 32 for f in first.split())


DATA = np.arange(4.0)
Body = Callable[[Any], Any]


def program(
    data: np.ndarray[Any, np.dtype[np.float64]] = DATA,
    factor: float = 0.5,
    body: Body | None = None,
    condition: Any = None,
    **options: Any,
) -> str:
    table = so.table({"y": data})

    def default(w: Any) -> Any:
        return factor * w + table.sum(lambda r: r.y * w)

    made = so.loop(1.0, condition or range(3), **options)(body or default)
    return fingerprint(made.plan)


def test_the_same_program_written_twice_has_one_fingerprint() -> None:
    assert program() == program()
    assert program(DATA.copy()) == program()


def test_names_and_lines_take_no_part() -> None:
    assert program(name="a") == program(name="b")


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"factor": 0.25}, id="constant"),
        pytest.param({"data": np.arange(4.0) + 1}, id="source"),
        pytest.param({"data": np.arange(5.0)}, id="rows"),
        pytest.param({"body": lambda w: w + 1}, id="body"),
        pytest.param({"condition": range(4)}, id="range"),
        pytest.param({"condition": lambda w: w < 3}, id="condition"),
        pytest.param({"max_iterations": 9}, id="limit of iterations"),
    ],
)
def test_what_changes_the_result_changes_the_fingerprint(changed: dict[str, Any]) -> None:
    assert program(**changed) != program()


def test_which_loops_state_is_read_matters() -> None:
    def nested(inner_reads_outer: bool) -> str:
        def outer(w: Any) -> Any:
            return so.loop(w, range(2))(lambda v: (w if inner_reads_outer else v) + 1.0)

        return fingerprint(so.loop(0.0, range(2))(outer).plan)

    assert nested(True) != nested(False)


def test_an_opaque_functions_code_matters() -> None:
    table = so.table({"y": DATA})
    plus = table.map(so.udf(lambda r: r.y + 1, returns=so.float64))
    minus = table.map(so.udf(lambda r: r.y - 1, returns=so.float64))
    assert fingerprint(plus.plan) != fingerprint(minus.plan)
