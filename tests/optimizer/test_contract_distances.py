"""contract_distances: distances from shared vectors are products, where digits allow."""

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.expressions import Call, Expression, within
from scalops.algebra.tree import find
from scalops.optimizer.rules.contract_distances import contract_distances
from tests.conftest import Golden
from tests.optimizer.plans import apply, assert_same_answer, assert_stays, before_and_after
from tests.optimizer.test_contract_products import merged
from tests.quick import repeated

RNG = np.random.default_rng(2)
X = RNG.standard_normal((60, 3))
C = RNG.standard_normal((4, 3))
A = RNG.uniform(0.5, 2, (4, 3))
ARRAYS: dict[str, Any] = {"x": X, "z": X + 1, "h": X.astype(np.float32), "y": X[:, 0]}
T = so.table({**ARRAYS, "far": X + 1e8, "n": (10 * X).astype(np.int64)})


def test_fires(golden: Golden) -> None:
    near = np.concatenate((X[:3] + 1e8, X[:1] + 2e9))

    @so.loop(C, range(3))
    def clusters(c: Any) -> Any:
        groups = T.group_by(k=lambda r: np.argmin(((c - r.x) ** 2).sum(axis=1)))
        means = groups.agg(m=so.mean("x"))
        return means.to_array("m", index="k", size=4, fill=c)

    cases = {
        "a sum of squares": T.sum(lambda r: ((r.x - C) ** 2).sum(axis=1)),
        "norms": T.sum(lambda r: np.linalg.norm(C - r.x, axis=1)),
        "divided by variances": T.sum(
            lambda r: so.softmax(-0.5 * ((r.x - C) ** 2 / A).sum(axis=1))
        ),
        "divided by deviations": T.sum(lambda r: np.sum(((C - r.x) / A) ** 2, axis=1)),
        "one vector": T.sum(lambda r: (C[0] - r.x) @ (C[0] - r.x)),
        "the nearest, in groups in a loop": clusters,
        "the nearest of norms": T.map(lambda r: np.linalg.norm(C - r.x, axis=1).argmin()),
        "a distance that decides": T.filter(lambda r: ((r.x - C) ** 2).sum(axis=1).min() < 1),
        "integers": T.sum(lambda r: ((r.n - np.arange(12).reshape(4, 3)) ** 2).sum(axis=1)),
        "an offset that centring takes away": T.map(
            lambda r: np.argmin(((r.far - (X[:4] + 1e8)) ** 2).sum(axis=1))
        ),
        "digits at risk": T.map(lambda r: np.argmin(((r.far - near) ** 2).sum(axis=1))),
    }
    jobs = {title: merged(thing) for title, thing in cases.items()}
    golden(
        "rules/contract_distances.txt",
        before_and_after(*((t, j, apply(j, contract_distances)[0]) for t, j in jobs.items())),
    )


def forms(thing: Any) -> list[tuple[str, str]]:
    """The functions that the rule makes, and how each is computed."""
    after, _ = apply(merged(thing), contract_distances)
    found = []
    for node in find((after,), op.Operator):
        for e in within([c for c in node.children if isinstance(c, Expression)]):
            names = ("distances", "nearest")
            if isinstance(e, Call) and e.function.name.endswith(names):
                found.append((e.function.name, str(dict(e.parameters)["form"])))
    folds = [a for node in find((after,), op.Aggregate) for f in node.folds for a in f.arguments]
    for e in within(folds):
        if isinstance(e, Call) and e.function.name.endswith(("distances", "nearest")):
            found.append((e.function.name, str(dict(e.parameters)["form"])))
    return sorted(set(found))


EXPANDED = [("squared_distances", "expanded")]
WEIGHTED = [("weighted_squared_distances", "expanded")]
NEAREST = [("nearest", "expanded")]


