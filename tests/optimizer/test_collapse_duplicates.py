"""collapse_duplicates: records that a loop cannot tell apart are one record with a weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops import planning
from scalops.algebra import operators as op
from scalops.algebra.dtypes import INT64
from scalops.algebra.expressions import Column
from scalops.algebra.relations import GroupAggregate
from scalops.algebra.tree import find
from scalops.optimizer import cost
from scalops.optimizer.duplicates import DISTINCT_RECORDS, distinct
from scalops.optimizer.phases import PHASES
from scalops.optimizer.rewriter import rewrite
from scalops.optimizer.rules.cache_invariants import cache_invariants
from scalops.optimizer.rules.collapse_duplicates import collapse_duplicates
from scalops.optimizer.rules.contract_groups import contract_groups
from scalops.optimizer.rules.merge_aggregates import merge_aggregates
from scalops.optimizer.rules.merge_groups import merge_groups
from scalops.optimizer.rules.merge_maps import merge_maps
from tests.conftest import Golden
from tests.optimizer.plans import (
    apply,
    assert_same_answer,
    assert_stays,
    before_and_after,
    firings,
    job_of,
)
from tests.quick import quick

WITHOUT = tuple(p for p in PHASES if p.rules != (collapse_duplicates,))
N = 40_000
RNG = np.random.default_rng(3)


def small(rows: int = 24) -> so.Table:
    """Few values in each column but `id`, all of a type of its own."""
    at = np.arange(rows)
    return so.table(
        {
            "id": at,
            "k": (at % 3).astype(np.int8),
            "y": np.array([0.5, -0.0, 0.0, 2.0])[at % 4],
            "h": np.array([0.5, 2.0], np.float16)[at % 2],
            "x": np.eye(2)[at % 2],
            "s": np.array(["a", "b"], object)[at % 2],
        }
    )


T = small()


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule fires wherever it may, however small the table is."""
    for name in ("COLLAPSED_ROWS", "GROUP", "SAME_RECORDS"):
        monkeypatch.setattr(cost, name, replace(getattr(cost, name), value=0.0))


def loop(body: Callable[[Any], Any], start: Any = 1.0, times: int = 10) -> op.Job:
    """Iterations of `w = body(w)`, ready for the rule."""
    return ready(so.loop(start, range(times), name="repeat")(body))


def ready(*things: Any) -> op.Job:
    rules = (cache_invariants, merge_maps, contract_groups, merge_aggregates, merge_groups)
    return apply(job_of(*things), *rules)[0]


def collapses(job: op.Job) -> bool:
    return firings(apply(job, collapse_duplicates)[1], collapse_duplicates) > 0


def groups(job: op.Job) -> list[GroupAggregate]:
    return [g for g in find((job,), GroupAggregate) if g.label == DISTINCT_RECORDS]


# It fires.


def nested(table: so.Table = T) -> so.Loop:
    @so.loop({"step": 0.1, "w": 0.0}, range(2))
    def outer(env: Any) -> Any:
        step = env["step"]

        @so.loop(env["w"], range(3))
        def inner(w: Any) -> Any:
            return w - step * table.mean(lambda r: np.tanh(r.y - w))

        return {"step": step / 2, "w": inner}

    return outer  # type: ignore[no-any-return]


@pytest.mark.usefixtures("always")
def test_fires(golden: Golden) -> None:
    cases = {
        "sums, means and counts": loop(
            lambda w: T.sum(lambda r: r.k * w) + T.mean(lambda r: r.k - w) / T.count()
        ),
        "a filter that varies, and a vector": loop(
            lambda w: np.sum(T.filter(lambda r: r.k > w).sum(lambda r: np.tanh(r.k - w) * r.x))
        ),
        "0.0 and -0.0 differ": loop(lambda w: T.max(lambda r: np.arctan2(r.y, -1.0) * w)),
        "an expression of few values": loop(lambda w: T.sum(lambda r: np.exp(r.id % 3 * w))),
        "groups": loop(
            lambda w: T.group_by(g=lambda r: r.k > w).agg(m=so.mean("y"), n=so.count()).sum("m")
        ),
        "before the outermost loop that does not change the table": ready(nested()),
    }
    golden(
        "rules/collapse_duplicates.txt",
        before_and_after(*((t, j, apply(j, collapse_duplicates)[0]) for t, j in cases.items())),
    )


