"""so.where between structures, environments and loops of one schema."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import scalops as so
from tests.language.witness import assert_same, value


class Model(so.Environment):
    """A vector and a number."""

    w: np.ndarray
    loss: float


class Pair(NamedTuple):
    """Two numbers."""

    a: Any
    b: Any


def trained(rate: float) -> Any:
    """A loop whose result depends on the rate."""

    @so.loop(Model(w=np.zeros(2), loss=10.0), range(3))
    def model(env: Any) -> Any:
        env.w = env.w + rate
        env.loss = env.loss - rate
        return env

    return model


@pytest.mark.parametrize("first", [True, False])
def test_the_better_of_two_loops(first: bool) -> None:
    one, two = trained(1.0), trained(2.0)
    better = so.where(one.loss < two.loss if first is False else one.loss > two.loss, one, two)
    assert isinstance(better, Model)
    expected = one if first else two
    assert_same(so.collect(better.w), expected.collect().w)
    assert_same(so.collect(better.loss), expected.collect().loss)


def test_environment_kept_where_a_step_does_not_help() -> None:
    table = so.table({"x": np.arange(6.0)})

    @so.loop(Model(w=np.full(2, 8.0), loss=np.inf), range(5))
    def model(env: Any) -> Any:
        tried = Model(w=env.w / 2 - 1, loss=table.map(lambda r: (r.x - env.w[0]) ** 2).sum())
        return so.where(tried.loss < env.loss, tried, env)

    w, loss = np.full(2, 8.0), np.inf
    for _ in range(5):
        found = ((np.arange(6.0) - w[0]) ** 2).sum()
        if found < loss:
            w, loss = w / 2 - 1, found
    result = model.collect()
    assert_same(result.w, w)
    assert_same(result.loss, np.float64(loss))


def test_structures_of_a_reduce_and_plain_dicts() -> None:
    table = so.table({"x": np.array([3.0, 1.0, 2.0]), "k": [1, 2, 3]})
    least = table.map(lambda r: {"x": r.x, "k": r.k}).reduce(
        lambda a, b: {"x": np.minimum(a.x, b.x), "k": np.maximum(a.k, b.k)}
    )
    for condition, expected in ((True, {"x": 1.0, "k": 3}), (False, {"x": 9.0, "k": 0})):
        other = {"x": 9.0, "k": np.int64(0)}
        assert so.where(value(condition), least, other).collect() == expected
        flipped = so.where(~value(condition), other, least)
        assert flipped.collect() == expected
    pair = table.map(lambda r: (r.x, r.k)).reduce(lambda a, b: (a[0] + b[0], a[1] + b[1]))
    assert so.where(value(True), pair, (0.0, 0)).collect() == (6.0, 6)


def test_condition_may_be_known() -> None:
    one, two = trained(1.0), trained(2.0)
    assert_same(so.collect(so.where(True, one, two).loss), np.float64(7.0))


def test_other_fields_types_or_conditions_are_refused() -> None:
    one = trained(1.0)
    other = so.loop({"w": np.zeros(3), "loss": 1.0}, range(1))(lambda env: env)
    with pytest.raises(so.SchemaError, match=r"different fields: \(w: float64\[2\], loss.*\[3\]"):
        so.where(True, one, other)
    with pytest.raises(so.SchemaError, match="between a structure and a float"):
        so.where(value(True), one, 1.0)
    with pytest.raises(so.SchemaError, match=r"has the condition bool\[2\]; expected true or"):
        so.where(value(np.array([True, False])), one, one)
    with pytest.raises(so.SchemaError, match="has the condition float64"):
        so.where(1.0, one, one)
    with pytest.raises(so.SchemaError, match="has the condition object"):
        so.where(object(), one, one)