@pytest.mark.parametrize(
    ("f", "found"),
    [
        pytest.param(lambda r: np.square(C - r.x).sum(axis=-1), EXPANDED, id="square"),
        pytest.param(lambda r: (lambda d: (d * d).sum(axis=1))(C - r.x), EXPANDED, id="product"),
        pytest.param(lambda r: ((r.x[None, :] - C) ** 2).sum(axis=1), EXPANDED, id="an axis"),
        pytest.param(lambda r: ((r.x.reshape(1, 3) - C) ** 2).sum(1), EXPANDED, id="reshape"),
        pytest.param(lambda r: (-((r.x - C) ** 2)).sum(axis=1), EXPANDED, id="a sign"),
        pytest.param(lambda r: (r.y * (r.x - C) ** 2).sum(axis=1), EXPANDED, id="a factor"),
        pytest.param(lambda r: ((r.x - C) ** 2 / 3.0).sum(axis=1), EXPANDED, id="a divisor"),
        pytest.param(lambda r: ((r.x - C) ** 2).mean(axis=1), EXPANDED, id="mean"),
        pytest.param(lambda r: np.exp(-0.3 * ((r.x - C) ** 2).sum(1)), EXPANDED, id="rbf"),
        pytest.param(lambda r: ((r.x * 2 + r.z - C) ** 2).sum(axis=1), EXPANDED, id="computed"),
        pytest.param(lambda r: np.sum(A * (r.x - C) ** 2, axis=1), WEIGHTED, id="weights"),
        pytest.param(lambda r: ((r.x - C) ** 2) @ A[0], WEIGHTED, id="product with weights"),
        pytest.param(lambda r: (A * (r.x - C) ** 2 / A).sum(axis=1), WEIGHTED, id="two weights"),
        pytest.param(lambda r: (A[:, :1] * (r.x - C) ** 2).sum(1), WEIGHTED, id="narrow weights"),
        pytest.param(lambda r: (((C - r.x) * A) ** 2).sum(axis=1), WEIGHTED, id="scaled"),
        pytest.param(lambda r: np.linalg.norm((C - r.x) / A, axis=1), WEIGHTED, id="scaled norm"),
        pytest.param(lambda r: ((r.x - C) ** 2).sum(axis=1).argmin(), NEAREST, id="argmin"),
        pytest.param(lambda r: np.argmax(-0.5 * ((r.x - C) ** 2).sum(1)), NEAREST, id="argmax"),
        pytest.param(
            lambda r: np.argmin(0.3 * ((r.x - C) ** 2).sum(axis=1)),
            [("squared_distances", "direct: it decides")],
            id="a factor that rounds",
        ),
        pytest.param(
            lambda r: np.argmax(np.ones(4) - ((r.x - C) ** 2).sum(axis=1)),
            [("squared_distances", "direct: it decides")],
            id="another score's greatest",
        ),
        pytest.param(
            lambda r: (((r.x - C) ** 2).sum(axis=1) < 1).sum(),
            [("squared_distances", "direct: it decides")],
            id="a comparison",
        ),
        pytest.param(
            lambda r: (A * (r.h - C.astype(np.float32)) ** 2).sum(axis=1),
            [("weighted_squared_distances", "direct: exact numbers")],
            id="narrow differences",
        ),
    ],
)
def test_forms(f: Any, found: list[tuple[str, str]]) -> None:
    assert forms(T.map(f)) == found
    before = merged(T.map(f))
    assert_same_answer(before, apply(before, contract_distances)[0])
    collected = T.map(f).collect().column(0).combine_chunks()
    records = [type("Record", (), {n: v[i] for n, v in ARRAYS.items()}) for i in range(len(X))]
    wanted = np.stack([np.asarray(f(r)) for r in records])
    made = np.array(collected.to_pylist())
    np.testing.assert_allclose(made, wanted, rtol=1e-5 if "h" in f.__code__.co_names else 1e-9)


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(lambda r: ((r.x - r.z) ** 2).sum(), id="two vectors of a record"),
        pytest.param(lambda r: ((C - C[0]) ** 2).sum(axis=1) * r.y, id="no vector of a record"),
        pytest.param(lambda r: ((r.x - C) ** 2).sum(axis=0), id="over the vectors"),
        pytest.param(lambda r: ((r.x - C) ** 2).sum(), id="over both axes"),
        pytest.param(lambda r: ((r.x - C) ** 2).sum(axis=1, keepdims=True), id="keepdims"),
        pytest.param(lambda r: ((r.x - C) ** 3).sum(axis=1), id="cubes"),
        pytest.param(lambda r: np.abs(r.x - C).sum(axis=1), id="absolute values"),
        pytest.param(lambda r: np.linalg.norm(r.x - C, 1, axis=1), id="another norm"),
        pytest.param(lambda r: ((r.x + C) ** 2).sum(axis=1), id="a sum"),
        pytest.param(lambda r: (r.z * (r.x - C) ** 2).sum(axis=1), id="a record's weights"),
        pytest.param(lambda r: ((r.x - C) * (r.z - C)).sum(axis=1), id="two differences"),
        pytest.param(lambda r: ((r.y - C[0]) ** 2).sum(), id="a number of a record"),
        pytest.param(lambda r: ((r.x[None, ::-1] - C) ** 2).sum(1) * 0 + r.y, id="no plain axis"),
    ],
)
def test_stays(f: Any) -> None:
    assert_stays(merged(T.map(f)), contract_distances)


