"""so.random: pure functions of seed and keys, of the right distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

import scalops as so
from scalops.algebra.functions.randomness import philox
from scalops.engine.witness.interpreter import Interpreter
from tests.language.witness import Array, is_opaque, listed, records

N = 100_000
METHODS: dict[str, Callable[..., Any]] = {
    "uniform": so.random.uniform,
    "normal": so.random.normal,
    "integers": lambda *args, **more: so.random.integers(*args, low=-3, high=1000, **more),
}
any_method = pytest.mark.parametrize("draw", METHODS.values(), ids=METHODS)


def ids(n: int = N) -> so.Table:
    return so.table({"id": np.arange(n)})


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)  # fmt: skip
def test_philox_gives_the_known_answers_of_random123(counter: str, key: str, expected: str) -> None:
    words = [[np.uint64(int(w, 16)) for w in text.split()] for text in (counter, key)]
    made = philox(tuple(words[0]), tuple(words[1]))  # type: ignore[arg-type]
    assert " ".join(f"{int(w):08x}" for w in made) == expected


def test_the_numbers_of_a_seed_do_not_change() -> None:
    """A change here changes every user's results."""
    assert so.random.uniform(0) == 0.2875325450434695
    assert so.random.uniform(7, 1, "a") == 0.9855396545908636
    assert so.random.integers(0, 5, high=10, shape=6).tolist() == [4, 2, 7, 9, 1, 9]
    np.testing.assert_allclose(so.random.normal(0, 1, 2), -0.28236247017387267, rtol=1e-14)


@any_method
def test_one_record_and_a_block_and_a_plain_call_agree(draw: Callable[..., Any]) -> None:
    table = ids(50).map(lambda r: draw(3, r.id, r.id * r.id, shape=(2, 3)))
    assert not is_opaque(table)
    made = np.stack(table.collect()["value"].combine_chunks().to_numpy_ndarray())
    np.testing.assert_array_equal(made, [draw(3, i, i * i, shape=(2, 3)) for i in range(50)])
    np.testing.assert_array_equal(made, [row["value"] for row in Interpreter().records(table.plan)])
    np.testing.assert_array_equal(draw(3, ids(7).count(), 49, shape=(2, 3)).collect(), made[7])


@any_method
def test_the_same_bits_for_any_threads_partitions_and_memory(draw: Callable[..., Any]) -> None:
    expected = draw_all(draw, ids())
    for options in ({"threads": 1}, {"threads": 2}, {"memory": "8MB"}):
        with so.session(**options):
            np.testing.assert_array_equal(draw_all(draw, ids().repartition(7)), expected)


def draw_all(draw: Callable[..., Any], table: so.Table) -> Array:
    return records(table.map(lambda r: draw(1, r.id)))


@any_method
def test_seeds_keys_and_their_number_all_matter(draw: Callable[..., Any]) -> None:
    drawn = {
        float(draw(*key))
        for key in [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0, 1), (0, 1, 0), (-1,),
                    (2**40,), (0, 2**40), (0, "a"), (0, "b"), (0, -1)]
    }  # fmt: skip
    assert len(drawn) == 14


def test_an_integer_is_one_key_whatever_its_type() -> None:
    for kind in (np.int8, np.int32, np.uint64, int):
        assert so.random.uniform(kind(3), kind(5)) == so.random.uniform(3, 5)
    table = so.table({"a": np.arange(9, dtype=np.int16), "b": np.arange(9, dtype=np.uint8)})
    made = table.map(lambda r: so.random.uniform(r.a, r.b) - so.random.uniform(r.b, r.a))
    assert records(made).tolist() == [0.0] * 9
    assert so.random.uniform(2**64 - 1) == so.random.uniform(-1)


def test_elements_do_not_depend_on_the_shape() -> None:
    long = so.random.uniform(5, 6, shape=100)
    assert so.random.uniform(5, 6) == long[0]
    np.testing.assert_array_equal(so.random.uniform(5, 6, shape=(3, 7)).ravel(), long[:21])
    assert so.random.uniform(5, shape=(0, 3)).shape == (0, 3)


def test_string_keys_and_nulls() -> None:
    table = so.table([{"s": "a"}, {"s": None}, {"s": "b"}])
    drawn = listed(table.map(lambda r: so.random.uniform(0, r.s)))
    assert drawn == [so.random.uniform(0, "a"), None, so.random.uniform(0, "b")]
    assert so.random.uniform(0, None) is None


def test_numbers_by_iteration() -> None:
    table = ids(100)

    @so.loop(np.zeros(3), range(3))
    def loop(sums: Any, i: Any) -> Any:
        total = table.map(lambda r: so.random.uniform(4, i, r.id)).sum()
        return so.put(sums, i, total + so.random.normal(5, i))

    expected = [
        sum(so.random.uniform(4, i, k) for k in range(100)) + so.random.normal(5, i)
        for i in range(3)
    ]
    np.testing.assert_allclose(loop.collect(), expected, rtol=1e-12)


# Distributions. The seeds are fixed, so that no test fails by chance.


