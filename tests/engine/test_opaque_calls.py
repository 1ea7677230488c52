"""What opaque functions receive and give back, in this process and in workers."""

from __future__ import annotations

import pickle
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

import scalops as so
from scalops.algebra.captured import Captured
from scalops.algebra.dtypes import BOOL, FLOAT64, INT64, STRING, ArrayType, list_of
from scalops.algebra.dtypes import sparse as sparse_of
from scalops.algebra.errors import UserFunctionError
from scalops.capture import capture
from scalops.engine.columns import SparseColumn
from scalops.engine.opaque import calls as opaque
from scalops.engine.opaque.arguments import Argument, Column, digest, rows_of
from scalops.engine.opaque.batches import call_over
from scalops.engine.opaque.calls import Text, bind, reads_text
from scalops.engine.opaque.results import Unfit, column_of
from scalops.engine.opaque.rows import make_rows
from scalops.engine.processes.runner import ProcessRunner
from tests.quick import quick

ROWS = 50
STRINGS = ArrayType(STRING)
Call = Callable[..., list[Column]]


@pytest.fixture(scope="module")
def runner() -> Iterator[ProcessRunner]:
    """Two workers for all tests of this file."""
    made = ProcessRunner(2)
    yield made
    made.stop()


@pytest.fixture(params=["in this process", "in workers"])
def call(request: pytest.FixtureRequest, runner: ProcessRunner) -> Call:
    """Calls a function over arguments; both ways must give the same."""

    def called(
        function: Callable[..., Any] | Captured,
        arguments: list[Argument],
        names: tuple[str, ...] | None,
        kinds: list[ArrayType],
        rows: int = ROWS,
    ) -> list[Column]:
        own = function if isinstance(function, Captured) else capture(function)[0]
        if request.param == "in workers":
            return runner.call_rows(own, runner.slots([]), arguments, rows, names, kinds)
        return call_over(own, bind(own, []), arguments, rows, names, kinds)

    return called


def bare(values: Any, mask: Any = None) -> Argument:
    """One value per record."""
    return Argument(None, (Column(values, mask),))


def batch(function: Callable[..., Any]) -> Captured:
    """A function of several records at once."""
    made = capture(function)[0]
    return Captured(made.payload, made.name, made.location, batch=True)


# Records.


def test_record_protocol() -> None:
    names = ("x", "class", "__y", "_values", "a b", "_names")
    first, second = make_rows(names, [[i, i + 10] for i in range(6)], 2)
    assert (first.x, first["class"], first["__y"], first["a b"]) == (0, 1, 2, 4)
    assert list(second) == [10, 11, 12, 13, 14, 15]
    assert (second[0], second[-1], len(second)) == (10, 15, 6)
    assert first._values == dict(zip(names, range(6), strict=True))
    assert list(pickle.loads(pickle.dumps(first))) == list(first)
    with pytest.raises(TypeError, match="unhashable"):
        hash(first)
    with pytest.raises(so.SchemaError, match="cannot be changed"):
        first.x = 1
    with pytest.raises(so.SchemaError, match="no position 6"):
        first[6]
    with pytest.raises(so.SchemaError, match=r"no column 'clas'.*did you mean 'class'"):
        first["clas"]


def test_strings_have_str_where_a_function_asks_for_it(call: Call) -> None:
    texts = bare(pa.array(["b", None, "é", "a", "a"] * 10))

    def upper(v: Any) -> Any:
        return None if v is None else v.str + v.str.upper()

    def plain(v: Any) -> Any:
        return type(v).__name__

    assert reads_text(capture(upper)[0])
    ((found, _),) = call(upper, [texts], None, [STRINGS])
    assert found.to_pylist()[:4] == ["bB", None, "éÉ", "aA"]
    ((found, _),) = call(plain, [texts], None, [STRINGS])
    assert found.to_pylist()[:2] == ["str", "NoneType"]


