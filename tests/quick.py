"""Of a test's many cases some are for every run, the others for `make long`."""

from collections.abc import Iterable
from typing import Any

import pytest


def quick(cases: Iterable[Any], count: int) -> list[Any]:
    """The first `count` cases as they are, the others marked long: for `parametrize`."""
    every = list(cases)
    return [*every[:count], *(pytest.param(case, marks=pytest.mark.long) for case in every[count:])]
