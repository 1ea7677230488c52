"""Several expressions as one: its value is the stack of theirs, or there is no rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from scalops.algebra import expressions as ex
from scalops.algebra.batching import folds_over_source, stack_expressions, stack_folds
from scalops.algebra.batching_rules import RULES, NoRule, rule_of
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.folds import Fold
from scalops.algebra.functions import FUNCTIONS, function
from scalops.engine.blocks import Block
from scalops.engine.kernels.folds import FoldKernel
from scalops.engine.kernels.kernel import Kernel

RNG = np.random.default_rng(5)
ROWS, K = 7, 4
FLOAT = ArrayType("float64")
COLUMNS: dict[str, Any] = {
    "s": RNG.uniform(0.1, 0.9, ROWS),
    "x": RNG.uniform(0.1, 0.9, (ROWS, 3)),
    "m": RNG.uniform(0.1, 0.9, (ROWS, 2, 3)),
    "i": RNG.integers(1, 4, ROWS),
    "b": RNG.random(ROWS) < 0.5,
    "f": RNG.uniform(0.1, 0.9, ROWS).astype("float32"),
}
SHAPES: dict[str, tuple[int, ...]] = {"": (), "v": (3,), "A": (2, 3), "B": (3, 2)}


def column(name: str) -> ex.Column:
    values = COLUMNS[name]
    return ex.Column(name, ArrayType(values.dtype.name, values.shape[1:]))


def calc(name: str, *arguments: ex.Expression | float, **parameters: Any) -> ex.Call:
    given = [a if isinstance(a, ex.Expression) else ex.constant(a) for a in arguments]
    return ex.call(function(name), *given, **parameters)


class Member:
    """What differs from one member to the next: slots, the first of which have these shapes."""

    def __init__(self, number: int, dtype: str = "float64") -> None:
        self._number, self._dtype = number, dtype

    def __call__(self, kind: str = "", dtype: str | None = None) -> ex.Slot:
        at = list(SHAPES).index(kind)
        own = ArrayType(dtype or self._dtype, SHAPES[kind])
        return ex.Slot(f"{kind}{self._number}", own, self._number * len(SHAPES) + at)


def slot_values(dtype: str = "float64") -> list[Any]:
    return [
        RNG.uniform(0.1, 0.9, shape).astype(dtype)[()]
        if dtype != "int64"
        else RNG.integers(1, 4, shape)[()]
        for _ in range(K)
        for shape in SHAPES.values()
    ]


def over_records(roots: Sequence[ex.Expression], slots: Sequence[Any]) -> list[Any]:
    """The expressions' values over the records, by the engine."""
    kernel = Kernel(roots, ROWS)
    frame = kernel.frame()
    with np.errstate(all="ignore"):
        kernel.prepare(frame, slots, 1)
        return [v for v, _ in kernel.run(frame, Block(ROWS, dict(COLUMNS)))]


Form = Callable[[Member], ex.Expression]


def agrees(form: Form, dtype: str = "float64") -> None:
    """The stacked expression's value is the stack of the members' values."""
    members = [form(Member(i, dtype)) for i in range(K)]
    made = stack_expressions(members)
    assert made is not None
    assert made.batched
    slots = slot_values(dtype)
    expected = np.stack(over_records(members, slots), axis=1)
    (found,) = over_records([made.expression], slots)
    assert found.dtype == expected.dtype == members[0].type.numpy
    np.testing.assert_allclose(found, expected, rtol=1e-9 if expected.dtype == "f8" else 1e-5)


def vector(m: Member) -> ex.Expression:
    """float64[3] for each record and member."""
    return calc("multiply", column("x"), m("v"))


def matrix(m: Member) -> ex.Expression:
    return calc("multiply", column("m"), m("v"))


def scalar(m: Member) -> ex.Expression:
    return calc("matmul", column("x"), m("v"))