def test_strings_have_str_for_a_function_whose_code_is_not_seen(call: Call) -> None:
    # As a function of an installed module: what it asks for is not in its pickle.
    def hidden(v: Any) -> Any:
        return eval("v." + "".join("rts"[::-1]))

    opaque._texts.clear()
    assert not reads_text(capture(hidden)[0])
    texts = pa.array(["b", "é"] * 25)
    ((found, _),) = call(hidden, [bare(texts)], None, [STRINGS])
    assert found.equals(texts)


def test_lists_arrive_as_lists(call: Call) -> None:
    values = [[1, 2], None, [], [3, None]] * 12 + [[4], [5]]
    ((found, _),) = call(repr, [bare(pa.array(values))], None, [STRINGS])
    assert found.to_pylist() == [repr(v) for v in values]
    nested = [[["a"], None], [[]]] * 25
    ((found, _),) = call(repr, [bare(pa.array(nested))], None, [STRINGS])
    assert found.to_pylist() == [repr(v) for v in nested]


def test_lists_belong_to_the_call(runner: ProcessRunner) -> None:
    values = pa.array([[1, 2]] * ROWS)
    function, slots = capture(lambda v: v.append(0) or len(v))[0], runner.slots([])
    for _ in range(3):
        ((found, _),) = runner.call_rows(
            function, slots, [bare(values)], ROWS, None, [INT64], "the same block"
        )
        assert set(found.tolist()) == {3}


@pytest.mark.parametrize("kind", ["M8[s]", "M8[ns]", "m8[ms]"])
def test_times_of_every_unit_are_pythons(call: Call, kind: str) -> None:
    values = (np.arange(ROWS) * 1000).astype(kind)
    mask = np.arange(ROWS) % 4 > 0
    ((found, _),) = call(repr, [bare(values, mask)], None, [STRINGS])
    expected = [
        v if ok else None
        for v, ok in zip(values.astype(f"{kind[0]}8[us]").tolist(), mask, strict=True)
    ]
    assert found.to_pylist() == list(map(repr, expected))


def test_contents_are_told_apart() -> None:
    strings = pa.array(["a", "b", "c", "b"])
    arguments = [
        bare(np.arange(3)), bare(np.arange(3.0)), bare(np.arange(3), np.array([1, 0, 1], bool)),
        bare(strings.slice(0, 2)), bare(strings.slice(1, 2)),
        Argument(("v",), bare(np.arange(3)).columns),
    ]  # fmt: skip
    assert len({digest([a]) for a in arguments}) == len(arguments)
    assert digest([bare(strings.slice(1, 1))]) == digest([bare(strings.slice(3, 1))])


# Results.


@dataclass
class Both:
    """A result with names."""

    i: int
    s: str


Named = namedtuple("Named", ["i", "s"])


@pytest.mark.parametrize(
    "make",
    [
        lambda v: {"i": v, "s": str(v)},
        lambda v: {"s": str(v), "i": v} if v % 2 else {"i": v, "s": str(v)},
        lambda v: Named(v, str(v)),
        lambda v: Both(v, str(v)),
        lambda v: Both(v, str(v)) if v % 3 else {"i": v, "s": str(v)},
    ],
)
def test_structured_results_of_every_form(call: Call, make: Callable[..., Any]) -> None:
    found = call(make, [bare(np.arange(ROWS))], ("i", "s"), [INT64, STRINGS])
    assert found[0].values.tolist() == list(range(ROWS))
    assert found[1].values.to_pylist() == list(map(str, range(ROWS)))


@pytest.mark.parametrize(
    ("items", "kind", "expected"),
    [
        ([1, 2.5], FLOAT64, [1.0, 2.5]),
        ([np.float64(1), 2], FLOAT64, [1.0, 2.0]),
        ([np.int32(1), 1 << 40], INT64, [1, 1 << 40]),
        ([True, np.bool_(False)], BOOL, [True, False]),
        ([1.5, np.array(2.5)], FLOAT64, [1.5, 2.5]),
        ([3, 4], ArrayType("int8"), [3, 4]),
        ([[1, 2], (3, 4)], FLOAT64.with_shape(2), [[1, 2], [3, 4]]),
        ([np.arange(2), np.ones(2)], FLOAT64.with_shape(2), [[0, 1], [1, 1]]),
        ([], FLOAT64.with_shape(3), []),
    ],
)
def test_columns_of_numbers(items: list[Any], kind: ArrayType, expected: list[Any]) -> None:
    values, mask = column_of(items, kind)
    assert mask is None
    assert values.dtype == kind.numpy
    assert values.shape == (len(items), *kind.shape)
    assert values.tolist() == expected


