"""contract_groups: arrays made of groups by a small key are folds by that key."""

from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.relations import GroupAggregate
from scalops.algebra.segment_folds import Segment
from scalops.algebra.tree import find
from scalops.engine.witness.interpreter import Interpreter
from scalops.optimizer.rules.contract_groups import SEGMENT_BYTES, SEGMENT_KEYS, contract_groups
from scalops.optimizer.rules.merge_aggregates import merge_aggregates
from scalops.optimizer.rules.merge_maps import merge_maps
from tests.conftest import Golden
from tests.optimizer.plans import (
    answer,
    apply,
    assert_same_answer,
    assert_stays,
    before_and_after,
    collected,
    firings,
    job_of,
    same_answer,
)
from tests.optimizer.random_programs import random_table
from tests.quick import repeated

T = so.table(
    {
        "k": np.array([2, 0, 2], np.int32),
        "x": np.arange(6.0).reshape(3, 2),
        "y": np.arange(3.0),
        "b": np.array([True, False, True]),
        "t": ["a", "b", "c"],
    }
)
START = np.ones((3, 2))


def merged(*things: Any) -> op.Job:
    return apply(job_of(*things), merge_maps)[0]


def clusters(over: so.Table) -> Any:
    @so.loop(START, range(3))
    def centres(c: Any) -> Any:
        groups = over.group_by(near=lambda r: np.argmin(((c - r.x) ** 2).sum(axis=1)))
        return groups.agg(centre=so.mean("x")).to_array("centre", "near", 3, fill=c)

    return centres


def several() -> list[Any]:
    groups = T.group_by("k").agg(n=so.count(), s=so.sum("y"), least=so.min("x"))
    return [groups.to_array(name, "k", 4) for name in ("n", "s", "least")]


def test_fires(golden: Golden) -> None:
    renamed = T.group_by("k").agg(s=so.sum("y")).rename({"s": "total", "k": "of"})
    cases = {
        "k-means": merged(clusters(T)),
        "several arrays of the same groups": merged(*several()),
        "columns that are only renamed": merged(renamed.to_array("total", "of", 3)),
    }
    golden(
        "rules/contract_groups.txt",
        before_and_after(
            *((t, j, apply(j, contract_groups, merge_aggregates)[0]) for t, j in cases.items())
        ),
    )


def test_several_arrays_and_other_folds_of_the_table_are_one_pass() -> None:
    job, _ = apply(merged(*several(), T.sum("y")), contract_groups, merge_aggregates)
    (one,) = find((job,), op.Aggregate)
    assert (len(one.folds), len(find((job,), Segment))) == (7, 6)
    assert not find((job,), GroupAggregate)


def array(of: Any, size: int = 3, **more: Any) -> so.Value:
    return T.group_by("k").agg(v=of).to_array("v", "k", size, **more)


GROUPS = T.group_by("k").agg(n=so.count(), s=so.sum("y"))