CASES: dict[str, list[Form]] = {
    "where": [
        lambda m: calc("where", calc("less", column("s"), m()), vector(m), m("v")),
        lambda m: calc("where", column("b"), m("v"), 0),
        lambda m: calc("where", calc("less", vector(m), 0.2), column("m"), column("s")),
    ],
    "isclose": [lambda m: calc("isclose", column("m"), vector(m), rtol=0.5)],
    "cast": [lambda m: calc("cast", calc("multiply", vector(m), 9), dtype="int64")],
    "round": [lambda m: calc("round", vector(m), decimals=1)],
    "nan_to_num": [lambda m: calc("nan_to_num", calc("log", calc("subtract", vector(m), 0.3)))],
    "matmul": [
        lambda m: calc("matmul", column("x"), m("v")),
        lambda m: calc("matmul", m("v"), column("x")),
        lambda m: calc("matmul", m("A"), column("x")),
        lambda m: calc("matmul", column("x"), m("B")),
    ],
    "squared_distances": [
        lambda m: calc("squared_distances", column("x"), m("v"), form="expanded"),
        lambda m: calc("squared_distances", column("x"), m("A"), form="expanded"),
    ],
    "outer": [
        lambda m: calc("outer", vector(m), column("x")),
        lambda m: calc("outer", column("x"), m("v")),
        lambda m: calc("outer", vector(m), m("v")),
    ],
    "norm": [
        lambda m: calc("norm", vector(m)),
        lambda m: calc("norm", vector(m), ord=1),
        lambda m: calc("norm", matrix(m)),
        lambda m: calc("norm", matrix(m), axis=0),
        lambda m: calc("norm", matrix(m), axis=1),
    ],
    "tril": [lambda m: calc("tril", matrix(m), k=0)],
    "triu": [lambda m: calc("triu", matrix(m), k=1)],
    "index": [
        lambda m: calc("index", matrix(m), key=(1,)),
        lambda m: calc("index", matrix(m), key=(("slice", None, None, None), 2)),
        lambda m: calc("index", vector(m), key=(None, ("slice", 0, 2, None))),
    ],
    "take": [lambda m: calc("take", matrix(m), ex.constant(np.array([2, 0])), axis=1)],
    "reshape": [lambda m: calc("reshape", matrix(m), shape=(3, 2))],
    "transpose": [lambda m: calc("transpose", matrix(m), axes=(1, 0))],
    "broadcast_to": [lambda m: calc("broadcast_to", vector(m), shape=(2, 3))],
    "stack": [
        lambda m: calc("stack", scalar(m), column("s"), axis=0),
        lambda m: calc("stack", vector(m), column("x"), axis=1),
    ],
    "concatenate": [lambda m: calc("concatenate", matrix(m), column("m"), axis=1)],
    "softmax": [
        lambda m: calc("softmax", vector(m)),
        lambda m: calc("softmax", calc("matmul", m("A"), column("x")), axis=0),
        lambda m: calc("softmax", matrix(m), axis=0),
    ],
    "flip": [lambda m: calc("flip", matrix(m), axis=0), lambda m: calc("flip", vector(m))],
}
_WITH_KEEPDIMS = ("sum", "mean", "max", "min", "logsumexp", "var")


def _folds(name: str) -> list[Form]:
    cases: list[Form] = [
        lambda m: calc(name, vector(m)),
        lambda m: calc(name, matrix(m)),
        lambda m: calc(name, matrix(m), axis=0),
        lambda m: calc(name, matrix(m), axis=1),
    ]
    if name in _WITH_KEEPDIMS:
        cases.append(lambda m: calc(name, matrix(m), axis=1, keepdims=True))
    return cases


def cases_of(name: str) -> list[Form]:
    """Record functions that call it, with what differs by member."""
    return CASES[name] if name in CASES else _folds(name)


@pytest.mark.parametrize("name", sorted(RULES))
def test_stacked_is_the_stack_of_the_members(name: str) -> None:
    for form in cases_of(name):
        agrees(form)


UFUNCS = sorted(n for n, e in FUNCTIONS.items() if e.ufunc is not None and e.ufunc.nout == 1)


@pytest.mark.parametrize("name", UFUNCS)
def test_universal_functions_broadcast(name: str) -> None:
    ufunc = FUNCTIONS[name].ufunc
    assert ufunc is not None
    if ufunc.nin > 2:
        form: Form = lambda m: calc(name, *[vector(m)] * ufunc.nin)  # noqa: E731
        agrees(form)
        return
    for dtype in ("float64", "int64", "bool"):
        own = {"float64": "x", "int64": "i", "bool": "b"}[dtype]
        second = (column(own),) if ufunc.nin == 2 else ()
        try:
            calc(name, column(own), *second)
        except Exception:
            continue
        if ufunc.nin == 1:
            agrees(lambda m: calc(name, calc("where", column("b"), m("v"), column(own))), dtype)  # noqa: B023
            return
        agrees(lambda m: calc(name, column(own), m("v")), dtype)  # noqa: B023
        agrees(lambda m: calc(name, m("A"), column(own)), dtype)  # noqa: B023
        agrees(lambda m: calc(name, column(own), m()), dtype)  # noqa: B023
        return
    pytest.fail(f"no case of {name}")