@pytest.mark.parametrize(
    ("items", "kind"),
    [
        ([1, "a"], FLOAT64), ([True, 1.0], FLOAT64), ([True], INT64), ([1.5], INT64),
        ([300], ArrayType("int8")), ([1 << 70], INT64), ([1j], FLOAT64), ([[1]], FLOAT64),
        ([[1], [1, 2]], FLOAT64.with_shape(1)), ([1], STRINGS), (["\ud800"], STRINGS),
        ([object()], FLOAT64), (["a"], list_of(STRINGS)), ([["a"]], list_of(FLOAT64)),
        ([[1.5]], list_of(INT64)), ([{1}], list_of(INT64)), ([[[1]]], list_of(FLOAT64)),
    ],
)  # fmt: skip
def test_values_that_do_not_fit(items: list[Any], kind: ArrayType) -> None:
    with pytest.raises(Unfit):
        column_of(items, kind)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda v: list(range(v % 4)), list_of(INT64)),
        (lambda v: [v, 0.5][: v % 3], list_of(FLOAT64)),
        (lambda v: None if v % 5 == 0 else [None, "é" * v], list_of(STRINGS)),
        (lambda v: [[v], [], None], list_of(list_of(INT64))),
        (lambda v: [np.arange(2.0) + v] * (v % 2), list_of(FLOAT64.with_shape(2))),
        (lambda v: np.arange(v), list_of(INT64)),
    ],
)
def test_lists_as_results(call: Call, make: Callable[..., Any], kind: ArrayType) -> None:
    ((found, mask),) = call(make, [bare(np.arange(ROWS))], None, [kind])
    expected = [make(v) for v in range(ROWS)]
    plain = [
        None if e is None else [i.tolist() if isinstance(i, np.ndarray) else i for i in e]
        for e in expected
    ]
    assert found.to_pylist() == plain
    assert (mask is None) == (None not in plain)
    assert rows_of(found, mask, text=False)[1] is not None


def test_a_wrong_result_comes_before_a_later_error(call: Call) -> None:
    def mixed(v: int) -> Any:
        if v == 8:
            raise ValueError("later")
        return "wrong" if v == 5 else v

    with pytest.raises(UserFunctionError, match="the record is 5"):
        call(mixed, [bare(np.arange(ROWS))], None, [INT64])


def test_a_result_that_cannot_be_shown(call: Call) -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    def fails(v: int) -> Any:
        raise ValueError(v)

    with pytest.raises(UserFunctionError, match="ValueError: 0"):
        call(fails, [bare(np.arange(ROWS))], None, [INT64])
    with pytest.raises(so.ScalopsError):
        call(lambda v: Odd(), [bare(np.arange(ROWS))], None, [INT64])


# Batches.


def test_batch_functions_get_arrays(call: Call) -> None:
    record = Argument(
        ("x", "n", "s", "t"),
        (
            Column(np.arange(3.0 * ROWS).reshape(ROWS, 3), None),
            Column(np.arange(ROWS), np.arange(ROWS) % 5 > 0),
            Column(pa.array(["a", None] * 25), None),
            Column(pa.array([[1], []] * 25), None),
        ),
    )

    def several(r: Any) -> Any:
        assert r.x.ndim == 2
        assert not r.x.flags.writeable
        assert isinstance(r.n, np.ma.MaskedArray)
        assert r.s.dtype == r.t.dtype == object
        lengths = np.array([len(v) for v in r.t])
        return {"dot": (r.x * r.x).sum(axis=1), "twice": r.n * 2, "s": r.s, "len": lengths}

    kinds = [FLOAT64, INT64, STRINGS, INT64]
    dot, twice, s, lengths = call(batch(several), [record], ("dot", "twice", "s", "len"), kinds)
    x = np.arange(3.0 * ROWS).reshape(ROWS, 3)
    assert dot.values.tolist() == (x * x).sum(axis=1).tolist()
    assert twice.mask is not None
    assert twice.mask.tolist() == [i % 5 > 0 for i in range(ROWS)]
    assert twice.values[1:5].tolist() == [2, 4, 6, 8]
    assert s.values.to_pylist() == ["a", None] * 25
    assert lengths.values.tolist() == [1, 0] * 25


