"""Keys are found among others: all of them, in order, whatever they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from scalops.engine.columns import Array, SparseColumn
from scalops.engine.kernels import counting, key_words, matching
from scalops.engine.kernels.keys import Key
from scalops.engine.kernels.matching import KeyIndex, Matches, Pairs, in_turn
from scalops.engine.memory import MemoryBudget
from scalops.engine.spilled_memory import Room
from tests.engine.plans import pool
from tests.quick import crossed, quick

_rng = np.random.default_rng(5)


def partners(index: KeyIndex, keys: Sequence[Key], rows: int) -> list[list[int]]:
    """The positions that each record matches."""
    matches = index.lookup(keys, rows)
    if matches.counts is None:
        return [[p] if p >= 0 else [] for p in matches.first.tolist()]
    pairs = Pairs(matches, outer=False)
    found: list[list[int]] = [[] for _ in range(rows)]
    for row, position in zip(*pairs.piece(0, pairs.total), strict=True):
        found[row].append(int(position))
    return found


def expected(held: Sequence[Any], sought: Sequence[Any]) -> list[list[int]]:
    """The same, of Python values; None matches nothing."""
    return [[i for i, h in enumerate(held) if h is not None and h == s] for s in sought]


def some(column: Any, rows: Sequence[int]) -> Any:
    """Records of a column."""
    if isinstance(column, (np.ndarray, SparseColumn)):
        return (
            column[np.array(rows)]
            if isinstance(column, np.ndarray)
            else column.take(np.array(rows))
        )
    return column.take(pa.array(rows))


_HELD, _SOUGHT = [0, 3, 1, 1, 4, 0, 1], [5, 1, 0, 2, 4, 1, 3, 3]
_VALUES: dict[str, Any] = {
    "int64": np.array([7, -3, 2**62, 0, -(2**63), 5]),
    "narrow int64": np.array([4, 2, -1, 0, 1, 3]),
    "uint64": np.array([2**64 - 1, 0, 7, 2**63, 3, 1], np.uint64),
    "int8": np.array([-128, 127, 0, 1, -1, 64], np.int8),
    "uint8": np.array([255, 0, 128, 1, 7, 64], np.uint8),
    "float64": np.array([np.nan, 0.5, -np.inf, 1.5, 1e300, 0.0]),
    "float32": np.array([np.nan, 0.5, -np.inf, 1.5, 1e30, 0.0], np.float32),
    "timestamp": np.array([5, -7, 10**15, 0, 3, 2], "M8[us]"),
    "string": pa.array(["", "a", "ab", "é", "a longer one, of more than eight bytes", "b"]),
    "vector": np.array([[1.0, 2], [np.nan, 0], [0, 1], [2, 1], [0, 0], [1, 1]]),
    "matrix": np.arange(24).reshape(6, 2, 2),
    "list": pa.array([[1.0], [], [1.0, 2.0], [2.0, 1.0], [float("nan")], [0.0]]),
    "sparse": SparseColumn(
        np.array([0, 1, 2, 3, 3, 5, 6]), np.array([0, 1, 0, 1, 2, 2], np.int32),
        np.array([1.0, 1, 2, 1, 1, 3]), 4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _VALUES)
@pytest.mark.parametrize("held", [_HELD, [4, 2, 0, 3, 1], []], ids=["twice", "once", "none"])
def test_finds_keys_of_each_type(name: str, held: list[int]) -> None:
    values = _VALUES[name]
    index = KeyIndex([(some(values, held), None)], len(held)) if held else KeyIndex([], 0)
    found = partners(index, [(some(values, _SOUGHT), None)], len(_SOUGHT))
    assert found == expected(held, _SOUGHT)
    assert index.unique == (len(set(held)) == len(held))


@pytest.mark.parametrize("name", _VALUES)
def test_null_matches_nothing_or_null(name: str) -> None:
    values = _VALUES[name]
    here, there = [i % 3 != 0 for i in range(7)], [i % 2 == 0 for i in range(8)]
    held: Key = (some(values, _HELD), np.array(here))
    sought: Key = (some(values, _SOUGHT), np.array(there))
    own = [h if ok else None for h, ok in zip(_HELD, here, strict=True)]
    others = [s if ok else None for s, ok in zip(_SOUGHT, there, strict=True)]
    assert partners(KeyIndex([held], 7), [sought], 8) == expected(own, others)
    nulls = [-1 if h is None else h for h in own], [-1 if s is None else s for s in others]
    assert partners(KeyIndex([held], 7, nulls_equal=True), [sought], 8) == expected(*nulls)


def test_bools_and_zeros() -> None:
    index = KeyIndex([(np.array([True, False, True]), None)], 3)
    assert partners(index, [(np.array([False, True]), None)], 2) == [[1], [0, 2]]
    index = KeyIndex([(np.array([0.0, 2.0]), None)], 2)
    assert partners(index, [(np.array([-0.0, 2.0]), None)], 2) == [[0], [1]]


def test_null_in_an_arrow_column_and_nat_are_null() -> None:
    strings, times = pa.array(["a", None]), np.array([1, "NaT"], "M8[s]")
    for column in (strings, times):
        mask = np.array([True, False])
        for valid in (None, mask):
            assert partners(KeyIndex([(column, valid)], 2), [(column, valid)], 2) == [[0], []]
            both = KeyIndex([(column, valid)], 2, nulls_equal=True)
            assert partners(both, [(column, valid)], 2) == [[0], [1]]


@pytest.mark.parametrize("nulls_equal", [False, True])
def test_several_keys(nulls_equal: bool) -> None:
    n = 300
    made = []
    for _ in range(2):
        a, b = _rng.integers(0, 6, n), _rng.integers(0, 4, n)
        c, mask = _rng.integers(0, 2, n) > 0, _rng.random(n) < 0.7
        keys: list[Key] = [(a, None), (pa.array([f"s{i}" for i in b]), None), (c / 2, mask)]
        values: list[Any] = list(
            zip(a.tolist(), b.tolist(), np.where(mask, c, 7).tolist(), strict=True)
        )
        if not nulls_equal:
            values = [v if v[2] != 7 else None for v in values]
        made.append((keys, values))
    (held, own), (sought, others) = made
    index = KeyIndex(held, n, nulls_equal)
    assert partners(index, sought, n) == expected(own, others)


def test_words_of_several_columns_do_not_run_together() -> None:
    held: list[Key] = [(np.array([1, 2]), None), (np.array([2, 1]), None)]
    sought: list[Key] = [(np.array([2, 1, 1]), None), (np.array([2, 2, 1]), None)]
    assert partners(KeyIndex(held, 2), sought, 3) == [[], [0], []]


_MANY = 300_000


@pytest.fixture(scope="module", params=["by value", "by value twice", "hashed", "hashed twice"])
def many(request: pytest.FixtureRequest) -> tuple[Array, Array]:
    """Keys of several chunks and parts."""
    rng = np.random.default_rng(9)
    twice = "twice" in request.param
    held = rng.integers(0, _MANY // 2, _MANY) if twice else rng.permutation(_MANY)
    sought = rng.integers(-9, 2 * _MANY, _MANY)
    if "hashed" in request.param:
        held, sought = held * 10**12, sought * 10**12
    return held, sought


@pytest.mark.parametrize("parts", quick([None, 8, 1], 2))
@pytest.mark.parametrize("threads", quick([0, 2, 1], 2))
def test_many_keys_on_any_number_of_threads(
    many: tuple[Array, Array], threads: int, parts: int | None
) -> None:
    held, sought = many
    run = pool(threads).run if threads else in_turn
    index = KeyIndex([(held, None)], _MANY, run=run, parts=parts)
    matches = index.lookup([(sought, None)], _MANY)
    order = np.argsort(held, kind="stable")
    first = np.searchsorted(held[order], sought, side="left")
    last = np.searchsorted(held[order], sought, side="right")
    assert np.array_equal(matches.found, last > first)
    if matches.counts is None:
        assert index.unique
        there = matches.found
        assert np.array_equal(matches.first[there], order[first[there]])
        return
    assert np.array_equal(matches.counts, last - first)
    pairs = Pairs(matches, outer=False)
    rows, positions = pairs.piece(0, pairs.total)
    assert np.array_equal(rows, np.repeat(np.arange(_MANY), last - first))
    steps = np.arange(pairs.total) - np.repeat(
        np.cumsum(last - first) - (last - first), last - first
    )
    assert np.array_equal(positions, order[first[rows] + steps])


@pytest.mark.parametrize("outer", [False, True])
def test_pairs_are_the_same_in_pieces(outer: bool) -> None:
    counts = np.array([0, 3, 1, 0, 0, 5, 2, 0])
    first, order = np.array([0, 4, 0, 9, 9, 2, 1, 9]), np.arange(10)[::-1]
    pairs = Pairs(Matches(first, counts, order), outer)
    whole = []
    for row, count in enumerate(counts.tolist()):
        whole += [(row, int(order[first[row] + i])) for i in range(count)]
        if outer and not count:
            whole.append((row, -1))
    for step in range(1, 13):
        found: list[tuple[int, int]] = []
        for start in range(0, pairs.total, step):
            rows, positions = pairs.piece(start, min(start + step, pairs.total))
            found += zip(rows.tolist(), positions.tolist(), strict=True)
        assert found == whole


_KEYS = {
    "by value": np.arange(1000),
    "by value twice": np.arange(1000) // 2,
    "hashed": np.arange(1000) * 10**12,
    "hashed twice": np.arange(1000) // 2 / 7,
    "text": pa.array([f"{i // 2}" for i in range(1000)]),
}


@pytest.mark.parametrize(
    ("nulls_equal", "limit", "name"), crossed([False, True], [None, 2_000, 0], _KEYS)
)
def test_an_index_takes_no_more_memory_than_there_is(
    name: str, limit: int | None, nulls_equal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has no room lies in files; what is counted is what it holds."""
    for module in (counting, key_words, matching):
        chunk = "CHUNK" if module is key_words else "_CHUNK"
        monkeypatch.setattr(module, chunk, 300)
    monkeypatch.setattr(matching, "_PART_ROWS", 100)
    held, budget = _KEYS[name], MemoryBudget(limit)
    valid = np.arange(1000) % 5 > 0
    index = KeyIndex([(held, valid)], 1000, nulls_equal, memory=Room(budget, "index"))
    assert budget.held == index.bytes
    assert budget.peak <= (1 << 60 if limit is None else limit)
    assert (budget.spilled > 0) == (limit is not None)
    own = [v if ok else None for v, ok in zip(held.tolist(), valid, strict=True)]
    nulls = [-1 if v is None else v for v in own]
    assert partners(index, [(held, valid)], 1000) == expected(*[nulls if nulls_equal else own] * 2)
    index.keep(Room(budget, "kept"))
    index.forget(Room(budget, "kept"))
    assert budget.held == index.bytes
    assert partners(index, [(held, valid)], 1000) == expected(*[nulls if nulls_equal else own] * 2)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_counting_in_pieces_is_counting_at_once(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = _rng.integers(-1, size, 1000)
    expected_order = np.argsort(ids, kind="stable")[np.count_nonzero(ids < 0) :]
    for chunk, limit in ((1 << 18, None), (64, 0), (1000, 0)):
        monkeypatch.setattr(counting, "_CHUNK", chunk)
        ends, order = counting.sorted_by_id(ids, size, Room(MemoryBudget(limit), "order"))
        assert np.array_equal(order, expected_order)
        assert np.array_equal(ends, np.searchsorted(np.sort(ids[ids >= 0]), np.arange(size + 1)))


def test_keys_that_collide_are_told_apart() -> None:
    """More keys than a table of few slots can tell apart by their first ones."""
    held = (np.arange(5_000) ** 2 * 2_654_435_761) << 20
    index = KeyIndex([(held, None)], 5_000, parts=64)
    assert [p for (p,) in partners(index, [(held, None)], 5_000)] == list(range(5_000))
    assert partners(index, [(held[:50] + 1, None)], 50) == [[]] * 50
