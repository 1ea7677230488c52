"""Attacks by options: of sessions, calls, variables, files, explain and the command line's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import scalops as so
from tests.language.attacks.table import T, ends_in


@contextlib.contextmanager
def variable(name: str, text: str) -> Iterator[None]:
    """A variable of the environment, for a moment."""
    os.environ[name] = text
    try:
        yield
    finally:
        del os.environ[name]


def told(folder: Path, text: str) -> Any:
    """The folder, whose scalops.toml says this, as the working directory."""
    (folder / "scalops.toml").write_text(text)
    return contextlib.chdir(folder)


@ends_in(so.ConfigError, r"no option \['memroy'\].*did you mean 'memory'")
def a_misspelt_option(_: Path) -> Any:
    return so.session(memroy="4GB")


@ends_in(so.ConfigError, r"threads is \[1\]; expected an int")
def threads_by_a_list(_: Path) -> Any:
    return so.session(threads=[1])


@ends_in(so.ConfigError, r"threads is 1000000000; expected an int of at least 0 and at most")
def threads_by_the_billion(_: Path) -> Any:
    return so.session(threads=10**9)


@ends_in(so.ConfigError, r"threads is None; expected an int of at least 0 and at most 4096")
def threads_by_nothing(_: Path) -> Any:
    return so.session(threads=None)


@ends_in(so.ConfigError, r"memory is '-4GB'; expected bytes")
def memory_below_zero(_: Path) -> Any:
    return so.session(memory="-4GB")


@ends_in(so.ConfigError, r"memory is '1e999GB'")
def memory_without_end(_: Path) -> Any:
    return so.session(memory="1e999GB")


@ends_in(so.ConfigError, r"opaque is True; expected 'run' or 'error'")
def opaque_by_a_flag(_: Path) -> Any:
    return so.session(opaque=True)


@ends_in(so.ConfigError, r"task_timeout is nan")
def a_timeout_that_is_no_number(_: Path) -> Any:
    return so.session(task_timeout=float("nan"))


@ends_in(so.ConfigError, r"implicit_collect is 'perhaps'")
def a_flag_by_a_word(_: Path) -> Any:
    return so.session(implicit_collect="perhaps")


@ends_in(so.ConfigError, r"SCALOPS_MEMORY is 'lots'; expected bytes")
def a_bad_variable(_: Path) -> Any:
    with variable("SCALOPS_MEMORY", "lots"):
        return so.session()


@ends_in(so.ConfigError, r"scalops\.toml is not TOML: .*line 2")
def a_file_that_is_no_toml(folder: Path) -> Any:
    with told(folder, "threads = 1\nmemory = 4GB\n"):
        return so.session()


@ends_in(so.ConfigError, r"scalops\.toml:2 has no option \['memroy'\].*did you mean 'memory'")
def a_misspelt_option_in_a_file(folder: Path) -> Any:
    with told(folder, 'threads = 1\nmemroy = "4GB"\n'):
        return so.session()


@ends_in(so.ConfigError, r"threads is '2x' \(.*scalops\.toml:1\); expected an int")
def a_bad_value_in_a_file(folder: Path) -> Any:
    with told(folder, 'threads = "2x"'):
        return so.session()


@ends_in(so.ConfigError, r"collect\(\) has no option \['opaque'\].*so\.session\(opaque=\.\.\.\)")
def a_session_option_for_one_run(_: Path) -> Any:
    return so.collect(T.sum("a"), opaque="error")


@ends_in(so.ConfigError, r"a float of a Value would collect it, and implicit_collect is off")
def a_float_where_it_is_off(_: Path) -> Any:
    with so.session(implicit_collect=False):
        return float(T.sum("a"))


@ends_in(so.ConfigError, r"a NumPy array of a Value would collect it")
def an_array_where_it_is_off(_: Path) -> Any:
    import numpy as np

    with so.session(implicit_collect=False):
        return np.asarray(T.sum("x"))


@ends_in(so.TraceError, r"asks for a truth value, and opaque functions are refused")
def an_opaque_function_where_it_is_refused(_: Path) -> Any:
    with so.session(opaque="error"):
        return T.map(lambda r: r.a if r.a > 1 else 0.0)


@ends_in(so.TraceError, r"random numbers.*, and opaque functions are refused")
def a_random_function_where_it_is_refused(_: Path) -> Any:
    import random

    with so.session(opaque="error"):
        return T.map(lambda r: r.a + random.random())


@ends_in(so.ConfigError, r"explain's stage is 'last'")
def an_unknown_stage(_: Path) -> Any:
    return T.explain("last")


@ends_in(so.ConfigError, r"explain's format is 'pdf'; expected one of text, json")
def an_unknown_format(_: Path) -> Any:
    return T.explain(format="pdf")


@ends_in(so.PlanError, r"collect\(\) is called while a plan runs, from one of its functions")
def a_collect_inside_a_run(_: Path) -> Any:
    def f(r: Any) -> Any:
        return r.a + float(so.table({"z": [1.0]}).sum("z").collect())

    with so.session(processes=0):
        return T.map(so.udf(f, returns=so.float64)).collect()


@ends_in(so.ConfigError, r"explain's stage is \['optimized'\]; expected one of")
def a_stage_by_a_list(_: Path) -> Any:
    return T.explain(["optimized"])  # type: ignore[arg-type]