def test_batch_functions_get_sparse_matrices(call: Call) -> None:
    pytest.importorskip("scalops.algebra.sparse")
    dense = np.random.default_rng(0).random((ROWS, 6)) * (
        np.random.default_rng(1).random((ROWS, 6)) < 0.4
    )
    matrix = sparse.csr_array(dense)
    column = SparseColumn(
        matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data, 6
    )
    names = ("_0", "_1")
    found = call(
        batch(lambda x: (x @ np.arange(6.0), x * 2.0)),
        [bare(column)],
        names,
        [FLOAT64, sparse_of(6)],
    )
    assert found[0].values.tolist() == np.asarray(matrix @ np.arange(6.0)).tolist()
    twice = found[1].values
    again = sparse.csr_array((twice.values, twice.indices, twice.indptr), shape=(ROWS, 6))
    assert np.array_equal(again.toarray(), dense * 2)


@pytest.mark.parametrize("numbers", quick([[1, 2], [1, 2, 3]], 1), ids=len)
def test_batches_are_cut_by_the_records_alone(numbers: list[int]) -> None:
    lengths: dict[int, list[int]] = {}
    for workers in numbers:
        runner = ProcessRunner(workers)
        for rows in (1, 2, 3, 50):
            ((found, _),) = runner.call_rows(
                batch(lambda v: np.full(len(v), len(v))),
                runner.slots([]), [bare(np.arange(rows))], rows, None, [INT64],
            )  # fmt: skip
            assert lengths.setdefault(rows, found.tolist()) == found.tolist()
        runner.stop()
    own = batch(lambda v: np.full(len(v), len(v)))
    ((found, _),) = call_over(own, bind(own, []), [bare(np.arange(50))], 50, None, [INT64])
    assert found.tolist() == lengths[50]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda v: v[:-1], r"values for 1[23] records; expected one for each record"),
        (lambda v: v.sum(), "a single value for"),
        (lambda v: v * 1j, r"complex128\[1[23]\]; expected float64 for each record"),
        (lambda v: np.outer(v, v), "expected float64 for each record"),
        (lambda v: (v, v), "expected one array"),
        (lambda v: v / 0 if v.any() else [][0], "IndexError"),
    ],
)
def test_wrong_batches_are_refused(call: Call, function: Callable[..., Any], message: str) -> None:
    with pytest.raises(UserFunctionError, match=message):
        call(batch(function), [bare(np.zeros(ROWS))], None, [FLOAT64])


def test_text_is_a_string() -> None:
    assert Text("a") == "a"
    assert {str(Text("a")): 1}[Text("a")] == 1


def test_sparse_vectors_go_both_ways(call: Call) -> None:
    rng = np.random.default_rng(2)
    dense = rng.random((ROWS, 5)) * (rng.random((ROWS, 5)) < 0.5)
    matrix = sparse.csr_array(dense)
    column = SparseColumn(
        matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data, 5
    )

    def seen(v: Any) -> Any:
        assert v.shape == (5,)
        assert not v.values.flags.writeable
        return {"x": None if len(v.indices) == 0 else v, "sum": float(v.values.sum())}

    x, total = call(seen, [bare(column)], ("x", "sum"), [sparse_of(5), FLOAT64])
    again = sparse.csr_array((x.values.values, x.values.indices, x.values.indptr), shape=(ROWS, 5))
    assert np.array_equal(again.toarray(), dense)
    np.testing.assert_allclose(total.values, dense.sum(axis=1))
    assert (x.mask is None) == bool(dense.any(axis=1).all())