@pytest.mark.parametrize(
    "things",
    [
        pytest.param([GROUPS.to_array("n", "k", 3), GROUPS], id="the groups are read as well"),
        pytest.param([GROUPS.to_array("n", "k", 3), GROUPS.sum("s")], id="another fold of them"),
        pytest.param([GROUPS.filter(lambda r: r.n > 1).to_array("s", "k", 3)], id="some groups"),
        pytest.param([GROUPS.to_array(lambda r: r.s / r.n, "k", 3)], id="what several folds give"),
        pytest.param([GROUPS.to_array("s", lambda r: r.k + 1, 4)], id="by no key"),
        pytest.param([GROUPS.to_array("k", "n", 4)], id="keys by what is folded"),
        pytest.param([GROUPS.to_array("k", "k", 3)], id="the keys themselves"),
        pytest.param(
            [T.group_by("k", "b").agg(s=so.sum("y")).to_array("s", "k", 3)], id="two keys"
        ),
        pytest.param([array(so.var("y"))], id="a variance"),
        pytest.param([array(so.first("x"))], id="a first value"),
        pytest.param([array(so.any("b"))], id="any"),
        pytest.param([array(so.count(), SEGMENT_KEYS + 1)], id="many keys"),
        pytest.param(
            [
                so.table({"k": [0], "x": np.ones((1, 512))})
                .group_by("k")
                .agg(x=so.sum("x"))
                .to_array("x", "k", SEGMENT_BYTES // (8 * 512) + 1)
            ],
            id="wide values of many keys",
        ),
        pytest.param([T.to_array("y", "k", 3)], id="no groups"),
    ],
)
def test_stays(things: list[Any]) -> None:
    assert_stays(merged(*things), contract_groups)


def test_stays_over_a_join_whose_keys_a_loop_leaves_as_they_are() -> None:
    edges = so.table({"src": [0, 1, 2], "dst": [1, 2, 0]})
    nodes = so.table({"id": [0, 1, 2]})

    @so.loop(np.ones(3), range(2))
    def ranks(r: Any) -> Any:
        sent = nodes.with_columns(v=lambda n: r[n.id]).join(edges, left_on="id", right_on="src")
        return sent.group_by("dst").agg(v=so.sum("v")).to_array("v", "dst", 3)

    assert_stays(merged(ranks), contract_groups)
    plain = nodes.join(edges, left_on="id", right_on="src").group_by("dst").agg(n=so.count())
    assert firings(
        apply(merged(plain.to_array("n", "dst", 3)), contract_groups)[1], contract_groups
    )


def test_of_keys_that_are_found_by_an_opaque_function() -> None:
    def key(r: Any) -> int:
        return 1 if r.y > 0.5 else 0

    value = T.group_by(at=key).agg(m=so.mean("x")).to_array("m", "at", 3)
    _, trace = apply(merged(value), contract_groups)
    assert firings(trace, contract_groups) == 1
    np.testing.assert_array_equal(value.collect(), [[0.0, 1.0], [3.0, 4.0], [0.0, 0.0]])


@pytest.mark.parametrize("opaque", [False, True])
def test_k_means_is_numpys(opaque: bool) -> None:
    x = np.random.default_rng(4).normal(size=(90, 2))

    def near(r: Any, c: Any) -> Any:
        return int(((np.asarray(c) - r.x) ** 2).sum(axis=1).argmin())

    def step(c: Any) -> Any:
        table = so.table({"x": x})
        traced = table.group_by(near=lambda r: np.argmin(((c - r.x) ** 2).sum(axis=1)))
        groups = table.group_by(near=lambda r: near(r, c)) if opaque else traced
        return groups.agg(m=so.mean("x")).to_array("m", "near", 3, fill=c)

    expected = start = np.array([[0.0, 0], [1, 1], [90, 90]])
    for _ in range(3):
        of = ((x[:, None] - expected) ** 2).sum(axis=2).argmin(axis=1)
        expected = np.stack(
            [x[of == k].mean(axis=0) if (of == k).any() else expected[k] for k in range(3)]
        )
    made = so.loop(start, range(3))(step)
    assert "contract_groups" in made.explain(stage="optimized")
    np.testing.assert_allclose(made.collect(), expected)


def message(value: so.Value, how: str) -> str:
    """The error of a plan: as it is written, by the witness, or as it runs."""
    run = value.collect if how == "run" else lambda: Interpreter().value(value.expression)
    with pytest.raises(so.DataError) as caught:
        run()
    return str(caught.value)


@pytest.mark.parametrize("of", ["y", "x", None])
@pytest.mark.parametrize("keys", [[0, 3, 7], [5, -1, 0], [0, None, 9]], ids=str)
def test_wrong_keys_are_the_same_errors_at_the_same_line(keys: list[Any], of: str | None) -> None:
    table = so.from_arrow(
        pa.table({"k": pa.array(keys, pa.int32()), "y": [1.0, 2.0, 3.0]})
    ).with_columns(x=lambda r: np.stack([r.y, r.y]))
    fold = so.mean(of) if of else so.count()
    value = table.group_by("k").agg(v=fold).to_array("v", index="k", size=3)
    assert message(value, "written") == message(value, "run")
    assert "test_contract_groups.py" in message(value, "run")


def test_no_value_for_a_key_is_the_same_error() -> None:
    table = so.from_arrow(pa.table({"k": [1, 0, 1], "y": pa.array([None, 2.0, None])}))
    value = table.group_by("k").agg(v=so.min("y")).to_array("v", index="k", size=3)
    assert "a null as the value at 1" in message(value, "written")
    assert message(value, "written") == message(value, "run")


def test_an_error_in_a_later_iteration_is_named() -> None:
    @so.loop(np.zeros(3), range(5), name="steps")
    def steps(v: Any) -> Any:
        at = so.cast(v.sum(), "int64")
        groups = T.group_by(to=lambda r: r.k + at).agg(n=so.count())
        return v + groups.to_array("n", "to", 3) / 3

    with pytest.raises(so.DataError, match=r"to_array found 3 in 'to'.*test_contract_groups"):
        steps.collect()


FOLDS: dict[str, Any] = {
    "count": lambda: so.count(),
    "known": lambda: so.count("f"),
    "names": lambda: so.count("t"),
    "sum f": lambda: so.sum("f"),
    "mean f": lambda: so.mean("f"),
    "sum i": lambda: so.sum("i"),
    "mean i": lambda: so.mean("i"),
    "sum k": lambda: so.sum("k"),
    "mean b": lambda: so.mean("b"),
    "sum b": lambda: so.sum("b"),
    "sum g": lambda: so.sum("g"),
    "mean x": lambda: so.mean("x"),
    "sum x": lambda: so.sum(lambda r: r.x * r.g),
    "one": lambda: so.sum(lambda r: 1),
    "max k": lambda: so.max("k"),
    "min g": lambda: so.min("g"),
    "max x": lambda: so.max("x"),
    "min f": lambda: so.min("f"),
    "max b": lambda: so.max("b"),
}


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_same_answer(run: int, random: Random) -> None:
    table = random_table(random).with_columns(t=lambda r: so.where(r.k > 0, "a", "b"))
    keys: list[Any] = [
        lambda r: r.k % 3,
        lambda r: so.coalesce(r.i % 3, 1),
        lambda r: r.i % 3,
        lambda r: r.k,
        lambda r: so.cast(r.g > 0, "int8"),
        lambda r: 1,
    ]
    groups = table.group_by(at=random.choice(keys))
    names = random.sample(sorted(FOLDS), random.choice((1, 2, 3)))
    made = groups.agg(**{f"v{i}": FOLDS[n]() for i, n in enumerate(names)})
    values = [
        made.to_array(f"v{i}", "at", random.choice((3, 4)), fill=random.choice((0, -1)))
        for i in range(len(names))
    ]
    before = merged(*values)
    after, trace = apply(before, contract_groups, merge_aggregates)
    assert firings(trace, contract_groups) == 1
    assert_same_answer(before, after)
    assert same_answer(answer(before), collected(*values))
