"""Results as text and as JSON."""

import datetime
import json
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.cli.results_json import to_json
from scalops.cli.results_text import to_text
from scalops.loop import LoopResult

HISTORY = pa.table({"iteration": [0], "seconds": [0.5]})


class Model(so.Environment):
    w: Any
    loss: float


class Pair(NamedTuple):
    left: Any
    right: Any


def loop_result(env: Any, converged: bool = True) -> LoopResult:
    return LoopResult(env, 1, converged, HISTORY, {})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float64(0.1) + np.float64(0.2), "0.30000000000000004"),
        (np.float32(0.1), "0.1"),
        (np.int64(3), "3"),
        (np.bool_(True), "True"),
        ("word", "word"),
        (np.arange(3.0), "float64[3] [0. 1. 2.]"),
        (np.zeros(0), "float64[0] []"),
        (np.arange(100), "int64[100] [ 0  1  2 ... 97 98 99]"),
        (np.eye(2), "float64[2, 2]\n  [[1. 0.]\n   [0. 1.]]"),
        ({"a": np.int64(1), "b": [np.int64(2), (np.int64(3),)]},
         "a: 1\nb:\n  [0]: 2\n  [1]:\n    [0]: 3"),
        (Pair(np.int64(1), np.arange(2)), "left: 1\nright: int64[2] [0 1]"),
        (loop_result(Model(w=np.arange(2), loss=np.float64(0.5))),
         "1 iteration, converged, 0.5 s\nw: int64[2] [0 1]\nloss: 0.5"),
        ({"m": loop_result(np.float64(0.5), converged=False)},
         "m: 1 iteration, not converged, 0.5 s\n  value: 0.5"),
        (loop_result((np.int64(1), np.int64(2))),
         "1 iteration, converged, 0.5 s\n[0]: 1\n[1]: 2"),
        (pa.table({"id": [1, 20], "name": ["a", None]}),
         "2 rows\n  id  name\n  1   a\n  20  null"),
        (pa.table({"id": pa.array([], pa.int64())}), "0 rows\n  id"),
    ],
)  # fmt: skip
def test_text(value: Any, text: str) -> None:
    assert to_text(value) == text


def test_long_and_wide_tables_are_shortened() -> None:
    columns = {f"column{i}": np.arange(1000.0) for i in range(30)}
    lines = to_text({"t": pa.table(columns)}).splitlines()
    assert lines[0] == "t: 1000 rows"
    assert len(lines) == 1 + 1 + 10 + 2
    assert max(map(len, lines)) <= 104
    assert lines[-2] == "  ... 990 more rows"
    assert lines[-1].strip().startswith("... 19 more columns: column11, column12")


def test_long_cells_are_shortened() -> None:
    assert to_text(pa.table({"v": [[0.125] * 100]})).splitlines()[-1].endswith("...")


@pytest.mark.parametrize(
    ("value", "document"),
    [
        (np.float64(0.1), 0.1),
        (np.int64(2**62), 2**62),
        (np.bool_(False), False),
        (np.str_("ä"), "ä"),
        (np.float64("nan"), "NaN"),
        (np.float64("inf"), "Infinity"),
        (-np.inf, "-Infinity"),
        (np.array([[1.0, np.nan], [np.inf, 2.0]]), [[1.0, "NaN"], ["Infinity", 2.0]]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array(3.0), 3.0),
        (np.array(np.inf), "Infinity"),
        (np.datetime64("2024-01-02"), "2024-01-02"),
        ({1: np.int64(1), "b": (np.int64(2),)}, {"1": 1, "b": [2]}),
        (Pair(1, np.arange(2)), {"left": 1, "right": [0, 1]}),
        (Model(w=np.arange(2), loss=np.inf), {"w": [0, 1], "loss": "Infinity"}),
        (loop_result((np.int64(1),), converged=False),
         {"env": [1], "iterations": 1, "converged": False, "seconds": 0.5}),
        (pa.table({"x": [1, None], "v": [[0.5], [float("nan")]]}),
         [{"x": 1, "v": [0.5]}, {"x": None, "v": ["NaN"]}]),
        (pa.table({"t": [datetime.datetime(2024, 1, 2, 3)], "b": [b"ab"]}),
         [{"t": "2024-01-02T03:00:00", "b": "YWI="}]),
        (pa.table({"x": pa.array([], pa.int64())}), []),
    ],
)  # fmt: skip
def test_json(value: Any, document: Any) -> None:
    text = to_json(value)
    assert "\n" not in text
    assert json.loads(text, parse_constant=pytest.fail) == document


def test_arrays_of_higher_rank_keep_their_shape() -> None:
    tensors = np.arange(12.0).reshape(2, 3, 2)
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(tensors)
    table = pa.table({"a": pa.chunked_array([column, column[:0], column])})
    assert json.loads(to_json(table)) == [{"a": m.tolist()} for m in (*tensors, *tensors)]


def test_seconds_are_those_of_the_whole_loop() -> None:
    result = LoopResult(np.float64(1), 1, True, HISTORY, {"read": 0.5, "total": 1.5})
    assert json.loads(to_json(result))["seconds"] == 1.5