def test_numbers_take_their_partners_type_as_alone() -> None:
    weak = [ex.Constant(0.5 + i) for i in range(K)]
    members = [calc("multiply", column("f"), w) for w in weak]
    made = stack_expressions(members)
    assert made is not None
    (found,) = over_records([made.expression], [])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.stack(over_records(members, []), axis=1))
    mixed = [calc("where", column("b"), column("f"), w) for w in weak]
    made = stack_expressions(mixed)
    assert made is not None
    assert made.expression.type.name == "float32"
    assert stack_expressions([calc("add", column("i"), ex.Constant(1 + i)) for i in range(K)])
    narrow = ex.Column("n", ArrayType("int8"))
    assert stack_expressions([calc("add", narrow, ex.Constant(i)) for i in range(K)]) is None


def test_what_is_the_same_for_every_record_may_have_any_form() -> None:
    """It is computed by member, with the bits that it has alone."""
    slots = slot_values()
    forms: list[Form] = [
        lambda m: calc("matmul", m("v"), m("v")),
        lambda m: calc("exp", m()),
        lambda m: m(),
        lambda m: ex.constant(np.float64(0.25)),
    ]
    members = [calc("multiply", column("x"), f(Member(i))) for i, f in enumerate(forms)]
    made = stack_expressions(members)
    assert made is not None
    found, *expected = over_records([made.expression, *members], slots)
    np.testing.assert_array_equal(found, np.stack(expected, axis=1))


def test_what_all_members_share_is_computed_once() -> None:
    heavy = calc("exp", calc("sum", column("x")))
    members = [calc("multiply", heavy, Member(i)()) for i in range(K)]
    made = stack_expressions(members)
    assert made is not None
    assert isinstance(made.expression, ex.Call)
    assert made.expression.arguments[0] == heavy
    alike = stack_expressions([heavy] * K)
    assert alike is not None
    assert not alike.batched