@pytest.mark.parametrize("seed", [0, 1])
def test_uniform_numbers_are_uniform(seed: int) -> None:
    drawn = records(ids().map(lambda r: so.random.uniform(seed, r.id)))
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    assert abs(drawn.mean() - 0.5) < 0.004
    assert abs(drawn.var() - 1 / 12) < 0.001
    assert stats.kstest(drawn, "uniform").pvalue > 0.01


@pytest.mark.parametrize("seed", [0, 1])
def test_normal_numbers_are_normal(seed: int) -> None:
    drawn = records(ids().map(lambda r: so.random.normal(seed, r.id)))
    assert np.isfinite(drawn).all()
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.var() - 1) < 0.02
    assert stats.kstest(drawn, "norm").pvalue > 0.01


def test_integers_are_equally_likely() -> None:
    drawn = records(ids().map(lambda r: so.random.integers(0, r.id, low=-5, high=8)))
    found, counts = np.unique(drawn, return_counts=True)
    assert found.tolist() == list(range(-5, 8))
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-(2**63), 2**63 - 1), (2**62, 2**62 + 2), (0, 2**40)]
)
def test_integers_stay_between_their_bounds(low: int, high: int) -> None:
    drawn = so.random.integers(3, low=low, high=high, shape=10_000)
    assert drawn.dtype == np.int64
    assert drawn.min() >= low
    assert drawn.max() < high
    exact = [float(x - low) / (high - low) for x in drawn.tolist()]
    assert abs(np.mean(exact) - (0.5 - 0.5 / (high - low))) < 0.02


def test_bounds_may_be_values_and_columns() -> None:
    table = ids(1000)
    n = table.count()
    by_value = records(table.map(lambda r: so.random.integers(1, r.id, high=n)))
    np.testing.assert_array_equal(
        by_value, [so.random.integers(1, i, high=1000) for i in range(1000)]
    )
    rows = table.map(lambda r: so.random.integers(2, r.id, low=-r.id, high=r.id + 1, shape=3))
    drawn = records(rows)
    assert (np.abs(drawn) <= np.arange(1000)[:, None]).all()
    with pytest.raises(so.DataError, match=r"from 0 to below 0: there are none \(test_random"):
        table.map(lambda r: so.random.integers(0, high=r.id)).collect()


@any_method
def test_neighbouring_keys_seeds_and_methods_are_independent(draw: Callable[..., Any]) -> None:
    def drawn(seed: Any, *more: int) -> Array:
        return records(ids(N + 1).map(lambda r: draw(seed, r.id, *more))).astype(float)

    first = drawn(0)
    pairs = [
        (first[:-1], first[1:]),
        (first, drawn(1)),
        (first, drawn(0, 0)),
        (first, records(ids(N + 1).map(lambda r: draw(r.id, 0))).astype(float)),
        (first, records(ids(N + 1).map(lambda r: so.random.uniform(0, r.id, 7)))),
    ]
    for a, b in pairs:
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.012
        # Signs of the deviations from the median, two by two.
        table = np.histogram2d(a > np.median(a), b > np.median(b), bins=2)[0]
        assert stats.chi2_contingency(table).pvalue > 0.001


def test_methods_with_one_seed_and_key_are_independent() -> None:
    made = ids().map(lambda r: (so.random.uniform(0, r.id), so.random.normal(0, r.id))).collect()
    a, b = (made[n].to_numpy() for n in ("_0", "_1"))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.012
    assert stats.spearmanr(a, b).pvalue > 0.001


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a fraction as seed": (lambda: so.random.uniform(0.5), "a seed of random numbers is a float"),
    "a fraction as key": (lambda: so.random.normal(0, np.float64(1)), "a key of .* is a float64"),
    "a column of fractions": (
        lambda: ids(3).map(lambda r: so.random.uniform(0, r.id / 2)),
        "a key of random numbers must be an integer, not float64",
    ),
    "a vector as key": (
        lambda: ids(3).map(lambda r: so.random.uniform(0, np.stack([r.id, r.id]))),
        r"not int64\[2\]",
    ),
    "a Value as shape": (lambda: so.random.uniform(0, shape=ids(3).count()), "Python ints"),
    "a fraction as shape": (lambda: so.random.uniform(0, shape=2.0), "Python ints"),
    "a negative shape": (lambda: so.random.uniform(0, shape=-1), "Python ints"),
    "bounds in disorder": (lambda: so.random.integers(0, low=3, high=3), "there are none"),
    "a fraction as bound": (lambda: so.random.integers(0, high=2.5), "an integer of 64 bits"),
    "a bound too large": (lambda: so.random.integers(0, high=2**64), "an integer of 64 bits"),
    "too many keys": (lambda: so.random.uniform(*range(40)), "39 keys; expected 16"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_wrong_arguments_are_refused(what: str) -> None:
    program, message = REFUSED[what]
    with pytest.raises(so.TraceError, match=message) as caught:
        program()
    assert caught.value.location is not None
    assert caught.value.location.file == __file__
