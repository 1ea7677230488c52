"""Programs: functions that return what to run, with parameters for the command line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


class Program:
    """A function decorated with `@so.program`; calling it calls the function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def program(function: Callable[..., Any]) -> Program:
    """Mark a function as a program: it returns a Loop, Table, Value or a nesting of them."""
    return Program(function)