def test_stays_for_sparse_vectors() -> None:
    rows = T.map(lambda r: {"s": so.sparse_vector(np.array([0, 2]), np.array([1.0, 2.0]), 3)})
    assert_stays(merged(rows.map(lambda r: ((C[0] - r.s) ** 2).sum())), contract_distances)


def test_a_column_that_decides_later() -> None:
    far = T.select(d=lambda r: ((r.x - C) ** 2).sum(axis=1).max(), y="y")
    assert forms(far) == EXPANDED
    direct = [("squared_distances", "direct: it decides")]
    assert forms(far.sort("d")) == direct
    assert forms(far.distinct("d")) == direct
    assert forms(far.select(e=lambda r: r.d * 2).with_row_index().sort("e")) == direct
    assert forms(far.with_row_index().sort("y")) == direct  # any operator between may decide
    opaque = so.udf(lambda r: r.d > 1, returns=so.bool_)
    assert forms(far.map(opaque)) == direct


def test_a_bad_start_of_a_loop_decides_nothing() -> None:
    def program(start: Any) -> Any:
        @so.loop(start, range(2))
        def total(c: Any) -> Any:
            return c + T.sum(lambda r: np.exp(-((r.x - c) ** 2).sum(axis=1))).sum()

        return total

    for start in (
        np.zeros((4, 3)),
        np.full((4, 3), np.nan),
        C + 1e15,
        np.array([*C[:3], C[0] + 1e9]),
    ):
        assert forms(program(start)) == EXPANDED


def test_min_and_nearest_of_the_same_distances() -> None:
    def both(r: Any) -> Any:
        d = ((r.x - C) ** 2).sum(axis=1)
        return {"k": np.argmin(d), "d": d.min()}

    assert forms(T.map(both)) == [*NEAREST, *EXPANDED]
    made = T.map(both).collect()
    wanted = ((X[:, None] - C) ** 2).sum(axis=2)
    np.testing.assert_array_equal(made.column("k"), wanted.argmin(axis=1))
    np.testing.assert_allclose(made.column("d"), wanted.min(axis=1), rtol=1e-10)


def test_explain_shows_the_form() -> None:
    near = np.concatenate((X[:3] + 1e8, X[:1] + 2e9))
    assert "form=expanded" in T.map(lambda r: ((r.x - C) ** 2).sum(axis=1)).explain()
    shown = T.map(lambda r: np.argmin(((r.far - near) ** 2).sum(axis=1))).explain()
    assert "form=direct: digits at risk" in " ".join(shown.split())


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=5)
def test_same_answer(run: int, random: Random) -> None:
    rng = np.random.default_rng(random.randrange(10**6))
    k, d, dtype = random.choice([1, 3, 6]), random.choice([1, 2, 5]), random.choice("df")
    offset = random.choice([0.0, 1e3, 1e6])
    x = (rng.standard_normal((40, d)) + offset).astype(dtype)
    c = x[:k] + random.choice([0.0, 0.5])
    if k > 1 and random.randrange(2):
        c[-1] = c[0]
    a = rng.uniform(0.5, 2, random.choice([(k, d), (d,), (k, 1)])).astype(dtype)
    c, table = c.astype(dtype), so.table({"x": x})
    shapes: list[Any] = [
        lambda r: ((r.x - c) ** 2).sum(axis=1),
        lambda r: (a * (c - r.x) ** 2).sum(axis=1),
        lambda r: ((r.x - c) ** 2 / a).sum(axis=1),
        lambda r: np.linalg.norm((r.x - c) / a, axis=1),
        lambda r: np.argmin(((r.x - c) ** 2).sum(axis=1)),
        lambda r: np.argmin(np.linalg.norm(c - r.x, axis=1)),
        lambda r: np.argmax(-((r.x - c) ** 2 * a).sum(axis=1)),
    ]
    f = random.choice(shapes)
    job = merged(table.map(f))
    after, _ = apply(job, contract_distances)
    assert_same_answer(job, after)
    made = np.array(table.map(f).collect().column(0).to_pylist())
    wanted = np.stack([np.asarray(f(type("R", (), {"x": row}))) for row in x])
    np.testing.assert_allclose(made, wanted, rtol=1e-9 if dtype == "d" else 1e-4)
