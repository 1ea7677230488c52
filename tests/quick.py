"""Of a test's many cases some are for every run, the others for `make long`."""

from collections.abc import Iterable
from typing import Any

import pytest


def quick(cases: Iterable[Any], count: int) -> list[Any]:
    """The first `count` cases as they are, the others marked long: for `parametrize`.

    A tuple has a value for each of several names.
    """
    every = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [
        pytest.param(*case, marks=() if i < count else pytest.mark.long)
        for i, case in enumerate(every)
    ]
