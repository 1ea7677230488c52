"""Every fold over groups gives what it means: the interpreter and NumPy are the witnesses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra.folds import FOLDS, Fold
from scalops.engine import blocks
from scalops.engine.relations import groups
from tests.engine.grouped import KEYS, bits_of, column, differences, fold, found, grouped, source
from tests.engine.plans import calc


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of at most 64 records, one in each partition, folded on threads."""
    monkeypatch.setattr(blocks, "MAX_BLOCK_ROWS", 64)
    monkeypatch.setattr(blocks, "MIN_PARTITION_BYTES", 1)
    monkeypatch.setattr(groups, "SMALL_BYTES", 0)


def numbers(t: so.Table) -> list[Fold]:
    """Sums, means, extremes, truths and moments of columns of each type."""
    made = [fold(t, "count", "count"), fold(t, "count_f", "count", "f"), fold(t, "no", "is_empty")]
    for kind in ("sum", "add", "mean", "minimum", "maximum"):
        made += [fold(t, f"{kind}_{n}", kind, n) for n in ("i", "p", "f", "g", "b", "v", "m", "x")]
    for kind in ("minimum", "maximum"):
        made += [fold(t, f"{kind}_{n}", kind, n) for n in ("s", "d")]
    for kind in ("multiply", "any", "all", "logical_and", "logical_or"):
        made += [fold(t, f"{kind}_{n}", kind, n) for n in ("i", "f", "b", "v")]
    for kind in ("bitwise_and", "bitwise_or"):
        made += [fold(t, f"{kind}_{n}", kind, n) for n in ("i", "b", "m")]
    for kind, ddof in (("var", 0), ("std", 1)):
        given = {"ddof": ddof}
        made += [fold(t, f"{kind}_{n}", kind, n, parameters=given) for n in ("i", "f", "b", "v")]
    return made


def products(t: so.Table) -> list[Fold]:
    """Scaled sums and sums of outer products, dense and sparse."""
    made = []
    for kind in ("sum", "add", "mean"):
        names = ("f", "v", "x") if kind == "mean" else ("f", "v", "m", "x")
        made += [fold(t, f"{kind}_s{n}", f"{kind}_scaled", "i", n) for n in names]
        pairs = ("v", "v"), ("v", "m"), ("x", "v"), ("v", "x")
        made += [fold(t, f"{kind}_{a}{b}", f"{kind}_outer", a, b) for a, b in pairs]
    return made


def choices(t: so.Table) -> list[Fold]:
    """Folds that choose, order or keep values, of each type."""
    every = ("i", "f", "b", "s", "d", "l", "v", "m", "x")
    made = []
    for kind in ("first", "last"):
        made += [fold(t, f"{kind}_{n}", kind, n) for n in every]
        made += [fold(t, f"{kind}_record{o}", f"{kind}_record", *every, output=o) for o in (0, 3)]
    for kind in ("argmin", "argmax"):
        for by in ("i", "f", "b", "s", "d", "g"):
            made += [fold(t, f"{kind}_{by}_{o}", kind, by, *every, output=o) for o in (1, 3, 5, 8)]
    made += [fold(t, f"unique_{n}", "n_unique", n) for n in every]
    for q in (0.3, (0.0, 0.5, 1.0)):
        given = {"q": q}
        names = ("i", "f", "g", "b", "v")
        made += [fold(t, f"q{q}_{n}", "quantile", n, parameters=given) for n in names]
    made += [fold(t, f"list_{n}", "collect_list", n) for n in (*every[:-1], "g")]
    return made


def functions(t: so.Table) -> list[Fold]:
    """Reduces by the user's own function: it need not commute."""
    i, v = column(t, "i"), column(t, "v")
    second = column(t, "i", 1), column(t, "v", 1)
    pair = (calc("add", i, calc("multiply", second[0], 2)), calc("add", v, second[1]))
    later = Fold("later", "reduce", (i,), combine=(second[0],), fields=("i",))
    both = [
        Fold(f"pair{o}", "reduce", (i, v), combine=pair, fields=("i", "v"), output=o)
        for o in (0, 1)
    ]
    return [later, both[1]]


PARTS = {f.__name__: f for f in (numbers, products, choices, functions)}


CASES = [(100, keys) for keys in KEYS] + [(0, "few"), (1, "few"), (60, "few")]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("rows", "keys"), CASES)
def test_folds_of_groups_mean_what_the_interpreter_says(part: str, rows: int, keys: str) -> None:
    table = source(rows, keys)
    node = grouped(table, ["k"], PARTS[part](table))
    assert list(differences(node, found(node, 2))) == []


