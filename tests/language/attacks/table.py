"""The table of attacks: a program, the error it ends in, and what that says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np

import scalops as so

A = np.array([1.0, 2.0, 3.0])
T = so.table({
    "a": A, "k": [1, 2, 3], "x": np.arange(12.0).reshape(3, 4), "s": ["p", "q", "r"],
    "n": [1.0, None, 3.0], "b": [True, False, True],
})  # fmt: skip

Program = Callable[[Path], Any]


@dataclass(frozen=True)
class Attack:
    """`program` gets an empty folder; `says` is found in the text of the error."""

    program: Program
    error: type[so.ScalopsError]
    says: re.Pattern[str]

    @property
    def lines(self) -> set[int]:
        """The lines of the program, functions inside it included."""
        return _lines(self.program.__code__)


def _lines(code: CodeType) -> set[int]:
    own = {line for _, _, line in code.co_lines() if line is not None}
    inner = [_lines(c) for c in code.co_consts if isinstance(c, CodeType)]
    return own.union(*inner)


ATTACKS: list[Attack] = []


def ends_in(error: type[so.ScalopsError], says: str) -> Callable[[Program], Program]:
    """The decorated program ends in the error, whose text the pattern finds."""

    def note(program: Program) -> Program:
        ATTACKS.append(Attack(program, error, re.compile(says, re.DOTALL)))
        return program

    return note
