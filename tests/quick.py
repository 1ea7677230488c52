"""Of a test's many cases some are for every run, the others for `make long`."""

import itertools
from collections.abc import Collection, Iterable
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


def repeated(times: int) -> pytest.MarkDecorator:
    """Runs a test of random examples once quick, and so often in all: its argument is `run`."""
    return pytest.mark.parametrize("run", quick(range(times), 1))


def crossed(*axes: Collection[Any], one_in: int | None = None) -> list[Any]:
    """Every combination of a value of each axis, one in so many quick: for `parametrize`.

    `one_in` is at most the length of the shortest axis, which is its default. Then each value of
    an axis is in a quick case, and of three axes or more each two values are in one together:
    whatever their places in their axes, one of a third axis makes the sum of places a multiple.
    """
    shortest = min(map(len, axes))
    step = one_in or shortest
    assert step <= shortest
    places = itertools.product(*(range(len(axis)) for axis in axes))
    return [
        pytest.param(*values, marks=pytest.mark.long if sum(where) % step else ())
        for values, where in zip(itertools.product(*axes), places, strict=True)
    ]