@pytest.mark.usefixtures("always")
def test_all_folds_of_a_table_read_the_same_distinct_records() -> None:
    def body(w: Any) -> Any:
        center = T.mean(lambda r: r.k * w)
        return T.sum(lambda r: (r.k - center) * r.y) / T.count()

    before = loop(body)
    after, trace = apply(before, collapse_duplicates)
    assert firings(trace, collapse_duplicates) == 1
    (made,) = groups(after)
    assert [n for n, _ in made.keys] == ["k", "y", "sign1"]
    assert isinstance(made.source, op.Scan)  # nobody reads the records themselves any more
    assert_same_answer(before, after)


@pytest.mark.usefixtures("always")
def test_a_cache_with_another_reader_is_read_once() -> None:
    before = loop(lambda w: T.sum(lambda r: r.k * w) + T.filter(lambda r: r.id > w).var("id"))
    after, _ = apply(before, collapse_duplicates)
    (made,) = groups(after)
    assert isinstance(made.source, op.Cache)
    assert_same_answer(before, after)


@pytest.mark.usefixtures("always")
def test_a_count_stays_weakly_typed() -> None:
    start = np.float32(1)
    before = loop(lambda w: w * T.filter(lambda r: r.k > w).count() / 24, start)
    after, trace = apply(before, collapse_duplicates)
    assert firings(trace, collapse_duplicates) == 1
    assert_same_answer(before, after)
    (model,) = rewrite(before, PHASES)[0].outputs
    assert isinstance(model, op.Loop)
    assert str(model.types[0]) == "float32"


# It stays.


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda w: T.map(lambda r: r.k * w).first(), id="first"),
        pytest.param(lambda w: T.map(lambda r: r.k * w).last(), id="last"),
        pytest.param(lambda w: T.argmin(lambda r: r.k - w, "y"), id="the record of an argmin"),
        pytest.param(lambda w: T.quantile(0.5, lambda r: r.k * w), id="a quantile"),
        pytest.param(lambda w: T.var(lambda r: r.k * w), id="a variance"),
        pytest.param(lambda w: T.std(lambda r: r.k * w), id="a deviation"),
        pytest.param(lambda w: T.map(lambda r: r.k * w).reduce(lambda a, b: a * b), id="product"),
        pytest.param(
            lambda w: T.map(lambda r: r.k * w).reduce(lambda a, b: a + b * 2), id="a users reduce"
        ),
        pytest.param(
            lambda w: T.map(lambda r: r.k * w).aggregate(
                0.0, lambda s, r: s * 0.9 + r, lambda a, b: a + b
            ),
            id="a users aggregate",
        ),
        pytest.param(
            lambda w: so.cast(T.sum(lambda r: r.h * so.cast(w, "float16")), "float64"), id="float16"
        ),
        pytest.param(
            lambda w: np.sum(
                T.filter(lambda r: (r.id < 3) & (w > 0)).to_array("y", index="id", size=3)
            ),
            id="an array by index",
        ),
    ],
)  # fmt: skip
def test_stays(body: Any) -> None:
    assert_stays(loop(body), collapse_duplicates)


@pytest.mark.usefixtures("always")
def test_stays_where_a_users_function_is_called() -> None:
    def body(w: Any) -> Any:
        return T.map(so.udf(lambda r: float(r.k) * float(w), returns=so.float64)).sum()

    assert_stays(loop(body), collapse_duplicates)