REFUSED: dict[str, Form] = {
    "one of several outputs": lambda m: ex.Item(
        calc("eigh", calc("outer", scalar(m), scalar(m))), 0
    ),
    "which may fail by member": lambda m: calc(
        "take", column("x"), calc("cast", m(), dtype="int64")
    ),
    "index by record": lambda m: calc("take", vector(m), calc("subtract", column("i"), 1)),
    "many small products": lambda m: calc("matmul", matrix(m), column("x")),
    "products by member": lambda m: calc("matmul", vector(m), m("v")),
    "nulls by member": lambda m: calc("only_if", calc("less", column("s"), m()), column("s")),
    "no rule": lambda m: calc("interp", scalar(m), m("v"), column("x")),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused(name: str) -> None:
    assert stack_expressions([REFUSED[name](Member(i)) for i in range(K)]) is None


def test_other_forms_are_not_stacked() -> None:
    assert (
        stack_expressions([calc("exp", vector(Member(0))), calc("log", vector(Member(1)))]) is None
    )
    assert stack_expressions([vector(Member(0)), calc("negative", vector(Member(1)))]) is None
    assert stack_expressions([column("s"), calc("add", column("s"), 1)]) is None
    assert (
        stack_expressions([scalar(Member(0)), calc("index", vector(Member(1)), key=(0,))]) is None
    )


def test_functions_without_a_rule_say_so() -> None:
    for name, entry in FUNCTIONS.items():
        if name not in RULES and (entry.ufunc is None or entry.ufunc.nout > 1):
            node = ex.Call.__new__(ex.Call)
            node.__dict__["function"] = entry
            with pytest.raises(NoRule):
                rule_of(node)


# Folds.


def fold(kind: str, *arguments: ex.Expression, **parameters: Any) -> Fold:
    return Fold("made", kind, arguments, parameters=tuple(sorted(parameters.items())))


FOLDED: dict[str, Callable[[Member], Fold]] = {
    **{
        kind: lambda m, kind=kind: fold(kind, vector(m))  # type: ignore[misc]
        for kind in ("sum", "add", "multiply", "minimum", "maximum", "mean", "any", "all")
    },
    "var": lambda m: fold("var", vector(m), ddof=1),
    "std": lambda m: fold("std", scalar(m), ddof=0),
    "logical_and": lambda m: fold("logical_and", calc("less", vector(m), 0.3)),
    "count": lambda m: fold("count", vector(m)),
    "sum_scaled of scalars": lambda m: fold("sum_scaled", scalar(m), column("x")),
    "sum_scaled of matrices": lambda m: fold("sum_scaled", scalar(m), column("m")),
    "mean_scaled": lambda m: fold("mean_scaled", scalar(m), column("x")),
    "add_scaled of vectors": lambda m: fold("add_scaled", column("s"), matrix(m)),
    "sum_outer, left": lambda m: fold("sum_outer", vector(m), column("x")),
    "mean_outer, right": lambda m: fold("mean_outer", column("x"), vector(m)),
    "shared": lambda m: fold("sum_gram", column("s"), column("x")),
    "sum_terms": lambda m: fold(
        "sum_terms", scalar(m), column("x"), m("v"), forms=(("scaled", 2), ("same", 1))
    ),
    "mean_terms": lambda m: fold(
        "mean_terms", vector(m), column("x"), vector(m), column("x"), ex.constant(np.eye(3)),
        forms=(("outer", 2), ("outer", 2), ("same", 1)),
    ),
}  # fmt: skip


def value(made: Fold, slots: Sequence[Any]) -> Any:
    kernel = FoldKernel(made)
    vectors = [(v, None) for v in over_records(made.arguments, slots)]
    return kernel.finish(kernel.block(vectors, ROWS))


@pytest.mark.parametrize("name", FOLDED)
def test_folds_give_each_member_its_own(name: str) -> None:
    slots = slot_values()
    members = [FOLDED[name](Member(i)) for i in range(K)]
    made = stack_folds([[m] for m in members])
    assert made is not None
    whole = value(made.folds[0], slots)
    for i, member in enumerate(members):
        expected, found = value(member, slots), made.parts[0].of(whole, i)
        assert type(found) is type(expected)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        if name not in ("shared", "count"):
            assert found.base is None  # the others' results are not held with it


def test_products_are_counted() -> None:
    def made(form: Callable[[Member], Fold]) -> int:
        found = stack_folds([[form(Member(i))] for i in range(K)])
        assert found is not None
        return found.products

    assert made(FOLDED["sum"]) == 0
    assert made(FOLDED["sum_scaled of scalars"]) == 2
    assert made(lambda m: fold("sum_scaled", calc("exp", m()), column("x"))) == 1


def test_folds_that_are_not_stacked() -> None:
    refused: list[Callable[[Member], Fold]] = [
        lambda m: fold("quantile", vector(m), q=0.5),
        lambda m: fold("first", vector(m)),
        lambda m: fold("sum_gram", scalar(m), column("x")),
        lambda m: fold("sum_scaled", scalar(m), vector(m)),
        lambda m: fold("sum_outer", vector(m), vector(m)),
        lambda m: fold("var", vector(m), ddof=m("").number),
    ]
    for form in refused:
        assert stack_folds([[form(Member(i))] for i in range(K)]) is None
    assert stack_folds([[], [fold("count")]]) is None


def test_nulls_by_member_and_null_making_functions_do_not_go_together() -> None:
    def chosen(m: Member) -> Fold:
        return fold("sum", calc("where", calc("less", column("s"), m()), column("s"), 0.0))

    made = stack_folds([[chosen(Member(i))] for i in range(K)])
    assert made is not None
    assert made.minds_nulls
    maker = fold("sum", calc("only_if", column("b"), column("s")))
    assert stack_folds([[chosen(Member(i)), maker] for i in range(K)]) is None


def test_definitions_are_followed_to_the_source() -> None:
    margin = scalar(Member(0))
    named = ex.Column("margin", FLOAT)
    (made,) = folds_over_source([("margin", margin)], [fold("sum", calc("exp", named))])
    assert made.arguments == (calc("exp", margin),)