def test_every_kind_of_fold_is_among_those_tested() -> None:
    table = source(3)
    tested = {f.kind for part in PARTS.values() for f in part(table)}
    # Made by the optimizer for whole tables alone.
    whole = {
        f"{word}_{form}" for word in ("sum", "add", "mean") for form in ("gram", "terms", "squares")
    }
    assert tested | whole | {"to_array"} == {*FOLDS, "reduce"}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("keys", KEYS)
def test_bits_depend_on_the_data_alone(part: str, keys: str) -> None:
    table = source(700, keys, seed=1)
    node = grouped(table, ["k"], PARTS[part](table))
    one = bits_of(found(node), node)
    assert bits_of(found(node, 2, 50_000_000), node) == one


def summed(values: Any, ids: Any, count: int) -> Any:
    made = np.zeros((count, *values.shape[1:]))
    np.add.at(made, ids, values)
    return made


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("count", [3, 40, 700])
def test_outer_products_are_numpys(count: int) -> None:
    rng = np.random.default_rng(0)
    v, ids = rng.normal(size=(1_000, 4)), rng.integers(0, count, 1_000)
    table = so.table({"k": ids, "v": v})
    node = grouped(table, ["k"], [fold(table, "o", "sum_outer", "v", "v")])
    made = found(node, 2)
    k, sums = (np.concatenate([b.columns[n] for b in made]) for n in ("k", "o"))
    expected = summed(v[:, :, None] * v[:, None, :], ids, count)
    np.testing.assert_allclose(sums, expected[k], atol=1e-12)


@pytest.mark.usefixtures("small_blocks")
def test_integers_wrap_as_numpys_do() -> None:
    big = np.full(200, 2**62)
    table = so.table({"k": np.arange(200) % 3, "i": big, "v": np.stack([big, big], 1)})
    node = grouped(table, ["k"], [fold(table, n, "sum", n) for n in ("i", "v")])
    (block,) = found(node)
    expected = [big[::3].sum(), big[1::3].sum(), big[2::3].sum()]
    assert block.columns["i"].tolist() == [int(e) for e in expected]
    assert block.columns["v"][:, 1].tolist() == [int(e) for e in expected]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("ddof", [0, 1])
def test_variances_do_not_cancel(ddof: int) -> None:
    values = 1e9 + np.random.default_rng(0).normal(size=1_000)
    table = so.table({"k": np.arange(1_000) % 2, "x": values})
    node = grouped(table, ["k"], [fold(table, "v", "var", "x", parameters={"ddof": ddof})])
    (block,) = found(node, 2)
    expected = [np.var(values[i::2], ddof=ddof) for i in (0, 1)]
    np.testing.assert_allclose(block.columns["v"], expected, rtol=1e-12)


def test_a_list_of_sparse_vectors_is_refused() -> None:
    with pytest.raises(so.TraceError, match=r"so\.dense"):
        fold(source(3), "x", "collect_list", "x")


# Arrays by index.


def scattered(index: Sequence[Any], values: Any, keys: Sequence[int]) -> Any:
    table = so.table({"k": list(keys), "i": list(index), "v": values})
    folds = [
        fold(table, f"a{o}", "to_array", "i", "v", parameters={"size": 3}, output=o) for o in (0, 1)
    ]
    return grouped(table, ["k"], folds)


@pytest.mark.usefixtures("small_blocks")
def test_each_group_has_its_own_array() -> None:
    node = scattered([2, 0, 1, 2], np.arange(8.0).reshape(4, 2), [7, 7, 8, 8])
    blocks = found(node)
    assert list(differences(node, blocks)) == []
    expected = [[[2, 3], [0, 0], [0, 1]], [[0, 0], [4, 5], [6, 7]]]
    np.testing.assert_array_equal(blocks[0].columns["a0"], expected)
    np.testing.assert_array_equal(blocks[0].columns["a1"], [[1, 0, 1], [0, 1, 1]])


@pytest.mark.parametrize(
    ("index", "values", "words"),
    [
        ([0, 3], [1.0, 2.0], "3 in 'i'; expected 0 to 2"),
        ([0, -1], [1.0, 2.0], "-1 in 'i'"),
        ([0, None], [1.0, 2.0], "a null in 'i'"),
        ([1, 1], [1.0, 2.0], "1 twice in 'i'"),
        ([0, 1], [1.0, None], "a null as the value"),
    ],
)
def test_an_index_that_has_no_place_is_a_data_error(index: Any, values: Any, words: str) -> None:
    node = scattered(index, values, [5, 5])
    with pytest.raises(so.DataError, match=words):
        found(node)
    with pytest.raises(so.DataError, match=words):
        list(differences(node, []))


def test_folds_that_keep_values_stand_in_a_table_too() -> None:
    table = so.table({"i": [2, 0], "s": ["a", None], "d": np.array(["2020", None], "M8[us]")})
    made = table.to_array("i", index="i", size=3, fill=7)
    assert made.collect().tolist() == [0, 7, 2]