@pytest.mark.usefixtures("always")
def test_stays_where_lists_or_sparse_vectors_are_read() -> None:
    lists = so.from_arrow(pa.table({"l": [[1.0], [1.0, 2.0]] * 8}))
    assert_stays(loop(lambda w: lists.sum(lambda r: r.l[0] + w)), collapse_duplicates)
    sparse = T.select(v=lambda r: so.sparse_vector(np.stack([r.k]), np.stack([r.y]), 4)).cache()
    assert_stays(loop(lambda w: sparse.sum(lambda r: r.v @ np.ones(4) * w)), collapse_duplicates)


@pytest.mark.usefixtures("always")
def test_stays_outside_a_loop_and_where_the_table_changes() -> None:
    assert_stays(ready(T.sum("k"), T.group_by("k").agg(n=so.count())), collapse_duplicates)
    changed = loop(lambda w: T.map(lambda r: r.k * w).distinct().sum())
    assert_stays(changed, collapse_duplicates)


@pytest.mark.usefixtures("always")
def test_what_may_fail_is_not_computed_for_records_that_a_filter_drops() -> None:
    def body(w: Any) -> Any:
        few = T.filter(lambda r: r.id < 4 * w)
        return few.sum(lambda r: so.one_hot(r.id, 4)[0] * w) * 0 + 1.0

    before = loop(body)
    after, _ = apply(before, collapse_duplicates)
    for made in groups(after):
        assert "one_hot" not in str([e for _, e in made.keys])
    assert_same_answer(before, after)


# What is decided by what is known of the data.


def decided(column: Any, times: int = 10, f: Any = None) -> bool:
    """Whether a dear sum over a table of one column collapses."""
    table = column if isinstance(column, so.Table) else so.table({"v": column})
    f = f or (lambda r, w: np.exp(np.tanh(r.v * w)))
    return collapses(loop(lambda w: table.sum(lambda r: f(r, w)), times=times))


def test_few_values_of_many_records_collapse() -> None:
    assert decided(RNG.integers(0, 100, N))
    assert decided(RNG.integers(0, 100, N).astype(np.float64))
    vectors = RNG.integers(0, 2, (N, 8)).astype(np.int8)
    assert decided(vectors, f=lambda r, w: np.exp(r.v @ np.ones(8) * w))
    assert decided(vectors.astype(np.float32), f=lambda r, w: np.exp(r.v[2] + r.v[5] * w))
    texts = RNG.integers(0, 9, N).astype(str).astype(object)
    assert decided(texts, f=lambda r, w: np.exp(np.where(r.v == "7", w, np.tanh(w))))


