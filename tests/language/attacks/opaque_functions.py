"""Attacks by functions that cannot be traced: what they capture, take and give."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import scalops as so
from tests.language.attacks.table import T, ends_in


class Unfriendly:
    """An object that tells nothing and cannot be pickled."""

    def __reduce__(self) -> Any:
        raise RuntimeError("cannot be pickled")


# What is captured.


@ends_in(so.TraceError, r"cannot be captured: its variable 'lock' \(lock\)")
def a_lock(_: Path) -> Any:
    lock = threading.Lock()

    def f(r: Any) -> Any:
        with lock:
            return 1.0 if r.a > 1 else 0.0

    return T.map(f)


@ends_in(so.TraceError, r"cannot be captured: its variable 'file'")
def an_open_file(folder: Path) -> Any:
    (folder / "log").write_text("")
    with open(folder / "log", "a") as file:
        return T.map(lambda r: file.write("x") if r.a > 1 else 0)


@ends_in(so.TraceError, r"cannot be captured: its variable 'numbers'")
def a_captured_generator(_: Path) -> Any:
    numbers = (n for n in range(9))
    return T.map(lambda r: next(numbers) if r.a > 1 else 0)


@ends_in(so.TraceError, r"cannot be captured: it reads a Table, which has no records before")
def another_table(_: Path) -> Any:
    other = so.table({"z": [1.0]})
    return T.map(lambda r: 1.0 if r.a > 1 and other else 0.0)


@ends_in(so.TraceError, r"cannot be captured: it keeps a whole Loop; use its fields")
def a_whole_loop(_: Path) -> Any:
    model = so.loop({"w": 1.0}, range(2))(lambda e: e)
    return T.map(so.udf(lambda r: r.a * model.w, returns=so.float64))


@ends_in(so.TraceError, r"cannot be captured: its variable 'session'")
def a_session(_: Path) -> Any:
    session = so.session()
    return T.map(lambda r: session.options.threads if r.a > 1 else 0)


@ends_in(so.TraceError, r"cannot be captured: its variable 'thread'")
def a_thread(_: Path) -> Any:
    thread = threading.current_thread()
    return T.map(lambda r: thread.ident if r.a > 1 else 0)


@ends_in(so.TraceError, r"cannot be captured: its variable 'other' \(Unfriendly\)")
def an_object_that_cannot_be_pickled(_: Path) -> Any:
    other = Unfriendly()
    return T.map(lambda r: 1 if r.a > 1 and other else 0)


@ends_in(so.TraceError, r"cannot be captured: it keeps the symbol of another record")
def a_record_of_another_function(_: Path) -> Any:
    kept: list[Any] = []
    T.map(lambda r: kept.append(r.a) or r.a)  # type: ignore[func-returns-value]
    symbol = kept[0]
    return T.map(lambda r: symbol if r.a > 1 else 0.0)


# Opaque functions and their types.


@ends_in(so.UserFunctionError, r"float.*expected int64")
def a_later_result_of_another_type(_: Path) -> Any:
    table = so.table({"k": np.arange(100)})
    return table.map(so.udf(lambda r: 0.5 if r.k == 99 else 1)).collect()


@ends_in(
    so.UserFunctionError,
    r"the lambda gives an array of float64\[3\]; expected float64\[2\], as declared",
)
def a_later_array_of_another_shape(_: Path) -> Any:
    table = so.table({"k": np.arange(100)})
    return table.map(so.udf(lambda r: np.ones(3 if r.k == 99 else 2))).collect()


@ends_in(
    so.UserFunctionError,
    r"the lambda gives the int 1000000000000000000000000000000; expected int64,",
)
def an_int_too_large_for_its_column(_: Path) -> Any:
    return T.map(so.udf(lambda r: 10**30, returns=so.int64)).collect()


@ends_in(so.TraceError, r"the lambda gives a int, which is no column")
def an_int_too_large_for_any_column(_: Path) -> Any:
    return T.map(so.udf(lambda r: 10**30)).collect()


@ends_in(so.UserFunctionError, r"f\(\) raised ValueError: assignment destination is read-only")
def a_write_into_a_records_array(_: Path) -> Any:
    def f(r: Any) -> Any:
        r.x[0] = 9.0
        return r.x

    return T.map(so.udf(f, returns=so.vector(4))).collect()


@ends_in(
    so.TraceError, r"took more than 2 s on 16 records.*declare it: so\.udf\(f, returns=\.\.\.\)"
)
def a_function_that_takes_its_time(_: Path) -> Any:
    def f(r: Any) -> Any:
        time.sleep(2.5)
        return r.a

    return T.map(so.udf(f))


@ends_in(
    so.TraceError, r"returns= holds 'banana'; expected so\.float64, so\.vector\(n\) and the like"
)
def declared_types_of_nonsense(_: Path) -> Any:
    return T.map(so.udf(lambda r: r.a, returns="banana"))


@ends_in(so.TraceError, r"so\.udf needs a function; it got a int")
def a_udf_of_no_function(_: Path) -> Any:
    return T.map(so.udf(3))  # type: ignore[arg-type]


@ends_in(
    so.UserFunctionError,
    r"the lambda gives \('_0',\); expected \('_0', '_1'\), as declared or as its",
)
def fewer_results_than_declared(_: Path) -> Any:
    return T.map(so.udf(lambda r: (1.0,), returns=(so.float64, so.float64))).collect()


@ends_in(so.TraceError, r"the lambda gives a StringIO, which is no column")
def a_stream_as_the_result(_: Path) -> Any:
    return T.map(so.udf(lambda r: io.StringIO())).collect()


@ends_in(so.TraceError, r"returns= holds no type; expected so\.float64")
def no_declared_types(_: Path) -> Any:
    return T.map(so.udf(lambda r: (), returns=()))