@pytest.mark.parametrize(
    ("column", "times"),
    [
        pytest.param(RNG.random(N), 10, id="continuous numbers"),
        pytest.param(np.arange(N), 10, id="numbers of the records"),
        pytest.param(RNG.integers(0, N // 4, N), 10, id="more than an eighth"),
        pytest.param(RNG.integers(0, 100, 2000), 10, id="a small table"),
        # Four of five records are equal and the others all differ: more than one might think.
        pytest.param(np.where(RNG.random(N) < 0.8, 0, np.arange(N)), 10, id="a long tail"),
        pytest.param(RNG.random((N, 3)), 10, id="vectors"),
    ],
)
def test_stays_where_it_does_not_pay(column: Any, times: int) -> None:
    f = (lambda r, w: np.exp(r.v @ np.ones(3) * w)) if column.ndim > 1 else None
    assert not decided(column, times, f)


@pytest.mark.parametrize("times", [1, 1000])
def test_groups_cost_more_than_one_iteration_saves(times: int) -> None:
    few = RNG.integers(0, 100, N)
    assert decided(few, times, lambda r, w: r.v * w) == (times > 1)


def test_stays_where_distinct_records_take_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    few = RNG.integers(0, 100, N)
    assert decided(few)
    monkeypatch.setattr(cost, "COLLAPSED_BYTES", replace(cost.COLLAPSED_BYTES, value=1000.0))
    assert not decided(few)


def test_the_bound_holds_for_skewed_data() -> None:
    values = np.floor(RNG.pareto(0.7, 200_000)).astype(np.int64)
    table = so.table({"v": values})
    found = distinct(table.plan, len(values), [Column("v", INT64)])
    assert found is not None
    assert len(np.unique(values)) <= 1.1 * found.most
    assert found.likely <= found.most


def test_types_tell_where_no_source_does() -> None:
    """Pairs that a join makes: of three levels for each of two fields there are nine."""
    names = so.table({"b": np.arange(N) % 10, "u": RNG.random(N), "v": RNG.random(N)})
    others = so.table({"b": np.arange(10), "w": RNG.random(10)})

    def level(r: Any, field: str) -> Any:
        near = np.abs(r[field] - r.w)
        return np.where(near < 0.1, 2, np.where(near < 0.3, 1, 0))

    pairs = names.join(others, on="b").select(
        g0=lambda r: level(r, "u"), g1=lambda r: level(r, "v")
    )

    def model() -> Any:
        return so.loop(1.0, range(10))(lambda w: pairs.mean(lambda r: np.exp(-(r.g0 + r.g1) * w)))

    assert "to at most 9 distinct (estimated from types and metadata)" in explained(model())
    with_rule, without = both(model)
    np.testing.assert_allclose(with_rule, without, rtol=1e-12)


def explained(model: Any) -> str:
    return " ".join(model.explain().split())


def both(model: Callable[[], Any]) -> list[Any]:
    """What the engine makes of a program with the rule and without it."""
    found = []
    for phases in (PHASES, WITHOUT):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(planning, "PHASES", phases)
            found.append(model().collect())
    return found


@pytest.mark.parametrize("kind", ["csv", "parquet", "ranges"])
def test_files(kind: str, tmp_path: Path) -> None:
    """A file is looked at in runs; the ranges in a Parquet footer tell without a look."""
    table = pa.table(
        {
            "id": np.arange(N),
            "a": RNG.integers(0, 7, N),
            "s": np.array(list("abcde"), object)[RNG.integers(0, 5, N)],
        }
    )
    if kind == "csv":
        pc.write_csv(table, tmp_path / "t.csv")
        given = so.read_csv(tmp_path / "t.csv")
    else:
        pq.write_table(table, tmp_path / "t.parquet", row_group_size=10_000)
        given = so.read_parquet(tmp_path / "t.parquet")

    def f(r: Any, w: Any) -> Any:
        made = np.exp(-r.a * w)
        return made if kind == "ranges" else np.where(r.s == "c", made, np.tanh(w * r.a))

    def model() -> Any:
        kept = given.filter(lambda r: r.a > 0)
        return so.loop(1.0, range(10))(lambda w: kept.mean(lambda r: f(r, w)))

    shown = explained(model())
    known = {"csv": "of them", "parquet": "of them", "ranges": "from types and metadata"}[kind]
    assert "by collapse_duplicates" in shown
    assert known in shown
    with_rule, without = both(model)
    np.testing.assert_allclose(with_rule, without, rtol=1e-12)


def test_a_sorted_file_is_no_reason_to_take_keys_for_few(tmp_path: Path) -> None:
    rows = 20 * N  # of which 8 runs of 2,048 are looked at: each has 64 values of its own
    pq.write_table(pa.table({"s": np.repeat(np.arange(rows // 32), 32).astype(float)}),
                   tmp_path / "t.parquet")  # fmt: skip
    given = so.read_parquet(tmp_path / "t.parquet")
    assert not decided(given, f=lambda r, w: np.exp(np.tanh(r.s * w)))


# Both plans mean the same.


FOLDS: dict[str, Callable[[so.Table, Any], Any]] = {
    "sum of a float": lambda t, w: t.sum(lambda r: r.f * w),
    "sum of an integer": lambda t, w: t.sum(lambda r: r.i * so.cast(w, "int64")) * 1.0,
    "sum of a small integer": lambda t, w: t.filter(lambda r: r.g > w).sum("k") * 1.0,
    "reduce of a small integer": lambda t, w: (
        t.map(lambda r: r.k * so.cast(w, "int8")).reduce(lambda a, b: a + b) * 1.0
    ),
    "sum of truths": lambda t, w: t.sum(lambda r: r.f > w) * 1.0,
    "sum of vectors": lambda t, w: np.sum(t.sum(lambda r: r.x * r.g * w) * np.arange(1.0, 4.0)),
    "mean": lambda t, w: t.mean(lambda r: r.f * w),
    "mean of an integer": lambda t, w: t.filter(lambda r: r.g > w).mean("i"),
    "mean of a float32": lambda t, w: so.cast(t.filter(lambda r: r.k > w).mean("g"), "float64"),
    "mean of vectors": lambda t, w: np.max(t.mean(lambda r: r.x + w)),
    "count": lambda t, w: t.filter(lambda r: r.f > w).count() * 1.0,
    "count of what is known": lambda t, w: t.filter(lambda r: r.g > w).count("f") * 1.0,
    "least": lambda t, w: t.min(lambda r: r.f * w),
    "greatest": lambda t, w: t.max(lambda r: np.copysign(1.0, r.f) * w),
    "any": lambda t, w: so.where(t.any(lambda r: r.f > w), 1.0, 0.0),
    "all": lambda t, w: so.where(t.all(lambda r: r.f < w), 1.0, 0.0),
    "different values": lambda t, w: t.filter(lambda r: r.g > w).n_unique("f") * 1.0,
    "is empty": lambda t, w: so.where(t.filter(lambda r: r.f > w).is_empty(), 1.0, 0.0),
    "truths of a zero's sign": lambda t, w: t.sum(lambda r: np.arctan2(r.f, -1.0) * w),
    "by a vector": lambda t, w: t.sum(lambda r: np.arctan2(r.x, -w)[0]),
    "a text": lambda t, w: t.filter(lambda r: r.s != "a").sum(lambda r: r.g * w) * 1.0,
    "arrays by key": lambda t, w: by_key(t, w),
    "groups": lambda t, w: (
        t.group_by(q=lambda r: r.g > w)
        .agg(m=so.mean("f"), n=so.count(), c=so.count("i"), z=so.max("f"), t=so.sum("k"))
        .sum(lambda r: so.coalesce(r.m, 0.5) * r.n + r.c + r.t)
    ),
}  # fmt: skip


def by_key(table: so.Table, w: Any) -> Any:
    """Arrays by the keys of groups; key 1 has no record, and one may have nulls alone."""
    groups = table.group_by(q=lambda r: 2 * so.cast(r.g > w, "int64")).agg(
        n=so.count(), c=so.count("f"), m=so.mean("i"), s=so.sum("k"), x=so.mean("x"), z=so.max("g")
    )
    made = {n: groups.to_array(n, index="q", size=3, fill=-1.0) for n in "mx"}
    whole = {n: groups.to_array(n, index="q", size=3) for n in "ncsz"}
    return (
        np.nansum(made["m"]) + np.nansum(made["x"] * np.arange(1.0, 10).reshape(3, 3))
        + sum(np.sum(a * np.array([1, 10, 100])) for a in whole.values())
    )  # fmt: skip


def random_rows(random: Random) -> so.Table:
    """Few distinct records with every special value, each of them several times."""
    f = (None, math.nan, -math.nan, math.inf, 0.0, -0.0, 1.5, -2.0)
    kinds = [
        (
            random.choice(f),
            random.choice((None, -3, 0, 2)),
            random.choice((-128, 1, 100)),
            random.choice((0.0, -0.0, 0.25, 2.0)),
            [random.choice((0.0, -0.0, math.nan, 1.0)) for _ in range(3)],
            random.choice((None, "a", "b")),
        )
        for _ in range(random.choice((1, 2, 4)))
    ]
    rows = [random.choice(kinds) for _ in range(random.choice((0, 1, 9, 9, 9)))]
    f_, i, k, g, x, s = zip(*rows, strict=True) if rows else ([],) * 6
    vectors = pa.array([v for row in x for v in row], pa.float64())
    return so.from_arrow(
        pa.table(
            {
                "f": pa.array(f_, pa.float64()),
                "i": pa.array(i, pa.int64()),
                "k": pa.array(k, pa.int8()),
                "g": pa.array(g, pa.float32()),
                "x": pa.FixedSizeListArray.from_arrays(vectors, 3),
                "s": pa.array(s, pa.string()),
                "id": np.arange(len(rows)),
            }
        )
    )


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("name", FOLDS)
@pytest.mark.parametrize("seeds", quick([range(0, 6, 2), range(6)], 1))
def test_same_answer(seeds: range, name: str) -> None:
    fired = 0
    for seed in seeds:
        random = Random(f"{name} {seed}")
        table = random_rows(random)
        model = so.loop(1.0, range(2), allow_nonfinite=True)(lambda w, t=table: FOLDS[name](t, w))
        before = ready(model)
        after, trace = apply(before, collapse_duplicates)
        fired += firings(trace, collapse_duplicates)
        assert_same_answer(before, after)
    assert fired


@pytest.mark.usefixtures("always")
@given(st.randoms(use_true_random=False))
@settings(max_examples=5)
def test_whole_plans_in_the_engine(random: Random) -> None:
    table = random_rows(random)
    total = {"least", "greatest", "reduce of a small integer", "mean of vectors"}
    names = random.sample(sorted(n for n in FOLDS if n not in total), 3)  # over nothing too

    def model() -> Any:
        start = dict.fromkeys("abc", 1.0)

        @so.loop(start, range(2), allow_nonfinite=True)
        def values(env: Any) -> Any:
            total = env["a"] * 0 + 1.0
            return {k: FOLDS[n](table, total) for k, n in zip("abc", names, strict=True)}

        return values

    with_rule, without = both(model)
    for k in "abc":
        np.testing.assert_allclose(with_rule[k], without[k], rtol=1e-6)


# Record linkage.


def linkage(pairs: so.Table, fields: int, levels: int, times: int) -> so.Loop:
    """Fellegi and Sunter's model of comparisons, by expectation and maximisation."""
    start = {
        "m": np.tile(np.arange(1.0, levels + 1) / np.arange(1.0, levels + 1).sum(), (fields, 1)),
        "u": np.full((fields, levels), 1.0 / levels),
        "p": 0.2,
    }

    @so.loop(start, range(times))
    def model(env: Any) -> Any:
        def match(r: Any) -> Any:
            of_match, of_other = env["p"], 1 - env["p"]
            for f in range(fields):
                of_match = of_match * env["m"][f][r.g[f]]
                of_other = of_other * env["u"][f][r.g[f]]
            return of_match / (of_match + of_other)

        def hot(r: Any) -> Any:
            return np.stack([so.one_hot(r.g[f], levels) for f in range(fields)])

        matches = pairs.sum(match)
        return {
            "m": pairs.sum(lambda r: match(r) * hot(r)) / matches,
            "u": pairs.sum(lambda r: (1 - match(r)) * hot(r)) / (pairs.count() - matches),
            "p": matches / pairs.count(),
        }

    return model  # type: ignore[no-any-return]


def expectation_maximisation(g: Any, levels: int, times: int) -> dict[str, Any]:
    """The same over whole arrays."""
    fields = g.shape[1]
    m = np.tile(np.arange(1.0, levels + 1) / np.arange(1.0, levels + 1).sum(), (fields, 1))
    u, p = np.full((fields, levels), 1.0 / levels), 0.2
    at = np.arange(fields)
    for _ in range(times):
        of_match, of_other = p * m[at, g].prod(axis=1), (1 - p) * u[at, g].prod(axis=1)
        match = of_match / (of_match + of_other)
        hot = g[:, :, None] == np.arange(levels)
        m = np.tensordot(match, hot, 1) / match.sum()
        u = np.tensordot(1 - match, hot, 1) / (1 - match).sum()
        p = match.mean()
    return {"m": m, "u": u, "p": p}


@pytest.mark.parametrize("patterns", ["few", "many"])
def test_record_linkage(patterns: str) -> None:
    rng = np.random.default_rng(11)
    rows, fields, levels = 24_000, 4, 3
    truth = rng.random(rows) < 0.3
    g = np.where(truth[:, None], rng.random((rows, fields)) < 0.8, rng.random((rows, fields)) < 0.2)
    g = g.astype(np.int8) + rng.integers(0, 2, (rows, fields), dtype=np.int8)
    columns = {"id": np.arange(rows), "g": g}
    pairs = so.table(columns)
    if patterns == "many":  # each record's own, which the loop then reads as well
        pairs = pairs.with_columns(g=lambda r: r.g + 0 * so.cast(r.id, "int8"))
    model = linkage(pairs, fields, levels, 5)
    assert ("by collapse_duplicates" in explained(model)) == (patterns == "few")
    found, expected = model.collect(), expectation_maximisation(g, levels, 5)
    for name in ("m", "u", "p"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9)


@pytest.mark.usefixtures("always")
def test_threads_and_memory_do_not_matter() -> None:
    rows = 30_000
    v = np.random.default_rng(2).integers(0, 50, rows) / 7
    found = set()
    for threads, memory in ((1, None), (2, None), (2, "1MB")):
        table = so.table({"v": v})
        model = so.loop(0.1, range(4))(lambda w, t=table: t.mean(lambda r: np.tanh(r.v * w)))
        given = {"threads": threads} if memory is None else {"threads": threads, "memory": memory}
        found.add(float(so.collect(model, **given)))
    assert len(found) == 1


@pytest.mark.usefixtures("always")
def test_loops_in_lockstep_share_distinct_records() -> None:
    v = np.random.default_rng(4).integers(0, 9, 5000) / 8
    table = so.table({"v": v})

    def model(rate: float) -> so.Loop:
        step = so.loop(0.1, range(5))
        return step(lambda w: w - rate * table.mean(lambda r: np.tanh(r.v * w)))  # type: ignore[no-any-return]

    loops = [model(0.5), model(2.0)]
    after, _ = rewrite(ready(*loops), PHASES)
    assert len(groups(after)) == 1
    found = so.collect(*loops)
    for rate, own in zip((0.5, 2.0), found, strict=True):
        w = 0.1
        for _ in range(5):
            w -= rate * np.tanh(v * w).mean()
        assert own == pytest.approx(w, rel=1e-12)


def test_nothing_is_lost_where_the_sample_misleads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Almost all records differ, but those that are looked at are alike."""
    v = np.arange(float(N))
    table = so.table({"v": v})
    source = table.plan.source  # type: ignore[attr-defined]
    few = {"v": (np.repeat(np.arange(4.0), 250), None)}
    monkeypatch.setattr(type(source), "sample", lambda *_, **__: few)
    model = so.loop(1e-5, range(3))(lambda w: table.mean(lambda r: np.tanh(r.v * w)) * 1e-5)
    assert "to about 4 distinct" in explained(model)
    w = 1e-5
    for _ in range(3):
        w = np.tanh(v * w).mean() * 1e-5
    assert model.collect() == pytest.approx(w, rel=1e-12)


def test_a_loop_gives_the_same_bits_alone_and_in_company() -> None:
    """Neither another loop's columns nor its iterations decide about a loop's distinct records."""
    rng = np.random.default_rng(6)
    table = so.table({"a": rng.integers(0, 9, N) / 7, "b": rng.integers(0, 9, N) / 7})

    def model(times: int, *columns: str) -> so.Loop:
        step = so.loop(0.1, range(times))
        return step(lambda w: table.mean(lambda r: w * sum(r[c] for c in columns)))  # type: ignore[no-any-return]

    given: list[tuple[int, list[str]]] = [(1, ["a"]), (30, ["a"]), (30, ["a", "b"])]
    assert [collapses(ready(model(n, *c))) for n, c in given] == [False, True, True]
    alone = [model(n, *c).collect() for n, c in given]
    assert so.collect(*(model(n, *c) for n, c in given)) == tuple(alone)
